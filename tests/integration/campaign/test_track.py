"""Passes over an account, its updates and its inbox, on both databases, against a gateway with and without faults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.campaign import (
    CampaignContext,
    CompletionLog,
    FollowOptions,
    InboxResult,
    OptOuts,
    ReconcileOptions,
    SendOptions,
    TrackingResult,
    TrackOptions,
    UpdatesResult,
    follow,
    process_updates,
    read_inbox,
    send_planned,
    track,
    track_account,
)
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.errors import InDoubtError, InputError, NotSentError, ProtocolError, RefusedError
from prefect_mymsp.journal import CampaignKey, Counts, Journal
from prefect_mymsp.sandbox import Fault, Sandbox
from prefect_mymsp.sandbox.state import Reply

if TYPE_CHECKING:
    from tests.integration.conftest import Desk, Pair

A, B, C, D = "46701740605", "46701740606", "46701740607", "46701740608"
NEVER = "46701740650"
LOOK = ReconcileOptions(late_arrival_s=0.3, interval_s=0.05)
DAYS = 24 * 3600 * 1_000_000


class Lab:
    """A journal in one of the databases, a gateway, and who goes between them."""

    def __init__(self, desk: Desk, sandbox: Sandbox) -> None:
        self.desk = desk
        self.sandbox = sandbox
        self.gateway = sandbox.gateway
        self.account = account_fingerprint(sandbox.base_url, sandbox.user)
        self.timeout_s = 20.0

    @property
    def journal(self) -> Journal:
        return self.desk.journal

    def client(self) -> AsyncMyMSPClient:
        return AsyncMyMSPClient(
            self.sandbox.user,
            self.sandbox.password,
            base_url=self.sandbox.base_url,
            timeout_s=self.timeout_s,
            retry_for_s=0.2,
            connections=4,
        )

    def record(self, pairs: Sequence[Pair], name: str = "autumn", *, send_at: datetime | None = None) -> CampaignKey:
        return self.desk.record(pairs, name, account=self.account, send_at=send_at)

    def send(self, campaign: CampaignKey) -> Counts:
        async def run() -> Counts:
            async with self.client() as client:
                return await send_planned(self.journal, client, campaign, SendOptions(reconcile=LOOK, lease_s=5.0))

        return asyncio.run(run())

    def sent(self, pairs: Sequence[Pair], name: str = "autumn", *, send_at: datetime | None = None) -> CampaignKey:
        campaign = self.record(pairs, name, send_at=send_at)
        self.send(campaign)
        return campaign

    def claimed(self, pairs: Sequence[Pair], send_at: datetime | None = None) -> tuple[CampaignKey, list[int]]:
        """A campaign whose requests are on their way: it has been claimed, and its run will not come back."""
        run, batches = self.desk.claimed(pairs, account=self.account, send_at=send_at)
        return run.campaign, [batch.id for batch in batches]

    def track(self, journal: Journal | None = None, **options: Any) -> TrackingResult:
        async def run() -> TrackingResult:
            async with self.client() as client:
                chosen = TrackOptions(**{"reconcile": LOOK, **options})
                return await track_account(journal or self.journal, client, self.account, chosen)

        return asyncio.run(run())

    def collect(self, journal: Journal | None = None, *, deadline_s: float = 10.0) -> UpdatesResult:
        async def run() -> UpdatesResult:
            async with self.client() as client:
                with CampaignContext(journal or self.journal, client, self.account) as context:
                    return await process_updates(context, deadline_s=deadline_s, requests_per_minute=100_000)

        return asyncio.run(run())

    def read(self, journal: Journal | None = None) -> InboxResult:
        async def run() -> InboxResult:
            async with self.client() as client:
                with CampaignContext(journal or self.journal, client, self.account) as context:
                    return await read_inbox(context, OptOuts())

        return asyncio.run(run())

    def follow(self, campaign: CampaignKey, *, quiet_s: float = 10.0) -> Counts:
        async def run() -> Counts:
            options = FollowOptions(deadline_s=20, quiet_s=quiet_s, first_pause_s=0.05, longest_pause_s=0.1)
            async with self.client() as client:
                return await follow(self.journal, client, campaign, options)

        return asyncio.run(run())

    def fault(self, *faults: Fault) -> None:
        self.gateway.faults.replace(scripted=faults)

    def post(self, recipients: str, text: str, send_at: datetime | None = None) -> str:
        """Send something past the journal, as another system of the account, or as a request of ours whose answer was
        lost; returns its id."""
        when = "" if send_at is None else f"&deliverytime={send_at:%Y%m%d%H%M}%2B0"
        form = f"user={self.sandbox.user}&pwd={self.sandbox.password}&recipients={recipients}&msg={text}{when}"
        answer = self.gateway.handle("POST", "sendSms", b"", form.encode()).body.decode()
        assert answer.startswith("A")
        return answer[1:].strip()

    def age(self, campaign: CampaignKey, days: float) -> None:
        """Make a campaign's requests that much older."""
        for column in ("claimed_at", "settled_at", "send_at"):
            self.desk.sql(
                f"UPDATE batch SET {column} = {column} - :by WHERE campaign_id = :id",
                by=int(days * DAYS),
                id=campaign.id,
            )
        for column in ("started_at", "ended_at", "lease_until"):
            self.desk.sql(
                f"UPDATE run SET {column} = {column} - :by WHERE campaign_id = :id", by=int(days * DAYS), id=campaign.id
            )
        self.desk.sql("UPDATE campaign SET created_at = created_at - :by WHERE id = :id", by=int(days * DAYS),
                      id=campaign.id)  # fmt: skip

    def asked(self, endpoint: str = "getSmsResult") -> int:
        return sum(request.endpoint == endpoint for request in self.gateway.requests)


