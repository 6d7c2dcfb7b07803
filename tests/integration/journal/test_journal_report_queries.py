"""Messages read by column, and the frames created from them."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from prefect_mymsp.journal import CampaignKey, Selection, SourceCounts
from prefect_mymsp.models import ReceivedMessage, RecipientStatus, ScheduledMessage
from prefect_mymsp.reports import (
    campaigns_frame,
    deliveries_frame,
    inbox_frame,
    recorded_rejected_rows_frame,
    scheduled_frame,
)
from prefect_mymsp.reports.frames import (
    CAMPAIGN_DTYPES,
    DELIVERY_DTYPES,
    INBOX_DTYPES,
    REJECTED_ROW_DTYPES,
    SCHEDULED_DTYPES,
    empty_frame,
)
from prefect_mymsp.times import DEFAULT_TRACKING_DAYS, tracking_period

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

TRACKED = tracking_period(DEFAULT_TRACKING_DAYS)
A, B, C, D = "46701740605", "46701740606", "46701740607", "46701740608"
ACCOUNT = "0123456789abcdef0123456789abcdef"
LATER = datetime(2090, 1, 31, 9, 0, tzinfo=UTC)
SCHEMAS = [DELIVERY_DTYPES, REJECTED_ROW_DTYPES, INBOX_DTYPES, SCHEDULED_DTYPES, CAMPAIGN_DTYPES]


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


def column_of(desk: Desk, selection: Selection, column: str) -> list[Any]:
    """Return one column of the messages in a selection."""
    return [
        value for part in desk.journal.report_queries.messages(ACCOUNT, selection, chunk=2) for value in part[column]
    ]


def delivered(desk: Desk, batch: int, recipient: str, at: datetime) -> None:
    desk.journal.deliveries.record_statuses({batch: [RecipientStatus(recipient, at, "delivered", at)]})


# -- selections --------------------------------------------------------------------------------------------------------


def test_messages_are_selected_by_account_and_campaign(desk: Desk) -> None:
    first, second = desk.record(desk.same(3), "first"), desk.record(desk.same(2), "second")
    desk.record(desk.same(4), "other", account="f" * 32)
    more = desk.record(desk.same(5), "first")
    assert more.id == first.id
    assert column_of(desk, Selection(), "campaign") == [first.id] * 3 + [second.id] * 2 + [first.id] * 2
    assert column_of(desk, Selection(campaigns=[first.id]), "row") == [2, 3, 4, 5, 6]
    assert column_of(desk, Selection(campaigns=[second.id, 4711]), "msisdn") == [A, B]
    for empty_selection in (Selection(campaigns=[]), Selection(campaigns=[4711])):
        assert column_of(desk, empty_selection, "row") == []


def test_a_period_selects_by_the_time_of_the_request(desk: Desk) -> None:
    before = datetime.now(UTC)
    desk.claimed(desk.same(2), name="sent")
    between = datetime.now(UTC)
    desk.claimed([(C, "x")], name="later")
    desk.record([(D, "x")], "never")
    after = datetime.now(UTC)
    assert column_of(desk, Selection(since=before), "msisdn") == [A, B, C]
    assert column_of(desk, Selection(since=between), "msisdn") == [C]
    assert column_of(desk, Selection(since=before, until=between), "msisdn") == [A, B]
    assert column_of(desk, Selection(since=after), "msisdn") == []
    assert column_of(desk, Selection(until=after), "msisdn") == [A, B, C]


def test_final_outcomes(desk: Desk) -> None:
    states = ("accepted", "refused", "in_doubt", "released", "assumed", "cancelled", "sending")
    _run, batches = desk.claimed([(A, text) for text in states])
    for batch, state in zip(batches, states, strict=True):
        desk.bring(batch, state)
    now = datetime.now(UTC)
    closed = column_of(desk, Selection(), "final_at")
    latest = now.timestamp() * 1e6
    assert [None if at is None else at <= latest for at in closed] == [False, True, None, None, True, True, None]
    assert closed[0] / 1e6 == pytest.approx((now + TRACKED).timestamp(), abs=60)
    assert column_of(desk, Selection(final_until=now), "state") == ["refused", "assumed", "cancelled"]
    delivered(desk, batches[0].id, A, now)
    after_delivery = datetime.now(UTC)
    assert column_of(desk, Selection(final_since=now, final_until=after_delivery), "state") == ["accepted"]
    assert column_of(desk, Selection(final_since=after_delivery), "state") == []


def test_the_time_at_which_an_outcome_became_final_does_not_change(desk: Desk) -> None:
    """An outcome becomes final once: exports of new outcomes rely on it."""
    now = datetime.now(UTC).replace(microsecond=0)
    _, (batch,) = desk.claimed([(A, "x"), (B, "x")])
    desk.settle(batch, "accepted")
    delivered(desk, batch.id, A, now)
    first, other = column_of(desk, Selection(), "final_at")
    assert first < other
    delivered(desk, batch.id, A, now - timedelta(minutes=1))
    assert column_of(desk, Selection(), "final_at") == [first, other]
    delivered(desk, batch.id, B, now)
    assert column_of(desk, Selection(), "final_at")[0] == first


def test_archived_and_overdue_messages_become_final(desk: Desk) -> None:
    _, (away, old) = desk.claimed([(A, "x"), (B, "y")])
    for batch in (away, old):
        desk.settle(batch, "accepted")
    desk.journal.deliveries.record_statuses({}, archived=[away.id])
    past = int((datetime.now(UTC) - TRACKED - timedelta(hours=1)).timestamp() * 1e6)
    desk.sql("UPDATE batch SET claimed_at = :at WHERE id = :id", at=past, id=old.id)
    assert column_of(desk, Selection(final_until=datetime.now(UTC)), "msisdn") == [A, B]
    desk.sql("UPDATE batch SET send_at = :at WHERE id = :id", at=int(LATER.timestamp() * 1e6), id=old.id)
    assert column_of(desk, Selection(final_until=datetime.now(UTC)), "msisdn") == [A]
    delivered(desk, old.id, B, datetime.now(UTC))
    assert column_of(desk, Selection(final_until=datetime.now(UTC)), "msisdn") == [A, B]


def test_a_delivery_without_a_recorded_time_has_the_requests_time(desk: Desk) -> None:
    _, (batch,) = desk.claimed([(A, "x")])
    desk.settle(batch, "accepted")
    delivered(desk, batch.id, A, datetime.now(UTC))
    desk.sql("UPDATE message SET status_changed_at = NULL")
    assert column_of(desk, Selection(final_until=datetime.now(UTC)), "msisdn") == [A]
    desk.sql("UPDATE batch SET final_at = NULL")
    assert column_of(desk, Selection(final_until=datetime.now(UTC)), "msisdn") == [A]


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: next(iter(schema)))
def test_an_empty_frame_has_the_same_columns(schema: dict[str, str]) -> None:
    frame = empty_frame(schema)
    assert dtypes(frame) == schema
    assert len(frame) == 0


def test_every_frame_has_its_schema_whether_empty_or_not(desk: Desk) -> None:
    journal = desk.journal
    assert dtypes(deliveries_frame(journal)) == DELIVERY_DTYPES
    assert dtypes(campaigns_frame(journal, [])) == CAMPAIGN_DTYPES
    assert dtypes(scheduled_frame(journal, ACCOUNT)) == SCHEDULED_DTYPES
    assert dtypes(inbox_frame(journal.inbox.rows(ACCOUNT))) == INBOX_DTYPES
    campaign = desk.record([])
    assert dtypes(deliveries_frame(journal, campaign)) == DELIVERY_DTYPES
    assert dtypes(recorded_rejected_rows_frame(journal, campaign)) == REJECTED_ROW_DTYPES
    assert dtypes(campaigns_frame(journal, journal.campaigns.summaries(ACCOUNT))) == CAMPAIGN_DTYPES
    with desk.recording() as recording:
        recording.add(desk.block(desk.same(3)))
        recording.record_source(SourceCounts(4, 1, 0, 0), [(5, "Mobil", "the number is missing")])
    journal.inbox.store(ACCOUNT, [ReceivedMessage("1", None, None, None, None, None, None, None, "")], lambda _: False)
    assert dtypes(deliveries_frame(journal, campaign)) == DELIVERY_DTYPES
    assert dtypes(recorded_rejected_rows_frame(journal, campaign)) == REJECTED_ROW_DTYPES
    assert (
        dtypes(campaigns_frame(journal, journal.campaigns.summaries(ACCOUNT), price_per_segment=0.5)) == CAMPAIGN_DTYPES
    )
    assert dtypes(inbox_frame(journal.inbox.rows(ACCOUNT))) == INBOX_DTYPES
    listed = [ScheduledMessage("9", None)]
    assert dtypes(scheduled_frame(journal, ACCOUNT, listed)) == SCHEDULED_DTYPES


def test_deliveries_are_in_the_order_of_the_source_and_join_to_it(desk: Desk) -> None:
    """A source's other columns can be joined by row, also if the rows were recorded in another order."""
    source = pd.DataFrame({"name": ["Åsa", "Bo", "Carin", "Disa"], "mobile": [A, B, C, D]}, index=range(2, 6))
    with desk.recording() as recording:
        recording.add(desk.block([(C, "x"), (D, "x")], first_row=4))
        recording.add(desk.block([(A, "x"), (B, "x")], first_row=2))
    frame = deliveries_frame(desk.journal, recording.campaign)
    assert frame["row"].tolist() == [2, 3, 4, 5]
    joined = frame.join(source, on="row")
    assert joined["recipient"].tolist() == joined["mobile"].tolist()
    assert joined["name"].tolist() == ["Åsa", "Bo", "Carin", "Disa"]
    assert dtypes(joined)["row"] == "Int64"


