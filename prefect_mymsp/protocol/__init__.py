"""Bytes to values and back for the eight endpoints; no I/O, nothing but the standard library.

Strict in what is built, tolerant in how an answer is framed, never guessing whether an SMS was sent. Section numbers
refer to the vendor's document, "myMSP API v2 Appendix HTTPS", revision M. Every builder returns the form-encoded body
of a POST; every parser takes the :class:`Response` and returns a value or raises :class:`~.errors.RefusedError` or
:class:`~.errors.ProtocolError`, nothing else.

Known deviations between the document's text and its examples:

* 4.3.1.2 shows a 15-character time, 4.3.2.2 one of 16: the tenth of a second may be missing.
* 4.5.2 announces ``YYMMDDhhmmssZZZZ`` for delivery reports and shows ``YYYY-MM-DD hh:mm``: both are read.
* The message number is ``msgId`` in 4.2 and ``msgno`` in 4.3.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.message import Message
from typing import Any
from urllib.parse import quote, urlencode

from prefect_mymsp.errors import InputError, ProtocolError, RefusedError
from prefect_mymsp.models import (
    DeliveryReport,
    Inbox,
    JoinedMSISDNs,
    ReceivedMessage,
    RecipientStatuses,
    ScheduledMessage,
    SmsResult,
    Updates,
)
from prefect_mymsp.phone import are_joined_msisdns, check_group_name, parse_msisdn
from prefect_mymsp.times import ceil_minute, require_aware, resolve_repeated_hour

#: Longest text the gateway takes, in characters (4.1.1): five times 153 septets.
MAX_CHARACTERS = 765

SEND = "sendSms"
RESULT = "getSmsResult"
SCHEDULED_TIME = "sendlater/get"
SCHEDULED = "sendlater/getall"
RESCHEDULE = "sendlater/update"
CANCEL = "sendlater/cancel"
INBOX = "getMsgReceived"
UPDATES = "getMsgUpdates"

# --------------------------------------------------------------------------------------------- error codes

_ACCOUNT = {
    7: "the account may not do this: user, password or permission is wrong",
    13: "an error the gateway does not explain; its support must be asked",
    22: "the user is empty",
    23: "the user is missing",
    24: "the password is empty",
    25: "the password is missing",
}
_MESSAGE_ID = {
    391: "the message id is not valid",
    392: "the message id is empty",
}
_SCHEDULE = {
    34: "the delivery time is not in the gateway's form",
    35: "the delivery time is not in the future",
}
_NO_SUCH_MESSAGE = {32: "there is no message with this id"}

#: What each code means at each endpoint (4.1.3, 4.2.3, 4.3.1.3, 4.3.3, 4.3.4.3, 4.3.5.3, 4.4.3, 4.5.3).
MEANINGS: dict[str, dict[int, str]] = {
    SEND: {
        **_ACCOUNT,
        11: "the account has sent as many messages as it may",
        12: "the account's credits do not cover the message",
        28: "at least one recipient is not a number the gateway can use; it does not say which",
        29: "the recipients are missing",
        30: "the text is empty",
        31: "the text is missing",
        33: "the originator is not registered with the gateway",
        **_SCHEDULE,
        36: "the flash setting is not one the gateway knows",
        37: "the destination port is not one the gateway can use",
        38: "the express setting is not one the gateway knows",
        282: "the recipients are empty",
        303: "the message cannot be handed on to the operator (invalid UCP)",
    },
    RESULT: {**_ACCOUNT, **_NO_SUCH_MESSAGE, **_MESSAGE_ID, 323: "the message has been archived"},
    SCHEDULED_TIME: {**_ACCOUNT, **_NO_SUCH_MESSAGE, **_MESSAGE_ID},
    SCHEDULED: dict(_ACCOUNT),
    RESCHEDULE: {
        **_ACCOUNT,
        **_NO_SUCH_MESSAGE,
        **_SCHEDULE,
        **_MESSAGE_ID,
        351: "the message has been sent already, its time cannot be changed",
    },
    CANCEL: {
        **_ACCOUNT,
        **_NO_SUCH_MESSAGE,
        **_MESSAGE_ID,
        351: "the message has been sent already, it cannot be cancelled",
    },
    INBOX: {**_ACCOUNT, 391: "the last message id is not valid", 392: "the last message id is missing"},
    UPDATES: dict(_ACCOUNT),
}


def meaning(endpoint: str, code: int) -> str:
    """What a code means at an endpoint, in our words; a code that is not documented there is said to be so."""
    return MEANINGS[endpoint].get(code, "not in the vendor's document for this endpoint")


# ------------------------------------------------------------------------------------------------ requests


@dataclass(frozen=True, slots=True)
class Login:
    """User and password of a gateway account; neither is ever shown."""

    user: str = field(repr=False)
    password: str = field(repr=False)


def _body(login: Login, fields: Iterable[tuple[str, str]] = ()) -> bytes:
    # quote rather than quote_plus: a space as %20 is read alike by every decoder, and a plus sign must be %2B.
    pairs = [("user", login.user), ("pwd", login.password), *fields]
    with contextlib.suppress(UnicodeEncodeError):
        # Commas come last: what holds nothing else to quote, as recipients do, is not looked at byte by byte.
        form = urlencode(pairs, quote_via=quote, safe=",", encoding="utf-8")
        return form.replace(",", "%2C").encode("ascii")
    # Of what reaches this point only user and password have not been checked. They must not be shown, and the error
    # just left behind holds them: raised inside its handler, this one would carry it as its context.
    raise InputError("User or password holds characters that cannot be encoded as UTF-8.")


_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def format_recipients(recipients: str | Iterable[str]) -> str:
    """Recipients as the gateway takes them: MSISDNs without ``+`` or names of groups, joined by commas (4.1.1).

    A leading ``+`` is removed and a repeated recipient is named once, so that nobody gets one message twice.

    Args:
        recipients: One recipient, or several; several in one piece as
            :class:`~prefect_mymsp.models.JoinedMSISDNs`.

    Raises:
        InputError: Nobody to send to, a number in national form, or a group name that cannot be sent.
    """
    if isinstance(recipients, JoinedMSISDNs) and are_joined_msisdns(recipients):
        return recipients
    names: list[Any] = [recipients] if isinstance(recipients, str) else list(recipients)
    with contextlib.suppress(TypeError):  # one of them is no text
        joined = ",".join(names)
        # Nearly every request: all are MSISDNs, and are checked in one go.
        if are_joined_msisdns(joined) and joined.count(",") == len(names) - 1:
            return ",".join(dict.fromkeys(names))
    seen: dict[str, None] = {}
    for position, given in enumerate(names, start=1):
        if not isinstance(given, str):
            raise InputError(f"Recipient {position} is {type(given).__name__}, not text; give MSISDNs as text.")
        name = given.strip()
        msisdn = parse_msisdn(name)
        if msisdn is None:
            _check_group(name, position)
        seen[msisdn or name] = None
    if not seen:
        raise InputError("There are no recipients.")
    return ",".join(seen)


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
    """The text, checked: not blank, at most 765 characters (4.1.1), encodable as UTF-8.

    Raises:
        InputError: The text cannot be sent.
    """
    if not text.strip():
        raise InputError("The text is empty.")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"The text has {len(text)} characters; the gateway takes {MAX_CHARACTERS} at most.")
    if _SURROGATE.search(text):
        raise InputError("The text holds half a surrogate pair, which no encoding can carry.")
    return text


def format_delivery_time(send_at: datetime) -> str:
    """An aware time as ``YYYYMMDDhhmm+0`` (4.1.1), rounded up to the next whole minute.

    Always in UTC: the document's zone field has whole hours only, and not every zone does.

    Raises:
        InputError: The time is naive or out of range.
    """
    require_aware(send_at, "send_at")
    try:
        minute = ceil_minute(send_at)
    except OverflowError:
        raise InputError("send_at is out of range.") from None
    return f"{minute.year:04}{minute.month:02}{minute.day:02}{minute.hour:02}{minute.minute:02}+0"


_ID = re.compile(r"[0-9]{1,40}", re.ASCII)


def _message_id(value: str | int) -> str:
    text = str(value).strip()
    if isinstance(value, bool) or not _ID.fullmatch(text):
        raise InputError("A message id is a number, as the gateway gave it.")
    return text


def check_port(destination_port: int) -> None:
    """Refuse what is no port of a phone.

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
        InputError: A value cannot be sent as it is.
    """
    fields = [("recipients", format_recipients(recipients)), ("msg", format_text(text)), ("charset", "UTF-8")]
    if originator is not None:
        if not originator.strip() or _CONTROL.search(originator) or _SURROGATE.search(originator):
            raise InputError("The originator is empty or holds control characters; leave it out to use the account's.")
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
    """The body of a ``getMsgReceived`` request (4.4.1), always cleaned.

    With ``clean`` a text has neither tabs nor line breaks, so no stranger can write one that looks like a record.
    """
    return _body(login, [("lastMsgId", _message_id(after_id)), ("clean", "true")])


def build_updates(login: Login) -> bytes:
    """The body of a ``getMsgUpdates`` request (4.5.1)."""
    return _body(login)


# ------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True)
class Response:
    """An answer's body and what is needed to read it.

    Attributes:
        body: The bytes as they came.
        content_type: The Content-Type header, or None.
        zone: The zone of times written without one (the document never names it; its examples are Swedish).
    """

    body: bytes = field(repr=False)
    content_type: str | None
    zone: tzinfo


#: UTF-16 has no mark where its kind is declared, and a stored answer has no declaration. Each begins with A or N.
_UNMARKED = {b"A\0": "utf-16-le", b"N\0": "utf-16-le", b"\0A": "utf-16-be", b"\0N": "utf-16-be"}


def decode(body: bytes, content_type: str | None) -> str:
    """An answer's text: as its first bytes show, by its declared charset, UTF-8 if it fits, else ISO-8859-1."""
    for mark, marked in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if body.startswith(mark):
            # Not final: of a character that is cut in two, no half is shown.
            return codecs.getincrementaldecoder(marked)("replace").decode(body).removeprefix("\ufeff")
    if unmarked := _UNMARKED.get(body[:2]):
        return codecs.getincrementaldecoder(unmarked)("replace").decode(body)
    declared = _declared_charset(content_type)
    if declared is not None:
        with contextlib.suppress(LookupError, ValueError):  # a charset nobody knows, or not the one declared
            text = body.decode(declared)
            if not _SURROGATE.search(text):  # Python has codecs that are no charsets
                return text
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        # Cut within its last character it is UTF-8 still, when that is declared or a character before shows it:
        # read as ISO-8859-1, every text before the cut would change.
        whole = body[: error.start]
        if error.reason == "unexpected end of data" and (declared in {"utf-8", "utf8"} or not whole.isascii()):
            return whole.decode("utf-8")
    return body.decode("iso-8859-1")


