"""Campaigns that are cancelled while they are sent, or while they wait at the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from prefect_mymsp.campaign import (
    Cancelled,
    ReconcileOptions,
)
from prefect_mymsp.errors import (
    CampaignCancelledError,
    CampaignStoppedError,
)
from prefect_mymsp.journal import (
    Batch,
    Outcome,
    SendRun,
)
from prefect_mymsp.sandbox import Fault
from tests.integration.campaign.bench import SOON, A, B, Bench, C


def test_outcomes_are_recorded_when_a_campaign_is_cancelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = bench.record([(f"46701740{number}", f"Hello {number}") for number in range(605, 705)])
    claim = bench.journal.claims.claim

    def cancel_first(run: SendRun, *, outcomes: Sequence[Outcome] = (), **arguments: Any) -> list[Batch]:
        if outcomes:
            bench.journal.campaigns.cancel(campaign)
        return claim(run, outcomes=outcomes, **arguments)

    monkeypatch.setattr(bench.journal.claims, "claim", cancel_first)
    with pytest.raises(CampaignCancelledError):
        bench.send(campaign)
    counts = bench.journal.campaigns.counts(campaign)
    assert 0 < len(bench.gateway.ledger()) < 100
    assert counts.accepted == len(bench.gateway.ledger())
    assert counts.planned == 100 - counts.accepted


def test_a_scheduled_campaign_is_cancelled_at_the_gateway(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B"), (C, "Hello C")], send_at=SOON)
    bench.send(campaign)
    bench.journal.campaigns.cancel(campaign)
    bench.fault(Fault("response_lost", endpoints=("sendlater/cancel",)))
    assert bench.cancel(campaign) == Cancelled(cancelled=3, sent=0, unknown=0)
    assert bench.sent == {}
    assert bench.journal.campaigns.counts(campaign).cancelled == 3
    with pytest.raises(CampaignCancelledError):
        bench.send(campaign)


def test_a_message_with_a_wrong_id_is_cancelled_too(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON)
    bench.send(campaign)
    with bench.journal._database.write() as connection:  # a response cut short, then a crash
        connection.exec_driver_sql("UPDATE batch SET message_id = '10' WHERE message_id = '100001'")
    bench.journal.campaigns.cancel(campaign)
    assert bench.cancel(campaign) == Cancelled(cancelled=2, sent=0, unknown=0)
    assert bench.sent == {}


def test_requests_in_doubt_of_a_cancelled_campaign_are_cancelled(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B"), (C, "Hello C")], send_at=SOON)
    bench.fault(Fault("none"), Fault("response_lost"), Fault("lost_before"))
    with pytest.raises(CampaignStoppedError):
        bench.send(campaign, connections=1, max_consecutive_failures=2, reconcile=ReconcileOptions(interval_s=60.0))
    assert bench.journal.campaigns.counts(campaign).in_doubt in {1, 2}  # one of them may have been settled meanwhile
    bench.journal.campaigns.cancel(campaign)
    assert bench.cancel(campaign) == Cancelled(cancelled=2, sent=0, unknown=0)
    assert bench.sent == {}
    counts = bench.journal.campaigns.counts(campaign)
    assert (counts.cancelled, counts.planned, counts.in_doubt) == (2, 1, 0)


def test_messages_that_were_sent_are_not_cancelled(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")], send_at=SOON)
    bench.send(campaign)
    bench.gateway.clock.advance(7200)
    assert bench.cancel(campaign) == Cancelled(cancelled=0, sent=2, unknown=0)
    counts = bench.follow(campaign)
    assert (counts.accepted, counts.delivered, counts.cancelled) == (2, 2, 0)
