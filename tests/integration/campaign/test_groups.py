"""Recipient groups of the gateway: one request per group, whose members are stored at the gateway only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prefect_mymsp.campaign import ReconcileOptions
from prefect_mymsp.errors import InputError
from prefect_mymsp.journal import CampaignKey
from prefect_mymsp.sandbox import Fault, Sandbox
from tests.integration.campaign.bench import SOON, A, B, Bench, C, D

OFFICE, CHOIR = (A, B, C), (D,)
TEXT = "To the groups"


@pytest.fixture
def bench(mymsp_sandbox: Sandbox, tmp_path: Path, empty_journal: Path) -> Iterator[Bench]:
    mymsp_sandbox.gateway.configure(
        {
            "sent_after_s": 0,
            "delivered_after_s": 0,
            "accounts": {mymsp_sandbox.user: {"groups": {"The office": list(OFFICE), "choir": list(CHOIR)}}},
        }
    )
    shutil.copy(empty_journal, tmp_path / "journal.db")
    bench = Bench(mymsp_sandbox, tmp_path / "journal.db")
    yield bench
    bench.journal.close()


def record(
    bench: Bench,
    names: Sequence[str],
    messages: Sequence[tuple[str, str]] = (),
    *,
    send_at: datetime | None = None,
    name: str = "groups",
) -> CampaignKey:
    bench.record(messages, send_at=send_at, name=name)
    with bench.journal.recording(bench.account, name, source="test", sender=None, send_at=send_at) as recording:
        recording.add_groups(names, TEXT, encoding="GSM-7", segments=1)
    return recording.campaign


def reached(bench: Bench) -> list[tuple[str, ...]]:
    """The recipients of each accepted request, sorted."""
    return sorted(
        tuple(recipient["msisdn"] for recipient in message["recipients"]) for message in bench.gateway.ledger()
    )


def stored(bench: Bench) -> str:
    """The contents of the journal, as text."""
    with bench.journal._database.read() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        return "\n".join(raw.iterdump())


def test_a_group_is_a_request_of_its_own(bench: Bench) -> None:
    campaign = record(bench, ["The office", "choir"], [(D, TEXT), (B, TEXT)])
    run = bench.journal.claims.start_run(campaign)
    batches = bench.journal.claims.claim(run, requests=10, batch_size=500)
    assert sorted(batch.msisdns for batch in batches) == [(B, D), ("@The office",), ("@choir",)]
    assert sorted(batch.recipients for batch in batches) == [f"{B},{D}", "The office", "choir"]


def test_messages_to_groups_are_counted_by_recipient(bench: Bench) -> None:
    campaign = record(bench, ["The office", "choir"], [(D, TEXT)])
    counts = bench.send(campaign)
    assert reached(bench) == [OFFICE, CHOIR, CHOIR]
    assert (counts.messages, counts.accepted, counts.segments) == (3, 3, 3)  # the number of members is not known yet
    counts = bench.follow(campaign)
    assert (counts.messages, counts.accepted, counts.delivered, counts.final) == (5, 5, 5, 5)
    assert counts.segments == 5
    assert bench.sent == {(A, TEXT): 1, (B, TEXT): 1, (C, TEXT): 1, (D, TEXT): 2}
    contents = stored(bench)
    assert D in contents  # it is a recipient in the file too
    assert not [member for member in OFFICE if member in contents]


def test_a_group_is_final_when_it_is_delivered_to_every_member(bench: Bench) -> None:
    bench.gateway.configure({"delivered_after_s": 3600})
    campaign = record(bench, ["The office"])
    bench.send(campaign)
    counts = bench.follow(campaign, deadline_s=0.5)
    assert (counts.accepted, counts.delivered, counts.final) == (3, 0, 0)
    while not counts.delivered:
        bench.gateway.clock.advance(120)
        counts = bench.follow(campaign, deadline_s=0.1)
    assert (counts.accepted, counts.final) == (3, 0)
    assert counts.delivered < 3
    bench.gateway.clock.advance(3600)
    counts = bench.follow(campaign)
    assert (counts.delivered, counts.final) == (3, 3)


def test_a_truncated_result_does_not_confirm_a_group(bench: Bench) -> None:
    campaign = record(bench, ["The office"])
    bench.send(campaign)
    bench.fault(Fault("cut_short", endpoints=("getSmsResult",), keep_bytes=40, times=100))
    counts = bench.follow(campaign, deadline_s=0.5)
    assert (counts.messages, counts.delivered) == (1, 0)
    assert not bench.journal.deliveries.open_batches(campaign)[0].confirmed


def test_a_group_that_is_refused_is_rejected_alone(bench: Bench) -> None:
    campaign = record(bench, ["nobody knows it", "choir"], [(A, TEXT), (B, TEXT)])
    counts = bench.send(campaign)
    assert (counts.refused, counts.accepted) == (1, 3)
    assert bench.requests == 3  # a group cannot be split


@pytest.mark.parametrize("fault", [Fault("response_lost"), Fault("lost_before"), Fault("truncated")])
@pytest.mark.parametrize("send_at", [None, SOON])
def test_a_doubtful_group_stays_in_doubt(bench: Bench, fault: Fault, send_at: datetime | None) -> None:
    campaign = record(bench, ["choir"], send_at=send_at)
    bench.fault(fault)
    counts = bench.send(campaign, reconcile=ReconcileOptions(late_arrival_s=0.0, interval_s=0.05))
    assert (counts.in_doubt, counts.planned) == (1, 0)
    counts = bench.send(campaign)
    counts = bench.follow(campaign, deadline_s=1.0, use_updates=True)
    assert (counts.in_doubt, counts.accepted) == (1, 0)
    assert bench.requests == 1


def test_lost_responses_beside_a_doubtful_group_stay_in_doubt(bench: Bench) -> None:
    """Messages that may be the group's are not touched: here its only member is also a recipient."""
    campaign = record(bench, ["choir"], [(A, "Hello A"), (D, "Hello D")], send_at=SOON)
    bench.fault(Fault("response_lost", times=3))
    counts = bench.send(campaign, connections=1)
    assert (counts.in_doubt, counts.accepted, counts.planned) == (3, 0, 0)
    assert bench.requests == 3
    assert bench.sent == {(A, "Hello A"): 1, (D, "Hello D"): 1, (D, TEXT): 1}
    assert not any(message["cancelled"] for message in bench.gateway.ledger())


