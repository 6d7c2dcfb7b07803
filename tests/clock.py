"""A clock that a test moves itself."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from prefect_mymsp.times import Clock

START = datetime(2030, 1, 31, 8, 0, tzinfo=UTC)


class ManualClock(Clock):
    """Stands still until it is moved. ``sleep`` moves it by the time slept, and returns at once.

    Attributes:
        slept: The seconds of each ``sleep``, in order.
    """

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._monotonic = 1000.0
        self._elapsed = 5000.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def elapsed(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(max(0.0, seconds))
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Let time pass on all clocks."""
        self._monotonic += seconds
        self.suspend(seconds)

    def suspend(self, seconds: float) -> None:
        """Suspend the machine: the monotonic clock stands still meanwhile."""
        self._now += timedelta(seconds=seconds)
        self._elapsed += seconds

    def set_wall_clock(self, now: datetime) -> None:
        """Set the wall clock, forward or back; the other clocks do not notice."""
        self._now = now
