"""Messages with a delivery time: exactly once. The gateway fails in one way; its ledger is counted."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest

from prefect_mymsp.campaign import (
    ReconcileOptions,
    SendOptions,
    send_planned,
)
from prefect_mymsp.journal import (
    CampaignKey,
    Counts,
)
from prefect_mymsp.sandbox import Fault
from prefect_mymsp.sandbox.messages import Reply
from tests.integration.campaign.bench import DOUBTFUL, EAGER, LOOK, SOON, A, B, Bench, C, D


@pytest.mark.parametrize("fault", DOUBTFUL, ids=lambda fault: f"{fault.kind}-{fault.processed}")
def test_doubt_about_a_scheduled_message_is_settled(bench: Bench, fault: Fault) -> None:
    messages = [(A, "Hello"), (B, "Hello B"), (C, "Hello C")]
    campaign = bench.record(messages, send_at=SOON)
    bench.fault(fault)
    counts = bench.send(campaign)
    assert (counts.accepted, counts.in_doubt) == (3, 0)
    assert bench.sent == dict.fromkeys(messages, 1)


def test_a_scheduled_campaign_ends_when_its_ids_are_listed(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON)
    began = monotonic()
    assert bench.send(campaign, reconcile=ReconcileOptions(interval_s=60.0)).accepted == 2
    assert monotonic() - began < 30.0


def test_messages_are_scheduled_ahead(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")])
    bench.fault(Fault("response_lost"), Fault("lost_before"))
    before = datetime.now(UTC)
    counts = bench.send(campaign, schedule_ahead_s=300.0)
    assert counts.accepted == 2
    assert bench.sent == {(A, "Hello"): 1, (B, "Hello B"): 1}
    for message in bench.gateway.ledger():
        assert (
            timedelta(seconds=300) <= datetime.fromisoformat(message["scheduled_at"]) - before < timedelta(seconds=370)
        )


def test_claims_of_a_dead_run_are_settled_when_its_lease_ends(bench: Bench) -> None:
    messages = [(A, "Hello"), (B, "Hello B"), (C, "Hello C"), (D, "Hello D")]
    campaign = bench.record(messages, send_at=SOON)
    dead = bench.journal.claims.start_run(campaign, lease_s=1.5)
    (first, _second) = bench.journal.claims.claim(dead, requests=2, batch_size=1)
    bench.post(first.msisdns[0], first.text, SOON)  # one request had left before the process died
    counts = bench.send(campaign)
    assert (counts.accepted, counts.in_doubt) == (4, 0)
    assert bench.sent == dict.fromkeys(messages, 1)


def test_a_truncated_id_of_a_scheduled_message_is_settled(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON)
    bench.fault(Fault("cut_short", keep_bytes=4))
    counts = bench.send(campaign)
    assert (counts.accepted, counts.in_doubt) == (2, 0)
    assert bench.sent == {(A, "Hello"): 1, (B, "Hello B"): 1}
    assert set(bench.messages(campaign, "message_id")) == {(message["id"],) for message in bench.gateway.ledger()}


def _change_responses(bench: Bench, monkeypatch: pytest.MonkeyPatch, change: Callable[[str, bytes], bytes]) -> None:
    """Pass the gateway's responses through ``change(endpoint, body)``."""
    handle = bench.gateway.handle

    def changed(method: str, endpoint: str, query: bytes, body: bytes) -> Reply:
        response = handle(method, endpoint, query, body)
        changed_body = response.body if response.dropped else change(endpoint, response.body)
        return response._replace(body=changed_body, announced=len(changed_body))

    monkeypatch.setattr(bench.gateway, "handle", changed)


def _list_an_hour_early(endpoint: str, response: bytes) -> bytes:
    if endpoint != "sendlater/getall":
        return response
    lines = response.decode().split("\n")
    earlier = [re.sub(r"\t.*", f"\t{SOON - timedelta(hours=1):%y%m%d%H%M%S}000+", line) for line in lines]
    return "\n".join(earlier).encode()


@pytest.mark.parametrize("faults", [(), (Fault("response_lost"),), (Fault("none"), Fault("response_lost"))], ids=len)
def test_misread_times_do_not_cause_a_second_message(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, faults: tuple[Fault, ...]
) -> None:
    messages = [(A, "Hello"), (B, "Hello B")]
    campaign = bench.record(messages, send_at=SOON)
    _change_responses(bench, monkeypatch, _list_an_hour_early)
    bench.fault(*faults)
    doubtful = any(fault.kind == "response_lost" for fault in faults)
    counts = _send_for(bench, campaign, 2.5) if doubtful else bench.send(campaign)
    assert (counts.accepted, counts.in_doubt) == ((1, 1) if doubtful else (2, 0))
    assert bench.requests == 2
    assert bench.sent == dict.fromkeys(messages, 1)


