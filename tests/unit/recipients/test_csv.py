"""CSV files as spreadsheets and people write them, by both ways through a file."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from prefect_mymsp.errors import SourceError
from prefect_mymsp.recipients import csv as csv_reader
from prefect_mymsp.recipients import open_source
from prefect_mymsp.recipients.columns import OUTER_SPACE
from prefect_mymsp.recipients.csv import CsvReader
from tests.unit.recipients.tables import DATA, NUMBERS, A, B, C, D, rejected_rows, valid_rows, write


@pytest.mark.parametrize(
    "name", ["excel-utf8-bom.csv", "excel-cp1252.csv", "excel-unicode-text.txt", "utf16-big-endian.csv"]
)
def test_files_of_excel_are_read(name: str) -> None:
    source = open_source(DATA / name)
    assert (source.columns, source.phone_column, source.label) == (
        ("Förnamn", "Mobilnummer", "Belopp"),
        "Mobilnummer",
        name,
    )
    amount = "€ 300,00" if "1252" in name else "1 300,00"
    assert valid_rows(source) == [
        (2, A, "Åke", "070-174 06 05", "12,50"),
        (3, B, "Änglamark", "+46 (0)70 174 06 06", amount),
    ]
    assert valid_rows(source) == valid_rows(source)


def test_commas_and_quotes_are_read() -> None:
    assert valid_rows(open_source(DATA / "comma-quoted-decimals.csv")) == [
        (2, A, "Doe, Jane", "0701740605", "12,50"),
        (3, B, 'Roe "Ro"', "0701740606", "1,5"),
    ]


def test_the_separator_line_of_excel_is_read() -> None:
    source = open_source(DATA / "sep-line.csv")
    assert source.columns == ("Mobil", "Namn;med,allt")
    assert valid_rows(source) == [(3, A, "0701740605", "a;b,c")]


def test_a_file_of_one_column_needs_no_header() -> None:
    source = open_source(DATA / "one-column-without-header.csv")
    assert source.columns == ("phone",)
    assert [row[:2] for row in valid_rows(source)] == [(1, A), (3, B), (4, C)]
    named = open_source(DATA / "one-column-without-header.csv", phone_column="Mobil")
    assert named.columns == ("Mobil",)
    assert [row[:2] for row in valid_rows(open_source(DATA / "one-column.csv"))] == [(2, A), (3, B)]


def test_carriage_returns_end_lines() -> None:
    assert valid_rows(open_source(DATA / "mac.csv")) == [(2, A, "0701740605", "Åsa"), (4, B, "0701740606", "Bo")]


def test_quoted_newlines_keep_the_line_numbers_right() -> None:
    source = open_source(DATA / "quoted-newlines.csv")
    assert valid_rows(source) == [
        (2, A, "0701740605", "line one\nline two", "Anna"),
        (5, B, "0701740606", 'a;b\n"c"', "Bo"),
    ]
    assert [row[:3] for row in rejected_rows(source)] == [(7, "phone", "08-465 004 00")]


def test_lines_with_another_number_of_fields() -> None:
    source = open_source(DATA / "ragged.csv")
    assert source.columns == ("namn", "mobil", "ort")
    assert [(row, name) for row, _, name, *_ in valid_rows(source)] == [(2, "Anna"), (4, "Cia"), (5, "Dan"), (8, "Fia")]
    assert [(row[0], row[2]) for row in rejected_rows(source)] == [
        (3, "Bo;0701740606"),
        (6, "Eva;0701740609;Växjö;;;kommentar"),
    ]
    assert "2 fields, the header has 3" in rejected_rows(source)[0][3]
    assert "6 fields, the header has 5" in rejected_rows(source)[1][3]


def test_loose_quotes_are_text_and_a_broken_field_is_rejected() -> None:
    source = open_source(DATA / "loose-quotes.csv")
    assert valid_rows(source) == [
        (2, A, "0701740605", '5" rör'),
        (3, B, "0701740606", 'hel "citat"'),
        (5, D, "0701740608", '7" rör'),
    ]
    ((row, _, value, reason),) = rejected_rows(source)
    assert (row, value) == (4, '0701740607;"fel "citat"')
    assert "doubled" in reason


@pytest.mark.parametrize("chunk_rows", [1, 50_000])
def test_a_quote_that_is_never_closed_names_its_line(chunk_rows: int) -> None:
    with pytest.raises(SourceError, match="line 3 is never closed"):
        list(open_source(DATA / "quote-never-closed.csv", chunk_rows=chunk_rows).chunks())


def test_a_quote_that_is_never_closed_in_a_large_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'phone;name\n0701740605;"x\n' + "0701740605;y\n" * 500_000)
    with pytest.raises(SourceError, match="line 2 is never closed"):
        list(open_source(path).chunks())


def test_numbers_that_a_spreadsheet_rounded_are_rejected() -> None:
    source = open_source(DATA / "spoiled-by-spreadsheet.csv")
    assert [row[:2] for row in valid_rows(source)] == [(4, A), (5, B), (6, C), (7, D)]
    assert [row[:3] for row in rejected_rows(source)] == [
        (2, "mobil", "4,67012E+10"),
        (3, "mobil", "4.6701740605E+10"),
    ]


def test_two_encodings_in_one_file_are_refused() -> None:
    with pytest.raises(SourceError, match=r"line 3 is not UTF-8, but other lines are"):
        open_source(DATA / "two-encodings.csv")


def test_a_line_with_nul_is_rejected_alone() -> None:
    source = open_source(DATA / "nul.csv")
    assert [row[:2] for row in valid_rows(source)] == [(3, B)]
    assert [(row[0], "NUL" in row[3]) for row in rejected_rows(source)] == [(2, True)]


def test_a_field_that_is_too_long_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"phone;a\n0701740605;{'x' * 200_000};b\n0701740606;c\n")
    source = open_source(path)
    assert [row[:2] for row in valid_rows(source)] == [(3, B)]
    assert [(row, reason) for row, _, _, reason in rejected_rows(source)] == [(2, "a field is too long")]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("Belopp, kr;Telefon\n12,50;0701740605\n13,50;0701740606\n", ("Belopp, kr", "Telefon")),
        ("Namn, förnamn;Nr;Mobil\nAl, Bo;1;0701740605\n", ("Namn, förnamn", "Nr", "Mobil")),
        ("mobil;a,b,c,d\n0701740605;1,2,3,4\n", ("mobil", "a,b,c,d")),
        ("\t".join(["mobil", "a;b", "c,d"]) + "\n", ("mobil", "a;b", "c,d")),
    ],
)
def test_the_separator_is_detected(tmp_path: Path, text: str, columns: tuple[str, ...]) -> None:
    assert open_source(write(tmp_path / "a.csv", text)).columns == columns


def test_a_second_field_in_a_file_of_one_column_is_rejected(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.csv", "phone\n0701740605;\n0701740606;Anna\n"))
    assert [row[:2] for row in valid_rows(source)] == [(2, A)]
    assert "2 fields, the header has 1" in rejected_rows(source)[0][3]


CELLS = st.text(
    st.sampled_from('aå😀 ";,\n\t|-7') | st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=6
)


def outcome(path: Path, chunk_rows: int, chunk: int) -> Any:
    try:
        source = open_source(path, chunk_rows=chunk_rows)
        assert isinstance(source._reader, CsvReader)
        source._reader.chunk_bytes = chunk
        return source.columns, valid_rows(source), rejected_rows(source)
    except SourceError as error:
        return str(error)


def slowly(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(csv_reader, "find_records", lambda *_: None)
        return outcome(path, 50_000, 1 << 20)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


PROPERTY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@PROPERTY
@given(
    rows=st.lists(st.tuples(CELLS, NUMBERS, CELLS), max_size=12),
    separator=st.sampled_from(";,\t|"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    chunk_rows=st.sampled_from([1, 3, 50_000]),
    chunk=st.integers(1, 60),
)
@example([("\ufeff", "0701740605", ""), ("\ufeffBo", "0701740606", "")], ";", "\n", csv.QUOTE_MINIMAL, "utf-8", 1, 1)
def test_every_row_comes_back(
    folder: Path,
    rows: list[tuple[str, str, str]],
    separator: str,
    line_end: str,
    quoting: Any,
    encoding: str,
    chunk_rows: int,
    chunk: int,
) -> None:
    path = folder / "rows.csv"
    expected, line = [], 2
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator=line_end, quoting=quoting)
        writer.writerow(("first", "mobil", "last"))
        for row in rows:
            writer.writerow(row)
            if any(cell.strip(OUTER_SPACE) for cell in row):
                expected.append((line, *row))
            line += 1 + sum(cell.count("\n") for cell in row)
    source = open_source(path, chunk_rows=chunk_rows)
    assert isinstance(source._reader, CsvReader)
    source._reader.chunk_bytes = chunk
    assert all(chunk.rows.num_rows <= chunk_rows for chunk in source.chunks())
    valid, rejected = valid_rows(source), rejected_rows(source)
    assert sorted([row[0] for row in valid] + [row[0] for row in rejected]) == [row[0] for row in expected]
    assert [(row, *cells) for row, _, *cells in valid] == [row for row in expected if row[0] in {v[0] for v in valid}]
    assert rejected == sorted(rejected)
    by_line = {row[0]: row for row in expected}
    assert all(value == by_line[row][2] and column == "mobil" for row, column, value, _ in rejected)


@PROPERTY
@given(
    text=st.text(st.sampled_from('a7å";;,\n\n\r\0 '), max_size=40),
    chunk_rows=st.sampled_from([1, 2, 50_000]),
    chunk=st.integers(1, 30),
)
def test_both_ways_through_a_csv_agree_on_any_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, chunk_rows: int, chunk: int
) -> None:
    path = folder / "any.csv"
    path.write_bytes(f"mobil;namn;\n0701740605;Anna;\n{text}".encode())
    fast, slow = outcome(path, chunk_rows, chunk), slowly(path, monkeypatch)
    if isinstance(slow, str):
        assert fast == slow
        return
    assert fast[:2] == slow[:2]
    # The slow road shows a ragged line as csv has read it, without its quotation marks.
    assert [(reject[0], reject[1], reject[3]) for reject in fast[2]] == [(r[0], r[1], r[3]) for r in slow[2]]


@PROPERTY
@given(content=st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "bytes.csv"
    path.write_bytes(b"mobil;namn\n" + content)
    outcome(path, 50_000, 16)
    path.write_bytes(content)
    outcome(path, 50_000, 16)
