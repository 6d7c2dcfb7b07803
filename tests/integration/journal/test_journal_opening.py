"""Opening a journal: unusable URLs are refused without showing a secret, and connections are set up for durability."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from prefect_mymsp.errors import ConfigurationError, JournalError
from prefect_mymsp.journal import Journal

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

CANARY = "kanarie-Gulsparv-51c2"
MSISDN = "46701740605"


def _shown(error: BaseException) -> str:
    """All the text that a person or a log sees of an error."""
    return "\n".join([str(error), repr(error), *traceback.format_exception(error)])


# -- what cannot be one ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{CANARY}@host/db",
        f"mssql+pyodbc://user:{CANARY}@host/db",
        f"oracle://user:{CANARY}@host",
        f"https://user:{CANARY}@host/journal",
        f"postgresql://user:{CANARY}@host:port/db",
        f"://{CANARY}",
        f"1:{CANARY}://",
    ],
)
def test_an_unusable_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Journal(url)
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value)
    assert not any(CANARY in line for line in traceback.format_exception_only(caught.value))


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:journal?mode=memory&cache=shared&uri=true",
    ],
)
def test_a_journal_in_memory_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="must be a file"):
        Journal(url)
    assert list(tmp_path.iterdir()) == []


def _closed_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg"])
def test_an_unreachable_postgresql_does_not_show_the_password(scheme: str) -> None:
    with pytest.raises(JournalError, match=r"could not be opened \(OperationalError\)") as caught:
        Journal(f"{scheme}://user:{CANARY}@127.0.0.1:{_closed_port()}/journal?connect_timeout=5")
    _without_canary(caught.value)
    assert "user:***@127.0.0.1" in str(caught.value)


@pytest.mark.parametrize("key", ["password", "sslpassword"])
def test_a_password_in_the_urls_query_is_hidden(key: str) -> None:
    with pytest.raises(JournalError) as caught:
        Journal(f"postgresql://user@127.0.0.1:{_closed_port()}/journal?{key}={CANARY}&connect_timeout=5")
    _without_canary(caught.value)
    assert "connect_timeout=5" in str(caught.value)


def _without_canary(error: BaseException) -> None:
    """Source lines of this file may quote the secret; the package's errors may not."""
    lines = [line for line in _shown(error).splitlines() if "Journal(f" not in line]
    assert CANARY not in "\n".join(lines)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(JournalError, match="could not be opened"):
        Journal(tmp_path / "file" / "deep" / "journal.db")


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="could not be opened"):
        Journal(tmp_path)


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text(f"number;text\n{MSISDN};{CANARY}\n" * 100)
    before = path.read_bytes()
    with pytest.raises(
        JournalError,
        match=r"could not be opened .*file is not a database\)\. .*every message would be sent again",
    ) as caught:
        Journal(path)
    assert CANARY not in _shown(caught.value)
    assert path.read_bytes() == before


def test_another_applications_tables_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE person (id INTEGER)")
    other.close()
    with Journal(path) as journal:
        assert journal.campaigns.get("a" * 32, "autumn") is None
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT count(*) FROM person").fetchone() == (0,)
    other.close()


def test_errors_do_not_show_recorded_data(desk: Desk) -> None:
    campaign = desk.record([(MSISDN, CANARY)])
    desk.sql("ALTER TABLE message RENAME TO elsewhere")

    def record() -> None:
        desk.record([(MSISDN, CANARY)])

    for what, call in (
        ("read", lambda: desk.journal.campaigns.counts(campaign)),
        ("written", record),
        ("read", lambda: desk.rows(campaign)),
    ):
        call_: Callable[[], object] = call
        with pytest.raises(JournalError, match=f"could not be {what}") as caught:
            call_()
        assert CANARY not in _shown(caught.value)
        assert MSISDN not in _shown(caught.value)


@pytest.mark.parametrize("missing", ["psycopg"])
def test_a_missing_driver_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=r"Install prefect-mymsp\[postgres\]"):
        Journal("postgresql://127.0.0.1/journal")


