"""A new journal has the declared schema, and a journal of another version is left alone."""

from __future__ import annotations

import re
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from prefect_mymsp.errors import JournalError
from prefect_mymsp.journal import CampaignKey, Journal, schema
from prefect_mymsp.states import STATES, TRANSITIONS

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

ACCOUNT = "0123456789abcdef0123456789abcdef"
TRIGGERS = {"batch_transition", "message_claim", "message_delete", "campaign_purged"}


def test_a_new_journal_has_every_table_column_and_constraint(desk: Desk) -> None:
    inspector = sa.inspect(desk.journal._database.engine)
    assert set(inspector.get_table_names()) == set(schema.metadata.tables)
    for table in schema.metadata.sorted_tables:
        columns = {column["name"]: column["nullable"] for column in inspector.get_columns(table.name)}
        assert columns == {column.name: column.nullable for column in table.columns}
        checks = {str(check["name"]) for check in inspector.get_check_constraints(table.name)}
        expected = {str(check.name) for check in table.constraints if isinstance(check, sa.CheckConstraint)}
        assert checks == expected, table.name
        indexes = {index["name"] for index in inspector.get_indexes(table.name)}
        assert {index.name for index in table.indexes} <= indexes
        keys = {tuple(key["constrained_columns"]) for key in inspector.get_foreign_keys(table.name)}
        assert keys == {tuple(key.column_keys) for key in table.foreign_key_constraints}
    assert desk.sql("SELECT version FROM schema_version") == [(schema.VERSION,)]


def test_a_new_journal_has_every_trigger(desk: Desk) -> None:
    desk.open()
    select = (
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        if desk.on_sqlite
        else "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = current_schema()"
    )
    assert {row[0] for row in desk.sql(select)} == TRIGGERS


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_trigger_allows_exactly_the_transitions(dialect: str) -> None:
    (statement,) = (text for text in schema.trigger_statements(dialect) if "OLD.state = " in text)
    pairs = re.findall(r"OLD\.state = '(\w+)' AND NEW\.state = '(\w+)'", statement)
    assert pairs == [(old, new) for old, successors in TRANSITIONS.items() for new in successors]
    assert {state for pair in pairs for state in pair} == set(STATES)


def test_foreign_keys_are_checked(desk: Desk) -> None:
    key = CampaignKey(4711, "nowhere", ACCOUNT, None, None)
    refusal = desk.refusal(desk.journal.claims.start_run, key)
    assert ("foreign key" if desk.on_sqlite else "fk_run_campaign_id") in refusal


@pytest.mark.parametrize("version", [0, schema.VERSION + 1])
def test_a_journal_of_another_version_is_left_alone(desk: Desk, version: int) -> None:
    desk.record(desk.same(2))
    desk.journal.close()
    desk.sql("UPDATE schema_version SET version = :v", v=version)
    before = desk.sql("SELECT * FROM message ORDER BY id")
    with pytest.raises(JournalError) as caught:
        desk.open()
    assert f"(schema {version}; this version uses schema {schema.VERSION})" in str(caught.value)
    assert desk.sql("SELECT * FROM message ORDER BY id") == before
    assert desk.sql("SELECT version FROM schema_version") == [(version,)]


def test_a_start_that_fails_creates_nothing(desk: Desk) -> None:
    desk.sql("CREATE TABLE notification (something INTEGER)")
    url = sa.make_url(desk.url)
    with pytest.raises(JournalError, match="could not be opened"):
        Journal(url)
    engine = sa.create_engine(url if desk.on_sqlite else url.set(drivername="postgresql+psycopg"))
    assert sa.inspect(engine).get_table_names() == ["notification"]
    engine.dispose()


# -- at the same time --------------------------------------------------------------------------------------------------


def _open(url: str, times: int) -> bool:
    for _ in range(times):
        with Journal(url) as journal:
            journal.campaigns.get(ACCOUNT, "autumn")
    return True


def test_two_processes_may_create_a_journal(desk: Desk) -> None:
    assert desk.in_processes(_open, [3], [3]) == [True, True]
    assert desk.sql("SELECT version FROM schema_version") == [(schema.VERSION,)]


def test_a_first_start_waits_for_another_one(tmp_path: Path) -> None:
    """SQLite itself does not wait for the lock that turns its write-ahead log on."""
    other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.2, lambda: other.execute("ROLLBACK"))
    timer.start()
    assert _open(f"sqlite:///{tmp_path / 'journal.db'}", 1)
    timer.join()
    other.close()


def test_eight_threads_may_create_a_journal(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for index in range(10):
            url = f"sqlite:///{tmp_path / str(index)}.db"
            assert list(pool.map(lambda _, url=url: _open(url, 1), range(8))) == [True] * 8
