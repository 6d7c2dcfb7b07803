"""The one way from the journal to a file or a table: read a selection, write it to a target, then move the bookmark."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_mymsp.journal import Selection
from prefect_mymsp.journal.schema import EPOCH, MICROSECOND, microseconds
from prefect_mymsp.models import ReportFormat
from prefect_mymsp.reports.frames import (
    REJECTED_ROW_DTYPES,
    campaigns_frame,
    deliveries,
    empty_frame,
    inbox_frame,
    read_deliveries,
    recorded_rejected_rows_frame,
    rejected_rows_frame,
)
from prefect_mymsp.reports.new_only import OVERLAP, ExportMark
from prefect_mymsp.reports.sanitize import mask_frame
from prefect_mymsp.reports.selections import DeliverySelection, InboxSelection
from prefect_mymsp.reports.tables import append_rows
from prefect_mymsp.reports.targets import FileTarget, TableTarget
from prefect_mymsp.reports.writers import file_name, write_csv, write_excel, write_parquet, write_text
from prefect_mymsp.times import floor_minute

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    import pandas as pd
    import pyarrow as pa

    from prefect_mymsp.journal import CampaignSummary, Journal
    from prefect_mymsp.reports.campaign_report import CampaignReport
    from prefect_mymsp.reports.html.page import RenderedPage

__all__ = [
    "DeliverySelection",
    "Exported",
    "ExportedChart",
    "FileTarget",
    "InboxSelection",
    "TableTarget",
    "export_deliveries",
    "export_inbox",
    "write_campaign_report",
    "write_rejected_rows",
]


@dataclass(frozen=True)
class ExportedChart:
    """A chart of an exported page, for places that show images.

    Attributes:
        title: Its heading.
        description: Its content, in one sentence.
        data_uri: The image, as an address that holds all of it.
    """

    title: str
    description: str
    data_uri: str


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        rows: Rows in the file; for a table, rows that were inserted or updated.
        path: The file; None for a table.
        table: The table; None for a file.
        rejected_rows_path: The rows that cannot be sent, next to a CSV or Parquet file; None when there are none.
        charts: The charts of an HTML page.
    """

    rows: int
    path: Path | None = None
    table: str | None = None
    rejected_rows_path: Path | None = None
    charts: tuple[ExportedChart, ...] = field(default=(), repr=False)


# ---- deliveries ------------------------------------------------------------------------------------------------------


def export_deliveries(
    journal: Journal,
    account: str,
    selection: DeliverySelection,
    target: FileTarget | TableTarget,
    *,
    zone: ZoneInfo,
    show_numbers: bool = False,
    price_per_segment: float | None = None,
) -> Exported:
    """Write deliveries of an account to a file or a table.

    With ``new_only`` the bookmark moves after the rows are written: a failed export is repeated by the next one. Two
    such exports to the same target must not run at the same time.

    Args:
        journal: Where they are recorded.
        account: See :func:`~prefect_mymsp.account.account_fingerprint`.
        selection: Which ones.
        target: Where they go.
        zone: The zone of an HTML page.
        show_numbers: Write phone numbers in full instead of masking them.
        price_per_segment: What one segment costs, for an HTML page and the campaigns of an Excel file.

    Raises:
        ConfigurationError: A package that the format needs is not installed, or the database's URL is unusable.
        InputError: The account has no such campaign, the file already exists and holds an earlier export's rows, or
            Excel cannot hold that many rows.
        ExportError: The file or the table cannot be written.
        JournalError: The journal cannot be read.
    """
    read = _read_deliveries(journal, account, selection, target)
    if isinstance(target, TableTarget):
        keys = _row_keys(account, read.frame, ("campaign", "recipient", "text_key"))
        exported = _write_table(account, read.frame, target, keys, read.final, read.at, show_numbers=show_numbers)
    else:
        exported = _write_delivery_file(
            journal, read, selection, target, zone, price_per_segment, show_numbers=show_numbers
        )
    if read.mark is not None:
        journal.bookmarks.put(account, target.bookmark("deliveries", selection.campaign), read.mark.dump())
    return exported


