"""One pass over everything of an account that is not final: for who comes by every few minutes and holds no worker.

A pass asks about what was accepted, looks up what is in doubt and waits for its delivery time, takes over what dead
runs claimed, and takes back what turns up of a cancelled campaign. It sends nothing: messages that a look proves to
be unsent are planned again, and the pass tells that somebody should start the campaign.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.cancel import cancel_at_gateway
from prefect_mymsp.campaign.context import CampaignContext
from prefect_mymsp.campaign.options import TrackOptions
from prefect_mymsp.campaign.reconciler import Reconciler
from prefect_mymsp.campaign.result_poller import ResultPoller
from prefect_mymsp.errors import RefusedError
from prefect_mymsp.journal import Pending

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from prefect_mymsp.client import AsyncMyMSPClient
    from prefect_mymsp.journal import CampaignKey, Counts, Journal, OpenBatch

#: Batches asked about at a time, and of one campaign, before the next one's turn.
_PAGE, _TURN = 500, 100
#: The bookmark that holds whose turn it was when a pass ended before it was through.
_LAST_TURN = "tracking-turn"
#: Looks, from when absence counts, after which a doubt that is left is left to the next pass.
_LOOKS = 5


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """Where a campaign stands, and what is left to do.

    Attributes:
        campaign: Which one.
        created_at: When it was first recorded.
        active_at: When something last happened to it, or will.
        cancelled: Whether a person stopped it for good.
        counts: Its messages by state.
        waiting: What is left to learn of it.
        newly_delivered: Messages found delivered since the pass began.
    """

    campaign: CampaignKey
    created_at: datetime
    active_at: datetime
    cancelled: bool
    counts: Counts
    waiting: Pending
    newly_delivered: int = 0

    @property
    def complete(self) -> bool:
        """Whether all is done and known that will be.

        Nothing is left to send, nothing is on its way, and each message that was accepted or is in doubt is settled
        or too old. A campaign that is given more messages is not complete any more.
        """
        unsent = 0 if self.cancelled else self.counts.planned
        return unsent + self.counts.sending + self.waiting.open + self.waiting.in_doubt == 0

    def todo(self, now: datetime | None = None) -> str:
        """What a person should do, as sentences; empty when there is nothing."""
        told = []
        send_at, now = self.campaign.send_at, now or datetime.now(UTC)
        if self.counts.planned and not self.cancelled and not self.waiting.running:
            if send_at is None or send_at > now:
                told.append(f"{self.counts.planned} messages are not sent: start the campaign again.")
            else:
                told.append(f"{self.counts.planned} messages were not sent in time: send them as a new campaign.")
        if doubtful := self.counts.in_doubt - self.waiting.scheduled:
            told.append(
                f"{doubtful} messages may or may not have been sent: look for evidence, "
                "then settle them with resolve_campaign."
            )
        return " ".join(told)


@dataclass(frozen=True, slots=True)
class TrackingResult:
    """What a pass came to.

    Attributes:
        campaigns: The campaigns it saw, the newest first.
        requests: ResultPoller it asked for.
        unanswered: Those of them that got no answer.
        incomplete: Whether it did not come to everything: the next pass begins there.
        refusal: Why the gateway refuses the account; None when it does not.
    """

    campaigns: tuple[CampaignProgress, ...]
    requests: int
    unanswered: int
    incomplete: bool
    refusal: RefusedError | None


async def track_account(
    journal: Journal, client: AsyncMyMSPClient, account: str, options: TrackOptions | None = None
) -> TrackingResult:
    """Make one pass over what is not final of an account. Two at once do no harm.

    Args:
        journal: Where the campaigns are recorded.
        client: The gateway.
        account: See :func:`~prefect_mymsp.account.account_fingerprint`.
        options: How far it goes.

    Returns:
        Where the campaigns stand; whatever has been learnt is in the journal.
    """
    with CampaignContext(journal, client, account) as context:
        return await _Tracking(context, options or TrackOptions()).run()


class _Tracking:
    """One pass."""

    def __init__(self, context: CampaignContext, options: TrackOptions) -> None:
        self._context = context
        self._journal, self._thread, self._client = context.journal, context.thread, context.client
        self._account = context.account
        self._options = options
        self._since = datetime.now(UTC) - timedelta(days=options.max_age_days)
        self._results = ResultPoller(
            context,
            deadline_s=options.deadline_s,
            requests_per_minute=options.requests_per_minute,
            max_requests=options.max_requests,
        )

    async def run(self) -> TrackingResult:
        found = await self._thread(self._journal.campaigns.summaries, self._account, open_only=True)
        campaigns = [one for one in found if one.active_at >= self._since]
        completions = CompletionLog(self._journal, self._account)
        watched = await self._thread(completions.watch, [one.key.id for one in campaigns])
        for one in campaigns:
            if one.counts.sending:
                await self._thread(self._journal.claims.expire_leases, one.key)
        looking = asyncio.ensure_future(self._look([one.key for one in campaigns]))
        try:
            incomplete = await self._ask([one.key for one in campaigns])
            await looking
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking
        for one in campaigns:
            if one.cancelled_at is not None:
                await self._take_back(one.key)
        before = {one.key.id: one.counts.delivered for one in campaigns}
        standings = await self._thread(campaign_progress, self._journal, self._account, watched, self._since, before)
        # PurgeResult, or stopped halfway and never continued: nobody waits for its completion any more.
        living = {one.campaign.id for one in standings if one.complete or one.active_at >= self._since}
        await self._thread(completions.unwatch, watched - living)
        return TrackingResult(
            tuple(standings), self._results.requests, self._results.unanswered, incomplete, self._results.refusal
        )

    async def _look(self, campaigns: Sequence[CampaignKey]) -> None:
        """Look up what is in doubt and waits for its delivery time, for as long as it takes to settle it."""
        look = self._options.reconcile
        late, can_be_absent = 0, time.monotonic() + look.late_arrival_s
        left = [Reconciler(self._context, one, look) for one in campaigns]
        while left:
            for one in left:
                await one.reconcile()
            left = [one for one in left if one.pending]
            late += time.monotonic() >= can_be_absent
            if not left or late == _LOOKS or time.monotonic() + look.interval_s >= self._results.ends_at:
                return
            await asyncio.sleep(look.interval_s)

    async def _take_back(self, campaign: CampaignKey) -> None:
        """Of a cancelled campaign, what turned up at the gateway since then must not go out."""
        if await self._thread(self._journal.schedule.batches, campaign, datetime.now(UTC)):
            await cancel_at_gateway(self._context, campaign, patience_s=0.0)

    async def _ask(self, campaigns: Sequence[CampaignKey]) -> bool:
        """Ask about each open batch once, campaign by campaign in turns; returns whether some were left."""
        last = await self._thread(self._journal.bookmarks.get, self._account, _LAST_TURN)
        # The newest first; but whoever's turn it was when the last pass ended comes last.
        rounds = [_Round(self._journal, one, self._since) for one in campaigns]
        rounds.sort(key=lambda one: (last is not None and one.campaign.id >= int(last), -one.campaign.id))
        waiting = deque(rounds)
        left: list[tuple[_Round, OpenBatch]] = []
        while waiting and not left and not self._results.exhausted:
            page: list[tuple[_Round, OpenBatch]] = []
            while waiting and len(page) < _PAGE:
                turn = waiting.popleft()
                batches = await self._thread(turn.take, _TURN)
                page += [(turn, batch) for batch in batches]
                if batches:
                    waiting.append(turn)
            if not page:
                break
            await self._results.poll([batch for _, batch in page])
            asked = len(page) - len(self._results.remaining)
            left = page[asked:]
            if asked:
                last = str(page[asked - 1][0].campaign.id)
        for turn, batch in reversed(left):
            turn.not_yet(batch)
        for turn in rounds:
            await self._thread(turn.remember)
        incomplete = bool(left or waiting)
        if incomplete and last is not None:
            await self._thread(self._journal.bookmarks.put, self._account, _LAST_TURN, last)
        return incomplete


class _Round:
    """One campaign's open batches, each once: from where the last pass ended, and round to there."""

    def __init__(self, journal: Journal, campaign: CampaignKey, since: datetime) -> None:
        self._journal = journal
        self.campaign = campaign
        self._since = since
        self._bookmark = f"tracking {campaign.id}"
        self._start: int | None = None
        self._after = 0
        self._wrapped = self._done = False

    def take(self, limit: int) -> list[OpenBatch]:
        """The next batches to ask about; empty when all were taken."""
        if self._start is None:
            self._start = self._after = int(self._journal.bookmarks.get(self.campaign.account, self._bookmark) or 0)
        while not self._done:
            page = self._journal.deliveries.open_batches(
                self.campaign, after=self._after, limit=limit, since=self._since
            )
            if self._wrapped:
                page = [one for one in page if one.id <= self._start]
            if page:
                self._after = page[-1].id
                return page
            self._done = self._wrapped or not self._start
            self._wrapped, self._after = True, 0
        return []

    def not_yet(self, batch: OpenBatch) -> None:
        """A batch that was taken was not asked about, nor were those after it."""
        self._after, self._done = batch.id - 1, False

    def remember(self) -> None:
        """Leave a bookmark for the next pass."""
        after = 0 if self._done else self._after
        if self._start is not None and after != self._start:
            self._journal.bookmarks.put(self.campaign.account, self._bookmark, str(after))


