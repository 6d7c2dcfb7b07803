"""Read a CSV file or a DataFrame into checked recipients, one chunk of rows at a time.

Every row of a source ends up in exactly one of two tables of its chunk: :attr:`RecipientChunk.rows` if its number can
receive SMS, otherwise :attr:`RecipientChunk.rejected_rows` with line, column, value and reason. No value is guessed: a
number that a spreadsheet has rounded is rejected, even if one reading of it is likely.

The files: ``source`` (open and read a source), ``files`` (paths, URLs, pipes), ``encoding``, ``header`` (separator and
column names), ``csv`` (records), ``frame`` (DataFrames), ``columns`` (the column of the numbers), ``numbers`` (numbers
that can receive SMS).
"""

from __future__ import annotations

from prefect_mymsp.recipients.columns import find_phone_column
from prefect_mymsp.recipients.numbers import normalize_number
from prefect_mymsp.recipients.source import RecipientChunk, Source, open_source
from prefect_mymsp.rejected_rows import REJECTED_ROW_SCHEMA

__all__ = [
    "REJECTED_ROW_SCHEMA",
    "RecipientChunk",
    "Source",
    "find_phone_column",
    "normalize_number",
    "open_source",
]
