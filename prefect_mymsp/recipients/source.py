"""Open a source of recipients and read it, one chunk of checked rows at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import phonenumbers
import pyarrow as pa

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.recipients.columns import find_phone_column, name_key
from prefect_mymsp.recipients.csv import CsvReader
from prefect_mymsp.recipients.frame import FrameReader
from prefect_mymsp.recipients.numbers import check_column
from prefect_mymsp.rejected_rows import RejectedRow, rejected_row_table

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.recipients.rows import ParsedRows

_ROW_SCHEMA = pa.schema([("row", pa.int64()), ("msisdn", pa.string())])


@dataclass(frozen=True)
class RecipientChunk:
    """A stretch of a source's rows, checked.

    Attributes:
        rows: Two columns, in the source's order. ``row``: int64, for a file the physical line (from 1) where the
            record starts, for a DataFrame the position (from 1). ``msisdn``: string, country code and number, digits
            only.
        columns: The source's cells for the same rows as ``rows``: string columns named and ordered as
            :attr:`Source.columns`, raw, never null. A table of its own, so that a source may have a column ``row``.
        rejected_rows: The rows that cannot be sent, in :data:`~prefect_mymsp.recipients.REJECTED_ROW_SCHEMA`, by
            ``row``.
    """

    rows: pa.Table
    columns: pa.Table
    rejected_rows: pa.Table


class Source:
    """A table of recipients that can be read as often as needed; made by :func:`open_source`.

    Attributes:
        columns: The names of the columns, trimmed, in order. Columns without a name are left out.
        phone_column: The column of the numbers, spelled as in ``columns``.
        label: A name that is safe to log: the file's name, a URL's host and path, or ``DataFrame``.
        detected_format: Column of the numbers, encoding and separator, for a person.
    """

    def __init__(self, reader: CsvReader | FrameReader, phone_column: str, country: str) -> None:
        self.columns = reader.columns
        self.phone_column = phone_column
        self.label = reader.label
        self.detected_format = ", ".join([f"numbers in column {phone_column!r}", *reader.format_details])
        self._reader = reader
        self._country = country
        # MSISDN means country code first, by definition (ITU-T E.164), so foreign numbers need no plus sign there.
        self._assume_country_code = name_key(phone_column) == "msisdn"

    def __repr__(self) -> str:
        return f"Source({self.label!r}, columns={self.columns!r}, phone_column={self.phone_column!r})"

    def chunks(self) -> Iterator[RecipientChunk]:
        """Read the source from its beginning, chunk by chunk.

        Yields:
            Chunks in order, each of at most ``chunk_rows`` rows and the rejected rows among them; none for a source
            without rows.

        Raises:
            SourceError: The file changed or vanished since it was opened, or a quotation mark is never closed.
                Nothing has been sent.
        """
        return map(self._check, self._reader.read())

    def _check(self, parsed: ParsedRows) -> RecipientChunk:
        cells = parsed.table.column(self.phone_column).combine_chunks()
        msisdns, reasons = check_column(cells, self._country, assume_country_code=self._assume_country_code)
        rows, table, rejected_rows = parsed.rows, parsed.table, parsed.rejected_rows
        if reasons:
            rejected_rows = rejected_rows + [
                RejectedRow(int(rows[position]), self.phone_column, cells[position].as_py(), reason)
                for position, reason in reasons.items()
            ]
            valid = msisdns.is_valid()
            msisdns, table = msisdns.filter(valid), table.filter(valid)
            rows = rows[valid.to_numpy(zero_copy_only=False)]
        return RecipientChunk(
            rows=pa.table([pa.array(rows, pa.int64()), msisdns], schema=_ROW_SCHEMA),
            columns=table.combine_chunks(),
            rejected_rows=rejected_row_table(rejected_rows),
        )


def open_source(
    source: str | os.PathLike[str] | pd.DataFrame,
    *,
    phone_column: str | None = None,
    country: str = "SE",
    chunk_rows: int = 50_000,
) -> Source:
    """Open a CSV file, a URL of one, or a DataFrame, and detect its columns.

    Encoding (UTF-8, UTF-16 with a byte order mark, Windows-1252), separator (semicolon, comma, tab, bar, or Excel's
    ``sep=`` line) and the phone column are detected. A file of one column of numbers needs no header. Blank lines, and
    lines with separators only, are skipped.

    Args:
        source: A path (``~`` is expanded), a ``file://`` or ``https://`` URL (``http://`` to this machine only), any
            other URL that fsspec can open, or a DataFrame, which is not modified. The content of a URL is kept in an
            unnamed temporary file, which no other user can read, until the returned object is deleted.
        phone_column: Name of the column with the numbers, in any case; None to find it by its usual English and
            Swedish names.
        country: Country of numbers written without a country code, ISO 3166-1 alpha-2.
        chunk_rows: At most this many rows a chunk.

    Raises:
        SourceError: The source cannot be read as a table of recipients; the message names the fault, the place and the
            remedy.
        ConfigurationError: ``country`` is no country, or ``chunk_rows`` is not positive.
    """
    country = country.upper()
    if country not in phonenumbers.SUPPORTED_REGIONS:
        raise ConfigurationError(f"country must be two letters of ISO 3166-1, such as 'SE', not {country!r}.")
    if chunk_rows < 1:
        raise ConfigurationError(f"chunk_rows must be at least 1, not {chunk_rows}.")
    if isinstance(source, str | os.PathLike):
        reader = CsvReader.open(os.fspath(source), phone_column, chunk_rows)
        return Source(reader, reader.header.phone_column, country)
    frame = FrameReader(source, chunk_rows)
    frame.phone_column = find_phone_column(frame.columns, phone_column, frame.label)
    return Source(frame, frame.phone_column, country)
