"""One process cancels a campaign while another one is sending it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerContext

import pytest

from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.campaign import CampaignContext, Cancelled, ReconcileOptions, cancel_at_gateway
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.journal import CampaignKey, Journal, Selection
from prefect_mymsp.sandbox import Fault, Sandbox
from tests.integration.campaign import sending_process
from tests.integration.conftest import Desk

ROWS = 400


def cancel(journal: Journal, campaign: CampaignKey, sandbox: Sandbox) -> Cancelled:
    async def run() -> Cancelled:
        async with AsyncMyMSPClient(sandbox.user, sandbox.password, base_url=sandbox.base_url) as client:
            with CampaignContext(journal, client, campaign.account) as context:
                options = ReconcileOptions(late_arrival_s=0.5, interval_s=0.1)
                return await cancel_at_gateway(context, campaign, reconcile=options)

    journal.campaigns.cancel(campaign)
    return asyncio.run(run())


@pytest.mark.parametrize("scheduled", [False, True], ids=["immediate", "scheduled"])
def test_cancelling_stops_another_process_and_journal_and_gateway_agree(
    desk: Desk, mymsp_sandbox: Sandbox, forkserver: ForkServerContext, scheduled: bool
) -> None:
    gateway = mymsp_sandbox.gateway
    gateway.configure({"latency_ms": 100})
    lost = Fault("response_lost", times=3)
    if scheduled:  # doubt about scheduled messages can be settled
        gateway.faults.replace(scripted=[Fault("none", times=20), lost])
    account = account_fingerprint(mymsp_sandbox.base_url, mymsp_sandbox.user)
    soon = (datetime.now(UTC) + timedelta(hours=3)).replace(second=0, microsecond=0)
    people = [(f"46700{number:06d}", f"Hello number {number}") for number in range(ROWS)]
    campaign = desk.record(people, account=account, send_at=soon if scheduled else None)
    job = {
        "journal": desk.url,
        "account": account,
        "campaign": campaign.name,
        "base_url": mymsp_sandbox.base_url,
        "batch_size": 1,
        "lease_s": 60.0,
        "timeout_s": 30.0,
        "reconcile": {"interval_s": 60.0},
    }
    process = forkserver.Process(target=sending_process.main, args=(job,))
    process.start()
    while len(gateway.messages) < 60 and process.is_alive():
        time.sleep(0.01)

    result = cancel(desk.journal, campaign, mymsp_sandbox)
    accepted = len(gateway.messages)
    assert 60 <= accepted < ROWS
    process.join(30)
    assert process.exitcode == sending_process.CANCELLED
    assert len(gateway.messages) == accepted, "something was sent after the campaign was cancelled"
    not_sent = {"planned": ROWS - accepted}
    if scheduled:
        assert result == Cancelled(cancelled=accepted, sent=0, unknown=0)
        assert desk.counts(campaign) == not_sent | {"cancelled": accepted}
        assert not +gateway.summary(), "a cancelled message would be delivered"
    else:
        assert result == Cancelled(cancelled=0, sent=0, unknown=0)
        assert desk.counts(campaign) == not_sent | {"accepted": accepted}
        parts = desk.journal.report_queries.messages(campaign.account, Selection(campaigns=[campaign.id]))
        states = [pair for part in parts for pair in zip(part["msisdn"], part["state"], strict=True)]
        reached = {msisdn for msisdn, state in states if state == "accepted"}
        assert {msisdn for msisdn, _ in gateway.summary()} == reached
        assert set(gateway.summary().values()) == {1}
