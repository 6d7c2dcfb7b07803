"""The notification block against the sandbox: one SMS per recipient whatever fails, the limit, sync and async use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.blocks.abstract import NotificationError
from pydantic import SecretStr

from prefect_mymsp import CampaignJournal, MyMSPCredentials, MyMSPNotification, notifications
from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.journal import Journal
from prefect_mymsp.sandbox import Fault, Sandbox
from prefect_mymsp.segments import count_segments

NUMBER, OTHER = "46701740" + "605", "46701740" + "606"
#: A valid number that the gateway refuses with code 28.
REFUSED = "46701740" + "654"
#: The gateway accepts it and its response is lost.
LOST = "46701740" + "660"


@pytest.fixture
def block(credentials: MyMSPCredentials, workspace: Any) -> MyMSPNotification:
    return MyMSPNotification(credentials=credentials, recipients=[NUMBER])


def ledger(sandbox: Sandbox) -> list[tuple[str, str]]:
    return [
        (recipient["msisdn"], message["text"])
        for message in sandbox.gateway.ledger()
        for recipient in message["recipients"]
    ]


def test_each_recipient_gets_one_sms(
    block: MyMSPNotification, gateway: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    block.recipients.append(OTHER)
    with caplog.at_level(logging.INFO):
        assert block.notify("The nightly import has no rows.", subject="Import") is None
    text = "Import\nThe nightly import has no rows."
    assert sorted(ledger(gateway)) == [(NUMBER, text), (OTHER, text)]
    assert "Texted 2 recipients." in caplog.messages
    assert NUMBER not in caplog.text


def test_notify_is_awaitable_in_a_running_loop(block: MyMSPNotification, gateway: Sandbox) -> None:
    async def act() -> None:
        await block.notify(subject="Failed", body="Flow run x")

    asyncio.run(act())
    assert ledger(gateway) == [(NUMBER, "Failed\nFlow run x")]


@pytest.mark.usefixtures("prefect_harness")
def test_notify_works_in_sync_and_async_flows_tasks_and_hooks(block: MyMSPNotification, gateway: Sandbox) -> None:
    block = block.model_copy(update={"max_notifications": 99})

    @task
    def in_a_task() -> None:
        block.notify("sync task")

    @task
    async def in_an_async_task() -> None:
        await block.notify("async task")

    def hook(flow: Any, flow_run: Any, state: Any) -> None:
        block.notify("hook")

    @flow(on_failure=[hook])
    def in_a_flow() -> None:
        block.notify("sync flow")
        in_a_task()
        raise RuntimeError

    @flow
    async def in_an_async_flow() -> None:
        await block.notify("async flow")
        await in_an_async_task()
        with contextlib.suppress(RuntimeError):
            in_a_flow()  # a synchronous flow in a thread whose loop is running

    asyncio.run(in_an_async_flow())
    assert [text for _, text in ledger(gateway)] == ["async flow", "async task", "sync flow", "sync task", "hook"]


@pytest.mark.parametrize(
    ("fault", "message", "sent"),
    [
        (Fault("response_lost", times=9), "may not have been: ", 1),
        (Fault("error_after", status=502, times=9), "HTTP 502", 1),
        (Fault("html", times=9), "may not have been: ", 0),
        (Fault("empty", times=9), "may not have been: ", 1),
        (Fault("refuse", code=12, times=9), "code 12", 0),
    ],
)
def test_a_failure_sends_at_most_one_sms_and_raises_notification_error(
    block: MyMSPNotification, gateway: Sandbox, fault: Fault, message: str, sent: int
) -> None:
    gateway.gateway.faults.replace(scripted=[fault])
    with pytest.raises(NotificationError) as caught:
        block.notify("Import failed")
    assert message in caught.value.log
    assert len(ledger(gateway)) == sent
    assert NUMBER not in caught.value.log
    # With Dask installed, an error is pickled with its context, which would hold the request.
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_an_unreachable_gateway(
    block: MyMSPNotification, gateway: Sandbox, unreachable: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults: Any = MyMSPCredentials.get_async_client.__kwdefaults__
    monkeypatch.setitem(defaults, "retry_for_s", 0.0)
    block.recipients.extend([OTHER, LOST])
    with unreachable(gateway), pytest.raises(NotificationError, match=r"^3 of 3 recipients") as caught:
        block.notify("Import failed")
    assert caught.value.log.count("no connection") == 1
    assert ledger(gateway) == []


def test_a_refused_number_does_not_stop_the_others(block: MyMSPNotification, gateway: Sandbox) -> None:
    block = block.model_copy(update={"recipients": [REFUSED, NUMBER, LOST, OTHER]})
    with pytest.raises(
        NotificationError, match=r"^2 of 4 recipients were not texted, or may not have been: "
    ) as caught:
        block.notify("Import failed")
    assert sorted(number for number, _ in ledger(gateway)) == [NUMBER, OTHER, LOST]
    assert "code 28" in caught.value.log


@pytest.mark.parametrize(("subject", "body"), [(None, ""), ("", " \n"), ("🔥", "\x00")])
def test_an_empty_text_is_refused(block: MyMSPNotification, gateway: Sandbox, subject: str | None, body: str) -> None:
    with pytest.raises(NotificationError, match="empty"):
        block.notify(body, subject=subject)
    assert ledger(gateway) == []


def test_an_unexpected_error_becomes_a_notification_error(
    block: MyMSPNotification, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError(NUMBER)

    monkeypatch.setattr("prefect_mymsp.segments.truncate", broken)
    with pytest.raises(NotificationError) as caught:
        block.notify("x")
    assert caught.value.log == "The notification failed with an unexpected error: RuntimeError."


def test_a_long_text_is_truncated_to_max_segments(block: MyMSPNotification, gateway: Sandbox) -> None:
    body = "Flow run “tidy-crow” of “import” … 🔥 10 €\n\n\n" + "x" * 900
    block.notify(body, subject="Failed")
    block.model_copy(update={"max_segments": 3}).notify(body, subject="Failed")
    (_, short), (_, long) = ledger(gateway)
    assert (count_segments(short).segments, count_segments(long).segments) == (1, 3)
    assert (count_segments(short).units, count_segments(long).units) == (160, 459)
    assert short.startswith('Failed\nFlow run "tidy-crow" of "import" ... 10 €\nxxx')
    assert short.endswith("x...")


def test_the_sender_is_passed_on(block: MyMSPNotification, gateway: Sandbox) -> None:
    gateway.gateway.configure({"accounts": {gateway.user: {"originators": ["OnCall"]}}})
    block.model_copy(update={"sender": "OnCall"}).notify("x")
    assert [message["originator"] for message in gateway.gateway.ledger()] == ["OnCall"]


# ---- the limit -----------------------------------------------------------------------------------------------------


_PROGRAM = """
import sys
from prefect_mymsp import MyMSPCredentials, MyMSPNotification
credentials = MyMSPCredentials(user=sys.argv[1], password=sys.stdin.read(), base_url=sys.argv[2])
for number in range(4):
    MyMSPNotification(credentials=credentials, recipients=[sys.argv[3]]).notify(f"Failure {number}")