@pytest.fixture
def lab(desk: Desk, mymsp_sandbox: Sandbox) -> Lab:
    mymsp_sandbox.gateway.configure({"sent_after_s": 0, "delivered_after_s": 0})
    return Lab(desk, mymsp_sandbox)


SOON = (datetime.now(UTC) + timedelta(hours=2)).replace(second=0, microsecond=0)


# -- a pass ----------------------------------------------------------------------------------------------------------


def test_a_pass_asks_about_everything_that_is_open_and_about_nothing_else(lab: Lab) -> None:
    first = lab.sent([(A, "x"), (B, "x"), (C, "y")])
    second = lab.sent([(NEVER, "x"), (A, "x")], "winter")
    told = lab.track()
    assert [(one.campaign, one.complete, one.newly_delivered) for one in told.campaigns] == [
        (second, False, 1),
        (first, True, 3),
    ]
    assert (told.campaigns[0].pending.open, told.campaigns[1].pending.open) == (2, 0)
    assert (told.requests, told.unanswered, told.incomplete, told.refusal) == (3, 0, False, None)
    completions = CompletionLog(lab.journal, lab.account)
    completions.mark_reported(told.campaigns[1])
    again = lab.track()
    assert [one.campaign for one in again.campaigns] == [second]
    assert (again.requests, again.campaigns[0].newly_delivered) == (1, 0)
    assert again.campaigns[0].todo() == ""


def test_without_campaigns_a_pass_is_nothing(lab: Lab) -> None:
    assert lab.track() == TrackingResult((), 0, 0, False, None)
    assert lab.gateway.request_count == 0


def test_a_pass_keeps_to_its_budget_and_the_next_one_goes_on_from_there(lab: Lab) -> None:
    lab.sent([(NEVER, f"text {number}") for number in range(7)])
    lab.sent([(NEVER, "x")], "winter")
    looked: list[int] = []
    for _ in range(4):
        told = lab.track(max_requests=3)
        assert told.requests == 3
        assert told.incomplete
        looked.append(lab.desk.one("SELECT count(*) FROM batch WHERE confirmed_at IS NOT NULL"))
    # The small one each time, and of the large one each request before any of them twice.
    assert looked == [3, 5, 7, 8]
    whole = lab.track(max_requests=100)
    assert (whole.requests, whole.incomplete) == (8, False)


def test_no_campaign_waits_for_ever_for_its_turn(lab: Lab) -> None:
    for number in range(5):
        lab.sent([(NEVER, f"{number} {text}") for text in "abc"], f"campaign {number}")
    for _ in range(8):
        assert lab.track(max_requests=2).requests == 2
    assert lab.desk.one("SELECT count(*) FROM batch WHERE confirmed_at IS NULL") == 0


def test_a_campaign_of_many_leaves_the_others_their_turn(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "_TURN", 10)
    small = lab.sent([(A, "x")], "winter")
    lab.sent([(NEVER, f"text {number}") for number in range(25)])  # the newest: its turn comes first
    told = lab.track(max_requests=15)
    assert {one.campaign.name: one.complete for one in told.campaigns} == {"winter": True, "autumn": False}
    assert lab.journal.campaigns.counts(small).delivered == 1


