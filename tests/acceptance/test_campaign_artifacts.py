# ruff: noqa: RUF001  the artifacts contain confusable characters
"""Artifacts and events of campaigns, read back through Prefect's API; failures of Prefect never stop a campaign."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from prefect_mymsp import MyMSPCredentials, artifacts
from prefect_mymsp import events as our_events
from prefect_mymsp.artifacts import (
    MAX_TABLE_ROWS,
    CampaignArtifacts,
    ProgressArtifact,
    create_rejected_rows_artifact,
    create_summary_artifact,
    create_undelivered_artifact,
)
from prefect_mymsp.campaign import Plan, Progress, plan_campaign
from prefect_mymsp.errors import CampaignStoppedError
from prefect_mymsp.flows import (
    Advanced,
    Speed,
    report_progress_to,
    send_campaign,
)
from prefect_mymsp.journal import Counts
from prefect_mymsp.models import ReceivedMessage
from prefect_mymsp.recipients import open_source
from prefect_mymsp.reports import CampaignReport
from prefect_mymsp.reports.frames import DELIVERY_DTYPES
from prefect_mymsp.sandbox import Sandbox
from prefect_mymsp.templates import Template

pytestmark = pytest.mark.usefixtures("prefect_harness")

T = TypeVar("T")

ACCOUNT = "0123456789abcdef0123456789abcdef"
#: A text that tries to inject markup.
HOSTILE = "x|y <img src=x onerror=alert(1)> [a](http://evil.example) `code` **b**\n# head\n| - | - |"
NUMBER = "46701740" + "605"


def wait_for(condition: Callable[[], T], timeout_s: float = 20) -> T:
    end = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < end, "Prefect did not receive it in time"
        time.sleep(0.05)
    return answer


def prefect_threads() -> list[str]:
    """The threads that send requests to Prefect."""
    return [thread.name for thread in threading.enumerate() if thread.name in {"mymsp-progress", "mymsp-artifacts"}]


def artifacts_of(run: str) -> dict[str, Artifact]:
    """The latest artifact of each key that a flow run created, by the last part of the key."""
    with get_client(sync_client=True) as client:
        created = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))  # type: ignore[list-item]
        )
    keys = [re.fullmatch(r"mymsp-[a-z0-9-]+?-[0-9a-f]{8}-([a-z-]+)", artifact.key or "") for artifact in created]
    return {key[1]: artifact for key, artifact in zip(keys, created, strict=True) if key}


def events_of(run: str, name: str = "mymsp.") -> list[dict[str, Any]]:
    """This package's events of a flow run, in order."""
    wanted = {
        "event": {"prefix": [name]},
        "related": {"id": [f"prefect.flow-run.{run}"]},
        "order": "ASC",
    }
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 50})
    created: list[dict[str, Any]] = answer.json()["events"]
    return created


def plan_of(path: Path, *rows: str) -> Plan:
    path.write_text("\n".join(["telefon;namn", *rows]) + "\n", encoding="utf-8")
    return plan_campaign(open_source(path), Template("Hej {namn}"))


def deliveries(*rows: tuple[str, str, str | None, str | None]) -> pd.DataFrame:
    """A deliveries frame of (recipient, state, status, error)."""
    values: dict[str, Any] = {name: [None] * len(rows) for name in DELIVERY_DTYPES}
    values["row"] = [number for number, _ in enumerate(rows, start=2)]
    values["message_id"] = [str(10_000 + number) for number, _ in enumerate(rows)]
    for position, name in enumerate(("recipient", "state", "status", "error")):
        values[name] = [row[position] for row in rows]
    return pd.DataFrame({name: pd.Series(values[name], dtype=dtype) for name, dtype in DELIVERY_DTYPES.items()})


