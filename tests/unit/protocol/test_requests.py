"""Request bodies, read as another server would read them.

Expectations are taken from the vendor's document (revision M; its sections are cited).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import pytest

from prefect_mymsp import protocol
from prefect_mymsp.errors import InputError
from prefect_mymsp.models import (
    JoinedMSISDNs,
    Updates,
)

STOCKHOLM = ZoneInfo("Europe/Stockholm")


USER, PASSWORD = "Jörgen & co", "p+w=%d;å \U0001f511"  # every character a form has to escape
LOGIN = protocol.Login(USER, PASSWORD)
WHO = [("user", USER), ("pwd", PASSWORD)]
NOON = datetime(2024, 6, 3, 12, tzinfo=UTC)


def form(body: bytes) -> list[tuple[str, str]]:
    """The fields as a server reads them."""
    assert body.isascii()
    return parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, encoding="utf-8")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (protocol.build_result(LOGIN, "12556"), [("msgId", "12556")]),
        (protocol.build_result(LOGIN, 12556), [("msgId", "12556")]),
        (protocol.build_scheduled_time(LOGIN, "12556"), [("msgno", "12556")]),
        (protocol.build_scheduled(LOGIN), []),
        (protocol.build_reschedule(LOGIN, "12556", NOON), [("msgno", "12556"), ("deliverytime", "202406031200+0")]),
        (protocol.build_cancel(LOGIN, "12556"), [("msgno", "12556")]),
        (protocol.build_inbox(LOGIN), [("lastMsgId", "0"), ("clean", "true")]),
        (protocol.build_inbox(LOGIN, "12556"), [("lastMsgId", "12556"), ("clean", "true")]),
        (protocol.build_inbox(LOGIN, 12556), [("lastMsgId", "12556"), ("clean", "true")]),
        (protocol.build_updates(LOGIN), []),
    ],
)
def test_requests(body: bytes, fields: list[tuple[str, str]]) -> None:
    assert sorted(form(body)) == sorted(WHO + fields)


def test_the_smallest_and_the_fullest_send() -> None:
    small = form(protocol.build_send(LOGIN, "46701740605", "Hej"))
    assert sorted(small) == sorted([*WHO, ("recipients", "46701740605"), ("msg", "Hej"), ("charset", "UTF-8")])
    full = protocol.build_send(
        LOGIN,
        ["46701740605", "+46701740606", "46701740605", "Styrelsen nej"],
        "Åäö & 100 % = 1+1;\n\U0001f600 \u2028",
        originator="Klubb 1",
        send_at=NOON,
        flash=True,
        destination_port=65535,
    )
    assert sorted(form(full)) == sorted(
        [
            *WHO,
            ("recipients", "46701740605,46701740606,Styrelsen nej"),
            ("msg", "Åäö & 100 % = 1+1;\n\U0001f600 \u2028"),
            ("charset", "UTF-8"),
            ("originator", "Klubb 1"),
            ("deliverytime", "202406031200+0"),
            ("isflash", "true"),
            ("destinationport", "65535"),
        ]
    )
    assert b"202406031200%2B0" in full  # a bare plus would arrive as a space
    assert b"+" not in full


@pytest.mark.parametrize(
    ("at", "written"),
    [
        (NOON, "202406031200+0"),
        (datetime(2024, 6, 3, 12, 0, 0, 1, UTC), "202406031201+0"),
        (datetime(2024, 6, 3, 12, 0, 59, 999_999, UTC), "202406031201+0"),
        (datetime(2024, 12, 31, 23, 59, 1, 0, UTC), "202501010000+0"),
        (datetime(2024, 2, 28, 23, 59, 30, 0, UTC), "202402290000+0"),
        (datetime(2024, 6, 3, 12, 0, tzinfo=STOCKHOLM), "202406031000+0"),
        (datetime(2024, 1, 3, 0, 30, tzinfo=STOCKHOLM), "202401022330+0"),
        (datetime(2024, 10, 27, 2, 30, tzinfo=STOCKHOLM), "202410270030+0"),
        (datetime(2024, 10, 27, 2, 30, tzinfo=STOCKHOLM, fold=1), "202410270130+0"),
        (datetime(2024, 6, 3, 12, 0, tzinfo=ZoneInfo("Asia/Kathmandu")), "202406030615+0"),
        (datetime(2024, 6, 3, 12, 0, tzinfo=timezone(timedelta(hours=-3, minutes=-30))), "202406031530+0"),
        (datetime(2024, 6, 3, 12, 0, tzinfo=timezone(timedelta(seconds=30))), "202406031200+0"),
        (datetime(987, 6, 3, 12, 0, tzinfo=UTC), "098706031200+0"),
    ],
)
def test_delivery_times(at: datetime, written: str) -> None:
    for body in (
        protocol.build_send(LOGIN, "46701740605", "Hej", send_at=at),
        protocol.build_reschedule(LOGIN, "1", at),
    ):
        assert dict(form(body))["deliverytime"] == written


@pytest.mark.parametrize(
    "at",
    [
        datetime(2024, 6, 3, 12, 0),
        datetime(9999, 12, 31, 23, 59, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-1))),
        datetime(1, 1, 1, 0, 0, tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_delivery_times_that_cannot_be_written(at: datetime) -> None:
    with pytest.raises(InputError):
        protocol.build_send(LOGIN, "46701740605", "Hej", send_at=at)
    with pytest.raises(InputError):
        protocol.build_reschedule(LOGIN, "12556", at)


@pytest.mark.parametrize("character", ["x", "å", "€", "\U0001f600"])
def test_765_characters_and_no_more(character: str) -> None:
    assert dict(form(protocol.build_send(LOGIN, "46701740605", character * 765)))["msg"] == character * 765
    with pytest.raises(InputError, match="766"):
        protocol.build_send(LOGIN, "46701740605", character * 766)


@pytest.mark.parametrize("text", ["", " ", "\r\n\t", "\ud83d", "Hej \udfff", "\ude00\ud83d"])
def test_texts_that_cannot_be_sent(text: str) -> None:
    with pytest.raises(InputError):
        protocol.build_send(LOGIN, "46701740605", text)


def test_a_text_is_sent_as_it_is() -> None:
    text = "  Hej!\r\n\tDå  "
    assert dict(form(protocol.build_send(LOGIN, "46701740605", text)))["msg"] == text


@pytest.mark.parametrize(
    ("recipients", "written"),
    [
        ("46701740605", "46701740605"),
        ("+46701740605", "46701740605"),
        (" 46701740605\n", "46701740605"),
        (["+46701740605", "46701740605"], "46701740605"),
        (["46701740606", "46701740605", "46701740606"], "46701740606,46701740605"),
        (("Styrelsen", "46701740605"), "Styrelsen,46701740605"),
        (["Lag 1", "lag 1", "Lag 1"], "Lag 1,lag 1"),
        ("Föräldrar & barn; 50+", "Föräldrar & barn; 50+"),
    ],
)
def test_recipients(recipients: str | list[str], written: str) -> None:
    assert dict(form(protocol.build_send(LOGIN, recipients, "Hej")))["recipients"] == written


def test_recipients_may_come_from_anything_that_yields_them() -> None:
    numbers = (f"467017406{i:02}" for i in (5, 6))
    assert dict(form(protocol.build_send(LOGIN, numbers, "Hej")))["recipients"] == "46701740605,46701740606"


def test_recipients_may_be_joined_already() -> None:
    joined = JoinedMSISDNs("46701740605,46701740606")
    assert dict(form(protocol.build_send(LOGIN, joined, "Hej")))["recipients"] == "46701740605,46701740606"


@pytest.mark.parametrize(
    "recipients",
    [
        [],
        "",
        JoinedMSISDNs(""),
        JoinedMSISDNs("46701740605,"),
        JoinedMSISDNs("46701740605,,46701740606"),
        JoinedMSISDNs("46701740605,0701740606"),
        JoinedMSISDNs("46701740605,+46701740606"),
        JoinedMSISDNs("46701740605,choir"),
        " ",
        [""],
        ["46701740605", ""],
        ["46701740605", "\t"],
        "0701740605",
        "070-174 06 05",
        "+0701740605",
        "0046701740605",
        "++46701740605",
        "+46 70 174 06 05",
        "46(0)701740605",
        "4670174060546701740605",
        "46",
        "46701740605,46701740606",
        ["46701740605,46701740606"],
        ["46701740605,46701740606", ""],
        ["46701740605", "46701740606,46701740607"],
        "Styrelsen, alla",
        "Lag\n1",
        "Lag\x001",
        "Lag \ud83d",
        [46701740605],
        [None],
    ],
)
def test_recipients_that_cannot_be_sent(recipients: Iterable[Any]) -> None:
    with pytest.raises(InputError) as refused:
        protocol.build_send(LOGIN, recipients, "Hej")
    assert "701740605" not in str(refused.value).replace("for instance 46701740605", "")  # numbers stay out of logs


@pytest.mark.parametrize("originator", ["", " ", "Klubb\n1", "Klubb\x00", "Klubb \udc80"])
def test_originators_that_cannot_be_sent(originator: str) -> None:
    with pytest.raises(InputError):
        protocol.build_send(LOGIN, "46701740605", "Hej", originator=originator)


@pytest.mark.parametrize("port", [0, -1, 65536, True])
def test_ports_that_do_not_exist(port: int) -> None:
    with pytest.raises(InputError):
        protocol.build_send(LOGIN, "46701740605", "Hej", destination_port=port)


@pytest.mark.parametrize("message_id", ["", " ", "abc", "-1", "1.0", "1 2", "1&clean=false", "١٢", "9" * 5000, True])
@pytest.mark.parametrize(
    "build", [protocol.build_result, protocol.build_scheduled_time, protocol.build_cancel, protocol.build_inbox]
)
def test_message_ids_that_are_none(build: Callable[[protocol.Login, str], bytes], message_id: str) -> None:
    with pytest.raises(InputError):
        build(LOGIN, message_id)


@pytest.mark.parametrize("login", [protocol.Login("user", "canary\ud83d"), protocol.Login("canary\udc00", "secret")])
def test_a_login_that_cannot_be_encoded_is_refused_without_showing_it(login: protocol.Login) -> None:
    with pytest.raises(InputError) as refused:
        protocol.build_updates(login)
    assert "canary" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None  # a UnicodeEncodeError holds the whole text it was given


def test_nothing_that_holds_a_secret_shows_it() -> None:
    login = protocol.Login("canary-user", "canary-password")
    response = protocol.Response(b"canary-body", None, STOCKHOLM)
    updates = Updates(b"canary-raw", (), (), ("canary-record",))
    assert "canary" not in f"{login!r} {response!r} {updates!r}"
