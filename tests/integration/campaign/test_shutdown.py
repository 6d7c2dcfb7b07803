"""An interrupted sending shuts down in order: no request is begun, and those in flight are settled."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.campaign import SendOptions, send_planned
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.flows.task_support import run_interruptibly
from prefect_mymsp.journal import CampaignKey, Counts, Journal, PlannedChunk, text_digest
from prefect_mymsp.sandbox import Sandbox

ROWS = 200
CONNECTIONS = 4


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as opened:
        yield opened


@pytest.fixture
def campaign(journal: Journal, mymsp_sandbox: Sandbox) -> CampaignKey:
    """Two hundred recipients with a text each, at a gateway that takes a third of a second for each request."""
    mymsp_sandbox.gateway.configure({"latency_ms": 300})
    texts = [f"Number {index}" for index in range(ROWS)]
    block = PlannedChunk(
        rows=range(1, ROWS + 1),
        msisdns=[f"467005{index:05d}" for index in range(ROWS)],
        text_of=range(ROWS),
        texts=texts,
        digests=[text_digest(text) for text in texts],
        encodings=["GSM-7"] * ROWS,
        segments=[1] * ROWS,
    )
    account = account_fingerprint(mymsp_sandbox.base_url, mymsp_sandbox.user)
    with journal.recording(account, "campaign", source="test", sender=None, send_at=None) as recording:
        recording.add(block)
        return recording.campaign


async def send(journal: Journal, sandbox: Sandbox, campaign: CampaignKey, shutdown_timeout_s: float = 10.0) -> Counts:
    async with AsyncMyMSPClient(
        sandbox.user, sandbox.password, base_url=sandbox.base_url, retry_for_s=60, connections=CONNECTIONS
    ) as client:
        return await send_planned(journal, client, campaign, SendOptions(shutdown_timeout_s=shutdown_timeout_s))


def send_and_cancel(
    journal: Journal, sandbox: Sandbox, campaign: CampaignKey, *, times: int = 1, shutdown_timeout_s: float = 10.0
) -> float:
    """Begin to send, and cancel that; returns the seconds that the shutdown took."""

    async def run() -> float:
        sending = asyncio.create_task(send(journal, sandbox, campaign, shutdown_timeout_s))
        await asyncio.sleep(1.0)
        began = time.monotonic()
        for _ in range(times):
            sending.cancel()
            await asyncio.sleep(0.05)
        with pytest.raises(asyncio.CancelledError):
            await sending
        return time.monotonic() - began

    return asyncio.run(run())


def check_settled(journal: Journal, sandbox: Sandbox, campaign: CampaignKey) -> Counts:
    """The counts, after checking that they agree with the gateway's ledger and that no request is held."""
    counts = journal.campaigns.counts(campaign)
    assert counts.sending == 0
    assert counts.accepted + counts.planned + counts.in_doubt == ROWS
    assert counts.accepted <= sum(sandbox.gateway.summary().values()) <= counts.accepted + counts.in_doubt
    assert counts.planned > 0
    return counts


def test_requests_in_flight_are_finished(journal: Journal, mymsp_sandbox: Sandbox, campaign: CampaignKey) -> None:
    assert send_and_cancel(journal, mymsp_sandbox, campaign) < 2
    counts = check_settled(journal, mymsp_sandbox, campaign)
    assert counts.in_doubt == 0
    assert counts.accepted >= CONNECTIONS
    # The next run does not wait for a lease, and nobody gets a second message.
    mymsp_sandbox.gateway.configure({"latency_ms": 0})
    began = time.monotonic()
    assert asyncio.run(send(journal, mymsp_sandbox, campaign)).accepted == ROWS
    assert time.monotonic() - began < 10
    assert set(mymsp_sandbox.gateway.summary().values()) == {1}
    assert len(mymsp_sandbox.gateway.summary()) == ROWS


@pytest.mark.parametrize(
    ("times", "shutdown_timeout_s"), [(2, 10.0), (1, 0.2)], ids=["cancelled twice", "no response in time"]
)
def test_requests_without_a_response_are_in_doubt(
    journal: Journal, mymsp_sandbox: Sandbox, campaign: CampaignKey, times: int, shutdown_timeout_s: float
) -> None:
    mymsp_sandbox.gateway.configure({"latency_ms": 20_000})
    assert send_and_cancel(journal, mymsp_sandbox, campaign, times=times, shutdown_timeout_s=shutdown_timeout_s) < 2
    assert check_settled(journal, mymsp_sandbox, campaign).in_doubt == CONNECTIONS


def test_requests_that_never_reached_the_gateway_are_planned(
    journal: Journal,
    mymsp_sandbox: Sandbox,
    campaign: CampaignKey,
    unreachable: Callable[[Sandbox], AbstractContextManager[None]],
) -> None:
    with unreachable(mymsp_sandbox):
        assert send_and_cancel(journal, mymsp_sandbox, campaign) < 2
    counts = check_settled(journal, mymsp_sandbox, campaign)
    assert (counts.in_doubt, counts.planned) == (0, ROWS)


class Interrupted(BaseException):
    """Like Prefect's own, it is not an Exception."""


def test_an_exception_in_the_main_thread_propagates_after_the_shutdown(
    journal: Journal, mymsp_sandbox: Sandbox, campaign: CampaignKey
) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(Interrupted):
            run_interruptibly(send(journal, mymsp_sandbox, campaign))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert check_settled(journal, mymsp_sandbox, campaign).in_doubt == 0


PROCESS = """
import asyncio, sys
from prefect.utilities.engine import capture_sigterm
from prefect_mymsp.campaign import send_planned
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.flows.task_support import run_interruptibly
from prefect_mymsp.journal import Journal

async def send(place, account, user, password, base_url):
    with Journal(place) as journal:
        campaign = journal.campaigns.get(account, "campaign")
        async with AsyncMyMSPClient(user, password, base_url=base_url, connections=4) as client:
            await send_planned(journal, client, campaign)

with capture_sigterm():
    print("begins", flush=True)
    run_interruptibly(send(*sys.argv[1:]))
"""


def test_a_terminated_process_leaves_a_correct_journal(
    journal: Journal, mymsp_sandbox: Sandbox, campaign: CampaignKey, tmp_path: Path
) -> None:
    account_settings = [mymsp_sandbox.user, mymsp_sandbox.password, mymsp_sandbox.base_url]
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "journal.db"), campaign.account, *account_settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begins\n"
        while not mymsp_sandbox.gateway.summary():
            time.sleep(0.05)
        began = time.monotonic()
        process.terminate()
        process.communicate(timeout=30)
        assert time.monotonic() - began < 4
    assert process.returncode == -signal.SIGTERM
    assert check_settled(journal, mymsp_sandbox, campaign).in_doubt == 0
