"""What to do about scheduled requests in doubt: one row a rule, as docs/delivery-guarantees.md states it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from prefect_mymsp.campaign.matching import (
    Action,
    Cancel,
    CountAbsence,
    Facts,
    LeaveInDoubt,
    Link,
    Listing,
    ListingHistory,
    Reason,
    ScheduledRequest,
    SendAgain,
    Wait,
    WaitingRequest,
    candidate_ids,
    settle_doubt,
)
from prefect_mymsp.states import ACCEPTED, ASSUMED, IN_DOUBT, RELEASED, SENDING

A, B, C = "46701740605", "46701740606", "46701740607"
ANN, BOB, BOTH = frozenset({A}), frozenset({B}), frozenset({A, B})
GROUP = frozenset({"@choir"})
OURS, OTHERS = 1, 2

NINE = datetime(2030, 1, 31, 9, 0, tzinfo=UTC)
TEN = NINE + timedelta(hours=1)
NOW = NINE - timedelta(hours=1)
#: Every response has had time to arrive.
LONG_AGO = NOW - timedelta(minutes=10)
#: In Stockholm it is half past two, for the first time.
REPEATED = datetime(2030, 10, 27, 0, 30, tzinfo=UTC)
STOCKHOLM = ZoneInfo("Europe/Stockholm")


def request(batch_id: int, recipients: frozenset[str] = ANN, **changes: Any) -> ScheduledRequest:
    """A request of our campaign in doubt, for nine o'clock."""
    defaults: dict[str, Any] = {
        "campaign_id": OURS,
        "state": IN_DOUBT,
        "text_id": 1,
        "send_at": NINE,
        "settled_at": LONG_AGO,
        "to_group": recipients == GROUP,
    }
    return ScheduledRequest(batch_id=batch_id, recipients=recipients, **(defaults | changes))


def facts(
    *requests: ScheduledRequest, unknown: dict[str, tuple[datetime, frozenset[str]]] | None = None, **changes: Any
) -> Facts:
    """A whole list that shows the messages ``unknown``, for our campaign, two lists after the doubt arose."""
    listed = unknown or {}
    defaults: dict[str, Any] = {
        "now": NOW,
        "listing": Listing(NOW, NOW, {message_id: minute for message_id, (minute, _) in listed.items()}),
        "listing_is_whole": True,
        "recipients": {message_id: recipients for message_id, (_, recipients) in listed.items()},
        "zone": STOCKHOLM,
        "absences": {1: 2, 2: 2, 3: 2},
    }
    return Facts(campaign_id=OURS, requests=requests, **(defaults | changes))


