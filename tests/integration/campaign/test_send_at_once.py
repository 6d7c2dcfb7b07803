"""Messages sent at once are sent at most once: the gateway fails in one way, and its ledger is counted."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import pytest

from prefect_mymsp.campaign import (
    Progress,
    SendOptions,
)
from prefect_mymsp.errors import (
    CampaignStoppedError,
    InputError,
    JournalError,
)
from prefect_mymsp.journal import (
    Batch,
    Outcome,
    SendRun,
)
from prefect_mymsp.models import Decision
from prefect_mymsp.sandbox import Fault
from tests.integration.campaign.bench import DOUBTFUL, A, B, Bench, C, D


@pytest.mark.parametrize("fault", DOUBTFUL, ids=lambda fault: f"{fault.kind}-{fault.processed}")
def test_a_request_in_doubt_is_not_repeated(bench: Bench, fault: Fault) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(fault)
    assert bench.send(campaign).in_doubt == 1
    assert bench.send(campaign).in_doubt == 1
    assert bench.requests == 1


@pytest.mark.parametrize("fault", [Fault("rate_limited", retry_after_s=0), Fault("rate_limited")])
def test_a_429_response_is_retried(bench: Bench, fault: Fault) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(fault)
    assert bench.send(campaign).accepted == 1
    assert bench.sent == {(A, "Hello"): 1}


def test_rows_with_the_same_text_share_a_request(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello"), (C, "Hello C"), (D, "Hello")])
    assert bench.send(campaign).accepted == 4
    assert sorted(len(message["recipients"]) for message in bench.gateway.ledger()) == [1, 3]


def test_a_bad_number_is_bisected(bench: Bench) -> None:
    bad = "46701740654"
    msisdns = [f"46701740{number}" for number in range(605, 635)]
    campaign = bench.record([(msisdn, "Hello") for msisdn in [*msisdns[:17], bad, *msisdns[17:]]])
    counts = bench.send(campaign)
    assert (counts.accepted, counts.refused) == (30, 1)
    assert bench.sent == {(msisdn, "Hello"): 1 for msisdn in msisdns}
    assert [row for row in bench.messages(campaign, "state", "msisdn", "code") if row[0] == "refused"] == [
        ("refused", bad, 28)
    ]


def test_an_undocumented_code_is_bisected(bench: Bench) -> None:
    """The code may be cut short, or concern one of the recipients."""
    msisdns = [f"46701740{number}" for number in range(605, 635)]
    campaign = bench.record([(msisdn, "Hello") for msisdn in msisdns])
    bench.fault(Fault("refuse", code=2, times=2))
    assert bench.send(campaign).accepted == 30
    assert bench.sent == {(msisdn, "Hello"): 1 for msisdn in msisdns}


def test_repeated_undocumented_codes_stop_the_campaign(bench: Bench) -> None:
    msisdns = [f"467017{number:05}" for number in range(512)]
    campaign = bench.record([(msisdn, "Hello") for msisdn in msisdns])
    bench.fault(Fault("refuse", code=40, times=10_000))
    with pytest.raises(CampaignStoppedError, match="code 40") as stopped:
        bench.send(campaign, connections=1, max_consecutive_failures=12)
    assert bench.requests == 12
    assert stopped.value.counts["refused"] + stopped.value.counts["planned"] == 512
    assert stopped.value.counts["refused"] < 12


@pytest.mark.parametrize("code", [7, 11, 12, 22, 23, 24, 25, 33, 35])
def test_a_refused_account_stops_the_campaign_in_order(bench: Bench, code: int) -> None:
    msisdns = [f"46701740{number}" for number in range(605, 645)]
    campaign = bench.record([(msisdn, f"Hello {msisdn}") for msisdn in msisdns])
    bench.fault(Fault("none", times=10), Fault("refuse", code=code, times=1))
    with pytest.raises(CampaignStoppedError, match=rf"code {code} .*start the same campaign again") as stopped:
        bench.send(campaign, connections=1)
    assert stopped.value.counts["accepted"] == 10
    assert stopped.value.counts["planned"] == 30
    assert stopped.value.counts["in_doubt"] == stopped.value.counts["refused"] == 0
    assert bench.send(campaign).accepted == 40
    assert set(bench.sent.values()) == {1}
    assert len(bench.sent) == 40


def test_repeated_doubt_stops_the_campaign(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(30)])
    bench.fault(Fault("response_lost", times=30))
    with pytest.raises(CampaignStoppedError, match="lost or incomplete"):
        bench.send(campaign, connections=1, max_consecutive_failures=5)
    assert bench.requests == 5
    counts = bench.journal.campaigns.counts(campaign)
    assert (counts.in_doubt, counts.planned) == (5, 25)


@pytest.mark.parametrize(("decision", "requests"), [("sent", 1), ("not-sent", 2)])
def test_doubt_that_a_person_resolves(bench: Bench, decision: Decision, requests: int) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(Fault("lost_before"))
    bench.send(campaign)
    assert bench.journal.doubt.resolve(campaign, decision) == 1
    counts = bench.send(campaign)
    assert bench.requests == requests
    assert (counts.assumed, counts.accepted) == ((1, 0) if decision == "sent" else (0, 1))


def test_the_intent_is_durable_before_the_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello"), (C, "Hello C")])
    database = bench.journal.url.database
    assert database is not None
    handle, received = bench.gateway.handle, list[tuple[str, set[str]]]()

    def inspect(method: str, endpoint: str, query: bytes, body: bytes) -> object:
        # What another process would find when the request arrives.
        with closing(sqlite3.connect(database)) as other:
            rows = other.execute(
                "SELECT msisdn FROM message JOIN batch ON batch.id = batch_id WHERE state = 'sending'"
            ).fetchall()
        (recipients,) = parse_qs(body.decode())["recipients"]
        received.append((recipients, {row[0] for row in rows}))
        return handle(method, endpoint, query, body)

    monkeypatch.setattr(bench.gateway, "handle", inspect)
    assert bench.send(campaign).accepted == 3
    assert sorted(recipients for recipients, _ in received) == [f"{A},{B}", C]
    for recipients, intended in received:
        assert set(recipients.split(",")) <= intended


def test_few_requests_are_claimed_ahead_of_a_slow_gateway(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is claimed is in doubt if its process dies: as few requests as possible wait for a connection."""
    bench.gateway.configure({"latency_ms": 80})
    campaign = bench.record([(f"4670000{row:04}", f"text {row}") for row in range(80)])
    claim, claimed, ahead = bench.journal.claims.claim, 0, []

    def count_ahead(run: SendRun, **arguments: Any) -> list[Batch]:
        nonlocal claimed
        arrived = len(bench.gateway.messages)  # read first: more arrive during the claim
        batches = claim(run, **arguments)
        claimed += len(batches)
        ahead.append(claimed - arrived)
        return batches

    monkeypatch.setattr(bench.journal.claims, "claim", count_ahead)
    assert bench.send(campaign, connections=4).accepted == 80
    assert len(ahead) > 10
    assert max(ahead) <= 4 * 4  # in flight, two windows, and those that arrive during a claim


