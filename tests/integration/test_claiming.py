"""Claims in a process of their own: the same as those of the journal, and as safe when that process fails or dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.campaign import SendOptions, send_planned
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.errors import CampaignCancelledError, JournalError
from prefect_mymsp.journal import Batch, CampaignKey, Journal, Outcome, SendRun, claiming
from prefect_mymsp.journal.claim_queries import ClaimQueries, acceptances
from prefect_mymsp.journal.claimer import Claimer, left
from prefect_mymsp.journal.claiming import ClaimingProcess
from prefect_mymsp.journal.database import PRAGMAS
from prefect_mymsp.sandbox import Sandbox
from tests.integration.conftest import Desk

NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(params=["sqlite"])
def journal_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Only SQLite's claims are made elsewhere."""
    return f"{request.param}:///{tmp_path / 'journal.db'}"


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every campaign is fast and large."""
    monkeypatch.setattr(claiming, "AT_PACE", 1)
    monkeypatch.setattr(claiming, "WORTH_IT", 1)


def started(journal: Journal, run: SendRun) -> ClaimingProcess:
    """A run's process, once it can be asked."""
    process = journal._processes[run.id]
    assert process is not None
    wait_for(process)
    return process


def wait_for(process: ClaimingProcess) -> None:
    patience = time.monotonic() + 30
    while not process.ready:
        assert time.monotonic() < patience
        time.sleep(0.005)


def begun(desk: Desk, rows: int = 9) -> tuple[SendRun, list[Batch]]:
    """A run that has claimed three requests of several and whose process can be asked."""
    run = desk.journal.claims.start_run(desk.record(desk.personal(rows)))
    first = desk.journal.claims.claim(run, requests=3, batch_size=1)
    started(desk.journal, run)
    return run, first


def running(process: ClaimingProcess) -> bool:
    return process._process.poll() is None


