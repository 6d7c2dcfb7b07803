"""Campaigns from a file to the gateway's ledger: each recipient gets the right text once, despite failures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.errors import (
    CampaignStoppedError,
    ChangedTextError,
    InputError,
    JournalError,
    RepeatError,
    SourceError,
    TemplateError,
    UnreachableError,
)
from prefect_mymsp.flows import (
    Advanced,
    Audience,
    Safeguards,
    Speed,
    report_progress_to,
    send_campaign,
    send_dataframe,
)
from prefect_mymsp.journal.campaigns import Campaigns
from prefect_mymsp.journal.claims import Claims
from prefect_mymsp.reports import CampaignReport
from prefect_mymsp.reports.frames import DELIVERY_DTYPES
from prefect_mymsp.sandbox import Fault, Sandbox

pytestmark = pytest.mark.usefixtures("prefect_harness")

CAMPAIGNS = Path(__file__).parents[1] / "data" / "campaigns"


def sent(sandbox: Sandbox) -> list[tuple[str, str]]:
    """(MSISDN, text) of every message the gateway accepted, sorted, with repetitions."""
    return sorted((r["msisdn"], m["text"]) for m in sandbox.gateway.ledger() for r in m["recipients"])


def written(path: Path, *rows: str, header: str = "phone;name") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def people(path: Path, *suffixes: int) -> Path:
    """A file of recipients 070-1740<suffix>, each named after the suffix."""
    return written(path, *(f"0701740{suffix};P{suffix}" for suffix in suffixes))


def texts(*suffixes: int) -> list[tuple[str, str]]:
    """(MSISDN, text) that ``Hej {name}`` sends to the recipients in :func:`people`."""
    return [(f"46701740{suffix}", f"Hej P{suffix}") for suffix in sorted(suffixes)]


def states(report: CampaignReport) -> dict[str, int]:
    """The counts of a report that are not zero."""
    counts = {
        name: getattr(report, name) for name in ("planned", "sending", "accepted", "refused", "in_doubt", "delivered")
    }
    return {name: count for name, count in counts.items() if count}


def latest_run() -> FlowRun:
    """The latest run of send-campaign in Prefect's API."""
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["send-campaign"])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=1,
        )
    return run


class Case(NamedTuple):
    """A file, a message, and the expected report."""

    file: str
    message: str
    sent: list[tuple[str, str]]
    rejected_rows: list[tuple[int, str, str]]
    rows: int
    duplicates: list[tuple[int, int]]
    ucs2: int


CASES = [
    Case(
        "excel-utf8-bom.csv",
        "Hej {Förnamn}, du har {Belopp} kr kvar.",
        [
            ("46701740605", "Hej Åsa, du har 1 250,50 kr kvar."),
            ("46701740606", "Hej Bo, du har 99,00 kr kvar."),
        ],
        [
            (4, "Mobilnummer", "landline"),
            (7, "Mobilnummer", "missing"),
            (8, "Mobilnummer", "extension"),
        ],
        6,
        [(5, 2)],
        0,
    ),
    Case(
        "excel-cp1252.csv",
        "{namn} i {ORT}",
        [
            ("46701740608", "Åke i Malmö"),
            ("46701740609", "Öberg; Pär i Växjö \u2013 city"),
            ("46701740610", "Éva i €stad"),
        ],
        [(5, "telefon", "no such number")],
        4,
        [],
        1,
    ),
    Case(
        "excel-unicode-text.txt",
        "{name}: {note}",
        [("46701740611", "Łukasz: ok"), ("46701740612", "Δημήτρης: a\tb")],
        [(4, "Mobile", "landline")],
        3,
        [],
        2,
    ),
    Case(
        "quoted-newlines.csv",
        "{greeting} {{x}}",
        [
            ("46701740613", 'Hello\nyou, "friend" {x}'),
            ("46701740614", "Two\nmore\nlines {x}"),
            ("46701740615", "short {x}"),
        ],
        [(7, "PHONE NUMBER", "landline")],
        4,
        [],
        0,
    ),
    Case(
        "spoiled-column.csv",
        "Samma till alla",
        [(f"467017406{n}", "Samma till alla") for n in (16, 17, 18, 19)],
        [
            (4, "Telefon", "power of ten"),
            (5, "Telefon", "landline"),
            (9, "Telefon", "not a phone number"),
        ],
        8,
        [(8, 7)],
        0,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.file for case in CASES])
