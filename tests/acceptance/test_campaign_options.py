"""Campaign options, checked against the gateway's ledger: suppression, hours, speed, limits, groups, approval."""

from __future__ import annotations

import logging
import pickle
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import pytest
from prefect import flow
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.states import Scheduled
from pydantic import SecretStr

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.errors import (
    CampaignStoppedError,
    ConfigurationError,
    InputError,
    LimitError,
    NotApprovedError,
    SourceError,
    TemplateError,
)
from prefect_mymsp.flows import (
    Advanced,
    Audience,
    Safeguards,
    SendWindow,
    Speed,
    Suppression,
    approval,
    report_progress_to,
    send_campaign,
    send_dataframe,
)
from prefect_mymsp.flows.concurrency import concurrency_gate
from prefect_mymsp.journal import Journal, Selection
from prefect_mymsp.reports import CampaignReport
from prefect_mymsp.reports.frames import SUPPRESSED_ROW_DTYPES
from prefect_mymsp.sandbox import Fault, Sandbox

pytestmark = pytest.mark.usefixtures("prefect_harness")

TEXT = "Hej {name}"


def people(path: Path, *suffixes: int, extra: str = "") -> Path:
    """A file of recipients 070-1740<suffix>, each named after the suffix."""
    rows = "".join(f"0701740{suffix};P{suffix}\n" for suffix in suffixes)
    path.write_text(f"phone;name\n{rows}{extra}", encoding="utf-8")
    return path


def msisdn(suffix: int) -> str:
    return f"46701740{suffix}"


def reached(sandbox: Sandbox) -> list[int]:
    """Suffixes of the numbers for which the gateway accepted messages, sorted, with repetitions."""
    numbers = [r["msisdn"] for m in sandbox.gateway.ledger() if not m["cancelled"] for r in m["recipients"]]
    return sorted(int(number.removeprefix("46701740")) for number in numbers)


def scheduled(sandbox: Sandbox) -> set[datetime | None]:
    times = {message["scheduled_at"] for message in sandbox.gateway.ledger()}
    return {None if time is None else datetime.fromisoformat(time) for time in times}


@pytest.fixture
def account(credentials: MyMSPCredentials) -> str:
    return account_fingerprint(credentials.base_url, credentials.user)


@contextmanager
def journal_of(workspace: Any) -> Iterator[Journal]:
    with Journal(workspace.journal) as journal:
        yield journal


def opt_out(workspace: Any, account: str, *suffixes: int) -> None:
    with journal_of(workspace) as journal:
        journal.suppressions.add(account, map(msisdn, suffixes), "opt-out")


def recorded(workspace: Any) -> int:
    """Number of campaigns in the journal."""
    if not workspace.journal.exists():
        return 0
    with closing(sqlite3.connect(workspace.journal)) as journal:
        (count,) = journal.execute("SELECT count(*) FROM campaign").fetchone()
    return int(count)


def in_hours(opens: float, closes: float) -> SendWindow:
    """A daily send window that opens and closes so many hours from now."""
    now = datetime.now(UTC)
    times = [f"{now + timedelta(hours=hours):%H:%M}" for hours in (opens, closes)]
    return SendWindow(opens=times[0], closes=times[1], timezone="UTC")


# -- suppression -------------------------------------------------------------------------------------------------------


