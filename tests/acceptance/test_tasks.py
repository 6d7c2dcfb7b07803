"""The sixteen tasks in flows, over real HTTP; no send is repeated or skipped, whatever Prefect's settings are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from prefect import Task, flow, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.settings import (
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    PREFECT_TASKS_DEFAULT_RETRIES,
    PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS,
    temporary_settings,
)

from prefect_mymsp import MyMSPCredentials, tasks
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.errors import (
    InDoubtError,
    NoResponseError,
    RateLimitedError,
    RefusedError,
    UnexpectedStatusError,
    UnreachableError,
)
from prefect_mymsp.models import ScheduledMessage, SmsResult
from prefect_mymsp.sandbox import Fault, Sandbox
from prefect_mymsp.sync_client import MyMSPClient

pytestmark = pytest.mark.usefixtures("prefect_harness")

T = TypeVar("T")

LATER = datetime(2090, 1, 31, 9, 0, tzinfo=UTC)
LATEST = datetime(2090, 2, 1, 9, 0, tzinfo=UTC)

ONCE = ["send_sms", "update_scheduled_time", "cancel_scheduled", "fetch_updates"]
READS = ["fetch_sms_result", "get_scheduled_time", "list_scheduled", "fetch_inbox"]


def in_flow(body: Callable[[], T]) -> T:
    """Run ``body`` as a flow."""
    return flow(name="tasks", validate_parameters=False)(body)()


def in_async_flow(body: Callable[[], Any]) -> Any:
    """Run the coroutine function ``body`` as an async flow."""
    running: Any = flow(name="async-tasks", validate_parameters=False)(body)
    return asyncio.run(running())


def requested(sandbox: Sandbox) -> list[str]:
    """The endpoints that were called, in order."""
    return [request.endpoint for request in sandbox.gateway.requests]


def sent(sandbox: Sandbox) -> list[tuple[str, str]]:
    """(MSISDN, text) of every SMS the gateway accepted, in order."""
    return [(r["msisdn"], m["text"]) for m in sandbox.gateway.ledger() for r in m["recipients"]]


@pytest.fixture
def clients_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Clients that do not retry; the list has one entry per client made, so one per try."""
    made: list[str] = []
    sync, asynchronous = MyMSPCredentials.get_client, MyMSPCredentials.get_async_client

    def get_client(self: MyMSPCredentials) -> MyMSPClient:
        made.append("sync")
        return sync(self, retry_for_s=0.0)

    def get_async_client(self: MyMSPCredentials) -> AsyncMyMSPClient:
        made.append("async")
        return asynchronous(self, retry_for_s=0.0)

    monkeypatch.setattr(MyMSPCredentials, "get_client", get_client)
    monkeypatch.setattr(MyMSPCredentials, "get_async_client", get_async_client)
    return made


