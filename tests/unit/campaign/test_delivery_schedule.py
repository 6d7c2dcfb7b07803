"""When messages may go out: the send window against an independent calendar, and the schedule as a table."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_mymsp.campaign.delivery_schedule import Delivery, DeliverySchedule, TimeWindow
from prefect_mymsp.errors import InputError
from prefect_mymsp.times import ceil_minute, floor_minute

MINUTE = timedelta(minutes=1)
STOCKHOLM = ZoneInfo("Europe/Stockholm")

#: Daylight saving of one hour, of half an hour, at midnight, negative in winter, and none.
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
#: Any second of two years, and often one of the days on which European clocks change.
seconds = st.one_of(
    st.integers(0, 2 * 365 * 86_400).map(lambda s: datetime(2029, 12, 1, tzinfo=UTC) + timedelta(seconds=s)),
    st.integers(0, 2 * 86_400).map(lambda s: datetime(2030, 3, 30, tzinfo=UTC) + timedelta(seconds=s)),
    st.integers(0, 2 * 86_400).map(lambda s: datetime(2030, 10, 26, tzinfo=UTC) + timedelta(seconds=s)),
)


def is_open(window: TimeWindow, at: datetime) -> bool:
    """By the calendar: a day of the window has opened, by the wall clock, and has not closed yet."""
    wall = at.astimezone(window.zone).replace(tzinfo=None)
    for back in (0, 1):
        date = wall.date() - timedelta(days=back)
        begins, ends = datetime.combine(date, window.opens), datetime.combine(date, window.closes)
        if ends <= begins:
            ends += timedelta(days=1)
        if date.weekday() in window.days and begins <= wall < ends:
            return True
    return False


@settings(deadline=None, max_examples=60)
@given(windows, seconds)
def test_a_window_is_open_when_the_calendar_says_so(window: TimeWindow, at: datetime) -> None:
    assert window.contains(at) is is_open(window, at)


@settings(deadline=None, max_examples=60)
@given(windows, seconds, st.randoms(use_true_random=False))
def test_the_next_opening_is_the_first_open_minute(window: TimeWindow, at: datetime, random: object) -> None:
    opening = window.next_opening(at)
    assert opening.tzinfo is UTC
    assert is_open(window, opening)
    if is_open(window, at):
        assert opening == at
        return
    assert opening > at
    assert (opening.second, opening.microsecond) == (0, 0)
    assert not is_open(window, opening - timedelta(seconds=1))
    for share in range(1, 40):  # closed in between
        assert not is_open(window, at + (opening - at) * share / 40)


@settings(deadline=None, max_examples=60)
@given(windows, seconds, st.sampled_from(ZONES))
def test_the_zone_of_the_time_makes_no_difference(window: TimeWindow, at: datetime, zone: str) -> None:
    elsewhere = at.astimezone(ZoneInfo(zone))
    assert window.contains(elsewhere) is window.contains(at)
    assert window.next_opening(elsewhere) == window.next_opening(at)


def time_window(opens: str, closes: str, days: range | list[int] = range(7), zone: ZoneInfo = STOCKHOLM) -> TimeWindow:
    return TimeWindow(time.fromisoformat(opens), time.fromisoformat(closes), zone, frozenset(days))


WEEKDAYS = range(5)

OPENINGS = [
    # An ordinary day: before it opens, when it opens, in the last second, when it closes.
    ("08:00", "20:00", range(7), "2030-01-15T06:59:59.999999+01:00", "2030-01-15T07:00:00+00:00"),
    ("08:00", "20:00", range(7), "2030-01-15T08:00:00+01:00", "2030-01-15T07:00:00+00:00"),
    ("08:00", "20:00", range(7), "2030-01-15T19:59:59.999999+01:00", "2030-01-15T18:59:59.999999+00:00"),
    ("08:00", "20:00", range(7), "2030-01-15T20:00:00+01:00", "2030-01-16T07:00:00+00:00"),
    # After Friday (the 18th) comes Monday.
    ("08:00", "20:00", WEEKDAYS, "2030-01-18T20:00:00+01:00", "2030-01-21T07:00:00+00:00"),
    # Over midnight: Friday's window stays open until Saturday morning; Saturday has none of its own.
    ("22:00", "06:00", WEEKDAYS, "2030-01-19T05:59:00+01:00", "2030-01-19T04:59:00+00:00"),
    ("22:00", "06:00", WEEKDAYS, "2030-01-19T06:00:00+01:00", "2030-01-21T21:00:00+00:00"),
    # To midnight, and around the clock on weekdays.
    ("18:00", "00:00", range(7), "2030-01-15T23:59:59+01:00", "2030-01-15T22:59:59+00:00"),
    ("18:00", "00:00", range(7), "2030-01-16T00:00:00+01:00", "2030-01-16T17:00:00+00:00"),
    ("00:00", "00:00", WEEKDAYS, "2030-01-19T00:00:00+01:00", "2030-01-20T23:00:00+00:00"),
    # 2030-03-31 has no 02:00 to 03:00. A window that opens within opens after it; a window that lies within does not.
    ("02:30", "08:00", range(7), "2030-03-31T01:59:00+01:00", "2030-03-31T01:00:00+00:00"),
    ("02:10", "02:50", range(7), "2030-03-31T01:59:00+01:00", "2030-04-01T00:10:00+00:00"),
    ("02:10", "02:50", [6], "2030-03-31T01:59:00+01:00", "2030-04-07T00:10:00+00:00"),
    ("08:00", "20:00", range(7), "2030-03-30T21:00:00+01:00", "2030-03-31T06:00:00+00:00"),
    # 2030-10-27 has 02:00 to 03:00 twice, and windows within it too.
    ("02:30", "02:45", range(7), "2030-10-27T02:00:00+02:00", "2030-10-27T00:30:00+00:00"),
    ("02:30", "02:45", range(7), "2030-10-27T02:45:00+02:00", "2030-10-27T01:30:00+00:00"),
    ("01:00", "02:30", range(7), "2030-10-27T02:30:00+02:00", "2030-10-27T01:00:00+00:00"),
    ("08:00", "20:00", range(7), "2030-10-26T21:00:00+02:00", "2030-10-27T07:00:00+00:00"),
]


@pytest.mark.parametrize(("opens", "closes", "days", "at", "opening"), OPENINGS)
def test_openings(opens: str, closes: str, days: range, at: str, opening: str) -> None:
    assert time_window(opens, closes, days).next_opening(datetime.fromisoformat(at)) == datetime.fromisoformat(opening)


def test_invalid_windows_and_times_are_refused() -> None:
    with pytest.raises(InputError, match="days on which it opens"):
        time_window("08:00", "20:00", [])
    with pytest.raises(InputError, match="days on which it opens"):
        time_window("08:00", "20:00", [7])
    with pytest.raises(InputError, match="whole minutes"):
        time_window("08:00:30", "20:00")
    office = time_window("08:00", "20:00")
    with pytest.raises(InputError, match="no time zone"):
        office.contains(datetime(2030, 1, 1, 12))
    for far in (datetime.max, datetime.max - timedelta(hours=3)):
        with pytest.raises(InputError, match="out of range"):
            office.next_opening(far.replace(tzinfo=UTC))
    with pytest.raises(InputError, match="out of range"):
        office.contains(datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo")))


def test_a_window_as_text() -> None:
    assert str(time_window("08:00", "20:00")) == "08:00 to 20:00 Europe/Stockholm"
    assert str(time_window("08:00", "20:00", [0, 4])) == "08:00 to 20:00 Europe/Stockholm, Mon Fri"


# ---- the schedule --------------------------------------------------------------------------------------------------


def local(text: str) -> datetime:
    """A time of January 15, 2030 in Stockholm, or another day of it: ``07:30``, ``2030-10-27 02:30``."""
    wall = datetime.fromisoformat(text if "-" in text else f"2030-01-15 {text}")
    return wall.replace(tzinfo=STOCKHOLM).astimezone(UTC)


OFFICE = time_window("08:00", "20:00")
#: A lookup margin of 90 s and requests of up to 40 s, as by default.
MARGIN_S, REQUEST_S = 90.0, 40.0

AT_ONCE = "at once"

SCHEDULES = [
    # now, campaign's time, window, seconds ahead, the rate's next slot, result
    # Nothing is asked for: at once. With a rate, in its turn.
    ("12:00:30", None, None, None, None, AT_ONCE),
    ("12:00:30", None, None, None, "12:00:30", AT_ONCE),
    ("12:00:30", None, None, None, "12:00:20", AT_ONCE),
    ("12:00:30", None, None, None, "12:00:31", "wait until 12:00:31"),
    # A campaign's own time is handed over as it is, whatever the window says.
    ("12:00:30", "21:00", None, None, None, "for 21:00"),
    ("12:00:30", "21:00", OFFICE, 300, None, "for 21:00"),
    ("12:00:30", "21:00:30", None, None, None, "for 21:00:30"),
    # With a rate its messages are spread over the minutes from then on, within the window.
    ("12:00:30", "21:00", None, None, "12:00:30", "for 21:00"),
    ("12:00:30", "21:00", None, None, "21:02:59", "for 21:02"),
    ("12:00:30", "21:00:30", None, None, "12:00:30", "for 21:01"),
    ("12:00:30", "19:58", OFFICE, None, "19:59:59", "for 19:59"),
    ("12:00:30", "19:58", OFFICE, None, "20:00:00", "for 2030-01-16 08:00"),
    # Scheduled ahead: the next whole minute after the lead time; with a rate, the minute of its slot.
    ("12:00:00", None, None, 300, None, "for 12:05"),
    ("12:00:30", None, None, 300, None, "for 12:06"),
    ("12:00:30", None, None, 300, "12:01:00", "for 12:06"),
    ("12:00:30", None, None, 300, "12:09:59", "for 12:09"),
    # Within the window at once, unless the request could arrive after it closes.
    ("08:00:00", None, OFFICE, None, None, AT_ONCE),
    ("19:59:19", None, OFFICE, None, None, AT_ONCE),
    ("19:59:20", None, OFFICE, None, None, "for 2030-01-16 08:00"),
    ("12:00:30", None, OFFICE, None, "12:00:45", "wait until 12:00:45"),
    # Outside the window for its opening, or a minute in which doubt can still be looked up before.
    ("03:00:00", None, OFFICE, None, None, "for 08:00"),
    ("07:58:30", None, OFFICE, None, None, "for 08:00"),
    ("07:58:31", None, OFFICE, None, None, "for 08:01"),
    ("07:59:59", None, OFFICE, None, None, "for 08:02"),
    ("20:00:00", None, OFFICE, None, None, "for 2030-01-16 08:00"),
    # Outside the window nothing waits here for its turn: messages are spread over the opening's minutes.
    ("03:00:00", None, OFFICE, None, "03:00:10", "for 08:00"),
    ("03:00:00", None, OFFICE, None, "08:04:10", "for 08:04"),
    ("03:00:00", None, OFFICE, None, "20:00:01", "for 2030-01-16 08:00"),
    # Window and lead time: the first whole minute that satisfies both.
    ("12:00:30", None, OFFICE, 300, None, "for 12:06"),
    ("19:54:00", None, OFFICE, 300, None, "for 19:59"),
    ("19:54:01", None, OFFICE, 300, None, "for 2030-01-16 08:00"),
    ("07:54:01", None, OFFICE, 300, None, "for 08:00"),
    ("07:57:00", None, OFFICE, 300, None, "for 08:02"),
    # Window, lead time and rate.
    ("12:00:30", None, OFFICE, 300, "12:20:10", "for 12:20"),
    ("12:00:30", None, OFFICE, 300, "20:00:00", "for 2030-01-16 08:00"),
    # The night the clocks go forward: 02:00 to 03:00 is missing.
    ("2030-03-31 01:55", None, None, 300, None, "for 2030-03-31 03:00"),
    ("2030-03-31 01:50", None, time_window("02:30", "08:00"), None, None, "for 2030-03-31 03:00"),
    # The night they go back: 02:00 to 03:00 comes twice, and the first one counts.
    ("2030-10-27 01:50", None, time_window("02:30", "02:40"), None, None, "for 2030-10-27 02:30"),
    ("2030-10-27 01:56", None, None, 300, None, "for 2030-10-27 02:01"),
]


@pytest.mark.parametrize(("now", "send_at", "window", "ahead_s", "slot", "result"), SCHEDULES)
def test_when_messages_go_out(
    now: str, send_at: str | None, window: TimeWindow | None, ahead_s: float | None, slot: str | None, result: str
) -> None:
    schedule = DeliverySchedule(
        send_at=None if send_at is None else local(send_at),
        send_window=window,
        schedule_ahead_s=ahead_s,
        lookup_margin_s=MARGIN_S,
        max_request_s=REQUEST_S,
    )
    delivery = schedule.next_delivery(local(now), None if slot is None else local(slot))
    if result == AT_ONCE:
        assert delivery == Delivery()
    elif result.startswith("for "):
        assert delivery == Delivery(send_at=local(result.removeprefix("for ")))
    else:
        assert delivery == Delivery(wait_until=local(result.removeprefix("wait until ")))
    assert schedule.may_schedule is (send_at is not None or window is not None or ahead_s is not None)


#: Around openings and closings, at night, and on both sides of both changes of the clocks.
NOWS = [
    *(local(text) for text in ("00:00", "07:58:31", "08:00", "12:00:30", "19:59:20", "20:00", "23:59:59.5")),
    *(datetime(2030, 3, 31, 0, minute, 15, tzinfo=UTC) for minute in (29, 59)),
    *(datetime(2030, 10, 27, hour, 30, 15, tzinfo=UTC) for hour in (0, 1)),
]
WINDOWS = [
    None,
    OFFICE,
    time_window("22:00", "06:00"),
    time_window("02:10", "02:50"),
    time_window("00:00", "00:00", range(5)),
]
#: The campaign's own time and the rate's next slot, in seconds from now.
OWN_TIMES = [None, 45, 7200]
SLOTS = [None, -3600, 0, 20, 5000]
LEADS = [None, MARGIN_S, 300]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("ahead_s", LEADS)
@pytest.mark.parametrize("slot_s", SLOTS)
@pytest.mark.parametrize("own_s", OWN_TIMES)
def test_any_combination_of_time_window_lead_and_rate(
    window: TimeWindow | None, ahead_s: float | None, slot_s: float | None, own_s: float | None
) -> None:
    for now in NOWS:
        own = None if own_s is None else now + timedelta(seconds=own_s)
        slot = None if slot_s is None else now + timedelta(seconds=slot_s)
        schedule = DeliverySchedule(own, window, ahead_s, MARGIN_S, REQUEST_S)
        delivery = schedule.next_delivery(now, slot)
        if own is None and ahead_s is None and (window is None or stays_open(window, now)):
            assert delivery.send_at is None
            assert delivery.wait_until == (slot if slot is not None and slot > now else None)
            continue
        assert delivery.wait_until is None  # the gateway waits
        if own is not None and slot is None:
            assert delivery.send_at == own
            continue
        earliest = own or now + timedelta(seconds=MARGIN_S if ahead_s is None else ahead_s)
        minute = max(ceil_minute(earliest), floor_minute(slot or earliest))
        while window is not None and not is_open(window, minute):
            minute += MINUTE
        assert delivery.send_at == minute


def stays_open(window: TimeWindow, now: datetime) -> bool:
    return is_open(window, now) and is_open(window, now + timedelta(seconds=REQUEST_S))


def test_the_zone_of_now_makes_no_difference() -> None:
    schedule = DeliverySchedule(schedule_ahead_s=5400)
    now = datetime(2030, 3, 31, 0, 45, tzinfo=UTC)  # 01:45 in Stockholm, a quarter of an hour before 03:00
    assert schedule.next_delivery(now.astimezone(STOCKHOLM)) == schedule.next_delivery(now)