def test_suppressed_numbers_get_nothing_and_are_reported(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path, account: str
) -> None:
    opt_out(workspace, account, 606)
    suppressed_file = tmp_path / "given.csv"
    suppressed_file.write_text("Mobil\n070-174 06 07\n+46 70 174 06 06\n08-465 004 00\n", encoding="utf-8")
    source = people(tmp_path / "a.csv", 605, 606, 607, 608, 607, extra="12;bad\n")
    report = send_campaign(
        source, TEXT, credentials, "spring", suppression=Suppression(file=str(suppressed_file)), wait_minutes=0
    )
    assert reached(gateway) == [605, 608]
    assert (report.rows, report.rejected, report.suppressed, report.duplicates, report.messages) == (6, 1, 3, 0, 2)
    assert ("suppressed rows", "3") in report.lines()
    frame = report.suppressed_rows
    assert frame.to_dict("records") == [
        {"row": 3, "msisdn": msisdn(606), "reason": "opt-out"},
        {"row": 4, "msisdn": msisdn(607), "reason": "on the list"},
        {"row": 6, "msisdn": msisdn(607), "reason": "on the list"},
    ]
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == SUPPRESSED_ROW_DTYPES
    assert report.rejected_rows["row"].tolist() == [7]
    assert report.deliveries["recipient"].tolist() == [msisdn(605), msisdn(608)]

    # Opt-outs belong to one account, and opt_outs=False ignores them.
    with journal_of(workspace) as journal:
        journal.suppressions.add("f" * 32, [msisdn(605)], "opt-out")
    again = send_campaign(
        source,
        "Hej igen {name}",
        credentials,
        "summer",
        wait_minutes=0,
        dry_run=True,
        suppression=Suppression(opt_outs=False),
    )
    assert (again.suppressed, again.messages) == (0, 4)
    assert {name: str(dtype) for name, dtype in again.suppressed_rows.dtypes.items()} == SUPPRESSED_ROW_DTYPES


def test_a_dry_run_suppresses_the_same_numbers(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path, account: str
) -> None:
    source = people(tmp_path / "a.csv", 605, 606)
    assert send_campaign(source, TEXT, credentials, "dry", dry_run=True).suppressed == 0
    assert not workspace.journal.exists()
    opt_out(workspace, account, 606)
    assert send_campaign(source, TEXT, credentials, "dry", dry_run=True).suppressed == 1
    assert recorded(workspace) == 0
    assert gateway.gateway.request_count == 0


def test_the_url_of_a_suppression_table_stays_secret(
    credentials: MyMSPCredentials,
    gateway: Sandbox,
    workspace: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "canary-sparv-8841"
    database = tmp_path / f"{secret}.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE gone (msisdn integer)")
        connection.execute("INSERT INTO gone VALUES (46701740606)")
    url = f"sqlite:///{database}"
    block: Secret[Any] = Secret(value=SecretStr(url))
    block.save("suppressed-people", overwrite=True)
    source = people(tmp_path / "a.csv", 605, 606)
    by_name: Any = {"table": "gone", "database": {"$ref": {"block_document_slug": "secret/suppressed-people"}}}
    for name, suppression in (
        ("by block", Suppression(table="gone", database=block)),
        ("by name", by_name),
    ):
        report = send_campaign(
            source,
            TEXT,
            credentials,
            name,
            suppression=suppression,
            wait_minutes=0,
            safeguards=Safeguards(allow_repeat_today=True),
        )
        assert report.suppressed == 1
    assert reached(gateway) == [605, 605]
    with pytest.raises(SourceError, match="'lost' does not exist"):
        send_campaign(source, TEXT, credentials, "x", suppression=Suppression(table="lost", database=block))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(limit=3):
            assert secret not in repr(run)
    assert secret not in caplog.text

    for incomplete, problem in (
        (Suppression(column="msisdn"), "column needs a file or a table"),
        (Suppression(table="gone"), "belong together"),
        (Suppression(file=str(source), database=block), "belong together"),
    ):
        with pytest.raises(InputError, match=problem):
            send_campaign(source, TEXT, credentials, "x", suppression=incomplete)


