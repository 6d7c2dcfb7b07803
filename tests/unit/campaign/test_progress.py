"""How far a campaign has come: complete or not, and what a person should do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_mymsp.campaign import CampaignProgress
from prefect_mymsp.journal import CampaignKey, Counts, Pending

NOW = datetime(2030, 1, 31, 9, 0, tzinfo=UTC)
COUNTS = Counts(
    messages=4, planned=0, sending=0, accepted=4, refused=0, in_doubt=0, assumed=0, cancelled=0, delivered=2, final=2,
    segments=4,
)  # fmt: skip
PROGRESS = CampaignProgress(
    campaign=CampaignKey(1, "account", "autumn", sender=None, send_at=None),
    created_at=NOW,
    active_at=NOW,
    cancelled=False,
    counts=COUNTS,
    pending=Pending(),
)


def progress(*, cancelled: bool = False, pending: Pending = Pending(), **counts: Any) -> CampaignProgress:  # noqa: B008
    return replace(PROGRESS, cancelled=cancelled, pending=pending, counts=replace(COUNTS, **counts))


@pytest.mark.parametrize(
    ("state", "complete"),
    [
        (progress(), True),
        (progress(planned=1), False),
        (progress(planned=1, cancelled=True), True),
        (progress(sending=1), False),
        (progress(sending=1, cancelled=True), False),
        (progress(pending=Pending(open=1)), False),
        (progress(pending=Pending(in_doubt=1)), False),
        (progress(in_doubt=1, pending=Pending(given_up=3)), True),
    ],
    ids=[
        "everything is final or too old",
        "a message is not sent",
        "a message is not sent and will not be",
        "a request is in flight",
        "a request of a cancelled campaign is in flight",
        "a result is expected",
        "evidence may turn up",
        "what is in doubt is too old",
    ],
)
def test_complete(state: CampaignProgress, complete: bool) -> None:
    assert state.complete is complete


def test_nothing_to_do() -> None:
    assert progress().todo(NOW) == ""
    assert progress(planned=2, cancelled=True).todo(NOW) == ""
    assert progress(planned=2, pending=Pending(running=True)).todo(NOW) == ""


def test_unsent_messages_need_another_start() -> None:
    assert progress(planned=2).todo(NOW) == "2 messages are not sent: start the campaign again."
    scheduled = replace(PROGRESS.campaign, send_at=NOW + timedelta(minutes=1))
    assert "start the campaign again" in replace(progress(planned=2), campaign=scheduled).todo(NOW)


def test_messages_whose_time_is_over_need_another_campaign() -> None:
    late = replace(progress(planned=2), campaign=replace(PROGRESS.campaign, send_at=NOW))
    assert late.todo(NOW) == "2 messages were not sent in time: send them as a new campaign."


def test_doubt_needs_a_person_unless_the_list_can_still_settle_it() -> None:
    assert progress(in_doubt=2, pending=Pending(in_doubt=2, scheduled=2)).todo(NOW) == ""
    todo = progress(in_doubt=3, pending=Pending(in_doubt=3, scheduled=2)).todo(NOW)
    assert todo.startswith("1 messages may or may not have been sent")
    assert "resolve_campaign" in todo
