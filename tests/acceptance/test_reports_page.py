"""docs/reports.md: its code runs, and its tables are the schemas."""

from __future__ import annotations

import io
import re
import sqlite3
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.blocks import open_journal
from prefect_mymsp.flows import send_campaign
from prefect_mymsp.journal.store import account_fingerprint
from prefect_mymsp.models import ReceivedMessage, ReportFormat
from prefect_mymsp.reports.files import EXPORTED_AT, FINAL, KEY
from prefect_mymsp.reports.frames import (
    CAMPAIGN_DTYPES,
    DELIVERY_DTYPES,
    INBOX_DTYPES,
    REJECT_DTYPES,
    SCHEDULED_DTYPES,
)

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reports.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SCHEMAS = {
    "`deliveries_frame`": DELIVERY_DTYPES,
    "`rejects_frame`, `recorded_rejects_frame`": REJECT_DTYPES,
    "`inbox_frame`": INBOX_DTYPES,
    "`scheduled_frame`": SCHEDULED_DTYPES,
    "`campaigns_frame`": CAMPAIGN_DTYPES,
}


@pytest.mark.parametrize("title", SCHEMAS)
def test_a_table_is_the_schema(title: str) -> None:
    (section,) = re.findall(rf"^### {re.escape(title)}\n(.*?)^##", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \| (.+) \|$", section, re.MULTILINE)
    assert [(name, dtype) for name, dtype, _, _ in rows] == list(SCHEMAS[title].items())


def test_every_format_and_every_column_of_a_table_is_named() -> None:
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \| (?:`prefect-mymsp\[reports\]`)? ?\|$", PAGE, re.MULTILINE) == [
        one.value for one in ReportFormat
    ]
    section = PAGE[PAGE.index("## Rows of a table") :]
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \|$", section, re.MULTILINE) == [KEY, "account", FINAL, EXPORTED_AT]


def test_the_pictures_are_there_and_small() -> None:
    named = re.findall(r"\]\((images/[\w-]+\.png)\)", PAGE)
    assert sorted(DOCS / name for name in named) == sorted((DOCS / "images").glob("*.png"))
    for name in named:
        assert 5_000 < (DOCS / name).stat().st_size < 200_000
    (command,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    module = command.split()[-1]
    assert (DOCS.parent / f"{module.replace('.', '/')}.py").exists()


@pytest.mark.usefixtures("prefect_harness", "workspace")
def test_its_code_runs(credentials: MyMSPCredentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^```csv\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "customers.csv").write_text(table, encoding="utf-8")
    credentials.save("default", overwrite=True)
    Secret(value=SecretStr(f"sqlite:///{tmp_path / 'warehouse.db'}")).save("warehouse", overwrite=True)
    send_campaign("customers.csv", credentials, "Hello {name}!", "reminders week 49")
    with open_journal() as journal:
        account = account_fingerprint(credentials.base_url, credentials.user)
        journal.received.store(
            account, [ReceivedMessage("1", None, None, None, "SMS", None, None, None, "Hej")], lambda _: False
        )
    names: dict[str, Any] = {"__name__": "reports"}
    with redirect_stdout(io.StringIO()) as printed:
        for code in BLOCKS:
            exec(compile(code, "reports.md", "exec", dont_inherit=True), names)
    assert "2 messages, week-49.html" in printed.getvalue()
    assert re.search(r"Åsa\s+delivered", printed.getvalue())
    assert (tmp_path / "week-49.html").exists()
    assert len(names["campaigns"]) == 1
    with closing(sqlite3.connect(tmp_path / "warehouse.db")) as connection:
        for name, count in (("sms_deliveries", 2), ("sms_inbox", 1)):
            assert connection.execute(f"SELECT count(*) FROM {name}").fetchone() == (count,)