def test_opt_outs_between_two_starts_are_respected(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path, account: str
) -> None:
    source = people(tmp_path / "a.csv", *range(605, 615))
    gateway.gateway.faults.replace(scripted=[Fault("none", times=3), Fault("refuse", code=12, times=99)])
    with pytest.raises(CampaignStoppedError) as stopped:
        send_campaign(source, TEXT, credentials, "stopped", wait_minutes=0)
    planned = stopped.value.counts["planned"]
    reached_before = set(reached(gateway))
    assert planned == 10 - len(reached_before) > 3
    gateway.gateway.faults.replace(scripted=[])
    # One recipient who has received the message, and two who have not.
    gone = [min(reached_before), *sorted(set(range(605, 615)) - reached_before)[:2]]
    opt_out(workspace, account, *gone)
    report = send_campaign(source, TEXT, credentials, "stopped", wait_minutes=0)
    assert reached(gateway) == sorted(set(range(605, 615)) - set(gone[1:]))
    assert (report.suppressed, report.messages, report.planned) == (3, 8, 0)
    with journal_of(workspace) as journal:  # their messages are deleted from the journal too
        key = journal.campaigns.get(account, "stopped")
        assert key is not None
        parts = journal.report_queries.messages(account, Selection(campaigns=[key.id]))
        rows = [number for part in parts for number in part["msisdn"]]
    assert set(map(msisdn, gone[1:])) & set(rows) == set()


# -- delivery times ----------------------------------------------------------------------------------------------------


