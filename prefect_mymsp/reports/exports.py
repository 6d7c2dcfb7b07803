"""What an export holds, where it goes, and what of it is new since the last one."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_mymsp.errors import InputError
from prefect_mymsp.journal.report_queries import Selection
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
)
from prefect_mymsp.reports.sanitize import mask_frame
from prefect_mymsp.reports.writers import append_rows, file_name, write_csv, write_excel, write_parquet, write_text

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    import pandas as pd

    from prefect_mymsp.journal import CampaignSummary, Journal
    from prefect_mymsp.reports.page import Made

#: What another process's transaction may take until others see it, and what clocks may differ, at most.
_OVERLAP = timedelta(minutes=10)


_SUFFIXES = {
    ReportFormat.CSV: ".csv",
    ReportFormat.PARQUET: ".parquet",
    ReportFormat.EXCEL: ".xlsx",
    ReportFormat.HTML: ".html",
}


@dataclass(frozen=True)
class Target:
    """Where an export goes: a file, or a table.

    Attributes:
        format: What it is written as.
        path: A file or a folder; None for the folder of reports.
        url: An SQLAlchemy URL; it may hold a password.
        table: The table's name.
        folder: The folder of reports.
    """

    format: ReportFormat
    path: Path | None
    url: str | None = field(repr=False)
    table: str | None
    folder: Path

    def check(self) -> None:
        """Refuse what does not fit together.

        Raises:
            InputError: It says what is missing, or too much.
        """
        if self.format is ReportFormat.SQL:
            if not self.url or not (self.table or "").strip():
                raise InputError("format='sql' needs a database (a Secret block with its URL) and a table.")
            if self.path is not None:
                raise InputError("format='sql' writes to a table: leave path out, or choose another format.")
        elif self.url or self.table:
            raise InputError("database and table are for format='sql'.")
        elif self.path is not None and not self.path.expanduser().is_dir():
            meant = next(
                (each for each, suffix in _SUFFIXES.items() if suffix == self.path.suffix.lower()), self.format
            )
            if meant is not self.format:
                raise InputError(
                    f"{self.path.name} would be written as {self.format.value}, which its name denies: choose "
                    f"format={meant.value!r}, or another name."
                )

    def file(self, name: str, *, new_only: bool) -> Path:
        """The file to write, called so if no other name was asked for.

        Raises:
            InputError: Of several exports of what is new, this one would take the place of another.
        """
        suffix = _SUFFIXES[self.format]
        folder = self.folder if self.path is None else self.path.expanduser()
        if self.path is None or folder.is_dir() or not folder.suffix:
            paths = (folder / f"{name}{'' if number == 1 else f'-{number}'}{suffix}" for number in itertools.count(1))
            return next(path for path in paths if not (new_only and path.exists()))
        if new_only and folder.exists():
            raise InputError(
                f"{folder.name} is there and holds what was new at an earlier export. Give a folder as path, and each "
                "export gets a file of its own."
            )
        return folder

    def bookmark(self, kind: str, campaign: str | None) -> str:
        """The name under which it is remembered what this target has got."""
        if self.format is ReportFormat.SQL:
            where = f"{_database(self.url or '')} {self.table}"
        else:
            where = "" if self.path is None else str(self.path.expanduser().absolute())
        told = hashlib.blake2b(f"{where}\n{campaign or ''}".encode(), digest_size=8).hexdigest()
        return f"export {kind} {self.format} {told}"


def _database(url: str) -> str:
    """Which database a URL names, whoever opens it."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return ""  # it will be refused when it is opened
    database = parsed.database
    if parsed.get_backend_name() == "sqlite" and database:
        database = str(Path(database).absolute())
    return f"{parsed.get_backend_name()} {parsed.host} {parsed.port} {database}"


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        rows: Rows that were written; for a table those that were inserted or changed.
        path: The file; None for a table.
        table: The table; None for a file.
        rejected_rows_path: The rows that could not be sent, beside a CSV or Parquet file; None when there are none.
        charts: Of a page to look at, its charts for places that show images: (title, what it shows, address).
    """

    rows: int
    path: Path | None = None
    table: str | None = None
    rejected_rows_path: Path | None = None
    charts: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)


# ---- what is new -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mark:
    """How far an export has come, and what it has had beyond the point up to which nothing more can turn up."""

    at: int
    had: frozenset[int]

    @classmethod
    def read(cls, value: str | None) -> _Mark | None:
        if value is None:
            return None
        told = json.loads(value)
        return cls(told["at"], frozenset(one for low, high in told["had"] for one in range(low, high + 1)))

    def written(self) -> str:
        return json.dumps({"at": self.at, "had": list(_ranges(self.had))}, separators=(",", ":"))


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Numbers as ranges: neighbours are exported together."""
    for _, run in itertools.groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1]


