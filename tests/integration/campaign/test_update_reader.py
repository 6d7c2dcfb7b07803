"""Reading the account's updates, on both databases, against a gateway with and without faults."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.errors import InDoubtError, NotSentError, ProtocolError, RefusedError
from prefect_mymsp.journal import CampaignKey
from prefect_mymsp.sandbox import Fault

if TYPE_CHECKING:
    from tests.integration.conftest import Pair

from tests.integration.campaign.lab import NEVER, A, B, C, D, Lab


def lost(lab: Lab, pairs: Sequence[Pair], name: str = "autumn") -> CampaignKey:
    """A campaign whose first request was accepted without our learning of it."""
    campaign = lab.record(pairs, name)
    lab.fault(Fault("answer_lost"))
    assert lab.send(campaign).in_doubt >= 1
    return campaign


def test_updates_confirm_deliveries_and_find_the_lost_of_any_campaign(lab: Lab) -> None:
    first = lost(lab, [(A, "x"), (B, "x")])
    second = lab.sent([(C, "x")], "winter")
    told = lab.collect()
    assert (told.responses, told.delivery_reports, told.linked, told.postponed, told.failure) == (1, 3, 1, 0, None)
    assert lab.journal.campaigns.counts(first).accepted == 2
    assert lab.journal.campaigns.counts(second).delivered == 1
    assert lab.desk.sql("SELECT count(*) FROM raw_response WHERE parsed_at IS NULL") == [(0,)]
    assert lab.collect().responses == 0  # nothing new: nothing is kept
    assert lab.desk.one("SELECT count(*) FROM raw_response") == 1


def test_an_answer_is_kept_before_it_is_parsed_and_left_to_the_next(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = lost(lab, [(A, "x")])

    class Dies(BaseException):
        pass

    def dies(client: AsyncMyMSPClient, raw: bytes) -> None:
        raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(AsyncMyMSPClient, "parse_updates", dies)
        with pytest.raises(Dies):
            lab.collect()
    ((_, raw),) = lab.journal.raw_responses.unparsed(lab.account)
    assert raw.startswith(b"A\n;;0\t")
    told = lab.collect()
    assert (told.responses, told.linked) == (1, 1)
    assert lab.journal.campaigns.counts(campaign).accepted == 1
    assert lab.journal.raw_responses.unparsed(lab.account) == []


def test_a_request_still_on_its_way_keeps_the_answer_that_tells_of_it(lab: Lab) -> None:
    campaign, (batch,) = lab.claimed([(A, "x")])
    lab.post(A, "x")
    told = lab.collect()
    assert (told.responses, told.linked, told.postponed) == (0, 0, 1)
    lab.desk.settle(batch, "in_doubt")
    told = lab.collect()  # the gateway does not tell it again; the journal has it
    assert (told.responses, told.linked, told.postponed) == (1, 1, 0)
    assert lab.journal.campaigns.counts(campaign).accepted == 1


def test_an_id_cut_short_is_found_by_its_update(lab: Lab) -> None:
    campaign = lab.record([(A, "x")])
    lab.fault(Fault("cut_short", keep_bytes=4))  # A, line feed, two digits of six
    assert lab.send(campaign).accepted == 1
    assert lab.collect().postponed == 1  # the gateway may not know the id yet that it gave
    lab.desk.sql("UPDATE batch SET settled_at = settled_at - 60000000")
    told = lab.collect()
    assert (told.linked, told.postponed) == (1, 0)
    assert lab.desk.one("SELECT message_id FROM batch") == lab.gateway.ledger()[0]["id"]


@pytest.mark.parametrize("fault", [Fault("truncated", ("getMsgUpdates",), keep_bytes=60),
                                   Fault("cut_short", ("getMsgUpdates",), keep_bytes=60)],
                         ids=lambda fault: fault.kind)  # fmt: skip
def test_what_had_arrived_of_an_answer_is_kept_and_used(lab: Lab, fault: Fault) -> None:
    campaign = lost(lab, [(A, "x"), (B, "x")])
    lab.fault(fault)
    told = lab.collect()
    assert lab.asked("getMsgUpdates") == 1
    assert isinstance(told.failure, InDoubtError) == (fault.kind == "truncated")
    assert (told.responses, told.linked) == (1, 1)
    assert lab.journal.campaigns.counts(campaign).accepted == 2
    assert len(lab.desk.one("SELECT raw FROM raw_response")) == 60


@pytest.mark.parametrize("fault", [Fault("answer_lost", ("getMsgUpdates",)), Fault("empty", ("getMsgUpdates",)),
                                   Fault("error_after", ("getMsgUpdates",))], ids=lambda fault: fault.kind)  # fmt: skip
def test_a_lost_answer_is_not_asked_for_again(lab: Lab, fault: Fault) -> None:
    campaign = lost(lab, [(A, "x")])
    lab.fault(fault)
    told = lab.collect()
    assert isinstance(told.failure, InDoubtError)
    assert lab.asked("getMsgUpdates") == 1
    assert lab.journal.campaigns.counts(campaign).in_doubt == 1
    assert lab.collect().failure is None


def test_what_cannot_be_asked_about_is_left_to_the_next_reading(lab: Lab) -> None:
    campaign = lost(lab, [(A, "x")])
    lab.fault(Fault("error_before", ("getSmsResult",)))
    assert (told := lab.collect()).postponed == 1
    assert told.linked == 0
    lab.post(B, "Foreign")
    told = lab.collect()
    assert (told.responses, told.linked, told.postponed) == (2, 1, 0)
    assert lab.journal.campaigns.counts(campaign).accepted == 1


def test_updates_that_are_not_ours_change_nothing(lab: Lab) -> None:
    campaign = lab.record([(A, "x")])
    lab.fault(Fault("lost_before"))
    lab.send(campaign)
    lab.sent([(A, "x"), (NEVER, "y")])
    followed = lab.gateway.ledger()[0]["id"]
    lab.post(f"{A},{B}", "Foreign")  # our recipient, and another one
    lab.post(C, "Foreign")
    lab.gateway.receive(
        originator=D,
        text=f"Hi\n;;0\t{followed}\t1\t{NEVER}\tdelivered\t2026-01-01 00:00\n;;0\t7\t1\t{A}\tdelivered\t-1\n"
        f";;0\t{followed}\t1\t{A}\tteleported\t-1\n;;9\tx\n;;1\t5\t{A}\t2026-01-01 00:00\tP\tSMS\tSTOP",
    )
    before = lab.desk.sql("SELECT state, message_id FROM batch ORDER BY id")
    told = lab.collect()
    assert told.postponed == 0
    assert told.unparsed == 1
    assert told.linked == 0
    assert lab.desk.sql("SELECT state, message_id FROM batch ORDER BY id") == before
    assert lab.desk.sql("SELECT status FROM message WHERE status = 'delivered' OR status = 'teleported'") == []
    assert lab.journal.suppressions.msisdns(lab.account) == set()
    assert list(lab.journal.inbox.rows(lab.account)) == []


def test_an_answer_that_is_none_is_kept_and_blocks_nothing(lab: Lab) -> None:
    lab.fault(Fault("html", ("getMsgUpdates",)))
    told = lab.collect()
    assert isinstance(told.failure, ProtocolError)
    assert (told.responses, told.unparsed, told.postponed) == (1, 1, 0)
    assert lab.collect().responses == 0


def test_updates_read_twice_at_once(lab: Lab) -> None:
    campaign = lost(lab, [(A, "x"), (B, "y"), (C, "z")])
    lab.journal.raw_responses.add(lab.account, b"A\n;;0\t" + lab.gateway.ledger()[0]["id"].encode() + b"\t1\t" +
                                  A.encode() + b"\tdelivered\t2026-01-01 00:00\n")  # fmt: skip

    async def both() -> None:
        other = lab.desk.open()
        await asyncio.gather(asyncio.to_thread(lab.collect), asyncio.to_thread(lab.collect, other))

    asyncio.run(both())
    assert lab.journal.campaigns.counts(campaign).accepted == 3
    assert lab.journal.raw_responses.unparsed(lab.account) == []


def test_a_refusal_of_updates_is_told(lab: Lab) -> None:
    lab.gateway.configure({"accounts": {lab.sandbox.user: {"updates": False}}})
    told = lab.collect()
    assert isinstance(told.failure, RefusedError)
    assert isinstance(told.failure, NotSentError)