"""


def test_the_limit_holds_across_processes(
    block: MyMSPNotification, gateway: Sandbox, credentials: MyMSPCredentials, caplog: pytest.LogCaptureFixture
) -> None:
    command = [sys.executable, "-c", _PROGRAM, gateway.user, gateway.base_url, NUMBER]
    password = credentials.password.get_secret_value()
    subprocess.run(command, input=password, text=True, check=True, timeout=60)
    assert len(ledger(gateway)) == 4
    for number in range(3):
        block.notify(f"here {number}")
    assert [text for _, text in ledger(gateway)] == [*(f"Failure {number}" for number in range(4)), "here 0"]
    assert "Notification not sent: the limit of 5 notifications in 60 minutes is reached." in caplog.messages


def test_the_limit_is_per_period_and_per_block(block: MyMSPNotification, gateway: Sandbox, workspace: Any) -> None:
    block = block.model_copy(update={"max_notifications": 1, "period_minutes": 0.5 / 60})
    block.notify("first")
    block.notify("over the limit")
    assert len(ledger(gateway)) == 1
    block.model_copy(update={"recipients": [OTHER]}).notify("other recipients, another limit")
    assert len(ledger(gateway)) == 2
    asyncio.run(asyncio.sleep(0.6))
    block.notify("later")
    assert [text for _, text in ledger(gateway)] == ["first", "other recipients, another limit", "later"]


def test_the_blocks_own_journal_counts_its_notifications(
    block: MyMSPNotification, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    block = block.model_copy(
        update={"journal": CampaignJournal(url=SecretStr(f"sqlite:///{elsewhere}")), "max_notifications": 1}
    )
    block.notify("first")
    block.notify("over the limit")
    assert len(ledger(gateway)) == 1
    assert not workspace.journal.exists()
    account = account_fingerprint(block.credentials.base_url, block.credentials.user)
    with Journal(elsewhere) as journal:
        assert not journal.notifications.try_acquire(account, block._topic(), at_most=1, per_s=60)
    assert NUMBER.encode() not in elsewhere.read_bytes()


def test_without_a_journal_the_limit_holds_within_the_process(
    block: MyMSPNotification,
    gateway: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(notifications, "_local_limiter", notifications.LocalLimiter())
    url = SecretStr("postgresql://anna:canary-Lappuggla@127.0.0.1:9/sms")
    block = block.model_copy(
        update={"journal": CampaignJournal(url=url), "max_notifications": 2, "period_minutes": 1 / 60}
    )
    for number in range(4):
        block.notify(f"Failure {number}")
    assert [text for _, text in ledger(gateway)] == ["Failure 0", "Failure 1"]
    assert "the limit holds for this process only" in caplog.text
    assert "canary-Lappuggla" not in caplog.text
    asyncio.run(asyncio.sleep(1.1))
    block.notify("Failure 4")
    assert len(ledger(gateway)) == 3


@pytest.mark.usefixtures("prefect_harness")
def test_a_saved_block_loads_and_has_its_own_limit(
    block: MyMSPNotification, gateway: Sandbox, credentials: MyMSPCredentials
) -> None:
    credentials.save("on-call-account", overwrite=True)
    account: Any = MyMSPCredentials.load("on-call-account")
    url = SecretStr(f"sqlite:///{Path(gateway.user).name}.db")
    for journal in (None, CampaignJournal(url=url)):
        block.model_copy(update={"credentials": account, "journal": journal, "max_notifications": 1}).save(
            "on-call", overwrite=True
        )
        loaded: Any = MyMSPNotification.load("on-call")
        assert isinstance(loaded, MyMSPNotification)
        assert (loaded.recipients, loaded.max_notifications) == ([NUMBER], 1)
        assert loaded.credentials.password.get_secret_value() == credentials.password.get_secret_value()
        assert (loaded.journal and loaded.journal.url) == (journal and journal.url)
        assert NUMBER not in repr(loaded)
    unsaved = block._topic()
    loaded = loaded.model_copy(update={"journal": None})
    assert loaded._topic() not in {unsaved, ""}
    loaded.notify("first")
    loaded.notify("over the limit")
    block.notify("an unsaved block has another limit")
    assert len(ledger(gateway)) == 2
