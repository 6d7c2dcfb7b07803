"""Write what became of messages, and what people wrote back, to files and tables. Orchestration only."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import WithJsonSchema

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, open_journal
from prefect_mymsp.errors import InputError
from prefect_mymsp.models import ReportFormat
from prefect_mymsp.settings import MyMSPSettings

if TYPE_CHECKING:
    from prefect_mymsp.journal import Journal
    from prefect_mymsp.reports.exports import DeliverySelection, Exported, FileTarget, InboxSelection, TableTarget
else:
    # Prefect evaluates a flow's annotations for its form; one that it cannot would cost all of them their types.
    Exported = Any

# Rows hold numbers and texts: nothing of them in Prefect's results.
_STEP: dict[str, Any] = {"retries": 0, "cache_policy": NO_CACHE, "persist_result": False}

# Without a type argument: with one it would be another block. A path is a string to a form.
Database = Secret | None  # type: ignore[type-arg]
Place = Annotated[Path | None, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})]


@task(name="write-delivery-report", **_STEP)
def write_delivery_report(
    journal: Journal,
    credentials: MyMSPCredentials,
    selection: DeliverySelection,
    target: FileTarget | TableTarget,
    price_per_segment: float | None,
    show_numbers: bool,
) -> Exported:
    """Read deliveries from the journal and write them to a file or a table."""
    from prefect_mymsp.reports.exports import export_deliveries

    return export_deliveries(
        journal,
        _account(credentials),
        selection,
        target,
        zone=ZoneInfo(credentials.timezone),
        price_per_segment=price_per_segment,
        show_numbers=show_numbers,
    )


@task(name="write-inbox-report", **_STEP)
def write_inbox_report(
    journal: Journal,
    credentials: MyMSPCredentials,
    selection: InboxSelection,
    target: FileTarget | TableTarget,
    show_numbers: bool,
) -> Exported:
    """Read received messages from the journal and write them to a file or a table."""
    from prefect_mymsp.reports.exports import export_inbox

    zone = ZoneInfo(credentials.timezone)
    return export_inbox(journal, _account(credentials), selection, target, zone=zone, show_numbers=show_numbers)


@flow(name="export-delivery-report", retries=0, persist_result=False)
def export_delivery_report(
    credentials: MyMSPCredentials,
    campaign: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    new_only: bool = False,
    format: ReportFormat = ReportFormat.CSV,  # noqa: A002  what everybody calls it
    path: Place = None,
    database: Database = None,
    table: str | None = None,
    update: bool = False,
    show_numbers: bool = False,
    price_per_segment: float | None = None,
    journal: CampaignJournal | None = None,
) -> Exported:
    """Write what became of messages: of one campaign, of a period, or what is new since the last export.

    A file appears whole or not at all. A row lands in a table once, however often or concurrently this runs: those
    whose outcome will not change any more, unless ``update`` is asked for. An outcome is final when the gateway has
    refused or delivered the message, archived or cancelled it, when a person has resolved it, and when the message is
    no longer tracked: ``tracking_days`` after its delivery time, 7 unless the setting
    ``PREFECT_INTEGRATIONS_MYMSP_TRACKING_DAYS`` says otherwise.

    Args:
        credentials: The gateway account.
        campaign: The name of one campaign; the default is all of the account's.
        since: Only messages that left then or later, with a time zone.
        until: Only messages that left before then, with a time zone.
        new_only: Only messages whose outcome has become final since the last such export to the same path or table;
            each is in one of them. What was written is remembered only when it is there. Run one at a time.
        format: csv, parquet, excel, html (a page to look at) or sql (a table).
        path: The file, or the folder for a file with a name of its own: one that is there, or a name without a
            suffix; the default is the folder for reports.
        database: For sql: a Secret block that holds an SQLAlchemy URL of SQLite or PostgreSQL.
        table: For sql: the table, with a schema before a dot where there are schemas.
        update: For sql: also messages whose outcome may still change; later exports bring them up to date.
        show_numbers: Write the numbers of the people in full; the default is to mask them.
        price_per_segment: What one SMS costs; shown as cost in html and in the campaigns sheet of excel.
        journal: Where it is remembered; the default is the journal that the settings name.

    Returns:
        How many rows were written, and where.

    Raises:
        InputError: There is no such campaign, or what was asked for does not fit together; nothing was written.
        ConfigurationError: Something the format needs is not installed, or the database's URL cannot be used.
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
    target = _target(format, path, database, table, update=update)
    if update and format is not ReportFormat.SQL:
        raise InputError("update is for format='sql'; a file always shows how things stand.")
    if price_per_segment is not None and not price_per_segment >= 0:
        raise InputError("price_per_segment is negative.")
    with open_journal(journal) as opened:
        done: Exported = write_delivery_report(opened, credentials, selection, target, price_per_segment, show_numbers)
    _tell(done, format, "deliveries")
    return done


