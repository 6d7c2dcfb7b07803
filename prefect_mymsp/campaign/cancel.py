"""Taking a campaign back: what waits at the gateway for its delivery time is cancelled there."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.evidence import NO_SUCH_MESSAGE, SENT_ALREADY
from prefect_mymsp.campaign.options import ReconcileOptions
from prefect_mymsp.campaign.reconciler import Reconciler
from prefect_mymsp.errors import InDoubtError, NotSentError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect_mymsp.campaign.context import CampaignContext
    from prefect_mymsp.client import AsyncMyMSPClient
    from prefect_mymsp.journal import CampaignKey

#: Times that a message is tried to be cancelled when the gateway does not say what came of it.
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancellation came to, in requests.

    Attributes:
        cancelled: Taken back at the gateway.
        sent: Too late: the gateway had sent them.
        unknown: The gateway did not say; they may be sent.
    """

    cancelled: int
    sent: int
    unknown: int


async def cancel_at_gateway(
    context: CampaignContext,
    campaign: CampaignKey,
    *,
    patience_s: float = 90.0,
    reconcile: ReconcileOptions | None = None,
) -> Cancelled:
    """Take back everything of a campaign that waits at the gateway; journal and gateway agree afterwards.

    A run that sends the campaign has requests on their way yet when it learns of the cancellation. This waits for their
    end, and looks up what is in doubt: else that would go out which was accepted a moment too late.

    Args:
        context: The journal, where the campaign is cancelled already so that nothing more of it is claimed, and the
            gateway; the client's ``connections`` requests are in flight at once.
        campaign: Which campaign.
        patience_s: Seconds to wait at most for other runs and for doubt; the lease of a dead run ends in less.
        reconcile: How doubt is looked up.
    """
    journal, thread, client = context.journal, context.thread, context.client
    options = reconcile or ReconcileOptions()
    reconciler = Reconciler(context, campaign, options)
    until = time.monotonic() + patience_s
    taking = _TakingBack(client)
    while True:
        waiting = await thread(journal.schedule.batches, campaign, datetime.now(UTC), include_moving=True)
        done, tried = await taking.these({message_id: batch.id for message_id, batch in waiting.items()})
        await thread(journal.schedule.mark_cancelled, done)
        await thread(journal.claims.expire_leases, campaign)
        counts = await thread(journal.campaigns.counts, campaign)
        doubt = bool(counts.in_doubt or taking.missing & waiting.keys())
        if doubt:
            await reconciler.reconcile()
        if tried:
            continue  # what was not answered is tried again, and what was accepted meanwhile
        settled = not counts.sending and not (doubt and reconciler.pending)
        if settled or time.monotonic() >= until:
            return Cancelled(counts.cancelled, len(taking.sent), len(waiting.keys() - taking.sent))
        await asyncio.sleep(0.2 if counts.sending else options.interval_s)


class _TakingBack:
    """Cancels messages at the gateway and remembers how that went."""

    def __init__(self, client: AsyncMyMSPClient) -> None:
        self._client = client
        self._unanswered: Counter[str] = Counter()
        #: Messages that the gateway had sent already.
        self.sent: set[str] = set()
        #: Ids that the gateway does not know: cut short on their way, or cancelled by a process that died then.
        self.missing: set[str] = set()

    async def these(self, waiting: dict[str, int]) -> tuple[list[int], int]:
        """Try each message once more that may be cancelled yet; returns the batches done, and how many were tried."""
        given_up = {one for one, times in self._unanswered.items() if times >= _TRIES}
        left = [one for one in waiting if one not in self.sent | self.missing | given_up]
        done: list[str] = []
        to_try = iter(left)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._client.connections, len(left))):
                group.create_task(self._each(to_try, done))
        return [waiting[one] for one in done], len(left)

    async def _each(self, to_try: Iterator[str], done: list[str]) -> None:
        for message_id in to_try:
            try:
                await self._client.cancel(message_id)
                done.append(message_id)
            except RefusedError as error:
                if error.code == SENT_ALREADY:
                    self.sent.add(message_id)
                elif error.code != NO_SUCH_MESSAGE:
                    self._unanswered[message_id] += 1
                elif self._unanswered[message_id]:
                    done.append(message_id)  # an earlier try, whose answer was lost, had done it
                else:
                    self.missing.add(message_id)
            except (InDoubtError, NotSentError):
                self._unanswered[message_id] += 1
