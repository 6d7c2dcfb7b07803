"""Events for Prefect's automations: one for each step of a campaign, and one for each received SMS.

Events hold counts and masked numbers, and no text unless the caller includes it. Emitting an event only puts it into a
queue. Prefect sends it from a separate thread, and an unreachable Prefect affects that thread only.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from prefect import runtime
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

from prefect_mymsp.phone import mask_number

if TYPE_CHECKING:
    from prefect_mymsp.models import ReceivedMessage

CampaignStep = Literal["started", "sent", "completed", "stopped"]

_NAME_LENGTH = 200
_TEXT_LENGTH = 1600
#: The namespace in which ids of events are derived from ids of messages.
_MESSAGES = uuid.UUID("6d2f0f0c-5f53-4c7e-9d33-3c8f1e1b4a55")


def campaign_slug(campaign: str, account: str) -> str:
    """A campaign's name for ids and artifact keys: ``a`` to ``z``, digits and dashes, 10 to 50 characters.

    Different names have different slugs, also when they differ only in characters that are left out, and so does the
    same name at two accounts.

    Args:
        campaign: Its name.
        account: Fingerprint of gateway and user.
    """
    letters = unicodedata.normalize("NFKD", campaign).encode("ascii", "ignore").decode("ascii").lower()
    readable = re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:40].strip("-") or "c"
    return f"{readable}-{hashlib.blake2b(f'{account} {campaign}'.encode(), digest_size=4).hexdigest()}"


def emit_campaign_event(
    kind: CampaignStep, campaign: str, counts: Mapping[str, int], *, account: str, reason: str | None = None
) -> None:
    """Emit ``mymsp.campaign.<kind>``.

    Args:
        kind: The step that the campaign has reached.
        campaign: Its name.
        counts: Messages by state, as in a report.
        account: Fingerprint of gateway and user.
        reason: For ``stopped``, the reason, without numbers and texts.
    """
    payload = {"campaign": _line(campaign), "counts": dict(counts)}
    if reason is not None:
        payload["reason"] = _line(reason, _TEXT_LENGTH)
    _emit(f"mymsp.campaign.{kind}", _campaign_resource(campaign, account), payload)


def emit_undelivered_event(campaign: str, statuses: Mapping[str, int], *, account: str) -> None:
    """Emit ``mymsp.message.undelivered``, one event for all undelivered messages of a campaign.

    Args:
        campaign: Its name.
        statuses: How many messages have each status; nothing is emitted when there are none.
        account: Fingerprint of gateway and user.
    """
    total = sum(statuses.values())
    if total:
        counts = {_line(status, 40): count for status, count in statuses.items()}
        payload = {"campaign": _line(campaign), "undelivered": total, "statuses": counts}
        _emit("mymsp.message.undelivered", _campaign_resource(campaign, account), payload)


def emit_received_event(account: str, message: ReceivedMessage, include_text: bool = False) -> None:
    """Emit ``mymsp.message.received`` for one received SMS. Emitted twice, it has the same id and triggers once.

    Triggers match the resource's labels: ``mymsp.word`` is the text's first word in upper case, empty when there is
    none or when it may be a phone number; ``mymsp.prefix`` and ``mymsp.kind`` are the gateway's.

    Args:
        account: Fingerprint of gateway and user.
        message: The message.
        include_text: Include the text in the payload. Prefect stores events and shows them to all its users.
    """
    number = message.sender or ""
    payload: dict[str, Any] = {
        "message_id": message.message_id,
        "received_at": message.received_at and message.received_at.isoformat(),
        "word": first_word(message.text),
        "prefix": message.prefix and _line(message.prefix, 40),
        "kind": message.kind and _line(message.kind, 40),
        "sender": "•" * len(number[:20]) if any(map(str.isalpha, number)) else mask_number(number),
        "characters": len(message.text),
    }
    if include_text:
        payload["text"] = message.text[:_TEXT_LENGTH]
    resource = {
        "prefect.resource.id": f"mymsp.message.{account}.{_line(message.message_id, 40)}",
        "mymsp.account": account,
        "mymsp.word": payload["word"],
        "mymsp.prefix": payload["prefix"] or "",
        "mymsp.kind": payload["kind"] or "",
    }
    _emit(
        "mymsp.message.received", resource, payload, event_id=uuid.uuid5(_MESSAGES, f"{account} {message.message_id}")
    )


def first_word(text: str) -> str:
    """The first word of a text in upper case, without punctuation around it: a command such as STOP.

    It is empty when the word has more than 20 characters, or five digits and more: that may be a phone number.
    """
    match = re.search(r"\S+", text)
    word = re.sub(r"^[\W_]+|[\W_]+$", "", match[0]).upper() if match else ""
    is_command = re.fullmatch(r"[\w&-]{1,20}", word) and sum(map(str.isdigit, word)) < 5
    return word if is_command else ""


def _campaign_resource(campaign: str, account: str) -> dict[str, str]:
    return {
        "prefect.resource.id": f"mymsp.campaign.{campaign_slug(campaign, account)}",
        "prefect.resource.name": _line(campaign),
        "mymsp.campaign": _line(campaign),
        "mymsp.account": account,
    }


def _line(text: str, length: int = _NAME_LENGTH) -> str:
    """An untrusted text as one line without control characters, cut to a length."""
    line = re.sub(r"\s+", " ", text)
    visible = (character for character in line if unicodedata.category(character) not in {"Cc", "Cf", "Cs"})
    return "".join(visible).strip()[:length]


def in_prefect_run() -> bool:
    """Whether this code runs in a flow run or a task run of Prefect."""
    return bool(runtime.flow_run.id or runtime.task_run.id)


def _emit(event: str, resource: dict[str, str], payload: dict[str, Any], event_id: uuid.UUID | None = None) -> None:
    # Without a run and an API, Prefect would start a temporary server just for the event.
    if in_prefect_run() or PREFECT_API_URL.value():
        emit_event(event, resource, payload=payload, id=event_id)
