"""Reading the inbox, on both databases, against a gateway with and without faults."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from prefect_mymsp.campaign import (
    InboxResult,
)
from prefect_mymsp.errors import ProtocolError
from prefect_mymsp.sandbox import Fault
from prefect_mymsp.sandbox.messages import Reply

if TYPE_CHECKING:
    pass

from tests.integration.campaign.lab import A, B, C, D, Lab


def stored(lab: Lab) -> list[tuple[str, str]]:
    """(Message id, text) of the journal's messages, in its order."""
    return [(row[1], row[10]) for part in lab.journal.inbox.rows(lab.account) for row in part]


def test_each_message_is_stored_once_and_the_cursor_is_the_highest_id(lab: Lab) -> None:
    texts = [f"Message {number}" for number in range(5)]
    ids = [lab.gateway.receive(originator=A, text=text).message_id for text in texts]
    read = lab.read()
    assert [(message.message_id, message.text) for message in read.new] == list(zip(ids, texts, strict=True))
    assert read.unparsed == ()
    assert lab.journal.inbox.cursor(lab.account) == int(ids[-1])
    assert lab.read().new == ()
    assert lab.requests("getMsgReceived") == 3  # a response with messages is confirmed, an empty one is not
    lab.gateway.receive(originator=B, text="\t;;1\r\n")
    assert [message.text for message in lab.read().new] == [r" ;;1\n"]
    assert len(stored(lab)) == 6


@pytest.mark.parametrize("order", ["descending", "ascending"])
def test_no_cut_loses_or_shortens_a_message(lab: Lab, order: str) -> None:
    lab.gateway.configure({"dialect": {"order": order}})
    texts = ["one", "two", "three"]
    for text in texts:
        lab.gateway.receive(originator=A, text=text)
    form = f"user={lab.sandbox.user}&pwd={lab.sandbox.password}&lastMsgId=0&clean=true".encode()
    length = len(lab.gateway.handle("POST", "getMsgReceived", b"", form).body)
    for keep in range(0, length, 11):
        lab.fault(Fault("cut_short", ("getMsgReceived",), keep_bytes=keep))
        lab.read()
        assert [text for _, text in stored(lab)] in ([], texts)
        lab.fault()
        lab.read()
        assert [text for _, text in stored(lab)] == texts
        lab.desk.sql("DELETE FROM received")
        lab.desk.sql("DELETE FROM bookmark")


def test_an_inbox_that_is_cut_short_every_time_is_not_stored(lab: Lab) -> None:
    for number in range(3):
        lab.gateway.receive(originator=A, text=f"Message {number}")
    lab.fault(*(Fault("cut_short", ("getMsgReceived",), keep_bytes=keep) for keep in (180, 100, 150, 90, 170, 120)))
    with pytest.raises(ProtocolError, match="consecutive responses differ"):
        lab.read()
    assert stored(lab) == []
    assert lab.journal.inbox.cursor(lab.account) == 0
    assert len(lab.read().new) == 3


def test_messages_that_arrive_between_two_responses_are_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.gateway.receive(originator=A, text="one")
    handle = lab.gateway.handle

    def busy(method: str, endpoint: str, query: bytes, body: bytes) -> Reply:
        reply = handle(method, endpoint, query, body)
        if endpoint == "getMsgReceived" and len(lab.gateway.inbox()) == 1:
            lab.gateway.receive(originator=B, text="two")
        return reply

    monkeypatch.setattr(lab.gateway, "handle", busy)
    assert [message.text for message in lab.read().new] == ["one", "two"]
    assert lab.requests("getMsgReceived") == 3
    assert lab.read().new == ()


def test_an_unparsed_record_is_stored_and_does_not_hide_the_others(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("one", "bad", "three"):
        lab.gateway.receive(originator=A, text=text)
    handle = lab.gateway.handle

    def garbling(method: str, endpoint: str, query: bytes, body: bytes) -> Reply:
        reply = handle(method, endpoint, query, body)
        if endpoint != "getMsgReceived":
            return reply
        lines = [b";;".join([b"", line.split(b"\t")[0][2:] + b"\tbad"]) if line.endswith(b"bad") else line
                 for line in reply.body.split(b"\n")]  # fmt: skip
        body = b"\n".join(lines)
        return reply._replace(body=body, announced=len(body))

    monkeypatch.setattr(lab.gateway, "handle", garbling)
    read = lab.read()
    assert [message.text for message in read.new] == ["one", "three"]
    assert len(read.unparsed) == 1
    raw = lab.desk.one("SELECT raw FROM raw_response")
    assert bytes(raw).endswith(b"\tbad")
    assert lab.journal.raw_responses.unparsed(lab.account) == []
    assert lab.read().new == ()
    # A record with the highest id is returned each time, and stored once.
    lab.gateway.receive(originator=A, text="bad")
    for _ in range(3):
        assert len(lab.read().unparsed) == 1
    assert lab.desk.one("SELECT count(*) FROM raw_response") == 2


def test_two_readings_of_the_inbox_at_once(lab: Lab) -> None:
    texts = {f"Message {number}" for number in range(50)}
    for text in sorted(texts):
        lab.gateway.receive(originator=A, text=text)

    async def both() -> list[InboxResult]:
        other = lab.desk.open()
        return list(await asyncio.gather(asyncio.to_thread(lab.read), asyncio.to_thread(lab.read, other)))

    reads = asyncio.run(both())
    assert sum(len(read.new) for read in reads) == 50
    assert {message.text for read in reads for message in read.new} == texts
    assert len(stored(lab)) == 50


def test_senders_that_opt_out_are_suppressed(lab: Lab) -> None:
    messages = [
        (A, "Stopped by your shop"),
        (B, "DEMO stop."),
        (f"+{C}", '"STOPP"'),
        ("0701740608", "avsluta"),
        ("Anna", "STOP"),
        ("12345", "stop"),
    ]
    for sender, text in messages:
        lab.gateway.receive(originator=sender, text=text)
    read = lab.read()
    assert read.opted_out == 5
    assert lab.journal.suppressions.msisdns(lab.account) == {B, C, D, "12345"}
    reasons = {row[0]: row[2] for row in lab.journal.suppressions.rows(lab.account)}
    assert set(reasons.values()) == {"opt-out"}
    # A person took B off the list, and B has written nothing since.
    lab.journal.suppressions.remove(lab.account, [B])
    lab.read()
    assert B not in lab.journal.suppressions.msisdns(lab.account)
