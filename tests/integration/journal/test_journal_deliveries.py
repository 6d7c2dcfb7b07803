"""Statuses and results of accepted requests are recorded and read."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from prefect_mymsp.journal import Selection
from prefect_mymsp.models import RecipientStatus

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

A, B, C = "46701740605", "46701740606", "46701740607"
STRANGER = "46701740699"
SENT_AT = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)
DELIVERED_AT = datetime(2031, 5, 1, 12, 1, tzinfo=UTC)


def _sent(recipient: str) -> RecipientStatus:
    return RecipientStatus(recipient, SENT_AT, "sent", None)


def _delivered(recipient: str) -> RecipientStatus:
    return RecipientStatus(recipient, SENT_AT, "delivered", DELIVERED_AT)


def test_open_batches_come_in_pages_without_final_ones(desk: Desk) -> None:
    run, batches = desk.claimed(desk.personal(10))
    for batch in batches[:8]:
        desk.settle(batch, "accepted")
    desk.journal.deliveries.record_statuses({}, archived=[batches[3].id])
    expected = [batch.id for index, batch in enumerate(batches[:8]) if index != 3]
    batch_ids, after = list[int](), 0
    while page := desk.journal.deliveries.open_batches(run.campaign, after=after, limit=3):
        assert len(page) <= 3
        batch_ids += [batch.id for batch in page]
        after = page[-1].id
    assert batch_ids == expected
    everything = desk.journal.deliveries.open_batches(run.campaign)
    assert [claim.message_id for claim in everything] == [str(7_000_000 + number) for number in expected]
    assert all(claim.claimed_at <= claim.settled_at and not claim.confirmed for claim in everything)
    other, _ = desk.claimed(desk.same(1), name="winter")
    assert desk.journal.deliveries.open_batches(other.campaign) == []


def test_confirmed_message_ids_are_recorded(desk: Desk) -> None:
    run, batches = desk.claimed(desk.personal(3))
    for batch in batches:
        desk.settle(batch, "accepted")
    desk.journal.doubt.confirm_message_ids([batches[0].id, batches[2].id])
    desk.journal.doubt.confirm_message_ids([])
    assert [batch.confirmed for batch in desk.journal.deliveries.open_batches(run.campaign)] == [True, False, True]


def test_a_nul_in_a_status_is_replaced(desk: Desk) -> None:
    run, (batch,) = desk.claimed([(A, "Hello")])
    desk.settle(batch, "accepted")
    statuses = [RecipientStatus(A, None, "que\x00ued", None), RecipientStatus("no\x00number", None, "queued", None)]
    assert desk.journal.deliveries.record_statuses({batch.id: statuses}) == 1
    assert desk.rows(run.campaign)[0][10] == "que\ufffdued"


def test_recipients_are_returned_by_request(desk: Desk) -> None:
    _, batches = desk.claimed([*desk.same(3), *desk.personal(1500)])
    assert desk.journal.deliveries.recipients([batches[0].id]) == {batches[0].id: {A, B, C}}
    assert desk.journal.deliveries.recipients([batch.id for batch in batches]) == {
        batch.id: set(batch.msisdns) for batch in batches
    }
    assert desk.journal.deliveries.recipients([10**9]) == {}
    assert desk.journal.deliveries.recipients([]) == {}


def test_statuses_change_only_their_own_messages(desk: Desk) -> None:
    run, (batch, other) = desk.claimed([(A, "x"), (B, "x"), (C, "x"), (A, "y")])
    for accepted in (batch, other):
        desk.settle(accepted, "accepted")
    record_statuses = desk.journal.deliveries.record_statuses
    assert record_statuses({}) == 0
    assert record_statuses({batch.id: []}) == 0
    assert record_statuses({batch.id: [_sent(A), _sent(B)]}) == 2
    assert record_statuses({batch.id: [_sent(A), _sent(B)]}) == 0
    assert record_statuses({batch.id: [_sent(A), _delivered(B), _sent(C)], other.id: [_sent(A)]}) == 3
    assert record_statuses({batch.id: [_sent(STRANGER), _delivered(STRANGER)]}) == 0
    assert record_statuses({10**9: [_delivered(A)]}) == 0
    counts = desk.journal.campaigns.counts(run.campaign)
    assert (counts.accepted, counts.delivered, counts.final, counts.segments) == (4, 1, 0, 4)
    rows = desk.rows(run.campaign)
    sent, delivered = (int(at.timestamp()) * 1_000_000 for at in (SENT_AT, DELIVERED_AT))
    assert [(row[1], *row[8:11]) for row in rows] == [
        (A, sent, None, "sent"),
        (B, sent, delivered, "delivered"),
        (C, sent, None, "sent"),
        (A, sent, None, "sent"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        RecipientStatus(A, None, "sent", None),
        RecipientStatus(A, DELIVERED_AT, "sent", None),
        RecipientStatus(A, SENT_AT, "buffered", None),
        RecipientStatus(A, SENT_AT, "", None),
        RecipientStatus(A, SENT_AT, "sent", DELIVERED_AT),
    ],
)
def test_every_part_of_a_status_counts_as_a_change(desk: Desk, change: RecipientStatus) -> None:
    _, (batch,) = desk.claimed([(A, "x")])
    desk.settle(batch, "accepted")
    assert desk.journal.deliveries.record_statuses({batch.id: [_sent(A)]}) == 1
    assert desk.journal.deliveries.record_statuses({batch.id: [change]}) == 1
    assert desk.journal.deliveries.record_statuses({batch.id: [change]}) == 0


def test_many_changed_messages_are_counted_exactly(desk: Desk) -> None:
    _, batches = desk.claimed([*desk.personal(1000), *desk.same(95)])
    statuses = {batch.id: [_sent(recipient) for recipient in batch.msisdns] for batch in batches}
    assert desk.journal.deliveries.record_statuses(statuses) == 1095
    for batch in batches[::2]:
        statuses[batch.id] = [_delivered(recipient) for recipient in batch.msisdns]
    expected = sum(len(batch.msisdns) for batch in batches[::2])
    assert desk.journal.deliveries.record_statuses(statuses) == expected


def test_a_status_longer_than_its_column_is_truncated(desk: Desk) -> None:
    _, (batch,) = desk.claimed([(A, "x")])
    long = RecipientStatus(A, SENT_AT, "å" * 500, None)
    assert desk.journal.deliveries.record_statuses({batch.id: [long]}) == 1
    assert desk.journal.deliveries.record_statuses({batch.id: [long]}) == 0
    assert desk.one("SELECT status FROM message") == "å" * 64


def test_a_request_is_final_when_all_its_messages_are_delivered(desk: Desk) -> None:
    run, (batch,) = desk.claimed([(A, "x"), (B, "x")])
    desk.settle(batch, "accepted")
    desk.journal.deliveries.record_statuses({batch.id: [_delivered(A), _delivered(STRANGER)]})
    assert [opened.id for opened in desk.journal.deliveries.open_batches(run.campaign)] == [batch.id]
    desk.journal.deliveries.record_statuses({batch.id: [_delivered(B)]})
    assert desk.journal.deliveries.open_batches(run.campaign) == []
    counts = desk.journal.campaigns.counts(run.campaign)
    assert (counts.delivered, counts.final) == (2, 2)


def test_an_archived_request_keeps_its_statuses(desk: Desk) -> None:
    run, (batch, other) = desk.claimed([(A, "x"), (B, "x"), (A, "y")])
    for accepted in (batch, other):
        desk.settle(accepted, "accepted")
    desk.journal.deliveries.record_statuses({batch.id: [_delivered(A), _sent(B)]})
    assert desk.journal.deliveries.record_statuses({}, archived=iter([batch.id])) == 0
    counts = desk.journal.campaigns.counts(run.campaign)
    assert (counts.accepted, counts.delivered, counts.final) == (3, 1, 2)
    rows = desk.rows(run.campaign)
    assert [row[10] for row in rows] == ["delivered", "sent", None]


@pytest.mark.parametrize("raw", [b"", b"\x00\xff;;1\t\r\n", "åäö".encode("latin-1") * 50_000], ids=len)
def test_raw_responses_are_stored_unchanged(desk: Desk, raw: bytes) -> None:
    desk.journal.raw_responses.add("a" * 32, raw)
    ((account, at, kept),) = desk.sql("SELECT account, stored_at, raw FROM raw_response")
    assert (account, bytes(kept)) == ("a" * 32, raw)
    assert abs(at / 1e6 - datetime.now(UTC).timestamp()) < 60


# -- reading -----------------------------------------------------------------------------------------------------------


def test_counts_of_an_empty_campaign_are_zero(desk: Desk) -> None:
    campaign = desk.record([])
    counts = desk.journal.campaigns.counts(campaign)
    assert {getattr(counts, name) for name in counts.__slots__} == {0}
    assert desk.rows(campaign) == []


def test_messages_have_every_column(desk: Desk) -> None:
    states = ("accepted", "refused", "in_doubt", "released", "assumed", "cancelled", "sending")
    run, batches = desk.claimed([(A, text) for text in states])
    for batch, state in zip(batches, states, strict=True):
        desk.bring(batch, state)
    rows = desk.rows(run.campaign)
    assert [row[2] for row in rows] == [state.replace("released", "planned") for state in states]
    assert [row[3] is not None for row in rows] == [state in {"accepted", "cancelled"} for state in states]
    assert [row[11] for row in rows] == [None, 11, None, None, None, None, None]
    assert [row[12] for row in rows] == [None, None, "timeout", None, "timeout", None, None]
    assert [(row[6] is None, row[7] is None) for row in rows] == [
        (state == "released", state in {"released", "sending"}) for state in states
    ]
    assert all(isinstance(row[4], bytes) for row in rows)


def test_the_journal_can_be_written_while_messages_are_read(desk: Desk) -> None:
    run, batches = desk.claimed(desk.personal(300))
    parts = desk.journal.report_queries.messages(run.campaign.account, Selection(), chunk=100)
    first = next(parts)
    for batch in batches:
        desk.settle(batch, "accepted")
    rest = list(parts)
    assert [len(part["state"]) for part in (first, *rest)] == [100, 100, 100]
    # The states are those of the time when the reading began.
    assert {state for part in (first, *rest) for state in part["state"]} == {"sending"}
    assert desk.counts(run.campaign) == {"accepted": 300}


def test_reading_that_stops_halfway_leaves_no_transaction_open(desk: Desk) -> None:
    campaign = desk.record(desk.personal(300))
    parts = desk.journal.report_queries.messages(campaign.account, Selection(), chunk=100)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    desk.record(desk.same(5))
    assert desk.journal.campaigns.counts(campaign).messages == 305


def test_a_large_campaign_streams_by_column(desk: Desk) -> None:
    texts = [f"text {index}" for index in range(10)]
    with desk.recording() as recording:
        for part in range(2):
            numbers = [desk.number(part * 1000 + index) for index in range(1000)]
            pairs = [(f"4670174{number[-4:]}", text) for number in numbers for text in texts]
            recording.add(desk.block(pairs, first_row=part * 10_000 + 2))
        messages = recording.added()
    tracemalloc.start()
    try:
        sizes, last = list[int](), 0
        for columns in desk.journal.report_queries.messages(recording.campaign.account, Selection(), chunk=1000):
            sizes.append(len(columns["row"]))
            assert {len(column) for column in columns.values()} == {sizes[-1]}
            assert min(columns["number"]) > last
            last = max(columns["number"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) == messages
    assert messages > 19_000
    assert set(sizes[:-1]) == {1000}
    assert peak < 3_000_000  # of 11 MB in total
