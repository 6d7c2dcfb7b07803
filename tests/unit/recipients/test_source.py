# ruff: noqa: RUF001  look-alikes of digits and dashes are what is tested here
from __future__ import annotations

import csv
import datetime as dt
import decimal
import gc
import http.server
import io
import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import phonenumbers
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from prefect_mymsp import recipients
from prefect_mymsp.errors import ConfigurationError, SourceError
from prefect_mymsp.recipients import REJECTED_ROW_SCHEMA, Source, normalize_number, open_source

DATA = Path(__file__).parents[2] / "data" / "csv"
A, B, C, D = "46701740605", "46701740606", "46701740607", "46701740608"


def good(source: Source) -> list[tuple[Any, ...]]:
    """Line, MSISDN and cells of every valid row."""
    found: list[tuple[Any, ...]] = []
    for block in source.chunks():
        assert block.rows.num_rows == block.columns.num_rows
        assert tuple(block.columns.column_names) == source.columns
        assert block.rejected_rows.schema == REJECTED_ROW_SCHEMA
        cells = [column.to_pylist() for column in block.columns.columns]
        found += zip(*[c.to_pylist() for c in block.rows.columns], *cells, strict=True)
    return found


def bad(source: Source) -> list[tuple[int, str, str, str]]:
    return [tuple(reject.values()) for block in source.chunks() for reject in block.rejected_rows.to_pylist()]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---- numbers


@pytest.mark.parametrize(
    "cell",
    [
        "070-174 06 05",
        "0701740605",
        "070/174 06 05",
        "(070) 174 06 05",
        "070.174.06.05",
        "+46 (0)70 174 06 05",
        "(+46) 70 174 06 05",
        "+46 0701740605",
        "46(0)701740605",
        "0046701740605",
        "0046 (0)70 174 06 05",
        "46701740605",
        "701740605",
        "701740605.0",
        "46701740605.0",
        "46701740605,0",
        "'0701740605",
        "\u20190701740605",
        '="0701740605"',
        '"0701740605"',
        "tel:+46-70-174-06-05",
        "+46\u00a070\u202f174\u00a006\u00a005",
        "\u202a+46701740605\u202c",
        "\u200b0701740605\ufeff",
        "070\u2013174\u201106\u221205",
        "０７０１７４０６０５",
        "＋４６７０１７４０６０５",
        " 0701740605\r\n",
        "٠٧٠١٧٤٠٦٠٥",
    ],
)
def test_a_number_in_many_forms(cell: str) -> None:
    assert normalize_number(cell) == A


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("", "missing"),
        (" \u00a0\u200b", "missing"),
        ("4,67012E+10", "power of ten"),
        ("4.67012E+10", "power of ten"),
        ("4,6701740605E+10", "power of ten"),
        ("4.6701740605e10", "power of ten"),
        ("08-465 004 00", r"a landline number \(08\)"),
        ("+46 8 465 004 00", r"a landline number \(08\)"),
        ("71070", "too few"),
        ("112", "too few"),
        ("070174060", "no such number"),
        ("07017406055", "no such number"),
        ("0701740605/0701740606", "two numbers"),
        ("0701740605, 0701740606", "two numbers"),
        ("0701740605; +46701740606", "two numbers"),
        ("0701740605 0701740606", "two numbers"),
        ("+46701740605+46701740606", "two numbers"),
        ("O701740605", "letters"),
        ("0701740605 (Anna)", "letters"),
        ("n/a", "not a phone number"),
        ("-", "not a phone number"),
        ("0701740605*", r"'\*'"),
        ("+46701740605;ext=12", "extension"),
        ("0701740605 ext. 12", "extension"),
        ("0701740605 ankn 12", "extension"),
        ("0701740605#12", "extension"),
        ("+999701740605", "no country"),
        ("4741234567", r"write it with a plus: \+4741234567"),
        ("020-174 06", "toll-free"),
        ("070\u00b2174060", "no part of a phone number"),
        ("0701740\x00605", "no part of a phone number"),
    ],
)
def test_what_cannot_be_sent_to(cell: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        normalize_number(cell)


def test_numbers_abroad() -> None:
    assert normalize_number("+1 202 555 0123") == "12025550123"  # in the USA landline and mobile look alike
    assert normalize_number("0047 412 34 567") == "4741234567"
    assert normalize_number("412 34 567", "no") == "4741234567"
    with pytest.raises(SourceError, match="can be read as"):
        normalize_number("15123456789", "DE")  # 0151 23456789 without its zero, or a mobile in Texas


def test_a_column_called_msisdn_holds_country_codes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "msisdn\n4741234567\n46701740605\n")
    assert good(open_source(path)) == [(2, "4741234567", "4741234567"), (3, A, A)]