def campaign_progress(
    journal: Journal,
    account: str,
    campaigns: Collection[int],
    since: datetime,
    delivered_before: dict[int, int] | None = None,
) -> list[CampaignProgress]:
    """Where campaigns of an account stand, the newest first; those whose people were forgotten are left out.

    Args:
        journal: Where they are recorded.
        account: See :func:`~prefect_mymsp.account.account_fingerprint`.
        campaigns: Their numbers.
        since: Nothing more is expected of messages that were to leave before then, aware.
        delivered_before: Messages delivered before, by campaign number.
    """
    before = delivered_before or {}
    waiting = journal.deliveries.pending(account, since)
    return [
        CampaignProgress(
            campaign=one.key,
            created_at=one.created_at,
            active_at=one.active_at,
            cancelled=one.cancelled_at is not None,
            counts=one.counts,
            waiting=waiting.get(one.key.id, Pending()),
            newly_delivered=max(0, one.counts.delivered - before.get(one.key.id, one.counts.delivered)),
        )
        for one in journal.campaigns.summaries(account, among=campaigns)
        if one.purged_at is None
    ]


class CompletionLog:
    """Which campaigns have been told to be complete: each once, whoever saw it, and none forgotten by a death.

    A campaign is watched from when it was seen open until its completion was told. What is told twice after a death
    between telling and noting it down is the same campaign with as many messages.
    """

    _WATCHED = "tracking"

    def __init__(self, journal: Journal, account: str) -> None:
        self._journal = journal
        self._account = account

    def watch(self, campaigns: Iterable[int]) -> set[int]:
        """Watch campaigns too, by number; returns all that are watched."""
        before = self._watched()
        watched = before | set(campaigns)
        if watched != before:
            self._put(watched)
        return watched

    def is_pending(self, standing: CampaignProgress) -> bool:
        """Whether a campaign is complete and nobody has been told so; given more messages, it can be so again."""
        told = self._journal.bookmarks.get(self._account, f"completed {standing.campaign.id}")
        return standing.complete and told != str(standing.counts.messages)

    def mark_reported(self, standing: CampaignProgress) -> None:
        """Note down that somebody has been told, and watch the campaign no more."""
        name = f"completed {standing.campaign.id}"
        self._journal.bookmarks.put(self._account, name, str(standing.counts.messages))
        self.unwatch({standing.campaign.id})

    def unwatch(self, campaigns: set[int]) -> None:
        """Watch campaigns no more, by number."""
        before = self._watched()
        if before & campaigns:
            self._put(before - campaigns)

    def _watched(self) -> set[int]:
        return set(json.loads(self._journal.bookmarks.get(self._account, self._WATCHED) or "[]"))

    def _put(self, watched: set[int]) -> None:
        self._journal.bookmarks.put(self._account, self._WATCHED, json.dumps(sorted(watched)))
