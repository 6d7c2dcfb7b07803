"""The rate of a campaign, shared by its workers, and a limit that requests must pass.

Both apply before messages are claimed. Waiting messages are still planned, so they are not in doubt if the process
dies.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

#: No reservation takes longer than this, so that no rate leads to times beyond the calendar.
_MAX_RESERVED_S = 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class RateGate:
    """A limit that requests must pass, for instance one shared by all processes.

    Attributes:
        acquire: Returns when this many requests may be made. An error that it raises stops the campaign in order.
        max_requests: Requests to acquire at a time, at most.
    """

    acquire: Callable[[int], Awaitable[None]]
    max_requests: int = 1


class SendRate:
    """Spaces messages out in time.

    Attributes:
        free_from: When the next slot is free; long ago until something is reserved.
    """

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self.free_from = datetime.min.replace(tzinfo=UTC)

    def next_slot(self, at: datetime) -> datetime:
        """The first time from ``at`` on at which a message may be sent."""
        return max(at, self.free_from)

    def reserve(self, at: datetime, messages: int) -> None:
        """Take the slots of this many messages, the first of them the next one from ``at`` on."""
        taken_s = min(messages * 60.0 / self._per_minute, _MAX_RESERVED_S)
        # Rounded up: a microsecond too early can be a minute too early for a scheduled message.
        self.free_from = self.next_slot(at) + timedelta(microseconds=math.ceil(taken_s * 1_000_000))


def worker_rate(per_minute: float | None, workers: int) -> float | None:
    """The part of a campaign's rate that each of its workers keeps to; None for no limit.

    This is the only place that divides a rate: everything else is given the campaign's.

    Args:
        per_minute: The campaign's messages per minute.
        workers: Processes that send it at the same time.
    """
    return None if per_minute is None else per_minute / workers


def request_size(batch_size: int, per_minute: float | None) -> int:
    """Maximum number of recipients in a request: no more than a tenth of a minute's messages."""
    return batch_size if per_minute is None else max(1, min(batch_size, math.ceil(per_minute / 10)))


def max_requests_per_claim(size: int, per_minute: float) -> int:
    """Requests of ``size`` recipients to claim at once: together at most a sixth of a minute's messages, or one."""
    return max(1, int(per_minute / 6 / size))
