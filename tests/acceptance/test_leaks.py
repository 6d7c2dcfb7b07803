"""Where passwords, phone numbers and texts may appear, after every kind of failure.

The password must not appear anywhere. Numbers and texts belong in the journal, the reports and the DataFrames. They
must not be in logs, errors, names, states, stored parameters, or anywhere else in Prefect's database.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import pickle
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.sorting import LogSort
from prefect.serializers import PickleSerializer
from prefect.settings import (
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    temporary_settings,
)

from prefect_mymsp import MyMSPCredentials, tasks
from prefect_mymsp.errors import (
    CampaignStoppedError,
    InDoubtError,
    InputError,
    LimitError,
    MyMSPError,
    NotApprovedError,
    RefusedError,
)
from prefect_mymsp.flows import (
    Advanced,
    Safeguards,
    Suppression,
    approval,
    send_campaign,
)
from prefect_mymsp.sandbox import Fault, Sandbox

pytestmark = pytest.mark.usefixtures("prefect_harness")

LATER = datetime(2090, 1, 31, 9, 0, tzinfo=UTC)

#: A wrong password.
WRONG = "canary-Tornseglare-90be4417aa-åäö&=%"
TEXT = "canary text Gråsparv 5521"
#: Concatenated, because a traceback shows the lines of this file.
CANARY = "467017406" + "73"
OTHER = "467017406" + "74"
SPACED = "070-174 06 " + "75"
#: CANARY and similar numbers, in every format.
NUMBER = re.compile(rb"70[- ]?174[- ]?06[- ]?7[3-9]")


def forms(secret: str) -> list[bytes]:
    """The forms a secret may have in a file: plain, percent-encoded, escaped by JSON or repr, or in base64."""
    core = secret.encode("ascii", "ignore")[:24]
    unshortened = [
        secret.encode(),
        secret.encode("iso-8859-1"),
        quote(secret).encode(),
        json.dumps(secret)[1:-1].encode(),
    ]
    encoded = [base64.b64encode(b" " * shift + core)[4 * bool(shift) : -4].rstrip(b"=") for shift in range(3)]
    return [core, *unshortened, *encoded]


class Records(logging.Handler):
    """A handler that keeps every log record, formatted with its traceback."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
        self.lines.append(repr(record.args))


@pytest.fixture
def records() -> Iterator[Records]:
    """All log records of all loggers during a test, at DEBUG."""
    handler = Records()
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    levels = {logger: logger.level for logger in [logging.root, *loggers]}
    for logger in levels:
        # SQLAlchemy stays at WARNING: at DEBUG it would log every row it reads.
        if logger is logging.root or (logger.level != logging.NOTSET and not logger.name.startswith("sqlalchemy")):
            logger.setLevel(logging.DEBUG)
        if logger is logging.root or not logger.propagate:
            logger.addHandler(handler)
    yield handler
    for logger, level in levels.items():
        logger.setLevel(level)
        logger.removeHandler(handler)


def serialized_forms(error: BaseException) -> Iterator[bytes]:
    """Every form in which an error can be shown, logged or sent."""
    yield str(error).encode()
    yield repr(error).encode()
    yield pickle.dumps(error)
    yield PickleSerializer().dumps(error)
    yield base64.b64decode(PickleSerializer().dumps(error))
    yield repr(pickle.loads(pickle.dumps(error))).encode()
    yield "".join(traceback.format_exception(error)).encode()


def database_files() -> list[Path]:
    """The files of Prefect's database, including its write-ahead log."""
    url = PREFECT_SERVER_DATABASE_CONNECTION_URL.value()
    path = Path(urlsplit(str(url)).path.removeprefix("/"))
    return [file for file in path.parent.iterdir() if file.name.startswith(path.name)]


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def searched(
    places: Iterable[tuple[str, bytes]], needles: Iterable[bytes], pattern: re.Pattern[bytes] | None
) -> list[str]:
    """Names of the places that contain a needle or match the pattern."""
    wanted = list(needles)
    return [
        name
        for name, content in places
        if any(needle in content for needle in wanted) or (pattern is not None and pattern.search(content))
    ]


