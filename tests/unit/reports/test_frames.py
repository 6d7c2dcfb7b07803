"""Figures of frames that need no journal."""

from __future__ import annotations

from prefect_mymsp.reports.frames import percentile


def test_percentiles_are_values_that_occur() -> None:
    assert percentile([], 0.5) is None
    assert [percentile([(1.0, 1), (5.0, 1)], share) for share in (0.0, 0.5, 0.51, 1.0)] == [1.0, 1.0, 5.0, 5.0]
    assert percentile([(0.0, 95), (60.0, 5)], 0.95) == 0.0
