"""Move a scheduled campaign to another delivery time: at the gateway, request by request.

The journal records the new time before the request to the gateway. Until a response confirms it, a request may wait for
either time, and everything that reads the gateway's list accepts both. So a process may die in the middle, or a
response be lost: rescheduling to the same time again completes it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.options import ReconcileOptions
from prefect_mymsp.campaign.reconciler import Reconciler
from prefect_mymsp.errors import InDoubtError, InputError, NotSentError, RefusedError
from prefect_mymsp.protocol import NO_SUCH_MESSAGE, SENT_ALREADY
from prefect_mymsp.times import ceil_minute, floor_minute, require_aware

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from prefect_mymsp.campaign.context import CampaignContext
    from prefect_mymsp.journal import CampaignKey, ScheduledBatch

#: Requests whose new time is recorded in one transaction.
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Rescheduled:
    """The result of a rescheduling, in requests.

    Attributes:
        moved: Wait at the gateway for the new time.
        sent: Too late: the gateway had sent them.
        unknown: May be sent at either time: no response proves it. Rescheduling to the same time again moves them.
        changed: Not moved: another system cancelled them at the gateway, or gave them another time.
        planned: Messages, not requests, that were not sent yet and will be sent for the new time.
        assumed: Messages, not requests, that a person decided were sent: they may go out at the old time, because
            their ids are unknown.
    """

    moved: int
    sent: int
    unknown: int
    changed: int
    planned: int
    assumed: int


async def reschedule_at_gateway(
    context: CampaignContext,
    campaign: CampaignKey,
    send_at: datetime,
    *,
    rounds: int = 5,
) -> Rescheduled:
    """Move a scheduled campaign to another delivery time. Afterwards journal and gateway agree.

    Args:
        context: The journal and the gateway.
        campaign: The campaign to move; no run may be sending it.
        send_at: The new delivery time, aware and in the future. It is rounded up to a whole minute.
        rounds: Maximum number of attempts for a request without a conclusive response.

    Returns:
        The counts of moved and other requests. The campaign's delivery time is the new one.

    Raises:
        InputError: ``send_at`` has no time zone or is past; or the campaign was cancelled or purged, has no delivery
            time, was sent, is being sent, has requests in doubt, or an earlier rescheduling to another time is not
            complete. Nothing was moved.
        NotSentError: The gateway's list could not be read. Nothing was moved.
        InDoubtError: Likewise.
        JournalError: The journal failed. Reschedule to the same time again to complete it.
    """
    if require_aware(send_at, "send_at") <= context.clock.now():
        raise InputError("send_at is not in the future. To stop the campaign, cancel it.")
    journal, thread, client = context.journal, context.thread, context.client
    await thread(journal.claims.expire_leases, campaign)
    # This settles every request that the list can settle. The rest needs a person.
    await Reconciler(context, campaign, ReconcileOptions()).reconcile()
    minutes = {
        message.message_id: floor_minute(message.send_at)
        for message in await client.list_scheduled()
        if message.send_at is not None
    }
    waiting = await thread(journal.schedule.reschedule, campaign, ceil_minute(send_at))
    rescheduler = _Rescheduler(context, minutes, waiting)
    for _ in range(rounds):
        if not rescheduler.remaining:
            break
        await rescheduler.attempt()
    counts = await thread(journal.campaigns.counts, campaign)
    return Rescheduled(
        moved=rescheduler.moved,
        sent=rescheduler.sent,
        unknown=len(rescheduler.remaining),
        changed=rescheduler.changed,
        planned=counts.planned,
        assumed=counts.assumed,
    )


class _Rescheduler:
    """Moves requests at the gateway from one delivery time to another.

    Attributes:
        remaining: Requests without proof that they wait for the new time, by message id.
        moved: Requests that wait for the new time.
        sent: Requests that the gateway had sent.
        changed: Requests that another system cancelled or moved.
    """

    def __init__(
        self, context: CampaignContext, minutes: Mapping[str, datetime], waiting: Mapping[str, ScheduledBatch]
    ) -> None:
        self._journal, self._thread, self._client = context.journal, context.thread, context.client
        #: The listed minute of each request; a request without a listed minute is missing.
        self._minutes = dict(minutes)
        self.remaining = dict(waiting)
        self.moved = self.sent = self.changed = 0
        self._unrecorded_moved: list[int] = []
        self._unrecorded_stayed: list[int] = []

    async def attempt(self) -> None:
        """Attempt each remaining request once."""
        requests = list(self.remaining.items())
        for start in range(0, len(requests), _PAGE):
            page = iter(requests[start : start + _PAGE])
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._client.connections):
                        group.create_task(self._move_each(page))
            finally:
                await asyncio.shield(asyncio.ensure_future(self._record()))

    async def _move_each(self, requests: Iterator[tuple[str, ScheduledBatch]]) -> None:
        for message_id, batch in requests:
            try:
                minute = self._minutes.get(message_id) or await self._fetch_minute(message_id)
                # Move it only from the time that we gave it.
                if minute == batch.send_at and batch.rescheduled_to is not None:
                    await self._client.reschedule(message_id, batch.rescheduled_to)
                    minute = batch.rescheduled_to
            except RefusedError as error:
                if error.code == SENT_ALREADY:
                    self.sent += 1
                elif error.code == NO_SUCH_MESSAGE:
                    self.changed += 1
                else:
                    continue
                self._unrecorded_stayed.append(batch.id)
            except (InDoubtError, NotSentError):
                self._minutes.pop(message_id, None)  # the next attempt requests it
                continue
            else:
                if minute == batch.rescheduled_to:
                    self.moved += 1
                    self._unrecorded_moved.append(batch.id)
                else:
                    self.changed += 1
                    self._unrecorded_stayed.append(batch.id)
            del self.remaining[message_id]

    async def _fetch_minute(self, message_id: str) -> datetime | None:
        send_at = await self._client.get_scheduled_time(message_id)
        return None if send_at is None else floor_minute(send_at)

    async def _record(self) -> None:
        moved, self._unrecorded_moved = self._unrecorded_moved, []
        stayed, self._unrecorded_stayed = self._unrecorded_stayed, []
        await self._thread(self._journal.schedule.mark_rescheduled, moved, stayed)
