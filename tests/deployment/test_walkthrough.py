"""The walkthrough, run as written: its files are created and its commands run, in order.

The test provides its own environment with the wheel installed, and starts the sandbox and the server on free ports.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.sandbox.server import Sandbox
from tests.acceptance.test_docs import ROOT, SHOWN_URL, Block, blocks_of, commands

if TYPE_CHECKING:
    from tests.deployment.conftest import Server

pytestmark = pytest.mark.deployment

COMPLETED = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED]))
PAGE = ROOT / "docs" / "walkthrough.md"
#: Commands that the fixtures replace; all other commands on the page are run.
REPLACED = (
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install prefect-mymsp[reports]",
    "prefect-mymsp sandbox",
    "prefect server start",
    "prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api",
)


class Reader:
    """Follows the page in an empty folder."""

    def __init__(self, installed: Server, sandbox: Sandbox, folder: Path) -> None:
        self._installed = installed
        self._sandbox = sandbox
        self.folder = folder
        self.skipped: list[str] = []
        self.output_of: dict[str, str] = {}

    def execute(self, block: Block, running: ExitStack) -> None:
        code = block.code.replace(SHOWN_URL, self._sandbox.base_url)
        if block.language != "bash":
            (self.folder / block.title).write_text(code, encoding="utf-8")
            return
        for words in commands(code):
            line = " ".join(words)
            if line in REPLACED:
                self.skipped.append(line)
            elif block.title:  # runs until the end of the page
                running.enter_context(self._installed.process("-m", *words, folder=self.folder))
            else:
                self._run(words)

    def _run(self, words: list[str]) -> None:
        if words[0] == "prefect":  # its script is only in the environment with the dependencies
            command = [str(self._installed.python), "-m", *words]
        else:
            command = ["bash", "-c", shlex.join(words)]
        result = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **self._installed.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=150,
            check=False,
        )
        assert result.returncode == 0, f"{words}:\n{result.stdout}"
        self.output_of[" ".join(words)] = result.stdout


def draw(installed: Server, folder: Path) -> None:
    """Take the page's pictures of Prefect's UI after the page's commands.

    PICTURES=docs/images pytest -n 0 -m deployment tests/deployment/test_walkthrough.py
    """
    with installed.client() as client:
        evening = client.read_deployment_by_name("send-campaign/evening")
        (run,) = client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[evening.id])),
                                       flow_run_filter=FlowRunFilter(state=COMPLETED))  # fmt: skip
    ui = installed.api_url.removesuffix("/api")
    pages = {  # name, address, height: the height excludes the log, which names this machine's folders
        "ui-artifacts": (f"{ui}/runs/flow-run/{run.id}", 500),
        "ui-form": (f"{ui}/v2/deployments/deployment/{evening.id}/run", 1400),
    }
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
    for name, (url, height) in pages.items():
        with TemporaryDirectory() as profile:
            command = ["chromium", *options, f"--user-data-dir={profile}", f"--window-size=1280,{height}"]
            command += ["--virtual-time-budget=30000", f"--screenshot={(folder / name).absolute()}.png", url]
            subprocess.run(command, check=True, capture_output=True, timeout=120)


@pytest.fixture
def sandbox(server: Server, account: str, mymsp_sandbox_server: Sandbox) -> Iterator[Sandbox]:
    """The reader's gateway. The page changes the block ``default``, which is restored for the other tests."""
    with Sandbox(speed=60) as running:
        yield running
    restored: dict[str, Any] = {"password": account, "base_url": mymsp_sandbox_server.base_url}
    with server.used():
        MyMSPCredentials(user=mymsp_sandbox_server.user, **restored).save("default", overwrite=True)


def test_the_walkthrough_as_written(installed: Server, sandbox: Sandbox, tmp_path: Path) -> None:
    reader = Reader(installed, sandbox, tmp_path)
    with ExitStack() as running:
        for block in blocks_of(PAGE):
            reader.execute(block, running)
        if pictures := os.environ.get("PICTURES"):
            draw(installed, Path(pictures))
    assert tuple(reader.skipped) == REPLACED
    outputs = list(reader.output_of.values())
    assert any("a landline number" in output for output in outputs)

    sent = sorted(
        (recipient["msisdn"], message["text"])
        for message in sandbox.gateway.ledger()
        for recipient in message["recipients"]
    )
    people = [("605", "Åsa", "Monday"), ("606", "Björn", "Tuesday"), ("607", "Disa", "Friday")]
    by_hand = [(f"46701740{number}", f"Hello {name}, see you on {day}!") for number, name, day in people]
    deployed = [(f"46701740{number}", f"Good evening {name}, we see you on {day}.") for number, name, day in people]
    assert sent == sorted(by_hand + deployed)
    for name in ("autumn.html", "morning.html"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert "autumn" in page
        assert "46701740605" not in page
    assert "tonight" in (tmp_path / "morning.html").read_text(encoding="utf-8")
    with installed.client() as client:
        deployment = client.read_deployment_by_name("send-campaign/evening")
    assert [(entry.schedule.cron, entry.schedule.timezone) for entry in deployment.schedules] == [  # type: ignore[union-attr]
        ("0 18 * * 1-5", "Europe/Stockholm")
    ]
