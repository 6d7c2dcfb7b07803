"""The command line, run in this process with a Prefect server."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.cli import main
from prefect_mymsp.journal import Journal
from prefect_mymsp.sandbox import Fault, Sandbox
from tests.conftest import CANARY_PASSWORD, Workspace


class Terminal:
    """Runs commands through ``main`` in this process, which has already imported Prefect."""

    def __init__(self, block: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._block = block
        self._capsys = capsys

    def run(self, *words: str, code: int = 0, block: bool = True) -> str:
        """Run a command, check its exit code, and return its output from both streams."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*words, *(["-c", self._block] if block else [])])
        shown = "".join(self._capsys.readouterr())
        assert ended.value.code == code, shown
        assert "Traceback" not in shown
        assert "prefect." not in shown.replace("prefect_mymsp.", ""), "Prefect's log is shown"
        assert CANARY_PASSWORD not in shown
        return shown


@pytest.fixture
def terminal(
    prefect_harness: None,
    workspace: Workspace,
    credentials: MyMSPCredentials,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Terminal]:
    credentials.save("terminal", overwrite=True)
    monkeypatch.setenv("COLUMNS", "160")
    handlers = {
        handler: handler.level
        for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs")
        for handler in logging.getLogger(name).handlers
    }
    yield Terminal("terminal", capsys)
    for handler, level in handlers.items():
        handler.setLevel(level)


