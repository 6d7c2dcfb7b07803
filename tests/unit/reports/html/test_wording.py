"""Counts, times and durations in words."""

from __future__ import annotations

import pytest

from prefect_mymsp.reports.html.wording import format_duration, list_counts, plural


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 min"), (0.5, "2 min"), (60, "2 min"), (61, "3 min"), (7079, "119 min"), (7200, "3 h"), (200_000, "3 days")],
)
def test_a_duration_includes_the_whole_last_minute(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_counts_have_their_nouns() -> None:
    assert [plural(count, "message") for count in (0, 1, 2_000)] == ["0 messages", "1 message", "2,000 messages"]
    assert list_counts([(0, "refused", "refused"), (1, "duplicate", "duplicates"), (2, "row", "rows")]) == (
        "1 duplicate, 2 rows"
    )
