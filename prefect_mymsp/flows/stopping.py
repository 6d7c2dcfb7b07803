"""Stop a campaign, and settle what is in doubt. Orchestration only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import flow
from prefect.logging import get_run_logger

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, open_journal
from prefect_mymsp.errors import InputError
from prefect_mymsp.flows.sending import take_back_messages
from prefect_mymsp.models import Decision

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.campaign import Cancelled
    from prefect_mymsp.journal import CampaignKey, Journal


def find_campaign(journal: Journal, credentials: MyMSPCredentials, name: str) -> CampaignKey:
    """The campaign of that name.

    Raises:
        InputError: There is none for this account.
    """
    from prefect_mymsp.journal.store import account_fingerprint

    key = journal.campaign(account_fingerprint(credentials.base_url, credentials.user), name)
    if key is None:
        names = journal.campaign_names(account_fingerprint(credentials.base_url, credentials.user))
        there = f"The latest are {', '.join(map(repr, names))}." if names else "It has none yet."
        raise InputError(f"This account has no campaign {name!r}. {there}")
    return key


@flow(name="cancel-campaign", retries=0, persist_result=False)
def cancel_campaign(campaign: str, credentials: MyMSPCredentials, journal: CampaignJournal | None = None) -> Cancelled:
    """Stop a campaign for good, whether it is being sent or waits for its delivery time.

    A run that sends it stops with what is in flight; what waits at the gateway is cancelled there. The campaign
    cannot be continued afterwards.

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
        told: Cancelled = take_back_messages(credentials, opened, find_campaign(opened, credentials, campaign))
        counts = opened.counts(find_campaign(opened, credentials, campaign))
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


@flow(name="resolve-in-doubt", retries=0, persist_result=False)
def resolve_in_doubt(
    campaign: str,
    credentials: MyMSPCredentials,
    decision: Decision | None = None,
    journal: CampaignJournal | None = None,
) -> pd.DataFrame:
    """Show whom a campaign's doubtful messages concern, and settle them by your word.

    Look for evidence first: the gateway's own web pages, or the people. ``sent`` closes them; ``not-sent`` has the
    next start of the campaign send them.

    Args:
        campaign: Its name.
        credentials: The account that sends it.
        decision: ``sent`` or ``not-sent``; None to look only.
        journal: Where it is remembered; the default is the journal that the settings name.

    Returns:
        The messages that were in doubt, with the columns of a campaign's deliveries.

    Raises:
        InputError: There is no such campaign.
    """
    from prefect_mymsp.reports import deliveries_frame

    with open_journal(journal) as opened:
        key = find_campaign(opened, credentials, campaign)
        frame = deliveries_frame(opened, key)
        doubtful = frame[frame["state"] == "in_doubt"].reset_index(drop=True)
        if decision is not None:
            count = opened.decide(key, decision)
            get_run_logger().info("%d messages of campaign %r are now settled as %s.", count, campaign, decision)
        else:
            get_run_logger().info("%d messages of campaign %r are in doubt.", len(doubtful), campaign)
    return doubtful
