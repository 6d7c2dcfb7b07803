"""The state of the gateway: accounts, messages, mailboxes, and due events. No I/O, no endpoints."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from prefect_mymsp.sandbox.accounts import Account, Settings
from prefect_mymsp.sandbox.magic import MAGIC_NUMBERS, ORDINARY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prefect_mymsp.models import ReceivedMessage
    from prefect_mymsp.sandbox.faults import Fault
    from prefect_mymsp.sandbox.messages import Message, Recipient

_FIRST_ID: Final = 100_001
_REPLY_DELAY_S: Final = 1.0


@dataclass(slots=True)
class Exchange:
    """One request while it is processed.

    Attributes:
        params: Its form parameters, as bytes.
        now: Simulated seconds since 1970-01-01 UTC.
        fault: The fault that applies to it; None when nothing goes wrong.
        repeat_magic: False when a late request is processed: the fault of its magic number has applied already.
    """

    params: Mapping[str, bytes]
    now: float
    fault: Fault | None = None
    repeat_magic: bool = True


@dataclass(slots=True)
class Mailbox:
    """The received messages and reports of one account.

    Attributes:
        inbox: Received messages, oldest first.
        collected: Entries of the inbox that getMsgUpdates has returned.
        reports: Delivery reports as a heap: when, recipient id, generation, message, recipient.
        sms: SMS sent so far, counted by recipient.
    """

    inbox: list[ReceivedMessage] = field(default_factory=list)
    collected: int = 0
    reports: list[tuple[float, int, int, Message, Recipient]] = field(default_factory=list)
    sms: int = 0


class ReplyEvent(NamedTuple):
    """A phone replies to a message."""

    message: Message
    generation: int
    originator: str
    text: str


class LateRequest(NamedTuple):
    """A request arrives whose connection was closed long ago."""

    endpoint: str
    params: Mapping[str, bytes]


class GatewayState:
    """Accounts, messages and mailboxes.

    Args:
        accounts: Accounts that may log in; they are copied.
        settings: Delivery times, dialect and the like.

    Attributes:
        accounts: Accounts by user.
        settings: Replaced as a whole.
        messages: Accepted messages by id, in order of acceptance.
        scheduled: Messages with a delivery time by user and id; those that were sent are removed later.
        events: Due events, as a heap: when, order, event.
        magic_attempts: Requests to each magic number with each text.
    """

    def __init__(self, accounts: Iterable[Account], settings: Settings) -> None:
        self.accounts: dict[str, Account] = {account.user: replace(account) for account in accounts}
        self.settings = settings
        self.messages: dict[int, Message] = {}
        self.scheduled: dict[str, dict[int, Message]] = {}
        self.events: list[tuple[float, int, ReplyEvent | LateRequest]] = []
        self.magic_attempts: Counter[tuple[str, str]] = Counter()
        self._event_count = 0
        self._mailboxes: dict[str, Mailbox] = {}
        self._last_id = _FIRST_ID - 1
        self._last_recipient_id = 0

    def next_id(self) -> int:
        """A new message id."""
        self._last_id += 1
        return self._last_id

    def reserve_recipient_ids(self, count: int) -> int:
        """Reserve ``count`` recipient ids; returns the first."""
        first = self._last_recipient_id + 1
        self._last_recipient_id += count
        return first

    def mailbox_of(self, user: str) -> Mailbox:
        """The mailbox of an account."""
        return self._mailboxes.setdefault(user, Mailbox())

    def mailboxes(self) -> Iterable[tuple[str, Mailbox]]:
        """All mailboxes that were used, with their users."""
        return self._mailboxes.items()

    def plan(self, when: float, event: ReplyEvent | LateRequest) -> None:
        """Have an event happen at a simulated time."""
        self._event_count += 1
        heapq.heappush(self.events, (when, self._event_count, event))

    def schedule_recipients(self, message: Message) -> None:
        """Compute when each recipient's SMS is sent and becomes final, the same for the same id and number."""
        settings, mailbox = self.settings, self.mailbox_of(message.user)
        start = message.accepted_at if message.scheduled_at is None else message.scheduled_at
        for recipient in message.recipients:
            magic = MAGIC_NUMBERS.get(recipient.msisdn, ORDINARY)
            if not magic.sent:
                continue
            spread = crc32(f"{message.message_id}:{recipient.msisdn}".encode())
            sent_at = start + settings.sent_after_s * (0.5 + (spread & 0xFFFF) / 0x10000)
            recipient.sent_at = sent_at
            if magic.word is None:
                continue
            if magic.delivery_delay_s is None:
                final_at = sent_at + settings.delivered_after_s * (0.5 + (spread >> 16) / 0x10000)
            else:
                final_at = sent_at + magic.delivery_delay_s
            recipient.final_at, recipient.word = final_at, magic.word
            heapq.heappush(mailbox.reports, (final_at, recipient.recipient_id, message.generation, message, recipient))
            if magic.reply is not None:
                reply = ReplyEvent(message, message.generation, recipient.msisdn, magic.reply)
                self.plan(final_at + _REPLY_DELAY_S, reply)
