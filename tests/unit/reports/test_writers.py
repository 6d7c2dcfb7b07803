"""Frames as files: atomic, readable by their owner only, and safe in a spreadsheet."""

from __future__ import annotations

import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

from prefect_mymsp.errors import ConfigurationError, ExportError, InputError
from prefect_mymsp.reports import write_csv, write_excel, write_parquet, writers
from prefect_mymsp.reports.frames import DELIVERY_DTYPES, INBOX_DTYPES, empty_frame
from prefect_mymsp.reports.writers import atomic_file, file_name
from tests.unit.reports.test_sanitize import HOSTILE

NOON = datetime(2030, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)


def deliveries(count: int = 3) -> pd.DataFrame:
    frame = empty_frame(DELIVERY_DTYPES).reindex(range(count))
    return frame.assign(
        campaign="Höst", row=range(2, count + 2), recipient="+46701740605", accepted_at=NOON, latency_s=28.876544
    ).astype(DELIVERY_DTYPES)


def inbox() -> pd.DataFrame:
    """Hostile texts in all columns that strangers fill."""
    frame = empty_frame(INBOX_DTYPES).reindex(range(len(HOSTILE)))
    texts = pd.array(HOSTILE, dtype="string")
    return frame.assign(text=texts, sender=texts, alias=texts, prefix=texts, received_at=NOON).astype(INBOX_DTYPES)


def test_parquet_keeps_everything(tmp_path: Path) -> None:
    for frame in (deliveries(), deliveries(0), inbox()):
        read = pd.read_parquet(write_parquet(frame, tmp_path / "a.parquet"), dtype_backend="numpy_nullable")
        pd.testing.assert_frame_equal(read.astype(frame.dtypes.to_dict()), frame)


def test_csv_can_be_read_back(tmp_path: Path) -> None:
    frame = deliveries()
    path = write_csv(frame, tmp_path / "a.csv")
    assert path.read_bytes().startswith(b"campaign,row,recipient,")
    assert "Höst,2,+46701740605,,,,,2030-01-31T12:00:00.123456Z,,,28.876544,," in path.read_text("utf-8").splitlines()
    times = [name for name, dtype in DELIVERY_DTYPES.items() if dtype.startswith("datetime")]
    read = pd.read_csv(path, dtype={name: kind for name, kind in DELIVERY_DTYPES.items() if name not in times})
    for name in times:
        read[name] = pd.to_datetime(read[name], utc=True).dt.as_unit("us")
    pd.testing.assert_frame_equal(read, frame)


def test_csv_escapes_hostile_texts(tmp_path: Path) -> None:
    raw = write_csv(inbox(), tmp_path / "a.csv").read_bytes()
    assert not any(byte in raw for byte in b"\x00\x1b\x08\x7f\r")
    assert "\u202e".encode() not in raw
    read = pd.read_csv(tmp_path / "a.csv", dtype="string", keep_default_na=False)
    for text in read["text"]:
        assert not text.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))
    assert read["text"].tolist()[2] == "'=cmd|' /C calc'!A0"


def test_excel_has_texts_and_no_formulas(tmp_path: Path) -> None:
    path = write_excel({"inbox": inbox(), "deliveries": deliveries(), "empty": deliveries(0)}, tmp_path / "a.xlsx")
    book = openpyxl.load_workbook(path)
    assert book.sheetnames == ["inbox", "deliveries", "empty"]
    for sheet in book:
        for cell in (cell for row in sheet.iter_rows() for cell in row if cell.value is not None):
            assert cell.data_type != "f"
            assert not str(cell.value).lstrip().startswith(("=", "@", "\uff1d"))
    rows = list(book["inbox"].iter_rows(values_only=True))
    assert rows[0][:3] == ("message_id", "received_at (UTC)", "stored_at (UTC)")
    assert rows[3][6] == "'=cmd|' /C calc'!A0"
    assert rows[1][1] == NOON.replace(tzinfo=None, microsecond=123_000)
    first = list(book["deliveries"].iter_rows(values_only=True))[1]
    assert first[:3] == ("Höst", 2, "+46701740605")
    assert first[10] == 28.876544
    assert [cell.value for cell in book["empty"][1]][:2] == ["campaign", "row"]
    assert book["empty"].max_row == 1


def test_too_many_rows_for_excel_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "EXCEL_ROWS", 2)
    with pytest.raises(InputError, match="3 rows do not fit into an Excel sheet, which holds 2"):
        write_excel({"deliveries": deliveries(3)}, tmp_path / "a.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_a_text_longer_than_an_excel_cell_is_cut(tmp_path: Path) -> None:
    frame = deliveries(1).assign(error="å" * 40_000).astype(DELIVERY_DTYPES)
    book = openpyxl.load_workbook(write_excel({"deliveries": frame}, tmp_path / "a.xlsx"))
    assert len(str(book["deliveries"].cell(2, 13).value)) == 32_767


@pytest.mark.parametrize("write", [write_csv, write_parquet, lambda frame, path: write_excel({"x": frame}, path)])
def test_a_file_is_private_and_replaces_the_old_one(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "folder" / "report"
    path.parent.mkdir()
    path.write_text("before")
    path.chmod(0o644)
    write(deliveries(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["report"]
    assert path.read_bytes()[:6] != b"before"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    path.write_text("before")

    def fail_halfway() -> None:
        with atomic_file(path) as part:
            part.write_text("half of it")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["report.csv"]


@pytest.mark.parametrize("place", ["taken", "file/below"])
def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"Cannot write the report .*: "):
        write_csv(deliveries(), tmp_path / place)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "taken"]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    with pytest.raises(ConfigurationError, match=r"install prefect-mymsp\[reports\]"):
        write_excel({"deliveries": deliveries()}, tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Vår 2026/del 1", "Vår-2026-del-1"),
        ("../../etc/passwd", "etc-passwd"),
        ("\x1b[31m\u202e", "31m"),
        ("...", "campaign"),
        ("x" * 500, "x" * 120),
    ],
)
def test_a_campaign_name_as_a_file_name(name: str, file: str) -> None:
    assert file_name(name) == file


def test_importing_reports_imports_nothing_heavy() -> None:
    program = (
        "import sys, prefect_mymsp.reports, prefect_mymsp.reports.exports\n"
        "print(sorted({'pandas', 'jinja2', 'xlsxwriter', 'prefect', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in {"['prefect']", "[]"}  # the package's own blocks need Prefect
