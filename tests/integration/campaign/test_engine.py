"""The rules of "was it sent?", each against a gateway that breaks in just one way; counted in the gateway's ledger."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import re
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

import pytest

from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.campaign import (
    CampaignContext,
    Cancelled,
    FollowOptions,
    Progress,
    ProgressListener,
    RateGate,
    ReconcileOptions,
    SendOptions,
    TimeWindow,
    cancel_at_gateway,
    follow,
    send_planned,
)
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.errors import (
    CampaignCancelledError,
    CampaignStoppedError,
    ConfigurationError,
    InputError,
    JournalError,
)
from prefect_mymsp.journal import (
    Batch,
    CampaignKey,
    Counts,
    Journal,
    Outcome,
    PlannedChunk,
    Selection,
    SendRun,
    text_digest,
)
from prefect_mymsp.models import Decision, RecipientStatus
from prefect_mymsp.sandbox import Fault, Sandbox
from prefect_mymsp.sandbox.state import Reply

LOOK = ReconcileOptions(late_arrival_s=0.4, interval_s=0.1)
EAGER = ReconcileOptions(late_arrival_s=0.0, interval_s=0.01)
A, B, C, D = "46701740605", "46701740606", "46701740607", "46701740608"
SOON = (datetime.now(UTC) + timedelta(hours=1)).replace(second=0, microsecond=0)


class Bench:
    """A journal, a gateway, and a campaign between them."""

    def __init__(self, sandbox: Sandbox, journal: Path) -> None:
        self.sandbox = sandbox
        self.gateway = sandbox.gateway
        self.journal = Journal(journal)
        self.account = account_fingerprint(sandbox.base_url, sandbox.user)

    def record(
        self,
        messages: Sequence[tuple[str, str]],
        *,
        send_at: datetime | None = None,
        name: str = "campaign",
        batch_size: int = 500,
    ) -> CampaignKey:
        texts = list(dict.fromkeys(text for _, text in messages))
        block = PlannedChunk(
            rows=range(1, len(messages) + 1),
            msisdns=[who for who, _ in messages],
            text_of=[texts.index(text) for _, text in messages],
            texts=texts,
            digests=[text_digest(text) for text in texts],
            encodings=["GSM-7"] * len(texts),
            segments=[1] * len(texts),
        )
        with self.journal.recording(
            self.account, name, source="test", sender=None, send_at=send_at, batch_size=batch_size
        ) as recording:
            recording.add(block)
            return recording.campaign

    def told(self, campaign: CampaignKey, *columns: str) -> list[tuple[object, ...]]:
        """What the journal tells of a campaign's messages."""
        parts = self.journal.report_queries.messages(campaign.account, Selection(campaigns=[campaign.id]))
        return [row for part in parts for row in zip(*(part[name] for name in columns), strict=True)]

    def client(self, *, connections: int = 4) -> AsyncMyMSPClient:
        return AsyncMyMSPClient(
            self.sandbox.user,
            self.sandbox.password,
            base_url=self.sandbox.base_url,
            timeout_s=1.0,
            retry_for_s=0.3,
            connections=connections,
        )

    def send(
        self,
        campaign: CampaignKey,
        *,
        connections: int = 4,
        listener: ProgressListener | None = None,
        **options: object,
    ) -> Counts:
        async def run() -> Counts:
            async with self.client(connections=connections) as client:
                chosen = SendOptions(**{"reconcile": LOOK, "lease_s": 5.0, **options})  # type: ignore[arg-type]
                return await send_planned(self.journal, client, campaign, chosen, listener)

        return asyncio.run(run())

    def follow(self, campaign: CampaignKey, *, use_updates: bool = False, deadline_s: float = 8.0) -> Counts:
        async def run() -> Counts:
            options = FollowOptions(deadline_s=deadline_s, quiet_s=1.0, first_pause_s=0.1, use_updates=use_updates)
            async with self.client() as client:
                return await follow(self.journal, client, campaign, options)

        return asyncio.run(run())

    def cancel(self, campaign: CampaignKey) -> Cancelled:
        async def run() -> Cancelled:
            async with self.client() as client:
                with CampaignContext(self.journal, client, campaign.account) as context:
                    return await cancel_at_gateway(context, campaign, reconcile=LOOK)

        return asyncio.run(run())

    def fault(self, *faults: Fault) -> None:
        self.gateway.faults.replace(scripted=faults)

    def post(self, recipients: str, text: str, send_at: datetime) -> None:
        """Another system of the same account schedules a message."""
        form = (
            f"user={self.sandbox.user}&pwd={self.sandbox.password}&recipients={recipients}&msg={text}"
            f"&deliverytime={send_at:%Y%m%d%H%M}%2B0"
        )
        assert self.gateway.handle("POST", "sendSms", b"", form.encode()).body.startswith(b"A")

    @property
    def sent(self) -> dict[tuple[str, str], int]:
        return {key: times for key, times in self.gateway.summary().items() if times}

    @property
    def requests(self) -> int:
        return self.asked("sendSms")

    def asked(self, endpoint: str) -> int:
        return sum(request.endpoint == endpoint for request in self.gateway.requests)


@pytest.fixture
def bench(mymsp_sandbox: Sandbox, tmp_path: Path, empty_journal: Path) -> Bench:
    mymsp_sandbox.gateway.configure({"sent_after_s": 0, "delivered_after_s": 0})
    shutil.copy(empty_journal, tmp_path / "journal.db")
    return Bench(mymsp_sandbox, tmp_path / "journal.db")


@pytest.fixture(autouse=True)
def _close(bench: Bench) -> object:
    yield
    bench.journal.close()
    return None


# -- at once: at most once -------------------------------------------------------------------------------------------

