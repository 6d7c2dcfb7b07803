"""What a pass over an account's campaigns found, as a DataFrame."""

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
    """Where campaigns stand, a row each.

    Returns:
        Columns as in :data:`TRACKING_DTYPES`, the same whether empty or not: ``campaign``; ``created_at``, in UTC;
        ``complete``, whether all is done and known that will be; ``messages`` and their states ``planned`` to
        ``cancelled``; ``delivered``, and of these ``newly_delivered`` since the pass began; ``open``, accepted
        messages that will be asked about again; ``given_up``, messages accepted or in doubt that are too old for
        that; ``todo``, what a person should do, empty when that is nothing.
    """
    import pandas as pd

    def column(name: str) -> list[Any]:
        match name:
            case "campaign":
                return [one.campaign.name for one in campaigns]
            case "open" | "given_up":
                return [getattr(one.pending, name) for one in campaigns]
            case "created_at" | "complete" | "newly_delivered":
                return [getattr(one, name) for one in campaigns]
            case "todo":
                return [one.todo() for one in campaigns]
            case _:
                return [getattr(one.counts, name) for one in campaigns]

    return pd.DataFrame({name: pd.Series(column(name), dtype=dtype) for name, dtype in TRACKING_DTYPES.items()})
