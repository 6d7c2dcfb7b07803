"""MSISDNs, group names and masking: one rule each, tried on every form of a number that the package reads or writes."""

# ruff: noqa: RUF001  look-alikes of digits and dashes are part of the forms
from __future__ import annotations

import sys
import unicodedata

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_mymsp import phone
from prefect_mymsp.errors import InputError, SourceError
from prefect_mymsp.phone import (
    MSISDN_MAX_DIGITS,
    MSISDN_MIN_DIGITS,
    are_joined_msisdns,
    check_group_name,
    gateway_digits,
    is_msisdn,
    mask_number,
    mask_numbers,
    mask_value,
    parse_msisdn,
)
from prefect_mymsp.recipients import normalize_number

# ---- MSISDNs


@pytest.mark.parametrize("text", ["46701740605", "71120", "1" * MSISDN_MIN_DIGITS, "9" * MSISDN_MAX_DIGITS, "6907290"])
def test_an_msisdn_is_read_with_and_without_a_plus_sign(text: str) -> None:
    assert is_msisdn(text)
    assert not is_msisdn(f"+{text}")
    assert parse_msisdn(text) == parse_msisdn(f"+{text}") == text
    assert are_joined_msisdns(text)
    assert are_joined_msisdns(f"{text},46701740605")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "4670",
        "1" * (MSISDN_MIN_DIGITS - 1),
        "9" * (MSISDN_MAX_DIGITS + 1),
        "0701740605",
        "0046701740605",
        "++46701740605",
        "+46 701740605",
        " 46701740605",
        "46701740605\n",
        "46701740605;",
        "٤٦٧٠١٧٤٠٦٠٥",
        "Acme",
        "@group",
    ],
)
def test_other_texts_are_not_msisdns(text: str) -> None:
    assert not is_msisdn(text)
    assert parse_msisdn(text) is None
    assert not are_joined_msisdns(text)
    assert not are_joined_msisdns(f"46701740605,{text}")


@given(st.text("0123456789,+", max_size=40))
def test_joined_msisdns_are_msisdns_with_commas_between_them(text: str) -> None:
    assert are_joined_msisdns(text) == all(map(is_msisdn, text.split(",")))


@pytest.mark.parametrize(
    ("written", "digits"),
    [
        ("46701740605", "46701740605"),
        ("+46701740605", "46701740605"),
        ("0046701740605", "46701740605"),
        ("+46 70-174 06 05", "46701740605"),
        ("@Staff", "@Staff"),
        ("no\x00digits", "no\ufffddigits"),
        ("", ""),
    ],
)
def test_a_recipient_of_the_gateway_is_reduced_to_its_digits(written: str, digits: str) -> None:
    assert gateway_digits(written) == digits


# ---- group names


