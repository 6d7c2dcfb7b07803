"""The mark of an export of new rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefect_mymsp.reports.new_only import ExportMark


@given(st.integers(0, 10**18), st.frozensets(st.integers(0, 10**6)), st.floats(0.1, 36_500))
def test_a_mark_can_be_stored_as_a_bookmark(position: int, exported: frozenset[int], tracking_days: float) -> None:
    mark = ExportMark(position, exported, tracking_days)
    assert ExportMark.load(mark.dump()) == mark


def test_neighbours_are_stored_as_ranges() -> None:
    assert len(ExportMark(1, frozenset(range(1_000_000))).dump()) < 100
    assert ExportMark.load(None) is None
