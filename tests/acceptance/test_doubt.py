"""Resolve doubt, and cancel campaigns: flows and commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from prefect_mymsp import CampaignJournal, MyMSPCredentials, cli
from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.campaign import Cancelled
from prefect_mymsp.errors import CampaignStoppedError, ConfigurationError, InputError
from prefect_mymsp.flows import (
    Advanced,
    Safeguards,
    cancel_campaign,
    resolve_campaign,
    send_campaign,
)
from prefect_mymsp.journal import Journal
from prefect_mymsp.sandbox import Fault, Sandbox

pytestmark = pytest.mark.usefixtures("prefect_harness", "workspace")

SOON = datetime.now(UTC) + timedelta(hours=2)


def people(folder: Path, *suffixes: int) -> Path:
    path = folder / "people.csv"
    path.write_text("phone;name\n" + "".join(f"0701740{suffix};P{suffix}\n" for suffix in suffixes), encoding="utf-8")
    return path


def times_sent(sandbox: Sandbox) -> dict[tuple[str, str], int]:
    return {key: times for key, times in sandbox.gateway.summary().items() if times}


def test_a_person_settles_doubt(
    credentials: MyMSPCredentials, gateway: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = people(tmp_path, 605, 606, 681)  # 681: the connection is lost, every time
    report = send_campaign(source, "Hello {name}!", credentials, "doubt", advanced=Advanced(quiet_minutes=0.5 / 60))
    assert (report.accepted, report.in_doubt) == (2, 1)
    doubtful = resolve_campaign("doubt", credentials=credentials)
    assert doubtful["recipient"].tolist() == ["46701740681"]
    assert doubtful["row"].tolist() == [4]
    # The command shows the same, with the number masked, and settles it.
    credentials.save("doubtful", overwrite=True)
    cli.resolve("doubt", credentials="doubtful", not_sent=True)
    output = capsys.readouterr().out
    assert "46•••••••81" in output
    assert "46701740681" not in output
    assert "1 messages were in doubt and are resolved as not-sent." in output
    again = send_campaign(source, "Hello {name}!", credentials, "doubt", advanced=Advanced(quiet_minutes=0.5 / 60))
    assert (again.accepted, again.in_doubt) == (2, 1)  # tried again, and lost again
    assert len(resolve_campaign("doubt", "sent", credentials)) == 1
    last = send_campaign(source, "Hello {name}!", credentials, "doubt", advanced=Advanced(quiet_minutes=0.5 / 60))
    assert (last.accepted, last.in_doubt, last.assumed) == (2, 0, 1)
    assert set(times_sent(gateway).values()) == {1}


def test_exactly_once_in_a_journal_of_its_own(credentials: MyMSPCredentials, gateway: Sandbox, tmp_path: Path) -> None:
    journal = CampaignJournal(url=f"sqlite:///{tmp_path / 'own.db'}")  # type: ignore[arg-type]
    gateway.gateway.faults.replace(scripted=[Fault("response_lost")])
    report = send_campaign(
        people(tmp_path, 605, 606),
        "Hello {name}!",
        credentials,
        "guarded",
        wait_minutes=0,
        exactly_once=True,
        journal=journal,
    )
    assert (report.accepted, report.in_doubt) == (2, 0)
    assert set(times_sent(gateway).values()) == {1}
    assert (tmp_path / "own.db").exists()
    ahead = [
        datetime.fromisoformat(message["scheduled_at"]) - datetime.now(UTC) for message in gateway.gateway.ledger()
    ]
    assert all(timedelta(minutes=4) < lead < timedelta(minutes=7) for lead in ahead)


def test_all_or_nothing(credentials: MyMSPCredentials, gateway: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all_or_nothing needs scheduled messages"):
        send_campaign(
            people(tmp_path, 605), "Hello {name}!", credentials, "whole", safeguards=Safeguards(all_or_nothing=True)
        )
    source = people(tmp_path, 605, 606, 654)  # 654 is refused
    with pytest.raises(CampaignStoppedError, match="2 requests were cancelled at the gateway") as stopped:
        send_campaign(
            source, "Hello {name}!", credentials, "whole", send_at=SOON, safeguards=Safeguards(all_or_nothing=True)
        )
    assert stopped.value.counts["cancelled"] == 2
    assert stopped.value.counts["accepted"] == 0
    assert times_sent(gateway) == {}
    with pytest.raises(InputError, match="was cancelled"):
        send_campaign(source, "Hello {name}!", credentials, "whole", send_at=SOON)
    whole = send_campaign(
        people(tmp_path, 605, 606),
        "Hello {name}!",
        credentials,
        "whole again",
        send_at=SOON,
        wait_minutes=0,
        safeguards=Safeguards(all_or_nothing=True),
    )
    assert whole.accepted == 2


class Ended(BaseException):
    """Not an Exception, like the one that Prefect raises to end a run."""


def test_all_or_nothing_that_is_interrupted_reports_what_is_scheduled(
    credentials: MyMSPCredentials, gateway: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = 200
    source = tmp_path / "people.csv"
    source.write_text("phone;name\n" + "".join(f"07005{row:05};P{row}\n" for row in range(rows)), encoding="utf-8")
    options: Any = {"send_at": SOON, "safeguards": Safeguards(all_or_nothing=True), "wait_minutes": 0}
    gateway.gateway.configure({"latency_ms": 400})

    def end(*_: object) -> None:
        raise Ended

    def interrupt_when_requests_wait() -> None:
        deadline = time.monotonic() + 30
        while len(gateway.gateway.messages) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, end)
    watching = threading.Thread(target=interrupt_when_requests_wait)
    watching.start()
    try:
        with pytest.raises(Ended):
            send_campaign(source, "Hello {name}!", credentials, "ended", **options)
    finally:
        watching.join()
        signal.signal(signal.SIGALRM, before)
    waiting = len(gateway.gateway.messages)
    assert 20 <= waiting < rows
    assert f"the run ends while {waiting} requests wait at the gateway" in caplog.text
    gateway.gateway.configure({"latency_ms": 0})
    whole = send_campaign(source, "Hello {name}!", credentials, "ended", **options)
    assert whole.accepted == len(gateway.gateway.messages) == rows


def test_cancelling(
    credentials: MyMSPCredentials, gateway: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = people(tmp_path, 605, 606, 607)
    send_campaign(source, "Hello {name}!", credentials, "later", send_at=SOON, wait_minutes=0)
    result = cancel_campaign("later", credentials)
    assert (result.cancelled, result.sent, result.unknown) == (3, 0, 0)
    assert times_sent(gateway) == {}
    send_campaign(source, "Hello again, {name}!", credentials, "too late", send_at=SOON, wait_minutes=0)
    gateway.gateway.clock.advance(3 * 3600)
    credentials.save("cancelling", overwrite=True)
    assert cli.cancel("too late", credentials="cancelling") == 3
    assert "Requests: 0 cancelled, 3 already sent, 0 could not be cancelled." in capsys.readouterr().out
    with pytest.raises(InputError, match=r"no campaign 'typo'.*'too late', 'later'"):
        cancel_campaign("typo", credentials)
    with pytest.raises(ConfigurationError, match="no mymsp-credentials block named 'nobody'"):
        cli.cancel("later", credentials="nobody")


_CHILD = """
import os
from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.errors import CampaignCancelledError
from prefect_mymsp.flows import send_campaign
credentials = MyMSPCredentials(
    user=os.environ["TEST_USER"], password=os.environ["TEST_PASSWORD"], base_url=os.environ["TEST_BASE_URL"]
)
try:
    send_campaign(os.environ["TEST_FILE"], "Hello {name}!", credentials, "half", wait_minutes=0)
