"""The eight endpoints, every error code, time and dialects, on the state alone."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.sandbox import Account, Clock, Fault, FaultPlan, Gateway

START = datetime(2026, 1, 15, 9, 0, tzinfo=UTC)
LOGIN = {"user": "demo", "pwd": "demo-password"}
SEND = {"originator": "Demo", "recipients": "46701740605", "msg": "Hej"}
FUTURE = "202601151200+0"


def form(params: dict[str, str | bytes]) -> bytes:
    return "&".join(f"{quote(k)}={quote(v)}" for k, v in params.items()).encode()


class Caller:
    """Calls a gateway as a client would, one form at a time."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def __call__(self, endpoint: str, **params: str | bytes | None) -> str:
        merged = {k: v for k, v in ({**LOGIN, **params}).items() if v is not None}
        return self.raw(endpoint, merged).decode()

    def raw(self, endpoint: str, params: dict[str, str | bytes]) -> bytes:
        reply = self.gateway.handle("POST", endpoint, b"", form(params))
        assert reply.status == 200
        assert reply.announced == len(reply.body)
        return reply.body

    def send(self, **params: str | bytes | None) -> str:
        return self("sendSms", **{**SEND, **params})

    def accepted(self, **params: str | bytes | None) -> str:
        response = self.send(**params)
        assert response.startswith("A\n"), response
        return response.split()[1]

    def rows(self, message_id: str) -> list[list[str]]:
        return [line.split("\t") for line in self("getSmsResult", msgId=message_id).splitlines()[2:]]


@pytest.fixture
def gateway() -> Gateway:
    clock = Clock(start=START)
    clock.frozen = True
    account = Account(groups={"Staff": ("46701740606", "46701740607"), "stf": ("46701740606", "46701740607")})
    return Gateway(accounts=[account, Account(user="other", password="secret")], clock=clock)


@pytest.fixture
def call(gateway: Gateway) -> Caller:
    return Caller(gateway)


ENDPOINT_PARAMS: dict[str, dict[str, str]] = {
    "sendSms": SEND,
    "getSmsResult": {"msgId": "1"},
    "sendlater/get": {"msgno": "1"},
    "sendlater/getall": {},
    "sendlater/update": {"msgno": "1", "deliverytime": FUTURE},
    "sendlater/cancel": {"msgno": "1"},
    "getMsgReceived": {"lastMsgId": "0"},
    "getMsgUpdates": {},
}


@pytest.mark.parametrize("endpoint", ENDPOINT_PARAMS)
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"user": None}, 23),
        ({"user": ""}, 22),
        ({"pwd": None}, 25),
        ({"pwd": ""}, 24),
        ({"user": "nobody"}, 7),
        ({"pwd": "wrong"}, 7),
        ({"pwd": "secret"}, 7),
    ],
)
def test_login_codes_of_every_endpoint(call: Caller, endpoint: str, change: dict[str, str | None], code: int) -> None:
    assert call(endpoint, **{**ENDPOINT_PARAMS[endpoint], **change}) == f"N\n{code}\n"
    assert not call.gateway.messages


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"recipients": None}, 29),
        ({"recipients": ""}, 282),
        ({"msg": None}, 31),
        ({"msg": ""}, 30),
        ({"originator": "Nobody"}, 33),
        ({"recipients": "46701740605,0701740606"}, 28),
        ({"recipients": "+46701740605"}, 28),
        ({"recipients": "46701740605,"}, 28),
        ({"recipients": "Nosuchgroup"}, 28),
        ({"recipients": "1234567"}, 28),
        ({"recipients": "1234567890123456"}, 28),
        ({"recipients": "\uff146701740605", "charset": "utf-8"}, 28),
        ({"recipients": "46701740605,46701740654"}, 28),
        ({"deliverytime": "2026-01-15 12:00"}, 34),
        ({"deliverytime": "202601151200"}, 34),
        ({"deliverytime": "202601151200 1"}, 34),
        ({"deliverytime": "202613151200+0"}, 34),
        ({"deliverytime": "202601151200+15"}, 34),
        ({"deliverytime": "000101010000+14"}, 34),
        ({"deliverytime": ""}, 34),
        ({"deliverytime": "999912312359-14"}, 34),
        ({"deliverytime": "210001010000+0"}, 35),
        ({"deliverytime": "202601150900+0"}, 35),
        ({"deliverytime": "202601151000+1"}, 35),
        ({"isflash": "yes"}, 36),
        ({"isflash": ""}, 36),
        ({"destinationport": "x"}, 37),
        ({"destinationport": "-1"}, 37),
        ({"destinationport": "65536"}, 37),
        ({"express": "maybe"}, 38),
        ({"msg": "x" * 766}, 303),
        ({"charset": "klingon"}, 303),
        ({"charset": ""}, 303),
        ({"charset": "ro\0t"}, 303),
        ({"charset": "rot13"}, 303),
        ({"charset": "unicode_escape", "msg": "\\ud800"}, 303),
        ({"charset": "UTF7", "msg": "+2AA-"}, 303),
        ({"charset": "UTF-8", "msg": b"\xe5"}, 303),
    ],
)
def test_refused_sends(call: Caller, change: dict[str, Any], code: int) -> None:
    assert call.send(**change) == f"N\n{code}\n"
    assert not call.gateway.messages


