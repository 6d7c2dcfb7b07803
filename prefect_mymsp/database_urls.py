"""URLs of databases: parsed, normalised, compared, shown without a password, and opened.

Used for journals, suppression tables and export tables. No error of this module quotes a URL: it may hold a password.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from prefect_mymsp.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection, Engine

#: Seconds to wait for another process's write to an SQLite file.
SQLITE_TIMEOUT_S = 60.0


def parse_database_url(url: str | URL | Path, owner: str, *, allow_path: bool = False) -> URL:
    """Parse a database URL and normalise it.

    An SQLite file's path becomes absolute. PostgreSQL gets the driver that comes with this package.

    Args:
        url: An SQLAlchemy URL.
        owner: The purpose of the database, to begin an error with: ``The journal``.
        allow_path: Take a value without ``://`` as the path of an SQLite file. Otherwise it is refused: a mistyped URL
            would create a file.

    Raises:
        ConfigurationError: It is not a URL.
    """
    if allow_path and (isinstance(url, Path) or (isinstance(url, str) and "://" not in url)):
        return URL.create("sqlite", database=str(Path(url).expanduser().absolute()))
    try:
        parsed = make_url(url if isinstance(url, URL) else str(url).strip())
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):
        raise ConfigurationError(
            f"{owner}: the database URL cannot be read. "
            "Write sqlite:///path/to/file.db or postgresql://user:password@host/database."
        ) from None
    if backend == "sqlite":
        database = parsed.database
        if not _is_sqlite_file(parsed):
            return parsed.set(drivername="sqlite")
        return parsed.set(drivername="sqlite", database=str(Path(str(database)).absolute()))
    if parsed.drivername in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    return parsed


def parse_supported_url(url: str | URL | Path, owner: str, *, allow_path: bool = False) -> URL:
    """Parse the URL of a database that must be an SQLite file or in PostgreSQL.

    Raises:
        ConfigurationError: It is not a URL, names another kind of database, or SQLite's memory.
    """
    parsed = parse_database_url(url, owner, allow_path=allow_path)
    backend = parsed.get_backend_name()
    if backend in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigurationError(f"{owner} must be in SQLite or PostgreSQL, not in {backend}.")
    if not _is_sqlite_file(parsed):
        raise ConfigurationError(f"{owner} in SQLite must be a file. A database in memory is lost with its process.")
    return parsed


def is_sqlite(url: URL) -> bool:
    """Whether a parsed URL names an SQLite database."""
    return url.get_backend_name() == "sqlite"


def database_exists(url: URL) -> bool:
    """Whether the database exists: True for a database server, and for an existing SQLite file."""
    return not is_sqlite(url) or Path(str(url.database)).exists()


def hide_password(url: URL) -> str:
    """A parsed URL as text, without the passwords in any of its parts."""
    hidden = {key: "***" for key in url.query if "password" in key.lower()}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def database_identity(url: URL) -> str:
    """Text that is the same for two parsed URLs of the same database, whichever user logs in."""
    return f"{url.get_backend_name()} {url.host} {url.port} {url.database}"


def is_same_database(first: URL, second: URL) -> bool:
    """Whether two parsed URLs name the same database, whichever user logs in."""
    return database_identity(first) == database_identity(second)


def open_engine(
    url: URL, owner: str, *, pooled: bool = False, always_writes: bool = False, pragmas: Sequence[str] = ()
) -> Engine:
    """Create an engine for a parsed URL. It does not connect yet.

    On SQLite a transaction takes the write lock when it begins, if the engine or connection has the execution option
    ``writes``: a transaction that reads first and writes later would fail if another one wrote in between.

    Args:
        url: See :func:`parse_database_url`.
        owner: The purpose of the database, to begin an error with: ``The journal``.
        pooled: Keep connections open between uses.
        always_writes: Let each transaction on SQLite take the write lock.
        pragmas: SQLite's pragmas for each connection, in order.

    Raises:
        ConfigurationError: The driver is not installed, or there is no such kind of database.
    """
    options: dict[str, Any] = {"hide_parameters": True}
    if not pooled:
        options["poolclass"] = NullPool
    elif not is_sqlite(url):
        options["pool_pre_ping"] = True
    if is_sqlite(url):
        options["connect_args"] = {"timeout": SQLITE_TIMEOUT_S}
    try:
        engine = sa.create_engine(url, **options)
    except ModuleNotFoundError as error:
        extra = "prefect-mymsp[postgres]" if error.name and error.name.startswith("psycopg") else error.name
        raise ConfigurationError(f"{owner}: the database needs {error.name}. Install {extra}.") from None
    except (exc.ArgumentError, exc.NoSuchModuleError):
        raise ConfigurationError(f"{owner}: SQLAlchemy does not support this kind of database.") from None
    if is_sqlite(url):
        _set_up_sqlite(engine, pragmas, always_writes=always_writes)
    return engine


def _set_up_sqlite(engine: Engine, pragmas: Sequence[str], *, always_writes: bool) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin below; the driver's would not hold a CREATE TABLE
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = always_writes or connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_sqlite_file(url: URL) -> bool:
    return bool(url.database) and url.database != ":memory:" and not str(url.database).startswith("file:")