# ---- deliveries ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """Which deliveries an export is to hold.

    Attributes:
        campaign: The name of one campaign; None for all of the account's.
        since: Only messages that left then or later, aware.
        until: Only messages that left before then, aware.
        new_only: Only those whose outcome has become final since the last export to the same target.
        update: For a table: also those whose outcome may still change.
    """

    campaign: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    new_only: bool = False
    update: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is all that a campaign has."""
        return self.campaign is not None and self.since is None and self.until is None and not self.new_only


@dataclass(frozen=True)
class Deliveries:
    """The deliveries of one export.

    Attributes:
        account: Whose they are.
        frame: In :data:`~prefect_mymsp.reports.frames.DELIVERY_DTYPES`.
        final: Whether each one's outcome will not change any more.
        campaigns: The campaigns they are of, the newest first.
        read_at: When they were read.
        mark: To be put under the target's bookmark when they are written; None when nothing is remembered.
    """

    account: str
    frame: pd.DataFrame
    final: list[bool]
    campaigns: Sequence[CampaignSummary]
    read_at: datetime
    mark: str | None


def check_period(since: datetime | None, until: datetime | None, *, new_only: bool) -> None:
    """Refuse times without a zone, periods that end before they begin, and a period of what is new.

    Raises:
        InputError: It says which.
    """
    for name, time in (("since", since), ("until", until)):
        if time is not None and time.utcoffset() is None:
            raise InputError(f"{name} has no time zone; give an aware time, for instance 2030-01-31T09:00+01:00.")
    if since is not None and until is not None and since >= until:
        raise InputError("since is not before until: the period is empty.")
    if new_only and (since is not None or until is not None):
        raise InputError("new_only has a period of its own, since the last export: leave since and until out.")


