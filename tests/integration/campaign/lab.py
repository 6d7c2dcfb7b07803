"""What the tests of tracking, updates and inbox share: a journal, a gateway, and the calls between them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.campaign import (
    CampaignContext,
    FollowOptions,
    InboxResult,
    OptOuts,
    ReconcileOptions,
    SendOptions,
    TrackingResult,
    TrackOptions,
    UpdatesResult,
    follow,
    process_updates,
    read_inbox,
    send_planned,
    track_account,
)
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.journal import CampaignKey, Counts, Journal
from prefect_mymsp.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from tests.integration.conftest import Desk, Pair

SOON = (datetime.now(UTC) + timedelta(hours=2)).replace(second=0, microsecond=0)


A, B, C, D = "46701740605", "46701740606", "46701740607", "46701740608"
NEVER = "46701740650"
LOOK = ReconcileOptions(late_arrival_s=0.3, interval_s=0.05)
DAYS = 24 * 3600 * 1_000_000


class Lab:
    """A journal in one of the databases, a gateway, and the calls between them."""

    def __init__(self, desk: Desk, sandbox: Sandbox) -> None:
        self.desk = desk
        self.sandbox = sandbox
        self.gateway = sandbox.gateway
        self.account = account_fingerprint(sandbox.base_url, sandbox.user)
        self.timeout_s = 20.0

    @property
    def journal(self) -> Journal:
        return self.desk.journal

    def client(self) -> AsyncMyMSPClient:
        return AsyncMyMSPClient(
            self.sandbox.user,
            self.sandbox.password,
            base_url=self.sandbox.base_url,
            timeout_s=self.timeout_s,
            retry_for_s=0.2,
            connections=4,
        )

    def record(self, pairs: Sequence[Pair], name: str = "autumn", *, send_at: datetime | None = None) -> CampaignKey:
        return self.desk.record(pairs, name, account=self.account, send_at=send_at)

    def send(self, campaign: CampaignKey) -> Counts:
        async def run() -> Counts:
            async with self.client() as client:
                return await send_planned(self.journal, client, campaign, SendOptions(reconcile=LOOK, lease_s=5.0))

        return asyncio.run(run())

    def sent(self, pairs: Sequence[Pair], name: str = "autumn", *, send_at: datetime | None = None) -> CampaignKey:
        campaign = self.record(pairs, name, send_at=send_at)
        self.send(campaign)
        return campaign

    def claimed(self, pairs: Sequence[Pair], send_at: datetime | None = None) -> tuple[CampaignKey, list[int]]:
        """A campaign whose requests are claimed by a run that has died."""
        run, batches = self.desk.claimed(pairs, account=self.account, send_at=send_at)
        return run.campaign, [batch.id for batch in batches]

    def track(self, journal: Journal | None = None, **options: Any) -> TrackingResult:
        async def run() -> TrackingResult:
            async with self.client() as client:
                chosen = TrackOptions(**{"reconcile": LOOK, **options})
                return await track_account(journal or self.journal, client, self.account, chosen)

        return asyncio.run(run())

    def collect(self, journal: Journal | None = None, *, deadline_s: float = 10.0) -> UpdatesResult:
        async def run() -> UpdatesResult:
            async with self.client() as client:
                with CampaignContext(journal or self.journal, client, self.account) as context:
                    return await process_updates(context, deadline_s=deadline_s, requests_per_minute=100_000)

        return asyncio.run(run())

    def read(self, journal: Journal | None = None) -> InboxResult:
        async def run() -> InboxResult:
            async with self.client() as client:
                with CampaignContext(journal or self.journal, client, self.account) as context:
                    return await read_inbox(context, OptOuts())

        return asyncio.run(run())

    def follow(self, campaign: CampaignKey, *, quiet_s: float = 10.0) -> Counts:
        async def run() -> Counts:
            options = FollowOptions(deadline_s=20, quiet_s=quiet_s, first_pause_s=0.05, longest_pause_s=0.1)
            async with self.client() as client:
                return await follow(self.journal, client, campaign, options)

        return asyncio.run(run())

    def fault(self, *faults: Fault) -> None:
        self.gateway.faults.replace(scripted=faults)

    def post(self, recipients: str, text: str, send_at: datetime | None = None) -> str:
        """Send something past the journal, as another system of the account does, and return its id.

        A request of ours whose response was lost looks the same.
        """
        when = "" if send_at is None else f"&deliverytime={send_at:%Y%m%d%H%M}%2B0"
        form = f"user={self.sandbox.user}&pwd={self.sandbox.password}&recipients={recipients}&msg={text}{when}"
        response = self.gateway.handle("POST", "sendSms", b"", form.encode()).body.decode()
        assert response.startswith("A")
        return response[1:].strip()

    def age(self, campaign: CampaignKey, days: float) -> None:
        """Make a campaign's requests that much older."""
        for column in ("claimed_at", "settled_at", "send_at"):
            self.desk.sql(
                f"UPDATE batch SET {column} = {column} - :by WHERE campaign_id = :id",
                by=int(days * DAYS),
                id=campaign.id,
            )
        for column in ("started_at", "ended_at", "lease_until"):
            self.desk.sql(
                f"UPDATE run SET {column} = {column} - :by WHERE campaign_id = :id", by=int(days * DAYS), id=campaign.id
            )
        self.desk.sql("UPDATE campaign SET created_at = created_at - :by WHERE id = :id", by=int(days * DAYS),
                      id=campaign.id)  # fmt: skip

    def requests(self, endpoint: str = "getSmsResult") -> int:
        return sum(request.endpoint == endpoint for request in self.gateway.requests)
