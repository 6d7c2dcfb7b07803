"""A client whose responses a test writes down, and campaigns in a state that a test needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

from prefect_mymsp.journal import CampaignKey, Journal, Outcome, PlannedChunk, text_digest
from prefect_mymsp.models import RecipientStatus, ScheduledMessage, SmsResult
from prefect_mymsp.states import ACCEPTED
from tests.clock import START

if TYPE_CHECKING:
    from prefect_mymsp.client import AsyncMyMSPClient

ACCOUNT = "0123456789abcdef0123456789abcdef"


def result(message_id: str, *recipients: str, sent_at: datetime | None = None) -> SmsResult:
    """A complete result: delivered to each recipient, or not sent yet."""
    statuses = [RecipientStatus(recipient, sent_at or START, "delivered", sent_at or START) for recipient in recipients]
    return SmsResult(message_id, len(recipients), len(recipients), len(recipients), statuses)


class ScriptedClient:
    """Stands in for the asynchronous client; one connection.

    Attributes:
        listed: What the next list shows, by message id; or the error it fails with.
        results: Results by message id, or the errors they fail with.
        calls: Requests that were made, in order.
        before_list: Called when a list is requested.
    """

    def __init__(
        self,
        listed: dict[str, datetime | None] | Exception | None = None,
        results: dict[str, SmsResult | Exception] | None = None,
    ) -> None:
        self.connections = 1
        self.zone = ZoneInfo("Europe/Stockholm")
        self.listed: dict[str, datetime | None] | Exception = {} if listed is None else listed
        self.results = results or {}
        self.calls: list[str] = []
        self.before_list: Callable[[], None] = lambda: None

    def as_client(self) -> AsyncMyMSPClient:
        return cast("Any", self)  # type: ignore[no-any-return]

    async def list_scheduled(self) -> list[ScheduledMessage]:
        self.calls.append("sendlater/getall")
        self.before_list()
        if isinstance(self.listed, Exception):
            raise self.listed
        return [ScheduledMessage(message_id, send_at) for message_id, send_at in self.listed.items()]

    async def fetch_result(self, message_id: str) -> SmsResult:
        self.calls.append(f"getSmsResult {message_id}")
        response = self.results[message_id]
        if isinstance(response, Exception):
            raise response
        return response

    async def cancel(self, message_id: str) -> None:
        self.calls.append(f"sendlater/cancel {message_id}")
        if not isinstance(self.listed, Exception):
            self.listed.pop(message_id, None)


def record(journal: Journal, pairs: Sequence[tuple[str, str]], send_at: datetime | None = None) -> CampaignKey:
    """Record a campaign of (MSISDN, text) pairs, each text in a request of its own."""
    texts = [text for _, text in pairs]
    chunk = PlannedChunk(
        rows=list(range(2, len(pairs) + 2)),
        msisdns=[msisdn for msisdn, _ in pairs],
        text_of=list(range(len(pairs))),
        texts=texts,
        digests=[text_digest(text) for text in texts],
        encodings=["GSM-7"] * len(texts),
        segments=[1] * len(texts),
    )
    with journal.recording(ACCOUNT, "autumn", source="test", sender=None, send_at=send_at) as recording:
        recording.add(chunk)
    return recording.campaign


def claim_and_settle(journal: Journal, campaign: CampaignKey, outcomes: Sequence[tuple[str, str | None]]) -> list[int]:
    """Claim a campaign's requests and settle them as (state, message id); returns their numbers in the journal."""
    run = journal.claims.start_run(campaign)
    batches = journal.claims.claim(run, requests=len(outcomes), batch_size=1)
    journal.claims.settle(
        Outcome(batch.id, state, START, message_id=message_id, reason=None if message_id else "timeout")
        for batch, (state, message_id) in zip(batches, outcomes, strict=True)
    )
    journal.claims.end_run(run)
    return [batch.id for batch in batches]


def record_accepted(
    journal: Journal, messages: Sequence[tuple[str, str, str]], send_at: datetime | None = None
) -> CampaignKey:
    """Record a campaign of (MSISDN, text, message id) that the gateway has accepted."""
    campaign = record(journal, [(msisdn, text) for msisdn, text, _ in messages], send_at)
    claim_and_settle(journal, campaign, [(ACCEPTED, message_id) for _, _, message_id in messages])
    return campaign
