"""Responses: responses read from files in ``tests/data``, framing, codes, times, charsets.

The expected values are taken from the vendor's document (revision M; its sections are cited).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from prefect_mymsp import protocol
from prefect_mymsp.errors import ProtocolError, RefusedError
from prefect_mymsp.models import (
    DeliveryReport,
    ReceivedMessage,
    RecipientStatus,
    ScheduledMessage,
    SmsResult,
    Updates,
)

DATA = Path(__file__).parents[2] / "data"
STOCKHOLM = ZoneInfo("Europe/Stockholm")
ENDPOINTS = (
    "sendSms",
    "getSmsResult",
    "sendlater/get",
    "sendlater/getall",
    "sendlater/update",
    "sendlater/cancel",
    "getMsgReceived",
    "getMsgUpdates",
)


def parse(endpoint: str, body: bytes, content_type: str | None = None, zone: ZoneInfo = STOCKHOLM) -> Any:
    """Read a response with the endpoint's parser; the message asked for is 12556."""
    response = protocol.Response(body, content_type, zone)
    parsers: dict[str, Callable[[], Any]] = {
        "sendSms": lambda: protocol.parse_send(response),
        "getSmsResult": lambda: protocol.parse_result(response, "12556"),
        "sendlater/get": lambda: protocol.parse_scheduled_time(response, "12556"),
        "sendlater/getall": lambda: protocol.parse_scheduled(response),
        "sendlater/update": lambda: protocol.parse_acknowledgement(response, "sendlater/update"),
        "sendlater/cancel": lambda: protocol.parse_acknowledgement(response, "sendlater/cancel"),
        "getMsgReceived": lambda: protocol.parse_inbox(response),
        "getMsgUpdates": lambda: protocol.parse_updates(response),
    }
    return parsers[endpoint]()


# ------------------------------------------------------------------------------------------------ responses, by file


@dataclass(frozen=True)
class Refused:
    """The response is N and this code."""

    code: int


@dataclass(frozen=True)
class Broken:
    """The response cannot be parsed, for this reason; for any reason when it is None."""

    reason: str | None = None


@dataclass(frozen=True)
class Case:
    file: str
    expected: Any
    content_type: str | None = None

    @property
    def endpoint(self) -> str:
        return self.file.rpartition("/")[0]