def collect_deliveries(journal: Journal, account: str, wanted: Wanted, target: Target) -> Deliveries:
    """Read what an export is to hold.

    Raises:
        InputError: There is no such campaign.
        JournalError: The journal cannot be read.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    now = datetime.now(UTC)
    known = journal.campaigns.summaries(account)
    mark = None
    if wanted.new_only:
        mark = _Mark.read(journal.bookmarks.get(account, target.bookmark("deliveries", wanted.campaign)))
    only_final = wanted.new_only or (target.format is ReportFormat.SQL and not wanted.update)
    selection = Selection(
        campaigns=None if wanted.campaign is None else [_named(known, wanted.campaign).key.id],
        since=wanted.since,
        until=wanted.until,
        final_since=None if mark is None else EPOCH + mark.at * MICROSECOND - _OVERLAP,
        final_until=now if only_final else None,
    )
    table = read_deliveries(journal, account, selection, {one.key.id: one.key.name for one in known})
    closed = table.column("final_at").cast(pa.int64()).fill_null(np.iinfo(np.int64).max).to_numpy()
    left = microseconds(now)
    written = None
    if wanted.new_only:
        numbers = table.column("number").to_numpy()
        latest = numbers[closed >= microseconds(now - _OVERLAP)]
        written = _Mark(left, frozenset(latest.tolist())).written()
        if mark is not None and mark.had:
            new = ~np.isin(numbers, np.fromiter(mark.had, np.int64))
            table, closed = table.filter(pa.array(new)), closed[new]
    if wanted.campaign is not None:
        campaigns = [_named(known, wanted.campaign)]
    else:
        told = set(pc.unique(table.column("campaign")).to_pylist())
        campaigns = [one for one in known if one.key.name in told]
    return Deliveries(account, deliveries(table), (closed <= left).tolist(), campaigns, now, written)


def _named(known: Sequence[CampaignSummary], name: str) -> CampaignSummary:
    for one in known:
        if one.key.name == name:
            return one
    latest = ", ".join(repr(one.key.name) for one in known[:5])
    there = f"The latest are {latest}." if latest else "It has none yet."
    raise InputError(f"This account has no campaign {name!r}. {there}")


def write_deliveries(
    journal: Journal,
    found: Deliveries,
    wanted: Wanted,
    target: Target,
    zone: ZoneInfo,
    *,
    price_per_segment: float | None = None,
    show_numbers: bool = False,
) -> Exported:
    """Write deliveries where they are to go.

    Raises:
        ConfigurationError: Something that the format needs is not installed, or the database's URL cannot be used.
        InputError: The file is there and holds an earlier export's rows, or Excel cannot hold so many.
        ExportError: The file or the table cannot be written.
        JournalError: The journal cannot be read.
    """
    # A page masks what it shows; of a million rows that is not worth a copy.
    frame = found.frame if show_numbers or target.format is ReportFormat.HTML else mask_frame(found.frame)
    if target.format is ReportFormat.SQL:
        assert target.url is not None  # noqa: S101  checked
        assert target.table is not None  # noqa: S101  checked
        frame.insert(0, "account", _constant(found.account, len(frame)))
        keys = _keys(found.account, found.frame, ("campaign", "recipient", "text_key"))
        return Exported(
            append_rows(frame, target.url, target.table, keys=keys, final=found.final, read_at=found.read_at),
            table=target.table,
        )
    title = f"deliveries-{found.read_at:%Y%m%dT%H%M%SZ}"
    if wanted.whole:
        title = file_name(wanted.campaign or "") + ("" if target.format is ReportFormat.HTML else "-deliveries")
    path = target.file(title, new_only=wanted.new_only)
    keys_of = [one.key for one in found.campaigns]
    rejected_rows = (
        recorded_rejected_rows_frame(journal, *keys_of) if wanted.whole else empty_frame(REJECTED_ROW_DTYPES)
    )
    rejected_rows_path: Path | None = None
    drawn: tuple[tuple[str, str, str], ...] = ()
    if target.format is ReportFormat.HTML:
        page = _delivery_page(journal, found, wanted, rejected_rows, zone, price_per_segment, show_numbers=show_numbers)
        write_text(page.html, path)
        drawn = _addresses(page)
    elif target.format is ReportFormat.EXCEL:
        campaigns = campaigns_frame(journal, found.campaigns, price_per_segment=price_per_segment)
        write_excel({"deliveries": frame, "rejects": rejected_rows, "campaigns": campaigns}, path)
    else:
        write: Callable[[pd.DataFrame, Path], Path] = write_csv if target.format is ReportFormat.CSV else write_parquet
        write(frame, path)
        if len(rejected_rows):
            rejected_rows_path = write(rejected_rows, path.with_name(f"{path.stem}-rejects{path.suffix}"))
    return Exported(len(frame), path=path, rejected_rows_path=rejected_rows_path, charts=drawn)


def _delivery_page(
    journal: Journal,
    found: Deliveries,
    wanted: Wanted,
    rejected_rows: pd.DataFrame,
    zone: ZoneInfo,
    price_per_segment: float | None,
    *,
    show_numbers: bool,
) -> Made:
    from prefect_mymsp.reports.delivery_page import DeliveryMaterial, delivery_page

    began = wanted.since or min((one.created_at for one in found.campaigns), default=found.read_at)
    # The gateway's minutes are cut off.
    began = began.replace(second=0, microsecond=0)
    text = None
    # A text that everybody got is nobody's own; that of a single message may be.
    if wanted.campaign is not None and (show_numbers or len(found.frame) > 1):
        text = journal.report_queries.shared_text(found.campaigns[0].key.id)
    material = DeliveryMaterial(
        campaigns=found.campaigns,
        whole=wanted.whole,
        deliveries=found.frame,
        rejected_rows=rejected_rows,
        inbox=inbox_frame(journal.inbox.rows(found.account, since=began)),
        opt_outs=opt_outs(journal, found.account),
        text=text,
        read_at=found.read_at,
        title=_period(wanted, found.read_at, zone),
    )
    return delivery_page(material, zone, price_per_segment=price_per_segment, show_numbers=show_numbers)


def _period(wanted: Wanted, now: datetime, zone: ZoneInfo) -> str:
    """What a report is about that is not about the whole of a campaign; nothing for one that is."""
    from prefect_mymsp.reports.page import moment

    if wanted.whole:
        return ""
    told = []
    if wanted.campaign is not None:
        told.append(wanted.campaign)
    if wanted.since is not None or wanted.until is not None:
        since = "" if wanted.since is None else f"from {moment(wanted.since.astimezone(zone))} "
        told.append(f"{since}to {moment((wanted.until or now).astimezone(zone))}")
    if wanted.new_only:
        told.append("what became final since the last report")
    title = ", ".join(told) or "All campaigns"
    return title[0].upper() + title[1:]


# ---- the inbox -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Letters:
    """The received messages of one export.

    Attributes:
        account: Whose they are.
        frame: In :data:`~prefect_mymsp.reports.frames.INBOX_DTYPES`.
        read_at: When they were read.
        mark: To be put under the target's bookmark when they are written; None when nothing is remembered.
    """

    account: str
    frame: pd.DataFrame
    read_at: datetime
    mark: str | None


def collect_inbox_rows(
    journal: Journal,
    account: str,
    target: Target,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    new_only: bool = False,
) -> Letters:
    """Read the received messages that an export is to hold; with ``new_only`` what came into the journal since.

    Raises:
        JournalError: The journal cannot be read.
    """
    now = datetime.now(UTC)
    mark = _Mark.read(journal.bookmarks.get(account, target.bookmark("inbox", None))) if new_only else None
    parts = journal.inbox.rows(account, since=since, until=until, after=0 if mark is None else mark.at)
    if not new_only:
        return Letters(account, inbox_frame(parts), now, None)
    had = mark.had if mark is not None else frozenset()
    rows = [row for part in parts for row in part]
    # Numbers are given in order and seen when their transaction ends: an older one may yet turn up below a newer one.
    surely = microseconds(now - _OVERLAP)
    floor = max((row[0] for row in rows if row[3] < surely), default=0 if mark is None else mark.at)
    seen = {row[0] for row in rows if row[0] > floor}
    new = [row for row in rows if row[0] not in had]
    return Letters(account, inbox_frame([new]), now, _Mark(floor, frozenset(seen)).written())


def write_inbox(
    journal: Journal,
    found: Letters,
    target: Target,
    zone: ZoneInfo,
    *,
    new_only: bool = False,
    show_numbers: bool = False,
) -> Exported:
    """Write received messages where they are to go.

    Raises:
        ConfigurationError: Something that the format needs is not installed, or the database's URL cannot be used.
        InputError: The file is there and holds an earlier export's rows, or Excel cannot hold so many.
        ExportError: The file or the table cannot be written.
        JournalError: The journal cannot be read.
    """
    frame = found.frame if show_numbers else mask_frame(found.frame)
    if target.format is ReportFormat.SQL:
        assert target.url is not None  # noqa: S101  checked
        assert target.table is not None  # noqa: S101  checked
        frame.insert(0, "account", _constant(found.account, len(frame)))
        keys = _keys(found.account, found.frame, ("message_id",))
        final = [True] * len(frame)
        return Exported(
            append_rows(frame, target.url, target.table, keys=keys, final=final, read_at=found.read_at),
            table=target.table,
        )
    path = target.file(f"inbox-{found.read_at:%Y%m%dT%H%M%SZ}", new_only=new_only)
    drawn: tuple[tuple[str, str, str], ...] = ()
    if target.format is ReportFormat.HTML:
        from prefect_mymsp.reports.inbox_page import inbox_page

        known = opt_outs(journal, found.account)
        page = inbox_page(found.frame, known, zone, found.read_at, show_numbers=show_numbers)
        write_text(page.html, path)
        drawn = _addresses(page)
    elif target.format is ReportFormat.EXCEL:
        write_excel({"inbox": frame}, path)
    else:
        write: Callable[[pd.DataFrame, Path], Path] = write_csv if target.format is ReportFormat.CSV else write_parquet
        write(frame, path)
    return Exported(len(frame), path=path, charts=drawn)


# ---- shared ----------------------------------------------------------------------------------------------------------


def _addresses(page: Made) -> tuple[tuple[str, str, str], ...]:
    return tuple((title, chart.alt, chart.address()) for title, chart in page.charts)


def opt_outs(journal: Journal, account: str) -> dict[str, datetime]:
    """Numbers whose owners wrote that they want no more SMS, and since when."""
    return {msisdn: since for msisdn, since, reason, _ in journal.suppressions.rows(account) if reason == "opt-out"}


def _keys(account: str, frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """What identifies a row for ever, whatever else of it changes, and whether its numbers are masked."""
    columns = [frame[name].tolist() for name in names]
    return [
        hashlib.blake2b("\n".join((account, *row)).encode(), digest_size=16).hexdigest()
        for row in zip(*columns, strict=True)
    ]


def _constant(value: str, length: int) -> Any:
    import pandas as pd

    return pd.array([value] * length, dtype="string")
