"""Poll ``getSmsResult`` and record its evidence.

A result is the only source of a delivery status. :mod:`~prefect_mymsp.campaign.evidence` decides what it proves;
:class:`PollBudget` decides when the next one may be requested.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from prefect_mymsp.campaign.evidence import (
    REJECTION_REASONS,
    Evidence,
    Finding,
    examine_refusal,
    examine_result,
    find_owner,
    recipients_if_complete,
)
from prefect_mymsp.errors import InDoubtError, NotSentError, RefusedError
from prefect_mymsp.journal import Outcome
from prefect_mymsp.models import SmsResult
from prefect_mymsp.states import ACCEPTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from prefect_mymsp.campaign.context import CampaignContext
    from prefect_mymsp.journal import OpenBatch

#: Consecutive requests without a response after which polling pauses until the next round.
MAX_WITHOUT_RESPONSE = 20


class PollBudget:
    """A budget for result requests: their number, rate and deadline. It reads no clock; times are monotonic seconds.

    Attributes:
        ends_at: When no more results are requested.
        requests: Results that were requested so far.
        without_response: Of these, those without a complete response.
        refusal: Why the gateway refuses the account; None while it does not.
    """

    def __init__(self, *, ends_at: float, requests_per_minute: float, max_requests: int | None = None) -> None:
        self._gap_s = 60.0 / requests_per_minute
        self._max_requests = max_requests
        self._next_turn = 0.0
        self._silent = 0
        self.ends_at = ends_at
        self.requests = self.without_response = 0
        self.refusal: RefusedError | None = None

    def exhausted(self, now: float) -> bool:
        """Whether polling stops: time or requests are used up, the account is refused, or no response arrives."""
        spent = self._max_requests is not None and self.requests >= self._max_requests
        return self.refusal is not None or spent or self._silent >= MAX_WITHOUT_RESPONSE or now >= self.ends_at

    def reserve(self, now: float) -> float | None:
        """Take the next turn and return its time; None when the budget is exhausted before it."""
        turn = max(now, self._next_turn)
        if self.exhausted(now) or turn >= self.ends_at:
            return None
        self.requests += 1
        self._next_turn = turn + self._gap_s
        return turn

    def record_response(self) -> None:
        """A complete response arrived."""
        self._silent = 0

    def record_incomplete(self) -> None:
        """A response arrived, but the result was truncated."""
        self.without_response += 1

    def record_failure(self, refusal: RefusedError | None = None) -> None:
        """No response arrived, or the gateway refuses the account."""
        self.without_response += 1
        self._silent += 1
        self.refusal = refusal or self.refusal

    def try_again(self) -> None:
        """A new round begins: the gateway may respond again."""
        self._silent = 0


class _Examined(NamedTuple):
    batch: OpenBatch
    evidence: Evidence
    result: SmsResult | None


class ResultPoller:
    """Requests results within a budget, and records their evidence in the journal.

    Attributes:
        budget: The remaining requests and time, and the failures so far.
        remaining: Batches of the latest :meth:`poll` for which the budget was too small.
        complete: Whether the latest :meth:`poll` got a complete response about each batch.
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
        self._account = context.account
        self._clock = context.clock
        self.budget = PollBudget(
            ends_at=self._clock.monotonic() + deadline_s,
            requests_per_minute=requests_per_minute,
            max_requests=max_requests,
        )
        self.remaining: deque[OpenBatch] = deque()
        self.complete = True

    @property
    def exhausted(self) -> bool:
        """Whether no more results may be requested now."""
        return self.budget.exhausted(self._clock.monotonic())

    async def poll(self, batches: Sequence[OpenBatch]) -> int:
        """Request the result of each batch once, in this order.

        A failed request changes nothing. A batch whose id belongs to another message is put in doubt.

        Returns:
            How many messages changed.
        """
        unconfirmed = [batch.id for batch in batches if not batch.confirmed]
        recipients = await self._thread(self._journal.deliveries.recipients, unconfirmed) if unconfirmed else {}
        without_response, examined = self.budget.without_response, list[_Examined]()
        self.remaining = deque(batches)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._client.connections, len(batches))):
                group.create_task(self._examine(self.remaining, recipients, examined))
        self.complete = not self.remaining and self.budget.without_response == without_response
        return await self._record(examined)

    async def _examine(
        self, remaining: deque[OpenBatch], recipients: Mapping[int, set[str]], examined: list[_Examined]
    ) -> None:
        while remaining:
            batch = remaining.popleft()
            if not await self._wait_for_turn():
                remaining.appendleft(batch)
                return
            response = await self._fetch(batch.message_id)
            if isinstance(response, RefusedError):
                evidence = examine_refusal(batch, response.code, self._clock.now())
                examined.append(_Examined(batch, evidence, None))
            elif response is not None:
                evidence = examine_result(batch, response, recipients.get(batch.id), self._client.zone)
                if evidence.finding is Finding.INCOMPLETE:
                    self.budget.record_incomplete()
                examined.append(_Examined(batch, evidence, response))

    async def _record(self, examined: Sequence[_Examined]) -> int:
        confirmed = [batch.id for batch, evidence, _ in examined if evidence.finding is Finding.CONFIRMS_ID]
        archived = [batch.id for batch, evidence, _ in examined if evidence.finding is Finding.ARCHIVED]
        reported = [entry for entry in examined if entry.evidence.finding in {Finding.CONFIRMS_ID, Finding.STATUSES}]
        group_results = {batch.id: result for batch, _, result in reported if batch.group and result is not None}
        statuses = {batch.id: evidence.statuses for batch, evidence, _ in reported if not batch.group}
        if confirmed:
            await self._thread(self._journal.doubt.confirm_message_ids, confirmed)
        for batch, evidence, _ in examined:
            if (reason := REJECTION_REASONS.get(evidence.finding)) is not None:
                await self._thread(self._journal.doubt.reject_message_id, batch.id, reason)
        changed = 0
        if group_results:
            changed += await self._thread(self._journal.deliveries.record_group_results, group_results)
        return changed + await self._thread(self._journal.deliveries.record_statuses, statuses, archived=archived)

    async def link_message_id(self, message_id: str, since: datetime) -> bool | None:
        """Record a request in doubt as accepted under an id, if the id's result names just its recipients.

        Args:
            message_id: An id that no campaign of the account has.
            since: Only requests that were due then or later, aware.

        Returns:
            Whether a request was found; None without a conclusive response.
        """
        response = await self._fetch(message_id) if await self._wait_for_turn() else None
        if isinstance(response, RefusedError):
            return False
        recipients = None if response is None else recipients_if_complete(response)
        if response is None or recipients is None:
            return None
        owner = find_owner(
            response,
            await self._thread(self._journal.doubt.candidates, self._account, sorted(recipients), since),
            self._client.zone,
            group_in_doubt=await self._thread(self._journal.doubt.has_group_in_doubt, self._account, since),
        )
        if owner is None:
            return False
        outcome = Outcome(owner.batch.id, ACCEPTED, self._clock.now(), message_id=message_id)
        await self._thread(self._journal.claims.settle, [outcome])
        return True

    async def _wait_for_turn(self) -> bool:
        """Wait until the next result may be requested; False when none may."""
        now = self._clock.monotonic()
        turn = self.budget.reserve(now)
        if turn is not None and turn > now + 0.005:
            await self._clock.sleep(turn - now)
        return turn is not None

    async def _fetch(self, message_id: str) -> SmsResult | RefusedError | None:
        """Request a result; None without a response, or if the gateway refuses the account."""
        try:
            response: SmsResult | RefusedError = await self._client.fetch_result(message_id)
        except RefusedError as error:
            if error.account_wide:
                self.budget.record_failure(error)
                return None
            response = error
        except (InDoubtError, NotSentError):
            self.budget.record_failure()
            return None
        self.budget.record_response()
        return response
