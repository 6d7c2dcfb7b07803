"""Limits a person sets for a campaign, checked on the whole plan before anything is recorded or sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_mymsp.errors import InputError, LimitError

if TYPE_CHECKING:
    import pyarrow as pa

    from prefect_mymsp.campaign.planning import Plan

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan must keep to.

    Attributes:
        max_segments: SMS that one message may take; None for what the gateway takes.
        max_recipients: People who may get messages; None for any number of them.
        max_rejected: Share of the rows, from 0 to 1, that may be left out because they cannot be sent; None for
            any. Duplicates and suppressed rows do not count.
    """

    max_segments: int | None = None
    max_recipients: int | None = None
    max_rejected: float | None = None

    def __post_init__(self) -> None:
        if self.max_segments is not None and self.max_segments < 1:
            raise InputError("max_segments must be at least 1; leave it out to allow any message the gateway takes.")
        if self.max_recipients is not None and self.max_recipients < 1:
            raise InputError("max_recipients must be at least 1; leave it out to allow any number.")
        if self.max_rejected is not None and not 0 <= self.max_rejected <= 1:
            raise InputError("max_rejected is a share of the rows, from 0 to 1: 0.05 allows one row in twenty.")

    def check(self, plan: Plan) -> None:
        """Refuse a plan that goes beyond a limit; the most basic one first.

        Raises:
            LimitError: It does; says by how much, where in the source, and what to do.
        """
        if self.max_rejected is not None and plan.rejected_rows.num_rows > self.max_rejected * plan.rows + 1e-9:
            allowed = f"at most {self.max_rejected:.3g} of them" if self.max_rejected else "none"
            raise LimitError(
                f"{plan.rejected_rows.num_rows} of {plan.rows} rows of {plan.source} cannot be sent, and {allowed} "
                f"may be left out: {_rows(plan.rejected_rows)}. Nothing was sent. "
                f"Mend them, or allow more to be left out with "
                "on_rejects and max_rejected."
            )
        if self.max_recipients is not None and plan.recipients > self.max_recipients:
            raise LimitError(
                f"{plan.recipients} people would get messages from {plan.source}, and max_recipients allows "
                f"{self.max_recipients}. Nothing was sent. See that it is the right source, or raise the limit."
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
                f"({self.max_segments}); the longest takes {plan.longest}.{rows} Nothing was sent. "
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
