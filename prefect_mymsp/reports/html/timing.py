"""Delivery times: the groups of the chart and the sentence below it."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_mymsp.reports.frames import percentile
from prefect_mymsp.reports.html.wording import format_duration

#: (label, upper bound in seconds).
_GROUPS = (
    ("under 1 minute", 60),
    ("1 to 2 minutes", 120),
    ("2 to 5 minutes", 300),
    ("5 to 15 minutes", 900),
    ("15 to 60 minutes", 3600),
    ("1 to 6 hours", 6 * 3600),
    ("6 to 24 hours", 24 * 3600),
    ("over a day", float("inf")),
)


def latency_groups(latencies: Sequence[tuple[float, int]]) -> list[tuple[str, int]]:
    """Deliveries by how long they took, from the shortest group to the longest that is not empty.

    Args:
        latencies: (seconds, deliveries), ascending.
    """
    groups, lower = [], 0.0
    for label, upper in _GROUPS:
        groups.append((label, sum(count for seconds, count in latencies if lower <= seconds < upper)))
        lower = upper
    while len(groups) > 1 and not groups[-1][1]:
        groups.pop()
    return groups


def latency_caption(latencies: Sequence[tuple[float, int]]) -> str:
    """The times for half, 95 per cent and all deliveries; empty without deliveries."""
    half, most, all_of_them = (percentile(latencies, part) for part in (0.5, 0.95, 1.0))
    if half is None or most is None or all_of_them is None:
        return ""
    counted = "Counted from the request, or from the send time if that is later, to the end of the minute of delivery."
    if format_duration(half) == format_duration(all_of_them):
        return f"{counted} All within {format_duration(all_of_them)}."
    return (
        f"{counted} Half within {format_duration(half)}, 95% within {format_duration(most)}, all within "
        f"{format_duration(all_of_them)}."
    )