def test_what_is_too_old_is_given_up_and_its_campaign_complete(lab: Lab) -> None:
    campaign = lab.sent([(NEVER, "x"), (A, "y")])
    lab.desk.sql("UPDATE batch SET state = 'in_doubt', message_id = NULL, reason = 'timeout' "
                 "WHERE id = (SELECT max(id) FROM batch)")  # fmt: skip
    (standing,) = lab.track().campaigns
    assert (standing.complete, standing.pending.open, standing.pending.in_doubt) == (False, 1, 1)
    assert "resolve_campaign" in standing.todo()
    lab.age(campaign, 8)
    asked = lab.asked()
    (standing,) = lab.track().campaigns  # it was seen open, so its end is told
    assert (standing.complete, standing.pending.given_up, standing.pending.open) == (True, 2, 0)
    assert lab.asked() == asked
    completions = CompletionLog(lab.journal, lab.account)
    assert completions.is_pending(standing)
    completions.mark_reported(standing)
    assert not completions.is_pending(standing)
    assert lab.track().campaigns == ()
    (standing,) = lab.track(tracking_days=30).campaigns
    assert (standing.complete, standing.pending.given_up) == (False, 0)
    assert lab.asked() == asked + 1


def test_what_is_too_old_is_not_asked_about_in_a_campaign_that_goes_on(lab: Lab) -> None:
    campaign = lab.sent([(NEVER, "x")])
    lab.age(campaign, 8)
    lab.sent([(NEVER, "x"), (NEVER, "y")])
    told = lab.track()
    assert (told.requests, told.campaigns[0].pending.open, told.campaigns[0].pending.given_up) == (1, 1, 1)


def test_a_stopped_campaign_is_told_of_until_it_is_old(lab: Lab) -> None:
    campaign = lab.record([(A, "x"), (B, "x")])
    (standing,) = lab.track().campaigns
    assert not standing.complete
    assert standing.todo() == "2 messages are not sent: start the campaign again."
    run = lab.journal.claims.start_run(campaign)
    assert lab.track().campaigns[0].todo() == ""  # it is being sent
    lab.journal.claims.end_run(run)
    lab.age(campaign, 8)
    assert [one.complete for one in lab.track().campaigns] == [False]
    assert lab.track().campaigns == ()


def test_completion_is_told_once_whoever_saw_it_and_after_a_death(lab: Lab) -> None:
    lab.sent([(A, "x")])
    (standing,) = lab.track().campaigns
    assert standing.complete
    # Whoever should have told it died. The campaign is not open any more, and is still watched.
    (standing,) = lab.track().campaigns
    completions = CompletionLog(lab.journal, lab.account)
    assert completions.is_pending(standing)
    completions.mark_reported(standing)
    assert lab.track().campaigns == ()
    assert not completions.is_pending(standing)
    lab.send(lab.record([(A, "x"), (B, "x")]))
    (standing,) = lab.track().campaigns
    assert completions.is_pending(standing)  # it has grown


def test_claims_of_a_dead_run_come_into_doubt(lab: Lab) -> None:
    campaign, _ = lab.claimed([(A, "x")])
    (standing,) = lab.track().campaigns
    assert (standing.counts.sending, standing.complete) == (1, False)
    lab.desk.sql("UPDATE run SET lease_until = 1")
    (standing,) = lab.track().campaigns
    assert (standing.counts.sending, standing.counts.in_doubt) == (0, 1)
    assert "1 messages may or may not have been sent" in standing.todo()
    assert lab.asked("sendSms") == 0
    assert lab.journal.campaigns.counts(campaign).in_doubt == 1


def test_a_pass_looks_up_doubt_about_scheduled_messages(lab: Lab) -> None:
    campaign, (found, absent) = lab.claimed([(A, "x"), (B, "y")], SOON)
    lab.post(A, "x", SOON)
    lab.desk.sql("UPDATE run SET lease_until = 1")
    (standing,) = lab.track().campaigns
    assert (standing.counts.accepted, standing.counts.in_doubt, standing.counts.planned) == (1, 0, 1)
    assert lab.desk.state(found) == "accepted"
    assert lab.desk.state(absent) == "released"
    assert standing.todo() == "1 messages are not sent: start the campaign again."
    assert lab.asked("sendSms") == 1  # the one posted: a pass sends nothing
    assert lab.send(campaign).accepted == 2
    assert set(lab.gateway.summary().values()) == {1}