except CampaignCancelledError as error:
    print(error)
"""


def test_cancelling_a_campaign_that_another_process_is_sending(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    rows = 400
    source = tmp_path / "people.csv"
    numbers = [f"07017406{5 + number % 40:02}" for number in range(rows)]
    source.write_text(
        "phone;name\n" + "".join(f"{number};P{row}\n" for row, number in enumerate(numbers)), encoding="utf-8"
    )
    gateway.gateway.configure({"latency_ms": 100})
    environment = {
        **os.environ,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "TEST_USER": credentials.user,
        "TEST_PASSWORD": credentials.password.get_secret_value(),
        "TEST_BASE_URL": credentials.base_url,
        "TEST_FILE": str(source),
    }
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        while len(gateway.gateway.messages) < 40 and child.poll() is None:
            time.sleep(0.01)
        result = cancel_campaign("half", credentials)
        reached = times_sent(gateway)
        said, _ = child.communicate(timeout=30)
    assert "'half' was cancelled" in said
    assert (child.returncode, result) == (0, Cancelled(cancelled=0, sent=0, unknown=0))
    assert 40 <= len(reached) < rows
    assert times_sent(gateway) == reached, "something was sent after the campaign was cancelled"
    assert set(reached.values()) == {1}
    with pytest.raises(InputError, match="was cancelled"):
        send_campaign(source, "Hello {name}!", credentials, "half")
    with Journal(workspace.journal) as journal:
        campaign = journal.campaigns.get(account_fingerprint(credentials.base_url, credentials.user), "half")
        assert campaign is not None
        counts = journal.campaigns.counts(campaign)
    assert (counts.accepted, counts.planned) == (len(reached), rows - len(reached))
