"""Received messages as a DataFrame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: The columns of an inbox frame, in order, with their dtypes.
INBOX_DTYPES: dict[str, str] = {
    "message_id": "string",
    "received_at": "datetime64[us, UTC]",
    "stored_at": "datetime64[us, UTC]",
    "originator": "string",
    "prefix": "string",
    "kind": "string",
    "text": "string",
    "user": "string",
    "alias": "string",
    "subject": "string",
}
_ROW = ("number", "message_id", "received_at", "stored_at", "user", "prefix", "kind", "originator", "alias", "subject",
        "text")  # fmt: skip


def inbox_frame(parts: Iterable[Sequence[tuple[Any, ...]]]) -> pd.DataFrame:
    """Received messages, a row each, in the order given.

    Args:
        parts: As ``journal.received.rows`` yields them.

    Returns:
        Columns as in :data:`INBOX_DTYPES`, the same whether empty or not: ``message_id``; ``received_at``, the
        gateway's time, to the minute; ``stored_at``, ours; ``originator``, who wrote; ``prefix``, the keyword that
        routed it here; ``kind``, SMS, VOI or DPN; ``text``; ``user``, ``alias`` and ``subject``, as the gateway has
        them. Times in UTC, missing values are NA. Texts are written by strangers: escape them wherever they are shown.
    """
    import pandas as pd

    rows = [row for part in parts for row in part]
    frame = {}
    for name, dtype in INBOX_DTYPES.items():
        values = [row[_ROW.index(name)] for row in rows]
        if dtype.startswith("datetime"):
            micros = pd.array(values, dtype="Int64")
            frame[name] = pd.Series(pd.to_datetime(micros, unit="us", utc=True)).dt.as_unit("us")
        else:
            frame[name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(frame)
