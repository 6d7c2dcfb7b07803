"""CSV records to rows of text: by the column where the quoting is regular, else record by record.

Both ways give the same rows. Where the quoting is regular, numpy finds the records and pyarrow parses them. From the
first irregular quotation mark on, :mod:`csv` reads the rest of the file.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from prefect_mymsp.errors import SourceError
from prefect_mymsp.recipients.columns import has_content
from prefect_mymsp.recipients.encoding import decode, detect_encoding, encoding_name
from prefect_mymsp.recipients.files import SourceFile, open_file
from prefect_mymsp.recipients.header import CsvHeader, detect_header, separator_name
from prefect_mymsp.recipients.rows import ParsedRows
from prefect_mymsp.rejected_rows import RejectedRow

_SAMPLE_BYTES = 1 << 18
_MIN_CHUNK_BYTES, _MAX_CHUNK_BYTES = 256, 8 << 20
_MIN_PENDING_BYTES = 1 << 20
_QUOTE, _NEWLINE = ord('"'), ord("\n")
_FIELD_TOO_LONG = "a field is too long"


class CsvReader:
    """A CSV file whose header has been read.

    Attributes:
        header: Separator and columns.
        label: A name that is safe to log.
        columns: Names of the columns that have one.
        chunk_bytes: How much is read at a time: about ``chunk_rows`` rows.
    """

    def __init__(self, file: SourceFile, phone_column: str | None, chunk_rows: int) -> None:
        self._file = file
        self._encoding, self._mark_length = detect_encoding(file)
        self._chunk_rows = chunk_rows
        self.label = file.label
        sample = self._read_sample()
        self.chunk_bytes = _chunk_bytes(sample, chunk_rows)
        self.header: CsvHeader = detect_header(sample, phone_column, self.label)
        self.columns = self.header.columns

    @classmethod
    def open(cls, source: str, phone_column: str | None, chunk_rows: int) -> CsvReader:
        """Open a path or a URL."""
        return cls(open_file(source), phone_column, chunk_rows)

    @property
    def format_details(self) -> list[str]:
        """Encoding and separator, for a person."""
        details = [encoding_name(self._encoding)]
        if len(self.header.names) > 1:
            details.append(f"separated by {separator_name(self.header.separator)}")
        return details

    def _read_sample(self) -> str:
        texts, length = [], 0
        for text in decode(self._file, self._encoding, self._mark_length, _SAMPLE_BYTES):
            texts.append(text)
            length += len(text)
            if length >= _SAMPLE_BYTES // 4:
                break
        sample = "".join(texts).replace("\r\n", "\n").replace("\r", "\n")
        complete = length < _SAMPLE_BYTES // 4
        if not complete and (last := sample.rfind("\n")) >= 0:
            sample = sample[: last + 1]
        return sample

    def read(self) -> Iterator[ParsedRows]:
        """Read the rows from the beginning, at most ``chunk_rows`` at a time.

        Raises:
            SourceError: The file cannot be read, changed since it was opened, or has a quotation mark that is never
                closed.
        """
        line, skip, tail = 1, self.header.lines, b""
        chunks = self._normalised_chunks()
        chunk = next(chunks, b"")
        while chunk:
            following = next(chunks, b"")
            piece = tail + chunk
            if not following and not piece.endswith(b"\n"):
                piece += b"\n"
            while skip and (newline := piece.find(b"\n")) >= 0:
                piece, skip, line = piece[newline + 1 :], skip - 1, line + 1
            end = 0
            if piece and not skip:
                parsed = self._parse_columns(piece, line)
                is_stuck = not following or len(piece) > 4 * max(self.chunk_bytes, _MIN_PENDING_BYTES)
                if parsed is None or (parsed[1] < len(piece) and is_stuck):
                    yield from self._parse_records(chain((piece, following), chunks), line)
                    return
                rows, end = parsed
                line += piece.count(b"\n", 0, end)
                yield from self._split(rows)
            tail, chunk = piece[end:], following

    def _normalised_chunks(self) -> Iterator[bytes]:
        """The file in UTF-8 without byte order mark, every line end a line feed, in chunks that are not empty.

        Line ends within quoted fields change too: in an SMS a carriage return is invisible and costs a character.
        """
        held = b""
        if self._encoding == "utf-8":  # was decoded without error when the file was opened
            raw: Iterable[bytes] = self._file.chunks(self.chunk_bytes)
        else:
            texts = decode(self._file, self._encoding, self._mark_length, self.chunk_bytes)
            raw = (text.encode() for text in texts)
        skip = self._mark_length if self._encoding == "utf-8" else 0
        try:
            for part in raw:
                chunk = held + part[skip:]
                skip, held = max(skip - len(part), 0), b""
                if chunk.endswith(b"\r"):  # its line feed may come with the next chunk
                    chunk, held = chunk[:-1], b"\r"
                if b"\r" in chunk:
                    chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
                if chunk:
                    yield chunk
        except UnicodeError:
            raise self._file.changed() from None
        if held:
            yield b"\n"

    def _split(self, parsed: ParsedRows) -> Iterator[ParsedRows]:
        """Split rows into stretches of at most ``chunk_rows``; nothing for no rows at all."""
        total = len(parsed.rows)
        if total <= self._chunk_rows:
            if total or parsed.rejected_rows:
                yield parsed
            return
        rejected_rows = parsed.rejected_rows
        for start in range(0, total, self._chunk_rows):
            rows = parsed.rows[start : start + self._chunk_rows]
            is_last = start + self._chunk_rows >= total
            up_to_here = rejected_rows if is_last else [each for each in rejected_rows if each.row <= rows[-1]]
            rejected_rows = rejected_rows[len(up_to_here) :]
            yield ParsedRows(rows, parsed.table.slice(start, self._chunk_rows), up_to_here)

    # -- by the column

    def _parse_columns(self, piece: bytes, line: int) -> tuple[ParsedRows, int] | None:
        """Parse the whole records of a piece.

        Args:
            piece: Bytes that start with a record.
            line: Line in the file on which the piece starts.

        Returns:
            The rows, and the position after the last whole record; None if the quoting is irregular.
        """
        records = find_records(piece, ord(self.header.separator))
        if records is None:
            return None
        if not len(records.ends):
            return ParsedRows(np.empty(0, np.int64), self._table([]), []), 0
        ragged = records.fields != len(self.header.names)
        if b"\0" in piece:
            nul = np.flatnonzero(np.frombuffer(piece, np.uint8) == 0)
            nul = nul[nul <= records.ends[-1]]
            ragged[np.searchsorted(records.ends, nul)] = True
        rows = line + records.lines
        end = int(records.ends[-1]) + 1
        rejected_rows: list[RejectedRow] = []
        body: bytes | memoryview = memoryview(piece)[:end]
        if ragged.any():
            parts: list[bytes | memoryview] = []
            keep = np.ones(len(records.ends), dtype=bool)
            written = 0
            for index in np.flatnonzero(ragged).tolist():
                start, stop = int(records.starts[index]), int(records.ends[index])
                parts.append(body[written:start])
                written = stop + 1
                fitted = self._fit_raw(piece[start:stop].decode(), int(rows[index]), rejected_rows)
                if fitted is None:
                    keep[index] = False
                else:
                    parts.append(_csv_line(fitted, self.header.separator))
            parts.append(body[written:])
            body, rows = b"".join(parts), rows[keep]
        table = self._parse_body(body)
        if table.num_rows != len(rows):  # pyarrow found other records: parse them one by one
            return None
        return self._drop_blank_rows(ParsedRows(rows, table, rejected_rows)), end

    def _parse_body(self, body: bytes | memoryview) -> pa.Table:
        names = [str(position) for position in range(len(self.header.names))]
        if not len(body):
            return self._table([])
        if body[:3] == codecs.BOM_UTF8:  # pyarrow removes one wherever a piece begins with it, also from a name
            body = codecs.BOM_UTF8 + body
        try:
            return pa_csv.read_csv(
                pa.py_buffer(body),
                read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(body) + 1),
                parse_options=pa_csv.ParseOptions(delimiter=self.header.separator, newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), check_utf8=False, strings_can_be_null=False
                ),
            )
        except pa.ArrowException:
            return self._table([])

    def _table(self, records: list[list[str]]) -> pa.Table:
        columns = list(zip(*records, strict=True)) if records else [()] * len(self.header.names)
        arrays = [pa.array(column, pa.string()) for column in columns]
        return pa.table(arrays, names=[str(position) for position in range(len(self.header.names))])

    def _drop_blank_rows(self, parsed: ParsedRows) -> ParsedRows:
        """Drop lines that hold separators only, name the columns and leave out those without a name."""
        table, rows = parsed.table, parsed.rows
        phone = table.column(self.header.names.index(self.header.phone_column))
        # A blank cell is short; that rules out most lines.
        short = np.flatnonzero(pc.less(pc.binary_length(phone), 3).to_numpy())
        if len(short):
            records = zip(*table.take(pa.array(short)).to_pydict().values(), strict=True)
            blank = [index for index, record in zip(short, records, strict=True) if not has_content(record)]
            if blank:
                keep = np.ones(len(rows), dtype=bool)
                keep[blank] = False
                table, rows = table.filter(pa.array(keep)), rows[keep]
        table = table.select(self.header.positions).rename_columns(list(self.header.columns))
        return ParsedRows(rows, table, parsed.rejected_rows)

    # -- record by record

    def _fit_raw(self, raw: str, row: int, rejected_rows: list[RejectedRow]) -> list[str] | None:
        try:
            record = next(csv.reader(io.StringIO(raw, newline="\n"), delimiter=self.header.separator), [])
        except csv.Error:
            rejected_rows.append(RejectedRow(row, "", raw, _FIELD_TOO_LONG))
            return None
        return self._fit(record, row, raw, rejected_rows)

    def _fit(self, record: list[str], row: int, raw: str, rejected_rows: list[RejectedRow]) -> list[str] | None:
        """Return the record with as many fields as the header; None if it is blank, or rejected."""
        if not has_content(record):
            return None
        width, needed = len(self.header.names), self.header.positions[-1] + 1
        if "\0" in raw:
            reason = "the line contains a NUL character; the file is damaged there"
        elif len(record) < needed:
            reason = f"the line has {_count_fields(record)}, the header has {needed}"
        elif has_content(record[width:]):
            reason = (
                f"the line has {_count_fields(record)}, the header has {width}; "
                f"put a field that contains {separator_name(self.header.separator)} in quotation marks"
            )
        else:
            return (record + [""] * (width - len(record)))[:width]
        rejected_rows.append(RejectedRow(row, "", raw, reason))
        return None

    def _parse_records(self, pieces: Iterable[bytes], line: int) -> Iterator[ParsedRows]:
        """Parse the rest of the file with :mod:`csv`; ``line`` is where it starts."""
        current_line = ""

        def lines() -> Iterator[str]:
            nonlocal current_line
            rest = b""
            for piece in pieces:
                *complete, rest = (rest + piece).split(b"\n")
                for raw_line in complete:
                    current_line = raw_line.decode()
                    yield current_line + "\n"
            if rest:
                current_line = rest.decode()
                yield current_line

        reader = csv.reader(lines(), delimiter=self.header.separator, strict=True)
        rows: list[int] = []
        records: list[list[str]] = []
        rejected_rows: list[RejectedRow] = []
        while True:
            lines_before = reader.line_num
            row = line + lines_before
            try:
                record = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                if reader.line_num - lines_before > 1 or "end of data" in str(error):
                    raise SourceError(
                        f"{self.label}: a quotation mark in line {row} is never closed, or one within the field is "
                        "not doubled. Correct that line."
                    ) from None
                reason = (
                    _FIELD_TOO_LONG
                    if "limit" in str(error)
                    else 'a quotation mark within a quoted field must be doubled ("")'
                )
                rejected_rows.append(RejectedRow(row, "", current_line, reason))
                continue
            raw = self.header.separator.join(record)
            fitted: list[str] | None = record
            if len(record) != len(self.header.names) or "\0" in raw:
                fitted = self._fit(record, row, raw, rejected_rows)
            if fitted is None:
                continue
            rows.append(row)
            records.append(fitted)
            if len(rows) >= self._chunk_rows:
                yield from self._split_records(rows, records, rejected_rows)
                rows, records, rejected_rows = [], [], []
        yield from self._split_records(rows, records, rejected_rows)

    def _split_records(
        self, rows: list[int], records: list[list[str]], rejected_rows: list[RejectedRow]
    ) -> Iterator[ParsedRows]:
        parsed = ParsedRows(np.array(rows, np.int64), self._table(records), rejected_rows)
        yield from self._split(self._drop_blank_rows(parsed))


def _chunk_bytes(sample: str, chunk_rows: int) -> int:
    bytes_per_row = len(sample) // (sample.count("\n") + 1) + 1
    return max(_MIN_CHUNK_BYTES, min(chunk_rows * bytes_per_row, _MAX_CHUNK_BYTES))


class RecordPositions(NamedTuple):
    """Where the whole records of a piece are; four int64 arrays, one entry a record.

    Attributes:
        starts: The first byte.
        ends: The line feed that ends it.
        fields: Number of fields.
        lines: Lines before it in the piece.
    """

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    fields: npt.NDArray[np.int64]
    lines: npt.NDArray[np.int64]


def find_records(piece: bytes, separator: int) -> RecordPositions | None:
    """Find the whole records of a piece that starts with a record, by RFC 4180.

    Returns:
        Their positions; None if a quotation mark stands where RFC 4180 has none, so that counting them proves nothing.
    """
    data = np.frombuffer(piece, np.uint8)
    ends: Any = np.flatnonzero(data == _NEWLINE)
    unquoted_ends = None
    separators = np.flatnonzero(data == separator)
    if b'"' in piece:
        quotes = np.flatnonzero(data == _QUOTE)
        # A line feed after an odd number of quotation marks is within a quoted field.
        unquoted_ends = np.flatnonzero((np.searchsorted(quotes, ends) & 1) == 0)
        ends = ends[unquoted_ends]
        if len(ends):
            separators = separators[(np.searchsorted(quotes, separators) & 1) == 0]
            quotes = quotes[quotes < ends[-1]]
            opening, closing = quotes[0::2], quotes[1::2]
            before = data[np.maximum(opening - 1, 0)]
            regular = (before == separator) | (before == _NEWLINE) | (before == _QUOTE) | (opening == 0)
            after = data[closing + 1]
            regular &= (after == separator) | (after == _NEWLINE) | (after == _QUOTE)
            if not regular.all():
                return None
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    fields = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    if unquoted_ends is None:
        lines = np.arange(len(ends), dtype=np.int64)
    else:
        lines = np.concatenate(([0], unquoted_ends[:-1] + 1)) if len(ends) else unquoted_ends
    return RecordPositions(starts, ends, fields, lines)


def _csv_line(record: list[str], separator: str) -> bytes:
    quoted = ('"' + value.replace('"', '""') + '"' for value in record)
    return (separator.join(quoted) + "\n").encode()


def _count_fields(record: list[str]) -> str:
    return f"{len(record)} field" if len(record) == 1 else f"{len(record)} fields"