def test_messages_outside_the_send_window_wait_for_its_opening(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    source, window = people(tmp_path / "a.csv", 605, 606), in_hours(5, 7)
    opening = window.time_window().next_opening(datetime.now(UTC))
    assert send_campaign(source, TEXT, credentials, "night", send_window=window, wait_minutes=0).accepted == 2
    assert scheduled(gateway) == {opening}
    again = send_campaign(source, TEXT, credentials, "night", send_window=in_hours(-1, 2), wait_minutes=0)
    assert again.accepted == 2
    assert reached(gateway) == [605, 606]
    by_day = send_campaign(
        source,
        TEXT,
        credentials,
        "day",
        send_window=in_hours(-1, 2),
        wait_minutes=0,
        safeguards=Safeguards(allow_repeat_today=True),
    )
    assert by_day.accepted == 2
    assert scheduled(gateway) == {opening, None}


def test_a_delivery_time_outside_the_window_is_refused(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    source = people(tmp_path / "a.csv", 605)
    night = datetime.fromisoformat("2090-01-31T03:00+01:00")
    with pytest.raises(InputError, match=r"outside the send window \(08:00 to 20:00.*opens next at 2090-01-31 08:00"):
        send_campaign(source, TEXT, credentials, "night", send_at=night, send_window=SendWindow())
    with pytest.raises(InputError, match="not a time of day"):
        send_campaign(source, TEXT, credentials, "night", send_window=SendWindow(opens="8 o'clock"))
    assert recorded(workspace) == 0
    day = datetime.fromisoformat("2090-01-31T12:00+01:00")
    send_campaign(source, TEXT, credentials, "day", send_at=day, send_window=SendWindow(), wait_minutes=0)
    assert scheduled(gateway) == {day}


def run_late(hours: float, **parameters: Any) -> Any:
    """A run that a worker starts so many hours after its scheduled time."""
    then = datetime.now(UTC) - timedelta(hours=hours)
    with get_client(sync_client=True) as client:
        created: FlowRun = client.create_flow_run(
            send_campaign, parameters=parameters, state=Scheduled(scheduled_time=then)
        )
    return run_flow(send_campaign, flow_run=created)


@pytest.fixture
def saved(credentials: MyMSPCredentials) -> dict[str, Any]:
    """Credentials as a deployment refers to them."""
    credentials.save("sending-options", overwrite=True)
    return {"$ref": {"block_document_slug": "mymsp-credentials/sending-options"}}


def test_a_run_that_starts_hours_late_is_refused(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path, saved: dict[str, Any]
) -> None:
    source = str(people(tmp_path / "a.csv", 605, 606))
    parameters = {"recipients": source, "credentials": saved, "message": TEXT, "wait_minutes": 0}
    repeat = {"allow_repeat_today": True}
    with pytest.raises(
        LimitError, match=r"'a 20.*was scheduled to start at .* 3 h 0\d min ago; max_late_minutes allows 2 h 00 min"
    ):
        run_late(3, **parameters)
    assert (reached(gateway), recorded(workspace)) == ([], 0)
    assert run_late(1, **parameters, campaign="soon enough").accepted == 2
    late = run_late(3, **parameters, campaign="late all the same", safeguards={"max_late_minutes": 240, **repeat})
    assert late.accepted == 2
    # A campaign with a delivery time is not late before that.
    later = f"{datetime.now(UTC) + timedelta(hours=2):%Y-%m-%dT%H:%M}Z"
    assert run_late(3, **parameters, campaign="scheduled", send_at=later, safeguards=repeat).accepted == 2
    assert run_late(3, **parameters, campaign="looked at", dry_run=True).messages == 2


def test_a_recently_active_campaign_may_continue_late(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path, saved: dict[str, Any]
) -> None:
    source = str(people(tmp_path / "a.csv", *range(605, 611)))
    parameters: dict[str, Any] = {
        "recipients": source,
        "credentials": saved,
        "message": TEXT,
        "campaign": "long",
        "wait_minutes": 0,
    }
    gateway.gateway.faults.replace(scripted=[Fault("none", times=2), Fault("refuse", code=12, times=99)])
    with pytest.raises(CampaignStoppedError):
        send_campaign(**{**parameters, "credentials": credentials})
    gateway.gateway.faults.replace(scripted=[])
    # A campaign that was last active hours ago is late again.
    with closing(sqlite3.connect(workspace.journal)) as journal, journal:
        journal.execute("UPDATE run SET ended_at = ended_at - 3 * 3600 * 1000000")
    reached_before = len(reached(gateway))
    with pytest.raises(LimitError, match=r"'long' was last being sent at .* 3 h 0"):
        run_late(9, **parameters)
    assert len(reached(gateway)) == reached_before
    with closing(sqlite3.connect(workspace.journal)) as journal, journal:
        journal.execute("UPDATE run SET ended_at = ended_at + 3 * 3600 * 1000000")
    assert run_late(9, **parameters).accepted == 6
    assert reached(gateway) == list(range(605, 611))


def test_a_run_inside_a_late_run_is_late(credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any) -> None:
    frame = pd.DataFrame({"phone": ["0701740605"]})

    @flow(name="nightly")
    def nightly() -> CampaignReport:
        return send_dataframe(frame, "Hej", credentials, "nightly", wait_minutes=0)

    with get_client(sync_client=True) as client:
        then = datetime.now(UTC) - timedelta(hours=3)
        created: FlowRun = client.create_flow_run(nightly, state=Scheduled(scheduled_time=then))
    with pytest.raises(LimitError, match="max_late_minutes"):
        run_flow(nightly, flow_run=created)
    assert reached(gateway) == []
    assert nightly().accepted == 1


# -- speed -------------------------------------------------------------------------------------------------------------


def test_messages_per_minute(credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path) -> None:
    source = people(tmp_path / "a.csv", *range(605, 613))
    send_campaign(source, TEXT, credentials, "slow", wait_minutes=0, speed=Speed(messages_per_minute=600))
    times = [datetime.fromisoformat(message["accepted_at"]) for message in gateway.gateway.ledger()]
    assert len(times) == 8
    assert times[-1] - times[0] > timedelta(seconds=0.6)
    # Requests with many recipients of one text are limited as well.
    before = len(gateway.gateway.ledger())
    send_campaign(
        source,
        "Hej",
        credentials,
        "slow too",
        wait_minutes=0,
        send_window=in_hours(5, 7),
        speed=Speed(messages_per_minute=20),
    )
    sizes = [len(message["recipients"]) for message in gateway.gateway.ledger()[before:]]
    assert sizes == [2, 2, 2, 2]
    with pytest.raises(InputError, match="messages_per_minute"):
        send_campaign(source, TEXT, credentials, "x", speed=Speed(messages_per_minute=0))


def test_a_global_concurrency_limit(
    credentials: MyMSPCredentials,
    gateway: Sandbox,
    workspace: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = people(tmp_path / "a.csv", *range(605, 611))
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("sms-gateway", 2, 4.0)
        client.upsert_global_concurrency_limit_by_name("sms-locks", 2, 0.0)
    send_campaign(source, TEXT, credentials, "shared", wait_minutes=0, speed=Speed(concurrency_limit="sms-gateway"))
    times = [datetime.fromisoformat(message["accepted_at"]) for message in gateway.gateway.ledger()]
    assert reached(gateway) == list(range(605, 611))
    assert times[-1] - times[0] > timedelta(seconds=0.7)  # six requests, two at once, four a second

    gate = concurrency_gate("sms-gateway")
    assert gate is not None
    assert pickle.loads(pickle.dumps(gate)) == gate  # it is pickled for workers
    with pytest.raises(ConfigurationError, match="'sms-locks' do not decay"):
        send_campaign(source, TEXT, credentials, "x", speed=Speed(concurrency_limit="sms-locks"))
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        report = send_campaign(
            source,
            TEXT,
            credentials,
            "free",
            wait_minutes=0,
            speed=Speed(concurrency_limit="nowhere"),
            safeguards=Safeguards(allow_repeat_today=True),
        )
    assert report.accepted == 6
    assert time.monotonic() - began < 5  # Prefect is asked once
    assert caplog.text.count("no global concurrency limit 'nowhere'") == 1


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("safeguards", "message_pattern"),
    [
        (Safeguards(max_rejected=0), r"2 of 5 rows of a\.csv cannot be sent.*row 5 \(phone\), row 6 \(name\)"),
        (Safeguards(max_rejected=0.3), r"max_rejected allows at most 0\.3 of them"),
        (Safeguards(max_recipients=2), "3 recipients would get messages"),
        (Safeguards(max_segments=1), r"3 messages.*Rows 2, 3, 4\."),
    ],
    ids=["none", "share", "recipients", "segments"],
)
def test_beyond_a_limit_nothing_is_sent_or_recorded(
    safeguards: Safeguards,
    message_pattern: str,
    credentials: MyMSPCredentials,
    gateway: Sandbox,
    workspace: Any,
    tmp_path: Path,
) -> None:
    source = people(tmp_path / "a.csv", 605, 606, 607, extra="12;Anna\n0701740608;\n")
    message = TEXT + "!" * 160 if safeguards.max_segments else TEXT
    for dry_run in (True, False):
        with pytest.raises(LimitError, match=message_pattern) as caught:
            send_campaign(source, message, credentials, "limited", dry_run=dry_run, safeguards=safeguards)
    assert gateway.gateway.request_count == 0
    assert recorded(workspace) == 0
    assert "174" not in str(caught.value)
    # The rejected rows are written to a file, to be fixed.
    rejected_rows = workspace.reports / "limited-rejected-rows.csv"
    assert str(rejected_rows) in str(caught.value)
    assert pd.read_csv(rejected_rows)["row"].tolist() == [5, 6]
    # The fixed file can be sent under the same name.
    report = send_campaign(
        source,
        TEXT,
        credentials,
        "limited",
        wait_minutes=0,
        safeguards=Safeguards(max_rejected=0.4, max_recipients=3),
    )
    assert report.accepted == 3


def test_a_limit_counts_all_messages_of_a_continued_campaign(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path, account: str
) -> None:
    send_campaign(
        people(tmp_path / "a.csv", 605, 606),
        TEXT,
        credentials,
        "grows",
        wait_minutes=0,
        safeguards=Safeguards(max_recipients=2),
    )
    with pytest.raises(LimitError, match="3 recipients"):
        send_campaign(
            people(tmp_path / "a.csv", 605, 606, 607),
            TEXT,
            credentials,
            "grows",
            safeguards=Safeguards(max_recipients=2),
        )
    with journal_of(workspace) as journal:
        key = journal.campaigns.get(account, "grows")
        assert key is not None
        assert journal.campaigns.counts(key).messages == 2
    assert reached(gateway) == [605, 606]


# -- groups ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def groups(gateway: Sandbox) -> None:
    members = {"staff": [msisdn(620), msisdn(621)], "board": [msisdn(621), msisdn(622)]}
    gateway.gateway.configure({"accounts": {gateway.user: {"groups": members}}})


@pytest.mark.usefixtures("groups")
def test_groups_get_one_request_each(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    report = send_campaign(
        people(tmp_path / "a.csv", 605, 606),
        "Hej alla",
        credentials,
        "all",
        audience=Audience(groups=["staff", " board ", "staff"]),
    )
    assert [len(message["recipients"]) for message in gateway.gateway.ledger()] == [2, 2, 2]
    assert reached(gateway) == [605, 606, 620, 621, 621, 622]
    assert (report.groups, report.rows) == (2, 2)
    again = send_campaign(
        tmp_path / "a.csv", "Hej alla", credentials, "all", audience=Audience(groups=["staff", "board"])
    )
    assert len(gateway.gateway.ledger()) == 3
    assert again.recorded_before == 4
    alone = send_campaign(None, "Bara ni", credentials, wait_minutes=0, audience=Audience(groups=["staff"]))
    assert alone.campaign.startswith("staff 20")
    assert (alone.rows, alone.accepted) == (0, 1)
    assert reached(gateway)[-4:] == [621, 621, 621, 622]
    planned = send_campaign(None, "Bara ni", credentials, dry_run=True, audience=Audience(groups=["staff", "board"]))
    assert (planned.messages, planned.groups, planned.source) == (2, 2, "groups 'staff', 'board'")


def test_invalid_groups_are_refused(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    source = people(tmp_path / "a.csv", 605)
    for names, problem in (
        (["a,b"], "'a,b' has a comma in its name"),
        ([" "], "name of a recipient group is empty"),
        (["46701740605"], "no letter in its name"),
        (["a\tb"], "control character"),
    ):
        with pytest.raises(InputError, match=problem):
            send_campaign(source, "Hej", credentials, "x", audience=Audience(groups=names))
    with pytest.raises(TemplateError, match="without placeholders"):
        send_campaign(source, TEXT, credentials, "x", audience=Audience(groups=["staff"]))
    with pytest.raises(InputError, match="No recipients"):
        send_campaign(None, "Hej", credentials, "x")
    with pytest.raises(InputError, match="max_recipients cannot be combined"):
        send_campaign(
            source,
            "Hej",
            credentials,
            "x",
            audience=Audience(groups=["staff"]),
            safeguards=Safeguards(max_recipients=9),
        )
    assert gateway.gateway.request_count == 0
    assert recorded(workspace) == 0


# -- approval ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "_POLL_INTERVAL_S", 0.2)


class Person:
    """A person who waits for paused runs, reads their forms and answers."""

    def __init__(self, *answers: str, first: Callable[[], object] = lambda: None) -> None:
        self.answers = list(answers)
        self.first = first
        self.read: list[str] = []
        self.failed: list[BaseException] = []

    def __enter__(self) -> Person:
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()
        assert not self.failed, self.failed

    def _answer(self) -> None:
        try:
            for answer in self.answers:
                run = self._paused()
                self.first()
                self._resume(run, answer)
        except BaseException as error:
            self.failed.append(error)

    @staticmethod
    def _paused() -> FlowRun:
        paused = FlowRunFilterState(name=FlowRunFilterStateName(any_=["Paused"]))
        deadline = time.monotonic() + 45
        with get_client(sync_client=True) as client:
            while time.monotonic() < deadline:
                runs = [
                    run
                    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=paused))
                    if run.state is not None and run.state.timestamp > datetime.now(UTC) - timedelta(seconds=45)
                ]
                if runs:
                    return runs[-1]
                time.sleep(0.05)
        raise AssertionError("No run is paused.")

    def _resume(self, run: FlowRun, answer: str) -> None:
        assert run.state is not None
        keys = run.state.state_details.run_input_keyset
        assert keys is not None
        with get_client(sync_client=True) as client:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:  # the form is stored a moment after the pause
                result = client.resume_flow_run(run.id, run_input={"answer": answer})
                if result.status.value == "ACCEPT":
                    self.read.append(_input(run.id, keys["description"]))
                    return
                time.sleep(0.05)
        raise AssertionError(result)


def _input(run: UUID, key: str) -> str:
    import asyncio

    async def read() -> str:
        async with get_client() as client:
            return await client.read_flow_run_input(run, key)

    return asyncio.run(read())


def test_a_person_approves_before_the_first_message(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path, account: str
) -> None:
    opt_out(workspace, account, 607)
    source = people(tmp_path / "a.csv", 605, 606, 607, extra="12;bad\n")
    counts_before: list[tuple[int, int]] = []

    def record_counts() -> None:
        counts_before.append((gateway.gateway.request_count, recorded(workspace)))

    with Person("send", first=record_counts) as person:
        report = send_campaign(source, TEXT + " `|`", credentials, "asked", approval=True, wait_minutes=0)
    assert counts_before == [(0, 0)]
    assert (report.accepted, report.suppressed) == (2, 1)
    assert reached(gateway) == [605, 606]
    (description,) = person.read
    for part in (
        "Campaign asked waits for approval",
        "2 messages",
        "rows 5",
        "46•••••••05 (row 2)",
        "at once",
        "Hej {name} `|`",
        "column 'phone'",
    ):
        assert part in description, part
    for secret in ("0701740", "46701740", "P605", credentials.password.get_secret_value()):
        assert secret not in description
    # A second start has nothing to approve.
    assert send_campaign(source, TEXT + " `|`", credentials, "asked", approval=True, wait_minutes=0).accepted == 2


def test_a_person_refuses_and_a_later_run_asks_again(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    source = people(tmp_path / "a.csv", 605)
    with Person("do-not-send"), pytest.raises(NotApprovedError, match=r"'asked' was rejected\. Nothing was sent"):
        send_campaign(source, TEXT, credentials, "asked", approval=True)
    assert (gateway.gateway.request_count, recorded(workspace)) == (0, 0)
    with Person("send"):
        assert send_campaign(source, TEXT, credentials, "asked", approval=True, wait_minutes=0).accepted == 1


def test_an_approval_times_out(credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path) -> None:
    source = people(tmp_path / "a.csv", 605)
    with pytest.raises(NotApprovedError, match="Campaign 'asked' was not approved in time"):
        send_campaign(source, TEXT, credentials, "asked", approval=True, advanced=Advanced(approval_hours=0.5 / 3600))
    assert (gateway.gateway.request_count, recorded(workspace)) == (0, 0)
    with pytest.raises(InputError, match="approval_hours must be above zero"):
        send_campaign(source, TEXT, credentials, "asked", approval=True, advanced=Advanced(approval_hours=0))
    for late in (-1, float("nan")):
        with pytest.raises(InputError, match="max_late_minutes must not be below zero"):
            send_campaign(source, TEXT, credentials, "asked", safeguards=Safeguards(max_late_minutes=late))


def test_only_what_was_approved_is_sent(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path, account: str
) -> None:
    source = people(tmp_path / "a.csv", 605, 606)
    with (
        Person("send", first=lambda: people(source, 605, 606, 607)),
        pytest.raises(NotApprovedError, match=r"a\.csv has changed since"),
    ):
        send_campaign(source, TEXT, credentials, "asked", approval=True)
    assert (gateway.gateway.request_count, recorded(workspace)) == (0, 0)

    # Numbers that opt out meanwhile are suppressed; numbers suppressed when approval was requested stay suppressed.
    suppressed_file = tmp_path / "given.csv"
    suppressed_file.write_text("phone\n0701740605\n", encoding="utf-8")

    def change_suppression() -> None:
        opt_out(workspace, account, 606)
        suppressed_file.write_text("phone\n0701740699\n", encoding="utf-8")

    with Person("send", first=change_suppression):
        report = send_campaign(
            source,
            TEXT,
            credentials,
            "asked",
            approval=True,
            wait_minutes=0,
            suppression=Suppression(file=str(suppressed_file)),
        )
    assert (report.suppressed, report.accepted) == (2, 1)
    assert reached(gateway) == [607]


def test_a_delivery_time_that_passes_during_approval_is_refused(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_module = sys.modules["prefect_mymsp.flows.send"]
    soon = datetime.now(UTC) + timedelta(minutes=3)

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(minutes=9)

    with (
        Person("send", first=lambda: monkeypatch.setattr(flow_module, "datetime", Later)),
        pytest.raises(InputError, match="has passed while the campaign waited"),
    ):
        send_campaign(
            people(tmp_path / "a.csv", 605), TEXT, credentials, "asked", approval=True, send_at=soon, wait_minutes=0
        )
    assert (gateway.gateway.request_count, recorded(workspace)) == (0, 0)


# -- Prefect's own retries ---------------------------------------------------------------------------------------------


class Crash(Exception):  # noqa: N818
    """Any unexpected error in the middle of a campaign."""


@pytest.mark.parametrize("approved", [False, True])
def test_prefect_retries_after_crashes_send_each_row_once(
    approved: bool, credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    source = people(tmp_path / "a.csv", *range(605, 613))
    crashes = iter([2, 5])
    at = next(crashes)

    def crash(progress: Any) -> None:
        nonlocal at
        with closing(sqlite3.connect(workspace.journal)) as journal:
            (done,) = journal.execute("SELECT count(*) FROM batch WHERE state = 'accepted'").fetchone()
        if done >= at:
            at = next(crashes, 1000)
            raise Crash

    # Prefect counts the resumption after a pause as one of the retries.
    retried = send_campaign.with_options(retries=2 + approved, retry_delay_seconds=0)
    # At this rate no request is in flight at a crash. A person is asked once, although the flow starts three times.
    with Person(*(["send"] if approved else [])), report_progress_to(crash):
        report = retried(
            source,
            TEXT,
            credentials,
            "retried",
            approval=approved,
            wait_minutes=0,
            speed=Speed(messages_per_minute=240),
        )
    assert at == 1000
    assert (report.accepted, report.in_doubt, report.recorded_before) == (8, 0, 8)
    assert reached(gateway) == list(range(605, 613))
    assert set(gateway.gateway.summary().values()) == {1}
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(limit=1, sort="EXPECTED_START_TIME_DESC")  # type: ignore[arg-type]
    assert run.run_count == 3 + approved


def test_a_prefect_retry_after_a_refusal_continues(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    source = people(tmp_path / "a.csv", *range(605, 613))
    none, refusal = Fault("none", times=2), Fault("refuse", code=12, times=20)
    gateway.gateway.faults.replace(scripted=[none, refusal])
    retried = send_campaign.with_options(retries=2, retry_delay_seconds=0)
    with pytest.raises(CampaignStoppedError):
        retried(source, TEXT, credentials, "refused", wait_minutes=0)
    assert len(reached(gateway)) == 2
    gateway.gateway.faults.replace(scripted=[none, Fault("refuse", code=12, times=1)])
    assert retried(source, TEXT, credentials, "refused", wait_minutes=0).accepted == 8
    assert reached(gateway) == list(range(605, 613))
