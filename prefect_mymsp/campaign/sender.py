"""Claim → send → settle: a campaign's planned messages go out, each intent durable before its request leaves.

The data's way: a feeder claims a window of batches from the journal, workers make one request each, their outcomes
are settled in groups. Windows overlap: the next one is claimed while this one is in flight, so that waiting for the
disk costs nothing. All journal work runs on one thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect_mymsp import protocol
from prefect_mymsp.campaign.context import CampaignContext, Progress
from prefect_mymsp.campaign.delivery_schedule import Delivery, DeliverySchedule
from prefect_mymsp.campaign.options import SendOptions
from prefect_mymsp.campaign.rate import SendRate, max_requests_per_claim
from prefect_mymsp.campaign.reconciler import Reconciler
from prefect_mymsp.errors import (
    CampaignCancelledError,
    CampaignStoppedError,
    InDoubtError,
    InputError,
    JournalError,
    MyMSPError,
    NotSentError,
    RefusedError,
)
from prefect_mymsp.journal import Batch, CampaignKey, Counts, Journal, Outcome, SendRun
from prefect_mymsp.states import ACCEPTED, IN_DOUBT, REFUSED, RELEASED

if TYPE_CHECKING:
    from prefect_mymsp.campaign.context import ProgressListener
    from prefect_mymsp.client import AsyncMyMSPClient

#: One of the recipients is not a number; which one is not said (4.1.3).
_BAD_RECIPIENT = 28
#: The request itself is wrong, and every other one of the campaign would be (4.1.3, 34 to 38).
_SAME_FOR_ALL = frozenset({34, 35, 36, 37, 38})
#: Seconds for which an outcome is known to this process alone, at most, while the journal keeps up.
_SETTLED_EVERY_S = 0.1
#: How much of a lease may pass before requests are no longer made by it.
_SAFE_SHARE = 0.9


async def send_planned(
    journal: Journal,
    client: AsyncMyMSPClient,
    campaign: CampaignKey,
    options: SendOptions | None = None,
    listener: ProgressListener | None = None,
) -> Counts:
    """Send what the journal holds planned for a campaign.

    Several processes may do this for one campaign at once: they share the work. Nothing that may have been sent is
    ever sent again.

    Cancelled, it leaves in order: nothing more is begun, what is in flight comes to its end and is recorded. Cancelled
    once more, it does not wait for that; what is in flight is in doubt then.

    Args:
        journal: Where the campaign is recorded.
        client: The gateway; its ``connections`` requests are in flight at once.
        campaign: Which campaign.
        options: How to send.
        listener: Called now and then with the progress.

    Returns:
        Where the campaign's messages stand.

    Raises:
        CampaignStoppedError: The gateway refuses the account or the campaign, cannot be reached, or answers in ways
            that say nothing. What was sent is recorded; the rest can be continued under the same name.
        JournalError: The journal failed. Nothing was sent without its intent being recorded.
    """
    options = options or SendOptions()
    with CampaignContext(journal, client, campaign.account) as context:
        thread = context.thread
        await thread(journal.claims.expire_leases, campaign)
        run = await thread(journal.claims.start_run, campaign, lease_s=options.lease_s)
        sending = _Sender(context, run, options, listener)
        try:
            await sending.all()
        except BaseException:
            with contextlib.suppress(JournalError):  # a lease ends by itself, and why it stopped is what matters
                await asyncio.shield(asyncio.ensure_future(thread(journal.claims.end_run, run)))
            raise
        await asyncio.shield(asyncio.ensure_future(thread(journal.claims.end_run, run)))
        return await thread(journal.campaigns.counts, campaign)


class _Sender:
    """One run of one campaign: a feeder, its workers, and what they share."""

    def __init__(
        self,
        context: CampaignContext,
        run: SendRun,
        options: SendOptions,
        listener: ProgressListener | None,
    ) -> None:
        self._journal, self._thread, self._client = context.journal, context.thread, context.client
        self._clock = context.clock
        self._run = run
        self._options = options
        self._listener = listener
        self._ready: deque[Batch] = deque()
        self._outcomes: list[Outcome] = []
        self._begun = 0
        self._in_flight = 0
        self._settling = asyncio.Lock()
        self._settled_at = time.monotonic()
        self._all_claimed = False
        self._stopped: MyMSPError | None = None
        self._changed = asyncio.Event()
        self._capacity = asyncio.Event()
        self._look_now = asyncio.Event()
        self._doubts = 0
        self._refusals = 0
        self._done = 0
        self._total = run.planned
        self._safe_until = self._clock.elapsed() + _SAFE_SHARE * options.lease_s
        self._window = 2 * self._client.connections
        self._schedule = DeliverySchedule(
            send_at=run.campaign.send_at,
            send_window=options.send_window,
            schedule_ahead_s=options.schedule_ahead_s,
            lookup_margin_s=options.reconcile.lookup_margin_s,
            max_request_s=self._client.timeout_s + self._client.retry_for_s,
        )
        self._rate = None if options.worker_rate is None else SendRate(options.worker_rate)
        self._reconciler = Reconciler(context, run.campaign, options.reconcile)

    async def all(self) -> None:
        """Everything that is planned, or up to the reason to stop."""
        work = asyncio.ensure_future(self._all())
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await self._leave(work)
            raise

    async def _leave(self, work: asyncio.Future[None]) -> None:
        """Let what is in flight come to its end, but not for ever: what has no answer by then is in doubt."""
        self._stop(CampaignStoppedError("The sending was cancelled.", counts={}))
        self._client.stop_retrying()
        try:
            await asyncio.wait({work}, timeout=self._options.shutdown_timeout_s)
        finally:
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()  # that it stopped is known here

    async def _all(self) -> None:
        try:
            async with asyncio.TaskGroup() as keeping:
                keepers = [keeping.create_task(self._keep_lease()), keeping.create_task(self._keep_settled())]
                if self._schedule.may_schedule:
                    keepers.append(keeping.create_task(self._keep_looking()))
                async with asyncio.TaskGroup() as sending:
                    sending.create_task(self._claim_loop())
                    for _ in range(self._client.connections):
                        sending.create_task(self._send_loop())
                for keeper in keepers:
                    keeper.cancel()
        finally:
            self._outcomes += [_released(batch, "not-started") for batch in self._ready]
            self._ready.clear()
            try:
                await asyncio.shield(asyncio.ensure_future(self._settle()))
            except JournalError as error:
                self._stopped = error  # whatever else there was: this is what is to be mended first
        if isinstance(self._stopped, CampaignCancelledError):
            raise self._stopped
        if isinstance(self._stopped, JournalError):
            raise JournalError(
                f"{self._stopped} Campaign {self._run.campaign.name!r} has stopped for that. To continue, start the "
                "same campaign again; nobody gets the message twice."
            ) from self._stopped
        if self._stopped is not None:
            counts = await self._thread(self._journal.campaigns.counts, self._run.campaign)
            raise _stopped(self._run.campaign.name, self._stopped, counts) from self._stopped

    def _stop(self, why: MyMSPError) -> None:
        """Let what is in flight come to its end, and begin nothing more."""
        if self._stopped is None:
            self._stopped = why
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._capacity.set()

    # -- the journal's side ------------------------------------------------------------------------------------

    async def _claim_loop(self) -> None:
        """Keep claimed batches ready, between one and two windows of work ahead of the workers."""
        try:
            while self._stopped is None:
                before = self._begun
                requests = await self._admitted()
                send_at = self._delivery().send_at
                began = time.monotonic()  # to wait for admission is not the workers' pace; what they do meanwhile is
                claimed = await self._claim(requests, send_at)
                self._reserve(claimed, send_at)
                self._ready.extend(claimed)
                self._wake()
                if not claimed:
                    if await self._more_may_come():
                        continue
                    return
                while len(self._ready) > self._window and self._stopped is None:
                    self._capacity.clear()
                    await self._capacity.wait()
                pace = (self._begun - before) / max(time.monotonic() - began, 1e-4) * self._options.claim_window_s
                # Idle workers empty the first window at once: no faster than doubling, or too much would be in doubt
                # after a crash.
                self._window = int(min(512, 2 * self._window, max(self._client.connections, pace)))
        except MyMSPError as error:
            self._stop(error)
        finally:
            self._all_claimed = True
            self._wake()

    # What to claim next, and for when.

    async def _admitted(self) -> int:
        """Wait until messages may be claimed; returns for how many requests."""
        requests, gate, options = self._window, self._options.gate, self._options
        if self._rate is None and gate is None:
            return requests
        if not await self._thread(self._journal.claims.has_planned, self._run.campaign):
            return requests  # there is nothing to wait for
        if options.worker_rate is not None:
            requests = min(requests, max_requests_per_claim(options.request_size, options.worker_rate))
            while self._stopped is None and (turn := self._delivery().wait_until) is not None:
                await self._pause((turn - self._clock.now()).total_seconds())
        if gate is not None and self._stopped is None:
            requests = min(requests, gate.max_requests)
            admitting = asyncio.ensure_future(gate.acquire(requests))
            try:
                while not admitting.done() and self._stopped is None:
                    await asyncio.wait({admitting}, timeout=0.2)
                if admitting.done():
                    admitting.result()
            finally:
                admitting.cancel()
        return requests

    async def _pause(self, seconds: float) -> None:
        """Wait, not longer than until there is reason to stop."""
        self._capacity.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._capacity.wait(), seconds)

    def _delivery(self) -> Delivery:
        return self._schedule.next_delivery(self._clock.now(), None if self._rate is None else self._rate.free_from)

    def _reserve(self, claimed: Sequence[Batch], send_at: datetime | None) -> None:
        if self._rate is not None:
            self._rate.reserve(send_at or self._clock.now(), sum(batch.size for batch in claimed))

    async def _more_may_come(self) -> bool:
        """Whether messages may yet be planned again, after a moment: doubt being looked up, or another run dying."""
        while (self._in_flight or self._ready) and self._stopped is None:
            self._changed.clear()
            await self._changed.wait()
        await self._settle()
        if self._in_flight or self._ready:
            return True
        campaign = self._run.campaign
        if await self._thread(self._journal.claims.others_sending, campaign, self._run):
            await asyncio.sleep(0.5)
            if await self._thread(self._journal.claims.expire_leases, campaign):
                self._reconciler.journal_changed()
            return True
        if self._schedule.may_schedule and self._reconciler.pending:
            if self._reconciler.has_unseen_changes:
                self._look_now.set()
            await asyncio.sleep(0.2)
            return True
        # Another run may have given back what it had claimed while the last requests were waited for.
        return await self._thread(self._journal.claims.has_planned, campaign)

    async def _keep_looking(self) -> None:
        """Look up doubt again and again, not more than a tenth of the time."""
        try:
            while True:
                began = time.monotonic()
                if not self._outcomes:  # else the journal is about to know more
                    await self._reconciler.reconcile()
                await asyncio.sleep(9 * (time.monotonic() - began))
                with contextlib.suppress(TimeoutError):
                    # With nothing left to send, ids that have not been looked up yet need not wait for their turn.
                    await asyncio.wait_for(self._look_now.wait(), self._options.reconcile.interval_s)
                self._look_now.clear()
        except JournalError as error:
            self._stop(error)

    async def _keep_lease(self) -> None:
        """Renew the lease three times as often as it needs to be."""
        try:
            while True:
                await asyncio.sleep(self._options.lease_s / 3)
                began = self._clock.elapsed()
                await self._thread(self._journal.claims.renew, self._run)
                self._safe_until = began + _SAFE_SHARE * self._options.lease_s
        except JournalError as error:
            self._stop(error)

    async def _keep_settled(self) -> None:
        """Settle outcomes in groups, ten times a second at least; a claim settles them too."""
        try:
            while True:
                await asyncio.sleep(max(0.01, self._settled_at + _SETTLED_EVERY_S - time.monotonic()))
                if time.monotonic() - self._settled_at >= _SETTLED_EVERY_S:
                    await self._settle()
        except JournalError as error:
            self._stop(error)

    async def _settle(self) -> None:
        """Record the outcomes there are; afterwards the journal knows all that was known when this was called."""
        async with self._recording() as outcomes:
            if outcomes:
                await self._thread(self._journal.claims.settle, outcomes)

    async def _claim(self, requests: int, send_at: datetime | None) -> list[Batch]:
        """Claim what is sent next, and record the outcomes there are."""
        async with self._recording() as outcomes:
            return await self._thread(
                self._journal.claims.claim,
                self._run,
                requests=requests,
                batch_size=self._options.request_size,
                send_at=send_at,
                outcomes=outcomes,
            )

    @contextlib.asynccontextmanager
    async def _recording(self) -> AsyncIterator[list[Outcome]]:
        """The outcomes there are, for the journal; they are kept when it does not take them."""
        async with self._settling:
            outcomes, self._outcomes = self._outcomes, []
            try:
                yield outcomes
            except BaseException:
                self._outcomes = outcomes + self._outcomes  # the last try is made when all is over
                raise
            finally:
                self._settled_at = time.monotonic()
                if outcomes:
                    self._reconciler.journal_changed()
        if outcomes and self._listener is not None:
            self._listener(Progress("send", self._done, self._total))

    # -- the gateway's side ------------------------------------------------------------------------------------

    async def _send_loop(self) -> None:
        """Make one request after the other, until there will be no more."""
        while self._stopped is None:
            if self._ready:
                batch = self._ready.popleft()
                if len(self._ready) == self._window:  # the feeder is not woken for every request
                    self._capacity.set()
                self._begun += 1
                self._in_flight += 1
                try:
                    await self._request(batch)
                finally:
                    self._in_flight -= 1
                    if not self._in_flight:  # nor are idle workers
                        self._changed.set()
            elif self._all_claimed and not self._in_flight:  # a request in flight may yet be split in two
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _request(self, batch: Batch) -> None:
        """Make one request and note what came of it: the table "was it sent?", in code."""
        if self._clock.elapsed() > self._safe_until:
            # The machine slept, or the journal hung: another run may believe this batch to be in doubt by now.
            self._note(batch, RELEASED, reason="lease-ended")
            self._stop(JournalError("The lease on this campaign could not be renewed in time."))
            return
        campaign = self._run.campaign
        try:
            message_id = await self._client.send(
                batch.recipients,
                batch.text,
                sender=campaign.sender,
                send_at=batch.send_at,
                flash=self._options.flash,
                destination_port=self._options.destination_port,
            )
        except RefusedError as error:
            await self._rejected(batch, error)
        except NotSentError as error:
            self._note(batch, RELEASED, reason="not-reached")
            self._stop(error)
        except InDoubtError as error:
            self._note(batch, IN_DOUBT, reason=error.reason)
            self._doubts += 1
            if self._doubts >= self._options.max_consecutive_failures:
                self._stop(error)
        except BaseException:  # cancelled, or a fault of ours: the request may have left
            self._note(batch, IN_DOUBT, reason="interrupted")
            raise
        else:
            self._outcomes.append(Outcome(batch.id, ACCEPTED, datetime.now(UTC), message_id))
            self._done += batch.size
            self._doubts = self._refusals = 0

    async def _rejected(self, batch: Batch, error: RefusedError) -> None:
        if error.account_wide or error.code in _SAME_FOR_ALL:
            self._note(batch, RELEASED, code=error.code, reason="refused")
            self._stop(error)
            return
        documented = error.code in protocol.MEANINGS[protocol.SEND]
        self._refusals += error.code != _BAD_RECIPIENT
        if self._refusals >= self._options.max_consecutive_failures:
            self._stop(error)
        if batch.size > 1 and (error.code == _BAD_RECIPIENT or not documented):
            # Nobody knows whom an undocumented code is about, or whether it is a whole one: it is no reason to reject
            # hundreds.
            await self._split(batch, error)
        else:
            self._note(batch, REFUSED, code=error.code)
            self._doubts = 0

    async def _split(self, batch: Batch, error: RefusedError) -> None:
        try:
            halves = await self._thread(self._journal.claims.split, self._run, batch.id, code=error.code)
        except JournalError as failure:
            self._note(batch, RELEASED, code=error.code, reason="refused")
            self._stop(failure)
        else:
            self._ready.extendleft(reversed(halves))
            self._changed.set()

    def _note(
        self,
        batch: Batch,
        state: str,
        *,
        message_id: str | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> None:
        at = datetime.now(UTC)
        self._outcomes.append(Outcome(batch.id, state, at, message_id, code, reason and reason[:40]))
        if state != RELEASED:
            self._done += batch.size


def _released(batch: Batch, reason: str) -> Outcome:
    return Outcome(batch.id, RELEASED, datetime.now(UTC), reason=reason)


#: What to mend before a campaign is continued, by the gateway's code (4.1.3).
_MEND = {
    7: "check user and password, and that the account may send",
    11: "wait until the account may send more messages, or ask the gateway to raise its limit",
    12: "buy credits for the account",
    33: "register the sender with the gateway, or choose a registered one",
    34: "check the delivery time",
    35: "choose a delivery time in the future, under a campaign name of its own",
}


def _stopped(name: str, why: MyMSPError, counts: Counts) -> CampaignStoppedError:
    if isinstance(why, RefusedError):
        mend = _MEND.get(why.code, "ask the gateway's support what is wrong")
    elif isinstance(why, InDoubtError):
        mend = "find out why the gateway's answers do not arrive whole"
    elif isinstance(why, InputError):
        mend = "mend that"
    else:
        mend = "wait until the gateway answers again"
    told = (
        f"{counts.accepted} accepted, {counts.refused} refused, {counts.in_doubt} in doubt, "
        f"{counts.planned} not sent yet"
    )
    return CampaignStoppedError(
        f"Campaign {name!r} stopped: {why} So far: {told}. To continue: {mend}, then start the same campaign again; "
        "nobody gets the message twice.",
        counts=dataclasses.asdict(counts),
    )
