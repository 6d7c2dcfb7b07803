"""Rows that cannot be sent, each with its line, its column, its value and the reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

__all__ = ["REJECTED_ROW_SCHEMA", "RejectedRow", "rejected_row_table"]

_VALUE_LENGTH = 80

#: One line for each rejected row; see :class:`RejectedRow`.
REJECTED_ROW_SCHEMA = pa.schema(
    [("row", pa.int64()), ("column", pa.string()), ("value", pa.string()), ("reason", pa.string())]
)


class RejectedRow(NamedTuple):
    """A row that cannot be sent.

    Attributes:
        row: Line in the file (from 1) where the record starts, or position in the DataFrame (from 1).
        column: The column at fault; empty if the fault is the whole line's.
        value: The raw value. In a table it is cut to 80 characters.
        reason: The fault, without a capital letter and a full stop.
    """

    row: int
    column: str
    value: str
    reason: str


def rejected_row_table(rows: Iterable[RejectedRow]) -> pa.Table:
    """Make a table in :data:`REJECTED_ROW_SCHEMA`, ordered by row."""
    columns = list(zip(*sorted(rows), strict=True)) or [(), (), (), ()]
    columns[2] = tuple(value[:_VALUE_LENGTH] for value in columns[2])
    arrays = [pa.array(column, kind) for column, kind in zip(columns, REJECTED_ROW_SCHEMA.types, strict=True)]
    return pa.table(arrays, schema=REJECTED_ROW_SCHEMA)
