"""Runs of a deployment, with parameters as Prefect's form submits them: its API checks them, and they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flow_engine import run_flow

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.flows import send_campaign
from prefect_mymsp.reports import CampaignReport
from prefect_mymsp.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_harness", "workspace")

#: What a form submits that nobody has touched: each default, also where it is null.
UNTOUCHED: dict[str, Any] = {
    "campaign": None,
    "sender": None,
    "send_at": None,
    "send_window": None,
    "exactly_once": False,
    "transliterate": False,
    "dry_run": False,
    "approval": False,
    "wait_minutes": 60,
    "audience": None,
    "suppression": None,
    "safeguards": None,
    "speed": None,
    "advanced": None,
    "journal": None,
}
#: Groups that are switched on and left as they are; the form leaves out their empty fields.
GROUPS_ON: dict[str, Any] = {
    "audience": {"country": "SE", "groups": []},
    "suppression": {"opt_outs": True, "database": None},
    "safeguards": {
        "max_late_minutes": 120,
        "all_or_nothing": False,
        "allow_changed_text": False,
        "allow_repeat_today": False,
    },
    "speed": {"workers": 1, "batch_size": 500},
    "advanced": {
        "flash": False,
        "lead_minutes": 5,
        "quiet_minutes": 15,
        "use_updates": False,
        "approval_hours": 24,
    },
    "send_window": {
        "opens": "00:00",
        "closes": "00:00",
        "days": ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"],
        "timezone": "Europe/Stockholm",
    },
}
FILLED_IN: dict[str, Any] = {
    "audience": {"phone_column": "phone", "country": "SE", "groups": []},
    "safeguards": {"max_recipients": 2, "max_segments": 1, "max_rejected": 0.5, "max_late_minutes": 5},
    "speed": {"messages_per_minute": 6000.5, "batch_size": 1},
    "advanced": {"destination_port": 99, "quiet_minutes": 0.1},
}

Submit = Callable[..., CampaignReport]


@pytest.fixture
def submit(credentials: MyMSPCredentials, gateway: Sandbox, tmp_path: Path) -> Iterator[Submit]:
    """Submits a run of a deployment of ``send_campaign`` through Prefect's API, and runs it as a worker does."""
    credentials.save("default", overwrite=True)
    people = tmp_path / "people.csv"
    people.write_text("phone;name\n0701740605;Åsa\n0701740606;Bo\n", encoding="utf-8")
    deployment: Any = send_campaign.to_deployment(
        "form", parameters={"recipients": str(people), "message": "Hello {name}!", "credentials": "default"}
    )
    identifier: Any = deployment.apply()

    def run(**parameters: Any) -> CampaignReport:
        with get_client(sync_client=True) as client:
            flow_run = client.create_flow_run_from_deployment(identifier, parameters=parameters)
        report: Any = run_flow(send_campaign, flow_run=flow_run)
        assert isinstance(report, CampaignReport)
        return report

    yield run
    with get_client(sync_client=True) as client:
        client.delete_deployment(identifier)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        UNTOUCHED,
        UNTOUCHED | {group: {} for group in ("audience", "suppression", "safeguards", "speed", "advanced")},
        UNTOUCHED | GROUPS_ON,
        UNTOUCHED | FILLED_IN,
    ],
    ids=["as-deployed", "untouched", "empty-groups", "groups-on", "filled-in"],
)
def test_a_submitted_form_is_accepted_and_sent(parameters: dict[str, Any], submit: Submit, gateway: Sandbox) -> None:
    report = submit(**parameters)
    assert (report.accepted, report.delivered) == (2, 2)
    assert len(gateway.gateway.summary()) == 2


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"safeguards": {"max_recipient": 5}}, "'max_recipient' was unexpected"),
        ({"safeguards": {"max_recipients": 0}}, "0 is less than the minimum of 1"),
        ({"send_window": {"days": ["friday", "holiday"]}}, "holiday"),
        ({"credentials": "postgresql://user:canary-Rotdrossel@host/db"}, "credentials"),
        ({"journal": "postgresql://user:canary-Rotdrossel@host/db"}, "journal"),
    ],
    ids=["unknown-option", "below-its-bound", "no-day", "url-as-name", "url-as-journal"],
)
def test_a_wrong_form_is_refused_before_a_run_exists(
    parameters: dict[str, Any], reason: str, submit: Submit, gateway: Sandbox
) -> None:
    with get_client(sync_client=True) as client:
        before = {run.id for run in client.read_flow_runs(limit=200)}
        with pytest.raises((PrefectHTTPStatusError, httpx.HTTPStatusError)) as refused:
            submit(**parameters)
        assert {run.id for run in client.read_flow_runs(limit=200)} == before
    assert refused.value.response.status_code == 409
    assert reason in refused.value.response.text
    assert gateway.gateway.request_count == 0


def test_credentials_that_do_not_exist(credentials: MyMSPCredentials, tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text("phone\n0701740605\n")
    with pytest.raises(ConfigurationError, match="no mymsp-credentials block named 'nowhere'"):
        send_campaign(people, "Hello!", "nowhere")
    with pytest.raises(ConfigurationError, match="lowercase letters, digits and dashes") as refused:
        send_campaign(people, "Hello!", "canary Rotdrossel")
    assert "Rotdrossel" not in str(refused.value)
