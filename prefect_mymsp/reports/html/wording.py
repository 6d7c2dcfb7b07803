"""Counts, times and durations in words, as every page writes them."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def format_time(time: datetime) -> str:
    """A time to the minute, in its own zone."""
    return f"{time.day} {time:%B %Y, %H:%M}"


def format_duration(seconds: float) -> str:
    """The upper bound of a duration that was measured to the beginning of a minute.

    The gateway cuts off the seconds of its times, so that up to a minute is added.
    """
    minutes = -int(-(seconds + 60) // 60)
    if minutes < 120:
        return f"{minutes:,} min"
    hours = -(-minutes // 60)
    return f"{hours:,} h" if hours < 48 else f"{-(-hours // 24):,} days"


def plural(count: int, singular: str, plural_form: str | None = None) -> str:
    """A count and its noun."""
    return f"{count:,} {singular if count == 1 else plural_form or singular + 's'}"


def list_counts(counts: list[tuple[int, str, str]]) -> str:
    """Those of (count, singular, plural) that are not zero, in one line."""
    return ", ".join(plural(count, singular, plural_form) for count, singular, plural_form in counts if count)


def describe_period(times: pd.Series, zone: tzinfo, *, later: int = 0) -> str:
    """When the first and the last of several things happened.

    Args:
        times: Moments, aware; missing ones do not count, and there is at least one.
        zone: The zone to write them in.
        later: How many of them are not in the chart above.
    """
    first, last = (time.to_pydatetime().astimezone(zone) for time in (times.min(), times.max()))
    count = int(times.notna().sum())
    if count == 1 or format_time(first) == format_time(last):
        return f"{'All' if count > 1 else 'The only one'} at {format_time(first)}."
    period = f"First at {format_time(first)}, last at {format_time(last)}."
    return f"{period} The chart leaves out {plural(later, 'later one', 'later ones')}." if later else period