def test_doubt_that_is_still_looked_up_is_nothing_for_a_person(lab: Lab) -> None:
    lab.claimed([(A, "x"), (B, "x")], SOON)
    lab.desk.sql("UPDATE run SET lease_until = 1")
    lab.fault(Fault("error_before", ("sendlater/getall",), times=100))
    (standing,) = lab.track(reconcile=ReconcileOptions(late_arrival_s=0.0, interval_s=0.01)).campaigns
    assert (standing.counts.in_doubt, standing.pending.scheduled, standing.todo()) == (2, 2, "")


def test_a_pass_finds_what_turns_up_late_and_cancels_it(lab: Lab) -> None:
    campaign = lab.record([(A, "Hello")], send_at=SOON)
    lab.fault(Fault("late", delay_s=60.0))
    assert lab.send(campaign).accepted == 1
    lab.gateway.clock.advance(120)
    assert lab.gateway.summary()[A, "Hello"] == 2
    (standing,) = lab.track().campaigns
    assert standing.counts.accepted == 1
    assert lab.gateway.summary()[A, "Hello"] == 1


def test_what_turns_up_of_a_cancelled_campaign_is_taken_back(lab: Lab) -> None:
    campaign, (doubtful,) = lab.claimed([(A, "x")], SOON)
    lab.desk.sql("UPDATE run SET lease_until = 1")
    lab.journal.campaigns.cancel(campaign)
    lab.post(A, "x", SOON)
    (standing,) = lab.track().campaigns
    assert lab.desk.state(doubtful) == "cancelled"
    assert (standing.complete, standing.cancelled, standing.todo()) == (True, True, "")
    assert [message["cancelled"] for message in lab.gateway.ledger()] == [True]


def test_what_turns_up_of_a_cancelled_campaign_is_taken_back_by_who_follows_it_too(lab: Lab) -> None:
    campaign, (doubtful,) = lab.claimed([(A, "x")], SOON)
    lab.desk.sql("UPDATE run SET lease_until = 1")
    lab.journal.claims.expire_leases(campaign)
    lab.journal.campaigns.cancel(campaign)
    lab.post(A, "x", SOON)
    lab.follow(campaign, quiet_s=0.2)
    assert lab.desk.state(doubtful) == "cancelled"


def test_when_time_has_run_out_it_says_so(lab: Lab) -> None:
    campaign = lab.record([(A, "x")], send_at=SOON)
    lab.desk.sql("UPDATE campaign SET send_at = send_at - :by WHERE id = :id", by=DAYS, id=campaign.id)
    (standing,) = lab.track().campaigns
    assert standing.todo() == "1 messages were not sent in time: send them as a new campaign."


@pytest.mark.parametrize("fault", [Fault("error_before", ("getSmsResult",)), Fault("answer_lost", ("getSmsResult",)),
                                   Fault("html", ("getSmsResult",)), Fault("slow", ("getSmsResult",), delay_s=1.5),
                                   Fault("truncated", ("getSmsResult",)), Fault("cut_short", ("getSmsResult",))],
                         ids=lambda fault: fault.kind)  # fmt: skip
def test_what_gets_no_answer_is_asked_again_by_the_next_pass(lab: Lab, fault: Fault) -> None:
    lab.sent([(A, "x"), (B, "y"), (C, "z")])
    if fault.kind == "slow":
        lab.timeout_s = 1.0
    lab.fault(fault)
    told = lab.track()
    assert (told.unanswered, told.campaigns[0].counts.delivered) == (1, 2)
    lab.timeout_s = 20.0
    told = lab.track()
    assert (told.requests, told.unanswered, told.campaigns[0].complete) == (1, 0, True)


def test_a_refused_account_is_asked_no_further(lab: Lab) -> None:
    lab.sent([(A, f"text {number}") for number in range(20)])
    lab.fault(Fault("refuse", ("getSmsResult",), code=7, times=100))
    told = lab.track()
    assert isinstance(told.refusal, RefusedError)
    assert told.requests <= 4
    assert told.incomplete
    assert told.campaigns[0].pending.open == 20


def test_a_gateway_that_does_not_answer_is_left_alone(lab: Lab) -> None:
    lab.sent([(A, f"text {number}") for number in range(60)])
    lab.fault(Fault("error_before", ("getSmsResult",), times=1000))
    told = lab.track()
    assert 20 <= told.requests < 30
    assert told.incomplete


