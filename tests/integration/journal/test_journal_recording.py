"""Recording is all or nothing, records each message once, and compares with earlier messages."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from prefect_mymsp.errors import InputError, JournalError
from prefect_mymsp.journal import EarlierMessage, Journal, PlannedChunk, text_digest

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

A, B, C = "46701740605", "46701740606", "46701740607"
NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
OTHER_ACCOUNT = "f" * 32


def test_messages_are_recorded_in_the_order_of_the_source(desk: Desk) -> None:
    campaign = desk.record([(A, "one"), (B, "two"), (A, "two")], sender="Shop", send_at=NOON)
    assert desk.journal.campaigns.get(campaign.account, "autumn") == campaign
    assert (campaign.sender, campaign.send_at) == ("Shop", NOON)
    rows = desk.rows(campaign)
    assert [(row[0], row[1], row[2], row[4]) for row in rows] == [
        (2, A, "planned", text_digest("one")),
        (3, B, "planned", text_digest("two")),
        (4, A, "planned", text_digest("two")),
    ]
    assert desk.journal.campaigns.get(campaign.account, "winter") is None
    assert desk.journal.campaigns.get(OTHER_ACCOUNT, "autumn") is None


@pytest.mark.parametrize("error", [ValueError("bad row"), OSError(5, "disk"), KeyboardInterrupt()], ids=repr)
def test_an_error_in_the_block_records_nothing(desk: Desk, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        _record_and_raise(desk, [(A, "one")], error)
    assert caught.value is error
    for table in ("campaign", "message", "text"):
        assert desk.one(f"SELECT count(*) FROM {table}") == 0
    desk.record([(A, "one")])
    with pytest.raises(type(error)):
        _record_and_raise(desk, [(B, "two")], error)
    assert desk.sql("SELECT msisdn FROM message") == [(A,)]


def _record_and_raise(desk: Desk, pairs: list[tuple[str, str]], error: BaseException) -> None:
    with desk.recording() as recording:
        recording.add(desk.block(pairs))
        recording.drop_planned([number for number, _ in recording.planned_before()])
        raise error


def test_the_same_name_continues_the_same_campaign(desk: Desk) -> None:
    first = desk.record([(A, "one"), (B, "one")], send_at=NOON)
    with desk.recording(send_at=NOON) as recording:
        assert recording.messages_before == 2
        recording.add(desk.block([(A, "one"), (B, "one"), (C, "one")]))
        recording.add(desk.block([(C, "one")], first_row=99))
        assert recording.added() == 1
        assert recording.campaign == first
    rows = desk.rows(first)
    assert [row[:2] for row in rows] == [(2, A), (3, B), (4, C)]
    with desk.recording(send_at=NOON) as recording:
        recording.add(desk.block([(A, "one"), (B, "one"), (C, "one")]))
        assert (recording.messages_before, recording.added(), recording.find_changed_texts()) == (3, 0, [])


def test_a_row_that_occurs_twice_is_recorded_once(desk: Desk) -> None:
    with desk.recording() as recording:
        recording.add(desk.block([(A, "one"), (A, "one"), (B, "one")]))
        assert (recording.messages_before, recording.added()) == (0, 2)


def test_an_empty_chunk_records_nothing(desk: Desk) -> None:
    with desk.recording() as recording:
        recording.add(PlannedChunk([], [], [], [], [], [], []))
        assert recording.added() == 0


@pytest.mark.parametrize(
    ("sender", "send_at"),
    [("Other", NOON), (None, NOON), ("Shop", None), ("Shop", NOON + timedelta(minutes=1))],
)
def test_another_sender_or_time_needs_another_name(desk: Desk, sender: str | None, send_at: datetime | None) -> None:
    desk.record([(A, "one")], sender="Shop", send_at=NOON)
    with pytest.raises(InputError, match="another sender or scheduled time"):
        desk.record([(A, "one")], sender=sender, send_at=send_at)
    desk.record([(A, "one")], sender="Shop", send_at=NOON.astimezone(tz=None))  # the same instant


def test_a_cancelled_campaign_is_not_continued(desk: Desk) -> None:
    desk.journal.campaigns.cancel(desk.record([(A, "one")]))
    with pytest.raises(InputError, match="was cancelled"):
        desk.record([(B, "one")])


def test_accounts_do_not_share_campaigns(desk: Desk) -> None:
    own = desk.record([(A, "one")])
    with desk.recording(account=OTHER_ACCOUNT, sender="Shop") as recording:
        assert recording.messages_before == 0
        recording.add(desk.block([(A, "one")]))
        assert recording.added() == 1
    assert recording.campaign.id != own.id


def test_each_distinct_text_is_stored_once(desk: Desk) -> None:
    with desk.recording() as recording:
        for index in range(5):
            recording.add(desk.block([(desk.number(index), "shared"), (desk.number(index), f"own {index % 2}")]))
    desk.record(desk.same(3, "shared"), "winter")
    assert sorted(desk.sql("SELECT body FROM text")) == [("own 0",), ("own 1",), ("shared",)]


@pytest.mark.parametrize("text", ["", "å" * 5000, "line\r\nbreak\ttab", "🙂 emoji", "'; DROP TABLE text; --", "%s :a"])
def test_texts_are_stored_unchanged(desk: Desk, text: str) -> None:
    _, (batch,) = desk.claimed([(A, text)])
    assert batch.text == text


def test_more_texts_than_one_statement_can_name(desk: Desk) -> None:
    pairs = [(desk.number(index % 95), f"text {index}") for index in range(2000)]
    with desk.recording() as recording:
        recording.add(desk.block(pairs))
        assert recording.added() == 2000
    rows = desk.rows(recording.campaign)
    assert [(row[1], row[4]) for row in rows] == [(msisdn, text_digest(text)) for msisdn, text in pairs]


@pytest.mark.parametrize("msisdn", ["4670", "4670174060512345"])
def test_a_number_of_impossible_length_is_refused_and_not_quoted(desk: Desk, msisdn: str) -> None:
    error = desk.refusal(desk.record, [(msisdn, "one")])
    assert msisdn not in error
    assert desk.one("SELECT count(*) FROM campaign") == 0


# -- earlier messages -------------------------------------------------------------------------------------------------


def test_a_changed_text_differs_from_a_claimed_text_of_the_recipient(desk: Desk) -> None:
    campaign = desk.record([(A, "old"), (B, "old"), (C, "late")])
    run = desk.journal.claims.start_run(campaign)
    (batch,) = desk.journal.claims.claim(run, requests=1, batch_size=2)
    assert batch.msisdns == (A, B)
    with desk.recording() as recording:
        recording.add(desk.block([(A, "new"), (B, "old"), (C, "new")]))
        # B's message is unchanged, C's first message was never claimed.
        assert recording.find_changed_texts() == [EarlierMessage(A, text_digest("old"), 2)]
        assert recording.added() == 2


def test_unclaimed_earlier_messages_can_be_dropped(desk: Desk) -> None:
    campaign = desk.record([(A, "old"), (B, "mid"), (C, "late")])
    (claimed,) = desk.journal.claims.claim(desk.journal.claims.start_run(campaign), requests=1, batch_size=1)
    assert claimed.msisdns == (A,)
    with desk.recording() as recording:
        recording.add(desk.block([(A, "new")]))
        before = list(recording.planned_before())
        assert [earlier for _, earlier in before] == [
            EarlierMessage(B, text_digest("mid"), 3),
            EarlierMessage(C, text_digest("late"), 4),
        ]
        recording.drop_planned([number for number, earlier in before if earlier.msisdn == C])
        assert recording.added() == 0  # one added, one dropped
    rows = desk.rows(campaign)
    assert sorted((row[1], row[2]) for row in rows) == [(A, "planned"), (A, "sending"), (B, "planned")]


def test_a_claimed_message_cannot_be_dropped(desk: Desk) -> None:
    run, _ = desk.claimed([(A, "old")])
    number = desk.one("SELECT id FROM message")

    def drop_claimed() -> None:
        with desk.recording() as recording:
            recording.drop_planned([number])

    assert desk.refusal(drop_claimed) == "The journal refused a change: a message that was claimed cannot be deleted."
    assert desk.counts(run.campaign) == {"sending": 1}


def test_many_messages_are_dropped(desk: Desk) -> None:
    desk.record(desk.personal(2500))
    with desk.recording() as recording:
        recording.drop_planned([number for number, _ in recording.planned_before()])
        assert recording.added() == -2500
    assert desk.one("SELECT count(*) FROM message") == 0


def test_repeats_name_the_campaigns_that_sent_the_same_texts(desk: Desk) -> None:
    desk.claimed([(A, "same"), (B, "same"), (C, "same")], name="morning")
    desk.claimed([(A, "same")], name="noon")
    desk.claimed([(A, "other")], name="another text")
    desk.claimed([(A, "same")], name="of another account", account=OTHER_ACCOUNT)
    desk.record([(A, "same")], name="never sent")
    _, (refused,) = desk.claimed([(A, "same")], name="refused")
    desk.settle(refused, "refused")
    _, (unreached,) = desk.claimed([(A, "same")], name="not reached")
    desk.settle(unreached, "released")
    with desk.recording("again") as recording:
        recording.add(desk.block([(A, "same"), (B, "same"), (C, "changed")]))
        assert sorted(recording.find_repeats(LONG_AGO)) == [("morning", 2), ("noon", 1)]
        assert recording.find_repeats(datetime.now(UTC) + timedelta(seconds=1)) == []
    with desk.recording("again") as recording:  # the campaign's own earlier messages are no repeats
        recording.add(desk.block([(A, "same"), (B, "same"), (C, "changed")]))
        assert recording.find_repeats(LONG_AGO) == []


@pytest.mark.parametrize("state", ["sending", "accepted", "in_doubt", "assumed"])
def test_a_message_that_may_have_been_sent_is_a_repeat(desk: Desk, state: str) -> None:
    _, (batch,) = desk.claimed([(A, "same")], name="morning")
    desk.bring(batch, state)
    with desk.recording("again") as recording:
        recording.add(desk.block([(A, "same")]))
        assert recording.find_repeats(LONG_AGO) == [("morning", 1)]


# -- at the same time --------------------------------------------------------------------------------------------------


def _record(url: str, account: str, name: str, block: PlannedChunk, times: int) -> tuple[int, int]:
    with (
        Journal(url) as journal,
        journal.recording(account, name, source="a file", sender=None, send_at=None) as recording,
    ):
        for _ in range(times):
            recording.add(block)
        return recording.messages_before, recording.added()


def test_two_processes_recording_one_campaign_record_each_row_once(desk: Desk) -> None:
    forwards = desk.personal(3000)
    desk.journal.close()  # the database exists now
    counts = desk.in_processes(
        _record,
        ["a" * 32, "autumn", desk.block(forwards), 2],
        ["a" * 32, "autumn", desk.block(forwards[::-1]), 2],
    )
    assert sorted(counts) == [(0, 3000), (3000, 0)]
    assert desk.one("SELECT count(*) FROM message") == 3000
    assert desk.one("SELECT count(*) FROM campaign") == 1


def test_two_processes_recording_the_same_texts_do_not_deadlock(desk: Desk) -> None:
    """They insert in opposite orders, which would deadlock without a lock."""
    texts = desk.personal(3000)
    desk.journal.close()
    counts = desk.in_processes(
        _record, ["a" * 32, "one", desk.block(texts), 1], ["a" * 32, "two", desk.block(texts[::-1]), 1]
    )
    assert counts == [(0, 3000), (0, 3000)]
    assert desk.one("SELECT count(*) FROM text") == 3000


def test_eight_threads_recording_one_campaign_record_each_row_once(desk: Desk) -> None:
    barrier, journal = threading.Barrier(8), desk.journal

    def record(index: int) -> tuple[int, int]:
        barrier.wait(30)
        with desk.recording(journal=journal) as recording:
            recording.add(desk.block(desk.personal(200 + index)))
            return recording.messages_before, recording.added()

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(record, range(8)))
    assert sum(new for _, new in counts) == 207
    assert desk.one("SELECT count(*) FROM message") == 207


def test_claims_wait_for_a_recording_and_reads_do_not(desk: Desk) -> None:
    campaign = desk.record(desk.same(3), batch_size=2)
    run = desk.journal.claims.start_run(campaign)
    (first,) = desk.journal.claims.claim(run, requests=1, batch_size=2)
    with ThreadPoolExecutor(1) as pool:
        with desk.recording(batch_size=2) as recording:
            recording.add(desk.block([(A, "another")]))
            assert desk.journal.campaigns.counts(campaign).messages == 3
            claiming = pool.submit(desk.journal.claims.claim, run, requests=10, batch_size=2)
            if not desk.on_sqlite:  # SQLite has one writer at a time
                desk.settle(first, "accepted")
            with pytest.raises(TimeoutError):
                claiming.result(0.2)
        assert [batch.text for batch in claiming.result(30)] == ["Same for all", "another"]
    assert desk.journal.campaigns.counts(campaign).sending == (4 if desk.on_sqlite else 2)


def test_an_unfinished_recording_is_invisible(desk: Desk) -> None:
    with desk.recording() as recording:
        recording.add(desk.block([(A, "one")]))
        assert desk.journal.campaigns.get(recording.campaign.account, "autumn") is None
        with desk.open() as other:  # opening takes no lock that a recording holds
            assert other.campaigns.get(recording.campaign.account, "autumn") is None
    assert desk.journal.campaigns.counts(recording.campaign).planned == 1


def test_an_inconsistent_chunk_records_nothing(desk: Desk) -> None:
    block = desk.block([(A, "one"), (B, "two")])
    with pytest.raises(ValueError, match="zip"):
        _recorded(desk, replace(block, rows=block.rows[:1]))
    with pytest.raises(JournalError, match="ck_text_encoding"):
        _recorded(desk, replace(block, encodings=["ASCII", "GSM-7"]))
    assert desk.one("SELECT count(*) FROM campaign") == 0


def _recorded(desk: Desk, block: PlannedChunk) -> None:
    with desk.recording() as recording:
        recording.add(block)
