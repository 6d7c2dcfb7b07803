"""Response bodies to values, for the eight endpoints.

Every function ``parse_…`` returns a value, or raises :class:`~prefect_mymsp.errors.RefusedError` or
:class:`~prefect_mymsp.errors.ProtocolError`, and nothing else. Framing is read tolerantly; whether an SMS was sent is
never guessed. Section numbers are those of the vendor's document.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.message import Message

from prefect_mymsp.errors import ProtocolError
from prefect_mymsp.models import (
    DeliveryReport,
    Inbox,
    ReceivedMessage,
    RecipientStatuses,
    ScheduledMessage,
    SmsResult,
    Updates,
)
from prefect_mymsp.protocol.codes import INBOX, RESULT, SCHEDULED, SCHEDULED_TIME, SEND, UPDATES, refusal
from prefect_mymsp.protocol.requests import MESSAGE_ID
from prefect_mymsp.times import resolve_repeated_hour


@dataclass(frozen=True, slots=True)
class Response:
    """A response body, and the values needed to read it.

    Attributes:
        body: The bytes as they were received.
        content_type: The Content-Type header, or None.
        zone: The zone of times without an offset. The document does not name it; its examples are Swedish.
    """

    body: bytes = field(repr=False)
    content_type: str | None
    zone: tzinfo


_SURROGATE = re.compile(r"[\ud800-\udfff]")
#: UTF-16 without a byte order mark. A stored response has no declared charset, but it begins with A or N.
_UNMARKED = {b"A\0": "utf-16-le", b"N\0": "utf-16-le", b"\0A": "utf-16-be", b"\0N": "utf-16-be"}


def decode(body: bytes, content_type: str | None) -> str:
    """Decode a body: by its byte order mark, else its declared charset, else UTF-8 if valid, else ISO-8859-1."""
    for mark, marked in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if body.startswith(mark):
            # Not final: half a character at the end is dropped.
            return codecs.getincrementaldecoder(marked)("replace").decode(body).removeprefix("\ufeff")
    if unmarked := _UNMARKED.get(body[:2]):
        return codecs.getincrementaldecoder(unmarked)("replace").decode(body)
    declared = _declared_charset(content_type)
    if declared is not None:
        with contextlib.suppress(LookupError, ValueError):  # an unknown charset, or a wrong declaration
            text = body.decode(declared)
            if not _SURROGATE.search(text):  # some of Python's codecs are not charsets
                return text
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        # A body that is cut within its last character is still UTF-8 if that is declared, or if an earlier character
        # shows it. Decoding it as ISO-8859-1 would change every text before the cut.
        complete = body[: error.start]
        if error.reason == "unexpected end of data" and (declared in {"utf-8", "utf8"} or not complete.isascii()):
            return complete.decode("utf-8")
    return body.decode("iso-8859-1")


def _declared_charset(content_type: str | None) -> str | None:
    if not content_type or not content_type.isascii() or len(content_type) > 1000:
        return None
    header = Message()
    header["Content-Type"] = content_type.replace("\r", " ").replace("\n", " ")
    try:
        charset = header.get_content_charset()
    except (TypeError, ValueError):  # RFC 2231 parameters that email.message cannot join
        return None
    # The codec registry raises ValueError for NUL in a name; decode() treats that as an unknown charset.
    return charset or None


# The document leaves open what separates A or N from the rest (4.1.2 shows a table): any of these, or nothing.
_SEPARATORS = "\r\n\t ,;"
_REFUSED = re.compile(r"N[\r\n\t ,;]*([0-9]{1,9})[\r\n\t ,;]*", re.ASCII)


def _error(endpoint: str, problem: str, reason: str = "unreadable") -> ProtocolError:
    return ProtocolError(f"{endpoint}: {problem}.", reason=reason)


def _accepted(response: Response, endpoint: str) -> str:
    """The text after the ``A``, with its leading whitespace.

    Raises:
        RefusedError: The response is ``N`` and a code.
        ProtocolError: It is neither.
    """
    text = decode(response.body, response.content_type).lstrip("\ufeff \t\r\n")
    if text.startswith("A"):
        return text[1:]
    if refused := _REFUSED.fullmatch(text.rstrip()):
        raise refusal(endpoint, int(refused[1]))
    if not text.strip("\0 \t\r\n"):
        raise _error(endpoint, "the response is empty", "empty")
    if text.startswith("<"):
        raise _error(endpoint, "the response is a web page, not the gateway's", "html")
    raise _error(endpoint, f"the response ({len(response.body)} bytes) starts with neither A nor N")


def parse_send(response: Response) -> str:
    """The message id of an accepted ``sendSms`` (4.1.2)."""
    rest = _accepted(response, SEND).strip(_SEPARATORS)
    if not rest:
        raise _error(SEND, "accepted, but the response has no message id", "no-id")
    if not MESSAGE_ID.fullmatch(rest):
        raise _error(SEND, "the text after the A is not a message id")
    return rest


def parse_acknowledgement(response: Response, endpoint: str) -> None:
    """Check that ``sendlater/update`` or ``sendlater/cancel`` was accepted (4.3.4.2, 4.3.5.2)."""
    if _accepted(response, endpoint).strip(_SEPARATORS):
        raise _error(endpoint, "there is unexpected text after the A")


# YYYY-MM-DD hh:mm (4.2.2, 4.4.2, 4.5.2). Seconds are undocumented, but read.
_LOCAL = r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}(?::[0-9]{2})?"
# YYMMDDhhmmss, then SMPP v3.4 7.1.1: tenth of a second (may be missing), quarter-hours from UTC, sign.
_SMPP = r"[0-9]{12}(?:[0-9]{2,3}[+-])?"
_SMPP_PARTS = re.compile(r"([0-9]{12})(?:([0-9])?([0-9]{2})([+-]))?", re.ASCII)
_NO_TIME = frozenset({"", "-1", "null"})
_QUARTER = timedelta(minutes=15)


def _time(text: str, zone: tzinfo, endpoint: str) -> datetime | None:
    """A time in either of the document's formats, in UTC; None for -1, ``null`` and an empty field."""
    text = text.strip()
    if text in _NO_TIME:
        return None
    try:
        if parts := _SMPP_PARTS.fullmatch(text):
            digits, tenth, quarters, sign = parts.groups()
            year, month, day, hour, minute, second = (int(digits[i : i + 2]) for i in range(0, 12, 2))
            offset = _QUARTER * int(quarters or 0) * (-1 if sign == "-" else 1)
            time_zone = zone if sign is None else timezone(offset)
            microsecond = int(tenth or 0) * 100_000
            return datetime(2000 + year, month, day, hour, minute, second, microsecond, time_zone).astimezone(UTC)
        if re.fullmatch(_LOCAL, text, re.ASCII):
            return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise _error(endpoint, "the response has a time that does not exist or is truncated")


