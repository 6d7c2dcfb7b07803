"""Tables and progress bars for the command line.

Values from files and from received messages are shown as plain text. Square brackets are not markup, and escape
sequences are made visible.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.phone import mask_numbers, mask_value
from prefect_mymsp.reports.sanitize import escape_control_characters

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.campaign import Progress as CampaignProgress
    from prefect_mymsp.reports import CampaignReport
    from prefect_mymsp.reports.exports import Exported

#: Rows shown of a long table; the reports have all of them.
MAX_ROWS = 10
#: Seconds that Prefect's temporary server may take to start. Prefect's default, 20 s, is short on a busy machine.
_SERVER_START_TIMEOUT_S = 90


def hide_prefect_logs() -> None:
    """Keep Prefect's log out of the terminal. Prefect's server still receives it."""
    for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs", "prefect.extra"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.setLevel(logging.CRITICAL + 1)


def start_server() -> None:
    """Start the temporary server that Prefect uses when none is configured, protected from Ctrl-C.

    Ctrl-C goes to all processes of a terminal. A flow run whose server has stopped waits for it for minutes.

    Raises:
        ConfigurationError: The server did not start in time.
    """
    if PREFECT_API_URL.value() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        return
    from prefect.server.api.server import SubprocessASGIServer

    with _blocked_interrupts():  # a child process inherits the signal mask
        try:
            SubprocessASGIServer().start(timeout=_SERVER_START_TIMEOUT_S)
        except RuntimeError:
            raise ConfigurationError(
                f"Prefect's temporary server did not start within {_SERVER_START_TIMEOUT_S} s. Start a server with "
                "prefect server start, and set PREFECT_API_URL."
            ) from None


@contextlib.contextmanager
def _blocked_interrupts() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def plain_text(value: Any) -> Text:
    """A value as text without markup or control characters; empty for a missing value."""
    import pandas as pd

    return Text("" if pd.isna(value) else escape_control_characters(str(value)))


def value_table(title: str, columns: Sequence[str], rows: Iterable[Iterable[Any]], total: int | None = None) -> Table:
    """A table of values.

    Args:
        title: The heading.
        columns: Column headings.
        rows: The rows to show.
        total: Number of rows in all; the caption counts those not shown.
    """
    table = Table(*columns, title=title, title_justify="left", title_style="bold")
    for row in rows:
        table.add_row(*(plain_text(value) for value in row))
    if total is not None and total > table.row_count:
        table.caption = f"and {total - table.row_count:,} more"
        table.caption_justify = "left"
    return table


def frame_table(title: str, frame: pd.DataFrame, limit: int = MAX_ROWS) -> Table:
    """A table of the first rows of a DataFrame."""
    columns = [str(column).replace("_", " ") for column in frame.columns]
    return value_table(title, columns, frame.head(limit).itertuples(index=False, name=None), len(frame))


def key_value_table(pairs: Iterable[tuple[str, Any]]) -> Table:
    """Labels and values in two columns, without a heading."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for label, value in pairs:
        table.add_row(Text(label, style="dim"), plain_text(value))
    return table


def show_plan(console: Console, plan: CampaignReport) -> None:
    """Show the plan of a campaign."""
    console.rule("Campaign", align="left")
    console.print(key_value_table(plan.lines()))
    samples = ((sample.row, sample.recipient, sample.segments, sample.encoding, sample.text) for sample in plan.samples)
    console.print(value_table("Sample messages", ("row", "recipient", "segments", "encoding", "text"), samples))
    if plan.rejected:
        rejected = plan.rejected_rows
        if not console.is_terminal:  # output to a file or a log is masked
            rejected = rejected.assign(
                value=rejected["value"].map(mask_value, na_action="ignore"), reason=rejected["reason"].map(mask_numbers)
            )
        console.print(frame_table("Rows to fix", rejected.drop(columns="campaign")))


def show_report(console: Console, report: CampaignReport) -> None:
    """Show the result of a campaign."""
    console.rule("Result", align="left")
    console.print(key_value_table(report.lines()))
    statuses = report.deliveries["status"].dropna().value_counts()
    if len(statuses):
        console.print(value_table("Deliveries", ("status at the gateway", "messages"), statuses.items()))
    failures = report.deliveries.dropna(subset=["error"])[["row", "state", "error"]]
    if len(failures):
        console.print(frame_table("Refused or in doubt", failures))


def show_paths(console: Console, report: CampaignReport) -> None:
    """Show the paths of a campaign's report files."""
    console.print("Reports:")
    for path in (report.report_path, report.rejected_rows_path):
        if path is not None:
            console.print(plain_text(f"  {path}"), soft_wrap=True)


def show_exported(console: Console, exported: Exported) -> None:
    """Show the number of rows and the target of an export."""
    console.print(f"{exported.rows:,} rows written to")
    for path in (exported.path, exported.rejected_rows_path):
        if path is not None:
            console.print(plain_text(f"  {path}"), soft_wrap=True)


class ProgressBars:
    """Progress bars for sending and for deliveries; use it as a context manager."""

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
            for step, label in (("send", "sent"), ("follow", "delivered"))
        }

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            self._progress.stop_task(bar)
        self._progress.stop()

    def update(self, progress: CampaignProgress) -> None:
        """Move the bar of the current step."""
        self._progress.update(self._bars[progress.step], completed=progress.done, total=progress.total, visible=True)
