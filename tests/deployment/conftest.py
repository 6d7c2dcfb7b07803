"""A real Prefect server in a separate process, like a self-hosted server, and processes that use it."""

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

#: A unique password, so that a search for it gives no false matches.
_PASSWORD = "canary-Pirol-5c1f0b77a94e-åäö&=%"

# The shortest intervals that Prefect allows for the periodic tasks of servers and workers.
_SHORT_INTERVALS = {
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
        api_url: The URL of its API.
        env: The complete environment for processes that use it: the server's address, its home, the checkout's package.
        home: Prefect's home of the server and of these processes.
        log: The server's log file.
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
        """A Python process within the context, such as ``-m prefect worker start``; its group ends with it."""
        name = "-".join(Path(str(argument)).stem for argument in arguments if not str(argument).startswith("-"))[:40]
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
        """Run a Python process, which must succeed, and return its output."""
        result = subprocess.run(
            [self.python, *map(str, arguments)],
            env={**self.env, **(env or {})},
            cwd=folder or self.home,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert result.returncode == 0, f"{arguments} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}"
        return result.stdout

    @staticmethod
    def free_port() -> int:
        """A free port of this machine."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            port: int = listening.getsockname()[1]
            return port

    @staticmethod
    def wait_for(condition: Callable[[], T], *, timeout_s: float = 60, every_s: float = 0.25) -> T:
        """Call the condition until its result is true, and return the result."""
        end = time.monotonic() + timeout_s
        while not (answer := condition()):
            assert time.monotonic() < end, f"not within {timeout_s} s: {condition}"
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
    """End a process and its children, with SIGINT first."""
    for number, patience_s in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if process.poll() is not None:
            break
        process.send_signal(number)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    try:
        os.killpg(process.pid, signal.SIGKILL)  # flow runs that outlived their worker
    except ProcessLookupError:
        return


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server with all its services, in a process, with this package installed; one per session."""
    home = tmp_path_factory.mktemp("prefect-server")
    port = Server.free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= _SHORT_INTERVALS | {
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
    """The server used from an environment with the wheel installed, in which the checkout cannot be imported.

    To save the download of the dependencies, they are imported from the environment of the tests; an editable
    installation there has no effect, because ``.pth`` files count only in the first folder.
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
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # the minimum
        "PREFECT_HOME": str(home),
    }
    return replace(server, env=env, home=home, python=python)


class Worker:
    """A worker of the installed wheel on the work pool ``sms``, and its flow runs."""

    def __init__(self, installed: Server) -> None:
        self._installed = installed
        self._running = ExitStack()
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start the worker, which creates the work pool."""
        command = ("-m", "prefect", "worker", "start", "--pool", "sms", "--type", "process")
        self.process = self._running.enter_context(self._installed.process(*command))

    def stop(self) -> None:
        """Stop the worker and its flow runs."""
        self._running.close()

    def processes(self) -> list[int]:
        """The worker and its descendants, descendants first; flow runs lead process groups of their own."""
        children: dict[int, list[int]] = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                fields = status.read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(status.parent.name))
        process_ids = [self.process.pid]
        for process_id in process_ids:
            process_ids += children.get(process_id, [])
        return process_ids[::-1]

    def kill(self) -> None:
        """``kill -9`` for the worker and its flow runs, so that no process reports their final states."""
        processes = self.processes()
        for number in (signal.SIGSTOP, signal.SIGKILL):  # otherwise a parent could report the end of its child
            for process_id in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process_id, number)
        self.process.wait(10)

    def begin(self, deployment: str, **parameters: Any) -> UUID:
        """Start a run of a deployment, ``flow/deployment``, now."""
        with self._installed.client() as client:
            stored = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(stored.id, parameters=parameters).id

    def run(self, run_id: UUID) -> FlowRun:
        """A flow run, read from the API."""
        with self._installed.client() as client:
            return client.read_flow_run(run_id)

    def ended(self, *run_ids: UUID, state: str = "COMPLETED", timeout_s: float = 90) -> None:
        """Wait until runs have ended, in that state."""
        for run_id in run_ids:

            def final_state(run_id: UUID = run_id) -> State | None:
                current = self.run(run_id).state
                return current if current is not None and current.is_final() else None

            final = self._installed.wait_for(final_state, timeout_s=timeout_s)
            assert final is not None
            assert final.type.value == state, f"{final.type.value}: {final.message}\n{self.logged(run_id)}"

    def counts(self, campaign: str, sandbox: Sandbox, journal: str | None = None) -> Counts:
        """The counts of a campaign in the worker's journal, or in another."""
        with Journal(journal or self._installed.home / "mymsp" / "journal.db") as opened:
            key = opened.campaigns.get(account_fingerprint(sandbox.base_url, sandbox.user), campaign)
            assert key is not None
            return opened.campaigns.counts(key)

    def states(self, campaign: str, sandbox: Sandbox, journal: str | None = None) -> dict[str, int]:
        """The number of messages of a campaign by state, without zeros."""
        counts = asdict(self.counts(campaign, sandbox, journal))
        states = ("planned", "sending", "accepted", "refused", "in_doubt", "assumed", "cancelled")
        return {state: counts[state] for state in states if counts[state]}

    def logged(self, run_id: UUID) -> str:
        """The log of a run."""
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
    entrypoint: prefect_mymsp.flows.send.send_campaign
    pull: []
    work_pool: {name: sms}
    parameters:
      credentials: default
"""


@pytest.fixture(scope="session")
def deployment(installed: Server, worker: Worker, account: str) -> str:
    """``send-campaign`` of the installed wheel, deployed by its dotted name."""
    folder = installed.home / "deploying"
    folder.mkdir()
    (folder / "prefect.yaml").write_text(_INSTALLED)
    installed.run("-m", "prefect", "--no-prompt", "deploy", "--all", folder=folder)
    return "send-campaign/installed"


@dataclass(frozen=True)
class Crash:
    """A campaign whose worker was killed in the middle of it, and which is started again.

    Attributes:
        people: The recipients' file.
        rows: How many rows it has.
        sandbox: The gateway, for this campaign alone.
        run: The killed run.
        accepted: How many messages the gateway had when it was killed.
        again: The run that continues the campaign.
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
    """A campaign whose worker and flow run are killed with ``kill -9`` halfway, and its second start."""
    people = tmp_path_factory.mktemp("people") / "people.csv"
    rows = 400
    people.write_text("phone;name\n" + "".join(f"07005{index:05d};P{index}\n" for index in range(rows)))
    with Sandbox() as sandbox:
        sandbox.gateway.configure({"latency_ms": 400})
        values: dict[str, Any] = {"password": sandbox.password, "base_url": sandbox.base_url}
        with server.used():
            MyMSPCredentials(user=sandbox.user, **values).save("crash", overwrite=True)
        parameters = {
            "recipients": str(people),
            "credentials": "crash",
            "message": "Hello {name}",
            "campaign": "killed",
            "wait_minutes": 0,
            "exactly_once": True,
        }
        run = worker.begin(deployment, **parameters)
        server.wait_for(lambda: len(sandbox.gateway.summary()) > 20, every_s=0.05)
        worker.kill()
        accepted = len(sandbox.gateway.summary())
        sandbox.gateway.configure({"latency_ms": 0})
        worker.start()
        again = worker.begin(deployment, **parameters)
        yield Crash(people, rows, sandbox, deployment, run, accepted, again)


@pytest.fixture
def rerun() -> None:
    """Marks tests that wait for a lease to end; they run last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that take minutes last, so that their campaigns progress during the other tests."""
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
