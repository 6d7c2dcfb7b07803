"""The wheel in a clean environment without the checkout: its flow is deployed, and run by its worker."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prefect_mymsp.sandbox import Sandbox

if TYPE_CHECKING:
    from tests.deployment.conftest import Server, Worker

pytestmark = pytest.mark.deployment

PRINT_ORIGINS = """
import importlib.util, json
def origin(name):
    spec = importlib.util.find_spec(name)
    return spec and spec.origin
print(json.dumps({name: origin(name) for name in ("prefect_mymsp", "flows", "tests")}))
"""
DEPLOY_IN_PYTHON = """
from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.flows import send_campaign
from prefect.types.entrypoint import EntrypointType

send_campaign.to_deployment(
    "in-python",
    work_pool_name="sms",
    entrypoint_type=EntrypointType.MODULE_PATH,
    parameters={"credentials": {"$ref": {"block_document_slug": "mymsp-credentials/default"}}},
).apply()
"""


def test_the_wheel_holds_only_the_package(wheel: Path) -> None:
    folders = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"prefect_mymsp"}


def test_the_checkout_cannot_be_imported(installed: Server) -> None:
    origins = json.loads(installed.run("-c", PRINT_ORIGINS))
    assert Path(origins["prefect_mymsp"]).is_relative_to(installed.home / "venv")
    assert (origins["flows"], origins["tests"]) == (None, None)


def test_the_installed_flow_is_deployed_by_its_dotted_name_and_run(
    server: Server, installed: Server, worker: Worker, deployment: str, gateway: Sandbox, tmp_path: Path
) -> None:
    people = tmp_path / "people.csv"
    people.write_text("phone;name\n0701740616;Liv\n0701740617;Max\n")
    installed.run("-c", DEPLOY_IN_PYTHON)
    with server.client() as client:
        for name in (deployment, "send-campaign/in-python"):
            stored = client.read_deployment_by_name(name)
            assert stored.entrypoint == "prefect_mymsp.flows.send.send_campaign"
            assert not stored.pull_steps
            blocks = (stored.parameter_openapi_schema or {})["definitions"]
            assert blocks["MyMSPCredentials"]["block_type_slug"] == "mymsp-credentials"  # the form offers saved blocks
    runs = [
        worker.begin(name, recipients=str(people), message=f"Hello {{name}}, {name}", campaign=name, wait_minutes=0.4)
        for name in (deployment, "send-campaign/in-python")
    ]
    worker.ended(*runs)
    assert gateway.gateway.summary() == {
        (msisdn, f"Hello {recipient}, {name}"): 1
        for msisdn, recipient in {"46701740616": "Liv", "46701740617": "Max"}.items()
        for name in (deployment, "send-campaign/in-python")
    }
