"""The journal's database: opened, kept up to date, read and written, and its complaints turned into ours."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url

from prefect_mymsp.errors import ConfigurationError, JournalError
from prefect_mymsp.journal import migrations, schema

#: How many values one statement may name; SQLite's old limit is 999.
_IN_ONE_STATEMENT = 900
#: Seconds to wait for another process's write to SQLite.
_PATIENCE_S = 60.0
#: How each connection to SQLite behaves. A commit is on disk before it returns, and what is deleted is overwritten:
#: numbers and texts must not outlive their deletion.
PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "cache_size=-65536", "secure_delete=ON")
#: What is done by one transaction at a time on PostgreSQL: its numbers among the database's advisory locks.
PREPARING, RECORDING, NOTING, RECEIVING = 7262626, 7262627, 7262628, 7262629


class Database:
    """A journal's place: its connections, and the one way to read and to write. May be shared between threads."""

    def __init__(self, url: str | URL | Path) -> None:
        """Open it, create what is not there, and bring what an earlier version wrote up to date.

        Args:
            url: A file's path, or an SQLAlchemy URL of SQLite or PostgreSQL.

        Raises:
            ConfigurationError: The URL cannot be used.
            JournalError: It cannot be opened, or was written by another version of this package.
        """
        #: Its URL, the password included.
        self.url = _journal_url(url)
        #: Where it is, without a password.
        self.location = _location(self.url)
        try:
            self.engine = _engine(self.url)
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"The journal needs {error.name}: install prefect-mymsp[postgres] for PostgreSQL."
            ) from None
        except (exc.SQLAlchemyError, OSError) as error:
            raise self._failure("opened", error) from None
        self._writing = self.engine.execution_options(writes=True)
        try:
            with self.errors("opened"):
                self._prepare()
        except BaseException:
            self.engine.dispose()
            raise

        #: SQLite's file with its device and inode, for another file may get its name; None for a server, where the URL
        #: says more than where it is, or where the file is gone already.
        self.file: tuple[Path, int, int] | None = None
        if self.engine.dialect.name == "sqlite" and not self.url.query:
            with contextlib.suppress(OSError):
                path = Path(str(self.url.database))
                found = path.stat()
                self.file = (path, found.st_dev, found.st_ino)

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that writes."""
        with self.errors("written"), self._writing.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that reads."""
        with self.errors("read"), self.engine.connect() as connection:
            yield connection

    def checkpoint_wal(self) -> None:
        """Take what was deleted out of SQLite's write-ahead log too, unless somebody reads just now."""
        if self.engine.dialect.name != "sqlite":
            return
        with (
            self.errors("written"),
            contextlib.closing(self.engine.raw_connection()) as connection,  # a transaction could not do it
            contextlib.suppress(sqlite3.Error),
        ):
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """The one place where a database's complaint becomes ours."""
        try:
            yield
        except exc.IntegrityError as error:
            raise JournalError(f"The journal refused a change: {_broken_rule(error)}.") from None
        except exc.SQLAlchemyError as error:
            raise self._failure(what, error) from None

    def _failure(self, what: str, error: Exception) -> JournalError:
        # The original's text may quote parameters, and with them numbers and texts: its kind must do.
        cause = getattr(error, "orig", None) or error
        told = f"The journal at {self.location} could not be {what} ({type(cause).__name__}{_harmless(cause)})."
        if what == "opened":
            # What was sent is not known here, only what comes of beginning with another one.
            told += (
                " See which journal the settings or the block name, or restore this one: another knows nobody who has "
                "got anything."
            )
        return JournalError(told)

    def _prepare(self) -> None:
        """Create the tables or bring them up to date. A journal that is up to date is only read: it may be in use."""
        with self.engine.connect() as connection:
            if self._version(connection) == schema.VERSION:
                return
        with self.engine.execution_options(writes=True, rebuilds=True).begin() as connection:
            advisory_lock(connection, PREPARING)  # two processes, one first start
            found = self._version(connection)
            if found is None:
                schema.create(connection)
            elif found < schema.VERSION:
                migrations.migrate(connection, found)
        self.engine.dispose()  # SQLite: a connection that rebuilt tables does not check foreign keys

    def _version(self, connection: Connection) -> int | None:
        """The version it was written in, None while it is empty."""
        if not sa.inspect(connection).has_table("schema_version"):
            return None
        found = connection.execute(sa.select(schema.schema_version.c.version)).scalar_one()
        if found > schema.VERSION:
            raise JournalError(
                f"The journal at {self.location} was written by a later version of prefect-mymsp (its version is "
                f"{found}, this package's {schema.VERSION}). Install that one, or choose another journal."
            )
        return int(found)


