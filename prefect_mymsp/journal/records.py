"""Values of the journal's methods: frozen, without behaviour."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from prefect_mymsp.models import JoinedMSISDNs
from prefect_mymsp.phone import GROUP_SIGN
from prefect_mymsp.times import DEFAULT_TRACKING_DAYS


def text_digest(text: str) -> bytes:
    """Return the 16 bytes that identify a text: BLAKE2b of its UTF-8."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


# -- campaigns ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CampaignKey:
    """A campaign in the journal.

    Attributes:
        id: Its number in the journal.
        name: Its name, unique for the account.
        account: Fingerprint of the gateway account.
        sender: The sender that phones show; None for the account's default.
        send_at: The scheduled time of its messages, in UTC; None to send at once.
    """

    id: int
    name: str
    account: str
    sender: str | None
    send_at: datetime | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Messages of a campaign by state. The states add up to ``messages``.

    A message to a recipient group counts as one until a result counts the group's members, and then as many.

    Attributes:
        messages: All messages.
        planned: Not sent and not being sent.
        sending: A request may be on its way.
        accepted: The gateway returned a message id.
        refused: The gateway refused it.
        in_doubt: May have been sent.
        assumed: Were in doubt, and a person resolved them as sent.
        cancelled: Cancelled at the gateway before their scheduled time.
        delivered: Of the accepted: the phone confirmed.
        final: Of the accepted: the result will not change any more.
        segments: SMS segments of the accepted messages.
    """

    messages: int
    planned: int
    sending: int
    accepted: int
    refused: int
    in_doubt: int
    assumed: int
    cancelled: int
    delivered: int
    final: int
    segments: int

    @property
    def open(self) -> int:
        """Accepted messages whose outcome is not final."""
        return self.accepted - self.final


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """Rows of a campaign's source.

    Attributes:
        rows: All rows, without blank lines.
        rejected: Rows that cannot be sent.
        duplicates: Rows whose number and text stand further up.
        suppressed: Rows whose number is suppressed.
    """

    rows: int
    rejected: int
    duplicates: int
    suppressed: int


@dataclass(frozen=True, slots=True)
class CampaignSummary:
    """A campaign and the counts of its messages.

    Attributes:
        key: The campaign.
        created_at: When it was first recorded.
        source: A label for the source of its rows.
        active_at: The latest time of its requests, its runs and its schedule; may be in the future.
        cancelled_at: When a person cancelled the campaign; None if it was not cancelled.
        purged_at: When its messages were purged; None while they are there.
        source_rows: The counts of the source as it was read last; None if the campaign has none.
        counts: Its messages by state.
    """

    key: CampaignKey
    created_at: datetime
    source: str
    active_at: datetime
    cancelled_at: datetime | None
    purged_at: datetime | None
    source_rows: SourceCounts | None
    counts: Counts

    @property
    def open(self) -> bool:
        """Whether messages are left to send, in doubt or not final."""
        counts = self.counts
        unsent = counts.planned if self.cancelled_at is None else 0
        return self.purged_at is None and unsent + counts.sending + counts.in_doubt + counts.open > 0


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """The result of a purge.

    Attributes:
        campaigns: Campaigns whose messages were purged.
        messages: Messages that were deleted.
        texts: Texts that were emptied.
        received: Received messages that were emptied.
        raw_responses: Raw responses that were deleted.
        skipped: Names of campaigns that are old enough but still have messages to send.
    """

    campaigns: int
    messages: int
    texts: int
    received: int
    raw_responses: int
    skipped: tuple[str, ...]


# -- recording ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlannedChunk:
    """Messages to record, by column.

    Attributes:
        rows: Line of the source, for each message.
        msisdns: Recipient of each message.
        text_of: Index into ``texts``, for each message.
        texts: The distinct texts.
        digests: The digest of each text, see :func:`text_digest`.
        encodings: ``GSM-7`` or ``UCS-2``, for each text.
        segments: SMS segments of each text.
    """

    rows: Sequence[int]
    msisdns: Sequence[str]
    text_of: Sequence[int]
    texts: Sequence[str] = field(repr=False)
    digests: Sequence[bytes] = field(repr=False)
    encodings: Sequence[str]
    segments: Sequence[int]


@dataclass(frozen=True, slots=True)
class EarlierMessage:
    """A message that was recorded before.

    Attributes:
        msisdn: Its recipient.
        digest: The digest of its text, see :func:`text_digest`.
        row: Its line in the source it was recorded from.
    """

    msisdn: str
    digest: bytes
    row: int


# -- claims ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendRun:
    """One process's right to send messages of a campaign.

    Attributes:
        id: Its number in the journal.
        campaign: The campaign it sends.
        lease_s: Seconds until the lease ends unless it is renewed.
        planned: Planned messages when it began.
    """

    id: int
    campaign: CampaignKey
    lease_s: float
    planned: int


class Batch(NamedTuple):
    """A request that a run has claimed: it is durable in the journal before the caller sees it.

    Attributes:
        id: Its number in the journal.
        text: The text to send.
        joined: The recipients: MSISDNs in ascending order with commas between them, or ``@`` and a group's name.
        text_id: The text's number in the journal.
        send_at: The time to schedule it for, a whole minute in UTC; None to send at once.
    """

    id: int
    text: str
    joined: str
    text_id: int
    send_at: datetime | None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id}, {self.size} recipients, {self.send_at})"  # no text, no numbers

    @property
    def recipients(self) -> str:
        """The recipients in the form the client takes; a recipient group by its name."""
        return self.joined[1:] if self.joined.startswith(GROUP_SIGN) else JoinedMSISDNs(self.joined)

    @property
    def msisdns(self) -> tuple[str, ...]:
        """Each recipient."""
        return tuple(self.joined.split(","))

    @property
    def size(self) -> int:
        """Number of messages; one for a recipient group."""
        return self.joined.count(",") + 1


class Outcome(NamedTuple):
    """The outcome of one request.

    Attributes:
        batch_id: The request's number in the journal.
        state: ``accepted``, ``refused``, ``in_doubt`` or ``released``.
        at: When the outcome was received.
        message_id: The gateway's message id, for ``accepted``.
        code: The gateway's code, for ``refused`` and where it explains ``released``.
        reason: A short word, for ``in_doubt`` and ``released``.
    """

    batch_id: int
    state: str
    at: datetime
    message_id: str | None = None
    code: int | None = None
    reason: str | None = None


# -- doubt and schedule ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WatchedBatch:
    """A scheduled request that was in doubt at some time, or that is being sent.

    Attributes:
        id: Its number in the journal.
        state: Its present state.
        text_id: The text's number in the journal.
        send_at: The time it was scheduled for.
        settled_at: When it came into its present state.
        msisdns: Its recipients.
    """

    id: int
    state: str
    text_id: int
    send_at: datetime
    settled_at: datetime | None
    msisdns: frozenset[str] = field(repr=False)

    @property
    def group(self) -> bool:
        """Whether it is for a recipient group, whose members are stored at the gateway only."""
        return any(msisdn.startswith(GROUP_SIGN) for msisdn in self.msisdns)


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """An accepted request that waits at the gateway.

    Attributes:
        id: Its number in the journal.
        send_at: The time it was scheduled for.
        settled_at: When its message id was received.
        rescheduled_to: While it is being rescheduled: the new time. The gateway may have either time then.
    """

    id: int
    send_at: datetime
    settled_at: datetime
    rescheduled_to: datetime | None


# -- deliveries --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """An accepted request whose result is not final.

    Attributes:
        id: Its number in the journal.
        message_id: The gateway's message id.
        claimed_at: When it was claimed, just before it was sent.
        settled_at: When its message id was received.
        confirmed: Whether a result under this id named the request's recipients.
        group: Whether it is for a recipient group, whose members are stored at the gateway only.
        due_at: When its messages were to leave: the scheduled time, or else ``claimed_at``.
    """

    id: int
    message_id: str
    claimed_at: datetime
    settled_at: datetime
    confirmed: bool
    group: bool
    due_at: datetime


@dataclass(frozen=True, slots=True)
class CandidateBatch:
    """A request that may be the origin of a message at the gateway that has an unknown id.

    Attributes:
        batch: The request; its ``message_id`` is empty unless it was accepted.
        campaign_id: The campaign's number in the journal.
        state: ``sending``, ``in_doubt``, or ``accepted`` under an id that no result has confirmed yet.
        msisdns: Its recipients.
    """

    batch: OpenBatch
    campaign_id: int
    state: str
    msisdns: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pending:
    """Messages of a campaign that still have no final outcome.

    Attributes:
        open: Accepted, not final, and young enough to be polled.
        in_doubt: In doubt, and young enough for evidence to turn up.
        scheduled: Of those in doubt: scheduled for the future, so that they can be looked up.
        given_up: Accepted or in doubt, but too old.
        running: Whether a process is sending the campaign.
    """

    open: int = 0
    in_doubt: int = 0
    scheduled: int = 0
    given_up: int = 0
    running: bool = False


# -- reports -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selection:
    """The messages of a report. Times are aware; ``since`` is included, ``until`` is not.

    Attributes:
        campaigns: Only messages of these campaigns, by number in the journal; None for all of the account's.
        since: Only messages whose request was sent at this time or later.
        until: Only messages whose request was sent before this time.
        final_since: Only messages whose outcome became final at this time or later.
        final_until: Only messages whose outcome became final before this time.
        tracking_days: Days for which messages are tracked, see :func:`~prefect_mymsp.times.tracking_period`. After
            that the outcome is final.
        tracking_days_then: The days that applied at ``final_since``; None if they are the same.
    """

    campaigns: Sequence[int] | None = None
    since: datetime | None = None
    until: datetime | None = None
    final_since: datetime | None = None
    final_until: datetime | None = None
    tracking_days: float = DEFAULT_TRACKING_DAYS
    tracking_days_then: float | None = None
