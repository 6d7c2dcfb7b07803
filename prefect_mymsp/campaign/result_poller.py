"""What became of messages: asked of ``getSmsResult``, whose word alone is taken for it, and recorded.

Two ways lead there. Of a batch that was accepted the id is known; it is confirmed when the first result under it names
just our recipients. Of a batch in doubt it is not; an id from elsewhere is adopted when its result names just that
batch's recipients, and no other's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.evidence import recipients_if_complete
from prefect_mymsp.errors import InDoubtError, NotSentError, RefusedError
from prefect_mymsp.journal import Outcome
from prefect_mymsp.models import RecipientStatus
from prefect_mymsp.states import ACCEPTED, IN_DOUBT
from prefect_mymsp.times import resolve_repeated_hour

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo

    from prefect_mymsp.campaign.context import CampaignContext
    from prefect_mymsp.journal import OpenBatch
    from prefect_mymsp.models import SmsResult

_NO_SUCH_MESSAGE = 32
#: The gateway has put the message away and no longer answers for it (4.2.3).
_ARCHIVED = 323
#: A gateway may need a moment before it knows an id it has just given out.
_SETTLING = timedelta(seconds=5)
#: Clocks differ, and the gateway's has minutes: a message sent so long before we meant to send it is not ours.
_CLOCK_SLACK = timedelta(hours=1)
#: After so many questions in a row without an answer the gateway is left alone for a while.
_SILENCE = 20


class ResultPoller:
    """Asks for results at a pace, until a moment, and records what they say.

    Attributes:
        ends: When to stop, by :func:`time.monotonic`.
        refusal: Why the gateway refuses the account; None while it does not. Nothing is asked after that.
        requests: Questions asked so far.
        unanswered: Those of them that got no answer, or none that could be read.
        left: Batches that the latest :meth:`poll` did not come to.
        whole: Whether it got an answer about each of its batches.
    """

    def __init__(
        self,
        context: CampaignContext,
        *,
        deadline_s: float,
        requests_per_minute: int,
        max_requests: int | None = None,
    ) -> None:
        self._journal, self._thread, self._client = context.journal, context.thread, context.client
        self._max_requests = max_requests
        self._gap_s = 60.0 / requests_per_minute
        self._next_request = 0.0
        self._in_a_row = 0
        self.ends_at = time.monotonic() + deadline_s
        self.refusal: RefusedError | None = None
        self.requests = self.unanswered = 0
        self.remaining: deque[OpenBatch] = deque()
        self.complete = True

    @property
    def exhausted(self) -> bool:
        """Whether no more can be asked: refused, out of time, out of requests, or nobody answers."""
        spent = self._max_requests is not None and self.requests >= self._max_requests
        silent = self._in_a_row >= _SILENCE
        return self.refusal is not None or spent or silent or time.monotonic() >= self.ends_at

    def reset_silence(self) -> None:
        """Take a gateway that did not answer for one that may answer again."""
        self._in_a_row = 0

    # -- ids we were given -------------------------------------------------------------------------------------

    async def poll(self, batches: Sequence[OpenBatch]) -> int:
        """Ask about each of some batches once, in their order; returns how many messages changed.

        Failures of single questions are taken in stride: what is known stays known. A batch whose first result does
        not name our recipients is in doubt from then on: its id is somebody else's.
        """
        new = [batch.id for batch in batches if not batch.confirmed]
        members = await self._thread(self._journal.deliveries.recipients, new) if new else {}
        told, unanswered = _Told(), self.unanswered
        self.remaining = deque(batches)
        async with asyncio.TaskGroup() as asking:
            for _ in range(min(self._client.connections, len(batches))):
                asking.create_task(self._ask(self.remaining, members, told))
        self.complete = not self.remaining and self.unanswered == unanswered
        if told.confirmed:
            await self._thread(self._journal.doubt.confirm_message_ids, told.confirmed)
        for batch_id, reason in told.foreign:
            await self._thread(self._journal.doubt.reject_message_id, batch_id, reason)
        changed = await self._thread(self._journal.deliveries.record_group_results, told.groups) if told.groups else 0
        return changed + await self._thread(
            self._journal.deliveries.record_statuses, told.statuses, archived=told.archived
        )

    async def _ask(self, left: deque[OpenBatch], members: dict[int, set[str]], told: _Told) -> None:
        while left:
            batch = left.popleft()
            if not await self._may_ask():
                left.appendleft(batch)
                return
            answer = await self._result(batch.message_id)
            if answer is None:
                continue
            if isinstance(answer, RefusedError):
                if answer.code == _ARCHIVED:
                    told.archived.append(batch.id)
                elif (
                    answer.code == _NO_SUCH_MESSAGE
                    and not batch.confirmed
                    and datetime.now(UTC) - batch.settled_at > _SETTLING
                ):
                    told.foreign.append((batch.id, "id-unknown"))
                continue
            names = recipients_if_complete(answer)
            if names is None and (batch.group or not batch.confirmed):  # cut short
                self.unanswered += 1
                continue
            statuses = _in_order(answer.statuses, batch.due_at, self._client.zone)
            if not batch.confirmed and (batch.group or batch.id in members):  # else its people were forgotten meanwhile
                # Whom a group reaches we do not know: a whole result is confirmed.
                ours = names if batch.group else frozenset(members[batch.id])
                if names != ours or _too_old(statuses, batch.claimed_at):
                    told.foreign.append((batch.id, "id-of-others"))
                    continue
                told.confirmed.append(batch.id)
            if batch.group:
                told.groups[batch.id] = answer
            else:
                told.statuses[batch.id] = statuses

    async def _may_ask(self) -> bool:
        """Wait for the next question's turn; False when none may be asked any more."""
        now = time.monotonic()
        turn = max(now, self._next_request)
        if self.exhausted or turn >= self.ends_at:
            return False
        self.requests += 1
        self._next_request = turn + self._gap_s
        if turn > now + 0.005:
            await asyncio.sleep(turn - now)
        return True

    async def _result(self, message_id: str) -> SmsResult | RefusedError | None:
        """What the gateway says of an id; None when it does not answer."""
        try:
            result = await self._client.fetch_result(message_id)
        except RefusedError as error:
            if not error.account_wide:
                self._in_a_row = 0
                return error
            self.refusal = error  # nothing can be learnt until somebody mends the account
        except (InDoubtError, NotSentError):
            pass
        else:
            self._in_a_row = 0
            return result
        self.unanswered += 1
        self._in_a_row += 1
        return None

    # -- ids we were not given ---------------------------------------------------------------------------------

    async def link_message_id(self, account: str, message_id: str, since: datetime) -> bool | None:
        """Take an id for that of a batch in doubt, if its result names just that batch's recipients.

        Args:
            account: See :func:`~prefect_mymsp.account.account_fingerprint`.
            message_id: An id that no campaign of the account has.
            since: Only batches whose messages were to leave then or later, aware.

        Returns:
            Whether it was one's; None when the gateway did not say.
        """
        answer = await self._result(message_id) if await self._may_ask() else None
        if answer is None or isinstance(answer, RefusedError):
            return None if answer is None else False
        names = recipients_if_complete(answer)
        if names is None:
            return None
        near = await self._thread(self._journal.doubt.candidates, account, sorted(names), since)
        matching = [one for one in near if one.state == IN_DOUBT and one.msisdns == names]
        # What a doubtful group's members are nobody here knows: it may be their message.
        if len(matching) != 1 or await self._thread(self._journal.doubt.has_group_in_doubt, account, since):
            return False
        (found,) = matching
        statuses = _in_order(answer.statuses, found.batch.due_at, self._client.zone)
        if _too_old(statuses, found.batch.claimed_at):
            return False
        outcome = Outcome(found.batch.id, ACCEPTED, datetime.now(UTC), message_id=message_id)
        await self._thread(self._journal.claims.settle, [outcome])
        return True