def advisory_lock(connection: Connection, what: int) -> None:
    """Wait until no other transaction does this; on SQLite there is one that writes anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(what)))


def insert(connection: Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An insertion that can leave alone what is there."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def slices(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Values in parts that one statement can name."""
    for start in range(0, len(values), _IN_ONE_STATEMENT):
        yield values[start : start + _IN_ONE_STATEMENT]


def _broken_rule(error: exc.IntegrityError) -> str:
    """Which rule a change would have broken: ours in our words, a constraint by its name; never the data."""
    text = str(error.orig)
    if schema.RULE in text:
        return text.split(schema.RULE, 1)[1].splitlines()[0]
    name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    if name is None and "constraint failed: " in text:  # SQLite: a check's name, or the columns
        name = text.split("constraint failed: ", 1)[1].splitlines()[0]
    if name is None and text.startswith("FOREIGN KEY"):  # SQLite says no more
        name = "foreign key"
    return f"it breaks the rule {name or type(error.orig).__name__}"


def _harmless(cause: BaseException) -> str:
    """The text of an operating system's or SQLite's complaint, which quotes no data; nothing for other causes."""
    if isinstance(cause, OSError) and cause.strerror:
        return f": {cause.strerror}"
    if type(cause).__module__ == "sqlite3":
        return f": {cause}"
    return ""


def _journal_url(url: str | URL | Path) -> URL:
    """An SQLAlchemy URL for a path or a URL.

    Raises:
        ConfigurationError: Neither SQLite nor PostgreSQL.
    """
    if isinstance(url, Path) or (isinstance(url, str) and "://" not in url):
        path = Path(url).expanduser().absolute()
        return URL.create("sqlite", database=str(path))
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):
        # Never quote it: it may hold a password.
        raise ConfigurationError("The journal's URL cannot be read; write sqlite:///path or postgresql://…") from None
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise ConfigurationError("A journal in memory would forget what was sent; give it a file.")
        return parsed.set(drivername="sqlite", database=str(Path(parsed.database).absolute()))
    if backend in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigurationError(f"A journal is kept in SQLite or PostgreSQL, not in {backend}.")


def exists(url: str | URL | Path) -> bool:
    """Whether there is something to open: a server's database always, a file if it is there."""
    parsed = _journal_url(url)
    return parsed.get_backend_name() != "sqlite" or Path(str(parsed.database)).exists()


def _location(url: URL) -> str:
    """The URL without its passwords, in whichever of its parts they are."""
    hidden = {key: "***" for key in url.query if "password" in key.lower()}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)
    assert url.database is not None  # noqa: S101  checked above
    path = Path(url.database)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))  # numbers and texts: for its owner only
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": _PATIENCE_S})

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin below, where it is known whether they write
        cursor = connection.cursor()
        _use_wal(cursor)
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("rebuilds", False):
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")  # has no effect once the transaction has begun
        # A transaction that begins by reading and writes later would fail when another one wrote in between.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes", False) else "BEGIN")

    return engine


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Turn the write-ahead log on. SQLite does not wait for this lock by itself: two first starts meet here."""
    patience = time.monotonic() + _PATIENCE_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise
            time.sleep(0.01)
