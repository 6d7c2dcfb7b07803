"""What Prefect's Automations can act on: an event a step of a campaign, and one a received SMS.

Events hold counts and masked numbers, never a text unless it is asked for. Emitting one costs a queue's put: Prefect
delivers it from a thread of its own, and a Prefect that cannot be reached is that thread's trouble alone.
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
#: Makes ids of events out of ids of messages.
_MESSAGES = uuid.UUID("6d2f0f0c-5f53-4c7e-9d33-3c8f1e1b4a55")


def campaign_slug(campaign: str, account: str) -> str:
    """A campaign's name as ids and artifact keys have it: ``a`` to ``z``, digits and dashes, 10 to 50 characters.

    Names that differ only in what is lost here, and one name at two accounts, have different slugs.

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
        kind: How far the campaign has come.
        campaign: Its name.
        counts: Messages by state, as in a report.
        account: Fingerprint of gateway and user.
        reason: Why it stopped, for ``stopped``; without numbers and texts.
    """
    payload = {"campaign": _line(campaign), "counts": dict(counts)}
    if reason is not None:
        payload["reason"] = _line(reason, _TEXT_LENGTH)
    _emit(f"mymsp.campaign.{kind}", _campaign(campaign, account), payload)


def emit_undelivered_event(campaign: str, statuses: Mapping[str, int], *, account: str) -> None:
    """Emit ``mymsp.message.undelivered``: one for all messages that a pass over a campaign found undelivered.

    Args:
        campaign: Its name.
        statuses: How many messages have which of the gateway's words; nothing is emitted when there are none.
        account: Fingerprint of gateway and user.
    """
    total = sum(statuses.values())
    if total:
        words = {_line(word, 40): count for word, count in statuses.items()}
        payload = {"campaign": _line(campaign), "undelivered": total, "statuses": words}
        _emit("mymsp.message.undelivered", _campaign(campaign, account), payload)


def emit_received_event(account: str, message: ReceivedMessage, include_text: bool = False) -> None:
    """Emit ``mymsp.message.received`` for one received SMS; emitted again, it is the same event and starts nothing.

    The resource's labels are made to be matched: ``mymsp.word`` is the text's first word in upper case, empty when
    there is none or when it may be somebody's number; ``mymsp.prefix`` and ``mymsp.kind`` are the gateway's.

    Args:
        account: Fingerprint of gateway and user.
        message: The message.
        include_text: Whether the payload holds the text. Prefect keeps events, and shows them to all its users.
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
    """The first word of a text in upper case, or nothing: what people send to have something done.

    Punctuation around it is left away. A word of more than 20 characters, or with five digits, is no such word but
    perhaps somebody's number.
    """
    found = re.search(r"\S+", text)
    word = re.sub(r"^[\W_]+|[\W_]+$", "", found[0]).upper() if found else ""
    usable = re.fullmatch(r"[\w&-]{1,20}", word) and sum(map(str.isdigit, word)) < 5
    return word if usable else ""


def _campaign(campaign: str, account: str) -> dict[str, str]:
    return {
        "prefect.resource.id": f"mymsp.campaign.{campaign_slug(campaign, account)}",
        "prefect.resource.name": _line(campaign),
        "mymsp.campaign": _line(campaign),
        "mymsp.account": account,
    }


def _line(text: str, length: int = _NAME_LENGTH) -> str:
    """A text of somebody else's as one line without control characters, and not longer than that."""
    visible = ("" if unicodedata.category(one) in {"Cc", "Cf", "Cs"} else one for one in re.sub(r"\s+", " ", text))
    return "".join(visible).strip()[:length]


def in_prefect_run() -> bool:
    """Whether a flow run or task run of Prefect's is under way here."""
    return bool(runtime.flow_run.id or runtime.task_run.id)


def _emit(event: str, resource: dict[str, str], payload: dict[str, Any], event_id: uuid.UUID | None = None) -> None:
    # Elsewhere Prefect would start a server of its own, for seconds, to tell it what nobody will ask for.
    if in_prefect_run() or PREFECT_API_URL.value():
        emit_event(event, resource, payload=payload, id=event_id)
