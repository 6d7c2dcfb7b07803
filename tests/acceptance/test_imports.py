"""Public names, the cost of imports, and the registration of the blocks."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points

from prefect import Flow, Task

import prefect_mymsp
from prefect_mymsp import flows, tasks

_PROGRAM = """
import json, sys
import prefect
before = set(sys.modules)
import {module}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded_by(module: str) -> set[str]:
    """Modules that an import loads in a fresh interpreter that has imported Prefect already."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(module=module)], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_is_cheap() -> None:
    # Prefect's server and every worker import the package root; flows pay for their tools when they run.
    loaded = loaded_by("prefect_mymsp")
    heavy = {"pandas", "pyarrow", "numpy", "phonenumbers", "sqlalchemy", "uvicorn", "starlette", "rich", "jinja2"}
    assert not heavy & loaded
    assert {name for name in loaded if name.startswith("prefect_mymsp")} == {
        "prefect_mymsp",
        "prefect_mymsp.blocks",
        "prefect_mymsp.client",
        "prefect_mymsp.errors",
        "prefect_mymsp.transport",
        "prefect_mymsp.models",
        "prefect_mymsp.notifications",
        "prefect_mymsp.settings",
        "prefect_mymsp.sync_client",
        "prefect_mymsp.phone",
        "prefect_mymsp.protocol",
        "prefect_mymsp.protocol.codes",
        "prefect_mymsp.protocol.requests",
        "prefect_mymsp.protocol.responses",
        "prefect_mymsp.times",
    }


def test_importing_flows_and_tasks_is_cheap() -> None:
    loaded = loaded_by("prefect_mymsp.flows, prefect_mymsp.tasks")
    assert not {"pandas", "pyarrow", "numpy", "phonenumbers", "uvicorn"} & loaded
    ours = {
        name.removeprefix("prefect_mymsp.").partition(".")[0] for name in loaded if name.startswith("prefect_mymsp.")
    }
    assert not {"journal", "campaign", "recipients", "texts", "reports", "sandbox", "cli"} & ours


def test_public_names() -> None:
    assert prefect_mymsp.__all__ == ["CampaignJournal", "MyMSPCredentials", "MyMSPNotification"]
    declared = {name: value for name, value in vars(flows).items() if isinstance(value, Flow)}
    assert {name: value.name for name, value in declared.items()} == {
        "send_campaign": "send-campaign",
        "cancel_campaign": "cancel-campaign",
        "resolve_campaign": "resolve-campaign",
        "reschedule_campaign": "reschedule-campaign",
        "purge_journal": "purge-journal",
        "collect_inbox": "collect-inbox",
        "collect_updates": "collect-updates",
        "track_campaign": "track-campaign",
        "track_open_campaigns": "track-open-campaigns",
        "export_delivery_report": "export-delivery-report",
        "export_inbox_report": "export-inbox-report",
    }
    for value in declared.values():
        assert (value.retries, value.persist_result) == (0, False)
    groups = {"Advanced", "Audience", "Safeguards", "SendWindow", "Speed", "Suppression", "Table"}
    values = groups | {"CampaignStatus", "CollectedUpdates", "Day"}
    assert set(flows.__all__) == {*declared, *values, "report_progress_to", "send_dataframe"}
    for module in (prefect_mymsp, flows):
        assert all(hasattr(module, name) for name in module.__all__)


def test_sixteen_tasks() -> None:
    found = {name for name, value in vars(tasks).items() if isinstance(value, Task)}
    plain = {
        "send_sms",
        "fetch_sms_result",
        "get_scheduled_time",
        "list_scheduled",
        "update_scheduled_time",
        "cancel_scheduled",
        "fetch_inbox",
        "fetch_updates",
    }
    assert found == plain | {f"a{name}" for name in plain}
    for name in found:
        assert getattr(tasks, name).name == name
        assert getattr(tasks, name).description


def test_prefect_finds_the_package() -> None:
    registered = entry_points(group="prefect.collections")
    assert [(e.name, e.value) for e in registered if e.value.startswith("prefect_mymsp")] == [
        ("prefect_mymsp", "prefect_mymsp")
    ]
    assert registered["prefect_mymsp"].load() is prefect_mymsp