DOUBTFUL = [
    Fault("answer_lost"),
    Fault("lost_before"),
    Fault("error_after"),
    Fault("error_before"),
    Fault("truncated"),
    Fault("cut_short"),
    Fault("html", processed=True),
    Fault("html", processed=False),
    Fault("empty"),
    Fault("slow", delay_s=1.5),
]


@pytest.mark.parametrize("fault", DOUBTFUL, ids=lambda fault: f"{fault.kind}-{fault.processed}")
def test_a_doubtful_answer_is_never_followed_by_a_second_request(bench: Bench, fault: Fault) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(fault)
    assert bench.send(campaign).in_doubt == 1
    assert bench.send(campaign).in_doubt == 1
    assert bench.requests == 1


@pytest.mark.parametrize("fault", [Fault("rate_limited", retry_after_s=0), Fault("rate_limited")])
def test_a_429_is_tried_again(bench: Bench, fault: Fault) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(fault)
    assert bench.send(campaign).accepted == 1
    assert bench.sent == {(A, "Hello"): 1}


def test_rows_with_one_text_go_together_and_personal_rows_alone(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello"), (C, "Hello C"), (D, "Hello")])
    assert bench.send(campaign).accepted == 4
    assert sorted(len(message["recipients"]) for message in bench.gateway.ledger()) == [1, 3]


def test_a_bad_number_is_found_by_halving(bench: Bench) -> None:
    bad = "46701740654"
    people = [f"46701740{number}" for number in range(605, 635)]
    campaign = bench.record([(who, "Hello") for who in [*people[:17], bad, *people[17:]]])
    counts = bench.send(campaign)
    assert (counts.accepted, counts.refused) == (30, 1)
    assert bench.sent == {(who, "Hello"): 1 for who in people}
    assert [row for row in bench.told(campaign, "state", "msisdn", "code") if row[0] == "refused"] == [
        ("refused", bad, 28)
    ]


def test_a_code_that_is_not_documented_rejects_nobody_unheard(bench: Bench) -> None:
    """It may be one that was cut short, or be about one of them."""
    people = [f"46701740{number}" for number in range(605, 635)]
    campaign = bench.record([(who, "Hello") for who in people])
    bench.fault(Fault("refuse", code=2, times=2))
    assert bench.send(campaign).accepted == 30
    assert bench.sent == {(who, "Hello"): 1 for who in people}


def test_a_code_that_is_not_documented_stops_when_it_refuses_all(bench: Bench) -> None:
    people = [f"467017{number:05}" for number in range(512)]
    campaign = bench.record([(who, "Hello") for who in people])
    bench.fault(Fault("refuse", code=40, times=10_000))
    with pytest.raises(CampaignStoppedError, match="code 40") as stopped:
        bench.send(campaign, connections=1, max_consecutive_failures=12)
    assert bench.requests == 12
    assert stopped.value.counts["refused"] + stopped.value.counts["planned"] == 512
    assert stopped.value.counts["refused"] < 12


@pytest.mark.parametrize("code", [7, 11, 12, 22, 23, 24, 25, 33, 35])
def test_a_refusal_of_the_account_stops_in_order_and_can_be_continued(bench: Bench, code: int) -> None:
    people = [f"46701740{number}" for number in range(605, 645)]
    campaign = bench.record([(who, f"Hello {who}") for who in people])
    bench.fault(Fault("none", times=10), Fault("refuse", code=code, times=1))
    with pytest.raises(CampaignStoppedError, match=rf"code {code} .*start the same campaign again") as stopped:
        bench.send(campaign, connections=1)
    assert stopped.value.counts["accepted"] == 10
    assert stopped.value.counts["planned"] == 30
    assert stopped.value.counts["in_doubt"] == stopped.value.counts["refused"] == 0
    assert bench.send(campaign).accepted == 40
    assert set(bench.sent.values()) == {1}
    assert len(bench.sent) == 40


def test_doubt_in_a_row_opens_the_circuit(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(30)])
    bench.fault(Fault("answer_lost", times=30))
    with pytest.raises(CampaignStoppedError, match="do not arrive whole"):
        bench.send(campaign, connections=1, max_consecutive_failures=5)
    assert bench.requests == 5
    counts = bench.journal.campaigns.counts(campaign)
    assert (counts.in_doubt, counts.planned) == (5, 25)


def test_an_id_that_is_somebody_elses_is_not_followed(bench: Bench) -> None:
    bench.post(D, "Foreign", SOON)
    foreign = bench.gateway.ledger()[0]["id"]
    campaign = bench.record([(A, "Hello")])
    bench.send(campaign)
    with bench.journal._database.write() as connection:
        connection.exec_driver_sql("UPDATE batch SET message_id = ?", (foreign,))
    counts = bench.follow(campaign)
    assert (counts.accepted, counts.in_doubt, counts.delivered) == (0, 1, 0)