def test_every_task_in_a_flow(credentials: MyMSPCredentials, gateway: Sandbox) -> None:
    gateway.gateway.receive(originator="46701740640", text="Ja;;tack")

    def body() -> None:
        first = tasks.send_sms(credentials, "46701740605", "Hej på dig €")
        later = tasks.send_sms(
            credentials,
            ["46701740606", "46701740607"],
            "Sedan",
            sender="Acme",
            send_at=LATER,
            flash=True,
            destination_port=1234,
        )
        result = tasks.fetch_sms_result(credentials, first)
        assert (result.recipients, result.sent, result.delivered) == (1, 1, 1)
        assert [(s.recipient, s.status) for s in result.statuses] == [("46701740605", "delivered")]
        assert tasks.get_scheduled_time(credentials, first) is None
        assert tasks.get_scheduled_time(credentials, later) == LATER
        assert tasks.list_scheduled(credentials) == [ScheduledMessage(later, LATER)]
        tasks.update_scheduled_time(credentials, later, LATEST)
        assert tasks.get_scheduled_time(credentials, later) == LATEST
        tasks.cancel_scheduled(credentials, later)
        assert tasks.list_scheduled(credentials) == []
        inbox = tasks.fetch_inbox(credentials)
        assert [(m.sender, m.text) for m in inbox] == [("46701740640", "Ja;;tack")]
        assert tasks.fetch_inbox(credentials, after_id=inbox[0].message_id) == []
        updates = tasks.fetch_updates(credentials)
        assert [(r.message_id, r.recipient, r.status) for r in updates.delivery_reports] == [
            (first, "46701740605", "delivered")
        ]
        assert [m.text for m in updates.received_messages] == ["Ja;;tack"]
        assert tasks.fetch_updates(credentials).delivery_reports == ()

        # submit, map and with_options, as for every Prefect task.
        assert tasks.send_sms.submit(credentials, "46701740608", "submitted").result().isdigit()
        mapped = tasks.send_sms.map(unmapped(credentials), ["46701740609", "46701740610"], "mapped").result()
        results = tasks.fetch_sms_result.map(unmapped(credentials), mapped).result()
        assert [r.message_id for r in results] == mapped
        named = tasks.send_sms.with_options(name="reminder", tags=["sms"])
        assert named(credentials, "46701740611", "renamed").isdigit()

    in_flow(body)
    accepted = gateway.gateway.ledger()
    assert [(m["text"], m["originator"], m["cancelled"]) for m in accepted[:2]] == [
        ("Hej på dig €", "Demo", False),
        ("Sedan", "Acme", True),
    ]
    assert (accepted[1]["flash"], accepted[1]["destination_port"]) == (True, 1234)
    assert accepted[1]["scheduled_at"] == "2090-02-01T09:00:00.000+00:00"
    assert sorted(sent(gateway)[3:]) == [
        ("46701740608", "submitted"),
        ("46701740609", "mapped"),
        ("46701740610", "mapped"),
        ("46701740611", "renamed"),
    ]
    assert set(requested(gateway)) == {
        "sendSms",
        "getSmsResult",
        "sendlater/get",
        "sendlater/getall",
        "sendlater/update",
        "sendlater/cancel",
        "getMsgReceived",
        "getMsgUpdates",
    }


def test_every_task_in_an_async_flow(credentials: MyMSPCredentials, gateway: Sandbox) -> None:
    gateway.gateway.receive(originator="46701740640", text="Nej tack")

    async def body() -> None:
        first, other = await asyncio.gather(
            tasks.asend_sms(credentials, "46701740605", "Hej"), tasks.asend_sms(credentials, "46701740606", "Hopp")
        )
        later = await tasks.asend_sms(credentials, "46701740607", "Sedan", send_at=LATER, sender="Acme")
        result = await tasks.afetch_sms_result(credentials, first)
        assert [(s.recipient, s.status) for s in result.statuses] == [("46701740605", "delivered")]
        assert await tasks.aget_scheduled_time(credentials, other) is None
        assert await tasks.alist_scheduled(credentials) == [ScheduledMessage(later, LATER)]
        await tasks.aupdate_scheduled_time(credentials, later, LATEST)
        assert await tasks.aget_scheduled_time(credentials, later) == LATEST
        await tasks.acancel_scheduled(credentials, later)
        assert await tasks.alist_scheduled(credentials) == []
        assert [m.text for m in await tasks.afetch_inbox(credentials)] == ["Nej tack"]
        updates = await tasks.afetch_updates(credentials)
        assert sorted(r.message_id for r in updates.delivery_reports) == sorted([first, other])
        assert [m.text for m in updates.received_messages] == ["Nej tack"]

        future: Any = tasks.asend_sms.submit(credentials, "46701740608", "submitted")
        assert future.result().isdigit()
        futures: Any = tasks.asend_sms.map(unmapped(credentials), ["46701740609", "46701740610"], "mapped")
        assert len(set(futures.result())) == 2
        assert (await tasks.asend_sms.with_options(name="reminder")(credentials, "46701740611", "renamed")).isdigit()
        # The sync tasks work in an async flow too, but block its loop.
        assert tasks.send_sms(credentials, "46701740612", "plain").isdigit()

    in_async_flow(body)
    assert len(sent(gateway)) == 8
    assert len(set(sent(gateway))) == 8


