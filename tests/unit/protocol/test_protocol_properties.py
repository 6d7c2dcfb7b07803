"""Property tests of the protocol: round trips against the renderers and decoders below, and damaged responses.

Some truncations cannot be detected: a message id, an error code, the counts of R/S/D and the text of the last received
message look complete when their ends are missing; a time of 16 characters truncated to 12 reads as a time in the
gateway's zone. HTTP detects the truncation of a response that has a Content-Length or is chunked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from prefect_mymsp import protocol
from prefect_mymsp.errors import InputError, ProtocolError, RefusedError
from prefect_mymsp.models import DeliveryReport, ReceivedMessage, RecipientStatus, ScheduledMessage, SmsResult

ZONE = ZoneInfo("Europe/Stockholm")
settings.register_profile("protocol", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
PROFILE = settings.get_profile("protocol")

PARSERS: list[Callable[[protocol.Response], Any]] = [
    protocol.parse_send,
    lambda response: protocol.parse_result(response, "12556"),
    lambda response: protocol.parse_scheduled_time(response, "12556"),
    protocol.parse_scheduled,
    lambda response: protocol.parse_acknowledgement(response, protocol.RESCHEDULE),
    lambda response: protocol.parse_acknowledgement(response, protocol.CANCEL),
    protocol.parse_inbox,
    protocol.parse_updates,
]

# ------------------------------------------------------------------------------------------------ values

ids = st.integers(0, 10**12).map(str)
numbers = st.integers(46701740605, 46701740699).map(str)
separators = st.sampled_from(["\n", "\r\n", "\t", " ", ",", ";", ""])
breaks = st.sampled_from(["\n", "\r\n"])
ends = st.sampled_from(["", "\n", "\r\n"])


def _minutes(after: datetime) -> st.SearchStrategy[datetime]:
    """Instants whose wall-clock time in the zone occurs once, or is the first of a repeated hour."""
    return (
        st.integers(0, 20 * 365 * 24 * 60)
        .map(lambda minutes: after + timedelta(minutes=minutes))
        .filter(lambda at: at.astimezone(ZONE).fold == 0)
    )


times = _minutes(datetime(2007, 1, 8, tzinfo=UTC))
maybe_times = st.none() | times
#: Fields: no tabs and line breaks, no blanks at their ends, not "null".
fields = (
    st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n"), max_size=8).map(str.strip)
    | st.sampled_from([";;9", ";;0", ";", "A", "N", "-1", "SMS", "2007-12-02 15:14"])
).filter(lambda text: text not in {"", "null"})
maybe_fields = st.none() | fields
#: Texts after the gateway's cleaning: anything but tabs and line breaks.
cleaned = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n"), max_size=40) | st.sampled_from(
    [";;", ";;12556", "x;;12556 2007-12-02 15:14", ";;0 12556", "null", "\\n", ";;;", "\u2028;;1", "\x85"]
)

statuses = st.builds(
    lambda number, sent_at, status, later: RecipientStatus(
        number,
        sent_at,
        status,
        None
        if later is None or sent_at is None or (sent_at + timedelta(minutes=later)).astimezone(ZONE).fold
        else sent_at + timedelta(minutes=later),
    ),
    numbers,
    maybe_times,
    st.sampled_from(["delivered", "undelivered", "expired", "in transit"]),
    st.none() | st.integers(0, 3000),
)
messages = st.builds(
    ReceivedMessage,
    message_id=ids,
    received_at=maybe_times,
    user=maybe_fields,
    prefix=maybe_fields,
    kind=maybe_fields,
    sender=maybe_fields,
    alias=maybe_fields,
    subject=maybe_fields,
    text=cleaned,
)
scheduled = st.builds(ScheduledMessage, ids, maybe_times)
reports = st.builds(DeliveryReport, ids, numbers, numbers, st.sampled_from(["delivered", "undelivered"]), maybe_times)
hinted = st.builds(
    lambda message, text: ReceivedMessage(
        message.message_id,
        message.received_at,
        None,
        message.prefix,
        message.kind,
        message.sender,
        None,
        None,
        text.rstrip("\r\n"),
    ),
    messages,
    st.text(st.characters(codec="utf-8", exclude_characters="\t"), max_size=40),
)

# ------------------------------------------------------------------------------------------------ renderers


def local(at: datetime | None, nothing: str = "-1") -> str:
    return nothing if at is None else at.astimezone(ZONE).strftime("%Y-%m-%d %H:%M")


def smpp(at: datetime | None, quarters: int, tenth: str = "0", nothing: str = "") -> str:
    if at is None:
        return nothing
    local_time = at.astimezone(timezone(timedelta(minutes=15 * quarters)))
    return f"{local_time:%y%m%d%H%M%S}{tenth}{abs(quarters):02}{'-' if quarters < 0 else '+'}"


def bare(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(ZONE):%y%m%d%H%M%S}"


def write_result(entries: Sequence[RecipientStatus], separator: str, line: str) -> str:
    sent = sum(entry.sent_at is not None for entry in entries)
    delivered = sum(entry.delivered_at is not None for entry in entries)
    lines = [f"{len(entries)}/{sent}/{delivered}"]
    lines += ["\t".join([e.recipient, local(e.sent_at), e.status, local(e.delivered_at)]) for e in entries]
    return f"A{separator}" + line.join(lines)


def write_message(message: ReceivedMessage) -> str:
    names = (message.user, message.prefix, message.kind, message.sender, message.alias, message.subject)
    middle = ["null" if name is None else name for name in names]
    return ";;" + "\t".join([message.message_id, local(message.received_at, "null"), *middle, message.text])


def write_update(entry: DeliveryReport | ReceivedMessage, quarters: int | None) -> str:
    if isinstance(entry, DeliveryReport):
        at = local(entry.delivered_at) if quarters is None else smpp(entry.delivered_at, quarters, nothing="-1")
        return ";;" + "\t".join(["0", entry.message_id, entry.recipient_id, entry.recipient, entry.status, at])
    names = [
        "null" if name is None else name for name in (entry.sender, local(entry.received_at), entry.prefix, entry.kind)
    ]
    return ";;" + "\t".join(["1", entry.message_id, *names, entry.text])


ENCODINGS = [
    ("utf-8", None),
    ("utf-8", "text/plain"),
    ("utf-8", "text/plain; charset=UTF-8"),
    ("utf-8", 'text/plain;charset="utf8"'),
    ("utf-8-sig", "text/plain; charset=ISO-8859-1"),
    ("utf-16", None),
    ("utf-16-be", "text/plain; charset=UTF-16BE"),
    ("iso-8859-1", "text/plain; charset=ISO-8859-1"),
    ("cp1252", "text/plain; charset=windows-1252"),
]


def responses(text: str) -> list[protocol.Response]:
    """The text in every encoding that can represent it and that a reader can detect."""
    written = []
    for encoding, content_type in ENCODINGS:
        with contextlib.suppress(UnicodeEncodeError):
            written.append(protocol.Response(text.encode(encoding), content_type, ZONE))
    with contextlib.suppress(UnicodeEncodeError):
        body = text.encode("iso-8859-1")
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":  # else it may be UTF-8 truncated in its last character
                written += [
                    protocol.Response(body, None, ZONE),
                    protocol.Response(body, "text/plain; charset=utf-8", ZONE),
                ]
    return written


# ------------------------------------------------------------------------------------------------ complete responses


@PROFILE
@given(ids, separators, ends)
def test_message_ids_round_trip(message_id: str, separator: str, end: str) -> None:
    for response in responses(f"A{separator}{message_id}{end}"):
        assert protocol.parse_send(response) == message_id


@PROFILE
@given(st.integers(0, 999_999_999), separators, ends, st.sampled_from(PARSERS))
def test_error_codes_round_trip(code: int, separator: str, end: str, parse: Callable[[protocol.Response], Any]) -> None:
    for response in responses(f"N{separator}{code}{end}"):
        with pytest.raises(RefusedError) as refused:
            parse(response)
        assert refused.value.code == code


@PROFILE
@given(st.lists(statuses, max_size=5), separators, breaks, ends)
def test_results_round_trip(entries: list[RecipientStatus], separator: str, line: str, end: str) -> None:
    sent = sum(entry.sent_at is not None for entry in entries)
    delivered = sum(entry.delivered_at is not None for entry in entries)
    expected = SmsResult("12556", len(entries), sent, delivered, tuple(entries))
    for response in responses(write_result(entries, separator, line) + end):
        assert protocol.parse_result(response, "12556") == expected


@PROFILE
@given(st.lists(scheduled, max_size=5), st.lists(st.integers(-48, 48), min_size=5), separators, breaks, ends, st.data())
def test_schedules_round_trip(
    entries: list[ScheduledMessage], quarters: list[int], separator: str, line: str, end: str, data: st.DataObject
) -> None:
    tenth = data.draw(st.sampled_from(["0", ""]))
    zoned = [f"{e.message_id}\t{smpp(e.send_at, q, tenth)}" for e, q in zip(entries, quarters, strict=False)]
    unzoned = [f"{e.message_id}\t{bare(e.send_at)}" for e in entries]
    for lines in (zoned, unzoned):
        for response in responses(f"A{separator}{line.join(lines)}{end}"):
            assert protocol.parse_scheduled(response) == entries
    timed = [line for line, entry in zip(zoned, entries, strict=True) if entry.send_at is not None]
    for response in responses(f"A{separator}{''.join(timed)}{end}"):
        assert protocol.parse_scheduled(response) == [entry for entry in entries if entry.send_at is not None]
    for entry, written in zip(entries, zoned, strict=True):
        for response in responses(f"A{separator}{written}{end}"):
            assert protocol.parse_scheduled_time(response, entry.message_id) == entry.send_at


@PROFILE
@given(st.lists(messages, max_size=5), separators, breaks | st.just(""), ends)
def test_inboxes_round_trip(entries: list[ReceivedMessage], separator: str, line: str, end: str) -> None:
    for response in responses(f"A{separator}" + line.join(map(write_message, entries)) + end):
        assert protocol.parse_inbox(response) == entries


@PROFILE
@given(
    st.lists(reports | hinted, max_size=5),
    st.none() | st.integers(-48, 48),
    separators,
    breaks | st.just(""),
    ends,
)
def test_updates_round_trip(
    entries: list[DeliveryReport | ReceivedMessage], quarters: int | None, separator: str, line: str, end: str
) -> None:
    for response in responses(f"A{separator}" + line.join(write_update(entry, quarters) for entry in entries) + end):
        updates = protocol.parse_updates(response)
        assert updates.raw == response.body
        assert updates.unparsed == ()
        assert list(updates.delivery_reports) == [e for e in entries if isinstance(e, DeliveryReport)]
        assert list(updates.received_messages) == [e for e in entries if isinstance(e, ReceivedMessage)]


@PROFILE
@given(st.lists(hinted, min_size=1, max_size=3), st.text(max_size=60), st.sampled_from(["\n", ""]))
@example([], "\n;;0\t12556\t98765\t46701740699\tdelivered\t2007-12-02 15:14", "")
@example([], ";;1\t12556\t46701740699\t2007-12-02 15:14\tP\tSMS\tfake", "\n")
def test_the_text_of_a_message_never_changes_the_updates_before_it(
    entries: list[ReceivedMessage], text: str, line: str
) -> None:
    last = ReceivedMessage("7", None, None, None, None, "46701740605", None, None, text)
    body = "A\n" + "\n".join(write_update(entry, None) for entry in [*entries, last]) + line
    updates = protocol.parse_updates(
        protocol.Response(body.encode("utf-8", "replace"), "text/plain; charset=utf-8", ZONE)
    )
    assert list(updates.received_messages[: len(entries)]) == entries
    assert updates.received_messages[len(entries)].message_id == "7"


# ------------------------------------------------------------------------------------------------ truncated responses

UTF8 = "text/plain; charset=utf-8"


def _truncations(text: str, encoding: str = "utf-8") -> list[bytes]:
    body = text.encode(encoding)
    return [body[:at] for at in range(len(body))]


@PROFILE
@given(st.lists(messages, min_size=1, max_size=3), breaks, st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_a_truncated_inbox_yields_only_messages_it_contained(
    entries: list[ReceivedMessage], line: str, encoding: str
) -> None:
    for body in _truncations("A\n" + line.join(map(write_message, entries)) + line, encoding):
        try:
            parsed = protocol.parse_inbox(protocol.Response(body, UTF8, ZONE))
        except ProtocolError:
            continue
        assert len(parsed) <= len(entries)
        for at, message in enumerate(parsed):
            if at < len(parsed) - 1:
                assert message == entries[at]
            else:
                assert write_message(entries[at]).startswith(write_message(message))
                assert entries[at].text.startswith(message.text)


@PROFILE
@given(st.lists(messages, min_size=1, max_size=3), breaks)
def test_a_truncated_inbox_without_a_charset_is_decoded_correctly(entries: list[ReceivedMessage], line: str) -> None:
    first = ReceivedMessage("1", None, "Åke", None, None, None, None, None, "å")  # identifies the encoding as UTF-8
    for body in _truncations("A\n" + line.join(map(write_message, [first, *entries]))):
        try:
            parsed = protocol.parse_inbox(protocol.Response(body, None, ZONE))
        except ProtocolError:
            continue
        for message, entry in zip(parsed, [first, *entries], strict=False):
            assert write_message(entry).startswith(write_message(message))


@PROFILE
@given(messages, messages)
def test_without_line_breaks_a_text_may_end_with_the_id_of_the_next_message(
    first: ReceivedMessage, second: ReceivedMessage
) -> None:
    """``A text;;125`` without a line break is ambiguous: a text, or a text and a message truncated in its id."""
    for body in _truncations("A" + write_message(first) + write_message(second)):
        try:
            parsed = protocol.parse_inbox(protocol.Response(body, UTF8, ZONE))
        except ProtocolError:
            continue
        if len(parsed) == 2:
            assert parsed[0] == first
        elif parsed:
            assert (first.text + f";;{second.message_id}").startswith(parsed[0].text)


@PROFILE
@given(st.lists(statuses, min_size=1, max_size=3), breaks)
def test_a_truncated_result_yields_only_statuses_it_contained(entries: list[RecipientStatus], line: str) -> None:
    text = write_result(entries, ";", line)
    counts = text.split(line)[0].removeprefix("A;")
    for body in _truncations(text):
        try:
            result = protocol.parse_result(protocol.Response(body, UTF8, ZONE), "12556")
        except ProtocolError:
            continue
        shown = f"{result.recipients}/{result.sent}/{result.delivered}"
        assert counts == shown or (counts.startswith(shown) and not result.statuses)
        for at, status in enumerate(result.statuses):
            entry = entries[at]
            if at < len(result.statuses) - 1 or status.delivered_at is not None:
                assert status == entry
            else:  # truncated right before the delivery time, which is then None, as for -1
                assert status in {entry, RecipientStatus(entry.recipient, entry.sent_at, entry.status, None)}


@PROFILE
@given(st.lists(scheduled, min_size=1, max_size=3), st.integers(-48, 48), breaks | st.just(""))
def test_a_truncated_schedule_yields_only_ids_it_contained(
    entries: list[ScheduledMessage], quarters: int, line: str
) -> None:
    listed = [entry for entry in entries if line or entry.send_at is not None]
    written = [f"{entry.message_id}\t{smpp(entry.send_at, quarters)}" for entry in listed]
    for body in _truncations("A\n" + line.join(written)):
        try:
            parsed = protocol.parse_scheduled(protocol.Response(body, UTF8, ZONE))
        except ProtocolError:
            continue
        for at, message in enumerate(parsed):
            entry = listed[at]
            assert message.message_id == entry.message_id
            if at < len(parsed) - 1:
                assert message == entry
            elif message.send_at not in {entry.send_at, None}:
                # Truncated to 12 of 16 characters, which is the form of a time in the gateway's zone.
                assert bare(message.send_at) == smpp(entry.send_at, quarters)[:12]


@PROFILE
@given(st.lists(reports | hinted, min_size=1, max_size=3), breaks)
def test_truncated_updates_yield_at_most_one_changed_record(
    entries: list[DeliveryReport | ReceivedMessage], line: str
) -> None:
    body = ("A\n" + line.join(write_update(entry, None) for entry in entries)).encode()
    for at in range(1, len(body)):
        updates = protocol.parse_updates(protocol.Response(body[:at], UTF8, ZONE))
        parsed = [*updates.delivery_reports, *updates.received_messages]
        assert updates.raw == body[:at]
        assert len(parsed) <= len(entries)
        assert len([entry for entry in parsed if entry not in entries]) <= 1


# ------------------------------------------------------------------------------------------------ damaged responses

content_types = (
    st.none()
    | st.text(max_size=40)
    | st.text(max_size=20).map(lambda name: f"text/plain; charset={name}")
    | st.text("*'%=;\"0123456789abcset \x00", max_size=40).map(lambda rest: f"text/plain; charset{rest}")
    | st.sampled_from(
        [content_type for _, content_type in ENCODINGS]
        + [
            f"text/plain; charset={name}"
            for name in (
                "hex",
                "rot13",
                "zlib",
                "idna",
                "punycode",
                "undefined",
                "utf-7",
                "utf-32",
                "mbcs",
                "shift_jis",
            )
        ]
    )
)
valid_responses = st.one_of(
    st.builds(lambda x, s, e: f"A{s}{x}{e}", ids, separators, ends),
    st.builds(lambda x, s, e: f"N{s}{x}{e}", st.integers(0, 400), separators, ends),
    st.builds(write_result, st.lists(statuses, max_size=3), separators, breaks),
    st.lists(scheduled, max_size=3).map(
        lambda entries: "A\n" + "\n".join(f"{e.message_id}\t{smpp(e.send_at, 4)}" for e in entries)
    ),
    st.lists(messages, max_size=3).map(lambda entries: "A\n" + "\n".join(map(write_message, entries))),
    st.lists(reports | hinted, max_size=3).map(
        lambda entries: "A\n" + "\n".join(write_update(entry, None) for entry in entries)
    ),
)


@st.composite
def damaged_responses(draw: st.DrawFn) -> bytes:
    """A valid response, truncated anywhere, with bytes replaced, inserted and removed."""
    body = bytearray(draw(valid_responses).encode(draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))))
    del body[draw(st.integers(0, len(body))) :]
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(body)))
        piece = draw(
            st.binary(max_size=3) | st.sampled_from([b";;", b"\t", b"\n", b";;0\t", b";;1\t", b"-1", b"9" * 50])
        )
        body[at : at + draw(st.integers(0, 3))] = piece
    return bytes(body)


def _parse_or_refuse(body: bytes, content_type: str | None) -> None:
    response = protocol.Response(body, content_type, ZONE)
    for parse in PARSERS:
        with contextlib.suppress(RefusedError, ProtocolError):
            parse(response)


@PROFILE
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: b"A" + rest), content_types)
@example(b"A\n1", "text/plain; charset*=a; charset*0=b")
@example(b"A\n1", "text/plain; charset*" + "1" * 5000 + "=a")
@example(b"A\n1", "text/plain; charset*=\x00''b")
def test_arbitrary_bytes_raise_only_protocol_errors(body: bytes, content_type: str | None) -> None:
    _parse_or_refuse(body, content_type)


@PROFILE
@given(damaged_responses(), content_types)
def test_damaged_responses_raise_only_protocol_errors(body: bytes, content_type: str | None) -> None:
    _parse_or_refuse(body, content_type)


@PROFILE
@given(st.text(max_size=200))
def test_an_acceptance_is_an_a_and_one_number(text: str) -> None:
    response = protocol.Response(text.encode("utf-8", "replace"), UTF8, ZONE)
    try:
        message_id = protocol.parse_send(response)
    except (RefusedError, ProtocolError):
        return
    assert message_id.isascii()
    assert message_id.isdigit()
    assert text.lstrip("\ufeff \t\r\n").startswith("A")
    assert text.count(message_id) == 1


# ------------------------------------------------------------------------------------------------ requests

letters = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
logins = st.tuples(letters, letters)
instants = st.datetimes(
    min_value=datetime(1900, 1, 1),
    max_value=datetime(9000, 1, 1),
    timezones=st.sampled_from(
        [UTC, ZONE, ZoneInfo("Asia/Kathmandu"), ZoneInfo("Pacific/Apia"), timezone(timedelta(seconds=-12345))]
    ),
)
groups = st.text(
    st.characters(codec="utf-8", exclude_characters=",", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1, max_size=12
).map(lambda name: f"g{name}".strip())


def form(body: bytes) -> list[tuple[str, str]]:
    return parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True)


@PROFILE
@given(
    st.lists(
        st.sampled_from(["46701740605", "46701740606", "+46701740605", "0701", "choir", "1,2", "46701,46702", "", "\t"])
    )
)
def test_several_recipients_are_formatted_as_they_are_individually(recipients: list[str]) -> None:
    """Recipients that are all MSISDNs are checked together; that must accept only what the individual check accepts."""
    expected = None
    with contextlib.suppress(InputError):
        expected = ",".join(dict.fromkeys(protocol.format_recipients(recipient) for recipient in recipients))
    if expected:
        assert protocol.format_recipients(recipients) == expected
    else:
        with pytest.raises(InputError):
            protocol.format_recipients(recipients)


@PROFILE
@given(
    logins,
    st.lists(numbers | numbers.map(lambda number: f"+{number}") | groups, min_size=1, max_size=6),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=765).filter(lambda text: bool(text.strip())),
    st.none() | groups,
    st.none() | instants,
    st.booleans(),
    st.none() | st.integers(1, 65535),
)
def test_send_parameters_round_trip(
    login: tuple[str, str],
    recipients: list[str],
    text: str,
    originator: str | None,
    send_at: datetime | None,
    flash: bool,
    destination_port: int | None,
) -> None:
    body = protocol.build_send(
        protocol.Login(*login),
        recipients,
        text,
        originator=originator,
        send_at=send_at,
        flash=flash,
        destination_port=destination_port,
    )
    pairs = form(body)
    read = dict(pairs)
    assert len(read) == len(pairs)
    assert b"+" not in body
    assert (read.pop("user"), read.pop("pwd")) == login
    assert read.pop("charset") == "UTF-8"
    assert read.pop("msg") == text
    sent_to = read.pop("recipients").split(",")
    assert len(sent_to) == len(set(sent_to))
    assert set(sent_to) == {recipient.removeprefix("+") for recipient in recipients}
    assert read.pop("originator", None) == originator
    assert read.pop("isflash", "false") == str(flash).lower()
    assert read.pop("destinationport", "None") == str(destination_port)
    written = read.pop("deliverytime", None)
    if send_at is None:
        assert written is None
    else:
        assert written is not None
        year, digits, zone = written[:-10], written[-10:-2], written[-2:]
        assert (len(year), zone) == (4, "+0")
        at = datetime.strptime(f"{year}{digits}+0000", "%Y%m%d%H%M%z")
        assert timedelta(0) <= at - send_at.astimezone(UTC) < timedelta(minutes=1)
    assert read == {}


@PROFILE
@given(logins, ids, instants)
def test_message_ids_use_the_parameter_name_of_the_endpoint(login: tuple[str, str], number: str, at: datetime) -> None:
    credentials = protocol.Login(*login)
    for body, name, more in (
        (protocol.build_result(credentials, number), "msgId", set()),
        (protocol.build_scheduled_time(credentials, number), "msgno", set()),
        (protocol.build_cancel(credentials, number), "msgno", set()),
        (protocol.build_reschedule(credentials, number, at), "msgno", {"deliverytime"}),
        (protocol.build_inbox(credentials, number), "lastMsgId", {"clean"}),
    ):
        read = dict(form(body))
        assert read[name] == number
        assert (read["user"], read["pwd"]) == login
        assert set(read) == {"user", "pwd", name} | more


@PROFILE
@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_a_send_request_raises_only_input_errors(user: str, password: str, recipient: str, text: str) -> None:
    try:
        body = protocol.build_send(protocol.Login(user, password), recipient, text, originator=recipient)
    except InputError:
        return
    read = dict(form(body))
    assert (read["user"], read["pwd"], read["msg"]) == (user, password, text)
    assert "," not in read["recipients"]
