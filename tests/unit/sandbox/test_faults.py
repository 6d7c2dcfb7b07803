"""Faults by chance, by script and by magic number, on the state alone."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.sandbox import Clock, Fault, FaultPlan, Gateway
from prefect_mymsp.sandbox.faults import ENDPOINTS
from prefect_mymsp.sandbox.magic import FORGED_TEXT, HTML_TEXT, MAGIC_NUMBERS, markdown_table
from prefect_mymsp.sandbox.messages import Reply

DOCS = Path(__file__).parents[3] / "docs" / "sandbox.md"


@pytest.fixture
def gateway() -> Gateway:
    clock = Clock(start=datetime(2026, 1, 15, 9, 0, tzinfo=UTC))
    clock.frozen = True
    return Gateway(clock=clock)


def send(gateway: Gateway, number: str = "46701740605", text: str = "Hej", **more: str) -> Reply:
    params = {"user": "demo", "pwd": "demo-password", "originator": "Demo", "recipients": number, "msg": text, **more}
    return gateway.handle("POST", "sendSms", b"", urlencode(params).encode())


def call(gateway: Gateway, endpoint: str, **params: str) -> str:
    form = urlencode({"user": "demo", "pwd": "demo-password", **params}).encode()
    return gateway.handle("POST", endpoint, b"", form).body.decode()


@pytest.mark.parametrize(
    ("fault", "expected", "accepted"),
    [
        ({"kind": "response_lost"}, {"dropped": True}, 1),
        ({"kind": "lost_before"}, {"dropped": True}, 0),
        ({"kind": "error_before"}, {"status": 503}, 0),
        ({"kind": "error_after", "status": 500}, {"status": 500}, 1),
        ({"kind": "rate_limited"}, {"status": 429}, 0),
        ({"kind": "slow", "delay_s": 3}, {"status": 200, "delay_s": 3.0, "body": b"A\n100001\n"}, 1),
        ({"kind": "truncated"}, {"body": b"A\n10", "announced": 9}, 1),
        ({"kind": "truncated", "keep_bytes": 99}, {"body": b"A\n100001", "announced": 9}, 1),
        ({"kind": "cut_short"}, {"body": b"A", "announced": 1}, 1),
        ({"kind": "cut_short", "keep_bytes": 4}, {"body": b"A\n10", "announced": 4}, 1),
        ({"kind": "html"}, {"status": 200}, 0),
        ({"kind": "html", "processed": True}, {"status": 200}, 1),
        ({"kind": "empty"}, {"status": 200, "body": b"", "announced": 0}, 1),
        ({"kind": "empty", "processed": False}, {"status": 200, "body": b""}, 0),
        ({"kind": "refuse", "code": 999}, {"status": 200, "body": b"N\n999\n"}, 0),
        ({"kind": "none"}, {"status": 200, "body": b"A\n100001\n"}, 1),
    ],
    ids=str,
)
def test_every_fault(gateway: Gateway, fault: dict[str, Any], expected: dict[str, Any], accepted: int) -> None:
    gateway.faults.replace(scripted=[Fault.from_json(fault)])
    reply = send(gateway)
    assert {name: getattr(reply, name) for name in expected} == expected
    assert len(gateway.messages) == accepted
    request = gateway.requests[-1]
    assert request.fault == (None if fault["kind"] == "none" else fault["kind"])
    assert request.outcome == ("A" if accepted else None)
    assert request.status == (None if reply.dropped else reply.status)
    assert send(gateway).body.startswith(b"A\n")  # the script is over


def test_a_fault_after_processing_may_hide_a_refusal(gateway: Gateway) -> None:
    gateway.faults.replace(scripted=[Fault("response_lost")])
    send(gateway, "0")
    assert (gateway.requests[-1].outcome, gateway.messages) == ("N28", {})


def test_html_is_a_page_and_429_may_say_when(gateway: Gateway) -> None:
    gateway.faults.replace(scripted=[Fault("html"), Fault("rate_limited", retry_after_s=7), Fault("rate_limited")])
    page = send(gateway)
    assert dict(page.headers)[b"content-type"].startswith(b"text/html")
    assert b"<html>" in page.body
    assert dict(send(gateway).headers)[b"retry-after"] == b"7"
    assert b"retry-after" not in dict(send(gateway).headers)


def test_a_late_request_is_processed_after_its_connection_is_gone(gateway: Gateway) -> None:
    gateway.faults.replace(scripted=[Fault("late", delay_s=30)])
    assert send(gateway, deliverytime="202601151200+0").dropped
    assert call(gateway, "sendlater/getall") == "A\n"
    gateway.clock.advance(30)
    assert call(gateway, "sendlater/getall") == "A\n100001\t260115130000004+\n"
    gateway.faults.replace(scripted=[Fault("late", endpoints=("sendlater/cancel",), delay_s=30)])
    call(gateway, "sendlater/cancel", msgno="100001")
    assert not gateway.ledger()[0]["cancelled"]
    gateway.clock.advance(30)
    assert gateway.ledger()[0]["cancelled"]


def test_scripts_run_in_order_per_endpoint(gateway: Gateway) -> None:
    gateway.faults.replace(
        scripted=[
            Fault("none", times=2),
            Fault("refuse", code=12, times=2),
            Fault("empty", endpoints=("getMsgUpdates",)),
        ]
    )
    assert [send(gateway).body[:1] for _ in range(5)] == [b"A", b"A", b"N", b"N", b"A"]
    assert [f.kind for f in gateway.faults.remaining()] == ["empty"]
    assert call(gateway, "getMsgUpdates") == ""
    assert call(gateway, "getMsgUpdates") == "A\n"


def test_an_update_whose_response_is_lost_is_gone(gateway: Gateway) -> None:
    gateway.receive(originator="46701740605", text="x")
    gateway.faults.replace(scripted=[Fault("response_lost", endpoints=("getMsgUpdates",))])
    call(gateway, "getMsgUpdates")
    assert call(gateway, "getMsgUpdates") == "A\n"


def test_random_faults_repeat_with_their_seed() -> None:
    plans = [
        FaultPlan(seed=seed, random=[Fault("empty", probability=0.2), Fault("late", probability=0.1)])
        for seed in (1, 1, 2)
    ]
    drawn = [[fault and fault.kind for fault in (plan.draw("sendSms") for _ in range(2000))] for plan in plans]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 320 < drawn[0].count("empty") < 480
    assert 140 < drawn[0].count("late") < 260
    assert plans[0].draw("getSmsResult") is None


def test_a_scripted_fault_does_not_restart_chance() -> None:
    plain, scripted = (FaultPlan(seed=5, random=[Fault("empty", probability=0.5)]) for _ in range(2))
    drawn = []
    for i in range(200):
        if i == 100:
            scripted.replace(scripted=[Fault("html")])
            assert scripted.draw("sendSms") == Fault("html")
        drawn.append((plain.draw("sendSms"), scripted.draw("sendSms")))
    assert all(one == other for one, other in drawn)
    plain.replace(seed=5)
    assert [plain.draw("sendSms") for _ in range(200)] == [one for one, _ in drawn]


def test_probability_one_and_none_of_chance() -> None:
    plan = FaultPlan(random=[Fault("none", probability=1.0)])
    assert plan.draw("sendSms") is None
    plan.replace(random=[Fault("empty", probability=1.0)])
    assert all(plan.draw("sendSms") for _ in range(100))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "JSON object"),
        ({}, "Unknown fault"),
        ({"kind": "gremlin"}, "Unknown fault"),
        ({"kind": ["empty"]}, "Unknown fault"),
        ({"kind": "empty", "status": 500}, "not status"),
        ({"kind": "empty", "processed": 1}, "processed: Input should be a valid boolean"),
        ({"kind": "empty", "endpoints": "sendSms"}, "endpoints: Input should be a valid array"),
        ({"kind": "empty", "endpoints": ["sendMms"]}, "Unknown endpoints"),
        ({"kind": "empty", "endpoints": []}, "Unknown endpoints"),
        ({"kind": "empty", "times": 0}, "times must"),
        ({"kind": "empty", "times": True}, "times: Input should be a valid integer"),
        ({"kind": "empty", "probability": 1.5}, "between 0 and 1"),
        ({"kind": "error_after", "status": 200}, "between 400 and 599"),
        ({"kind": "error_after", "status": "500"}, "status: Input should be a valid integer"),
        ({"kind": "slow", "delay_s": -1}, "delay_s"),
        ({"kind": "refuse", "code": -1}, "code must"),
    ],
    ids=str,
)
def test_faults_that_are_refused(given: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Fault.from_json(given)


def test_unknown_kind_in_python() -> None:
    with pytest.raises(ConfigurationError, match="Unknown fault"):
        Fault("gremlin")  # type: ignore[arg-type]


def test_plans_that_are_refused_change_nothing() -> None:
    plan = FaultPlan(random=[Fault("empty", probability=0.5)])
    before = plan.as_json()
    with pytest.raises(ConfigurationError, match="add up to"):
        plan.replace(random=[Fault("empty", probability=0.6), Fault("late", probability=0.6)])
    with pytest.raises(ConfigurationError, match="random fault has"):
        plan.replace(random=[Fault("empty")])
    with pytest.raises(ConfigurationError, match="scripted fault has"):
        plan.replace(seed=4, scripted=[Fault("empty", probability=0.5)])
    assert plan.as_json() == before


@pytest.mark.parametrize("kind", sorted({"html", "truncated", "rate_limited", "slow", "refuse", "error_after", "none"}))
def test_json_round_trip(kind: str) -> None:
    fault = Fault.from_json({"kind": kind, "endpoints": "all", "times": 2})
    assert fault.endpoints == ENDPOINTS
    assert Fault.from_json(fault.as_json()).as_json() == fault.as_json()


# ---------------------------------------------------------------- magic numbers


def number(suffix: int) -> str:
    return f"46701740{suffix}"


def struck(gateway: Gateway) -> str | None:
    return gateway.requests[-1].fault


@pytest.mark.parametrize(
    ("suffix", "counts", "word"),
    [
        (605, "1/1/1", "delivered"),
        (649, "1/1/1", "delivered"),
        (650, "1/1/0", "undelivered"),
        (651, "1/0/0", "undelivered"),
        (652, "1/1/0", "expired"),
        (653, "1/1/0", "teleported"),
        (655, "1/1/0", "undelivered"),
        (656, "1/1/1", "delivered"),
        (680, "1/1/1", "delivered"),
    ],
)
def test_magic_deliveries(gateway: Gateway, suffix: int, counts: str, word: str) -> None:
    message_id = send(gateway, number(suffix)).body.decode().split()[1]
    gateway.clock.advance(300)
    head, row = call(gateway, "getSmsResult", msgId=message_id).splitlines()[1:]
    assert (head, row.split("\t")[2]) == (counts, word)
    if suffix == 655:
        gateway.clock.advance(310)
        assert call(gateway, "getSmsResult", msgId=message_id).splitlines()[1] == "1/1/1"


@pytest.mark.parametrize(("suffix", "text"), [(656, "STOP"), (657, FORGED_TEXT), (658, HTML_TEXT)])
def test_magic_replies(gateway: Gateway, suffix: int, text: str) -> None:
    send(gateway, number(suffix))
    assert gateway.inbox() == []
    gateway.clock.advance(60)
    (reply,) = gateway.inbox()
    assert (reply.text, reply.sender, reply.user) == (text, number(suffix), "demo")
    assert text in call(gateway, "getMsgUpdates")


AFTER = (660, 662, 665, 666, 667, 669, 670, 671)
EVERY_OTHER = (661, 663, 664, 668, 672)
NEVER = (681, 683, 684, 690, 691, 692, 693, 694, 699)


@pytest.mark.parametrize("suffix", AFTER + EVERY_OTHER + NEVER)
def test_magic_faults(gateway: Gateway, suffix: int) -> None:
    fault = MAGIC_NUMBERS[number(suffix)].fault
    assert fault is not None
    send(gateway, f"46701740605,{number(suffix)}")
    assert struck(gateway) == fault.kind
    assert len(gateway.messages) == (suffix in AFTER)
    reply = send(gateway, f"46701740605,{number(suffix)}")
    if suffix in EVERY_OTHER:
        assert struck(gateway) is None
        assert reply.body.startswith(b"A")
    else:
        assert struck(gateway) == fault.kind
    assert len(gateway.messages) == (2 if suffix in AFTER else suffix in EVERY_OTHER)
    if suffix >= 690:
        code = {690: 7, 691: 11, 692: 12, 693: 13, 694: 33, 699: 999}[suffix]
        assert reply.body == f"N\n{code}\n".encode()


def test_magic_late_is_accepted_once_more(gateway: Gateway) -> None:
    assert send(gateway, number(672)).dropped
    gateway.clock.advance(5)
    assert gateway.summary() == {(number(672), "Hej"): 1}
    assert send(gateway, number(672)).body.startswith(b"A")
    assert gateway.summary() == {(number(672), "Hej"): 2}


def test_a_wrong_password_meets_no_magic(gateway: Gateway) -> None:
    assert send(gateway, number(681), pwd="x").body == b"N\n7\n"


def test_all_magic_is_tested() -> None:
    tested = {number(n) for n in (*AFTER, *EVERY_OTHER, *NEVER, *range(650, 659))}
    assert set(MAGIC_NUMBERS) == tested


def test_the_documented_table_is_the_code() -> None:
    text = DOCS.read_text(encoding="utf-8")
    match = re.search(r"<!-- magic numbers: .*? -->\n(.*?)<!-- end of magic numbers -->", text, re.DOTALL)
    assert match is not None
    assert match[1].strip() == markdown_table().strip()