def test_frames_of_several_campaigns_append(desk: Desk) -> None:
    autumn, winter = desk.record(desk.same(3), "autumn"), desk.record(desk.same(2), "winter")
    both = deliveries_frame(desk.journal, autumn, winter)
    one_by_one = pd.concat(
        [deliveries_frame(desk.journal, autumn), deliveries_frame(desk.journal, winter)], ignore_index=True
    )
    pd.testing.assert_frame_equal(both, one_by_one)
    empty = pd.concat([empty_frame(DELIVERY_DTYPES), both], ignore_index=True)
    assert dtypes(empty) == DELIVERY_DTYPES
    assert both.groupby("campaign").size().to_dict() == {"autumn": 3, "winter": 2}


def test_latency_is_never_negative(desk: Desk) -> None:
    texts = ("at once", "a moment ago", "later", "not yet", "scheduled")
    _, batches = desk.claimed([(A, text) for text in texts])
    sent_at = datetime(2030, 1, 31, 9, 0, 31, 500_000, tzinfo=UTC)
    micros = int(sent_at.timestamp() * 1e6)
    desk.sql("UPDATE batch SET claimed_at = :at", at=micros)
    for batch in batches:
        desk.settle(batch, "accepted")
    desk.sql("UPDATE batch SET send_at = :at WHERE id = :id", at=micros + 3_600_000_000, id=batches[4].id)
    minute = sent_at.replace(second=0, microsecond=0)
    for batch, after in ((batches[0], 0), (batches[1], 1), (batches[2], 90), (batches[4], 61)):
        delivered(desk, batch.id, A, minute + timedelta(minutes=after))
    frame: Any = deliveries_frame(desk.journal, CampaignKey(1, "autumn", ACCOUNT, None, None))
    assert frame["latency_s"].fillna(-1).tolist() == [0.0, 28.5, 5368.5, -1, 28.5]
    assert frame.loc[0, "delivered_at"] < sent_at
    summary = campaigns_frame(desk.journal, desk.journal.campaigns.summaries(ACCOUNT)).iloc[0]
    assert (summary["latency_p50_s"], summary["latency_p95_s"], summary["latency_max_s"]) == (28.0, 5368.0, 5368.0)


