"""The domain's values: frozen, without behaviour, every datetime aware and in UTC.

Message ids are strings: the vendor calls them numbers, but nothing is ever counted with them. Phone numbers are
MSISDNs in the gateway's form: country code and number, digits only (``46701740605``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, overload


class JoinedMSISDNs(str):
    """Distinct MSISDNs with commas between them, as a request names them: many of them, handled as one."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """How far one recipient's SMS has come.

    Attributes:
        recipient: MSISDN as the gateway shows it.
        sent_at: When it left the gateway, to the minute; None when it has not.
        status: The gateway's word, as it came. Only ``delivered`` is known to be final: the vendor shows
            ``undelivered`` for messages that have not even been sent.
        delivered_at: When the phone confirmed it, to the minute; None when it has not.
    """

    recipient: str
    sent_at: datetime | None
    status: str
    delivered_at: datetime | None


class RecipientStatuses(Sequence[RecipientStatus]):
    """Recipients' statuses, kept by column: one answer may name 100,000 recipients.

    It is a sequence of :class:`RecipientStatus` and equals any other sequence of the same ones. The columns are for
    who works through all of them.

    Attributes:
        recipients: As in :class:`RecipientStatus`, an entry a recipient; so are the other three.
        sent_at: See there.
        words: The gateway's words, ``status`` there.
        delivered_at: See there.
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
    """The gateway's account of one message (vendor's document, section 4.2).

    Attributes:
        message_id: The id that was asked for.
        recipients: Recipients of the message.
        sent: How many of them the message has been sent to.
        delivered: How many of them have it.
        statuses: One entry a recipient, in the gateway's order.
    """

    message_id: str
    recipients: int
    sent: int
    delivered: int
    statuses: Sequence[RecipientStatus]


@dataclass(frozen=True, slots=True)
class ScheduledMessage:
    """A message waiting at the gateway (section 4.3.2).

    Attributes:
        message_id: Its id.
        send_at: When it will be sent, to the second; None when the gateway gives no time.
    """

    message_id: str
    send_at: datetime | None


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A mobile-originated message (section 4.4; a hint only when it comes from an update, section 4.5).

    Attributes:
        message_id: Its id; ids grow with time, but lists are not sorted by them.
        received_at: To the minute; None when the gateway gives no time.
        user: The account's user it was delivered to; None in updates, which do not say.
        prefix: The keyword that routed it here, or for DPN the device notification's action.
        kind: ``SMS``, ``VOI`` or ``DPN``.
        sender: The sender's MSISDN.
        alias: The sender's alias, or for DPN a recipient id; None in updates.
        subject: MMS subject, deprecated by the vendor; None in updates.
        text: What was written. Written by strangers: escape it wherever it is shown.
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
    """What the inbox held above an id (section 4.4).

    Attributes:
        messages: The received messages, in the gateway's order, which is not that of their ids.
        unparsed: Records that are no received message as documented, as text: cut short, or the gateway's own fault.
    """

    messages: tuple[ReceivedMessage, ...]
    unparsed: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """A delivery report from an update: a hint, to be confirmed by a result (section 4.5).

    Attributes:
        message_id: The message it claims to be about.
        recipient_id: The gateway's id of the recipient.
        recipient: MSISDN.
        status: The gateway's word, as it came.
        delivered_at: When; None when it has not been delivered.
    """

    message_id: str
    recipient_id: str
    recipient: str
    status: str
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class Updates:
    """What had not been collected yet (section 4.5). Reading it removed it from the gateway.

    Texts in an update are not cleaned by the gateway, so a stranger can write one that looks like a record.
    Take every entry as a hint and confirm it with a result or the inbox.

    Attributes:
        raw: The whole answer as it came, to be kept before anything is believed.
        delivery_reports: Records of type 0.
        received_messages: Records of type 1.
        unparsed: Records that fit neither form, as text.
    """

    raw: bytes = field(repr=False)
    delivery_reports: tuple[DeliveryReport, ...]
    received_messages: tuple[ReceivedMessage, ...]
    unparsed: tuple[str, ...] = field(default=(), repr=False)


#: What happened to messages in doubt. After "sent" they are never sent again; after "not-sent" the next start of the
#: campaign sends them.
Decision = Literal["sent", "not-sent"]

#: First words of a message that ask for no more SMS, unless others are chosen.
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
