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
    """A campaign whose first request was accepted, and whose response was lost."""
    campaign = lab.record(pairs, name)
    lab.fault(Fault("response_lost"))
    assert lab.send(campaign).in_doubt >= 1
    return campaign


def test_updates_lead_to_deliveries_and_lost_requests_of_any_campaign(lab: Lab) -> None:
    first = lost(lab, [(A, "x"), (B, "x")])
    second = lab.sent([(C, "x")], "winter")
    result = lab.collect()
    assert (result.responses, result.delivery_reports, result.linked, result.postponed) == (1, 3, 1, 0)
    assert result.failure is None
    assert lab.journal.campaigns.counts(first).accepted == 2
    assert lab.journal.campaigns.counts(second).delivered == 1
    assert lab.desk.sql("SELECT count(*) FROM raw_response WHERE parsed_at IS NULL") == [(0,)]
    assert lab.collect().responses == 0  # nothing new, so nothing is stored
    assert lab.desk.one("SELECT count(*) FROM raw_response") == 1


def test_a_response_is_stored_before_it_is_parsed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
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
    result = lab.collect()
    assert (result.responses, result.linked) == (1, 1)
    assert lab.journal.campaigns.counts(campaign).accepted == 1
    assert lab.journal.raw_responses.unparsed(lab.account) == []


def test_a_response_about_a_request_in_flight_is_postponed(lab: Lab) -> None:
    campaign, (batch,) = lab.claimed([(A, "x")])
    lab.post(A, "x")
    result = lab.collect()
    assert (result.responses, result.linked, result.postponed) == (0, 0, 1)
    lab.desk.settle(batch, "in_doubt")
    result = lab.collect()  # the gateway does not return it again; the journal has it
    assert (result.responses, result.linked, result.postponed) == (1, 1, 0)
    assert lab.journal.campaigns.counts(campaign).accepted == 1


def test_an_id_cut_short_is_replaced_by_the_one_in_an_update(lab: Lab) -> None:
    campaign = lab.record([(A, "x")])
    lab.fault(Fault("cut_short", keep_bytes=4))  # A, line feed, two digits of six
    assert lab.send(campaign).accepted == 1
    assert lab.collect().postponed == 1  # the gateway may not have registered the id yet
    lab.desk.sql("UPDATE batch SET settled_at = settled_at - 60000000")
    result = lab.collect()
    assert (result.linked, result.postponed) == (1, 0)
    assert lab.desk.one("SELECT message_id FROM batch") == lab.gateway.ledger()[0]["id"]


@pytest.mark.parametrize("fault", [Fault("truncated", ("getMsgUpdates",), keep_bytes=60),
                                   Fault("cut_short", ("getMsgUpdates",), keep_bytes=60)],
                         ids=lambda fault: fault.kind)  # fmt: skip
def test_an_incomplete_response_is_stored_and_used(lab: Lab, fault: Fault) -> None:
    campaign = lost(lab, [(A, "x"), (B, "x")])
    lab.fault(fault)
    result = lab.collect()
    assert lab.requests("getMsgUpdates") == 1
    assert isinstance(result.failure, InDoubtError) == (fault.kind == "truncated")
    assert (result.responses, result.linked) == (1, 1)
    assert lab.journal.campaigns.counts(campaign).accepted == 2
    assert len(lab.desk.one("SELECT raw FROM raw_response")) == 60


@pytest.mark.parametrize("fault", [Fault("response_lost", ("getMsgUpdates",)), Fault("empty", ("getMsgUpdates",)),
                                   Fault("error_after", ("getMsgUpdates",))], ids=lambda fault: fault.kind)  # fmt: skip
def test_a_lost_response_is_not_requested_again(lab: Lab, fault: Fault) -> None:
    campaign = lost(lab, [(A, "x")])
    lab.fault(fault)
    result = lab.collect()
    assert isinstance(result.failure, InDoubtError)
    assert lab.requests("getMsgUpdates") == 1
    assert lab.journal.campaigns.counts(campaign).in_doubt == 1
    assert lab.collect().failure is None


def test_a_failed_lookup_is_postponed_to_the_next_reading(lab: Lab) -> None:
    campaign = lost(lab, [(A, "x")])
    lab.fault(Fault("error_before", ("getSmsResult",)))
    assert (result := lab.collect()).postponed == 1
    assert result.linked == 0
    lab.post(B, "Foreign")
    result = lab.collect()
    assert (result.responses, result.linked, result.postponed) == (2, 1, 0)
    assert lab.journal.campaigns.counts(campaign).accepted == 1


def test_updates_about_foreign_messages_change_nothing(lab: Lab) -> None:
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
    result = lab.collect()
    assert result.postponed == 0
    assert result.unparsed == 1
    assert result.linked == 0
    assert lab.desk.sql("SELECT state, message_id FROM batch ORDER BY id") == before
    assert lab.desk.sql("SELECT status FROM message WHERE status = 'delivered' OR status = 'teleported'") == []
    assert lab.journal.suppressions.msisdns(lab.account) == set()
    assert list(lab.journal.inbox.rows(lab.account)) == []


def test_a_response_that_cannot_be_parsed_is_stored_and_blocks_nothing(lab: Lab) -> None:
    lab.fault(Fault("html", ("getMsgUpdates",)))
    result = lab.collect()
    assert isinstance(result.failure, ProtocolError)
    assert (result.responses, result.unparsed, result.postponed) == (1, 1, 0)
    assert lab.collect().responses == 0


def test_two_readings_of_the_updates_at_once(lab: Lab) -> None:
    campaign = lost(lab, [(A, "x"), (B, "y"), (C, "z")])
    lab.journal.raw_responses.add(lab.account, b"A\n;;0\t" + lab.gateway.ledger()[0]["id"].encode() + b"\t1\t" +
                                  A.encode() + b"\tdelivered\t2026-01-01 00:00\n")  # fmt: skip

    async def both() -> None:
        other = lab.desk.open()
        await asyncio.gather(asyncio.to_thread(lab.collect), asyncio.to_thread(lab.collect, other))

    asyncio.run(both())
    assert lab.journal.campaigns.counts(campaign).accepted == 3
    assert lab.journal.raw_responses.unparsed(lab.account) == []


def test_refused_updates_are_reported(lab: Lab) -> None:
    lab.gateway.configure({"accounts": {lab.sandbox.user: {"updates": False}}})
    result = lab.collect()
    assert isinstance(result.failure, RefusedError)
    assert isinstance(result.failure, NotSentError)