DECISIONS: list[tuple[str, Facts, list[Action]]] = [
    # -- it has arrived
    (
        "A message with the minute and just the recipients of a request in doubt is that request.",
        facts(request(1), unknown={"501": (NINE, ANN)}),
        [Link(1, "501")],
    ),
    (
        "The order of recipients does not matter, their set does.",
        facts(request(1, BOTH), unknown={"501": (NINE, frozenset({B, A}))}),
        [Link(1, "501")],
    ),
    (
        "A message that some campaign of the account has in its journal is not unknown.",
        facts(request(1), unknown={"501": (NINE, ANN)}, claimed_ids={"501"}),
        [SendAgain(1)],
    ),
    (
        "A message that is not on the list any more is not linked.",
        replace(facts(request(1)), recipients={"501": ANN}),
        [SendAgain(1)],
    ),
    (
        "Of two messages the one with the older id is linked; the other may be somebody else's and stays.",
        facts(request(1), unknown={"1000": (NINE, ANN), "999": (NINE, ANN)}),
        [Link(1, "999")],
    ),
    (
        "A list that is not whole still shows what has arrived.",
        facts(request(1), unknown={"501": (NINE, ANN)}, listing_is_whole=False, all_identified=False),
        [Link(1, "501")],
    ),
    (
        "What has arrived is linked also when its time is near, and in the hour that occurs twice.",
        facts(request(1, send_at=REPEATED), unknown={"501": (REPEATED, ANN)}, now=REPEATED - timedelta(seconds=5)),
        [Link(1, "501")],
    ),
    # -- it never arrived
    (
        "A request that three whole lists do not show, after its response could still arrive, is sent again.",
        facts(request(1)),
        [SendAgain(1)],
    ),
    ("Two lists are not enough.", facts(request(1), absences={1: 1}), [CountAbsence(1, 2)]),
    ("The first list counts as one.", facts(request(1), absences={}), [CountAbsence(1, 1)]),
    (
        "A list proves nothing while it lacks messages that must be waiting.",
        facts(request(1), listing_is_whole=False),
        [Wait(1, Reason.LIST_INCOMPLETE)],
    ),
    (
        "A list proves nothing while an unknown message on it could not be identified.",
        facts(request(1), all_identified=False),
        [Wait(1, Reason.UNIDENTIFIED_MESSAGE)],
    ),
    (
        "A request whose response could still arrive is not absent.",
        facts(request(1, settled_at=NOW - timedelta(seconds=29))),
        [Wait(1, Reason.MAY_ARRIVE_LATE, until=NOW + timedelta(seconds=1))],
    ),
    (
        "Without a time at which the doubt arose, its response could always still arrive.",
        facts(request(1, settled_at=None)),
        [Wait(1, Reason.MAY_ARRIVE_LATE)],
    ),
    (
        "A minute before its delivery time nothing is sent again.",
        facts(request(1), now=NINE - timedelta(seconds=60)),
        [LeaveInDoubt(1, Reason.PAST_CUTOFF)],
    ),
    (
        "Until then it is.",
        facts(request(1), now=NINE - timedelta(seconds=61)),
        [SendAgain(1)],
    ),
    (
        "In the hour that occurs twice when the clocks go back, a list may show either time: nothing is absent.",
        facts(request(1, send_at=REPEATED)),
        [LeaveInDoubt(1, Reason.REPEATED_HOUR)],
    ),
    # -- messages of others
    (
        "Messages to other people, for another minute, or to more people are not ours and are not touched.",
        facts(request(1), unknown={"501": (NINE, BOB), "502": (TEN, ANN), "503": (TEN, BOTH)}),
        [SendAgain(1)],
    ),
    (
        "A message for the same minute with some of the recipients may be ours: the gateway may have left some out.",
        facts(request(1, BOTH), unknown={"501": (NINE, ANN)}),
        [Wait(1, Reason.RECIPIENTS_OVERLAP)],
    ),
    (
        "One with more recipients may be ours too.",
        facts(request(1), unknown={"501": (NINE, BOTH)}),
        [Wait(1, Reason.RECIPIENTS_OVERLAP)],
    ),
    (
        "While times may be read wrongly, a message to just the recipients may be ours whatever its time.",
        facts(request(1), unknown={"501": (TEN, ANN)}, times_verified=False),
        [Wait(1, Reason.TIMES_UNVERIFIED)],
    ),
    (
        "A message to other people proves nothing about times.",
        facts(request(1), unknown={"501": (TEN, BOB)}, times_verified=False),
        [SendAgain(1)],
    ),
    (
        "While numbers may be read wrongly, any unknown message for the same minute may be ours.",
        facts(request(1), unknown={"501": (NINE, BOB)}, numbers_verified=False),
        [Wait(1, Reason.NUMBERS_UNVERIFIED)],
    ),
    (
        "Without such a message the form of numbers does not matter.",
        facts(request(1), unknown={"501": (TEN, BOB)}, numbers_verified=False),
        [SendAgain(1)],
    ),
    (
        "A message for a pair of our own does not count as somebody else's.",
        facts(request(1, BOTH), request(2, ANN, state=ASSUMED), unknown={"501": (NINE, ANN)}, numbers_verified=False),
        [SendAgain(1)],
    ),
    # -- several requests with one pair
    (
        "Several texts to the same person for the same minute cannot be told apart: what arrived is cancelled.",
        facts(request(1, text_id=1), request(2, text_id=2), unknown={"501": (NINE, ANN)}),
        [Wait(1, Reason.CANCELLED_TO_SEND_AGAIN), Wait(2, Reason.CANCELLED_TO_SEND_AGAIN), Cancel("501")],
    ),
    (
        "When none of them is listed any more, all of them are sent again.",
        facts(request(1, text_id=1), request(2, text_id=2)),
        [SendAgain(1), SendAgain(2)],
    ),
    (
        "Two requests in doubt with one text are cancelled and sent again as well.",
        facts(request(1), request(2), unknown={"501": (NINE, ANN), "502": (NINE, ANN)}),
        [
            Wait(1, Reason.CANCELLED_TO_SEND_AGAIN),
            Wait(2, Reason.CANCELLED_TO_SEND_AGAIN),
            Cancel("501"),
            Cancel("502"),
        ],
    ),
    (
        "While a request with the same pair is being made, what is listed may be that one.",
        facts(request(1), request(2, state=SENDING), unknown={"501": (NINE, ANN)}),
        [Wait(1, Reason.REQUEST_IN_FLIGHT)],
    ),
    (
        "A request for another minute does not matter.",
        facts(request(1), request(2, state=SENDING, send_at=TEN), unknown={"501": (NINE, ANN)}),
        [Link(1, "501")],
    ),
    # -- late arrivals
    (
        "What arrives after its messages were sent again is cancelled.",
        facts(request(1, state=RELEASED), unknown={"501": (NINE, ANN)}),
        [Cancel("501")],
    ),
    (
        "Sent again, in doubt again, and one message is there: it is linked.",
        facts(request(1, state=RELEASED), request(2), unknown={"501": (NINE, ANN)}),
        [Link(2, "501")],
    ),
    (
        "If both are there, the later one is cancelled.",
        facts(request(1, state=RELEASED), request(2), unknown={"501": (NINE, ANN), "502": (NINE, ANN)}),
        [Link(2, "501"), Cancel("502")],
    ),
    (
        "If the released request had another text, what is there may be either: it is cancelled.",
        facts(request(1, state=RELEASED, text_id=2), request(2), unknown={"501": (NINE, ANN)}),
        [Wait(2, Reason.CANCELLED_TO_SEND_AGAIN), Cancel("501")],
    ),
    ("A released request that is not listed needs nothing.", facts(request(1, state=RELEASED)), []),
    (
        "What a person assumed to be sent is neither linked nor cancelled.",
        facts(request(1, state=ASSUMED), unknown={"501": (NINE, ANN)}),
        [],
    ),
    # -- recipient groups
    (
        "A request to a group stays in doubt: its members are known to the gateway only.",
        facts(request(1, GROUP), unknown={"501": (NINE, BOTH)}),
        [LeaveInDoubt(1, Reason.GROUP_MEMBERS_UNKNOWN)],
    ),
    (
        "Beside a group in doubt for the same minute, what is listed may be the group's.",
        facts(request(1), request(2, GROUP), unknown={"501": (NINE, ANN)}),
        [LeaveInDoubt(1, Reason.MAY_BE_THE_GROUPS), LeaveInDoubt(2, Reason.GROUP_MEMBERS_UNKNOWN)],
    ),
    (
        "So it may if the group's request was released, or assumed to be sent.",
        facts(
            request(1),
            request(2, GROUP, state=RELEASED),
            request(3, GROUP, state=ASSUMED),
            unknown={"501": (NINE, ANN)},
        ),
        [LeaveInDoubt(1, Reason.MAY_BE_THE_GROUPS)],
    ),
    (
        "While the group's request is being made, the next list may show more.",
        facts(request(1), request(2, GROUP, state=SENDING), unknown={"501": (NINE, ANN)}),
        [Wait(1, Reason.REQUEST_IN_FLIGHT)],
    ),
    (
        "A group whose id is known, or for another minute, is not in the way.",
        facts(
            request(1),
            request(2, GROUP, state=ACCEPTED),
            request(3, GROUP, send_at=TEN),
            unknown={"501": (NINE, ANN)},
        ),
        [Link(1, "501"), LeaveInDoubt(3, Reason.GROUP_MEMBERS_UNKNOWN)],
    ),
    (
        "Absence is proven beside a group in doubt when nothing is listed for the request.",
        facts(request(1), request(2, GROUP)),
        [SendAgain(1), LeaveInDoubt(2, Reason.GROUP_MEMBERS_UNKNOWN)],
    ),
    # -- other campaigns
    (
        "Doubt of another campaign is settled when that campaign is reconciled.",
        facts(request(1, campaign_id=OTHERS), unknown={"501": (NINE, ANN)}),
        [],
    ),
]