# R/S/D (4.2.2)
_COUNTS = re.compile(r"([0-9]{1,9})[ ]*+/[ ]*+([0-9]{1,9})[ ]*+/[ ]*+([0-9]{1,9})(?![0-9/])", re.ASCII)
# recipient TAB sent TAB status TAB delivered (4.2.2). Both times have a known width, so records are separated even
# without line breaks.
_TIME = rf"-1|null|{_LOCAL}|{_SMPP}|"
_STATUS = re.compile(
    rf"[\r\n\t ,;]*([^\t\r\n]+)\t[ ]*+({_TIME})[ ]*+\t([^\t\r\n]*)"
    rf"\t[ ]*+(-1|null|{_LOCAL}|{_SMPP}|(?=[\r\n]|\Z))",
    re.ASCII,
)
# The usual form, one line for each recipient and nothing between: a thousand lines at a time.
_STATUS_LINES = re.compile(
    rf"(?:[^\s,;][^\t\r\n]*\t(?:{_TIME})\t[^\t\r\n]*\t(?:{_TIME})(?:\r?\n|\Z)){{1,1000}}", re.ASCII
)


def parse_result(response: Response, message_id: str) -> SmsResult:
    """The counts and recipient statuses of a message (4.2.2)."""
    rest = _accepted(response, RESULT).lstrip(_SEPARATORS)
    counts = _COUNTS.match(rest)
    if counts is None:
        raise _error(RESULT, "the response has no R/S/D line")
    lines = rest[counts.end() :].lstrip(_SEPARATORS).rstrip("\r\n ")
    recipients, sent, words, delivered = _status_columns(lines)
    # A large response has many recipients, but few distinct times and statuses.
    times: dict[tuple[str, str], tuple[datetime | None, datetime | None]] = {}
    for pair in set(zip(sent, delivered, strict=True)):
        sent_at = _time(pair[0], response.zone, RESULT)
        times[pair] = sent_at, resolve_repeated_hour(_time(pair[1], response.zone, RESULT), sent_at, response.zone)
    stripped = {word: word.strip() for word in set(words)}
    converted = [times[pair] for pair in zip(sent, delivered, strict=True)]
    statuses = RecipientStatuses(
        [recipient.strip() for recipient in recipients],
        [sent_at for sent_at, _ in converted],
        [stripped[word] for word in words],
        [delivered_at for _, delivered_at in converted],
    )
    return SmsResult(message_id, int(counts[1]), int(counts[2]), int(counts[3]), statuses)


