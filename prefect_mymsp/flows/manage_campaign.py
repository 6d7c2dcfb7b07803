"""Cancel, reschedule or resolve a campaign that was sent earlier."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow, task
from prefect.logging import get_run_logger

from prefect_mymsp.blocks import MyMSPCredentials, open_journal
from prefect_mymsp.flows.form import Choice, label
from prefect_mymsp.flows.parameters import CampaignName, Credentials, Journal, load_credentials
from prefect_mymsp.flows.steps import cancel_scheduled_messages
from prefect_mymsp.flows.task_support import STEP, run_interruptibly
from prefect_mymsp.models import Decision

if TYPE_CHECKING:
    from pandas import DataFrame

    from prefect_mymsp.campaign import Cancelled, Rescheduled
    from prefect_mymsp.journal import CampaignKey
    from prefect_mymsp.journal import Journal as OpenJournal
else:
    # Prefect evaluates the annotations of a flow for its form. One that cannot be evaluated would hide all of them.
    Cancelled = Rescheduled = DataFrame = Any


@flow(name="cancel-campaign", retries=0, persist_result=False)
def cancel_campaign(campaign: CampaignName, credentials: Credentials = "default", journal: Journal = None) -> Cancelled:
    """Cancel a campaign for good, whether it is being sent or scheduled.

    A run that is sending the campaign stops after the requests under way. Scheduled messages are cancelled at the
    gateway, also those that are accepted while the run stops. The campaign cannot be continued afterwards.

    Args:
        campaign: Name of the campaign.
        credentials: Gateway account that sent it.
        journal: Database that records what was sent.

    Returns:
        How many requests were cancelled, had been sent already, or could not be cancelled.

    Raises:
        InputError: The campaign does not exist.
    """
    account = load_credentials(credentials)
    with open_journal(journal) as opened:
        key = opened.campaigns.find(account.account, campaign)
        result: Cancelled = cancel_scheduled_messages(account, opened, key)
        counts = opened.campaigns.counts(key)
    get_run_logger().info(
        "Campaign %r is cancelled. Requests: %d cancelled, %d already sent, %d could not be cancelled. "
        "Messages: %d never sent, %d in doubt.",
        campaign,
        result.cancelled,
        result.sent,
        result.unknown,
        counts.planned,
        counts.in_doubt,
    )
    return result


@task(name="reschedule-scheduled-messages", **STEP)
def reschedule_scheduled_messages(
    credentials: MyMSPCredentials, journal: OpenJournal, campaign: CampaignKey, send_at: datetime
) -> Rescheduled:
    """Move the campaign's scheduled requests at the gateway to the new time."""
    from prefect_mymsp.campaign import CampaignContext, reschedule_at_gateway

    async def reschedule() -> Rescheduled:
        async with credentials.get_async_client() as client:
            with CampaignContext(journal, client, campaign.account) as context:
                return await reschedule_at_gateway(context, campaign, send_at)

    return run_interruptibly(reschedule())


@flow(name="reschedule-campaign", retries=0, persist_result=False)
def reschedule_campaign(
    campaign: CampaignName,
    send_at: Annotated[datetime, label("Send at")],
    credentials: Credentials = "default",
    journal: Journal = None,
) -> Rescheduled:
    """Move a scheduled campaign to another time.

    Scheduled messages are moved at the gateway. Messages that are not sent yet get the new time as well: start the
    campaign again with that ``send_at`` to send them. When the log reports requests with an unknown time, run this flow
    again with the same time.

    Args:
        campaign: Name of the campaign.
        send_at: New time to send, with a time zone.
        credentials: Gateway account that sent it.
        journal: Database that records what was sent.

    Returns:
        How many requests were moved, had been sent already, or have an unknown time.

    Raises:
        InputError: The campaign does not exist or cannot be rescheduled now, or the time has passed. Nothing was moved.
        NotSentError: The gateway refuses or cannot be reached. Nothing was moved.
        InDoubtError: The gateway's schedule could not be read. Nothing was moved.
    """
    account = load_credentials(credentials)
    with open_journal(journal) as opened:
        key = opened.campaigns.find(account.account, campaign)
        result: Rescheduled = reschedule_scheduled_messages(account, opened, key, send_at)
    logger = get_run_logger()
    logger.info(
        "Campaign %r is rescheduled to %s. Requests: %d moved, %d already sent. Messages not sent yet: %d.",
        campaign,
        send_at.isoformat(),
        result.moved,
        result.sent,
        result.planned,
    )
    if result.unknown or result.changed or result.assumed:
        logger.warning(
            "%d requests may be sent at either time: reschedule to the same time once more. %d requests were cancelled "
            "or moved by another system. %d messages that were in doubt and resolved as sent may be sent at the old "
            "time.",
            result.unknown,
            result.changed,
            result.assumed,
        )
    return result


@flow(name="resolve-campaign", retries=0, persist_result=False)
def resolve_campaign(
    campaign: CampaignName,
    decision: Annotated[Decision | None, Choice("Resolve them", "Only show them"), label("Decision")] = None,
    credentials: Credentials = "default",
    journal: Journal = None,
) -> DataFrame:
    """List a campaign's messages in doubt, and resolve them by your decision.

    Look for evidence first, on the gateway's web pages or by asking a recipient. After ``sent`` they are never sent
    again. After ``not-sent`` the next start of the campaign sends them.

    Args:
        campaign: Name of the campaign.
        decision: What happened to them.
        credentials: Gateway account that sent it.
        journal: Database that records what was sent.

    Returns:
        The messages that were in doubt, with the columns of a campaign's deliveries.

    Raises:
        InputError: The campaign does not exist, or its personal data was purged.
    """
    from prefect_mymsp.reports import deliveries_frame

    logger, account = get_run_logger(), load_credentials(credentials)
    with open_journal(journal) as opened:
        key = opened.campaigns.find(account.account, campaign)
        deliveries = deliveries_frame(opened, key)
        doubtful = deliveries[deliveries["state"] == "in_doubt"].reset_index(drop=True)
        if decision is None:
            logger.info("%d messages of campaign %r are in doubt.", len(doubtful), campaign)
        else:
            count = opened.doubt.resolve(key, decision)
            logger.info("%d messages of campaign %r are resolved as %s.", count, campaign, decision)
    return doubtful
