"""Send one campaign from several processes, on as many machines as the flow's task runner has."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import runtime, task
from prefect.client.orchestration import get_client
from prefect.futures import wait
from prefect.logging import get_run_logger
from pydantic import SecretStr

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, journal_location, open_journal
from prefect_mymsp.errors import CampaignStoppedError, InputError, JournalError, MyMSPError
from prefect_mymsp.flows.campaign_request import CampaignRequest
from prefect_mymsp.flows.concurrency import with_concurrency_limit
from prefect_mymsp.flows.steps import send_from_this_process
from prefect_mymsp.flows.task_support import STEP, run_interruptibly

if TYPE_CHECKING:
    from prefect_mymsp.campaign import Progress, ProgressListener
    from prefect_mymsp.journal import CampaignKey, Counts, Journal

#: Seconds between two checks whether the flow run was cancelled, and between two progress reports.
_CHECK_INTERVAL_S = 2.0
#: Seconds for workers to stop; Prefect kills a cancelled flow run after 30 s.
_SHUTDOWN_TIMEOUT_S = 20.0


def send_with_workers(
    request: CampaignRequest,
    credentials: MyMSPCredentials,
    journal: Journal,
    campaign: CampaignKey,
    listener: ProgressListener | None,
) -> Counts:
    """Send the planned messages of a campaign in ``request.workers`` tasks of the flow's task runner.

    The workers claim requests from the journal, so each request is made by one of them. When a worker dies, the others
    take over its claims.

    Raises:
        CampaignStoppedError: The gateway refuses or cannot be reached, or workers were lost and messages are left.
    """
    from prefect_mymsp.campaign import Progress

    before = journal.campaigns.counts(campaign)
    # A worker needs neither recipients nor the parent's gate, and the journal by an address that works everywhere.
    options = dataclasses.replace(request.send_options, gate=None)
    task_request = dataclasses.replace(request, recipients=None, send_options=options)
    block = CampaignJournal(url=SecretStr(journal.url.render_as_string(hide_password=False)))
    futures = [send_as_worker.submit(task_request, credentials, block, campaign) for _ in range(request.workers)]
    try:
        while wait(futures, timeout=_CHECK_INTERVAL_S).not_done:
            if listener is not None:
                now = journal.campaigns.counts(campaign)
                listener(Progress("send", before.planned - now.planned - now.sending, before.planned))
    except BaseException:
        # The flow run is being cancelled, and the cluster may stop with it. The workers notice too and stop in order.
        wait(futures, timeout=_SHUTDOWN_TIMEOUT_S)
        raise
    failures = []
    for future in futures:
        try:
            future.result()
        except MyMSPError:
            raise
        except Exception as error:  # noqa: BLE001  whatever may happen to a machine
            failures.append(type(error).__name__)
    counts = journal.campaigns.counts(campaign)
    summary = f"{len(failures)} of {request.workers} workers of campaign {request.campaign!r} were lost"
    if failures and counts.planned + counts.sending:
        raise CampaignStoppedError(
            f"{summary} ({', '.join(failures)}); {counts.planned + counts.sending} messages are not sent yet. Start "
            "the same campaign again; no message is sent twice.",
            counts=dataclasses.asdict(counts),
        )
    if failures:
        get_run_logger().warning("%s (%s); the other workers sent everything.", summary, ", ".join(failures))
    return counts


def require_shared_journal(workers: int, journal: CampaignJournal | None) -> None:
    """Refuse several workers if the journal is a file, which other machines cannot open. It opens no journal.

    Raises:
        InputError: It is a file.
        ConfigurationError: The journal's URL cannot be used.
    """
    from prefect_mymsp.database_urls import is_sqlite, parse_database_url

    if workers > 1 and is_sqlite(parse_database_url(journal_location(journal), "The journal", allow_path=True)):
        raise InputError(
            "workers: more than one worker needs a journal in PostgreSQL that all machines reach. Set journal to a "
            "CampaignJournal block, or PREFECT_INTEGRATIONS_MYMSP_JOURNAL_URL."
        )


@task(name="send-as-worker", **STEP)
def send_as_worker(
    request: CampaignRequest, credentials: MyMSPCredentials, journal_block: CampaignJournal, campaign: CampaignKey
) -> None:
    """Send messages of a campaign from this process, until none are left or the flow run is cancelled."""
    request = with_concurrency_limit(request)
    sent = 0

    def count(progress: Progress) -> None:
        nonlocal sent
        sent = progress.done

    with open_journal(journal_block) as journal:
        if journal.campaigns.get(credentials.account, request.campaign) != campaign:
            raise JournalError(
                f"Campaign {request.campaign!r} is not in the journal that {socket.gethostname()} opened. Give the "
                "journal's URL in a form that names the same database on every machine."
            )
        flow_run = UUID(runtime.flow_run.get_id())
        sending = send_from_this_process(request, credentials, journal, campaign, count)
        run_interruptibly(_send_while_running(flow_run, sending))
    get_run_logger().info("%d messages were sent by process %d on %s.", sent, os.getpid(), socket.gethostname())


async def _send_while_running(flow_run: UUID, sending: Coroutine[Any, Any, Counts]) -> None:
    """Send until the flow run ends: Prefect does not cancel a task on another machine with its flow run."""
    ended = CampaignStoppedError("The flow run that sends this campaign has ended.", counts={})
    if await _has_ended(flow_run):
        sending.close()
        raise ended
    work = asyncio.ensure_future(sending)
    watch = asyncio.ensure_future(_wait_for_end(flow_run))
    watch.add_done_callback(lambda _: work.cancel())
    try:
        await work
    except asyncio.CancelledError:
        if watch.done():
            raise ended from None
        raise
    finally:
        watch.cancel()


async def _wait_for_end(flow_run: UUID) -> None:
    while not await _has_ended(flow_run):  # noqa: ASYNC110  there is no event to wait for
        await asyncio.sleep(_CHECK_INTERVAL_S)


async def _has_ended(flow_run: UUID) -> bool:
    """Whether a flow run is being cancelled, or has ended in any way."""
    try:
        async with get_client() as client:
            state = (await client.read_flow_run(flow_run)).state
    except Exception:  # noqa: BLE001  Prefect's API may be away for a while: the campaign goes on
        return False
    return state is not None and (state.is_cancelling() or state.is_final())
