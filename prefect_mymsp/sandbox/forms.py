"""Reading the requests of the eight endpoints: form parameters to values, or the vendor's error code.

Source: sections 4.1.1 and 4.3 of the vendor's document.
"""

from __future__ import annotations

import codecs
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from prefect_mymsp.sandbox.accounts import MSISDN
from prefect_mymsp.sandbox.clock import END
from prefect_mymsp.sandbox.magic import MAGIC_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prefect_mymsp.sandbox.accounts import Account

# Section 4.1.1: YYYYMMDDhhmm and whole hours from UTC with their sign.
_DELIVERY_TIME = re.compile(r"(\d{4})(\d{2})(\d{2})(\d{2})(\d{2})([+-])(\d{1,2})", re.ASCII)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_MAX_PORT: Final = 65535

# Escapes, domain names, and an encoding that lets halves of surrogate pairs pass.
_NOT_CHARSETS: Final = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})


class Refusal(Exception):  # noqa: N818  a response, not an error
    """The gateway returns ``N`` and this code."""

    def __init__(self, code: int) -> None:
        self.code = code


def parse_form(data: bytes, params: dict[str, bytes]) -> None:
    """Add the form's parameters to ``params`` as bytes; which charset they are in is known only afterwards."""
    for pair in data.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name:
            value = value.replace(b"+", b" ")
            key = unquote_to_bytes(name.replace(b"+", b" ")).decode("iso-8859-1")
            params.setdefault(key, unquote_to_bytes(value) if b"%" in value else value)


def required(params: Mapping[str, bytes], name: str, *, missing: int, empty: int) -> bytes:
    """A parameter that must be there and must not be empty.

    Args:
        params: The form.
        name: Its name.
        missing: Code when it is not there.
        empty: Code when it is empty.
    """
    value = params.get(name)
    if value is None:
        raise Refusal(missing)
    if not value:
        raise Refusal(empty)
    return value


def parse_id(params: Mapping[str, bytes], name: str) -> str:
    """A message id; 392 when it is empty, 391 when it is not a number."""
    value = required(params, name, missing=392, empty=392).decode("iso-8859-1")
    if not _NUMBER.fullmatch(value):
        raise Refusal(391)
    return value


def parse_flag(params: Mapping[str, bytes], name: str, code: int) -> bool:
    """``true`` or ``false``, false when it is not there; ``code`` for anything else."""
    value = params.get(name, b"false").lower()
    if value not in {b"true", b"false"}:
        raise Refusal(code)
    return value == b"true"


def parse_port(params: Mapping[str, bytes]) -> int:
    """A destination port, 0 when it is not there; 37 for anything that is not a port."""
    port = params.get("destinationport", b"0").decode("iso-8859-1")
    if not _NUMBER.fullmatch(port) or int(port) > _MAX_PORT:
        raise Refusal(37)
    return int(port)


def decode(value: bytes, charset: str) -> str:
    """A parameter's text; 303 when it is not in the charset that the request names."""
    try:
        return value.decode(_charset(charset))
    except (LookupError, ValueError):
        # Unknown charset, or bytes that are not of it: the document has no code of its own for either.
        raise Refusal(303) from None


@lru_cache(maxsize=64)
def _charset(name: str) -> str:
    """The codec of a charset.

    Raises:
        LookupError: Python may know a codec of that name, but it is no character set of text on the wire.
    """
    codec = codecs.lookup(name).name
    if codec in _NOT_CHARSETS:
        raise LookupError(name)
    return codec


def parse_delivery_time(value: bytes, now: float) -> float:
    """A delivery time as seconds since 1970-01-01 UTC; 34 when it is malformed, 35 when it is not ahead."""
    match = _DELIVERY_TIME.fullmatch(value.decode("iso-8859-1"))
    if match is None:
        raise Refusal(34)
    year, month, day, hour, minute, hours = (int(match[i]) for i in (1, 2, 3, 4, 5, 7))
    if hours > 14:
        raise Refusal(34)
    try:
        local = datetime(year, month, day, hour, minute, tzinfo=UTC)
        moment = local - timedelta(hours=-hours if match[6] == "-" else hours)
        timestamp = moment.timestamp()
    except (ValueError, OverflowError):
        raise Refusal(34) from None
    if not now < timestamp < END.timestamp():
        raise Refusal(35)
    return timestamp


def parse_recipients(account: Account, recipients: str) -> list[str]:
    """The numbers a list of recipients stands for; one entry that is neither number nor group refuses them all."""
    numbers: list[str] = []
    for entry in recipients.split(","):
        name = entry.strip()
        if MSISDN.fullmatch(name):
            numbers.append(name)
        elif name in account.groups:
            numbers.extend(account.groups[name])
        else:
            raise Refusal(28)
    if any((magic := MAGIC_NUMBERS.get(number)) is not None and magic.refused for number in numbers):
        raise Refusal(28)
    if not numbers:
        raise Refusal(282)
    return numbers


@lru_cache(maxsize=64)
def password_forms(text: str) -> frozenset[bytes]:
    """A password in the charsets that a request may use."""
    try:
        return frozenset({text.encode(), text.encode("iso-8859-1")})
    except UnicodeEncodeError:
        return frozenset({text.encode()})
