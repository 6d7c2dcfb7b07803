"""How fast a campaign is sent, alone and with several workers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from prefect_mymsp.campaign import SendOptions
from prefect_mymsp.campaign.rate import SendRate, max_requests_per_claim, worker_rate
from prefect_mymsp.errors import InputError

NOON = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)


def sent_within(options: SendOptions, duration: timedelta) -> int:
    """Messages that one worker sends in a time, if the gateway responds at once."""
    assert options.worker_rate is not None
    rate, messages, now = SendRate(options.worker_rate), 0, NOON
    requests = max_requests_per_claim(options.request_size, options.worker_rate)
    while (now := rate.next_slot(now)) < NOON + duration:
        rate.reserve(now, requests * options.request_size)
        messages += requests * options.request_size
    return messages


@pytest.mark.parametrize("batch_size", [1, 500])
@pytest.mark.parametrize("per_minute", [1.0, 7.5, 60.0, 600.0, 12_345.0])
def test_the_total_rate_is_the_same_with_any_number_of_workers(per_minute: float, batch_size: int) -> None:
    hours = timedelta(hours=10)
    expected = per_minute * 600
    for workers in (1, 2, 3, 4):
        options = SendOptions(batch_size=batch_size, messages_per_minute=per_minute, workers=workers)
        total = workers * sent_within(options, hours)
        # Each worker may have begun one more claim, of a sixth of its minute or of one message.
        assert expected - workers <= total <= expected + workers * max(1, per_minute / workers / 6 + 1)


@pytest.mark.parametrize(("per_minute", "workers", "rate"), [(600.0, 1, 600.0), (600.0, 4, 150.0), (None, 4, None)])
def test_a_worker_keeps_to_its_part_of_the_rate(per_minute: float | None, workers: int, rate: float | None) -> None:
    assert worker_rate(per_minute, workers) == rate
    assert SendOptions(messages_per_minute=per_minute, workers=workers).worker_rate == rate


def test_slots_are_reserved_one_after_the_other() -> None:
    rate = SendRate(60)
    assert rate.next_slot(NOON) == NOON  # nothing is reserved
    rate.reserve(NOON, 3)
    assert rate.next_slot(NOON) == NOON + timedelta(seconds=3)
    assert rate.next_slot(NOON + timedelta(seconds=9)) == NOON + timedelta(seconds=9)
    rate.reserve(NOON, 1)  # at the next free slot, not at noon
    assert rate.free_from == NOON + timedelta(seconds=4)
    rate.reserve(NOON + timedelta(minutes=1), 1)  # slots that have passed are not made up for
    assert rate.free_from == NOON + timedelta(seconds=61)


@pytest.mark.parametrize("per_minute", [7.0, 13.0, 33.3])
@pytest.mark.parametrize("messages", [1, 2, 5])
def test_slots_are_never_earlier_than_the_rate_allows(per_minute: float, messages: int) -> None:
    """A microsecond too early, a scheduled message would be due one minute too early."""
    rate = SendRate(per_minute)
    for reserved in range(messages, 50 * messages, messages):
        rate.reserve(NOON, messages)
        assert (rate.free_from - NOON).total_seconds() >= round(reserved * 60 / per_minute, 9)


def test_an_extremely_low_rate_stays_within_the_calendar() -> None:
    rate = SendRate(1e-300)
    rate.reserve(NOON, 1)
    assert NOON + timedelta(days=300) < rate.free_from < NOON + timedelta(days=400)


REQUEST_SIZES = [
    # batch size, messages per minute, workers, recipients per request
    (500, None, 1, 500),
    (50, None, 4, 50),
    (500, 300, 1, 30),
    (500, 100, 1, 10),
    (500, 100, 2, 5),
    (500, 100, 4, 3),
    (500, 0.5, 1, 1),
    (20, 600, 1, 20),
    (20, 600, 4, 15),
]


@pytest.mark.parametrize(("batch_size", "per_minute", "workers", "size"), REQUEST_SIZES)
def test_no_request_carries_more_than_a_tenth_of_a_minutes_messages(
    batch_size: int, per_minute: float | None, workers: int, size: int
) -> None:
    options = SendOptions(batch_size=batch_size, messages_per_minute=per_minute, workers=workers)
    assert options.request_size == size


@pytest.mark.parametrize(("size", "per_minute", "requests"), [(1, 600, 100), (60, 600, 1), (10, 600, 10), (1, 0.5, 1)])
def test_no_claim_takes_more_than_a_sixth_of_a_minutes_messages(size: int, per_minute: float, requests: int) -> None:
    assert max_requests_per_claim(size, per_minute) == requests


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_must_be_above_zero(rate: float) -> None:
    with pytest.raises(InputError, match="messages_per_minute must be above zero"):
        SendOptions(messages_per_minute=rate)


def test_a_campaign_needs_a_worker() -> None:
    with pytest.raises(InputError, match="workers must be at least 1"):
        SendOptions(workers=0)