def test_files_saved_by_common_programs(
    case: Case, credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any
) -> None:
    report = send_campaign(CAMPAIGNS / case.file, case.message, credentials, "Vår 2026: del/1", sender="Acme")
    assert sent(gateway) == case.sent
    assert {m["originator"] for m in gateway.gateway.ledger()} == {"Acme"}
    assert states(report) == {"accepted": len(case.sent), "delivered": len(case.sent)}
    assert (report.rows, report.rejected, report.messages) == (case.rows, len(case.rejected_rows), len(case.sent))
    assert report.ucs2 == case.ucs2
    rejected_rows = report.rejected_rows.to_dict("records")
    assert [(row["row"], row["column"]) for row in rejected_rows] == [
        (row, column) for row, column, _ in case.rejected_rows
    ]
    for row, (_, _, reason) in zip(rejected_rows, case.rejected_rows, strict=True):
        assert reason in row["reason"]
    duplicates = report.duplicate_rows.to_dict("records")
    assert [(row["row"], row["first_row"]) for row in duplicates] == case.duplicates
    assert report.duplicates == len(case.duplicates)
    assert (report.deliveries["state"] == "accepted").all()
    assert (report.deliveries["status"] == "delivered").all()

    # The files are readable by their owner only, and equal the frames.
    assert report.report_path == workspace.reports / "Vår-2026-del-1.csv"
    assert report.rejected_rows_path == workspace.reports / "Vår-2026-del-1-rejected-rows.csv"
    for path in (report.report_path, report.rejected_rows_path, workspace.journal):
        assert path is not None
        assert path.stat().st_mode & 0o777 == 0o600
    pd.testing.assert_frame_equal(read_back(workspace.reports / "Vår-2026-del-1.csv"), report.deliveries)


def read_back(path: Path) -> pd.DataFrame:
    """The frame of a report, read from its CSV."""
    times = [name for name, dtype in DELIVERY_DTYPES.items() if dtype.startswith("datetime")]
    plain: Any = {name: dtype for name, dtype in DELIVERY_DTYPES.items() if name not in times}
    frame = pd.read_csv(path, dtype=plain)
    for name in times:
        frame[name] = pd.to_datetime(frame[name], utc=True).dt.as_unit("us")
    return frame