@pytest.mark.parametrize(
    ("known", "actions"), [pytest.param(known, actions, id=rule) for rule, known, actions in DECISIONS]
)
def test_decision(known: Facts, actions: list[Action]) -> None:
    assert sorted(map(repr, settle_doubt(known))) == sorted(map(repr, actions))


def test_every_reason_occurs_in_the_table() -> None:
    used = {
        action.reason for _, _, actions in DECISIONS for action in actions if isinstance(action, Wait | LeaveInDoubt)
    }
    assert used == set(Reason)


def test_links_come_first_and_cancellations_last() -> None:
    known = facts(
        request(1, BOB, state=RELEASED), request(2, BOTH), request(3), unknown={"501": (NINE, BOB), "502": (NINE, ANN)}
    )
    assert settle_doubt(known) == [Link(3, "502"), SendAgain(2), Cancel("501")]


@pytest.mark.parametrize("state", [SENDING, ACCEPTED, ASSUMED])
def test_a_list_is_searched_only_for_requests_in_doubt_or_released(state: str) -> None:
    listing = Listing(NOW, NOW, {"501": NINE, "502": TEN, "503": None})
    assert candidate_ids([request(1, state=state)], listing, times_verified=False) == []
    assert candidate_ids([request(1)], listing, times_verified=True) == ["501"]
    assert candidate_ids([request(1, state=RELEASED)], listing, times_verified=False) == ["501", "502", "503"]


