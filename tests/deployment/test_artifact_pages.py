"""Artifacts with hostile values, in a real browser and in both of Prefect's user interfaces. Run by CI."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect import flow
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.runtime import flow_run

from prefect_mymsp.artifacts import create_rejected_rows_artifact, create_summary_artifact
from prefect_mymsp.campaign import plan_campaign
from prefect_mymsp.recipients import open_source
from prefect_mymsp.reports import CampaignReport
from prefect_mymsp.templates import Template

if TYPE_CHECKING:
    from tests.deployment.conftest import Server

pytestmark = pytest.mark.browser

HOSTILE = (
    "x|y <img src=x onerror=\"document.title='run'\"> [z](http://evil.example) www.evil.example `c` **bold**\n# head"
)


def page(url: str, folder: Path) -> str:
    """The document at an address once its scripts have run."""
    chromium = shutil.which("chromium")
    assert chromium, "install Debian's chromium"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}"]
    command = [chromium, *options, "--virtual-time-budget=20000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout


@pytest.mark.parametrize("interface", ["", "/v2"])
def test_artifacts_show_hostile_values_as_text(server: Server, tmp_path: Path, interface: str) -> None:
    people = tmp_path / "people.csv"
    quoted = HOSTILE.replace('"', '""')
    people.write_text(f'telefon,"{quoted}"\n0701740605,Bo\n"{quoted}",Ce\n', encoding="utf-8")
    plan = plan_campaign(open_source(people), Template("Hej"))
    report = CampaignReport.of(HOSTILE, plan, None, None)
    assert report.rejected == 1

    @flow
    def campaign() -> str:
        create_summary_artifact(report, "0" * 32, stopped=HOSTILE)
        create_rejected_rows_artifact(report, "0" * 32)
        return str(flow_run.id)

    with server.used():
        run = campaign()
    with server.client() as client:
        here = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))  # type: ignore[list-item]
        found = client.read_artifacts(artifact_filter=here)
    assert {one.type for one in found} == {"markdown", "table"}
    for artifact in found:
        address = f"{server.api_url.removesuffix('/api')}{interface}/artifacts/artifact/{artifact.id}"
        dom = page(address, tmp_path / f"profile-{artifact.type}")
        (tmp_path / f"{artifact.type}.html").write_text(dom, encoding="utf-8")
        assert ("rows" if artifact.type == "markdown" else "telefon") in dom  # it has been drawn
        assert not re.search(r"<[^<>]*(onerror=|evil\.example)|<(strong|code)[^<>]*>(bold|c)<", dom)
        assert "<title>run</title>" not in dom
