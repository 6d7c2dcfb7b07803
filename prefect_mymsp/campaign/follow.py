"""Following a campaign: ask the gateway about what it accepted until nothing more is to be learnt.

The truth comes from ``getSmsResult`` alone. Where the account has ``getMsgUpdates``, its answers say which messages
are worth asking about, and may lead to the id of a request whose answer was lost: hints, each confirmed by a result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.reconcile import LookOptions, Reconciler, named
from prefect_mymsp.campaign.send import JournalThread, Listener, Progress
from prefect_mymsp.errors import InDoubtError, NotSentError, RejectedError
from prefect_mymsp.journal.schema import ACCEPTED
from prefect_mymsp.journal.store import CampaignKey, Counts, Journal, OpenBatch, Outcome, digits
from prefect_mymsp.models import RecipientStatus, SmsResult, Updates

if TYPE_CHECKING:
    from prefect_mymsp.client import AsyncMyMSPClient

_NO_SUCH_MESSAGE = 32
#: The gateway has put the message away and no longer answers for it (4.2.3).
_ARCHIVED = 323
_PAGE = 500
#: A gateway may need a moment before it knows an id it has just given out.
_SETTLING = timedelta(seconds=5)
#: Clocks differ, and the gateway's has minutes: a message sent so long before we meant to send it is not ours.
_CLOCK_SLACK = timedelta(hours=1)

_Statuses = dict[int, Sequence[RecipientStatus]]


@dataclass(frozen=True, slots=True)
class FollowOptions:
    """How long and how often the gateway is asked.

    Attributes:
        deadline_s: Seconds to follow at most.
        quiet_s: Seconds without any change after which nothing more is expected; counted from the delivery time on
            when the campaign has one.
        first_pause_s: Seconds between the first two rounds; each pause is half as long again as the one before, and
            after a change the pauses begin anew.
        longest_pause_s: Seconds a pause lasts at most.
        requests_per_minute: Requests the following may make, at most.
        use_updates: Whether to read ``getMsgUpdates`` for hints. Reading removes them: no other system that works
            with this account will see them.
    """

    deadline_s: float = 3600.0
    quiet_s: float = 900.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    requests_per_minute: int = 3000
    use_updates: bool = False


async def follow(
    journal: Journal,
    client: AsyncMyMSPClient,
    campaign: CampaignKey,
    options: FollowOptions | None = None,
    listener: Listener | None = None,
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
    thread = JournalThread()
    try:
        await thread(journal.refuse_forgotten, campaign)
        return await _Following(journal, thread, client, campaign, options, listener).run()
    finally:
        thread.close()


class _Following:
    def __init__(
        self,
        journal: Journal,
        thread: JournalThread,
        client: AsyncMyMSPClient,
        campaign: CampaignKey,
        options: FollowOptions,
        listener: Listener | None,
    ) -> None:
        self._journal = journal
        self._thread = thread
        self._client = client
        self._campaign = campaign
        self._options = options
        self._listener = listener
        self._ends = time.monotonic() + options.deadline_s
        self._gap_s = 60.0 / options.requests_per_minute
        self._next_request = 0.0
        self._refused = False
        self._reconciler = Reconciler(journal, thread, client, campaign, LookOptions())

    async def run(self) -> Counts:
        options, waits_until = self._options, time.monotonic()
        if self._campaign.deliver_at is not None:
            waits_until += max(0.0, self._campaign.deliver_at.timestamp() - time.time())
        moved_at, pause = max(time.monotonic(), waits_until), options.first_pause_s
        while True:
            changed = await self._hints() if options.use_updates else 0
            changed += await self._round()
            await self._reconciler.look()
            counts = await self._thread(self._journal.counts, self._campaign)
            if self._listener is not None:
                self._listener(Progress("follow", counts.final, counts.accepted))
            now = time.monotonic()
            if changed:
                moved_at, pause = max(now, waits_until), options.first_pause_s
            done = counts.final == counts.accepted and not (options.use_updates and counts.in_doubt)
            if done or self._refused or now >= self._ends or now - moved_at >= options.quiet_s:
                return counts
            # A request that turns up late must be found before its delivery time.
            longest = min(pause, 10.0) if self._reconciler.ghosts else pause
            await asyncio.sleep(min(longest, max(0.0, self._ends - now), max(0.0, moved_at + options.quiet_s - now)))
            pause = min(pause * 1.5, options.longest_pause_s)

    # -- results -----------------------------------------------------------------------------------------------

    async def _round(self) -> int:
        """Ask about each open batch once, page by page; returns how many messages changed."""
        after = changed = 0
        while page := await self._thread(self._journal.open_batches, self._campaign, after=after, limit=_PAGE):
            after = page[-1].id
            changed += await self._ask_all(page)
            if self._refused or time.monotonic() >= self._ends:
                break
        return changed

    async def _ask_all(self, page: Sequence[OpenBatch]) -> int:
        new = [batch.id for batch in page if not batch.believed]
        members = await self._thread(self._journal.members, new) if new else {}
        asked = _Asked()
        left = iter(page)
        async with asyncio.TaskGroup() as asking:
            for _ in range(min(self._client.connections, len(page))):
                asking.create_task(self._ask(left, members, asked))
        if asked.believed:
            await self._thread(self._journal.believe, asked.believed)
        for batch_id, reason in asked.foreign:
            await self._thread(self._journal.disbelieve, batch_id, reason)
        changed = await self._thread(self._journal.note_groups, asked.groups) if asked.groups else 0
        return changed + await self._thread(self._journal.note_statuses, asked.statuses, archived=asked.archived)

    async def _ask(self, left: Iterator[OpenBatch], members: dict[int, set[str]], asked: _Asked) -> None:
        for batch in left:
            if self._refused or not await self._may_ask():
                return
            try:
                result = await self._client.result(batch.message_id)
            except RejectedError as error:
                if error.code == _ARCHIVED:
                    asked.archived.append(batch.id)
                elif error.code == _NO_SUCH_MESSAGE and not batch.believed:
                    if datetime.now(UTC) - batch.settled_at > _SETTLING:
                        asked.foreign.append((batch.id, "id-unknown"))
                elif error.account_wide:
                    self._refused = True  # nothing can be learnt until somebody mends the account
                continue
            except (InDoubtError, NotSentError):
                continue
            names = named(result)
            if names is None and (batch.group or not batch.believed):
                continue  # cut short
            if not batch.believed:
                # Whom a group reaches we do not know: a whole result is believed.
                ours = names if batch.group else frozenset(members.get(batch.id, ()))
                if names != ours or _too_old(result.statuses, batch.claimed_at):
                    asked.foreign.append((batch.id, "id-of-others"))
                    continue
                asked.believed.append(batch.id)
            if batch.group:
                asked.groups[batch.id] = result
            else:
                asked.statuses[batch.id] = result.statuses

    async def _may_ask(self) -> bool:
        """Wait for the next request's turn; False when time is up before it."""
        now = time.monotonic()
        turn = max(now, self._next_request)
        if turn >= self._ends:
            return False
        self._next_request = turn + self._gap_s
        if turn > now + 0.005:
            await asyncio.sleep(turn - now)
        return True

    # -- hints -------------------------------------------------------------------------------------------------

    async def _hints(self) -> int:
        """Read the updates, keep them, and look where they point; returns how many doubtful requests were found."""
        try:
            updates = await self._client.updates()
            raw: bytes | None = updates.raw
        except InDoubtError as error:
            updates, raw = Updates(b"", (), ()), error.raw
        except NotSentError:
            return 0
        if raw and len(raw) > 2:
            await self._thread(self._journal.received.keep_raw, self._campaign.account, raw)
        doubtful = await self._thread(self._journal.doubtful, self._campaign)
        if not doubtful or not updates.delivery_reports:
            return 0
        sought = frozenset().union(*(one.msisdns for one in doubtful))
        ids = list(
            dict.fromkeys(
                report.message_id for report in updates.delivery_reports if digits(report.recipient) in sought
            )
        )
        known = await self._thread(self._journal.known_ids, self._campaign, ids)
        return sum([await self._adopt(message_id) for message_id in ids if message_id not in known])

    async def _adopt(self, message_id: str) -> bool:
        """Take an id for a doubtful request's if its result names just that request's recipients, and no other's."""
        if not await self._may_ask():
            return False
        try:
            result = await self._client.result(message_id)
        except (InDoubtError, NotSentError):
            return False
        names = named(result)
        doubtful = await self._thread(self._journal.doubtful, self._campaign)
        matching = [one for one in doubtful if one.msisdns == names]
        # For a doubtful request deliver_at is when it was about to leave. What a doubtful group's members are nobody
        # here knows: it may be their message.
        if (
            any(one.group for one in doubtful)
            or len(matching) != 1
            or _too_old(result.statuses, matching[0].deliver_at)
        ):
            return False
        outcome = Outcome(matching[0].id, ACCEPTED, datetime.now(UTC), message_id=message_id)
        await self._thread(self._journal.settle, [outcome])
        return True


class _Asked:
    """What one page of results came to."""

    def __init__(self) -> None:
        self.statuses: _Statuses = {}
        self.groups: dict[int, SmsResult] = {}
        self.archived: list[int] = []
        self.believed: list[int] = []
        self.foreign: list[tuple[int, str]] = []


def _too_old(statuses: Iterable[RecipientStatus], claimed_at: datetime) -> bool:
    return any(status.sent_at is not None and status.sent_at < claimed_at - _CLOCK_SLACK for status in statuses)
