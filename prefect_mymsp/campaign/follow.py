"""CampaignFollower a campaign: ask the gateway about what it accepted until nothing more is to be learnt.

The truth comes from ``getSmsResult`` alone. Where the account has ``getMsgUpdates``, its answers say which messages
are worth asking about, and may lead to the id of a request whose answer was lost: hints, each confirmed by a result.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.cancel import cancel_at_gateway
from prefect_mymsp.campaign.context import CampaignContext, Progress, ProgressListener
from prefect_mymsp.campaign.options import FollowOptions, ReconcileOptions
from prefect_mymsp.campaign.reconciler import Reconciler
from prefect_mymsp.campaign.result_poller import ResultPoller
from prefect_mymsp.campaign.updates import EVIDENCE, UpdateReader
from prefect_mymsp.errors import RefusedError

if TYPE_CHECKING:
    from prefect_mymsp.client import AsyncMyMSPClient
    from prefect_mymsp.journal import CampaignKey, Counts, Journal

_PAGE = 500


async def follow(
    journal: Journal,
    client: AsyncMyMSPClient,
    campaign: CampaignKey,
    options: FollowOptions | None = None,
    listener: ProgressListener | None = None,
) -> Counts:
    """Poll ``getSmsResult`` until every accepted message is delivered, nothing moves any more, or time is up.

    Failures of single polls are taken in stride: what is known stays known, and the next round asks again. An id
    whose first result does not name our recipients is not ours, and its messages are in doubt.

    Args:
        journal: Where the campaign is recorded.
        client: The gateway.
        campaign: Which campaign.
        options: How long and how often to ask.
        listener: Called after each round.

    Returns:
        Where the campaign's messages stand; whatever has been learnt is in the journal.

    Raises:
        InputError: The campaign's people were forgotten.
        JournalError: The journal failed.
    """
    options = options or FollowOptions()
    with CampaignContext(journal, client, campaign.account) as context:
        await context.thread(journal.campaigns.check_not_purged, campaign)
        return await CampaignFollower(context, campaign, options, listener).run()


class CampaignFollower:
    """The following of one campaign, as :func:`follow` does it.

    Attributes:
        results: Who asks; it knows whether the gateway refuses the account.
        unanswered: Questions of the last round with any that got no answer.
        updates_refusal: Why the gateway refuses to give the account's updates; None unless it does.
    """

    def __init__(
        self,
        context: CampaignContext,
        campaign: CampaignKey,
        options: FollowOptions,
        listener: ProgressListener | None = None,
    ) -> None:
        self._context = context
        self._journal, self._thread, self._client = context.journal, context.thread, context.client
        self._campaign = campaign
        self._options = options
        self._listener = listener
        self.results = ResultPoller(
            context, deadline_s=options.deadline_s, requests_per_minute=options.requests_per_minute
        )
        self.updates_refusal: RefusedError | None = None
        self.unanswered = 0
        since = datetime.now(UTC) - EVIDENCE
        self._collector = UpdateReader(context, self.results, since, besides=campaign)
        self._reconciler = Reconciler(context, campaign, ReconcileOptions())

    async def run(self) -> Counts:
        """Follow until nothing more is to be learnt, nothing moves any more, or time is up."""
        options, ends = self._options, self.results.ends_at
        (known,) = await self._thread(
            self._journal.campaigns.summaries, self._campaign.account, among=[self._campaign.id]
        )
        moved_at, pause = time.monotonic(), options.first_pause_s
        while True:
            changed = 0
            if options.use_updates:
                told = await self._collector.collect()
                changed = told.changed + told.linked
                self.updates_refusal = told.failure if isinstance(told.failure, RefusedError) else None
            changed += await self._round()
            await self._reconciler.reconcile()
            if known.cancelled_at is not None and self._reconciler.last_delivery is not None:
                # It turned up since somebody cancelled the campaign.
                await cancel_at_gateway(self._context, self._campaign, patience_s=0.0)
            counts = await self._thread(self._journal.campaigns.counts, self._campaign)
            if self._listener is not None:
                self._listener(Progress("follow", counts.final, counts.accepted))
            now = time.monotonic()
            if changed:
                moved_at, pause = now, options.first_pause_s
            if (left_s := self._until_delivery_s()) > 0:
                moved_at = now + left_s
            done = counts.final == counts.accepted and not (options.use_updates and counts.in_doubt)
            if done or self.results.refusal is not None or now >= ends or now - moved_at >= options.quiet_s:
                return counts
            # A request that turns up late must be found before its delivery time.
            longest = min(pause, 10.0) if self._reconciler.released else pause
            await asyncio.sleep(min(longest, max(0.0, ends - now), max(0.0, moved_at + options.quiet_s - now)))
            pause = min(pause * 1.5, options.longest_pause_s)

    def _until_delivery_s(self) -> float:
        """Seconds until the last message that waits at the gateway leaves it; before that nothing needs to move."""
        times = [when for when in (self._campaign.send_at, self._reconciler.last_delivery) if when is not None]
        return max([when.timestamp() - time.time() for when in times], default=0.0)

    async def _round(self) -> int:
        """Ask about each open batch once, page by page; returns how many messages changed."""
        self.results.reset_silence()
        requests, unanswered = self.results.requests, self.results.unanswered
        after = changed = 0
        while page := await self._thread(
            self._journal.deliveries.open_batches, self._campaign, after=after, limit=_PAGE
        ):
            after = page[-1].id
            changed += await self.results.poll(page)
            if self.results.exhausted:
                break
        if self.results.requests > requests:  # else time is up, and what the round before said still holds
            self.unanswered = self.results.unanswered - unanswered
        return changed
