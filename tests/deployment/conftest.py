"""A real Prefect server in a process of its own, as a self-hosted one runs, and processes beside it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.journal import Counts, Journal
from prefect_mymsp.sandbox import Sandbox
from tests.integration.conftest import postgres  # noqa: F401  a fixture here too

T = TypeVar("T")

#: Unlike anything else, so that a search for it means something.
_PASSWORD = "canary-Pirol-5c1f0b77a94e-åäö&=%"

# What a server and a worker do every few seconds they do here at once, as far as Prefect lets itself be hurried.
_HURRIED = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.5",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_PREFETCH_SECONDS": "1",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
}


@dataclass(frozen=True)
class Server:
    """A running Prefect server.

    Attributes:
        api_url: Where its API is.
        env: The whole environment for processes that use it: the server's address, its home, the checkout's package.
        home: Prefect's home of the server and of these processes.
        log: What the server wrote.
        root: The checkout, whose package the processes import.
        python: The interpreter that runs them.
    """

    api_url: str
    env: Mapping[str, str] = field(repr=False)
    home: Path
    log: Path
    root: Path = Path(__file__).parents[2]
    python: str | Path = sys.executable

    def client(self) -> SyncPrefectClient:
        """A client of its API; use it as a context manager."""
        with self.used():
            return get_client(sync_client=True)

    @contextmanager
    def used(self) -> Iterator[None]:
        """While entered, Prefect in this process uses this server."""
        with temporary_settings({PREFECT_API_URL: self.api_url}):
            yield

    @contextmanager
    def process(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A Python process beside the server while entered, ``-m prefect worker start`` say; its group ends with it."""
        name = "-".join(Path(str(one)).stem for one in arguments if not str(one).startswith("-"))[:40]
        log = self.home / f"{name}-{time.monotonic_ns()}.log"
        with _process((self.python, *arguments), {**self.env, **(env or {})}, log, folder) as process:
            yield process

    def run(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 90,
        folder: Path | None = None,
    ) -> str:
        """Run a Python process to its end, which must be a good one; returns what it printed."""
        done = subprocess.run(
            [self.python, *map(str, arguments)],
            env={**self.env, **(env or {})},
            cwd=folder or self.home,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @staticmethod
    def free_port() -> int:
        """A port of this machine that nobody listens on."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            port: int = listening.getsockname()[1]
            return port

    @staticmethod
    def wait_for(what: Callable[[], T], *, timeout_s: float = 60, every_s: float = 0.25) -> T:
        """Ask until the answer is a true one, and return it."""
        end = time.monotonic() + timeout_s
        while not (answer := what()):
            assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
            time.sleep(every_s)
        return answer


@contextmanager
def _process(
    command: tuple[str | Path, ...], env: Mapping[str, str], log: Path, folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)),
            env=dict(env),
            cwd=folder or log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started, politely first."""
    for number, patience_s in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if process.poll() is not None:
            break
        process.send_signal(number)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    try:
        os.killpg(process.pid, signal.SIGKILL)  # flow runs that a worker has left behind
    except ProcessLookupError:
        return


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server with all its services, in a process, with this package installed; once a session."""
    home = tmp_path_factory.mktemp("prefect-server")
    port = Server.free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= _HURRIED | {
        "DO_NOT_TRACK": "1",
        "PREFECT_API_URL": url,
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Server.root), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }
    log = home / "server.log"
    command = (sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    with _process(command, env, log) as process:

        def up() -> bool:
            assert process.poll() is None, f"the server ended:\n{log.read_text()}"
            try:
                return httpx.get(f"{url}/health", timeout=2).is_success
            except httpx.HTTPError:
                return False

        Server.wait_for(up, timeout_s=90)
        yield Server(api_url=url, env=env, home=home, log=log)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, Server.root], check=True, timeout=120)
    (built,) = folder.glob("prefect_mymsp-*.whl")
    return built


@pytest.fixture(scope="session")
def installed(server: Server, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The server from where the wheel is installed, in a clean environment with nothing of the checkout in reach.

    To save the download of all it depends on, that is looked for where the tests have it; an editable installation
    there is out of reach, because only the first folder's ``.pth`` files count.
    """
    home = tmp_path_factory.mktemp("installed")
    venv.create(home / "venv", with_pip=False, symlinks=True)
    python = home / "venv" / "bin" / "python"
    (packages,) = (home / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    env = {name: value for name, value in server.env.items() if name != "PYTHONPATH"}
    env |= {
        "PATH": f"{python.parent}{os.pathsep}{env['PATH']}",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # as often as it may
        "PREFECT_HOME": str(home),
    }
    return replace(server, env=env, home=home, python=python)


class Worker:
    """A worker of the installed wheel on the work pool ``sms``, and the runs it makes."""

    def __init__(self, installed: Server) -> None:
        self._installed = installed
        self._running = ExitStack()
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start it; there is a work pool then."""
        command = ("-m", "prefect", "worker", "start", "--pool", "sms", "--type", "process")
        self.process = self._running.enter_context(self._installed.process(*command))

    def stop(self) -> None:
        """Stop it and what it runs."""
        self._running.close()

    def processes(self) -> list[int]:
        """It and all the processes it has started, flow runs before all; those are leaders of groups of their own."""
        children: dict[int, list[int]] = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                fields = status.read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(status.parent.name))
        found = [self.process.pid]
        for one in found:
            found += children.get(one, [])
        return found[::-1]

    def kill(self) -> None:
        """``kill -9`` for it and its flow runs: nobody is left to say how they ended."""
        processes = self.processes()
        for number in (signal.SIGSTOP, signal.SIGKILL):  # or the last would have time to tell how the first ended
            for one in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, number)
        self.process.wait(10)

    def begin(self, deployment: str, **parameters: Any) -> UUID:
        """Have a run of a deployment, ``flow/deployment``, begin now."""
        with self._installed.client() as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def run(self, run_id: UUID) -> FlowRun:
        """A flow run as the API has it."""
        with self._installed.client() as client:
            return client.read_flow_run(run_id)

    def ended(self, *run_ids: UUID, state: str = "COMPLETED", timeout_s: float = 90) -> None:
        """Wait until runs have ended, in that state."""
        for run_id in run_ids:

            def over(run_id: UUID = run_id) -> State | None:
                found = self.run(run_id).state
                return found if found is not None and found.is_final() else None

            final = self._installed.wait_for(over, timeout_s=timeout_s)
            assert final is not None
            assert final.type.value == state, f"{final.type.value}: {final.message}\n{self.told(run_id)}"

    def counts(self, campaign: str, sandbox: Sandbox, journal: str | None = None) -> Counts:
        """Where a campaign stands, as a journal has it: the worker's own, or another."""
        with Journal(journal or self._installed.home / "mymsp" / "journal.db") as opened:
            found = opened.campaigns.get(account_fingerprint(sandbox.base_url, sandbox.user), campaign)
            assert found is not None
            return opened.campaigns.counts(found)

    def states(self, campaign: str, sandbox: Sandbox, journal: str | None = None) -> dict[str, int]:
        """How many messages of a campaign are in which state."""
        counts = asdict(self.counts(campaign, sandbox, journal))
        states = ("planned", "sending", "accepted", "refused", "in_doubt", "assumed", "cancelled")
        return {state: counts[state] for state in states if counts[state]}

    def told(self, run_id: UUID) -> str:
        """What a run has logged."""
        with self._installed.client() as client:
            lines = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])))
        return "\n".join(line.message for line in lines)


