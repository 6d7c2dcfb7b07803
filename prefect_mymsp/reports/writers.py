"""Frames into files: CSV, Parquet, Excel, and text.

A file appears complete or not at all, and only its owner can read it, because it holds phone numbers.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_mymsp.errors import ConfigurationError, ExportError, InputError
from prefect_mymsp.reports.sanitize import escape_control_characters, escape_formulas

if TYPE_CHECKING:
    import pandas as pd

#: Rows below the header of an Excel sheet, at most.
EXCEL_ROWS = 1_048_575
#: Characters in a cell of Excel, at most.
EXCEL_CHARACTERS = 32_767


def file_name(title: str) -> str:
    """A campaign's name, or another title, as the name of a file."""
    return re.sub(r"[^\w.-]+", "-", title, flags=re.UNICODE).strip("-.")[:120] or "campaign"


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """Write a frame as CSV: commas, UTF-8, times as ISO 8601 in UTC.

    A text that a spreadsheet would run as a formula gets a leading apostrophe; control characters are written out. A
    phone number with its plus sign stays as it is.

    Raises:
        ExportError: The file cannot be written.
    """
    safe = escape_formulas(frame)
    with atomic_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        safe.to_csv(file, index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ")
    return path


def write_text(text: str, path: Path) -> Path:
    """Write a text unchanged, in UTF-8.

    Raises:
        ExportError: The file cannot be written.
    """
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
    return path


def write_parquet(frame: pd.DataFrame, path: Path) -> Path:
    """Write a frame as Parquet, with its dtypes and time zones; texts stay unchanged.

    Raises:
        ExportError: The file cannot be written.
    """
    with atomic_file(path) as part:
        frame.to_parquet(part, engine="pyarrow", index=False)
    return path


def write_excel(frames: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Write frames as the sheets of an Excel file; times are in UTC, as their column headers state.

    Texts are escaped as in :func:`write_csv`. Phone numbers are texts, so that no digit is lost.

    Args:
        frames: By the name of the sheet.
        path: The file.

    Raises:
        ConfigurationError: XlsxWriter is not installed.
        InputError: A frame has more rows than a sheet of Excel.
        ExportError: The file cannot be written.
    """
    try:
        import xlsxwriter
    except ModuleNotFoundError:
        raise ConfigurationError("Excel files need XlsxWriter: install prefect-mymsp[reports].") from None
    for frame in frames.values():
        if len(frame) > EXCEL_ROWS:
            raise InputError(
                f"{len(frame):,} rows do not fit into an Excel sheet, which holds {EXCEL_ROWS:,}. Export CSV or "
                "Parquet instead."
            )
    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with atomic_file(path) as part, xlsxwriter.Workbook(str(part), options) as book:
        for name, frame in frames.items():
            _write_sheet(book, name, escape_formulas(frame))
    return path


def _write_sheet(book: Any, name: str, frame: pd.DataFrame) -> None:
    heading_format = book.add_format({"bold": True, "bottom": 1})
    time_format = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss", "align": "left"})
    sheet = book.add_worksheet(name)
    sheet.freeze_panes(1, 0)
    if len(frame):
        sheet.autofilter(0, 0, len(frame), len(frame.columns) - 1)
        sheet.ignore_errors({"number_stored_as_text": f"A2:XFD{len(frame) + 1}"})
    values, writers = [], []
    for column_index, (title, dtype) in enumerate(frame.dtypes.items()):
        column, heading, write = frame[title], str(title), sheet.write_number
        if str(dtype).startswith("datetime"):
            column, heading = column.dt.tz_localize(None), f"{title} (UTC)"

            def write(row: int, column: int, value: datetime) -> None:
                sheet.write_datetime(row, column, value, time_format)

        elif str(dtype) == "string":

            def write(row: int, column: int, value: str) -> None:
                sheet.write_string(row, column, value[:EXCEL_CHARACTERS])

        values.append(python_values(column))
        writers.append(write)
        longest = max((len(str(value)) for value in values[-1][:200] if value is not None), default=0)
        sheet.set_column(column_index, column_index, min(max(len(heading) + 3, longest + 2), 60))
        sheet.write_string(0, column_index, heading, heading_format)
    for row_index, row in enumerate(zip(*values, strict=True), start=1):
        for column_index, value in enumerate(row):
            if value is not None:
                writers[column_index](row_index, column_index, value)


def python_values(column: pd.Series) -> list[Any]:
    """A column's values as Python objects, None for missing ones."""
    import pyarrow as pa

    values: list[Any] = pa.Array.from_pandas(column).to_pylist()
    return values


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file in the same folder that replaces ``path`` when the context ends without an error.

    Raises:
        ExportError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", dir=path.parent)  # readable by its owner only
        os.close(handle)
        part = Path(name)
        try:
            yield part
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        name = escape_control_characters(str(path))
        raise ExportError(f"Cannot write the report {name}: {error.strerror or error}.") from error
