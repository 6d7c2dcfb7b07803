"""What a result proves about a request: one row a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from prefect_mymsp.campaign.evidence import (
    Finding,
    correct_repeated_hour,
    examine_refusal,
    examine_result,
    find_owner,
    is_listed_under,
    recipients_if_complete,
)
from prefect_mymsp.journal import CandidateBatch, OpenBatch
from prefect_mymsp.models import RecipientStatus, SmsResult
from prefect_mymsp.protocol import ARCHIVED, NO_SUCH_MESSAGE
from prefect_mymsp.states import ACCEPTED, IN_DOUBT, SENDING

A, B = "46701740605", "46701740606"
NOW = datetime(2030, 1, 31, 9, 0, tzinfo=UTC)
STOCKHOLM = ZoneInfo("Europe/Stockholm")
#: A request of which no result was seen yet.
NEW = OpenBatch(1, "501", NOW, NOW, confirmed=False, group=False, due_at=NOW)
CONFIRMED = replace(NEW, confirmed=True)
GROUP = replace(NEW, group=True)


def result(*recipients: str, count: int | None = None, sent_at: datetime | None = NOW) -> SmsResult:
    """A result that names these recipients and counts ``count``."""
    statuses = [RecipientStatus(recipient, sent_at, "delivered", sent_at) for recipient in recipients]
    return SmsResult("501", len(recipients) if count is None else count, 0, 0, statuses)


@pytest.mark.parametrize(
    ("response", "recipients"),
    [
        (result(A, B), {A, B}),
        (result("+46 70-174 06 05"), {A}),
        (result(A, count=2), None),
        (result(count=0), None),
        (result(), None),
    ],
    ids=["complete", "other form of the number", "fewer than counted", "none", "none counted"],
)
def test_recipients_of_a_complete_result(response: SmsResult, recipients: set[str] | None) -> None:
    assert recipients_if_complete(response) == recipients


LONG_BEFORE = NOW - timedelta(hours=1, seconds=1)

RESULTS: list[tuple[str, OpenBatch, SmsResult, set[str] | None, Finding]] = [
    ("A result with just the recipients confirms the id.", NEW, result(A), {A}, Finding.CONFIRMS_ID),
    ("Other recipients: the id is another message's.", NEW, result(B), {A}, Finding.OTHER_MESSAGE),
    ("One recipient more: likewise.", NEW, result(A, B), {A}, Finding.OTHER_MESSAGE),
    ("One recipient less: likewise.", NEW, result(A), {A, B}, Finding.OTHER_MESSAGE),
    (
        "Sent long before the request was made: an older message to the same recipients.",
        NEW,
        result(A, sent_at=LONG_BEFORE),
        {A},
        Finding.OTHER_MESSAGE,
    ),
    (
        "Sent an hour before: clocks may differ by that.",
        NEW,
        result(A, sent_at=NOW - timedelta(hours=1)),
        {A},
        Finding.CONFIRMS_ID,
    ),
    ("Not sent yet: the recipients decide.", NEW, result(A, sent_at=None), {A}, Finding.CONFIRMS_ID),
    ("A result that was cut short proves nothing.", NEW, result(A, count=2), {A}, Finding.INCOMPLETE),
    (
        "Once the id is confirmed, each status counts, also of a result that was cut short.",
        CONFIRMED,
        result(A, count=2),
        None,
        Finding.STATUSES,
    ),
    ("A confirmed id is not doubted again.", CONFIRMED, result(B), None, Finding.STATUSES),
    ("Without the recipients (they were purged) there is nothing to compare.", NEW, result(A), None, Finding.STATUSES),
    (
        "A group's members are unknown: a complete result confirms its id.",
        GROUP,
        result(A, B),
        None,
        Finding.CONFIRMS_ID,
    ),
    (
        "An older message is not the group's.",
        GROUP,
        result(A, sent_at=LONG_BEFORE),
        None,
        Finding.OTHER_MESSAGE,
    ),
    (
        "A group's counts need a complete result, also later.",
        replace(GROUP, confirmed=True),
        result(A, count=2),
        None,
        Finding.INCOMPLETE,
    ),
]


@pytest.mark.parametrize(
    ("request_", "response", "recipients", "finding"),
    [pytest.param(*row[1:], id=row[0]) for row in RESULTS],
)
def test_result(request_: OpenBatch, response: SmsResult, recipients: set[str] | None, finding: Finding) -> None:
    evidence = examine_result(request_, response, recipients, STOCKHOLM)
    assert evidence.finding is finding
    assert bool(evidence.statuses) == (finding in {Finding.CONFIRMS_ID, Finding.STATUSES})


LATER = timedelta(seconds=6)

REFUSALS: list[tuple[str, OpenBatch, int, timedelta, Finding]] = [
    ("An archived message is final.", CONFIRMED, ARCHIVED, LATER, Finding.ARCHIVED),
    ("An id that the gateway does not have was cut short.", NEW, NO_SUCH_MESSAGE, LATER, Finding.UNKNOWN_ID),
    ("The gateway may need a moment to register an id.", NEW, NO_SUCH_MESSAGE, timedelta(seconds=5), Finding.NOTHING),
    ("A confirmed id stays ours.", CONFIRMED, NO_SUCH_MESSAGE, LATER, Finding.NOTHING),
    ("Other refusals say nothing about the request.", NEW, 38, LATER, Finding.NOTHING),
]


@pytest.mark.parametrize(
    ("request_", "code", "age", "finding"), [pytest.param(*row[1:], id=row[0]) for row in REFUSALS]
)
def test_refusal(request_: OpenBatch, code: int, age: timedelta, finding: Finding) -> None:
    assert examine_refusal(request_, code, NOW + age).finding is finding


@pytest.mark.parametrize(
    ("rule", "response", "ours"),
    [
        ("Just our recipients: it is ours, whatever its time.", result(A), True),
        ("Not sent yet: likewise.", result(A, sent_at=None), True),
        (
            "Sent up to a day before: times may be read in the wrong zone.",
            result(A, sent_at=NOW - timedelta(days=1)),
            True,
        ),
        ("Sent earlier: an older message.", result(A, sent_at=NOW - timedelta(days=1, seconds=1)), False),
        ("Other recipients: not ours.", result(A, B), False),
        ("Cut short: not known.", result(A, count=2), None),
    ],
)
def test_an_id_that_the_schedule_does_not_show(rule: str, response: SmsResult, ours: bool | None) -> None:
    assert is_listed_under(response, {A}, NOW) is ours, rule


def candidate(batch_id: int, *msisdns: str, state: str = IN_DOUBT) -> CandidateBatch:
    """A request of some campaign that names one of the result's recipients."""
    return CandidateBatch(replace(NEW, id=batch_id, message_id=""), 1, state, frozenset(msisdns))


