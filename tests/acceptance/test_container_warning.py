"""A campaign logs a warning when its journal is lost with the container."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.flows import send_campaign
from prefect_mymsp.journal import container_check

if TYPE_CHECKING:
    from tests.conftest import Workspace

pytestmark = pytest.mark.usefixtures("prefect_harness")


def test_the_flow_warns_of_a_journal_inside_the_container(
    workspace: Workspace,
    credentials: MyMSPCredentials,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ephemeral_storage_warning, checked = container_check.ephemeral_storage_warning, []

    def in_docker(url: URL) -> str | None:
        checked.append(url.database)
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/mountinfo").write_text("1 0 0:1 / / rw - overlay overlay rw\n")
        return ephemeral_storage_warning(url, root=tmp_path)

    monkeypatch.setattr(container_check, "ephemeral_storage_warning", in_docker)
    people = tmp_path / "people.csv"
    people.write_text("phone\n0701740605\n")
    with caplog.at_level(logging.WARNING, "prefect.flow_runs"):
        assert send_campaign(people, "Hello!", credentials, wait_minutes=0).accepted == 1
    assert checked == [str(workspace.journal)]
    (warning,) = [record.getMessage() for record in caplog.records if "container" in record.getMessage()]
    assert str(workspace.journal) in warning
    assert "PostgreSQL" in warning