def _declared_charset(content_type: str | None) -> str | None:
    if not content_type or not content_type.isascii() or len(content_type) > 1000:
        return None
    header = Message()
    header["Content-Type"] = content_type.replace("\r", " ").replace("\n", " ")
    try:
        charset = header.get_content_charset()
    except (TypeError, ValueError):  # RFC 2231 parameters that email.message cannot put together
        return None
    # A NUL in a codec's name is a ValueError in the codec registry, which decode() treats like an unknown one.
    return charset or None


# What may stand between A or N and the rest is not documented (4.1.2 shows a table): any of these, or nothing.
_SEPARATORS = "\r\n\t ,;"
_REFUSED = re.compile(r"N[\r\n\t ,;]*([0-9]{1,9})[\r\n\t ,;]*", re.ASCII)


def _problem(endpoint: str, what: str, reason: str) -> ProtocolError:
    return ProtocolError(f"{endpoint}: {what}.", reason=reason)


def _accepted(answer: Response, endpoint: str) -> str:
    """What follows the ``A``, whitespace before it kept.

    Raises:
        RefusedError: The answer is ``N`` and a code.
        ProtocolError: It is neither.
    """
    text = decode(answer.body, answer.content_type).lstrip("\ufeff \t\r\n")
    if text.startswith("A"):
        return text[1:]
    if refused := _REFUSED.fullmatch(text.rstrip()):
        code = int(refused[1])
        raise RefusedError(code, meaning(endpoint, code), endpoint)
    if not text.strip("\0 \t\r\n"):
        raise _problem(endpoint, "the gateway's answer is empty", "empty")
    if text.startswith("<"):
        raise _problem(endpoint, "the answer is a web page, not the gateway's", "html")
    raise _problem(endpoint, f"the answer ({len(answer.body)} bytes) starts with neither A nor N", "unreadable")


