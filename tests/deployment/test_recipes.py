"""The recipes of ``flows/``: deployed from their file, scheduled, and run by a worker that has only the wheel."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
import yaml  # type: ignore[import-untyped]
from prefect.blocks.system import Secret
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort

from prefect_mymsp.sandbox import Sandbox

if TYPE_CHECKING:
    from tests.deployment.conftest import Server, Worker

pytestmark = pytest.mark.deployment

STOCKHOLM = ZoneInfo("Europe/Stockholm")


class Recipes(NamedTuple):
    """The deployments of ``flows/prefect.yaml``.

    Attributes:
        deployments: By name.
        next_runs: The scheduled runs of each deployment.
    """

    deployments: dict[str, DeploymentResponse]
    next_runs: dict[str, list[datetime]]


@pytest.fixture(scope="module")
def warehouse(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database that the block ``secret/warehouse`` points to."""
    path = tmp_path_factory.mktemp("warehouse") / "warehouse.db"
    with server.used():
        Secret(value=f"sqlite:///{path}").save("warehouse", overwrite=True)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def recipes(server: Server, installed: Server, worker: Worker, account: str, warehouse: Path) -> Recipes:
    """The deployments, created from the checkout; their schedules are paused so that they do not run."""
    folder = server.root / "flows"
    installed.run("-m", "prefect", "--no-prompt", "deploy", "--all", folder=folder)
    described = {
        deployment["name"] for deployment in yaml.safe_load((folder / "prefect.yaml").read_text())["deployments"]
    }
    with server.client() as client:
        deployments = {stored.name: stored for stored in client.read_deployments() if stored.name in described}
        assert deployments.keys() == described

        def planned() -> dict[str, list[datetime]]:
            planned_times: dict[str, list[datetime]] = {}
            for name in deployments:
                runs = client.read_flow_runs(
                    deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])),
                    flow_run_filter=FlowRunFilter(
                        state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Scheduled"]))
                    ),
                    sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                )
                planned_times[name] = [
                    run.expected_start_time.astimezone(STOCKHOLM) for run in runs if run.expected_start_time
                ]
            return planned_times if all(planned_times.values()) else {}

        next_runs = server.wait_for(planned)
        for deployment in deployments.values():
            client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False)
    return Recipes(deployments, next_runs)


def sent(sandbox: Sandbox) -> dict[tuple[str, str], int]:
    """The number of messages for each (MSISDN, text) at the gateway."""
    return dict(sandbox.gateway.summary())


@pytest.mark.parametrize(
    ("name", "cron", "at"),
    [
        ("nightly-campaign", "0 2 * * *", {"hour": 2, "minute": 0}),
        ("weekly-reminder", "0 9 * * 1", {"hour": 9, "minute": 0}),
        ("track-deliveries", "*/5 * * * *", {"second": 0}),
        ("inbox-to-warehouse", "0 * * * *", {"minute": 0}),
        ("morning-report", "0 7 * * *", {"hour": 7, "minute": 0}),
    ],
)
def test_each_recipe_has_its_schedule(recipes: Recipes, name: str, cron: str, at: dict[str, int]) -> None:
    deployment = recipes.deployments[name]
    (schedule,) = deployment.schedules
    assert schedule.active
    assert schedule.schedule == CronSchedule(cron=cron, timezone="Europe/Stockholm")
    assert deployment.work_pool_name == "sms"
    for planned_at in recipes.next_runs[name]:
        assert {unit: getattr(planned_at, unit) for unit in at} == at
        if cron.endswith("1"):
            assert planned_at.isoweekday() == 1


def test_deployments_refer_to_the_credentials_by_name(recipes: Recipes) -> None:
    for name, deployment in recipes.deployments.items():
        assert deployment.parameters["credentials"] == "default", name


def test_tracking_and_the_morning_report(
    worker: Worker, recipes: Recipes, deployment: str, gateway: Sandbox, tmp_path: Path
) -> None:
    source = tmp_path / "people.csv"
    source.write_text("phone;name\n0701740618;Nils\n0701740619;Olle\n")
    parameters = {"recipients": str(source), "wait_minutes": 0}
    names = {"tracked": "Hej {name}", "tracked as well": "Hejdå {name}"}
    worker.ended(*(worker.begin(deployment, campaign=name, message=text, **parameters) for name, text in names.items()))
    assert [worker.counts(name, gateway).delivered for name in names] == [0, 0]
    worker.ended(worker.begin("track-open-campaigns/track-deliveries"))
    assert [worker.counts(name, gateway).delivered for name in names] == [2, 2]
    worker.ended(worker.begin("morning-report/morning-report", folder=str(tmp_path)))
    page = (tmp_path / f"{datetime.now(STOCKHOLM):%Y-%m-%d}.html").read_text()
    for name in names:
        assert f">{name}<" in page
    assert "46701740618" not in page


@contextmanager
def written_to(file: Path) -> Iterator[None]:
    """A file that changes continuously within the context; three rows are added when it ends."""
    file.write_text("phone;name\n")
    done = threading.Event()

    def write() -> None:
        for row in ("0701740608;Di", "0701740609;Eva", "0701740610;Fia"):
            while not done.wait(0.3):
                os.utime(file)
            with file.open("a") as opened:
                opened.write(row + "\n")

    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield
    finally:
        done.set()
        writing.join()


