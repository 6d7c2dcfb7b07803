"""Claims follow the order of the file, contain each message once, and are durable before they return."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from prefect_mymsp.errors import CampaignCancelledError, JournalError
from prefect_mymsp.journal import Batch, CampaignKey, Journal

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext

    from tests.integration.conftest import Desk

A, B, C = "46701740605", "46701740606", "46701740607"
NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)
LEASE_ENDED = "This run's lease has ended. Another run may have put its requests in doubt; start the campaign again."


def _shape(batches: list[Batch]) -> list[tuple[str, tuple[str, ...]]]:
    return [(batch.text, batch.msisdns) for batch in batches]


# -- contents of claims ------------------------------------------------------------------------------------------------


def test_personal_messages_are_claimed_one_by_one_in_file_order(desk: Desk) -> None:
    pairs = desk.personal(10)[::-1]
    run = desk.journal.claims.start_run(desk.record(pairs))
    assert _shape(desk.journal.claims.claim(run, requests=4, batch_size=500)) == [(t, (n,)) for n, t in pairs[:4]]
    assert _shape(desk.journal.claims.claim(run, requests=100, batch_size=500)) == [(t, (n,)) for n, t in pairs[4:]]
    assert desk.journal.claims.claim(run, requests=4, batch_size=500) == []


def test_a_shared_text_fills_requests_up_to_the_batch_size(desk: Desk) -> None:
    pairs = desk.same(25)[::-1]
    run = desk.journal.claims.start_run(desk.record(pairs, batch_size=10))
    numbers = [number for number, _ in pairs]
    assert [batch.msisdns for batch in desk.journal.claims.claim(run, requests=2, batch_size=10)] == [
        tuple(sorted(numbers[:10])),
        tuple(sorted(numbers[10:20])),
    ]
    (rest,) = desk.journal.claims.claim(run, requests=2, batch_size=10)
    assert rest.msisdns == tuple(sorted(numbers[20:]))


def test_a_claimed_request_does_not_show_recipients_or_text(desk: Desk) -> None:
    (batch,) = desk.claimed([(A, "canary"), (B, "canary")])[1]
    assert repr(batch) == f"Batch({batch.id}, 2 recipients, None)"


def test_distant_rows_with_one_text_share_a_request(desk: Desk) -> None:
    _, batches = desk.claimed([(A, "x"), (A, "y"), (B, "x"), (B, "y"), (C, "z"), (C, "x")], batch_size=2)
    assert _shape(batches) == [("x", (A, B)), ("x", (C,)), ("y", (A, B)), ("z", (C,))]


@pytest.mark.parametrize("batch_size", [1, 2, 500])
def test_claims_of_any_size_claim_everything_once(desk: Desk, batch_size: int) -> None:
    pairs = [*desk.same(5, "five"), (A, "alone"), *desk.same(3, "three"), *desk.personal(6)]
    for requests in (1, 2, 3, 7):
        run = desk.journal.claims.start_run(desk.record(pairs, f"windows of {requests}", batch_size=batch_size))
        claimed = list[Batch]()
        while batches := desk.journal.claims.claim(run, requests=requests, batch_size=batch_size):
            assert len(batches) <= requests
            assert all(1 <= len(batch.msisdns) <= batch_size for batch in batches)
            claimed += batches
        assert [(number, batch.text) for batch in claimed for number in batch.msisdns] == pairs
        assert desk.counts(run.campaign) == {"sending": len(pairs)}


def test_a_claim_records_sender_and_scheduled_time(desk: Desk) -> None:
    before = datetime.now(UTC)
    _, (batch,) = desk.claimed([(A, "hej"), (B, "hej")], sender="Shop", send_at=NOON)
    assert (batch.text, batch.msisdns, batch.send_at) == ("hej", (A, B), NOON)
    (kept,) = desk.sql("SELECT sender, send_at, state, text_id, claimed_at FROM batch WHERE id = :i", i=batch.id)
    assert kept[:4] == ("Shop", int(NOON.timestamp()) * 1_000_000, "sending", batch.text_id)
    assert before.timestamp() <= kept[4] / 1e6 <= datetime.now(UTC).timestamp()


def test_a_claims_own_scheduled_time_replaces_the_campaigns(desk: Desk) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(2), send_at=NOON))
    later = NOON + timedelta(minutes=7)
    (guarded,) = desk.journal.claims.claim(run, requests=1, batch_size=1, send_at=later)
    (plain,) = desk.journal.claims.claim(run, requests=1, batch_size=1)
    assert (guarded.send_at, plain.send_at) == (later, NOON)


def test_a_campaign_claims_only_its_own_messages(desk: Desk) -> None:
    autumn, winter = desk.record(desk.same(3)), desk.record(desk.same(2), "winter")
    (batch,) = desk.journal.claims.claim(desk.journal.claims.start_run(winter), requests=10, batch_size=10)
    assert len(batch.msisdns) == 2
    assert (desk.counts(autumn), desk.counts(winter)) == ({"planned": 3}, {"sending": 2})


def test_messages_planned_later_are_claimed_too(desk: Desk) -> None:
    run, _ = desk.claimed(desk.same(2))
    desk.record(desk.same(5))
    (batch,) = desk.journal.claims.claim(run, requests=10, batch_size=10)
    assert len(batch.msisdns) == 3


def test_released_messages_are_put_into_new_batches(desk: Desk) -> None:
    run, batches = desk.claimed(desk.same(6), batch_size=2)
    for batch in batches:
        desk.settle(batch, "released")
    assert [batch.msisdns for batch in desk.journal.claims.claim(run, requests=9, batch_size=4)] == [
        tuple(desk.number(index) for index in range(4)),
        tuple(desk.number(index) for index in range(4, 6)),
    ]


def test_dropped_messages_are_not_claimed_and_the_others_are(desk: Desk) -> None:
    campaign = desk.record([*desk.same(3, "old"), *desk.personal(5), *desk.same(4, "new")], batch_size=2)
    with desk.recording(batch_size=2) as recording:
        before = list(recording.planned_before())
        recording.drop_planned([number for number, earlier in before if earlier.row <= 9 and earlier.row != 3])
    run = desk.journal.claims.start_run(campaign)
    claimed = list[Batch]()
    while batches := desk.journal.claims.claim(run, requests=1, batch_size=2):
        claimed += batches
    assert _shape(claimed) == [
        ("old", (desk.number(1),)),
        ("new", (desk.number(0), desk.number(1))),
        ("new", (desk.number(2), desk.number(3))),
    ]
    assert desk.counts(campaign) == {"sending": 5}


def test_splitting_halves_a_refused_request_in_order(desk: Desk) -> None:
    run, (batch,) = desk.claimed(desk.same(5), send_at=NOON)
    first, second = desk.journal.claims.split(run, batch.id)
    assert (*first.msisdns, *second.msisdns) == batch.msisdns
    assert (len(first.msisdns), len(second.msisdns)) == (2, 3)
    assert {(half.text, half.text_id, half.send_at) for half in (first, second)} == {
        (batch.text, batch.text_id, batch.send_at)
    }
    assert (desk.state(batch), desk.state(first), desk.state(second)) == ("split", "sending", "sending")
    assert desk.counts(run.campaign) == {"sending": 5}
    assert "this run no longer holds its claim" in desk.refusal(desk.journal.claims.split, run, batch.id)


@pytest.mark.parametrize("state", ["accepted", "in_doubt", "released", "refused"])
def test_only_a_request_that_is_being_sent_is_split(desk: Desk, state: str) -> None:
    run, (batch,) = desk.claimed(desk.same(4))
    desk.bring(batch, state)
    assert "this run no longer holds its claim" in desk.refusal(desk.journal.claims.split, run, batch.id)
    assert desk.state(batch) == state


# -- leases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", ["expired", "ended"])
def test_without_a_lease_a_run_cannot_claim_split_or_renew(desk: Desk, ended: str) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.same(4), batch_size=2))
    (batch,) = desk.journal.claims.claim(run, requests=1, batch_size=2)
    if ended == "expired":
        desk.expire(run)
    else:
        desk.journal.claims.end_run(run)
    assert desk.refusal(desk.journal.claims.claim, run, requests=1, batch_size=1) == LEASE_ENDED
    assert desk.refusal(desk.journal.claims.split, run, batch.id) == LEASE_ENDED
    assert desk.refusal(desk.journal.claims.renew, run) == LEASE_ENDED
    assert desk.counts(run.campaign)["planned"] == 2


def test_a_lease_lasts_while_it_is_renewed(desk: Desk) -> None:
    campaign = desk.record(desk.personal(3))
    run = desk.journal.claims.start_run(campaign, lease_s=60.0)
    for _ in range(3):
        desk.pass_time(run, 40.0)
        desk.journal.claims.renew(run)
        assert desk.journal.claims.expire_leases(campaign) == 0
    assert desk.journal.claims.claim(run, requests=1, batch_size=1)
    desk.pass_time(run, 61.0)
    with pytest.raises(JournalError, match="lease has ended"):
        desk.journal.claims.renew(run)


def test_nothing_of_a_cancelled_campaign_is_claimed(desk: Desk) -> None:
    campaign = desk.record(desk.personal(3))
    run = desk.journal.claims.start_run(campaign)
    desk.journal.claims.claim(run, requests=1, batch_size=1)
    desk.journal.campaigns.cancel(campaign)
    desk.journal.campaigns.cancel(campaign)  # a second time changes nothing
    with pytest.raises(CampaignCancelledError, match="'autumn' was cancelled"):
        desk.journal.claims.claim(run, requests=1, batch_size=1)
    with pytest.raises(CampaignCancelledError):
        desk.journal.claims.claim(desk.journal.claims.start_run(campaign), requests=1, batch_size=1)
    assert desk.counts(campaign) == {"planned": 2, "sending": 1}
    desk.claimed(desk.personal(1), name="winter")  # other campaigns are not affected


def test_no_claim_is_in_progress_when_cancel_returns(desk: Desk) -> None:
    campaign = desk.record(desk.personal(600))
    cancelled_at = list[float]()
    claimed = list[int]()
    journals = [desk.open() for _ in range(3)]
    begun = threading.Event()

    def claim(journal: Journal) -> None:
        run = journal.claims.start_run(campaign)
        try:
            while journal.claims.claim(run, requests=5, batch_size=1):
                begun.set()
        except CampaignCancelledError:
            return

    def cancel() -> None:
        begun.wait(30)
        desk.journal.campaigns.cancel(campaign)
        cancelled_at.append(time.time())
        claimed.append(desk.journal.campaigns.counts(campaign).sending)

    with ThreadPoolExecutor(4) as pool:
        calls = [*(pool.submit(claim, journal) for journal in journals), pool.submit(cancel)]
        for call in calls:
            call.result(60)
    assert desk.journal.campaigns.counts(campaign).sending == claimed[0]


# -- at the same time --------------------------------------------------------------------------------------------------


def _claim_all(url: str, campaign: CampaignKey, requests: int, batch_size: int) -> list[tuple[int, str, str]]:
    """Claim all messages; returns (batch, MSISDN, text)."""
    with Journal(url) as journal:
        return _claim_until_empty(journal, campaign, requests, batch_size)


def _claim_until_empty(
    journal: Journal, campaign: CampaignKey, requests: int, batch_size: int
) -> list[tuple[int, str, str]]:
    run, claims = journal.claims.start_run(campaign), list[tuple[int, str, str]]()
    while True:
        batches = journal.claims.claim(run, requests=requests, batch_size=batch_size)
        claims += [(batch.id, msisdn, batch.text) for batch in batches for msisdn in batch.msisdns]
        # Messages that another run is claiming may become free.
        if not batches and not journal.campaigns.counts(campaign).planned:
            return claims


def _assert_each_message_once(desk: Desk, campaign: CampaignKey, claims: list[list[tuple[int, str, str]]]) -> None:
    all_claims = [claim for run_claims in claims for claim in run_claims]
    expected = desk.sql("SELECT batch_id, msisdn, body FROM message JOIN text ON text.id = message.text_id")
    assert Counter(all_claims) == Counter(expected)
    assert max(Counter(claim[1:] for claim in all_claims).values()) == 1
    batch_ids = [{batch for batch, _, _ in run_claims} for run_claims in claims]
    assert sum(map(len, batch_ids)) == len(set().union(*batch_ids))
    assert desk.counts(campaign) == {"sending": len(expected)}


@pytest.mark.parametrize("batch_size", [1, 50])
def test_eight_threads_claim_each_message_once(desk: Desk, batch_size: int) -> None:
    pairs = [*desk.personal(200), *desk.same(80, "one"), *desk.same(80, "two")]
    campaign, journal = desk.record(pairs, batch_size=batch_size), desk.journal
    barrier = threading.Barrier(8)

    def claim(index: int) -> list[tuple[int, str, str]]:
        barrier.wait(30)
        return _claim_until_empty(journal, campaign, 5 + index, batch_size)

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(claim, range(8)))
    _assert_each_message_once(desk, campaign, claims)


@pytest.mark.parametrize(("requests", "batch_size"), [(16, 1), (3, 20)])
def test_two_processes_claim_each_message_once(desk: Desk, requests: int, batch_size: int) -> None:
    pairs = [*desk.personal(400), *desk.same(90, "one"), *desk.same(90, "two")]
    campaign = desk.record(pairs, batch_size=batch_size)
    claims = desk.in_processes(_claim_all, [campaign, requests, batch_size], [campaign, requests, batch_size])
    _assert_each_message_once(desk, campaign, claims)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_two_claims_at_the_same_instant_stay_separate(
    desk: Desk, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock may be coarse or set back, so the time alone does not identify a claim."""
    run = desk.journal.claims.start_run(desk.record(desk.same(8), batch_size=batch_size))
    now = datetime.now(UTC)
    monkeypatch.setattr("prefect_mymsp.journal.claims._now", lambda: now)
    first = desk.journal.claims.claim(run, requests=2, batch_size=batch_size)
    second = desk.journal.claims.claim(run, requests=2, batch_size=batch_size)
    assert {batch.id for batch in first}.isdisjoint({batch.id for batch in second})
    assert len(first) == len(second) == 2
    if batch_size == 2:
        halves = desk.journal.claims.split(run, first[0].id)
        assert {batch.id for batch in halves}.isdisjoint({batch.id for batch in (*first, *second)})
        assert [len(batch.msisdns) for batch in halves] == [1, 1]


