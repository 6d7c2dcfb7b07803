"""The hours in which messages may reach people, by the clock on their wall: aware times in, aware UTC out.

A minute is open when the wall clock of the zone shows an hour of the window, on one of its days. So where the clock is
put forward, a window that would open in the missing hour opens at its end, and where it is put back, the hour that
comes twice is open twice. A window over midnight belongs to the day on which it opens.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from prefect_mymsp.errors import InputError

_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """Hours of the day, on days of the week, in one zone.

    Attributes:
        opens: The first minute, by the wall clock.
        closes: The minute after the last; not later than ``opens`` means on the next day, the same as ``opens`` around
            the clock.
        zone: The zone of that clock.
        days: The days on which it opens, Monday is 0.
    """

    opens: time
    closes: time
    zone: ZoneInfo
    days: frozenset[int] = frozenset(range(7))

    def __post_init__(self) -> None:
        if not self.days or not self.days <= frozenset(range(7)):
            raise InputError("A send window needs days on which it opens, from Monday (0) to Sunday (6).")
        if any(each.second or each.microsecond or each.tzinfo for each in (self.opens, self.closes)):
            raise InputError("A send window opens and closes at whole minutes, in the zone given beside them.")

    def contains(self, at: datetime) -> bool:
        """Whether the window is open at a moment.

        Args:
            at: The moment, aware.

        Raises:
            InputError: It has no time zone, or no zone can show it.
        """
        if at.utcoffset() is None:
            raise InputError("A time without a time zone is no moment; give an aware datetime.")
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
        """The first moment from ``at`` on at which the window is open: ``at`` itself, or a whole minute. In UTC.

        Args:
            at: A moment, aware.

        Raises:
            InputError: As :meth:`contains`.
        """
        # Minute by minute: a week of them takes ten milliseconds, and no rule of any zone is told twice.
        while not self.contains(at):
            at = at.astimezone(UTC).replace(second=0, microsecond=0)
            if at > _LAST:
                raise InputError("The time is out of range.")
            at += _MINUTE
        return at.astimezone(UTC)

    def __str__(self) -> str:
        """As a person says it: ``08:00 to 20:00 Europe/Stockholm, Mon Tue Wed``."""
        days = "" if len(self.days) == 7 else ", " + " ".join(_NAMES[day] for day in sorted(self.days))
        return f"{self.opens:%H:%M} to {self.closes:%H:%M} {self.zone.key}{days}"


_NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LAST = datetime.max.replace(tzinfo=UTC) - timedelta(days=2)