def parse_send(answer: Response) -> str:
    """The message id of an accepted ``sendSms`` (4.1.2)."""
    rest = _accepted(answer, SEND).strip(_SEPARATORS)
    if not rest:
        raise _problem(SEND, "accepted, but the answer holds no message id", "no-id")
    if not _ID.fullmatch(rest):
        raise _problem(SEND, "what follows the A is not a message id", "unreadable")
    return rest


def parse_acknowledgement(answer: Response, endpoint: str) -> None:
    """Nothing, when ``sendlater/update`` or ``sendlater/cancel`` was done (4.3.4.2, 4.3.5.2)."""
    if _accepted(answer, endpoint).strip(_SEPARATORS):
        raise _problem(endpoint, "more follows the A than the document has", "unreadable")


# YYYY-MM-DD hh:mm (4.2.2, 4.4.2, 4.5.2); seconds are not documented and read when they come.
_LOCAL = r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}(?::[0-9]{2})?"
# YYMMDDhhmmss, then SMPP v3.4 7.1.1: tenth of a second (may be missing), quarter-hours from UTC, sign.
_SMPP = r"[0-9]{12}(?:[0-9]{2,3}[+-])?"
_SMPP_PARTS = re.compile(r"([0-9]{12})(?:([0-9])?([0-9]{2})([+-]))?", re.ASCII)
_NO_TIME = frozenset({"", "-1", "null"})
_QUARTER = timedelta(minutes=15)