def test_a_send_that_fits(call: Caller) -> None:
    message_id = call.accepted(msg="å" * 765, charset="UTF-8", isflash="TRUE", destinationport="5000", express="false")
    (message,) = call.gateway.ledger()
    assert message["id"] == message_id
    assert (message["text"], message["flash"], message["destination_port"]) == ("å" * 765, True, 5000)


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        (None, "Räksmörgås".encode("iso-8859-1"), "Räksmörgås"),
        (None, "Räk".encode(), "RÃ¤k"),
        ("UTF-8", "Räk 👋".encode(), "Räk 👋"),
        ("windows-1252", "€".encode("cp1252"), "€"),
    ],
)
def test_charset_decodes_the_text(call: Caller, charset: str | None, raw: bytes, text: str) -> None:
    call.accepted(msg=raw, charset=charset)
    assert call.gateway.ledger()[0]["text"] == text


def test_the_charset_is_the_whole_requests(call: Caller) -> None:
    call.gateway.configure({"accounts": {"demo": {"originators": ["Åre"], "groups": {"Räddning": ["46701740605"]}}}})
    for charset in ("utf-8", "iso-8859-1"):
        call.accepted(originator="Åre".encode(charset), recipients="Räddning".encode(charset), charset=charset)
    assert call.send(originator="Åre".encode()) == "N\n33\n"


def test_the_form_is_decoded_by_its_bytes(gateway: Gateway) -> None:
    body = b"user=demo&pwd=demo-password&originator=Demo&recipients=46701740605&&msg=1+1%2B1%20%zz%26&msg=second&x"
    assert gateway.handle("POST", "sendSms", b"", body).body.startswith(b"A")
    assert gateway.ledger()[0]["text"] == "1 1+1 %zz&"


def test_originators(call: Caller) -> None:
    call.accepted(originator=None)
    assert call.gateway.ledger()[0]["originator"] == "Demo"
    call.gateway.configure({"accounts": {"demo": {"originators": None}}})
    call.accepted(originator="Anything")
    assert call.send(originator="") == "N\n33\n"


def test_groups_and_repeated_numbers(call: Caller) -> None:
    call.accepted(recipients=" Staff , 46701740605,46701740605,stf")
    numbers = [r["msisdn"] for r in call.gateway.ledger()[0]["recipients"]]
    assert [n[-1] for n in numbers] == ["6", "7", "5", "5", "6", "7"]
    call.gateway.configure({"accounts": {"demo": {"groups": {"Empty": []}}}})
    assert call.send(recipients="Empty") == "N\n282\n"


