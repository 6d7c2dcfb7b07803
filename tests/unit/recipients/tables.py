"""A source's rows as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from prefect_mymsp.recipients import REJECTED_ROW_SCHEMA, Source

DATA = Path(__file__).parents[2] / "data" / "csv"
#: MSISDNs of 0701740605 and the three numbers after it.
A, B, C, D = "46701740605", "46701740606", "46701740607", "46701740608"


NUMBERS = st.sampled_from(["0701740605", "+46 70-174 06 06", "08-465 004 00", "", "x", "+47 412 34 567"])


def valid_rows(source: Source) -> list[tuple[Any, ...]]:
    """Line, MSISDN and cells of every valid row."""
    rows: list[tuple[Any, ...]] = []
    for chunk in source.chunks():
        assert chunk.rows.num_rows == chunk.columns.num_rows
        assert tuple(chunk.columns.column_names) == source.columns
        assert chunk.rejected_rows.schema == REJECTED_ROW_SCHEMA
        cells = [column.to_pylist() for column in chunk.columns.columns]
        rows += zip(*[column.to_pylist() for column in chunk.rows.columns], *cells, strict=True)
    return rows


def rejected_rows(source: Source) -> list[tuple[int, str, str, str]]:
    """Line, column, value and reason of every rejected row."""
    return [tuple(row.values()) for chunk in source.chunks() for row in chunk.rejected_rows.to_pylist()]


def write(path: Path, text: str | bytes) -> Path:
    """Write a file and return its path."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
