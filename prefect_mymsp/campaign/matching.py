"""Decisions about requests in doubt that have a delivery time: facts in, actions out, no I/O.

``sendlater/getall`` lists the messages that wait at the gateway, ``getSmsResult`` names their recipients. Neither shows
the text or the sender of the request. So a waiting message is recognised by its *pair*, the delivery minute and the set
of recipients. A message that no campaign of the account has claimed, and whose pair is that of a request in doubt, is
that request.

Three rules keep this safe:

- A request is absent only if :data:`REQUIRED_LISTS` whole lists do not show it, all of them taken after its response
  could still arrive. One list may have been cut short without a trace.
- Nothing is absent while an unknown message might be the request in a form that is read wrongly: another time, another
  form of the numbers, fewer recipients.
- A recipient group's members are stored at the gateway only. A request to a group is never recognised and never absent,
  and unknown messages for its minute are not matched with anything else.

The functions take the requests of all campaigns of an account. They settle the requests of one campaign; of the others
they use the message ids only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from prefect_mymsp.states import ASSUMED, IN_DOUBT, RELEASED, SENDING
from prefect_mymsp.times import is_repeated_hour

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import tzinfo

#: Lists that must show a request to be absent, or a message id to be unknown, before either counts as proven.
REQUIRED_LISTS = 3
#: Failures in a row after which a list is no longer waited for. A delivery time may be months ahead.
MAX_FAILED_LISTS = 20
#: A message this close to its delivery time may be missing from a whole list, because it was just sent.
_DEPARTURE = timedelta(seconds=5)

#: States of a request that may wait at the gateway under an id that the journal does not have.
_MAY_WAIT_UNKNOWN = frozenset({SENDING, IN_DOUBT, RELEASED, ASSUMED})


# -- facts -----------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """The identity of a waiting message: its delivery minute and its recipients.

    Attributes:
        minute: The delivery minute, aware; None when the gateway gives no time.
        recipients: MSISDNs in the gateway's form.
    """

    minute: datetime | None
    recipients: frozenset[str]


@dataclass(frozen=True, slots=True)
class ScheduledRequest:
    """A request with a delivery time, of any campaign of the account, that is or was in doubt or is being made.

    Attributes:
        batch_id: Its number in the journal.
        campaign_id: The campaign it belongs to.
        state: Its state in the journal.
        text_id: The number of its text in the journal.
        send_at: The requested delivery minute, aware.
        recipients: MSISDNs, or the name of one recipient group.
        settled_at: When it came into this state, aware; None if it is still in its first one.
        to_group: Whether it is for a recipient group.
    """

    batch_id: int
    campaign_id: int
    state: str
    text_id: int
    send_at: datetime
    recipients: frozenset[str] = field(repr=False)
    settled_at: datetime | None = None
    to_group: bool = False

    @property
    def pair(self) -> Pair:
        """Its identity in the gateway's list."""
        return Pair(self.send_at, self.recipients)


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A request that the gateway accepted under an id, and whose delivery time is ahead.

    Attributes:
        batch_id: Its number in the journal.
        message_id: The gateway's message id.
        send_at: The requested delivery minute, aware.
        accepted_at: When the message id was received, aware.
        rescheduled_to: The minute it is being moved to: either may be listed. None when it is not being moved.
    """

    batch_id: int
    message_id: str
    send_at: datetime
    accepted_at: datetime
    rescheduled_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One response of ``sendlater/getall``.

    Attributes:
        requested_at: When it was requested, aware.
        received_at: When it had arrived, aware.
        minutes: The delivery minute of each message id; None where the gateway gives no time.
    """

    requested_at: datetime
    received_at: datetime
    minutes: Mapping[str, datetime | None]

    def is_whole(self, waiting: Iterable[WaitingRequest]) -> bool:
        """Whether it shows every message that must be waiting, except those that are due.

        Args:
            waiting: Requests that were accepted before the list was requested.
        """
        departing = self.received_at + _DEPARTURE
        return all(request.message_id in self.minutes or request.send_at <= departing for request in waiting)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about an account's scheduled requests at one moment.

    Attributes:
        now: The moment, aware.
        campaign_id: The campaign whose doubt is to be settled.
        requests: Requests that are or were in doubt, or are being made, and whose delivery time is ahead.
        listing: The latest list. The requests were read from the journal after it.
        listing_is_whole: Whether it shows every message that must be waiting.
        claimed_ids: Message ids that a campaign of the account has in the journal.
        recipients: Recipients of waiting messages that no campaign has, by message id, as their results name them.
        all_identified: Whether the results of all unknown messages that matter could be read.
        absences: For how many lists each request has been absent so far, by batch number.
        times_verified: Whether a message of ours was listed with our time, so that times are read correctly.
        numbers_verified: Whether a result named a request's recipients as we write them.
        zone: The time zone of times that the gateway writes without one.
        late_arrival: How long after a response was lost its request may still arrive.
        cutoff: How long before the delivery time nothing is sent again any more.
    """

    now: datetime
    campaign_id: int
    requests: Sequence[ScheduledRequest]
    listing: Listing
    listing_is_whole: bool
    zone: tzinfo
    claimed_ids: Collection[str] = frozenset()
    recipients: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)
    all_identified: bool = True
    absences: Mapping[int, int] = field(default_factory=dict)
    times_verified: bool = True
    numbers_verified: bool = True
    late_arrival: timedelta = timedelta(seconds=30)
    cutoff: timedelta = timedelta(seconds=60)


# -- actions ---------------------------------------------------------------------------------------------------------


class Reason(StrEnum):
    """Why a request stays in doubt for now, or for good."""

    REQUEST_IN_FLIGHT = "a request to the same recipients for the same minute is being made"
    CANCELLED_TO_SEND_AGAIN = "its messages cannot be distinguished and are cancelled; the next list must show that"
    LIST_INCOMPLETE = "the list lacks messages that must be waiting"
    UNIDENTIFIED_MESSAGE = "the recipients of an unknown message could not be read"
    RECIPIENTS_OVERLAP = "an unknown message for the same minute has some of its recipients"
    TIMES_UNVERIFIED = "an unknown message to its recipients has another time, and times may be read wrongly"
    NUMBERS_UNVERIFIED = "unknown messages for the same minute may name its recipients in another form"
    MAY_ARRIVE_LATE = "it may still arrive"
    PAST_CUTOFF = "it is too close to its delivery time to send again"
    GROUP_MEMBERS_UNKNOWN = "the members of a recipient group are unknown"
    MAY_BE_THE_GROUPS = "what waits for it may be a recipient group's message"
    REPEATED_HOUR = "its time occurs twice when the clocks go back, so the list may show either"


@dataclass(frozen=True, slots=True)
class Link:
    """The request has arrived: record it as accepted under this id."""

    batch_id: int
    message_id: str


@dataclass(frozen=True, slots=True)
class SendAgain:
    """The request never arrived: release its messages, so that they are planned again."""

    batch_id: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel this message at the gateway. The next list shows whether that worked."""

    message_id: str


