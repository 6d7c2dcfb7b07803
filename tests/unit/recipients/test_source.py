"""Opening a source: options, refusals, chunks, what was detected."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd
import pytest

from prefect_mymsp.errors import ConfigurationError, SourceError
from prefect_mymsp.recipients import open_source
from tests.unit.recipients.tables import A, rejected_rows, valid_rows, write


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="ISO 3166"):
        open_source("x.csv", country="Sverige")
    with pytest.raises(ConfigurationError, match="chunk_rows"):
        open_source("x.csv", chunk_rows=0)


def test_numbers_of_other_countries_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "phone\n412 34 567\n0701740605\n+46701740605\n")
    assert [row[1] for row in valid_rows(open_source(path, country="no"))] == ["4741234567", A]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\r\n \n;;\n", "empty"),
        (b"sep=;\n", "only a line that sets the separator"),
        (b"sep=\xc3\xa5\nphone\n", "sets the separator"),
        (b"PK\x03\x04rest", "Excel workbook"),
        (b"\xd0\xcf\x11\xe0rest", "old Excel"),
        (b"%PDF-1.7", "PDF"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"<!DOCTYPE html><html>", "web page"),
        ("mobil;namn\n".encode("utf-16-le"), "UTF-16 without"),
        (b"\xff\xfe" + "mobil;namn\n".encode("utf-16-le") + b"\x00\xd8\n\x00", "line 2 is not UTF-16"),
        (b"\xef\xbb\xbfmobil;namn\n0701740605;\xe5ke\n", "line 2 is not UTF-8, though"),
        (b"mobil;namn\n0701740605;\x81\n", "line 2 is neither UTF-8 nor Windows-1252"),
        (b"mobil;mobil\n1;2\n", "more than one column is named 'mobil'"),
        (b"namn;ort\nAnna;Lund\n", "no column is named like a phone number column. The columns are: 'namn', 'ort'"),
        (b"Anna;0701740605\nBo;0701740606\n", "line 1 looks like a recipient"),
        (b"mobil;mobile number\n1;2\n", "several columns may hold the phone numbers: 'mobil', 'mobile number'"),
        (b'mobil;"namn\n1;2\n', "quotation mark in the header"),
    ],
)
def test_files_without_recipients_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_source(write(tmp_path / "liste.csv", content))
    assert str(caught.value).startswith("liste.csv: ")


def test_rejected_values_are_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "phone;a\n" + "x" * 200 + ";b\n" + "y" * 200 + "\n")
    assert [(row, len(value)) for row, _, value, _ in rejected_rows(open_source(path))] == [(2, 80), (3, 80)]


def test_a_header_only_gives_no_rows(tmp_path: Path) -> None:
    for text in ("phone;name", "phone;name\n", "phone\r\n", "\n\nphone;name\n\n;\n"):
        source = open_source(write(tmp_path / "a.csv", text))
        assert (valid_rows(source), rejected_rows(source)) == ([], [])


def test_chunks_have_at_most_chunk_rows(tmp_path: Path) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=";").writerows([("mobil", "n"), *(("0701740605", i) for i in range(1000))])
    source = open_source(write(tmp_path / "a.csv", text.getvalue()), chunk_rows=300)
    assert max(chunk.rows.num_rows for chunk in source.chunks()) <= 300
    assert [row[0] for row in valid_rows(source)] == list(range(2, 1002))


@pytest.mark.parametrize(
    ("content", "detected_format"),
    [
        ("Namn,Mobil\nÅsa,0701740605\n".encode("cp1252"), "numbers in column 'Mobil', Windows-1252, separated by ','"),
        ("Mobil\tNamn\n0701740605\tÅsa\n".encode("utf-16"), "numbers in column 'Mobil', UTF-16, separated by a tab"),
        ("\ufeffsep=|\nnr|mobil\n1|0701740605\n".encode(), "numbers in column 'mobil', UTF-8, separated by '|'"),
        (b"0701740605\n0701740606\n", "numbers in column 'phone', UTF-8"),
    ],
)
def test_the_detected_format_of_a_file(content: bytes, detected_format: str, tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes(content)
    assert open_source(path).detected_format == detected_format


def test_the_detected_format_of_a_frame() -> None:
    frame = pd.DataFrame({"name": ["Åsa"], "Mobil": ["0701740605"]})
    assert open_source(frame).detected_format == "numbers in column 'Mobil'"