@dataclass(frozen=True)
class _Deliveries:
    """The deliveries of one export.

    Attributes:
        account: Whose they are.
        frame: In :data:`~prefect_mymsp.reports.frames.DELIVERY_DTYPES`.
        final: Whether each outcome is final.
        campaigns: The campaigns they belong to, the newest first.
        at: When they were read.
        mark: The mark to store once they are written; None without ``new_only``.
    """

    account: str
    frame: pd.DataFrame
    final: list[bool]
    campaigns: Sequence[CampaignSummary]
    at: datetime
    mark: ExportMark | None


def _read_deliveries(
    journal: Journal, account: str, selection: DeliverySelection, target: FileTarget | TableTarget
) -> _Deliveries:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    now = datetime.now(UTC)
    summaries = journal.campaigns.summaries(account)
    campaign = None
    if selection.campaign is not None:
        key = journal.campaigns.find(account, selection.campaign)
        campaign = next(summary for summary in summaries if summary.key.id == key.id)
    last = None
    if selection.new_only:
        bookmark = target.bookmark("deliveries", selection.campaign)
        last = ExportMark.load(journal.bookmarks.get(account, bookmark))
    final_only = selection.new_only or (isinstance(target, TableTarget) and not target.include_pending)
    query = Selection(
        campaigns=None if campaign is None else [campaign.key.id],
        since=selection.since,
        until=selection.until,
        final_since=None if last is None else EPOCH + last.position * MICROSECOND - OVERLAP,
        final_until=now if final_only else None,
        tracking_days=selection.tracking_days,
        tracking_days_then=None if last is None else last.tracking_days,
    )
    table = read_deliveries(journal, account, query, {summary.key.id: summary.key.name for summary in summaries})
    final_at = table.column("final_at").cast(pa.int64()).fill_null(np.iinfo(np.int64).max).to_numpy()
    mark = None
    if selection.new_only:
        numbers = table.column("number").to_numpy()
        recent = numbers[final_at >= microseconds(now - OVERLAP)]
        mark = ExportMark(microseconds(now), frozenset(recent.tolist()), selection.tracking_days)
        if last is not None and last.exported:
            is_new = ~np.isin(numbers, np.fromiter(last.exported, np.int64))
            table, final_at = table.filter(pa.array(is_new)), final_at[is_new]
    if campaign is not None:
        campaigns = [campaign]
    else:
        names = set(pc.unique(table.column("campaign")).to_pylist())
        campaigns = [summary for summary in summaries if summary.key.name in names]
    final = (final_at <= microseconds(now)).tolist()
    return _Deliveries(account, deliveries(table), final, campaigns, now, mark)


def _write_delivery_file(
    journal: Journal,
    read: _Deliveries,
    selection: DeliverySelection,
    target: FileTarget,
    zone: ZoneInfo,
    price_per_segment: float | None,
    *,
    show_numbers: bool,
) -> Exported:
    name = f"deliveries-{read.at:%Y%m%dT%H%M%SZ}"
    if selection.is_whole_campaign:
        name = file_name(selection.campaign or "") + ("" if target.format == "html" else "-deliveries")
    path = target.resolve(name, new_only=selection.new_only)
    rejected_rows = empty_frame(REJECTED_ROW_DTYPES)
    if selection.is_whole_campaign:
        rejected_rows = recorded_rejected_rows_frame(journal, *(summary.key for summary in read.campaigns))
    if target.format == "html":
        page = _delivery_page(
            journal, read, selection, rejected_rows, zone, price_per_segment, show_numbers=show_numbers
        )
        write_text(page.html, path)
        return Exported(len(read.frame), path=path, charts=_exported_charts(page))
    frame = read.frame if show_numbers else mask_frame(read.frame)
    if target.format == "excel":
        campaigns = campaigns_frame(journal, read.campaigns, price_per_segment=price_per_segment)
        write_excel({"deliveries": frame, "rejected rows": rejected_rows, "campaigns": campaigns}, path)
        return Exported(len(frame), path=path)
    _write_frame(frame, path, target.format)
    rejected_rows_path = None
    if len(rejected_rows):
        rejected_rows_path = path.with_name(f"{path.stem}-rejected-rows{path.suffix}")
        _write_frame(rejected_rows, rejected_rows_path, target.format)
    return Exported(len(frame), path=path, rejected_rows_path=rejected_rows_path)


