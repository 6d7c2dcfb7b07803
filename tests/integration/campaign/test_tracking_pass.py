"""Tracking passes over an account, on both databases, against a gateway with and without faults."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from prefect_mymsp.campaign import (
    CompletionLog,
    ReconcileOptions,
    TrackingResult,
    TrackOptions,
    track,
    track_account,
)
from prefect_mymsp.errors import InputError, RefusedError
from prefect_mymsp.journal import Counts
from prefect_mymsp.sandbox import Fault

if TYPE_CHECKING:
    pass

from tests.integration.campaign.lab import DAYS, LOOK, NEVER, SOON, A, B, C, Lab


def test_a_pass_polls_only_open_messages(lab: Lab) -> None:
    first = lab.sent([(A, "x"), (B, "x"), (C, "y")])
    second = lab.sent([(NEVER, "x"), (A, "x")], "winter")
    result = lab.track()
    assert [(progress.campaign, progress.complete, progress.newly_delivered) for progress in result.campaigns] == [
        (second, False, 1),
        (first, True, 3),
    ]
    assert (result.campaigns[0].pending.open, result.campaigns[1].pending.open) == (2, 0)
    assert (result.requests, result.without_response, result.incomplete, result.refusal) == (3, 0, False, None)
    completions = CompletionLog(lab.journal, lab.account)
    completions.mark_reported(result.campaigns[1])
    again = lab.track()
    assert [progress.campaign for progress in again.campaigns] == [second]
    assert (again.requests, again.campaigns[0].newly_delivered) == (1, 0)
    assert again.campaigns[0].todo() == ""


def test_a_pass_without_campaigns_makes_no_request(lab: Lab) -> None:
    assert lab.track() == TrackingResult((), 0, 0, False, None)
    assert lab.gateway.request_count == 0


def test_the_next_pass_continues_where_the_budget_ended(lab: Lab) -> None:
    lab.sent([(NEVER, f"text {number}") for number in range(7)])
    lab.sent([(NEVER, "x")], "winter")
    polled: list[int] = []
    for _ in range(4):
        result = lab.track(max_requests=3)
        assert result.requests == 3
        assert result.incomplete
        polled.append(lab.desk.one("SELECT count(*) FROM batch WHERE confirmed_at IS NOT NULL"))
    # Each pass polls the small campaign, and every request of the large one once before any of them again.
    assert polled == [3, 5, 7, 8]
    complete = lab.track(max_requests=100)
    assert (complete.requests, complete.incomplete) == (8, False)


def test_passes_with_a_small_budget_poll_every_campaign(lab: Lab) -> None:
    for number in range(5):
        lab.sent([(NEVER, f"{number} {text}") for text in "abc"], f"campaign {number}")
    for _ in range(8):
        assert lab.track(max_requests=2).requests == 2
    assert lab.desk.one("SELECT count(*) FROM batch WHERE confirmed_at IS NULL") == 0


def test_a_large_campaign_does_not_block_the_others(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "_TURN", 10)
    small = lab.sent([(A, "x")], "winter")
    lab.sent([(NEVER, f"text {number}") for number in range(25)])  # the newest: its turn comes first
    result = lab.track(max_requests=15)
    assert {progress.campaign.name: progress.complete for progress in result.campaigns} == {
        "winter": True,
        "autumn": False,
    }
    assert lab.journal.campaigns.counts(small).delivered == 1


def test_messages_past_the_tracking_period_are_given_up_and_complete_their_campaign(lab: Lab) -> None:
    campaign = lab.sent([(NEVER, "x"), (A, "y")])
    lab.desk.sql("UPDATE batch SET state = 'in_doubt', message_id = NULL, reason = 'timeout' "
                 "WHERE id = (SELECT max(id) FROM batch)")  # fmt: skip
    (progress,) = lab.track().campaigns
    assert (progress.complete, progress.pending.open, progress.pending.in_doubt) == (False, 1, 1)
    assert "resolve_campaign" in progress.todo()
    lab.age(campaign, 8)
    before = lab.requests()
    (progress,) = lab.track().campaigns  # the last pass listed it as open, so its completion is reported
    assert (progress.complete, progress.pending.given_up, progress.pending.open) == (True, 2, 0)
    assert lab.requests() == before
    completions = CompletionLog(lab.journal, lab.account)
    assert completions.is_pending(progress)
    completions.mark_reported(progress)
    assert not completions.is_pending(progress)
    assert lab.track().campaigns == ()
    (progress,) = lab.track(tracking_days=30).campaigns
    assert (progress.complete, progress.pending.given_up) == (False, 0)
    assert lab.requests() == before + 1


def test_messages_past_the_tracking_period_are_not_polled_in_an_active_campaign(lab: Lab) -> None:
    campaign = lab.sent([(NEVER, "x")])
    lab.age(campaign, 8)
    lab.sent([(NEVER, "x"), (NEVER, "y")])
    result = lab.track()
    assert (result.requests, result.campaigns[0].pending.open, result.campaigns[0].pending.given_up) == (1, 1, 1)


def test_a_stopped_campaign_is_reported_until_it_is_too_old(lab: Lab) -> None:
    campaign = lab.record([(A, "x"), (B, "x")])
    (progress,) = lab.track().campaigns
    assert not progress.complete
    assert progress.todo() == "2 messages are not sent: start the campaign again."
    run = lab.journal.claims.start_run(campaign)
    assert lab.track().campaigns[0].todo() == ""  # it is being sent
    lab.journal.claims.end_run(run)
    lab.age(campaign, 8)
    assert [progress.complete for progress in lab.track().campaigns] == [False]
    assert lab.track().campaigns == ()


def test_completion_is_reported_once_even_after_a_crash(lab: Lab) -> None:
    lab.sent([(A, "x")])
    (progress,) = lab.track().campaigns
    assert progress.complete
    # The process died before it reported the completion: the campaign is no longer open, but listed again.
    (progress,) = lab.track().campaigns
    completions = CompletionLog(lab.journal, lab.account)
    assert completions.is_pending(progress)
    completions.mark_reported(progress)
    assert lab.track().campaigns == ()
    assert not completions.is_pending(progress)
    lab.send(lab.record([(A, "x"), (B, "x")]))
    (progress,) = lab.track().campaigns
    assert completions.is_pending(progress)  # it has more messages now


def test_claims_of_a_dead_run_come_into_doubt(lab: Lab) -> None:
    campaign, _ = lab.claimed([(A, "x")])
    (progress,) = lab.track().campaigns
    assert (progress.counts.sending, progress.complete) == (1, False)
    lab.desk.sql("UPDATE run SET lease_until = 1")
    (progress,) = lab.track().campaigns
    assert (progress.counts.sending, progress.counts.in_doubt) == (0, 1)
    assert "1 messages may or may not have been sent" in progress.todo()
    assert lab.requests("sendSms") == 0
    assert lab.journal.campaigns.counts(campaign).in_doubt == 1


def test_a_pass_settles_doubt_about_scheduled_messages(lab: Lab) -> None:
    campaign, (scheduled, absent) = lab.claimed([(A, "x"), (B, "y")], SOON)
    lab.post(A, "x", SOON)
    lab.desk.sql("UPDATE run SET lease_until = 1")
    (progress,) = lab.track().campaigns
    assert (progress.counts.accepted, progress.counts.in_doubt, progress.counts.planned) == (1, 0, 1)
    assert lab.desk.state(scheduled) == "accepted"
    assert lab.desk.state(absent) == "released"
    assert progress.todo() == "1 messages are not sent: start the campaign again."
    assert lab.requests("sendSms") == 1  # posted by this test: a pass sends nothing
    assert lab.send(campaign).accepted == 2
    assert set(lab.gateway.summary().values()) == {1}


def test_doubt_that_may_still_be_settled_needs_no_decision(lab: Lab) -> None:
    lab.claimed([(A, "x"), (B, "x")], SOON)
    lab.desk.sql("UPDATE run SET lease_until = 1")
    lab.fault(Fault("error_before", ("sendlater/getall",), times=100))
    (progress,) = lab.track(reconcile=ReconcileOptions(late_arrival_s=0.0, interval_s=0.01)).campaigns
    assert (progress.counts.in_doubt, progress.pending.scheduled, progress.todo()) == (2, 2, "")


def test_a_pass_cancels_a_request_that_arrives_late(lab: Lab) -> None:
    campaign = lab.record([(A, "Hello")], send_at=SOON)
    lab.fault(Fault("late", delay_s=60.0))
    assert lab.send(campaign).accepted == 1
    lab.gateway.clock.advance(120)
    assert lab.gateway.summary()[A, "Hello"] == 2
    (progress,) = lab.track().campaigns
    assert progress.counts.accepted == 1
    assert lab.gateway.summary()[A, "Hello"] == 1


def test_a_pass_cancels_late_arrivals_of_a_cancelled_campaign(lab: Lab) -> None:
    campaign, (doubtful,) = lab.claimed([(A, "x")], SOON)
    lab.desk.sql("UPDATE run SET lease_until = 1")
    lab.journal.campaigns.cancel(campaign)
    lab.post(A, "x", SOON)
    (progress,) = lab.track().campaigns
    assert lab.desk.state(doubtful) == "cancelled"
    assert (progress.complete, progress.cancelled, progress.todo()) == (True, True, "")
    assert [message["cancelled"] for message in lab.gateway.ledger()] == [True]


def test_following_cancels_late_arrivals_of_a_cancelled_campaign(lab: Lab) -> None:
    campaign, (doubtful,) = lab.claimed([(A, "x")], SOON)
    lab.desk.sql("UPDATE run SET lease_until = 1")
    lab.journal.claims.expire_leases(campaign)
    lab.journal.campaigns.cancel(campaign)
    lab.post(A, "x", SOON)
    lab.follow(campaign, quiet_s=0.2)
    assert lab.desk.state(doubtful) == "cancelled"


def test_messages_past_their_delivery_time_need_a_new_campaign(lab: Lab) -> None:
    campaign = lab.record([(A, "x")], send_at=SOON)
    lab.desk.sql("UPDATE campaign SET send_at = send_at - :by WHERE id = :id", by=DAYS, id=campaign.id)
    (progress,) = lab.track().campaigns
    assert progress.todo() == "1 messages were not sent in time: send them as a new campaign."


@pytest.mark.parametrize("fault", [Fault("error_before", ("getSmsResult",)), Fault("response_lost", ("getSmsResult",)),
                                   Fault("html", ("getSmsResult",)), Fault("slow", ("getSmsResult",), delay_s=1.5),
                                   Fault("truncated", ("getSmsResult",)), Fault("cut_short", ("getSmsResult",))],
                         ids=lambda fault: fault.kind)  # fmt: skip
def test_the_next_pass_repeats_unanswered_requests(lab: Lab, fault: Fault) -> None:
    lab.sent([(A, "x"), (B, "y"), (C, "z")])
    if fault.kind == "slow":
        lab.timeout_s = 1.0
    lab.fault(fault)
    result = lab.track()
    assert (result.without_response, result.campaigns[0].counts.delivered) == (1, 2)
    lab.timeout_s = 20.0
    result = lab.track()
    assert (result.requests, result.without_response, result.campaigns[0].complete) == (1, 0, True)


def test_a_pass_stops_when_the_account_is_refused(lab: Lab) -> None:
    lab.sent([(A, f"text {number}") for number in range(20)])
    lab.fault(Fault("refuse", ("getSmsResult",), code=7, times=100))
    result = lab.track()
    assert isinstance(result.refusal, RefusedError)
    assert result.requests <= 4
    assert result.incomplete
    assert result.campaigns[0].pending.open == 20


def test_a_pass_stops_polling_a_gateway_that_does_not_respond(lab: Lab) -> None:
    lab.sent([(A, f"text {number}") for number in range(60)])
    lab.fault(Fault("error_before", ("getSmsResult",), times=1000))
    result = lab.track()
    assert 20 <= result.requests < 30
    assert result.incomplete


def test_a_pass_ends_at_its_deadline(lab: Lab) -> None:
    lab.sent([(A, f"text {number}") for number in range(40)])
    began = time.monotonic()
    result = lab.track(requests_per_minute=60, deadline_s=2.5)
    assert time.monotonic() - began < 4
    assert 2 <= result.requests <= 4
    assert result.incomplete
    before = lab.desk.one("SELECT min(id) FROM batch WHERE final_at IS NULL")
    lab.track(max_requests=1)
    assert lab.desk.one("SELECT min(id) FROM batch WHERE final_at IS NULL") == before + 1  # where the pass ended


def test_two_passes_at_once(lab: Lab) -> None:
    people = [(lab.desk.number(100 + index), f"text {index % 7}") for index in range(60)]
    campaign = lab.sent(people, "winter")
    scheduled, _ = lab.claimed([(A, "later"), (B, "later, too")], SOON)
    lab.post(A, "later", SOON)
    lab.desk.sql("UPDATE run SET lease_until = 1 WHERE campaign_id = :id", id=scheduled.id)

    async def both() -> list[TrackingResult]:
        async with lab.client() as first, lab.client() as second:
            options = TrackOptions(reconcile=LOOK)
            return list(
                await asyncio.gather(
                    track_account(lab.journal, first, lab.account, options),
                    track_account(lab.desk.open(), second, lab.account, options),
                )
            )

    for result in asyncio.run(both()):
        by_name = {progress.campaign.id: progress for progress in result.campaigns}
        assert by_name[scheduled.id].counts.in_doubt == 0
    assert lab.journal.campaigns.counts(campaign).delivered == lab.journal.campaigns.counts(campaign).accepted
    counts = lab.journal.campaigns.counts(scheduled)
    assert (counts.accepted, counts.planned) == (1, 1)
    assert lab.desk.one("SELECT count(*) FROM released_recipient") == 1


def test_invalid_options_are_refused() -> None:
    for option in ("tracking_days", "max_requests", "requests_per_minute", "deadline_s"):
        with pytest.raises(InputError):
            TrackOptions(**{option: 0})  # type: ignore[arg-type]
    for days in (float("nan"), float("inf"), 1e9):
        with pytest.raises(InputError):
            TrackOptions(tracking_days=days)


def test_a_group_is_tracked_by_its_counts(lab: Lab) -> None:
    lab.gateway.configure({"accounts": {lab.sandbox.user: {"groups": {"vips": [A, NEVER]}}}})
    with lab.desk.recording("groups", account=lab.account) as recording:
        recording.add_groups(["vips"], "Hello", encoding="GSM-7", segments=1)
    lab.send(recording.campaign)
    (progress,) = lab.track().campaigns
    assert (progress.counts.messages, progress.counts.delivered, progress.complete) == (2, 1, False)


# -- time changes and outages ---------------------------------------------------------------------------------------

STOCKHOLM = ZoneInfo("Europe/Stockholm")


@pytest.mark.parametrize("hour", [0, 1])
def test_a_repeated_wall_clock_time_is_resolved(lab: Lab, hour: int) -> None:
    """02:30 occurs twice when the clocks go back, and the gateway does not say which of the two it means."""
    sent_at = datetime(2026, 10, 25, hour, 30, 20, tzinfo=UTC)
    assert sent_at.astimezone(STOCKHOLM).strftime("%H:%M") == "02:30"
    campaign = lab.sent([(A, "x")])
    micros = int(sent_at.timestamp() * 1_000_000)
    lab.desk.sql("UPDATE batch SET claimed_at = :at, settled_at = :at + 1000", at=micros)
    for message in lab.gateway.messages.values():
        for recipient in message.recipients:
            recipient.sent_at = sent_at.timestamp()
            recipient.final_at = sent_at.timestamp() + 60
    lab.track(tracking_days=3650)
    assert lab.journal.campaigns.counts(campaign).delivered == 1
    ((sent, delivered_at),) = lab.desk.sql("SELECT sent_at, delivered_at FROM message")
    minute = sent_at.replace(second=0)
    assert sent == int(minute.timestamp() * 1_000_000)
    assert delivered_at == int((minute + timedelta(minutes=1)).timestamp() * 1_000_000)


def test_a_campaign_is_followed_past_midnight_and_an_outage(lab: Lab) -> None:
    lab.gateway.configure({"delivered_after_s": 3600})
    campaign = lab.sent([(A, "x"), (B, "y")])

    def fail_and_recover() -> None:
        time.sleep(0.3)
        lab.fault(Fault("error_before", ("getSmsResult",), times=60))
        time.sleep(0.3)
        lab.gateway.clock.advance(24 * 3600)
        lab.fault()

    async def both() -> Counts:
        counts, _ = await asyncio.gather(asyncio.to_thread(lab.follow, campaign), asyncio.to_thread(fail_and_recover))
        return counts

    assert asyncio.run(both()).delivered == 2
