"""One campaign sent by two workers of a Dask cluster, with the journal in PostgreSQL."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect.states import Cancelling
from pydantic import SecretStr

from prefect_mymsp import CampaignJournal
from prefect_mymsp.sandbox import Sandbox

if TYPE_CHECKING:
    from tests.deployment.conftest import Server, Worker
    from tests.integration.conftest import Postgres

pytestmark = pytest.mark.deployment

ROWS = 5000
FLOW = """
from prefect_dask import DaskTaskRunner

from prefect_mymsp.flows import send_campaign

big_campaign = send_campaign.with_options(
    name="big-campaign", task_runner=DaskTaskRunner(address="tcp://127.0.0.1:%d")
)
"""
DEPLOYMENT = """
deployments:
  - name: dask
    entrypoint: big_campaign.py:big_campaign
    work_pool: {name: sms}
    parameters:
      credentials: default
      journal: {$ref: {block_document_slug: mymsp-campaign-journal/shared}}
      speed: {workers: 2}
      wait_minutes: 0
"""


@pytest.fixture(scope="module")
def journal_url(postgres: Postgres, server: Server) -> str:
    """A journal in PostgreSQL, and the block ``mymsp-campaign-journal/shared`` for it."""
    url = postgres.journal()
    with server.used():
        CampaignJournal(url=SecretStr(url)).save("shared", overwrite=True)
    return url


@pytest.fixture(scope="module")
def cluster(installed: Server) -> Iterator[int]:
    """A Dask scheduler and two workers, processes of the installed wheel; the scheduler's port."""
    port = installed.free_port()
    with ExitStack() as stack:
        address = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        stack.enter_context(installed.process("-m", "distributed.cli.dask_scheduler", *address))
        for name in ("one", "two"):
            work = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name)
            command = ("-m", "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", *work)
            stack.enter_context(installed.process(*command))
        yield port


@pytest.fixture(scope="module")
def big_campaign(installed: Server, worker: Worker, account: str, journal_url: str, cluster: int) -> str:
    """``send-campaign`` with a task runner of Dask, deployed from a file."""
    folder = installed.home / "dask"
    folder.mkdir()
    (folder / "big_campaign.py").write_text(FLOW % cluster)
    (folder / "prefect.yaml").write_text(DEPLOYMENT)
    installed.run("-m", "prefect", "--no-prompt", "deploy", "--all", folder=folder)
    return "big-campaign/dask"


def people(path: Path, rows: int) -> Path:
    path.write_text("phone;name\n" + "".join(f"07006{index:05d};P{index}\n" for index in range(rows)))
    return path


def test_two_workers_send_each_message_once(
    server: Server, worker: Worker, big_campaign: str, journal_url: str, gateway: Sandbox, tmp_path: Path
) -> None:
    source = people(tmp_path / "people.csv", ROWS)
    run = worker.begin(big_campaign, recipients=str(source), message="Hello {name}", campaign="big")
    worker.ended(run)
    sent = gateway.gateway.summary()
    assert len(sent) == ROWS
    assert set(sent.values()) == {1}
    assert worker.states("big", gateway, journal_url) == {"accepted": ROWS}

    def sent_by_process() -> dict[str, int]:
        progress = re.findall(r"^(\d+) messages were sent by process (\d+)", worker.logged(run), re.MULTILINE)
        return {process: int(count) for count, process in progress}

    server.wait_for(lambda: len(sent_by_process()) == 2, timeout_s=20)
    assert sum(sent_by_process().values()) == ROWS
    assert min(sent_by_process().values()) > ROWS / 20


def test_cancelling_stops_all_workers(
    server: Server, worker: Worker, big_campaign: str, journal_url: str, gateway: Sandbox, tmp_path: Path
) -> None:
    gateway.gateway.configure({"latency_ms": 400})
    source = people(tmp_path / "people.csv", 2000)
    run = worker.begin(big_campaign, recipients=str(source), message="Hi {name}", campaign="cancelled")
    server.wait_for(lambda: len(gateway.gateway.summary()) > 40, every_s=0.1)
    with server.client() as client:
        client.set_flow_run_state(run, Cancelling())
    time.sleep(10)
    sent = len(gateway.gateway.summary())
    worker.ended(run, state="CANCELLED", timeout_s=30)
    assert len(gateway.gateway.summary()) == sent < 2000
    assert worker.states("cancelled", gateway, journal_url) == {"accepted": sent, "planned": 2000 - sent}