def test_the_nightly_campaign(worker: Worker, recipes: Recipes, gateway: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    opens = (datetime.now(STOCKHOLM) + timedelta(hours=2)).replace(second=0, microsecond=0)
    window = {"opens": f"{opens:%H:%M}", "closes": f"{opens + timedelta(hours=1):%H:%M}"}
    parameters: dict[str, Any] = {
        "folder": str(folder),
        "message": "Hello {name}",
        "send_window": window,
        "quiet_minutes": 2 / 60,
    }
    (folder / "monday.csv").write_text("phone;name\n0701740605;Anna\n0701740606;Bo\n")
    (folder / "other.csv").write_text("phone;name\n0701740607;Cai\n")
    with written_to(folder / "growing.csv"):
        worker.ended(worker.begin("nightly-campaign/nightly-campaign", **parameters))
        first = {("46701740605", "Hello Anna"): 1, ("46701740606", "Hello Bo"): 1, ("46701740607", "Hello Cai"): 1}
        assert sent(gateway) == first
        assert sorted(path.name for path in folder.glob("*.csv")) == ["growing.csv"]
        assert len(list((folder / "sent").glob("* monday.csv"))) == 1
    # The next run sends the file that was changing, and the new row of a file with the name of an earlier one.
    (folder / "monday.csv").write_text("phone;name\n0701740605;Anna\n0701740606;Bo\n0701740611;Gun\n")
    worker.ended(worker.begin("nightly-campaign/nightly-campaign", **parameters))
    second = {("46701740608", "Hello Di"): 1, ("46701740609", "Hello Eva"): 1, ("46701740610", "Hello Fia"): 1}
    assert sent(gateway) == first | second | {("46701740611", "Hello Gun"): 1}
    assert not list(folder.glob("*.csv"))
    assert len(list((folder / "sent").iterdir())) == 4
    assert {datetime.fromisoformat(message["scheduled_at"]) for message in gateway.gateway.ledger()} == {opens}


def test_a_file_that_cannot_be_sent_does_not_stop_the_others(
    worker: Worker, recipes: Recipes, gateway: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("who;name\nnobody;Anna\n")
    (tmp_path / "b.csv").write_text("phone;name\n0701740612;Hans\n")
    window = {"opens": "00:00", "closes": "00:00"}  # around the clock
    parameters: dict[str, Any] = {
        "folder": str(tmp_path),
        "message": "Hello {name}",
        "send_window": window,
        "quiet_minutes": 0,
    }
    run = worker.begin("nightly-campaign/nightly-campaign", **parameters)
    worker.ended(run, state="FAILED")
    state = worker.run(run).state
    assert state is not None
    assert "a.csv" in str(state.message)
    assert sent(gateway) == {("46701740612", "Hello Hans"): 1}
    assert [path.name for path in tmp_path.glob("*.csv")] == ["a.csv"]


def test_the_weekly_reminder(worker: Worker, recipes: Recipes, gateway: Sandbox, warehouse: Path) -> None:
    with closing(sqlite3.connect(warehouse)) as database, database:
        database.execute("CREATE TABLE appointments_of_the_week (phone TEXT, name TEXT, day TEXT)")
        rows = [("070-174 06 13", "Ida", "Monday"), ("+46701740614", "Jan", "Friday")]
        database.executemany("INSERT INTO appointments_of_the_week VALUES (?, ?, ?)", rows)
    for _ in range(2):  # the second run is in the same week
        worker.ended(worker.begin("weekly-reminder/weekly-reminder"))
        assert sent(gateway) == {
            ("46701740613", "Hello Ida, we see you on Monday."): 1,
            ("46701740614", "Hello Jan, we see you on Friday."): 1,
        }


def test_each_message_is_added_to_the_warehouse_once(
    worker: Worker, recipes: Recipes, gateway: Sandbox, warehouse: Path
) -> None:
    def rows() -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(warehouse)) as database:
            return sorted(database.execute("SELECT text FROM sms_inbox"))

    for text in ("Yes please", "STOP"):
        gateway.gateway.receive(originator="46701740620", text=text)
    worker.ended(worker.begin("inbox-to-warehouse/inbox-to-warehouse"))
    assert rows() == [("STOP",), ("Yes please",)]
    gateway.gateway.receive(originator="46701740621", text="And me?")
    worker.ended(worker.begin("inbox-to-warehouse/inbox-to-warehouse"))
    assert rows() == [("And me?",), ("STOP",), ("Yes please",)]


def test_prefects_files_hold_no_password_number_or_text(server: Server, installed: Server, account: str) -> None:
    stored = [path for home in (server.home, installed.home) for path in home.rglob("*") if path.is_file()]
    # Except the journal and the reports, which contain them, and the files of Python and of Prefect's UI.
    stored = [path for path in stored if not {"mymsp", "venv", "ui"} & set(path.parts)]
    assert any(path.name == "prefect.db" for path in stored)
    # Not 605: the blocks' documentation has that number in an example.
    secrets = [account, "46701740606", "0701740606", "46701740613", "070-174 06 13", "Hello Ida", "Anna"]
    for path in stored:
        content = path.read_bytes()
        assert [secret for secret in secrets if secret.encode() in content] == [], path