def test_the_swedish_series_are_those_of_phonenumbers() -> None:
    assert recipients._fast_pattern()
    assert {normalize_number(f"0{series}1740605") for series in (70, 72, 73, 76, 79)}
    for series, tail in itertools.product(range(1000), ("000000", "123456", "999999")):
        number = phonenumbers.parse(f"+46{series:03}{tail}", None)
        mobile = phonenumbers.number_type(number) == phonenumbers.PhoneNumberType.MOBILE
        fast = recipients._fast_msisdns(pa.array([f"0{series:03}{tail}"]))[1][0].as_py()
        assert fast == mobile or series < 100  # a zero more is another number


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.tuples(
            st.sampled_from(["", "0", "46", "+46", "0046", "+46 (0)", "+46(0)", "46(0)", "+460", "460", "00", "+"]),
            st.from_regex(r"7[0-9][ -]?[0-9]{3}[ -]?[0-9]{2}[ ()-]{0,2}[0-9]{1,3}", fullmatch=True),
            st.sampled_from(["", " ", "-", ".0", "\u00a0", ")", "0", "\n"]),
        ).map("".join),
        st.text("0123467+() -\u00a0.", max_size=18),
    )
)
def test_the_fast_road_agrees_with_phonenumbers(cell: str) -> None:
    msisdns, sure = recipients._fast_msisdns(pa.array([cell]))
    if sure[0].as_py():
        assert recipients._judge(cell, "SE", bare=False) == (msisdns[0].as_py(), "")
        assert recipients._judge(cell, "SE", bare=True) == (msisdns[0].as_py(), "")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=25), st.sampled_from(["SE", "US", "DE", "IT"]))
def test_any_cell_is_judged(cell: str, country: str) -> None:
    msisdn, reason = recipients._judge(cell, country, bare=False)
    assert bool(msisdn) != bool(reason)
    assert not msisdn or (msisdn.isdigit() and msisdn.isascii() and 8 <= len(msisdn) <= 15)


def test_other_regions_go_through_phonenumbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "phone\n412 34 567\n0701740605\n+46701740605\n")
    assert [row[1] for row in good(open_source(path, country="no"))] == ["4741234567", A]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="ISO 3166"):
        open_source("x.csv", country="Sverige")
    with pytest.raises(ConfigurationError, match="chunk_rows"):
        open_source("x.csv", chunk_rows=0)


# ---- files as people have them


@pytest.mark.parametrize(
    "name", ["excel-utf8-bom.csv", "excel-cp1252.csv", "excel-unicode-text.txt", "utf16-big-endian.csv"]
)
def test_what_excel_writes(name: str) -> None:
    source = open_source(DATA / name)
    assert (source.columns, source.phone_column, source.label) == (
        ("Förnamn", "Mobilnummer", "Belopp"),
        "Mobilnummer",
        name,
    )
    amount = "€ 300,00" if "1252" in name else "1 300,00"
    assert good(source) == [
        (2, A, "Åke", "070-174 06 05", "12,50"),
        (3, B, "Änglamark", "+46 (0)70 174 06 06", amount),
    ]
    assert good(source) == good(source)


def test_commas_and_quotes() -> None:
    assert good(open_source(DATA / "comma-quoted-decimals.csv")) == [
        (2, A, "Doe, Jane", "0701740605", "12,50"),
        (3, B, 'Roe "Ro"', "0701740606", "1,5"),
    ]


