"""Forget people when their time has come. Orchestration only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow
from prefect.logging import get_run_logger
from pydantic import Field

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, open_journal
from prefect_mymsp.errors import InputError

if TYPE_CHECKING:
    from prefect_mymsp.journal import PurgeResult
else:
    # Prefect evaluates a flow's annotations for its form; one that it cannot would cost all of them their types.
    PurgeResult = Any

Days = Annotated[float, Field(description="Forget whom nothing was done about for so many days.")]


@flow(name="purge-journal", retries=0, persist_result=False)
def purge_journal(
    credentials: MyMSPCredentials, older_than_days: Days, journal: CampaignJournal | None = None
) -> PurgeResult:
    """Forget the people of old campaigns, what they wrote, and raw answers; keep what the campaigns came to.

    Counts stay to the last number, and so does the suppression list: who wanted no more SMS must get none, however long
    ago that was. A forgotten campaign can neither be continued nor followed. Campaigns with messages still to be sent
    are left alone; cancel them first.

    Args:
        credentials: The account whose people to forget.
        older_than_days: Days since anything last happened to a campaign, or since a message was received. At least 1:
            an answer may still be on its way.
        journal: Where they are remembered; the default is the journal that the settings name.

    Returns:
        How much was forgotten, and the names of the campaigns that were left alone.

    Raises:
        InputError: Fewer than one day.
        JournalError: The journal failed; what it forgot before that is forgotten.
    """
    from prefect_mymsp.account import account_fingerprint

    if not older_than_days >= 1:
        raise InputError("older_than_days must be at least 1.")
    account = account_fingerprint(credentials.base_url, credentials.user)
    with open_journal(journal) as opened:
        told = opened.retention.purge(account, datetime.now(UTC) - timedelta(days=older_than_days))
    get_run_logger().info(
        "Purged %d campaigns (%d messages, %d texts), %d received messages and %d raw responses. "
        "Skipped %d campaigns that still have messages to send.",
        told.campaigns,
        told.messages,
        told.texts,
        told.received,
        told.raw_responses,
        len(told.skipped),
    )
    return told
