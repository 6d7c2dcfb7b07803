"""Reconcile the scheduled requests of one campaign with the gateway's list of waiting messages.

One reconciliation reads the journal, requests the list, requests the recipients of unknown messages on it, and carries
out what :mod:`~prefect_mymsp.campaign.matching` decides.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.evidence import is_listed_under, recipients_if_complete
from prefect_mymsp.campaign.matching import (
    Cancel,
    Facts,
    Link,
    Listing,
    ListingHistory,
    Reason,
    ScheduledRequest,
    SendAgain,
    Wait,
    WaitingRequest,
    candidate_ids,
    is_in_time,
    settle_doubt,
)
from prefect_mymsp.errors import InDoubtError, NotSentError, RefusedError
from prefect_mymsp.journal import Outcome
from prefect_mymsp.protocol import NO_SUCH_MESSAGE
from prefect_mymsp.states import ACCEPTED, IN_DOUBT, RELEASED
from prefect_mymsp.times import floor_minute

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from prefect_mymsp.campaign.context import CampaignContext
    from prefect_mymsp.campaign.matching import Action
    from prefect_mymsp.campaign.options import ReconcileOptions
    from prefect_mymsp.journal import CampaignKey


class Reconciler:
    """Reconciles one campaign, once for each call of :meth:`reconcile`.

    Attributes:
        released: Requests whose messages were sent again, but which may still arrive before their delivery time.
        last_delivery: The latest delivery time of the requests that wait at the gateway; None when none waits.
    """

    def __init__(
        self,
        context: CampaignContext,
        campaign: CampaignKey,
        options: ReconcileOptions,
    ) -> None:
        self._journal, self._thread, self._client = context.journal, context.thread, context.client
        self._campaign = campaign
        self._late_arrival = timedelta(seconds=options.late_arrival_s)
        self._cutoff = timedelta(seconds=options.cutoff_before_delivery_s)
        self._clock = context.clock
        self._history = ListingHistory()
        #: Recipients of messages with an unknown id, by id. They do not change.
        self._recipients: dict[str, frozenset[str]] = {}
        #: Listed ids without a result at the gateway.
        self._without_result: set[str] = set()
        self._journal_changes, self._reconciled_changes = 1, 0
        self._needs_another_list = False
        self.released = 0
        self.last_delivery: datetime | None = None

    @property
    def pending(self) -> bool:
        """Whether another reconciliation may settle something."""
        return self._needs_another_list or self.has_unseen_changes

    @property
    def has_unseen_changes(self) -> bool:
        """Whether the journal has changed since the latest reconciliation began."""
        return self._reconciled_changes != self._journal_changes

    def journal_changed(self) -> None:
        """Requests were accepted, or came into doubt."""
        self._journal_changes += 1

    async def reconcile(self) -> None:
        """Request a list, unless there is nothing to look up, and act on it."""
        now, changes = self._clock.now(), self._journal_changes
        requests = [request for request in await self._requests(now) if not request.to_group]
        waiting = await self._waiting(now)
        doubtful = [
            request.batch_id
            for request in requests
            if request.state == IN_DOUBT and is_in_time(request.send_at, now, self._cutoff)
        ]
        self.released = sum(request.state == RELEASED for request in requests)
        self.last_delivery = max((request.send_at for request in waiting), default=None)
        unconfirmed = any(request.message_id not in self._history.confirmed_ids for request in waiting)
        # Both at once, and before the list is requested: a sender stops as soon as nothing is pending.
        self._needs_another_list = self._history.needs_another_list(doubtful, waiting)
        self._reconciled_changes = changes
        if doubtful or unconfirmed or self.released:
            listing = await self._request_list()
            if listing is not None:
                self._history.record(listing, waiting)
                await self._settle(listing, listing_is_whole=listing.is_whole(waiting))
                await self._check_doubted_ids(waiting)
        self._needs_another_list = self._history.needs_another_list(doubtful, waiting)

    async def _request_list(self) -> Listing | None:
        requested_at = self._clock.now()
        try:
            messages = await self._client.list_scheduled()
        except (InDoubtError, NotSentError) as error:
            self._history.record_failure(refused=isinstance(error, RefusedError) and error.account_wide)
            return None
        minutes = {message.message_id: message.send_at and floor_minute(message.send_at) for message in messages}
        return Listing(requested_at, self._clock.now(), minutes)

    # -- requests in doubt -------------------------------------------------------------------------------------

    async def _settle(self, listing: Listing, *, listing_is_whole: bool) -> None:
        # Read after the list, so that a request that is in doubt here was in doubt when the list was made.
        requests = await self._requests(self._clock.now())
        candidates = candidate_ids(requests, listing, times_verified=self._history.times_verified)
        claimed = await self._claimed(candidates)
        unknown = [message_id for message_id in candidates if message_id not in claimed]
        all_identified = await self._identify(unknown)
        # Another run may have linked or accepted some of them meanwhile.
        claimed |= await self._claimed(unknown)
        facts = Facts(
            now=self._clock.now(),
            campaign_id=self._campaign.id,
            requests=requests,
            listing=listing,
            listing_is_whole=listing_is_whole,
            zone=self._client.zone,
            claimed_ids=claimed,
            recipients={
                message_id: self._recipients[message_id] for message_id in unknown if message_id in self._recipients
            },
            all_identified=all_identified,
            absences=self._history.absences,
            times_verified=self._history.times_verified,
            numbers_verified=self._history.numbers_verified,
            late_arrival=self._late_arrival,
            cutoff=self._cutoff,
        )
        actions = settle_doubt(facts)
        if any(isinstance(action, Wait) and action.reason is Reason.NUMBERS_UNVERIFIED for action in actions):
            self._history.numbers_verified = await self._verify_numbers()
            actions = settle_doubt(
                replace(facts, now=self._clock.now(), numbers_verified=self._history.numbers_verified)
            )
        self._history.record_actions(actions)
        await self._apply(actions)

    async def _apply(self, actions: Sequence[Action]) -> None:
        now = self._clock.now()
        outcomes = [
            Outcome(action.batch_id, ACCEPTED, now, message_id=action.message_id)
            if isinstance(action, Link)
            else Outcome(action.batch_id, RELEASED, now, reason="absent")
            for action in actions
            if isinstance(action, Link | SendAgain)
        ]
        await self._thread(self._journal.claims.settle, outcomes)
        for action in actions:
            if isinstance(action, Cancel):
                await self._cancel(action.message_id)

    async def _cancel(self, message_id: str) -> None:
        """Cancel a message. If the response is lost, the next list shows whether that worked."""
        try:
            await self._client.cancel(message_id)
        except (InDoubtError, NotSentError):
            return

    async def _identify(self, unknown: Iterable[str]) -> bool:
        """Request the recipients of unknown messages; returns whether all requests succeeded."""
        all_identified = True
        for message_id in unknown:
            if message_id in self._recipients:
                continue
            try:
                recipients = recipients_if_complete(await self._client.fetch_result(message_id))
            except RefusedError as error:
                # It was cancelled in between, unless the next list shows it too.
                all_identified &= error.code == NO_SUCH_MESSAGE and message_id not in self._without_result
                self._without_result.add(message_id)
                continue
            except (InDoubtError, NotSentError):
                recipients = None
            if recipients is None:
                all_identified = False
            else:
                self._recipients[message_id] = recipients
        return all_identified

    async def _verify_numbers(self) -> bool:
        """Whether the result of a request of ours names its recipients as we write them."""
        open_batches = await self._thread(self._journal.deliveries.open_batches, self._campaign, limit=50)
        batch = next((batch for batch in open_batches if not batch.group), None)
        if batch is None:
            return False
        recipients = await self._thread(self._journal.deliveries.recipients, [batch.id])
        try:
            result = await self._client.fetch_result(batch.message_id)
        except (InDoubtError, NotSentError):
            return False
        return recipients_if_complete(result) == frozenset(recipients.get(batch.id, ()))

    # -- ids that the lists do not show ------------------------------------------------------------------------

    async def _check_doubted_ids(self, waiting: Iterable[WaitingRequest]) -> None:
        for request in self._history.doubted_ids(waiting, self._clock.now(), self._cutoff):
            belongs = await self._belongs(request)
            if belongs:
                self._history.confirm(request)
            elif belongs is not None:
                self._history.reject(request)
                self._recipients.pop(request.message_id, None)
                await self._thread(self._journal.doubt.reject_message_id, request.batch_id, "id-not-scheduled")
                self.journal_changed()

    async def _belongs(self, request: WaitingRequest) -> bool | None:
        """Whether a message id belongs to its request; None without proof."""
        try:
            result = await self._client.fetch_result(request.message_id)
        except RefusedError as error:
            return False if error.code == NO_SUCH_MESSAGE else None
        except (InDoubtError, NotSentError):
            return None
        recipients = await self._thread(self._journal.deliveries.recipients, [request.batch_id])
        return is_listed_under(result, recipients.get(request.batch_id, set()), request.accepted_at)

    # -- the journal -------------------------------------------------------------------------------------------

    async def _requests(self, now: datetime) -> list[ScheduledRequest]:
        batches = await self._thread(self._journal.doubt.watched, self._campaign, now)
        return [
            ScheduledRequest(
                batch_id=batch.id,
                campaign_id=self._campaign.id,
                state=batch.state,
                text_id=batch.text_id,
                send_at=batch.send_at,
                recipients=batch.msisdns,
                settled_at=batch.settled_at,
                to_group=batch.group,
            )
            for batch in batches
        ]

    async def _waiting(self, now: datetime) -> list[WaitingRequest]:
        batches = await self._thread(self._journal.schedule.batches, self._campaign, now)
        return [
            WaitingRequest(batch.id, message_id, batch.send_at, batch.settled_at, batch.rescheduled_to)
            for message_id, batch in batches.items()
        ]

    async def _claimed(self, message_ids: Sequence[str]) -> set[str]:
        return await self._thread(self._journal.doubt.known_message_ids, self._campaign, message_ids)