def test_no_claims_are_made_once_all_is_claimed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.gateway.configure({"latency_ms": 80})
    campaign = bench.record([(f"4670000{row:04}", f"text {row}") for row in range(30)])
    claim, empty = bench.journal.claims.claim, 0

    def count_ahead(run: SendRun, **arguments: Any) -> list[Batch]:
        nonlocal empty
        batches = claim(run, **arguments)
        empty += not batches
        return batches

    monkeypatch.setattr(bench.journal.claims, "claim", count_ahead)
    assert bench.send(campaign, connections=4).accepted == 30
    assert empty <= 2  # when nothing is left, and at the end


def test_a_failing_journal_stops_the_campaign_and_says_how_to_continue(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.gateway.configure({"latency_ms": 50})
    campaign = bench.record([(f"4670000{row:04}", f"text {row}") for row in range(60)])

    def fail(*_: object, **__: object) -> None:
        raise JournalError("The journal could not be written.")

    def listener(_: Progress) -> None:
        for name in ("claim", "settle", "renew", "end_run"):
            monkeypatch.setattr(bench.journal.claims, name, fail)
        monkeypatch.setattr(bench.journal.campaigns, "counts", fail)

    with pytest.raises(JournalError) as caught:
        bench.send(campaign, listener=listener)
    message = str(caught.value)
    assert message.startswith("The journal could not be written. This has stopped campaign 'campaign'.")
    assert "start the same campaign again" in message


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"claim_window_s": 0}, "claim_window_s"),
        ({"destination_port": 65536}, "port"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        SendOptions(**options)


def test_messages_that_another_run_releases_are_sent(bench: Bench) -> None:
    bench.gateway.configure({"latency_ms": 900})
    campaign = bench.record([(f"4670000{row:04}", f"text {row}") for row in range(4)])
    other = bench.journal.claims.start_run(campaign)
    claimed = bench.journal.claims.claim(other, requests=2, batch_size=1)

    def release() -> None:
        now = datetime.now(UTC)
        bench.journal.claims.settle([Outcome(batch.id, "released", now, reason="not-started") for batch in claimed])
        bench.journal.claims.end_run(other)

    timer = threading.Timer(0.45, release)  # while the other two requests are in flight
    timer.start()
    assert bench.send(campaign).accepted == 4
    timer.join()
    assert len(bench.sent) == 4