def utc(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


_X = [
    RecipientStatus("4670X666666", utc(2007, 12, 2, 14, 14), "delivered", utc(2007, 12, 2, 14, 15)),
    RecipientStatus("4670X777777", utc(2007, 12, 2, 14, 15), "delivered", utc(2007, 12, 2, 14, 18)),
    RecipientStatus("4670X888888", utc(2007, 12, 2, 14, 15), "undelivered", None),
    RecipientStatus("4670X999999", None, "undelivered", None),
]
_RESULT = SmsResult("12556", 4, 3, 2, tuple(_X))
_BOTH_SCHEDULED = [
    ScheduledMessage("12556", utc(2015, 1, 12, 14, 30)),
    ScheduledMessage("12557", utc(2015, 1, 15, 8, 45)),
]
_WINTER = utc(2007, 12, 2, 14, 14)


def received(message_id: str, text: str) -> ReceivedMessage:
    return ReceivedMessage(message_id, _WINTER, "jDoe", "APREFIX", "SMS", "46701740699", None, None, text)


_B_TEXT = ReceivedMessage(
    "12554", utc(2007, 8, 19, 10, 52), "jDoe", "APREFIX", "SMS", "46701740698", None, None, "B text"
)
_INBOX = [received("12556", "A text"), _B_TEXT]


def update(message_id: str, originator: str, text: str) -> ReceivedMessage:
    at = utc(2019, 3, 1, 11, 52)
    return ReceivedMessage(message_id, at, None, "APREFIX", "SMS", originator, None, None, text)


_REPORT = DeliveryReport("12556", "98765", "46701740699", "delivered", _WINTER)
_FORGED = DeliveryReport("12556", "98765", "46701740699", "delivered", utc(2019, 3, 1, 11, 52))


@dataclass(frozen=True)
class Hints:
    """An Updates without its raw response, which each case compares with its file."""

    reports: list[DeliveryReport]
    messages: list[ReceivedMessage]
    unparsed: list[str]


_EXAMPLE_UPDATES = Hints([_REPORT], [update("12554", "46701740698", "B text")], [])

CASES = [
    *(
        Case(f"sendSms/accepted-{form}", "12556")
        for form in (
            "lf",
            "lf-newline",
            "crlf-newline",
            "tab",
            "space",
            "comma",
            "semicolon",
            "nothing-between",
            "blank-lines",
            "utf8-bom",
            "utf16le-bom",
            "utf16be-bom",
        )
    ),
    Case("sendSms/rejected-lf", Refused(28)),
    Case("sendSms/rejected-crlf-newline", Refused(282)),
    Case("sendSms/rejected-tab", Refused(12)),
    Case("sendSms/rejected-space", Refused(33)),
    Case("sendSms/rejected-comma", Refused(11)),
    Case("sendSms/rejected-semicolon", Refused(35)),
    Case("sendSms/rejected-nothing-between", Refused(303)),
    Case("sendSms/rejected-withdrawn-code", Refused(301)),
    Case("sendSms/no-id", Broken("no-id")),
    Case("sendSms/no-id-newline", Broken("no-id")),
    Case("sendSms/id-and-words", Broken()),
    Case("sendSms/two-ids", Broken()),
    Case("sendSms/id-and-page", Broken()),
    Case("sendSms/negative-id", Broken()),
    Case("sendSms/id-in-other-digits", Broken()),
    Case("sendSms/lower-case", Broken()),
    Case("sendSms/lower-case-rejected", Broken()),
    Case("sendSms/rejected-without-code", Broken()),
    Case("sendSms/rejected-absurd-code", Broken()),
    Case("sendSms/not-found", Broken()),
    Case("sendSms/accepted-word", Broken()),
    Case("sendSms/login-page", Broken("html")),
    Case("sendSms/login-page", Broken("html"), "text/html; charset=UTF-8"),
    Case("sendSms/empty", Broken("empty")),
    Case("sendSms/whitespace", Broken("empty")),
    Case("getSmsResult/doc-example", _RESULT),
    Case("getSmsResult/doc-example-crlf", _RESULT),
    Case("getSmsResult/doc-example-run-together", _RESULT),
    Case("getSmsResult/doc-example-tab", _RESULT),
    Case(
        "getSmsResult/other-words",
        SmsResult(
            "12556",
            3,
            2,
            0,
            (
                RecipientStatus("46701740605", utc(2024, 6, 3, 7), "expired", None),
                RecipientStatus("46701740606", utc(2024, 6, 3, 7), "Not delivered (absent)", None),
                RecipientStatus("46701740607", None, "queued", None),
            ),
        ),
    ),
    Case(
        "getSmsResult/clocks-back",  # 02:00-03:00 is repeated; no message is delivered before it was sent
        SmsResult(
            "12556",
            3,
            3,
            3,
            (
                RecipientStatus("46701740605", utc(2024, 10, 27, 0, 50), "delivered", utc(2024, 10, 27, 1, 10)),
                RecipientStatus("46701740606", utc(2024, 10, 26, 23, 59), "delivered", utc(2024, 10, 27, 2, 0)),
                RecipientStatus("46701740607", utc(2024, 10, 27, 0, 10), "delivered", utc(2024, 10, 27, 0, 50)),
            ),
        ),
    ),
    Case(
        "getSmsResult/clocks-forward",
        SmsResult(
            "12556",
            1,
            1,
            1,
            (RecipientStatus("46701740605", utc(2024, 3, 31, 0, 59), "delivered", utc(2024, 3, 31, 1, 0)),),
        ),
    ),
    Case("getSmsResult/archived", Refused(323)),
    Case("getSmsResult/no-counts", Broken()),
    Case("getSmsResult/two-counts", Broken()),
    Case("getSmsResult/cut-in-time", Broken()),
    Case("getSmsResult/cut-in-status", Broken()),
    Case("getSmsResult/no-such-day", Broken()),
    Case("sendlater/get/doc-example", utc(2015, 1, 12, 14, 30)),
    Case("sendlater/get/sixteen", utc(2015, 1, 15, 8, 45)),
    Case("sendlater/get/no-time", None),
    Case("sendlater/get/no-time-newline", None),
    Case("sendlater/get/west", utc(2024, 6, 3, 14)),
    Case("sendlater/get/kathmandu", utc(2024, 6, 3, 3, 15)),
    Case("sendlater/get/utc", utc(2024, 6, 3, 9)),
    Case("sendlater/get/utc-minus", utc(2024, 6, 3, 9)),
    Case("sendlater/get/twelve-summer", utc(2024, 6, 3, 7)),
    Case("sendlater/get/twelve-winter", utc(2024, 1, 3, 8)),
    Case("sendlater/get/other-message", Broken()),
    Case("sendlater/get/two-messages", Broken()),
    Case("sendlater/get/no-such-day", Broken()),
    Case("sendlater/get/no-such-zone", Broken()),
    Case("sendlater/get/cut-in-time", Broken()),
    Case("sendlater/get/no-sign", Broken()),
    Case("sendlater/get/nothing", Broken()),
    Case("sendlater/get/rejected", Refused(32)),
    Case("sendlater/getall/doc-example", _BOTH_SCHEDULED),
    Case("sendlater/getall/doc-example-crlf", _BOTH_SCHEDULED),
    Case("sendlater/getall/doc-example-run-together", _BOTH_SCHEDULED),
    Case(
        "sendlater/getall/unsorted",
        [
            ScheduledMessage("12558", utc(2024, 6, 3, 7)),
            ScheduledMessage("12556", None),
            ScheduledMessage("12557", utc(2024, 6, 3, 6)),
        ],
    ),
    Case("sendlater/getall/none", []),
    Case("sendlater/getall/none-newline", []),
    Case("sendlater/getall/cut-in-first-id", Broken()),
    Case("sendlater/getall/cut-in-second-id", Broken()),
    Case("sendlater/getall/cut-in-time", Broken()),
    Case("sendlater/getall/rejected", Refused(7)),
    Case("sendlater/update/done", None),
    Case("sendlater/update/done-newline", None),
    Case("sendlater/update/too-late", Refused(351)),
    Case("sendlater/update/past", Refused(35)),
    Case("sendlater/update/and-more", Broken()),
    Case("sendlater/cancel/done", None),
    Case("sendlater/cancel/too-late", Refused(351)),
    Case("sendlater/cancel/and-more", Broken()),
    Case("getMsgReceived/doc-example", _INBOX),
    Case("getMsgReceived/doc-example-crlf", _INBOX),
    Case("getMsgReceived/doc-example-run-together", _INBOX),
    Case("getMsgReceived/doc-example-blank-lines", _INBOX),
    Case("getMsgReceived/none", []),
    Case(
        "getMsgReceived/semicolons",
        [
            received("12560", ";;hello;; ;;12559 2007-12-02 15:14;;"),
            received("12559", ";;;"),
            received("12558", ""),
            received("12557", "null"),  # a text may be "null"; only the other fields can be missing
        ],
    ),
    Case("getMsgReceived/cleaned", [received("12560", r"one\ntwo three\n;;12559 2007-12-02 15:14 jDoe")]),
    Case(
        "getMsgReceived/other-kinds",
        [
            ReceivedMessage("12562", None, "jDoe", "ONLINE", "DPN", "46701740605", "777", None, ""),
            ReceivedMessage(
                "12560", utc(2024, 6, 3, 7), "jDoe", None, "SMS", "Anna", "Anna A", "Subject", " blanks around  "
            ),
            ReceivedMessage("12561", None, None, None, "VOI", None, None, None, "call"),
        ],
    ),
    Case("getMsgReceived/utf8", [received("12560", "Räksmörgås \u2028\x85 \U0001f600")]),
    Case("getMsgReceived/utf8", [received("12560", "Räksmörgås \u2028\x85 \U0001f600")], "text/plain;charset=UTF-8"),
    Case("getMsgReceived/utf8", [received("12560", "Räksmörgås \u2028\x85 \U0001f600")], "text/plain; charset=ascii"),
    Case("getMsgReceived/utf8", [received("12560", "Räksmörgås \u2028\x85 \U0001f600")], "text/plain; charset=x-none"),
    Case("getMsgReceived/latin1", [received("12560", "Räksmörgås på ön")]),
    Case("getMsgReceived/latin1", [received("12560", "Räksmörgås på ön")], "text/plain; charset=ISO-8859-1"),
    Case("getMsgReceived/latin1", [received("12560", "Räksmörgås på ön")], 'text/plain; charset="iso-8859-15"'),
    Case("getMsgReceived/latin1", [received("12560", "Räksmörgås på ön")], "text/plain; charset=UTF-8"),  # wrongly
    Case("getMsgReceived/latin1", [received("12560", "Räksmörgås på ön")], "text/plain; charset=us-ascii"),
    Case("getMsgReceived/cp1252", [received("12560", "5 € “så”")], "text/plain; charset=windows-1252"),
    Case("getMsgReceived/cp1252", [received("12560", "5 \x80 \x93så\x94")]),
    Case("getMsgReceived/utf16-bom", [received("12560", "Räksmörgås")]),
    Case("getMsgReceived/utf16-bom", [received("12560", "Räksmörgås")], "text/plain; charset=UTF-16"),
    Case("getMsgReceived/cut-in-first-header", Broken()),
    Case("getMsgReceived/cut-in-second-header", Broken()),
    Case("getMsgReceived/cut-in-second-date", Broken()),
    Case("getMsgReceived/cut-in-second-id", Broken()),
    Case("getMsgReceived/cut-in-second-mark", Broken()),
    Case("getMsgReceived/no-mark", Broken()),
    Case("getMsgReceived/words", Broken()),
    Case("getMsgReceived/no-such-day", Broken()),
    Case("getMsgReceived/rejected", Refused(391)),
    Case("getMsgUpdates/doc-example", _EXAMPLE_UPDATES),
    Case("getMsgUpdates/doc-example-crlf", _EXAMPLE_UPDATES),
    Case("getMsgUpdates/doc-example-run-together", _EXAMPLE_UPDATES),
    Case(
        "getMsgUpdates/smpp-times",
        Hints(
            [
                _REPORT,
                DeliveryReport("12557", "98766", "46701740698", "undelivered", None),
                DeliveryReport("12558", "98767", "46701740697", "queued", None),
            ],
            [],
            [],
        ),
    ),
    Case("getMsgUpdates/none", Hints([], [], [])),
    Case("getMsgUpdates/forged", Hints([_FORGED], [update("12560", "46701740605", "hi")], [])),
    Case(
        "getMsgUpdates/many-lines",
        Hints([_FORGED], [update("12560", "46701740605", "one\n\ttwo;;three\r\n;;four")], []),
    ),
    Case(
        "getMsgUpdates/unknown-type",
        Hints(
            [_REPORT],
            [],
            [";;7\t12560\twhat", ";;0\t12557\t98765\t46701740699\tdelivered\t2007-02-30 15:14"],
        ),
    ),
    Case("getMsgUpdates/cut", Hints([_REPORT], [], [";;1\t12554\t46701740698\t2019-03-01 12:52\tAPRE"])),
    Case("getMsgUpdates/no-page", Broken("html")),
    Case("getMsgUpdates/rejected", Refused(7)),
]


def _check(case: Case, content_type: str | None) -> None:
    body = (DATA / f"{case.file}.txt").read_bytes()
    if isinstance(case.expected, Refused):
        with pytest.raises(RefusedError) as refused:
            parse(case.endpoint, body, content_type)
        assert (refused.value.code, refused.value.endpoint) == (case.expected.code, case.endpoint)
    elif isinstance(case.expected, Broken):
        with pytest.raises(ProtocolError) as broken:
            parse(case.endpoint, body, content_type)
        assert case.expected.reason in {None, broken.value.reason}
    else:
        value = parse(case.endpoint, body, content_type)
        if isinstance(case.expected, Hints):
            assert isinstance(value, Updates)
            assert value.raw == body
            value = Hints(list(value.delivery_reports), list(value.received_messages), list(value.unparsed))
        assert value == case.expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}-{case.content_type}")