OWNERS: list[tuple[str, SmsResult, Sequence[CandidateBatch], bool, int | None]] = [
    ("The only request in doubt to just these recipients is the owner.", result(A), [candidate(1, A)], False, 1),
    ("Other requests that name a recipient do not matter.", result(A), [candidate(1, A), candidate(2, A, B)], False, 1),
    ("Of two that fit, neither is known to be it.", result(A), [candidate(1, A), candidate(2, A)], False, None),
    ("More recipients than the result: not it.", result(A), [candidate(1, A, B)], False, None),
    ("A request that is being made is not in doubt yet.", result(A), [candidate(1, A, state=SENDING)], False, None),
    ("An accepted request has its id.", result(A), [candidate(1, A, state=ACCEPTED)], False, None),
    ("Beside a group in doubt, the message may be the group's.", result(A), [candidate(1, A)], True, None),
    ("An older message is nobody's.", result(A, sent_at=LONG_BEFORE), [candidate(1, A)], False, None),
]


@pytest.mark.parametrize(
    ("response", "candidates", "group_in_doubt", "owner"), [pytest.param(*row[1:], id=row[0]) for row in OWNERS]
)
def test_owner_of_an_unknown_id(
    response: SmsResult, candidates: Sequence[CandidateBatch], group_in_doubt: bool, owner: int | None
) -> None:
    batch = find_owner(response, candidates, STOCKHOLM, group_in_doubt=group_in_doubt)
    assert (None if batch is None else batch.batch.id) == owner


def test_in_the_repeated_hour_the_second_of_two_times_is_taken_where_the_first_cannot_be() -> None:
    first = datetime(2030, 10, 27, 0, 30, tzinfo=UTC)
    second = first + timedelta(hours=1)
    minute = timedelta(minutes=1)
    # The gateway writes 02:30 and 02:31, which is read as the first time.
    statuses = [RecipientStatus(A, first, "delivered", first + minute), RecipientStatus(B, None, "undelivered", None)]
    assert correct_repeated_hour(statuses, first, STOCKHOLM) is statuses
    assert list(correct_repeated_hour(statuses, second, STOCKHOLM)) == [
        RecipientStatus(A, second, "delivered", second + minute),
        RecipientStatus(B, None, "undelivered", None),
    ]
    # Half an hour early is within the tolerance of clocks.
    assert correct_repeated_hour(statuses, first + timedelta(minutes=30), STOCKHOLM) is statuses
