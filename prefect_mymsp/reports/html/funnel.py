"""The funnel of a delivery report: rows, valid rows, messages accepted, sent and delivered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_mymsp.reports.html.charts import share
from prefect_mymsp.reports.html.tally import Tally
from prefect_mymsp.reports.html.wording import list_counts
from prefect_mymsp.states import ACCEPTED, ASSUMED, CANCELLED, IN_DOUBT, PLANNED, REFUSED, SENDING

if TYPE_CHECKING:
    from prefect_mymsp.journal import SourceCounts


@dataclass(frozen=True)
class FunnelStep:
    """A step, its share of the first one, and a note about the messages lost before it or waiting after it."""

    label: str
    count: int
    share: str
    fraction: float
    note: str = ""


@dataclass(frozen=True)
class Funnel:
    """All steps, and the unit of the first one: Rows or Messages."""

    unit: str = "Rows"
    steps: Sequence[FunnelStep] = ()


def funnel(tally: Tally, sources: Sequence[SourceCounts] | None) -> Funnel:
    """The steps from the rows of the sources to deliveries.

    Args:
        tally: The messages.
        sources: The counts of the campaigns' sources. None when they are unknown, or when the report covers part of a
            campaign only; the funnel then begins with the messages.
    """
    steps: list[tuple[str, int, str]] = []
    if sources is None:
        steps.append(("Messages", tally.messages, ""))
    else:
        rows = sum(source.rows for source in sources)
        left_out = [
            (sum(source.rejected for source in sources), "rejected", "rejected"),
            (sum(source.duplicates for source in sources), "duplicate", "duplicates"),
            (sum(source.suppressed for source in sources), "suppressed", "suppressed"),
        ]
        valid = rows - sum(count for count, _, _ in left_out)
        steps += [("Rows in the source", rows, ""), ("Valid rows", valid, list_counts(left_out))]
        if tally.messages != valid:
            steps.append(("Messages", tally.messages, "from this and earlier versions of the source"))
    accepted = tally.count(ACCEPTED)
    not_accepted = [
        (tally.count(REFUSED), "refused", "refused"),
        (tally.count(IN_DOUBT), "in doubt", "in doubt"),
        (tally.count(PLANNED) + tally.count(SENDING), "not sent yet", "not sent yet"),
        (tally.count(CANCELLED), "cancelled", "cancelled"),
        (tally.count(ASSUMED), "resolved as sent", "resolved as sent"),
    ]
    waiting = [(accepted - tally.sent, "waits at the gateway", "wait at the gateway")]
    unconfirmed = [(tally.sent - tally.delivered, "not confirmed", "not confirmed")]
    steps += [
        ("Accepted", accepted, list_counts(not_accepted)),
        ("Sent", tally.sent, list_counts(waiting)),
        ("Delivered", tally.delivered, list_counts(unconfirmed)),
    ]
    total = steps[0][1]
    return Funnel(
        "Messages" if sources is None else "Rows",
        [FunnelStep(label, count, share(count, total), count / total if total else 0.0, note)
         for label, count, note in steps],
    )  # fmt: skip