def _time(text: str, zone: tzinfo, endpoint: str) -> datetime | None:
    """A time in either of the document's forms, in UTC; None for -1, ``null`` and nothing."""
    text = text.strip()
    if text in _NO_TIME:
        return None
    try:
        if parts := _SMPP_PARTS.fullmatch(text):
            digits, tenth, quarters, sign = parts.groups()
            year, month, day, hour, minute, second = (int(digits[i : i + 2]) for i in range(0, 12, 2))
            offset = _QUARTER * int(quarters or 0) * (-1 if sign == "-" else 1)
            where = zone if sign is None else timezone(offset)
            micros = int(tenth or 0) * 100_000
            return datetime(2000 + year, month, day, hour, minute, second, micros, where).astimezone(UTC)
        if re.fullmatch(_LOCAL, text, re.ASCII):
            return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise _problem(endpoint, "the answer holds a time that does not exist or is cut short", "unreadable")


# R/S/D (4.2.2)
_COUNTS = re.compile(r"([0-9]{1,9})[ ]*+/[ ]*+([0-9]{1,9})[ ]*+/[ ]*+([0-9]{1,9})(?![0-9/])", re.ASCII)
# recipient TAB sent TAB status TAB delivered (4.2.2). Both times have a known width, so that records which follow
# each other without a line break are told apart too.
_TIME = rf"-1|null|{_LOCAL}|{_SMPP}|"
_STATUS = re.compile(
    rf"[\r\n\t ,;]*([^\t\r\n]+)\t[ ]*+({_TIME})[ ]*+\t([^\t\r\n]*)"
    rf"\t[ ]*+(-1|null|{_LOCAL}|{_SMPP}|(?=[\r\n]|\Z))",
    re.ASCII,
)
# The same as it nearly always comes, a line a recipient and nothing else between: a thousand lines a match.
_STATUS_LINES = re.compile(
    rf"(?:[^\s,;][^\t\r\n]*\t(?:{_TIME})\t[^\t\r\n]*\t(?:{_TIME})(?:\r?\n|\Z)){{1,1000}}", re.ASCII
)