# -- durability --------------------------------------------------------------------------------------------------------


def test_a_claim_is_committed_before_it_returns(desk: Desk) -> None:
    run, batches = desk.claimed(desk.personal(3))
    with desk.open() as other:
        assert other.campaigns.counts(run.campaign).sending == 3
    assert desk.sql("SELECT id FROM batch WHERE state = 'sending' ORDER BY id") == [(batch.id,) for batch in batches]
    halves = desk.journal.claims.split(run, batches[0].id)
    assert desk.state(halves[0]) == "sending"


def _claim_and_wait(url: str, campaign: CampaignKey, results: Connection) -> None:
    journal = Journal(url)
    batches = journal.claims.claim(journal.claims.start_run(campaign), requests=5, batch_size=1)
    results.send([(batch.id, batch.msisdns, batch.text) for batch in batches])
    time.sleep(60)


def test_a_claim_survives_a_process_killed_right_after_it(desk: Desk, forkserver: ForkServerContext) -> None:
    campaign = desk.record(desk.personal(8))
    desk.journal.close()
    receiver, sender = forkserver.Pipe(duplex=False)
    child = forkserver.Process(target=_claim_and_wait, args=(desk.url, campaign, sender))
    child.start()
    sender.close()
    assert receiver.poll(60)
    claimed = receiver.recv()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    child.close()
    receiver.close()
    with desk.open() as other:
        assert other.campaigns.counts(campaign).sending == 5
        assert other.deliveries.recipients([batch for batch, _, _ in claimed]) == {
            batch: set(msisdns) for batch, msisdns, _ in claimed
        }
        desk.sql("UPDATE run SET lease_until = 1")
        assert other.claims.expire_leases(campaign) == 5
        rest = other.claims.claim(other.claims.start_run(campaign), requests=50, batch_size=1)
    assert {batch.text for batch in rest}.isdisjoint({text for _, _, text in claimed})
    assert desk.counts(campaign) == {"sending": 3, "in_doubt": 5}


