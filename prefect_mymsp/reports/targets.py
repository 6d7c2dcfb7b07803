"""Where an export goes: a file or a database table."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from pathlib import Path

from prefect_mymsp.errors import ConfigurationError, InputError
from prefect_mymsp.models import ReportFormat

_SUFFIXES: dict[ReportFormat, str] = {"csv": ".csv", "parquet": ".parquet", "excel": ".xlsx", "html": ".html"}


@dataclass(frozen=True)
class FileTarget:
    """A file, or a folder in which the export gets a file of its own.

    Attributes:
        format: The kind of file.
        path: A file or a folder. A name without a suffix is a folder. None is the reports folder.
        folder: The reports folder.
    """

    format: ReportFormat
    path: Path | None
    folder: Path

    def check(self) -> None:
        """Refuse a file name whose suffix stands for another format.

        Raises:
            InputError: The suffix and the format contradict each other.
        """
        if self.path is None or self.path.expanduser().is_dir():
            return
        suffix = self.path.suffix.lower()
        named = next((format_ for format_, known in _SUFFIXES.items() if known == suffix), self.format)
        if named != self.format:
            raise InputError(
                f"{self.path.name} looks like {named}, but the format is {self.format}. Set "
                f"format={named!r} or choose another file name."
            )

    def resolve(self, name: str, *, new_only: bool) -> Path:
        """The file to write.

        Args:
            name: Its name, without a suffix, when the target is a folder.
            new_only: Whether the file must not replace an earlier export, whose rows are in no other file.

        Raises:
            InputError: With ``new_only``, the file already exists.
        """
        suffix = _SUFFIXES[self.format]
        path = self.folder if self.path is None else self.path.expanduser()
        if self.path is None or path.is_dir() or not path.suffix:
            numbers = itertools.count(1)
            candidates = (path / f"{name}{'' if number == 1 else f'-{number}'}{suffix}" for number in numbers)
            return next(candidate for candidate in candidates if not (new_only and candidate.exists()))
        if new_only and path.exists():
            raise InputError(
                f"{path.name} already exists and holds the rows of an earlier export. Give a folder as path: each "
                "export then gets a file of its own."
            )
        return path

    def bookmark(self, kind: str, campaign: str | None = None) -> str:
        """The name of the bookmark for exports to this target."""
        place = "" if self.path is None else str(self.path.expanduser().absolute())
        return _bookmark(kind, self.format, place, campaign)


@dataclass(frozen=True)
class TableTarget:
    """A table of a SQLite or PostgreSQL database.

    Attributes:
        url: An SQLAlchemy URL. It may hold a password.
        table: The table's name, with a schema before a dot where the database has schemas.
        include_pending: Also write messages whose outcome may still change; later exports update them.
    """

    url: str = field(repr=False)
    table: str
    include_pending: bool = False

    def check(self) -> None:
        """Refuse a target without a database or a table.

        Raises:
            InputError: The URL or the table's name is empty.
        """
        if not self.url or not self.table.strip():
            raise InputError("A table export needs a database (a Secret block with its URL) and the table's name.")

    def bookmark(self, kind: str, campaign: str | None = None) -> str:
        """The name of the bookmark for exports to this target."""
        return _bookmark(kind, "table", f"{_database(self.url)} {self.table}", campaign)


def _bookmark(kind: str, format_: str, place: str, campaign: str | None) -> str:
    digest = hashlib.blake2b(f"{place}\n{campaign or ''}".encode(), digest_size=8).hexdigest()
    return f"export {kind} {format_} {digest}"


def _database(url: str) -> str:
    """The identity of a database, independent of the user that connects."""
    from prefect_mymsp.database_urls import database_identity, parse_database_url

    try:
        return database_identity(parse_database_url(url, "The export table"))
    except ConfigurationError:
        return ""  # opening it fails with the same error
