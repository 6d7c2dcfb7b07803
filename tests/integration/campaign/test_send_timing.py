"""When messages go out: within a window, at a rate, through a gate."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from prefect_mymsp.campaign import (
    Progress,
    RateGate,
    SendOptions,
    TimeWindow,
)
from prefect_mymsp.errors import (
    CampaignCancelledError,
    CampaignStoppedError,
    ConfigurationError,
    JournalError,
)
from prefect_mymsp.sandbox import Fault
from tests.integration.campaign.bench import SOON, A, B, Bench, C, scheduled_times


def in_hours(opens: float, closes: float) -> TimeWindow:
    """A daily window that opens and closes this many hours from now."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    opening, closing = (now + timedelta(hours=hours) for hours in (opens, closes))
    return TimeWindow(opening.time(), closing.time(), ZoneInfo("UTC"))


class Until(TimeWindow):
    """A window that is open until a time, and again from :data:`SOON` on."""

    __slots__ = ("moment",)
    moment: datetime

    def contains(self, at: datetime) -> bool:
        return at < self.moment or at >= SOON

    @classmethod
    def of(cls, moment: datetime) -> Until:
        window = cls(time(0), time(0), ZoneInfo("UTC"))
        object.__setattr__(window, "moment", moment)
        return window


@pytest.mark.parametrize(("fault", "requests"), [(Fault("response_lost"), 3), (Fault("lost_before"), 4)])
def test_a_campaign_outside_its_window_is_scheduled_to_the_opening(bench: Bench, fault: Fault, requests: int) -> None:
    messages = [(A, "Hello"), (B, "Hello B"), (C, "Hello C")]
    campaign, window = bench.record(messages), in_hours(3, 5)
    bench.fault(fault)
    counts = bench.send(campaign, send_window=window)
    assert (counts.accepted, counts.in_doubt) == (3, 0)
    assert bench.sent == dict.fromkeys(messages, 1)
    assert set(scheduled_times(bench)) == {window.next_opening(datetime.now(UTC))}
    # Started again, even within its window, it has nothing left to send.
    assert bench.send(campaign, send_window=in_hours(-1, 1)).accepted == 3
    assert bench.requests == requests


def test_a_campaign_within_its_window_is_sent_at_once(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello"), (B, "Hello B")])
    assert bench.send(campaign, send_window=in_hours(-1, 1)).accepted == 2
    assert scheduled_times(bench) == [None, None]


def test_no_request_is_begun_shortly_before_the_window_closes(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])
    bench.send(campaign, send_window=Until.of(datetime.now(UTC) + timedelta(seconds=1.2)))  # a request may take 1.3 s
    assert scheduled_times(bench) == [SOON]


def test_the_rest_is_scheduled_when_the_window_closes(bench: Bench) -> None:
    msisdns = [f"46701740{number}" for number in range(605, 645)]
    campaign = bench.record([(msisdn, f"Hello {msisdn} {number}") for number in range(5) for msisdn in msisdns])
    bench.gateway.configure({"latency_ms": 20})
    ends = datetime.now(UTC) + timedelta(seconds=2.3)  # of which a request may take 1.3
    counts = bench.send(campaign, connections=2, send_window=Until.of(ends))
    assert (counts.accepted, counts.planned) == (200, 0)
    assert len(bench.sent) == 200
    assert set(bench.sent.values()) == {1}
    at_once = [message for message in bench.gateway.ledger() if message["scheduled_at"] is None]
    assert 0 < len(at_once) < 200
    assert all(datetime.fromisoformat(message["accepted_at"]) < ends for message in at_once)
    assert set(scheduled_times(bench)) == {None, SOON}


def test_a_window_that_opens_soon_leaves_time_to_settle_doubt(bench: Bench) -> None:
    minute = timedelta(minutes=1)
    window = in_hours(1 / 60, 2)  # in less than a minute
    before = datetime.now(UTC)
    campaign = bench.record([(A, "Hello")])
    bench.fault(Fault("response_lost"))
    counts = bench.send(campaign, send_window=window)
    (at,) = scheduled_times(bench)
    assert at is not None
    if at < before + 30 * minute:  # unless the window opened while this test ran
        assert counts.in_doubt == 0
        assert before + timedelta(seconds=60) < at <= before + 3 * minute
    assert window.contains(at)


def test_a_lead_time_beyond_the_window_moves_to_its_opening(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])
    window = in_hours(-1, 2 / 60)  # open now, but not in five minutes
    bench.send(campaign, send_window=window, schedule_ahead_s=300.0)
    (at,) = scheduled_times(bench)
    assert at is not None
    assert timedelta(hours=22) < at - datetime.now(UTC) < timedelta(hours=24)
    assert window.contains(at)
    assert not window.contains(at - timedelta(minutes=1))


def test_the_window_does_not_move_a_campaigns_own_time(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")], send_at=SOON)
    bench.send(campaign, send_window=in_hours(3, 5), schedule_ahead_s=300.0)
    assert scheduled_times(bench) == [SOON]


def test_a_rate_spaces_requests_out(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(12)])
    bench.send(campaign, messages_per_minute=600)
    times = [datetime.fromisoformat(message["accepted_at"]) for message in bench.gateway.ledger()]
    assert len(times) == 12
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(times)]
    assert times[-1] - times[0] >= timedelta(seconds=11 * 0.1 - 0.05)
    assert sum(gap > 0.05 for gap in gaps) >= 10  # not in bursts