def test_a_second_start_sends_only_new_rows(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    first = send_campaign(people(tmp_path / "a.csv", 605, 606), "Hej {name}", credentials, "again")
    assert (states(first), first.recorded_before) == ({"accepted": 2, "delivered": 2}, 0)
    same = send_campaign(tmp_path / "a.csv", "Hej {name}", credentials, "again")
    assert (states(same), same.recorded_before, same.rows) == ({"accepted": 2, "delivered": 2}, 2, 2)
    assert sent(gateway) == texts(605, 606)
    pd.testing.assert_frame_equal(same.deliveries, first.deliveries)

    more = send_campaign(people(tmp_path / "b.csv", 606, 607, 608), "Hej {name}", credentials, "again")
    assert (states(more), more.recorded_before, more.rows) == ({"accepted": 4, "delivered": 4}, 2, 3)
    assert sent(gateway) == texts(605, 606, 607, 608)
    # Another name is another campaign, but repeating a text on the same day needs permission.
    with pytest.raises(RepeatError, match="'again'"):
        send_campaign(tmp_path / "a.csv", "Hej {name}", credentials, "another", wait_minutes=0)
    assert len(sent(gateway)) == 4
    send_campaign(
        tmp_path / "a.csv",
        "Hej {name}",
        credentials,
        "another",
        wait_minutes=0,
        safeguards=Safeguards(allow_repeat_today=True),
    )
    assert len(sent(gateway)) == 6
    # A changed text is not sent to recipients of the first text.
    with pytest.raises(ChangedTextError):
        send_campaign(tmp_path / "b.csv", "Hejsan {name}", credentials, "again", wait_minutes=0)
    assert len(sent(gateway)) == 6
    # A campaign cannot have two senders or delivery times.
    with pytest.raises(InputError, match="another sender or scheduled time"):
        send_campaign(tmp_path / "a.csv", "Hej {name}", credentials, "again", sender="Acme")
    assert len(sent(gateway)) == 6


def test_a_retry_of_an_unnamed_campaign_continues_it(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    reports = [send_campaign(people(tmp_path / "spring.csv", 605), "Hej {name}", credentials) for _ in range(2)]
    assert reports[0].campaign.startswith("spring 20")
    assert reports[1].campaign == reports[0].campaign
    assert sent(gateway) == texts(605)


def test_dry_run(credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any) -> None:
    report = send_campaign(CAMPAIGNS / CASES[0].file, CASES[0].message, credentials, "dry", dry_run=True)
    assert gateway.gateway.request_count == 0
    assert not workspace.journal.exists()
    assert not workspace.reports.exists()
    assert report.dry_run
    assert (report.messages, report.planned, report.rejected, report.duplicates) == (2, 2, 3, 1)
    assert (report.report_path, report.rejected_rows_path) == (None, None)
    assert [(s.row, s.recipient, s.text) for s in report.samples] == [
        (2, "46•••••••05", "Hej Åsa, du har 1 250,50 kr kvar."),
        (3, "46•••••••06", "Hej Bo, du har 99,00 kr kvar."),
    ]
    assert report.deliveries.empty
    assert {name: str(dtype) for name, dtype in report.deliveries.dtypes.items()} == DELIVERY_DTYPES
    assert "4670174" not in repr(report)


def test_invalid_input_is_refused_before_the_first_message(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    file = people(tmp_path / "a.csv", 605)
    with pytest.raises(TemplateError) as caught:
        send_campaign(file, "Hej {namn}, {Efternamn}", credentials, "bad")
    for name in ("Efternamn", "phone", "name"):
        assert name in str(caught.value)
    with pytest.raises(TemplateError):
        send_campaign(file, "Hej {name", credentials, "bad")
    with pytest.raises(InputError, match="no time zone"):
        send_campaign(file, "Hej", credentials, "bad", send_at=datetime(2090, 1, 1, 12, 0))
    with pytest.raises(InputError, match="not in the future"):
        send_campaign(file, "Hej", credentials, "bad", send_at=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(SourceError, match=r"gone\.csv"):
        send_campaign(tmp_path / "gone.csv", "Hej", credentials, "bad")
    with pytest.raises(InputError, match="batch_size"):
        send_campaign(file, "Hej", credentials, "bad", speed=Speed(batch_size=0))
    assert gateway.gateway.request_count == 0

    # Refused attempts leave no state behind.
    none = written(tmp_path / "none.csv", "08-465 004 00;Anna")
    report = send_campaign(none, "Hej", credentials, "bad")
    assert (report.rows, report.rejected, states(report)) == (1, 1, {})
    assert {name: str(dtype) for name, dtype in report.deliveries.dtypes.items()} == DELIVERY_DTYPES
    assert report.report_path is not None
    assert {name: str(dtype) for name, dtype in read_back(report.report_path).dtypes.items()} == DELIVERY_DTYPES
    full = send_campaign(file, "Hej", credentials, "bad")
    assert states(full) == {"accepted": 1, "delivered": 1}
    assert {name: str(dtype) for name, dtype in full.deliveries.dtypes.items()} == DELIVERY_DTYPES


def test_a_scheduled_campaign(credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path) -> None:
    send_at = datetime.fromisoformat("2090-07-01T09:00:30+05:30")
    report = send_campaign(
        people(tmp_path / "a.csv", 605, 606),
        "Hej",
        credentials,
        "later",
        send_at=send_at,
        wait_minutes=0,
        advanced=Advanced(flash=True, destination_port=99),
    )
    assert states(report) == {"accepted": 2}
    assert report.deliveries["sent_at"].isna().all()
    (message,) = gateway.gateway.ledger()
    # Rounded up to the minute: never earlier than requested.
    assert message["scheduled_at"] == "2090-07-01T03:31:00.000+00:00"
    assert (message["flash"], message["destination_port"]) == (True, 99)
    assert {r["msisdn"] for r in message["recipients"]} == {"46701740605", "46701740606"}
    # Deliveries are not followed; listing the schedule resolves doubt.
    assert {r.endpoint for r in gateway.gateway.requests} <= {"sendSms", "sendlater/getall"}


def test_dataframes_stay_out_of_prefects_api(credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any) -> None:
    frame = pd.DataFrame(
        {
            "Telefon": ["070-174 06 05", 701740606, 46701740607.0, "08-465 004 00", "070-174 06 05", "0701740608"],
            "Namn": ["Åsa", "Bo", 7, "Dag", "Åsa", None],
        }
    )
    before = frame.copy()
    steps: list[str] = []
    with report_progress_to(lambda progress: steps.append(progress.step)):
        report = send_dataframe(frame, "Hej {namn}!", credentials, "frame")
    pd.testing.assert_frame_equal(frame, before)
    assert sent(gateway) == [("46701740605", "Hej Åsa!"), ("46701740606", "Hej Bo!"), ("46701740607", "Hej 7!")]
    assert (report.rows, report.rejected, report.duplicates) == (6, 2, 1)
    rejected_rows = report.rejected_rows.to_dict("records")
    assert [(r["row"], r["column"]) for r in rejected_rows] == [(4, "Telefon"), (6, "Namn")]
    assert set(steps) == {"send", "follow"}

    run = latest_run()
    assert run.parameters["recipients"].startswith("DataFrame of 6 rows")
    stored = str(run.parameters)
    for secret in ("174", "Åsa", credentials.password.get_secret_value()):
        assert secret not in stored

    @flow
    def outer() -> CampaignReport:
        return send_dataframe(frame, "Hej {namn}!", credentials, "frame", wait_minutes=0)

    again = outer()
    assert (again.recorded_before, states(again)) == (3, {"accepted": 3, "delivered": 3})
    assert len(sent(gateway)) == 3


def test_each_magic_number_has_its_outcome(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    file = people(tmp_path / "magic.csv", 605, 650, 651, 653, 654, 660, 662, 665, 667, 669, 699)
    report = send_campaign(file, "Hej {name}", credentials, "magic", advanced=Advanced(quiet_minutes=0.1 / 60))
    frame = report.deliveries.set_index("recipient")
    outcomes = {
        number.removeprefix("46701740"): (row["state"], None if row["status"] is pd.NA else row["status"])
        for number, row in frame.iterrows()
        if isinstance(number, str)
    }
    assert outcomes == {
        "605": ("accepted", "delivered"),
        "650": ("accepted", "undelivered"),
        "651": ("accepted", "undelivered"),
        "653": ("accepted", "teleported"),
        "654": ("refused", None),
        "660": ("in_doubt", None),
        "662": ("in_doubt", None),
        "665": ("in_doubt", None),
        "667": ("in_doubt", None),
        "669": ("in_doubt", None),
        "699": ("refused", None),
    }
    assert states(report) == {"accepted": 4, "refused": 2, "in_doubt": 5, "delivered": 1}
    errors = frame["error"].dropna().to_dict()
    assert errors["46701740654"].startswith("28: ")
    assert errors["46701740699"].startswith("999: ")
    assert all("may have been sent" in errors[f"46701740{n}"] for n in (660, 662, 665, 667, 669))
    assert set(frame.index[frame["sent_at"].notna()]) == {f"46701740{n}" for n in (605, 650, 653)}
    assert set(frame.index[frame["delivered_at"].notna()]) == {"46701740605"}
    once = texts(605, 650, 651, 653, 660, 662, 665, 667, 669)
    assert sent(gateway) == once

    again = send_campaign(file, "Hej {name}", credentials, "magic", wait_minutes=0)
    assert states(again) == states(report)
    assert sent(gateway) == once


def test_a_refused_number_is_bisected(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    good = [*range(605, 630), *range(630, 645)]
    file = people(tmp_path / "a.csv", *good[:13], 654, *good[13:])
    report = send_campaign(file, "Samma", credentials, "bisect")
    assert states(report) == {"accepted": 40, "refused": 1, "delivered": 40}
    assert sent(gateway) == [(f"46701740{n}", "Samma") for n in good]
    assert report.deliveries.query("state == 'refused'")["recipient"].tolist() == ["46701740654"]
    sends = [r for r in gateway.gateway.requests if r.endpoint == "sendSms"]
    assert len(sends) < 20  # bisected, not sent one by one


@pytest.mark.parametrize(("code", "mend"), [(12, "credits"), (7, "user and password"), (33, "sender")])
def test_a_refused_account_stops_the_campaign(
    code: int, mend: str, credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    file = people(tmp_path / "a.csv", *range(605, 611))
    passes, refusal = Fault("none", times=2), Fault("refuse", code=code, times=99)
    gateway.gateway.faults.replace(scripted=[passes, refusal])
    with pytest.raises(CampaignStoppedError, match=mend) as caught:
        send_campaign(file, "Hej {name}", credentials, "stopped")
    assert "start the same campaign again" in str(caught.value)
    assert (caught.value.counts["accepted"], caught.value.counts["planned"]) == (2, 4)
    frame = read_back(workspace.reports / "stopped.csv")
    assert frame["state"].value_counts().to_dict() == {"planned": 4, "accepted": 2}
    assert len(sent(gateway)) == 2

    gateway.gateway.faults.replace(scripted=[])
    report = send_campaign(file, "Hej {name}", credentials, "stopped")
    assert states(report) == {"accepted": 6, "delivered": 6}
    assert sent(gateway) == texts(*range(605, 611))


def test_a_campaign_that_reaches_no_recipients_logs_a_warning(
    credentials: MyMSPCredentials,
    gateway: Sandbox,
    workspace: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    landlines = written(tmp_path / "landlines.csv", "08-465 004 00;Åsa")
    assert send_campaign(landlines, "Hej", credentials, "landlines").messages == 0
    assert "Campaign 'landlines' reaches no recipients" in caplog.text
    assert send_campaign(None, "Hej", credentials, "group", audience=Audience(groups=["Nobody"])).refused == 1
    assert "Campaign 'group' reaches no recipients" in caplog.text
    send_campaign(people(tmp_path / "a.csv", 605), "Hej", credentials, "one", wait_minutes=0)
    assert "Campaign 'one' reaches" not in caplog.text


def test_a_journal_failure_says_how_to_continue(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_journal_error(*_: object, **__: object) -> None:
        raise JournalError("The journal cannot be reached.")

    for name in ("claim", "settle", "end_run"):
        monkeypatch.setattr(Claims, name, raise_journal_error)
    monkeypatch.setattr(Campaigns, "counts", raise_journal_error)
    with pytest.raises(JournalError, match=r"This has stopped campaign 'away'\..* start the same campaign again"):
        send_campaign(people(tmp_path / "a.csv", 605, 606), "Hej {name}", credentials, "away")
    assert sent(gateway) == []


def test_a_campaign_continues_after_credits_run_out(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    file = people(tmp_path / "a.csv", *range(605, 611))
    gateway.gateway.configure({"accounts": {gateway.user: {"credits": 4}}})
    with pytest.raises(CampaignStoppedError, match="Buy credits"):
        send_campaign(file, "Hej {name}", credentials, "poor")
    assert len(sent(gateway)) == 4
    gateway.gateway.configure({"accounts": {gateway.user: {"credits": 2}}})
    assert states(send_campaign(file, "Hej {name}", credentials, "poor", wait_minutes=0))["accepted"] == 6
    assert sent(gateway) == texts(*range(605, 611))


def test_an_unreachable_gateway_stops_the_campaign(
    credentials: MyMSPCredentials,
    gateway: Sandbox,
    workspace: Any,
    tmp_path: Path,
    unreachable: Callable[[Sandbox], contextlib.AbstractContextManager[None]],
) -> None:
    file = people(tmp_path / "a.csv", 605, 606, 607)
    with unreachable(gateway), pytest.raises(CampaignStoppedError, match="until the gateway responds again") as caught:
        send_campaign(file, "Hej {name}", credentials, "down")
    assert isinstance(caught.value.__cause__, UnreachableError | None)
    assert (caught.value.counts["planned"], caught.value.counts["messages"]) == (3, 3)
    assert sent(gateway) == []
    assert states(send_campaign(file, "Hej {name}", credentials, "down")) == {"accepted": 3, "delivered": 3}
    assert sent(gateway) == texts(605, 606, 607)


def test_inside_a_running_event_loop(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    file = people(tmp_path / "a.csv", 605, 606)

    @flow
    async def outer() -> CampaignReport:
        return send_campaign(file, "Hej {name}", credentials, "async flow")

    async def notebook() -> CampaignReport:
        return send_campaign(file, "Hej {name}", credentials, "async flow")

    running: Any = outer
    assert states(asyncio.run(running())) == {"accepted": 2, "delivered": 2}
    assert states(asyncio.run(notebook())) == {"accepted": 2, "delivered": 2}
    assert sent(gateway) == texts(605, 606)


_CHILD = """
import os
from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.flows import send_campaign
credentials = MyMSPCredentials(
    user=os.environ["TEST_USER"], password=os.environ["TEST_PASSWORD"], base_url=os.environ["TEST_BASE_URL"]
)
send_campaign(os.environ["TEST_FILE"], "{text}", credentials, "killed", wait_minutes=0)
"""


def test_a_killed_process_leaves_doubt_but_no_duplicates(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    rows = 400
    file = written(tmp_path / "a.csv", *(f"07017406{5 + i % 40:02};text {i}" for i in range(rows)), header="phone;text")
    gateway.gateway.configure({"latency_ms": 100})
    environment = {
        **os.environ,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "TEST_USER": credentials.user,
        "TEST_PASSWORD": credentials.password.get_secret_value(),
        "TEST_BASE_URL": credentials.base_url,
        "TEST_FILE": str(file),
    }
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        deadline = time.monotonic() + 60
        while len(gateway.gateway.messages) < 60 and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert 60 <= len(gateway.gateway.messages) < rows
    time.sleep(0.2)  # requests in flight have arrived
    gateway.gateway.configure({"latency_ms": 0})

    # The dead run's claims are untouched until its lease ends after 60 s; here the lease is ended early.
    with contextlib.closing(sqlite3.connect(workspace.journal)) as journal:
        (claimed,) = journal.execute("SELECT count(*) FROM batch WHERE state = 'sending'").fetchone()
    assert 0 < claimed < rows // 2  # about claim_window_s of work, not all of it
    arrived = set(sent(gateway))

    def end_lease() -> None:
        with contextlib.closing(sqlite3.connect(workspace.journal, timeout=30)) as journal, journal:
            journal.execute("UPDATE run SET lease_until = started_at WHERE ended_at IS NULL AND id = 1")

    later = threading.Timer(1.0, end_lease)
    later.start()
    began = time.monotonic()
    report = send_campaign(file, "{text}", credentials, "killed", wait_minutes=0)
    assert time.monotonic() - began > 0.9
    later.join()
    assert states(report) == {"accepted": rows - claimed, "in_doubt": claimed}
    ledger = sent(gateway)
    assert len(ledger) == len(set(ledger))
    assert rows - claimed <= len(ledger) <= rows
    assert arrived <= set(ledger)
    report = send_campaign(file, "{text}", credentials, "killed", wait_minutes=0)
    assert states(report) == {"accepted": rows - claimed, "in_doubt": claimed}
    assert sent(gateway) == ledger
    frame = report.deliveries
    recorded = set(zip(frame["recipient"], frame["row"] - 2, strict=True))
    assert recorded == {(f"467017406{5 + i % 40:02}", i) for i in range(rows)}
    accepted = frame.query("state == 'accepted'")
    assert {f"text {row - 2}" for row in accepted["row"]} <= {text for _, text in ledger}
