"""Giving a scheduled campaign another delivery time: what waits at the gateway is moved, request by request.

The journal knows of the move before the gateway does. Until an answer says so, a message may wait for either of the two
times, and whoever looks at the gateway's schedule meanwhile takes both for right. So a process may die in the middle,
or an answer be lost: rescheduling to the same time once more finishes what was begun.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.evidence import NO_SUCH_MESSAGE, SENT_ALREADY
from prefect_mymsp.campaign.options import ReconcileOptions
from prefect_mymsp.campaign.reconciler import Reconciler
from prefect_mymsp.errors import InDoubtError, InputError, NotSentError, RefusedError
from prefect_mymsp.times import ceil_minute, floor_minute, require_aware

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect_mymsp.campaign.context import CampaignContext
    from prefect_mymsp.journal import CampaignKey, ScheduledBatch

#: Requests whose new time is recorded together.
_TOGETHER = 100


@dataclass(frozen=True, slots=True)
class Rescheduled:
    """What a rescheduling came to, in requests.

    Attributes:
        moved: Wait at the gateway for the new time.
        sent: Too late: the gateway had sent them.
        unknown: May be sent at either time: the gateway did not say. Rescheduling to the same time again moves them.
        changed: Left as they are: somebody else has cancelled them at the gateway or given them another time.
        planned: Messages, not requests, that were not sent yet and will be sent for the new time.
        assumed: Messages, not requests, that were in doubt until a person said they were sent: they may be sent at the
            old time, because nobody knows their id.
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
    """Have a scheduled campaign sent at another time; journal and gateway agree afterwards.

    Args:
        context: The journal and the gateway.
        campaign: Which campaign; nobody may be sending it.
        send_at: The new delivery time, aware and in the future; seconds are rounded up to the next minute.
        rounds: How often a request is tried whose answer says nothing.

    Returns:
        What was moved and what was not. The campaign's delivery time is the new one.

    Raises:
        InputError: The time has no zone or is past; or the campaign was cancelled or forgotten, has no delivery time,
            was sent, is being sent, holds doubt that must be settled first, or an earlier rescheduling to another time
            has not come to its end. Nothing was moved.
        NotSentError: The gateway's schedule could not be read. Nothing was moved.
        InDoubtError: Likewise.
        JournalError: The journal failed. What was moved meanwhile is found by rescheduling to the same time once more.
    """
    journal, thread, client = context.journal, context.thread, context.client
    target = _whole_minute(send_at)
    await thread(journal.claims.expire_leases, campaign)
    # Doubt whose request is there is settled by a look; only what is left needs a person.
    await Reconciler(context, campaign, ReconcileOptions()).reconcile()
    times = {
        one.message_id: floor_minute(one.send_at) for one in await client.list_scheduled() if one.send_at is not None
    }
    waiting = await thread(journal.schedule.reschedule, campaign, target)
    moving = _Moving(context, times, waiting)
    for _ in range(rounds):
        if not moving.left:
            break
        await moving.round()
    counts = await thread(journal.campaigns.counts, campaign)
    return Rescheduled(moving.moved, moving.sent, len(moving.left), moving.changed, counts.planned, counts.assumed)


def _whole_minute(send_at: datetime) -> datetime:
    """The delivery time as the gateway will have it, in UTC."""
    if require_aware(send_at, "send_at") <= datetime.now(UTC):
        raise InputError("send_at is not in the future; to stop the campaign, cancel it.")
    return ceil_minute(send_at)


class _Moving:
    """What waits at the gateway, on its way from one time to the other."""

    def __init__(
        self,
        context: CampaignContext,
        times: dict[str, datetime],
        waiting: dict[str, ScheduledBatch],
    ) -> None:
        self._journal, self._thread, self._client = context.journal, context.thread, context.client
        #: For when the gateway has them, as far as that is known.
        self._times = times
        #: Those that are not known to wait for the new time, by message id.
        self.left = waiting
        self.moved = 0
        self.sent = 0
        self.changed = 0
        self._done: list[int] = []
        self._stayed: list[int] = []

    async def round(self) -> None:
        """Try each of them once."""
        turns = list(self.left.items())
        for first in range(0, len(turns), _TOGETHER):
            some = iter(turns[first : first + _TOGETHER])
            try:
                async with asyncio.TaskGroup() as moving:
                    for _ in range(self._client.connections):
                        moving.create_task(self._work(some))
            finally:
                await asyncio.shield(asyncio.ensure_future(self._record()))

    async def _work(self, turns: Iterator[tuple[str, ScheduledBatch]]) -> None:
        for message_id, batch in turns:
            try:
                at = self._times.get(message_id) or await self._look_up(message_id)
                if at == batch.send_at and batch.rescheduled_to is not None:
                    await self._client.reschedule(message_id, batch.rescheduled_to)
                    at = batch.rescheduled_to
            except RefusedError as error:
                if error.code == SENT_ALREADY:
                    self.sent += 1
                elif error.code == NO_SUCH_MESSAGE:
                    self.changed += 1
                else:
                    continue
                self._stayed.append(batch.id)
            except (InDoubtError, NotSentError):
                self._times.pop(message_id, None)  # the next round looks it up
                continue
            else:
                if at == batch.rescheduled_to:
                    self.moved += 1
                    self._done.append(batch.id)
                else:
                    self.changed += 1
                    self._stayed.append(batch.id)
            del self.left[message_id]

    async def _look_up(self, message_id: str) -> datetime | None:
        """For when the gateway has a message; None when it is for no time."""
        shown = await self._client.get_scheduled_time(message_id)
        return None if shown is None else floor_minute(shown)

    async def _record(self) -> None:
        moved, self._done = self._done, []
        stayed, self._stayed = self._stayed, []
        await self._thread(self._journal.schedule.mark_rescheduled, moved, stayed)