def test_prefect_settings_never_repeat_or_skip_a_send(credentials: MyMSPCredentials, gateway: Sandbox) -> None:
    faults = gateway.gateway.faults

    def body() -> None:
        later = tasks.send_sms(credentials, "46701740630", "later", send_at=LATER)
        faults.replace(scripted=[Fault("response_lost")])
        with pytest.raises(NoResponseError):
            tasks.send_sms(credentials, "46701740605", "lost")
        faults.replace(scripted=[Fault("error_after", status=502)])
        with pytest.raises(InDoubtError):
            tasks.send_sms.submit(credentials, "46701740605", "bad gateway").result()
        faults.replace(scripted=[Fault("response_lost", endpoints=("sendlater/update",))])
        with pytest.raises(NoResponseError):
            tasks.update_scheduled_time(credentials, later, LATEST)
        faults.replace(scripted=[Fault("response_lost", endpoints=("sendlater/cancel",))])
        with pytest.raises(NoResponseError):
            tasks.cancel_scheduled(credentials, later)
        faults.replace(scripted=[Fault("error_before", endpoints=("getMsgUpdates",))])
        with pytest.raises(UnexpectedStatusError) as caught:
            tasks.fetch_updates(credentials)
        assert caught.value.raw is not None
        # Sending the same text again is meant.
        ids = [tasks.send_sms(credentials, "46701740606", "again") for _ in range(2)]
        assert len(set(ids)) == 2

    async def async_body() -> None:
        faults.replace(scripted=[Fault("response_lost")])
        with pytest.raises(NoResponseError):
            await tasks.asend_sms(credentials, "46701740607", "lost")
        ids = [await tasks.asend_sms(credentials, "46701740608", "again") for _ in range(2)]
        assert len(set(ids)) == 2
        faults.replace(scripted=[Fault("error_before", endpoints=("getMsgUpdates",))])
        with pytest.raises(UnexpectedStatusError):
            await tasks.afetch_updates(credentials)

    with temporary_settings(
        {
            PREFECT_TASKS_DEFAULT_RETRIES: 3,
            PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS: 0,
            PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
        }
    ):
        in_flow(body)
        assert requested(gateway) == [
            *["sendSms"] * 3,
            "sendlater/update",
            "sendlater/cancel",
            "getMsgUpdates",
            *["sendSms"] * 2,
        ]
        assert sent(gateway)[1:] == [
            ("46701740605", "lost"),
            ("46701740605", "bad gateway"),
            ("46701740606", "again"),
            ("46701740606", "again"),
        ]
        gateway.gateway.requests.clear()
        in_async_flow(async_body)
    assert requested(gateway) == [*["sendSms"] * 3, "getMsgUpdates"]
    assert sent(gateway)[5:] == [("46701740607", "lost"), ("46701740608", "again"), ("46701740608", "again")]


