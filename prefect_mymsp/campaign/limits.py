"""Limits a person sets for a campaign, checked on the whole plan before anything is recorded or sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect_mymsp.errors import LimitError

if TYPE_CHECKING:
    import pyarrow as pa

    from prefect_mymsp.campaign.options import Limits
    from prefect_mymsp.campaign.planning import Plan

_SHOWN = 5


def check_limits(limits: Limits, plan: Plan) -> None:
    """Refuse a plan that goes beyond a limit; the most basic one first.

    Raises:
        LimitError: It does; says by how much, where in the source, and what to do.
    """
    if limits.max_rejected is not None and plan.rejected_rows.num_rows > limits.max_rejected * plan.rows + 1e-9:
        allowed = f"at most {limits.max_rejected:.3g} of them" if limits.max_rejected else "none"
        raise LimitError(
            f"{plan.rejected_rows.num_rows} of {plan.rows} rows of {plan.source} cannot be sent, and {allowed} "
            f"may be left out: {_rows(plan.rejected_rows)}. Nothing was sent. "
            "Fix the rows, or raise max_rejected."
        )
    if limits.max_recipients is not None and plan.recipients > limits.max_recipients:
        raise LimitError(
            f"{plan.recipients} people would get messages from {plan.source}, and max_recipients allows "
            f"{limits.max_recipients}. Nothing was sent. See that it is the right source, or raise the limit."
        )
    if plan.oversize:
        more = ", …" if plan.oversize > len(plan.oversize_rows) else ""
        rows = f" Rows {', '.join(map(str, plan.oversize_rows))}{more}." if plan.oversize_rows else ""
        non_gsm_characters = (
            f" Where {''.join(plan.non_gsm_characters)!r} occur, an SMS holds 70 characters."
            if plan.non_gsm_characters
            else ""
        )
        raise LimitError(
            f"{plan.oversize} messages of {plan.source} take more SMS than max_segments allows "
            f"({limits.max_segments}); the longest takes {plan.longest}.{rows} Nothing was sent. "
            f"Shorten the message or what goes into it, or raise the limit.{non_gsm_characters}"
        )


def _rows(rejected_rows: pa.Table) -> str:
    """The first few rejected_rows by row and column; never their values."""
    first = rejected_rows.slice(0, _SHOWN)
    where = [
        f"row {row}" + (f" ({column})" if column else "")
        for row, column in zip(first.column("row").to_pylist(), first.column("column").to_pylist(), strict=True)
    ]
    return ", ".join(where) + (", …" if rejected_rows.num_rows > len(where) else "")