def counts_of(frame: pd.DataFrame) -> Counts:
    state = frame["state"].value_counts()
    delivered = int((frame["status"] == "delivered").sum())
    states = {name: int(state.get(name, 0)) for name in ("planned", "sending", "accepted", "refused", "in_doubt")}
    return Counts(
        messages=len(frame), **states, assumed=0, cancelled=0, delivered=delivered, final=delivered, segments=len(frame)
    )


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan with two messages and two rejected rows: a landline, and a name instead of a number."""
    return plan_of(
        tmp_path / "people.csv", "0701740605;Åsa", "0701740606;Bo", "08-465 004 00;Ce", "Anna <b>Andersson</b>;De"
    )


def report_of(plan: Plan, frame: pd.DataFrame, name: str = "Påminnelse v. 49") -> CampaignReport:
    return CampaignReport.of(name, plan, counts_of(frame), frame)


MIXED = deliveries(
    (NUMBER, "accepted", "delivered", None),
    (NUMBER, "accepted", "undelivered", None),
    (NUMBER, "accepted", "expired | <b>", None),
    (NUMBER, "accepted", None, None),
    (NUMBER, "refused", None, "28: the gateway cannot use this number"),
    (NUMBER, "in_doubt", None, "may have been sent (timeout)"),
)


def test_a_campaign_has_artifacts_and_events_for_its_steps(plan: Plan, credentials: MyMSPCredentials) -> None:
    report = report_of(plan, MIXED)

    @task
    def step(show: CampaignArtifacts, name: str, total: int) -> None:
        with show.progress() as listener:
            for done in range(total + 1):
                listener(Progress(name, done, total))

    @flow
    def campaign() -> str:
        show = CampaignArtifacts(report.campaign, credentials)
        show.started(plan)
        step(show, "send", 6)
        show.sent(counts_of(MIXED))
        step(show, "follow", 4)
        show.finished(report)
        return str(flow_run.id)

    run = campaign()
    created = artifacts_of(run)
    assert set(created) == {"sending", "tracking", "summary", "rejected-rows", "undelivered"}
    assert (created["sending"].type, created["sending"].data) == ("progress", 100.0)
    assert created["sending"].description == "Påminnelse v. 49: 6 of 6 messages sent"
    assert created["tracking"].description == "Påminnelse v. 49: 4 of 4 messages final"
    assert created["sending"].task_run_id is not None

    summary = created["summary"]
    assert summary.type == "markdown"
    text = str(summary.data)
    assert text.startswith("## Påminnelse v. 49\n\nFinished.\n\n| | |\n| --- | ---: |\n")
    assert "\n| accepted | 4 |\n" in text
    assert "Messages in doubt may or may not have been sent." in text

    rejected_rows = json.loads(str(created["rejected-rows"].data))
    assert [(row["row"], row["column"], row["value"]) for row in rejected_rows] == [
        (4, "telefon", "••-••• ••• 00"),
        (5, "telefon", "•••• ‹•›••••••••n‹/b›"),
    ]
    assert "landline" in rejected_rows[0]["reason"]

    failures = json.loads(str(created["undelivered"].data))
    assert [(row["row"], row["state"], row["status"]) for row in failures] == [
        (3, "accepted", "undelivered"),
        (4, "accepted", "expired ¦ ‹b›"),
        (6, "refused", ""),
        (7, "in doubt", ""),
    ]
    assert {row["recipient"] for row in failures} == {"46•••••••05"}

    wait_for(lambda: len(events_of(run)) == 2)
    events = events_of(run)
    assert [event["event"] for event in events] == ["mymsp.campaign.started", "mymsp.campaign.sent"]
    slug = our_events.campaign_slug(report.campaign, CampaignArtifacts(report.campaign, credentials).account)
    for event in events:
        assert event["resource"]["prefect.resource.id"] == f"mymsp.campaign.{slug}"
        assert event["resource"]["prefect.resource.name"] == "Påminnelse v. 49"
    assert events[0]["payload"]["counts"]["rejected"] == 2
    assert events[1]["payload"]["counts"]["in_doubt"] == 1
    shown = json.dumps(
        [events, [artifact.model_dump(mode="json") for artifact in created.values()]], ensure_ascii=False
    )
    for secret in (NUMBER, NUMBER[2:], "465 004", "Andersson", "Hej", credentials.password.get_secret_value()):
        assert secret not in shown


def test_a_real_campaign_has_progress_artifacts(
    credentials: MyMSPCredentials, workspace: Any, tmp_path: Path, gateway: Sandbox
) -> None:
    # The listener is called inside asyncio.run, in a task, in the thread that sends.
    path = tmp_path / "people.csv"
    path.write_text("telefon\n" + "".join(f"07017406{number:02}\n" for number in range(5, 45)), encoding="utf-8")

    steps = set[str]()
    with report_progress_to(lambda step: steps.add(step.step)):
        send_campaign(path, "Hej", credentials, "real", speed=Speed(batch_size=4), advanced=Advanced(quiet_minutes=0.0))
    assert steps == {"send", "follow"}
    with get_client(sync_client=True) as client:
        keys = ArtifactFilter(key=ArtifactFilterKey(like_="mymsp-real-%"))
        sending = client.read_artifacts(artifact_filter=keys)[0]
    run = str(sending.flow_run_id)
    created = artifacts_of(run)
    assert set(created) == {"sending", "tracking", "summary"}
    assert {key: created[key].data for key in ("sending", "tracking")} == {
        "sending": 100.0,
        "tracking": 100.0,
    }
    wait_for(lambda: len(events_of(run)) == 3)
    names = [event["event"] for event in events_of(run)]
    assert names == ["mymsp.campaign.started", "mymsp.campaign.sent", "mymsp.campaign.completed"]
    # A complete campaign that is started again sends nothing.
    send_campaign(path, "Hej", credentials, "real", speed=Speed(batch_size=4), advanced=Advanced(quiet_minutes=0.0))
    assert created["sending"].description == "real: 40 of 40 messages sent"
    assert len(gateway.gateway.ledger()) == 10


def test_a_stopped_campaign_names_the_reason(plan: Plan, credentials: MyMSPCredentials) -> None:
    report = report_of(plan, MIXED)

    @flow
    def campaign(error: BaseException) -> str:
        CampaignArtifacts(report.campaign, credentials).stopped(error, report)
        return str(flow_run.id)

    reasons = [
        (CampaignStoppedError("No credits are left.", counts={}), "No credits are left."),
        (RuntimeError(f"Hej {NUMBER}"), "RuntimeError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ]
    runs = [(campaign(error), reason) for error, reason in reasons]
    for run, reason in runs:
        (event,) = wait_for(lambda run=run: events_of(run))  # type: ignore[misc]
        assert (event["event"], event["payload"]["reason"]) == ("mymsp.campaign.stopped", reason)
        assert event["payload"]["counts"]["accepted"] == 4
        summary = artifacts_of(run)["summary"]
        assert summary.description == f"Stopped: {reason}"
        assert NUMBER not in str(summary.data)


def test_a_campaign_that_is_not_complete_has_no_completed_event(plan: Plan, credentials: MyMSPCredentials) -> None:
    @flow
    def campaign() -> str:
        show = CampaignArtifacts("dry", credentials)
        refused = dataclasses.replace(plan, conflict="They got it <b>today</b>.")
        show.finished(CampaignReport.of("dry", refused, None, None))
        show.finished(report_of(plan, MIXED, "dry"))
        show.stopped(CampaignStoppedError("afterwards", counts={}), report_of(plan, MIXED, "dry"))
        return str(flow_run.id)

    run = campaign()
    with get_client(sync_client=True) as client:
        here = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))  # type: ignore[list-item]
        summaries = {
            artifact.description: str(artifact.data) for artifact in client.read_artifacts(artifact_filter=here)
        }
    assert {"Dry run: nothing was sent.", "Finished."} <= set(summaries)
    assert "This campaign would be refused: They got it ‹b›today‹/b›." in summaries["Dry run: nothing was sent."]
    assert "numbers in column 'telefon', UTF-8, separated by ';'" in summaries["Dry run: nothing was sent."]
    events = wait_for(lambda: events_of(run))
    assert [event["event"] for event in events] == ["mymsp.campaign.stopped"]


def test_a_refused_group_is_listed(plan: Plan) -> None:
    failures = deliveries(("@Nobody", "refused", None, "28"), (NUMBER, "refused", None, "28"))
    failures["row"] = pd.Series([0, 2], dtype=failures["row"].dtype)  # a group has no row

    @flow
    def campaign() -> str:
        create_undelivered_artifact(report_of(plan, failures), ACCOUNT)
        return str(flow_run.id)

    rows = json.loads(str(artifacts_of(campaign())["undelivered"].data))
    assert [(row["row"], row["recipient"]) for row in rows] == [("", "@Nobody"), (2, "46•••••••05")]


def test_hostile_texts_are_neutralized(tmp_path: Path) -> None:
    rows = [f'"{number}{HOSTILE}";Bo' for number in range(MAX_TABLE_ROWS + 50)]
    path = tmp_path / "people.csv"
    path.write_text("telefon\n" + "\n".join(rows).replace(";Bo", "") + "\n", encoding="utf-8")
    plan = plan_campaign(open_source(path), Template("Hej"))
    failures = deliveries(*[(NUMBER, "accepted", HOSTILE, HOSTILE)] * (MAX_TABLE_ROWS + 7))
    report = report_of(plan, failures, HOSTILE)
    assert report.rejected == MAX_TABLE_ROWS + 50

    @flow
    def campaign() -> str:
        create_summary_artifact(report, ACCOUNT, stopped=HOSTILE)
        create_rejected_rows_artifact(report, ACCOUNT)
        create_undelivered_artifact(report, ACCOUNT)
        with ProgressArtifact(HOSTILE, ACCOUNT) as listener:
            listener(Progress("send", 1, 2))
        return str(flow_run.id)

    created = artifacts_of(campaign())
    assert set(created) == {"sending", "summary", "rejected-rows", "undelivered"}
    summary = str(created["summary"].data)
    for line in summary.splitlines():
        assert line.count("|") in {0, 3}
    cells = [
        str(cell)
        for key in ("rejected-rows", "undelivered")
        for row in json.loads(str(created[key].data))
        for cell in row.values()
    ]
    described = [str(artifact.description) for artifact in created.values()]
    assert not re.search(r"[<>`*\[\]]|^#|://", "\n".join([*cells, *described]), re.MULTILINE)
    assert not re.search(r"[<>`*\[\]]|\n#|://", summary)
    assert "\n" not in "".join([*cells, *described])
    for key, more in (("rejected-rows", 50), ("undelivered", 7)):
        table = json.loads(str(created[key].data))
        assert len(table) == MAX_TABLE_ROWS + 1
        assert f"and {more} more: see the report" in table[-1].values()
        assert str(created[key].description).endswith(f": {MAX_TABLE_ROWS + more}")


def test_no_artifacts_or_events_outside_of_a_flow_run(plan: Plan, credentials: MyMSPCredentials) -> None:
    reported: list[Progress] = []
    report = report_of(plan, MIXED)
    with get_client(sync_client=True) as client:
        before = len(client.read_artifacts(limit=200))
        with CampaignArtifacts(report.campaign, credentials).progress(reported.append) as listener:
            listener(Progress("send", 1, 2))
        create_summary_artifact(report, ACCOUNT)
        create_rejected_rows_artifact(report, ACCOUNT)
        assert len(client.read_artifacts(limit=200)) == before
    assert reported == [Progress("send", 1, 2)]
    assert not prefect_threads()
    # Without an API no event is created: Prefect would start a server for it.
    with temporary_settings({PREFECT_API_URL: None}):
        our_events.emit_campaign_event("started", "x", {}, account=ACCOUNT)


# ---- Prefect failing -----------------------------------------------------------------------------------------------


class Api(BaseHTTPRequestHandler):
    """A Prefect API that answers for artifacts only, and records the requests."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[tuple[float, str, Any]]] = []
    pause_s: ClassVar[float] = 0.0

    def _answer(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        if "artifacts" in self.path:
            self.requests.append((time.monotonic(), self.command, body))
        time.sleep(self.pause_s)
        created = self.command == "POST" and "artifacts" in self.path
        answer = json.dumps({"id": str(uuid.uuid4()), **body} if created else {}).encode()
        self.send_response(201 if created else 204 if self.command == "PATCH" else 404)
        self.send_header("Content-Length", "0" if self.command == "PATCH" else str(len(answer)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "PATCH":
            self.wfile.write(answer)

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815  names of the base class

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def api(pause_s: float = 0.0) -> Iterator[list[tuple[float, str, Any]]]:
    """Use such an API as Prefect's within the context."""
    requests: list[tuple[float, str, Any]] = []
    handler = type("Handler", (Api,), {"requests": requests, "pause_s": pause_s})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with api_at(server.server_address[1]):
                yield requests
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def api_at(port: int) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.socket() as listening_socket:
        listening_socket.bind(("127.0.0.1", 0))
        listening_socket.listen(16)
        yield listening_socket.getsockname()[1]


def test_progress_is_updated_at_most_once_a_second_and_ends_complete() -> None:
    @flow
    def campaign() -> None:
        with api() as requests:
            end = time.monotonic() + 2.5
            done = 0
            with ProgressArtifact("often", ACCOUNT) as listener:
                while time.monotonic() < end:
                    done += 1
                    listener(Progress("send", done, 10**9))
                    time.sleep(0.001)
                listener(Progress("send", 10**9, 10**9))
            assert [method for _, method, _ in requests] == ["POST", *["PATCH"] * (len(requests) - 1)]
            # One at the start, two or three during the campaign, one at the end.
            assert 4 <= len(requests) <= 5
            times = [at for at, _, _ in requests[:-1]]
            assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(times))
            assert requests[-1][2]["data"] == 100.0

    campaign()


def test_a_hanging_prefect_does_not_delay_sending(
    nobody: int,
    plan: Plan,
    credentials: MyMSPCredentials,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(artifacts, "_REQUEST_TIMEOUT_S", 1.0)
    monkeypatch.setattr(artifacts, "_CLOSE_TIMEOUT_S", 0.5)
    report = report_of(plan, MIXED)

    @flow
    def campaign() -> tuple[float, float]:
        async def send(listener: Callable[[Progress], None]) -> float:
            longest = 0.0
            for done in range(2000):
                began = time.perf_counter()
                listener(Progress("send", done, 2000))
                longest = max(longest, time.perf_counter() - began)
                if done % 100 == 0:
                    await asyncio.sleep(0.01)
            return longest

        with api_at(nobody):
            show = CampaignArtifacts(report.campaign, credentials)
            with show.progress() as listener:
                longest = asyncio.run(send(listener))
            began = time.perf_counter()
            show.finished(report)
            return longest, time.perf_counter() - began

    longest, ending = campaign()
    assert longest < 0.1  # a request's timeout is 1 s
    assert 0.4 < ending < 0.9
    assert "The artifacts of this campaign could not be shown in Prefect (TimeoutError)." in caplog.text
    wait_for(lambda: not prefect_threads())


def test_an_unreachable_prefect_is_logged_once_and_does_not_stop_the_campaign(
    plan: Plan, credentials: MyMSPCredentials, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(artifacts, "_UPDATE_INTERVAL_S", 0.01)
    report = report_of(plan, MIXED)

    @flow
    def campaign() -> None:
        with api_at(9):
            show = CampaignArtifacts(report.campaign, credentials)
            show.started(plan)
            with show.progress() as listener:
                for done in range(10):
                    listener(Progress("send", done, 10))
                    time.sleep(0.05)
            show.finished(report)

    campaign()
    warnings = [message for message in caplog.messages if "could not be shown" in message]
    assert warnings == [
        f"The {affected} of this campaign could not be shown in Prefect (ConnectError). The campaign is not affected."
        for affected in ("progress", "artifacts")
    ]


def test_an_invalid_report_does_not_stop_the_campaign(
    plan: Plan, credentials: MyMSPCredentials, caplog: pytest.LogCaptureFixture
) -> None:
    broken = MIXED.drop(columns="status")
    report = CampaignReport.of("broken", plan, counts_of(MIXED), broken)

    @flow
    def campaign() -> None:
        show = CampaignArtifacts(report.campaign, credentials)
        show.finished(report)

    campaign()
    warnings = [message for message in caplog.messages if "could not be shown" in message]
    assert [
        "artifacts of this campaign could not be shown in Prefect (KeyError)" in warning for warning in warnings
    ] == [True]


# ---- received messages ---------------------------------------------------------------------------------------------


def message(text: str, **changes: Any) -> ReceivedMessage:
    values: dict[str, Any] = {
        "message_id": "4711",
        "received_at": datetime(2031, 5, 1, 12, 0, tzinfo=UTC),
        "user": "anna",
        "prefix": "APREFIX",
        "kind": "SMS",
        "sender": NUMBER,
        "alias": None,
        "subject": None,
        "text": text,
    }
    return ReceivedMessage(**(values | changes))


def test_the_event_of_a_received_message_has_no_text() -> None:
    @flow
    def collect() -> str:
        our_events.emit_received_event(ACCOUNT, message("status, hemligt"))
        our_events.emit_received_event(ACCOUNT, message("status, hemligt"))  # again, as in a retried flow run
        our_events.emit_received_event(ACCOUNT, message(f"{NUMBER} x", message_id="4712", sender=None, prefix=None))
        our_events.emit_received_event(
            ACCOUNT, message("Hej\n<b>", message_id="4713", sender="Kalle"), include_text=True
        )
        return str(flow_run.id)

    run = collect()
    wait_for(lambda: len(events_of(run)) == 3)
    first, second, third = events_of(run)
    assert first["event"] == "mymsp.message.received"
    assert first["resource"] == {
        "prefect.resource.id": f"mymsp.message.{ACCOUNT}.4711",
        "mymsp.account": ACCOUNT,
        "mymsp.word": "STATUS",
        "mymsp.prefix": "APREFIX",
        "mymsp.kind": "SMS",
    }
    assert first["payload"] == {
        "message_id": "4711",
        "received_at": "2031-05-01T12:00:00+00:00",
        "word": "STATUS",
        "prefix": "APREFIX",
        "kind": "SMS",
        "sender": "46•••••••05",
        "characters": 15,
    }
    assert (second["resource"]["mymsp.word"], second["payload"]["sender"]) == ("", "")
    assert (third["payload"]["text"], third["payload"]["sender"]) == ("Hej\n<b>", "•••••")
    assert NUMBER not in json.dumps([first, second, third])