# -- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "listed", "send_at", "whole"),
    [
        ("A list that shows everything that waits is whole.", ["501", "502"], NINE, True),
        ("A list that lacks something that waits is not.", ["501"], NINE, False),
        ("What is due within seconds may have left.", ["501"], NOW + timedelta(seconds=5), True),
        ("What is due later may not.", ["501"], NOW + timedelta(seconds=6), False),
    ],
)
def test_whole_lists(rule: str, listed: list[str], send_at: datetime, whole: bool) -> None:
    waiting = [WaitingRequest(1, "501", NINE, LONG_AGO), WaitingRequest(2, "502", send_at, LONG_AGO)]
    assert Listing(NOW, NOW, dict.fromkeys(listed, NINE)).is_whole(waiting) == whole, rule


CUTOFF = timedelta(seconds=60)
WAITING = WaitingRequest(1, "501", NINE, LONG_AGO)


def shown(*listings: dict[str, datetime | None]) -> ListingHistory:
    """The history after some lists, with one request waiting at nine o'clock."""
    history = ListingHistory()
    for minutes in listings:
        history.record(Listing(NOW, NOW, minutes), [WAITING])
    return history


def test_an_id_that_is_listed_with_our_time_is_ours() -> None:
    history = shown({"501": NINE})
    assert history.confirmed_ids == {"501"}
    assert history.times_verified
    assert not history.needs_another_list([], [WAITING])


def test_an_id_that_is_being_rescheduled_may_be_listed_with_either_time() -> None:
    for minute in (NINE, TEN):
        history = ListingHistory()
        history.record(Listing(NOW, NOW, {"501": minute}), [replace(WAITING, rescheduled_to=TEN)])
        assert history.confirmed_ids == {"501"}


@pytest.mark.parametrize("minutes", [{}, {"501": TEN}, {"501": None}], ids=["missing", "another time", "no time"])
def test_an_id_is_doubted_when_three_lists_do_not_show_it_with_our_time(minutes: dict[str, datetime | None]) -> None:
    assert shown(minutes, minutes).doubted_ids([WAITING], NOW, CUTOFF) == []
    history = shown(minutes, minutes, minutes)
    assert not history.times_verified
    assert history.doubted_ids([WAITING], NOW, CUTOFF) == [WAITING]
    assert history.doubted_ids([WAITING], NINE - CUTOFF, CUTOFF) == []  # nothing could be done about it
    history.confirm(WAITING)
    assert history.doubted_ids([WAITING], NOW, CUTOFF) == []


def test_a_rejected_id_is_counted_anew() -> None:
    history = shown({}, {}, {})
    history.reject(WAITING)
    assert history.doubted_ids([WAITING], NOW, CUTOFF) == []
    assert history.confirmed_ids == set()


def test_doubt_needs_another_list_until_the_account_is_refused_twenty_times_in_a_row() -> None:
    history = ListingHistory()
    for _ in range(50):
        history.record_failure(refused=False)
    assert history.needs_another_list([1], [])
    for _ in range(20):
        assert history.needs_another_list([1], [])
        history.record_failure(refused=True)
    assert not history.needs_another_list([1], [])
    history.record(Listing(NOW, NOW, {}), [])
    assert history.needs_another_list([1], [])


def test_without_doubt_a_list_is_not_waited_for_longer_than_twenty_failures() -> None:
    history = ListingHistory()
    for _ in range(20):
        assert history.needs_another_list([], [WAITING])
        history.record_failure(refused=False)
    assert not history.needs_another_list([], [WAITING])


def test_doubt_that_no_list_can_settle_needs_none() -> None:
    history = ListingHistory()
    history.record_actions([LeaveInDoubt(1, Reason.REPEATED_HOUR), Wait(2, Reason.REQUEST_IN_FLIGHT)])
    assert not history.needs_another_list([1], [])
    assert history.needs_another_list([1, 2], [])
    history.record_actions([])
    assert history.needs_another_list([1], [])


def test_absences_add_up_over_lists_and_links_are_confirmed() -> None:
    history = ListingHistory()
    for expected in ([CountAbsence(1, 1)], [CountAbsence(1, 2)], [SendAgain(1)]):
        actions = settle_doubt(facts(request(1), absences=history.absences))
        assert actions == expected
        history.record_actions(actions)
    history.record_actions([Link(1, "501")])
    assert history.confirmed_ids == {"501"}