@pytest.fixture(scope="session")
def worker(installed: Server) -> Iterator[Worker]:
    """A worker process of the installed wheel, on a work pool of processes."""
    working = Worker(installed)

    def pool_is_there() -> bool:
        assert working.process.poll() is None
        with installed.client() as client:
            return any(pool.name == "sms" for pool in client.read_work_pools())

    try:
        installed.wait_for(pool_is_there)
        yield working
    finally:
        working.stop()


@pytest.fixture(scope="session")
def account(server: Server, mymsp_sandbox_server: Sandbox) -> str:
    """The sandbox's account, saved as the block ``mymsp-credentials/default``; returns its password."""
    values: dict[str, Any] = {"password": _PASSWORD, "base_url": mymsp_sandbox_server.base_url}
    with server.used():
        MyMSPCredentials(user=mymsp_sandbox_server.user, **values).save("default", overwrite=True)
    return _PASSWORD


_INSTALLED = """
deployments:
  - name: installed
    entrypoint: prefect_mymsp.flows.send_campaign.send_campaign
    pull: []
    work_pool: {name: sms}
    parameters:
      credentials: default
"""


@pytest.fixture(scope="session")
def deployment(installed: Server, worker: Worker, account: str) -> str:
    """``send-campaign`` as it lies in the installed wheel, deployed by its dotted name."""
    folder = installed.home / "deploying"
    folder.mkdir()
    (folder / "prefect.yaml").write_text(_INSTALLED)
    installed.run("-m", "prefect", "--no-prompt", "deploy", "--all", folder=folder)
    return "send-campaign/installed"


