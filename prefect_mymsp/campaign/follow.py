"""Following a campaign: ask the gateway about what it accepted until nothing more is to be learnt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.send import JournalThread, Listener, Progress
from prefect_mymsp.errors import InDoubtError, NotSentError, RejectedError
from prefect_mymsp.journal.store import CampaignKey, Counts, Journal
from prefect_mymsp.models import RecipientStatus

if TYPE_CHECKING:
    from prefect_mymsp.client import AsyncMyMSPClient

#: The gateway has put the message away and no longer answers for it (4.2.3).
_ARCHIVED = 323
_PAGE = 500

_Statuses = dict[int, Sequence[RecipientStatus]]


async def follow(
    journal: Journal,
    client: AsyncMyMSPClient,
    campaign: CampaignKey,
    *,
    deadline_s: float = 3600.0,
    quiet_s: float = 900.0,
    first_pause_s: float = 1.0,
    longest_pause_s: float = 60.0,
    listener: Listener | None = None,
) -> Counts:
    """Poll ``getSmsResult`` until every accepted message is delivered, nothing moves any more, or time is up.

    Failures of single polls are taken in stride: what is known stays known and the next round asks again.

    Args:
        journal: Where the campaign is recorded.
        client: The gateway.
        campaign: Which campaign.
        deadline_s: Seconds to follow at most.
        quiet_s: Seconds without any change after which nothing more is expected. Counted from the delivery time
            on when the campaign has one.
        first_pause_s: Seconds between the first two rounds; each pause is half as long again as the one before, and
            after a change the pause begins anew.
        longest_pause_s: Seconds a pause lasts at most.
        listener: Called after each round.

    Returns:
        Where the campaign's messages stand; whatever has been learnt is in the journal.
    """
    thread = JournalThread()
    ends = time.monotonic() + deadline_s
    waits_until = time.monotonic()
    if campaign.deliver_at is not None:
        waits_until += max(0.0, campaign.deliver_at.timestamp() - time.time())
    moved_at, pause = max(time.monotonic(), waits_until), first_pause_s
    try:
        while True:
            polling = _Polling(journal, thread, client, campaign, ends)
            await polling.round()
            counts = await thread(journal.counts, campaign)
            if listener is not None:
                listener(Progress("follow", counts.final, counts.accepted))
            now = time.monotonic()
            if polling.changed:
                moved_at, pause = max(now, waits_until), first_pause_s
            if counts.final == counts.accepted or now >= ends or now - moved_at >= quiet_s:
                return counts
            await asyncio.sleep(min(pause, max(0.0, ends - now), max(0.0, moved_at + quiet_s - now)))
            pause = min(pause * 1.5, longest_pause_s)
    finally:
        thread.close()


class _Polling:
    """One round over everything that is not final."""

    def __init__(
        self, journal: Journal, thread: JournalThread, client: AsyncMyMSPClient, campaign: CampaignKey, ends: float
    ) -> None:
        self._journal = journal
        self._thread = thread
        self._client = client
        self._campaign = campaign
        self._ends = ends
        #: Messages of which something new was learnt.
        self.changed = 0

    async def round(self) -> None:
        """Ask about each open batch once, page by page, as many at once as the client has connections."""
        after = 0
        while page := await self._thread(self._journal.open_batches, self._campaign, after=after, limit=_PAGE):
            after = page[-1][0]
            left, statuses, archived = iter(page), _Statuses(), list[int]()
            async with asyncio.TaskGroup() as asking:
                for _ in range(min(self._client.connections, len(page))):
                    asking.create_task(self._ask(left, statuses, archived))
            self.changed += await self._thread(self._journal.note_statuses, statuses, archived=archived)
            if time.monotonic() >= self._ends:
                return

    async def _ask(self, left: Iterator[tuple[int, str]], statuses: _Statuses, archived: list[int]) -> None:
        for number, message_id in left:
            if time.monotonic() >= self._ends:
                return
            try:
                statuses[number] = (await self._client.result(message_id)).statuses
            except RejectedError as error:
                if error.code == _ARCHIVED:
                    archived.append(number)
            except (InDoubtError, NotSentError):
                continue
