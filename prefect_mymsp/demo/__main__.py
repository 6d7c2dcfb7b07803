"""Run by ``prefect-mymsp demo`` in a process, and with a Prefect, of its own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from prefect_mymsp.blocks import MyMSPCredentials
from prefect_mymsp.errors import MyMSPError
from prefect_mymsp.flows import listening, send_campaign

if TYPE_CHECKING:
    from prefect_mymsp.campaign import Progress as Step
    from prefect_mymsp.campaign import Sample
    from prefect_mymsp.reports import CampaignReport

MESSAGE = (
    "Hej {förnamn}! Välkommen till Fjällkliniken i {klinik} {dag} kl {tid}. Svara STOP om du inte vill ha påminnelser."
)
_SOURCE = Path(__file__).with_name("patients.csv")
_SHOWN = 10


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
            planned = send_campaign(source, credentials, MESSAGE, "demo", dry_run=True)
        _show_plan(console, planned)
        with _Bars(console) as bars, listening(bars.show):
            report = send_campaign(source, credentials, MESSAGE, "demo", deadline_s=30.0, quiet_s=4.0)
        replies = len(sandbox.gateway.inbox())
    _show_report(console, report, replies)
    return 0 if report.delivered else 1


def _show_plan(console: Console, report: CampaignReport) -> None:
    console.rule("What will be sent", align="left")
    console.print(_counts(report))
    samples = Table(
        "row", "recipient", "SMS", "alphabet", "text", title="As recipients will read it", title_justify="left"
    )
    for sample in report.samples:
        samples.add_row(*_sample(sample))
    console.print(samples)
    rejects = _table("Rows to mend in the CSV", "row", "column", "value", "reason")
    for row in report.rejects.head(_SHOWN).itertuples(index=False):
        rejects.add_row(*(Text(str(value)) for value in row))
    console.print(rejects)


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", title_style="bold")


def _sample(sample: Sample) -> tuple[Text, ...]:
    # Text, not str: rich would take square brackets in a message for its markup.
    values = (sample.row, sample.recipient, sample.segments, sample.encoding, sample.text)
    return tuple(Text(str(value)) for value in values)


def _counts(report: CampaignReport) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for label, value in report.lines():
        table.add_row(Text(label, style="dim"), Text(value))
    return table


def _show_report(console: Console, report: CampaignReport, replies: int) -> None:
    console.rule("What happened", align="left")
    console.print(_counts(report))
    words = _table("Deliveries", "status at the gateway", "messages")
    for word, count in report.deliveries["status"].dropna().value_counts().items():
        words.add_row(Text(str(word)), str(count))
    console.print(words)
    failures = report.deliveries.dropna(subset=["error"])
    if len(failures):
        table = _table("Not accepted, or not known", "row", "state", "why")
        for row, state, why in failures[["row", "state", "error"]].head(_SHOWN).itertuples(index=False):
            table.add_row(str(row), Text(str(state)), Text(str(why)))
        console.print(table)
    console.print(f"Replies in the inbox: {replies}")
    console.print("The reports are here:")
    for path in (report.report_path, report.rejects_path):
        if path is not None:
            console.print(f"  {path}", soft_wrap=True)


class _Bars:
    """A bar for the sending and a bar for the deliveries."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._labels = {"send": "sending", "follow": "delivered"}
        self._bars = {step: self._progress.add_task(label, total=None) for step, label in self._labels.items()}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            self._progress.stop_task(bar)
        self._progress.stop()

    def show(self, step: Step) -> None:
        """Move the step's bar."""
        self._progress.update(self._bars[step.step], completed=step.done, total=step.total)


if __name__ == "__main__":
    try:
        code = main()
    except MyMSPError as failure:
        Console(stderr=True, highlight=False).print(Text(f"Error: {failure}"))
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
