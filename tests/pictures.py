"""Take the pictures of reports for the documentation: ``python -m tests.pictures``.

It sends the demo's campaign through a sandbox and opens the reports in Chromium.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.campaign import FollowOptions, SendOptions, follow, plan_campaign, send_planned
from prefect_mymsp.client import AsyncMyMSPClient, check_timezone
from prefect_mymsp.demo.__main__ import MESSAGE
from prefect_mymsp.journal import CampaignKey, Journal
from prefect_mymsp.recipients import open_source
from prefect_mymsp.reports.exports import (
    DeliverySelection,
    FileTarget,
    InboxSelection,
    export_deliveries,
    export_inbox,
)
from prefect_mymsp.sandbox import Sandbox
from prefect_mymsp.templates import Template
from tests.chromium import Chromium

ROOT = Path(__file__).parents[1]
PATIENTS = ROOT / "prefect_mymsp" / "demo" / "patients.csv"
IMAGES = ROOT / "docs" / "images"
NAME = "Påminnelser vecka 49"
ZONE = check_timezone("Europe/Stockholm")
REPLIES = ("Tack, jag kommer!", "Kan jag boka om till torsdag?", "Ok 👍", "AVBOKA", "Hittar ni min remiss?")


def main() -> None:
    """Send the campaign, write the reports and take the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Sandbox() as sandbox, Journal(folder / "journal.db") as journal:
            _send(sandbox, journal)
            _reply(sandbox, journal)
            account = account_fingerprint(sandbox.base_url, sandbox.user)
            delivery = FileTarget("html", folder / "delivery.html", folder)
            inbox = FileTarget("html", folder / "inbox.html", folder)
            export_deliveries(journal, account, DeliverySelection(NAME), delivery, zone=ZONE, price_per_segment=0.42)
            export_inbox(journal, account, InboxSelection(), inbox, zone=ZONE)
        IMAGES.mkdir(exist_ok=True)
        with Chromium() as browsing:
            for file, page, width, height, dark, of in (
                ("report.png", "delivery", 1100, 1300, False, "body"),
                ("report-when.png", "delivery", 1100, 900, True, "[aria-labelledby=delivery-times]"),
                ("report-phone.png", "delivery", 390, 844, False, "body"),
                ("inbox.png", "inbox", 1100, 900, False, "body"),
            ):
                browsing.open((folder / f"{page}.html").as_uri(), width=width, dark=dark)
                browsing.picture(IMAGES / file, height=height, of=of)
                print((IMAGES / file).relative_to(ROOT))


def _send(sandbox: Sandbox, journal: Journal) -> CampaignKey:
    sandbox.gateway.configure({"sent_after_s": 5, "delivered_after_s": 600})
    account = account_fingerprint(sandbox.base_url, sandbox.user)
    with journal.recording(account, NAME, source=PATIENTS.name, sender=None, send_at=None) as recording:
        plan_campaign(open_source(PATIENTS), Template(MESSAGE), recording)

    async def run() -> None:
        client = AsyncMyMSPClient(sandbox.user, sandbox.password, base_url=sandbox.base_url, timeout_s=5.0)
        async with client:
            await send_planned(journal, client, recording.campaign, SendOptions())
            sandbox.gateway.clock.advance(3600)
            await follow(journal, client, recording.campaign, FollowOptions(quiet_s=1.0))

    asyncio.run(run())
    return recording.campaign


def _reply(sandbox: Sandbox, journal: Journal) -> None:
    for number in range(40):
        sandbox.gateway.receive(
            originator=str(46701740605 + number), text=REPLIES[number % len(REPLIES)], prefix="FJALL"
        )
        sandbox.gateway.clock.advance(60 * (1 + number % 7))
    account = account_fingerprint(sandbox.base_url, sandbox.user)
    inbox = sandbox.gateway.inbox()
    journal.inbox.store(account, inbox, lambda message: message.text.strip().upper() == "STOP")


if __name__ == "__main__":
    main()
