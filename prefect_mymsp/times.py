"""Rules about time that several modules share, and the clock that tests replace.

Datetimes inside the package are aware and in UTC. The gateway counts in whole minutes.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, tzinfo

from prefect_mymsp.errors import InputError

#: Days for which a message is tracked, counted from when it was due to leave the gateway.
DEFAULT_TRACKING_DAYS = 7.0
#: The longest tracking period that can be configured, in days.
MAX_TRACKING_DAYS = 36_500.0

_MINUTE = timedelta(minutes=1)


def require_aware(value: datetime, name: str) -> datetime:
    """Return the datetime if it has a time zone.

    Args:
        value: The datetime to check.
        name: The parameter or column it came from, for the error message.

    Raises:
        InputError: It has no time zone.
    """
    if value.utcoffset() is None:
        raise InputError(f"{name} has no time zone; use an aware datetime, for example 2030-01-31T09:00+01:00.")
    return value


def floor_minute(value: datetime) -> datetime:
    """The whole minute that an aware datetime lies in, in UTC.

    Raises:
        OverflowError: UTC cannot represent the datetime.
    """
    return value.astimezone(UTC).replace(second=0, microsecond=0)


def ceil_minute(value: datetime) -> datetime:
    """The first whole minute that is not before an aware datetime, in UTC.

    Raises:
        OverflowError: UTC cannot represent that minute.
    """
    utc = value.astimezone(UTC)
    minute = floor_minute(utc)
    return minute if minute == utc else minute + _MINUTE


def is_repeated_hour(value: datetime, zone: tzinfo) -> bool:
    """Whether local clocks show this time twice, because they are set back that night.

    Args:
        value: An aware datetime.
        zone: The zone of the local clocks.
    """
    local = value.astimezone(zone)
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()


def resolve_repeated_hour(value: datetime | None, earliest: datetime | None, zone: tzinfo) -> datetime | None:
    """Correct a local time that was read as the first of two and must have been the second.

    The gateway writes local times without an offset. In the repeated hour, 02:30 is ambiguous and is read as the first
    occurrence. If that lies before ``earliest`` and the second occurrence does not, the second is meant.

    Args:
        value: The time as it was read, in UTC; None stays None.
        earliest: A time that ``value`` cannot precede; None for unknown.
        zone: The zone in which the gateway writes times.
    """
    if value is None or earliest is None or value >= earliest:
        return value
    second = value.astimezone(zone).replace(fold=1).astimezone(UTC)
    return second if second >= earliest else value


def tracking_period(days: float) -> timedelta:
    """The period after its due time in which a message is tracked.

    This is the one rule for a message's age. Within the period the message is polled, updates about it count as
    evidence, and its outcome can change. After it the outcome is final. Tracking, updates, reports and exports all use
    it, so no outcome is exported as final while tracking can still change it.

    Args:
        days: Days from the due time, :data:`DEFAULT_TRACKING_DAYS` unless configured.

    Raises:
        InputError: ``days`` is not above zero, or above :data:`MAX_TRACKING_DAYS`.
    """
    if not 0 < days <= MAX_TRACKING_DAYS:
        raise InputError(f"tracking_days must be above 0 and at most {MAX_TRACKING_DAYS:,.0f}, not {days:g}.")
    return timedelta(days=days)


class Clock:
    """The clocks that the package reads. A test passes a clock that it moves itself."""

    def now(self) -> datetime:
        """The wall clock, aware and in UTC. It can jump when the system's clock is set."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds from an arbitrary start. It never goes back, and stands still while the machine is suspended."""
        return time.monotonic()

    def elapsed(self) -> float:
        """Seconds from an arbitrary start, including time for which the machine was suspended.

        Where the system has no such clock, this is :meth:`monotonic`.
        """
        return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Suspend the current task for some seconds; not at all for zero or less."""
        await asyncio.sleep(max(0.0, seconds))


#: The system's clock, the default wherever a clock can be passed.
SYSTEM_CLOCK = Clock()
