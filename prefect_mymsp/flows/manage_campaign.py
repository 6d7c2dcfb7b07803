"""Stop a campaign, or have it sent at another time. Orchestration only."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, open_journal
from prefect_mymsp.errors import InputError
from prefect_mymsp.flows.steps import cancel_scheduled_messages
from prefect_mymsp.flows.task_support import run_interruptibly

if TYPE_CHECKING:
    from prefect_mymsp.campaign import Cancelled, Rescheduled
    from prefect_mymsp.journal import CampaignKey, Journal
else:
    # Prefect evaluates a flow's annotations for its form; one that it cannot would cost all of them their types.
    Cancelled = Rescheduled = Any


def find_campaign(journal: Journal, credentials: MyMSPCredentials, name: str) -> CampaignKey:
    """The campaign of that name.

    Raises:
        InputError: There is none for this account.
    """
    from prefect_mymsp.account import account_fingerprint

    key = journal.campaigns.get(account_fingerprint(credentials.base_url, credentials.user), name)
    if key is None:
        names = journal.campaigns.recent_names(account_fingerprint(credentials.base_url, credentials.user))
        there = f"The latest are {', '.join(map(repr, names))}." if names else "It has none yet."
        raise InputError(f"This account has no campaign {name!r}. {there}")
    return key


@flow(name="cancel-campaign", retries=0, persist_result=False)
def cancel_campaign(campaign: str, credentials: MyMSPCredentials, journal: CampaignJournal | None = None) -> Cancelled:
    """Stop a campaign for good, whether it is being sent or waits for its delivery time.

    A run that sends it stops with what is in flight; what waits at the gateway is cancelled there, and so is what was
    accepted while the run stopped. The campaign cannot be continued afterwards.

    Args:
        campaign: Its name.
        credentials: The account that sends it.
        journal: Where it is remembered; the default is the journal that the settings name.

    Returns:
        Requests that were cancelled, that had been sent already, and of which the gateway did not say.

    Raises:
        InputError: There is no such campaign.
    """
    with open_journal(journal) as opened:
        told: Cancelled = cancel_scheduled_messages(credentials, opened, find_campaign(opened, credentials, campaign))
        counts = opened.campaigns.counts(find_campaign(opened, credentials, campaign))
    get_run_logger().info(
        "Campaign %r is cancelled. Requests: %d cancelled, %d had been sent, %d could not be cancelled. "
        "Messages: %d were never sent, %d are in doubt.",
        campaign,
        told.cancelled,
        told.sent,
        told.unknown,
        counts.planned,
        counts.in_doubt,
    )
    return told


@task(name="reschedule-scheduled-messages", retries=0, cache_policy=NO_CACHE, persist_result=False)
def reschedule_scheduled_messages(
    credentials: MyMSPCredentials, journal: Journal, campaign: CampaignKey, send_at: datetime
) -> Rescheduled:
    """Move what waits at the gateway to the new time."""
    from prefect_mymsp.campaign import CampaignContext, reschedule_at_gateway

    async def run() -> Rescheduled:
        async with credentials.get_async_client() as client:
            with CampaignContext(journal, client, campaign.account) as context:
                return await reschedule_at_gateway(context, campaign, send_at)

    return run_interruptibly(run())


@flow(name="reschedule-campaign", retries=0, persist_result=False)
def reschedule_campaign(
    campaign: str, credentials: MyMSPCredentials, send_at: datetime, journal: CampaignJournal | None = None
) -> Rescheduled:
    """Have a scheduled campaign sent at another time.

    What waits at the gateway is moved there, and what is not sent yet will be sent for the new time: to continue the
    campaign, start it with that one. Should requests be left of which the gateway did not say for which time they wait,
    run this again with the same time.

    Args:
        campaign: Its name.
        credentials: The account that sends it.
        send_at: The new delivery time, with a time zone; seconds are rounded up to the next minute.
        journal: Where it is remembered; the default is the journal that the settings name.

    Returns:
        Requests that were moved, that had been sent already, and of which the gateway did not say.

    Raises:
        InputError: There is no such campaign, it cannot be rescheduled now, or the time is past; nothing was moved.
        NotSentError: The gateway cannot be reached or refuses; nothing was moved.
        InDoubtError: The gateway's schedule could not be read; nothing was moved.
    """
    with open_journal(journal) as opened:
        key = find_campaign(opened, credentials, campaign)
        told: Rescheduled = reschedule_scheduled_messages(credentials, opened, key, send_at)
    logger = get_run_logger()
    logger.info(
        "Campaign %r is rescheduled to %s. Requests: %d moved, %d had been sent. Messages: %d will be sent for then.",
        campaign,
        send_at.isoformat(),
        told.moved,
        told.sent,
        told.planned,
    )
    if told.unknown or told.changed or told.assumed:
        logger.warning(
            "%d requests may be sent at either time: reschedule to the same time once more. %d were cancelled or given "
            "another time by somebody else. %d messages that were in doubt, and that a person said were sent, may be "
            "sent at the old time.",
            told.unknown,
            told.changed,
            told.assumed,
        )
    return told
