"""Values to request bodies, for the eight endpoints.

Every function ``build_…`` returns the form-encoded body of a POST, and rejects values that the gateway could misread.
Section numbers are those of the vendor's document.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from prefect_mymsp.errors import InputError
from prefect_mymsp.models import JoinedMSISDNs
from prefect_mymsp.phone import are_joined_msisdns, check_group_name, parse_msisdn
from prefect_mymsp.times import ceil_minute, require_aware

#: The longest text that the gateway takes, in characters (4.1.1): five times 153 septets.
MAX_CHARACTERS = 765
#: A message id.
MESSAGE_ID = re.compile(r"[0-9]{1,40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Login:
    """User and password of a gateway account. Its repr shows neither."""

    user: str = field(repr=False)
    password: str = field(repr=False)


def _body(login: Login, fields: Iterable[tuple[str, str]] = ()) -> bytes:
    # quote, not quote_plus: every decoder reads %20 as a space, and a plus sign must be %2B.
    pairs = [("user", login.user), ("pwd", login.password), *fields]
    with contextlib.suppress(UnicodeEncodeError):
        # Commas are quoted last: recipients have nothing else to quote, and are then not examined byte by byte.
        form = urlencode(pairs, quote_via=quote, safe=",", encoding="utf-8")
        return form.replace(",", "%2C").encode("ascii")
    # Only user and password are unchecked at this point. The UnicodeEncodeError contains them, so this error is raised
    # outside its handler, where it does not become the context.
    raise InputError("The user or the password has characters that cannot be encoded as UTF-8.")


_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def format_recipients(recipients: str | Iterable[str]) -> str:
    """Format recipients: MSISDNs without ``+``, or names of groups, joined by commas (4.1.1).

    A leading ``+`` is removed. A repeated recipient is written once, so that no number gets a message twice.

    Args:
        recipients: One recipient, or several; many of them already joined as
            :class:`~prefect_mymsp.models.JoinedMSISDNs`.

    Raises:
        InputError: There are no recipients, a number is not an MSISDN, or a group name cannot be sent.
    """
    if isinstance(recipients, JoinedMSISDNs) and are_joined_msisdns(recipients):
        return recipients
    names: list[Any] = [recipients] if isinstance(recipients, str) else list(recipients)
    with contextlib.suppress(TypeError):  # a recipient that is not a string
        joined = ",".join(names)
        # The usual case: all are MSISDNs, and are checked at once.
        if are_joined_msisdns(joined) and joined.count(",") == len(names) - 1:
            return ",".join(dict.fromkeys(names))
    distinct: dict[str, None] = {}
    for position, recipient in enumerate(names, start=1):
        if not isinstance(recipient, str):
            raise InputError(f"Recipient {position} is of type {type(recipient).__name__}; use strings for MSISDNs.")
        name = recipient.strip()
        msisdn = parse_msisdn(name)
        if msisdn is None:
            _check_group(name, position)
        distinct[msisdn or name] = None
    if not distinct:
        raise InputError("There are no recipients.")
    return ",".join(distinct)


def _check_group(name: str, position: int) -> None:
    if name and "," not in name and not any(map(str.isalpha, name)):
        raise InputError(
            f"Recipient {position} is neither an MSISDN nor a group name. Write country code and number as digits "
            "only, for instance 46701740605; the name of a group needs a letter."
        )
    try:
        check_group_name(name)
    except InputError as error:
        raise InputError(f"Recipient {position}: {error}") from None


def format_text(text: str) -> str:
    """Check a text: not blank, at most 765 characters (4.1.1), encodable as UTF-8.

    Raises:
        InputError: The text cannot be sent.
    """
    if not text.strip():
        raise InputError("The text is empty.")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"The text has {len(text)} characters; the gateway takes {MAX_CHARACTERS} at most.")
    if _SURROGATE.search(text):
        raise InputError("The text has half a surrogate pair, which cannot be encoded.")
    return text


def format_delivery_time(send_at: datetime) -> str:
    """Format a delivery time as ``YYYYMMDDhhmm+0`` (4.1.1), rounded up to the whole minute.

    Always in UTC: the zone field has whole hours only, and not every zone has.

    Raises:
        InputError: The time is naive or out of range.
    """
    require_aware(send_at, "send_at")
    try:
        minute = ceil_minute(send_at)
    except OverflowError:
        raise InputError("send_at is out of range.") from None
    return f"{minute.year:04}{minute.month:02}{minute.day:02}{minute.hour:02}{minute.minute:02}+0"


def _message_id(value: str | int) -> str:
    text = str(value).strip()
    if isinstance(value, bool) or not MESSAGE_ID.fullmatch(text):
        raise InputError("A message id must be a number, as the gateway returned it.")
    return text


def check_port(destination_port: int) -> None:
    """Check a destination port.

    Raises:
        InputError: It is not from 1 to 65535.
    """
    if isinstance(destination_port, bool) or not 0 < destination_port < 65536:
        raise InputError(f"The destination port must be from 1 to 65535, not {destination_port}.")


def build_send(
    login: Login,
    recipients: str | Iterable[str],
    text: str,
    *,
    originator: str | None = None,
    send_at: datetime | None = None,
    flash: bool = False,
    destination_port: int | None = None,
) -> bytes:
    """The body of a ``sendSms`` request (4.1.1); always with ``charset=UTF-8``.

    Raises:
        InputError: A value cannot be sent.
    """
    fields = [("recipients", format_recipients(recipients)), ("msg", format_text(text)), ("charset", "UTF-8")]
    if originator is not None:
        if not originator.strip() or _CONTROL.search(originator) or _SURROGATE.search(originator):
            raise InputError("sender is empty or has control characters; leave it out to use the account's own.")
        fields.append(("originator", originator.strip()))
    if send_at is not None:
        fields.append(("deliverytime", format_delivery_time(send_at)))
    if flash:
        fields.append(("isflash", "true"))
    if destination_port is not None:
        check_port(destination_port)
        fields.append(("destinationport", str(destination_port)))
    return _body(login, fields)


def build_result(login: Login, message_id: str | int) -> bytes:
    """The body of a ``getSmsResult`` request (4.2.1)."""
    return _body(login, [("msgId", _message_id(message_id))])


def build_scheduled_time(login: Login, message_id: str | int) -> bytes:
    """The body of a ``sendlater/get`` request (4.3.1.1)."""
    return _body(login, [("msgno", _message_id(message_id))])


def build_scheduled(login: Login) -> bytes:
    """The body of a ``sendlater/getall`` request (4.3.2.1)."""
    return _body(login)


def build_reschedule(login: Login, message_id: str | int, send_at: datetime) -> bytes:
    """The body of a ``sendlater/update`` request (4.3.4.1)."""
    return _body(login, [("msgno", _message_id(message_id)), ("deliverytime", format_delivery_time(send_at))])


def build_cancel(login: Login, message_id: str | int) -> bytes:
    """The body of a ``sendlater/cancel`` request (4.3.5.1)."""
    return _body(login, [("msgno", _message_id(message_id))])


def build_inbox(login: Login, after_id: str | int = 0) -> bytes:
    """The body of a ``getMsgReceived`` request (4.4.1), always with ``clean``.

    A cleaned text has neither tabs nor line breaks, so no text can look like a record.
    """
    return _body(login, [("lastMsgId", _message_id(after_id)), ("clean", "true")])


def build_updates(login: Login) -> bytes:
    """The body of a ``getMsgUpdates`` request (4.5.1)."""
    return _body(login)
