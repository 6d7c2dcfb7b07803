"""A real Prefect server in a process of its own, as a self-hosted one runs, and processes beside it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

T = TypeVar("T")

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
    """

    api_url: str
    env: Mapping[str, str] = field(repr=False)
    home: Path
    log: Path
    root: Path = Path(__file__).parents[2]

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
        self, *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A Python process beside the server while entered, ``-m prefect worker start`` say; its group ends with it."""
        name = "-".join(Path(str(one)).stem for one in arguments if not str(one).startswith("-"))[:40]
        log = self.home / f"{name}-{time.monotonic_ns()}.log"
        with _process(arguments, {**self.env, **(env or {})}, log) as process:
            yield process

    def run(self, *arguments: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = 90) -> str:
        """Run a Python process to its end, which must be a good one; returns what it printed."""
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**self.env, **(env or {})},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @staticmethod
    def wait_for(what: Callable[[], T], *, timeout_s: float = 60, every_s: float = 0.25) -> T:
        """Ask until the answer is a true one, and return it."""
        end = time.monotonic() + timeout_s
        while not (answer := what()):
            assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
            time.sleep(every_s)
        return answer


@contextmanager
def _process(arguments: tuple[str | Path, ...], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=dict(env),
            cwd=log.parent,
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


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server with all its services, in a process, with this package installed; once a session."""
    home = tmp_path_factory.mktemp("prefect-server")
    port = _free_port()
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
    command = ("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    with _process(command, env, log) as process:

        def up() -> bool:
            assert process.poll() is None, f"the server ended:\n{log.read_text()}"
            try:
                return httpx.get(f"{url}/health", timeout=2).is_success
            except httpx.HTTPError:
                return False

        Server.wait_for(up, timeout_s=90)
        yield Server(api_url=url, env=env, home=home, log=log)
