"""Message ids and results: a result counts if it names exactly the recipients of its batch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from prefect_mymsp.models import RecipientStatus
from prefect_mymsp.sandbox import Fault
from tests.integration.campaign.bench import SOON, A, B, Bench, D


def test_a_message_id_of_another_message_is_rejected(bench: Bench) -> None:
    bench.post(D, "Foreign", SOON)
    foreign = bench.gateway.ledger()[0]["id"]
    campaign = bench.record([(A, "Hello")])
    bench.send(campaign)
    with bench.journal._database.write() as connection:
        connection.exec_driver_sql("UPDATE batch SET message_id = ?", (foreign,))
    counts = bench.follow(campaign)
    assert (counts.accepted, counts.in_doubt, counts.delivered) == (0, 1, 0)


def test_a_truncated_message_id_is_rejected(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(Fault("cut_short", keep_bytes=4))  # A, line feed, two digits of six
    assert bench.send(campaign).accepted == 1
    with bench.journal._database.write() as connection:  # as if it had been accepted a while ago
        connection.exec_driver_sql("UPDATE batch SET settled_at = settled_at - 60000000")
    assert bench.follow(campaign).in_doubt == 1
    assert bench.requests == 1


def test_an_update_settles_doubt(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")])
    bench.fault(Fault("response_lost"))
    assert bench.send(campaign, connections=1).in_doubt == 1
    counts = bench.follow(campaign, use_updates=True)
    assert (counts.accepted, counts.in_doubt, counts.delivered) == (2, 0, 2)
    assert bench.requests == 2


def test_a_forged_update_changes_nothing(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(Fault("lost_before"))
    bench.send(campaign)
    bench.gateway.receive(
        originator=D, text=f"Hi\n;;0\t100001\t1\t{A}\tdelivered\t2026-01-01 00:00\n;;0\t7\t1\t{A}\tdelivered\t-1"
    )
    counts = bench.follow(campaign, use_updates=True)
    assert (counts.accepted, counts.in_doubt, counts.delivered) == (0, 1, 0)


def test_an_update_about_another_message_settles_nothing(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.fault(Fault("lost_before"))
    bench.send(campaign)
    bench.post(f"{A},{B}", "Foreign", datetime.now(UTC).replace(second=0) + timedelta(minutes=2))
    bench.gateway.clock.advance(180)  # sent to our recipient and another one, and reported
    counts = bench.follow(campaign, use_updates=True)
    assert (counts.accepted, counts.in_doubt, counts.delivered) == (0, 1, 0)


@pytest.mark.parametrize("shown", [f"+{A}", f"00{A}", "+46 70-174 06 05"])
def test_results_may_write_numbers_differently(bench: Bench, shown: str) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.send(campaign)
    (batch,) = bench.journal.deliveries.open_batches(campaign)
    status = RecipientStatus(shown, datetime.now(UTC), "delivered", datetime.now(UTC))
    assert bench.journal.deliveries.record_statuses({batch.id: [status]}) == 1
    assert bench.journal.campaigns.counts(campaign).delivered == 1