@flow(name="export-inbox-report", retries=0, persist_result=False)
def export_inbox_report(
    credentials: MyMSPCredentials,
    since: datetime | None = None,
    until: datetime | None = None,
    new_only: bool = False,
    format: ReportFormat = ReportFormat.CSV,  # noqa: A002  what everybody calls it
    path: Place = None,
    database: Database = None,
    table: str | None = None,
    show_numbers: bool = False,
    journal: CampaignJournal | None = None,
) -> Exported:
    """Write the messages that people wrote: all of them, of a period, or what is new since the last export.

    It writes what the journal holds; :func:`collect_inbox` fetches it from the gateway. A row lands in a table once,
    however often or concurrently this runs.

    Args:
        credentials: The gateway account.
        since: Only messages received then or later, with a time zone.
        until: Only messages received before then, with a time zone.
        new_only: Only what came into the journal since the last such export to the same path or table; each message
            is in one of them. What was written is remembered only when it is there. Run one at a time.
        format: csv, parquet, excel, html (a page to look at) or sql (a table).
        path: The file, or the folder for a file with a name of its own: one that is there, or a name without a
            suffix; the default is the folder for reports.
        database: For sql: a Secret block that holds an SQLAlchemy URL of SQLite or PostgreSQL.
        table: For sql: the table, with a schema before a dot where there are schemas.
        show_numbers: Write the numbers of the people in full; the default is to mask them.
        journal: Where it is remembered; the default is the journal that the settings name.

    Returns:
        How many rows were written, and where.

    Raises:
        InputError: What was asked for does not fit together; nothing was written.
        ConfigurationError: Something the format needs is not installed, or the database's URL cannot be used.
        ExportError: The file or the table cannot be written.
        JournalError: The journal cannot be read.
    """
    from prefect_mymsp.reports.exports import InboxSelection

    selection = InboxSelection(since, until, new_only=new_only)
    selection.check()
    target = _target(format, path, database, table)
    with open_journal(journal) as opened:
        done: Exported = write_inbox_report(opened, credentials, selection, target, show_numbers)
    _tell(done, format, "received messages")
    return done


def _account(credentials: MyMSPCredentials) -> str:
    from prefect_mymsp.account import account_fingerprint

    return account_fingerprint(credentials.base_url, credentials.user)


def _target(
    format: ReportFormat,  # noqa: A002
    path: Path | None,
    database: Database,
    table: str | None,
    *,
    update: bool = False,
) -> FileTarget | TableTarget:
    from prefect_mymsp.reports.exports import FileTarget, TableTarget

    target: FileTarget | TableTarget
    url = None if database is None else str(database.get())
    if format is ReportFormat.SQL:
        if path is not None:
            raise InputError("format='sql' writes to a table: leave path out, or choose another format.")
        target = TableTarget(url or "", table or "", include_pending=update)
    elif url or table:
        raise InputError("database and table are for format='sql'.")
    else:
        target = FileTarget(format, path, MyMSPSettings().reports_folder())
    target.check()
    return target


def _tell(done: Exported, format: ReportFormat, what: str) -> None:  # noqa: A002
    """Say in the log, and in an artifact, what was written where."""
    from prefect_mymsp.reports.sanitize import escape_control_characters

    logger = get_run_logger()
    where = f"table {done.table}" if done.path is None else str(done.path.absolute())
    logger.info("%d %s are in %r.", done.rows, what, where)
    shown = escape_control_characters(where).replace("`", "'").replace("\n", " ")
    lines = [f"**{done.rows:,}** {what} as {format.value} in", "", f"`{shown}`"]
    if done.rejected_rows_path is not None:
        shown = escape_control_characters(str(done.rejected_rows_path)).replace("`", "'").replace("\n", " ")
        lines += ["", "and the rows that could not be sent in", "", f"`{shown}`"]
    for chart in done.charts:  # both of Prefect's user interfaces show images with such addresses
        lines += ["", f"### {chart.title}", "", f"![{chart.description}]({chart.data_uri})"]
    try:
        create_markdown_artifact(markdown="\n".join(lines), key=f"mymsp-export-{what.replace(' ', '-')}")
    except Exception as error:  # noqa: BLE001  the report is written, whatever Prefect can show of it
        logger.warning("The report is written; that it is there cannot be shown in Prefect (%s).", type(error).__name__)
