"""Settle what is in doubt by a person's word. Orchestration only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.logging import get_run_logger

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, open_journal
from prefect_mymsp.flows.manage_campaign import find_campaign
from prefect_mymsp.models import Decision

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    # Prefect evaluates a flow's annotations for its form; one that it cannot would cost all of them their types.
    DataFrame = Any


@flow(name="resolve-campaign", retries=0, persist_result=False)
def resolve_campaign(
    campaign: str,
    credentials: MyMSPCredentials,
    decision: Decision | None = None,
    journal: CampaignJournal | None = None,
) -> DataFrame:
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
        InputError: There is no such campaign, or its people were forgotten.
    """
    from prefect_mymsp.reports import deliveries_frame

    with open_journal(journal) as opened:
        key = find_campaign(opened, credentials, campaign)
        frame = deliveries_frame(opened, key)
        doubtful = frame[frame["state"] == "in_doubt"].reset_index(drop=True)
        if decision is not None:
            count = opened.doubt.resolve(key, decision)
            get_run_logger().info("%d messages of campaign %r are now settled as %s.", count, campaign, decision)
        else:
            get_run_logger().info("%d messages of campaign %r are in doubt.", len(doubtful), campaign)
    return doubtful
