"""Limits that a person sets for a campaign, checked on the whole plan before anything is recorded or sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect_mymsp.errors import LimitError

if TYPE_CHECKING:
    import pyarrow as pa

    from prefect_mymsp.campaign.options import Limits
    from prefect_mymsp.campaign.plan import Plan

_SHOWN_ROWS = 5


def check_limits(limits: Limits, plan: Plan) -> None:
    """Check a plan against its limits: rejected rows first, then recipients, then segments.

    Raises:
        LimitError: The plan exceeds a limit; the message gives the excess, the rows, and the remedy. Nothing was sent.
    """
    rejected = plan.rejected_rows.num_rows
    # Without the margin, 0.29 of 100 rows would be 28.
    if limits.max_rejected is not None and rejected > limits.max_rejected * plan.rows + 1e-9:
        allowed = f"at most {limits.max_rejected:.3g} of them" if limits.max_rejected else "none of them"
        raise LimitError(
            f"{rejected} of {plan.rows} rows of {plan.source} cannot be sent, and max_rejected allows {allowed} to be "
            f"left out: {_row_list(plan.rejected_rows)}. Nothing was sent. Fix the rows, or raise max_rejected."
        )
    if limits.max_recipients is not None and plan.recipients > limits.max_recipients:
        raise LimitError(
            f"{plan.recipients} recipients would get messages from {plan.source}, and max_recipients allows "
            f"{limits.max_recipients}. Nothing was sent. Check that it is the right source, or raise max_recipients."
        )
    if plan.oversize:
        raise LimitError(
            f"{plan.oversize} messages of {plan.source} need more segments than max_segments allows "
            f"({limits.max_segments}); the longest needs {plan.longest}.{_oversize_rows(plan)} Nothing was sent. "
            f"Shorten the message or its values, or raise max_segments.{_ucs2_hint(plan)}"
        )


def _row_list(rejected_rows: pa.Table) -> str:
    """The first few rejected rows by line and column, without their values."""
    first = rejected_rows.slice(0, _SHOWN_ROWS)
    where = [
        f"row {row}" + (f" ({column})" if column else "")
        for row, column in zip(first.column("row").to_pylist(), first.column("column").to_pylist(), strict=True)
    ]
    return ", ".join(where) + (", …" if rejected_rows.num_rows > len(where) else "")


def _oversize_rows(plan: Plan) -> str:
    if not plan.oversize_rows:
        return ""
    more = ", …" if plan.oversize > len(plan.oversize_rows) else ""
    return f" Rows {', '.join(map(str, plan.oversize_rows))}{more}."


def _ucs2_hint(plan: Plan) -> str:
    if not plan.non_gsm_characters:
        return ""
    return f" A text with one of {''.join(plan.non_gsm_characters)!r} has room for 70 characters in one segment."
