"""A process that sends a campaign, for tests that kill it at any moment."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from prefect_mymsp.campaign import ReconcileOptions, SendOptions, send_planned
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.errors import CampaignCancelledError, CampaignStoppedError
from prefect_mymsp.journal import Journal

#: Exit codes.
STOPPED, CANCELLED = 5, 6


async def send(job: dict[str, Any]) -> None:
    options = SendOptions(
        batch_size=job["batch_size"],
        max_consecutive_failures=1000,
        lease_s=job["lease_s"],
        reconcile=ReconcileOptions(**job["reconcile"]),
    )
    with Journal(job["journal"]) as journal:
        campaign = journal.campaigns.get(job["account"], job["campaign"])
        assert campaign is not None
        async with AsyncMyMSPClient(
            "demo", "demo-password", base_url=job["base_url"], timeout_s=job["timeout_s"], connections=16
        ) as client:
            await send_planned(journal, client, campaign, options)


def main(job: dict[str, Any]) -> None:
    """Send the campaign. The exit code says how that ended."""
    try:
        asyncio.run(send(job))
    except CampaignStoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(STOPPED)
    except CampaignCancelledError:
        sys.exit(CANCELLED)