def test_the_separator_line_of_excel() -> None:
    source = open_source(DATA / "sep-line.csv")
    assert source.columns == ("Mobil", "Namn;med,allt")
    assert good(source) == [(3, A, "0701740605", "a;b,c")]


def test_one_column() -> None:
    source = open_source(DATA / "one-column-without-header.csv")
    assert source.columns == ("phone",)
    assert [row[:2] for row in good(source)] == [(1, A), (3, B), (4, C)]
    named = open_source(DATA / "one-column-without-header.csv", phone_column="Mobil")
    assert named.columns == ("Mobil",)
    assert [row[:2] for row in good(open_source(DATA / "one-column.csv"))] == [(2, A), (3, B)]


def test_old_mac_line_ends() -> None:
    assert good(open_source(DATA / "mac.csv")) == [(2, A, "0701740605", "Åsa"), (4, B, "0701740606", "Bo")]


def test_quoted_newlines_keep_the_line_numbers_right() -> None:
    source = open_source(DATA / "quoted-newlines.csv")
    assert good(source) == [
        (2, A, "0701740605", "line one\nline two", "Anna"),
        (5, B, "0701740606", 'a;b\n"c"', "Bo"),
    ]
    assert [reject[:3] for reject in bad(source)] == [(7, "phone", "08-465 004 00")]


def test_ragged_lines() -> None:
    source = open_source(DATA / "ragged.csv")
    assert source.columns == ("namn", "mobil", "ort")
    assert [(row, name) for row, _, name, *_ in good(source)] == [(2, "Anna"), (4, "Cia"), (5, "Dan"), (8, "Fia")]
    assert [(reject[0], reject[2]) for reject in bad(source)] == [
        (3, "Bo;0701740606"),
        (6, "Eva;0701740609;Växjö;;;kommentar"),
    ]
    assert "2 fields, the header has 3" in bad(source)[0][3]
    assert "6 fields, the header has 5" in bad(source)[1][3]


def test_loose_quotes_are_text_and_a_broken_field_is_a_reject() -> None:
    source = open_source(DATA / "loose-quotes.csv")
    assert good(source) == [
        (2, A, "0701740605", '5" rör'),
        (3, B, "0701740606", 'hel "citat"'),
        (5, D, "0701740608", '7" rör'),
    ]
    ((row, _, value, reason),) = bad(source)
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


def test_numbers_that_a_spreadsheet_spoiled() -> None:
    source = open_source(DATA / "spoiled-by-spreadsheet.csv")
    assert [row[:2] for row in good(source)] == [(4, A), (5, B), (6, C), (7, D)]
    assert [reject[:3] for reject in bad(source)] == [(2, "mobil", "4,67012E+10"), (3, "mobil", "4.6701740605E+10")]


def test_two_encodings_in_one_file_are_not_guessed_at() -> None:
    with pytest.raises(SourceError, match=r"line 3 is not UTF-8, but other lines are"):
        open_source(DATA / "two-encodings.csv")


def test_nul_spoils_its_line_only() -> None:
    source = open_source(DATA / "nul.csv")
    assert [row[:2] for row in good(source)] == [(3, B)]
    assert [(reject[0], "NUL" in reject[3]) for reject in bad(source)] == [(2, True)]


def test_rejected_values_are_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "phone;a\n" + "x" * 200 + ";b\n" + "y" * 200 + "\n")
    assert [(row, len(value)) for row, _, value, _ in bad(open_source(path))] == [(2, 80), (3, 80)]


def test_a_field_of_absurd_length_is_no_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"phone;a\n0701740605;{'x' * 200_000};b\n0701740606;c\n")
    source = open_source(path)
    assert [row[:2] for row in good(source)] == [(3, B)]
    assert [(row, reason) for row, _, _, reason in bad(source)] == [(2, "a field is too long")]


def test_columns_called_row_and_msisdn_do_not_clash(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "row,msisdn\nx,0701740605\n")
    assert good(open_source(path)) == [(2, A, "x", "0701740605")]