def test_responses_in_files(case: Case) -> None:
    _check(case, case.content_type)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "text/plain;charset=UTF-8", "text/plain; charset=ISO-8859-1", "", ";;charset", "é"]
)
def test_the_declared_charset_does_not_matter_for_ascii_responses(content_type: str) -> None:
    for case in CASES:
        if (DATA / f"{case.file}.txt").read_bytes().isascii():
            _check(case, content_type)


def test_every_file_has_a_case_and_a_line_in_the_readme() -> None:
    files = {str(path.relative_to(DATA).with_suffix("")) for path in DATA.rglob("*.txt") if path.parent != DATA}
    response_files = {file for file in files if file.startswith(ENDPOINTS)}
    assert response_files == {case.file for case in CASES}
    listed = (DATA / "README.md").read_text(encoding="utf-8")
    assert [file for file in response_files if f"`{file}.txt`" not in listed] == []


# ------------------------------------------------------------------------------------------------ framing and codes

#: Every code of every endpoint, transcribed from the document (4.1.3, 4.2.3, 4.3.1.3, 4.3.3, 4.3.4.3, 4.3.5.3, 4.4.3,
#: 4.5.3).
CODES = {
    "sendSms": {7, 11, 12, 13, 22, 23, 24, 25, 28, 282, 29, 30, 31, 33, 34, 35, 36, 37, 38, 303},
    "getSmsResult": {7, 13, 22, 23, 24, 25, 32, 323, 391, 392},
    "sendlater/get": {7, 13, 22, 23, 24, 25, 32, 391, 392},
    "sendlater/getall": {7, 13, 22, 23, 24, 25},
    "sendlater/update": {7, 13, 22, 23, 24, 25, 32, 34, 35, 351, 391, 392},
    "sendlater/cancel": {7, 13, 22, 23, 24, 25, 32, 351, 391, 392},
    "getMsgReceived": {7, 13, 22, 23, 24, 25, 391, 392},
    "getMsgUpdates": {7, 13, 22, 23, 24, 25},
}
SEPARATORS = ["\n", "\r\n", "\t", " ", ",", ";", "", "\n\n", " \r\n"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_code_of_the_document_has_its_own_meaning(endpoint: str) -> None:
    meanings = {code.number: code.meaning for code in protocol.CODES if endpoint in code.endpoints}
    assert set(meanings) == CODES[endpoint]
    assert len(set(meanings.values())) == len(meanings)
    for code in CODES[endpoint]:
        with pytest.raises(RefusedError) as refused:
            parse(endpoint, f"N\n{code}".encode())
        assert refused.value.code == code
        assert refused.value.endpoint == endpoint
        assert refused.value.meaning == meanings[code]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_any_separator_may_precede_a_code(endpoint: str, separator: str, end: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse(endpoint, f"N{separator}25{end}".encode())
    assert refused.value.code == 25


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("code", [0, 301, 123456789])
def test_unknown_codes_keep_their_number(endpoint: str, code: int) -> None:
    with pytest.raises(RefusedError) as refused:
        parse(endpoint, f"N\n{code}".encode())
    assert refused.value.code == code
    assert refused.value.meaning == "not in the vendor's document for this endpoint"
    assert refused.value.scope == "unknown"
    assert str(code) in str(refused.value)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \t\r\n ",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x00",
        b"<html></html>",
        b"OK",
        b"a\n12556",
        b"n\n28",
        b"N",
        b"N\n",
        b"N\n-7",
        b"N\nseven",
        b"N\n" + b"7" * 10,
        b"N\n" + b"7" * 100_000,
        "N\n٢٨".encode(),
        b"Not allowed",
        b"\xc1\n12556",
        b"12556",
    ],
    ids=repr,
)
def test_a_response_that_is_neither_accepted_nor_refused_is_a_protocol_error(endpoint: str, body: bytes) -> None:
    with pytest.raises(ProtocolError) as broken:
        parse(endpoint, body)
    assert broken.value.reason
    assert len(str(broken.value)) < 200


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n", " ", "\n\n"])
def test_any_separator_after_the_a(separator: str, end: str) -> None:
    def body(rest: str) -> bytes:
        return f"A{separator}{rest}{end}".encode()

    assert parse("sendSms", body("12556")) == "12556"
    assert parse("sendSms", body("9" * 20)) == "9" * 20
    assert parse("sendSms", body("007")) == "007"
    assert parse("getSmsResult", body("1/1/0\n46701740605\t-1\tundelivered\t-1")) == SmsResult(
        "12556", 1, 1, 0, (RecipientStatus("46701740605", None, "undelivered", None),)
    )
    assert parse("getSmsResult", body("0/0/0")) == SmsResult("12556", 0, 0, 0, ())
    assert parse("sendlater/get", body("12556\t150115094500004+")) == utc(2015, 1, 15, 8, 45)
    assert parse("sendlater/getall", body("12557\t150115094500004+")) == _BOTH_SCHEDULED[1:]
    assert parse("sendlater/update", body("")) is None
    assert parse("sendlater/cancel", body("")) is None
    header = ";;12556\t2007-12-02 15:14\tjDoe\tAPREFIX\tSMS\t46701740699\tnull\tnull\t"
    inbox = parse("getMsgReceived", body(header + "A text"))
    assert [message.text.rstrip() for message in inbox] == ["A text"]
    updates = parse("getMsgUpdates", body(";;0\t12556\t98765\t46701740699\tdelivered\t2007-12-02 15:14"))
    assert (updates.delivery_reports, updates.unparsed) == ((_REPORT,), ())