def test_absent_messages_are_sent_again_despite_a_doubtful_group(bench: Bench) -> None:
    campaign = record(bench, ["choir"], [(A, "Hello A"), (B, "Hello B")], send_at=SOON)
    bench.fault(Fault("lost_before"), Fault("none"), Fault("lost_before"))
    counts = bench.send(campaign, connections=1)
    assert (counts.in_doubt, counts.accepted) == (1, 2)
    assert bench.sent == {(A, "Hello A"): 1, (B, "Hello B"): 1}
    assert bench.requests == 4


def test_an_ambiguous_update_settles_no_doubt_about_a_group(bench: Bench) -> None:
    campaign = record(bench, ["choir"], [(D, "Hello D")])
    bench.fault(Fault("lost_before"), Fault("response_lost"))  # an update may be about either of them
    assert bench.send(campaign, connections=1).in_doubt == 2
    counts = bench.follow(campaign, use_updates=True, deadline_s=1.0)
    assert (counts.in_doubt, counts.accepted) == (2, 0)


def test_doubt_about_a_group_is_resolved_by_a_decision(bench: Bench) -> None:
    campaign = record(bench, ["choir"], [(A, TEXT)], send_at=SOON)
    bench.fault(Fault("none"), Fault("lost_before"))
    bench.send(campaign, connections=1)
    assert bench.journal.doubt.resolve(campaign, "not-sent") == 1
    counts = bench.send(campaign)
    assert (counts.in_doubt, counts.accepted) == (0, 2)
    assert bench.requests == 3
    assert bench.sent == {(A, TEXT): 1, (D, TEXT): 1}


def test_an_id_of_an_earlier_message_is_not_accepted_for_a_group(bench: Bench) -> None:
    bench.post(D, "Foreign", datetime.now(UTC) + timedelta(minutes=1))
    bench.gateway.clock.advance(120)  # it has been sent
    foreign = bench.gateway.ledger()[0]["id"]
    campaign = record(bench, ["choir"])
    bench.send(campaign)
    with bench.journal._database.write() as connection:
        connection.exec_driver_sql("UPDATE batch SET message_id = ?, claimed_at = claimed_at + 7200000000", (foreign,))
    counts = bench.follow(campaign)
    assert (counts.accepted, counts.in_doubt) == (0, 1)


def test_a_waiting_group_is_cancelled_with_its_campaign(bench: Bench) -> None:
    campaign = record(bench, ["The office"], send_at=SOON)
    bench.send(campaign)
    bench.journal.campaigns.cancel(campaign)
    assert bench.cancel(campaign).cancelled == 1
    assert bench.sent == {}


@pytest.mark.parametrize("name", ["", "  ", "a,b", "46701740605", "070-174 06 05", "two\nlines", "x" * 200, "\ud800"])
def test_invalid_group_names_are_refused(bench: Bench, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        record(bench, [name])
    assert bench.journal.campaigns.counts(record(bench, ["choir"])).messages == 1


def test_a_group_is_recorded_once(bench: Bench) -> None:
    record(bench, ["choir", " choir "])
    campaign = record(bench, ["choir", "The office"])
    assert bench.journal.campaigns.counts(campaign).messages == 2
    with bench.journal.recording(bench.account, "groups", source="test", sender=None, send_at=None) as recording:
        assert list(recording.planned_before()) == []
        assert sorted(earlier.msisdn for _, earlier in recording.planned_before(groups=True)) == [
            "@The office",
            "@choir",
        ]
        recording.drop_planned(
            [number for number, earlier in recording.planned_before(groups=True) if earlier.msisdn == "@choir"]
        )
    bench.send(campaign)
    with bench.journal.recording(bench.account, "groups", source="test", sender=None, send_at=None) as recording:
        recording.add_groups(["The office"], "Another text", encoding="GSM-7", segments=1)
        assert recording.find_changed_texts() == []
        assert [earlier.msisdn for earlier in recording.find_changed_texts(groups=True)] == ["@The office"]
        assert recording.added() == 1