@pytest.mark.parametrize("name", ["Staff", "2024 A", "Föräldrar & barn; 50+", "x" * 199, "@home", "幹事"])
def test_a_group_name_is_returned_without_outer_spaces(name: str) -> None:
    assert check_group_name(f" {name}\t") == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        (" \t", "is empty"),
        ("a,b", "'a,b' has a comma"),
        ("2024!", "'2024!' has no letter"),
        ("46701740605", "'46•••••••05' has no letter"),
        ("+46 70 174 06 05", "has no letter"),
        ("🔥", "has no letter"),
        ("Team\n1", "control character"),
        ("Team\x00", "control character"),
        ("Team \ud83d", "broken Unicode"),
        ("x" * 200, "200 characters; at most 199"),
    ],
)
def test_a_group_name_that_cannot_be_sent(name: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        check_group_name(name)
    assert reason in str(caught.value)
    assert "701740605" not in str(caught.value)


# ---- masking

PREFIXES = ["0", "", "+46", "46", "0046", "+46 (0)", "+46(0)", "46(0)", "0046 (0)", "(+46) ", "+46 0", "(070) "]
GAPS = ["", " ", "-", ".", "/", " - ", " / ", *"\u00a0\u202f\u2009\u2013\u2011\u2212\u200b\uff0d"]
WRAPPERS = ["{}", "'{}", "\u2019{}", '"{}"', '="{}"', "tel:{}", "\u202a{}\u202c", "\ufeff{}", "({})", " {} ", "{}.0"]
SENTENCES = ["{}", "Ring {}!", "Svara {}, eller 08.00-16.30.", "2026-11-28 09:15: {} svarar inte", "Anna;{};Lund"]
WIDE = str.maketrans("0123456789+-()./", "０１２３４５６７８９＋－（）．／")
ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")


@st.composite
def written_numbers(draw: st.DrawFn) -> tuple[str, str]:
    """A Swedish mobile number's digits after 0 or +46, and the number in one of the ways that people write it."""
    national = f"7{draw(st.sampled_from('02369'))}{draw(st.integers(0, 9_999_999)):07}"
    prefix, gap = draw(st.sampled_from(PREFIXES)), draw(st.sampled_from(GAPS))
    if prefix == "(070) ":
        national = f"70{national[2:]}"
        digits, written = national[2:], "(070) "
    else:
        digits, written = national, prefix
    sizes = draw(st.sampled_from([(9,), (2, 3, 2, 2), (2, 7), (2, 3, 4), (3, 3, 3), (2, 2, 2, 3), (1, 2, 2, 2, 2)]))
    groups, start = [], 0
    for size in sizes:
        groups.append(digits[start : start + size])
        start += size
    written += gap.join(group for group in groups if group)
    if draw(st.booleans()):
        written = written.translate(draw(st.sampled_from([WIDE, ARABIC])))
    return national, draw(st.sampled_from(WRAPPERS)).format(written)


def shown_digits(text: str) -> str:
    return "".join(str(unicodedata.digit(character)) for character in text if character.isdigit())


@settings(max_examples=1500, deadline=None)
@given(written_numbers())
def test_a_masked_number_shows_four_digits_in_whatever_form_it_is_written(number: tuple[str, str]) -> None:
    national, written = number
    for masked in (mask_number(written), mask_numbers(written), mask_value(written)):
        assert len(shown_digits(masked)) <= 4
        assert len(masked) == len(written)
        assert all(after in (before, "•") for before, after in zip(written, masked, strict=True))
        assert national[3:] not in shown_digits(masked)


@settings(max_examples=1500, deadline=None)
@given(written_numbers(), st.sampled_from(SENTENCES))
def test_a_number_is_masked_in_a_sentence(number: tuple[str, str], sentence: str) -> None:
    _, written = number
    before, _, after = sentence.partition("{}")
    masked = mask_numbers(sentence.format(written))
    assert masked.startswith(before)
    assert masked.endswith(after)
    inner = masked[len(before) : len(masked) - len(after)]
    assert len(inner) == len(written)
    assert len(shown_digits(inner)) <= 4


@settings(max_examples=300, deadline=None)
@given(written_numbers())
def test_the_forms_are_those_that_the_package_reads(number: tuple[str, str]) -> None:
    national, written = number
    try:
        assert normalize_number(written) == f"46{national}"
    except SourceError:
        # A series that nobody has, or a form that is refused; its mask must hold all the same.
        series = phonenumbers.is_valid_number(phonenumbers.parse(f"+46{national}", None))
        assert not series or any(sign in written for sign in ("/", "／", ".0", ".٠", "．０", "=", "("))


def test_example_numbers_of_all_countries_are_masked() -> None:
    formats = phonenumbers.PhoneNumberFormat
    for country in phonenumbers.SUPPORTED_REGIONS:
        number = phonenumbers.example_number_for_type(country, phonenumbers.PhoneNumberType.MOBILE)
        if number is None:
            continue
        national = phonenumbers.format_number(number, formats.NATIONAL)
        assert len(shown_digits(mask_number(national))) <= 4
        for form in (formats.E164, formats.INTERNATIONAL, formats.RFC3966):
            written = phonenumbers.format_number(number, form)
            assert len(shown_digits(mask_number(written))) <= 4
            assert len(shown_digits(mask_numbers(f"It is {written}."))) <= 4
        if len(shown_digits(national)) >= 8:  # the line that is drawn in texts
            assert len(shown_digits(mask_numbers(f"It is {national}."))) <= 4


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("46701740605", "46•••••••05"),
        ("+46701740605", "+46•••••••05"),
        ("070-174 06 05", "07•-••• •• 05"),
        ("+46 70 174 06 05", "+46 •• ••• •• 05"),
        ("12015550100", "12•••••••00"),
        ("46709", "46•09"),
        ("611 1234", "61• ••34"),
        ("4670", "4670"),
        ("@Staff", "@Staff"),
        ("@Test 0701740605", "@Test 07••••••05"),
        ("Telia", "Telia"),
        ("Shop24", "Shop24"),
        ("", ""),
    ],
)
def test_a_number_field_shows_two_digits_at_each_end(number: str, shown: str) -> None:
    assert mask_number(number) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ring 0701740612!", "Ring 07••••••12!"),
        ("eller 070-174 06 12.", "eller 07•-••• •• 12."),
        ("+46 (0)70 174 06 12", "+46 (•)•• ••• •• 12"),
        ("46701740612;46701740613", "46•••••••12;46•••••••13"),
        ("070-174 06 12, 070-174 06 13", "07•-••• •• 12, 07•-••• •• 13"),
        ("+690 7290 in Tokelau", "+69• ••90 in Tokelau"),
        ("it can be read as 0701740605 or as +46701740605", "it can be read as 07••••••05 or as +46•••••••05"),
        ("12 000 000 kr", "12 ••• •00 kr"),
    ],
)
def test_a_number_in_a_text_shows_two_digits_at_each_end(text: str, shown: str) -> None:
    assert mask_numbers(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Ok",
        "order 1234567",
        "28: 12 digits, 160 characters",
        "rows 2, 4, 5, 12, 170, 2045",
        "1 299,50 kr eller 1.234.567,00 kr",
        "den 2030-01-31 kl 08.30-09.15",
        "2026-11-28 09:15:42 +01:00",
        "2026-11-28T09:15:42.123456+01:00",
        "31/12 2026 09.15",
        "28.11.2026 - 29.11.2026",
        "5 of 1000 messages, 2 of 300 rows",
    ],
)
def test_dates_times_amounts_and_counts_stay(text: str) -> None:
    assert mask_numbers(text) == text


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("070-174 06 05", "•••-••• •• 05"),
        ("+46 (0)70 174 06 05", "+•• (•)•• ••• •• 05"),
        ("4,67017E+10", "•,••••••+10"),
        ("Anna Andersson", "•••• •••••••on"),
        ("1234", "••••"),
        ("", ""),
    ],
)
def test_a_value_shows_its_last_two_characters(value: str, shape: str) -> None:
    assert mask_value(value) == shape


def test_every_space_dash_and_invisible_character_is_known_to_the_masker() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in {"Zs", "Pd", "Cf"}:
            assert len(shown_digits(mask_numbers(f"070{character}1740605"))) == 4, hex(code)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789 +-()./:\u200b,;ab\n") | st.characters(), max_size=60))
def test_masking_hides_digits_and_changes_nothing_else(text: str) -> None:
    for mask in (mask_number, mask_numbers):
        masked = mask(text)
        assert len(masked) == len(text)
        assert all(
            after == before or (after == "•" and before.isdigit()) for before, after in zip(text, masked, strict=True)
        )


def test_masking_takes_time_in_proportion_to_the_text() -> None:
    text = "1 (" * 20_000 + "1" + "\u200b" * 20_000
    assert len(mask_numbers(text)) == len(text)
    assert phone.mask_numbers("1" * 100_000).count("•") == 100_000 - 4
