"""Database URLs: how they are read, compared and shown. No error repeats a URL."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from prefect_mymsp.database_urls import (
    database_exists,
    database_identity,
    hide_password,
    is_same_database,
    is_sqlite,
    open_engine,
    parse_database_url,
    parse_supported_url,
)
from prefect_mymsp.errors import ConfigurationError

SECRET = "kanarie-Gulsparv-51c2"
OWNER = "The suppression table"


def parse(url: str | Path) -> sa.URL:
    return parse_database_url(url, OWNER, allow_path=True)


# -- parsing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["numbers.db", "./numbers.db", Path("numbers.db"), "sqlite:///numbers.db", " sqlite:///numbers.db "]
)
def test_an_sqlite_file_gets_an_absolute_path(url: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parsed = parse(url)
    assert (parsed.drivername, parsed.database) == ("sqlite", str(tmp_path / "numbers.db"))
    assert is_sqlite(parsed)


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("~/numbers.db").database == str(tmp_path / "numbers.db")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_gets_the_driver_of_this_package(scheme: str) -> None:
    parsed = parse(f"{scheme}://user:{SECRET}@host:5433/db?sslmode=require")
    assert parsed.drivername == "postgresql+psycopg"
    assert (parsed.username, parsed.password, parsed.host, parsed.port) == ("user", SECRET, "host", 5433)
    assert dict(parsed.query) == {"sslmode": "require"}


def test_another_driver_is_kept_unless_only_ours_is_supported() -> None:
    url = "postgresql+asyncpg://host/db"
    assert parse(url).drivername == "postgresql+asyncpg"
    assert parse_supported_url(url, OWNER).drivername == "postgresql+psycopg"
    assert parse("mysql+pymysql://host/db").drivername == "mysql+pymysql"


@pytest.mark.parametrize("url", [f"://{SECRET}", f"1:{SECRET}://", f"postgresql://user:{SECRET}@host:port/db"])
def test_an_unreadable_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="The suppression table: the database URL cannot be read") as caught:
        parse(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("url", [SECRET, f"{SECRET}.db", Path(SECRET)])
def test_a_path_is_refused_unless_it_is_allowed(url: str | Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        parse_supported_url(url, OWNER)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", [f"mysql://user:{SECRET}@host/db", f"https://user:{SECRET}@host/db"])
def test_an_unsupported_database_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must be in SQLite or PostgreSQL, not in (mysql|https)") as caught:
        parse_supported_url(url, OWNER)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_sqlites_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must be a file"):
        parse_supported_url(url, OWNER)


# -- showing and comparing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["password", "sslpassword", "PASSWORD"])
def test_every_password_is_hidden(key: str) -> None:
    shown = hide_password(parse(f"postgresql://user:{SECRET}@host/db?{key}={SECRET}&connect_timeout=5"))
    assert SECRET not in shown
    assert "user:***@host/db" in shown
    assert "connect_timeout=5" in shown


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("postgresql://a:1@host/db", "postgres://b:2@host/db", True),
        ("postgresql://host/db", "postgresql+psycopg://host/db?sslmode=require", True),
        ("postgresql://host/db", "postgresql://host/other", False),
        ("postgresql://host/db", "postgresql://elsewhere/db", False),
        ("postgresql://host/db", "postgresql://host:5433/db", False),
        ("numbers.db", "sqlite:///numbers.db", True),
        ("sqlite:///numbers.db", "sqlite:///other.db", False),
        ("sqlite:///db", "postgresql:///db", False),
    ],
)
def test_the_same_database_is_recognised_whoever_logs_in(first: str, second: str, same: bool) -> None:
    assert is_same_database(parse(first), parse(second)) is same
    assert (database_identity(parse(first)) == database_identity(parse(second))) is same
    assert SECRET not in database_identity(parse(f"postgresql://u:{SECRET}@host/db"))


def test_only_a_missing_sqlite_file_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "numbers.db"
    assert not database_exists(parse(path))
    path.touch()
    assert database_exists(parse(path))
    assert database_exists(parse("postgresql://nowhere.invalid/db"))


# -- engines -----------------------------------------------------------------------------------------------------------


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"needs psycopg. Install prefect-mymsp\[postgres\]"):
        open_engine(parse("postgresql://host/db"), OWNER)


def test_an_unknown_database_is_refused_without_its_url() -> None:
    with pytest.raises(ConfigurationError, match="does not support this kind of database") as caught:
        open_engine(parse(f"nosuchdb://u:{SECRET}@host/x"), OWNER)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("always_writes", "option", "writes"), [(False, False, False), (False, True, True), (True, False, True)]
)
def test_a_writing_transaction_takes_the_lock_when_it_begins(
    tmp_path: Path, always_writes: bool, option: bool, writes: bool
) -> None:
    engine = open_engine(parse(tmp_path / "x.db"), OWNER, always_writes=always_writes, pragmas=("foreign_keys=ON",))
    other = open_engine(parse(tmp_path / "x.db"), OWNER, always_writes=True, pragmas=("busy_timeout=1",))
    with engine.execution_options(writes=option).begin() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
        if writes:
            with pytest.raises(sa.exc.OperationalError, match="locked"), other.begin():
                pass
        else:
            with other.begin():
                pass
    engine.dispose()
    other.dispose()
