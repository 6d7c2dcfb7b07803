"""How much work the journal makes: four times the rows may cost four times as much, not sixteen.

SQLite counts the instructions of its own machine, so that nothing here depends on a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefect_mymsp.journal import Journal, Outcome, PlannedBlock
from prefect_mymsp.journal.store import text_digest
from prefect_mymsp.models import RecipientStatus

NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)
BATCH = 500
#: SQLite's instructions between two ticks.
_TICK = 1000


class Effort:
    """Counts SQLite's instructions while something runs."""

    def __init__(self, journal: Journal) -> None:
        self.ticks = 0
        sa.event.listen(journal._database.engine, "checkout", self._count)

    def _count(self, connection: Any, *_: object) -> None:
        connection.set_progress_handler(self._tick, _TICK)

    def _tick(self) -> int:
        self.ticks += 1
        return 0

    def of(self, work: Callable[[], object]) -> int:
        before = self.ticks
        work()
        return self.ticks - before


def _block(rows: int, personal: bool) -> PlannedBlock:
    texts = [f"Hello {row}" for row in range(rows if personal else 1)]
    return PlannedBlock(
        rows=range(rows),
        msisdns=[f"46700{row:06d}" for row in range(rows)],
        text_of=range(rows) if personal else [0] * rows,
        texts=texts,
        digests=[text_digest(text) for text in texts],
        encodings=["GSM-7"] * len(texts),
        segments=[1] * len(texts),
    )


def _efforts(path: Path, rows: int, personal: bool) -> dict[str, int]:
    """What each step of a campaign costs."""
    with Journal(path) as journal:
        effort = Effort(journal)

        def record() -> None:
            with journal.recording("a", "autumn", source="s", originator=None, deliver_at=None) as recording:
                recording.add(_block(rows, personal))

        found = {"record": effort.of(record)}
        campaign = journal.campaign("a", "autumn")
        assert campaign is not None
        run = journal.start_run(campaign)
        requests = rows if personal else rows // BATCH
        batches = []
        found["claim"] = effort.of(lambda: batches.extend(journal.claim(run, requests=requests, batch_size=BATCH)))
        assert sum(batch.size for batch in batches) == rows
        outcomes = [Outcome(batch.id, "accepted", NOON, str(7_000_000 + batch.id)) for batch in batches]
        found["settle"] = effort.of(lambda: journal.settle(outcomes))
        statuses = {
            batch.id: [RecipientStatus(who, NOON, "delivered", NOON) for who in batch.msisdns] for batch in batches
        }
        found["note statuses"] = effort.of(lambda: journal.note_statuses(statuses))
        assert journal.counts(campaign).delivered == rows
    return found


@pytest.mark.parametrize("personal", [False, True], ids=["one text", "personal"])
def test_four_times_the_rows_cost_four_times_as_much(tmp_path: Path, personal: bool) -> None:
    few, many = (_efforts(tmp_path / f"{rows}.db", rows, personal) for rows in (4 * BATCH, 16 * BATCH))
    for step, effort in many.items():
        assert 0 < effort <= 4.5 * few[step] + 5, (step, few, many)


def test_a_status_finds_its_message_in_a_large_batch(tmp_path: Path) -> None:
    """A batch of hundreds is not searched for each of its recipients."""
    one_text, personal = (
        _efforts(tmp_path / f"{personal}.db", 4 * BATCH, personal)["note statuses"] for personal in (False, True)
    )
    assert one_text <= 2 * personal, (one_text, personal)
