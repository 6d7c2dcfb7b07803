"""The journal against a model: in any order of calls, no message is sent twice."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from prefect_mymsp.errors import CampaignCancelledError, InputError, JournalError
from prefect_mymsp.journal import Batch, CampaignKey, Outcome, SendRun
from prefect_mymsp.models import Decision, RecipientStatus
from prefect_mymsp.states import TRANSITIONS

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

Pair = tuple[str, str]

NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)
NUMBERS = [str(46701740605 + index) for index in range(8)]
MAY_HAVE_SENT = {"sending", "accepted", "in_doubt", "assumed", "cancelled"}
PAIRS = st.lists(st.tuples(st.sampled_from(NUMBERS), st.sampled_from("xyz")), min_size=1, max_size=8)
NAMES = itertools.count()


class JournalMachine(RuleBasedStateMachine):
    """Runs claim, settle, split and die; people decide; the gateway reports statuses."""

    desk: Desk

    @initialize(send_at=st.sampled_from([None, NOON]), batch_size=st.integers(1, 4))
    def begin(self, send_at: datetime | None, batch_size: int) -> None:
        self.name, self.send_at, self.batch_size = f"campaign {next(NAMES)}", send_at, batch_size
        self.pairs = set[Pair]()
        self.states = dict[int, str]()
        self.members = dict[int, frozenset[Pair]]()
        self.holder = dict[Pair, int]()  # the current batch of each claimed message
        self.runs = list[SendRun]()
        self.dead = set[int]()
        self.owner = dict[int, int]()
        self.cancelled = False
        self.moving = set[int]()  # those whose new time the gateway does not have yet
        self.delivered = set[Pair]()
        self.last_states = dict[int, str]()
        self.campaign: CampaignKey = self.desk.record([], self.name, send_at=send_at)
        self.start()
        self.record([(number, text) for text in "xy" for number in NUMBERS[:5]])
        self.claim(0, 4)
        self.settle([0], "accepted")
        self.settle([1], "in_doubt")

    # -- calls -------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.cancelled)
    @rule(pairs=PAIRS)
    def record(self, pairs: list[Pair]) -> None:
        with self.desk.recording(self.name, send_at=self.send_at, batch_size=self.batch_size) as recording:
            assert recording.messages_before == len(self.pairs)
            recording.add(self.desk.block(pairs))
            assert recording.added() == len(set(pairs) - self.pairs)
        self.pairs |= set(pairs)

    @precondition(lambda self: not self.cancelled)
    @rule()
    def withdraw(self) -> None:
        """The source has become empty: unclaimed messages are dropped."""
        with self.desk.recording(self.name, send_at=self.send_at, batch_size=self.batch_size) as recording:
            recording.drop_planned([number for number, _ in recording.planned_before()])
        self.pairs &= set(self.holder)

    @rule()
    def start(self) -> None:
        self.runs.append(self.desk.journal.claims.start_run(self.campaign))

    @rule(run=st.integers(0, 9), requests=st.integers(1, 3))
    def claim(self, run: int, requests: int) -> None:
        which = self.runs[run % len(self.runs)]
        planned = self.pairs - set(self.holder)
        try:
            batches = self.desk.journal.claims.claim(which, requests=requests, batch_size=self.batch_size)
        except CampaignCancelledError:
            assert self.cancelled
            return
        except JournalError:
            assert which.id in self.dead
            return
        assert not self.cancelled
        assert which.id not in self.dead
        assert len(batches) <= requests
        assert bool(batches) == bool(planned)
        for batch in batches:
            assert 1 <= len(batch.msisdns) <= self.batch_size
            assert self._take(batch, which) <= planned

    def _take(self, batch: Batch, run: SendRun) -> frozenset[Pair]:
        pairs = frozenset((msisdn, batch.text) for msisdn in batch.msisdns)
        assert batch.id not in self.states
        self.states[batch.id], self.members[batch.id] = "sending", pairs
        self.owner[batch.id] = run.id
        self.holder.update(dict.fromkeys(pairs, batch.id))
        return pairs

    def _batch(self, index: int) -> int | None:
        return sorted(self.states)[index % len(self.states)] if self.states else None

    @rule(
        which=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
        state=st.sampled_from(["accepted", "refused", "in_doubt", "released"]),
    )
    def settle(self, which: list[int], state: str) -> None:
        numbers = sorted({number for index in which if (number := self._batch(index)) is not None})
        needs: dict[str, dict[str, Any]] = {"refused": {"code": 11}, "in_doubt": {"reason": "timeout"}}
        self.desk.journal.claims.settle(
            Outcome(
                number, state, datetime.now(UTC), **needs.get(state, {"message_id": str(number)}
                if state == "accepted" else {})
            )
            for number in numbers
        )  # fmt: skip
        for number in numbers:
            if self.states[number] in {"sending", "in_doubt"}:
                self._become(number, state)

    def _become(self, number: int, state: str) -> None:
        self.states[number] = state
        if state == "released":
            for pair in [pair for pair, batch in self.holder.items() if batch == number]:
                del self.holder[pair]

    @rule(index=st.integers(0, 99))
    def stolen_id(self, index: int) -> None:
        """The gateway returns a message id that another request has."""
        number = self._batch(index)
        taken = [
            other for other, state in self.states.items() if state in {"accepted", "cancelled"} and other != number
        ]
        if number is None or not taken or self.states[number] not in {"sending", "in_doubt"}:
            return
        message_id = self.desk.one("SELECT message_id FROM batch WHERE id = :id", id=taken[0])
        self.desk.settle(number, "accepted", message_id=message_id)
        self._become(number, "in_doubt")

    @rule(index=st.integers(0, 99), run=st.integers(0, 9))
    def split(self, index: int, run: int) -> None:
        number, which = self._batch(index), self.runs[run % len(self.runs)]
        if number is None:
            return
        try:
            halves = self.desk.journal.claims.split(which, number)
        except JournalError:
            assert which.id in self.dead or self.states[number] != "sending"
            return
        self.states[number] = "split"
        assert len(halves) == min(2, len(self.members[number]))
        assert frozenset().union(*(self._take(half, which) for half in halves)) == self.members[number]

    @rule(run=st.integers(0, 9), take=st.booleans())
    def die(self, run: int, take: bool) -> None:
        which = self.runs[run % len(self.runs)]
        self.desk.expire(which)
        self.dead.add(which.id)
        lost = [
            number for number, state in self.states.items() if state == "sending" and self.owner[number] in self.dead
        ]
        if take:
            assert self.desk.journal.claims.expire_leases(self.campaign) == len(lost)
        else:
            lost = [number for number in lost if self.owner[number] == which.id]
            self.desk.journal.claims.end_run(which)
        for number in lost:
            self._become(number, "in_doubt")

    @rule(decision=st.sampled_from(get_args(Decision)))
    def decide(self, decision: Decision) -> None:
        doubtful = [number for number, state in self.states.items() if state == "in_doubt"]
        held = Counter(self.holder.values())
        assert self.desk.journal.doubt.resolve(self.campaign, decision) == sum(held[number] for number in doubtful)
        for number in doubtful:
            self._become(number, "assumed" if decision == "sent" else "released")

    @rule(index=st.integers(0, 99))
    def disbelieve(self, index: int) -> None:
        if (number := self._batch(index)) is not None:
            self.desk.journal.doubt.reject_message_id(number, "id-of-others")
            if self.states[number] == "accepted":
                self._become(number, "in_doubt")

    @rule(index=st.integers(0, 99))
    def take_back(self, index: int) -> None:
        if (number := self._batch(index)) is not None:
            self.desk.journal.schedule.mark_cancelled([number])
            if self.states[number] == "accepted":
                self._become(number, "cancelled")

    @rule(index=st.integers(0, 99), count=st.integers(0, 4))
    def deliver(self, index: int, count: int) -> None:
        number = self._batch(index)
        if number is None or self.states[number] != "accepted":
            return
        reported = sorted(self.members[number])[:count]
        statuses = [RecipientStatus(msisdn, NOON, "delivered", NOON) for msisdn, _ in reported]
        strangers = [RecipientStatus("46701740699", NOON, "delivered", NOON)]
        changed = self.desk.journal.deliveries.record_statuses({number: statuses + strangers})
        assert changed == len(set(reported) - self.delivered)
        self.delivered |= set(reported)

    @precondition(lambda self: self.send_at is not None)
    @rule(hours=st.integers(1, 9), tells=st.booleans())
    def reschedule(self, hours: int, tells: bool) -> None:
        """Reschedule when no run is sending; the gateway is told, or the process dies before that."""
        for run in self.runs:
            self.desk.journal.claims.end_run(run)
            self.dead.add(run.id)
        for number, state in self.states.items():
            if state == "sending":
                self._become(number, "in_doubt")
        assert self.send_at is not None
        states = set(self.states.values())
        accepted = {number for number, state in self.states.items() if state == "accepted"}
        possible = "in_doubt" not in states and not self.cancelled and not self.moving & accepted
        possible &= bool(accepted) or len(self.pairs) > len(self.holder)
        send_at = self.send_at + timedelta(hours=hours)
        try:
            waiting = self.desk.journal.schedule.reschedule(self.campaign, send_at)
        except InputError:
            assert not possible
        else:
            assert possible
            assert {batch.id for batch in waiting.values()} == accepted
            self.send_at = send_at
            if tells:
                self.desk.journal.schedule.mark_rescheduled(sorted(accepted))
            else:
                self.moving |= accepted
        campaign = self.desk.journal.campaigns.get(self.campaign.account, self.name)
        assert campaign is not None
        assert campaign.send_at == self.send_at
        self.campaign = campaign
        self.start()

    @rule(really=st.integers(0, 9))
    def cancel(self, really: int) -> None:
        if really == 0:
            self.desk.journal.campaigns.cancel(self.campaign)
            self.cancelled = True

    def teardown(self) -> None:
        """At the end the campaign is purged, and its counts stay."""
        if not hasattr(self, "campaign"):
            return
        self.desk.journal.campaigns.cancel(self.campaign)
        for run in self.runs:
            self.desk.journal.claims.end_run(run)
        for table, columns in {
            "campaign": ["created_at", "send_at"],
            "run": ["started_at", "ended_at"],
            "batch": ["claimed_at", "settled_at", "final_at", "send_at"],
        }.items():
            earlier = ", ".join(f"{column} = {column} - 2000000000000000" for column in columns)
            self.desk.sql(f"UPDATE {table} SET {earlier}")
        counts = self.desk.journal.campaigns.counts(self.campaign)
        result = self.desk.journal.retention.purge(self.campaign.account, datetime.now(UTC) - timedelta(days=90))
        assert (result.campaigns, result.messages, result.skipped) == (1, len(self.pairs), ())
        assert self.desk.journal.campaigns.counts(self.campaign) == counts
        assert self.desk.one("SELECT count(*) FROM message WHERE campaign_id = :id", id=self.campaign.id) == 0

    # -- invariants --------------------------------------------------------------------------------------------

    @invariant()
    def states_are_as_expected_and_add_up(self) -> None:
        expected = Counter(self.states[number] for number in self.holder.values())
        expected["planned"] = len(self.pairs) - len(self.holder)
        assert self.desk.counts(self.campaign) == {state: count for state, count in expected.items() if count}
        rows = self.desk.rows(self.campaign)
        assert Counter(row[2] for row in rows) == +expected

    @invariant()
    def batches_change_by_the_legal_ways_only(self) -> None:
        select = "SELECT id, state FROM batch WHERE campaign_id = :id"
        states = dict(self.desk.sql(select, id=self.campaign.id))
        states = {number: state for number, state in states.items() if state != "planned"}
        assert states == self.states
        for number, state in states.items():
            before = self.last_states.get(number, "sending")
            assert state == before or state in TRANSITIONS.get(before, ()), (number, before, state)
        self.last_states = states

    @invariant()
    def nobody_may_get_a_message_twice(self) -> None:
        """Count the claims that were returned for sending, not the current states in the journal."""
        carriers: defaultdict[Pair, list[int]] = defaultdict(list)
        for number, pairs in self.members.items():
            if self.states[number] in MAY_HAVE_SENT:
                for pair in pairs:
                    carriers[pair].append(number)
        assert all(len(numbers) == 1 for numbers in carriers.values()), carriers

    @invariant()
    def ghosts_and_doubts_are_watched(self) -> None:
        if self.send_at is None:
            return
        watched = {batch.id: batch for batch in self.desk.journal.doubt.watched(self.campaign, datetime.now(UTC))}
        for number, state in self.states.items():
            if state in {"sending", "in_doubt"}:
                assert number in watched
        for number, batch in watched.items():
            if batch.state != "split":
                assert batch.msisdns == {msisdn for msisdn, _ in self.members[number]}, batch.state


@pytest.mark.timeout(110)
def test_the_journal_agrees_with_its_model(desk: Desk) -> None:
    machine = type("Machine", (JournalMachine,), {"desk": desk})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=30,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # shrinking a failing example takes minutes on a database
            suppress_health_check=list(HealthCheck),
        ),
    )
