"""The values of the gateway: frozen, without behaviour. Every datetime is aware and in UTC.

Message ids are strings: the vendor calls them numbers, but they are only compared. Phone numbers are MSISDNs: country
code and number, digits only (``46701740605``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, overload


class JoinedMSISDNs(str):
    """Distinct MSISDNs, joined by commas as in a request."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """The delivery status of one recipient.

    Attributes:
        recipient: MSISDN, as the gateway writes it.
        sent_at: When the SMS left the gateway, to the minute; None if it has not.
        status: The gateway's status, unchanged. Only ``delivered`` is final: the vendor's document shows
            ``undelivered`` for messages that have not been sent yet.
        delivered_at: When the phone confirmed it, to the minute; None if it has not.
    """

    recipient: str
    sent_at: datetime | None
    status: str
    delivered_at: datetime | None


class RecipientStatuses(Sequence[RecipientStatus]):
    """A sequence of :class:`RecipientStatus`, stored by column: one response can have 100,000 recipients.

    It is equal to any other sequence with the same items.

    Attributes:
        recipients: ``recipient`` of every item.
        sent_at: ``sent_at`` of every item.
        words: ``status`` of every item.
        delivered_at: ``delivered_at`` of every item.
    """

    __slots__ = ("delivered_at", "recipients", "sent_at", "words")

    def __init__(
        self,
        recipients: Sequence[str],
        sent_at: Sequence[datetime | None],
        words: Sequence[str],
        delivered_at: Sequence[datetime | None],
    ) -> None:
        self.recipients = tuple(recipients)
        self.sent_at = tuple(sent_at)
        self.words = tuple(words)
        self.delivered_at = tuple(delivered_at)

    def __len__(self) -> int:
        return len(self.recipients)

    @overload
    def __getitem__(self, index: int) -> RecipientStatus: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RecipientStatus, ...]: ...
    def __getitem__(self, index: int | slice) -> RecipientStatus | tuple[RecipientStatus, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        return RecipientStatus(self.recipients[index], self.sent_at[index], self.words[index], self.delivered_at[index])

    def __iter__(self) -> Iterator[RecipientStatus]:
        return map(RecipientStatus, self.recipients, self.sent_at, self.words, self.delivered_at)

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, slots=True)
class SmsResult:
    """The result of one message (vendor's document, section 4.2).

    Attributes:
        message_id: The id of the message.
        recipients: The number of recipients.
        sent: The number of recipients with a sent SMS.
        delivered: The number of recipients with a delivered SMS.
        statuses: One item for each recipient, in the gateway's order.
    """

    message_id: str
    recipients: int
    sent: int
    delivered: int
    statuses: Sequence[RecipientStatus]


@dataclass(frozen=True, slots=True)
class ScheduledMessage:
    """A message that waits at the gateway (section 4.3.2).

    Attributes:
        message_id: Its id.
        send_at: When it will be sent, to the second; None if the gateway gives no time.
    """

    message_id: str
    send_at: datetime | None


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A mobile-originated message (section 4.4; a hint only when it comes from an update, section 4.5).

    Attributes:
        message_id: Its id; ids grow with time, but lists are not sorted by them.
        received_at: To the minute; None if the gateway gives no time.
        user: The account's user it was delivered to; None in updates, which lack it.
        prefix: The keyword that routed it here, or for DPN the device notification's action.
        kind: ``SMS``, ``VOI`` or ``DPN``.
        sender: The sender's MSISDN.
        alias: The sender's alias, or for DPN a recipient id; None in updates.
        subject: MMS subject, deprecated by the vendor; None in updates.
        text: The text. It is untrusted: escape it wherever it is shown.
    """

    message_id: str
    received_at: datetime | None
    user: str | None
    prefix: str | None
    kind: str | None
    sender: str | None
    alias: str | None
    subject: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Inbox:
    """The received messages above an id (section 4.4).

    Attributes:
        messages: The received messages, in the gateway's order, which is not that of their ids.
        unparsed: Records that could not be read, as text: truncated or malformed.
    """

    messages: tuple[ReceivedMessage, ...]
    unparsed: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """A delivery report in an update (section 4.5). It is a hint: confirm it with a result.

    Attributes:
        message_id: The id of the message that it names.
        recipient_id: The gateway's id of the recipient.
        recipient: MSISDN.
        status: The gateway's status, unchanged.
        delivered_at: When it was delivered; None if it was not.
    """

    message_id: str
    recipient_id: str
    recipient: str
    status: str
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class Updates:
    """Updates that had not been fetched before (section 4.5). Fetching removed them from the gateway.

    The gateway does not clean texts in updates, so a received text can look like a record. Every entry is a hint:
    confirm it with a result or with the inbox.

    Attributes:
        raw: The whole response. Store it before you use the rest.
        delivery_reports: Records of type 0.
        received_messages: Records of type 1.
        unparsed: Records of neither type, as text.
    """

    raw: bytes = field(repr=False)
    delivery_reports: tuple[DeliveryReport, ...]
    received_messages: tuple[ReceivedMessage, ...]
    unparsed: tuple[str, ...] = field(default=(), repr=False)


#: A person's decision about messages in doubt. After "sent" they are never sent again; after "not-sent" the next start
#: of the campaign sends them.
Decision = Literal["sent", "not-sent"]

#: Default opt-out words: a message that begins with one opts its sender out.
OPT_OUT_WORDS = (
    "STOP",
    "STOPP",
    "STOPA",
    "STOPPA",
    "STOPALL",
    "AVSLUTA",
    "AVREGISTRERA",
    "AVANMÄL",
    "UNSUBSCRIBE",
    "CANCEL",
    "END",
    "QUIT",
)


#: The file formats of an export; html is a page to read.
ReportFormat = Literal["html", "csv", "excel", "parquet"]
