"""Deployed campaigns that are cancelled or whose worker is killed: each recipient gets one message."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from prefect.states import Cancelling

from prefect_mymsp.sandbox import Sandbox

if TYPE_CHECKING:
    from tests.deployment.conftest import Crash, Server, Worker

pytestmark = pytest.mark.deployment


def test_the_run_of_a_killed_worker_stays_running(worker: Worker, crash: Crash) -> None:
    state = worker.run(crash.run).state
    assert state is not None
    assert state.is_running()  # nobody could say anything else
    assert 0 < crash.accepted < crash.rows


def test_a_cancelled_run_stops_sending_within_seconds(
    server: Server, worker: Worker, crash: Crash, gateway: Sandbox
) -> None:
    gateway.gateway.configure({"latency_ms": 400})
    parameters = {
        "recipients": str(crash.people),
        "message": "Hello {name}",
        "campaign": "to be cancelled",
        "wait_minutes": 0,
    }
    run = worker.begin(crash.deployment, **parameters)
    server.wait_for(lambda: len(gateway.gateway.summary()) > 20, every_s=0.05)
    with server.client() as client:
        client.set_flow_run_state(run, Cancelling())  # as the button in the UI does
    time.sleep(8)
    sent = len(gateway.gateway.summary())
    worker.ended(run, state="CANCELLED", timeout_s=20)
    assert len(gateway.gateway.summary()) == sent < crash.rows
    assert worker.states("to be cancelled", gateway) == {"accepted": sent, "planned": crash.rows - sent}
    # It can be continued, and at once: no lease is waited for.
    gateway.gateway.configure({"latency_ms": 0})
    worker.ended(worker.begin(crash.deployment, **parameters), timeout_s=30)
    assert len(gateway.gateway.summary()) == crash.rows
    assert set(gateway.gateway.summary().values()) == {1}


def test_a_second_run_after_the_kill_sends_each_row_once(
    server: Server, worker: Worker, crash: Crash, rerun: None
) -> None:
    worker.ended(crash.again, timeout_s=180)
    sent = crash.sandbox.gateway.summary()
    assert len(sent) == crash.rows
    assert set(sent.values()) == {1}
    assert worker.states("killed", crash.sandbox) == {"accepted": crash.rows}


def test_a_waiting_run_keeps_sending_heartbeats(server: Server, worker: Worker, crash: Crash, rerun: None) -> None:
    worker.ended(crash.again, timeout_s=180)
    with server.client() as client:
        beats = client.read_events(
            EventFilter(
                event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
                any_resource=EventAnyResourceFilter(id=[f"prefect.flow-run.{crash.again}"]),
            ),
            limit=50,
        )
    assert beats.total >= 2