# -- where it is -------------------------------------------------------------------------------------------------------


def test_the_password_is_never_shown(desk: Desk) -> None:
    assert repr(desk.journal) == f"Journal({desk.journal.location!r})"
    if not desk.on_sqlite:
        url = sa.make_url(desk.url).set(password=CANARY)
        with Journal(url) as journal:
            assert CANARY not in repr(journal)
            assert CANARY not in journal.location
            assert journal.url.password == CANARY


@pytest.mark.parametrize("give", [str, Path, lambda path: f"sqlite:///{path}", lambda path: sa.URL.create(
    "sqlite", database=str(path))], ids=["text", "path", "url", "URL"])  # fmt: skip
def test_a_path_or_a_url_opens_the_same_journal(tmp_path: Path, give: Callable[[Path], Any]) -> None:
    path = tmp_path / "deep" / "er" / "journal.db"
    with Journal(give(path)) as journal:
        assert journal.url.database == str(path)
    assert path.is_file()


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Journal("~/journal.db").close()
    assert (tmp_path / "journal.db").is_file()


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Journal(tmp_path / "folder" / "journal.db") as journal:
            journal.raw_responses.add("a" * 32, b"something")
            modes = {
                path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "folder").iterdir()
            }  # fmt: skip
    finally:
        os.umask(before)
    assert set(modes) == {"journal.db", "journal.db-wal", "journal.db-shm"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


def test_an_existing_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal(path).close()
    path.chmod(0o640)
    Journal(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_opening_again_finds_the_campaign(desk: Desk) -> None:
    campaign = desk.record(desk.same(3))
    desk.journal.close()
    with desk.open() as journal:
        assert journal.campaigns.counts(campaign).planned == 3


# -- how it writes -----------------------------------------------------------------------------------------------------


def test_every_sqlite_connection_has_the_pragmas(
    tmp_path: Path, sqlite_pragmas: Callable[[sqlite3.Connection], dict[str, Any]]
) -> None:
    """This includes connections for other threads, and those after a first start or a dispose."""
    with Journal(tmp_path / "journal.db") as journal:
        barrier = threading.Barrier(8)

        def read(_: int) -> tuple[int, dict[str, Any]]:
            with journal._database.engine.connect() as connection:
                barrier.wait(30)
                raw: Any = connection.connection.driver_connection
                return id(raw), sqlite_pragmas(raw)

        for _ in range(2):
            with ThreadPoolExecutor(8) as pool:
                settings = list(pool.map(read, range(8)))
            assert len({number for number, _ in settings}) == 8
            assert [pragmas for _, pragmas in settings] == [
                {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
            ] * 8
            journal.close()


def test_postgresql_commits_to_disk(desk: Desk) -> None:
    if not desk.on_sqlite:
        with desk.journal._database.engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"


def test_sqlite_waits_for_another_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        writer.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, lambda: writer.execute("COMMIT"))
        timer.start()
        journal.raw_responses.add("a" * 32, b"waited")
        timer.join()
        writer.close()


def test_opening_and_reading_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal(path).close()
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with Journal(path) as journal:
        assert journal.campaigns.get("a" * 32, "autumn") is None
    writer.execute("ROLLBACK")
    writer.close()


def test_a_journal_left_open_by_a_killed_process_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    code = (
        "import os, sys; from prefect_mymsp.journal import Journal; journal = Journal(sys.argv[1]); "
        "journal.raw_responses.add('a' * 32, b'kept'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert done.returncode == -9
    with Journal(path):
        reader = sqlite3.connect(path)
        assert reader.execute("SELECT raw FROM raw_response").fetchall() == [(b"kept",)]
        reader.close()


def test_errors_show_the_location(tmp_path: Path) -> None:
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(JournalError, match=re.escape(f"sqlite:///{tmp_path / 'journal.db'}")):
        Journal(tmp_path / "journal.db")