def wait_for_prefect(*names: str) -> list[Any]:
    """Everything in Prefect's API about the runs of those names, once all their tasks and logs have arrived."""
    deadline = time.monotonic() + 20
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=list(names))), limit=200)
        objects: list[Any] = [*runs, *client.read_artifacts(limit=200)]
        for run in runs:
            run_filter = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            log_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
            while True:
                task_runs = client.read_task_runs(flow_run_filter=run_filter, limit=200)
                logs = client.read_logs(log_filter, limit=200, sort=LogSort.TIMESTAMP_DESC)
                ended = any(
                    entry.message.startswith("Finished in state") and entry.task_run_id is None for entry in logs
                )
                if (
                    ended
                    and task_runs
                    and all(entry.state is not None and entry.state.is_final() for entry in task_runs)
                ):
                    break
                assert time.monotonic() < deadline, "the server did not receive everything"
                time.sleep(0.1)
            objects += [*task_runs, *logs, *client.read_flow_run_states(run.id)]
    return objects


def every_endpoint(
    credentials: MyMSPCredentials, collect: Callable[[Callable[[], object]], None], sandbox: Sandbox
) -> None:
    """Call all eight endpoints, and make each fail in every way."""
    faults = sandbox.gateway.faults
    later = tasks.send_sms(credentials, [CANARY, OTHER], TEXT, send_at=LATER)
    first = tasks.send_sms(credentials, CANARY, TEXT)
    quick: dict[str, Any] = {"retries": 1, "retry_delay_seconds": 0}
    read = tasks.fetch_sms_result.with_options(**quick)
    inbox = tasks.fetch_inbox.with_options(**quick)
    read(credentials, first)
    tasks.get_scheduled_time(credentials, later)
    tasks.list_scheduled(credentials)
    tasks.update_scheduled_time(credentials, later, LATER)
    tasks.cancel_scheduled(credentials, later)
    inbox(credentials)
    tasks.fetch_updates(credentials)
    asyncio.run(tasks.asend_sms(credentials, CANARY, TEXT))

    wrong = credentials.model_copy(update={"password": type(credentials.password)(WRONG)})
    nobody = credentials.model_copy(update={"base_url": "http://127.0.0.1:9/external", "timeout_s": 1.0})
    collect(lambda: tasks.send_sms(wrong, CANARY, TEXT))
    collect(lambda: tasks.fetch_updates(wrong))
    collect(lambda: read(nobody, first))
    collect(lambda: tasks.send_sms.submit(nobody, CANARY, TEXT).result())
    collect(lambda: tasks.send_sms(credentials, CANARY, TEXT * 40))
    collect(lambda: tasks.send_sms(credentials, f"{CANARY},{OTHER}", TEXT))
    collect(lambda: tasks.send_sms(credentials, [CANARY, ""], TEXT))
    collect(lambda: tasks.send_sms(credentials, SPACED, TEXT))
    collect(lambda: tasks.send_sms(credentials, CANARY, TEXT, send_at=datetime(2090, 1, 1)))
    for kind in ("response_lost", "error_after", "html", "empty", "cut_short", "truncated"):
        fault = Fault.from_json({"kind": kind, "endpoints": ["sendSms", "getMsgUpdates"]})
        faults.replace(scripted=[fault])
        collect(lambda: tasks.send_sms(credentials, CANARY, TEXT))
        if kind != "cut_short":  # a text without its end cannot be detected
            sandbox.gateway.receive(originator=OTHER, text=TEXT)
            faults.replace(scripted=[fault])
            collect(lambda: tasks.fetch_updates(credentials))
    faults.replace(scripted=[Fault("error_before", ("getMsgReceived",), times=2)])
    collect(lambda: inbox(credentials))
    faults.replace(scripted=[])