def test_errors_are_readable_and_only_accepted_messages_have_ids(desk: Desk) -> None:
    states = ("accepted", "refused", "in_doubt", "cancelled", "sending")
    run, batches = desk.claimed([(A, text) for text in states])
    for batch, state in zip(batches, states, strict=True):
        desk.bring(batch, state)
    frame = deliveries_frame(desk.journal, run.campaign)
    assert frame["state"].tolist() == list(states)
    assert frame["message_id"].notna().tolist() == [True, False, False, True, False]
    assert frame["accepted_at"].notna().tolist() == [True, False, False, False, False]
    assert frame["error"].fillna("").tolist() == [
        "",
        "11: the account has sent as many messages as it may",
        "may have been sent (timeout)",
        "",
        "",
    ]


def test_the_counts_of_campaigns_add_up(desk: Desk) -> None:
    states = ("accepted", "accepted", "refused", "in_doubt", "cancelled", "sending")
    _run, batches = desk.claimed([(A, f"{index}") for index in range(6)], name="sent", sender="Shop")
    for batch, state in zip(batches, states, strict=True):
        desk.bring(batch, state)
    delivered(desk, batches[0].id, A, datetime.now(UTC))
    with desk.recording("empty", send_at=LATER) as recording:
        recording.record_source(SourceCounts(7, 3, 2, 1), [])
    frame = campaigns_frame(desk.journal, desk.journal.campaigns.summaries(ACCOUNT), price_per_segment=0.1)
    empty, sent = frame.to_dict("records")
    assert (empty["campaign"], empty["rows"], empty["rejected"], empty["suppressed"]) == ("empty", 7, 3, 1)
    assert empty["send_at"] == LATER
    assert (empty["messages"], empty["cost"]) == (0, 0.0)
    assert all(pd.isna(empty[name]) for name in ("delivery_rate", "latency_p50_s", "sender"))
    assert (sent["campaign"], sent["sender"]) == ("sent", "Shop")
    assert pd.isna(sent["rows"])
    states_of = ("planned", "sending", "accepted", "refused", "in_doubt", "assumed", "cancelled")
    assert sum(sent[name] for name in states_of) == sent["messages"] == 6
    assert (sent["delivery_rate"], sent["segments"], sent["cost"]) == (0.5, 2, 0.2)