def test_a_header_only_gives_no_rows(tmp_path: Path) -> None:
    for text in ("phone;name", "phone;name\n", "phone\r\n", "\n\nphone;name\n\n;\n"):
        source = open_source(write(tmp_path / "a.csv", text))
        assert (good(source), bad(source)) == ([], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\r\n \n;;\n", "empty"),
        (b"sep=;\n", "only a line that names the separator"),
        (b"sep=\xc3\xa5\nphone\n", "asks for the separator"),
        (b"PK\x03\x04rest", "Excel workbook"),
        (b"\xd0\xcf\x11\xe0rest", "old Excel"),
        (b"%PDF-1.7", "PDF"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"<!DOCTYPE html><html>", "web page"),
        ("mobil;namn\n".encode("utf-16-le"), "UTF-16 without"),
        (b"\xff\xfe" + "mobil;namn\n".encode("utf-16-le") + b"\x00\xd8\n\x00", "line 2 is not UTF-16"),
        (b"\xef\xbb\xbfmobil;namn\n0701740605;\xe5ke\n", "line 2 is not UTF-8, though"),
        (b"mobil;namn\n0701740605;\x81\n", "line 2 is neither UTF-8 nor Windows-1252"),
        (b"mobil;mobil\n1;2\n", "more than one column is called 'mobil'"),
        (b"namn;ort\nAnna;Lund\n", "no column looks like phone numbers. There are: 'namn', 'ort'"),
        (b"Anna;0701740605\nBo;0701740606\n", "line 1 looks like a recipient"),
        (b"mobil;mobile number\n1;2\n", "'mobil', 'mobile number' may all be"),
        (b'mobil;"namn\n1;2\n', "quotation mark in the header"),
    ],
)
def test_files_that_are_no_table_of_recipients(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_source(write(tmp_path / "liste.csv", content))
    assert str(caught.value).startswith("liste.csv: ")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        open_source(tmp_path / "missing.csv")
    with pytest.raises(SourceError, match="directory"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="NUL"):
        open_source("a\0b.csv")
    with pytest.raises(SourceError, match="path, a URL or a DataFrame, not list"):
        open_source([1])  # type: ignore[arg-type]


def test_a_file_one_may_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "phone\n")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(SourceError, match="may not read"):
            open_source(path)
    finally:
        os.seteuid(user)


def test_a_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.csv", "phone\n0701740605\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert good(open_source("~/a.csv")) == [(2, A, "0701740605")]


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "phone\n0701740605\n")
    source = open_source(path)
    write(path, "phone\n0701740605\n0701740606\n")
    with pytest.raises(SourceError, match="has changed"):
        list(source.chunks())
    path.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        list(source.chunks())


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("Namn;TELEFON", "TELEFON"),
        ("name,Phone Number,e-mail", "Phone Number"),
        ("Telefon;Mobil", "Mobil"),
        ("tel_nr;mobil-nr.", "mobil-nr."),
        ("number|phone", "phone"),
        ("Kund nr\tNummer", "Nummer"),
        ("\u00a0MSISDN \ufeff;x", "MSISDN"),
    ],
)
def test_the_phone_column_is_found(tmp_path: Path, header: str, found: str) -> None:
    assert open_source(write(tmp_path / "a.csv", header + "\n")).phone_column == found


def test_the_phone_column_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Phone;Contact;contact\n1;0701740605;2\n")
    assert open_source(path, phone_column=" phone ").phone_column == "Phone"
    assert good(open_source(path, phone_column="Contact"))[0][:2] == (2, A)
    with pytest.raises(SourceError, match="differ only in case"):
        open_source(path, phone_column="CONTACT")
    with pytest.raises(SourceError, match=r"no column 'phnoe'. Did you mean 'Phone'\? There are: 'Phone'"):
        open_source(path, phone_column="phnoe")


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("Belopp, kr;Telefon\n12,50;0701740605\n13,50;0701740606\n", ("Belopp, kr", "Telefon")),
        ("Namn, förnamn;Nr;Mobil\nAl, Bo;1;0701740605\n", ("Namn, förnamn", "Nr", "Mobil")),
        ("mobil;a,b,c,d\n0701740605;1,2,3,4\n", ("mobil", "a,b,c,d")),
        ("\t".join(["mobil", "a;b", "c,d"]) + "\n", ("mobil", "a;b", "c,d")),
    ],
)
def test_the_separator_is_found(tmp_path: Path, text: str, columns: tuple[str, ...]) -> None:
    assert open_source(write(tmp_path / "a.csv", text)).columns == columns