def accepted(batches: list[Batch], first_id: int = 900_000) -> list[Outcome]:
    now = datetime.now(UTC)
    return [Outcome(one.id, "accepted", now, str(first_id + one.id)) for one in batches]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each claim that a process was asked for was made by it."""
    made: list[bool] = []
    claim = ClaimingProcess.claim

    def told(self: ClaimingProcess, most: int, at: int | None, document: str) -> str | None:
        found = claim(self, most, at, document)
        made.append(found is not None)
        return found

    monkeypatch.setattr(ClaimingProcess, "claim", told)
    return made


# -- the same claims -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sender", "send_at"), [(None, None), ("Shop", NOON)])
@pytest.mark.usefixtures("worth_it")
def test_it_claims_and_records_what_the_journal_would(
    desk: Desk, asked: list[bool], monkeypatch: pytest.MonkeyPatch, sender: str | None, send_at: datetime | None
) -> None:
    hostile = 'Says "yes", \\ {json} \u2028 Ωß𝄞\x00\x1f end'
    pairs = [*desk.personal(30), *desk.same(25), (desk.number(40), hostile)]
    told: list[Any] = []
    for name in ("here", "aside"):
        run = desk.journal.claims.start_run(desk.record(pairs, name, batch_size=10, sender=sender, send_at=send_at))
        batches = desk.journal.claims.claim(run, requests=5, batch_size=10)
        if name == "here":
            process = desk.journal._processes.pop(run.id)
            assert process is not None
            process.close()
            monkeypatch.setattr(claiming, "WORTH_IT", 1000)
        else:
            started(desk.journal, run)
        claims = [batches]
        at = None if send_at is None else send_at + timedelta(minutes=1)
        while batches := desk.journal.claims.claim(
            run, requests=7, batch_size=10, send_at=at, outcomes=accepted(batches, 10_000 * run.id)
        ):
            claims.append(batches)
        first = claims[0][0].id
        told.append(
            (
                [[(one.id - first, one.text, one.joined, one.send_at) for one in each] for each in claims],
                desk.sql(
                    "SELECT batch.id - :first, state, sender, send_at, code, reason, body, size, run_id = :run, "
                    "message_id, settled_at >= claimed_at FROM batch JOIN text ON text.id = text_id "
                    "WHERE campaign_id = :id ORDER BY batch.id",
                    id=run.campaign.id,
                    first=first,
                    run=run.id,
                ),
            )
        )
        monkeypatch.setattr(claiming, "WORTH_IT", 1)
    here, aside = told
    assert here[0] == aside[0]
    assert [row[:-2] for row in here[1]] == [row[:-2] for row in aside[1]]
    assert [row[-1] for row in aside[1]] == [1] * len(aside[1])
    assert len({row[-2] for row in aside[1]}) == len(aside[1])
    assert asked[0], "nothing was claimed aside"
    # The last one finds fewer than it is asked for, and the journal looks whether there is more to plan.
    assert asked.count(False) == 2


def here(desk: Desk, run: SendRun, wanted: Callable[[], bool] = lambda: True) -> Claimer:
    """What the process does, in this one."""
    setup = {
        "place": desk.journal._database.file,
        "patience_s": 1.0,
        "pragmas": PRAGMAS,
        "statements": ClaimQueries("sqlite").plain(),
        "run": {"of_campaign": run.campaign.id, "by_run": run.id, "from_originator": None},
    }
    return Claimer(setup, wanted)


def test_claims_are_told_apart_though_the_clock_stands(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(9)))
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    claimer = here(desk, run)
    with contextlib.closing(claimer._cursor.connection):
        claims = [json.loads(claimer.claim(3, None, "") or "") for _ in range(3)]
    assert [[each[2] for each in claim] for claim in claims] == [
        [desk.number(index) for index in range(first, first + 3)] for first in (0, 3, 6)
    ]


def test_what_is_claimed_is_on_disk_before_it_is_told(
    desk: Desk, sqlite_pragmas: Callable[[sqlite3.Connection], dict[str, Any]]
) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(5)))
    claimer = here(desk, run)
    with contextlib.closing(claimer._cursor.connection) as connection:
        assert sqlite_pragmas(connection) == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        told = json.loads(claimer.claim(2, None, "") or "")
        # Somebody else sees it.
        assert [desk.state(number) for number, *_ in told] == ["sending", "sending"]
        assert desk.counts(run.campaign) == {"sending": 2, "planned": 3}


def test_what_does_not_come_whole_is_taken_back(desk: Desk) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(5)))
    claimer = here(desk, run)
    with contextlib.closing(claimer._cursor.connection):
        ((first, *_), _) = json.loads(claimer.claim(2, None, "") or "")
        document = acceptances([Outcome(first, "accepted", datetime.now(UTC), "4711")])
        assert claimer.claim(4, None, document) is None
        assert desk.counts(run.campaign) == {"sending": 2, "planned": 3}
        assert claimer.claim(3, None, document) is not None
        assert desk.counts(run.campaign) == {"sending": 4, "accepted": 1}


def test_what_nobody_waits_for_is_not_claimed(desk: Desk) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(5)))
    claimer = here(desk, run, lambda: False)
    with contextlib.closing(claimer._cursor.connection):
        assert claimer.claim(2, None, "") is None
        assert desk.counts(run.campaign) == {"planned": 5}
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            assert not left(theirs)
        assert left(theirs)


# -- what it leaves to the journal -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worth_it")
def test_of_a_cancelled_campaign_nothing_is_claimed(desk: Desk, asked: list[bool]) -> None:
    run, _ = begun(desk)
    desk.journal.campaigns.cancel(run.campaign)
    with pytest.raises(CampaignCancelledError):
        desk.journal.claims.claim(run, requests=3, batch_size=1)
    assert asked == [False]
    assert desk.counts(run.campaign) == {"sending": 3, "planned": 6}


@pytest.mark.usefixtures("worth_it")
def test_after_its_lease_a_run_claims_nothing(desk: Desk, asked: list[bool]) -> None:
    run, _ = begun(desk)
    desk.expire(run)
    with pytest.raises(JournalError, match="lease has ended"):
        desk.journal.claims.claim(run, requests=3, batch_size=1)
    assert asked == [False]
    assert desk.counts(run.campaign) == {"sending": 3, "planned": 6}


@pytest.mark.usefixtures("worth_it")
def test_an_id_that_another_has_is_doubt_for_both(desk: Desk, asked: list[bool]) -> None:
    run, first = begun(desk)
    now = datetime.now(UTC)
    twice = [Outcome(one.id, "accepted", now, "4711" if index else "4712") for index, one in enumerate(first)]
    assert len(desk.journal.claims.claim(run, requests=3, batch_size=1, outcomes=twice)) == 3
    assert asked == [False]
    assert [desk.state(one) for one in first] == ["accepted", "in_doubt", "in_doubt"]


@pytest.mark.usefixtures("worth_it")
def test_what_has_yet_to_be_put_into_requests_is_not_forgotten(desk: Desk, asked: list[bool]) -> None:
    run, first = begun(desk)
    for batch in first:
        desk.settle(batch, "released")
    claimed = desk.journal.claims.claim(run, requests=9, batch_size=1)
    assert {one.msisdns for one in claimed} == {(number,) for number, _ in desk.personal(9)}
    assert asked == [False]


@pytest.mark.usefixtures("worth_it")
def test_other_outcomes_are_the_journals_to_record(desk: Desk, asked: list[bool]) -> None:
    run, first = begun(desk)
    now = datetime.now(UTC)
    outcomes = [
        Outcome(first[0].id, "accepted", now, "4711"),
        Outcome(first[1].id, "refused", now, code=28),
        Outcome(first[2].id, "in_doubt", now, reason="timeout"),
    ]
    assert len(desk.journal.claims.claim(run, requests=3, batch_size=1, outcomes=outcomes)) == 3
    assert asked == []
    assert [desk.state(one) for one in first] == ["accepted", "refused", "in_doubt"]


WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print(flush=True)
time.sleep(0.7)
"""