def test_quota_and_credits(call: Caller) -> None:
    call.gateway.configure({"accounts": {"demo": {"max_recipients": 2, "max_messages": 3, "credits": 3}}})
    assert call.send(recipients="46701740605,46701740606,46701740607") == "N\n11\n"
    scheduled = call.accepted(recipients="46701740605,46701740606", deliverytime=FUTURE)
    assert call.send(recipients="46701740605,46701740606") == "N\n11\n"
    call.gateway.configure({"accounts": {"demo": {"max_messages": None}}})
    assert call.send(recipients="46701740605,46701740606") == "N\n12\n"
    assert call.gateway.accounts["demo"].credits == 1
    assert call("sendlater/cancel", msgno=scheduled) == "A\n"
    assert call.gateway.accounts["demo"].credits == 3
    call.accepted(recipients="46701740605,46701740606")


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("getSmsResult", "msgId"),
        ("sendlater/get", "msgno"),
        ("sendlater/update", "msgno"),
        ("sendlater/cancel", "msgno"),
        ("getMsgReceived", "lastMsgId"),
    ],
)
def test_message_number_codes(call: Caller, endpoint: str, name: str) -> None:
    assert call(endpoint, deliverytime=FUTURE) == "N\n392\n"
    assert call(endpoint, **{name: ""}, deliverytime=FUTURE) == "N\n392\n"
    assert call(endpoint, **{name: "12x"}, deliverytime=FUTURE) == "N\n391\n"
    assert call(endpoint, **{name: "-1"}, deliverytime=FUTURE) == "N\n391\n"
    if endpoint == "getMsgReceived":
        return
    assert call(endpoint, **{name: "1"}, deliverytime=FUTURE) == "N\n32\n"
    theirs = call.accepted(user="other", pwd="secret", deliverytime=FUTURE)
    assert call(endpoint, **{name: theirs}, deliverytime=FUTURE) == "N\n32\n"


def test_a_message_is_sent_then_delivered(call: Caller) -> None:
    message_id = call.accepted(recipients="46701740605,46701740606")
    assert call("getSmsResult", msgId=message_id) == (
        "A\n2/0/0\n46701740605\t-1\tundelivered\t-1\n46701740606\t-1\tundelivered\t-1\n"
    )
    call.gateway.clock.advance(1.6)
    assert call("getSmsResult", msgId=message_id).startswith("A\n2/2/0\n46701740605\t2026-01-15 10:00\tundelivered\t-1")
    call.gateway.clock.advance(60)
    assert call("getSmsResult", msgId=message_id) == (
        "A\n2/2/2\n46701740605\t2026-01-15 10:00\tdelivered\t2026-01-15 10:00\n"
        "46701740606\t2026-01-15 10:00\tdelivered\t2026-01-15 10:00\n"
    )
    ledger = call.gateway.ledger(msisdn="46701740606")[0]["recipients"][1]
    assert "2026-01-15T09:00:00.500" <= ledger["sent_at"] < ledger["delivered_at"] < "2026-01-15T09:00:07.500"
    assert call.gateway.ledger(msisdn="46701740699") == []


def test_archived(call: Caller) -> None:
    first, second = call.accepted(), call.accepted(deliverytime=FUTURE)
    call.gateway.archive(first)
    assert call("getSmsResult", msgId=first) == "N\n323\n"
    assert call("sendlater/get", msgno=first) == "N\n32\n"
    call.gateway.configure({"archive_after_s": 3600})
    call.gateway.clock.advance(3 * 3600 + 3599)
    assert call("getSmsResult", msgId=second).startswith("A")
    call.gateway.clock.advance(1)
    assert call("getSmsResult", msgId=second) == "N\n323\n"


