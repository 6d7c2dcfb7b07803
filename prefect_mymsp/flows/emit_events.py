"""Telling Prefect what happened, so that nothing is told twice for long, or never: events at least once.

An event's place is noted down after Prefect has it. Who dies in between tells it again under the same id, and Prefect
takes it for the same event.
"""

from __future__ import annotations

import dataclasses
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from prefect.settings import PREFECT_API_URL

from prefect_mymsp.events import emit_campaign_event, emit_received_event, emit_undelivered_event, in_prefect_run
from prefect_mymsp.models import ReceivedMessage
from prefect_mymsp.settings import MyMSPSettings
from prefect_mymsp.times import tracking_period

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prefect_mymsp.campaign import CampaignProgress
    from prefect_mymsp.journal import CampaignKey, Journal

#: The bookmark that holds how far received messages have been told of, by their number in the journal.
RECEIVED = "received-events"
_AT_ONCE = 200
#: Seconds that Prefect may take to fetch what was emitted.
_PATIENCE_S = 15.0


def last_emitted_number(journal: Journal, account: str) -> int:
    """Number in the journal of the last received message that Prefect was told of."""
    return int(journal.bookmarks.get(account, RECEIVED) or 0)


def emit_received_messages(journal: Journal, account: str, *, include_text: bool, max_age_days: float) -> int:
    """Emit an event for each received message there was none for yet; returns how many.

    Those older than ``max_age_days`` are passed over: the first reading of an old account's inbox brings years of
    messages, and what they ask for has been done or forgotten.
    """
    oldest = datetime.now(UTC) - timedelta(days=max_age_days)
    count, after = 0, last_emitted_number(journal, account)
    for part in journal.inbox.rows(account, after=after, chunk=_AT_ONCE):
        for number, message_id, received, stored, user, prefix, kind, sender, alias, subject, text in part:
            at = datetime.fromtimestamp((stored if received is None else received) / 1e6, UTC)
            if at >= oldest:
                received_at = None if received is None else at
                message = ReceivedMessage(message_id, received_at, user, prefix, kind, sender, alias, subject, text)
                emit_received_event(account, message, include_text=include_text)
                count += 1
            after = number
        if not _fetched():
            break
        if after > last_emitted_number(journal, account):  # another run may have come further
            journal.bookmarks.put(account, RECEIVED, str(after))
    return count


def emit_completed_campaigns(
    journal: Journal, account: str, standings: Iterable[CampaignProgress]
) -> list[CampaignProgress]:
    """Emit ``mymsp.campaign.completed`` for campaigns that are complete and were not said to be; returns which.

    With it goes ``mymsp.message.undelivered`` for those of its messages that were accepted and never delivered.
    """
    from prefect_mymsp.campaign import CompletionLog

    completions = CompletionLog(journal, account)
    done = [one for one in standings if one.complete]
    new = [one for one in done if completions.is_pending(one)]
    for one in new:
        emit_undelivered_event(one.campaign.name, journal.deliveries.undelivered(one.campaign), account=account)
        emit_campaign_event("completed", one.campaign.name, dataclasses.asdict(one.counts), account=account)
    if not new or _fetched():
        for one in done:
            completions.mark_reported(one)
    return new


def emit_if_completed(journal: Journal, campaign: CampaignKey) -> CampaignProgress:
    """:func:`emit_completed_campaigns` for one campaign; returns where it stands."""
    from prefect_mymsp.campaign import campaign_progress

    since = datetime.now(UTC) - tracking_period(MyMSPSettings().tracking_days)
    (standing,) = campaign_progress(journal, campaign.account, [campaign.id], since)
    emit_completed_campaigns(journal, campaign.account, [standing])
    return standing


def _fetched() -> bool:
    """Wait until Prefect has what was emitted here; False when it does not come for it in time."""
    if not (in_prefect_run() or PREFECT_API_URL.value()):
        return True  # nothing was emitted
    from prefect.events.worker import EventsWorker

    # Waiting for it has no time limit of its own, and would never end if the worker had died.
    waiting = threading.Thread(target=EventsWorker.instance().wait_until_empty, name="mymsp-events", daemon=True)
    waiting.start()
    waiting.join(_PATIENCE_S)
    return not waiting.is_alive()
