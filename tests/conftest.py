"""One Prefect server a session for those tests that need it, a sandbox gateway, and a folder for each test."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import certifi
import hypothesis
import pytest

if TYPE_CHECKING:
    from xdist.scheduler import Scheduling

    from prefect_mymsp import MyMSPCredentials
    from prefect_mymsp.sandbox import Sandbox

# Before anything imports Prefect: what it finds in the environment it keeps, and child processes inherit this too.
_HOME = Path(tempfile.mkdtemp(prefix="prefect-mymsp-tests-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
# Prefect reads all certificates for each of its clients, 16 ms, also where there is no TLS: here it is one.
(_HOME / "one.pem").write_text("".join(certifi.contents().partition("-----END CERTIFICATE-----\n")[:2]))
for _name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[_name]
os.environ.update(
    {
        "PREFECT_HOME": str(_HOME),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_API_SSL_CERT_FILE": str(_HOME / "one.pem"),
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.5",  # else events can be read 5 s later
        "DO_NOT_TRACK": "1",
    }
)

# On a busy machine examples take longer to generate, and tests longer to run them: neither is a failure.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")

pytest_plugins = ["prefect_mymsp.sandbox.pytest_plugin"]

#: The sandbox account's password in these tests: unlike anything else, so that a search for it means something.
CANARY_PASSWORD = "canary-Kolibri-7f3a9c51e2d84b06-åäö&=%"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs Prefect's server comes early, for it takes longest; but after what hypothesis drives.

    Threads of Prefect, which stay when its server has been started, draw random numbers now and then; when hypothesis
    makes an example at that moment, it takes that for a fault of the test.
    """

    def place(item: pytest.Item) -> int:
        if getattr(getattr(item, "function", None), "is_hypothesis_test", False) or "hypothesis" in item.keywords:
            return 0
        return 1 if "prefect_harness" in getattr(item, "fixturenames", ()) else 2

    items.sort(key=place)


def _is_normal_suite(config: pytest.Config) -> bool:
    return "not torture" in config.option.markexpr


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers where half of the tests wait for something; none for a test or a file named to it, or for torture."""
    named = any("::" in each or each.endswith(".py") for each in config.args)
    return 0 if named or not (_is_normal_suite(config) or "deployment" in config.option.markexpr) else 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Tests go to the two workers one by one; those that need Prefect's server to the same one, to start it once.

    What is deployed goes by the file: each worker has a server in a process of its own. (The marks for this, of
    pytest-xdist itself, have no effect under pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    @functools.cache
    def needs_prefect(path: str) -> bool:
        return "prefect_harness" in (config.rootpath / path).read_text(encoding="utf-8")

    class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            if not _is_normal_suite(config):
                return path
            return "prefect" if needs_prefect(path) else nodeid

    return Scheduler(config, log)


@pytest.fixture(scope="session")
def prefect_home() -> Path:
    """Prefect's home of this session, a temporary folder."""
    return _HOME


@pytest.fixture(scope="session")
def prefect_harness(pytestconfig: pytest.Config) -> Iterator[None]:
    """A Prefect server on a temporary database, started once (about 9 s)."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    # Without the heartbeat a synchronous flow ends a second earlier.
    settings = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with prefect_test_harness(server_startup_timeout=120), temporary_settings(settings):
        port = urlsplit(PREFECT_API_URL.value() or "").port
        # Prefect forgets to close a connection to its own server; ours, to other ports, stay errors. The line is for
        # the tests to come, the filter for the one whose setup this is part of.
        forgotten = rf"Exception ignored in. <socket.socket.*'127.0.0.1', {port}\)"
        warning = "pytest.PytestUnraisableExceptionWarning"
        pytestconfig.addinivalue_line("filterwarnings", f"ignore:{forgotten}:{warning}")
        warnings.filterwarnings("ignore", message=forgotten, category=pytest.PytestUnraisableExceptionWarning)
        yield


@dataclass(frozen=True)
class Workspace:
    """Where one test's journal and reports are."""

    journal: Path
    reports: Path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A journal and a reports folder of this test's own, through the environment as a user would set them."""
    places = Workspace(tmp_path / "journal.db", tmp_path / "reports")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_MYMSP_JOURNAL_URL", f"sqlite:///{places.journal}")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_MYMSP_REPORTS", str(places.reports))
    monkeypatch.setenv("PREFECT_INTEGRATIONS_MYMSP_RETRY_FOR_S", "0.3")
    return places


@pytest.fixture
def gateway(mymsp_sandbox: Sandbox) -> Sandbox:
    """The sandbox, delivering at once, with the canary as its account's password."""
    mymsp_sandbox.gateway.configure(
        {
            "sent_after_s": 0,
            "delivered_after_s": 0,
            "accounts": {mymsp_sandbox.user: {"password": CANARY_PASSWORD}},
        }
    )
    return mymsp_sandbox


@pytest.fixture
def credentials(gateway: Sandbox) -> MyMSPCredentials:
    """A block for the sandbox's account, not saved."""
    from prefect_mymsp import MyMSPCredentials

    values: dict[str, Any] = {"user": gateway.user, "password": CANARY_PASSWORD, "base_url": gateway.base_url}
    return MyMSPCredentials(**values)


@contextlib.contextmanager
def _unreachable(sandbox: Sandbox) -> Iterator[None]:
    port = int(sandbox.url.rpartition(":")[2])
    sandbox.stop()
    try:
        yield
    finally:
        sandbox._port = port
        sandbox.start()


@pytest.fixture
def unreachable() -> Callable[[Sandbox], contextlib.AbstractContextManager[None]]:
    """While entered, a sandbox is down; it comes back on the same port with what it held."""
    return _unreachable