@pytest.mark.usefixtures("worth_it")
def test_it_waits_for_who_writes(desk: Desk, asked: list[bool]) -> None:
    run, _ = begun(desk)
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            WRITER,
            desk.url.removeprefix("sqlite:///"),
        ],
        stdout=subprocess.PIPE,
    )
    with writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        began = time.monotonic()
        assert len(desk.journal.claims.claim(run, requests=3, batch_size=1)) == 3
        assert time.monotonic() - began > 0.4
    assert asked == [True]


# -- when it is started, and when it ends ------------------------------------------------------------------------------


def test_no_process_for_a_slow_gateway_or_a_small_campaign(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "AT_PACE", 20)
    monkeypatch.setattr(claiming, "WORTH_IT", 50)
    slow = desk.journal.claims.start_run(desk.record(desk.personal(100), "slow"))
    while desk.journal.claims.claim(slow, requests=19, batch_size=1):
        pass
    small = desk.journal.claims.start_run(desk.record(desk.personal(49), "small"))
    desk.journal.claims.claim(small, requests=20, batch_size=1)
    assert not any(desk.journal._processes.values())
    large = desk.journal.claims.start_run(desk.record(desk.personal(50), "large"))
    desk.journal.claims.claim(large, requests=20, batch_size=1)
    assert running(started(desk.journal, large))


@pytest.mark.usefixtures("worth_it")
def test_it_ends_with_its_run_or_with_the_journal(desk: Desk) -> None:
    journal = desk.open()
    runs = [journal.claims.start_run(desk.record(desk.personal(9), name)) for name in ("one", "two", "three")]
    for run in runs:
        journal.claims.claim(run, requests=3, batch_size=1)
    one, two, three = (started(journal, run) for run in runs)
    journal.claims.end_run(runs[0])
    assert [running(each) for each in (one, two, three)] == [False, True, True]
    journal.close()
    assert [running(each) for each in (one, two, three)] == [False, False, False]


@pytest.mark.usefixtures("worth_it")
def test_its_command_line_names_no_journal_and_nothing_of_it(desk: Desk) -> None:
    run, _ = begun(desk)
    process = started(desk.journal, run)
    shown = Path(f"/proc/{process._process.pid}/cmdline").read_bytes().split(b"\0")[:-1]
    script = str(Path(claiming.__file__).with_name("claimer.py"))
    assert shown[:-1] == [os.fsencode(each) for each in (sys.executable, "-I", "-S", script)]
    assert shown[-1].isdigit()


@pytest.mark.usefixtures("worth_it")
def test_signals_for_the_whole_family_do_not_end_it(desk: Desk, asked: list[bool]) -> None:
    run, _ = begun(desk)
    process = started(desk.journal, run)._process
    assert os.getpgid(process.pid) != os.getpgrp()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    assert len(desk.journal.claims.claim(run, requests=3, batch_size=1)) == 3
    assert asked == [True]


PARENT = """
import os, sys, time
from prefect_mymsp.journal import Journal, claiming
claiming.AT_PACE = claiming.WORTH_IT = 1
journal = Journal(sys.argv[1])
run = journal.claims.start_run(journal.campaigns.get(sys.argv[2], "autumn"))
journal.claims.claim(run, requests=3, batch_size=1)
process = journal._processes[run.id]
while not process.ready:
    time.sleep(0.01)
print(process._process.pid, flush=True)
time.sleep(60)
"""