def test_a_result_without_separators_cannot_be_parsed() -> None:
    # The last count and the first phone number form one number: the end of the count is ambiguous.
    with pytest.raises(ProtocolError):
        parse("getSmsResult", b"A1/1/146701740605\t-1\tundelivered\t-1")


def test_a_time_without_a_zone_followed_by_an_id_cannot_be_parsed() -> None:
    # The 13th digit may be a tenth of a second or the first digit of the next id.
    with pytest.raises(ProtocolError):
        parse("sendlater/getall", b"A\n12556\t24060309000012557\t240603100000")


def test_a_refusal_with_text_after_the_code_is_not_an_acceptance() -> None:
    with pytest.raises((RefusedError, ProtocolError)):
        parse("sendSms", b"N\n28\nOne or more of the recipient numbers are in the wrong format")


def test_an_id_without_a_time_is_accepted_only_from_the_lookup_of_one_message() -> None:
    """4.3.1.2 has an empty time, whose tab may be stripped. 4.3.2.2 lists only messages with a time."""
    assert parse("sendlater/get", b"A\n12556") is None
    with pytest.raises(ProtocolError):
        parse("sendlater/get", b"A\n125")
    with pytest.raises(ProtocolError):
        parse("sendlater/getall", b"A\n12556")


# ------------------------------------------------------------------------------------------------ times


