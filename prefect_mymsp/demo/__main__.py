"""Run by ``prefect-mymsp demo`` in a process, and with a Prefect, of its own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console
from rich.text import Text

from prefect_mymsp.blocks import MyMSPCredentials
from prefect_mymsp.errors import MyMSPError
from prefect_mymsp.flows import Advanced, report_progress_to, send_campaign
from prefect_mymsp.terminal import ProgressBars, show_paths, show_plan, show_report

MESSAGE = (
    "Hej {förnamn}! Välkommen till Fjällkliniken i {klinik} {dag} kl {tid}. Svara STOP om du inte vill ha påminnelser."
)
_SOURCE = Path(__file__).with_name("patients.csv")


def main() -> int:
    """The whole demonstration; 0 when it went as it should."""
    from prefect_mymsp.sandbox.server import Sandbox

    console = Console(highlight=False)
    source = Path.cwd() / _SOURCE.name
    shutil.copyfile(_SOURCE, source)
    # Five times as fast as life: deliveries come in while you look.
    with Sandbox(speed=5.0) as sandbox:
        credentials = MyMSPCredentials(
            user=sandbox.user, password=SecretStr(sandbox.password), base_url=sandbox.base_url
        )
        console.print(f"A gateway on this machine listens at {sandbox.url}; nothing leaves the machine.")
        with console.status("Starting Prefect and reading the CSV …"):
            planned = send_campaign(source, MESSAGE, credentials, "demo", dry_run=True)
        show_plan(console, planned)
        with ProgressBars(console) as bars, report_progress_to(bars.show):
            report = send_campaign(
                source, MESSAGE, credentials, "demo", wait_minutes=0.5, advanced=Advanced(quiet_minutes=4 / 60)
            )
        replies = len(sandbox.gateway.inbox())
    show_report(console, report)
    console.print(f"Replies in the inbox: {replies}")
    show_paths(console, report)
    return 0 if report.delivered else 1


if __name__ == "__main__":
    try:
        code = main()
    except MyMSPError as failure:
        Console(stderr=True, highlight=False).print(Text(f"Error: {failure}"))
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