def test_one_column_and_something_after_it(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.csv", "phone\n0701740605;\n0701740606;Anna\n"))
    assert [row[:2] for row in good(source)] == [(2, A)]
    assert "2 fields, the header has 1" in bad(source)[0][3]


# ---- both roads through a CSV

CELLS = st.text(
    st.sampled_from('aå😀 ";,\n\t|-7') | st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=6
)
NUMBERS = st.sampled_from(["0701740605", "+46 70-174 06 06", "08-465 004 00", "", "x", "+47 412 34 567"])


def outcome(path: Path, chunk_rows: int, chunk: int) -> Any:
    try:
        source = open_source(path, chunk_rows=chunk_rows)
        assert isinstance(source._reader, recipients._CsvText)
        source._reader.chunk_bytes = chunk
        return source.columns, good(source), bad(source)
    except SourceError as error:
        return str(error)


def slowly(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(recipients, "_find_records", lambda *_: None)
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
            if any(cell.strip(recipients._TRIM) for cell in row):
                expected.append((line, *row))
            line += 1 + sum(cell.count("\n") for cell in row)
    source = open_source(path, chunk_rows=chunk_rows)
    assert isinstance(source._reader, recipients._CsvText)
    source._reader.chunk_bytes = chunk
    assert all(block.rows.num_rows <= chunk_rows for block in source.chunks())
    valid, rejected = good(source), bad(source)
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
def test_both_roads_agree_on_anything(
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


# ---- URLs


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/list.csv"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"phone\n0701740605\n")
            return
        self.send_response(302 if "away" in self.path else 403)
        self.send_header("Location", "http://example.invalid/list.csv")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def test_a_download_leaves_nothing_behind(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = open_source(f"http://{server}/list.csv?token=secret")
    assert source.label == "127.0.0.1/list.csv"
    first, second = source.chunks(), source.chunks()  # two readers at once
    assert next(first).rows.to_pydict() == next(second).rows.to_pydict() == {"row": [2], "msisdn": [A]}
    del source, first, second
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_shows_no_secret(server: str) -> None:
    for path, message in (("secret-free", "HTTP 403"), ("away", "must not cross a network in the clear")):
        with pytest.raises(SourceError, match=message) as caught:
            open_source(f"http://anna:pass@{server}/{path}?token=secret")
        assert "token" not in str(caught.value)
        assert "pass" not in str(caught.value)
        assert caught.value.__cause__ is None
    with pytest.raises(SourceError, match=r"cannot be downloaded \(ConnectError\)"):
        open_source("http://127.0.0.1:9/list.csv?token=secret")
    with pytest.raises(SourceError, match="use https"):
        open_source("http://example.invalid/list.csv")


def test_other_urls(tmp_path: Path) -> None:
    path = write(tmp_path / "ett namn.csv", "phone\n0701740605\n")
    assert open_source(path.as_uri()).label == "ett namn.csv"
    with pytest.raises(SourceError, match="this machine"):
        open_source("file://elsewhere/a.csv")
    with pytest.raises(SourceError, match="nothing here knows nosuch://"):
        open_source("nosuch://bucket/a.csv")
    with pytest.raises(SourceError, match="not a valid URL"):
        open_source("https://[/a.csv")


def test_storage_that_fsspec_opens() -> None:
    import fsspec  # type: ignore[import-untyped]

    with fsspec.open("memory://lists/a.csv", "wb") as file:
        file.write(b"phone\n0701740605\n")
    assert good(open_source("memory://lists/a.csv")) == [(2, A, "0701740605")]
    with pytest.raises(SourceError, match="FileNotFoundError"):
        open_source("memory://lists/b.csv")


def test_a_pipe_can_be_read_again(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"phone\n0701740605\n",))
    writer.start()
    source = open_source(pipe)
    writer.join()
    assert good(source) == good(source) == [(2, A, "0701740605")]


# ---- DataFrames


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["0701740605", None]),
        pd.Series(["0701740605", None], dtype=object),
        pd.Series([701740605, None], dtype="Int64"),
        pd.Series([46701740605.0, np.nan]),
        pd.Series([701740605, pd.NA], dtype=object),
        pd.Series([701740605.0, float("nan")], dtype=object),
        pd.Series(["0701740605", None], dtype="category"),
        pd.Series([46701740605, None], dtype=pd.ArrowDtype(pa.int64())),
        pd.Series(["0701740605", None], dtype=pd.ArrowDtype(pa.string())),
        pd.Series(["0701740605", None], dtype="string[python]"),
        pd.Series([decimal.Decimal(46701740605), None], dtype=object),
    ],
    ids=lambda series: str(series.dtype),
)
def test_phone_columns_of_any_dtype(column: Any) -> None:
    frame = pd.DataFrame({"Mobil": column})
    frame.index = pd.Index([7, 7])
    source = open_source(frame)
    assert source.label == "DataFrame"
    assert [row[:2] for row in good(source)] == [(1, A)]
    assert bad(source) == [(2, "Mobil", "", "the number is missing")]