def _in_zone(time: str, zone: str) -> Any:
    return parse("sendlater/get", f"A\n12556\t{time}".encode(), zone=ZoneInfo(zone))


def _sent_at(time: str, zone: str = "Europe/Stockholm") -> datetime | None:
    body = f"A\n1/1/0\n46701740605\t{time}\tundelivered\t-1".encode()
    result = parse("getSmsResult", body, zone=ZoneInfo(zone))
    assert isinstance(result, SmsResult)
    return result.statuses[0].sent_at


@pytest.mark.parametrize("quarters", [0, 1, 22, 48])  # SMPP v3.4 7.1.1: 00 to 48
@pytest.mark.parametrize("sign", ["+", "-"])
@pytest.mark.parametrize("tenth", ["0", ""])
def test_smpp_time_offsets_in_quarter_hours(quarters: int, sign: str, tenth: str) -> None:
    offset = timedelta(minutes=15 * quarters) * (1 if sign == "+" else -1)
    expected = datetime(2024, 6, 3, 9, 0, tzinfo=timezone(offset))
    value = _in_zone(f"240603090000{tenth}{quarters:02}{sign}", "Europe/Stockholm")
    assert value == expected
    assert value.utcoffset() == timedelta(0)


def test_seconds_and_years_of_an_smpp_time() -> None:
    assert _in_zone("000101000059000+", "Europe/Stockholm") == datetime(2000, 1, 1, 0, 0, 59, tzinfo=UTC)
    assert _in_zone("991231235959000+", "Europe/Stockholm") == datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert _in_zone("240229120000000+", "Europe/Stockholm") == utc(2024, 2, 29, 12)


