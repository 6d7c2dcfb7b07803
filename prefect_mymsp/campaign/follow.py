"""Track one campaign: poll the gateway about accepted messages until no more changes are expected.

Only results prove a delivery status. If the account has ``getMsgUpdates``, its records show which messages have
changed, and may reveal the message id of a request in doubt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect_mymsp.campaign.cancel import cancel_at_gateway
from prefect_mymsp.campaign.context import CampaignContext, Progress
from prefect_mymsp.campaign.options import FollowOptions, ReconcileOptions
from prefect_mymsp.campaign.reconciler import Reconciler
from prefect_mymsp.campaign.result_poller import ResultPoller
from prefect_mymsp.campaign.updates import UpdateReader
from prefect_mymsp.errors import RefusedError
from prefect_mymsp.times import tracking_period

if TYPE_CHECKING:
    from prefect_mymsp.campaign.context import ProgressListener
    from prefect_mymsp.client import AsyncMyMSPClient
    from prefect_mymsp.journal import CampaignKey, Counts, Journal

#: Batches that are polled at a time.
_PAGE = 500
#: Seconds that a pause lasts at most while a released request may still arrive: it must be found before it is due.
_LATE_ARRIVAL_PAUSE_S = 10.0


async def follow(
    journal: Journal,
    client: AsyncMyMSPClient,
    campaign: CampaignKey,
    options: FollowOptions | None = None,
    listener: ProgressListener | None = None,
) -> Counts:
    """Poll until every accepted message is final, nothing changes any more, or time is up.

    A failed request changes nothing; the next round repeats it. If the first result under a message id does not name
    the recipients of its request, the id belongs to another message and the request is put in doubt.

    Args:
        journal: Where the campaign is recorded.
        client: The gateway.
        campaign: The campaign to track.
        options: How long and how often to poll.
        listener: Called after each round.

    Returns:
        The campaign's messages by state. All results are in the journal.

    Raises:
        InputError: The campaign's recipients were purged.
        JournalError: The journal failed.
    """
    options = options or FollowOptions()
    with CampaignContext(journal, client, campaign.account) as context:
        await context.thread(journal.campaigns.check_not_purged, campaign)
        return await CampaignFollower(context, campaign, options, listener).run()


class FollowSchedule:
    """When a campaign is polled next, and when tracking ends. It reads no clock; times are monotonic seconds.

    Args:
        options: How long and how often to poll.
        now: The current time.
    """

    def __init__(self, options: FollowOptions, now: float) -> None:
        self._options = options
        self._ends_at = now + options.deadline_s
        self._changed_at = now
        self._pause_s = options.first_pause_s

    def record_round(self, now: float, *, changed: bool, until_delivery_s: float = 0.0) -> None:
        """A round is done.

        Args:
            now: The current time.
            changed: Whether any message changed.
            until_delivery_s: Seconds until the last waiting message is due; nothing needs to change before that.
        """
        if changed:
            self._changed_at, self._pause_s = now, self._options.first_pause_s
        if until_delivery_s > 0:
            self._changed_at = now + until_delivery_s

    def has_ended(self, now: float, counts: Counts, *, refused: bool = False) -> bool:
        """Whether tracking ends: all is final, the account is refused, time is up, or nothing changes any more.

        Without updates, requests in doubt cannot be found.
        """
        settled = not counts.open and not (self._options.use_updates and counts.in_doubt)
        quiet = now - self._changed_at >= self._options.quiet_s
        return settled or refused or quiet or now >= self._ends_at

    def next_pause_s(self, now: float, *, late_arrivals: bool = False) -> float:
        """Seconds to wait before the next round; the pause after that is half as long again.

        Args:
            now: The current time.
            late_arrivals: Whether released requests may still arrive.
        """
        pause_s = min(self._pause_s, _LATE_ARRIVAL_PAUSE_S) if late_arrivals else self._pause_s
        self._pause_s = min(self._pause_s * 1.5, self._options.longest_pause_s)
        return max(0.0, min(pause_s, self._ends_at - now, self._changed_at + self._options.quiet_s - now))


class CampaignFollower:
    """Tracks one campaign, as :func:`follow` does.

    Attributes:
        without_response: Requests without a complete response in the last round that made any.
        updates_refusal: Why the gateway refuses the account's updates; None if it does not.
    """

    def __init__(
        self,
        context: CampaignContext,
        campaign: CampaignKey,
        options: FollowOptions,
        listener: ProgressListener | None = None,
    ) -> None:
        self._context = context
        self._journal, self._thread = context.journal, context.thread
        self._campaign = campaign
        self._options = options
        self._listener = listener
        self._clock = context.clock
        self._poller = ResultPoller(
            context, deadline_s=options.deadline_s, requests_per_minute=options.requests_per_minute
        )
        since = self._clock.now() - tracking_period(options.tracking_days)
        self._update_reader = UpdateReader(context, self._poller, since, exclude=campaign)
        self._reconciler = Reconciler(context, campaign, ReconcileOptions())
        self.without_response = 0
        self.updates_refusal: RefusedError | None = None

    @property
    def refusal(self) -> RefusedError | None:
        """Why the gateway refuses the account; None if it does not."""
        return self._poller.budget.refusal

    async def run(self) -> Counts:
        """Track the campaign to the end, and return its messages by state."""
        (summary,) = await self._thread(
            self._journal.campaigns.summaries, self._campaign.account, among=[self._campaign.id]
        )
        schedule = FollowSchedule(self._options, self._clock.monotonic())
        while True:
            changed = await self._read_updates() + await self._poll()
            await self._reconciler.reconcile()
            if summary.cancelled_at is not None and self._reconciler.last_delivery is not None:
                # A request of the cancelled campaign has turned up since.
                await cancel_at_gateway(self._context, self._campaign, timeout_s=0.0)
            counts = await self._thread(self._journal.campaigns.counts, self._campaign)
            if self._listener is not None:
                self._listener(Progress("follow", counts.final, counts.accepted))
            now = self._clock.monotonic()
            schedule.record_round(now, changed=changed > 0, until_delivery_s=self._until_delivery_s())
            if schedule.has_ended(now, counts, refused=self.refusal is not None):
                return counts
            await self._clock.sleep(schedule.next_pause_s(now, late_arrivals=self._reconciler.released > 0))

    def _until_delivery_s(self) -> float:
        """Seconds until the last message that waits at the gateway is due; zero or less if none waits."""
        times = [time for time in (self._campaign.send_at, self._reconciler.last_delivery) if time is not None]
        now = self._clock.now()
        return max([(time - now).total_seconds() for time in times], default=0.0)

    async def _read_updates(self) -> int:
        """Read the account's updates if ``use_updates`` is set; returns how many messages changed."""
        if not self._options.use_updates:
            return 0
        updates = await self._update_reader.read()
        self.updates_refusal = updates.failure if isinstance(updates.failure, RefusedError) else None
        return updates.changed + updates.linked

    async def _poll(self) -> int:
        """Poll each open batch once, page by page; returns how many messages changed."""
        budget = self._poller.budget
        budget.try_again()
        requests, without_response = budget.requests, budget.without_response
        after = changed = 0
        while page := await self._thread(
            self._journal.deliveries.open_batches, self._campaign, after=after, limit=_PAGE
        ):
            after = page[-1].id
            changed += await self._poller.poll(page)
            if self._poller.exhausted:
                break
        if budget.requests > requests:  # otherwise time is up, and the number of the round before still holds
            self.without_response = budget.without_response - without_response
        return changed
