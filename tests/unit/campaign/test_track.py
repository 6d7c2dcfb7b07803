"""Whose turn it is in a tracking pass, and when the pass requests another list."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from prefect_mymsp.campaign import TrackOptions
from prefect_mymsp.campaign.track import PollCursor, ReconcileRounds, order_turns
from prefect_mymsp.errors import InputError
from prefect_mymsp.journal import OpenBatch

NOW = datetime(2030, 1, 31, 9, 0, tzinfo=UTC)


def batches(*batch_ids: int) -> list[OpenBatch]:
    return [OpenBatch(batch_id, str(batch_id), NOW, NOW, True, False, NOW) for batch_id in batch_ids]


def test_the_newest_campaign_has_the_first_turn() -> None:
    assert order_turns([1, 2, 3], None) == [3, 2, 1]


def test_campaigns_that_had_their_turn_in_the_last_pass_come_last() -> None:
    assert order_turns([1, 2, 3, 4], 3) == [2, 1, 4, 3]
    assert order_turns([1, 2], 5) == [2, 1]


def read(cursor: PollCursor, open_ids: list[int], *, limit: int = 2, polled: int = 100) -> list[int]:
    """The batches that a cursor takes from open ones, page by page, up to ``polled`` of them."""
    taken: list[int] = []
    while not cursor.done and len(taken) < polled:
        page = batches(*[batch_id for batch_id in open_ids if batch_id > cursor.after][:limit])
        taken += [batch.id for batch in cursor.accept(page)]
    return taken


def test_a_cursor_takes_each_batch_once_from_where_the_last_pass_ended() -> None:
    assert read(PollCursor(0), [1, 2, 3, 4, 5]) == [1, 2, 3, 4, 5]
    assert read(PollCursor(3), [1, 2, 3, 4, 5]) == [4, 5, 1, 2, 3]
    assert read(PollCursor(9), [1, 2]) == [1, 2]
    assert read(PollCursor(0), []) == []


def test_a_cursor_that_has_been_around_starts_anew_in_the_next_pass() -> None:
    cursor = PollCursor(3)
    read(cursor, [1, 2, 3, 4, 5])
    assert (cursor.bookmark, cursor.moved) == (0, True)


def test_a_cursor_that_was_interrupted_goes_on_there_in_the_next_pass() -> None:
    cursor = PollCursor(0)
    assert read(cursor, [1, 2, 3, 4, 5], polled=4) == [1, 2, 3, 4]
    assert cursor.bookmark == 4
    cursor.put_back(batches(4)[0])
    assert (cursor.bookmark, cursor.moved) == (3, True)
    assert read(PollCursor(cursor.bookmark), [1, 2, 3, 4, 5]) == [4, 5, 1, 2, 3]


def test_a_cursor_that_was_not_used_has_not_moved() -> None:
    assert not PollCursor(3).moved


def rounds() -> ReconcileRounds:
    return ReconcileRounds(absence_from=30.0, ends_at=240.0, interval_s=3.0)


def test_another_list_is_requested_while_something_is_pending() -> None:
    assert rounds().another(10.0, pending=True)
    assert not rounds().another(10.0, pending=False)


def test_doubt_that_five_lists_cannot_settle_is_left_to_the_next_pass() -> None:
    policy = rounds()
    early = [policy.another(now, pending=True) for now in (3.0, 9.0, 15.0, 21.0, 27.0)]
    late = [policy.another(now, pending=True) for now in (30.0, 33.0, 36.0, 39.0, 42.0)]
    assert early == [True] * 5
    assert late == [True, True, True, True, False]


def test_no_list_is_requested_that_would_come_after_the_end_of_the_pass() -> None:
    assert rounds().another(236.9, pending=True)
    assert not rounds().another(237.0, pending=True)


@pytest.mark.parametrize("option", ["tracking_days", "max_requests", "requests_per_minute", "deadline_s"])
def test_options_must_be_above_zero(option: str) -> None:
    with pytest.raises(InputError):
        TrackOptions(**{option: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("days", [float("nan"), float("inf"), 1e9])
def test_tracking_days_must_be_a_number_of_days(days: float) -> None:
    with pytest.raises(InputError):
        TrackOptions(tracking_days=days)
