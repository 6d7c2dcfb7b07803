"""Values of the gateway: messages and their recipients, and the requests and replies that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """A response as it goes onto the wire.

    Attributes:
        status: HTTP status.
        headers: Response headers, without Content-Length.
        body: The bytes sent of the body.
        announced: Content-Length; larger than the body for a truncated response.
        delay_s: Real seconds to wait before responding.
        dropped: Close the connection without a byte instead of all this.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    announced: int
    delay_s: float = 0.0
    dropped: bool = False


class RequestEntry(NamedTuple):
    """One request in the log that ``GET /_sandbox/requests`` returns, without its parameters.

    Attributes:
        at: Simulated time, seconds since 1970-01-01 UTC.
        endpoint: As in :data:`~prefect_mymsp.sandbox.faults.ENDPOINTS`.
        method: HTTP method.
        status: HTTP status; None when the connection was closed without a response.
        outcome: ``A`` or ``N28`` as the gateway decided, even if the response never arrived; None if it did nothing.
        fault: Kind of the fault that applied.
        credentials_in_url: Whether ``user`` or ``pwd`` stood in the query.
    """

    at: float
    endpoint: str
    method: str
    status: int | None
    outcome: str | None
    fault: str | None
    credentials_in_url: bool


@dataclass(slots=True)
class Recipient:
    """One SMS of a message.

    Attributes:
        recipient_id: The gateway's own number for it.
        msisdn: Where it goes.
        sent_at: When it leaves, in simulated seconds since 1970-01-01 UTC; None is never.
        final_at: When ``word`` becomes its state; None is never.
        word: Its last status word.
    """

    recipient_id: int
    msisdn: str
    sent_at: float | None = None
    final_at: float | None = None
    word: str = "delivered"

    def state(self, now: float) -> tuple[float | None, str, float | None]:
        """When sent, the status word, when delivered, as of ``now``."""
        sent_at = self.sent_at if self.sent_at is not None and self.sent_at <= now else None
        if self.final_at is None or self.final_at > now:
            return sent_at, "undelivered", None
        return sent_at, self.word, self.final_at if self.word == "delivered" else None


@dataclass(slots=True)
class Message:
    """A message the gateway accepted.

    Attributes:
        message_id: Its number.
        user: The account's user.
        originator: Sender text.
        text: What was to be sent, decoded.
        recipients: One entry an SMS; a number named twice is there twice.
        accepted_at: Simulated seconds since 1970-01-01 UTC.
        scheduled_at: Its delivery time likewise; None when sent at once.
        cancelled: Whether it was cancelled in time.
        archived: Whether getSmsResult returns 323.
        flash: Sent as a flash SMS.
        destination_port: Port on the phone; 0 is none.
        generation: Counts changes of the delivery time; events of an older generation no longer happen.
    """

    message_id: int
    user: str
    originator: str
    text: str
    recipients: list[Recipient]
    accepted_at: float
    scheduled_at: float | None = None
    cancelled: bool = False
    archived: bool = False
    flash: bool = False
    destination_port: int = 0
    generation: int = 0

    def waiting(self, now: float) -> bool:
        """Whether it is scheduled and can still be changed."""
        return self.scheduled_at is not None and self.scheduled_at > now and not self.cancelled


def iso(timestamp: float | None) -> str | None:
    """A timestamp in ISO 8601, UTC, to the millisecond."""
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds")


def message_json(message: Message, now: float) -> dict[str, Any]:
    """A message ready for JSON; times in ISO 8601, UTC."""
    recipients = []
    for recipient in message.recipients:
        sent_at, word, delivered_at = (None, "undelivered", None) if message.cancelled else recipient.state(now)
        recipients.append(
            {
                "recipient_id": str(recipient.recipient_id),
                "msisdn": recipient.msisdn,
                "status": word,
                "sent_at": iso(sent_at),
                "delivered_at": iso(delivered_at),
            }
        )
    return {
        "id": str(message.message_id),
        "account": message.user,
        "originator": message.originator,
        "text": message.text,
        "accepted_at": iso(message.accepted_at),
        "scheduled_at": iso(message.scheduled_at),
        "cancelled": message.cancelled,
        "flash": message.flash,
        "destination_port": message.destination_port,
        "recipients": recipients,
    }
