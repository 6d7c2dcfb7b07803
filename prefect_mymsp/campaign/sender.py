"""Send a campaign: claim planned messages, make requests, settle their outcomes.

Every intent is durable before its request leaves. The claim loop takes a window of batches from the journal, each
send loop makes one request at a time, and outcomes are settled in groups. Windows overlap: the next one is claimed
while the requests of this one are in flight, so that nothing waits for the disk.

This module does the I/O. :mod:`~prefect_mymsp.campaign.send_decisions` and
:mod:`~prefect_mymsp.campaign.delivery_schedule` hold the decisions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from prefect_mymsp.campaign.context import CampaignContext, Progress
from prefect_mymsp.campaign.delivery_schedule import Delivery, DeliverySchedule
from prefect_mymsp.campaign.options import SendOptions
from prefect_mymsp.campaign.rate import SendRate, max_requests_per_claim
from prefect_mymsp.campaign.reconciler import Reconciler
from prefect_mymsp.campaign.send_decisions import (
    BatchDecision,
    FailureStreak,
    NextStep,
    judge_response,
    lease_allows_request,
    next_claim_window,
    next_step,
    stop_error,
)
from prefect_mymsp.errors import CampaignCancelledError, CampaignStoppedError, JournalError, MyMSPError
from prefect_mymsp.journal import Outcome
from prefect_mymsp.states import RELEASED
from prefect_mymsp.times import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence
    from datetime import datetime

    from prefect_mymsp.campaign.context import ProgressListener
    from prefect_mymsp.campaign.rate import RateGate
    from prefect_mymsp.client import AsyncMyMSPClient
    from prefect_mymsp.journal import Batch, CampaignKey, Counts, Journal, SendRun
    from prefect_mymsp.times import Clock

T = TypeVar("T")

#: Maximum number of seconds before an outcome is recorded, as long as the journal keeps up.
_SETTLE_INTERVAL_S = 0.1
#: Seconds between two checks of other runs and of the reconciler.
_OTHER_RUNS_INTERVAL_S = 0.5
_RECONCILER_INTERVAL_S = 0.2
#: Seconds between two checks for a stop while waiting at the gate.
_GATE_INTERVAL_S = 0.2


async def send_planned(
    journal: Journal,
    client: AsyncMyMSPClient,
    campaign: CampaignKey,
    options: SendOptions | None = None,
    listener: ProgressListener | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Counts:
    """Send the messages that the journal holds planned for a campaign.

    Several processes may send one campaign at once: they share the work. A message that may have been sent is never
    sent again.

    When it is cancelled it shuts down in order: no request is begun, and those in flight are finished and recorded.
    When it is cancelled a second time it does not wait for them; they are in doubt then.

    Args:
        journal: Where the campaign is recorded.
        client: The gateway; its ``connections`` requests are in flight at once.
        campaign: The campaign.
        options: How to send.
        listener: Called with the progress from time to time.
        clock: The time.

    Returns:
        The campaign's messages by state.

    Raises:
        CampaignStoppedError: The gateway refuses the account or the campaign, cannot be reached, or returns responses
            that cannot be read. What was sent is recorded; start the campaign again under the same name to send the
            rest.
        CampaignCancelledError: A person has cancelled the campaign.
        JournalError: The journal failed. Nothing was sent without its intent being recorded.
    """
    options = options or SendOptions()
    with CampaignContext(journal, client, campaign.account, clock) as context:
        await context.thread(journal.claims.expire_leases, campaign)
        began_s = clock.elapsed()
        run = await context.thread(journal.claims.start_run, campaign, lease_s=options.lease_s)
        try:
            await _Sender(context, run, options, listener, lease_renewed_at_s=began_s).run()
        except BaseException:
            with contextlib.suppress(JournalError):  # the lease expires by itself; the first error matters more
                await _finish(context.thread(journal.claims.end_run, run))
            raise
        await _finish(context.thread(journal.claims.end_run, run))
        return await context.thread(journal.campaigns.counts, campaign)


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Wait for a coroutine that goes on to its end even when this is cancelled."""
    return await asyncio.shield(asyncio.ensure_future(work))