@pytest.mark.parametrize(
    ("written", "zone", "expected"),
    [
        ("2024-01-15 12:00", "Europe/Stockholm", utc(2024, 1, 15, 11)),
        ("2024-07-15 12:00", "Europe/Stockholm", utc(2024, 7, 15, 10)),
        ("2024-07-15 12:00", "Asia/Kathmandu", utc(2024, 7, 15, 6, 15)),
        ("2024-07-15 00:30", "UTC", utc(2024, 7, 15, 0, 30)),
        ("2024-03-31 01:59", "Europe/Stockholm", utc(2024, 3, 31, 0, 59)),
        ("2024-03-31 03:00", "Europe/Stockholm", utc(2024, 3, 31, 1)),
        ("2024-10-27 01:59", "Europe/Stockholm", utc(2024, 10, 26, 23, 59)),
        ("2024-10-27 02:30", "Europe/Stockholm", utc(2024, 10, 27, 0, 30)),  # the first of the two
        ("2024-10-27 03:00", "Europe/Stockholm", utc(2024, 10, 27, 2)),
        ("2024-11-03 01:30", "America/New_York", utc(2024, 11, 3, 5, 30)),
        ("2024-01-01 00:00", "Pacific/Auckland", utc(2023, 12, 31, 11)),
        ("240715120000", "Europe/Stockholm", utc(2024, 7, 15, 10)),
        ("240115120000", "Europe/Stockholm", utc(2024, 1, 15, 11)),
        ("-1", "Europe/Stockholm", None),
        ("", "Europe/Stockholm", None),
        ("null", "Europe/Stockholm", None),
    ],
)
def test_times_without_an_offset_are_in_the_gateways_zone(written: str, zone: str, expected: datetime | None) -> None:
    value = _sent_at(written, zone)
    assert value == expected
    assert value is None or value.utcoffset() == timedelta(0)


def test_a_skipped_wall_clock_time_is_read_within_an_hour_of_the_gap() -> None:
    value = _sent_at("2024-03-31 02:30")
    assert value is not None
    assert utc(2024, 3, 31, 0, 30) <= value <= utc(2024, 3, 31, 1, 30)


@pytest.mark.parametrize(
    "written",
    [
        "2024-02-30 12:00",
        "2024-13-01 12:00",
        "2024-01-01 24:01",
        "2024-01-01 12:60",
        "0000-01-01 00:00",
        "0001-01-01 00:00",
        "2024-01-01T12:00",
        "2024-01-01",
        "24-01-01 12:00",
        "241301120000000+",
        "240101250000000+",
        "240101120000099+",
        "2401011200",
        "24010112000",
        "2401011200000",
        "0",
        "-2",
        "NULL?",
        "\u0662\u0660\u0662\u0664-01-01 12:00",
    ],
)
def test_invalid_times_are_refused(written: str) -> None:
    with pytest.raises(ProtocolError):
        _sent_at(written)
    updates = parse("getMsgUpdates", f"A\n;;0\t12556\t98765\t46701740699\tdelivered\t{written}".encode())
    assert updates.delivery_reports == ()
    assert updates.unparsed == (f";;0\t12556\t98765\t46701740699\tdelivered\t{written}",)


def test_an_undelivered_status_has_no_times() -> None:
    result = parse("getSmsResult", b"A\n1/0/0\n46701740605\t-1\tundelivered\t-1\n")
    assert result.statuses == (RecipientStatus("46701740605", None, "undelivered", None),)


# ------------------------------------------------------------------------------------------------ charsets

_TEXT = "Blåbär på ön"
_HEADER = ";;12556\t2007-12-02 15:14\tjDoe\tAPREFIX\tSMS\t46701740699\tnull\tnull\t"


