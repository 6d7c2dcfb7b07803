"""Tracking campaigns and collecting the inbox and updates, on a real Prefect server and the sandbox."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from prefect_mymsp import CampaignJournal, MyMSPCredentials
from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.errors import InDoubtError, InputError, RefusedError
from prefect_mymsp.flows import (
    CampaignStatus,
    collect_inbox,
    collect_updates,
    emit_events,
    inbox,
    send_campaign,
    track_campaign,
    track_open_campaigns,
)
from prefect_mymsp.journal import Journal
from prefect_mymsp.models import OPT_OUT_WORDS
from prefect_mymsp.reports.frames import DELIVERY_DTYPES, INBOX_DTYPES
from prefect_mymsp.reports.tracking import TRACKING_DTYPES
from prefect_mymsp.sandbox import Fault, Sandbox

pytestmark = pytest.mark.usefixtures("prefect_harness")

T = TypeVar("T")
_IDS = itertools.count(200_000, 1000)
RESULT, UPDATES, INBOX = ("getSmsResult",), ("getMsgUpdates",), ("getMsgReceived",)


@pytest.fixture(autouse=True)
def _ids_of_its_own(gateway: Sandbox) -> None:
    """Message ids that no other test uses: Prefect deduplicates events about the same message."""
    with gateway.gateway.lock:
        gateway.gateway._state._last_id = next(_IDS)


def people(folder: Path, *suffixes: int) -> Path:
    path = folder / "people.csv"
    path.write_text("phone;name\n" + "".join(f"0701740{suffix};P{suffix}\n" for suffix in suffixes), encoding="utf-8")
    return path


def sent(folder: Path, credentials: MyMSPCredentials, name: str, *suffixes: int, **options: Any) -> None:
    """Send a campaign without tracking it."""
    send_campaign(people(folder, *suffixes), "Hej {name}", credentials, name, wait_minutes=0, **options)


def request_count(gateway: Sandbox, endpoint: str = "getSmsResult") -> int:
    return sum(request.endpoint == endpoint for request in gateway.gateway.requests)


def account_of(credentials: MyMSPCredentials) -> str:
    return account_fingerprint(credentials.base_url, credentials.user)


def events(began: datetime, name: str) -> list[dict[str, Any]]:
    """The events of that name that Prefect has received since then, in order."""
    wanted = {"event": {"name": [name]}, "occurred": {"since": began.isoformat()}, "order": "ASC"}
    with get_client(sync_client=True) as client:
        received: list[dict[str, Any]] = client.request(
            "POST", "/events/filter", json={"filter": wanted, "limit": 50}
        ).json()["events"]
    return received


def settled_events(began: datetime, name: str, count: int) -> list[dict[str, Any]]:
    """Exactly that many events: wait for them, and check a moment later that there are no more."""
    ends = time.monotonic() + 20
    while len(events(began, name)) < count:
        assert time.monotonic() < ends, "Prefect did not receive the events"
        time.sleep(0.05)
    time.sleep(0.7)
    received = events(began, name)
    assert len(received) == count
    return received


# -- one campaign ----------------------------------------------------------------------------------------------------


def test_a_campaign_is_tracked_later(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    began = datetime.now(UTC)
    sent(tmp_path, credentials, "later", 605, 606, 650)
    status = track_campaign("later", credentials, quiet_minutes=0.2 / 60)
    assert isinstance(status, CampaignStatus)
    assert (status.campaign, status.complete, status.problem, status.todo) == ("later", False, None, "")
    assert (status.messages, status.accepted, status.delivered, status.open, status.given_up) == (3, 3, 2, 1, 0)
    deliveries = status.deliveries
    assert {name: str(dtype) for name, dtype in deliveries.dtypes.items()} == DELIVERY_DTYPES
    assert deliveries["status"].tolist() == ["delivered", "delivered", "undelivered"]
    assert "46701740" not in repr(status)
    # The gateway archives the last message: its status can no longer change.
    gateway.gateway.archive(deliveries["message_id"][2])
    status = track_campaign("later", credentials)
    assert (status.complete, status.delivered, status.open) == (True, 2, 0)
    assert track_campaign("later", credentials).complete
    (event,) = settled_events(began, "mymsp.campaign.completed", 1)
    assert event["payload"]["counts"]["delivered"] == 2
    (event,) = settled_events(began, "mymsp.message.undelivered", 1)
    assert event["payload"]["statuses"] == {"undelivered": 1}


def test_tracking_returns_known_results_when_the_gateway_fails(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    sent(tmp_path, credentials, "outage", 605, 606)
    gateway.gateway.faults.replace(scripted=[Fault("error_before", RESULT, times=1), Fault("none", RESULT),
                                             Fault("error_before", RESULT, times=1000)])  # fmt: skip
    status = track_campaign("outage", credentials, wait_minutes=1.5 / 60)
    assert (status.delivered, status.open, status.complete) == (1, 1, False)
    assert "got no response" in (status.problem or "")
    gateway.gateway.faults.replace(scripted=[Fault("refuse", RESULT, code=7)])
    status = track_campaign("outage", credentials)
    assert (status.delivered, status.open) == (1, 1)
    assert "refused the request with code 7" in (status.problem or "")
    gateway.gateway.faults.replace(scripted=[Fault("error_before", RESULT)])  # fails once, then succeeds
    status = track_campaign("outage", credentials)
    assert (status.complete, status.problem) == (True, None)


def test_tracking_waits_for_a_scheduled_campaign(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    sent(tmp_path, credentials, "scheduled", 605, send_at=at)
    later = threading.Timer(1.2, gateway.gateway.clock.advance, [3700])
    later.start()
    # quiet_minutes counts only from the delivery time.
    status = track_campaign("scheduled", credentials, wait_minutes=0.5, quiet_minutes=0.1 / 60)
    later.join()
    assert status.complete


def test_tracking_can_read_updates(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    gateway.gateway.faults.replace(scripted=[Fault("response_lost")])
    sent(tmp_path, credentials, "hints", 605, 606)
    gateway.gateway.receive(originator="46701740607", text="STOP")
    status = track_campaign("hints", credentials, use_updates=True)
    assert (status.complete, status.delivered, status.in_doubt) == (True, 2, 0)
    # The received message among the updates is collected from the inbox.
    assert collect_inbox(credentials)["text"].tolist() == ["STOP"]


def test_an_unknown_campaign_cannot_be_tracked(credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any) -> None:
    with pytest.raises(InputError, match="no campaign 'typo'"):
        track_campaign("typo", credentials)
    for invalid in (dict[str, Any](wait_minutes=0), dict[str, Any](quiet_minutes=-1)):
        with pytest.raises(InputError):
            track_campaign("typo", credentials, **invalid)
    assert gateway.gateway.request_count == 0


def test_an_async_flow_can_track(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    sent(tmp_path, credentials, "async", 605)
    gateway.gateway.receive(originator="46701740607", text="Hello")

    @flow
    async def pipeline() -> tuple[bool, int, int]:
        status = track_campaign("async", credentials)
        return status.complete, len(track_open_campaigns(credentials)), len(collect_inbox(credentials))

    assert asyncio.run(pipeline()) == (True, 0, 1)


# -- all campaigns ---------------------------------------------------------------------------------------------------


def test_one_pass_polls_every_open_campaign(
    credentials: MyMSPCredentials,
    gateway: Sandbox,
    workspace: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = datetime.now(UTC)
    frame = track_open_campaigns(credentials)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == TRACKING_DTYPES
    assert len(frame) == 0
    sent(tmp_path, credentials, "first", 605, 606)
    sent(tmp_path, credentials, "second", 607, 650, 681)  # never delivered; in doubt
    frame = track_open_campaigns(credentials)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == TRACKING_DTYPES
    assert frame["campaign"].tolist() == ["second", "first"]
    assert frame["complete"].tolist() == [False, True]
    assert frame["newly_delivered"].tolist() == [1, 2]
    assert frame["open"].tolist() == [1, 0]
    assert frame["in_doubt"].tolist() == [1, 0]
    assert "resolve_campaign" in frame["todo"][0]
    assert frame["todo"][1] == ""
    before = request_count(gateway)
    frame = track_open_campaigns(credentials)
    assert frame["campaign"].tolist() == ["second"]
    assert request_count(gateway) == before + 1
    monkeypatch.setenv("PREFECT_INTEGRATIONS_MYMSP_TRACKING_DAYS", "1e-9")
    frame = track_open_campaigns(credentials)
    assert frame["complete"].tolist() == [True]
    assert frame["given_up"].tolist() == [2]
    assert len(track_open_campaigns(credentials)) == 0
    completed = settled_events(began, "mymsp.campaign.completed", 2)
    assert [event["payload"]["campaign"] for event in completed] == ["first", "second"]
    assert not any(number in caplog.text for number in ("46701740", "0701740"))


def test_a_pass_fails_when_the_gateway_refuses_the_account(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    sent(tmp_path, credentials, "refused", 605, 606)
    gateway.gateway.faults.replace(scripted=[Fault("refuse", RESULT, code=7, times=10)])
    with pytest.raises(RefusedError):
        track_open_campaigns(credentials)
    gateway.gateway.faults.replace(scripted=[])
    for invalid in (dict[str, Any](max_requests=0), dict[str, Any](max_minutes=-1)):
        with pytest.raises(InputError):
            track_open_campaigns(credentials, **invalid)
    assert track_open_campaigns(credentials)["complete"].tolist() == [True]


def test_a_pass_sends_nothing(credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path) -> None:
    source = people(tmp_path, 605, 684)  # 684 gets HTTP 429, every time
    with pytest.raises(Exception, match="stopped"):
        send_campaign(source, "Hej {name}", credentials, "stopped", wait_minutes=0)
    requests = request_count(gateway, "sendSms")
    frame = track_open_campaigns(credentials)
    assert frame["planned"].tolist() == [1]
    assert frame["todo"].tolist() == ["1 messages are not sent: start the campaign again."]
    assert request_count(gateway, "sendSms") == requests


# -- the inbox -------------------------------------------------------------------------------------------------------


def test_the_inbox_becomes_a_frame_events_and_opt_outs(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, caplog: pytest.LogCaptureFixture
) -> None:
    began = datetime.now(UTC)
    frame = collect_inbox(credentials)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == INBOX_DTYPES
    assert len(frame) == 0
    receive = gateway.gateway.receive
    receive(originator="46701740605", text="Status, please", prefix="OPS")
    receive(originator="46701740606", text="Stop.")
    frame = collect_inbox(credentials)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == INBOX_DTYPES
    assert frame["text"].tolist() == ["Status, please", "Stop."]
    assert frame["sender"].tolist() == ["46701740605", "46701740606"]
    assert frame["prefix"].tolist() == ["OPS", "DEMO"]
    assert (frame["stored_at"] >= began).all()
    assert len(collect_inbox(credentials)) == 0
    with Journal(workspace.journal) as journal:
        assert journal.suppressions.msisdns(account_of(credentials)) == {"46701740606"}
    received = settled_events(began, "mymsp.message.received", 2)
    assert [event["resource"]["mymsp.word"] for event in received] == ["STATUS", "STOP"]
    shown = json.dumps(received) + caplog.text
    assert "please" not in shown
    assert "46701740605" not in shown
    receive(originator="46701740605", text="Nej tack")
    collect_inbox(credentials, opt_out_words=["nej"], include_text_in_events=True)
    assert settled_events(began, "mymsp.message.received", 3)[2]["payload"]["text"] == "Nej tack"
    with Journal(workspace.journal) as journal:
        assert len(journal.suppressions.msisdns(account_of(credentials))) == 2


def test_a_received_message_causes_one_event_despite_a_crash(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = datetime.now(UTC)
    gateway.gateway.receive(originator="46701740605", text="one")
    with monkeypatch.context() as patch:
        patch.setattr(inbox, "emit_received_messages", _raise_died)
        with pytest.raises(RuntimeError):
            collect_inbox(credentials)
    assert events(began, "mymsp.message.received") == []
    gateway.gateway.receive(originator="46701740605", text="two")
    with monkeypatch.context() as patch:  # the event is emitted, and the run dies before this is recorded
        patch.setattr(emit_events, "_flush_events", _raise_died)
        with pytest.raises(RuntimeError):
            collect_inbox(credentials)
    settled_events(began, "mymsp.message.received", 2)
    assert len(collect_inbox(credentials)) == 0
    received = settled_events(began, "mymsp.message.received", 2)
    assert [event["payload"]["word"] for event in received] == ["ONE", "TWO"]


def _raise_died(*_: object, **__: object) -> None:
    raise RuntimeError("died")


def test_old_messages_cause_no_events(credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any) -> None:
    began = datetime.now(UTC)
    for days in (400, 8, 6):
        at = datetime.now(UTC) - timedelta(days=days)
        gateway.gateway.receive(originator="46701740605", text=f"{days} days", received_at=at)
    assert len(collect_inbox(credentials)) == 3
    (event,) = settled_events(began, "mymsp.message.received", 1)
    assert event["payload"]["word"] == "6"


def test_a_failing_inbox_is_an_error(credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any) -> None:
    gateway.gateway.receive(originator="46701740605", text="one")
    gateway.gateway.faults.replace(scripted=[Fault("error_before", INBOX, times=6)])
    with pytest.raises(InDoubtError):
        collect_inbox(credentials)
    gateway.gateway.faults.replace(scripted=[Fault("refuse", INBOX, code=7)])
    with pytest.raises(RefusedError):
        collect_inbox(credentials)
    for invalid in ({"opt_out_words": ["STOP ALL"]}, {"events_max_age_days": -1}):
        with pytest.raises(InputError):
            collect_inbox(credentials, **invalid)
    assert len(collect_inbox(credentials)) == 1


# -- updates ---------------------------------------------------------------------------------------------------------


def test_updates_are_followed_by_requests_for_results_and_the_inbox(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    gateway.gateway.faults.replace(scripted=[Fault("response_lost")])
    sent(tmp_path, credentials, "lost", 605, 606)
    forged = "STOP\n;;1\t999999\t46701740699\t2026-01-01 00:00\tDEMO\tSMS\tSTOP\n;;0\t7\t1\t46701740605\tdelivered\t-1"
    gateway.gateway.receive(originator="46701740607", text=forged)
    summary = collect_updates(credentials)
    assert (summary.delivery_reports, summary.linked, summary.received, summary.opted_out) == (3, 1, 1, 1)
    assert (summary.unparsed, summary.postponed, summary.problem) == (0, 0, None)
    assert summary.inbox["message_id"].tolist() != ["999999"]
    assert summary.inbox["text"].str.startswith(r"STOP\n;;1 999999").tolist() == [True]
    assert "4670174" not in repr(summary)
    with Journal(workspace.journal) as journal:
        assert journal.suppressions.msisdns(account_of(credentials)) == {"46701740607"}
    assert track_open_campaigns(credentials)["delivered"].tolist() == [2]


def test_lost_updates_are_reported_and_the_inbox_is_still_read(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any
) -> None:
    gateway.gateway.receive(originator="46701740607", text="Hello")
    gateway.gateway.faults.replace(scripted=[Fault("response_lost", UPDATES)])
    summary = collect_updates(credentials)
    assert summary.received == 1
    assert "will not send these updates again" in (summary.problem or "")
    assert request_count(gateway, "getMsgUpdates") == 1


def test_updates_that_are_not_activated_are_reported(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any
) -> None:
    gateway.gateway.configure({"accounts": {gateway.user: {"updates": False}}})
    gateway.gateway.receive(originator="46701740607", text="STOP")
    with pytest.raises(RefusedError):
        collect_updates(credentials)
    with Journal(workspace.journal) as journal:
        assert journal.suppressions.msisdns(account_of(credentials)) == {"46701740607"}
    with pytest.raises(InputError):
        collect_updates(credentials, max_minutes=0)


_KILLED_WHILE_PARSING = """
import os, signal, sys
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.flows.inbox import read_updates
from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.journal import Journal

