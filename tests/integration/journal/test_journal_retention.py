"""Summaries of campaigns, and purging: personal data is deleted, the counts stay."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from prefect_mymsp.errors import InputError
from prefect_mymsp.journal import CampaignKey, Counts, Journal, PurgeResult, Selection
from prefect_mymsp.models import ReceivedMessage, RecipientStatus
from tests.integration.conftest import ACCOUNT

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

OTHER = "fedcba9876543210fedcba9876543210"
NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)
TABLES = (
    "campaign",
    "text",
    "run",
    "batch",
    "message",
    "released_recipient",
    "raw_response",
    "received",
    "suppression",
    "bookmark",
)


def stored_messages(desk: Desk, campaign: CampaignKey) -> int:
    """Count the messages of a campaign that the journal still has."""
    parts = desk.journal.report_queries.messages(campaign.account, Selection(campaigns=[campaign.id]))
    return sum(len(part["msisdn"]) for part in parts)


def now() -> datetime:
    return datetime.now(UTC)


def age(desk: Desk, days: int = 100) -> None:
    """Move every time in the journal to the distant past."""
    microseconds = days * 86_400_000_000
    for table, columns in {
        "campaign": ("created_at",),
        "run": ("started_at", "lease_until", "ended_at"),
        "batch": ("claimed_at", "settled_at", "final_at"),
        "received": ("stored_at",),
        "raw_response": ("stored_at",),
    }.items():
        desk.sql(f"UPDATE {table} SET " + ", ".join(f"{column} = {column} - {microseconds}" for column in columns))


def everything(desk: Desk) -> str:
    """Return the contents of all tables as text."""
    return "\n".join(str(desk.sql(f"SELECT * FROM {table}")) for table in TABLES)


def old(
    desk: Desk, name: str = "autumn", text: str = "Same for all", **recording_options: object
) -> tuple[CampaignKey, Counts]:
    """Record an old campaign with messages in every state; returns it with its counts."""
    run, batches = desk.claimed(
        [(str(46701740610 + index), text) for index in range(16)], name=name, batch_size=2, **recording_options
    )
    states = ("accepted", "accepted", "refused", "in_doubt", "assumed", "cancelled", "released", "split")
    for batch, state in zip(batches, states, strict=True):
        desk.bring(batch, state)
    statuses = [RecipientStatus(msisdn, NOON, "delivered", NOON) for msisdn in batches[0].msisdns]
    desk.journal.deliveries.record_statuses({batches[0].id: statuses, batches[1].id: statuses[:1]})
    desk.sql("UPDATE run SET ended_at = started_at")
    desk.journal.claims.expire_leases(run.campaign)
    desk.journal.claims.end_run(run)
    for half in desk.sql("SELECT id FROM batch WHERE state = 'sending'"):
        desk.settle(half[0], "refused")
    desk.journal.campaigns.cancel(run.campaign)  # released messages will never be sent
    age(desk)
    return run.campaign, desk.journal.campaigns.counts(run.campaign)


# -- summaries ---------------------------------------------------------------------------------------------------------


def test_summaries_come_newest_first(desk: Desk) -> None:
    began = now()
    assert desk.journal.campaigns.summaries(ACCOUNT) == []
    first, counts = old(desk)
    desk.record(desk.same(3), "winter", sender="Shop")
    desk.record(desk.same(3), "foreign", account=OTHER)
    run, (batch,) = desk.claimed(desk.same(2), name="spring")
    desk.settle(batch, "accepted")
    summaries = desk.journal.campaigns.summaries(ACCOUNT)
    assert [campaign.key.name for campaign in summaries] == ["spring", "winter", "autumn"]
    for summary in summaries:
        assert summary.counts == desk.journal.campaigns.counts(summary.key)
        assert summary.key == desk.journal.campaigns.get(ACCOUNT, summary.key.name)
        assert summary.source == "a file"
        assert summary.purged_at is None
    assert summaries[2].counts == counts
    assert summaries[2].cancelled_at is not None
    assert summaries[1].cancelled_at is None
    assert (summaries[1].counts.planned, summaries[0].counts.accepted) == (3, 2)
    assert summaries[2].key == first
    assert [campaign.key.name for campaign in desk.journal.campaigns.summaries(ACCOUNT, since=began)] == [
        "spring",
        "winter",
    ]
    assert [campaign.key.name for campaign in desk.journal.campaigns.summaries(ACCOUNT, until=began)] == ["autumn"]
    assert desk.journal.campaigns.summaries(ACCOUNT, since=began, until=began) == []
    assert run.campaign == summaries[0].key


def test_only_open_campaigns(desk: Desk) -> None:
    key, _ = old(desk, "doubtful")
    desk.journal.doubt.resolve(key, "sent")
    age(desk)
    desk.record([], "empty")
    desk.record(desk.same(1), "planned")
    desk.record(desk.same(1), "cancelled")
    cancelled = desk.journal.campaigns.get(ACCOUNT, "cancelled")
    assert cancelled is not None
    desk.journal.campaigns.cancel(cancelled)
    _, (sending,) = desk.claimed(desk.same(1), name="sending")
    for name, state in (("in doubt", "in_doubt"), ("refused", "refused"), ("accepted", "accepted")):
        _, (batch,) = desk.claimed(desk.same(1), name=name)
        desk.settle(batch, state)
    _, (final,) = desk.claimed(desk.same(1), name="final")
    desk.settle(final, "accepted")
    desk.journal.deliveries.record_statuses({}, archived=[final.id])
    names = {campaign.key.name for campaign in desk.journal.campaigns.summaries(ACCOUNT, open_only=True)}
    assert names == {"doubtful", "planned", "sending", "in doubt", "accepted"}
    assert sending.msisdns


def test_the_last_activity_of_a_campaign(desk: Desk) -> None:
    later = now() + timedelta(days=30)
    desk.record(desk.same(1), "scheduled", send_at=later)
    (summary,) = desk.journal.campaigns.summaries(ACCOUNT)
    assert summary.active_at == later
    key, _ = old(desk)
    assert desk.journal.campaigns.summaries(ACCOUNT)[0].active_at < now() - timedelta(days=99)
    run = desk.journal.claims.start_run(key)
    desk.journal.claims.end_run(run)
    assert abs(desk.journal.campaigns.summaries(ACCOUNT)[0].active_at - now()) < timedelta(minutes=1)


# -- purging -----------------------------------------------------------------------------------------------------------


def test_a_purge_keeps_every_count(desk: Desk) -> None:
    key, counts = old(desk)
    assert replace(counts, messages=0) != replace(counts, messages=0, planned=0)
    before = desk.sql("SELECT * FROM batch ORDER BY id")
    result = desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90))
    assert result == PurgeResult(campaigns=1, messages=16, texts=1, received=0, raw_responses=0, skipped=())
    assert desk.journal.campaigns.counts(key) == counts
    (summary,) = desk.journal.campaigns.summaries(ACCOUNT)
    assert (summary.counts, summary.open) == (counts, False)
    assert summary.purged_at is not None
    assert desk.sql("SELECT * FROM batch ORDER BY id")[: len(before)] == before
    assert stored_messages(desk, key) == 0
    contents = everything(desk)
    assert "467017406" not in contents
    assert "Same for all" not in contents
    assert desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90)) == PurgeResult(0, 0, 0, 0, 0, ())


def test_younger_campaigns_and_other_accounts_are_not_purged(desk: Desk) -> None:
    key, _ = old(desk, "theirs", account=OTHER)
    young, (batch,) = desk.claimed([("46701740699", "Another text")], name="young")
    desk.settle(batch, "accepted")
    assert desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90)).campaigns == 0
    assert desk.journal.retention.purge(OTHER, now() - timedelta(days=110)).campaigns == 0
    assert stored_messages(desk, key) == 16
    assert stored_messages(desk, young.campaign) == 1


def test_a_text_that_another_campaign_uses_stays(desk: Desk) -> None:
    old(desk, text="Everybody gets this")
    with desk.recording("young") as recording:
        recording.add(desk.block([("46701740699", "Everybody gets this")]))
    assert desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90)).texts == 0
    (batch,) = desk.journal.claims.claim(desk.journal.claims.start_run(recording.campaign), requests=1, batch_size=1)
    assert batch.text == "Everybody gets this"


def test_a_purged_text_is_not_sent_empty_by_the_next_campaign(desk: Desk) -> None:
    old(desk, text="Once more")
    assert desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90)).texts == 1
    _, batches = desk.claimed([("46701740699", "Once more")], name="next")
    assert [batch.text for batch in batches] == ["Once more"]
    assert desk.one("SELECT count(*) FROM text") == 2


def test_messages_still_to_be_sent_are_not_purged(desk: Desk) -> None:
    """A cancelled campaign is purged: nobody will send it."""
    waits = desk.record(desk.same(3), "waits")
    _, (batch,) = desk.claimed(desk.same(3), name="on its way")
    stopped = desk.record(desk.same(4), "stopped")
    desk.journal.campaigns.cancel(stopped)
    counts = desk.journal.campaigns.counts(stopped)
    age(desk)
    result = desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90))
    assert (result.campaigns, result.messages) == (1, 4)
    assert sorted(result.skipped) == ["on its way", "waits"]
    assert desk.journal.campaigns.counts(stopped) == counts
    assert desk.journal.campaigns.counts(waits).planned == 3
    assert desk.state(batch) == "sending"
    desk.journal.campaigns.cancel(waits)
    assert desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90)).skipped == ("on its way",)


def test_messages_in_no_batch_are_counted_after_the_purge(desk: Desk) -> None:
    """Messages of a cancelled campaign may be in no batch."""
    _, batches = desk.claimed(desk.same(5), name="loose", batch_size=3)
    for batch in batches:
        desk.settle(batch, "released")
    key = desk.journal.campaigns.get(ACCOUNT, "loose")
    assert key is not None
    desk.journal.campaigns.cancel(key)
    assert desk.one("SELECT count(*) FROM message WHERE batch_id IS NULL") == 5
    age(desk)
    counts = desk.journal.campaigns.counts(key)
    assert desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90)).messages == 5
    assert desk.journal.campaigns.counts(key) == counts
    assert counts.planned == 5


def test_a_purged_campaign_cannot_be_continued(desk: Desk) -> None:
    _, (batch,) = desk.claimed(desk.same(2), name="over", send_at=NOON)
    desk.settle(batch, "in_doubt")
    age(desk)
    desk.sql("UPDATE batch SET send_at = 1")
    desk.sql("UPDATE campaign SET send_at = 1")
    key = desk.journal.campaigns.get(ACCOUNT, "over")
    assert key is not None
    counts = desk.journal.campaigns.counts(key)
    assert desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90)).campaigns == 1
    calls = (
        lambda: desk.record(desk.same(2), "over", send_at=key.send_at),
        lambda: desk.journal.claims.start_run(key),
        lambda: desk.journal.doubt.resolve(key, "not-sent"),
        lambda: desk.journal.campaigns.check_not_purged(key),
        lambda: desk.journal.schedule.reschedule(key, now() + timedelta(days=1)),
    )
    for call in calls:
        with pytest.raises(InputError, match="The messages of campaign 'over' were purged"):
            call()
    # A late status changes no count.
    desk.journal.deliveries.record_statuses({batch.id: [RecipientStatus(desk.number(0), NOON, "delivered", NOON)]})
    assert desk.journal.campaigns.counts(key) == counts


def test_triggers_protect_claimed_messages(desk: Desk) -> None:
    key, _ = old(desk)
    accepted = "SELECT min(id) FROM batch WHERE state = 'accepted'"
    assert "that was claimed cannot be deleted" in desk.refused(f"DELETE FROM message WHERE batch_id = ({accepted})")
    desk.sql("UPDATE campaign SET purged_at = 5 WHERE id = :id", id=key.id)
    assert "a purged campaign stays purged" in desk.refused("UPDATE campaign SET purged_at = NULL")
    desk.sql("UPDATE campaign SET purged_at = 6")
    desk.refused(f"UPDATE message SET batch_id = NULL WHERE batch_id = ({accepted})")
    desk.refused("UPDATE batch SET state = 'released', message_id = NULL WHERE state = 'accepted'")
    desk.sql(f"DELETE FROM message WHERE batch_id = ({accepted})")


def test_received_texts_are_purged_and_suppressions_stay(desk: Desk) -> None:
    received = desk.journal.inbox
    long_ago = now() - timedelta(days=200)
    received.store(
        ACCOUNT,
        [
            ReceivedMessage("7", long_ago, "demo", "WIN", "SMS", "46701740605", "Anna", None, "STOP"),
            ReceivedMessage("8", None, "demo", "WIN", "SMS", "46701740606", "Bo", "Holiday", "Long ago"),
            ReceivedMessage("9", now(), "demo", "WIN", "SMS", "46701740607", "Cia", None, "Just now"),
        ],
        lambda message: message.text == "STOP",
    )
    desk.journal.raw_responses.add(ACCOUNT, b"A old")
    desk.journal.raw_responses.mark_parsed(desk.journal.raw_responses.add(ACCOUNT, b"A old too"))
    age(desk)
    recent = desk.journal.raw_responses.add(ACCOUNT, b"A new")
    received.store(OTHER, [ReceivedMessage("1", long_ago, None, None, "SMS", "46701740608", None, None, "Hi")], bool)
    result = desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90))
    assert (result.received, result.raw_responses) == (2, 2)
    assert [row[1:2] + row[6:] for part in received.rows(ACCOUNT) for row in part] == [
        ("7", "SMS", None, None, None, ""),
        ("8", "SMS", None, None, None, ""),
        ("9", "SMS", "46701740607", "Cia", None, "Just now"),
    ]
    assert desk.journal.raw_responses.unparsed(ACCOUNT) == [(recent, b"A new")]
    assert [row[-1] for part in received.rows(OTHER) for row in part] == ["Hi"]
    assert desk.journal.suppressions.msisdns(ACCOUNT) == {"46701740605"}
    # A purged message is not stored again, and the cursor stays.
    again = ReceivedMessage("8", None, "demo", "WIN", "SMS", "46701740606", "Bo", "Holiday", "Long ago")
    assert received.store(ACCOUNT, [again], bool) == []
    assert received.cursor(ACCOUNT) == 9
    contents = everything(desk)
    assert "46701740606" not in contents
    assert "Long ago" not in contents
    assert desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90)).received == 0


@pytest.mark.parametrize("before", [datetime(2020, 1, 1), datetime(2999, 1, 1, tzinfo=UTC)])
def test_an_unusable_time_is_refused(desk: Desk, before: datetime) -> None:
    with pytest.raises(InputError):
        desk.journal.retention.purge(ACCOUNT, before)


def test_no_purged_data_is_left_in_the_file(desk: Desk) -> None:
    """Neither freed pages nor the write-ahead log hold it: somebody who has the disk finds nothing."""
    if not desk.on_sqlite:
        return
    path = Path(str(sa.make_url(desk.url).database))
    numbers = [str(46_700_000_000 + index * 7) for index in range(3000)]
    random.Random(1).shuffle(numbers)
    with desk.recording("big") as recording:
        recording.add(desk.block([(number, f"Dear {number[-5:]}, your code is 9{number[-5:]}") for number in numbers]))
    with desk.recording("big") as recording:  # the source has become shorter: these messages are dropped
        recording.drop_planned([number for number, _ in recording.planned_before()][2500:])
    run = desk.journal.claims.start_run(recording.campaign)
    assert len(desk.journal.claims.claim(run, requests=9999, batch_size=1)) == 2500
    desk.sql("UPDATE batch SET state = 'accepted', message_id = 'x' || id, settled_at = 1 WHERE state = 'sending'")
    desk.journal.raw_responses.add(ACCOUNT, b"A 46755555555 wrote a diary")
    desk.journal.inbox.store(
        ACCOUNT, [ReceivedMessage("1", None, None, None, "SMS", "46766666666", None, None, "My long diary")], bool
    )
    desk.journal.claims.end_run(run)
    counts = desk.journal.campaigns.counts(recording.campaign)
    desk.journal.suppressions.remove(ACCOUNT, ["46766666666"])
    secrets = [number.encode() for number in numbers] + [b"your code is", b"diary", b"46755555555", b"46766666666"]

    def occurrences() -> int:
        files = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
        return sum(secret in files for secret in secrets)

    assert occurrences() > 2500
    age(desk)
    assert desk.journal.retention.purge(ACCOUNT, now() - timedelta(days=90)).messages == 2500
    assert occurrences() == 0
    assert desk.journal.campaigns.counts(recording.campaign) == counts


def _forget(url: str, _: int) -> int:
    with Journal(url) as journal:
        return journal.retention.purge(ACCOUNT, datetime.now(UTC) - timedelta(days=90)).messages


def test_two_purges_at_once_purge_once(desk: Desk) -> None:
    kept = {name: old(desk, name) for name in ("one", "two", "three")}
    desk.journal.close()
    assert sum(desk.in_processes(_forget, [0], [0])) == 48
    for key, counts in kept.values():
        assert desk.journal.campaigns.counts(key) == counts