def test_scheduled_messages(call: Caller) -> None:
    now, first, second = (
        call.accepted(),
        call.accepted(deliverytime="202601151030+1"),
        call.accepted(deliverytime="202607010000-2"),
    )
    assert call("sendlater/get", msgno=now) == f"A\n{now}\t\n"
    assert call("sendlater/get", msgno=first) == f"A\n{first}\t260115103000004+\n"
    assert call("sendlater/getall") == f"A\n{second}\t260701040000008+\n{first}\t260115103000004+\n"
    assert call("sendlater/getall", user="other", pwd="secret") == "A\n"
    assert call("sendlater/update", msgno=first, deliverytime="x") == "N\n34\n"
    assert call("sendlater/update", msgno=first) == "N\n34\n"
    assert call("sendlater/update", msgno=first, deliverytime="202601150859+0") == "N\n35\n"
    assert call("sendlater/update", msgno=now, deliverytime=FUTURE) == "N\n351\n"
    assert call("sendlater/cancel", msgno=now) == "N\n351\n"
    assert call("sendlater/update", msgno=first, deliverytime=FUTURE) == "A\n"
    assert call("sendlater/get", msgno=first) == f"A\n{first}\t260115130000004+\n"

    call.gateway.clock.advance(3600)  # the first time chosen for it has passed: nothing happens any more
    assert call.rows(first) == [["46701740605", "-1", "undelivered", "-1"]]
    assert f"\t{first}\t" not in call("getMsgUpdates")
    call.gateway.clock.advance(2 * 3600 + 60)
    assert call.rows(first) == [["46701740605", "2026-01-15 13:00", "delivered", "2026-01-15 13:00"]]
    assert call("getMsgUpdates").count(f"\t{first}\t") == 1
    assert call("sendlater/getall") == f"A\n{second}\t260701040000008+\n"
    assert call("sendlater/update", msgno=first, deliverytime="202601161200+0") == "N\n351\n"
    assert call("sendlater/cancel", msgno=first) == "N\n351\n"
    assert call("sendlater/cancel", msgno=second) == "A\n"
    assert call("sendlater/cancel", msgno=second) == "N\n32\n"
    assert call("sendlater/getall") == "A\n"
    assert call.rows(second) == [["46701740605", "-1", "undelivered", "-1"]]
    assert [m["cancelled"] for m in call.gateway.ledger()] == [False, False, True]


def test_inbox_raw_and_clean(call: Caller) -> None:
    call.gateway.receive(originator="46701740605", text="A\ttext\r\nof\nthree\rlines \\n", prefix="PRE")
    received = call.gateway.receive(originator="46701740606", text="B text", kind="DPN", alias="77", prefix=None)
    raw = call("getMsgReceived", lastMsgId="0")
    assert raw == (
        "A\n"
        ";;100002\t2026-01-15 10:00\tdemo\tnull\tDPN\t46701740606\t77\tnull\tB text\n"
        ";;100001\t2026-01-15 10:00\tdemo\tPRE\tSMS\t46701740605\tnull\tnull\tA\ttext\r\nof\nthree\rlines \\n\n"
    )
    clean = call("getMsgReceived", lastMsgId="0", clean="true")
    assert clean.endswith("\tA text\\nof\\nthree\\nlines \\n\n")
    assert call("getMsgReceived", lastMsgId="100001").count(";;") == 1
    assert call("getMsgReceived", lastMsgId=received.message_id) == "A\n"
    assert call("getMsgReceived", lastMsgId="0", user="other", pwd="secret") == "A\n"
    assert [m.text for m in call.gateway.inbox("demo")] == [m.text for m in call.gateway.inbox()]


def test_updates_are_collected_once_and_raw(call: Caller) -> None:
    message_id = call.accepted()
    call.gateway.clock.advance(120)
    call.gateway.receive(originator="46701740605", text="x\ty\nz", prefix="PRE")
    response = call("getMsgUpdates")
    assert response.endswith(f";;0\t{message_id}\t1\t46701740605\tdelivered\t2026-01-15 10:00\n")
    assert ";;1\t100002\t46701740605\t2026-01-15 10:02\tPRE\tSMS\tx\ty\nz\n" in response
    assert call("getMsgUpdates") == "A\n"
    assert len(call.gateway.inbox()) == 1
    call.gateway.configure({"accounts": {"demo": {"updates": False}}})
    assert call("getMsgUpdates") == "N\n7\n"