def test_rejected_rows_are_kept_without_their_values(desk: Desk) -> None:
    quoting = "it can be read as 0701740605 or as +46701740605: write it with its plus sign or its zero"
    with desk.recording() as recording:
        recording.record_source(SourceCounts(9, 2, 0, 0), [(7, "Mobil", quoting), (3, "", "the line has 3 fields")])
    frame = recorded_rejected_rows_frame(desk.journal, recording.campaign)
    assert frame["row"].tolist() == [3, 7]
    assert frame["value"].isna().all()
    assert frame["column"].tolist() == ["", "Mobil"]
    assert frame["reason"].tolist()[1] == (
        "it can be read as 07••••••05 or as +46•••••••05: write it with its plus sign or its zero"
    )
    with desk.recording() as recording:  # the corrected source
        recording.record_source(SourceCounts(9, 0, 0, 0), [])
    assert recorded_rejected_rows_frame(desk.journal, recording.campaign).empty


def test_a_purged_campaign_keeps_its_counts(desk: Desk) -> None:
    run, batches = desk.claimed(desk.same(2))
    with desk.recording() as recording:
        recording.record_source(SourceCounts(3, 1, 0, 0), [(9, "Mobil", "the number is missing")])
    desk.settle(batches[0], "accepted")
    desk.journal.claims.end_run(run)
    desk.journal.campaigns.cancel(run.campaign)
    long_ago = 1_000_000
    for column in ("claimed_at", "settled_at"):
        desk.sql(f"UPDATE batch SET {column} = :at", at=long_ago)
    desk.sql("UPDATE run SET started_at = :at, ended_at = :at", at=long_ago)
    desk.sql("UPDATE campaign SET created_at = :at", at=long_ago)
    assert desk.journal.retention.purge(ACCOUNT, datetime.now(UTC) - timedelta(days=1)).messages == 2
    assert deliveries_frame(desk.journal, run.campaign).empty
    assert recorded_rejected_rows_frame(desk.journal, run.campaign).empty
    (row,) = campaigns_frame(desk.journal, desk.journal.campaigns.summaries(ACCOUNT)).to_dict("records")
    assert (row["messages"], row["accepted"], row["rows"], row["rejected"]) == (2, 2, 3, 1)