def test_floats_too_narrow_for_a_number_are_rejected() -> None:
    for values in (pd.Series([46701740605.0], dtype="float32"), pd.Series([np.float32(46701740605)], dtype=object)):
        assert "power of ten" in bad(open_source(pd.DataFrame({"phone": values})))[0][3]


def test_cells_as_a_person_would_write_them() -> None:
    zone = dt.timezone(dt.timedelta(hours=2))
    values = {
        "whole": [5.0, np.nan],
        "part": [12.5, 13.0],
        "flag": [True, False],
        "day": [pd.Timestamp("2026-07-01"), pd.NaT],
        "time": pd.to_datetime(["2026-07-01 09:30", "2026-07-02 00:00"]),
        "mixed": [dt.date(2026, 7, 1), dt.datetime(2026, 7, 1, 9, 30, tzinfo=zone)],
        "clock": [dt.time(9, 30), decimal.Decimal("1.50")],
        "number": [decimal.Decimal("1E+3"), decimal.Decimal("NaN")],
        "narrow": pd.Series([1.1, 2.0], dtype="float32"),
        "group": pd.Categorical([1.0, np.nan]),
        7: [[1, 2], {}],
    }
    frame = pd.DataFrame({"phone": ["0701740605", "0701740606"], **values})
    before = frame.copy(deep=True)
    source = open_source(frame)
    assert source.columns == ("phone", *map(str, values))
    first, second = good(source)
    assert first[3:] == (
        "5",
        "12.5",
        "True",
        "2026-07-01",
        "2026-07-01 09:30:00",
        "2026-07-01",
        "09:30:00",
        "1000",
        "1.1",
        "1",
        "[1, 2]",
    )
    assert second[3:] == ("", "13", "False", "", "2026-07-02", "2026-07-01 09:30:00+02:00", "1.50", "", "2", "", "{}")
    pd.testing.assert_frame_equal(frame, before)


def test_frames_that_are_no_table_of_recipients() -> None:
    with pytest.raises(SourceError, match="'phone'"):
        open_source(pd.DataFrame([[1, 2]], columns=["phone", "phone"]))
    with pytest.raises(SourceError, match="several levels"):
        open_source(pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])))
    with pytest.raises(SourceError, match="no columns"):
        open_source(pd.DataFrame())
    assert good(open_source(pd.DataFrame({"phone": []}))) == []


