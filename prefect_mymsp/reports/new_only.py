"""The marks of ``new_only`` exports: the journal keeps one for each target.

A mark has a position, below which nothing new can appear, and the numbers of the rows above it that were exported.
Rows above the position may still appear late: another process commits its transaction some time after it has read the
clock, and clocks differ. :data:`OVERLAP` bounds both.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from prefect_mymsp.times import DEFAULT_TRACKING_DAYS

#: How much later than its own time a row may appear, at most.
OVERLAP = timedelta(minutes=10)


@dataclass(frozen=True)
class ExportMark:
    """The progress of exports to one target.

    Attributes:
        position: For deliveries a time in microseconds since the epoch, for the inbox a number in the journal.
        exported: Numbers in the journal of the rows that lie above the position and were exported.
        tracking_days: For deliveries, days for which messages were tracked when the export was made. A message that
            was still tracked then is new, even if it is no longer tracked because the setting was lowered.
    """

    position: int
    exported: frozenset[int]
    tracking_days: float = DEFAULT_TRACKING_DAYS

    @classmethod
    def load(cls, value: str | None) -> ExportMark | None:
        """The mark that a bookmark holds; None without a bookmark."""
        if value is None:
            return None
        stored = json.loads(value)
        numbers = (number for low, high in stored["exported"] for number in range(low, high + 1))
        return cls(stored["position"], frozenset(numbers), stored["tracking_days"])

    def dump(self) -> str:
        """The mark as the text of a bookmark."""
        stored = {
            "position": self.position,
            "exported": list(_ranges(self.exported)),
            "tracking_days": self.tracking_days,
        }
        return json.dumps(stored, separators=(",", ":"))


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Numbers as ranges: neighbours are mostly exported together."""
    for _, run in itertools.groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1]
