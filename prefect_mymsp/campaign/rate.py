"""How fast a campaign goes: messages spaced out over time, and somebody to ask before requests are made.

Both are heeded before messages are claimed: what waits for its turn is planned, and not in doubt when the process dies.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateGate:
    """Somebody to ask before requests are made, for instance a limit that all processes share.

    Attributes:
        acquire: Returns when so many requests may be made. What it raises stops the campaign, in order.
        max_requests: How many it is asked for at most.
    """

    acquire: Callable[[int], Awaitable[None]]
    max_requests: int = 1


class SendRate:
    """Spaces messages out along a line of seconds, each as far from the one before as the rate says."""

    def __init__(self, per_minute: float) -> None:
        self._each_s = 60.0 / per_minute
        self._free = -math.inf

    def next_slot(self, at: float) -> float:
        """When the next message may go: ``at``, or later."""
        return max(at, self._free)

    def reserve(self, at: float, messages: int) -> None:
        """So many messages go at ``at``, or when it is their turn."""
        self._free = self.next_slot(at) + messages * self._each_s


def request_size(batch_size: int, per_minute: float | None) -> int:
    """Recipients one request may have so that none carries more than a tenth of a minute's messages."""
    return batch_size if per_minute is None else max(1, min(batch_size, math.ceil(per_minute / 10)))


def max_requests_per_claim(size: int, per_minute: float) -> int:
    """Requests of ``size`` recipients that may be claimed together: a sixth of a minute's messages at most, or one."""
    return max(1, int(per_minute / 6 / size))
