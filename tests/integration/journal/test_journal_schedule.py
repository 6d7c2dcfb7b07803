"""Rescheduling and recipient groups in the journal, in both databases."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from prefect_mymsp.errors import InputError
from prefect_mymsp.journal import Batch, Journal
from prefect_mymsp.models import RecipientStatus, SmsResult
from tests.integration.conftest import ACCOUNT

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

SOON = datetime(2041, 5, 1, 12, 0, tzinfo=UTC)
LATER = SOON + timedelta(hours=3)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def times(desk: Desk) -> list[tuple[str, datetime, datetime | None]]:
    key = desk.journal.campaigns.get(ACCOUNT, "autumn")
    assert key is not None
    waiting = desk.journal.schedule.batches(key, LONG_AGO, include_moving=True)
    return [(message_id, batch.send_at, batch.rescheduled_to) for message_id, batch in waiting.items()]


# -- rescheduling ------------------------------------------------------------------------------------------------------


def test_a_scheduled_request_has_two_times_until_it_is_marked(desk: Desk) -> None:
    run, batches = desk.claimed(desk.same(6), send_at=SOON, batch_size=2)
    for batch, state in zip(batches, ("accepted", "accepted", "refused"), strict=True):
        desk.settle(batch, state, **({"message_id": str(batch.id)} if state == "accepted" else {}))
    first, second = (str(batch.id) for batch in batches[:2])
    desk.journal.claims.end_run(run)
    waiting = desk.journal.schedule.reschedule(run.campaign, LATER)
    assert list(waiting) == [first, second]
    assert times(desk) == [(first, SOON, LATER), (second, SOON, LATER)]
    key = desk.journal.campaigns.get(ACCOUNT, "autumn")
    assert key is not None
    assert key.send_at == LATER
    assert desk.journal.schedule.reschedule(run.campaign, LATER) == waiting  # the gateway has not been told yet
    desk.journal.schedule.mark_rescheduled([waiting[first].id], [waiting[second].id])
    assert times(desk) == [(first, LATER, None), (second, SOON, None)]
    assert desk.journal.schedule.reschedule(run.campaign, LATER) == {}
    desk.journal.schedule.mark_rescheduled([waiting[first].id])  # a second time changes nothing
    assert times(desk) == [(first, LATER, None), (second, SOON, None)]


def test_an_unfinished_rescheduling_comes_first(desk: Desk) -> None:
    run, (batch,) = desk.claimed(desk.same(2), send_at=SOON)
    desk.settle(batch, "accepted")
    desk.journal.claims.end_run(run)
    desk.journal.schedule.reschedule(run.campaign, LATER)
    with pytest.raises(InputError, match=r"is still being rescheduled to 2041-05-01 15:00 UTC"):
        desk.journal.schedule.reschedule(run.campaign, LATER + timedelta(hours=1))
    desk.sql("UPDATE batch SET rescheduled_to = 1")  # the new time has passed
    assert len(desk.journal.schedule.reschedule(run.campaign, LATER + timedelta(hours=1))) == 1


def test_a_planned_message_is_claimed_for_the_new_time(desk: Desk) -> None:
    key = desk.record(desk.same(2), send_at=SOON)
    assert desk.journal.schedule.reschedule(key, LATER) == {}
    with pytest.raises(InputError, match="has been rescheduled"):
        desk.journal.claims.start_run(key)
    moved = desk.journal.campaigns.get(ACCOUNT, "autumn")
    assert moved is not None
    (batch,) = desk.journal.claims.claim(desk.journal.claims.start_run(moved), requests=5, batch_size=5)
    assert batch.send_at == LATER


def _start(url: str, _: int) -> bool:
    with Journal(url) as journal:
        for _ in range(5):
            key = journal.campaigns.get(ACCOUNT, "autumn")
            assert key is not None
            time.sleep(0.005)
            try:
                run = journal.claims.start_run(key)
                claimed = journal.claims.claim(run, requests=1, batch_size=1)
            except InputError:
                continue
            # A claim uses the campaign's time.
            now = journal.campaigns.get(ACCOUNT, "autumn")
            assert now is not None
            assert [batch.send_at for batch in claimed] == [now.send_at]
            return True
        return False


def _reschedule(url: str, minutes: int) -> bool:
    with Journal(url) as journal:
        for minute in range(minutes):
            key = journal.campaigns.get(ACCOUNT, "autumn")
            assert key is not None
            try:
                journal.schedule.reschedule(key, LATER + timedelta(minutes=minute))
            except InputError:
                return False
        return True


def _start_or_reschedule(url: str, call: str, minutes: int) -> bool:
    return _start(url, minutes) if call == "start" else _reschedule(url, minutes)


def test_a_run_cannot_start_for_a_changed_time(desk: Desk) -> None:
    desk.record(desk.personal(5), send_at=SOON, batch_size=1)
    desk.journal.close()
    started, _ = desk.in_processes(_start_or_reschedule, ["start", 0], ["reschedule", 30])
    key = desk.journal.campaigns.get(ACCOUNT, "autumn")
    assert key is not None
    claimed = desk.sql("SELECT send_at FROM batch WHERE state = 'sending'")
    assert len(claimed) == started
    assert all(row[0] == key.send_at.timestamp() * 1_000_000 for row in claimed if key.send_at is not None)


# -- groups ------------------------------------------------------------------------------------------------------------


def with_groups(desk: Desk) -> list[Batch]:
    with desk.recording(batch_size=3) as recording:
        recording.add(desk.block(desk.same(4)))
        recording.add_groups(["The office", "choir"], "Same for all", encoding="GSM-7", segments=1)
    return desk.journal.claims.claim(desk.journal.claims.start_run(recording.campaign), requests=100, batch_size=3)


def test_a_group_has_a_request_of_its_own(desk: Desk) -> None:
    batches = with_groups(desk)
    assert sorted(len(batch.msisdns) for batch in batches) == [1, 1, 1, 3]
    assert {batch.recipients for batch in batches if batch.msisdns[0].startswith("@")} == {"The office", "choir"}


def test_a_released_group_has_a_request_of_its_own_again(desk: Desk) -> None:
    for batch in with_groups(desk):
        desk.settle(batch, "released")
    key = desk.journal.campaigns.get(ACCOUNT, "autumn")
    assert key is not None
    again = desk.journal.claims.claim(desk.journal.claims.start_run(key), requests=100, batch_size=100)
    assert sorted(batch.msisdns for batch in again) == [
        tuple(desk.number(index) for index in range(4)),
        ("@The office",),
        ("@choir",),
    ]


def test_results_give_the_size_of_a_group(desk: Desk) -> None:
    batches = with_groups(desk)
    for batch in batches:
        desk.settle(batch, "accepted")
    (office,) = [batch for batch in batches if batch.msisdns == ("@The office",)]
    key = desk.journal.campaigns.get(ACCOUNT, "autumn")
    assert key is not None
    assert {batch.id for batch in desk.journal.deliveries.open_batches(key) if batch.group} == {
        batch.id for batch in batches if batch.msisdns[0].startswith("@")
    }
    members = [RecipientStatus(f"4670174061{index}", SOON, "delivered", SOON) for index in range(3)]

    def result(recipients: int, delivered: int) -> SmsResult:
        return SmsResult("x", recipients, recipients, delivered, tuple(members))

    for recipients, delivered, changed in ((3, 0, 1), (3, 2, 1), (3, 2, 0), (3, 3, 1), (3, 3, 0)):
        assert desk.journal.deliveries.record_group_results({office.id: result(recipients, delivered)}) == changed
        counts = desk.journal.campaigns.counts(key)
        assert (counts.messages, counts.delivered) == (8, delivered)
        assert counts.final == (3 if delivered == 3 else 0)
    row = desk.sql("SELECT msisdn, status, delivered_at FROM message WHERE batch_id = :id", id=office.id)
    assert row == [("@The office", "delivered", SOON.timestamp() * 1_000_000)]
    assert "46701740610" not in str(desk.sql("SELECT * FROM message"))


def test_a_group_with_the_longest_name_can_be_resolved(desk: Desk) -> None:
    with desk.recording(send_at=SOON) as recording:
        recording.add_groups(["x" * 199], "Hello", encoding="GSM-7", segments=1)
    run = desk.journal.claims.start_run(recording.campaign)
    (batch,) = desk.journal.claims.claim(run, requests=1, batch_size=1)
    desk.settle(batch, "in_doubt")
    desk.settle(batch, "released")
    (ghost,) = desk.journal.doubt.watched(recording.campaign, LONG_AGO)
    assert ghost.group
    assert ghost.msisdns == {"@" + "x" * 199}


@pytest.mark.parametrize("msisdn", ["4670", "0701740605", "0701x40605", "@", "", "4" * 16])
def test_a_recipient_must_be_an_msisdn_or_a_group(desk: Desk, msisdn: str) -> None:
    desk.record(desk.same(1))
    desk.refused("INSERT INTO message (campaign_id, row, msisdn, text_id) VALUES (1, 1, :who, 1)", who=msisdn)
