"""An export writes a message once, and only when its outcome can no longer change, whatever the tracking period."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from prefect_mymsp.journal import Selection
from prefect_mymsp.models import RecipientStatus
from prefect_mymsp.reports.exports import DeliverySelection, export_deliveries
from prefect_mymsp.reports.new_only import ExportMark
from prefect_mymsp.reports.targets import FileTarget
from prefect_mymsp.times import tracking_period

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

A, B = "46701740605", "46701740606"
ACCOUNT = "0123456789abcdef0123456789abcdef"


class Exports:
    """New outcomes are exported to one path, now and then, while days pass."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk = desk
        self.day = 0.0
        self._target = FileTarget("csv", folder / "new.csv", folder)
        _, (self._batch,) = desk.claimed([(A, "x"), (B, "x")])
        desk.settle(self._batch, "accepted")

    def until(self, day: float) -> None:
        """Move everything that the journal has recorded into the past."""
        shift = (day - self.day) * timedelta(days=1) // timedelta(microseconds=1)
        self.day = day
        self.desk.sql("UPDATE batch SET claimed_at = claimed_at - :by, settled_at = settled_at - :by", by=shift)
        self.desk.sql("UPDATE message SET status_changed_at = status_changed_at - :by", by=shift)
        bookmark = self._target.bookmark("deliveries", None)
        mark = ExportMark.load(self.desk.journal.bookmarks.get(ACCOUNT, bookmark))
        if mark is not None:
            moved = ExportMark(mark.position - shift, mark.exported, mark.tracking_days)
            self.desk.journal.bookmarks.put(ACCOUNT, bookmark, moved.dump())

    def tracked(self, tracking_days: float) -> int:
        since = datetime.now(UTC) - tracking_period(tracking_days)
        return sum(pending.open for pending in self.desk.journal.deliveries.pending(ACCOUNT, since).values())

    def deliver(self, msisdn: str) -> None:
        now = datetime.now(UTC)
        self.desk.journal.deliveries.record_statuses({self._batch.id: [RecipientStatus(msisdn, now, "delivered", now)]})

    def new(self, tracking_days: float) -> list[tuple[str, str]]:
        """The recipients that an export writes now, by their last digits, with their status."""
        selection = DeliverySelection(new_only=True, tracking_days=tracking_days)
        done = export_deliveries(
            self.desk.journal, ACCOUNT, selection, self._target, zone=ZoneInfo("Europe/Stockholm"), show_numbers=True
        )
        path = Path(done.path or "")
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["recipient"][-3:], row["status"]) for row in csv.DictReader(file)]
        path.unlink()
        return rows


@pytest.mark.parametrize("tracking_days", [2.0, 7.0, 14.0, 30.0])
@pytest.mark.parametrize("delivered_after", [0.1, 0.5, 0.95])
def test_a_message_is_exported_when_it_is_no_longer_tracked(
    desk: Desk, tmp_path: Path, tracking_days: float, delivered_after: float
) -> None:
    exports = Exports(desk, tmp_path)
    assert exports.new(tracking_days) == []
    exports.until(delivered_after * tracking_days - 0.05)
    assert exports.new(tracking_days) == []
    exports.deliver(A)
    assert exports.new(tracking_days) == [("605", "delivered")]
    exports.until(tracking_days - 0.01)
    assert exports.new(tracking_days) == []
    assert exports.tracked(tracking_days) == 2  # the whole request is still polled
    exports.until(tracking_days + 0.01)
    assert exports.tracked(tracking_days) == 0
    assert exports.new(tracking_days) == [("606", "")]
    exports.until(tracking_days + 10)
    assert exports.new(tracking_days) == []


@pytest.mark.parametrize(("before", "after"), [(14.0, 7.0), (7.0, 14.0), (30.0, 2.0)])
def test_no_message_is_lost_or_exported_twice_when_the_tracking_period_is_changed(
    desk: Desk, tmp_path: Path, before: float, after: float
) -> None:
    exports = Exports(desk, tmp_path)
    exported = exports.new(before)
    for day in (1, 3, 6, 9, 12):
        exports.until(day)
        if day == 3:
            exports.deliver(A)
        exported += exports.new(before if day < 9 else after)
    for day in (15, 31):
        exports.until(day)
        exported += exports.new(after)
    assert exported == [("605", "delivered"), ("606", "")]


def test_messages_are_final_by_the_period_of_the_selection(desk: Desk, tmp_path: Path) -> None:
    Exports(desk, tmp_path).until(9)
    now = datetime.now(UTC)
    counts = {}
    for days in (7.0, 14.0):
        selection = Selection(final_until=now, tracking_days=days)
        counts[days] = sum(len(chunk["row"]) for chunk in desk.journal.report_queries.messages(ACCOUNT, selection))
    assert counts == {7.0: 2, 14.0: 0}