def test_cancelled_messages_report_nothing(call: Caller) -> None:
    message_id = call.accepted(recipients="46701740656", deliverytime=FUTURE)
    call("sendlater/cancel", msgno=message_id)
    call.gateway.clock.advance(86400)
    assert call("getMsgUpdates") == "A\n"
    assert call.gateway.inbox() == []


@pytest.mark.parametrize(
    ("dialect", "sent", "result", "later", "received"),
    [
        ({}, "A\n100001\n", "A\n1/0/0\n", "A\n100002\t260115130000004+\n", ";;100004"),
        (
            {"separator": "crlf", "line_ending": "crlf"},
            "A\r\n100001\r\n",
            "A\r\n1/0/0\r\n",
            "A\r\n100002\t260115130000004+\r\n",
            "a\r\n;;100003",
        ),
        (
            {"separator": "tab", "trailing_newline": False},
            "A\t100001",
            "A\t1/0/0\n",
            "A\t100002\t260115130000004+",
            "a\n;;",
        ),
        ({"separator": "space", "smpp_time": 15}, "A 100001\n", "A 1/0/0\n", "A 100002\t26011513000004+\n", "A ;;"),
        ({"separator": "comma", "smpp_time": 12}, "A,100001\n", "A,1/0/0\n", "A,100002\t260115130000\n", "A,;;"),
        (
            {"separator": "semicolon", "records": "joined"},
            "A;100001\n",
            "A;1/0/0\n",
            "A;100002\t260115130000004+\n",
            "a;;100003",
        ),
        (
            {"separator": "none", "order": "ascending"},
            "A100001\n",
            "A1/0/0\n",
            "A100002\t260115130000004+\n",
            "A;;100003",
        ),
    ],
)
def test_dialects(call: Caller, dialect: dict[str, Any], sent: str, result: str, later: str, received: str) -> None:
    call.gateway.configure({"dialect": dialect})
    assert call.send() == sent
    assert call("getSmsResult", msgId="100001").startswith(result)
    call.send(deliverytime=FUTURE)
    assert call("sendlater/get", msgno="100002") == later
    for _ in range(2):
        call.gateway.receive(originator="46701740605", text="a")
    assert received in call("getMsgReceived", lastMsgId="0")
    refused = call("sendSms")
    assert refused == sent.replace("A", "N").replace("100001", "29")


def test_update_time_in_both_forms(call: Caller) -> None:
    call.gateway.configure({"dialect": {"update_time": "smpp"}})
    call.accepted(recipients="46701740652,46701740605")
    call.gateway.clock.advance(60)
    lines = sorted(call("getMsgUpdates").splitlines()[1:], key=lambda line: line.split("\t")[3])
    assert lines[0].split("\t")[4:][0] == "delivered"
    assert lines[0].endswith("004+")
    assert lines[1].split("\t")[4:] == ["expired", "-1"]
    call.gateway.configure({"dialect": {"update_time": "minutes"}})
    call.accepted(recipients="46701740652")
    call.gateway.clock.advance(60)
    assert call("getMsgUpdates").endswith("expired\t-1\n")


@pytest.mark.parametrize(
    ("charset", "declare", "content_type", "encoded"),
    [
        ("utf-8", True, b"text/plain; charset=utf-8", "å€".encode()),
        ("utf-8", False, b"text/plain", "å€".encode()),
        ("iso-8859-1", True, b"text/plain; charset=iso-8859-1", b"\xe5?"),
        ("utf-8-bom", False, b"text/plain", "å€".encode()),
    ],
)
def test_response_charsets(gateway: Gateway, charset: str, declare: bool, content_type: bytes, encoded: bytes) -> None:
    gateway.configure({"dialect": {"charset": charset, "declare_charset": declare}})
    gateway.receive(originator="46701740605", text="å€")
    reply = gateway.handle("GET", "getMsgReceived", form({**LOGIN, "lastMsgId": "0"}), b"")
    assert reply.headers == [(b"content-type", content_type)]
    assert encoded in reply.body
    assert reply.body.startswith(b"\xef\xbb\xbfA" if charset == "utf-8-bom" else b"A")


