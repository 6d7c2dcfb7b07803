"""The gateway's clock: real time unless a test speeds it up, steps it or stops it."""

from __future__ import annotations

import math
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from prefect_mymsp.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Simulated time stops here: the vendor writes years with two digits.
END: Final = datetime(2100, 1, 1, tzinfo=UTC)


class Clock:
    """Simulated time that runs at a multiple of real time.

    Time never runs backwards but by :meth:`restart`: deliveries are computed from it, and one that had happened would
    be undone. It stops at the end of 2099. Threads may share a clock.

    Args:
        start: The first moment shown, aware; the present when None.
        speed: Simulated seconds a real second; 60 lets an hour pass in a minute.
        source: Real seconds, monotonic; a test hands in its own.
    """

    def __init__(
        self, *, start: datetime | None = None, speed: float = 1.0, source: Callable[[], float] = time.monotonic
    ) -> None:
        if start is not None and start.tzinfo is None:
            raise ConfigurationError("The clock's start needs a time zone.")
        self._lock = threading.RLock()
        self._source = source
        self._start = start
        self._frozen = False
        self._speed = _speed(speed)
        self.restart()

    def restart(self) -> None:
        """Go back to the first moment; for a gateway that was reset, so that nothing is undone."""
        with self._lock:
            self._real = self._source()
            self._simulated = time.time() if self._start is None else self._start.timestamp()

    @property
    def speed(self) -> float:
        """Simulated seconds a real second, when not frozen."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        checked = _speed(speed)
        with self._lock:
            self._rebase()
            self._speed = checked

    @property
    def frozen(self) -> bool:
        """Whether time stands still between calls of :meth:`advance`."""
        return self._frozen

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        with self._lock:
            self._rebase()
            self._frozen = frozen

    def timestamp(self) -> float:
        """The simulated time in seconds since 1970-01-01 UTC."""
        with self._lock:
            if self._frozen:
                return self._simulated
            return min(self._simulated + (self._source() - self._real) * self._speed, END.timestamp())

    def now(self) -> datetime:
        """The simulated time, aware, in UTC."""
        return datetime.fromtimestamp(self.timestamp(), UTC)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` of simulated time pass at once."""
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ConfigurationError(f"The clock only goes forward; it cannot be advanced by {seconds} s.")
        with self._lock:
            self._rebase()
            if self._simulated + seconds > END.timestamp():
                raise ConfigurationError(f"The clock stops at {END:%Y-%m-%d}; it cannot be advanced by {seconds} s.")
            self._simulated += seconds

    def _rebase(self) -> None:
        self._simulated, self._real = self.timestamp(), self._source()


def _speed(speed: float) -> float:
    if not (math.isfinite(speed) and speed > 0):
        raise ConfigurationError(f"The clock's speed must be greater than 0, not {speed}; freeze it to stop it.")
    return float(speed)