def test_it_ends_when_who_started_it_is_killed(desk: Desk) -> None:
    campaign = desk.record(desk.personal(9))
    command = [sys.executable, "-c", PARENT, desk.url, campaign.account]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    patience = time.monotonic() + 10
    while _alive(child):
        assert time.monotonic() < patience
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


# -- when it cannot be had, or fails -----------------------------------------------------------------------------------


def not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))


def frozen(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)


def embedded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a server that has Python in it: what would be started is that server, which leaves a trace."""
    script = tmp_path / "uwsgi"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path / 'trace'}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def unnamed(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setattr(sys, "executable", None)


def no_descriptors(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    def refuse() -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", refuse)


def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Python that does not run the script."""
    script = tmp_path / "python3"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


@pytest.mark.parametrize("machine", [not_there, frozen, embedded, unnamed, broken, no_descriptors])
@pytest.mark.usefixtures("worth_it")
def test_where_it_cannot_be_started_the_journal_claims(
    desk: Desk, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: list[bool]
) -> None:
    machine(monkeypatch, tmp_path)
    run = desk.journal.claims.start_run(desk.record(desk.personal(9)))
    claimed = 0
    while batches := desk.journal.claims.claim(run, requests=3, batch_size=1):
        claimed += len(batches)
        time.sleep(0.1)
    assert claimed == 9
    assert asked == []
    assert not (tmp_path / "trace").exists()


@pytest.mark.usefixtures("worth_it")
def test_another_file_of_that_name_is_not_created(desk: Desk, tmp_path: Path) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(9)))
    desk.journal.claims.claim(run, requests=3, batch_size=1)
    process = ClaimingProcess(
        (tmp_path / "other.db", 1, 1), {}, statements=ClaimQueries("sqlite").plain(), pragmas=PRAGMAS
    )
    never_ready(process)
    assert not (tmp_path / "other.db").exists()


def never_ready(process: ClaimingProcess) -> None:
    patience = time.monotonic() + 20
    while running(process):
        assert not process.ready
        assert time.monotonic() < patience
    assert not process.ready
    process.close()


def test_a_copy_that_has_taken_the_journals_place_is_not_claimed_from(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(9)))
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        connection.execute("VACUUM INTO ?", [str(tmp_path / "copy.db")])
    (tmp_path / "copy.db").replace(tmp_path / "journal.db")
    monkeypatch.setattr(claiming, "AT_PACE", 1)
    monkeypatch.setattr(claiming, "WORTH_IT", 1)
    assert len(desk.journal.claims.claim(run, requests=3, batch_size=1)) == 3
    process = desk.journal._processes[run.id]
    assert process is not None
    never_ready(process)
    assert len(desk.journal.claims.claim(run, requests=6, batch_size=1)) == 6


@pytest.mark.usefixtures("worth_it")
def test_the_applications_default_for_sockets_does_not_matter(desk: Desk, asked: list[bool]) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(9)))
    socket.setdefaulttimeout(30)
    try:
        desk.journal.claims.claim(run, requests=3, batch_size=1)
    finally:
        socket.setdefaulttimeout(None)
    started(desk.journal, run)
    time.sleep(0.1)
    assert len(desk.journal.claims.claim(run, requests=3, batch_size=1)) == 3
    assert asked == [True]


