"""Numbers that can receive SMS: one at a time by phonenumbers, common Swedish ones by the column.

Both ways give the same MSISDN. Where the column-wise one is not sure, :func:`check_number` decides.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc

from prefect_mymsp.errors import SourceError
from prefect_mymsp.phone import MSISDN_MAX_DIGITS, MSISDN_MIN_DIGITS, is_msisdn, plain_characters

_VALUE_LENGTH = 80

_SCIENTIFIC = re.compile(r"[+-]?\d+(?:[.,]\d+)?\s?[eE]\s?[+-]?\d{1,3}")
_FLOAT = re.compile(r"([+-]?\d+)[.,]0+")
_EXTENSION = re.compile(r"(?i)\d.*?(?:;\s*ext\s*=|\bext(?:ension)?\b\.?|\bankn(?:ytning)?\b\.?|\bx|#)\s*\d+$")
_TRUNK_ZERO = re.compile(r"^((?:\+|00)?)\s*([1-9]\d{0,2})[\s-]*\(0\)")
_SEVERAL = re.compile(r"\d[^/,;|&]{5,}[/,;|&]\s*[+(]?\s*\d[\d\s()-]{5,}")

_KINDS = {
    phonenumbers.PhoneNumberType.TOLL_FREE: "a toll-free number",
    phonenumbers.PhoneNumberType.PREMIUM_RATE: "a premium-rate number",
    phonenumbers.PhoneNumberType.SHARED_COST: "a shared-cost number",
    phonenumbers.PhoneNumberType.VOIP: "an Internet telephony number",
    phonenumbers.PhoneNumberType.PERSONAL_NUMBER: "a personal redirection number",
    phonenumbers.PhoneNumberType.PAGER: "a pager",
    phonenumbers.PhoneNumberType.UAN: "a company number",
    phonenumbers.PhoneNumberType.VOICEMAIL: "a voicemail box",
}
_MOBILE_KINDS = (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE)


def normalize_number(number: str, country: str = "SE") -> str:
    """Return a number as the gateway takes it: country code and number, digits only.

    Args:
        number: As it is written, such as ``070-174 06 05`` or ``+46 (0)70 174 06 05``.
        country: Country of a number written without a country code, ISO 3166-1 alpha-2.

    Raises:
        SourceError: It is no number, or cannot receive SMS; the message gives the reason.
    """
    msisdn, reason = check_number(number, country.upper(), assume_country_code=False)
    if not msisdn:
        raise SourceError(f"{number[:_VALUE_LENGTH]!r} cannot receive SMS: {reason}.")
    return msisdn


# ---- one number ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=65_536)
def check_number(cell: str, country: str, *, assume_country_code: bool) -> tuple[str, str]:
    """Return the MSISDN of a cell and the reason why there is none; one of the two is empty.

    Args:
        cell: The cell as it is written.
        country: Country of a number without a country code, in upper case.
        assume_country_code: Whether a number without plus sign may begin with a foreign country code.
    """
    text = plain_characters(cell).strip()
    if text.startswith("="):  # ="0701740605", how exporters keep Excel from reading a number
        text = text[1:].strip()
    text = text.strip("'\" ")
    if text[:4].lower() == "tel:":
        text = text[4:].strip()
    if not text:
        return "", "the number is missing"
    if _SCIENTIFIC.fullmatch(text):
        return "", (
            "a spreadsheet has turned the number into a power of ten and may have lost digits; "
            "format the column as text and enter the number again"
        )
    if float_number := _FLOAT.fullmatch(text):
        text = float_number[1]
    if fault := _find_fault(text):
        return "", fault
    if (trunk := _TRUNK_ZERO.match(text)) and int(trunk[2]) in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
        domestic = int(trunk[2]) == phonenumbers.country_code_for_region(country)
        if trunk[1] or domestic:  # +46 (0)70: the zero is for calls within the country
            text = ("+" if domestic else trunk[1]) + trunk[2] + text[trunk.end() :]
    digits = re.sub(r"\D", "", text)
    if len(digits) > 17:
        return "", f"{len(digits)} digits are too many; there may be two numbers in the cell"
    international = text.lstrip("( ").startswith("+")
    return _check_digits(digits, country, international=international, assume_country_code=assume_country_code)


def _find_fault(text: str) -> str:
    """Return why a text is no phone number, whatever its digits are; an empty text if there is no fault."""
    if not any(map(str.isdigit, text)):
        return "this is not a phone number"
    if _EXTENSION.search(text):
        return "it has an extension; SMS can only be sent to a whole number"
    if _SEVERAL.search(text):
        return "there are two numbers in the cell; keep one, or give the other a row of its own"
    for character in text:
        if character.isalpha():
            return f"it contains letters ({character!r})"
        if character not in "0123456789+-()./ ":
            return f"it contains {character!r}, which is no part of a phone number"
    if "+" in text.lstrip("( +")[1:] or text.count("+") > 1:
        return "it has a plus sign in the middle; there may be two numbers in the cell"
    return ""


def _check_digits(digits: str, country: str, *, international: bool, assume_country_code: bool) -> tuple[str, str]:
    national = None if international else _parse(digits, country)
    if international:
        number = _parse(f"+{digits}", None)
    elif national is not None and phonenumbers.is_valid_number(national):
        number = national
        if _trunk_prefix(country) == "0" and digits == phonenumbers.national_significant_number(national):
            # The leading zero is missing. The remaining digits must not be a number in another country.
            foreign = _parse(f"+{digits}", None)
            if foreign is not None and phonenumbers.is_valid_number(foreign):
                return "", f"it can be read as 0{digits} or as +{digits}; write it with its plus sign or its zero"
    elif digits.startswith("00"):
        number = _parse(f"+{digits[2:]}", None)
    else:
        number = national
        foreign = None if digits.startswith("0") else _parse(f"+{digits}", None)
        if foreign is not None and _is_mobile(foreign):
            if not assume_country_code:
                return "", f"no such number in {country}; if it is a foreign number, write it with a plus: +{digits}"
            number = foreign
    if number is None:
        return "", "no country code matches its first digits" if international else "this is not a phone number"
    if not _is_mobile(number):
        valid = phonenumbers.is_valid_number(number)
        return "", _wrong_kind(number) if valid else _impossible(number, digits)
    msisdn = f"{number.country_code}{phonenumbers.national_significant_number(number)}"
    if not is_msisdn(msisdn):
        return "", (
            f"{len(msisdn)} digits with the country code; an MSISDN has {MSISDN_MIN_DIGITS} to {MSISDN_MAX_DIGITS}"
        )
    return msisdn, ""


def _parse(text: str, country: str | None) -> Any:
    try:
        return phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException:
        return None


def _is_mobile(number: Any) -> bool:
    # number_type is UNKNOWN for an invalid number: this is a check of validity too.
    return phonenumbers.number_type(number) in _MOBILE_KINDS


def _trunk_prefix(country: str) -> str:
    metadata: Any = phonenumbers.PhoneMetadata.metadata_for_region(country)
    return str(metadata.national_prefix or "") if metadata else ""


def _impossible(number: Any, digits: str) -> str:
    result = phonenumbers.is_possible_number_with_reason(number)
    if result == phonenumbers.ValidationResult.TOO_SHORT:
        return f"{len(digits)} digits are too few for a phone number (country code +{number.country_code})"
    if result == phonenumbers.ValidationResult.TOO_LONG:
        return f"{len(digits)} digits are too many for a phone number (country code +{number.country_code})"
    if result == phonenumbers.ValidationResult.INVALID_COUNTRY_CODE:
        return f"there is no country code +{number.country_code}"
    country = phonenumbers.region_code_for_country_code(number.country_code)
    example: Any = phonenumbers.example_number_for_type(country, phonenumbers.PhoneNumberType.MOBILE)
    if example is None:
        return f"no such number; country code +{number.country_code} has no numbers of this form"
    written = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
    # Not the example itself, which looks like the number of a person.
    code, _, rest = written.partition(" ")
    form = re.sub(r"\d", "x", rest)
    return f"no such number ({len(digits)} digits); a mobile number there has the form {code} {form}"


def _wrong_kind(number: Any) -> str:
    kind = phonenumbers.number_type(number)
    if kind == phonenumbers.PhoneNumberType.FIXED_LINE:
        length = phonenumbers.length_of_geographical_area_code(number)
        area = phonenumbers.national_significant_number(number)[:length]
        trunk = _trunk_prefix(phonenumbers.region_code_for_number(number) or "001") if area else ""
        return f"a landline number{f' ({trunk}{area})' if area else ''} cannot receive SMS"
    return f"{_KINDS.get(kind, 'a number that is not mobile')} cannot receive SMS"


# ---- a column of numbers -------------------------------------------------------------------------------------------

# Separators between the digits of a number. Without the dot: 070174060.5 is left to check_number.
_COLUMN_SEPARATORS = "[ ()\u00a0-]+"


def check_column(cells: pa.Array, country: str, *, assume_country_code: bool) -> tuple[pa.Array, dict[int, str]]:
    """Check a string array of n cells without nulls.

    Args:
        cells: The cells as they are written.
        country: Country of numbers without a country code, in upper case.
        assume_country_code: As in :func:`check_number`.

    Returns:
        MSISDNs, a string array of n with null where there is none, and the reason for each of those by position.
    """
    if country == "SE" and swedish_mobile_pattern():
        msisdns, recognised = match_swedish_mobiles(cells)
        uncertain = np.flatnonzero(~recognised.to_numpy(zero_copy_only=False))
    else:
        msisdns = pa.nulls(len(cells), pa.string())
        uncertain = np.arange(len(cells))
    if not len(uncertain):
        return msisdns, {}
    checked = [
        check_number(cell, country, assume_country_code=assume_country_code)
        for cell in cells.take(pa.array(uncertain)).to_pylist()
    ]
    replaced = np.zeros(len(cells), dtype=bool)
    replaced[uncertain] = True
    msisdns = pc.replace_with_mask(
        msisdns, pa.array(replaced), pa.array([msisdn or None for msisdn, _ in checked], pa.string())
    )
    reasons = {position: reason for position, (_, reason) in zip(uncertain.tolist(), checked, strict=True) if reason}
    return msisdns, reasons


@lru_cache(maxsize=1)
def swedish_mobile_pattern() -> str:
    """Return the expression for Swedish mobile numbers without separators; empty if phonenumbers does not give one.

    The series (070, 072, 073, …) come from the installed phonenumbers, so that both ways accept the same ones. Its
    metadata must have the simple form it has had so far: two fixed digits and seven free ones.
    """
    metadata: Any = phonenumbers.PhoneMetadata.metadata_for_region("SE")
    series = metadata.mobile.national_number_pattern
    if not re.fullmatch(r"7\[\d+\]\\d\{7\}", series):
        return ""
    return rf"^(?:(?:\+|00)460?|46|0)?{series}$"


def match_swedish_mobiles(cells: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the MSISDNs of Swedish mobile numbers among the cells, and a boolean array of their positions."""
    compact = pc.replace_substring_regex(cells, _COLUMN_SEPARATORS, "")
    recognised = pc.match_substring_regex(compact, swedish_mobile_pattern())
    # The last nine characters are the national number; where they are not, the cell is not recognised.
    return pc.binary_join_element_wise("46", pc.utf8_slice_codeunits(compact, -9), ""), recognised