@dataclass(frozen=True, slots=True)
class CountAbsence:
    """This list does not show the request; so many lists in all have not shown it."""

    batch_id: int
    lists: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be decided yet; the next list may settle it, but not before ``until`` if that is set."""

    batch_id: int
    reason: Reason
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class LeaveInDoubt:
    """No list can settle the request. It stays in doubt until a person decides, or other evidence turns up."""

    batch_id: int
    reason: Reason


Action = Link | SendAgain | Cancel | CountAbsence | Wait | LeaveInDoubt


# -- decisions -------------------------------------------------------------------------------------------------------


def candidate_ids(requests: Iterable[ScheduledRequest], listing: Listing, *, times_verified: bool) -> list[str]:
    """Listed messages that may be a request in doubt, or one that was released and arrived late after all.

    Until a message was listed with its requested time, this includes messages of any time.
    """
    minutes = {request.send_at for request in requests if request.state in {IN_DOUBT, RELEASED}}
    if not minutes:
        return []
    return [message_id for message_id, minute in listing.minutes.items() if minute in minutes or not times_verified]


def settle_doubt(facts: Facts) -> list[Action]:
    """Decide what to do about each request in doubt of a campaign, and about its late arrivals.

    Args:
        facts: The facts at this moment.

    Returns:
        For each request in doubt one action, and cancellations of messages that must not be sent. Links come first,
        cancellations last. With :attr:`Reason.NUMBERS_UNVERIFIED` among the reasons, verifying the form of numbers may
        decide more.
    """
    matcher = _Matcher(facts)
    actions = [action for pair, requests in matcher.own.items() for action in matcher.settle(pair, requests)]
    return sorted(actions, key=lambda action: (isinstance(action, Cancel), not isinstance(action, Link)))


class _Matcher:
    """Facts in the form that the rules need: requests and unknown messages by pair."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.own: defaultdict[Pair, list[ScheduledRequest]] = defaultdict(list)
        for request in facts.requests:
            if request.campaign_id == facts.campaign_id:
                self.own[request.pair].append(request)
        self._unknown: defaultdict[Pair, list[str]] = defaultdict(list)
        for message_id, recipients in facts.recipients.items():
            if message_id in facts.listing.minutes and message_id not in facts.claimed_ids:
                self._unknown[Pair(facts.listing.minutes[message_id], recipients)].append(message_id)
        self._group_requests = [
            request
            for requests in self.own.values()
            for request in requests
            if request.to_group and request.state in _MAY_WAIT_UNKNOWN
        ]

    def settle(self, pair: Pair, requests: Sequence[ScheduledRequest]) -> list[Action]:
        """Decide about the requests that have one pair."""
        doubtful = [request for request in requests if request.state == IN_DOUBT]
        released = [request for request in requests if request.state == RELEASED]
        # Ids grow with time in all observations: the shortest, then smallest, is the oldest.
        arrived = sorted(self._unknown.get(pair, ()), key=lambda message_id: (len(message_id), message_id))
        if any(request.to_group for request in requests):
            return _leave(doubtful, Reason.GROUP_MEMBERS_UNKNOWN)
        if any(request.state == SENDING for request in requests):
            return _wait(doubtful, Reason.REQUEST_IN_FLIGHT)
        if arrived and any(request.send_at == pair.minute for request in self._group_requests):
            if any(request.state == SENDING for request in self._group_requests):
                return _wait(doubtful, Reason.REQUEST_IN_FLIGHT)
            return _leave(doubtful, Reason.MAY_BE_THE_GROUPS)

        actions: list[Action] = []
        if arrived and len(doubtful) == 1 and len({request.text_id for request in (*doubtful, *released)}) == 1:
            actions.append(Link(doubtful[0].batch_id, arrived.pop(0)))
            doubtful = []
        if arrived and (doubtful or released):
            actions += _wait(doubtful, Reason.CANCELLED_TO_SEND_AGAIN)
            actions += [Cancel(message_id) for message_id in arrived]
        elif doubtful and is_repeated_hour(doubtful[0].send_at, self._facts.zone):
            actions += _leave(doubtful, Reason.REPEATED_HOUR)
        elif (reason := self._obstacle(pair)) is not None:
            actions += _wait(doubtful, reason)
        else:
            actions += [self._absent(request) for request in doubtful]
        return actions

    def _obstacle(self, pair: Pair) -> Reason | None:
        """Why a list that does not show a pair does not prove that it is absent; None when it does."""
        facts = self._facts
        if not facts.listing_is_whole:
            return Reason.LIST_INCOMPLETE
        if not facts.all_identified:
            return Reason.UNIDENTIFIED_MESSAGE
        foreign = [unknown for unknown in self._unknown if unknown not in self.own]
        same_minute = [unknown for unknown in foreign if unknown.minute == pair.minute]
        if any(unknown.recipients & pair.recipients for unknown in same_minute):
            return Reason.RECIPIENTS_OVERLAP
        if not facts.times_verified and any(unknown.recipients == pair.recipients for unknown in foreign):
            return Reason.TIMES_UNVERIFIED
        if same_minute and not facts.numbers_verified:
            return Reason.NUMBERS_UNVERIFIED
        return None

    def _absent(self, request: ScheduledRequest) -> Action:
        """Decide about a request that the list does not show."""
        facts = self._facts
        if request.settled_at is None or facts.listing.requested_at - request.settled_at < facts.late_arrival:
            until = None if request.settled_at is None else request.settled_at + facts.late_arrival
            return Wait(request.batch_id, Reason.MAY_ARRIVE_LATE, until)
        if not is_in_time(request.send_at, facts.now, facts.cutoff):
            return LeaveInDoubt(request.batch_id, Reason.PAST_CUTOFF)
        lists = facts.absences.get(request.batch_id, 0) + 1
        return SendAgain(request.batch_id) if lists >= REQUIRED_LISTS else CountAbsence(request.batch_id, lists)