def test_a_pass_ends_in_time(lab: Lab) -> None:
    lab.sent([(A, f"text {number}") for number in range(40)])
    began = time.monotonic()
    told = lab.track(requests_per_minute=60, deadline_s=2.5)
    assert time.monotonic() - began < 4
    assert 2 <= told.requests <= 4
    assert told.incomplete
    before = lab.desk.one("SELECT min(id) FROM batch WHERE final_at IS NULL")
    lab.track(max_requests=1)
    assert lab.desk.one("SELECT min(id) FROM batch WHERE final_at IS NULL") == before + 1  # where that one ended


def test_two_passes_at_once(lab: Lab) -> None:
    people = [(lab.desk.number(100 + index), f"text {index % 7}") for index in range(60)]
    campaign = lab.sent(people, "winter")
    scheduled, _ = lab.claimed([(A, "later"), (B, "later, too")], SOON)
    lab.post(A, "later", SOON)
    lab.desk.sql("UPDATE run SET lease_until = 1 WHERE campaign_id = :id", id=scheduled.id)

    async def both() -> list[TrackingResult]:
        async with lab.client() as one, lab.client() as other:
            options = TrackOptions(reconcile=LOOK)
            return list(
                await asyncio.gather(
                    track_account(lab.journal, one, lab.account, options),
                    track_account(lab.desk.open(), other, lab.account, options),
                )
            )

    for told in asyncio.run(both()):
        by_name = {one.campaign.id: one for one in told.campaigns}
        assert by_name[scheduled.id].counts.in_doubt == 0
    assert lab.journal.campaigns.counts(campaign).delivered == lab.journal.campaigns.counts(campaign).accepted
    counts = lab.journal.campaigns.counts(scheduled)
    assert (counts.accepted, counts.planned) == (1, 1)
    assert lab.desk.one("SELECT count(*) FROM released_recipient") == 1


def test_options_that_make_no_sense() -> None:
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
    (standing,) = lab.track().campaigns
    assert (standing.counts.messages, standing.counts.delivered, standing.complete) == (2, 1, False)


# -- the night the clocks go back ------------------------------------------------------------------------------------

STOCKHOLM = ZoneInfo("Europe/Stockholm")


@pytest.mark.parametrize("hour", [0, 1])
def test_half_past_two_in_the_night_the_clocks_go_back(lab: Lab, hour: int) -> None:
    """02:30 comes twice, and the gateway does not say which one it means."""
    left = datetime(2026, 10, 25, hour, 30, 20, tzinfo=UTC)
    assert left.astimezone(STOCKHOLM).strftime("%H:%M") == "02:30"
    campaign = lab.sent([(A, "x")])
    micros = int(left.timestamp() * 1_000_000)
    lab.desk.sql("UPDATE batch SET claimed_at = :at, settled_at = :at + 1000", at=micros)
    for message in lab.gateway.messages.values():
        for recipient in message.recipients:
            recipient.sent_at = left.timestamp()
            recipient.final_at = left.timestamp() + 60
    lab.track(tracking_days=3650)
    assert lab.journal.campaigns.counts(campaign).delivered == 1
    ((sent, got),) = lab.desk.sql("SELECT sent_at, delivered_at FROM message")
    minute = left.replace(second=0)
    assert sent == int(minute.timestamp() * 1_000_000)
    assert got == int((minute + timedelta(minutes=1)).timestamp() * 1_000_000)


def test_a_campaign_is_followed_past_midnight_and_an_outage(lab: Lab) -> None:
    lab.gateway.configure({"delivered_after_s": 3600})
    campaign = lab.sent([(A, "x"), (B, "y")])

    def happens() -> None:
        time.sleep(0.3)
        lab.fault(Fault("error_before", ("getSmsResult",), times=60))
        time.sleep(0.3)
        lab.gateway.clock.advance(24 * 3600)
        lab.fault()

    async def both() -> Counts:
        counts, _ = await asyncio.gather(asyncio.to_thread(lab.follow, campaign), asyncio.to_thread(happens))
        return counts

    assert asyncio.run(both()).delivered == 2


# -- updates ---------------------------------------------------------------------------------------------------------


def lost(lab: Lab, pairs: Sequence[Pair], name: str = "autumn") -> CampaignKey:
    """A campaign whose first request was accepted without our learning of it."""
    campaign = lab.record(pairs, name)
    lab.fault(Fault("answer_lost"))
    assert lab.send(campaign).in_doubt >= 1
    return campaign


