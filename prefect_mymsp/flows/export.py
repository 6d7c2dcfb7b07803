"""Export deliveries and received messages to files and database tables."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from prefect_mymsp.blocks import MyMSPCredentials, open_journal
from prefect_mymsp.errors import InputError
from prefect_mymsp.flows.form import Choice, label
from prefect_mymsp.flows.options import Table
from prefect_mymsp.flows.parameters import Credentials, Journal, load_credentials
from prefect_mymsp.flows.task_support import STEP
from prefect_mymsp.models import ReportFormat
from prefect_mymsp.settings import MyMSPSettings

if TYPE_CHECKING:
    from prefect_mymsp.journal import Journal as OpenJournal
    from prefect_mymsp.reports.exports import DeliverySelection, Exported, FileTarget, InboxSelection, TableTarget
else:
    # Prefect evaluates the annotations of a flow for its form. One that cannot be evaluated would hide all of them.
    Exported = Any

Format = Annotated[ReportFormat, label("Format")]
OutputPath = Annotated[
    str | Path | None, Choice("File or folder", "File or folder", "Folder for reports"), label("Path")
]
OutputTable = Annotated[Table | None, Choice("", "Write a file"), label("Table")]
Since = Annotated[datetime | None, Choice("From a time", "From the beginning"), label("Since")]
Until = Annotated[datetime | None, Choice("Before a time", "Up to now"), label("Until")]
NewOnly = Annotated[bool, label("New only")]
ShowNumbers = Annotated[bool, label("Show numbers")]


@task(name="write-delivery-report", **STEP)
def write_delivery_report(
    journal: OpenJournal,
    credentials: MyMSPCredentials,
    selection: DeliverySelection,
    target: FileTarget | TableTarget,
    price: float | None,
    show_numbers: bool,
) -> Exported:
    """Read deliveries from the journal and write them to a file or a table."""
    from prefect_mymsp.reports.exports import export_deliveries

    return export_deliveries(
        journal,
        credentials.account,
        selection,
        target,
        zone=ZoneInfo(credentials.timezone),
        price_per_segment=price,
        show_numbers=show_numbers,
    )


@task(name="write-inbox-report", **STEP)
def write_inbox_report(
    journal: OpenJournal,
    credentials: MyMSPCredentials,
    selection: InboxSelection,
    target: FileTarget | TableTarget,
    show_numbers: bool,
) -> Exported:
    """Read received messages from the journal and write them to a file or a table."""
    from prefect_mymsp.reports.exports import export_inbox

    zone = ZoneInfo(credentials.timezone)
    return export_inbox(journal, credentials.account, selection, target, zone=zone, show_numbers=show_numbers)


@flow(name="export-delivery-report", retries=0, persist_result=False)
def export_delivery_report(
    campaign: Annotated[str | None, Choice("One campaign", "All campaigns"), label("Campaign")] = None,
    credentials: Credentials = "default",
    format: Format = "csv",  # noqa: A002  the usual name
    path: OutputPath = None,
    table: OutputTable = None,
    since: Since = None,
    until: Until = None,
    new_only: NewOnly = False,
    show_numbers: ShowNumbers = False,
    price: Annotated[float | None, Choice("Price", "Show no cost"), label("Price")] = None,
    journal: Journal = None,
) -> Exported:
    """Export deliveries: of one campaign, of a period, or those that are new since the last export.

    A file appears complete or not at all. A table receives each row once, however often or concurrently this flow runs,
    as soon as the outcome is final; with ``include_pending`` other rows are added too and updated later. An outcome is
    final when the message was refused, delivered, archived by the gateway or cancelled, when a person resolved it, or
    when the message is no longer tracked: ``tracking_days`` after its delivery time. The setting
    ``PREFECT_INTEGRATIONS_MYMSP_TRACKING_DAYS`` is 7 by default.

    Args:
        campaign: Name of the campaign to report on.
        credentials: Gateway account that sent the messages.
        format: Kind of file. html is a page to read.
        path: Where to write the file. In a folder, the file is named automatically.
        table: Add rows to a database table instead of writing a file.
        since: Only messages sent at this time or later, with a time zone.
        until: Only messages sent before this time, with a time zone.
        new_only: Only outcomes that are final and were not in an earlier export to the same place. Run one at a time.
        show_numbers: Write phone numbers in full instead of masking them.
        price: Price of one SMS segment, to show the cost in html and excel.
        journal: Database that records what was sent.

    Returns:
        How many rows were written, and where.

    Raises:
        InputError: The campaign does not exist, or the options contradict each other. Nothing was written.
        ConfigurationError: A package for the format is not installed, or the database's URL is not valid.
        ExportError: The file or the table cannot be written.
        JournalError: The journal cannot be read.
    """
    from prefect_mymsp.reports.exports import DeliverySelection

    selection = DeliverySelection(
        (campaign or "").strip() or None,
        since,
        until,
        new_only=new_only,
        tracking_days=MyMSPSettings().tracking_days,
    )
    selection.check()
    if price is not None and not price >= 0:
        raise InputError("price must not be below zero.")
    target = _target(format, path, table)
    account = load_credentials(credentials)
    with open_journal(journal) as opened:
        exported: Exported = write_delivery_report(opened, account, selection, target, price, show_numbers)
    _announce(exported, target, "deliveries")
    return exported


@flow(name="export-inbox-report", retries=0, persist_result=False)
def export_inbox_report(
    credentials: Credentials = "default",
    format: Format = "csv",  # noqa: A002  the usual name
    path: OutputPath = None,
    table: OutputTable = None,
    since: Since = None,
    until: Until = None,
    new_only: NewOnly = False,
    show_numbers: ShowNumbers = False,
    journal: Journal = None,
) -> Exported:
    """Export received messages: all of them, of a period, or those that are new since the last export.

    It exports what the journal holds; :func:`collect_inbox` fetches it from the gateway. A table receives each row
    once, however often or concurrently this flow runs.

    Args:
        credentials: Gateway account that received the messages.
        format: Kind of file. html is a page to read.
        path: Where to write the file. In a folder, the file is named automatically.
        table: Add rows to a database table instead of writing a file.
        since: Only messages received at this time or later, with a time zone.
        until: Only messages received before this time, with a time zone.
        new_only: Only messages that were not in an earlier export to the same place. Run one at a time.
        show_numbers: Write phone numbers in full instead of masking them.
        journal: Database that stores the messages.

    Returns:
        How many rows were written, and where.

    Raises:
        InputError: The options contradict each other. Nothing was written.
        ConfigurationError: A package for the format is not installed, or the database's URL is not valid.
        ExportError: The file or the table cannot be written.
        JournalError: The journal cannot be read.
    """
    from prefect_mymsp.reports.exports import InboxSelection

    selection = InboxSelection(since, until, new_only=new_only)
    selection.check()
    if table is not None and table.include_pending:
        raise InputError("include_pending is for deliveries. A received message is never pending.")
    target = _target(format, path, table)
    account = load_credentials(credentials)
    with open_journal(journal) as opened:
        exported: Exported = write_inbox_report(opened, account, selection, target, show_numbers)
    _announce(exported, target, "received messages")
    return exported


def _target(format: ReportFormat, path: str | Path | None, table: Table | None) -> FileTarget | TableTarget:  # noqa: A002
    """Where the export goes, checked.

    Raises:
        InputError: Both a file and a table are set, or the file's name contradicts the format.
    """
    from prefect_mymsp.reports.exports import FileTarget, TableTarget

    target: FileTarget | TableTarget
    if table is None:
        target = FileTarget(format, None if path is None else Path(path), MyMSPSettings().reports_folder())
    else:
        if path is not None:
            raise InputError("path and table cannot be combined. Set one of them.")
        target = TableTarget(str(table.database.get()), table.name, include_pending=table.include_pending)
    target.check()
    return target


def _announce(exported: Exported, target: FileTarget | TableTarget, content: str) -> None:
    """Log the number of rows and the target, and create an artifact with both."""
    from prefect_mymsp.reports.sanitize import escape_control_characters

    def code(place: object) -> str:
        shown = escape_control_characters(str(place)).replace("`", "'").replace("\n", " ")
        return f"`{shown}`"

    logger = get_run_logger()
    place = f"table {exported.table}" if exported.path is None else str(exported.path.absolute())
    logger.info("%d %s written to %r.", exported.rows, content, place)
    kind = "" if exported.path is None else f" as {exported.path.suffix.removeprefix('.')}"
    lines = [f"**{exported.rows:,}** {content}{kind}, written to", "", code(place)]
    if exported.rejected_rows_path is not None:
        lines += ["", "Rejected rows, written to", "", code(exported.rejected_rows_path)]
    for chart in exported.charts:  # both of Prefect's user interfaces show images with data URIs
        lines += ["", f"### {chart.title}", "", f"![{chart.description}]({chart.data_uri})"]
    try:
        create_markdown_artifact(markdown="\n".join(lines), key=f"mymsp-export-{content.replace(' ', '-')}")
    except Exception as error:  # noqa: BLE001  the export is done, whatever Prefect's API does
        logger.warning("The export was written, but its artifact could not be created (%s).", type(error).__name__)
