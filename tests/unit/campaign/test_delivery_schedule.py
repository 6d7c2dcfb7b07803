"""The send window's arithmetic, against a calendar that is told in another way, and at the clock's odd hours."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_mymsp.campaign.delivery_schedule import TimeWindow
from prefect_mymsp.errors import InputError

MINUTE = timedelta(minutes=1)
STOCKHOLM = ZoneInfo("Europe/Stockholm")

#: With daylight saving of an hour, of half an hour, at midnight, backwards in winter, and with none at all.
ZONES = [
    "Europe/Stockholm",
    "Australia/Lord_Howe",
    "Atlantic/Azores",
    "Africa/Casablanca",
    "Europe/Dublin",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Pacific/Chatham",
    "UTC",
]

clocks = st.builds(time, st.integers(0, 23), st.integers(0, 59))
windows = st.builds(
    TimeWindow,
    opens=clocks,
    closes=clocks,
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    days=st.frozensets(st.integers(0, 6), min_size=1),
)
#: Two years and every second of them; and the days on which European clocks are moved, far more often than by chance.
seconds = st.one_of(
    st.integers(0, 2 * 365 * 86_400).map(lambda s: datetime(2029, 12, 1, tzinfo=UTC) + timedelta(seconds=s)),
    st.integers(0, 2 * 86_400).map(lambda s: datetime(2030, 3, 30, tzinfo=UTC) + timedelta(seconds=s)),
    st.integers(0, 2 * 86_400).map(lambda s: datetime(2030, 10, 26, tzinfo=UTC) + timedelta(seconds=s)),
)


def is_open(window: TimeWindow, at: datetime) -> bool:
    """By the calendar: some day of the window's began, by the wall clock, and has not closed yet."""
    wall = at.astimezone(window.zone).replace(tzinfo=None)
    for back in (0, 1):
        date = wall.date() - timedelta(days=back)
        begins, ends = datetime.combine(date, window.opens), datetime.combine(date, window.closes)
        if ends <= begins:
            ends += timedelta(days=1)
        if date.weekday() in window.days and begins <= wall < ends:
            return True
    return False


@settings(deadline=None)
@given(windows, seconds)
def test_it_is_open_when_the_calendar_says_so(window: TimeWindow, at: datetime) -> None:
    assert window.contains(at) is is_open(window, at)


@settings(deadline=None)
@given(windows, seconds, st.randoms(use_true_random=False))
def test_the_next_opening_is_open_and_the_first(window: TimeWindow, at: datetime, random: object) -> None:
    opening = window.next_opening(at)
    assert opening.tzinfo is UTC
    assert is_open(window, opening)
    if is_open(window, at):
        assert opening == at
        return
    assert opening > at
    assert (opening.second, opening.microsecond) == (0, 0)
    assert not is_open(window, opening - timedelta(seconds=1))
    for share in range(1, 40):  # nothing in between was open
        assert not is_open(window, at + (opening - at) * share / 40)


@settings(deadline=None)
@given(windows, seconds, st.sampled_from(ZONES))
def test_the_zone_a_moment_is_given_in_makes_no_difference(window: TimeWindow, at: datetime, zone: str) -> None:
    elsewhere = at.astimezone(ZoneInfo(zone))
    assert window.contains(elsewhere) is window.contains(at)
    assert window.next_opening(elsewhere) == window.next_opening(at)


def window(opens: str, closes: str, days: range | list[int] = range(7), zone: ZoneInfo = STOCKHOLM) -> TimeWindow:
    return TimeWindow(time.fromisoformat(opens), time.fromisoformat(closes), zone, frozenset(days))


WEEKDAYS = range(5)

