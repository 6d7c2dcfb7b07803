"""Progress of an account's campaigns, and a log of the completions that were reported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_mymsp.journal import Pending
from prefect_mymsp.times import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from prefect_mymsp.journal import CampaignKey, Counts, Journal


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """The progress of a campaign.

    Attributes:
        campaign: The campaign.
        created_at: When it was first recorded, aware.
        active_at: When something last happened to it, or will happen, aware.
        cancelled: Whether a person cancelled it.
        counts: Its messages by state.
        pending: Its messages without a final outcome.
        newly_delivered: Messages that were found delivered since the pass began.
    """

    campaign: CampaignKey
    created_at: datetime
    active_at: datetime
    cancelled: bool
    counts: Counts
    pending: Pending
    newly_delivered: int = 0

    @property
    def complete(self) -> bool:
        """Whether the campaign is complete.

        Nothing is left to send, no request is in flight, and each message that is accepted or in doubt is final or too
        old. A campaign that is given more messages is no longer complete.
        """
        unsent = 0 if self.cancelled else self.counts.planned
        return unsent + self.counts.sending + self.pending.open + self.pending.in_doubt == 0

    def todo(self, now: datetime | None = None) -> str:
        """The next steps for a person, as sentences; empty if there are none.

        Args:
            now: The current time, aware; the default is the system's.
        """
        steps = []
        send_at, now = self.campaign.send_at, now or SYSTEM_CLOCK.now()
        if self.counts.planned and not self.cancelled and not self.pending.running:
            if send_at is None or send_at > now:
                steps.append(f"{self.counts.planned} messages are not sent: start the campaign again.")
            else:
                steps.append(f"{self.counts.planned} messages were not sent in time: send them as a new campaign.")
        if in_doubt := self.counts.in_doubt - self.pending.scheduled:
            steps.append(
                f"{in_doubt} messages may or may not have been sent: look for evidence, then resolve them with "
                "resolve_campaign."
            )
        return " ".join(steps)


def campaign_progress(
    journal: Journal,
    account: str,
    campaign_ids: Collection[int],
    since: datetime,
    delivered_before: Mapping[int, int] | None = None,
) -> list[CampaignProgress]:
    """The progress of campaigns of an account, the newest first. Purged campaigns are left out.

    Args:
        journal: Where they are recorded.
        account: See :func:`~prefect_mymsp.account.account_fingerprint`.
        campaign_ids: Their numbers.
        since: Messages that were due earlier are no longer tracked, aware.
        delivered_before: Messages that were delivered at an earlier time, by campaign number.
    """
    before = delivered_before or {}
    pending = journal.deliveries.pending(account, since)
    return [
        CampaignProgress(
            campaign=summary.key,
            created_at=summary.created_at,
            active_at=summary.active_at,
            cancelled=summary.cancelled_at is not None,
            counts=summary.counts,
            pending=pending.get(summary.key.id, Pending()),
            newly_delivered=max(0, summary.counts.delivered - before.get(summary.key.id, summary.counts.delivered)),
        )
        for summary in journal.campaigns.summaries(account, among=campaign_ids)
        if summary.purged_at is None
    ]


class CompletionLog:
    """A log of reported completions, so that each campaign is reported once across all processes.

    A campaign is watched from when it was seen open until its completion is reported. If a process dies between the
    report and the record of it, the report is repeated with the same number of messages.
    """

    _WATCHED = "tracking"

    def __init__(self, journal: Journal, account: str) -> None:
        self._journal = journal
        self._account = account

    def watch(self, campaign_ids: Iterable[int]) -> set[int]:
        """Watch more campaigns; returns all that are watched."""
        before = self._watched()
        watched = before | set(campaign_ids)
        if watched != before:
            self._store(watched)
        return watched

    def is_pending(self, progress: CampaignProgress) -> bool:
        """Whether a campaign is complete and not reported so since it was given its latest messages."""
        reported = self._journal.bookmarks.get(self._account, _completed(progress))
        return progress.complete and reported != str(progress.counts.messages)

    def mark_reported(self, progress: CampaignProgress) -> None:
        """Record that a completion was reported, and stop watching the campaign."""
        self._journal.bookmarks.put(self._account, _completed(progress), str(progress.counts.messages))
        self.unwatch({progress.campaign.id})

    def unwatch(self, campaign_ids: set[int]) -> None:
        """Stop watching campaigns."""
        before = self._watched()
        if before & campaign_ids:
            self._store(before - campaign_ids)

    def _watched(self) -> set[int]:
        return set(json.loads(self._journal.bookmarks.get(self._account, self._WATCHED) or "[]"))

    def _store(self, watched: set[int]) -> None:
        self._journal.bookmarks.put(self._account, self._WATCHED, json.dumps(sorted(watched)))


def _completed(progress: CampaignProgress) -> str:
    """The bookmark that holds how many messages a campaign had when it was reported complete."""
    return f"completed {progress.campaign.id}"
