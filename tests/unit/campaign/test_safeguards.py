"""Decisions about a whole campaign, each as a table of cases."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_mymsp.campaign.safeguards import (
    check_all_accepted,
    check_same_as_approved,
    check_start_time,
    check_still_ahead,
)
from prefect_mymsp.errors import CampaignStoppedError, InputError, LimitError, NotApprovedError
from prefect_mymsp.journal import Counts

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def minutes_ago(minutes: float | None) -> datetime | None:
    return None if minutes is None else NOW - timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("scheduled", "last_active", "max_late", "message"),
    [
        # scheduled and last_active: minutes before now; message: None if the run may start
        (0, None, 0, None),
        (119, None, 120, None),
        (120, None, 120, None),
        (121, None, 120, r"was scheduled to start at 2026-03-02 09:59 UTC, 2 h 01 min ago.*allows 2 h 00 min"),
        (-5, None, 0, None),  # started early
        (600, 10, 120, None),  # a campaign that was being sent ten minutes ago
        (600, 180, 120, r"was last being sent at 2026-03-02 09:00 UTC, 3 h 00 min ago"),
        (10, 600, 120, None),  # a campaign of this morning, started again on time
        (180, 600, 120, "was scheduled to start at 2026-03-02 09:00 UTC"),
        (45.5, None, 45, "46 min ago; max_late_minutes allows 45 min"),
    ],
)
def test_a_run_that_starts_late_is_refused(
    scheduled: float, last_active: float | None, max_late: float, message: str | None
) -> None:
    scheduled_at = minutes_ago(scheduled)
    assert scheduled_at is not None
    facts: dict[str, Any] = {
        "scheduled_at": scheduled_at,
        "last_active": minutes_ago(last_active),
        "now": NOW,
        "max_late_minutes": max_late,
    }
    if message is None:
        check_start_time("spring", **facts)
        return
    with pytest.raises(LimitError, match=message) as refused:
        check_start_time("spring", **facts)
    assert "start it again under the name 'spring' with a larger max_late_minutes" in str(refused.value)


@pytest.mark.parametrize(
    ("accepted", "messages", "complete"), [(0, 0, True), (2, 2, True), (1, 2, False), (0, 2, False)]
)
def test_all_or_nothing_needs_every_message_accepted(accepted: int, messages: int, complete: bool) -> None:
    counts = Counts(
        messages=messages,
        segments=messages,
        planned=0,
        sending=0,
        accepted=accepted,
        refused=messages - accepted,
        in_doubt=0,
        assumed=0,
        cancelled=0,
        final=0,
        delivered=0,
    )
    if complete:
        check_all_accepted("spring", counts)
        return
    with pytest.raises(CampaignStoppedError, match=f"accepted only {accepted} of {messages} messages") as stopped:
        check_all_accepted("spring", counts)
    assert stopped.value.counts["refused"] == messages - accepted


@dataclass
class _Plan:
    digest: str
    source: str = "people.csv"


def test_only_what_was_approved_is_sent() -> None:
    approved: Any = _Plan("one")
    same: Any = _Plan("one")
    changed: Any = _Plan("two")
    check_same_as_approved("spring", approved=approved, plan=same)
    with pytest.raises(NotApprovedError, match=r"people\.csv has changed since campaign 'spring' was approved"):
        check_same_as_approved("spring", approved=approved, plan=changed)


@pytest.mark.parametrize(("minutes", "ahead"), [(None, True), (-1, True), (0, False), (1, False)])
def test_a_delivery_time_that_passed_during_approval_is_refused(minutes: float | None, ahead: bool) -> None:
    send_at = minutes_ago(minutes)
    if ahead:
        check_still_ahead(send_at, NOW)
        return
    with pytest.raises(InputError, match="has passed while the campaign waited for approval"):
        check_still_ahead(send_at, NOW)
