"""The command line in processes of its own, each with its own Prefect server or none."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pandas as pd
import pytest

from prefect_mymsp.cli import main
from prefect_mymsp.sandbox import Sandbox

COMMAND = [sys.executable, "-m", "prefect_mymsp.cli"]
ENVIRONMENT = {**os.environ, "COLUMNS": "160", "PYTHONUNBUFFERED": "1"}


@pytest.mark.deployment
@pytest.mark.timeout(180)
def test_the_demo(tmp_path: Path) -> None:
    profile = tmp_path / "profile"
    done = subprocess.run(
        [*COMMAND, "demo", "--folder", str(tmp_path / "demo")],
        env={**ENVIRONMENT, "PREFECT_HOME": str(profile), "PREFECT_API_URL": "http://127.0.0.1:9/api"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert not re.search(r"Traceback|ERROR|WARNING|prefect\.|telemetry|http://127\.0\.0\.1:\d+/api", done.stdout)
    counts = dict(re.findall(r"^(\w[\w ]+?)  +([\d,]+)", done.stdout, re.MULTILINE))
    assert counts["rows"] == "200"
    assert counts["rejected rows"] == "7"
    assert counts["duplicate rows"] == "2"
    assert counts["messages"] == "191"
    assert counts["accepted"] == "189"
    assert counts["refused"] == counts["in doubt"] == "1"
    for text in ("a landline number", "two numbers in the cell", "may have been sent", "Fjällkliniken"):
        assert text in done.stdout, text
    reports = [Path(line.strip()) for line in done.stdout.splitlines() if line.strip().endswith(".csv")]
    deliveries, rejected_rows = (pd.read_csv(path) for path in reports[-2:])
    assert len(deliveries) == 191
    assert int((deliveries["status"] == "delivered").sum()) == int(counts["delivered"])
    assert len(rejected_rows) == 7
    assert not profile.exists() or not list(profile.rglob("journal.db")), "the demo used the user's profile"


SAVE = """
import sys
from prefect_mymsp import MyMSPCredentials
user, password, base_url = sys.argv[1:]
MyMSPCredentials(user=user, password=password, base_url=base_url).save("terminal")
"""


@pytest.mark.deployment
@pytest.mark.timeout(180)
def test_ctrl_c_with_a_temporary_prefect_server(tmp_path: Path, mymsp_sandbox: Sandbox) -> None:
    gateway = mymsp_sandbox.gateway
    gateway.configure({"latency_ms": 100})
    environment = {
        **{name: value for name, value in ENVIRONMENT.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_INTEGRATIONS_MYMSP_REPORTS": str(tmp_path / "reports"),
        "PREFECT_INTEGRATIONS_MYMSP_RETRY_FOR_S": "1",
    }
    account = [mymsp_sandbox.user, mymsp_sandbox.password, mymsp_sandbox.base_url]
    subprocess.run(
        [sys.executable, "-c", SAVE, *account], env=environment, check=True, capture_output=True, timeout=100
    )
    source = tmp_path / "people.csv"
    source.write_text("mobile\n" + "".join(f"07010{row:05d}\n" for row in range(2000)), encoding="utf-8")
    command = [
        "send",
        str(source),
        "Hej",
        "--campaign",
        "stopped",
        "--yes",
        "-c",
        "terminal",
        "--messages-per-minute",
        "600",
    ]
    with subprocess.Popen(
        [*COMMAND, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            while len(gateway.messages) < 5:
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.05)
            began = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)  # like a terminal: to the command and to the server it started
            output = " ".join(process.communicate(timeout=60)[0].split())
            assert time.monotonic() - began < 20
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, output
    assert "Interrupted. Campaign 'stopped': " in output
    assert "0 in doubt" in output
    assert "Traceback" not in output


def test_the_sandbox_command() -> None:
    with subprocess.Popen(
        [*COMMAND, "sandbox", "--port", "0", "--speed", "60"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as sandbox:
        try:
            assert sandbox.stdout is not None
            shown: dict[str, str] = {}
            while "password" not in shown:
                line = sandbox.stdout.readline()
                assert line, sandbox.stderr.read() if sandbox.stderr else ""
                name, _, value = line.strip().partition("   ")
                shown[name] = value.strip()
            form = {"user": shown["user"], "pwd": shown["password"], "recipients": "46701740605", "msg": "Hello"}
            response = httpx.post(f"{shown['base URL']}/sendSms", data=form)
            assert re.fullmatch(r"A\n\d+\n", response.text)
        finally:
            sandbox.send_signal(signal.SIGINT)
            rest, errors = sandbox.communicate(timeout=20)
        assert sandbox.returncode == 0
        assert errors == ""
        assert "Traceback" not in rest


def test_help_and_a_wrong_option() -> None:
    shown = subprocess.run([*COMMAND, "--help"], env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    for command in ("send", "track", "inbox", "report", "cancel", "resolve", "sandbox", "demo"):
        assert f" {command} " in shown
    assert "Exit codes" in shown
    wrong = subprocess.run(
        [*COMMAND, "sandbox", "--port", "0", "--speed", "-1"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr
    assert wrong.stderr.startswith("Error:")


@pytest.mark.parametrize("command", ["send", "track", "inbox", "report", "cancel", "resolve", "sandbox", "demo"])
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5