def test_zone_west_of_greenwich(call: Caller) -> None:
    call.gateway.configure({"zone": "America/New_York"})
    message_id = call.accepted(deliverytime=FUTURE)
    assert call("sendlater/get", msgno=message_id).endswith("\t260115070000020-\n")


def test_credentials_in_either_encoding(gateway: Gateway) -> None:
    gateway.configure({"accounts": {"Åsa": {"password": "lösen"}, "euro": {"password": "€"}}})
    for charset in ("utf-8", "iso-8859-1"):
        body = form({"user": "Åsa".encode(charset), "pwd": "lösen".encode(charset)})
        assert gateway.handle("POST", "sendlater/getall", b"", body).body == b"A\n"
    body = form({"user": "euro", "pwd": "€"})
    assert gateway.handle("POST", "sendlater/getall", b"", body).body == b"A\n"


def test_credentials_in_the_url_are_noticed(gateway: Gateway) -> None:
    body = form({**LOGIN, **SEND})
    gateway.handle("POST", "sendSms", b"", body)
    gateway.handle("GET", "sendSms", body, b"")
    gateway.handle("POST", "sendSms", b"pwd=x", body)
    assert [r.credentials_in_url for r in gateway.requests] == [False, True, True]
    assert [r.outcome for r in gateway.requests] == ["A", "A", "N7"]  # the query's value comes first
    assert (gateway.request_count, gateway.credentials_in_url_count) == (3, 2)
    assert "demo-password" not in repr(gateway.requests)
    assert "demo-password" not in repr(gateway.accounts)


def test_summary_counts_duplicates(call: Caller) -> None:
    call.accepted(recipients="46701740605,46701740606")
    call.accepted()
    call("sendlater/cancel", msgno=call.accepted(deliverytime=FUTURE))
    assert call.gateway.summary() == {("46701740605", "Hej"): 2, ("46701740606", "Hej"): 1}


