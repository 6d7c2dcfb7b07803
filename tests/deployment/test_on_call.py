"""docs/notifications-and-triggers.md, run: a failing flow texts the person on call; an SMS starts a flow."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.flows import flow
from prefect.states import Failed

from prefect_mymsp.sandbox import Sandbox

if TYPE_CHECKING:
    from tests.deployment.conftest import Server

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(300)]

PAGE = (Path(__file__).parents[2] / "docs" / "notifications-and-triggers.md").read_text(encoding="utf-8")
ON_CALL, STATUS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

_FAILING = """
from prefect import flow

@flow
def nightly_import():
    raise RuntimeError("no rows")

nightly_import()
"""

_COLLECTING = """
from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.flows import collect_inbox

collect_inbox(MyMSPCredentials.load("default"))
"""


def ledger(sandbox: Sandbox) -> list[tuple[str, str]]:
    return [
        (recipient["msisdn"], message["text"])
        for message in sandbox.gateway.ledger()
        for recipient in message["recipients"]
    ]


def actions(server: Server, outcome: str) -> list[dict[str, Any]]:
    """The server's events about its automations' actions, ``executed`` or ``failed``."""
    with server.client() as client:
        wanted = {"event": {"name": [f"prefect.automation.action.{outcome}"]}, "order": "ASC"}
        response = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 50})
    events: list[dict[str, Any]] = response.json()["events"]
    return events


@pytest.fixture
def program(tmp_path: Path, server: Server, account: str) -> Iterator[Any]:
    """Writes a program to a file. The account is saved as ``default``; automations are deleted after the test."""

    def write(name: str, code: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(code, encoding="utf-8")
        return path

    with server.client() as client:
        before = {automation.id for automation in client.read_automations()}
        yield write
        for automation in client.read_automations():
            if automation.id not in before:
                client.delete_automation(automation.id)


def test_a_failing_flow_sends_notifications_up_to_the_limit(server: Server, gateway: Sandbox, program: Any) -> None:
    before = len(actions(server, "executed"))
    server.run(program("on_call", ON_CALL))
    with server.process(program("nightly", _FAILING)) as failing:
        assert failing.wait(60) == 1
    server.wait_for(lambda: len(actions(server, "executed")) == before + 1)
    ((number, text),) = ledger(gateway)
    assert number == "46701740605"
    assert re.fullmatch(r"nightly-import\nRun [a-z]+-[a-z]+ is Failed\.", text)

    # Thirty more failures in a row.
    @flow
    def failing_often() -> None: ...

    with server.client() as client:
        for _ in range(30):
            run = client.create_flow_run(failing_often)
            client.set_flow_run_state(run.id, Failed(), force=True)
    server.wait_for(lambda: len(actions(server, "executed")) == before + 31)
    assert [text.partition("\n")[0] for _, text in ledger(gateway)] == ["nightly-import", *["failing-often"] * 4]
    assert actions(server, "failed") == []


def test_a_lost_response_causes_no_second_sms(server: Server, gateway: Sandbox, program: Any) -> None:
    # The gateway accepts this number's SMS and its response is lost.
    server.run(program("on_call", ON_CALL.replace("06 05", "06 60").replace('"on-call"', '"on-call-lost"')))
    with server.process(program("nightly", _FAILING)) as failing:
        assert failing.wait(60) == 1
    (action,) = server.wait_for(lambda: actions(server, "failed"))
    time.sleep(2)  # by now the server would have retried
    assert len(ledger(gateway)) == 1
    assert action["payload"]["reason"] == "Notification failed"
    assert (
        "may not have been: sendSms: the connection ended before the complete response"
        in action["payload"]["notification_log"]
    )
    assert "46701740660" not in str(action)
    assert len(actions(server, "failed")) == 1


def test_an_sms_starts_a_flow(server: Server, gateway: Sandbox, program: Any) -> None:
    server.run(program("answers", ON_CALL.partition("Automation(\n")[0] + 'on_call.save("answers")\n'))
    with server.process(program("status", STATUS)), server.client() as client:
        server.wait_for(client.read_automations)
        deployment = client.read_deployment_by_name("status/by-sms")
        gateway.gateway.receive(originator="46701740606", text="Hello there")
        message = gateway.gateway.receive(originator="46701740606", text="status?")
        for _ in range(2):  # collecting the inbox twice starts one run
            server.run(program("collect", _COLLECTING))
        here = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))

        def completed() -> bool:
            runs = client.read_flow_runs(flow_run_filter=here)
            return bool(runs) and all(run.state is not None and run.state.is_completed() for run in runs)

        server.wait_for(completed)
        (run,) = client.read_flow_runs(flow_run_filter=here)
    assert run.parameters == {"message_id": message.message_id}
    assert ledger(gateway) == [("46701740605", f"All is well. (Asked in message {message.message_id}.)")]
