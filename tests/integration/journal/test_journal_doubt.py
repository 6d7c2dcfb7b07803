"""Requests in doubt: interrupted, watched, settled by evidence or by a person."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

import pytest

from prefect_mymsp.journal import CampaignKey, Journal
from prefect_mymsp.models import Decision

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

A, B, C = "46701740605", "46701740606", "46701740607"
NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)
EARLIER = NOON - timedelta(hours=1)


# -- dead processes ----------------------------------------------------------------------------------------------------


def test_only_claims_with_an_ended_lease_are_put_in_doubt(desk: Desk) -> None:
    campaign = desk.record(desk.personal(4))
    living, dead = desk.journal.claims.start_run(campaign), desk.journal.claims.start_run(campaign)
    (kept,) = desk.journal.claims.claim(living, requests=1, batch_size=1)
    lost = desk.journal.claims.claim(dead, requests=2, batch_size=1)
    assert desk.journal.claims.expire_leases(campaign) == 0
    desk.expire(dead)
    assert desk.journal.claims.expire_leases(campaign) == 2
    assert [(desk.state(batch), desk.reason(batch)) for batch in lost] == [("in_doubt", "interrupted")] * 2
    assert desk.state(kept) == "sending"
    assert desk.journal.claims.expire_leases(campaign) == 0
    assert desk.counts(campaign) == {"planned": 1, "sending": 1, "in_doubt": 2}
    assert desk.one("SELECT count(*) FROM batch WHERE doubted_at = settled_at") == 2


def test_expiring_leases_leaves_settled_requests_and_other_campaigns_alone(desk: Desk) -> None:
    run, batches = desk.claimed(desk.personal(3))
    other, (other_batch,) = desk.claimed(desk.same(1), name="winter")
    desk.settle(batches[0], "accepted")
    desk.settle(batches[1], "refused")
    desk.expire(run)
    desk.expire(other)
    assert desk.journal.claims.expire_leases(run.campaign) == 1
    assert [desk.state(batch) for batch in (*batches, other_batch)] == ["accepted", "refused", "in_doubt", "sending"]


def test_ending_a_run_puts_its_unsettled_requests_in_doubt(desk: Desk) -> None:
    campaign = desk.record(desk.personal(3))
    ending, other = desk.journal.claims.start_run(campaign), desk.journal.claims.start_run(campaign)
    done, lost = desk.journal.claims.claim(ending, requests=2, batch_size=1)
    (other_batch,) = desk.journal.claims.claim(other, requests=1, batch_size=1)
    desk.settle(done, "accepted")
    desk.journal.claims.end_run(ending)
    assert [desk.state(batch) for batch in (done, lost, other_batch)] == ["accepted", "in_doubt", "sending"]
    assert desk.reason(lost) == "interrupted"
    desk.journal.claims.end_run(ending)
    assert desk.counts(campaign) == {"accepted": 1, "in_doubt": 1, "sending": 1}


def _expire_leases(url: str, campaign: CampaignKey) -> int:
    with Journal(url) as journal:
        return journal.claims.expire_leases(campaign)


def test_two_processes_expire_leases_once(desk: Desk) -> None:
    run, _ = desk.claimed(desk.personal(50))
    desk.expire(run)
    assert sorted(desk.in_processes(_expire_leases, [run.campaign], [run.campaign])) == [0, 50]


def test_requests_of_other_runs_in_flight_are_detected(desk: Desk) -> None:
    campaign = desk.record(desk.personal(2))
    run, other = desk.journal.claims.start_run(campaign), desk.journal.claims.start_run(campaign)
    desk.journal.claims.claim(run, requests=1, batch_size=1)
    assert not desk.journal.claims.others_sending(campaign, run)
    assert desk.journal.claims.others_sending(campaign, other)
    (other_batch,) = desk.journal.claims.claim(other, requests=1, batch_size=1)
    assert desk.journal.claims.others_sending(campaign, run)
    desk.settle(other_batch, "in_doubt")
    assert not desk.journal.claims.others_sending(campaign, run)
    third = desk.journal.claims.start_run(desk.record(desk.same(1), "winter"))
    desk.journal.claims.claim(third, requests=1, batch_size=1)
    assert not desk.journal.claims.others_sending(campaign, run)


# -- watched ---------------------------------------------------------------------------------------------------------


def test_scheduled_requests_once_in_doubt_or_in_flight_are_watched(desk: Desk) -> None:
    states = ("sending", "accepted", "refused", "in_doubt", "released")
    run, batches = desk.claimed([(msisdn, text) for text in states for msisdn in (A, B)], send_at=NOON)
    for batch, state in zip(batches, states, strict=True):
        desk.bring(batch, state)
    assert {batch.state for batch in desk.journal.doubt.watched(run.campaign, EARLIER)} == {"sending", "in_doubt"}
    doubted = desk.journal.claims.claim(run, requests=1, batch_size=1)
    desk.settle(doubted[0], "in_doubt")
    desk.settle(doubted[0], "accepted")
    watched = desk.journal.doubt.watched(run.campaign, EARLIER)
    assert [(batch.id, batch.state) for batch in watched] == [
        (batches[0].id, "sending"),
        (batches[3].id, "in_doubt"),
        (doubted[0].id, "accepted"),
    ]
    assert [batch.msisdns for batch in watched] == [{A, B}, {A, B}, {A}]
    assert [batch.text_id for batch in watched] == [batches[0].text_id, batches[3].text_id, doubted[0].text_id]
    assert watched[0].settled_at is None
    assert watched[1].settled_at is not None
    assert {batch.send_at for batch in watched} == {NOON}
    assert desk.journal.doubt.watched(run.campaign, NOON) == []


def test_a_released_request_that_was_in_doubt_keeps_its_recipients(desk: Desk) -> None:
    run, (batch,) = desk.claimed([(A, "x"), (B, "x"), (C, "x")], send_at=NOON)
    desk.settle(batch, "in_doubt")
    desk.settle(batch, "released", reason="absent")
    first, second = desk.journal.claims.claim(run, requests=2, batch_size=2)
    desk.settle(first, "accepted")
    desk.settle(second, "in_doubt")
    released, doubt = desk.journal.doubt.watched(run.campaign, EARLIER)
    assert (released.id, released.state, released.msisdns) == (batch.id, "released", frozenset({A, B, C}))
    assert (doubt.id, doubt.state, doubt.msisdns) == (second.id, "in_doubt", frozenset({C}))
    desk.journal.doubt.resolve(run.campaign, "not-sent")
    assert [batch.msisdns for batch in desk.journal.doubt.watched(run.campaign, EARLIER)] == [{A, B, C}, {C}]


def test_other_released_requests_keep_no_recipients(desk: Desk) -> None:
    run, (scheduled,) = desk.claimed([(A, "x")], send_at=NOON)
    desk.settle(scheduled, "released")
    other, (at_once,) = desk.claimed([(A, "x")], name="winter")
    desk.settle(at_once, "in_doubt")
    desk.settle(at_once, "released")
    assert desk.journal.doubt.watched(run.campaign, EARLIER) == []
    assert desk.journal.doubt.watched(other.campaign, EARLIER) == []
    assert desk.sql("SELECT * FROM released_recipient") == []


def test_many_requests_are_watched(desk: Desk) -> None:
    run, batches = desk.claimed(desk.personal(2000), send_at=NOON)
    desk.expire(run)
    assert desk.journal.claims.expire_leases(run.campaign) == 2000
    watched = desk.journal.doubt.watched(run.campaign, EARLIER)
    assert [(batch.id, batch.msisdns) for batch in watched] == [
        (batch.id, frozenset(batch.msisdns)) for batch in batches
    ]


def test_message_ids_of_every_campaign_of_the_account_are_known(desk: Desk) -> None:
    run, (own,) = desk.claimed([(A, "x")])
    _, (sister,) = desk.claimed([(A, "x")], name="winter")
    _, (stranger,) = desk.claimed([(A, "x")], name="spring", account="f" * 32)
    for batch, message_id in ((own, "1"), (sister, "2"), (stranger, "3")):
        desk.settle(batch, "accepted", message_id=message_id)
    desk.journal.schedule.mark_cancelled([sister.id])
    assert desk.journal.doubt.known_message_ids(run.campaign, ["1", "2", "3", "4"]) == {"1", "2"}
    assert desk.journal.doubt.known_message_ids(run.campaign, []) == set()
    assert desk.journal.doubt.known_message_ids(run.campaign, [str(index) for index in range(5000)]) == {"1", "2"}


# -- evidence and decisions --------------------------------------------------------------------------------------------


def test_rejecting_a_message_id_puts_the_request_in_doubt(desk: Desk) -> None:
    run, (batch, other) = desk.claimed([(A, "x"), (A, "y")])
    desk.settle(batch, "accepted", message_id="99")
    desk.journal.doubt.confirm_message_ids([batch.id])
    desk.journal.deliveries.record_statuses({}, archived=[batch.id])
    desk.journal.doubt.reject_message_id(batch.id, "id-of-others")
    assert (desk.state(batch), desk.reason(batch)) == ("in_doubt", "id-of-others")
    assert desk.counts(run.campaign) == {"in_doubt": 1, "sending": 1}
    desk.settle(other, "accepted", message_id="99")  # the id is free again
    assert desk.state(other) == "accepted"
    desk.settle(batch, "accepted", message_id="100")  # the confirmation of the wrong id is deleted
    opened = {batch.id: batch for batch in desk.journal.deliveries.open_batches(run.campaign)}
    assert not opened[batch.id].confirmed


@pytest.mark.parametrize("state", ["sending", "refused", "in_doubt", "released", "assumed", "cancelled"])
def test_only_an_accepted_requests_message_id_is_rejected(desk: Desk, state: str) -> None:
    _, (batch,) = desk.claimed([(A, "x")])
    desk.bring(batch, state)
    before = desk.sql("SELECT * FROM batch")
    desk.journal.doubt.reject_message_id(batch.id, "id-of-others")
    assert desk.sql("SELECT * FROM batch") == before


def test_rejecting_a_message_id_keeps_the_first_time_in_doubt(desk: Desk) -> None:
    _, (batch,) = desk.claimed([(A, "x")], send_at=NOON)
    desk.settle(batch, "in_doubt")
    first = desk.one("SELECT doubted_at FROM batch")
    desk.settle(batch, "accepted")
    desk.journal.doubt.reject_message_id(batch.id, "id-of-others")
    assert desk.one("SELECT doubted_at FROM batch") == first


@pytest.mark.parametrize("decision", get_args(Decision))
def test_resolving_settles_only_requests_in_doubt(desk: Desk, decision: Decision) -> None:
    states = ("sending", "accepted", "refused", "in_doubt", "assumed", "cancelled")
    run, batches = desk.claimed([(msisdn, text) for text in states for msisdn in (A, B, C)])
    for batch, state in zip(batches, states, strict=True):
        desk.bring(batch, state)
    assert desk.journal.doubt.resolve(run.campaign, decision) == 3
    after = {**dict.fromkeys(states, 3)}
    del after["in_doubt"]
    if decision == "sent":
        after["assumed"] += 3
    else:
        after["planned"] = 3
    assert desk.counts(run.campaign) == after
    assert desk.reason(batches[3]) == "decided"
    assert desk.journal.doubt.resolve(run.campaign, decision) == 0


def test_many_requests_are_resolved(desk: Desk) -> None:
    run, _ = desk.claimed(desk.personal(2000), send_at=NOON)
    desk.expire(run)
    desk.journal.claims.expire_leases(run.campaign)
    assert desk.journal.doubt.resolve(run.campaign, "not-sent") == 2000
    assert desk.counts(run.campaign) == {"planned": 2000}
    assert desk.one("SELECT count(*) FROM released_recipient") == 2000


def test_an_outcome_after_the_decision_changes_nothing(desk: Desk) -> None:
    run, (batch,) = desk.claimed([(A, "x")])
    desk.settle(batch, "in_doubt")
    desk.journal.doubt.resolve(run.campaign, "sent")
    desk.settle(batch, "accepted")
    assert desk.counts(run.campaign) == {"assumed": 1}


# -- stopping ----------------------------------------------------------------------------------------------------------


def test_scheduled_requests_are_accepted_and_in_the_future(desk: Desk) -> None:
    states = ("sending", "accepted", "in_doubt", "cancelled")
    run, batches = desk.claimed([(A, text) for text in states], send_at=NOON)
    for batch, state in zip(batches, states, strict=True):
        desk.bring(batch, state)
    ((message_id, scheduled),) = desk.journal.schedule.batches(run.campaign, EARLIER).items()
    assert (message_id, scheduled.id, scheduled.send_at) == (str(7_000_000 + batches[1].id), batches[1].id, NOON)
    assert abs(scheduled.settled_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert desk.journal.schedule.batches(run.campaign, NOON) == {}
    at_once, (plain,) = desk.claimed([(A, "x")], name="winter")
    desk.settle(plain, "accepted")
    assert desk.journal.schedule.batches(at_once.campaign, EARLIER) == {}


def test_only_accepted_requests_are_marked_cancelled(desk: Desk) -> None:
    states = ("accepted", "sending", "refused", "in_doubt", "assumed")
    run, batches = desk.claimed([(msisdn, text) for text in states for msisdn in (A, B)], send_at=NOON)
    for batch, state in zip(batches, states, strict=True):
        desk.bring(batch, state)
    desk.journal.schedule.mark_cancelled([batch.id for batch in batches])
    assert [desk.state(batch) for batch in batches] == ["cancelled", *states[1:]]
    assert desk.counts(run.campaign) == {**dict.fromkeys(states[1:], 2), "cancelled": 2}
    assert desk.journal.deliveries.open_batches(run.campaign) == []
    desk.journal.schedule.mark_cancelled([])