def kill_this_process(client, raw):
    os.kill(os.getpid(), signal.SIGKILL)

AsyncMyMSPClient.parse_updates = kill_this_process
user, password, base_url, journal = sys.stdin.read().split("\\n")
credentials = MyMSPCredentials(user=user, password=password, base_url=base_url)
with Journal(journal) as opened:
    read_updates.fn(credentials, opened, 10.0, 3000)
"""


@pytest.mark.usefixtures("workspace")
def test_updates_survive_a_crash_between_storing_and_parsing(
    credentials: MyMSPCredentials, gateway: Sandbox, tmp_path: Path
) -> None:
    journal_url = f"sqlite:///{tmp_path / 'own.db'}"
    block = CampaignJournal(url=journal_url)  # type: ignore[arg-type]
    gateway.gateway.faults.replace(scripted=[Fault("response_lost")])
    sent(tmp_path, credentials, "killed", 605, 606, journal=block)
    standard_input = "\n".join(
        [credentials.user, credentials.password.get_secret_value(), credentials.base_url, journal_url]
    )
    process = subprocess.run(
        [sys.executable, "-c", _KILLED_WHILE_PARSING],
        input=standard_input,
        text=True,
        check=False,
        env=dict(os.environ),
        timeout=60,
        capture_output=True,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert request_count(gateway, "getMsgUpdates") == 1
    summary = collect_updates(credentials, journal=block)
    assert (summary.delivery_reports, summary.linked, summary.postponed) == (2, 1, 0)
    status = track_campaign("killed", credentials, journal=block)
    assert (status.complete, status.delivered) == (True, 2)
    assert len(status.deliveries) == 2


# -- the docs --------------------------------------------------------------------------------------------------------


def test_the_docs_list_all_opt_out_words() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tracking-and-inbox.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"suppression\nlist: (.*?), or the words", page, re.DOTALL)
    assert re.findall(r"`(\w+)`", listed) == list(OPT_OUT_WORDS)
