"""When a followed campaign is polled next, and when following ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefect_mymsp.campaign import FollowOptions
from prefect_mymsp.campaign.follow import FollowSchedule
from prefect_mymsp.journal import Counts

OPTIONS = FollowOptions(deadline_s=3600.0, quiet_s=900.0, first_pause_s=1.0, longest_pause_s=60.0)
#: Two messages are accepted, one of them is final.
COUNTS = Counts(
    messages=2, planned=0, sending=0, accepted=2, refused=0, in_doubt=0, assumed=0, cancelled=0, delivered=1, final=1,
    segments=2,
)  # fmt: skip
ALL_FINAL = replace(COUNTS, final=2)


def test_following_ends_when_every_accepted_message_is_final() -> None:
    schedule = FollowSchedule(OPTIONS, now=0.0)
    assert not schedule.has_ended(1.0, COUNTS)
    assert schedule.has_ended(1.0, ALL_FINAL)


def test_with_updates_it_goes_on_while_requests_are_in_doubt() -> None:
    in_doubt = replace(ALL_FINAL, in_doubt=1)
    assert FollowSchedule(OPTIONS, now=0.0).has_ended(1.0, in_doubt)
    with_updates = FollowSchedule(replace(OPTIONS, use_updates=True), now=0.0)
    assert not with_updates.has_ended(1.0, in_doubt)
    assert with_updates.has_ended(1.0, ALL_FINAL)


def test_it_ends_when_the_account_is_refused() -> None:
    assert FollowSchedule(OPTIONS, now=0.0).has_ended(1.0, COUNTS, refused=True)


def test_it_ends_at_the_deadline_whatever_changes() -> None:
    schedule = FollowSchedule(OPTIONS, now=100.0)
    schedule.record_round(3699.0, changed=True)
    assert not schedule.has_ended(3699.0, COUNTS)
    assert schedule.has_ended(3700.0, COUNTS)


def test_it_ends_when_nothing_has_changed_for_a_while() -> None:
    schedule = FollowSchedule(OPTIONS, now=0.0)
    schedule.record_round(500.0, changed=True)
    schedule.record_round(1000.0, changed=False)
    assert not schedule.has_ended(1399.0, COUNTS)
    assert schedule.has_ended(1400.0, COUNTS)


def test_the_quiet_time_begins_at_the_delivery_time() -> None:
    schedule = FollowSchedule(OPTIONS, now=0.0)
    schedule.record_round(10.0, changed=False, until_delivery_s=1000.0)
    assert not schedule.has_ended(1909.0, COUNTS)
    assert schedule.has_ended(1910.0, COUNTS)


def test_each_pause_is_half_as_long_again_up_to_the_longest() -> None:
    schedule = FollowSchedule(OPTIONS, now=0.0)
    pauses = [schedule.next_pause_s(1.0) for _ in range(13)]
    assert pauses[:4] == [1.0, 1.5, 2.25, 3.375]
    assert pauses[-2:] == [60.0, 60.0]


def test_after_a_change_the_pauses_start_over() -> None:
    schedule = FollowSchedule(OPTIONS, now=0.0)
    schedule.next_pause_s(1.0)
    schedule.next_pause_s(1.0)
    schedule.record_round(2.0, changed=True)
    assert schedule.next_pause_s(2.0) == 1.0


@pytest.mark.parametrize(("now", "pause_s"), [(3599.5, 0.5), (3600.0, 0.0), (3700.0, 0.0)])
def test_no_pause_is_longer_than_the_time_that_is_left(now: float, pause_s: float) -> None:
    schedule = FollowSchedule(replace(OPTIONS, first_pause_s=10.0), now=0.0)
    schedule.record_round(now, changed=True)
    assert schedule.next_pause_s(now) == pause_s


def test_a_pause_ends_with_the_quiet_time() -> None:
    schedule = FollowSchedule(replace(OPTIONS, first_pause_s=50.0), now=0.0)
    assert schedule.next_pause_s(890.0) == 10.0


def test_pauses_are_short_while_a_released_request_may_still_arrive() -> None:
    schedule = FollowSchedule(replace(OPTIONS, first_pause_s=40.0), now=0.0)
    assert schedule.next_pause_s(1.0, late_arrivals=True) == 10.0
    assert schedule.next_pause_s(1.0) == 60.0
