"""Emit Prefect events at least once.

A bookmark in the journal moves after Prefect has received the event. A run that dies in between emits the event again
with the same id, and Prefect treats it as the same event.
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

#: Name of the bookmark with the journal's number of the last received message that has an event.
RECEIVED_BOOKMARK = "received-events"
#: Received messages whose events are emitted before the bookmark moves.
_CHUNK = 200
#: Seconds that Prefect may take to receive emitted events.
_FLUSH_TIMEOUT_S = 15.0


def last_emitted_number(journal: Journal, account: str) -> int:
    """The journal's number of the last received message that has an event."""
    return int(journal.bookmarks.get(account, RECEIVED_BOOKMARK) or 0)


def emit_received_messages(journal: Journal, account: str, *, include_text: bool, max_age_days: float) -> int:
    """Emit an event for each received message that has none; returns how many.

    Messages older than ``max_age_days`` get no event. The first read of an old account's inbox returns years of
    messages, which should not trigger automations now.
    """
    oldest = datetime.now(UTC) - timedelta(days=max_age_days)
    count, after = 0, last_emitted_number(journal, account)
    for chunk in journal.inbox.rows(account, after=after, chunk=_CHUNK):
        for number, message_id, received, stored, user, prefix, kind, sender, alias, subject, text in chunk:
            time = datetime.fromtimestamp((stored if received is None else received) / 1e6, UTC)
            if time >= oldest:
                received_at = None if received is None else time
                message = ReceivedMessage(message_id, received_at, user, prefix, kind, sender, alias, subject, text)
                emit_received_event(account, message, include_text=include_text)
                count += 1
            after = number
        if not _flush_events():
            break
        if after > last_emitted_number(journal, account):  # a concurrent run may have moved the bookmark further
            journal.bookmarks.put(account, RECEIVED_BOOKMARK, str(after))
    return count


def emit_completed_campaigns(
    journal: Journal, account: str, campaigns: Iterable[CampaignProgress]
) -> list[CampaignProgress]:
    """Emit ``mymsp.campaign.completed`` for each campaign that is newly complete; returns these campaigns.

    Emits ``mymsp.message.undelivered`` as well for the campaign's messages that were accepted and not delivered.
    """
    from prefect_mymsp.campaign import CompletionLog

    log = CompletionLog(journal, account)
    complete = [campaign for campaign in campaigns if campaign.complete]
    pending = [campaign for campaign in complete if log.is_pending(campaign)]
    for campaign in pending:
        name = campaign.campaign.name
        emit_undelivered_event(name, journal.deliveries.undelivered(campaign.campaign), account=account)
        emit_campaign_event("completed", name, dataclasses.asdict(campaign.counts), account=account)
    if not pending or _flush_events():
        for campaign in complete:
            log.mark_reported(campaign)
    return pending


def emit_if_completed(journal: Journal, campaign: CampaignKey) -> CampaignProgress:
    """Emit the events of one campaign if it is newly complete; returns its progress."""
    from prefect_mymsp.campaign import campaign_progress

    since = datetime.now(UTC) - tracking_period(MyMSPSettings().tracking_days)
    (progress,) = campaign_progress(journal, campaign.account, [campaign.id], since)
    emit_completed_campaigns(journal, campaign.account, [progress])
    return progress


def _flush_events() -> bool:
    """Wait until Prefect has received all emitted events; False when it takes too long."""
    if not (in_prefect_run() or PREFECT_API_URL.value()):
        return True  # nothing was emitted
    from prefect.events.worker import EventsWorker

    # wait_until_empty has no timeout, and never returns if the worker has died.
    waiting = threading.Thread(target=EventsWorker.instance().wait_until_empty, name="mymsp-events", daemon=True)
    waiting.start()
    waiting.join(_FLUSH_TIMEOUT_S)
    return not waiting.is_alive()
