"""Cancel a campaign's messages that wait at the gateway for their delivery time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.options import ReconcileOptions
from prefect_mymsp.campaign.reconciler import Reconciler
from prefect_mymsp.errors import InDoubtError, NotSentError, RefusedError
from prefect_mymsp.protocol import NO_SUCH_MESSAGE, SENT_ALREADY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prefect_mymsp.campaign.context import CampaignContext
    from prefect_mymsp.client import AsyncMyMSPClient
    from prefect_mymsp.journal import CampaignKey

#: How often a cancellation is attempted when no response proves the outcome.
_MAX_ATTEMPTS = 5
#: Seconds between two checks whether other runs have finished their requests.
_POLL_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The result of a cancellation, in requests.

    Attributes:
        cancelled: Cancelled at the gateway.
        sent: Too late: the gateway had sent them.
        unknown: No response proves the outcome; they may be sent.
    """

    cancelled: int
    sent: int
    unknown: int


async def cancel_at_gateway(
    context: CampaignContext,
    campaign: CampaignKey,
    *,
    timeout_s: float = 90.0,
    reconcile: ReconcileOptions | None = None,
) -> Cancelled:
    """Cancel the messages of a campaign that wait at the gateway. Afterwards journal and gateway agree.

    A run that sends the campaign may have requests in flight when it notices the cancellation. So this waits until they
    are finished, and reconciles scheduled requests in doubt: both may still have arrived.

    Args:
        context: The journal, in which the campaign is cancelled already so that nothing more is claimed, and the
            gateway.
        campaign: The campaign to cancel.
        timeout_s: Maximum number of seconds to wait for other runs and for requests in doubt. The lease of a dead run
            ends earlier.
        reconcile: How requests in doubt are looked up.
    """
    journal, thread, options = context.journal, context.thread, reconcile or ReconcileOptions()
    clock = context.clock
    reconciler = Reconciler(context, campaign, options)
    canceller = _Canceller(context.client)
    ends_at = clock.monotonic() + timeout_s
    while True:
        waiting = await thread(journal.schedule.batches, campaign, clock.now(), include_moving=True)
        attempted = await canceller.cancel(waiting)
        await thread(
            journal.schedule.mark_cancelled,
            [batch.id for message_id, batch in waiting.items() if message_id in canceller.cancelled],
        )
        await thread(journal.claims.expire_leases, campaign)
        counts = await thread(journal.campaigns.counts, campaign)
        in_doubt = bool(counts.in_doubt or canceller.unknown_ids & waiting.keys())
        if in_doubt:
            await reconciler.reconcile()
        if attempted:
            continue  # some may need another attempt, and others may have been accepted meanwhile
        settled = not counts.sending and not (in_doubt and reconciler.pending)
        if settled or clock.monotonic() >= ends_at:
            return Cancelled(counts.cancelled, len(canceller.sent), len(waiting.keys() - canceller.sent))
        await clock.sleep(_POLL_INTERVAL_S if counts.sending else options.interval_s)


class _Canceller:
    """Cancels messages at the gateway, each until a response proves the outcome.

    Attributes:
        cancelled: Ids of messages that are cancelled.
        sent: Ids of messages that the gateway had sent already.
        unknown_ids: Ids that the gateway does not have: truncated in the response, or cancelled by a process that died
            before recording it.
    """

    def __init__(self, client: AsyncMyMSPClient) -> None:
        self._client = client
        self._failures: Counter[str] = Counter()
        self.cancelled: set[str] = set()
        self.sent: set[str] = set()
        self.unknown_ids: set[str] = set()

    async def cancel(self, waiting: Mapping[str, object]) -> int:
        """Make one more attempt for each open message that has attempts left; returns the number of attempts."""
        settled = self.sent | self.unknown_ids
        message_ids = [
            message_id
            for message_id in waiting
            if message_id not in settled and self._failures[message_id] < _MAX_ATTEMPTS
        ]
        remaining = iter(message_ids)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._client.connections, len(message_ids))):
                group.create_task(self._cancel_each(remaining))
        return len(message_ids)

    async def _cancel_each(self, message_ids: Iterator[str]) -> None:
        for message_id in message_ids:
            try:
                await self._client.cancel(message_id)
                self.cancelled.add(message_id)
            except RefusedError as error:
                if error.code == SENT_ALREADY:
                    self.sent.add(message_id)
                elif error.code != NO_SUCH_MESSAGE:
                    self._failures[message_id] += 1
                elif self._failures[message_id]:
                    self.cancelled.add(message_id)  # by an earlier attempt whose response was lost
                else:
                    self.unknown_ids.add(message_id)
            except (InDoubtError, NotSentError):
                self._failures[message_id] += 1
