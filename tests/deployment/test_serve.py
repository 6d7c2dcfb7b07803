"""``python flows/serve.py``: one process that schedules and runs all recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml  # type: ignore[import-untyped]
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule

from prefect_mymsp.sandbox import Sandbox

if TYPE_CHECKING:
    from tests.deployment.conftest import Server, Worker

pytestmark = pytest.mark.deployment


def test_all_recipes_are_served_with_their_schedules(
    server: Server, installed: Server, worker: Worker, gateway: Sandbox, tmp_path: Path
) -> None:
    recipes = yaml.safe_load((server.root / "flows" / "prefect.yaml").read_text())["deployments"]
    (tmp_path / "served.csv").write_text("phone;name\n0701740615;Kim\n")
    with server.client() as client:
        for deployment in client.read_deployments():
            if deployment.name in {recipe["name"] for recipe in recipes}:
                client.delete_deployment(deployment.id)  # an existing deployment would keep its work pool
    with installed.process(server.root / "flows" / "serve.py") as serving, server.client() as client:

        def served() -> dict[str, DeploymentResponse]:
            assert serving.poll() is None
            served = {found.name: found for found in client.read_deployments() if found.work_pool_name is None}
            return served if served.keys() >= {recipe["name"] for recipe in recipes} else {}

        deployments = server.wait_for(served)
        for recipe in recipes:
            (schedule,) = deployments[recipe["name"]].schedules
            assert schedule.active
            assert schedule.schedule == CronSchedule(cron=recipe["schedules"][0]["cron"], timezone="Europe/Stockholm")
            assert deployments[recipe["name"]].parameters == recipe["parameters"]
        parameters = {"folder": str(tmp_path), "message": "Hello {name}", "quiet_minutes": 0}
        worker.ended(worker.begin("nightly-campaign/nightly-campaign", **parameters))
        assert gateway.gateway.summary() == {("46701740615", "Hello Kim"): 1}
