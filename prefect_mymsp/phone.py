"""Phone numbers and group names: what an MSISDN is, what a group may be called, how numbers are masked.

Every other module takes these rules from here. The module needs the standard library only, because
``import prefect_mymsp`` loads it. Reading a number as people write it needs the package phonenumbers:
:func:`prefect_mymsp.recipients.normalize_number`.
"""

from __future__ import annotations

import re
import unicodedata

from prefect_mymsp.errors import InputError

__all__ = [
    "GROUP_SIGN",
    "MAX_GROUP_NAME_LENGTH",
    "MSISDN_MAX_DIGITS",
    "MSISDN_MIN_DIGITS",
    "are_joined_msisdns",
    "check_group_name",
    "gateway_digits",
    "is_msisdn",
    "mask_number",
    "mask_numbers",
    "mask_value",
    "parse_msisdn",
    "plain_characters",
]

# ---- MSISDNs -------------------------------------------------------------------------------------------------------

#: An MSISDN is country code and number, ASCII digits only. At most 15 digits (ITU-T E.164, section 6.2.1), and no
#: country code begins with 0. E.164 has no lower bound. The shortest mobile numbers have 7 digits (Tokelau, +690), and
#: a short code of 5 digits can write to the inbox and be suppressed. Hence 5.
MSISDN_MIN_DIGITS = 5
#: The longest MSISDN, in digits (E.164).
MSISDN_MAX_DIGITS = 15

_MSISDN_PATTERN = f"[1-9][0-9]{{{MSISDN_MIN_DIGITS - 1},{MSISDN_MAX_DIGITS - 1}}}"
_MSISDN = re.compile(rf"\+?({_MSISDN_PATTERN})", re.ASCII)
# Possessive: a batch of 500 numbers is matched without backtracking.
_JOINED_MSISDNS = re.compile(rf"(?:{_MSISDN_PATTERN}+,)*+{_MSISDN_PATTERN}", re.ASCII)


def parse_msisdn(text: str) -> str | None:
    """Return the MSISDN, without its plus sign if it has one; None if the text is not an MSISDN."""
    match = _MSISDN.fullmatch(text)
    return None if match is None else match[1]


def is_msisdn(text: str) -> bool:
    """Whether a text is an MSISDN, written without a plus sign."""
    return parse_msisdn(text) == text


def are_joined_msisdns(text: str) -> bool:
    """Whether a text is one or more MSISDNs with commas between them."""
    return _JOINED_MSISDNS.fullmatch(text) is not None


def gateway_digits(recipient: str) -> str:
    """Reduce a number as the gateway writes it to the digits that identify it.

    The gateway decides whether it writes a plus sign, two zeros or neither before the country code; no country code
    begins with 0. A recipient without digits is returned as it is, except that NUL, which PostgreSQL cannot store, is
    replaced.
    """
    digits = "".join(character for character in recipient if character in "0123456789")
    return digits.removeprefix("00") or recipient.replace("\x00", "\ufffd")


# ---- groups --------------------------------------------------------------------------------------------------------

#: Stands before the name of a group where the journal has an MSISDN otherwise.
GROUP_SIGN = "@"
#: The journal stores a group as ``@name`` in 200 characters.
MAX_GROUP_NAME_LENGTH = 199

_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")


def check_group_name(name: str) -> str:
    """Check the name of a recipient group and return it without outer spaces.

    Raises:
        InputError: The gateway could misread the name, or the journal cannot store it. Nothing was sent.
    """
    name = name.strip()
    shown = repr(mask_numbers(name))
    if not name:
        raise InputError("The name of a recipient group is empty.")
    if "," in name:
        raise InputError(
            f"The recipient group {shown} has a comma in its name. The gateway reads a comma as the end of a "
            "recipient. Rename the group at the gateway, or give several groups as a list."
        )
    if not any(map(str.isalpha, name)):
        raise InputError(
            f"The recipient group {shown} has no letter in its name. The gateway could read it as a phone number. "
            "Rename the group at the gateway."
        )
    if _UNSENDABLE.search(name):
        raise InputError(f"The recipient group {shown} has a control character or broken Unicode in its name.")
    if len(name) > MAX_GROUP_NAME_LENGTH:
        raise InputError(
            f"The name of a recipient group has {len(name)} characters; at most {MAX_GROUP_NAME_LENGTH} are possible."
        )
    return name


# ---- characters ----------------------------------------------------------------------------------------------------

_INVISIBLE = "\u200b"