OPENINGS = [
    # An ordinary day: before, in, on the dot, after.
    ("08:00", "20:00", range(7), "2030-01-15T06:59:59.999999+01:00", "2030-01-15T07:00:00+00:00"),
    ("08:00", "20:00", range(7), "2030-01-15T08:00:00+01:00", "2030-01-15T07:00:00+00:00"),
    ("08:00", "20:00", range(7), "2030-01-15T19:59:59.999999+01:00", "2030-01-15T18:59:59.999999+00:00"),
    ("08:00", "20:00", range(7), "2030-01-15T20:00:00+01:00", "2030-01-16T07:00:00+00:00"),
    # A Friday evening (the 18th) waits for Monday.
    ("08:00", "20:00", WEEKDAYS, "2030-01-18T20:00:00+01:00", "2030-01-21T07:00:00+00:00"),
    # Over midnight: Friday's window is still open on Saturday morning, and Saturday has none of its own.
    ("22:00", "06:00", WEEKDAYS, "2030-01-19T05:59:00+01:00", "2030-01-19T04:59:00+00:00"),
    ("22:00", "06:00", WEEKDAYS, "2030-01-19T06:00:00+01:00", "2030-01-21T21:00:00+00:00"),
    # To midnight, and around the clock on weekdays.
    ("18:00", "00:00", range(7), "2030-01-15T23:59:59+01:00", "2030-01-15T22:59:59+00:00"),
    ("18:00", "00:00", range(7), "2030-01-16T00:00:00+01:00", "2030-01-16T17:00:00+00:00"),
    ("00:00", "00:00", WEEKDAYS, "2030-01-19T00:00:00+01:00", "2030-01-20T23:00:00+00:00"),
    # 2030-03-31: 02:00 to 03:00 is missing. What would open in it opens at its end; what lies in it does not open.
    ("02:30", "08:00", range(7), "2030-03-31T01:59:00+01:00", "2030-03-31T01:00:00+00:00"),
    ("02:10", "02:50", range(7), "2030-03-31T01:59:00+01:00", "2030-04-01T00:10:00+00:00"),
    ("02:10", "02:50", [6], "2030-03-31T01:59:00+01:00", "2030-04-07T00:10:00+00:00"),
    ("08:00", "20:00", range(7), "2030-03-30T21:00:00+01:00", "2030-03-31T06:00:00+00:00"),
    # 2030-10-27: 02:00 to 03:00 comes twice, and so does a window in it.
    ("02:30", "02:45", range(7), "2030-10-27T02:00:00+02:00", "2030-10-27T00:30:00+00:00"),
    ("02:30", "02:45", range(7), "2030-10-27T02:45:00+02:00", "2030-10-27T01:30:00+00:00"),
    ("01:00", "02:30", range(7), "2030-10-27T02:30:00+02:00", "2030-10-27T01:00:00+00:00"),
    ("08:00", "20:00", range(7), "2030-10-26T21:00:00+02:00", "2030-10-27T07:00:00+00:00"),
]


@pytest.mark.parametrize(("opens", "closes", "days", "at", "opening"), OPENINGS)
def test_openings(opens: str, closes: str, days: range, at: str, opening: str) -> None:
    found = window(opens, closes, days).next_opening(datetime.fromisoformat(at))
    assert found == datetime.fromisoformat(opening)


def test_what_is_no_window_or_no_moment() -> None:
    with pytest.raises(InputError, match="days on which it opens"):
        window("08:00", "20:00", [])
    with pytest.raises(InputError, match="days on which it opens"):
        window("08:00", "20:00", [7])
    with pytest.raises(InputError, match="whole minutes"):
        window("08:00:30", "20:00")
    office = window("08:00", "20:00")
    with pytest.raises(InputError, match="no time zone"):
        office.contains(datetime(2030, 1, 1, 12))
    for far in (datetime.max, datetime.max - timedelta(hours=3)):
        with pytest.raises(InputError, match="out of range"):
            office.next_opening(far.replace(tzinfo=UTC))
    with pytest.raises(InputError, match="out of range"):
        office.contains(datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo")))


def test_as_a_person_says_it() -> None:
    assert str(window("08:00", "20:00")) == "08:00 to 20:00 Europe/Stockholm"
    assert str(window("08:00", "20:00", [0, 4])) == "08:00 to 20:00 Europe/Stockholm, Mon Fri"
