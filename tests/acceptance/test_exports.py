"""Exports of a sandbox campaign with every outcome, compared with the sandbox's own ledger."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import openpyxl
import pandas as pd
import pytest
from prefect import flow
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from pydantic import SecretStr

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.blocks import open_journal
from prefect_mymsp.errors import ExportError, InputError
from prefect_mymsp.flows import (
    Advanced,
    Table,
    export_delivery_report,
    export_inbox_report,
    send_campaign,
)
from prefect_mymsp.journal import CampaignSummary, Journal
from prefect_mymsp.reports import CampaignReport, campaigns_frame, deliveries_frame, inbox_frame
from prefect_mymsp.reports.frames import DELIVERY_DTYPES
from prefect_mymsp.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_harness")

#: Suffixes of 0701740<suffix>: every way in which a number can end and the campaign goes on, see docs/sandbox.md.
OUTCOMES = (
    *range(605, 615), *range(650, 659), 660, 661, 662, 663, 665, 666, 667, 668, 669, 672, 681, 683, 699,
)  # fmt: skip
#: The file formats of an export.
FORMATS: tuple[Literal["csv", "excel", "html", "parquet"], ...] = ("csv", "parquet", "excel", "html")
REJECTS = ["08-465 004 04;P1", ";P2", "0701740;P3"]


def write_source(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["phone;name", *rows]) + "\n", encoding="utf-8")
    return path


def numbers(*suffixes: int) -> list[str]:
    return [f"0701740{suffix};P{suffix}" for suffix in suffixes]


@pytest.fixture
def campaign(credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path) -> CampaignReport:
    """A campaign with every outcome there is."""
    source = write_source(tmp_path / "kunder.csv", *numbers(*OUTCOMES), *REJECTS, *numbers(605))
    return send_campaign(source, "Hej {name}", credentials, "every outcome", advanced=Advanced(quiet_minutes=1.0 / 60))


@pytest.fixture
def account(credentials: MyMSPCredentials) -> str:
    return account_fingerprint(credentials.base_url, credentials.user)


def summary(journal: Journal, account: str) -> CampaignSummary:
    (campaign,) = journal.campaigns.summaries(account)
    return campaign


def minute(time: str | None) -> datetime | None:
    return None if time is None else datetime.fromisoformat(time).replace(second=0, microsecond=0)


def collect(journal: Journal, credentials: MyMSPCredentials, account: str) -> int:
    """Store what is in the inbox, as the collecting flow does."""
    with credentials.get_client() as client:
        messages = client.fetch_inbox(journal.inbox.cursor(account))
    return len(journal.inbox.store(account, messages, lambda message: message.text.strip().upper() == "STOP"))


def latest_artifact(key: str) -> str:
    """The content of the latest artifact with a key."""
    with get_client(sync_client=True) as client:
        artifacts = [artifact for artifact in client.read_artifacts(limit=200) if artifact.key == key]
    return str(max(artifacts, key=lambda artifact: str(artifact.created)).data)


def read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype="string", keep_default_na=False)


# -- against the ledger ------------------------------------------------------------------------------------------------


def test_frames_agree_with_the_gateways_ledger(campaign: CampaignReport, gateway: Sandbox, account: str) -> None:
    ledger = {message["id"]: message for message in gateway.gateway.ledger()}
    with open_journal() as journal:
        recorded = summary(journal, account)
        frame = deliveries_frame(journal, recorded.key)
        figures = campaigns_frame(journal, [recorded], price_per_segment=2).iloc[0]
    pd.testing.assert_frame_equal(frame, campaign.deliveries)
    assert frame["row"].tolist() == list(range(2, len(OUTCOMES) + 2))
    assert frame["recipient"].tolist() == [f"46701740{suffix}" for suffix in OUTCOMES]

    # The frame shows every message with a known id as the gateway does.
    known = frame[frame["message_id"].notna()]
    assert set(known["state"]) == {"accepted"}
    row: Any
    for row in known.itertuples():
        message = ledger.pop(str(row.message_id))
        (recipient,) = message["recipients"]
        assert (row.recipient, message["text"]) == (recipient["msisdn"], f"Hej P{str(row.recipient)[-3:]}")
        assert row.status == recipient["status"]
        for shown, true in ((row.sent_at, recipient["sent_at"]), (row.delivered_at, recipient["delivered_at"])):
            assert (None if pd.isna(shown) else shown.to_pydatetime()) == minute(true)
        assert pd.isna(row.latency_s) == (recipient["delivered_at"] is None)
        accepted_at = datetime.fromisoformat(message["accepted_at"])
        assert abs((row.accepted_at - accepted_at).total_seconds()) < 30
    latencies = known["latency_s"].dropna()
    assert (latencies >= 0).all()
    assert (latencies < 60).all()

    # The rest of the ledger was sent without a known id: all of it is in doubt, and nothing is lost.
    doubtful = frame[frame["state"] == "in_doubt"]
    silent = {recipient["msisdn"] for message in ledger.values() for recipient in message["recipients"]}
    taken_silently = {f"46701740{suffix}" for suffix in (660, 662, 665, 666, 667, 669)}
    assert silent - {"46701740672"} == taken_silently  # accepted five seconds after its connection was closed
    assert silent <= set(doubtful["recipient"])
    assert len(ledger) == len(silent)
    refused = frame[frame["state"] == "refused"]
    assert refused["recipient"].tolist() == ["46701740654", "46701740699"]
    assert refused["error"].str.slice(0, 4).tolist() == ["28: ", "999:"]
    assert len(known) + len(doubtful) + len(refused) == len(frame)

    delivered = {r["msisdn"] for m in gateway.gateway.ledger() for r in m["recipients"] if r["status"] == "delivered"}
    assert set(frame.loc[frame["status"] == "delivered", "recipient"]) == delivered - silent
    assert figures["delivered"] == int((frame["status"] == "delivered").sum())
    assert figures["delivery_rate"] == figures["delivered"] / len(known)
    assert (figures["rows"], figures["rejected"], figures["duplicates"]) == (len(OUTCOMES) + 4, 3, 1)
    assert (figures["segments"], figures["cost"]) == (len(known), 2.0 * len(known))


def test_every_format_holds_the_same_rows(
    campaign: CampaignReport, credentials: MyMSPCredentials, workspace: Any, tmp_path: Path
) -> None:
    frame = campaign.deliveries
    for fmt in FORMATS:
        done = export_delivery_report(
            "every outcome", credentials, format=fmt, path=tmp_path, show_numbers=True, price=0.5
        )
        assert done.rows == len(frame)
        assert done.path is not None
        assert done.path.parent == tmp_path
        assert done.path.stat().st_mode & 0o777 == 0o600
    parquet = pd.read_parquet(tmp_path / "every-outcome-deliveries.parquet").astype(DELIVERY_DTYPES)
    pd.testing.assert_frame_equal(parquet, frame)
    csv = read_csv(tmp_path / "every-outcome-deliveries.csv")
    assert csv["recipient"].tolist() == frame["recipient"].tolist()
    rejected_rows = read_csv(tmp_path / "every-outcome-deliveries-rejected-rows.csv")
    assert rejected_rows["row"].tolist() == ["34", "35", "36"]
    assert rejected_rows["reason"].str.contains("landline|missing|no such number").all()
    book = openpyxl.load_workbook(tmp_path / "every-outcome-deliveries.xlsx", read_only=True)
    assert book.sheetnames == ["deliveries", "rejected rows", "campaigns"]
    sheet = list(book["deliveries"].iter_rows(min_row=2, values_only=True))
    assert [row[2] for row in sheet] == frame["recipient"].tolist()
    (figures,) = list(book["campaigns"].iter_rows(min_row=2, values_only=True))
    assert figures[-1] == 0.5 * figures[-2]
    html = (tmp_path / "every-outcome.html").read_text("utf-8")
    assert f"{int((frame['status'] == 'delivered').sum())} of {len(frame)} messages were delivered" in html
    assert "teleported" in html
    for row in frame[frame["state"] == "in_doubt"]["recipient"]:
        assert row in html


def test_a_later_report_shows_replies_opt_outs_and_rows_to_fix(
    campaign: CampaignReport, credentials: MyMSPCredentials, account: str, tmp_path: Path
) -> None:
    with open_journal() as journal:
        assert collect(journal, credentials, account) == 3
    done = export_delivery_report("every outcome", credentials, format="html", path=tmp_path / "r.html")
    assert done.path == tmp_path / "r.html"
    html = done.path.read_text("utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))
    assert "3 messages from 3 recipients in the inbox as collected so far" in text
    assert "1 recipient opted out" in text
    assert "34 phone" in text
    assert "08-465" not in text
    assert "467017406" not in html
    assert "<script" not in html
    assert "&lt;script" in html


# -- targets -----------------------------------------------------------------------------------------------------------


def test_the_default_path_is_in_the_reports_folder_and_not_the_campaigns_own_report(
    campaign: CampaignReport, credentials: MyMSPCredentials, workspace: Any
) -> None:
    assert campaign.report_path is not None
    before = campaign.report_path.read_bytes()
    done = export_delivery_report("every outcome", credentials)
    assert done.path is not None
    assert done.path == workspace.reports / "every-outcome-deliveries.csv"
    assert done.rejected_rows_path == workspace.reports / "every-outcome-deliveries-rejected-rows.csv"
    assert set(read_csv(done.path)["recipient"]) == {"46•••••••" + str(suffix)[-2:] for suffix in OUTCOMES}
    assert campaign.report_path.read_bytes() == before


def test_a_period_covers_all_campaigns(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    send_campaign(write_source(tmp_path / "a.csv", *numbers(605, 606)), "one", credentials, "first")
    between = datetime.now(UTC)
    send_campaign(write_source(tmp_path / "b.csv", *numbers(607)), "two", credentials, "second")

    def names(**period: Any) -> list[str]:
        done = export_delivery_report(credentials=credentials, path=tmp_path / "period.csv", **period)
        frame = read_csv(tmp_path / "period.csv")
        assert done.rows == len(frame)
        return frame["campaign"].tolist()

    assert names() == ["first", "first", "second"]
    assert names(since=between) == ["second"]
    assert names(until=between) == ["first", "first"]
    assert names(since=between, campaign="first") == []
    page = export_delivery_report(
        credentials=credentials, since=between - timedelta(days=1), format="html", path=tmp_path / "page.html"
    )
    assert page.path is not None
    html = page.path.read_text("utf-8")
    assert "All 3 messages were delivered." in html
    assert "first" in html
    assert "second" in html


def database(path: Path) -> Any:
    return Secret(value=SecretStr(f"sqlite:///{path}"))


def test_a_table_gets_each_row_once_when_it_is_final(
    campaign: CampaignReport, credentials: MyMSPCredentials, tmp_path: Path
) -> None:
    table = Table(name="sms", database=database(tmp_path / "warehouse.db"))
    with_pending = table.model_copy(update={"include_pending": True})

    def rows(columns: str = "row, state, final") -> list[Any]:
        with closing(sqlite3.connect(tmp_path / "warehouse.db")) as connection:
            return connection.execute(f"SELECT {columns} FROM sms ORDER BY row").fetchall()

    frame = campaign.deliveries
    final = frame[(frame["status"] == "delivered").fillna(False) | (frame["state"] == "refused")]
    assert export_delivery_report(credentials=credentials, table=table).rows == len(final)
    assert export_delivery_report(credentials=credentials, table=table).rows == 0
    assert [row for row, _, _ in rows()] == final["row"].tolist()
    assert {final for _, _, final in rows()} == {1}
    assert {recipient for (recipient,) in rows("recipient")} == {f"46•••••••{r[-2:]}" for r in final["recipient"]}
    # The others too, and what becomes of them.
    assert export_delivery_report(credentials=credentials, table=with_pending).rows == len(frame) - len(final)
    assert export_delivery_report(credentials=credentials, table=with_pending).rows == 0
    with open_journal() as journal:
        recorded = summary(journal, account_fingerprint(credentials.base_url, credentials.user))
        settled = journal.doubt.resolve(recorded.key, "sent")
    assert settled > 5
    assert export_delivery_report(credentials=credentials, table=table).rows == settled
    assert len(rows()) == len(frame)
    assert sum(state == "assumed" for _, state, _ in rows()) == settled


def test_received_messages_are_written_to_a_table(
    campaign: CampaignReport, credentials: MyMSPCredentials, gateway: Sandbox, account: str, tmp_path: Path
) -> None:
    table = Table(name="inbox", database=database(tmp_path / "warehouse.db"))
    with open_journal() as journal:
        collect(journal, credentials, account)
        frame = inbox_frame(journal.inbox.rows(account))
    assert export_inbox_report(credentials, table=table, show_numbers=True).rows == len(frame) == 3
    assert export_inbox_report(credentials, table=table).rows == 0
    gateway.gateway.receive(originator="46701740605", text="Tack")
    with open_journal() as journal:
        collect(journal, credentials, account)
    assert export_inbox_report(credentials, table=table, new_only=True).rows == 1
    with closing(sqlite3.connect(tmp_path / "warehouse.db")) as connection:
        texts = dict(connection.execute("SELECT message_id, text FROM inbox").fetchall())
        (masked,) = connection.execute("SELECT sender FROM inbox WHERE text = 'Tack'").fetchall()
    assert {key: text for key, text in texts.items() if text != "Tack"} == dict(
        zip(frame["message_id"], frame["text"], strict=True)
    )
    assert masked == ("46•••••••05",)


# -- new_only ----------------------------------------------------------------------------------------------------------


def test_each_final_outcome_is_in_one_file(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, account: str, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    seen: list[str] = []

    def new(**more: Any) -> list[str]:
        done = export_delivery_report(credentials=credentials, new_only=True, path=folder, show_numbers=True, **more)
        assert done.path is not None
        exported: list[str] = read_csv(done.path)["recipient"].str.slice(-3).tolist()
        done.path.rename(done.path.with_name(f"{len(list(folder.iterdir()))}.seen"))
        assert len(exported) == done.rows
        seen.extend(exported)
        return exported

    send_campaign(
        write_source(tmp_path / "a.csv", *numbers(605, 654, 651, 660)),
        "Hej {name}",
        credentials,
        "a",
        advanced=Advanced(quiet_minutes=0.5 / 60),
    )
    assert new() == ["605", "654"]
    assert new() == []
    send_campaign(write_source(tmp_path / "b.csv", *numbers(606)), "Hej", credentials, "b")
    assert new(campaign="a") == ["605", "654"]  # another selection has its own bookmark
    assert new() == ["606"]
    # What becomes final later turns up then; what another process committed late too.
    with open_journal() as journal:
        journal.doubt.resolve(
            next(row.key for row in journal.campaigns.summaries(account) if row.key.name == "a"), "sent"
        )
    late = int((datetime.now(UTC) - timedelta(minutes=3)).timestamp() * 1e6)
    with closing(sqlite3.connect(workspace.journal)) as connection, connection:
        connection.execute("UPDATE batch SET settled_at = ? WHERE state = 'assumed'", (late,))
    assert new() == ["660"]
    assert new() == []


def test_the_bookmark_moves_only_after_the_file_is_written(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    send_campaign(write_source(tmp_path / "a.csv", *numbers(605)), "Hej", credentials, "a")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ExportError):
        export_delivery_report(credentials=credentials, new_only=True, path=blocked / "new.csv")
    blocked.unlink()
    assert export_delivery_report(credentials=credentials, new_only=True, path=blocked / "new.csv").rows == 1
    with pytest.raises(InputError, match="holds the rows of an earlier export"):
        export_delivery_report(credentials=credentials, new_only=True, path=blocked / "new.csv")


def test_each_received_message_is_in_one_file(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, account: str, tmp_path: Path
) -> None:
    def new() -> list[str]:
        done = export_inbox_report(credentials, new_only=True, path=tmp_path / "one.csv")
        exported: list[str] = sorted(read_csv(tmp_path / "one.csv")["text"])
        (tmp_path / "one.csv").unlink()
        assert done.rows == len(exported)
        return exported

    def receive(*texts: str) -> None:
        for text in texts:
            gateway.gateway.receive(originator="46701740605", text=text, prefix="KLINIK")
        with open_journal() as journal:
            collect(journal, credentials, account)

    def move(before: int, after: int) -> None:
        with closing(sqlite3.connect(workspace.journal)) as connection, connection:
            assert connection.execute("UPDATE received SET id = ? WHERE id = ?", (after, before)).rowcount == 1

    assert new() == []
    receive("one", "=two")
    assert new() == ["'=two", "one"]
    assert new() == []
    receive("three")
    move(3, 50)
    assert new() == ["three"]
    # A lower number appears after a higher one when its transaction takes longer.
    receive("four")
    move(51, 10)
    assert new() == ["four"]
    assert new() == []


def test_an_inbox_report_as_a_page(
    campaign: CampaignReport, credentials: MyMSPCredentials, account: str, tmp_path: Path
) -> None:
    with open_journal() as journal:
        collect(journal, credentials, account)
    done = export_inbox_report(credentials, format="html", path=tmp_path / "inbox.html")
    assert done.path is not None
    html = done.path.read_text("utf-8")
    assert "3 messages from 3 people." in html
    assert "1 person opted out." in html
    assert "<script" not in html
    assert "467017406" not in html
    excel = export_inbox_report(credentials, format="excel", path=tmp_path / "inbox.xlsx")
    assert excel.path is not None
    book = openpyxl.load_workbook(excel.path)
    assert all(cell.data_type != "f" for row in book["inbox"].iter_rows() for cell in row)
    since = export_inbox_report(credentials, since=datetime.now(UTC) + timedelta(hours=1), path=tmp_path / "x.csv")
    assert since.rows == 0


# -- contradictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"campaign": "nowhere"}, "This account has no campaign 'nowhere'. It has no campaigns yet."),
        ({"table": Table(name=" ", database=database(Path("x.db")))}, "table"),
        ({"table": Table(name="x", database=database(Path("x.db"))), "path": "x.csv"}, "path and table"),
        ({"path": "x.html"}, "looks like html"),
        ({"since": datetime(2030, 1, 1)}, "since has no time zone"),
        ({"since": datetime(2030, 1, 1, tzinfo=UTC), "until": datetime(2029, 1, 1, tzinfo=UTC)}, "is empty"),
        ({"since": datetime(2030, 1, 1, tzinfo=UTC), "new_only": True}, "leave out since and until"),
        ({"price": -1.0}, "must not be below zero"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(value),
)
def test_contradictory_options_are_refused(
    credentials: MyMSPCredentials, workspace: Any, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(InputError, match=re.escape(error)):
        export_delivery_report(credentials=credentials, **options)
    assert not list(workspace.reports.glob("*")) if workspace.reports.exists() else True


# -- Prefect -----------------------------------------------------------------------------------------------------------


def test_an_async_flow_can_export(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path
) -> None:
    send_campaign(write_source(tmp_path / "a.csv", *numbers(605)), "Hej", credentials, "a")

    @flow
    async def reporting() -> int:
        return export_delivery_report("a", credentials, path=tmp_path / "a.html", format="html").rows

    assert asyncio.run(reporting()) == 1


def test_the_artifact_and_the_log_name_the_file_only(
    credentials: MyMSPCredentials, gateway: Sandbox, workspace: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = "\x1b[31m`<b>` =1+1"
    send_campaign(write_source(tmp_path / "a.csv", *numbers(605)), "Hej {name}", credentials, hostile)
    caplog.clear()
    done = export_delivery_report(hostile, credentials, show_numbers=True)
    assert done.path is not None
    assert "\x1b" not in caplog.text
    assert "46701740605" not in caplog.text
    assert "1 deliveries written to" in caplog.text
    latest = latest_artifact("mymsp-export-deliveries")
    assert str(done.path) in latest
    assert "46701740605" not in latest


def test_the_artifact_shows_the_charts_of_a_page(
    campaign: CampaignReport, credentials: MyMSPCredentials, workspace: Any, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(workspace.journal)) as connection, connection:
        connection.execute("UPDATE message SET delivered_at = delivered_at + 300000000 WHERE row IN (2, 3)")
    done = export_delivery_report("every outcome", credentials, format="html", path=tmp_path)
    assert [chart.title for chart in done.charts] == ["Deliveries over time", "Time to delivery"]
    latest = latest_artifact("mymsp-export-deliveries")
    assert latest.count("(data:image/svg+xml;base64,") == 2
    assert len(latest) < 100_000
    assert "data:image" not in repr(done)


def test_the_form_has_types_and_descriptions() -> None:
    for exporting in (export_delivery_report, export_inbox_report):
        shown = exporting.parameters.model_dump()
        assert shown["properties"]["format"]["enum"] == ["html", "csv", "excel", "parquet"]
        assert shown["definitions"]["Table"]["additionalProperties"] is False
        assert shown["definitions"]["Table"]["required"] == ["name", "database"]
        assert shown["definitions"]["Secret"]["block_type_slug"] == "secret"
        assert shown["properties"]["since"]["anyOf"][0]["format"] == "date-time"
        assert all(field["description"] for field in shown["properties"].values())