@pytest.mark.parametrize(
    ("charset", "content_type"),
    [
        ("utf-8", None),
        ("utf-8", ""),
        ("utf-8", "text/plain"),
        ("utf-8", "text/plain; charset=utf-8"),
        ("utf-8", 'text/plain; charset="UTF-8"'),
        ("utf-8", "TEXT/PLAIN; CHARSET=UTF8"),
        ("utf-8", "text/plain; charset=utf-8, text/plain; charset=utf-8"),
        ("utf-8", "text/plain; charset="),
        ("utf-8", 'text/plain; charset="'),
        ("utf-8", "text/plain; charset=no-such-charset"),
        ("utf-8", "text/plain; charset=hex"),
        ("utf-8", "text/plain; charset=undefined"),
        ("utf-8", "text/plain; charset=a\x00b"),
        ("utf-8", "text/plain; charset*=utf-8'sv'utf-8"),
        ("utf-8", "text/plain; charset*=a\x00b'sv'utf-8"),
        ("utf-8", "text/plain; charset*=a; charset*0=b; charset*1=c"),
        ("utf-8", f"text/plain; charset*{'1' * 5000}=utf-8"),
        ("utf-8", f"text/plain; charset={'x' * 5000}"),
        ("utf-8", "text/plain; charset=us-ascii"),
        ("utf-8", "text/plain; charset=utf-8\r\nX-Other: 1"),
        ("utf-8", "text/plain; charset=ÜTF-8"),
        ("iso-8859-1", None),
        ("iso-8859-1", "text/plain"),
        ("iso-8859-1", "text/plain; charset=ISO-8859-1"),
        ("iso-8859-1", "text/plain; charset=utf-8"),
        ("iso-8859-1", "text/plain; charset=x-unknown"),
        ("utf-8-sig", None),
        ("utf-8-sig", "text/plain; charset=utf-8"),
        ("utf-8-sig", "text/plain; charset=iso-8859-1"),
        ("utf-16", None),
        ("utf-16", "text/plain; charset=utf-16"),
        ("utf-16-le", "text/plain; charset=utf-16le"),
        ("utf-16-be", "text/plain; charset=utf-16be"),
        ("utf-16-be", "text/plain; charset=utf-16"),
        ("utf-16-le", None),  # a stored response has no content type
        ("utf-16-be", None),
        ("utf-8", f"text/plain; {'a=;' * 30_000}charset=utf-8"),
        ("cp1252", "text/plain; charset=windows-1252"),
        ("cp850", "text/plain; charset=ibm850"),
    ],
)
def test_charsets(charset: str, content_type: str | None) -> None:
    body = f"A\n{_HEADER}{_TEXT}\n".encode(charset)
    assert parse("getMsgReceived", body, content_type) == [received("12556", _TEXT)]


@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be"])
def test_stored_updates_in_utf_16_are_recognized(charset: str) -> None:
    body = "A\n;;0\t12556\t98765\t46701740699\tdelivered\t2007-12-02 15:14\n".encode(charset)
    updates = parse("getMsgUpdates", body)
    assert (updates.delivery_reports, updates.unparsed) == ((_REPORT,), ())
    assert parse("sendSms", "A\n12556".encode(charset)) == "12556"


def test_a_codec_that_is_not_a_charset_is_ignored() -> None:
    (message,) = parse("getMsgReceived", f"A\n{_HEADER}\\ud800".encode(), "text/plain; charset=raw_unicode_escape")
    assert message.text == "\\ud800"


@pytest.mark.parametrize(
    ("endpoint", "lines"),
    [
        (
            "getSmsResult",
            [
                "2 / 1 / 1",
                "46701740605 \t 2007-12-02 15:14 \t delivered \t 2007-12-02 15:15 ",
                "46701740606 \t -1 \t\t -1",
            ],
        ),
        ("sendlater/getall", ["12556 \t 150115094500004+ ", "12557 \t -1"]),
        ("getMsgReceived", [";; 12556 \t 2007-12-02 15:14 \t jDoe \tP\tSMS\t 46701740605\tnull\t null \tSTOP"]),
        ("getMsgUpdates", [";; 0 \t 12556 \t98765\t46701740605\tdelivered\t 2007-12-02 15:14"]),
        ("getMsgUpdates", [";;1 \t 12554 \t46701740605\t 2007-12-02 15:14 \tP\tSMS\thi"]),
    ],
)
def test_blanks_next_to_separators_are_ignored(endpoint: str, lines: list[str]) -> None:
    padded = "\n".join(["A", *lines])
    plain = re.sub(r" *([/\t\n]|;;) *", r"\1", padded)
    assert plain != padded
    parsed, expected = parse(endpoint, padded.encode()), parse(endpoint, plain.encode())
    if isinstance(parsed, Updates):  # with the raw response
        assert len(parsed.delivery_reports) + len(parsed.received_messages) == 1
        assert dataclasses.replace(parsed, raw=b"") == dataclasses.replace(expected, raw=b"")
    else:
        assert parsed == expected


