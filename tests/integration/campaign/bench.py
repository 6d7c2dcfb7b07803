"""A journal, a sandbox gateway and the campaigns between them, for tests of the campaign engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.campaign import (
    CampaignContext,
    Cancelled,
    FollowOptions,
    ProgressListener,
    ReconcileOptions,
    SendOptions,
    cancel_at_gateway,
    follow,
    send_planned,
)
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.journal import (
    CampaignKey,
    Counts,
    Journal,
    PlannedChunk,
    Selection,
    text_digest,
)
from prefect_mymsp.sandbox import Fault, Sandbox

#: Lookups that do not take long.
LOOK = ReconcileOptions(late_arrival_s=0.4, interval_s=0.1)
#: Lookups without a break; nothing arrives late.
EAGER = ReconcileOptions(late_arrival_s=0.0, interval_s=0.01)

A, B, C, D = "46701740605", "46701740606", "46701740607", "46701740608"
#: A delivery time.
SOON = (datetime.now(UTC) + timedelta(hours=1)).replace(second=0, microsecond=0)


class Bench:
    """A journal, the sandbox gateway, and what tests do with them."""

    def __init__(self, sandbox: Sandbox, journal: Path) -> None:
        self.sandbox = sandbox
        self.gateway = sandbox.gateway
        self.journal = Journal(journal)
        self.account = account_fingerprint(sandbox.base_url, sandbox.user)

    def record(
        self,
        messages: Sequence[tuple[str, str]],
        *,
        send_at: datetime | None = None,
        name: str = "campaign",
        batch_size: int = 500,
    ) -> CampaignKey:
        texts = list(dict.fromkeys(text for _, text in messages))
        chunk = PlannedChunk(
            rows=range(1, len(messages) + 1),
            msisdns=[msisdn for msisdn, _ in messages],
            text_of=[texts.index(text) for _, text in messages],
            texts=texts,
            digests=[text_digest(text) for text in texts],
            encodings=["GSM-7"] * len(texts),
            segments=[1] * len(texts),
        )
        with self.journal.recording(
            self.account, name, source="test", sender=None, send_at=send_at, batch_size=batch_size
        ) as recording:
            recording.add(chunk)
            return recording.campaign

    def messages(self, campaign: CampaignKey, *columns: str) -> list[tuple[object, ...]]:
        """Columns of a campaign's messages in the journal."""
        parts = self.journal.report_queries.messages(campaign.account, Selection(campaigns=[campaign.id]))
        return [row for part in parts for row in zip(*(part[name] for name in columns), strict=True)]

    def client(self, *, connections: int = 4) -> AsyncMyMSPClient:
        return AsyncMyMSPClient(
            self.sandbox.user,
            self.sandbox.password,
            base_url=self.sandbox.base_url,
            timeout_s=1.0,
            retry_for_s=0.3,
            connections=connections,
        )

    def send(
        self,
        campaign: CampaignKey,
        *,
        connections: int = 4,
        listener: ProgressListener | None = None,
        **options: object,
    ) -> Counts:
        async def run() -> Counts:
            async with self.client(connections=connections) as client:
                chosen = SendOptions(**{"reconcile": LOOK, "lease_s": 5.0, **options})  # type: ignore[arg-type]
                return await send_planned(self.journal, client, campaign, chosen, listener)

        return asyncio.run(run())

    def follow(self, campaign: CampaignKey, *, use_updates: bool = False, deadline_s: float = 8.0) -> Counts:
        async def run() -> Counts:
            options = FollowOptions(deadline_s=deadline_s, quiet_s=1.0, first_pause_s=0.1, use_updates=use_updates)
            async with self.client() as client:
                return await follow(self.journal, client, campaign, options)

        return asyncio.run(run())

    def cancel(self, campaign: CampaignKey) -> Cancelled:
        async def run() -> Cancelled:
            async with self.client() as client:
                with CampaignContext(self.journal, client, campaign.account) as context:
                    return await cancel_at_gateway(context, campaign, reconcile=LOOK)

        return asyncio.run(run())

    def fault(self, *faults: Fault) -> None:
        """Faults of the next requests, in place of earlier ones."""
        self.gateway.faults.replace(scripted=faults)

    def post(self, recipients: str, text: str, send_at: datetime) -> None:
        """Another system of the same account schedules a message."""
        form = (
            f"user={self.sandbox.user}&pwd={self.sandbox.password}&recipients={recipients}&msg={text}"
            f"&deliverytime={send_at:%Y%m%d%H%M}%2B0"
        )
        assert self.gateway.handle("POST", "sendSms", b"", form.encode()).body.startswith(b"A")

    @property
    def sent(self) -> dict[tuple[str, str], int]:
        """How often the gateway sent, or will send, a text to a recipient."""
        return {key: times for key, times in self.gateway.summary().items() if times}

    @property
    def requests(self) -> int:
        """Requests to send, accepted or not."""
        return self.request_count("sendSms")

    def request_count(self, endpoint: str) -> int:
        """Requests to an endpoint."""
        return sum(request.endpoint == endpoint for request in self.gateway.requests)


#: Faults that leave a request in doubt.
DOUBTFUL = [
    Fault("response_lost"),
    Fault("lost_before"),
    Fault("error_after"),
    Fault("error_before"),
    Fault("truncated"),
    Fault("cut_short"),
    Fault("html", processed=True),
    Fault("html", processed=False),
    Fault("empty"),
    Fault("slow", delay_s=1.5),
]


def scheduled_times(bench: Bench) -> list[datetime | None]:
    """Delivery times of the messages that are not cancelled, in the order they were accepted; None for at once."""
    times = [message["scheduled_at"] for message in bench.gateway.ledger() if not message["cancelled"]]
    return [None if time is None else datetime.fromisoformat(time) for time in times]
