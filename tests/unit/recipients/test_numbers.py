"""Which cells are numbers that can receive SMS, and the reasons why others are not."""

# ruff: noqa: RUF001  look-alikes of digits and dashes are what is tested here
from __future__ import annotations

import itertools

import phonenumbers
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_mymsp.errors import SourceError
from prefect_mymsp.phone import is_msisdn
from prefect_mymsp.recipients import normalize_number
from prefect_mymsp.recipients.numbers import check_number, match_swedish_mobiles, swedish_mobile_pattern
from tests.unit.recipients.tables import A


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
def test_a_number_is_read_in_many_forms(cell: str) -> None:
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
def test_a_cell_that_cannot_receive_sms_has_a_reason(cell: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        normalize_number(cell)


def test_foreign_numbers_are_read() -> None:
    assert normalize_number("+1 202 555 0123") == "12025550123"  # in the USA landline and mobile look alike
    assert normalize_number("0047 412 34 567") == "4741234567"
    assert normalize_number("412 34 567", "no") == "4741234567"
    with pytest.raises(SourceError, match="can be read as"):
        normalize_number("15123456789", "DE")  # 0151 23456789 without its zero, or a mobile in Texas


def test_the_swedish_series_are_those_of_phonenumbers() -> None:
    assert swedish_mobile_pattern()
    assert {normalize_number(f"0{series}1740605") for series in (70, 72, 73, 76, 79)}
    for series, tail in itertools.product(range(1000), ("000000", "123456", "999999")):
        number = phonenumbers.parse(f"+46{series:03}{tail}", None)
        mobile = phonenumbers.number_type(number) == phonenumbers.PhoneNumberType.MOBILE
        fast = match_swedish_mobiles(pa.array([f"0{series:03}{tail}"]))[1][0].as_py()
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
def test_the_column_check_agrees_with_phonenumbers(cell: str) -> None:
    msisdns, sure = match_swedish_mobiles(pa.array([cell]))
    if sure[0].as_py():
        assert check_number(cell, "SE", assume_country_code=False) == (msisdns[0].as_py(), "")
        assert check_number(cell, "SE", assume_country_code=True) == (msisdns[0].as_py(), "")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=25), st.sampled_from(["SE", "US", "DE", "IT"]))
def test_any_cell_has_either_an_msisdn_or_a_reason(cell: str, country: str) -> None:
    msisdn, reason = check_number(cell, country, assume_country_code=False)
    assert bool(msisdn) != bool(reason)
    assert not msisdn or (msisdn.isdigit() and msisdn.isascii() and is_msisdn(msisdn))