@pytest.mark.parametrize("content_type", [None, "text/plain; charset=utf-8"])
def test_a_body_truncated_within_a_character_keeps_the_texts_before_it(content_type: str | None) -> None:
    response = f"A\n{_HEADER}{_TEXT}\n{_HEADER.replace('12556', '12555')}hemåt"
    truncated = response.encode()[:-2]
    assert not truncated.isascii()
    messages = parse("getMsgReceived", truncated, content_type)
    assert messages == [received("12556", _TEXT), received("12555", "hem")]


# ------------------------------------------------------------------------------------------------ invalid records

_OTHER = _HEADER.replace("12556", "12557")
_NO_DAY = _HEADER.replace("12556", "12558").replace("2007-12-02", "2007-02-30")


@pytest.mark.parametrize("line", ["\n", "\r\n", ""])
@pytest.mark.parametrize(
    ("records", "good", "unparsed"),
    [
        ([_HEADER + "one", ";;12558\tshort", _OTHER + "two"], ["12556", "12557"], [";;12558\tshort"]),
        ([_HEADER + "one", _NO_DAY + "no day", _OTHER + "two"], ["12556", "12557"], [_NO_DAY + "no day"]),
        ([";;12558\tshort", _HEADER + "one"], ["12556"], ["12558\tshort"]),
        ([";;12558\tshort"], [], ["12558\tshort"]),
        ([_HEADER + "one", ";;1\ta", ";;2\tb"], ["12556"], [";;1\ta{line};;2\tb"]),
    ],
    ids=["in the middle", "no such day", "at the beginning", "alone", "two"],
)
def test_an_invalid_record_does_not_hide_the_other_records(
    records: list[str], good: list[str], unparsed: list[str], line: str
) -> None:
    response = protocol.Response(f"A\n{line.join(records)}{line}".encode(), None, STOCKHOLM)
    inbox = protocol.parse_inbox_lenient(response)
    assert [message.message_id for message in inbox.messages] == good
    assert [message.text for message in inbox.messages] == ["one", "two"][: len(good)]
    assert list(inbox.unparsed) == [record.format(line=line) for record in unparsed]
    with pytest.raises(ProtocolError, match=f"1 of {len(good) + 1} records"):
        protocol.parse_inbox(response)


@pytest.mark.parametrize("body", ["A\nhello", "A 12556", "A\n;;12556", "A;;x\t"])
def test_a_response_without_any_record_is_not_an_inbox(body: str) -> None:
    with pytest.raises(ProtocolError):
        protocol.parse_inbox_lenient(protocol.Response(body.encode(), None, STOCKHOLM))


def test_raw_updates_are_not_parsed() -> None:
    for body in (b"A", b"A\n;;0\t\xff\x00 whatever", b"\xef\xbb\xbfA"):
        assert protocol.parse_raw_updates(protocol.Response(body, None, STOCKHOLM)) == body
    with pytest.raises(RefusedError):
        protocol.parse_raw_updates(protocol.Response(b"N\n7", None, STOCKHOLM))
    for body in (b"", b"<html>", b"N\nseven"):
        with pytest.raises(ProtocolError):
            protocol.parse_raw_updates(protocol.Response(body, None, STOCKHOLM))


# ------------------------------------------------------------------------------------------------ updates


@pytest.mark.parametrize(
    "body",
    [
        "A\n;;0\tabc\t98765\t46701740699\tdelivered\t-1",
        "A\n;;0\t\t\t\t\t-1",
        "A\n;;1\t\t46701740605\t2019-03-01 12:52\tAPREFIX\tSMS\thi",
        "A\n;;1\t<b>\t46701740605\t2019-03-01 12:52\tAPREFIX\tSMS\thi",
    ],
)
def test_an_update_without_a_message_id_is_kept_unparsed(body: str) -> None:
    updates = parse("getMsgUpdates", body.encode())
    assert (updates.delivery_reports, updates.received_messages) == ((), ())
    assert "".join(updates.unparsed) == body[2:]


def test_every_text_of_an_update_is_kept() -> None:
    words = ["one", ";;0", ";;0\tx", ";;1\t5\tAnna", ";;12 ", "null", "-1"]
    body = "A\n" + "\n".join(f";;1\t{i}\t46701740605\t2019-03-01 12:52\tP\tSMS\t{word}" for i, word in enumerate(words))
    updates = parse("getMsgUpdates", body.encode())
    kept = "\n".join([*(message.text for message in updates.received_messages), *updates.unparsed])
    assert [message.message_id for message in updates.received_messages] == [str(i) for i in range(len(words))]
    assert [word for word in words if word not in kept] == []
    assert updates.raw == body.encode()
