"""The command line as a person uses it, with a Prefect server running."""

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
    """A person's terminal: the commands in this process, which has Prefect loaded already, as ``main`` runs them."""

    def __init__(self, block: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._block = block
        self._capsys = capsys

    def run(self, *words: str, code: int = 0, block: bool = True) -> str:
        """What a command prints, both streams together; it must end with ``code``."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*words, *(["-c", self._block] if block else [])])
        shown = "".join(self._capsys.readouterr())
        assert ended.value.code == code, shown
        assert "Traceback" not in shown
        assert "prefect." not in shown.replace("prefect_mymsp.", ""), "Prefect's log is in the way"
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


def test_a_campaign_from_a_terminal(terminal: Terminal, gateway: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text("mobile;name\n0701740605;[bold]Åsa[/bold]\n0701740606;Bo\x1b[31m\nx;Nobody\n", encoding="utf-8")
    asked = ["send", str(source), "Hej {name}", "--campaign", "spring"]

    looked = terminal.run(*asked, "--dry-run")
    assert "Hej [bold]Åsa[/bold]" in looked, "a stranger's brackets are no markup"
    assert "numbers in column 'mobile', UTF-8, separated by ';'" in looked
    assert "\x1b[31m" not in looked, "a stranger's escape does nothing"
    assert gateway.gateway.ledger() == []
    refused = terminal.run(*asked, code=1)
    assert "with --yes" in refused
    assert gateway.gateway.ledger() == []

    sent = terminal.run(*asked, "--yes")
    assert [len(one["recipients"]) for one in gateway.gateway.ledger()] == [1, 1]
    assert "0701740605" not in sent
    assert "46701740605" not in sent
    again = terminal.run(*asked, "--yes", "--no-wait")
    assert len(gateway.gateway.ledger()) == 2, "started again, it sends nobody twice"
    assert "accepted" in again

    gateway.gateway.receive(originator="46701740606", text="STOP [link=x]now[/link]\x1b]0;boo\x07")
    told = terminal.run("inbox")
    assert "STOP [link=x]now[/link]" in told
    assert "\x1b]0;" not in told
    assert "46701740606" not in told
    gateway.gateway.receive(originator="46701740606", text="STATUS")
    assert "46701740606" in terminal.run("inbox", "--show-numbers")

    followed = terminal.run("track", "spring")
    assert "delivered" in followed
    assert "It was cancelled" not in followed
    terminal.run("track")
    page = terminal.run("report", "spring", "--path", str(tmp_path / "out.html"))
    assert str(tmp_path / "out.html") in page.replace("\n", "")
    assert "<script" not in (tmp_path / "out.html").read_text(encoding="utf-8")
    terminal.run("report", "--inbox", "--format", "csv", "--path", str(tmp_path / "inbox.csv"))
    assert "STOP" in (tmp_path / "inbox.csv").read_text(encoding="utf-8")


def test_doubt_from_a_terminal(terminal: Terminal, gateway: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text("mobile\n0701740605\n0701740606\n", encoding="utf-8")
    gateway.gateway.faults.replace(scripted=[Fault("answer_lost")])
    told = terminal.run("send", str(source), "Hej", "--campaign", "doubt", "--yes", "--no-wait", code=3)
    assert "prefect-mymsp resolve 'doubt'" in told
    looked = terminal.run("resolve", "doubt", code=3)
    assert "2 messages are in doubt" in looked
    assert "46701740605" not in looked
    assert "46701740605" in terminal.run("resolve", "doubt", "--show-numbers", code=3)
    terminal.run("resolve", "doubt", "--decision", "sent")
    assert "0 messages are in doubt" in terminal.run("resolve", "doubt")
    told = terminal.run("cancel", "doubt", code=3)
    assert "Cancelled at the gateway: 0 requests" in told
    assert "Of its 2 messages 2 were sent, 0 were taken back, 0 are in doubt, and 0 will never be sent." in told
    assert "It was cancelled" in terminal.run("track", "doubt")


def test_a_second_start_says_what_is_left(terminal: Terminal, gateway: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_text("mobile\n0701740605\n0701740606\n", encoding="utf-8")
    asked = ["send", str(source), "Hej", "--campaign", "again", "--no-wait"]
    terminal.run(*asked, "--yes")
    assert "to send  " in terminal.run(*asked, "--dry-run")
    assert "accepted" in terminal.run(*asked), "with nothing left there is nothing to agree to"
    assert len(gateway.gateway.ledger()) == 1
    with source.open("a", encoding="utf-8") as file:
        file.write("0701740607\n")
    looked = " ".join(terminal.run(*asked, "--dry-run").split())
    assert "messages 3" in looked
    assert "recorded earlier 2 to send 1" in looked
    other = ["send", str(source), "Hej", "--campaign", "other name", "--no-wait"]
    for words in ([*other, "--dry-run"], other, [*other, "--yes"]):
        told = " ".join(terminal.run(*words, code=1).split())
        assert "2 of these messages went out today under the name 'again'" in told
        assert "send it again with --allow-repeat" in told
    changed = ["send", str(source), "Hallo", "--campaign", "again", "--no-wait", "--dry-run"]
    assert "2 people have got a text of campaign 'again'" in " ".join(terminal.run(*changed, code=1).split())
    terminal.run(*changed, "--allow-changed")
    assert len(gateway.gateway.ledger()) == 1


def test_nobody_to_send_to_is_nothing_that_is_done(terminal: Terminal, gateway: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    for rows in ("", "0701740612 / 070-17 406 13\n"):
        source.write_text(f"mobile\n{rows}", encoding="utf-8")
        told = terminal.run("send", str(source), "Hej", "--campaign", "none", "--yes", code=3)
        assert "nobody to send to" in told
        assert ("•••••••••• / •••-•• ••• 13" in told) == bool(rows), "this is no terminal, but a log"
    source.write_text("mobile\n0701740654\n", encoding="utf-8")
    refused = terminal.run("send", str(source), "Hej", "--campaign", "refused", "--yes", "--no-wait", code=3)
    assert "refused" in refused


def test_what_is_interrupted_says_how_far_it_has_come(
    terminal: Terminal, gateway: Sandbox, workspace: Workspace, tmp_path: Path
) -> None:
    source = tmp_path / "people.csv"
    source.write_text("mobile;name\n" + "".join(f"07017{n:05};{n}\n" for n in range(2000)), encoding="utf-8")
    gateway.gateway.configure({"latency_ms": 50})
    asked = ["send", str(source), "Hej {name}", "--campaign", "stopped", "--yes", "--no-wait"]

    def press() -> None:
        while not gateway.gateway.messages:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    told = " ".join(terminal.run(*asked, code=130).split())
    pressing.join()
    found = re.search(r"Campaign 'stopped': (\d+) accepted, 0 refused, (\d+) in doubt, ([\d,]+) not sent", told)
    assert found is not None, told
    accepted, unsure, left = (int(each.replace(",", "")) for each in found.groups())
    assert accepted + unsure + left == 2000
    assert accepted <= len(gateway.gateway.messages) <= accepted + unsure

    # Another process sends it, and dies: for a while nobody knows.
    with Journal(workspace.journal) as journal:
        key = journal.campaigns.get(account_fingerprint(gateway.base_url, gateway.user), "stopped")
        assert key is not None
        journal.claims.claim(journal.claims.start_run(key, lease_s=2), requests=3, batch_size=1)
        assert "3 more are on their way" in terminal.run("resolve", "stopped", code=3)
    stopped = terminal.run("cancel", "stopped", code=3)
    assert f"and {left - 3:,} will never be sent" in " ".join(stopped.split())


def test_a_report_that_cannot_be_written_is_not_nothing_sent(
    terminal: Terminal, gateway: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, taken = tmp_path / "people.csv", tmp_path / "taken"
    source.write_text("mobile\n0701740605\n", encoding="utf-8")
    taken.write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_MYMSP_REPORTS", str(taken))
    told = terminal.run("send", str(source), "Hej", "--campaign", "unreported", "--yes", "--no-wait", code=3)
    assert "only its report is missing" in " ".join(told.split())
    assert "accepted: 1" in " ".join(told.split())
    assert len(gateway.gateway.ledger()) == 1


def test_an_api_of_prefect_that_is_not_there(tmp_path: Path) -> None:
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
    assert "Prefect's API at http://127.0.0.1:9/api cannot be reached." in " ".join(done.stderr.split())


def test_words_that_are_off(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("send", block=False, code=2)
    terminal.run("send", "people.csv", "Hej", "--country", "SE", "--colour", "red", code=2)
    missing = terminal.run("send", str(tmp_path / "none.csv"), "Hej", code=1)
    assert "none.csv" in missing.replace("\n", "")
    unknown = terminal.run("track", "nobody's", code=1)
    assert "nobody's" in unknown
    assert "no mymsp-credentials block" in terminal.run("inbox", "--credentials", "none", block=False, code=1)
    names = tmp_path / "names.csv"
    names.write_text("name\nAnna\n", encoding="utf-8")
    assert "with --phone-column" in " ".join(terminal.run("send", str(names), "Hej", code=1).split())
    assert "no span of hours" in terminal.run("send", "x.csv", "Hej", "--window", "08:00", code=1)
