"""docs/reports.md: its tables match the schemas, and its pictures exist. test_docs.py runs its code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from prefect_mymsp.models import ReportFormat
from prefect_mymsp.reports.frames import (
    CAMPAIGN_DTYPES,
    DELIVERY_DTYPES,
    INBOX_DTYPES,
    REJECTED_ROW_DTYPES,
    SCHEDULED_DTYPES,
)
from prefect_mymsp.reports.tables import EXPORTED_AT, FINAL, KEY

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "reports.md").read_text(encoding="utf-8")
SCHEMAS = {
    "`deliveries_frame`": DELIVERY_DTYPES,
    "`rejected_rows_frame`, `recorded_rejected_rows_frame`": REJECTED_ROW_DTYPES,
    "`inbox_frame`": INBOX_DTYPES,
    "`scheduled_frame`": SCHEDULED_DTYPES,
    "`campaigns_frame`": CAMPAIGN_DTYPES,
}


@pytest.mark.parametrize("title", SCHEMAS)
def test_a_table_matches_the_schema(title: str) -> None:
    (section,) = re.findall(rf"^### {re.escape(title)}\n(.*?)^##", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \| (.+) \|$", section, re.MULTILINE)
    assert [(name, dtype) for name, dtype, _, _ in rows] == list(SCHEMAS[title].items())


def test_every_format_and_every_added_column_is_named() -> None:
    formats = re.findall(r"^\| `(\w+)` \| [^|]+ \| (?:`prefect-mymsp\[reports\]`)? ?\|$", PAGE, re.MULTILINE)
    assert sorted(formats) == sorted(get_args(ReportFormat))
    section = PAGE[PAGE.index("## Database tables") :]
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \|$", section, re.MULTILINE) == [KEY, "account", FINAL, EXPORTED_AT]


def test_the_pictures_exist_and_are_small() -> None:
    named = re.findall(r"\]\((images/[\w-]+\.png)\)", PAGE)
    assert sorted(DOCS / name for name in named) == sorted(
        set((DOCS / "images").glob("*.png")) - set((DOCS / "images").glob("ui-*.png"))
    )
    for name in named:
        assert 5_000 < (DOCS / name).stat().st_size < 200_000
    (command,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    module = command.split()[-1]
    assert (DOCS.parent / f"{module.replace('.', '/')}.py").exists()