@pytest.mark.parametrize("persist", [False, True])
def test_requested_retries_happen_only_when_nothing_was_sent(
    credentials: MyMSPCredentials, gateway: Sandbox, clients_made: list[str], persist: bool
) -> None:
    faults = gateway.gateway.faults
    nobody = credentials.model_copy(update={"base_url": "http://127.0.0.1:9/external"})
    options: dict[str, Any] = {"retries": 2, "retry_delay_seconds": 0, "persist_result": persist}
    send, asend = tasks.send_sms.with_options(**options), tasks.asend_sms.with_options(**options)
    cancel = tasks.cancel_scheduled.with_options(**options)

    def body() -> None:
        with pytest.raises(UnreachableError):
            send(nobody, "46701740605", "refused")
        assert len(clients_made) == 3

        faults.replace(scripted=[Fault("rate_limited", retry_after_s=1, times=2)])
        assert send(credentials, "46701740605", "too much").isdigit()
        faults.replace(scripted=[Fault("rate_limited", times=3)])
        with pytest.raises(RateLimitedError):
            send(credentials, "46701740605", "much too much")
        assert len(clients_made) == 9

        for fault in (
            Fault("response_lost"),
            Fault("lost_before"),
            Fault("error_before"),
            Fault("empty"),
            Fault("html"),
            Fault("cut_short"),
        ):
            faults.replace(scripted=[fault])
            with pytest.raises(InDoubtError):
                send(credentials, "46701740606", fault.kind)
        faults.replace(scripted=[Fault("refuse", code=12)])
        with pytest.raises(RefusedError):
            send(credentials, "46701740606", "refused")
        faults.replace(scripted=[Fault("error_before", endpoints=("sendlater/cancel",))])
        with pytest.raises(InDoubtError):
            cancel(credentials, "1")
        assert len(clients_made) == 17

    async def async_body() -> None:
        with pytest.raises(UnreachableError):
            await asend(nobody, "46701740605", "refused")
        faults.replace(scripted=[Fault("response_lost")])
        with pytest.raises(NoResponseError):
            await asend(credentials, "46701740605", "lost")

    in_flow(body)
    assert sent(gateway) == [
        ("46701740605", "too much"),
        ("46701740606", "response_lost"),
        ("46701740606", "empty"),
        ("46701740606", "cut_short"),
    ]
    clients_made.clear()
    in_async_flow(async_body)
    assert len(clients_made) == 4
    assert sent(gateway)[4:] == [("46701740605", "lost")]


def test_reads_are_retried_unless_the_gateway_refuses(
    credentials: MyMSPCredentials, gateway: Sandbox, clients_made: list[str]
) -> None:
    with credentials.get_client() as client:
        message_id = client.send("46701740605", "Hej")
    faults = gateway.gateway.faults
    read = tasks.fetch_sms_result.with_options(retry_delay_seconds=0)
    aread = tasks.afetch_sms_result.with_options(retry_delay_seconds=0)

    def tries(action: Callable[[], object], *planned: Fault) -> int:
        before = len(gateway.gateway.requests)
        faults.replace(scripted=planned)
        action()
        return len(gateway.gateway.requests) - before

    def body() -> SmsResult:
        at = ("getSmsResult",)
        once = Fault("error_before", endpoints=at)
        assert tries(lambda: read(credentials, message_id), once) == 2
        assert tries(lambda: read(credentials, message_id), once, Fault("response_lost", at), Fault("empty", at)) == 4
        before = len(gateway.gateway.requests)
        with pytest.raises(RefusedError, match="32"):
            read(credentials, "999999")
        assert len(gateway.gateway.requests) == before + 1
        inbox = tasks.fetch_inbox.with_options(retry_delay_seconds=0)
        assert tries(lambda: inbox(credentials), Fault("html", ("getMsgReceived",))) == 2
        scheduled = tasks.list_scheduled.with_options(retry_delay_seconds=0)
        assert tries(lambda: scheduled(credentials), Fault("cut_short", ("sendlater/getall",), keep_bytes=0)) == 2
        return read(credentials, message_id)

    async def async_body() -> SmsResult:
        faults.replace(scripted=[Fault("error_before", endpoints=("getSmsResult",), times=3)])
        result: SmsResult = await aread(credentials, message_id)
        with pytest.raises(RefusedError):
            await aread(credentials, "999999")
        return result

    assert in_flow(body).delivered == 1
    gateway.gateway.requests.clear()
    assert in_async_flow(async_body).delivered == 1
    assert requested(gateway) == ["getSmsResult"] * 5


@pytest.mark.parametrize("name", ONCE + READS)
def test_tasks_have_no_cache_and_the_right_retries(name: str) -> None:
    for declared in (getattr(tasks, name), getattr(tasks, f"a{name}")):
        assert isinstance(declared, Task)
        assert declared.cache_policy == NO_CACHE
        assert declared.retries == (0 if name in ONCE else 3)
        assert declared.retry_condition_fn is not None
    assert getattr(tasks, f"a{name}").isasync
    assert not getattr(tasks, name).isasync
