"""Read the account's inbox: store each received message once, and suppress the senders that opt out.

``getMsgReceived`` can be read again and again. Reading continues at the highest id, and lists are not sorted by id, so
a response that was cut short would lose messages for good. It is therefore accepted only when the next one confirms it.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.opt_outs import sender_msisdn
from prefect_mymsp.errors import InDoubtError, ProtocolError
from prefect_mymsp.phone import parse_msisdn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefect_mymsp.campaign.context import CampaignContext
    from prefect_mymsp.campaign.opt_outs import OptOuts
    from prefect_mymsp.client import AsyncMyMSPClient
    from prefect_mymsp.journal import Journal
    from prefect_mymsp.models import Inbox, ReceivedMessage

#: Maximum number of responses to compare.
_MAX_RESPONSES = 6
#: The bookmark for the unparsed records that were stored last.
_UNPARSED_RECORDS = "inbox-bad"


@dataclass(frozen=True, slots=True)
class InboxResult:
    """The result of one read of the inbox.

    Attributes:
        new: Messages that were not stored before, by id.
        opted_out: How many of them opt out.
        unparsed: Records that could not be parsed and were skipped. The journal keeps them.
    """

    new: tuple[ReceivedMessage, ...]
    opted_out: int
    unparsed: tuple[str, ...] = field(default=(), repr=False)


async def read_inbox(context: CampaignContext, opt_outs: OptOuts) -> InboxResult:
    """Store the messages above the cursor, each once, and suppress the senders that opt out.

    Args:
        context: The journal, the gateway and the account.
        opt_outs: Which messages opt out.

    Raises:
        NotSentError: The gateway refuses, or cannot be reached.
        InDoubtError: There is no response, or each response differs. Nothing is stored, and the next reading starts at
            the same id.
    """
    journal, thread, account = context.journal, context.thread, context.account
    inbox = await _fetch_confirmed(context.client, await thread(journal.inbox.cursor, account))
    if inbox.unparsed:
        await thread(_store_unparsed, journal, account, inbox.unparsed)
    opting_out = {message.message_id: message for message in inbox.messages if opt_outs(message)}
    # The journal suppresses the number as the gateway writes it. Suppress it as campaigns write it too, and first: if
    # this process dies in between, the messages are read again.
    if msisdns := {msisdn for message in opting_out.values() if (msisdn := _rewritten_msisdn(message.sender))}:
        await thread(journal.suppressions.add, account, msisdns, "opt-out")
    messages = sorted(inbox.messages, key=_number)
    new = await thread(journal.inbox.store, account, messages, lambda message: message.message_id in opting_out)
    return InboxResult(tuple(new), sum(message.message_id in opting_out for message in new), inbox.unparsed)


def _rewritten_msisdn(sender: str | None) -> str | None:
    """The MSISDN of a sender as campaigns write it; None when the gateway writes it in the same way."""
    msisdn = sender_msisdn(sender or "")
    return None if msisdn == parse_msisdn((sender or "").strip()) else msisdn


async def _fetch_confirmed(client: AsyncMyMSPClient, cursor: int) -> Inbox:
    """The messages above an id that two responses in a row agree on; if there are none, one response is enough."""
    latest: Inbox | None = None
    confirmed: Inbox | None = None
    failure: InDoubtError | None = None
    for attempt in range(_MAX_RESPONSES):
        try:
            inbox = await client.fetch_inbox_lenient(cursor)
        except InDoubtError as error:
            failure = error
            await asyncio.sleep(0.2 * attempt)
            continue
        if latest is not None and confirms(inbox, latest):
            confirmed = latest
            if len(inbox.messages) == len(latest.messages):
                break
        if inbox.messages or inbox.unparsed:
            latest = inbox
        elif latest is None:
            return inbox
    if confirmed is not None:
        return confirmed
    raise failure or ProtocolError(
        "getMsgReceived: consecutive responses differ; they are cut short on the way. Try again later.",
        reason="unsteady",
    )


def confirms(later: Inbox, earlier: Inbox) -> bool:
    """Whether a response holds everything an earlier one holds, unchanged. New messages may have arrived since."""
    newest = max(map(_number, earlier.messages), default=0)
    repeated = {message for message in later.messages if _number(message) <= newest}
    return repeated == set(earlier.messages) and set(earlier.unparsed) <= set(later.unparsed)


def _number(message: ReceivedMessage) -> int:
    return int(message.message_id)


def _store_unparsed(journal: Journal, account: str, records: Sequence[str]) -> None:
    """Store unparsed records once. They are read again until a message with a higher id has been stored."""
    raw = "\n".join(records).encode("utf-8", "backslashreplace")
    digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
    if journal.bookmarks.get(account, _UNPARSED_RECORDS) != digest:
        journal.raw_responses.mark_parsed(journal.raw_responses.add(account, raw))
        journal.bookmarks.put(account, _UNPARSED_RECORDS, digest)