@dataclass(frozen=True)
class Crash:
    """A campaign whose worker was killed in the middle of it, and which is started again.

    Attributes:
        people: The file.
        rows: How many rows it has.
        sandbox: The gateway, for this campaign alone.
        run: The killed run.
        accepted: How many messages the gateway had when it was killed.
        again: The run that continues.
    """

    people: Path
    rows: int
    sandbox: Sandbox
    deployment: str
    run: UUID
    accepted: int
    again: UUID


@pytest.fixture(scope="session")
def crash(
    server: Server, installed: Server, worker: Worker, deployment: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crash]:
    """A campaign, ``kill -9`` for the worker and for the flow run in the middle of it, and a second start."""
    people = tmp_path_factory.mktemp("people") / "people.csv"
    rows = 400
    people.write_text("phone;name\n" + "".join(f"07005{index:05d};P{index}\n" for index in range(rows)))
    with Sandbox() as sandbox:
        sandbox.gateway.configure({"latency_ms": 400})
        values: dict[str, Any] = {"password": sandbox.password, "base_url": sandbox.base_url}
        with server.used():
            MyMSPCredentials(user=sandbox.user, **values).save("crash", overwrite=True)
        given = {
            "recipients": str(people),
            "credentials": "crash",
            "message": "Hello {name}",
            "campaign": "killed",
            "wait_minutes": 0,
            "exactly_once": True,
        }
        run = worker.begin(deployment, **given)
        server.wait_for(lambda: len(sandbox.gateway.summary()) > 20, every_s=0.05)
        worker.kill()
        accepted = len(sandbox.gateway.summary())
        sandbox.gateway.configure({"latency_ms": 0})
        worker.start()
        again = worker.begin(deployment, **given)
        yield Crash(people, rows, sandbox, deployment, run, accepted, again)


@pytest.fixture
def rerun() -> None:
    """Marks what waits for a lease and for answers that can no longer come; see the order of the tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What goes on for minutes is looked at last: meanwhile the others run. The first one starts server and worker."""
    for item in items:
        if item.get_closest_marker("deployment"):
            item.add_marker(pytest.mark.timeout(300))
    items.sort(key=lambda item: "rerun" in getattr(item, "fixturenames", ()))


@pytest.fixture
def gateway(mymsp_sandbox: Sandbox, account: str) -> Sandbox:
    """The sandbox, empty, delivering at once, for the account of the block ``default``."""
    accounts = {mymsp_sandbox.user: {"password": account}}
    mymsp_sandbox.gateway.configure({"sent_after_s": 0, "delivered_after_s": 0, "accounts": accounts})
    return mymsp_sandbox
