"""Evidence in one response of ``getSmsResult``: facts in, a finding out, no I/O.

A message id is confirmed when the first complete result under it names exactly the recipients of its request. A
truncated id belongs to another message, or to none; then the request is in doubt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

from prefect_mymsp.models import RecipientStatus
from prefect_mymsp.phone import gateway_digits
from prefect_mymsp.protocol import ARCHIVED, NO_SUCH_MESSAGE
from prefect_mymsp.states import IN_DOUBT
from prefect_mymsp.times import resolve_repeated_hour

if TYPE_CHECKING:
    from datetime import tzinfo

    from prefect_mymsp.journal import CandidateBatch, OpenBatch
    from prefect_mymsp.models import SmsResult

#: How long a new message id may be missing at the gateway.
REGISTRATION_DELAY = timedelta(seconds=5)
#: A message that was sent this long before its request was made is another one. Clocks differ, and the gateway's
#: shows minutes.
CLOCK_TOLERANCE = timedelta(hours=1)
#: The same for an id that is missing from the schedule, counted from when the message id was received: its times may be
#: read in the wrong zone.
ZONE_TOLERANCE = timedelta(days=1)


class Finding(Enum):
    """The meaning of a response for a request."""

    CONFIRMS_ID = "the result names just the recipients of the request"
    STATUSES = "the id was confirmed before; only the statuses can be new"
    OTHER_MESSAGE = "the result names other recipients, or is older than the request"
    UNKNOWN_ID = "the gateway has no message with this id"
    ARCHIVED = "the gateway has archived the message and reports nothing more"
    INCOMPLETE = "the result names fewer recipients than it counts"
    NOTHING = "the refusal proves nothing about the request"


#: The findings that reject an id, each with the reason that the journal keeps.
REJECTION_REASONS = {Finding.OTHER_MESSAGE: "id-of-others", Finding.UNKNOWN_ID: "id-unknown"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """A finding, with the statuses to record.

    Attributes:
        finding: The meaning of the response.
        statuses: One status for each recipient, with corrected times; empty unless the finding is ``CONFIRMS_ID`` or
            ``STATUSES``.
    """

    finding: Finding
    statuses: Sequence[RecipientStatus] = field(default=(), repr=False)


def recipients_if_complete(result: SmsResult) -> frozenset[str] | None:
    """The recipients of a result; None if the result is truncated and names fewer recipients than it counts."""
    recipients = frozenset(gateway_digits(status.recipient) for status in result.statuses)
    return recipients if len(result.statuses) >= max(result.recipients, 1) else None


def examine_result(request: OpenBatch, result: SmsResult, recipients: Collection[str] | None, zone: tzinfo) -> Evidence:
    """Examine a result as evidence about an accepted request.

    The members of a recipient group are unknown, so a complete result confirms the id of a request to a group unless
    the message is older.

    Args:
        request: The request that has the id.
        result: The result under that id.
        recipients: The recipients of the request; None when the journal no longer has them.
        zone: The zone of times that the gateway writes without one.
    """
    listed = recipients_if_complete(result)
    if listed is None and (request.group or not request.confirmed):
        return Evidence(Finding.INCOMPLETE)
    statuses = correct_repeated_hour(result.statuses, request.due_at, zone)
    if request.confirmed or (recipients is None and not request.group):
        return Evidence(Finding.STATUSES, statuses)
    if (not request.group and listed != recipients) or sent_before(statuses, request.claimed_at - CLOCK_TOLERANCE):
        return Evidence(Finding.OTHER_MESSAGE)
    return Evidence(Finding.CONFIRMS_ID, statuses)


def examine_refusal(request: OpenBatch, code: int, now: datetime) -> Evidence:
    """Examine a refused result request as evidence about an accepted request.

    Args:
        request: The request that has the id.
        code: The gateway's code.
        now: When the refusal came, aware.
    """
    if code == ARCHIVED:
        return Evidence(Finding.ARCHIVED)
    if code == NO_SUCH_MESSAGE and not request.confirmed and now - request.settled_at > REGISTRATION_DELAY:
        return Evidence(Finding.UNKNOWN_ID)
    return Evidence(Finding.NOTHING)


def is_listed_under(result: SmsResult, recipients: Collection[str], accepted_at: datetime) -> bool | None:
    """Whether a message id belongs to our request although the schedule does not show it with our time.

    It does if its result names exactly our recipients, whatever delivery time the gateway shows.

    Args:
        result: The result under the id.
        recipients: The recipients of the request.
        accepted_at: When the message id was received, aware.

    Returns:
        None when the result was cut short.
    """
    listed = recipients_if_complete(result)
    if listed is None:
        return None
    return listed == frozenset(recipients) and not sent_before(result.statuses, accepted_at - ZONE_TOLERANCE)


def find_owner(
    result: SmsResult, candidates: Sequence[CandidateBatch], zone: tzinfo, *, group_in_doubt: bool
) -> CandidateBatch | None:
    """Find the request in doubt that caused a message with an unknown id, without the help of a delivery time.

    Args:
        result: The complete result under the id.
        candidates: Requests of all campaigns of the account that name any of its recipients.
        zone: The zone of times that the gateway writes without one.
        group_in_doubt: Whether a request to a recipient group is in doubt: the message may be the group's.

    Returns:
        The only request in doubt to exactly these recipients; None if there is none, or more than one.
    """
    recipients = recipients_if_complete(result)
    owners = [candidate for candidate in candidates if candidate.state == IN_DOUBT and candidate.msisdns == recipients]
    if len(owners) != 1 or group_in_doubt:
        return None
    (owner,) = owners
    statuses = correct_repeated_hour(result.statuses, owner.batch.due_at, zone)
    return None if sent_before(statuses, owner.batch.claimed_at - CLOCK_TOLERANCE) else owner


def sent_before(statuses: Sequence[RecipientStatus], moment: datetime) -> bool:
    """Whether any recipient's SMS left the gateway before a moment."""
    return any(status.sent_at is not None and status.sent_at < moment for status in statuses)


def correct_repeated_hour(
    statuses: Sequence[RecipientStatus], due_at: datetime, zone: tzinfo
) -> Sequence[RecipientStatus]:
    """Statuses with the second of two equal clock times where the first cannot be meant.

    In the night the clocks go back, 02:30 occurs twice, and times without a zone are read as the first. Where that is
    well before the message was due, it was the second.

    Args:
        statuses: Statuses of one message.
        due_at: When the message was to leave, aware.
        zone: The zone of times that the gateway writes without one.
    """
    earliest = due_at - CLOCK_TOLERANCE / 2
    if not sent_before(statuses, earliest):
        return statuses
    corrected = []
    for status in statuses:
        sent_at = resolve_repeated_hour(status.sent_at, earliest, zone)
        delivered_at = resolve_repeated_hour(status.delivered_at, sent_at, zone)
        corrected.append(RecipientStatus(status.recipient, sent_at, status.status, delivered_at))
    return corrected
