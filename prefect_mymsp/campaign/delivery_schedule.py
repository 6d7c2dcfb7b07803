"""Delivery times: send windows, and the schedule of a campaign.

Everything here is a pure function of aware times. Results are in UTC.

A minute belongs to a window if the wall clock of the window's zone shows one of its hours, on one of its days. Where
the clocks go forward, a window that would open in the missing hour opens after it. Where they go back, the repeated
hour is open twice. A window over midnight belongs to the day on which it opens.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from prefect_mymsp.errors import InputError
from prefect_mymsp.times import ceil_minute, floor_minute, require_aware

_MINUTE = timedelta(minutes=1)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LAST = datetime.max.replace(tzinfo=UTC) - timedelta(days=2)


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """Hours of the day, on days of the week, in one zone.

    Attributes:
        opens: The first minute, by the wall clock.
        closes: The minute after the last one. Not later than ``opens`` means on the next day; equal to ``opens`` means
            around the clock.
        zone: The zone of the wall clock.
        days: The days on which it opens; Monday is 0.
    """

    opens: time
    closes: time
    zone: ZoneInfo
    days: frozenset[int] = frozenset(range(7))

    def __post_init__(self) -> None:
        if not self.days or not self.days <= frozenset(range(7)):
            raise InputError("A send window needs days on which it opens, from Monday (0) to Sunday (6).")
        if any(clock.second or clock.microsecond or clock.tzinfo for clock in (self.opens, self.closes)):
            raise InputError("A send window opens and closes at whole minutes, in its own time zone.")

    def contains(self, at: datetime) -> bool:
        """Whether the window is open at a time.

        Args:
            at: The time, aware.

        Raises:
            InputError: It has no time zone, or the zone cannot represent it.
        """
        require_aware(at, "The time")
        try:
            local = at.astimezone(self.zone)
        except OverflowError:
            raise InputError("The time is out of range.") from None
        clock, day = local.time(), local.weekday()
        if self.opens < self.closes:
            return self.opens <= clock < self.closes and day in self.days
        if clock >= self.opens:
            return day in self.days
        return clock < self.closes and (day - 1) % 7 in self.days

    def next_opening(self, at: datetime) -> datetime:
        """The first time from ``at`` on at which the window is open: ``at`` itself, or a whole minute. In UTC.

        Args:
            at: A time, aware.

        Raises:
            InputError: As :meth:`contains`.
        """
        return at.astimezone(UTC) if self.contains(at) else _opening_after(self, floor_minute(at))

    def __str__(self) -> str:
        """For people: ``08:00 to 20:00 Europe/Stockholm, Mon Tue Wed``."""
        days = "" if len(self.days) == 7 else ", " + " ".join(_DAYS[day] for day in sorted(self.days))
        return f"{self.opens:%H:%M} to {self.closes:%H:%M} {self.zone.key}{days}"


@lru_cache(maxsize=64)  # each claim of a campaign needs the same opening
def _opening_after(window: TimeWindow, minute: datetime) -> datetime:
    # Minute by minute: a week takes ten milliseconds, and this needs no rule about zones besides that of `contains`.
    while True:
        if minute > _LAST:
            raise InputError("The time is out of range.")
        minute += _MINUTE
        if window.contains(minute):
            return minute


@dataclass(frozen=True, slots=True)
class Delivery:
    """The decision about the next messages: send them at once, schedule them, or wait and decide again.

    Attributes:
        send_at: Hand them to the gateway now, for this time.
        wait_until: Do not claim them before this time.

    With neither, they are sent at once.
    """

    send_at: datetime | None = None
    wait_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeliverySchedule:
    """The rules that decide when a campaign's messages go out.

    Attributes:
        send_at: The campaign's own time, aware; None to send as soon as possible. The send window does not change it.
        send_window: Hours in which recipients may get messages; None for any time.
        schedule_ahead_s: Seconds ahead for which messages without a time of their own are scheduled; None to send
            them at once.
        lookup_margin_s: Seconds ahead that a message must be scheduled, so that doubt about it can be looked up.
        max_request_s: Seconds that a request may take, retries included.
    """

    send_at: datetime | None = None
    send_window: TimeWindow | None = None
    schedule_ahead_s: float | None = None
    lookup_margin_s: float = 0.0
    max_request_s: float = 0.0

    @property
    def may_schedule(self) -> bool:
        """Whether messages can wait at the gateway for a delivery time, so that doubt about them can be looked up."""
        return self.send_at is not None or self.send_window is not None or self.schedule_ahead_s is not None

    def next_delivery(self, now: datetime, free_from: datetime | None = None) -> Delivery:
        """When the next messages may go out.

        Args:
            now: The time, aware.
            free_from: When the rate has its next free slot, aware; None for no rate.

        Returns:
            A scheduled time is the campaign's own, or a whole minute of the send window that is at or after the rate's
            slot.
        """
        minute = self._first_minute(now.astimezone(UTC))  # in any other zone, adding seconds goes by the wall clock
        if minute is None:
            return Delivery(wait_until=free_from) if free_from is not None and free_from > now else Delivery()
        if free_from is not None:
            minute = max(minute, floor_minute(free_from))
        elif self.send_at is not None:
            return Delivery(send_at=self.send_at)
        return Delivery(send_at=minute if self.send_window is None else self.send_window.next_opening(minute))

    def _first_minute(self, now: datetime) -> datetime | None:
        """The first whole minute for which messages may be scheduled now; None to send them at once."""
        if self.send_at is not None:
            return ceil_minute(self.send_at)
        if self.schedule_ahead_s is not None:
            return ceil_minute(now + timedelta(seconds=self.schedule_ahead_s))
        if self.send_window is None or self._stays_open(self.send_window, now):
            return None
        return ceil_minute(now + timedelta(seconds=self.lookup_margin_s))

    def _stays_open(self, window: TimeWindow, now: datetime) -> bool:
        """Whether a request that is made now arrives within the window, however long it takes."""
        return window.contains(now) and window.contains(now + timedelta(seconds=self.max_request_s))