def test_text_that_is_no_text_is_rejected() -> None:
    frame = pd.DataFrame({"phone": ["0701740605"] * 3, "name": pd.Series(["\ud83d", "a\0", "ok"], dtype=object)})
    source = open_source(frame)
    assert [row[0] for row in good(source)] == [3]
    assert [(row, column, value) for row, column, value, _ in bad(source)] == [(1, "name", "?"), (2, "name", "a\0")]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(NUMBERS, st.none(), st.integers(0, 10**11), st.floats(), st.text(max_size=5), st.booleans())))
def test_every_row_of_a_frame_is_somewhere(values: list[Any]) -> None:
    source = open_source(pd.DataFrame({"phone": pd.Series(values, dtype=object)}), chunk_rows=3)
    rows = [row[0] for row in good(source)] + [row[0] for row in bad(source)]
    assert sorted(rows) == list(range(1, len(values) + 1))


def test_blocks_are_of_the_size_asked_for(tmp_path: Path) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=";").writerows([("mobil", "n"), *(("0701740605", i) for i in range(1000))])
    source = open_source(write(tmp_path / "a.csv", text.getvalue()), chunk_rows=300)
    assert max(block.rows.num_rows for block in source.chunks()) <= 300
    assert [row[0] for row in good(source)] == list(range(2, 1002))


@pytest.mark.parametrize(
    ("content", "detected_format"),
    [
        ("Namn,Mobil\nÅsa,0701740605\n".encode("cp1252"), "numbers in column 'Mobil', Windows-1252, separated by ','"),
        ("Mobil\tNamn\n0701740605\tÅsa\n".encode("utf-16"), "numbers in column 'Mobil', UTF-16, separated by a tab"),
        ("\ufeffsep=|\nnr|mobil\n1|0701740605\n".encode(), "numbers in column 'mobil', UTF-8, separated by '|'"),
        (b"0701740605\n0701740606\n", "numbers in column 'phone', UTF-8"),
    ],
)
def test_how_a_file_is_read_is_told(content: bytes, detected_format: str, tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes(content)
    assert open_source(path).detected_format == detected_format


def test_how_a_frame_is_read_is_told() -> None:
    frame = pd.DataFrame({"name": ["Åsa"], "Mobil": ["0701740605"]})
    assert open_source(frame).detected_format == "numbers in column 'Mobil'"


@pytest.mark.parametrize("dtype", ["float64", "Float64", "category", "object"])
def test_a_number_that_pandas_has_read_from_a_power_of_ten_is_nobodys(dtype: str) -> None:
    numbers = [4.67e10, 46701740605.0, 4.67017e10]
    frame = pd.DataFrame({"mobile": pd.Series(numbers, dtype=dtype), "amount": [100_000.0, 2e7, 5.0]})
    (block,) = open_source(frame).chunks()
    assert block.rows.column("msisdn").to_pylist() == [A]
    assert block.columns.column("amount").to_pylist() == ["20000000"]
    assert block.rejected_rows.column("value").to_pylist() == ["4.67E+10", "4.67017E+10"]
    assert all("power of ten" in reason for reason in block.rejected_rows.column("reason").to_pylist())


def test_dates_beyond_those_of_pandas_and_sparse_columns_are_read() -> None:
    frame = pd.DataFrame(
        {
            "mobile": ["0701740605", "0701740606"],
            "until": pd.Series([dt.datetime(9999, 12, 31), dt.datetime(1, 1, 1, 8, 30)], dtype=object),
            "vip": pd.arrays.SparseArray([0, 1]),
            "share": pd.arrays.SparseArray([0.5, 0.0]),
            "azores": pd.Series([pd.Timestamp("2026-10-25 00:30", tz="UTC").tz_convert("Atlantic/Azores")] * 2),
        }
    )
    (block,) = open_source(frame).chunks()
    columns = block.columns.to_pydict()
    assert columns["until"] == ["9999-12-31", "0001-01-01 08:30:00"]
    assert columns["vip"] == ["0", "1"]
    assert columns["share"] == ["0.5", "0"]
    assert columns["azores"][0].startswith("2026-10-25 00:30:00")
