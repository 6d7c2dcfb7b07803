"""Migrations: a journal of an earlier version becomes what a fresh one is, and keeps what it knew."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from prefect_mymsp.errors import JournalError
from prefect_mymsp.journal import CampaignKey, Journal
from prefect_mymsp.journal.schema import VERSION

if TYPE_CHECKING:
    from tests.integration.conftest import Desk, Postgres

DATA = Path(__file__).parents[1] / "data" / "journal"
ACCOUNT = "0123456789abcdef0123456789abcdef"
BEGIN = datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)
TABLES = ("campaign", "text", "run", "batch", "message")
EARLIER = (1, 2)


def _fill(desk: Desk, version: int) -> None:
    """Write a journal of an earlier version where the desk's will be opened."""
    if desk.on_sqlite:
        path = sa.make_url(desk.url).database
        assert path is not None
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript((DATA / f"v{version}-sqlite.sql").read_text("utf-8"))
        return
    engine = sa.create_engine(sa.make_url(desk.url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        raw: Any = connection.connection.driver_connection
        raw.execute((DATA / f"v{version}-postgresql.sql").read_text("utf-8"))


def _all(desk: Desk) -> dict[str, list[dict[str, Any]]]:
    """Every row of the tables that all versions have."""
    return {table: _rows(desk, table) for table in TABLES}


def _rows(desk: Desk, table: str) -> list[dict[str, Any]]:
    names = [
        row[0]
        for row in (
            desk.sql("SELECT name FROM pragma_table_info(:t)", t=table)
            if desk.on_sqlite
            else desk.sql(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND "
                "table_name = :t ORDER BY ordinal_position",
                t=table,
            )
        )
    ]
    return [dict(zip(names, row, strict=True)) for row in desk.sql(f"SELECT * FROM {table} ORDER BY id")]


# -- the same schema ---------------------------------------------------------------------------------------------------


def _described(desk: Desk) -> dict[str, Any]:
    """Everything the database knows of the journal's schema, in an order of its own."""
    return _sqlite_schema(desk) if desk.on_sqlite else _postgresql_schema(desk)


def _sqlite_schema(desk: Desk) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, name, table, sql in desk.sql("SELECT type, name, tbl_name, sql FROM sqlite_master"):
        if kind == "table":
            found[f"table {name}"] = {
                "columns": desk.sql("SELECT * FROM pragma_table_xinfo(:t)", t=name),
                "foreign keys": sorted(
                    row[2:] for row in desk.sql("SELECT * FROM pragma_foreign_key_list(:t)", t=name)
                ),
                # The order of the constraints says nothing.
                "definitions": sorted(_definitions(sql)),
            }
        else:
            found[f"{kind} {name}"] = (table, sql and _plain(sql))
    return found


def _plain(sql: str) -> str:
    return re.sub(r"\s+", " ", sql.replace('"', "")).replace("FOREIGN KEY (", "FOREIGN KEY(").strip()


def _definitions(sql: str) -> Iterator[str]:
    """The parts of a CREATE TABLE between its outer parentheses."""
    body = _plain(sql)
    depth, part = 0, ""
    for character in body[body.index("(") + 1 : body.rindex(")")]:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            yield part.strip()
            part = ""
        else:
            part += character
    yield part.strip()


#: What PostgreSQL itself says of each kind of thing in the current schema.
_POSTGRESQL = {
    "columns": """
        SELECT table_name, column_name, ordinal_position, data_type, character_maximum_length, is_nullable,
            column_default, is_identity FROM information_schema.columns WHERE table_schema = current_schema()""",
    "constraints": """
        SELECT c.relname, k.conname, k.contype, k.convalidated, pg_get_constraintdef(k.oid) FROM pg_constraint k
        JOIN pg_class c ON c.oid = k.conrelid WHERE k.connamespace = current_schema()::regnamespace""",
    "indexes": """
        SELECT c.relname, i.indisunique, i.indisvalid, pg_get_indexdef(i.indexrelid) FROM pg_index i
        JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = current_schema()::regnamespace""",
    "triggers": """
        SELECT t.tgname, t.tgenabled, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace""",
    "functions": """
        SELECT p.proname, pg_get_functiondef(p.oid) FROM pg_proc p
        WHERE p.pronamespace = current_schema()::regnamespace""",
    "sequences": """
        SELECT sequencename, data_type, start_value, increment_by, max_value FROM pg_sequences
        WHERE schemaname = current_schema()""",
}


def _postgresql_schema(desk: Desk) -> dict[str, Any]:
    schema = str(desk.one("SELECT current_schema()"))
    return {
        kind: sorted(str(row).replace(schema, "here") for row in desk.sql(select))
        for kind, select in _POSTGRESQL.items()
    }


@pytest.fixture
def fresh(desk: Desk, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The schema of a new journal in the same kind of database."""
    if desk.on_sqlite:
        url = f"sqlite:///{tmp_path / 'fresh.db'}"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.journal()
    Journal(url).close()
    return _described(type(desk)(url, desk._empty_journal, desk._stack, desk._processes))


@pytest.mark.parametrize("version", EARLIER)
def test_a_migrated_journal_is_a_fresh_one(desk: Desk, fresh: dict[str, Any], version: int) -> None:
    _fill(desk, version)
    assert _described(desk) != fresh
    desk.journal.close()
    migrated = _described(desk)
    assert migrated.keys() == fresh.keys()
    for name, description in fresh.items():
        assert migrated[name] == description, name


def test_version_4_found_messages_by_their_batch_alone(desk: Desk, fresh: dict[str, Any]) -> None:
    desk.journal.close()
    desk.sql("DROP INDEX ix_message_batch")
    desk.sql("CREATE INDEX ix_message_batch ON message (batch_id)")
    desk.sql("UPDATE schema_version SET version = 4")
    assert _described(desk) != fresh
    Journal(desk.url).close()
    assert _described(desk) == fresh


def test_the_comparison_sees_something(fresh: dict[str, Any]) -> None:
    """A schema nobody finds anything in would be equal to any other."""
    told = str(fresh)
    for name in (
        "ck_batch_accepted_has_id",
        "uq_message_campaign_id_msisdn_text_id",
        "ix_message_planned",
        "ix_message_group",
        "ck_suppression_reason",
        "uq_received_account_message_id",
        "campaign_forgotten",
        "fk_ghost_batch_id",
        "message_delete",
        "journal rule: ",
        "batch_id IS NULL",
        "doubted_at",
    ):
        assert name in told


# -- the same data -----------------------------------------------------------------------------------------------------


def test_what_version_1_knew_survives(desk: Desk) -> None:
    _fill(desk, 1)
    before = _all(desk)
    desk.journal.close()
    after = _all(desk)
    assert desk.sql("SELECT version FROM schema_version") == [(VERSION,)]
    added = {
        "campaign": dict.fromkeys(("cancelled_at", "purged_at", "rows", "rejected", "duplicates", "suppressed"), None),
        "message": {"status_changed_at": None},
        "batch": {"doubted_at": None, "confirmed_at": None, "rescheduled_to": None},
    }
    for table, rows in before.items():
        expected = [{**row, **added.get(table, {})} for row in rows]
        if table == "batch":
            for row in expected:
                mine = [one for one in before["message"] if one["batch_id"] == row["id"]]
                row |= {"size": len(mine), "delivered": sum(one["status"] == "delivered" for one in mine)}
            doubtful, later = expected[3], expected[7]
            doubtful["doubted_at"] = doubtful["settled_at"]
            # It had an id that batch 1 had before.
            later |= {"state": "in_doubt", "message_id": None, "reason": "id-seen-before", "final_at": None}
            later["doubted_at"] = later["settled_at"]
        assert after[table] == expected, table


def test_what_version_2_knew_survives(desk: Desk) -> None:
    _fill(desk, 2)
    before, ghosts = _all(desk), desk.sql("SELECT * FROM ghost ORDER BY msisdn")
    ((number, *answer),) = desk.sql("SELECT id, account, collected_at, raw FROM collected")
    spring = desk.journal.campaigns.get(ACCOUNT, "spring")
    assert spring is not None
    assert desk.counts(spring) == {"planned": 3, "accepted": 2, "cancelled": 2}
    assert desk.journal.raw_responses.unparsed(ACCOUNT) == [(number, bytes(answer[-1]))]
    desk.journal.close()
    counted = dict.fromkeys(("rows", "rejected", "duplicates", "suppressed"))
    added = {
        "campaign": {"purged_at": None, **counted},
        "batch": {"rescheduled_to": None},
        "message": {"status_changed_at": None},
    }
    for table, rows in before.items():
        assert _rows(desk, table) == [{**row, **added.get(table, {})} for row in rows], table
    assert ghosts == desk.sql("SELECT * FROM ghost ORDER BY msisdn")
    assert ghosts == [(11, "46701740612"), (11, "46701740613")]
    assert desk.sql("SELECT * FROM collected") == [(number, *answer, None)]


@pytest.mark.parametrize("version", EARLIER)
def test_a_migrated_journal_works(desk: Desk, version: int) -> None:
    _fill(desk, version)
    autumn = desk.journal.campaigns.get(ACCOUNT, "autumn")
    assert autumn is not None
    assert desk.counts(autumn) == {"planned": 1, "sending": 2, "accepted": 3, "refused": 1, "in_doubt": 2}
    assert {one.id for one in desk.journal.doubt.watched(autumn, BEGIN)} == {4, 7, 8}
    assert desk.journal.claims.expire_leases(autumn) == 0  # that lease has not ended yet
    desk.sql("UPDATE run SET lease_until = 1 WHERE id = 2")
    assert desk.journal.claims.expire_leases(autumn) == 1
    run = desk.journal.claims.start_run(autumn)
    (batch,) = desk.journal.claims.claim(run, requests=5, batch_size=10)
    assert batch.id > (9 if version == 1 else 13)
    desk.settle(batch, "accepted", message_id="905")
    desk.refused("UPDATE batch SET state = 'sending', settled_at = NULL, message_id = NULL WHERE id = 1")
    desk.refused("UPDATE message SET batch_id = NULL WHERE batch_id = 1")
    desk.refused("INSERT INTO ghost (batch_id, msisdn) VALUES (4711, '46701740605')")
    desk.refused("DELETE FROM message WHERE batch_id = 1")
    with desk.recording("summer") as recording:
        recording.add_groups(["Everybody in the office"], "Hello one", encoding="GSM-7", segments=1)
    assert desk.counts(recording.campaign) == {"planned": 1}


@pytest.mark.parametrize("version", EARLIER)
def test_foreign_keys_are_checked_after_a_migration(desk: Desk, version: int) -> None:
    _fill(desk, version)
    key = CampaignKey(4711, "nowhere", ACCOUNT, None, None)
    told = desk.refusal(desk.journal.claims.start_run, key)
    assert ("foreign key" if desk.on_sqlite else "fk_run_campaign_id") in told


def test_a_journal_of_a_later_version_is_left_alone(desk: Desk) -> None:
    desk.record(desk.same(2))
    desk.journal.close()
    desk.sql("UPDATE schema_version SET version = :v", v=VERSION + 1)
    before = _all(desk)
    with pytest.raises(JournalError) as caught:
        desk.open()
    assert (
        f"written by a later version of prefect-mymsp (its version is {VERSION + 1}, this package's {VERSION})"
        in str(caught.value)
    )
    assert _all(desk) == before


@pytest.mark.parametrize("version", EARLIER)
def test_a_migration_that_fails_changes_nothing(desk: Desk, version: int) -> None:
    _fill(desk, version)
    desk.sql("CREATE TABLE notice (something INTEGER)")
    before, described = _all(desk), _described(desk)
    with pytest.raises(JournalError, match="could not be opened"):
        desk.open()
    assert (_all(desk), _described(desk)) == (before, described)
    assert desk.sql("SELECT version FROM schema_version") == [(version,)]


# -- at the same time --------------------------------------------------------------------------------------------------


def _open(url: str, times: int) -> bool:
    for _ in range(times):
        with Journal(url) as journal:
            journal.campaigns.get(ACCOUNT, "autumn")
    return True


def test_two_first_starts_at_once_both_succeed(desk: Desk, fresh: dict[str, Any]) -> None:
    assert desk.in_processes(_open, [3], [3]) == [True, True]
    assert desk.sql("SELECT version FROM schema_version") == [(VERSION,)]
    assert _described(desk) == fresh


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


@pytest.mark.parametrize("version", EARLIER)
def test_two_processes_migrate_once(desk: Desk, fresh: dict[str, Any], version: int) -> None:
    _fill(desk, version)
    assert desk.in_processes(_open, [1], [1]) == [True, True]
    assert desk.sql("SELECT version FROM schema_version") == [(VERSION,)]
    assert _described(desk) == fresh
    assert desk.one("SELECT count(*) FROM message") == {1: 11, 2: 18}[version]
