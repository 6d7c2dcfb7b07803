"""The journal's database: its connections, its transactions, and the translation of its errors."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine

from prefect_mymsp.database_urls import SQLITE_TIMEOUT_S, hide_password, is_sqlite, open_engine, parse_supported_url
from prefect_mymsp.errors import JournalError
from prefect_mymsp.journal import schema

#: How many values one statement may name; SQLite's old limit is 999.
_MAX_PARAMETERS = 900
#: Settings of each SQLite connection. A commit is on disk before it returns. Deleted data is overwritten: numbers and
#: texts must not outlive their deletion.
_PRAGMAS = ("synchronous=FULL", "foreign_keys=ON", "cache_size=-65536", "secure_delete=ON")
#: Advisory locks in PostgreSQL, one for each kind of transaction that must run alone.
PREPARING, RECORDING, NOTIFYING, RECEIVING = 7262626, 7262627, 7262628, 7262629


class Database:
    """A journal's database. May be shared between threads."""

    def __init__(self, url: str | URL | Path) -> None:
        """Open the database, and create the tables if it is empty.

        Args:
            url: A file's path, or an SQLAlchemy URL of SQLite or PostgreSQL.

        Raises:
            ConfigurationError: The URL cannot be used.
            JournalError: The database cannot be opened, or another version of this package wrote it.
        """
        #: Its URL, including the password.
        self.url = parse_supported_url(url, "The journal", allow_path=True)
        #: Its URL, without a password.
        self.location = hide_password(self.url)
        try:
            self.engine = _open(self.url)
        except (exc.SQLAlchemyError, OSError) as error:
            raise self._failure("opened", error) from None
        self._writing = self.engine.execution_options(writes=True)
        try:
            with self.errors("opened"):
                self._prepare()
        except BaseException:
            self.engine.dispose()
            raise

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Run one transaction that writes."""
        with self.errors("written"), self._writing.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Run one transaction that only reads."""
        with self.errors("read"), self.engine.connect() as connection:
            yield connection

    def checkpoint_wal(self) -> None:
        """Remove deleted data from SQLite's write-ahead log too, unless a reader is active."""
        if not is_sqlite(self.url):
            return
        with (
            self.errors("written"),
            contextlib.closing(self.engine.raw_connection()) as connection,  # not possible in a transaction
            contextlib.suppress(sqlite3.Error),
        ):
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextlib.contextmanager
    def errors(self, action: str) -> Iterator[None]:
        """Translate a database's errors. This is the only place that does."""
        try:
            yield
        except exc.IntegrityError as error:
            raise JournalError(f"The journal refused a change: {_broken_rule(error)}.") from None
        except exc.SQLAlchemyError as error:
            raise self._failure(action, error) from None

    def _failure(self, action: str, error: Exception) -> JournalError:
        # The original's text may quote parameters, and with them numbers and texts: only its class is shown.
        cause = getattr(error, "orig", None) or error
        message = (
            f"The journal at {self.location} could not be {action} ({type(cause).__name__}{_harmless_text(cause)})."
        )
        if action == "opened":
            message += (
                " Check which journal the settings or the block name, or restore this one. With a different journal, "
                "every message would be sent again."
            )
        return JournalError(message)

    def _prepare(self) -> None:
        """Create the tables in an empty database. An existing journal is only read: it may be in use."""
        with self.engine.connect() as connection:
            if self._is_prepared(connection):
                return
        with self._writing.begin() as connection:
            advisory_lock(connection, PREPARING)  # two processes may start at the same time
            if not self._is_prepared(connection):
                schema.create(connection)

    def _is_prepared(self, connection: Connection) -> bool:
        """Whether the database holds a journal of this version; False if it is empty."""
        if not sa.inspect(connection).has_table("schema_version"):
            return False
        version = connection.execute(sa.select(schema.schema_version.c.version)).scalar_one()
        if version != schema.VERSION:
            raise JournalError(
                f"The journal at {self.location} was written by another version of prefect-mymsp (schema {version}; "
                f"this version uses schema {schema.VERSION}). Install that version, or use another journal."
            )
        return True


def advisory_lock(connection: Connection, lock: int) -> None:
    """Wait until no other transaction holds this lock. SQLite has one writer at a time anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))


def insert(connection: Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Build an INSERT that supports ON CONFLICT."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def slices(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Split values into parts that fit into one statement."""
    for start in range(0, len(values), _MAX_PARAMETERS):
        yield values[start : start + _MAX_PARAMETERS]


def is_among(connection: Connection, column: sa.ColumnElement[int], ids: list[int]) -> sa.ColumnElement[bool]:
    """Whether a column is one of many ids, passed as one parameter: a long IN list costs more than the statement."""
    if connection.dialect.name == "postgresql":
        return column == sa.any_(
            sa.cast(sa.literal(ids, postgresql.ARRAY(sa.BigInteger)), postgresql.ARRAY(sa.BigInteger))
        )
    listed = sa.func.json_each(json.dumps(ids)).table_valued("value")
    return column.in_(sa.select(listed.c.value))


def execute_many(connection: Connection, statement: sa.Insert | sa.Update, rows: Sequence[dict[str, Any]]) -> None:
    """Execute a statement for each row of values; on SQLite directly through the driver, which is faster."""
    if not rows:
        return
    if connection.dialect.name != "sqlite":
        connection.execute(statement, rows)
        return
    keys = list(rows[0]) if isinstance(statement, sa.Insert) else None
    compiled: Any = statement.compile(dialect=connection.dialect, column_keys=keys)
    in_order = itemgetter(*compiled.positiontup)
    connection.exec_driver_sql(str(compiled), [in_order(row) for row in rows])


def _broken_rule(error: exc.IntegrityError) -> str:
    """Name the rule that a change would have broken: a trigger's text or a constraint's name, never the data."""
    text = str(error.orig)
    if schema.RULE in text:
        return text.split(schema.RULE, 1)[1].splitlines()[0]
    name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    if name is None and "constraint failed: " in text:  # SQLite: a check's name, or the columns
        name = text.split("constraint failed: ", 1)[1].splitlines()[0]
    if name is None and text.startswith("FOREIGN KEY"):  # SQLite gives no name
        name = "foreign key"
    return f"it breaks the rule {name or type(error.orig).__name__}"


def _harmless_text(cause: BaseException) -> str:
    """The text of an operating system's or SQLite's error, which quotes no data; nothing for other errors."""
    if isinstance(cause, OSError) and cause.strerror:
        return f": {cause.strerror}"
    if type(cause).__module__ == "sqlite3":
        return f": {cause}"
    return ""


def _open(url: URL) -> Engine:
    if not is_sqlite(url):
        return open_engine(url, "The journal", pooled=True)
    path = Path(str(url.database))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))  # numbers and texts: only its owner may read it
    engine = open_engine(url, "The journal", pooled=True, pragmas=_PRAGMAS)
    event.listen(engine, "connect", _use_wal, insert=True)
    return engine


def _use_wal(connection: Any, _record: object) -> None:
    """Turn the write-ahead log on. SQLite does not wait for this lock by itself; two first starts may compete."""
    give_up_at = time.monotonic() + SQLITE_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