def test_send_track_inbox_and_report(terminal: Terminal, gateway: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text("mobile;name\n0701740605;[bold]Åsa[/bold]\n0701740606;Bo\x1b[31m\nx;Nobody\n", encoding="utf-8")
    send = ["send", str(source), "Hej {name}", "--campaign", "spring"]

    plan = terminal.run(*send, "--dry-run")
    assert "Hej [bold]Åsa[/bold]" in plan, "brackets in a value were read as markup"
    assert "numbers in column 'mobile', UTF-8, separated by ';'" in plan
    assert "\x1b[31m" not in plan, "an escape sequence in a value was printed"
    assert gateway.gateway.ledger() == []
    refused = terminal.run(*send, code=1)
    assert "No terminal to confirm in; add `--yes`. Nothing was sent." in refused
    assert gateway.gateway.ledger() == []

    sent = terminal.run(*send, "--yes")
    assert [len(message["recipients"]) for message in gateway.gateway.ledger()] == [1, 1]
    assert "0701740605" not in sent
    assert "46701740605" not in sent
    repeated = terminal.run(*send, "--yes", "--no-wait")
    assert len(gateway.gateway.ledger()) == 2, "a second start sent a message twice"
    assert "accepted" in repeated

    gateway.gateway.receive(originator="46701740606", text="STOP [link=x]now[/link]\x1b]0;boo\x07")
    messages = terminal.run("inbox")
    assert "STOP [link=x]now[/link]" in messages
    assert "\x1b]0;" not in messages
    assert "46701740606" not in messages
    gateway.gateway.receive(originator="46701740606", text="STATUS")
    assert "46701740606" in terminal.run("inbox", "--show-numbers")

    status = terminal.run("track", "spring")
    assert "delivered" in status
    assert "was cancelled" not in status
    terminal.run("track")
    page = terminal.run("report", "spring", "--path", str(tmp_path / "out.html"))
    assert str(tmp_path / "out.html") in page.replace("\n", "")
    assert "<script" not in (tmp_path / "out.html").read_text(encoding="utf-8")
    terminal.run("inbox", "report", "--format", "csv", "--path", str(tmp_path / "inbox.csv"))
    assert "STOP" in (tmp_path / "inbox.csv").read_text(encoding="utf-8")


def test_resolve_and_cancel(terminal: Terminal, gateway: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text("mobile\n0701740605\n0701740606\n", encoding="utf-8")
    gateway.gateway.faults.replace(scripted=[Fault("response_lost")])
    sent = terminal.run("send", str(source), "Hej", "--campaign", "doubt", "--yes", "--no-wait", code=3)
    assert "prefect-mymsp resolve doubt" in sent
    assert "resolve them with prefect-mymsp resolve" in " ".join(terminal.run("track", "doubt", code=3).split())
    doubtful = terminal.run("resolve", "doubt", code=3)
    assert "2 messages are in doubt" in doubtful
    assert "46701740605" not in doubtful
    assert "46701740605" in terminal.run("resolve", "doubt", "--show-numbers", code=3)
    terminal.run("resolve", "doubt", "--sent", "--not-sent", code=2)
    assert "2 messages were in doubt and are resolved as sent" in terminal.run("resolve", "doubt", "--sent")
    assert "0 messages are in doubt" in terminal.run("resolve", "doubt")
    cancelled = terminal.run("cancel", "doubt", code=3)
    assert "Requests: 0 cancelled, 0 already sent, 0 could not be cancelled." in cancelled
    assert "Messages: 2 in all, 2 sent, 0 cancelled, 0 in doubt, 0 never sent." in cancelled
    assert "The campaign was cancelled" in terminal.run("track", "doubt")


def test_a_second_start_sends_only_what_is_missing(terminal: Terminal, gateway: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text("mobile\n0701740605\n0701740606\n", encoding="utf-8")
    send = ["send", str(source), "Hej", "--campaign", "again", "--no-wait"]
    terminal.run(*send, "--yes")
    assert "to send  " in terminal.run(*send, "--dry-run")
    assert "accepted" in terminal.run(*send), "with nothing to send, it asked for confirmation"
    assert len(gateway.gateway.ledger()) == 1
    with source.open("a", encoding="utf-8") as file:
        file.write("0701740607\n")
    plan = " ".join(terminal.run(*send, "--dry-run").split())
    assert "messages 3" in plan
    assert "recorded earlier 2 to send 1" in plan
    other = ["send", str(source), "Hej", "--campaign", "other name", "--no-wait"]
    for arguments in ([*other, "--dry-run"], other, [*other, "--yes"]):
        refused = " ".join(terminal.run(*arguments, code=1).split())
        assert "2 of these messages were sent today by campaign 'again'" in refused
        assert "--allow-repeat-today" in refused
    changed = ["send", str(source), "Hallo", "--campaign", "again", "--no-wait", "--dry-run"]
    assert "Campaign 'again' has sent 2 recipients another text" in " ".join(terminal.run(*changed, code=1).split())
    terminal.run(*changed, "--allow-changed-text")
    assert len(gateway.gateway.ledger()) == 1


def test_no_recipients_or_a_refused_one_exits_with_3(terminal: Terminal, gateway: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    for rows in ("", "0701740612 / 070-17 406 13\n"):
        source.write_text(f"mobile\n{rows}", encoding="utf-8")
        output = terminal.run("send", str(source), "Hej", "--campaign", "none", "--yes", code=3)
        assert "No recipients left. Nothing was sent." in output
        assert ("•••••••••• / •••-•• ••• 13" in output) == bool(rows), "output that is not a terminal is masked"
    source.write_text("mobile\n0701740654\n", encoding="utf-8")
    refused = terminal.run("send", str(source), "Hej", "--campaign", "refused", "--yes", "--no-wait", code=3)
    assert "refused" in refused


def test_ctrl_c_prints_the_counts(terminal: Terminal, gateway: Sandbox, workspace: Workspace, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text("mobile;name\n" + "".join(f"07017{n:05};{n}\n" for n in range(2000)), encoding="utf-8")
    gateway.gateway.configure({"latency_ms": 50})
    send = ["send", str(source), "Hej {name}", "--campaign", "stopped", "--yes", "--no-wait"]

    def press_ctrl_c() -> None:
        while not gateway.gateway.messages:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press_ctrl_c)
    pressing.start()
    output = " ".join(terminal.run(*send, code=130).split())
    pressing.join()
    match = re.search(r"Campaign 'stopped': (\d+) accepted, 0 refused, (\d+) in doubt, ([\d,]+) not sent", output)
    assert match is not None, output
    accepted, in_doubt, planned = (int(count.replace(",", "")) for count in match.groups())
    assert accepted + in_doubt + planned == 2000
    assert accepted <= len(gateway.gateway.messages) <= accepted + in_doubt

    # Another process claims three messages and dies.
    with Journal(workspace.journal) as journal:
        key = journal.campaigns.get(account_fingerprint(gateway.base_url, gateway.user), "stopped")
        assert key is not None
        journal.claims.claim(journal.claims.start_run(key, lease_s=2), requests=3, batch_size=1)
        assert "3 more are being sent" in terminal.run("resolve", "stopped", code=3)
    cancelled = terminal.run("cancel", "stopped", code=3)
    assert f"{planned - 3:,} never sent." in " ".join(cancelled.split())


def test_a_failed_report_exits_with_3_after_sending(
    terminal: Terminal, gateway: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, taken = tmp_path / "people.csv", tmp_path / "taken"
    source.write_text("mobile\n0701740605\n", encoding="utf-8")
    taken.write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_MYMSP_REPORTS", str(taken))
    output = terminal.run("send", str(source), "Hej", "--campaign", "unreported", "--yes", "--no-wait", code=3)
    assert "only its report is missing" in " ".join(output.split())
    assert "accepted: 1" in " ".join(output.split())
    assert len(gateway.gateway.ledger()) == 1


def test_an_unreachable_prefect_api(tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run(
        [sys.executable, "-m", "prefect_mymsp.cli", "inbox"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Prefect's API at http://127.0.0.1:9/api cannot be reached" in " ".join(done.stderr.split())


def test_usage_errors_and_refusals(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("send", block=False, code=2)
    terminal.run("send", "people.csv", "Hej", "--country", "SE", "--colour", "red", code=2)
    missing = terminal.run("send", str(tmp_path / "none.csv"), "Hej", code=1)
    assert "none.csv" in missing.replace("\n", "")
    unknown = terminal.run("track", "nobody's", code=1)
    assert "nobody's" in unknown
    assert "no mymsp-credentials block" in terminal.run("inbox", "--credentials", "none", block=False, code=1)
    names = tmp_path / "names.csv"
    names.write_text("name\nAnna\n", encoding="utf-8")
    assert "--phone-column" in " ".join(terminal.run("send", str(names), "Hej", code=1).split())
    assert "not a range of hours" in terminal.run("send", "x.csv", "Hej", "--send-window", "08:00", code=1)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["missing.csv", "Hej"], "missing.csv"),
        (["people.csv", "Hej {name}"], ""),
        (["people.csv", "Hej", "--suppression-file", "missing.csv"], "missing.csv"),
        (["people.csv", "Hej", "--phone-column", "fone"], "fone"),
        (["people.csv", "Hej", "--country", "XX"], "XX"),
        (["people.csv", "Hej", "--send-window", "8 to 20"], "--send-window"),
        (["people.csv", "Hej", "--send-window", "25:00-26:00"], "25:00"),
        (["people.csv", "Hej", "--send-at", "2020-01-31T09:00+01:00"], "--send-at"),
        (["people.csv", "Hej", "--max-rejected", "5"], "--max-rejected"),
        (["people.csv", "Hej", "--max-recipients", "0"], "--max-recipients"),
        (["people.csv", "Hej", "--max-segments", "0"], "--max-segments"),
        (["people.csv", "Hej", "--messages-per-minute", "0"], "--messages-per-minute"),
        (["people.csv", "Hej", "--wait-minutes", "-1"], "--wait-minutes"),
        (["people.csv", "Hej {"], ""),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_wrong_files_and_options_are_refused_before_anything_is_loaded(
    arguments: list[str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("a server was started or a block was loaded")

    monkeypatch.setattr("prefect_mymsp.terminal.start_server", load)
    monkeypatch.setattr("prefect_mymsp.flows.parameters.load_block", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.csv").write_text("phone\n0701740605\n", encoding="utf-8")
    with pytest.raises(SystemExit) as exit_:
        main(["send", *arguments])
    assert exit_.value.code == 1
    assert error in capsys.readouterr().err.replace("\n", "")