def _delivery_page(
    journal: Journal,
    read: _Deliveries,
    selection: DeliverySelection,
    rejected_rows: pd.DataFrame,
    zone: ZoneInfo,
    price_per_segment: float | None,
    *,
    show_numbers: bool,
) -> RenderedPage:
    from prefect_mymsp.reports.html.delivery_page import DeliveryData, delivery_page

    since = selection.since or min((summary.created_at for summary in read.campaigns), default=read.at)
    since = floor_minute(since)  # as the gateway cuts off its times
    text = None
    # A text sent to several recipients is not private; the text of a single message may be.
    if selection.campaign is not None and (show_numbers or len(read.frame) > 1):
        text = journal.report_queries.shared_text(read.campaigns[0].key.id)
    data = DeliveryData(
        campaigns=read.campaigns,
        complete=selection.is_whole_campaign,
        deliveries=read.frame,
        rejected_rows=rejected_rows,
        inbox=inbox_frame(journal.inbox.rows(read.account, since=since)),
        opt_outs=_opt_outs(journal, read.account),
        text=text,
        read_at=read.at,
        title=_title(selection, read.at, zone),
    )
    return delivery_page(data, zone, price_per_segment=price_per_segment, show_numbers=show_numbers)


def _title(selection: DeliverySelection, now: datetime, zone: ZoneInfo) -> str:
    """The title of a report; empty for a whole campaign, whose name is the title."""
    from prefect_mymsp.reports.html.wording import format_time

    if selection.is_whole_campaign:
        return ""
    parts = []
    if selection.campaign is not None:
        parts.append(selection.campaign)
    if selection.since is not None or selection.until is not None:
        since = "" if selection.since is None else f"from {format_time(selection.since.astimezone(zone))} "
        parts.append(f"{since}to {format_time((selection.until or now).astimezone(zone))}")
    if selection.new_only:
        parts.append("new since the last report")
    title = ", ".join(parts) or "All campaigns"
    return title[0].upper() + title[1:]


# ---- the inbox -------------------------------------------------------------------------------------------------------


def export_inbox(
    journal: Journal,
    account: str,
    selection: InboxSelection,
    target: FileTarget | TableTarget,
    *,
    zone: ZoneInfo,
    show_numbers: bool = False,
) -> Exported:
    """Write received messages of an account to a file or a table; see :func:`export_deliveries`.

    Raises:
        ConfigurationError: A package that the format needs is not installed, or the database's URL is unusable.
        InputError: The file already exists and holds an earlier export's rows, or Excel cannot hold that many rows.
        ExportError: The file or the table cannot be written.
        JournalError: The journal cannot be read.
    """
    now = datetime.now(UTC)
    inbox, mark = _read_inbox(journal, account, selection, target, now)
    if isinstance(target, TableTarget):
        keys = _row_keys(account, inbox, ("message_id",))
        final = [True] * len(inbox)
        exported = _write_table(account, inbox, target, keys, final, now, show_numbers=show_numbers)
    else:
        path = target.resolve(f"inbox-{now:%Y%m%dT%H%M%SZ}", new_only=selection.new_only)
        charts: tuple[ExportedChart, ...] = ()
        if target.format == "html":
            from prefect_mymsp.reports.html.inbox_page import inbox_page

            page = inbox_page(inbox, _opt_outs(journal, account), zone, now, show_numbers=show_numbers)
            write_text(page.html, path)
            charts = _exported_charts(page)
        else:
            frame = inbox if show_numbers else mask_frame(inbox)
            if target.format == "excel":
                write_excel({"inbox": frame}, path)
            else:
                _write_frame(frame, path, target.format)
        exported = Exported(len(inbox), path=path, charts=charts)
    if mark is not None:
        journal.bookmarks.put(account, target.bookmark("inbox"), mark.dump())
    return exported


