"""Rules about time, and the clocks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from prefect_mymsp.errors import InputError
from prefect_mymsp.times import (
    DEFAULT_TRACKING_DAYS,
    MAX_TRACKING_DAYS,
    SYSTEM_CLOCK,
    ceil_minute,
    floor_minute,
    is_repeated_hour,
    require_aware,
    resolve_repeated_hour,
    tracking_period,
)
from tests.clock import START, ManualClock

STOCKHOLM = ZoneInfo("Europe/Stockholm")
NEPAL = timezone(timedelta(hours=5, minutes=45))
#: The night in October 2030 in which Swedish clocks show 02:00 to 03:00 twice.
FIRST_0230, SECOND_0230 = datetime(2030, 10, 27, 0, 30, tzinfo=UTC), datetime(2030, 10, 27, 1, 30, tzinfo=UTC)


def test_a_datetime_without_a_zone_is_rejected_by_name() -> None:
    assert require_aware(FIRST_0230, "send_at") is FIRST_0230
    with pytest.raises(InputError, match=r"^send_at has no time zone; use an aware datetime, for example"):
        require_aware(datetime(2030, 1, 1), "send_at")


@pytest.mark.parametrize(
    ("value", "floor", "ceiling"),
    [
        (datetime(2030, 1, 31, 9, 0, tzinfo=UTC), "2030-01-31T09:00", "2030-01-31T09:00"),
        (datetime(2030, 1, 31, 9, 0, 0, 1, tzinfo=UTC), "2030-01-31T09:00", "2030-01-31T09:01"),
        (datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC), "2030-12-31T23:59", "2031-01-01T00:00"),
        (datetime(2030, 1, 31, 9, 0, 30, tzinfo=NEPAL), "2030-01-31T03:15", "2030-01-31T03:16"),
        # The last second of the first 02:59 is followed by the second 02:00.
        (datetime(2030, 10, 27, 2, 59, 59, tzinfo=STOCKHOLM), "2030-10-27T00:59", "2030-10-27T01:00"),
        (datetime(2030, 10, 27, 2, 30, tzinfo=STOCKHOLM), "2030-10-27T00:30", "2030-10-27T00:30"),
        (datetime(2030, 10, 27, 2, 30, tzinfo=STOCKHOLM, fold=1), "2030-10-27T01:30", "2030-10-27T01:30"),
        (datetime(2030, 10, 27, 2, 0, 1, tzinfo=STOCKHOLM, fold=1), "2030-10-27T01:00", "2030-10-27T01:01"),
    ],
)
def test_whole_minutes(value: datetime, floor: str, ceiling: str) -> None:
    assert floor_minute(value) == datetime.fromisoformat(f"{floor}Z")
    assert ceil_minute(value) == datetime.fromisoformat(f"{ceiling}Z")
    assert floor_minute(value).tzinfo is ceil_minute(value).tzinfo is UTC


def test_minutes_outside_the_calendar_overflow() -> None:
    with pytest.raises(OverflowError):
        ceil_minute(datetime.max.replace(tzinfo=UTC))
    with pytest.raises(OverflowError):
        floor_minute(datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))))


@pytest.mark.parametrize(
    ("value", "repeated"),
    [
        (FIRST_0230, True),
        (SECOND_0230, True),
        (FIRST_0230 - timedelta(minutes=31), False),
        (SECOND_0230 + timedelta(minutes=30), False),
        (datetime(2030, 3, 31, 1, 30, tzinfo=UTC), False),  # clocks are set forward
    ],
)
def test_the_repeated_hour(value: datetime, repeated: bool) -> None:
    assert is_repeated_hour(value, STOCKHOLM) is repeated
    assert not is_repeated_hour(value, UTC)


@pytest.mark.parametrize(
    ("value", "earliest", "meant"),
    [
        (FIRST_0230, FIRST_0230, FIRST_0230),
        (FIRST_0230, FIRST_0230 + timedelta(minutes=1), SECOND_0230),
        (FIRST_0230, SECOND_0230 + timedelta(minutes=1), FIRST_0230),  # neither fits
        (START, START + timedelta(minutes=30), START),  # not in the repeated hour
        (FIRST_0230, None, FIRST_0230),
        (None, FIRST_0230, None),
    ],
)
def test_a_time_in_the_repeated_hour_is_read_as_the_one_that_fits(
    value: datetime | None, earliest: datetime | None, meant: datetime | None
) -> None:
    assert resolve_repeated_hour(value, earliest, STOCKHOLM) == meant


def test_the_tracking_period() -> None:
    assert tracking_period(DEFAULT_TRACKING_DAYS) == timedelta(days=7)
    assert tracking_period(0.5) == timedelta(hours=12)
    assert datetime.now(UTC) - tracking_period(MAX_TRACKING_DAYS) < START


@pytest.mark.parametrize("days", [0, -1, 36_501, float("nan"), float("inf")])
def test_tracking_periods_that_make_no_sense(days: float) -> None:
    with pytest.raises(InputError, match="tracking_days"):
        tracking_period(days)


def test_the_system_clock() -> None:
    assert SYSTEM_CLOCK.now().tzinfo is UTC
    assert abs(SYSTEM_CLOCK.now() - datetime.now(UTC)) < timedelta(seconds=5)
    before = SYSTEM_CLOCK.monotonic(), SYSTEM_CLOCK.elapsed()
    asyncio.run(SYSTEM_CLOCK.sleep(0.01))
    assert SYSTEM_CLOCK.monotonic() - before[0] >= 0.009
    assert SYSTEM_CLOCK.elapsed() - before[1] >= 0.009


def test_a_manual_clock() -> None:
    clock = ManualClock()
    monotonic, elapsed = clock.monotonic(), clock.elapsed()
    asyncio.run(clock.sleep(90))
    assert clock.now() == START + timedelta(seconds=90)
    clock.suspend(3600)
    assert (clock.monotonic() - monotonic, clock.elapsed() - elapsed) == (90, 3690)
    clock.set_wall_clock(START)
    assert (clock.now(), clock.elapsed() - elapsed) == (START, 3690)
    assert clock.slept == [90]