class _PlainCharacters(dict[int, str]):
    """For :meth:`str.translate`, one character for one: digits, spaces and dashes of all scripts to ASCII.

    Invisible characters (zero width, bidirectional marks, soft hyphen, BOM) become U+200B.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        plain = character
        if category == "Cf":
            plain = _INVISIBLE
        elif category == "Zs" or character in "\t\n\r\v\f\x85\u2028\u2029":
            plain = " "
        elif category == "Pd" or character == "\u2212":
            plain = "-"
        elif category == "Nd":
            plain = str(unicodedata.decimal(character))
        self[code] = plain
        return plain


_LOOK_ALIKES = zip("＋（）．／；，‘’´`＂“”", "+()./;,''''\"\"\"", strict=True)  # noqa: RUF001
_PLAIN = _PlainCharacters({ord(written): plain for written, plain in _LOOK_ALIKES})


def plain_characters(text: str) -> str:
    """Write a text with ASCII digits, spaces, dashes and signs, and without invisible characters."""
    return text.translate(_PLAIN).replace(_INVISIBLE, "")


# ---- masking -------------------------------------------------------------------------------------------------------

# The first two and the last two digits of a number stay.
_SHOWN = 2
_HIDDEN = "•"

# Between two digits of one number in a text: at most four signs, so that ``+46 - (0) 70`` is one number; or a colon,
# which joins the parts of a time.
_GAP = rf"(?:(?:{_INVISIBLE}*[ \t\-./()]){{0,4}}{_INVISIBLE}*|:)"
_CANDIDATE = re.compile(rf"(?:\+[ (]{{0,3}}{_INVISIBLE}*)?[0-9](?:{_GAP}[0-9])+", re.ASCII)
#: Digits without a plus sign that are a number in a text. Fewer are an amount, an order number or a year.
_MIN_DIGITS_IN_TEXT = 8

_DAY, _MONTH, _YEAR = "(?:0?[1-9]|[12][0-9]|3[01])", "(?:0?[1-9]|1[0-2])", "(?:19|20)[0-9]{2}"
_MOMENT = "|".join(
    (
        *(f"{_YEAR}[{sign}]{_MONTH}[{sign}]{_DAY}" for sign in "-./"),
        *(f"{_DAY}[{sign}]{_MONTH}[{sign}]{_YEAR}" for sign in "-./"),
        f"{_DAY}/{_MONTH}(?: {_YEAR})?",
        r"(?:[01]?[0-9]|2[0-4])[:.][0-5][0-9](?:[:.][0-5][0-9](?:\.[0-9]+)?)?",
    )
)
_DATES_AND_TIMES = re.compile(f"(?:{_MOMENT})(?:[ -]{{1,3}}(?:{_MOMENT}))*")


def mask_number(number: str) -> str:
    """Hide a number but for its first two and last two digits, however it is written.

    For columns and fields that hold the number of a person. The name of a group or of a sender stays, and so does a
    number of fewer than five digits, which is no person's; numbers within a name are hidden as in :func:`mask_numbers`.
    """
    if number.isdecimal() and len(number) >= MSISDN_MIN_DIGITS:  # nearly always
        return f"{number[:_SHOWN]}{_HIDDEN * (len(number) - 2 * _SHOWN)}{number[-_SHOWN:]}"
    if any(map(str.isalpha, number)):
        return mask_numbers(number)
    return _hide_digits(number) if sum(map(str.isdigit, number)) >= MSISDN_MIN_DIGITS else number


def mask_numbers(text: str) -> str:
    """Hide the phone numbers in a text but for their first two and last two digits.

    A number is a plus sign and at least five digits, or at least eight digits, in one piece or with spaces, dashes,
    dots, slashes and parentheses between them, in one line. Dates and times with separators stay, and so does whatever
    has fewer digits: years, most amounts, order numbers. An amount of eight digits is hidden, because many countries
    have phone numbers of eight digits.
    """
    return "".join(map(_mask_line, text.splitlines(keepends=True)))


def mask_value(value: str) -> str:
    """Hide all letters and digits of a cell but the last two: the cell of a rejected row may hold anything."""
    places = [place for place, character in enumerate(value) if character.isalnum()]
    return _hide(value, places if len(places) <= 2 * _SHOWN else places[:-_SHOWN])


def _mask_line(line: str) -> str:
    plain = line if line.isascii() else line.translate(_PLAIN)
    parts, end = [], 0
    for match in _CANDIDATE.finditer(plain):
        if _is_number(match[0]):
            parts += [line[end : match.start()], _hide_digits(line[match.start() : match.end()])]
            end = match.end()
    return "".join([*parts, line[end:]]) if parts else line


def _is_number(candidate: str) -> bool:
    count = sum(map(str.isdigit, candidate))
    if candidate.startswith("+"):
        return count >= MSISDN_MIN_DIGITS
    return count >= _MIN_DIGITS_IN_TEXT and not _DATES_AND_TIMES.fullmatch(candidate)


def _hide_digits(number: str) -> str:
    places = [place for place, character in enumerate(number) if character.isdigit()]
    return _hide(number, places[_SHOWN:-_SHOWN])


def _hide(text: str, places: list[int]) -> str:
    characters = list(text)
    for place in places:
        characters[place] = _HIDDEN
    return "".join(characters)