def test_reset_keeps_what_it_was_created_with() -> None:
    gateway = Gateway(
        accounts=[Account(user="u", password="p", credits=5)], faults=FaultPlan(scripted=[Fault("empty", times=2)])
    )
    gateway.faults.draw("sendSms")
    gateway.handle("POST", "sendSms", b"", form({**SEND, "user": "u", "pwd": "p"}))
    gateway.receive(originator="1", text="x")
    gateway.configure({"latency_ms": 5, "accounts": {"v": {}}})
    gateway.clock.speed = 60
    assert gateway.accounts["u"].credits == 4
    gateway.reset()
    assert gateway.accounts == {"u": Account(user="u", password="p", credits=5)}
    assert gateway.settings.latency_ms == 0
    assert gateway.clock.speed == 1
    assert [f.times for f in gateway.faults.remaining()] == [2]
    assert (gateway.messages, gateway.inbox(), gateway.request_count) == ({}, [], 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"speed": 1}, "speed: there is no such field"),
        ({"dialect": {"separator": "pipe"}}, "dialect.separator"),
        ({"dialect": {"trailing_newline": 1}}, "dialect.trailing_newline"),
        ({"dialect": {"colour": 1}}, "dialect.colour: there is no such field"),
        ({"dialect": 1}, "must be a JSON object"),
        ({"zone": "Mars/Olympus"}, "zone: invalid timezone"),
        ({"zone": "../etc/passwd"}, "zone: invalid timezone"),
        ({"zone": 1}, "zone: invalid timezone"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"latency_ms": float("inf")}, "latency_ms"),
        ({"sent_after_s": True}, "sent_after_s"),
        ({"accounts": []}, "accounts must be"),
        ({"accounts": {"demo": None, "other": None}}, "At least one account"),
        ({"accounts": {"demo": {"credit": 1}}}, "credit: there is no such field"),
        ({"accounts": {"demo": {"credits": 1.5}}}, "credits: Input should be a valid integer"),
        ({"accounts": {"demo": {"password": ""}}}, "not empty"),
        ({"accounts": {"demo": {"updates": "no"}}}, "updates: Input should be a valid boolean"),
        ({"accounts": {"demo": {"originators": "Demo"}}}, "originators: Input should be a valid array"),
        ({"accounts": {"demo": {"groups": {"a,b": []}}}}, "no comma"),
        ({"accounts": {"demo": {"groups": {"a": ["070"]}}}}, "no MSISDN"),
    ],
)
def test_settings_that_are_refused_change_nothing(gateway: Gateway, wrong: dict[str, Any], message: str) -> None:
    before = (gateway.settings, dict(gateway.accounts))
    with pytest.raises(ConfigurationError, match=message):
        gateway.configure({"latency_ms": 7, **wrong})
    assert (gateway.settings, gateway.accounts) == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "FAX"},
        {"user": "nobody"},
        {"received_at": datetime(2026, 1, 1)},
        {"received_at": datetime(1, 1, 1, tzinfo=UTC)},
    ],
    ids=str,
)
def test_received_messages_are_checked(gateway: Gateway, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        gateway.receive(originator="46701740605", text="x", **arguments)


# ---------------------------------------------------------------- the clock


def test_clock() -> None:
    real = [100.0]
    clock = Clock(start=START, source=lambda: real[0])
    real[0] += 10
    assert (clock.now() - START).total_seconds() == 10
    clock.speed = 60
    real[0] += 1
    assert (clock.now() - START).total_seconds() == 70
    clock.frozen = True
    real[0] += 1000
    assert (clock.now() - START).total_seconds() == 70
    clock.advance(30)
    clock.speed = 2
    clock.frozen = False
    real[0] += 1
    assert (clock.now() - START).total_seconds() == 102
    assert clock.now().tzinfo is UTC
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError):
            clock.speed = wrong
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError):
            clock.advance(wrong)
    with pytest.raises(ConfigurationError):
        Clock(start=datetime(2026, 1, 1))
    with pytest.raises(ConfigurationError, match="stops at"):
        clock.advance(1e12)
    clock.speed = 1e12
    real[0] += 1
    assert clock.now() == datetime(2100, 1, 1, tzinfo=UTC)


NAMES = ["user", "pwd", "originator", "recipients", "msg", "deliverytime", "charset", "isflash", "destinationport"]
NAMES += ["express", "msgId", "msgno", "lastMsgId", "clean"]
VALUES = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20).map(str.encode),
    st.sampled_from([b"46701740605", b"utf-8", b"utf-16", b"cp037", b"100001", b"true", b"209912312359-14", b"Demo"]),
)


@settings(max_examples=200, deadline=None)
@given(
    endpoint=st.sampled_from(list(ENDPOINT_PARAMS)),
    params=st.dictionaries(st.sampled_from(NAMES), VALUES),
    noise=st.binary(max_size=30),
)
def test_any_bytes_get_a_response(endpoint: str, params: dict[str, str | bytes], noise: bytes) -> None:
    gateway = Gateway(clock=Clock(start=START))
    gateway.receive(originator="46701740605", text="x")
    reply = gateway.handle("POST", endpoint, noise, form({**LOGIN, **ENDPOINT_PARAMS[endpoint], **params}) + noise)
    assert re.fullmatch(rb"A\n.*|A\n|N\n\d+\n", reply.body, re.DOTALL)
    assert json.dumps(gateway.ledger(), ensure_ascii=False).encode()
