"""The progress of an account's campaigns after a tracking pass, as a DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.campaign import CampaignProgress

#: The columns of a tracking frame, in order, with their dtypes.
TRACKING_DTYPES: dict[str, str] = {
    "campaign": "string",
    "created_at": "datetime64[us, UTC]",
    "complete": "boolean",
    "messages": "Int64",
    "planned": "Int64",
    "sending": "Int64",
    "accepted": "Int64",
    "refused": "Int64",
    "in_doubt": "Int64",
    "assumed": "Int64",
    "cancelled": "Int64",
    "delivered": "Int64",
    "newly_delivered": "Int64",
    "open": "Int64",
    "given_up": "Int64",
    "todo": "string",
}


def tracking_frame(campaigns: Sequence[CampaignProgress]) -> pd.DataFrame:
    """The progress of campaigns, one row each.

    Returns:
        Columns as in :data:`TRACKING_DTYPES`, also when empty: ``campaign``; ``created_at``, in UTC; ``complete``,
        whether all messages are sent and final; ``messages`` and, by state, ``planned`` to ``cancelled``;
        ``delivered``, and of these ``newly_delivered`` since the pass began; ``open``, accepted messages that will be
        polled again; ``given_up``, accepted messages and messages in doubt that are too old for that; ``todo``, the
        next steps for a person, empty if there are none.
    """
    import pandas as pd

    def column(name: str) -> list[Any]:
        match name:
            case "campaign":
                return [progress.campaign.name for progress in campaigns]
            case "open" | "given_up":
                return [getattr(progress.pending, name) for progress in campaigns]
            case "created_at" | "complete" | "newly_delivered":
                return [getattr(progress, name) for progress in campaigns]
            case "todo":
                return [progress.todo() for progress in campaigns]
            case _:
                return [getattr(progress.counts, name) for progress in campaigns]

    return pd.DataFrame({name: pd.Series(column(name), dtype=dtype) for name, dtype in TRACKING_DTYPES.items()})