def test_updates_confirm_deliveries_and_find_the_lost_of_any_campaign(lab: Lab) -> None:
    first = lost(lab, [(A, "x"), (B, "x")])
    second = lab.sent([(C, "x")], "winter")
    told = lab.collect()
    assert (told.responses, told.delivery_reports, told.linked, told.postponed, told.failure) == (1, 3, 1, 0, None)
    assert lab.journal.campaigns.counts(first).accepted == 2
    assert lab.journal.campaigns.counts(second).delivered == 1
    assert lab.desk.sql("SELECT count(*) FROM raw_response WHERE parsed_at IS NULL") == [(0,)]
    assert lab.collect().responses == 0  # nothing new: nothing is kept
    assert lab.desk.one("SELECT count(*) FROM raw_response") == 1


def test_an_answer_is_kept_before_it_is_parsed_and_left_to_the_next(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = lost(lab, [(A, "x")])

    class Dies(BaseException):
        pass

    def dies(client: AsyncMyMSPClient, raw: bytes) -> None:
        raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(AsyncMyMSPClient, "parse_updates", dies)
        with pytest.raises(Dies):
            lab.collect()
    ((_, raw),) = lab.journal.raw_responses.unparsed(lab.account)
    assert raw.startswith(b"A\n;;0\t")
    told = lab.collect()
    assert (told.responses, told.linked) == (1, 1)
    assert lab.journal.campaigns.counts(campaign).accepted == 1
    assert lab.journal.raw_responses.unparsed(lab.account) == []


def test_a_request_still_on_its_way_keeps_the_answer_that_tells_of_it(lab: Lab) -> None:
    campaign, (batch,) = lab.claimed([(A, "x")])
    lab.post(A, "x")
    told = lab.collect()
    assert (told.responses, told.linked, told.postponed) == (0, 0, 1)
    lab.desk.settle(batch, "in_doubt")
    told = lab.collect()  # the gateway does not tell it again; the journal has it
    assert (told.responses, told.linked, told.postponed) == (1, 1, 0)
    assert lab.journal.campaigns.counts(campaign).accepted == 1


def test_an_id_cut_short_is_found_by_its_update(lab: Lab) -> None:
    campaign = lab.record([(A, "x")])
    lab.fault(Fault("cut_short", keep_bytes=4))  # A, line feed, two digits of six
    assert lab.send(campaign).accepted == 1
    assert lab.collect().postponed == 1  # the gateway may not know the id yet that it gave
    lab.desk.sql("UPDATE batch SET settled_at = settled_at - 60000000")
    told = lab.collect()
    assert (told.linked, told.postponed) == (1, 0)
    assert lab.desk.one("SELECT message_id FROM batch") == lab.gateway.ledger()[0]["id"]


@pytest.mark.parametrize("fault", [Fault("truncated", ("getMsgUpdates",), keep_bytes=60),
                                   Fault("cut_short", ("getMsgUpdates",), keep_bytes=60)],
                         ids=lambda fault: fault.kind)  # fmt: skip
def test_what_had_arrived_of_an_answer_is_kept_and_used(lab: Lab, fault: Fault) -> None:
    campaign = lost(lab, [(A, "x"), (B, "x")])
    lab.fault(fault)
    told = lab.collect()
    assert lab.asked("getMsgUpdates") == 1
    assert isinstance(told.failure, InDoubtError) == (fault.kind == "truncated")
    assert (told.responses, told.linked) == (1, 1)
    assert lab.journal.campaigns.counts(campaign).accepted == 2
    assert len(lab.desk.one("SELECT raw FROM raw_response")) == 60


@pytest.mark.parametrize("fault", [Fault("answer_lost", ("getMsgUpdates",)), Fault("empty", ("getMsgUpdates",)),
                                   Fault("error_after", ("getMsgUpdates",))], ids=lambda fault: fault.kind)  # fmt: skip
def test_a_lost_answer_is_not_asked_for_again(lab: Lab, fault: Fault) -> None:
    campaign = lost(lab, [(A, "x")])
    lab.fault(fault)
    told = lab.collect()
    assert isinstance(told.failure, InDoubtError)
    assert lab.asked("getMsgUpdates") == 1
    assert lab.journal.campaigns.counts(campaign).in_doubt == 1
    assert lab.collect().failure is None


def test_what_cannot_be_asked_about_is_left_to_the_next_reading(lab: Lab) -> None:
    campaign = lost(lab, [(A, "x")])
    lab.fault(Fault("error_before", ("getSmsResult",)))
    assert (told := lab.collect()).postponed == 1
    assert told.linked == 0
    lab.post(B, "Foreign")
    told = lab.collect()
    assert (told.responses, told.linked, told.postponed) == (2, 1, 0)
    assert lab.journal.campaigns.counts(campaign).accepted == 1


def test_updates_that_are_not_ours_change_nothing(lab: Lab) -> None:
    campaign = lab.record([(A, "x")])
    lab.fault(Fault("lost_before"))
    lab.send(campaign)
    lab.sent([(A, "x"), (NEVER, "y")])
    followed = lab.gateway.ledger()[0]["id"]
    lab.post(f"{A},{B}", "Foreign")  # our recipient, and another one
    lab.post(C, "Foreign")
    lab.gateway.receive(
        originator=D,
        text=f"Hi\n;;0\t{followed}\t1\t{NEVER}\tdelivered\t2026-01-01 00:00\n;;0\t7\t1\t{A}\tdelivered\t-1\n"
        f";;0\t{followed}\t1\t{A}\tteleported\t-1\n;;9\tx\n;;1\t5\t{A}\t2026-01-01 00:00\tP\tSMS\tSTOP",
    )
    before = lab.desk.sql("SELECT state, message_id FROM batch ORDER BY id")
    told = lab.collect()
    assert told.postponed == 0
    assert told.unparsed == 1
    assert told.linked == 0
    assert lab.desk.sql("SELECT state, message_id FROM batch ORDER BY id") == before
    assert lab.desk.sql("SELECT status FROM message WHERE status = 'delivered' OR status = 'teleported'") == []
    assert lab.journal.suppressions.msisdns(lab.account) == set()
    assert list(lab.journal.inbox.rows(lab.account)) == []


def test_an_answer_that_is_none_is_kept_and_blocks_nothing(lab: Lab) -> None:
    lab.fault(Fault("html", ("getMsgUpdates",)))
    told = lab.collect()
    assert isinstance(told.failure, ProtocolError)
    assert (told.responses, told.unparsed, told.postponed) == (1, 1, 0)
    assert lab.collect().responses == 0


def test_updates_read_twice_at_once(lab: Lab) -> None:
    campaign = lost(lab, [(A, "x"), (B, "y"), (C, "z")])
    lab.journal.raw_responses.add(lab.account, b"A\n;;0\t" + lab.gateway.ledger()[0]["id"].encode() + b"\t1\t" +
                                  A.encode() + b"\tdelivered\t2026-01-01 00:00\n")  # fmt: skip

    async def both() -> None:
        other = lab.desk.open()
        await asyncio.gather(asyncio.to_thread(lab.collect), asyncio.to_thread(lab.collect, other))

    asyncio.run(both())
    assert lab.journal.campaigns.counts(campaign).accepted == 3
    assert lab.journal.raw_responses.unparsed(lab.account) == []


def test_a_refusal_of_updates_is_told(lab: Lab) -> None:
    lab.gateway.configure({"accounts": {lab.sandbox.user: {"updates": False}}})
    told = lab.collect()
    assert isinstance(told.failure, RefusedError)
    assert isinstance(told.failure, NotSentError)


# -- the inbox -------------------------------------------------------------------------------------------------------


def stored(lab: Lab) -> list[tuple[str, str]]:
    """(Message id, text) of what is in the journal, in its order."""
    return [(row[1], row[10]) for part in lab.journal.inbox.rows(lab.account) for row in part]


def test_each_message_is_stored_once_and_the_cursor_is_the_highest_id(lab: Lab) -> None:
    texts = [f"Message {number}" for number in range(5)]
    ids = [lab.gateway.receive(originator=A, text=text).message_id for text in texts]
    read = lab.read()
    assert [(one.message_id, one.text) for one in read.new] == list(zip(ids, texts, strict=True))
    assert read.unparsed == ()
    assert lab.journal.inbox.cursor(lab.account) == int(ids[-1])
    assert lab.read().new == ()
    assert lab.asked("getMsgReceived") == 3  # the first answer is read twice, that there is nothing new once
    lab.gateway.receive(originator=B, text="\t;;1\r\n")
    assert [one.text for one in lab.read().new] == [r" ;;1\n"]
    assert len(stored(lab)) == 6


@pytest.mark.parametrize("order", ["descending", "ascending"])
def test_no_cut_loses_or_shortens_a_message(lab: Lab, order: str) -> None:
    lab.gateway.configure({"dialect": {"order": order}})
    texts = ["one", "two", "three"]
    for text in texts:
        lab.gateway.receive(originator=A, text=text)
    form = f"user={lab.sandbox.user}&pwd={lab.sandbox.password}&lastMsgId=0&clean=true".encode()
    length = len(lab.gateway.handle("POST", "getMsgReceived", b"", form).body)
    for keep in range(0, length, 11):
        lab.fault(Fault("cut_short", ("getMsgReceived",), keep_bytes=keep))
        lab.read()
        assert [text for _, text in stored(lab)] in ([], texts)
        lab.fault()
        lab.read()
        assert [text for _, text in stored(lab)] == texts
        lab.desk.sql("DELETE FROM received")
        lab.desk.sql("DELETE FROM bookmark")


def test_an_inbox_that_is_cut_short_every_time_is_not_believed(lab: Lab) -> None:
    for number in range(3):
        lab.gateway.receive(originator=A, text=f"Message {number}")
    lab.fault(*(Fault("cut_short", ("getMsgReceived",), keep_bytes=keep) for keep in (180, 100, 150, 90, 170, 120)))
    with pytest.raises(ProtocolError, match="consecutive responses differ"):
        lab.read()
    assert stored(lab) == []
    assert lab.journal.inbox.cursor(lab.account) == 0
    assert len(lab.read().new) == 3


def test_messages_that_come_in_between_are_read_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.gateway.receive(originator=A, text="one")
    handle = lab.gateway.handle

    def busy(method: str, endpoint: str, query: bytes, body: bytes) -> Reply:
        reply = handle(method, endpoint, query, body)
        if endpoint == "getMsgReceived" and len(lab.gateway.inbox()) == 1:
            lab.gateway.receive(originator=B, text="two")
        return reply

    monkeypatch.setattr(lab.gateway, "handle", busy)
    assert [one.text for one in lab.read().new] == ["one", "two"]
    assert lab.asked("getMsgReceived") == 3
    assert lab.read().new == ()


def test_a_bad_record_is_kept_and_does_not_hide_the_others(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("one", "bad", "three"):
        lab.gateway.receive(originator=A, text=text)
    handle = lab.gateway.handle

    def garbling(method: str, endpoint: str, query: bytes, body: bytes) -> Reply:
        reply = handle(method, endpoint, query, body)
        if endpoint != "getMsgReceived":
            return reply
        lines = [b";;".join([b"", line.split(b"\t")[0][2:] + b"\tbad"]) if line.endswith(b"bad") else line
                 for line in reply.body.split(b"\n")]  # fmt: skip
        whole = b"\n".join(lines)
        return reply._replace(body=whole, announced=len(whole))

    monkeypatch.setattr(lab.gateway, "handle", garbling)
    read = lab.read()
    assert [one.text for one in read.new] == ["one", "three"]
    assert len(read.unparsed) == 1
    raw = lab.desk.one("SELECT raw FROM raw_response")
    assert bytes(raw).endswith(b"\tbad")
    assert lab.journal.raw_responses.unparsed(lab.account) == []
    assert lab.read().new == ()
    # One with the highest id is there again each time, and is kept once.
    lab.gateway.receive(originator=A, text="bad")
    for _ in range(3):
        assert len(lab.read().unparsed) == 1
    assert lab.desk.one("SELECT count(*) FROM raw_response") == 2


def test_an_inbox_read_twice_at_once(lab: Lab) -> None:
    texts = {f"Message {number}" for number in range(50)}
    for text in sorted(texts):
        lab.gateway.receive(originator=A, text=text)

    async def both() -> list[InboxResult]:
        other = lab.desk.open()
        return list(await asyncio.gather(asyncio.to_thread(lab.read), asyncio.to_thread(lab.read, other)))

    reads = asyncio.run(both())
    assert sum(len(read.new) for read in reads) == 50
    assert {one.text for read in reads for one in read.new} == texts
    assert len(stored(lab)) == 50


def test_who_wants_no_more_is_put_on_the_list(lab: Lab) -> None:
    for who, text in [(A, "Stopped by your shop"), (B, "DEMO stop."), (f"+{C}", '"STOPP"'), ("0701740608", "avsluta"),
                      ("Anna", "STOP"), ("12345", "stop")]:  # fmt: skip
        lab.gateway.receive(originator=who, text=text)
    read = lab.read()
    assert read.opted_out == 5
    assert lab.journal.suppressions.msisdns(lab.account) == {B, C, D, "12345"}
    reasons = {row[0]: row[2] for row in lab.journal.suppressions.rows(lab.account)}
    assert set(reasons.values()) == {"opt-out"}
    # Taken off by a person, and nothing new was written: it stays off.
    lab.journal.suppressions.remove(lab.account, [B])
    lab.read()
    assert B not in lab.journal.suppressions.msisdns(lab.account)
