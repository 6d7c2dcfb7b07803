"""The separator of a CSV file and the names of its columns, detected from its first lines."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

from prefect_mymsp.errors import SourceError
from prefect_mymsp.recipients.columns import (
    OUTER_SPACE,
    check_unique,
    clean_name,
    find_phone_column,
    has_content,
    is_phone_name,
    looks_like_number,
)

_SEPARATORS = (";", "\t", "|", ",")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)\1*"?', re.IGNORECASE)
_SAMPLE_RECORDS = 60


@dataclass(frozen=True)
class CsvHeader:
    """The header of a CSV file.

    Attributes:
        separator: The character between two fields.
        names: Names of all columns, trimmed; empty for a column without a name.
        lines: Physical lines before the first record.
        phone_column: The column with the phone numbers, as in ``names``.
    """

    separator: str
    names: tuple[str, ...]
    lines: int
    phone_column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that have one."""
        return tuple(name for name in self.names if name)

    @property
    def positions(self) -> list[int]:
        """Positions of the columns that have a name."""
        return [position for position, name in enumerate(self.names) if name]


def separator_name(separator: str) -> str:
    """A separator for a person."""
    return "a tab" if separator == "\t" else f"'{separator}'"


def detect_header(sample: str, phone_column: str | None, label: str) -> CsvHeader:
    """Detect separator, columns and phone column.

    Args:
        sample: The beginning of the file, with line feeds for line ends.
        phone_column: The name of the column; None to find it.
        label: The file's name in errors.

    Raises:
        SourceError: The file has no header that makes sense, or no phone column.
    """
    if not sample.strip(OUTER_SPACE + "\0;,|"):
        raise SourceError(f"{label}: the file is empty.")
    first, _, rest = sample.partition("\n")
    body, skipped = sample, 0
    if separator_line := _SEPARATOR_LINE.fullmatch(first.strip(OUTER_SPACE.replace("\t", ""))):
        separator, body, skipped = separator_line[1], rest, 1
        if not "\t" <= separator <= "~" or separator.isalnum() or separator in '" \n':
            raise SourceError(f"{label}: the first line sets the separator {separator!r}. Use ';'.")
    else:
        separator = _detect_separator(body, phone_column)
    record, lines = _first_record(body, separator, label)
    lines += skipped
    if record is None:
        raise SourceError(f"{label}: there is no header, only a line that sets the separator.")
    names = tuple(map(clean_name, record))
    if _is_headerless(names, phone_column):
        lines = max(lines - 1, skipped)
        names = (clean_name(phone_column or "") or "phone", *("" for _ in names[1:]))
    check_unique(names, label)
    columns = [name for name in names if name]
    try:
        detected = find_phone_column(columns, phone_column, label)
    except SourceError:
        if any(map(looks_like_number, columns)):
            raise SourceError(
                f"{label}: line {lines} looks like a recipient, not like a header. Add a line with the names of the "
                "columns above it, such as 'phone;name'."
            ) from None
        raise
    return CsvHeader(separator, names, lines, detected)


def _detect_separator(sample: str, phone_column: str | None) -> str:
    """The separator that gives the best header, judged by its names first, then by the lines after it."""
    best, best_score = "", (False, 0.0, 0)
    wanted = clean_name(phone_column or "").casefold()
    for separator in _SEPARATORS:
        records = _first_records(sample, separator)
        names = [clean_name(name) for name in records[0]] if records else []
        if len(names) < 2:
            continue
        width = len(names)
        has_phone_column = any(name.casefold() == wanted if wanted else is_phone_name(name) for name in names)
        same_width = sum(len(record) == width for record in records) / len(records)
        if (score := (has_phone_column, same_width, width)) > best_score:
            best, best_score = separator, score
    if best:
        return best
    # One column. A separator further down still separates fields, so that those lines are rejected.
    return next((each for each in _SEPARATORS if any(len(r) > 1 for r in _first_records(sample, each))), ";")


def _first_records(sample: str, separator: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(sample, newline="\n"), delimiter=separator)
    records: list[list[str]] = []
    try:
        for record in reader:
            if has_content(record):
                records.append(record)
            if len(records) == _SAMPLE_RECORDS:
                break
    except csv.Error:
        pass
    return records


def _first_record(text: str, separator: str, label: str) -> tuple[list[str] | None, int]:
    """The first record that is not blank, and the line on which it ends."""
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=separator, strict=True)
    try:
        for record in reader:
            if has_content(record):
                return record, reader.line_num
    except csv.Error:
        raise SourceError(
            f"{label}: a quotation mark in the header (line {reader.line_num}) is not closed. Close it."
        ) from None
    return None, reader.line_num


def _is_headerless(names: tuple[str, ...], phone_column: str | None) -> bool:
    """Whether the file is one column whose first line is a number."""
    first, *others = names
    if any(others) or not looks_like_number(first):
        return False
    return phone_column is None or clean_name(phone_column) != first