@pytest.mark.usefixtures("worth_it")
def test_a_journal_named_from_a_folder_that_was_left_is_the_same_one(
    desk: Desk, tmp_path: Path, asked: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.record(desk.personal(9))
    monkeypatch.chdir(tmp_path)
    with Journal("sqlite:///journal.db") as journal:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        campaign = journal.campaigns.get("a" * 32, "autumn") or desk.journal.campaigns.get(*_named(desk))
        assert campaign is not None
        run = journal.claims.start_run(campaign)
        journal.claims.claim(run, requests=3, batch_size=1)
        started(journal, run)
        assert len(journal.claims.claim(run, requests=3, batch_size=1)) == 3
    assert asked == [True]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def _named(desk: Desk) -> tuple[str, str]:
    ((account, name),) = desk.sql("SELECT account, name FROM campaign")
    return account, name


def killed(process: ClaimingProcess) -> None:
    process._process.kill()


def stopped(process: ClaimingProcess) -> None:
    process._process.send_signal(signal.SIGSTOP)


@pytest.mark.parametrize("misfortune", [killed, stopped])
@pytest.mark.usefixtures("worth_it")
def test_when_it_does_not_answer_the_journal_claims_on(
    desk: Desk, misfortune: Callable[[ClaimingProcess], None], monkeypatch: pytest.MonkeyPatch, asked: list[bool]
) -> None:
    monkeypatch.setattr(claiming, "_GIVE_UP_S", 0.5)
    run, first = begun(desk, rows=12)
    process = started(desk.journal, run)
    misfortune(process)
    second = desk.journal.claims.claim(run, requests=3, batch_size=1, outcomes=accepted(first))
    third = desk.journal.claims.claim(run, requests=6, batch_size=1, outcomes=accepted(second))
    claimed = [one.msisdns for one in (*first, *second, *third)]
    assert claimed == [(number,) for number, _ in desk.personal(12)]
    assert desk.counts(run.campaign) == {"accepted": 6, "sending": 6}
    assert asked == [False]
    assert not running(process)


@pytest.mark.usefixtures("worth_it")
def test_a_claim_whose_answer_is_lost_is_in_doubt_and_nobody_elses(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = begun(desk, rows=12)
    process = started(desk.journal, run)
    read = process._stream.readline

    def lost(*_: Any) -> bytes:
        read()  # the claim is made
        raise TimeoutError

    monkeypatch.setattr(process._stream, "readline", lost)
    first = [one.msisdns for one in desk.journal.claims.claim(run, requests=3, batch_size=1)]
    rest = [one.msisdns for one in desk.journal.claims.claim(run, requests=9, batch_size=1)]
    assert [*first, *rest] == [(number,) for number, _ in desk.personal(12)[6:]]
    desk.journal.claims.end_run(run)
    assert desk.counts(run.campaign) == {"in_doubt": 12}


# -- in a campaign -----------------------------------------------------------------------------------------------------


def send(journal: Journal, sandbox: Sandbox, campaign: CampaignKey) -> Any:
    async def run() -> Any:
        async with AsyncMyMSPClient(sandbox.user, sandbox.password, base_url=sandbox.base_url, connections=8) as client:
            return await send_planned(journal, client, campaign, SendOptions())

    return asyncio.run(run())


@pytest.fixture
def campaign(desk: Desk, mymsp_sandbox: Sandbox) -> CampaignKey:
    account = account_fingerprint(mymsp_sandbox.base_url, mymsp_sandbox.user)
    messages = [(f"467005{index:05d}", f"Hello number {index}") for index in range(400)]
    return desk.record(messages, account=account)


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch, worth_it: None) -> None:
    """A process is waited for until it can be asked."""
    begin = ClaimingProcess.__init__

    def wait(self: ClaimingProcess, *told: Any, **more: Any) -> None:
        begin(self, *told, **more)
        wait_for(self)

    monkeypatch.setattr(ClaimingProcess, "__init__", wait)


@pytest.mark.usefixtures("prompt")
def test_a_campaign_goes_out_once(desk: Desk, mymsp_sandbox: Sandbox, campaign: CampaignKey, asked: list[bool]) -> None:
    assert send(desk.journal, mymsp_sandbox, campaign).accepted == 400
    assert Counter(mymsp_sandbox.gateway.summary().values()) == {1: 400}
    assert asked.count(True) > 3
    assert desk.journal._processes == {}


@pytest.mark.parametrize("misfortune", [killed, stopped])
@pytest.mark.usefixtures("prompt")
def test_lost_in_the_middle_it_costs_nobody_a_message(
    desk: Desk,
    mymsp_sandbox: Sandbox,
    campaign: CampaignKey,
    asked: list[bool],
    misfortune: Callable[[ClaimingProcess], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claiming, "_GIVE_UP_S", 0.5)
    claim = ClaimingProcess.claim

    def doomed(self: ClaimingProcess, most: int, at: int | None, document: str) -> str | None:
        if len(asked) == 3:
            misfortune(self)
        return claim(self, most, at, document)

    monkeypatch.setattr(ClaimingProcess, "claim", doomed)
    counts = send(desk.journal, mymsp_sandbox, campaign)
    assert len(asked) == 4
    sent = mymsp_sandbox.gateway.summary()
    assert set(sent.values()) == {1}
    assert len(sent) == counts.accepted
    assert counts.accepted + counts.in_doubt == 400


def test_it_is_given_up_while_a_lease_lasts() -> None:
    assert claiming._PATIENCE_S < claiming._GIVE_UP_S < SendOptions().lease_s / 3