def parse_result(answer: Response, message_id: str) -> SmsResult:
    """Counts and statuses of a message (4.2.2)."""
    rest = _accepted(answer, RESULT).lstrip(_SEPARATORS)
    counts = _COUNTS.match(rest)
    if counts is None:
        raise _problem(RESULT, "the answer has no R/S/D line", "unreadable")
    lines = rest[counts.end() :].lstrip(_SEPARATORS).rstrip("\r\n ")
    recipients, sent, words, delivered = _status_columns(lines)
    # A large answer has few times and words, and many recipients for each.
    times: dict[tuple[str, str], tuple[datetime | None, datetime | None]] = {}
    for pair in set(zip(sent, delivered, strict=True)):
        sent_at = _time(pair[0], answer.zone, RESULT)
        times[pair] = sent_at, resolve_repeated_hour(_time(pair[1], answer.zone, RESULT), sent_at, answer.zone)
    stripped = {word: word.strip() for word in set(words)}
    both = [times[pair] for pair in zip(sent, delivered, strict=True)]
    statuses = RecipientStatuses(
        [recipient.strip() for recipient in recipients],
        [sent_at for sent_at, _ in both],
        [stripped[word] for word in words],
        [delivered_at for _, delivered_at in both],
    )
    return SmsResult(message_id, int(counts[1]), int(counts[2]), int(counts[3]), statuses)


def _status_columns(lines: str) -> tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[str]]:
    """The four columns of a result's statuses, as they stand there.

    Raises:
        ProtocolError: A status is cut short or malformed.
    """
    at = 0
    for found in _contiguous(_STATUS_LINES, lines):
        at = found.end()
    if at == len(lines):
        cells = lines.replace("\r\n", "\t").replace("\n", "\t").split("\t") if lines else []
        return cells[0::4], cells[1::4], cells[2::4], cells[3::4]
    at, statuses = 0, list[tuple[str, ...]]()
    for found in _contiguous(_STATUS, lines):
        at = found.end()
        statuses.append(found.groups())
    if lines[at:].strip():
        raise _problem(RESULT, f"status {len(statuses) + 1} of the answer is cut short or malformed", "unreadable")
    recipients, sent, words, delivered = zip(*statuses, strict=True) if statuses else ((), (), (), ())
    return recipients, sent, words, delivered


