"""The cost of the journal's work: four times the rows may cost four times as much, not sixteen.

SQLite counts the instructions of its own machine, so that nothing here depends on a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefect_mymsp.journal import Journal, Outcome
from prefect_mymsp.models import RecipientStatus
from tests.integration.conftest import Desk

NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)
BATCH = 500
#: SQLite's instructions between two ticks.
_TICK = 1000


class Effort:
    """Count SQLite's instructions while a function runs."""

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


def _efforts(path: Path, rows: int, personal: bool) -> dict[str, int]:
    """Measure each step of a campaign."""
    with Journal(path) as journal:
        effort = Effort(journal)

        def record() -> None:
            with journal.recording("a", "autumn", source="s", sender=None, send_at=None) as recording:
                texts = (f"Hello {row}" if personal else "Hello" for row in range(rows))
                recording.add(Desk.block([(f"46700{row:06d}", text) for row, text in enumerate(texts)]))

        costs = {"record": effort.of(record)}
        campaign = journal.campaigns.get("a", "autumn")
        assert campaign is not None
        run = journal.claims.start_run(campaign)
        requests = rows if personal else rows // BATCH
        batches = []
        costs["claim"] = effort.of(
            lambda: batches.extend(journal.claims.claim(run, requests=requests, batch_size=BATCH))
        )
        assert sum(batch.size for batch in batches) == rows
        outcomes = [Outcome(batch.id, "accepted", NOON, str(7_000_000 + batch.id)) for batch in batches]
        costs["settle"] = effort.of(lambda: journal.claims.settle(outcomes))
        statuses = {
            batch.id: [RecipientStatus(who, NOON, "delivered", NOON) for who in batch.msisdns] for batch in batches
        }
        costs["note statuses"] = effort.of(lambda: journal.deliveries.record_statuses(statuses))
        assert journal.campaigns.counts(campaign).delivered == rows
    return costs


@pytest.mark.parametrize("personal", [False, True], ids=["one text", "personal"])
def test_four_times_the_rows_cost_four_times_as_much(tmp_path: Path, personal: bool) -> None:
    few, many = (_efforts(tmp_path / f"{rows}.db", rows, personal) for rows in (4 * BATCH, 16 * BATCH))
    for step, effort in many.items():
        assert 0 < effort <= 4.5 * few[step] + 5, (step, few, many)


def test_a_status_finds_its_message_in_a_large_batch(tmp_path: Path) -> None:
    """The hundreds of messages of a request are not scanned for each recipient."""
    one_text, personal = (
        _efforts(tmp_path / f"{personal}.db", 4 * BATCH, personal)["note statuses"] for personal in (False, True)
    )
    assert one_text <= 2 * personal, (one_text, personal)