def test_an_id_cut_short_on_its_way_is_in_doubt_at_the_latest_when_followed(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(Fault("cut_short", keep_bytes=4))  # A, line feed, two digits of six
    assert bench.send(campaign).accepted == 1
    with bench.journal._database.write() as connection:  # as if it had been accepted a while ago
        connection.exec_driver_sql("UPDATE batch SET settled_at = settled_at - 60000000")
    assert bench.follow(campaign).in_doubt == 1
    assert bench.requests == 1


def test_evidence_from_an_update_settles_doubt(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")])
    bench.fault(Fault("answer_lost"))
    assert bench.send(campaign, connections=1).in_doubt == 1
    counts = bench.follow(campaign, use_updates=True)
    assert (counts.accepted, counts.in_doubt, counts.delivered) == (2, 0, 2)
    assert bench.requests == 2


def test_a_forged_update_changes_nothing(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(Fault("lost_before"))
    bench.send(campaign)
    bench.gateway.receive(
        originator=D, text=f"Hi\n;;0\t100001\t1\t{A}\tdelivered\t2026-01-01 00:00\n;;0\t7\t1\t{A}\tdelivered\t-1"
    )
    counts = bench.follow(campaign, use_updates=True)
    assert (counts.accepted, counts.in_doubt, counts.delivered) == (0, 1, 0)


def test_a_hint_to_somebody_elses_message_is_not_taken(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(Fault("lost_before"))
    bench.send(campaign)
    bench.post(f"{A},{B}", "Foreign", datetime.now(UTC).replace(second=0) + timedelta(minutes=2))
    bench.gateway.clock.advance(180)  # sent to our recipient and another one, and reported
    counts = bench.follow(campaign, use_updates=True)
    assert (counts.accepted, counts.in_doubt, counts.delivered) == (0, 1, 0)


@pytest.mark.parametrize("shown", [f"+{A}", f"00{A}", "+46 70-174 06 05"])
def test_numbers_may_come_back_in_another_form(bench: Bench, shown: str) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.send(campaign)
    (batch,) = bench.journal.deliveries.open_batches(campaign)
    status = RecipientStatus(shown, datetime.now(UTC), "delivered", datetime.now(UTC))
    assert bench.journal.deliveries.record_statuses({batch.id: [status]}) == 1
    assert bench.journal.campaigns.counts(campaign).delivered == 1


@pytest.mark.parametrize(("decision", "requests"), [(Decision.SENT, 1), (Decision.NOT_SENT, 2)])
def test_a_person_decides(bench: Bench, decision: Decision, requests: int) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(Fault("lost_before"))
    bench.send(campaign)
    assert bench.journal.doubt.resolve(campaign, decision) == 1
    counts = bench.send(campaign)
    assert bench.requests == requests
    assert (counts.assumed, counts.accepted) == ((1, 0) if decision is Decision.SENT else (0, 1))


def test_the_intent_is_on_disk_before_the_request_leaves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello"), (C, "Hello C")])
    database = bench.journal.url.database
    assert database is not None
    handle, seen = bench.gateway.handle, list[tuple[str, set[str]]]()

    def looking(method: str, endpoint: str, query: bytes, body: bytes) -> object:
        # What another process would find, at the moment the request has come.
        with closing(sqlite3.connect(database)) as other:
            rows = other.execute(
                "SELECT msisdn FROM message JOIN batch ON batch.id = batch_id WHERE state = 'sending'"
            ).fetchall()
        (recipients,) = parse_qs(body.decode())["recipients"]
        seen.append((recipients, {row[0] for row in rows}))
        return handle(method, endpoint, query, body)

    monkeypatch.setattr(bench.gateway, "handle", looking)
    assert bench.send(campaign).accepted == 3
    assert sorted(recipients for recipients, _ in seen) == [f"{A},{B}", C]
    for recipients, intended in seen:
        assert set(recipients.split(",")) <= intended


# -- with a delivery time: exactly once ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", DOUBTFUL, ids=lambda fault: f"{fault.kind}-{fault.processed}")
def test_doubt_about_a_scheduled_message_is_looked_up(bench: Bench, fault: Fault) -> None:
    messages = [(A, "Hello"), (B, "Hello B"), (C, "Hello C")]
    campaign = bench.record(messages, send_at=SOON)
    bench.fault(fault)
    counts = bench.send(campaign)
    assert (counts.accepted, counts.in_doubt) == (3, 0)
    assert bench.sent == dict.fromkeys(messages, 1)


def test_a_scheduled_campaign_without_doubt_is_done_when_its_ids_have_been_seen(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON)
    began = monotonic()
    assert bench.send(campaign, reconcile=ReconcileOptions(interval_s=60.0)).accepted == 2
    assert monotonic() - began < 30.0


def test_a_guarded_campaign_is_scheduled_ahead(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")])
    bench.fault(Fault("answer_lost"), Fault("lost_before"))
    before = datetime.now(UTC)
    counts = bench.send(campaign, schedule_ahead_s=300.0)
    assert counts.accepted == 2
    assert bench.sent == {(A, "Hello"): 1, (B, "Hello B"): 1}
    for message in bench.gateway.ledger():
        assert (
            timedelta(seconds=300) <= datetime.fromisoformat(message["scheduled_at"]) - before < timedelta(seconds=370)
        )


def test_what_a_dead_run_held_is_looked_up_when_its_lease_ends(bench: Bench) -> None:
    messages = [(A, "Hello"), (B, "Hello B"), (C, "Hello C"), (D, "Hello D")]
    campaign = bench.record(messages, send_at=SOON)
    dead = bench.journal.claims.start_run(campaign, lease_s=1.5)
    (first, _second) = bench.journal.claims.claim(dead, requests=2, batch_size=1)
    bench.post(first.msisdns[0], first.text, SOON)  # one request had left, its answer went to nobody
    counts = bench.send(campaign)
    assert (counts.accepted, counts.in_doubt) == (4, 0)
    assert bench.sent == dict.fromkeys(messages, 1)


def test_little_is_claimed_ahead_of_a_gateway_that_takes_its_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is claimed is in doubt when its process dies: as many requests wait for a connection as are made at once."""
    bench.gateway.configure({"latency_ms": 80})
    campaign = bench.record([(f"4670000{row:04}", f"text {row}") for row in range(80)])
    claim, claimed, ahead = bench.journal.claims.claim, 0, []

    def watched(run: SendRun, **asked: Any) -> list[Batch]:
        nonlocal claimed
        arrived = len(bench.gateway.messages)  # before, since more arrive meanwhile
        given = claim(run, **asked)
        claimed += len(given)
        ahead.append(claimed - arrived)
        return given

    monkeypatch.setattr(bench.journal.claims, "claim", watched)
    assert bench.send(campaign, connections=4).accepted == 80
    assert len(ahead) > 10
    assert max(ahead) <= 4 * 4  # in flight, two windows, and what arrives during a claim


def test_when_all_is_claimed_the_journal_is_left_in_peace(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.gateway.configure({"latency_ms": 80})
    campaign = bench.record([(f"4670000{row:04}", f"text {row}") for row in range(30)])
    claim, empty = bench.journal.claims.claim, 0

    def watched(run: SendRun, **asked: Any) -> list[Batch]:
        nonlocal empty
        given = claim(run, **asked)
        empty += not given
        return given

    monkeypatch.setattr(bench.journal.claims, "claim", watched)
    assert bench.send(campaign, connections=4).accepted == 30
    assert empty <= 2  # when nothing is left, and when all is over


def test_a_journal_that_goes_away_says_how_to_go_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.gateway.configure({"latency_ms": 50})
    campaign = bench.record([(f"4670000{row:04}", f"text {row}") for row in range(60)])

    def gone(*_: object, **__: object) -> None:
        raise JournalError("The journal could not be written.")

    def listener(_: Progress) -> None:
        for name in ("claim", "settle", "renew", "end_run"):
            monkeypatch.setattr(bench.journal.claims, name, gone)
        monkeypatch.setattr(bench.journal.campaigns, "counts", gone)

    with pytest.raises(JournalError) as caught:
        bench.send(campaign, listener=listener)
    told = str(caught.value)
    assert told.startswith("The journal could not be written. This has stopped campaign 'campaign'.")
    assert "start the same campaign again" in told


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"claim_window_s": 0}, "claim_window_s"),
        ({"destination_port": 65536}, "port"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_sent(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        SendOptions(**wrong)


def test_what_another_run_gives_back_at_the_end_is_sent(bench: Bench) -> None:
    bench.gateway.configure({"latency_ms": 900})
    campaign = bench.record([(f"4670000{row:04}", f"text {row}") for row in range(4)])
    other = bench.journal.claims.start_run(campaign)
    held = bench.journal.claims.claim(other, requests=2, batch_size=1)

    def give_back() -> None:
        now = datetime.now(UTC)
        bench.journal.claims.settle([Outcome(one.id, "released", now, reason="not-started") for one in held])
        bench.journal.claims.end_run(other)

    timer = threading.Timer(0.45, give_back)  # while the two others are waited for
    timer.start()
    assert bench.send(campaign).accepted == 4
    timer.join()
    assert len(bench.sent) == 4


def test_an_id_cut_short_is_looked_up(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON)
    bench.fault(Fault("cut_short", keep_bytes=4))
    counts = bench.send(campaign)
    assert (counts.accepted, counts.in_doubt) == (2, 0)
    assert bench.sent == {(A, "Hello"): 1, (B, "Hello B"): 1}
    assert set(bench.told(campaign, "message_id")) == {(message["id"],) for message in bench.gateway.ledger()}


def _answering(bench: Bench, monkeypatch: pytest.MonkeyPatch, change: Callable[[str, bytes], bytes]) -> None:
    """Have the gateway's answers pass through ``change``, which is told the endpoint too."""
    handle = bench.gateway.handle

    def changed(method: str, endpoint: str, query: bytes, body: bytes) -> Reply:
        answer = handle(method, endpoint, query, body)
        told = answer.body if answer.dropped else change(endpoint, answer.body)
        return answer._replace(body=told, announced=len(told))

    monkeypatch.setattr(bench.gateway, "handle", changed)


def _an_hour_off(endpoint: str, answer: bytes) -> bytes:
    if endpoint != "sendlater/getall":
        return answer
    lines = answer.decode().split("\n")
    earlier = [re.sub(r"\t.*", f"\t{SOON - timedelta(hours=1):%y%m%d%H%M%S}000+", line) for line in lines]
    return "\n".join(earlier).encode()


@pytest.mark.parametrize("faults", [(), (Fault("answer_lost"),), (Fault("none"), Fault("answer_lost"))], ids=len)
def test_times_that_are_read_wrongly_are_no_reason_to_send_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, faults: tuple[Fault, ...]
) -> None:
    messages = [(A, "Hello"), (B, "Hello B")]
    campaign = bench.record(messages, send_at=SOON)
    _answering(bench, monkeypatch, _an_hour_off)
    bench.fault(*faults)
    doubtful = any(fault.kind == "answer_lost" for fault in faults)
    counts = _send_for(bench, campaign, 2.5) if doubtful else bench.send(campaign)
    assert (counts.accepted, counts.in_doubt) == ((1, 1) if doubtful else (2, 0))
    assert bench.requests == 2
    assert bench.sent == dict.fromkeys(messages, 1)


def test_what_somebody_moved_at_the_gateway_is_not_sent_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = bench.record([(A, "Hello")], send_at=SOON)
    handle = bench.gateway.handle

    def moved(method: str, endpoint: str, query: bytes, body: bytes) -> Reply:
        answer = handle(method, endpoint, query, body)
        if endpoint == "sendSms":
            form = f"user={bench.sandbox.user}&pwd={bench.sandbox.password}&msgno={answer.body[1:].decode().strip()}"
            later = f"&deliverytime={SOON + timedelta(days=1):%Y%m%d%H%M}%2B0"
            assert handle("POST", "sendlater/update", b"", (form + later).encode()).body.startswith(b"A")
        return answer

    monkeypatch.setattr(bench.gateway, "handle", moved)
    assert bench.send(campaign).accepted == 1
    assert bench.sent == {(A, "Hello"): 1}


def test_a_gateway_that_sends_at_once_whatever_it_is_told_sends_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON)
    handle = bench.gateway.handle
    monkeypatch.setattr(
        bench.gateway,
        "handle",
        lambda method, endpoint, query, body: handle(
            method, endpoint, query, re.sub(b"&deliverytime=[^&]*", b"", body)
        ),
    )
    assert bench.send(campaign).accepted == 2
    assert bench.sent == {(A, "Hello"): 1, (B, "Hello B"): 1}


def test_a_gateway_that_knows_no_result_before_the_delivery_time_proves_no_absence(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [(A, "Hello"), (B, "Hello B")]
    campaign = bench.record(messages, send_at=SOON)
    _answering(bench, monkeypatch, lambda endpoint, answer: b"N\n32" if endpoint == "getSmsResult" else answer)
    bench.fault(Fault("answer_lost"))
    counts = _send_for(bench, campaign, 2.5)
    assert (counts.accepted, counts.in_doubt) == (1, 1)
    assert bench.sent == dict.fromkeys(messages, 1)


def _send_for(bench: Bench, campaign: CampaignKey, seconds: float) -> Counts:
    """Send a campaign whose doubt would be looked up until its delivery time, and leave it."""

    async def run() -> None:
        async with bench.client() as client:
            options = SendOptions(reconcile=LOOK, lease_s=5.0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(send_planned(bench.journal, client, campaign, options), seconds)

    asyncio.run(run())
    return bench.journal.campaigns.counts(campaign)


def test_several_texts_to_one_person_for_one_minute_are_cancelled_and_sent_again(bench: Bench) -> None:
    messages = [(A, "One"), (A, "Two"), (A, "Three")]
    campaign = bench.record(messages, send_at=SOON)
    bench.fault(Fault("answer_lost"), Fault("answer_lost"), Fault("lost_before"))
    counts = bench.send(campaign, connections=1)
    assert (counts.accepted, counts.in_doubt) == (3, 0)
    assert bench.sent == dict.fromkeys(messages, 1)
    assert sum(message["cancelled"] for message in bench.gateway.ledger()) == 2


def test_a_cancellation_whose_answer_is_lost_is_looked_up_too(bench: Bench) -> None:
    messages = [(A, "One"), (A, "Two")]
    campaign = bench.record(messages, send_at=SOON)
    bench.fault(
        Fault("answer_lost", times=2), Fault("answer_lost", endpoints=("sendlater/cancel",)),
        Fault("lost_before", endpoints=("sendlater/cancel",)),
    )  # fmt: skip
    assert bench.send(campaign, connections=1).accepted == 2
    assert bench.sent == dict.fromkeys(messages, 1)


def test_messages_of_other_systems_are_never_touched(bench: Bench) -> None:
    bench.post(B, "Foreign", SOON)  # the same minute, other people
    bench.post(A, "Foreign", SOON + timedelta(minutes=1))  # the same person, another minute
    bench.post(f"{A},{B}", "Foreign", SOON)  # more people
    campaign = bench.record([(C, "Hello"), (D, "Hello D")], send_at=SOON)
    bench.fault(Fault("lost_before"), Fault("answer_lost"))
    assert bench.send(campaign).accepted == 2
    assert [message["cancelled"] for message in bench.gateway.ledger() if message["text"] == "Foreign"] == [False] * 3
    assert {key: times for key, times in bench.sent.items() if key[1] != "Foreign"} == {
        (C, "Hello"): 1,
        (D, "Hello D"): 1,
    }


def test_a_list_cut_short_is_not_taken_for_absence(bench: Bench) -> None:
    messages = [(A, "Hello"), (B, "Hello B"), (C, "Hello C")]
    campaign = bench.record(messages, send_at=SOON)
    bench.fault(
        Fault("none"), Fault("none"), Fault("answer_lost"),
        Fault("cut_short", endpoints=("sendlater/getall",), keep_bytes=2, times=5),
    )  # fmt: skip
    eager = ReconcileOptions(late_arrival_s=0.0, interval_s=0.05)
    assert bench.send(campaign, connections=1, reconcile=eager).accepted == 3
    assert bench.sent == dict.fromkeys(messages, 1)
    assert bench.requests == 3


@pytest.mark.parametrize("smpp_time", [12, 16])
def test_in_the_hour_that_comes_twice_nothing_is_proven_absent(bench: Bench, smpp_time: int) -> None:
    """A time without a zone is read as the first of two: what waits for the second would look absent."""
    year = datetime.now(UTC).year + 1
    last_sunday = next(day for day in range(31, 24, -1) if datetime(year, 10, day, tzinfo=UTC).weekday() == 6)
    first = datetime(year, 10, last_sunday, 0, 58, tzinfo=UTC)  # 02:58 in summer time; two minutes later it is 02:00
    messages = [(f"4670174060{number}", f"Hello {number}") for number in range(4)]
    campaign = bench.record(messages, send_at=first)
    bench.gateway.configure({"dialect": {"smpp_time": smpp_time}})
    bench.fault(Fault("none", times=3), Fault("answer_lost"))
    counts = bench.send(campaign, connections=1, reconcile=EAGER, messages_per_minute=1)
    assert counts.accepted + counts.in_doubt == 4
    assert bench.sent == dict.fromkeys(messages, 1)
    assert counts.in_doubt == (1 if smpp_time == 12 else 0)


NO_LIST = ("sendlater/getall",)


@pytest.mark.parametrize("fault", [Fault("refuse", code=7), Fault("html"), Fault("error_before")])
def test_without_a_list_a_campaign_that_is_sent_ends_long_before_its_delivery_time(bench: Bench, fault: Fault) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON + timedelta(days=180))
    bench.fault(dataclasses.replace(fault, endpoints=NO_LIST, times=10_000))
    assert bench.send(campaign, reconcile=EAGER).accepted == 2


def test_doubt_that_may_not_be_looked_up_is_not_waited_for_and_settled_by_the_next_start(bench: Bench) -> None:
    messages = [(A, "Hello"), (B, "Hello B")]
    campaign = bench.record(messages, send_at=SOON + timedelta(days=180))
    bench.fault(Fault("lost_before"), Fault("refuse", code=7, endpoints=NO_LIST, times=10_000))
    counts = bench.send(campaign, connections=1, reconcile=EAGER)
    assert (counts.accepted, counts.in_doubt) == (1, 1)
    bench.fault()
    assert bench.send(campaign, reconcile=EAGER).accepted == 2
    assert bench.sent == dict.fromkeys(messages, 1)


def test_doubt_waits_for_a_list_as_long_as_the_gateway_only_fails(bench: Bench) -> None:
    messages = [(A, "Hello"), (B, "Hello B")]
    campaign = bench.record(messages, send_at=SOON)
    bench.fault(Fault("lost_before"), Fault("html", endpoints=NO_LIST, times=40))
    assert bench.send(campaign, connections=1, reconcile=EAGER).accepted == 2
    assert bench.sent == dict.fromkeys(messages, 1)


def test_lists_that_lack_only_their_end_are_not_taken_for_absence(bench: Bench) -> None:
    """All that is known to be there is on them: only that there are several in a row tells."""
    first, last = [(A, "Hello"), (B, "Hello B")], (C, "Hello C")
    bench.gateway.configure({"dialect": {"order": "ascending"}})
    assert bench.send(bench.record(first, send_at=SOON), connections=1).accepted == 2
    form = f"user={bench.sandbox.user}&pwd={bench.sandbox.password}".encode()
    so_far = bench.gateway.handle("POST", "sendlater/getall", b"", form).body.rstrip()
    assert so_far.count(b"\n") == 2
    campaign = bench.record([last], send_at=SOON)
    bench.fault(
        Fault("answer_lost"), Fault("cut_short", endpoints=("sendlater/getall",), keep_bytes=len(so_far), times=2)
    )
    eager = ReconcileOptions(late_arrival_s=0.0, interval_s=0.05)
    assert bench.send(campaign, connections=1, reconcile=eager).accepted == 3
    assert bench.sent == dict.fromkeys([*first, last], 1)
    assert bench.requests == 3


def test_what_arrives_after_it_was_found_absent_is_cancelled(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON)
    bench.fault(Fault("late", delay_s=60.0))
    counts = bench.send(campaign, connections=1)
    assert counts.accepted == 2
    bench.gateway.clock.advance(120)  # now it is there twice
    assert bench.sent[A, "Hello"] == 2
    bench.follow(campaign, deadline_s=1.5)
    assert bench.sent == {(A, "Hello"): 1, (B, "Hello B"): 1}


def test_when_time_runs_out_doubt_stays_and_nothing_is_sent_again(bench: Bench) -> None:
    soon = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=2)
    campaign = bench.record([(A, "Hello")], send_at=soon)
    bench.fault(Fault("lost_before"))
    counts = bench.send(
        campaign, reconcile=ReconcileOptions(late_arrival_s=0.2, interval_s=0.1, cutoff_before_delivery_s=600)
    )
    assert (counts.in_doubt, counts.planned, counts.accepted) == (1, 0, 0)
    assert bench.requests == 1


# -- when: within hours, at a rate, and asking first -------------------------------------------------------------------


def in_hours(opens: float, closes: float) -> TimeWindow:
    """A window of every day that opens and closes so many hours from now."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    opening, closing = (now + timedelta(hours=each) for each in (opens, closes))
    return TimeWindow(opening.time(), closing.time(), ZoneInfo("UTC"))


class Until(TimeWindow):
    """A window that is open until a moment, and again at :data:`SOON`."""

    __slots__ = ("moment",)
    moment: datetime

    def contains(self, at: datetime) -> bool:
        return at < self.moment or at >= SOON

    @classmethod
    def of(cls, moment: datetime) -> Until:
        window = cls(time(0), time(0), ZoneInfo("UTC"))
        object.__setattr__(window, "moment", moment)
        return window


def scheduled_times(bench: Bench) -> list[datetime | None]:
    """The delivery times of what the gateway has and has not cancelled, in the order it was accepted."""
    found = [message["scheduled_at"] for message in bench.gateway.ledger() if not message["cancelled"]]
    return [None if each is None else datetime.fromisoformat(each) for each in found]


@pytest.mark.parametrize(("fault", "requests"), [(Fault("answer_lost"), 3), (Fault("lost_before"), 4)])
def test_outside_its_hours_a_campaign_waits_for_them_and_is_sent_exactly_once(
    bench: Bench, fault: Fault, requests: int
) -> None:
    messages = [(A, "Hello"), (B, "Hello B"), (C, "Hello C")]
    campaign, window = bench.record(messages), in_hours(3, 5)
    bench.fault(fault)
    counts = bench.send(campaign, send_window=window)
    assert (counts.accepted, counts.in_doubt) == (3, 0)
    assert bench.sent == dict.fromkeys(messages, 1)
    assert set(scheduled_times(bench)) == {window.next_opening(datetime.now(UTC))}
    # Started again, even within its hours, it has nothing left to send.
    assert bench.send(campaign, send_window=in_hours(-1, 1)).accepted == 3
    assert bench.requests == requests


def test_within_its_hours_a_campaign_is_sent_at_once(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")])
    assert bench.send(campaign, send_window=in_hours(-1, 1)).accepted == 2
    assert scheduled_times(bench) == [None, None]


def test_shortly_before_its_hours_end_nothing_is_begun(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.send(campaign, send_window=Until.of(datetime.now(UTC) + timedelta(seconds=1.2)))  # a request may take 1.3 s
    assert scheduled_times(bench) == [SOON]


def test_when_its_hours_end_the_rest_waits_for_the_next_ones(bench: Bench) -> None:
    people = [f"46701740{number}" for number in range(605, 645)]
    campaign = bench.record([(who, f"Hello {who} {number}") for number in range(5) for who in people])
    bench.gateway.configure({"latency_ms": 20})
    ends = datetime.now(UTC) + timedelta(seconds=2.3)  # 1.3 of these a request may take
    counts = bench.send(campaign, connections=2, send_window=Until.of(ends))
    assert (counts.accepted, counts.planned) == (200, 0)
    assert len(bench.sent) == 200
    assert set(bench.sent.values()) == {1}
    at_once = [message for message in bench.gateway.ledger() if message["scheduled_at"] is None]
    assert 0 < len(at_once) < 200
    assert all(datetime.fromisoformat(message["accepted_at"]) < ends for message in at_once)
    assert set(scheduled_times(bench)) == {None, SOON}


def test_hours_that_begin_at_once_leave_time_to_look_up_doubt(bench: Bench) -> None:
    minute = timedelta(minutes=1)
    window = in_hours(1 / 60, 2)  # less than a minute from now
    before = datetime.now(UTC)
    campaign = bench.record([(A, "Hello")])
    bench.fault(Fault("answer_lost"))
    counts = bench.send(campaign, send_window=window)
    (at,) = scheduled_times(bench)
    assert at is not None
    if at < before + 30 * minute:  # unless the hour struck while this test ran
        assert counts.in_doubt == 0
        assert before + timedelta(seconds=60) < at <= before + 3 * minute
    assert window.contains(at)


def test_a_guarded_time_outside_the_hours_moves_to_their_opening(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])
    window = in_hours(-1, 2 / 60)  # open now, but not in five minutes
    bench.send(campaign, send_window=window, schedule_ahead_s=300.0)
    (at,) = scheduled_times(bench)
    assert at is not None
    assert timedelta(hours=22) < at - datetime.now(UTC) < timedelta(hours=24)
    assert window.contains(at)
    assert not window.contains(at - timedelta(minutes=1))


def test_a_campaigns_own_time_is_taken_as_it_is(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")], send_at=SOON)
    bench.send(campaign, send_window=in_hours(3, 5), schedule_ahead_s=300.0)
    assert scheduled_times(bench) == [SOON]


def test_at_a_rate_requests_leave_one_after_the_other(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(12)])
    bench.send(campaign, messages_per_minute=600)
    times = [datetime.fromisoformat(message["accepted_at"]) for message in bench.gateway.ledger()]
    assert len(times) == 12
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(times)]
    assert times[-1] - times[0] >= timedelta(seconds=11 * 0.1 - 0.05)
    assert sum(gap > 0.05 for gap in gaps) >= 10  # not in bursts


def test_at_a_rate_no_request_carries_many(bench: Bench) -> None:
    people = [f"46701740{number}" for number in range(605, 635)]
    size = SendOptions(messages_per_minute=300).request_size
    campaign = bench.record([(who, "Hello") for who in people], batch_size=size)
    began = datetime.now(UTC)
    bench.send(campaign, messages_per_minute=300)  # six seconds' worth: all of them
    assert [len(message["recipients"]) for message in bench.gateway.ledger()] == [30]
    assert datetime.now(UTC) - began < timedelta(seconds=4)  # nothing is left to wait for
    assert SendOptions(messages_per_minute=100).request_size == 10
    assert SendOptions(messages_per_minute=0.5).request_size == 1
    assert SendOptions(batch_size=50).request_size == 50


def test_what_waits_for_its_turn_is_planned_and_not_in_doubt(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(6)])
    seen: list[tuple[int, int]] = []

    def look(progress: Progress) -> None:
        counts = bench.journal.campaigns.counts(campaign)
        seen.append((counts.sending, counts.planned))

    bench.send(campaign, listener=look, messages_per_minute=240)  # one every quarter of a second
    assert all(sending <= 1 for sending, _ in seen)
    left = [planned for _, planned in seen]
    assert left[0] >= 4
    assert left == sorted(left, reverse=True)


def test_a_cancelled_campaign_does_not_wait_for_its_turn(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(9)])
    with pytest.raises(CampaignCancelledError):
        bench.send(campaign, listener=lambda _: bench.journal.campaigns.cancel(campaign), messages_per_minute=240)
    assert bench.journal.campaigns.counts(campaign).planned >= 7


def test_at_a_rate_scheduled_messages_are_spread_over_minutes(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(12)], send_at=SOON)
    began = datetime.now(UTC)
    bench.send(campaign, messages_per_minute=5)
    assert datetime.now(UTC) - began < timedelta(seconds=10)  # nobody waits for it here
    minute = timedelta(minutes=1)
    assert Counter(scheduled_times(bench)) == {SOON: 5, SOON + minute: 5, SOON + 2 * minute: 2}


def test_spread_messages_stay_within_the_hours(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(12)])
    window = in_hours(3, 3 + 2 / 60)  # two minutes a day
    bench.send(campaign, messages_per_minute=5, send_window=window)
    opening, minute = window.next_opening(datetime.now(UTC)), timedelta(minutes=1)
    tomorrow = opening + timedelta(days=1)
    assert Counter(scheduled_times(bench)) == {opening: 5, opening + minute: 5, tomorrow: 2}


def test_the_gate_is_asked_before_anything_is_claimed(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(7)])
    asked: list[tuple[int, int]] = []

    async def acquire(requests: int) -> None:
        asked.append((requests, bench.journal.campaigns.counts(campaign).sending))
        await asyncio.sleep(0.05)

    assert bench.send(campaign, gate=RateGate(acquire, max_requests=2)).accepted == 7
    # Seven requests, two at a time, and nobody is asked when nothing is left.
    assert [requests for requests, _ in asked] == [2, 2, 2, 2]
    assert asked[0][1] == 0


def test_a_gate_that_takes_its_time_is_asked_for_more_at_once(bench: Bench) -> None:
    campaign = bench.record([(f"4670000{row:04}", f"text {row}") for row in range(300)])
    asked: list[int] = []

    async def acquire(requests: int) -> None:
        asked.append(requests)
        await asyncio.sleep(0.1)

    assert bench.send(campaign, gate=RateGate(acquire, max_requests=64)).accepted == 300
    # From eight on, each time up to twice as many: asking costs time, and that is no reason to ask for few.
    assert max(asked) >= 32
    assert len(asked) < 20


def test_a_gate_that_fails_stops_the_campaign_in_order(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(7)])
    asked = 0

    async def acquire(requests: int) -> None:
        nonlocal asked
        asked += requests
        if asked > 3:
            raise ConfigurationError("The gate is gone.")

    with pytest.raises(CampaignStoppedError, match=r"The gate is gone.*start the same campaign again") as stopped:
        bench.send(campaign, gate=RateGate(acquire, max_requests=1))
    assert (stopped.value.counts["accepted"], stopped.value.counts["planned"]) == (3, 4)
    assert bench.send(campaign).accepted == 7
    assert set(bench.sent.values()) == {1}


def test_who_waits_at_the_gate_stops_when_the_lease_cannot_be_renewed(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])

    async def acquire(requests: int) -> None:
        with bench.journal._database.write() as connection:
            connection.exec_driver_sql("UPDATE run SET lease_until = 1")
        await asyncio.Event().wait()

    with pytest.raises(JournalError, match="lease has ended"):
        bench.send(campaign, gate=RateGate(acquire), lease_s=0.6)
    assert bench.requests == 0


def test_a_rate_must_be_one() -> None:
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="messages_per_minute"):
            SendOptions(messages_per_minute=rate)


# -- stopping --------------------------------------------------------------------------------------------------------


def test_a_cancelled_campaign_knows_what_was_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = bench.record([(f"46701740{number}", f"Hello {number}") for number in range(605, 705)])
    claim = bench.journal.claims.claim

    def refused(run: SendRun, *, outcomes: Sequence[Outcome] = (), **how: Any) -> list[Batch]:
        if outcomes:
            bench.journal.campaigns.cancel(campaign)
        return claim(run, outcomes=outcomes, **how)

    monkeypatch.setattr(bench.journal.claims, "claim", refused)
    with pytest.raises(CampaignCancelledError):
        bench.send(campaign)
    counts = bench.journal.campaigns.counts(campaign)
    assert 0 < len(bench.gateway.ledger()) < 100
    assert counts.accepted == len(bench.gateway.ledger())
    assert counts.planned == 100 - counts.accepted


def test_cancelling_a_scheduled_campaign(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B"), (C, "Hello C")], send_at=SOON)
    bench.send(campaign)
    bench.journal.campaigns.cancel(campaign)
    bench.fault(Fault("answer_lost", endpoints=("sendlater/cancel",)))
    assert bench.cancel(campaign) == Cancelled(cancelled=3, sent=0, unknown=0)
    assert bench.sent == {}
    assert bench.journal.campaigns.counts(campaign).cancelled == 3
    with pytest.raises(CampaignCancelledError):
        bench.send(campaign)


def test_what_waits_under_another_id_than_we_know_is_cancelled_too(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON)
    bench.send(campaign)
    with bench.journal._database.write() as connection:  # an answer cut short, then a crash
        connection.exec_driver_sql("UPDATE batch SET message_id = '10' WHERE message_id = '100001'")
    bench.journal.campaigns.cancel(campaign)
    assert bench.cancel(campaign) == Cancelled(cancelled=2, sent=0, unknown=0)
    assert bench.sent == {}


def test_doubt_about_a_cancelled_campaign_is_looked_up_and_cancelled(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B"), (C, "Hello C")], send_at=SOON)
    bench.fault(Fault("none"), Fault("answer_lost"), Fault("lost_before"))
    with pytest.raises(CampaignStoppedError):
        bench.send(campaign, connections=1, max_consecutive_failures=2, reconcile=ReconcileOptions(interval_s=60.0))
    assert bench.journal.campaigns.counts(campaign).in_doubt in {1, 2}  # one of them may have been looked up meanwhile
    bench.journal.campaigns.cancel(campaign)
    assert bench.cancel(campaign) == Cancelled(cancelled=2, sent=0, unknown=0)
    assert bench.sent == {}
    counts = bench.journal.campaigns.counts(campaign)
    assert (counts.cancelled, counts.planned, counts.in_doubt) == (2, 1, 0)


def test_what_has_been_sent_cannot_be_cancelled_and_is_reported(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON)
    bench.send(campaign)
    bench.gateway.clock.advance(7200)
    assert bench.cancel(campaign) == Cancelled(cancelled=0, sent=2, unknown=0)
    counts = bench.follow(campaign)
    assert (counts.accepted, counts.delivered, counts.cancelled) == (2, 2, 0)
