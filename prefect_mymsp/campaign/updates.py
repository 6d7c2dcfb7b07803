"""What comes back to the account: its updates, and its inbox.

``getMsgUpdates`` gives each of its records once and never again, and a stranger's text can look like any of them. So
an answer is kept, durably, before anybody looks into it; what it says is only where to look. A delivery report leads
to the result of that message, which is then believed. A received message leads to the inbox. An answer counts as read
when all it points to has been looked at: whoever dies before that leaves it to the next one.

``getMsgReceived`` can be read again and again. The cursor moves to the highest id, and lists are not sorted, so what
an answer cut short would have left out were lost for good: an answer is believed when the next one says the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.opt_outs import sender_msisdn
from prefect_mymsp.errors import InDoubtError, MyMSPError, NotSentError, ProtocolError
from prefect_mymsp.phone import gateway_digits, parse_msisdn
from prefect_mymsp.states import ACCEPTED, IN_DOUBT

if TYPE_CHECKING:
    from prefect_mymsp.campaign.context import CampaignContext
    from prefect_mymsp.campaign.opt_outs import OptOuts
    from prefect_mymsp.campaign.result_poller import ResultPoller
    from prefect_mymsp.client import AsyncMyMSPClient
    from prefect_mymsp.journal import CampaignKey, CandidateBatch, Journal
    from prefect_mymsp.models import Inbox, ReceivedMessage

#: Evidence for a request in doubt is not looked for longer than this after its messages were to leave.
EVIDENCE = timedelta(days=7)

_PAGE = 500
#: What an answer that holds nothing is made of, besides its ``A``.
_NOTHING = b"\0 \t\r\n,;"
#: Answers of the inbox that are compared before it is given up.
_READINGS = 6
#: The bookmark for the bad records that were kept last.
_BAD_RECORDS = "inbox-bad"


@dataclass(slots=True)
class UpdatesResult:
    """What reading the updates came to.

    Attributes:
        answers: Answers that were acted on, those of earlier readings too.
        delivery_reports: Delivery reports in them; hints, some of them perhaps forged.
        received_messages: Received messages in them; likewise.
        unparsed: Records, or whole answers, that could not be read. They are kept.
        changed: Messages whose status changed when the gateway was asked about them.
        linked: Requests in doubt whose id was found.
        waiting: Answers that are left to the next reading: something they point to could not be looked at yet.
        failure: Why the reading brought nothing, or not all; None when it went well.
    """

    answers: int = 0
    delivery_reports: int = 0
    received_messages: int = 0
    unparsed: int = 0
    changed: int = 0
    linked: int = 0
    waiting: int = 0
    failure: MyMSPError | None = None


class UpdateReader:
    """Who reads an account's updates and looks where they point.

    Args:
        context: The journal, the gateway and the account.
        results: Who asks for results.
        since: Messages that were to leave before then are not looked for any more, aware.
        besides: A campaign whose messages are all asked about anyway.
    """

    def __init__(
        self,
        context: CampaignContext,
        results: ResultPoller,
        since: datetime,
        besides: CampaignKey | None = None,
    ) -> None:
        self._journal, self._thread, self._client = context.journal, context.thread, context.client
        self._account = context.account
        self._results = results
        self._since = since
        self._besides = besides

    async def collect(self) -> UpdatesResult:
        """Act on what earlier readings have left, read what is new, and act on that. Never tried twice."""
        told = UpdatesResult()
        for number, raw in await self._thread(self._journal.raw_responses.unparsed, self._account):
            await self._act(number, raw, told)
        try:
            raw = await self._client.fetch_raw_updates()
        except InDoubtError as error:
            raw, told.failure = error.raw or b"", error
        except NotSentError as error:
            raw, told.failure = b"", error
        if len(raw.strip(_NOTHING)) > 1:
            number = await self._thread(self._journal.raw_responses.add, self._account, raw)
            await self._act(number, raw, told)
        return told

    async def _act(self, number: int, raw: bytes, told: UpdatesResult) -> None:
        if await self._look_into(raw, told):
            await self._thread(self._journal.raw_responses.mark_parsed, number)
            told.answers += 1
        else:
            told.waiting += 1

    async def _look_into(self, raw: bytes, told: UpdatesResult) -> bool:
        """Look where an answer points; returns whether nothing is left to look at."""
        try:
            updates = self._client.parse_updates(raw)
        except MyMSPError:
            told.unparsed += 1
            return True
        told.delivery_reports += len(updates.delivery_reports)
        told.received_messages += len(updates.received_messages)
        told.unparsed += len(updates.unparsed)
        reported: dict[str, set[str]] = {}
        for report in updates.delivery_reports:
            reported.setdefault(report.message_id, set()).add(gateway_digits(report.recipient))
        known = await self._thread(self._journal.deliveries.by_message_ids, self._account, list(reported))
        besides = None if self._besides is None else self._besides.id
        whole = True
        ours = [
            batch
            for campaign_id, batch in known.values()
            if batch is not None and campaign_id != besides and batch.due_at >= self._since
        ]
        for start in range(0, len(ours), _PAGE):
            told.changed += await self._results.poll(ours[start : start + _PAGE])
            whole &= self._results.complete
        unknown = {message_id: who for message_id, who in reported.items() if message_id not in known}
        return await self._find_owners(unknown, told) and whole

    async def _find_owners(self, unknown: dict[str, set[str]], told: UpdatesResult) -> bool:
        """Whether ids that nobody knows are those of requests in doubt; returns whether none can be later."""
        who = sorted(set().union(*unknown.values()))
        claimants = await self._claimants(who)
        if unconfirmed := [one.batch for one in claimants if one.state == ACCEPTED]:
            # An id cut short on its way is somebody else's; then the request is in doubt, and the whole id unknown.
            told.changed += await self._results.poll(unconfirmed)
            claimants = await self._claimants(who)
        settled = True
        for message_id, names in unknown.items():
            near = [one for one in claimants if one.msisdns & names]
            linked: bool | None = False
            if any(one.state == IN_DOUBT for one in near):
                linked = await self._results.link_message_id(self._account, message_id, self._since)
            if linked:
                told.linked += 1
            elif linked is None or any(one.state != IN_DOUBT for one in near):
                settled = False  # what is on its way may yet come into doubt
        return settled

    async def _claimants(self, who: Sequence[str]) -> list[CandidateBatch]:
        if not who:
            return []
        return await self._thread(self._journal.doubt.candidates, self._account, who, self._since)


@dataclass(frozen=True, slots=True)
class InboxResult:
    """What reading the inbox came to.

    Attributes:
        new: Messages that were not stored before, by id.
        opted_out: How many of them ask for no more SMS.
        unparsed: Records that could not be read; their text is kept in the journal, and they are passed over.
    """

    new: tuple[ReceivedMessage, ...]
    opted_out: int
    unparsed: tuple[str, ...] = field(default=(), repr=False)


async def read_inbox(context: CampaignContext, opt_outs: OptOuts) -> InboxResult:
    """Store what the inbox has above the cursor, each message once, and who wants no more SMS.

    Args:
        context: The journal, the gateway and the account.
        opt_outs: Which messages ask for no more SMS.

    Raises:
        NotSentError: The gateway refuses, or cannot be reached.
        InDoubtError: It does not answer, or differently each time. Nothing is stored then; the next reading begins
            where this one did.
    """
    journal, thread, account = context.journal, context.thread, context.account
    inbox = await _agreed(context.client, await thread(journal.inbox.cursor, account))
    if inbox.unparsed:
        await thread(_keep_bad, journal, account, inbox.unparsed)
    asking = {message.message_id: message for message in inbox.messages if opt_outs(message)}
    if rewritten := {number for message in asking.values() if (number := _as_campaigns_write(message.sender))}:
        # The journal takes numbers as the gateway writes them. Who dies before that must not lose these either.
        await thread(journal.suppressions.add, account, rewritten, "opt-out")
    messages = sorted(inbox.messages, key=_number)  # as they came in, for who reads the journal in its order
    new = await thread(journal.inbox.store, account, messages, lambda message: message.message_id in asking)
    return InboxResult(tuple(new), sum(message.message_id in asking for message in new), inbox.unparsed)


def _as_campaigns_write(sender: str | None) -> str | None:
    """The MSISDN that campaigns have for an sender, if the gateway writes it in another way."""
    number = sender_msisdn(sender or "")
    return None if number == parse_msisdn((sender or "").strip()) else number


async def _agreed(client: AsyncMyMSPClient, cursor: int) -> Inbox:
    """What two answers in a row say is above the cursor; with nothing above it, one will do."""
    told: Inbox | None = None
    confirmed: Inbox | None = None
    failure: InDoubtError | None = None
    for reading in range(_READINGS):
        try:
            inbox = await client.fetch_inbox_lenient(cursor)
        except InDoubtError as error:
            failure = error
            await asyncio.sleep(0.2 * reading)
            continue
        if told is not None and _confirms(inbox, told):
            confirmed = told
            if len(inbox.messages) == len(told.messages):
                break
        if inbox.messages or inbox.unparsed:
            told = inbox
        elif told is None:
            return inbox
    if confirmed is not None:
        return confirmed
    raise failure or ProtocolError(
        "getMsgReceived: answers in a row say different things; they are cut short on their way.", reason="unsteady"
    )


def _confirms(later: Inbox, earlier: Inbox) -> bool:
    """Whether an answer has all that an earlier one had, word for word; messages may have come in between."""
    newest = max(map(_number, earlier.messages), default=0)
    again = {message for message in later.messages if _number(message) <= newest}
    return again == set(earlier.messages) and set(earlier.unparsed) <= set(later.unparsed)


def _number(message: ReceivedMessage) -> int:
    return int(message.message_id)


def _keep_bad(journal: Journal, account: str, records: Sequence[str]) -> None:
    """Keep records that cannot be read, once: they are there again until a message with a higher id is stored."""
    raw = "\n".join(records).encode("utf-8", "backslashreplace")
    mark = hashlib.blake2b(raw, digest_size=16).hexdigest()
    if journal.bookmarks.get(account, _BAD_RECORDS) != mark:
        journal.raw_responses.mark_parsed(journal.raw_responses.add(account, raw))
        journal.bookmarks.put(account, _BAD_RECORDS, mark)
