"""The run forms of all flows but ``send_campaign``: titles, descriptions, and an untouched form."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError

from prefect_mymsp import MyMSPCredentials, flows

pytestmark = pytest.mark.usefixtures("prefect_harness")

#: Each flow, with values for its required parameters.
FLOWS: dict[Flow[..., Any], dict[str, Any]] = {
    flows.track_campaign: {"campaign": "spring"},
    flows.track_open_campaigns: {},
    flows.cancel_campaign: {"campaign": "spring"},
    flows.reschedule_campaign: {"campaign": "spring", "send_at": datetime(2090, 1, 31, 9, 0, tzinfo=UTC)},
    flows.resolve_campaign: {"campaign": "spring"},
    flows.collect_inbox: {},
    flows.collect_updates: {},
    flows.export_delivery_report: {},
    flows.export_inbox_report: {},
    flows.purge_journal: {"older_than_days": 90},
}


def by_name(flow: Any) -> str:
    return str(flow.name) if isinstance(flow, Flow) else ""


def test_every_flow_is_here() -> None:
    assert {value for value in vars(flows).values() if isinstance(value, Flow)} == {*FLOWS, flows.send_campaign}


@pytest.mark.parametrize("flow", FLOWS, ids=by_name)
def test_each_parameter_has_a_title_and_a_description(flow: Flow[..., Any]) -> None:
    schema = flow.parameters.model_dump()
    assert schema.get("required", []) == list(FLOWS[flow])
    names = list(schema["properties"])
    assert names[-1] == "journal"
    assert "credentials" in names
    for name, parameter in schema["properties"].items():
        assert parameter["title"] == name.replace("_", " ").capitalize()
        assert parameter["description"].endswith(".")
        assert not name.endswith("_s")


@pytest.mark.parametrize("flow", FLOWS, ids=by_name)
def test_an_untouched_form_is_accepted(flow: Flow[..., Any], credentials: MyMSPCredentials) -> None:
    credentials.save("default", overwrite=True)
    defaults = {
        name: parameter["default"]
        for name, parameter in flow.parameters.model_dump()["properties"].items()
        if "default" in parameter
    }
    deployment: Any = flow.to_deployment("form", parameters=FLOWS[flow])
    identifier: Any = deployment.apply()
    with get_client(sync_client=True) as client:
        try:
            run = client.create_flow_run_from_deployment(identifier, parameters=defaults)
            assert run.parameters["credentials"] == "default"
        finally:
            client.delete_deployment(identifier)


@pytest.mark.parametrize(
    ("flow", "wrong"),
    [
        (flows.export_delivery_report, {"format": "sql"}),
        (flows.export_delivery_report, {"table": {"name": "sms"}}),
        (flows.export_inbox_report, {"table": {"name": "sms", "update": True}}),
        (flows.resolve_campaign, {"campaign": "spring", "decision": "maybe"}),
        (flows.track_campaign, {"campaign": "spring", "credentials": "postgresql://user:secret@host/db"}),
    ],
    ids=["format", "table-without-database", "unknown-option", "decision", "url-as-credentials"],
)
def test_a_wrong_form_is_refused_before_a_run_exists(flow: Flow[..., Any], wrong: dict[str, Any]) -> None:
    deployment: Any = flow.to_deployment("form", parameters=FLOWS[flow])
    identifier: Any = deployment.apply()
    with get_client(sync_client=True) as client:
        try:
            with pytest.raises(PrefectHTTPStatusError) as refused:
                client.create_flow_run_from_deployment(identifier, parameters=wrong)
            assert refused.value.response.status_code == 409
        finally:
            client.delete_deployment(identifier)
