"""Track campaigns: one campaign to its end, or all open campaigns of an account in polling passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow, task
from prefect.logging import get_run_logger

from prefect_mymsp.blocks import MyMSPCredentials, open_journal
from prefect_mymsp.errors import InputError, RefusedError
from prefect_mymsp.flows.emit_events import emit_completed_campaigns, emit_if_completed
from prefect_mymsp.flows.form import label
from prefect_mymsp.flows.parameters import CampaignName, Credentials, Journal, load_credentials
from prefect_mymsp.flows.results import CampaignStatus
from prefect_mymsp.flows.steps import follow_deliveries
from prefect_mymsp.flows.task_support import STEP, run_interruptibly
from prefect_mymsp.settings import MyMSPSettings

if TYPE_CHECKING:
    from pandas import DataFrame

    from prefect_mymsp.campaign import TrackingResult, TrackOptions
    from prefect_mymsp.journal import Journal as OpenJournal
else:
    DataFrame = Any  # Prefect evaluates annotations, and importing pandas takes half a second


@task(name="poll-open-campaigns", **STEP)
def poll_open_campaigns(credentials: MyMSPCredentials, journal: OpenJournal, options: TrackOptions) -> TrackingResult:
    """Poll the gateway once for every message of the account that is not final."""
    from prefect_mymsp.campaign import track_account

    async def poll() -> TrackingResult:
        async with credentials.get_async_client() as client:
            return await track_account(journal, client, credentials.account, options)

    return run_interruptibly(poll())


@flow(name="track-campaign", retries=0, persist_result=False)
def track_campaign(
    campaign: CampaignName,
    credentials: Credentials = "default",
    wait_minutes: Annotated[float, label("Wait minutes")] = 60.0,
    quiet_minutes: Annotated[float, label("Quiet minutes")] = 15.0,
    use_updates: Annotated[bool, label("Use updates")] = False,
    journal: Journal = None,
) -> CampaignStatus:
    """Track a campaign that was sent earlier, until its deliveries are settled. It sends nothing.

    The run ends when every accepted message is delivered, when no status has changed for a while, or when the time is
    up. Every status is stored in the journal at once; a new run continues from there.

    Args:
        campaign: Name of the campaign.
        credentials: Gateway account that sent it.
        wait_minutes: Track deliveries for at most this long.
        quiet_minutes: Stop after this long without a change, counted from the last scheduled delivery time.
        use_updates: Also read the account's update queue. This removes the updates, so other systems cannot read them.
        journal: Database that records what was sent.

    Returns:
        The counts, and ``.deliveries`` as a DataFrame. ``problem`` is set when a status request got no response.

    Raises:
        InputError: The campaign does not exist, or its personal data was purged.
        JournalError: The journal failed.
    """
    from prefect_mymsp.campaign import CompletionLog, FollowOptions

    if not wait_minutes > 0:
        raise InputError("wait_minutes must be above zero.")
    if not quiet_minutes >= 0:
        raise InputError("quiet_minutes must not be below zero.")
    logger, account = get_run_logger(), load_credentials(credentials)
    options = FollowOptions(
        deadline_s=wait_minutes * 60,
        quiet_s=quiet_minutes * 60,
        use_updates=use_updates,
        tracking_days=MyMSPSettings().tracking_days,
    )
    with open_journal(journal) as opened:
        key = opened.campaigns.find(account.account, campaign)
        opened.campaigns.check_not_purged(key)
        CompletionLog(opened, key.account).watch([key.id])  # a polling pass reports the completion if this run dies
        follower = follow_deliveries(account, opened, key, options)
        progress = emit_if_completed(opened, key)
    problem = _problem(follower.refusal, follower.without_response)
    if problem is not None:
        logger.error("%s", problem)
    if follower.updates_refusal is not None:
        logger.warning("The account's updates cannot be read. %s", follower.updates_refusal)
    status = CampaignStatus.of(progress, problem, journal)
    logger.info(
        "Campaign %r: %d messages, %d accepted, %d delivered, %d may still be delivered, %d in doubt, %d not sent. %s",
        campaign, status.messages, status.accepted, status.delivered, status.open, status.in_doubt, status.planned,
        "It is complete." if status.complete else status.todo,
    )  # fmt: skip
    return status


@flow(name="track-open-campaigns", retries=0, persist_result=False)
def track_open_campaigns(
    credentials: Credentials = "default",
    max_requests: Annotated[int, label("Max requests")] = 10_000,
    requests_per_minute: Annotated[int, label("Requests per minute")] = 3000,
    max_minutes: Annotated[float, label("Max minutes")] = 4.0,
    journal: Journal = None,
) -> DataFrame:
    """Poll all open campaigns of an account once. Schedule it every few minutes. It sends nothing.

    The pass polls each message that may still be delivered, looks up scheduled requests in doubt, and marks as in doubt
    the requests of runs that died. When messages turn out to be unsent, ``todo`` advises to start the campaign again.
    Two passes may run at the same time.

    A campaign is complete when no message is left to send, being sent or in doubt, and each accepted message is
    delivered, archived by the gateway, or no longer tracked: its delivery time is more than ``tracking_days`` ago. The
    setting ``PREFECT_INTEGRATIONS_MYMSP_TRACKING_DAYS`` is 7 by default. One event is emitted for a complete campaign.

    Args:
        credentials: Gateway account to poll.
        max_requests: Maximum number of requests of one pass. The next pass continues from there.
        requests_per_minute: Maximum number of requests per minute.
        max_minutes: Maximum duration of a pass. Keep it below the interval of the schedule.
        journal: Database that records what was sent.

    Returns:
        One row for each campaign that was open, with the columns of
        :data:`prefect_mymsp.reports.tracking.TRACKING_DTYPES`.

    Raises:
        InputError: An option is out of range.
        RefusedError: The gateway refuses the account and returned no status.
        JournalError: The journal failed.
    """
    from prefect_mymsp.campaign import TrackOptions
    from prefect_mymsp.reports.tracking import tracking_frame

    if not max_minutes > 0:
        raise InputError("max_minutes must be above zero.")
    logger = get_run_logger()
    options = TrackOptions(
        tracking_days=MyMSPSettings().tracking_days,
        max_requests=max_requests,
        requests_per_minute=requests_per_minute,
        deadline_s=max_minutes * 60,
    )
    account = load_credentials(credentials)
    with open_journal(journal) as opened:
        result = poll_open_campaigns(account, opened, options)
        completed = emit_completed_campaigns(opened, account.account, result.campaigns)
    if result.refusal is not None and result.without_response == result.requests:
        raise result.refusal
    if problem := _problem(result.refusal, result.without_response):
        logger.error("%s", problem)
    if result.incomplete:
        logger.info("There was no time to poll every message. The next pass continues from here.")
    for campaign in result.campaigns:
        if todo := campaign.todo():
            logger.warning("Campaign %r: %s", campaign.campaign.name, todo)
    logger.info(
        "%d open campaigns, %d of them are now complete; %d messages newly delivered, %d may still be delivered.",
        len(result.campaigns), len(completed), sum(campaign.newly_delivered for campaign in result.campaigns),
        sum(campaign.pending.open for campaign in result.campaigns),
    )  # fmt: skip
    return tracking_frame(result.campaigns)


def _problem(refusal: RefusedError | None, without_response: int) -> str | None:
    if refusal is not None:
        return f"{refusal} No status can be fetched until this is fixed."
    if without_response:
        return f"{without_response} status requests got no response. Run it again to fetch what is missing."
    return None