def test_no_password_number_or_text_leaks(
    credentials: MyMSPCredentials,
    gateway: Sandbox,
    workspace: Any,
    tmp_path: Path,
    prefect_home: Path,
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    password = credentials.password.get_secret_value()
    defaults: Any = MyMSPCredentials.get_client.__kwdefaults__
    monkeypatch.setitem(defaults, "retry_for_s", 0.0)
    errors: list[BaseException] = []

    def collect(action: Callable[[], object]) -> None:
        with pytest.raises(MyMSPError) as caught:
            action()
        errors.append(caught.value)

    @flow(name="leaks", flow_run_name="leaks-unsaved")
    def unsaved(account: MyMSPCredentials) -> None:
        every_endpoint(account, collect, gateway)
        gateway.gateway.faults.replace(scripted=[Fault("response_lost")])
        tasks.send_sms(account, OTHER, TEXT)

    people = tmp_path / "people.csv"
    rows = ["0701740673;" + TEXT, "070-174 06 79;" + TEXT, "0701740654;" + TEXT, "08-465 004 00;" + TEXT]
    rows += ["0701740660;" + TEXT, "0701740673;" + TEXT]
    people.write_text("\n".join(["telefon;ord", *rows]), encoding="utf-8")
    credentials.save("leaks", overwrite=True)
    saved: Any = MyMSPCredentials.load("leaks")
    reference: Any = {"$ref": {"block_document_slug": "mymsp-credentials/leaks"}}
    campaign = send_campaign.with_options(flow_run_name="leaks-campaign")

    with pytest.raises(InDoubtError) as lost:
        unsaved(credentials)
    errors.append(lost.value)
    # A campaign's results are not persisted even if the user's settings persist all results.
    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True}):
        reports = [
            campaign(people, "Hej {ord}", credentials, "unsaved", advanced=Advanced(quiet_minutes=0.0)),
            campaign(
                people,
                "Hej {ord}",
                saved,
                "saved",
                advanced=Advanced(quiet_minutes=0.0),
                safeguards=Safeguards(allow_repeat_today=True),
            ),
            campaign(people, "Hej {ord}", reference, "by reference", dry_run=True),
        ]
        gateway.gateway.faults.replace(scripted=[Fault("refuse", code=7, times=9)])
        with pytest.raises(CampaignStoppedError) as stopped:
            campaign(people, "Hej  {ord}", credentials, "stopped")
        gateway.gateway.faults.replace(scripted=[])
        with pytest.raises(InputError) as unknown:
            campaign(people, "Hej {nobody}", credentials, "never")
        monkeypatch.setattr(approval, "_POLL_INTERVAL_S", 0.2)
        listed: dict[str, Any] = {"suppression": Suppression(file=str(people))}
        with pytest.raises(LimitError) as limited:
            campaign(people, "Hej! {ord}", credentials, "limited", **listed, safeguards=Safeguards(max_rejected=0))
        with pytest.raises(NotApprovedError) as unapproved:
            campaign(
                people,
                "Hej! {ord}",
                credentials,
                "unapproved",
                approval=True,
                advanced=Advanced(approval_hours=0.3 / 3600),
            )
        reports.append(campaign(people, "Hej! {ord}", credentials, "nobody left", **listed))
        assert reports[-1].suppressed == 5
    errors += [stopped.value, unknown.value, limited.value, unapproved.value]
    assert {type(error).__name__ for error in errors} >= {
        "RefusedError",
        "UnreachableError",
        "NoResponseError",
        "UnexpectedStatusError",
        "ProtocolError",
        "InputError",
        "CampaignStoppedError",
        "TemplateError",
        "LimitError",
        "NotApprovedError",
    }
    assert any(isinstance(error, RefusedError) and error.code == 7 for error in errors)
    stored = wait_for_prefect("leaks-unsaved", "leaks-campaign")

    public = [("logs", "\n".join(records.lines).encode())]
    public += [
        (f"error {error!r:.60}", b"\n".join(serialized_forms(error)))
        for error in errors
        if not getattr(error, "raw", None)
    ]
    public += [(f"API {type(entry).__name__}", repr(entry).encode()) for entry in stored]
    public += [(f"database {path.name}", path.read_bytes()) for path in database_files()]
    public += [("reports", "\n".join(map(repr, reports)).encode())]
    with httpx.Client(base_url=gateway.url, trust_env=False) as http:
        requests = http.get("/_sandbox/requests")
        shown = [requests.content, http.get("/_sandbox/settings").content, http.get("/").content]
    public += [("sandbox's request log", requests.content)]

    private = [(path.name, path.read_bytes()) for path in [*files_under(tmp_path), *files_under(prefect_home)]]
    private += [("error with a response", b"\n".join(serialized_forms(error))) for error in errors]
    private += [("sandbox", b"\n".join(shown))]
    assert {"journal.db", "unsaved.csv", "unsaved-rejected-rows.csv", "stopped.csv"} <= {name for name, _ in private}

    secrets = [*forms(password), *forms(WRONG)]
    assert searched([*public, *private], secrets, None) == []
    # Only the raw response in such an error may contain a text; it is never shown.
    assert any(getattr(error, "raw", None) for error in errors)
    public += [("error messages", f"{error}{error!r}".encode()) for error in errors]
    assert searched(public, [TEXT.encode(), b"sparv 5521"], NUMBER) == []
    assert requests.json()["credentials_in_url"] == 0
    # The search finds the values in the places that contain them.
    assert searched(private, [TEXT.encode()], NUMBER)
    assert searched([("self", base64.b64encode(b"xy" + password.encode()))], secrets, None) == ["self"]
    assert len("\n".join(records.lines)) > 100_000
    assert {line.partition(".")[0].partition(" ")[0] for line in records.lines} >= {"prefect", "httpx", "httpcore"}
