"""What campaigns, their doubts and their answers look like in a terminal: tables and bars, for the commands.

Everything that comes from files or from strangers is shown as plain text: a square bracket in a message is no markup,
and an escape sequence repaints nothing.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from prefect_mymsp.phone import mask_numbers, mask_value
from prefect_mymsp.reports.sanitize import escape_control_characters

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.campaign import Progress as Step
    from prefect_mymsp.reports import CampaignReport

#: Rows of a table at most; the files have the others.
SHOWN = 10


def quiet_prefect() -> None:
    """Keep Prefect's log out of the terminal, where the commands speak; its server gets it all the same."""
    for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs", "prefect.extra"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(logging.CRITICAL + 1)


def start_server() -> None:
    """Start the server that Prefect starts by itself where none is named, out of Ctrl-C's reach.

    Ctrl-C goes to all processes of a terminal. A run whose server has gone waits for it for minutes before it ends.
    """
    if PREFECT_API_URL.value() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        return
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return
    from prefect.server.api.server import SubprocessASGIServer

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a process begins with its parent's mask
    try:
        SubprocessASGIServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def plain(value: Any) -> Text:
    """A value as text that does nothing; empty for one that is missing."""
    import pandas as pd

    return Text("" if value is None or value is pd.NA or value is pd.NaT else escape_control_characters(str(value)))


def table(title: str, *columns: str) -> Table:
    """An empty table."""
    return Table(*columns, title=title, title_justify="left", title_style="bold")


def rows(title: str, columns: Sequence[str], values: Iterable[Iterable[Any]], total: int | None = None) -> Table:
    """A table of values; with a total, a line that says how many more there are."""
    shown, count = table(title, *columns), 0
    for count, row in enumerate(values, start=1):  # noqa: B007
        shown.add_row(*(plain(value) for value in row))
    if total is not None and total > count:
        shown.caption = f"and {total - count:,} more"
        shown.caption_justify = "left"
    return shown


def frame(title: str, data: pd.DataFrame, limit: int = SHOWN) -> Table:
    """The first rows of a DataFrame."""
    columns = [str(column).replace("_", " ") for column in data.columns]
    return rows(title, columns, data.head(limit).itertuples(index=False, name=None), len(data))


def pairs(told: Iterable[tuple[str, Any]]) -> Table:
    """Labels and their values, one below the other."""
    shown = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for label, value in told:
        shown.add_row(Text(label, style="dim"), plain(value))
    return shown


def show_plan(console: Console, report: CampaignReport) -> None:
    """What a campaign would send."""
    console.rule("What will be sent", align="left")
    console.print(pairs(report.lines()))
    samples = ((one.row, one.recipient, one.segments, one.encoding, one.text) for one in report.samples)
    columns = ("row", "recipient", "SMS", "alphabet", "text")
    console.print(rows("As recipients will read it", columns, samples))
    if report.rejected:
        shown = report.rejected_rows
        if not console.is_terminal:  # what no person looks at is a log
            shown = shown.assign(
                value=shown["value"].map(mask_value, na_action="ignore"), reason=shown["reason"].map(mask_numbers)
            )
        console.print(frame("Rows to mend in the CSV", shown))


def show_report(console: Console, report: CampaignReport) -> None:
    """What became of a campaign."""
    console.rule("What happened", align="left")
    console.print(pairs(report.lines()))
    words = report.deliveries["status"].dropna().value_counts()
    if len(words):
        console.print(rows("Deliveries", ("status at the gateway", "messages"), words.items()))
    failures = report.deliveries.dropna(subset=["error"])[["row", "state", "error"]]
    if len(failures):
        console.print(frame("Not accepted, or not known", failures))


def show_paths(console: Console, report: CampaignReport) -> None:
    """Where a campaign's files are."""
    console.print("The reports are here:")
    for path in (report.report_path, report.rejected_rows_path):
        if path is not None:
            console.print(plain(f"  {path}"), soft_wrap=True)


class ProgressBars:
    """A bar for the sending and a bar for the deliveries; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._bars = {
            step: self._progress.add_task(label, total=None, visible=False)
            for step, label in (("send", "sending"), ("follow", "delivered"))
        }

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            self._progress.stop_task(bar)
        self._progress.stop()

    def show(self, step: Step) -> None:
        """Move the step's bar."""
        self._progress.update(self._bars[step.step], completed=step.done, total=step.total, visible=True)
