"""The demo, run by ``prefect-mymsp demo`` in a process with its own Prefect home."""

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
from prefect_mymsp.terminal import ProgressBars, show_paths, show_plan, show_report, start_server

MESSAGE = (
    "Hej {förnamn}! Välkommen till Fjällkliniken i {klinik} {dag} kl {tid}. Svara STOP om du inte vill ha påminnelser."
)
_PATIENTS = Path(__file__).with_name("patients.csv")


def main() -> int:
    """Run the demo; returns the exit code."""
    from prefect_mymsp.sandbox.server import Sandbox

    console = Console(highlight=False)
    recipients = Path.cwd() / _PATIENTS.name
    shutil.copyfile(_PATIENTS, recipients)
    # Five times real time, so that deliveries arrive while you watch.
    with Sandbox(speed=5.0) as sandbox:
        credentials = MyMSPCredentials(
            user=sandbox.user, password=SecretStr(sandbox.password), base_url=sandbox.base_url
        )
        console.print(f"A sandbox gateway runs at {sandbox.url}. No message leaves this machine.")
        with console.status("Starting Prefect and checking the CSV file …"):
            start_server()
            plan = send_campaign(recipients, MESSAGE, credentials, "demo", dry_run=True)
        show_plan(console, plan)
        with ProgressBars(console) as bars, report_progress_to(bars.update):
            report = send_campaign(
                recipients, MESSAGE, credentials, "demo", wait_minutes=0.5, advanced=Advanced(quiet_minutes=4 / 60)
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