def test_scheduled_requests_name_their_campaign(desk: Desk) -> None:
    for name, at, count in (("june", LATER, 3), ("may", LATER - timedelta(days=30), 2)):
        _, batches = desk.claimed(desk.same(count), name=name, send_at=at)
        desk.settle(batches[0], "accepted", message_id={"june": "71", "may": "72"}[name])
    desk.claimed(desk.same(4), name="asking", send_at=LATER)
    frame = scheduled_frame(desk.journal, ACCOUNT)
    columns = ["message_id", "campaign", "recipients", "segments"]
    assert frame[columns].values.tolist() == [["72", "may", 2, 2], ["71", "june", 3, 3]]
    assert frame["send_at"].tolist() == [LATER - timedelta(days=30), LATER]
    assert scheduled_frame(desk.journal, ACCOUNT, now=LATER).empty
    listed = [ScheduledMessage("71", LATER), ScheduledMessage("5", None), ScheduledMessage("9", LATER)]
    listed_frame = scheduled_frame(desk.journal, ACCOUNT, listed)
    assert listed_frame["message_id"].tolist() == ["71", "9", "5"]
    assert listed_frame["campaign"].fillna("").tolist() == ["june", "", ""]
    assert listed_frame["send_at"].isna().tolist() == [False, False, True]
    assert listed_frame["recipients"].fillna(0).tolist() == [3, 0, 0]


def test_the_inbox_as_a_frame(desk: Desk) -> None:
    at = datetime(2030, 1, 31, 9, 30, tzinfo=UTC)
    messages = [
        ReceivedMessage("7", at, "demo", "KLINIK", "SMS", A, None, None, "<script>"),
        ReceivedMessage("8", None, None, None, None, None, None, None, ""),
    ]
    desk.journal.inbox.store(ACCOUNT, messages, lambda _: False)
    frame: Any = inbox_frame(desk.journal.inbox.rows(ACCOUNT, chunk=1))
    assert frame["message_id"].tolist() == ["7", "8"]
    assert frame.loc[0, "received_at"] == at
    assert frame.loc[0, ["sender", "prefix", "text"]].tolist() == [A, "KLINIK", "<script>"]
    assert frame.loc[1, ["received_at", "sender", "prefix"]].isna().all()
    assert frame["stored_at"].notna().all()


def test_shared_text_is_the_only_text_of_a_campaign(desk: Desk) -> None:
    same, own = desk.record(desk.same(3), "same"), desk.record(desk.personal(3), "own")
    empty = desk.record([], "empty")
    queries = desk.journal.report_queries
    assert [queries.shared_text(campaign.id) for campaign in (same, own, empty)] == ["Same for all", None, None]


@pytest.mark.timeout(110)
def test_a_large_frame_needs_bounded_memory(desk: Desk) -> None:
    """A million messages need less than a gigabyte; this test measures a hundred thousand."""
    texts = [f"text {index}" for index in range(10)]
    with desk.recording() as recording:
        for part in range(10):
            pairs = [
                (f"4670174{number:04d}", text) for number in range(part * 1000, part * 1000 + 1000) for text in texts
            ]
            recording.add(desk.block(pairs, first_row=part * 10_000 + 2))
    deliveries_frame(desk.journal)  # imports do not count
    tracemalloc.start()
    try:
        frame = deliveries_frame(desk.journal, recording.campaign)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(frame) == 100_000
    assert frame["row"].is_monotonic_increasing
    assert frame.memory_usage(deep=True).sum() < 30_000_000
    assert peak < 100_000_000
