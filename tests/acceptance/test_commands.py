"""The command line as a person uses it, with a Prefect server running."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.cli import main
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

    assert "delivered" in terminal.run("track", "spring")
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
    assert "Cancelled at the gateway: 0 requests" in terminal.run("cancel", "doubt")


def test_words_that_are_off(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("send", block=False, code=2)
    terminal.run("send", "people.csv", "Hej", "--region", "SE", "--colour", "red", code=2)
    missing = terminal.run("send", str(tmp_path / "none.csv"), "Hej", code=1)
    assert "none.csv" in missing.replace("\n", "")
    unknown = terminal.run("track", "nobody's", code=1)
    assert "nobody's" in unknown
    assert "no mymsp-credentials block" in terminal.run("inbox", "--credentials", "none", block=False, code=1)
    assert "no span of hours" in terminal.run("send", "x.csv", "Hej", "--window", "08:00", code=1)
