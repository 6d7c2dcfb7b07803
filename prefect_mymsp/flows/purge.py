"""Purge personal data from the journal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow
from prefect.logging import get_run_logger

from prefect_mymsp.blocks import open_journal
from prefect_mymsp.errors import InputError
from prefect_mymsp.flows.form import label
from prefect_mymsp.flows.parameters import Credentials, Journal, load_credentials

if TYPE_CHECKING:
    from prefect_mymsp.journal import PurgeResult
else:
    # Prefect evaluates the annotations of a flow for its form. One that cannot be evaluated would hide all of them.
    PurgeResult = Any


@flow(name="purge-journal", retries=0, persist_result=False)
def purge_journal(
    older_than_days: Annotated[float, label("Older than days")],
    credentials: Credentials = "default",
    journal: Journal = None,
) -> PurgeResult:
    """Delete personal data from the journal: numbers and texts of old campaigns, old received messages, raw responses.

    All counts are kept, and so is the suppression list: people who opted out must never get another message. A purged
    campaign can neither be continued nor tracked. Campaigns with unsent messages are skipped; cancel them first.

    Args:
        older_than_days: Days since a campaign's last activity, or since a message was received. At least 1.
        credentials: Gateway account whose data is purged.
        journal: Database to purge.

    Returns:
        How much was purged, and the names of the campaigns that were skipped.

    Raises:
        InputError: ``older_than_days`` is below 1. A response may still be under way.
        JournalError: The journal failed. Data purged before the failure stays purged.
    """
    if not older_than_days >= 1:
        raise InputError("older_than_days must be at least 1.")
    account = load_credentials(credentials)
    with open_journal(journal) as opened:
        result = opened.retention.purge(account.account, datetime.now(UTC) - timedelta(days=older_than_days))
    get_run_logger().info(
        "Purged %d campaigns (%d messages, %d texts), %d received messages and %d raw responses. Skipped %d campaigns "
        "with unsent messages.",
        result.campaigns,
        result.messages,
        result.texts,
        result.received,
        result.raw_responses,
        len(result.skipped),
    )
    return result
