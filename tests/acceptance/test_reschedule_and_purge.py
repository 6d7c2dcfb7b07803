"""The flows reschedule-campaign and purge-journal."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.campaign import Rescheduled
from prefect_mymsp.errors import InputError
from prefect_mymsp.flows import (
    Advanced,
    purge_journal,
    reschedule_campaign,
    resolve_campaign,
    send_campaign,
)
from prefect_mymsp.sandbox import Fault, Sandbox

if TYPE_CHECKING:
    from tests.conftest import Workspace

pytestmark = pytest.mark.usefixtures("prefect_harness", "workspace")

SOON = (datetime.now(UTC) + timedelta(hours=2)).replace(second=0, microsecond=0)
LATER = SOON + timedelta(hours=5)


def people(folder: Path, *suffixes: int) -> Path:
    path = folder / "people.csv"
    path.write_text("phone;name\n" + "".join(f"0701740{each};P{each}\n" for each in suffixes), encoding="utf-8")
    return path


def scheduled_for(sandbox: Sandbox) -> list[datetime]:
    return [datetime.fromisoformat(message["scheduled_at"]) for message in sandbox.gateway.ledger()]


def test_reschedule_a_campaign(
    credentials: MyMSPCredentials, gateway: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = people(tmp_path, 605, 606, 607)
    send_campaign(source, "Hello {name}!", credentials, "later", send_at=SOON, wait_minutes=0)
    gateway.gateway.faults.replace(
        scripted=[
            Fault("response_lost", endpoints=("sendlater/update",)),
            Fault("lost_before", endpoints=("sendlater/update",)),
            Fault("response_lost", endpoints=("sendlater/get",)),
        ]
    )
    with caplog.at_level(logging.INFO):
        result = reschedule_campaign("later", LATER, credentials)
    assert result == Rescheduled(moved=3, sent=0, unknown=0, changed=0, planned=0, assumed=0)
    assert scheduled_for(gateway) == [LATER] * 3
    assert "3 moved" in caplog.text
    assert "0174060" not in caplog.text
    # The campaign continues at its new time only.
    with pytest.raises(InputError, match="another sender or scheduled time"):
        send_campaign(source, "Hello {name}!", credentials, "later", send_at=SOON)
    source = people(tmp_path, 605, 606, 607, 608)
    report = send_campaign(source, "Hello {name}!", credentials, "later", send_at=LATER, wait_minutes=0)
    assert report.accepted == 4
    assert scheduled_for(gateway) == [LATER] * 4
    with pytest.raises(InputError, match="no campaign 'typo'"):
        reschedule_campaign("typo", LATER, credentials)
    with pytest.raises(InputError, match="not in the future"):
        reschedule_campaign("later", datetime.now(UTC) - timedelta(minutes=1), credentials)
    gateway.gateway.clock.advance(24 * 3600)
    assert reschedule_campaign("later", LATER + timedelta(days=2), credentials).sent == 4
    assert set(gateway.gateway.summary().values()) == {1}


def test_purge_the_journal(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Workspace, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    source = people(tmp_path, 605, 606, 681)
    report = send_campaign(source, "Hello {name}!", credentials, "old", advanced=Advanced(quiet_minutes=0.5 / 60))
    assert (report.accepted, report.delivered, report.in_doubt) == (2, 2, 1)
    assert purge_journal(1, credentials).campaigns == 0
    with closing(sqlite3.connect(workspace.journal)) as journal:
        for table, columns in {"campaign": ["created_at"], "run": ["started_at", "ended_at"]}.items():
            for column in columns:
                journal.execute(f"UPDATE {table} SET {column} = {column} - 10 * 86400000000")
        for column in ("claimed_at", "settled_at", "final_at"):
            journal.execute(f"UPDATE batch SET {column} = {column} - 10 * 86400000000")
        journal.commit()
    with caplog.at_level(logging.INFO):
        result = purge_journal(7, credentials)
    assert (result.campaigns, result.messages, result.skipped) == (1, 3, ())
    assert "Purged 1 campaigns (3 messages, 3 texts)" in caplog.text
    assert not any(number in file.read_bytes() for file in tmp_path.glob("journal.db*") for number in (
        b"46701740605", b"46701740606", b"46701740681", b"Hello P605!",
    ))  # fmt: skip
    for continue_campaign in (
        lambda: send_campaign(source, "Hello {name}!", credentials, "old"),
        lambda: resolve_campaign("old", "sent", credentials),
    ):
        with pytest.raises(InputError, match="were purged"):
            continue_campaign()
    requests = len(gateway.gateway.requests)
    again = send_campaign(
        people(tmp_path, 605), "Hello {name}!", credentials, "new", advanced=Advanced(quiet_minutes=0.5 / 60)
    )
    assert again.accepted == 1
    assert gateway.gateway.ledger()[-1]["text"] == "Hello P605!"
    assert len(gateway.gateway.requests) > requests
    with pytest.raises(InputError, match="at least 1"):
        purge_journal(0.5, credentials)