def test_a_campaign_has_planned_messages_until_all_are_claimed(desk: Desk) -> None:
    campaign = desk.record(desk.personal(2))
    assert desk.journal.claims.has_planned(campaign)
    run = desk.journal.claims.start_run(campaign)
    (first,) = desk.journal.claims.claim(run, requests=1, batch_size=1)
    assert desk.journal.claims.has_planned(campaign)
    (second,) = desk.journal.claims.claim(run, requests=1, batch_size=1)
    assert not desk.journal.claims.has_planned(campaign)
    desk.settle(first, "accepted")
    desk.settle(second, "released")
    assert desk.journal.claims.has_planned(campaign)  # the released message is in no batch
    assert not desk.journal.claims.has_planned(desk.record([], name="winter"))


def test_a_campaign_was_last_active_when_its_last_run_or_lease_ended(desk: Desk) -> None:
    campaign = desk.record(desk.personal(1))
    assert desk.journal.claims.last_active(campaign) is None
    before = datetime.now(UTC)
    run = desk.journal.claims.start_run(campaign, lease_s=30.0)
    alive = desk.journal.claims.last_active(campaign)
    assert alive is not None
    assert timedelta(seconds=29) < alive - before < timedelta(seconds=40)  # until its lease ends
    desk.journal.claims.end_run(run)
    ended = desk.journal.claims.last_active(campaign)
    assert ended is not None
    assert before < ended < alive
    desk.expire(desk.journal.claims.start_run(campaign))
    assert desk.journal.claims.last_active(campaign) == ended
