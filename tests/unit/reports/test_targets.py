"""Export targets: file names, contradictions, and bookmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_mymsp.errors import InputError
from prefect_mymsp.models import ReportFormat
from prefect_mymsp.reports.targets import FileTarget, TableTarget


def to_file(path: Path, format: ReportFormat = "csv") -> FileTarget:  # noqa: A002
    return FileTarget(format, path, Path("reports"))


def to_table(url: str, table: str = "sms") -> TableTarget:
    return TableTarget(url, table)


def test_a_name_without_a_suffix_is_a_folder(tmp_path: Path) -> None:
    assert to_file(tmp_path / "exports").resolve("autumn", new_only=True) == tmp_path / "exports" / "autumn.csv"
    assert to_file(tmp_path / "out.csv").resolve("autumn", new_only=True) == tmp_path / "out.csv"


def test_a_suffix_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report\.HTML looks like html, but the format is csv.*format='html'"):
        to_file(tmp_path / "report.HTML").check()
    to_file(tmp_path / "report.txt").check()
    to_file(tmp_path / "report.html", "html").check()


def test_one_path_has_one_bookmark_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = [to_file(Path(path)) for path in ("out", "./out", str(tmp_path / "out"))]
    assert len({place.bookmark("deliveries", None) for place in places}) == 1
    before = places[0].bookmark("deliveries", None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert places[0].bookmark("deliveries", None) != before


def test_each_database_has_its_own_bookmark() -> None:
    urls = [
        "postgresql://anna:secret@test/sms",
        "postgresql://anna:secret@production/sms",
        "postgresql://anna:secret@production:5433/sms",
        "postgresql://anna:secret@production/other",
        "sqlite:///a.db",
        "sqlite:///b.db",
    ]
    assert len({to_table(url).bookmark("deliveries", None) for url in urls}) == len(urls)
    # The user makes no difference.
    logins = ("anna:secret", "bo:hidden")
    bookmarks = {to_table(f"postgresql://{login}@production/sms").bookmark("deliveries") for login in logins}
    assert len(bookmarks) == 1
    assert to_table("no url").bookmark("deliveries", None)