def test_a_message_rescheduled_by_another_system_is_not_sent_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = bench.record([(A, "Hello")], send_at=SOON)
    handle = bench.gateway.handle

    def reschedule_at_once(method: str, endpoint: str, query: bytes, body: bytes) -> Reply:
        response = handle(method, endpoint, query, body)
        if endpoint == "sendSms":
            form = f"user={bench.sandbox.user}&pwd={bench.sandbox.password}&msgno={response.body[1:].decode().strip()}"
            later = f"&deliverytime={SOON + timedelta(days=1):%Y%m%d%H%M}%2B0"
            assert handle("POST", "sendlater/update", b"", (form + later).encode()).body.startswith(b"A")
        return response

    monkeypatch.setattr(bench.gateway, "handle", reschedule_at_once)
    assert bench.send(campaign).accepted == 1
    assert bench.sent == {(A, "Hello"): 1}


def test_a_gateway_that_ignores_delivery_times_sends_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_missing_result_does_not_prove_absence(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [(A, "Hello"), (B, "Hello B")]
    campaign = bench.record(messages, send_at=SOON)
    _change_responses(
        bench, monkeypatch, lambda endpoint, response: b"N\n32" if endpoint == "getSmsResult" else response
    )
    bench.fault(Fault("response_lost"))
    counts = _send_for(bench, campaign, 2.5)
    assert (counts.accepted, counts.in_doubt) == (1, 1)
    assert bench.sent == dict.fromkeys(messages, 1)


def _send_for(bench: Bench, campaign: CampaignKey, seconds: float) -> Counts:
    """Send a campaign whose doubt is looked up until its delivery time, and cancel that after a while."""

    async def run() -> None:
        async with bench.client() as client:
            options = SendOptions(reconcile=LOOK, lease_s=5.0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(send_planned(bench.journal, client, campaign, options), seconds)

    asyncio.run(run())
    return bench.journal.campaigns.counts(campaign)


def test_indistinguishable_requests_are_cancelled_and_sent_again(bench: Bench) -> None:
    messages = [(A, "One"), (A, "Two"), (A, "Three")]
    campaign = bench.record(messages, send_at=SOON)
    bench.fault(Fault("response_lost"), Fault("response_lost"), Fault("lost_before"))
    counts = bench.send(campaign, connections=1)
    assert (counts.accepted, counts.in_doubt) == (3, 0)
    assert bench.sent == dict.fromkeys(messages, 1)
    assert sum(message["cancelled"] for message in bench.gateway.ledger()) == 2


def test_a_cancellation_in_doubt_is_settled(bench: Bench) -> None:
    messages = [(A, "One"), (A, "Two")]
    campaign = bench.record(messages, send_at=SOON)
    bench.fault(
        Fault("response_lost", times=2), Fault("response_lost", endpoints=("sendlater/cancel",)),
        Fault("lost_before", endpoints=("sendlater/cancel",)),
    )  # fmt: skip
    assert bench.send(campaign, connections=1).accepted == 2
    assert bench.sent == dict.fromkeys(messages, 1)


def test_messages_of_other_systems_are_not_touched(bench: Bench) -> None:
    bench.post(B, "Foreign", SOON)  # the same minute, other recipients
    bench.post(A, "Foreign", SOON + timedelta(minutes=1))  # the same recipient, another minute
    bench.post(f"{A},{B}", "Foreign", SOON)  # more recipients
    campaign = bench.record([(C, "Hello"), (D, "Hello D")], send_at=SOON)
    bench.fault(Fault("lost_before"), Fault("response_lost"))
    assert bench.send(campaign).accepted == 2
    assert [message["cancelled"] for message in bench.gateway.ledger() if message["text"] == "Foreign"] == [False] * 3
    assert {key: times for key, times in bench.sent.items() if key[1] != "Foreign"} == {
        (C, "Hello"): 1,
        (D, "Hello D"): 1,
    }


def test_a_truncated_list_does_not_prove_absence(bench: Bench) -> None:
    messages = [(A, "Hello"), (B, "Hello B"), (C, "Hello C")]
    campaign = bench.record(messages, send_at=SOON)
    bench.fault(
        Fault("none"), Fault("none"), Fault("response_lost"),
        Fault("cut_short", endpoints=("sendlater/getall",), keep_bytes=2, times=5),
    )  # fmt: skip
    eager = ReconcileOptions(late_arrival_s=0.0, interval_s=0.05)
    assert bench.send(campaign, connections=1, reconcile=eager).accepted == 3
    assert bench.sent == dict.fromkeys(messages, 1)
    assert bench.requests == 3


@pytest.mark.parametrize("smpp_time", [12, 16])
def test_nothing_is_proven_absent_in_the_repeated_hour(bench: Bench, smpp_time: int) -> None:
    """A time without a zone is read as the first of two, so a message for the second one would look absent."""
    year = datetime.now(UTC).year + 1
    last_sunday = next(day for day in range(31, 24, -1) if datetime(year, 10, day, tzinfo=UTC).weekday() == 6)
    first = datetime(year, 10, last_sunday, 0, 58, tzinfo=UTC)  # 02:58 in summer time; two minutes later it is 02:00
    messages = [(f"4670174060{number}", f"Hello {number}") for number in range(4)]
    campaign = bench.record(messages, send_at=first)
    bench.gateway.configure({"dialect": {"smpp_time": smpp_time}})
    bench.fault(Fault("none", times=3), Fault("response_lost"))
    counts = bench.send(campaign, connections=1, reconcile=EAGER, messages_per_minute=1)
    assert counts.accepted + counts.in_doubt == 4
    assert bench.sent == dict.fromkeys(messages, 1)
    assert counts.in_doubt == (1 if smpp_time == 12 else 0)


NO_LIST = ("sendlater/getall",)


@pytest.mark.parametrize("fault", [Fault("refuse", code=7), Fault("html"), Fault("error_before")])
def test_a_campaign_ends_without_a_list_if_nothing_is_in_doubt(bench: Bench, fault: Fault) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON + timedelta(days=180))
    bench.fault(dataclasses.replace(fault, endpoints=NO_LIST, times=10_000))
    assert bench.send(campaign, reconcile=EAGER).accepted == 2


def test_doubt_is_left_to_the_next_run_if_lists_are_refused(bench: Bench) -> None:
    messages = [(A, "Hello"), (B, "Hello B")]
    campaign = bench.record(messages, send_at=SOON + timedelta(days=180))
    bench.fault(Fault("lost_before"), Fault("refuse", code=7, endpoints=NO_LIST, times=10_000))
    counts = bench.send(campaign, connections=1, reconcile=EAGER)
    assert (counts.accepted, counts.in_doubt) == (1, 1)
    bench.fault()
    assert bench.send(campaign, reconcile=EAGER).accepted == 2
    assert bench.sent == dict.fromkeys(messages, 1)


def test_doubt_waits_for_a_list_while_the_gateway_fails(bench: Bench) -> None:
    messages = [(A, "Hello"), (B, "Hello B")]
    campaign = bench.record(messages, send_at=SOON)
    bench.fault(Fault("lost_before"), Fault("html", endpoints=NO_LIST, times=40))
    assert bench.send(campaign, connections=1, reconcile=EAGER).accepted == 2
    assert bench.sent == dict.fromkeys(messages, 1)


def test_lists_without_their_end_do_not_prove_absence(bench: Bench) -> None:
    """Such lists hold every message that must be waiting. Only several lists in a row prove absence."""
    first, last = [(A, "Hello"), (B, "Hello B")], (C, "Hello C")
    bench.gateway.configure({"dialect": {"order": "ascending"}})
    assert bench.send(bench.record(first, send_at=SOON), connections=1).accepted == 2
    form = f"user={bench.sandbox.user}&pwd={bench.sandbox.password}".encode()
    list_so_far = bench.gateway.handle("POST", "sendlater/getall", b"", form).body.rstrip()
    assert list_so_far.count(b"\n") == 2
    campaign = bench.record([last], send_at=SOON)
    bench.fault(
        Fault("response_lost"),
        Fault("cut_short", endpoints=("sendlater/getall",), keep_bytes=len(list_so_far), times=2),
    )
    eager = ReconcileOptions(late_arrival_s=0.0, interval_s=0.05)
    assert bench.send(campaign, connections=1, reconcile=eager).accepted == 3
    assert bench.sent == dict.fromkeys([*first, last], 1)
    assert bench.requests == 3


def test_a_request_that_arrives_late_is_cancelled(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON)
    bench.fault(Fault("late", delay_s=60.0))
    counts = bench.send(campaign, connections=1)
    assert counts.accepted == 2
    bench.gateway.clock.advance(120)  # the late request has arrived
    assert bench.sent[A, "Hello"] == 2
    bench.follow(campaign, deadline_s=1.5)
    assert bench.sent == {(A, "Hello"): 1, (B, "Hello B"): 1}


def test_nothing_is_sent_again_shortly_before_the_delivery_time(bench: Bench) -> None:
    soon = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=2)
    campaign = bench.record([(A, "Hello")], send_at=soon)
    bench.fault(Fault("lost_before"))
    counts = bench.send(
        campaign, reconcile=ReconcileOptions(late_arrival_s=0.2, interval_s=0.1, cutoff_before_delivery_s=600)
    )
    assert (counts.in_doubt, counts.planned, counts.accepted) == (1, 0, 0)
    assert bench.requests == 1
