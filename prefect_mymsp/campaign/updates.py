"""Read the account's updates, and look up the messages they refer to.

``getMsgUpdates`` returns each record once and never again, and its texts are not cleaned: a received text can contain a
complete record. So a raw response is stored before it is parsed, and a record is only a hint. A delivery report leads
to the result of its message, which is then recorded; received messages are read from the inbox. A response is marked as
parsed when all messages it refers to have been looked up. Until then the next read processes it again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.result_poller import ResultPoller
from prefect_mymsp.errors import InDoubtError, MyMSPError, NotSentError
from prefect_mymsp.phone import gateway_digits
from prefect_mymsp.states import ACCEPTED, IN_DOUBT
from prefect_mymsp.times import DEFAULT_TRACKING_DAYS, tracking_period

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from prefect_mymsp.campaign.context import CampaignContext
    from prefect_mymsp.journal import CampaignKey, CandidateBatch

#: Batches that are polled at a time.
_PAGE = 500
#: Bytes that an empty response consists of, besides its ``A``.
_EMPTY_RESPONSE = b"\0 \t\r\n,;"


@dataclass(slots=True)
class UpdatesResult:
    """The result of one read of the updates.

    Attributes:
        responses: Raw responses that were processed, including those left by earlier reads.
        delivery_reports: Delivery reports in them; hints, and possibly forged.
        received_messages: Received messages in them; likewise.
        unparsed: Records, or whole responses, that could not be parsed. The journal keeps them.
        changed: Messages whose status changed.
        linked: Requests in doubt that were found at the gateway.
        postponed: Responses left to the next read, because a message they refer to could not be looked up yet.
        failure: Why the read failed or is incomplete; None if it is complete.
    """

    responses: int = 0
    delivery_reports: int = 0
    received_messages: int = 0
    unparsed: int = 0
    changed: int = 0
    linked: int = 0
    postponed: int = 0
    failure: MyMSPError | None = None


async def process_updates(
    context: CampaignContext,
    *,
    deadline_s: float,
    requests_per_minute: int,
    tracking_days: float = DEFAULT_TRACKING_DAYS,
) -> UpdatesResult:
    """Read an account's updates once, and look up the messages they point to.

    Args:
        context: The journal, the gateway and the account.
        deadline_s: Seconds to spend on lookups, at most.
        requests_per_minute: Lookups per minute, at most.
        tracking_days: Days for which messages are tracked, see :func:`~prefect_mymsp.times.tracking_period`.
    """
    journal, thread = context.journal, context.thread
    for campaign in await thread(journal.campaigns.summaries, context.account, open_only=True):
        if campaign.counts.sending:  # an update may be about a request of a run that died
            await thread(journal.claims.expire_leases, campaign.key)
    poller = ResultPoller(context, deadline_s=deadline_s, requests_per_minute=requests_per_minute)
    since = context.clock.now() - tracking_period(tracking_days)
    return await UpdateReader(context, poller, since).read()


class UpdateReader:
    """Reads an account's updates.

    Args:
        context: The journal, the gateway and the account.
        poller: Requests the results.
        since: Messages that were due earlier are ignored, aware.
        exclude: A campaign whose messages are all polled anyway.
    """

    def __init__(
        self, context: CampaignContext, poller: ResultPoller, since: datetime, exclude: CampaignKey | None = None
    ) -> None:
        self._journal, self._thread, self._client = context.journal, context.thread, context.client
        self._account = context.account
        self._poller = poller
        self._since = since
        self._excluded_campaign_id = None if exclude is None else exclude.id

    async def read(self) -> UpdatesResult:
        """Process the responses left by earlier reads, then fetch and process a new one. The fetch is never retried."""
        result = UpdatesResult()
        for response_id, raw in await self._thread(self._journal.raw_responses.unparsed, self._account):
            await self._handle(response_id, raw, result)
        try:
            raw = await self._client.fetch_raw_updates()
        except InDoubtError as error:
            raw, result.failure = error.raw or b"", error
        except NotSentError as error:
            raw, result.failure = b"", error
        if len(raw.strip(_EMPTY_RESPONSE)) > 1:
            response_id = await self._thread(self._journal.raw_responses.add, self._account, raw)
            await self._handle(response_id, raw, result)
        return result

    async def _handle(self, response_id: int, raw: bytes, result: UpdatesResult) -> None:
        if await self._look_up(raw, result):
            await self._thread(self._journal.raw_responses.mark_parsed, response_id)
            result.responses += 1
        else:
            result.postponed += 1

    async def _look_up(self, raw: bytes, result: UpdatesResult) -> bool:
        """Look up the messages a response refers to; returns whether all were looked up."""
        try:
            updates = self._client.parse_updates(raw)
        except MyMSPError:
            result.unparsed += 1
            return True
        result.delivery_reports += len(updates.delivery_reports)
        result.received_messages += len(updates.received_messages)
        result.unparsed += len(updates.unparsed)
        reported = defaultdict[str, set[str]](set)
        for report in updates.delivery_reports:
            reported[report.message_id].add(gateway_digits(report.recipient))
        known_batches = await self._thread(self._journal.deliveries.by_message_ids, self._account, list(reported))
        batches = [
            batch
            for campaign_id, batch in known_batches.values()
            if batch is not None and campaign_id != self._excluded_campaign_id and batch.due_at >= self._since
        ]
        complete = True
        for start in range(0, len(batches), _PAGE):
            result.changed += await self._poller.poll(batches[start : start + _PAGE])
            complete &= self._poller.complete
        unknown = {message_id: msisdns for message_id, msisdns in reported.items() if message_id not in known_batches}
        return await self._link(unknown, result) and complete

    async def _link(self, unknown: Mapping[str, AbstractSet[str]], result: UpdatesResult) -> bool:
        """Link unknown ids to requests in doubt; returns whether later reads could link no more."""
        msisdns = sorted(set().union(*unknown.values()))
        candidates = await self._candidates(msisdns)
        if unconfirmed := [candidate.batch for candidate in candidates if candidate.state == ACCEPTED]:
            # An id that was cut short is another message's. If so, its request comes into doubt here, and the unknown
            # id may be the complete one.
            result.changed += await self._poller.poll(unconfirmed)
            candidates = await self._candidates(msisdns)
        settled = True
        for message_id, recipients in unknown.items():
            states = {candidate.state for candidate in candidates if candidate.msisdns & recipients}
            linked: bool | None = False
            if IN_DOUBT in states:
                linked = await self._poller.link_message_id(message_id, self._since)
            if linked:
                result.linked += 1
            elif linked is None or states - {IN_DOUBT}:
                settled = False  # a request that is being made may still come into doubt
        return settled

    async def _candidates(self, msisdns: Sequence[str]) -> list[CandidateBatch]:
        if not msisdns:
            return []
        return await self._thread(self._journal.doubt.candidates, self._account, msisdns, self._since)
