"""Scheduled sends are exactly-once: what came into doubt is looked up at the gateway before its delivery time.

``sendlater/getall`` shows what waits, ``getSmsResult`` to whom. A message there that is nobody's we know of, with the
delivery time and just the recipients of a doubtful request of ours, is that request's. So the request is proven to
have arrived (its id is linked), or proven absent (its messages are planned again), or, where several texts went to
the same recipients for the same minute, what cannot be told apart is cancelled and sent again. Anything that arrives
later than that is found by the same look, up to the delivery time, and cancelled. Messages of other systems are never
touched: they match no doubtful request, or they are known not to.

Whom a recipient group reaches only the gateway knows. So a doubtful request to one can be neither recognised nor proven
absent: it stays in doubt, and what waits for the same minute is then taken for nothing else.

In the hour that comes twice when the clocks go back a list's time may mean either, so nothing is proven absent there.

Absence is believed only when the answer may not be late any more, and when several lists in a row show it that hold
all we know to be there: a list may have been cut short without anybody noticing.

The times of a list may be read wrongly, and somebody may move a message at the gateway, or the gateway send it at once.
So an id is not disbelieved for its time alone while its result names just our recipients; and until one of our ids was
seen with our time, a message for any other minute may be what is looked for.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from prefect_mymsp.errors import InDoubtError, NotSentError, RefusedError
from prefect_mymsp.journal.journal import CampaignKey, Outcome, ScheduledBatch, WatchedBatch, digits
from prefect_mymsp.journal.schema import ACCEPTED, ASSUMED, IN_DOUBT, RELEASED, SENDING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prefect_mymsp.campaign.context import CampaignContext
    from prefect_mymsp.campaign.options import ReconcileOptions
    from prefect_mymsp.models import ScheduledMessage, SmsResult

#: Lists in a row that must show a message to be absent.
_LISTS = 3
#: Lists in a row that did not come, after which it is not waited for one: a delivery time may be months ahead.
_FAILURES = 20
#: The message was sent already (4.3.5.3).
SENT_ALREADY = 351
#: A message sent so long before its id was learnt has another one's id; clocks and zones differ by less.
_OLD = timedelta(days=1)
NO_SUCH_MESSAGE = 32

#: States of a request that may be at the gateway under an id that nobody here knows.
_MAY_BE_THERE = frozenset({SENDING, IN_DOUBT, RELEASED, ASSUMED})

_Key = tuple[datetime | None, frozenset[str]]


def recipients_if_complete(result: SmsResult) -> frozenset[str] | None:
    """The recipients a result names; None when it names fewer than it counts, and so was cut short."""
    found = frozenset(digits(status.recipient) for status in result.statuses)
    return found if len(result.statuses) >= max(result.recipients, 1) else None


class Reconciler:
    """Looks at the gateway's schedule for one campaign, as often as it is asked to."""

    def __init__(
        self,
        context: CampaignContext,
        campaign: CampaignKey,
        options: ReconcileOptions,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._journal, self._thread, self._client = context.journal, context.thread, context.client
        self._campaign = campaign
        self._options = options
        self._clock = clock
        #: Recipients of messages that are not known to be ours, by id; these do not change.
        self._strangers: dict[str, frozenset[str]] = {}
        self._absent: defaultdict[int, int] = defaultdict(int)
        self._unlisted: defaultdict[int, int] = defaultdict(int)
        self._listed: set[str] = set()
        #: Doubt that no look can settle, because what is found may be a recipient group's.
        self._unclear: set[int] = set()
        self._form_known = False
        #: Whether one of our ids was seen with our time, so that times are read as the gateway means them.
        self._times_known = False
        #: Ids of a list that the gateway did not know when it was asked about them.
        self._vanished: set[str] = set()
        #: Lists in a row that did not come, and that were refused to this account.
        self._failed = self._refused = 0
        self._changes = 1
        self._seen = 0
        self._left = False
        #: Messages of ours that turned up late and have to be watched for until their delivery time.
        self.ghosts = 0
        #: When the last of ours that waits at the gateway will leave it; None when none does.
        self.last_delivery: datetime | None = None

    @property
    def pending(self) -> bool:
        """Whether further looks can still settle something."""
        return self._left or self.has_unseen_changes

    @property
    def has_unseen_changes(self) -> bool:
        """Whether the journal knows more than the last look did."""
        return self._seen != self._changes

    def journal_changed(self) -> None:
        """The journal knows more than the last look did."""
        self._changes += 1

    async def reconcile(self) -> bool:
        """One look; returns whether messages were planned again."""
        now, changes = self._clock(), self._changes
        watched = await self._thread(self._journal.doubt.watched, self._campaign, now)
        waiting = await self._thread(self._journal.schedule.batches, self._campaign, now)
        known = [one for one in watched if not one.group]
        doubts = [one for one in known if one.state == IN_DOUBT and self._in_time(one.send_at, now)]
        self.ghosts = sum(one.state == RELEASED for one in known)
        self.last_delivery = max((batch.send_at for batch in waiting.values()), default=None)
        unlisted = [message_id for message_id in waiting if message_id not in self._listed]
        self._left, self._seen = self._unsettled(doubts, waiting), changes
        if not (doubts or unlisted or self.ghosts):
            return False
        taken_at = self._clock()
        try:
            schedule = await self._client.list_scheduled()
        except (InDoubtError, NotSentError) as error:
            self._failed += 1
            self._refused = self._refused + 1 if isinstance(error, RefusedError) and error.account_wide else 0
            self._left = self._unsettled(doubts, waiting)
            return False
        self._failed = self._refused = 0
        # What was accepted before the list was taken is on it, unless its time has come meanwhile.
        soon = self._clock() + timedelta(seconds=5)
        listed = {one.message_id for one in schedule}
        complete = all(message_id in listed or batch.send_at <= soon for message_id, batch in waiting.items())
        self._check_ids(schedule, waiting)
        self._left = self._unsettled(doubts, waiting)
        released = await self._settle(schedule, complete, taken_at)
        await self._disbelieve(waiting)
        self._left = self._unsettled(doubts, waiting)
        return released

    def _unsettled(self, doubts: Sequence[WatchedBatch], waiting: dict[str, ScheduledBatch]) -> bool:
        """Whether it is worth waiting for another look: it may settle what this one has not."""
        if any(one.id not in self._unclear for one in doubts):
            return self._refused < _FAILURES
        return self._failed < _FAILURES and any(one not in self._listed for one in waiting)

    def _in_time(self, send_at: datetime, now: datetime) -> bool:
        return send_at - now > timedelta(seconds=self._options.cutoff_before_delivery_s)

    # -- are our ids ours? -------------------------------------------------------------------------------------

    def _check_ids(self, schedule: Sequence[ScheduledMessage], waiting: dict[str, ScheduledBatch]) -> None:
        times = {one.message_id: one.send_at for one in schedule}
        for message_id, batch in waiting.items():
            if message_id in self._listed:
                continue
            shown = times.get(message_id)
            if shown is not None and minute(shown) in (batch.send_at, batch.rescheduled_to):
                self._listed.add(message_id)
                self._unlisted.pop(batch.id, None)
                self._times_known = True
            else:
                self._unlisted[batch.id] += 1

    async def _disbelieve(self, waiting: dict[str, ScheduledBatch]) -> None:
        """An id that the schedule does not have with our delivery time was cut short on its way: in doubt.

        Unless its result names just our recipients: then it is ours, whatever the gateway has made of its time.
        """
        for message_id, batch in waiting.items():
            if self._unlisted.get(batch.id, 0) >= _LISTS and self._in_time(batch.send_at, self._clock()):
                ours = await self._names_ours(message_id, batch)
                if ours is None:
                    continue  # the next look asks again
                del self._unlisted[batch.id]
                if ours:
                    self._listed.add(message_id)
                    continue
                self._strangers.pop(message_id, None)
                await self._thread(self._journal.doubt.reject_message_id, batch.id, "id-not-scheduled")
                self.journal_changed()

    async def _names_ours(self, message_id: str, batch: ScheduledBatch) -> bool | None:
        """Whether an id's result names just a batch's recipients; None when the gateway does not say."""
        try:
            result = await self._client.fetch_result(message_id)
        except RefusedError as error:
            return False if error.code == NO_SUCH_MESSAGE else None
        except (InDoubtError, NotSentError):
            return None
        recipients = recipients_if_complete(result)
        if recipients is None:
            return None
        early = batch.settled_at - _OLD
        if any(status.sent_at is not None and status.sent_at < early for status in result.statuses):
            return False  # an older message to the same people
        members = await self._thread(self._journal.deliveries.recipients, [batch.id])
        return recipients == frozenset(members.get(batch.id, ()))

    # -- what became of the doubtful? --------------------------------------------------------------------------

    async def _settle(self, schedule: Sequence[ScheduledMessage], complete: bool, taken_at: datetime) -> bool:
        # The journal is read after the list was taken: what it does not know now is not an answer still on its way.
        now = self._clock()
        watched = await self._thread(self._journal.doubt.watched, self._campaign, now)
        times = {one.send_at for one in watched if one.state in {IN_DOUBT, RELEASED}}
        waiting = {one.message_id: one.send_at and minute(one.send_at) for one in schedule}
        candidates = [
            message_id
            for message_id, send_at in waiting.items()
            if send_at in times or (times and not self._times_known)
        ]
        known = await self._thread(self._journal.doubt.known_message_ids, self._campaign, candidates)
        unknown = {message_id: waiting[message_id] for message_id in candidates if message_id not in known}
        readable = await self._recipients(unknown)
        # Adopted or accepted by another run while we asked?
        known = await self._thread(self._journal.doubt.known_message_ids, self._campaign, list(unknown))
        found: defaultdict[_Key, list[str]] = defaultdict(list)
        for message_id, send_at in unknown.items():
            if message_id in self._strangers and message_id not in known:
                found[send_at, self._strangers[message_id]].append(message_id)
        groups: defaultdict[_Key, list[WatchedBatch]] = defaultdict(list)
        for one in watched:
            groups[one.send_at, one.msisdns].append(one)
        ours = set(groups)
        nameless = [one for one in watched if one.group and one.state in _MAY_BE_THERE]
        unnamed = {one.send_at for one in nameless}
        self._unclear.clear()
        released = False
        for key, group in groups.items():
            if any(one.state == SENDING or one.group for one in group):
                continue  # what is there may be theirs
            if key[0] in unnamed and found.get(key):  # or a recipient group's
                if all(one.state != SENDING for one in nameless):
                    self._unclear.update(one.id for one in group)
                continue
            doubtful = [one for one in group if one.state == IN_DOUBT]
            ghosts = [one for one in group if one.state == RELEASED]
            arrived = sorted(found.get(key, ()), key=lambda each: (len(each), each))
            texts = {one.text_id for one in (*doubtful, *ghosts)}
            if doubtful and arrived and len(texts) == 1 and len(doubtful) == 1:
                linked, *arrived = arrived
                outcome = Outcome(doubtful[0].id, ACCEPTED, now, message_id=linked)
                await self._thread(self._journal.claims.settle, [outcome])
                self._listed.add(linked)
                doubtful = []
            if arrived and (doubtful or ghosts):
                await self._cancel(arrived)
            elif doubtful and self._comes_twice(doubtful[0].send_at):
                self._unclear.update(one.id for one in doubtful)
            elif doubtful and complete and readable and await self._foreign_is_foreign(key, found, ours):
                released |= await self._absent_now(doubtful, taken_at)
        return released

    def _comes_twice(self, when: datetime) -> bool:
        """Whether a time is in the hour that comes twice in the night the clocks go back.

        A list may write times without a zone: what is there for the second of the two is read as for the first.
        """
        here = when.astimezone(self._client.zone)
        return here.replace(fold=0).utcoffset() != here.replace(fold=1).utcoffset()

    async def _recipients(self, unknown: Iterable[str]) -> bool:
        """Learn to whom unknown messages go; returns whether all of them could be read."""
        readable = True
        for message_id in unknown:
            if message_id in self._strangers:
                continue
            try:
                recipients = recipients_if_complete(await self._client.fetch_result(message_id))
            except RefusedError as error:
                # Cancelled in between, unless it is on the next list too.
                readable &= error.code == NO_SUCH_MESSAGE and message_id not in self._vanished
                self._vanished.add(message_id)
                continue
            except (InDoubtError, NotSentError):
                readable = False
                continue
            if recipients is None:
                readable = False
            else:
                self._strangers[message_id] = recipients
        return readable

    async def _foreign_is_foreign(self, key: _Key, found: dict[_Key, list[str]], ours: set[_Key]) -> bool:
        """Whether messages that match nothing of ours are surely not ours.

        They might be, in three ways: the gateway may have left some of our recipients out, or it may write numbers in a
        form we do not expect, or times. The first shows as recipients in common, the second is excluded once one
        message of ours was seen under its own numbers, the third once one was seen with its own time.
        """
        others = [who for at, who in found if at == key[0] and (at, who) not in ours]
        if any(who & key[1] for who in others):
            return False
        if not self._times_known and any(who == key[1] and (at, who) not in ours for at, who in found):
            return False
        if others and not self._form_known:
            self._form_known = await self._one_of_ours_is_recognised()
        return self._form_known or not others

    async def _one_of_ours_is_recognised(self) -> bool:
        some = await self._thread(self._journal.deliveries.open_batches, self._campaign, limit=50)
        opened = [batch for batch in some if not batch.group]
        if not opened:
            return False
        members = await self._thread(self._journal.deliveries.recipients, [opened[0].id])
        try:
            ours = frozenset(members.get(opened[0].id, ()))
            return recipients_if_complete(await self._client.fetch_result(opened[0].message_id)) == ours
        except (InDoubtError, NotSentError):
            return False

    async def _absent_now(self, doubtful: Sequence[WatchedBatch], taken_at: datetime) -> bool:
        """Count one more list without these; enough of them, late enough, and their messages are planned again."""
        gone = []
        for one in doubtful:
            late = one.settled_at is None or taken_at - one.settled_at < timedelta(seconds=self._options.late_arrival_s)
            if late or not self._in_time(one.send_at, self._clock()):
                continue
            self._absent[one.id] += 1
            if self._absent[one.id] >= _LISTS:
                gone.append(Outcome(one.id, RELEASED, self._clock(), reason="absent"))
        await self._thread(self._journal.claims.settle, gone)
        return bool(gone)

    async def _cancel(self, message_ids: Iterable[str]) -> None:
        """Take messages back; one whose cancellation is lost is still on the next list, or it is not."""
        for message_id in message_ids:
            try:
                await self._client.cancel(message_id)
            except (InDoubtError, NotSentError):
                continue


def minute(when: datetime) -> datetime:
    """The whole minute a time is in: what was asked for, where the gateway shows seconds."""
    return when.replace(second=0, microsecond=0)