def _read_inbox(
    journal: Journal, account: str, selection: InboxSelection, target: FileTarget | TableTarget, now: datetime
) -> tuple[pd.DataFrame, ExportMark | None]:
    """The received messages of one export, and the mark to store once they are written."""
    last = None
    if selection.new_only:
        last = ExportMark.load(journal.bookmarks.get(account, target.bookmark("inbox")))
    position = 0 if last is None else last.position
    parts = journal.inbox.rows(account, since=selection.since, until=selection.until, after=position)
    if not selection.new_only:
        return inbox_frame(parts), None
    rows = [row for part in parts for row in part]
    # Numbers are assigned in order but appear when their transaction commits: a lower one may appear after a higher.
    settled_before = microseconds(now - OVERLAP)
    position = max((row[0] for row in rows if row[3] < settled_before), default=position)
    exported = frozenset(row[0] for row in rows if row[0] > position)
    already = frozenset() if last is None else last.exported
    return inbox_frame([[row for row in rows if row[0] not in already]]), ExportMark(position, exported)


# ---- what a campaign leaves by itself --------------------------------------------------------------------------------


def write_campaign_report(report: CampaignReport, folder: Path) -> None:
    """Write a campaign's deliveries, and its rejected rows if there are any, as CSV; numbers are in full.

    Args:
        report: The campaign's report; its paths are set as the files appear.
        folder: The reports folder.

    Raises:
        ExportError: A file cannot be written.
    """
    report.report_path = write_csv(report.deliveries, folder / f"{file_name(report.campaign)}.csv")
    if len(report.rejected_rows):
        report.rejected_rows_path = _write_rejected_rows(report.campaign, report.rejected_rows, folder)


def write_rejected_rows(campaign: str, rejected_rows: pa.Table, folder: Path) -> Path | None:
    """Write the rows of a source that cannot be sent as CSV; returns the file, None when there are none.

    Args:
        campaign: The campaign's name.
        rejected_rows: The rejected rows of a plan.
        folder: The reports folder.

    Raises:
        ExportError: The file cannot be written.
    """
    if not rejected_rows.num_rows:
        return None
    return _write_rejected_rows(campaign, rejected_rows_frame(rejected_rows, campaign), folder)


def _write_rejected_rows(campaign: str, rejected_rows: pd.DataFrame, folder: Path) -> Path:
    return write_csv(rejected_rows, folder / f"{file_name(campaign)}-rejected-rows.csv")


# ---- shared ----------------------------------------------------------------------------------------------------------


def _write_frame(frame: pd.DataFrame, path: Path, format_: ReportFormat) -> Path:
    return (write_csv if format_ == "csv" else write_parquet)(frame, path)


def _write_table(
    account: str,
    frame: pd.DataFrame,
    target: TableTarget,
    keys: Sequence[str],
    final: Sequence[bool],
    read_at: datetime,
    *,
    show_numbers: bool,
) -> Exported:
    written = frame.copy(deep=False) if show_numbers else mask_frame(frame)
    written.insert(0, "account", _constant(account, len(frame)))
    rows = append_rows(written, target.url, target.table, keys=keys, final=final, read_at=read_at)
    return Exported(rows, table=target.table)


def _row_keys(account: str, frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The permanent key of each row, independent of its other values and of masking."""
    columns = [frame[name].tolist() for name in names]
    return [
        hashlib.blake2b("\n".join((account, *row)).encode(), digest_size=16).hexdigest()
        for row in zip(*columns, strict=True)
    ]


def _constant(value: str, length: int) -> Any:
    import pandas as pd

    return pd.array([value] * length, dtype="string")


def _opt_outs(journal: Journal, account: str) -> Mapping[str, datetime]:
    """MSISDNs that opted out, and when."""
    return {msisdn: since for msisdn, since, reason, _ in journal.suppressions.rows(account) if reason == "opt-out"}


def _exported_charts(page: RenderedPage) -> tuple[ExportedChart, ...]:
    return tuple(ExportedChart(chart.title, chart.description, chart.data_uri()) for chart in page.charts)
