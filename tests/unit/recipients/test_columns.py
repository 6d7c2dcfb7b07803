"""Which column holds the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_mymsp.errors import SourceError
from prefect_mymsp.recipients import open_source
from tests.unit.recipients.tables import A, valid_rows, write


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
    assert valid_rows(open_source(path, phone_column="Contact"))[0][:2] == (2, A)
    with pytest.raises(SourceError, match="differ only in case"):
        open_source(path, phone_column="CONTACT")
    with pytest.raises(SourceError, match=r"no column 'phnoe'. Did you mean 'Phone'\? The columns are: 'Phone'"):
        open_source(path, phone_column="phnoe")


def test_a_column_called_msisdn_holds_country_codes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "msisdn\n4741234567\n46701740605\n")
    assert valid_rows(open_source(path)) == [(2, "4741234567", "4741234567"), (3, A, A)]


def test_a_source_may_have_columns_called_row_and_msisdn(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "row,msisdn\nx,0701740605\n")
    assert valid_rows(open_source(path)) == [(2, A, "x", "0701740605")]
