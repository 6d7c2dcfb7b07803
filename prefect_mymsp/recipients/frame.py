"""A DataFrame to rows of text, a slice at a time."""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefect_mymsp.errors import SourceError
from prefect_mymsp.recipients.columns import check_unique, clean_name
from prefect_mymsp.recipients.rows import ParsedRows
from prefect_mymsp.rejected_rows import RejectedRow

# A spreadsheet shows six digits of a long number; the other five of eleven are zeros.
_ROUNDED = 100_000
#: Below these, a float of 32 and of 64 bits holds every whole number exactly.
_EXACT_FLOAT32, _EXACT_FLOAT64 = 2**24, 2**53


class FrameReader:
    """A DataFrame, which is never modified.

    Attributes:
        label: Its name in errors.
        columns: Names of the columns that have one, trimmed.
        phone_column: The column with the numbers; set before :meth:`read`.
    """

    label = "DataFrame"
    format_details: tuple[str, ...] = ()

    def __init__(self, frame: Any, chunk_rows: int) -> None:
        import pandas as pd

        if not isinstance(frame, pd.DataFrame):
            raise SourceError(f"A source is a path, a URL or a DataFrame, not {type(frame).__name__}.")
        if isinstance(frame.columns, pd.MultiIndex):
            raise SourceError("DataFrame: its columns have several levels. Flatten them to one name a column.")
        self._frame = frame
        self._chunk_rows = chunk_rows
        names = tuple(clean_name(str(name)) for name in frame.columns)
        check_unique(names, self.label)
        if not any(names):
            raise SourceError("DataFrame: it has no columns.")
        self._positions = [position for position, name in enumerate(names) if name]
        self.columns = tuple(names[position] for position in self._positions)
        self.phone_column = ""

    def read(self) -> Iterator[ParsedRows]:
        """Read the rows from the beginning, at most ``chunk_rows`` at a time."""
        for start in range(0, len(self._frame), self._chunk_rows):
            part = self._frame.iloc[start : start + self._chunk_rows]
            rows = np.arange(start + 1, start + 1 + len(part), dtype=np.int64)
            rejected_rows: dict[int, RejectedRow] = {}
            arrays = []
            for name, position in zip(self.columns, self._positions, strict=True):
                array = column_texts(part.iloc[:, position], is_phone_column=name == self.phone_column)
                if isinstance(array, list):
                    array = _storable(array, name, rows, rejected_rows)
                arrays.append(array)
            table = pa.table(arrays, names=list(self.columns))
            if rejected_rows:
                keep = np.ones(len(part), dtype=bool)
                keep[list(rejected_rows)] = False
                table, rows = table.filter(pa.array(keep)), rows[keep]
            yield ParsedRows(rows, table, [rejected_rows[position] for position in sorted(rejected_rows)])


def _storable(values: list[str], name: str, rows: Any, rejected_rows: dict[int, RejectedRow]) -> pa.Array:
    """Return the values as an array; rows with a value that cannot be stored as text are added to the rejected rows."""
    try:
        joined = "".join(values)
        joined.encode()
        storable = "\0" not in joined
    except UnicodeEncodeError:
        storable = False
    if not storable:
        values = list(values)
        for position, value in enumerate(values):
            shown = value.encode("utf-8", "replace").decode()
            if shown != value or "\0" in value:
                fault = "half a surrogate pair, which is no character" if shown != value else "a NUL character"
                reason = f"the text contains {fault}"
                rejected_rows.setdefault(position, RejectedRow(int(rows[position]), name, shown, reason))
                values[position] = ""
    return pa.array(values, pa.string())


def column_texts(series: Any, *, is_phone_column: bool) -> pa.Array | list[str]:
    """Return a column as text: a string array without nulls where that is quick, else a list still to be checked."""
    import pandas as pd

    if isinstance(series.dtype, pd.SparseDtype):
        series = series.sparse.to_dense()
    if isinstance(series.dtype, pd.CategoricalDtype):
        categories = column_texts(series.cat.categories.to_series(), is_phone_column=is_phone_column)
        texts = categories if isinstance(categories, list) else categories.to_pylist()
        return [texts[code] if code >= 0 else "" for code in series.cat.codes.tolist()]
    kind = series.dtype.kind
    if kind in "iu":
        return pc.fill_null(pc.cast(pa.array(series, from_pandas=True), pa.string()), "")
    if isinstance(series.dtype, pd.StringDtype):
        try:
            array = pc.fill_null(pc.cast(pa.array(series, from_pandas=True), pa.string()), "")
        except (UnicodeError, pa.ArrowException):  # half a surrogate pair
            array = None
        if array is not None and not pc.any(pc.match_substring(array, "\0")).as_py():
            return array
    narrow = kind == "f" and series.dtype.itemsize < 8
    return [_text(value, narrow=narrow, is_phone=is_phone_column) for value in series.astype(object).tolist()]


def _text(value: Any, *, narrow: bool, is_phone: bool) -> str:
    """Write one value as text; ``narrow`` floats (32 bits or fewer) hold no more than 7 digits."""
    import pandas as pd

    if isinstance(value, str):
        return value
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating):
        narrow = narrow or (isinstance(value, np.floating) and value.itemsize < 8)
        return _float_text(float(value), narrow=narrow, is_phone=is_phone)
    if isinstance(value, decimal.Decimal):
        return "" if value.is_nan() else format(value, "f")
    if isinstance(value, pd.Timestamp) or (hasattr(value, "hour") and hasattr(value, "isoformat")):
        return _time_text(value)
    return str(value)


def _float_text(value: float, *, narrow: bool, is_phone: bool) -> str:
    if math.isnan(value):
        return ""
    if is_phone and abs(value) >= _ROUNDED and value % _ROUNDED == 0:
        # Most likely it was read from a power of ten, 4.67E+10. Written as one, it is rejected for what it is.
        return f"{value:.6G}"
    if abs(value) >= (_EXACT_FLOAT32 if narrow else _EXACT_FLOAT64):
        return f"{value:.6e}" if narrow else repr(value)
    if value.is_integer():
        return str(int(value))
    return f"{value:.7g}" if narrow else repr(value)


def _time_text(value: Any) -> str:
    """Write a time, a date, or both; midnight is left out of a date."""
    if not hasattr(value, "date"):
        return str(value.isoformat())
    clock = (value.hour, value.minute, value.second, value.microsecond, getattr(value, "nanosecond", 0))
    return str(value.isoformat(sep=" ") if any(clock) else value.date().isoformat())
