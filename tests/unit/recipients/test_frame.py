"""DataFrames of any dtype."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_mymsp.errors import SourceError
from prefect_mymsp.recipients import open_source
from tests.unit.recipients.tables import NUMBERS, A, rejected_rows, valid_rows


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["0701740605", None]),
        pd.Series(["0701740605", None], dtype=object),
        pd.Series([701740605, None], dtype="Int64"),
        pd.Series([46701740605.0, np.nan]),
        pd.Series([701740605, pd.NA], dtype=object),
        pd.Series([701740605.0, float("nan")], dtype=object),
        pd.Series(["0701740605", None], dtype="category"),
        pd.Series([46701740605, None], dtype=pd.ArrowDtype(pa.int64())),
        pd.Series(["0701740605", None], dtype=pd.ArrowDtype(pa.string())),
        pd.Series(["0701740605", None], dtype="string[python]"),
        pd.Series([decimal.Decimal(46701740605), None], dtype=object),
    ],
    ids=lambda series: str(series.dtype),
)
def test_phone_columns_of_any_dtype(column: Any) -> None:
    frame = pd.DataFrame({"Mobil": column})
    frame.index = pd.Index([7, 7])
    source = open_source(frame)
    assert source.label == "DataFrame"
    assert [row[:2] for row in valid_rows(source)] == [(1, A)]
    assert rejected_rows(source) == [(2, "Mobil", "", "the number is missing")]


def test_floats_too_narrow_for_a_number_are_rejected() -> None:
    for values in (pd.Series([46701740605.0], dtype="float32"), pd.Series([np.float32(46701740605)], dtype=object)):
        assert "power of ten" in rejected_rows(open_source(pd.DataFrame({"phone": values})))[0][3]


def test_cells_are_written_as_a_person_would() -> None:
    zone = dt.timezone(dt.timedelta(hours=2))
    values = {
        "whole": [5.0, np.nan],
        "part": [12.5, 13.0],
        "flag": [True, False],
        "day": [pd.Timestamp("2026-07-01"), pd.NaT],
        "time": pd.to_datetime(["2026-07-01 09:30", "2026-07-02 00:00"]),
        "mixed": [dt.date(2026, 7, 1), dt.datetime(2026, 7, 1, 9, 30, tzinfo=zone)],
        "clock": [dt.time(9, 30), decimal.Decimal("1.50")],
        "number": [decimal.Decimal("1E+3"), decimal.Decimal("NaN")],
        "narrow": pd.Series([1.1, 2.0], dtype="float32"),
        "group": pd.Categorical([1.0, np.nan]),
        7: [[1, 2], {}],
    }
    frame = pd.DataFrame({"phone": ["0701740605", "0701740606"], **values})
    before = frame.copy(deep=True)
    source = open_source(frame)
    assert source.columns == ("phone", *map(str, values))
    first, second = valid_rows(source)
    assert first[3:] == (
        "5",
        "12.5",
        "True",
        "2026-07-01",
        "2026-07-01 09:30:00",
        "2026-07-01",
        "09:30:00",
        "1000",
        "1.1",
        "1",
        "[1, 2]",
    )
    assert second[3:] == ("", "13", "False", "", "2026-07-02", "2026-07-01 09:30:00+02:00", "1.50", "", "2", "", "{}")
    pd.testing.assert_frame_equal(frame, before)


def test_frames_without_recipients_are_refused() -> None:
    with pytest.raises(SourceError, match="'phone'"):
        open_source(pd.DataFrame([[1, 2]], columns=["phone", "phone"]))
    with pytest.raises(SourceError, match="several levels"):
        open_source(pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])))
    with pytest.raises(SourceError, match="no columns"):
        open_source(pd.DataFrame())
    assert valid_rows(open_source(pd.DataFrame({"phone": []}))) == []


def test_text_that_cannot_be_stored_is_rejected() -> None:
    frame = pd.DataFrame({"phone": ["0701740605"] * 3, "name": pd.Series(["\ud83d", "a\0", "ok"], dtype=object)})
    source = open_source(frame)
    assert [row[0] for row in valid_rows(source)] == [3]
    assert [(row, column, value) for row, column, value, _ in rejected_rows(source)] == [
        (1, "name", "?"),
        (2, "name", "a\0"),
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(NUMBERS, st.none(), st.integers(0, 10**11), st.floats(), st.text(max_size=5), st.booleans())))
def test_every_row_of_a_frame_is_valid_or_rejected(values: list[Any]) -> None:
    source = open_source(pd.DataFrame({"phone": pd.Series(values, dtype=object)}), chunk_rows=3)
    rows = [row[0] for row in valid_rows(source)] + [row[0] for row in rejected_rows(source)]
    assert sorted(rows) == list(range(1, len(values) + 1))


@pytest.mark.parametrize("dtype", ["float64", "Float64", "category", "object"])
def test_a_number_that_pandas_read_from_a_power_of_ten_is_rejected(dtype: str) -> None:
    numbers = [4.67e10, 46701740605.0, 4.67017e10]
    frame = pd.DataFrame({"mobile": pd.Series(numbers, dtype=dtype), "amount": [100_000.0, 2e7, 5.0]})
    (chunk,) = open_source(frame).chunks()
    assert chunk.rows.column("msisdn").to_pylist() == [A]
    assert chunk.columns.column("amount").to_pylist() == ["20000000"]
    assert chunk.rejected_rows.column("value").to_pylist() == ["4.67E+10", "4.67017E+10"]
    assert all("power of ten" in reason for reason in chunk.rejected_rows.column("reason").to_pylist())


def test_dates_beyond_those_of_pandas_and_sparse_columns_are_read() -> None:
    frame = pd.DataFrame(
        {
            "mobile": ["0701740605", "0701740606"],
            "until": pd.Series([dt.datetime(9999, 12, 31), dt.datetime(1, 1, 1, 8, 30)], dtype=object),
            "vip": pd.arrays.SparseArray([0, 1]),
            "share": pd.arrays.SparseArray([0.5, 0.0]),
            "azores": pd.Series([pd.Timestamp("2026-10-25 00:30", tz="UTC").tz_convert("Atlantic/Azores")] * 2),
        }
    )
    (chunk,) = open_source(frame).chunks()
    columns = chunk.columns.to_pydict()
    assert columns["until"] == ["9999-12-31", "0001-01-01 08:30:00"]
    assert columns["vip"] == ["0", "1"]
    assert columns["share"] == ["0.5", "0"]
    assert columns["azores"][0].startswith("2026-10-25 00:30:00")