class _Sender:
    """One run of one campaign: the claim loop, the send loops, and the state that they share."""

    def __init__(
        self,
        context: CampaignContext,
        run: SendRun,
        options: SendOptions,
        listener: ProgressListener | None,
        *,
        lease_renewed_at_s: float,
    ) -> None:
        self._journal, self._thread, self._client = context.journal, context.thread, context.client
        self._clock = context.clock
        self._run = run
        self._options = options
        self._listener = listener
        #: Claimed batches without a request yet, and outcomes that are not in the journal yet.
        self._ready: deque[Batch] = deque()
        self._outcomes: list[Outcome] = []
        self._in_flight = 0
        self._begun = 0
        self._claim_window = 2 * self._client.connections
        self._all_claimed = False
        self._streak = FailureStreak()
        self._messages_done = 0
        self._stop_cause: MyMSPError | None = None
        self._lease_renewed_at_s = lease_renewed_at_s
        self._settled_at_s = self._clock.monotonic()
        self._settling = asyncio.Lock()
        #: Wakes the send loops, and the claim loop when it waits for responses.
        self._changed = asyncio.Event()
        #: Wakes the claim loop when there is room for another window.
        self._capacity = asyncio.Event()
        self._reconcile_now = asyncio.Event()
        self._schedule = DeliverySchedule(
            send_at=run.campaign.send_at,
            send_window=options.send_window,
            schedule_ahead_s=options.schedule_ahead_s,
            lookup_margin_s=options.reconcile.lookup_margin_s,
            max_request_s=self._client.timeout_s + self._client.retry_for_s,
        )
        self._rate = None if options.worker_rate is None else SendRate(options.worker_rate)
        self._reconciler = Reconciler(context, run.campaign, options.reconcile)

    async def run(self) -> None:
        """Send all planned messages, or stop for a reason.

        Raises:
            MyMSPError: The reason.
        """
        work = asyncio.ensure_future(self._send_all())
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await self._shut_down(work)
            raise

    async def _shut_down(self, work: asyncio.Future[None]) -> None:
        """Wait for the requests in flight, with a time limit: those without a response by then are in doubt."""
        self._stop(CampaignStoppedError("The sending was cancelled.", counts={}))
        self._client.stop_retrying()
        try:
            await asyncio.wait({work}, timeout=self._options.shutdown_timeout_s)
        finally:
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()  # retrieved, so that asyncio does not report it: the cancellation goes on

    async def _send_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as background:
                tasks = [background.create_task(self._lease_loop()), background.create_task(self._settle_loop())]
                if self._schedule.may_schedule:
                    tasks.append(background.create_task(self._reconcile_loop()))
                async with asyncio.TaskGroup() as sending:
                    sending.create_task(self._claim_loop())
                    for _ in range(self._client.connections):
                        sending.create_task(self._send_loop())
                for task in tasks:
                    task.cancel()
        finally:
            while self._ready:
                self._record(self._ready.popleft(), RELEASED, reason="not-started")
            try:
                await _finish(self._settle())
            except JournalError as error:
                self._stop_cause = error  # more important than any earlier reason
        if self._stop_cause is not None:
            counts = None
            if not isinstance(self._stop_cause, JournalError | CampaignCancelledError):
                counts = await self._thread(self._journal.campaigns.counts, self._run.campaign)
            stopped = stop_error(self._run.campaign.name, self._stop_cause, counts)
            if stopped is self._stop_cause:
                raise stopped  # as its own cause it could not be pickled
            raise stopped from self._stop_cause

    def _stop(self, cause: MyMSPError) -> None:
        """Begin no more requests; those in flight continue."""
        if self._stop_cause is None:
            self._stop_cause = cause
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._capacity.set()

    # -- claiming ----------------------------------------------------------------------------------------------

    async def _claim_loop(self) -> None:
        """Keep between one and two windows of claimed batches ready for the send loops."""
        try:
            while self._stop_cause is None:
                begun_before = self._begun
                requests = await self._wait_for_turn()
                delivery = self._next_delivery()
                claim_began_s = self._clock.monotonic()  # requests made during the wait count, the wait does not
                batches = await self._claim(requests, delivery.send_at)
                if self._rate is not None:
                    self._rate.reserve(delivery.send_at or self._clock.now(), sum(batch.size for batch in batches))
                self._ready.extend(batches)
                self._wake()
                if not batches:
                    if await self._is_finished():
                        return
                    continue
                while len(self._ready) > self._claim_window and self._stop_cause is None:
                    self._capacity.clear()
                    await self._capacity.wait()
                self._claim_window = next_claim_window(
                    self._claim_window,
                    self._begun - begun_before,
                    self._clock.monotonic() - claim_began_s,
                    self._options.claim_window_s,
                    self._client.connections,
                )
        except MyMSPError as error:
            self._stop(error)
        finally:
            self._all_claimed = True
            self._wake()

    async def _wait_for_turn(self) -> int:
        """Wait until the rate and the gate allow messages to be claimed; returns for how many requests."""
        requests, gate, worker_rate = self._claim_window, self._options.gate, self._options.worker_rate
        if gate is None and worker_rate is None:
            return requests
        if not await self._thread(self._journal.claims.has_planned, self._run.campaign):
            return requests  # nothing to wait for
        if worker_rate is not None:
            requests = min(requests, max_requests_per_claim(self._options.request_size, worker_rate))
            while self._stop_cause is None and (turn := self._next_delivery().wait_until) is not None:
                await self._pause((turn - self._clock.now()).total_seconds())
        if gate is not None and self._stop_cause is None:
            requests = min(requests, gate.max_requests)
            await self._acquire(gate, requests)
        return requests

    async def _acquire(self, gate: RateGate, requests: int) -> None:
        """Wait until the gate allows the requests, or the campaign stops."""
        acquiring = asyncio.ensure_future(gate.acquire(requests))
        try:
            while not acquiring.done() and self._stop_cause is None:
                await asyncio.wait({acquiring}, timeout=_GATE_INTERVAL_S)
            if acquiring.done():
                acquiring.result()
        finally:
            acquiring.cancel()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until the campaign stops."""
        self._capacity.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._capacity.wait(), seconds)

    def _next_delivery(self) -> Delivery:
        return self._schedule.next_delivery(self._clock.now(), None if self._rate is None else self._rate.free_from)

    async def _is_finished(self) -> bool:
        """Wait for messages that may still have to be sent, after a claim that found nothing."""
        while (self._in_flight or self._ready) and self._stop_cause is None:
            self._changed.clear()
            await self._changed.wait()
        await self._settle()
        campaign, reconciler = self._run.campaign, self._reconciler
        step = next_step(
            outstanding=self._in_flight + len(self._ready),
            others_sending=await self._thread(self._journal.claims.others_sending, campaign, self._run),
            reconciling=self._schedule.may_schedule and reconciler.pending,
            has_planned=await self._thread(self._journal.claims.has_planned, campaign),
        )
        if step is NextStep.AWAIT_OTHER_RUNS:
            await self._clock.sleep(_OTHER_RUNS_INTERVAL_S)
            if await self._thread(self._journal.claims.expire_leases, campaign):
                reconciler.journal_changed()
        elif step is NextStep.AWAIT_RECONCILER:
            if reconciler.has_unseen_changes:
                self._reconcile_now.set()
            await self._clock.sleep(_RECONCILER_INTERVAL_S)
        return step is NextStep.FINISH

    # -- sending -----------------------------------------------------------------------------------------------

    async def _send_loop(self) -> None:
        """Make one request after another until there are no more."""
        while self._stop_cause is None:
            if self._ready:
                batch = self._ready.popleft()
                if len(self._ready) == self._claim_window:  # wake the claim loop once, not for every request
                    self._capacity.set()
                self._begun += 1
                self._in_flight += 1
                try:
                    await self._send_batch(batch)
                finally:
                    self._in_flight -= 1
                    if not self._in_flight:  # likewise
                        self._changed.set()
            elif self._all_claimed and not self._in_flight:  # a batch in flight may still be split
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _send_batch(self, batch: Batch) -> None:
        """Make the request for a batch and record its outcome."""
        if not lease_allows_request(self._clock.elapsed(), self._lease_renewed_at_s, self._options.lease_s):
            # The machine was suspended, or the journal was blocked: another run may hold this batch in doubt.
            self._record(batch, RELEASED, reason="lease-ended")
            self._stop(JournalError("The lease on this campaign could not be renewed in time."))
            return
        message_id, error = None, None
        try:
            message_id = await self._client.send(
                batch.recipients,
                batch.text,
                sender=self._run.campaign.sender,
                send_at=batch.send_at,
                flash=self._options.flash,
                destination_port=self._options.destination_port,
            )
        except BaseException as exception:  # noqa: BLE001  each has its outcome, and what is not the gateway's goes on
            error = exception
        decision = judge_response(error, batch.size, self._streak, self._options.max_consecutive_failures)
        self._streak = decision.streak
        if decision.stop and isinstance(error, MyMSPError):
            self._stop(error)
        if decision.state is None:
            await self._split(batch, decision)
        else:
            self._record(batch, decision.state, message_id=message_id, code=decision.code, reason=decision.reason)
        if error is not None and not isinstance(error, MyMSPError):
            raise error

    async def _split(self, batch: Batch, decision: BatchDecision) -> None:
        """Send the two halves of a batch next."""
        try:
            halves = await self._thread(self._journal.claims.split, self._run, batch.id, code=decision.code or 0)
        except JournalError as error:
            self._record(batch, RELEASED, code=decision.code, reason="refused")
            self._stop(error)
        else:
            self._ready.extendleft(reversed(halves))
            self._changed.set()

    def _record(
        self,
        batch: Batch,
        state: str,
        *,
        message_id: str | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> None:
        """Keep an outcome until it is settled."""
        self._outcomes.append(Outcome(batch.id, state, self._clock.now(), message_id, code, reason))
        if state != RELEASED:
            self._messages_done += batch.size

    # -- settling ----------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Record the outcomes so far."""
        async with self._taking_outcomes() as outcomes:
            if outcomes:
                await self._thread(self._journal.claims.settle, outcomes)

    async def _claim(self, requests: int, send_at: datetime | None) -> Sequence[Batch]:
        """Claim the next batches, and record the outcomes so far in the same transaction."""
        async with self._taking_outcomes() as outcomes:
            return await self._thread(
                self._journal.claims.claim,
                self._run,
                requests=requests,
                batch_size=self._options.request_size,
                send_at=send_at,
                outcomes=outcomes,
            )

    @contextlib.asynccontextmanager
    async def _taking_outcomes(self) -> AsyncIterator[list[Outcome]]:
        """The outcomes so far, to be recorded. They are kept if that fails, for the last attempt at the end."""
        async with self._settling:
            outcomes, self._outcomes = self._outcomes, []
            try:
                yield outcomes
            except BaseException:
                self._outcomes = outcomes + self._outcomes
                raise
            finally:
                self._settled_at_s = self._clock.monotonic()
                if outcomes:
                    self._reconciler.journal_changed()
        if outcomes and self._listener is not None:
            self._listener(Progress("send", self._messages_done, self._run.planned))

    # -- in the background -------------------------------------------------------------------------------------

    async def _lease_loop(self) -> None:
        """Renew the lease three times as often as needed."""
        try:
            while True:
                await self._clock.sleep(self._options.lease_s / 3)
                began_s = self._clock.elapsed()
                await self._thread(self._journal.claims.renew, self._run)
                self._lease_renewed_at_s = began_s
        except JournalError as error:
            self._stop(error)

    async def _settle_loop(self) -> None:
        """Settle outcomes in groups, unless a claim has just done so."""
        try:
            while True:
                due_in_s = self._settled_at_s + _SETTLE_INTERVAL_S - self._clock.monotonic()
                await self._clock.sleep(max(0.01, due_in_s))
                if self._clock.monotonic() - self._settled_at_s >= _SETTLE_INTERVAL_S:
                    await self._settle()
        except JournalError as error:
            self._stop(error)

    async def _reconcile_loop(self) -> None:
        """Look up requests in doubt at the gateway, for at most a tenth of the time."""
        try:
            while True:
                began_s = self._clock.monotonic()
                if not self._outcomes:  # otherwise the journal changes in a moment
                    await self._reconciler.reconcile()
                await self._clock.sleep(9 * (self._clock.monotonic() - began_s))
                with contextlib.suppress(TimeoutError):
                    # Once all is sent, the claim loop waits for new ids to be looked up.
                    await asyncio.wait_for(self._reconcile_now.wait(), self._options.reconcile.interval_s)
                self._reconcile_now.clear()
        except JournalError as error:
            self._stop(error)