def test_a_rate_limits_the_recipients_of_a_request(bench: Bench) -> None:
    msisdns = [f"46701740{number}" for number in range(605, 635)]
    size = SendOptions(messages_per_minute=300).request_size
    campaign = bench.record([(msisdn, "Hello") for msisdn in msisdns], batch_size=size)
    began = datetime.now(UTC)
    bench.send(campaign, messages_per_minute=300)  # enough for six seconds: all of them
    assert [len(message["recipients"]) for message in bench.gateway.ledger()] == [30]
    assert datetime.now(UTC) - began < timedelta(seconds=4)  # there is nothing to wait for
    assert SendOptions(messages_per_minute=100).request_size == 10
    assert SendOptions(messages_per_minute=0.5).request_size == 1
    assert SendOptions(batch_size=50).request_size == 50


def test_messages_that_wait_for_their_turn_are_planned(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(6)])
    reported: list[tuple[int, int]] = []

    def count(progress: Progress) -> None:
        counts = bench.journal.campaigns.counts(campaign)
        reported.append((counts.sending, counts.planned))

    bench.send(campaign, listener=count, messages_per_minute=240)  # one every quarter of a second
    assert all(sending <= 1 for sending, _ in reported)
    planned_counts = [planned for _, planned in reported]
    assert planned_counts[0] >= 4
    assert planned_counts == sorted(planned_counts, reverse=True)


def test_a_cancelled_campaign_does_not_wait_for_its_turn(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(9)])
    with pytest.raises(CampaignCancelledError):
        bench.send(campaign, listener=lambda _: bench.journal.campaigns.cancel(campaign), messages_per_minute=240)
    assert bench.journal.campaigns.counts(campaign).planned >= 7


def test_a_rate_spreads_scheduled_messages_over_minutes(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(12)], send_at=SOON)
    began = datetime.now(UTC)
    bench.send(campaign, messages_per_minute=5)
    assert datetime.now(UTC) - began < timedelta(seconds=10)  # the gateway waits, not this process
    minute = timedelta(minutes=1)
    assert Counter(scheduled_times(bench)) == {SOON: 5, SOON + minute: 5, SOON + 2 * minute: 2}


def test_spread_messages_stay_within_the_window(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(12)])
    window = in_hours(3, 3 + 2 / 60)  # two minutes a day
    bench.send(campaign, messages_per_minute=5, send_window=window)
    opening, minute = window.next_opening(datetime.now(UTC)), timedelta(minutes=1)
    tomorrow = opening + timedelta(days=1)
    assert Counter(scheduled_times(bench)) == {opening: 5, opening + minute: 5, tomorrow: 2}


def test_the_gate_is_passed_before_messages_are_claimed(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(7)])
    acquired: list[tuple[int, int]] = []

    async def acquire(requests: int) -> None:
        acquired.append((requests, bench.journal.campaigns.counts(campaign).sending))
        await asyncio.sleep(0.05)

    assert bench.send(campaign, gate=RateGate(acquire, max_requests=2)).accepted == 7
    # Seven requests, two at a time, and the gate is not asked when nothing is left.
    assert [requests for requests, _ in acquired] == [2, 2, 2, 2]
    assert acquired[0][1] == 0


def test_a_slow_gate_is_asked_for_more_requests_at_a_time(bench: Bench) -> None:
    campaign = bench.record([(f"4670000{row:04}", f"text {row}") for row in range(300)])
    acquired: list[int] = []

    async def acquire(requests: int) -> None:
        acquired.append(requests)
        await asyncio.sleep(0.1)

    assert bench.send(campaign, gate=RateGate(acquire, max_requests=64)).accepted == 300
    # Up to twice as many each time: the time that the gate takes does not count as a slow gateway.
    assert max(acquired) >= 32
    assert len(acquired) < 20


def test_a_failing_gate_stops_the_campaign_in_order(bench: Bench) -> None:
    campaign = bench.record([(A, f"Hello {number}") for number in range(7)])
    acquired = 0

    async def acquire(requests: int) -> None:
        nonlocal acquired
        acquired += requests
        if acquired > 3:
            raise ConfigurationError("The gate is gone.")

    with pytest.raises(CampaignStoppedError, match=r"The gate is gone.*start the same campaign again") as stopped:
        bench.send(campaign, gate=RateGate(acquire, max_requests=1))
    assert (stopped.value.counts["accepted"], stopped.value.counts["planned"]) == (3, 4)
    assert bench.send(campaign).accepted == 7
    assert set(bench.sent.values()) == {1}


def test_a_lost_lease_ends_the_wait_at_the_gate(bench: Bench) -> None:
    campaign = bench.record([(A, "Hello")])

    async def acquire(requests: int) -> None:
        with bench.journal._database.write() as connection:
            connection.exec_driver_sql("UPDATE run SET lease_until = 1")
        await asyncio.Event().wait()

    with pytest.raises(JournalError, match="lease has ended"):
        bench.send(campaign, gate=RateGate(acquire), lease_s=0.6)
    assert bench.requests == 0