def _status_columns(lines: str) -> tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[str]]:
    """The four columns of a result's statuses, as written.

    Raises:
        ProtocolError: A status is truncated or malformed.
    """
    at = 0
    for match in _contiguous(_STATUS_LINES, lines):
        at = match.end()
    if at == len(lines):
        cells = lines.replace("\r\n", "\t").replace("\n", "\t").split("\t") if lines else []
        return cells[0::4], cells[1::4], cells[2::4], cells[3::4]
    at, statuses = 0, list[tuple[str, ...]]()
    for match in _contiguous(_STATUS, lines):
        at = match.end()
        statuses.append(match.groups())
    if lines[at:].strip():
        raise _error(RESULT, f"status {len(statuses) + 1} of the response is truncated or malformed")
    recipients, sent, words, delivered = zip(*statuses, strict=True) if statuses else ((), (), (), ())
    return recipients, sent, words, delivered


def _contiguous(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Consecutive matches from the start, without gaps."""
    at = 0
    while at < len(text) and (match := pattern.match(text, at)):
        yield match
        at = match.end()


# id TAB time (4.3.1.2, 4.3.2.2); the time may be empty. After a 12-digit time there must be something other than a
# digit: otherwise it could not be separated from the next id.
_SCHEDULED_AT = re.compile(
    r"[\r\n\t ,;]*([0-9]{1,40})[ ]*+\t[ ]*+([0-9]{14,15}[+-]|[0-9]{12}(?![0-9])|-1(?![0-9])|null|(?=[\r\n;]|\Z))",
    re.ASCII,
)


def _parse_schedule(response: Response, endpoint: str) -> list[ScheduledMessage]:
    rest = _accepted(response, endpoint).lstrip(_SEPARATORS).rstrip("\r\n ")
    # An id whose empty time, and the tab before it, were stripped on the way. In a list it would be a truncated entry.
    if endpoint == SCHEDULED_TIME and MESSAGE_ID.fullmatch(rest):
        return [ScheduledMessage(rest, None)]
    messages = []
    at = 0
    for match in _contiguous(_SCHEDULED_AT, rest):
        at = match.end()
        messages.append(ScheduledMessage(match[1], _time(match[2], response.zone, endpoint)))
    if rest[at:].strip(_SEPARATORS):
        raise _error(endpoint, f"entry {len(messages) + 1} of the response is truncated or malformed")
    return messages


def parse_scheduled_time(response: Response, message_id: str) -> datetime | None:
    """The delivery time of one message (4.3.1.2), in UTC; None if it has none."""
    messages = _parse_schedule(response, SCHEDULED_TIME)
    if len(messages) != 1 or messages[0].message_id != message_id:
        raise _error(SCHEDULED_TIME, "the response is about another message")
    return messages[0].send_at


def parse_scheduled(response: Response) -> list[ScheduledMessage]:
    """All scheduled messages (4.3.2.2), in the gateway's order."""
    return _parse_schedule(response, SCHEDULED)


def _optional(text: str) -> str | None:
    """The text of a field; None for the literal ``null`` and an empty field (4.4.2)."""
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


def parse_inbox_lenient(response: Response) -> Inbox:
    """Received messages (4.4.2), and the records that could not be read. The order is the gateway's, not that of ids.

    In a cleaned response no text has a tab, so ``;;digits TAB`` within a text can only be a truncated or malformed
    record. It ends where the next record begins: one bad record does not hide the others.
    """
    rest = _accepted(response, INBOX)
    records = list(_RECEIVED.finditer(rest))
    messages, unparsed = list[ReceivedMessage](), list[str]()
    head = rest[: records[0].start() if records else len(rest)].strip(_SEPARATORS)
    if head:
        if not records and not _BEGUN.match(rest):
            raise _error(INBOX, "the response does not begin with a received message")
        unparsed.append(head)
    for record, remainder in zip(records, _texts(rest, records), strict=True):
        text, broken = _split_at(_BROKEN_RECEIVED, remainder)
        if broken:
            unparsed.append(broken.strip("\r\n"))
        try:
            received_at = _time(record[2], response.zone, INBOX)
        except ProtocolError:  # a date that does not exist
            unparsed.append(record[0] + text)
            continue
        messages.append(
            ReceivedMessage(
                message_id=record[1],
                received_at=received_at,
                user=_optional(record[3]),
                prefix=_optional(record[4]),
                kind=_optional(record[5]),
                sender=_optional(record[6]),
                alias=_optional(record[7]),
                subject=_optional(record[8]),
                text=text.rstrip("\r\n"),  # a cleaned text has no line breaks of its own
            )
        )
    return Inbox(tuple(messages), tuple(unparsed))


def parse_inbox(response: Response) -> list[ReceivedMessage]:
    """Received messages (4.4.2).

    Raises:
        ProtocolError: A record could not be read.
    """
    inbox = parse_inbox_lenient(response)
    if inbox.unparsed:
        records = len(inbox.unparsed) + len(inbox.messages)
        raise _error(INBOX, f"{len(inbox.unparsed)} of {records} records of the response are truncated or malformed")
    return list(inbox.messages)


def _texts(rest: str, records: list[re.Match[str]]) -> Iterator[str]:
    """The text after each record's header, up to the next record, without the line break that ends it."""
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


def parse_raw_updates(response: Response) -> bytes:
    """The body of an accepted ``getMsgUpdates`` (4.5.2), not parsed: store it before parsing it."""
    _accepted(response, UPDATES)
    return response.body


def parse_updates(response: Response) -> Updates:
    """Updates that had not been fetched before (4.5.2). Records that cannot be parsed are kept as text.

    Texts are not cleaned by this endpoint. A text that contains a whole record is read as that record, so entries are
    hints and never proof.
    """
    rest = _accepted(response, UPDATES)
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
                delivered_at = _time(record[5], response.zone, UPDATES)
                reports.append(DeliveryReport(record[1], record[2], record[3], record[4].strip(), delivered_at))
                body, beyond = "", text
            else:
                body, beyond = _split_at(_ANY_UPDATE, text)
                received_at = _time(record[8], response.zone, UPDATES)
                message = ReceivedMessage(
                    record[6], received_at, None, _optional(record[9]), _optional(record[10]), _optional(record[7]),
                    None, None, body,
                )  # fmt: skip
                received.append(message)
        except ProtocolError:  # a date that does not exist
            unparsed.append(record[0] + text)
            continue
        if beyond.strip():
            unparsed.append(beyond.strip("\r\n"))
    return Updates(response.body, tuple(reports), tuple(received), tuple(unparsed))


def _split_at(pattern: re.Pattern[str], text: str) -> tuple[str, str]:
    match = pattern.search(text)
    return (text, "") if match is None else (text[: match.start()], text[match.start() :])
