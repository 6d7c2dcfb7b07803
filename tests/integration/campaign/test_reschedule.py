"""Another delivery time for a scheduled campaign: journal and gateway agree afterwards, whatever got lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from prefect_mymsp.campaign import CampaignContext, Cancelled, ReconcileOptions, Rescheduled, reschedule_at_gateway
from prefect_mymsp.errors import CampaignStoppedError, InputError, JournalError, NotSentError
from prefect_mymsp.journal import CampaignKey, Outcome
from prefect_mymsp.sandbox import Fault
from tests.integration.campaign.bench import SOON, A, B, Bench, C, D

LATER, SOONER = SOON + timedelta(hours=5, minutes=7), SOON - timedelta(minutes=30)
PEOPLE = [(A, "Hello"), (B, "Hello B"), (C, "Hello C"), (D, "Hello D")]
UPDATE, GET = ("sendlater/update",), ("sendlater/get",)


def reschedule(bench: Bench, campaign: CampaignKey, send_at: datetime, *, rounds: int = 5) -> Rescheduled:
    async def run() -> Rescheduled:
        async with bench.client(connections=2) as client:
            with CampaignContext(bench.journal, client, campaign.account) as context:
                return await reschedule_at_gateway(context, campaign, send_at, rounds=rounds)

    return asyncio.run(run())


def scheduled(bench: Bench) -> CampaignKey:
    campaign = bench.record(PEOPLE, send_at=SOON)
    assert bench.send(campaign).accepted == 4
    return campaign


def at_gateway(bench: Bench) -> Counter[datetime]:
    """For when the gateway has how many messages that are not cancelled."""
    return Counter(
        datetime.fromisoformat(message["scheduled_at"]).astimezone(UTC)
        for message in bench.gateway.ledger()
        if not message["cancelled"]
    )


def in_journal(bench: Bench) -> Counter[tuple[datetime, datetime | None]]:
    """For when the journal has how many requests, and to when they are moving."""
    key = bench.journal.campaigns.get(bench.account, "campaign")
    assert key is not None
    waiting = bench.journal.schedule.batches(key, datetime.now(UTC), include_moving=True)
    return Counter((batch.send_at, batch.rescheduled_to) for batch in waiting.values())


def agreed(bench: Bench, send_at: datetime, count: int = 4) -> bool:
    return at_gateway(bench) == {send_at: count} and in_journal(bench) == {(send_at, None): count}


def now_key(bench: Bench) -> CampaignKey:
    key = bench.journal.campaigns.get(bench.account, "campaign")
    assert key is not None
    return key


# -- moving ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("send_at", [LATER, SOONER])
def test_all_waiting_requests_are_moved(bench: Bench, send_at: datetime) -> None:
    campaign = scheduled(bench)
    result = reschedule(bench, campaign, send_at)
    assert result == Rescheduled(moved=4, sent=0, unknown=0, changed=0, planned=0, assumed=0)
    assert agreed(bench, send_at)
    assert now_key(bench).send_at == send_at
    assert bench.requests == 4
    # Afterwards the gateway's list agrees with the journal.
    counts = bench.follow(now_key(bench), deadline_s=0.5)
    assert (counts.accepted, counts.in_doubt) == (4, 0)
    assert set(bench.sent.values()) == {1}


def test_seconds_are_rounded_up_as_the_gateway_does(bench: Bench) -> None:
    campaign = scheduled(bench)
    reschedule(bench, campaign, LATER - timedelta(seconds=59))
    assert agreed(bench, LATER)


def test_planned_messages_are_sent_for_the_new_time(bench: Bench) -> None:
    campaign = bench.record(PEOPLE, send_at=SOON)
    bench.gateway.configure({"accounts": {bench.sandbox.user: {"max_messages": 2}}})
    with pytest.raises(CampaignStoppedError):
        bench.send(campaign, connections=1)
    result = reschedule(bench, campaign, LATER)
    assert (result.moved, result.planned) == (2, 2)
    with pytest.raises(InputError, match="has been rescheduled"):
        bench.send(campaign)  # it would still send for the old time
    with pytest.raises(InputError, match="another sender or scheduled time"):
        bench.record(PEOPLE, send_at=SOON)
    bench.gateway.configure({"accounts": {bench.sandbox.user: {"max_messages": None}}})
    assert bench.send(bench.record(PEOPLE, send_at=LATER)).accepted == 4
    assert agreed(bench, LATER)
    assert set(bench.sent.values()) == {1}


def test_a_campaign_that_was_never_sent_is_rescheduled(bench: Bench) -> None:
    campaign = bench.record(PEOPLE, send_at=SOON)
    assert reschedule(bench, campaign, LATER).planned == 4
    assert bench.send(now_key(bench)).accepted == 4
    assert agreed(bench, LATER)


def test_requests_keep_their_distance_in_time(bench: Bench) -> None:
    """A campaign may be spread over several minutes."""
    campaign = bench.record(PEOPLE, send_at=SOON)
    run = bench.journal.claims.start_run(campaign)
    for minutes, client_id in enumerate(("one", "two")):
        (batch,) = bench.journal.claims.claim(run, requests=1, batch_size=1, send_at=SOON + timedelta(minutes=minutes))
        bench.post(batch.msisdns[0], client_id, SOON + timedelta(minutes=minutes))
        message_id = bench.gateway.ledger()[-1]["id"]
        bench.journal.claims.settle([Outcome(batch.id, "accepted", datetime.now(UTC), message_id=message_id)])
    bench.journal.claims.end_run(run)
    assert reschedule(bench, campaign, LATER).moved == 2
    assert at_gateway(bench) == {LATER: 1, LATER + timedelta(minutes=1): 1}
    assert in_journal(bench) == {(LATER, None): 1, (LATER + timedelta(minutes=1), None): 1}


def test_a_campaign_is_rescheduled_back(bench: Bench) -> None:
    campaign = scheduled(bench)
    for send_at in (LATER, SOONER, LATER, SOON):
        assert reschedule(bench, campaign, send_at).moved == 4
        assert agreed(bench, send_at)
    assert reschedule(bench, campaign, SOON) == Rescheduled(0, 0, 0, 0, 0, 0)  # it waits for that time already


# -- lost responses ----------------------------------------------------------------------------------------------------

LOST = [
    [Fault("response_lost", endpoints=UPDATE, times=4)],
    [Fault("lost_before", endpoints=UPDATE, times=4)],
    [Fault("error_after", endpoints=UPDATE), Fault("error_before", endpoints=UPDATE), Fault("html", endpoints=UPDATE)],
    [Fault("truncated", endpoints=UPDATE, times=2), Fault("empty", endpoints=UPDATE, times=2)],
    [Fault("response_lost", endpoints=UPDATE, times=4), Fault("response_lost", endpoints=GET, times=3)],
    [Fault("late", endpoints=UPDATE, delay_s=60.0, times=2)],
]


@pytest.mark.parametrize("faults", LOST, ids=lambda faults: "-".join(fault.kind for fault in faults))
def test_a_lost_response_is_looked_up(bench: Bench, faults: list[Fault]) -> None:
    campaign = scheduled(bench)
    bench.fault(*faults)
    assert reschedule(bench, campaign, LATER) == Rescheduled(4, 0, 0, 0, 0, 0)
    assert agreed(bench, LATER)
    bench.gateway.clock.advance(120)  # late requests have arrived
    assert agreed(bench, LATER)
    assert set(bench.sent.values()) == {1}


def test_unknown_requests_are_reported_and_moved_by_the_next_call(bench: Bench) -> None:
    campaign = scheduled(bench)
    bench.fault(Fault("response_lost", endpoints=UPDATE, times=100), Fault("empty", endpoints=GET, times=100))
    assert reschedule(bench, campaign, LATER, rounds=2).unknown == 4
    assert in_journal(bench) == {(SOON, LATER): 4}
    bench.fault()
    with pytest.raises(InputError, match="is still being rescheduled"):
        reschedule(bench, campaign, SOONER)
    assert reschedule(bench, campaign, LATER) == Rescheduled(4, 0, 0, 0, 0, 0)
    assert agreed(bench, LATER)


def dies_before_the_first_request(bench: Bench, campaign: CampaignKey) -> None:
    reschedule(bench, campaign, LATER, rounds=0)


def dies_before_anything_is_recorded(bench: Bench, campaign: CampaignKey) -> None:
    waiting = bench.journal.schedule.reschedule(campaign, LATER)
    for message_id in list(waiting)[:2]:
        form = f"user={bench.sandbox.user}&pwd={bench.sandbox.password}&msgno={message_id}&deliverytime="
        form += f"{LATER:%Y%m%d%H%M}%2B0"
        assert bench.gateway.handle("POST", "sendlater/update", b"", form.encode()).body.startswith(b"A")


@pytest.mark.parametrize("dies", [dies_before_the_first_request, dies_before_anything_is_recorded])
def test_a_process_that_dies_on_the_way_loses_nothing(bench: Bench, dies: Callable[[Bench, CampaignKey], None]) -> None:
    campaign = scheduled(bench)
    dies(bench, campaign)
    # A reconciliation meanwhile accepts both times: it checks no id and rejects none.
    bench.send(now_key(bench), reconcile=ReconcileOptions(late_arrival_s=0.0, interval_s=0.05))
    assert bench.request_count("sendlater/getall") > 0
    assert bench.request_count("getSmsResult") == 0
    for _ in range(2):
        bench.follow(now_key(bench), deadline_s=0.6)
    counts = bench.journal.campaigns.counts(campaign)
    assert (counts.accepted, counts.in_doubt, counts.planned) == (4, 0, 0)
    assert reschedule(bench, campaign, LATER).moved == 4
    assert agreed(bench, LATER)
    assert set(bench.sent.values()) == {1}
    assert bench.requests == 4


def test_a_journal_that_fails_on_the_way_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise JournalError("The disk is full.")

    campaign = scheduled(bench)
    with monkeypatch.context() as patching:
        patching.setattr(bench.journal.schedule, "mark_rescheduled", fails)
        with pytest.raises(JournalError, match="disk is full"):
            reschedule(bench, campaign, LATER)
    assert in_journal(bench) == {(SOON, LATER): 4}
    assert reschedule(bench, campaign, LATER).moved == 4
    assert agreed(bench, LATER)


def test_requests_being_moved_are_cancelled_with_the_campaign(bench: Bench) -> None:
    campaign = scheduled(bench)
    dies_before_anything_is_recorded(bench, campaign)
    with bench.journal._database.write() as connection:  # the old time passes
        connection.exec_driver_sql("UPDATE batch SET send_at = send_at - 7200000000")
    bench.journal.campaigns.cancel(campaign)
    assert bench.cancel(campaign) == Cancelled(cancelled=4, sent=0, unknown=0)
    assert bench.sent == {}


def test_without_the_gateways_list_nothing_changes(bench: Bench) -> None:
    campaign = scheduled(bench)
    bench.gateway.configure({"accounts": {bench.sandbox.user: {"password": "another"}}})
    with pytest.raises(NotSentError):
        reschedule(bench, campaign, LATER)
    assert now_key(bench).send_at == SOON
    assert agreed(bench, SOON)


# -- requests that are not moved ---------------------------------------------------------------------------------------


def test_requests_that_were_sent_are_reported(bench: Bench) -> None:
    campaign = scheduled(bench)
    bench.gateway.clock.advance(2 * 3600)
    assert reschedule(bench, campaign, LATER) == Rescheduled(
        moved=0, sent=4, unknown=0, changed=0, planned=0, assumed=0
    )
    assert in_journal(bench) == {(SOON, None): 4}
    assert bench.follow(now_key(bench), deadline_s=2.0).delivered == 4


def test_requests_that_somebody_else_changed_stay_as_they_are(bench: Bench) -> None:
    campaign = scheduled(bench)
    other = SOON + timedelta(minutes=11)
    ids = [message["id"] for message in bench.gateway.ledger()]
    login = f"user={bench.sandbox.user}&pwd={bench.sandbox.password}"
    bench.gateway.handle("POST", "sendlater/cancel", b"", f"{login}&msgno={ids[0]}".encode())
    moved = f"{login}&msgno={ids[1]}&deliverytime={other:%Y%m%d%H%M}%2B0"
    bench.gateway.handle("POST", "sendlater/update", b"", moved.encode())
    assert reschedule(bench, campaign, LATER) == Rescheduled(2, 0, 0, changed=2, planned=0, assumed=0)
    assert at_gateway(bench) == {LATER: 2, other: 1}
    assert in_journal(bench) == {(LATER, None): 2, (SOON, None): 2}
    assert reschedule(bench, campaign, SOONER).moved == 2  # and do not prevent the next rescheduling


def test_foreign_messages_are_never_moved(bench: Bench) -> None:
    bench.post(D, "Foreign", SOON + timedelta(minutes=3))
    foreign = bench.gateway.ledger()[0]["id"]
    campaign = scheduled(bench)
    with (
        bench.journal._database.write() as connection
    ):  # as if an id had been cut short, which is then another message's
        connection.exec_driver_sql("UPDATE batch SET message_id = ? WHERE id = (SELECT min(id) FROM batch)", (foreign,))
    result = reschedule(bench, campaign, LATER)
    assert (result.moved, result.changed) == (3, 1)
    (message,) = [message for message in bench.gateway.ledger() if message["text"] == "Foreign"]
    assert datetime.fromisoformat(message["scheduled_at"]) == SOON + timedelta(minutes=3)


@pytest.fixture
def doubtful(bench: Bench) -> CampaignKey:
    """A campaign with one request in doubt."""
    campaign = bench.record(PEOPLE, send_at=SOON)
    run = bench.journal.claims.start_run(campaign)
    (batch,) = bench.journal.claims.claim(run, requests=1, batch_size=1)
    bench.journal.claims.settle([Outcome(batch.id, "in_doubt", datetime.now(UTC), reason="timeout")])
    bench.journal.claims.end_run(run)
    return campaign


def test_a_listed_request_in_doubt_is_linked_first(bench: Bench, doubtful: CampaignKey) -> None:
    bench.post(A, "Hello", SOON)
    result = reschedule(bench, doubtful, LATER)
    assert (result.moved, result.planned) == (1, 3)
    assert bench.send(now_key(bench)).accepted == 4
    assert agreed(bench, LATER)


def test_a_request_that_may_arrive_at_the_old_time_must_be_settled_first(bench: Bench, doubtful: CampaignKey) -> None:
    with pytest.raises(InputError, match=r"1 messages of campaign 'campaign' are in doubt.*resolve_campaign"):
        reschedule(bench, doubtful, LATER)
    assert now_key(bench).send_at == SOON
    bench.journal.doubt.resolve(doubtful, "sent")
    result = reschedule(bench, doubtful, LATER)
    assert (result.planned, result.assumed) == (3, 1)


def test_a_request_that_arrives_at_the_old_time_is_cancelled(bench: Bench, doubtful: CampaignKey) -> None:
    bench.journal.doubt.resolve(doubtful, "not-sent")
    reschedule(bench, doubtful, LATER)
    assert bench.send(now_key(bench)).accepted == 4
    (first,) = [message for message in bench.gateway.ledger() if message["text"] == "Hello"]
    bench.post(A, "Hello", SOON)  # the request that was in doubt
    assert bench.sent[A, "Hello"] == 2
    bench.follow(now_key(bench), deadline_s=1.0)
    assert bench.sent[A, "Hello"] == 1
    assert not next(message for message in bench.gateway.ledger() if message["id"] == first["id"])["cancelled"]
    assert agreed(bench, LATER)


def test_claims_of_a_dead_run_are_in_doubt(bench: Bench) -> None:
    campaign = bench.record(PEOPLE, send_at=SOON)
    run = bench.journal.claims.start_run(campaign)
    bench.journal.claims.claim(run, requests=1, batch_size=1)
    with pytest.raises(InputError, match="is being sent"):
        reschedule(bench, campaign, LATER)
    with bench.journal._database.write() as connection:
        connection.exec_driver_sql("UPDATE run SET lease_until = 1")
    with pytest.raises(InputError, match="are in doubt"):
        reschedule(bench, campaign, LATER)
    assert now_key(bench).send_at == SOON


def test_campaigns_that_cannot_be_rescheduled(bench: Bench) -> None:
    campaign = scheduled(bench)
    with pytest.raises(InputError, match="not in the future"):
        reschedule(bench, campaign, datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(InputError, match="no time zone"):
        reschedule(bench, campaign, datetime(2040, 1, 1, 12, 0))
    at_once = bench.record([(A, "At once")], name="at once")
    with pytest.raises(InputError, match="has no scheduled time"):
        reschedule(bench, at_once, LATER)
    with bench.journal._database.write() as connection:
        connection.exec_driver_sql("UPDATE batch SET send_at = 1 WHERE send_at IS NOT NULL")
    with pytest.raises(InputError, match="was sent; there is nothing to reschedule"):
        reschedule(bench, campaign, LATER)
    bench.journal.campaigns.cancel(campaign)
    with pytest.raises(InputError, match="was cancelled"):
        reschedule(bench, campaign, LATER)
    assert at_gateway(bench) == {SOON: 4}
