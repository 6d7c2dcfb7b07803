"""Track an account: one polling pass over all of its campaigns that are not final, meant for a frequent schedule.

A pass polls accepted messages, reconciles scheduled requests in doubt, expires the leases of dead runs, and cancels
late arrivals of cancelled campaigns. It sends nothing. Messages that prove to be unsent are planned again; ``todo``
then advises to start the campaign again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.cancel import cancel_at_gateway
from prefect_mymsp.campaign.context import CampaignContext
from prefect_mymsp.campaign.options import TrackOptions
from prefect_mymsp.campaign.progress import CampaignProgress, CompletionLog, campaign_progress
from prefect_mymsp.campaign.reconciler import Reconciler
from prefect_mymsp.campaign.result_poller import ResultPoller
from prefect_mymsp.times import SYSTEM_CLOCK, tracking_period

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from prefect_mymsp.client import AsyncMyMSPClient
    from prefect_mymsp.errors import RefusedError
    from prefect_mymsp.journal import CampaignKey, Journal, OpenBatch
    from prefect_mymsp.times import Clock

#: Batches that are polled at a time, and of one campaign before the next one's turn.
_PAGE, _TURN = 500, 100
#: The bookmark for the campaign whose turn it was when a pass ended early.
_LAST_TURN = "tracking-turn"
#: Lists, counted from when absence can be proven, after which doubt is left to the next pass.
_MAX_LATE_LISTS = 5


@dataclass(frozen=True, slots=True)
class TrackingResult:
    """The result of one pass.

    Attributes:
        campaigns: The campaigns that were open when it began, the newest first.
        requests: Results that it requested.
        without_response: Of these, those without a complete response.
        incomplete: Whether some batches were left out; the next pass starts with them.
        refusal: Why the gateway refuses the account; None if it does not.
    """

    campaigns: tuple[CampaignProgress, ...]
    requests: int
    without_response: int
    incomplete: bool
    refusal: RefusedError | None


async def track_account(
    journal: Journal,
    client: AsyncMyMSPClient,
    account: str,
    options: TrackOptions | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> TrackingResult:
    """Make one pass over all messages of an account that are not final. Two passes may run at the same time.

    Args:
        journal: Where the campaigns are recorded.
        client: The gateway.
        account: See :func:`~prefect_mymsp.account.account_fingerprint`.
        options: Limits of the pass.
        clock: The clock to go by.

    Returns:
        The progress of the campaigns. All results are in the journal.
    """
    with CampaignContext(journal, client, account, clock) as context:
        return await _TrackingPass(context, options or TrackOptions()).run()


class ReconcileRounds:
    """Whether a pass requests another list. It reads no clock; times are monotonic seconds.

    Args:
        absence_from: When requests in doubt can first be proven absent.
        ends_at: When the pass ends.
        interval_s: Seconds between two lists.
    """

    def __init__(self, *, absence_from: float, ends_at: float, interval_s: float) -> None:
        self._absence_from = absence_from
        self._ends_at = ends_at
        self._interval_s = interval_s
        self._late_lists = 0

    def another(self, now: float, *, pending: bool) -> bool:
        """Whether another list may settle something before the pass ends; called after each list.

        Args:
            now: The current time.
            pending: Whether any campaign has something that a list can settle.
        """
        self._late_lists += now >= self._absence_from
        return pending and self._late_lists < _MAX_LATE_LISTS and now + self._interval_s < self._ends_at


class PollCursor:
    """A position in one campaign's open batches: from where the last pass ended, and around to there. No I/O.

    Attributes:
        after: The next page starts after this batch number.
        done: Whether each batch had its turn.
    """

    def __init__(self, start: int) -> None:
        self._start = self.after = start
        self._wrapped = self.done = False

    def accept(self, page: Sequence[OpenBatch]) -> list[OpenBatch]:
        """Move past a page; returns the batches whose turn it is. If there are none, the cursor wraps or ends."""
        batches = [batch for batch in page if not self._wrapped or batch.id <= self._start]
        if batches:
            self.after = batches[-1].id
        else:
            self.done = self._wrapped or not self._start
            self._wrapped, self.after = True, 0
        return batches

    def put_back(self, batch: OpenBatch) -> None:
        """Put back a batch and those after it: they had no turn."""
        self.after, self.done = batch.id - 1, False

    @property
    def bookmark(self) -> int:
        """Where the next pass starts."""
        return 0 if self.done else self.after

    @property
    def moved(self) -> bool:
        """Whether the position has changed."""
        return self.bookmark != self._start


def order_turns(campaign_ids: Iterable[int], last_turn: int | None) -> list[int]:
    """Campaigns in the order of their turns: the newest first, but those of the last pass come last."""
    return sorted(
        campaign_ids, key=lambda campaign_id: (last_turn is not None and campaign_id >= last_turn, -campaign_id)
    )


class _TrackingPass:
    """One pass."""

    def __init__(self, context: CampaignContext, options: TrackOptions) -> None:
        self._context = context
        self._journal, self._thread = context.journal, context.thread
        self._account = context.account
        self._options = options
        self._clock = context.clock
        self._since = self._clock.now() - tracking_period(options.tracking_days)
        self._poller = ResultPoller(
            context,
            deadline_s=options.deadline_s,
            requests_per_minute=options.requests_per_minute,
            max_requests=options.max_requests,
        )

    async def run(self) -> TrackingResult:
        summaries = await self._thread(self._journal.campaigns.summaries, self._account, open_only=True)
        active = [summary for summary in summaries if summary.active_at >= self._since]
        campaigns = [summary.key for summary in active]
        completions = CompletionLog(self._journal, self._account)
        watched = await self._thread(completions.watch, [campaign.id for campaign in campaigns])
        for summary in active:
            if summary.counts.sending:
                await self._thread(self._journal.claims.expire_leases, summary.key)
        reconciling = asyncio.ensure_future(self._reconcile(campaigns))
        try:
            incomplete = await self._poll(campaigns)
            await reconciling
        finally:
            reconciling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reconciling
        for summary in active:
            if summary.cancelled_at is not None:
                await self._cancel_late_arrivals(summary.key)
        delivered_before = {summary.key.id: summary.counts.delivered for summary in active}
        progress = await self._thread(
            campaign_progress, self._journal, self._account, watched, self._since, delivered_before
        )
        # A campaign that was purged, or stopped halfway and is too old, will not complete any more.
        tracked = {entry.campaign.id for entry in progress if entry.complete or entry.active_at >= self._since}
        await self._thread(completions.unwatch, watched - tracked)
        budget = self._poller.budget
        return TrackingResult(tuple(progress), budget.requests, budget.without_response, incomplete, budget.refusal)

    async def _reconcile(self, campaigns: Sequence[CampaignKey]) -> None:
        """Reconcile campaigns until nothing is pending, or the rounds are used up."""
        options = self._options.reconcile
        rounds = ReconcileRounds(
            absence_from=self._clock.monotonic() + options.late_arrival_s,
            ends_at=self._poller.budget.ends_at,
            interval_s=options.interval_s,
        )
        pending = [Reconciler(self._context, campaign, options) for campaign in campaigns]
        while pending:
            for reconciler in pending:
                await reconciler.reconcile()
            pending = [reconciler for reconciler in pending if reconciler.pending]
            if not rounds.another(self._clock.monotonic(), pending=bool(pending)):
                return
            await self._clock.sleep(options.interval_s)

    async def _cancel_late_arrivals(self, campaign: CampaignKey) -> None:
        """Cancel requests that arrived at the gateway after their campaign was cancelled."""
        if await self._thread(self._journal.schedule.batches, campaign, self._clock.now()):
            await cancel_at_gateway(self._context, campaign, timeout_s=0.0)

    async def _poll(self, campaigns: Sequence[CampaignKey]) -> bool:
        """Poll each open batch once, campaign by campaign in turns; returns whether some were left out."""
        bookmark = await self._thread(self._journal.bookmarks.get, self._account, _LAST_TURN)
        last_turn = None if bookmark is None else int(bookmark)
        by_id = {campaign.id: campaign for campaign in campaigns}
        turns = [
            _CampaignTurn(self._journal, by_id[campaign_id], self._since)
            for campaign_id in order_turns(by_id, last_turn)
        ]
        queue = deque(turns)
        remaining: list[tuple[_CampaignTurn, OpenBatch]] = []
        while queue and not remaining and not self._poller.exhausted:
            page: list[tuple[_CampaignTurn, OpenBatch]] = []
            while queue and len(page) < _PAGE:
                turn = queue.popleft()
                batches = await self._thread(turn.take, _TURN)
                page += [(turn, batch) for batch in batches]
                if batches:
                    queue.append(turn)
            if not page:
                break
            await self._poller.poll([batch for _, batch in page])
            polled = len(page) - len(self._poller.remaining)
            remaining = page[polled:]
            if polled:
                last_turn = page[polled - 1][0].campaign.id
        for turn, batch in reversed(remaining):
            turn.put_back(batch)
        for turn in turns:
            await self._thread(turn.store_bookmark)
        incomplete = bool(remaining or queue)
        if incomplete and last_turn is not None:
            await self._thread(self._journal.bookmarks.put, self._account, _LAST_TURN, str(last_turn))
        return incomplete


class _CampaignTurn:
    """Reads one campaign's open batches, page by page, from where the last pass ended."""

    def __init__(self, journal: Journal, campaign: CampaignKey, since: datetime) -> None:
        self._journal = journal
        self.campaign = campaign
        self._since = since
        self._bookmark = f"tracking {campaign.id}"
        self._cursor: PollCursor | None = None

    def take(self, limit: int) -> list[OpenBatch]:
        """The next batches to poll; empty when each had its turn."""
        if self._cursor is None:
            self._cursor = PollCursor(int(self._journal.bookmarks.get(self.campaign.account, self._bookmark) or 0))
        while not self._cursor.done:
            page = self._journal.deliveries.open_batches(
                self.campaign, after=self._cursor.after, limit=limit, since=self._since
            )
            if batches := self._cursor.accept(page):
                return batches
        return []

    def put_back(self, batch: OpenBatch) -> None:
        """Put back a batch and those after it: they were not polled."""
        if self._cursor is not None:
            self._cursor.put_back(batch)

    def store_bookmark(self) -> None:
        """Record where the next pass starts."""
        if self._cursor is not None and self._cursor.moved:
            self._journal.bookmarks.put(self.campaign.account, self._bookmark, str(self._cursor.bookmark))
