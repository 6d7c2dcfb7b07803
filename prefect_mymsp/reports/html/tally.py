"""The deliveries of a report, counted once; every part of the page uses these counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_mymsp.states import ACCEPTED, DELIVERED, MESSAGE_STATES

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.journal import Counts


@dataclass(frozen=True)
class Tally:
    """Counts of the messages of a report.

    Attributes:
        messages: All of them.
        states: How many are in which state.
        sent: Of the accepted, those the gateway has sent on.
        delivered: Of these, those a phone has confirmed.
        segments: SMS that the accepted messages took.
        latencies: Of the delivered, (whole seconds, messages), ascending.
    """

    messages: int
    states: Mapping[str, int]
    sent: int
    delivered: int
    segments: int
    latencies: Sequence[tuple[float, int]]

    @classmethod
    def of_frame(cls, deliveries: pd.DataFrame) -> Tally:
        """Count a frame in :data:`~prefect_mymsp.reports.frames.DELIVERY_DTYPES`."""
        accepted = deliveries["state"] == ACCEPTED
        delivered = delivered_mask(deliveries)
        latencies = deliveries.loc[delivered, "latency_s"].dropna().floordiv(1).value_counts().sort_index()
        return cls(
            messages=len(deliveries),
            states={str(state): int(count) for state, count in deliveries["state"].value_counts().items()},
            sent=int((accepted & (deliveries["sent_at"].notna() | delivered)).sum()),
            delivered=int(delivered.sum()),
            segments=int(deliveries.loc[accepted, "segments"].sum()),
            latencies=list(zip(latencies.index.tolist(), latencies.tolist(), strict=True)),
        )

    def with_counts(self, counts: Sequence[Counts]) -> Tally:
        """The tally of campaigns whose recipients were purged: of those, only the journal's counts are left."""
        delivered = sum(campaign.delivered for campaign in counts)
        return Tally(
            messages=sum(campaign.messages for campaign in counts),
            states={state: sum(getattr(campaign, state) for campaign in counts) for state in MESSAGE_STATES},
            sent=max(self.sent, delivered),
            delivered=delivered,
            segments=sum(campaign.segments for campaign in counts),
            latencies=self.latencies,
        )

    def count(self, state: str) -> int:
        """Number of messages in a state."""
        return self.states.get(state, 0)


def delivered_mask(deliveries: pd.DataFrame) -> pd.Series[bool]:
    """Mask of the delivered messages of a frame."""
    delivered: pd.Series[bool] = (deliveries["state"] == ACCEPTED) & (deliveries["status"] == DELIVERED).fillna(False)
    return delivered