def _wait(requests: Iterable[ScheduledRequest], reason: Reason) -> list[Action]:
    return [Wait(request.batch_id, reason) for request in requests]


def _leave(requests: Iterable[ScheduledRequest], reason: Reason) -> list[Action]:
    return [LeaveInDoubt(request.batch_id, reason) for request in requests]


def is_in_time(send_at: datetime, now: datetime, cutoff: timedelta) -> bool:
    """Whether there is time to send a message again before its delivery time."""
    return send_at - now > cutoff


# -- memory ----------------------------------------------------------------------------------------------------------


class ListingHistory:
    """The history of one campaign's requests in the lists so far. It makes no calls.

    Attributes:
        confirmed_ids: Ids that were listed with our time, linked by a list, or confirmed by their result.
        times_verified: See :class:`Facts`.
        numbers_verified: See :class:`Facts`.
        absences: See :class:`Facts`.
    """

    def __init__(self) -> None:
        self.confirmed_ids: set[str] = set()
        self.times_verified = False
        self.numbers_verified = False
        self.absences: dict[int, int] = {}
        self._missing: Counter[int] = Counter()
        self._unsettleable: set[int] = set()
        self._failures = self._refusals = 0

    def record_failure(self, *, refused: bool) -> None:
        """Record that a list could not be fetched; ``refused`` if the gateway refuses the account."""
        self._failures += 1
        self._refusals = self._refusals + 1 if refused else 0

    def record(self, listing: Listing, waiting: Iterable[WaitingRequest]) -> None:
        """Record a list: the ids that it shows with our time."""
        self._failures = self._refusals = 0
        for request in waiting:
            if request.message_id in self.confirmed_ids:
                continue
            minute = listing.minutes.get(request.message_id)
            if minute is not None and minute in (request.send_at, request.rescheduled_to):
                self.confirm(request)
                self.times_verified = True
            else:
                self._missing[request.batch_id] += 1

    def doubted_ids(self, waiting: Iterable[WaitingRequest], now: datetime, cutoff: timedelta) -> list[WaitingRequest]:
        """Ids that too many lists did not show with our time. Their results decide whether they are ours.

        A truncated id belongs to another message, or to none.
        """
        return [
            request
            for request in waiting
            if self._missing[request.batch_id] >= REQUIRED_LISTS and is_in_time(request.send_at, now, cutoff)
        ]

    def confirm(self, request: WaitingRequest) -> None:
        """An id is ours."""
        self.confirmed_ids.add(request.message_id)
        self._missing.pop(request.batch_id, None)

    def reject(self, request: WaitingRequest) -> None:
        """An id is not ours; the request comes into doubt."""
        self._missing.pop(request.batch_id, None)

    def record_actions(self, actions: Iterable[Action]) -> None:
        """Record the actions, for the decisions after the next list."""
        self._unsettleable.clear()
        for action in actions:
            if isinstance(action, CountAbsence):
                self.absences[action.batch_id] = action.lists
            elif isinstance(action, LeaveInDoubt):
                self._unsettleable.add(action.batch_id)
            elif isinstance(action, Link):
                self.confirmed_ids.add(action.message_id)

    def needs_another_list(self, doubtful: Iterable[int], waiting: Iterable[WaitingRequest]) -> bool:
        """Whether another list may settle something.

        Args:
            doubtful: Requests in doubt that may still be sent again, by batch number; without those to groups.
            waiting: Requests that wait at the gateway.
        """
        if any(batch_id not in self._unsettleable for batch_id in doubtful):
            return self._refusals < MAX_FAILED_LISTS
        unconfirmed = any(request.message_id not in self.confirmed_ids for request in waiting)
        return unconfirmed and self._failures < MAX_FAILED_LISTS