def _contiguous(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Matches that follow each other without a gap, from the start."""
    at = 0
    while at < len(text) and (found := pattern.match(text, at)):
        yield found
        at = found.end()


# id TAB time (4.3.1.2, 4.3.2.2); the time is empty when there is none. A bare 12-digit time needs something after it
# that is not a digit: run together with the next id it could not be told apart.
_SCHEDULED_AT = re.compile(
    r"[\r\n\t ,;]*([0-9]{1,40})[ ]*+\t[ ]*+([0-9]{14,15}[+-]|[0-9]{12}(?![0-9])|-1(?![0-9])|null|(?=[\r\n;]|\Z))",
    re.ASCII,
)


def _parse_schedule(answer: Response, endpoint: str) -> list[ScheduledMessage]:
    rest = _accepted(answer, endpoint).lstrip(_SEPARATORS).rstrip("\r\n ")
    # An id whose empty time, and the tab before it, were stripped on the way; in a list it would be one cut short.
    if endpoint == SCHEDULED_TIME and _ID.fullmatch(rest):
        return [ScheduledMessage(rest, None)]
    messages = []
    at = 0
    for found in _contiguous(_SCHEDULED_AT, rest):
        at = found.end()
        messages.append(ScheduledMessage(found[1], _time(found[2], answer.zone, endpoint)))
    if rest[at:].strip(_SEPARATORS):
        raise _problem(endpoint, f"entry {len(messages) + 1} of the answer is cut short or malformed", "unreadable")
    return messages


def parse_scheduled_time(answer: Response, message_id: str) -> datetime | None:
    """The delivery time of one message (4.3.1.2); None when it has none."""
    messages = _parse_schedule(answer, SCHEDULED_TIME)
    if len(messages) != 1 or messages[0].message_id != message_id:
        raise _problem(SCHEDULED_TIME, "the answer is not about the message that was asked for", "unreadable")
    return messages[0].send_at


def parse_scheduled(answer: Response) -> list[ScheduledMessage]:
    """All scheduled messages (4.3.2.2), in the gateway's order; empty when there are none."""
    return _parse_schedule(answer, SCHEDULED)


def _known(text: str) -> str | None:
    """A field's text, with the literal ``null`` and nothing as a missing value (4.4.2)."""
    text = text.strip()
    return None if text in {"", "null"} else text


_FIELD = r"[^\t\r\n]*"
# ;;id TAB date TAB user TAB prefix TAB type TAB originator TAB alias TAB subject TAB text (4.4.2)
_RECEIVED = re.compile(
    rf";;[ ]*+([0-9]{{1,40}})[ ]*+\t[ ]*+(-1|null|{_LOCAL}|{_SMPP}|)[ ]*+"
    rf"\t({_FIELD})\t({_FIELD})\t({_FIELD})\t({_FIELD})\t({_FIELD})\t({_FIELD})\t",
    re.ASCII,
)
_BEGUN = re.compile(r"[\r\n\t ,;]*;;[ ]*+[0-9]{1,40}[ ]*+\t", re.ASCII)
_BROKEN_RECEIVED = re.compile(r";;[ ]*+[0-9]{1,40}[ ]*+\t|[\r\n]+;;?[0-9]*\Z", re.ASCII)


def parse_inbox_lenient(answer: Response) -> Inbox:
    """Received messages (4.4.2), in the gateway's order, which is not that of their ids, and what could not be read.

    In a cleaned answer no text holds a tab, so ``;;digits TAB`` within one can only be a record that is cut short or
    malformed. It ends where the next one begins: one bad record does not hide the others.
    """
    rest = _accepted(answer, INBOX)
    records = list(_RECEIVED.finditer(rest))
    messages, unparsed = list[ReceivedMessage](), list[str]()
    head = rest[: records[0].start() if records else len(rest)].strip(_SEPARATORS)
    if head:
        if not records and not _BEGUN.match(rest):
            raise _problem(INBOX, "the answer does not begin with a received message", "unreadable")
        unparsed.append(head)
    for record, whole in zip(records, _texts(rest, records), strict=True):
        text, broken = _split_at(_BROKEN_RECEIVED, whole)
        if broken:
            unparsed.append(broken.strip("\r\n"))
        try:
            received_at = _time(record[2], answer.zone, INBOX)
        except ProtocolError:  # a date that does not exist
            unparsed.append(record[0] + text)
            continue
        messages.append(
            ReceivedMessage(
                message_id=record[1],
                received_at=received_at,
                user=_known(record[3]),
                prefix=_known(record[4]),
                kind=_known(record[5]),
                sender=_known(record[6]),
                alias=_known(record[7]),
                subject=_known(record[8]),
                text=text.rstrip("\r\n"),  # a cleaned text has none of its own
            )
        )
    return Inbox(tuple(messages), tuple(unparsed))


def parse_inbox(answer: Response) -> list[ReceivedMessage]:
    """Received messages (4.4.2), all of them.

    Raises:
        ProtocolError: A record could not be read.
    """
    inbox = parse_inbox_lenient(answer)
    if inbox.unparsed:
        bad, all_of_them = len(inbox.unparsed), len(inbox.unparsed) + len(inbox.messages)
        raise _problem(INBOX, f"{bad} of {all_of_them} records of the answer are cut short or malformed", "unreadable")
    return list(inbox.messages)


def _texts(rest: str, records: list[re.Match[str]]) -> Iterator[str]:
    """What stands behind each record's header, up to the next one, without the line break that ends a record."""
    ends = [*(record.start() for record in records), len(rest)][1:]
    for record, end in zip(records, ends, strict=True):
        text = rest[record.end() : end]
        yield text[:-2] if text.endswith("\r\n") else text[:-1] if text.endswith(("\n", "\r")) else text


# ;;0 TAB id TAB recipient id TAB number TAB status TAB time, or ;;1 TAB id TAB originator TAB date TAB prefix TAB
# type TAB text (4.5.2)
_UPDATE = re.compile(
    rf";;[ ]*+(?:0[ ]*+\t[ ]*+([0-9]{{1,40}})[ ]*+\t({_FIELD})\t({_FIELD})\t({_FIELD})"
    rf"\t[ ]*+(-1|null|{_LOCAL}|{_SMPP}|(?=[\r\n]|;;|\Z))(?![0-9])"
    rf"|1[ ]*+\t[ ]*+([0-9]{{1,40}})[ ]*+\t({_FIELD})"
    rf"\t[ ]*+(-1|null|{_LOCAL}|{_SMPP}|)[ ]*+\t({_FIELD})\t({_FIELD})\t)",
    re.ASCII,
)
_ANY_UPDATE = re.compile(r"[\r\n]*;;[ ]*+(?=[0-9]++[ ]*+\t)", re.ASCII)


def parse_raw_updates(answer: Response) -> bytes:
    """The whole answer of an accepted ``getMsgUpdates`` (4.5.2) as it came, unread: to be kept before it is parsed."""
    _accepted(answer, UPDATES)
    return answer.body


def parse_updates(answer: Response) -> Updates:
    """What had not been collected (4.5.2). Nothing that came is lost: what does not parse is kept as text.

    Texts are not cleaned here. One that holds a whole record is read as that record: entries are hints.
    """
    rest = _accepted(answer, UPDATES)
    reports: list[DeliveryReport] = []
    received: list[ReceivedMessage] = []
    unparsed: list[str] = []
    records = list(_UPDATE.finditer(rest))
    head = rest[: records[0].start() if records else len(rest)]
    if head.strip(_SEPARATORS):
        unparsed.append(head.strip("\r\n\t ,"))
    for record, text in zip(records, _texts(rest, records), strict=True):
        try:
            if record[1] is not None:
                delivered_at = _time(record[5], answer.zone, UPDATES)
                reports.append(DeliveryReport(record[1], record[2], record[3], record[4].strip(), delivered_at))
                body, beyond = "", text
            else:
                body, beyond = _split_at(_ANY_UPDATE, text)
                received_at = _time(record[8], answer.zone, UPDATES)
                message = ReceivedMessage(
                    record[6], received_at, None, _known(record[9]), _known(record[10]), _known(record[7]),
                    None, None, body,
                )  # fmt: skip
                received.append(message)
        except ProtocolError:  # a date that does not exist
            unparsed.append(record[0] + text)
            continue
        if beyond.strip():
            unparsed.append(beyond.strip("\r\n"))
    return Updates(answer.body, tuple(reports), tuple(received), tuple(unparsed))


def _split_at(pattern: re.Pattern[str], text: str) -> tuple[str, str]:
    found = pattern.search(text)
    return (text, "") if found is None else (text[: found.start()], text[found.start() :])
