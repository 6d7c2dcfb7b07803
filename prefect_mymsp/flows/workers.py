"""Several processes, on as many machines as there are, send one campaign. Orchestration only."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.futures import wait
from prefect.logging import get_run_logger
from pydantic import SecretStr

from prefect_mymsp.blocks import CampaignJournal, open_journal
from prefect_mymsp.errors import CampaignStoppedError, InputError, JournalError, MyMSPError
from prefect_mymsp.flows.concurrency import concurrency_gate
from prefect_mymsp.flows.task_support import run_interruptibly

if TYPE_CHECKING:
    from prefect_mymsp.campaign import Progress, ProgressListener
    from prefect_mymsp.flows.send_campaign import _Job
    from prefect_mymsp.journal import CampaignKey, Counts, Journal

#: Seconds between two questions whether the flow run was cancelled, and between two reports of progress.
_EVERY_S = 2.0
#: Seconds for shares to leave; Prefect kills a cancelled flow run after 30 s.
_LEAVE_S = 20.0


def send_with_workers(job: _Job, journal: Journal, campaign: CampaignKey, listener: ProgressListener | None) -> Counts:
    """Send what is planned for a campaign in ``job.shares`` tasks of the flow's task runner.

    They claim requests from the journal side by side, so each is made by one of them. When one dies, the others take
    over what it had claimed.

    Raises:
        InputError: The journal is a file, which other machines do not see.
        CampaignStoppedError: The gateway refuses or cannot be reached, or shares were lost and messages are left.
    """
    from prefect_mymsp.campaign import Progress

    before = journal.campaigns.counts(campaign)
    share = _one_of(job, journal)
    futures = [send_as_worker.submit(share, campaign) for _ in range(job.shares)]
    try:
        while wait(futures, timeout=_EVERY_S).not_done:
            if listener is not None:
                now = journal.campaigns.counts(campaign)
                listener(Progress("send", before.planned - now.planned - now.sending, before.planned))
    except BaseException:
        # The flow run is being cancelled, and the cluster may end with it: the shares see that too, and leave in order.
        wait(futures, timeout=_LEAVE_S)
        raise
    lost = []
    for future in futures:
        try:
            future.result()
        except MyMSPError:
            raise
        except Exception as error:  # noqa: BLE001  whatever happens to machines
            lost.append(type(error).__name__)
    counts = journal.campaigns.counts(campaign)
    told = f"{len(lost)} of {job.shares} shares of campaign {job.campaign!r} were lost ({', '.join(lost)})"
    if lost and counts.planned + counts.sending:
        raise CampaignStoppedError(
            f"{told}; {counts.planned + counts.sending} messages are not sent yet. Start the same campaign again; "
            "nobody gets the message twice.",
            counts=dataclasses.asdict(counts),
        )
    if lost:
        get_run_logger().warning("%s; the others have done their work.", told)
    return counts


def _one_of(job: _Job, journal: Journal) -> _Job:
    """What one share is asked for: as the whole, but without anybody's numbers, and with its part of the rate."""
    options = dataclasses.replace(job.options, gate=None)
    place = CampaignJournal(url=SecretStr(journal.url.render_as_string(hide_password=False)))
    return dataclasses.replace(job, source=None, options=options, journal=place)


def require_shared_journal(shares: int, journal: Journal) -> None:
    """Refuse to share a campaign whose journal the other machines do not see.

    Raises:
        InputError: It is a file, or there is nothing to share between.
    """
    if shares < 1:
        raise InputError("shares must be at least 1.")
    if shares > 1 and journal.url.get_backend_name() == "sqlite":
        raise InputError(
            "A campaign that several processes share needs a journal that all of them reach: one in PostgreSQL (a "
            "CampaignJournal block, or PREFECT_INTEGRATIONS_MYMSP_JOURNAL_URL)."
        )


@task(name="send-as-worker", retries=0, cache_policy=NO_CACHE, persist_result=False)
def send_as_worker(job: _Job, campaign: CampaignKey) -> None:
    """Send what this process can get of a campaign, until nothing is left or its flow run is cancelled."""
    from prefect_mymsp.flows.send_campaign import send_planned_for

    if job.concurrency_limit is not None:
        gate = concurrency_gate(job.concurrency_limit)
        job = dataclasses.replace(job, options=dataclasses.replace(job.options, gate=gate))
    sent = 0

    def count(progress: Progress) -> None:
        nonlocal sent
        sent = progress.done

    with open_journal(job.journal) as journal:
        if journal.campaigns.get(job.account, job.campaign) != campaign:
            raise JournalError(
                f"The journal that {socket.gethostname()} reaches is not the one that campaign {job.campaign!r} is "
                "recorded in. Give its URL in a way that means the same on every machine."
            )
        flow_run = UUID(runtime.flow_run.get_id())
        run_interruptibly(_unless_over(flow_run, send_planned_for(job, journal, campaign, count)))
    get_run_logger().info("%d messages were sent by process %d on %s.", sent, os.getpid(), socket.gethostname())


async def _unless_over(flow_run: UUID, sending: Coroutine[Any, Any, Counts]) -> None:
    """Send, but stop when the flow run is over: nobody tells a task on another machine that it was cancelled."""
    over = CampaignStoppedError("The flow run that sends this campaign is over.", counts={})
    if await _is_over(flow_run):
        sending.close()
        raise over
    work = asyncio.ensure_future(sending)
    watching = asyncio.ensure_future(_watch(flow_run))
    watching.add_done_callback(lambda _: work.cancel())
    try:
        await work
    except asyncio.CancelledError:
        if watching.done():
            raise over from None
        raise
    finally:
        watching.cancel()


async def _watch(flow_run: UUID) -> None:
    while not await _is_over(flow_run):  # noqa: ASYNC110  there is no event to wait for
        await asyncio.sleep(_EVERY_S)


async def _is_over(flow_run: UUID) -> bool:
    """Whether a flow run is being cancelled, or has ended in any way."""
    try:
        async with get_client() as client:
            state = (await client.read_flow_run(flow_run)).state
    except Exception:  # noqa: BLE001  Prefect's server may be away for a while: the campaign goes on
        return False
    return state is not None and (state.is_cancelling() or state.is_final())