class _Told:
    """What one round of questions came to, by batch number."""

    def __init__(self) -> None:
        self.statuses: dict[int, Sequence[RecipientStatus]] = {}
        self.groups: dict[int, SmsResult] = {}
        self.archived: list[int] = []
        self.confirmed: list[int] = []
        self.foreign: list[tuple[int, str]] = []


def _too_old(statuses: Sequence[RecipientStatus], claimed_at: datetime) -> bool:
    return any(status.sent_at is not None and status.sent_at < claimed_at - _CLOCK_SLACK for status in statuses)


def _in_order(statuses: Sequence[RecipientStatus], due_at: datetime, zone: tzinfo) -> Sequence[RecipientStatus]:
    """Statuses with times that make sense: in the night the clocks go back, each 02:30 could be either of two.

    Without a zone the first is assumed. Where that is well before the message was due, it was the second.
    """
    early = due_at - _CLOCK_SLACK / 2
    if all(status.sent_at is None or status.sent_at >= early for status in statuses):
        return statuses
    told = []
    for status in statuses:
        sent_at = resolve_repeated_hour(status.sent_at, early, zone)
        delivered_at = resolve_repeated_hour(status.delivered_at, sent_at, zone)
        told.append(RecipientStatus(status.recipient, sent_at, status.status, delivered_at))
    return told
