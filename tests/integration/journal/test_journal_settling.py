"""Settling: legal transitions work, and the database refuses all others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from prefect_mymsp.errors import CampaignCancelledError, JournalError
from prefect_mymsp.journal import Outcome
from prefect_mymsp.journal.schema import RULE
from prefect_mymsp.states import STATES, TRANSITIONS

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

A, B, C = "46701740605", "46701740606", "46701740607"
SECRET = "Your code is 4711-canary"
NOW = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)

#: The columns of a batch in each state, for raw SQL.
SHAPES = {
    "planned": "run_id = NULL, claimed_at = NULL, settled_at = NULL, message_id = NULL",
    "sending": "settled_at = NULL, message_id = NULL",
    "accepted": "settled_at = 5, message_id = '{id}', code = NULL, reason = NULL",
    "refused": "settled_at = 5, message_id = NULL, code = 11",
    "in_doubt": "settled_at = 5, message_id = NULL, reason = 'timeout'",
    "released": "settled_at = 5, message_id = NULL, reason = 'not-reached'",
    "split": "settled_at = 5, message_id = NULL, code = 28",
    "assumed": "settled_at = 5, message_id = NULL, reason = 'decided'",
    "cancelled": "settled_at = 5, message_id = '{id}'",
}
LEGAL = [(old, new) for old, several in TRANSITIONS.items() for new in several]
ILLEGAL = [(old, new) for old in STATES for new in STATES if old != new and (old, new) not in LEGAL]


def test_the_legal_transitions() -> None:
    """Each additional transition could send a message twice, so this table repeats them on purpose."""
    assert set(LEGAL) == {
        ("planned", "sending"),
        ("sending", "accepted"),
        ("sending", "refused"),
        ("sending", "in_doubt"),
        ("sending", "released"),
        ("sending", "split"),
        ("in_doubt", "accepted"),
        ("in_doubt", "refused"),
        ("in_doubt", "released"),
        ("in_doubt", "assumed"),
        ("accepted", "in_doubt"),
        ("accepted", "cancelled"),
    }
    assert len(LEGAL) + len(ILLEGAL) == len(STATES) * (len(STATES) - 1)
    assert set(SHAPES) == set(STATES)


@pytest.mark.parametrize("old", STATES)
def test_the_database_refuses_illegal_transitions(desk: Desk, old: str) -> None:
    campaign = desk.record([(number, text) for text in STATES for number in (A, B)])
    run = desk.journal.claims.start_run(campaign)
    numbers = [number for (number,) in desk.sql("SELECT id FROM batch ORDER BY id")]
    for number, new in zip(numbers, STATES, strict=True):
        if old == new:
            continue
        if old != "planned":
            claim = "UPDATE batch SET state = 'sending', run_id = :run, claimed_at = 1 WHERE id = :id"
            desk.sql(claim, run=run.id, id=number)
            desk.bring(number, old)
        before = desk.sql("SELECT * FROM batch ORDER BY id")
        claimed = "" if new == "planned" else f"run_id = {run.id}, claimed_at = 1, "
        change = f"UPDATE batch SET state = '{new}', {claimed}{SHAPES[new].format(id=number)} WHERE id = :id"
        if (old, new) in LEGAL:
            desk.sql(change, id=number)
            assert desk.state(number) == new
        else:
            error = desk.refused(change, id=number)
            assert error.startswith(f"{RULE}this change of state is not allowed")
            assert desk.sql("SELECT * FROM batch ORDER BY id") == before


@pytest.mark.parametrize("first", ["sending", "in_doubt"])
def test_outcomes_are_recorded(desk: Desk, first: str) -> None:
    expected: dict[str, tuple[str | None, int | None, str | None]] = {
        "accepted": ("4711", None, None),
        "refused": (None, 11, None),
        "in_doubt": (None, None, "timeout"),
        "released": (None, None, "not-reached"),
    }
    run, batches = desk.claimed([(number, text) for text in expected for number in (A, B)])
    for batch, (state, (message_id, code, reason)) in zip(batches, expected.items(), strict=True):
        desk.bring(batch, first)
        desk.journal.claims.settle([Outcome(batch.id, state, NOW, message_id=message_id, code=code, reason=reason)])
        rows = desk.sql("SELECT state, settled_at, message_id, code, reason FROM batch WHERE id = :id", id=batch.id)
        assert rows == [(state, int(NOW.timestamp()) * 1_000_000, message_id, code, reason)]
    assert desk.counts(run.campaign) == {"accepted": 2, "refused": 2, "in_doubt": 2, "planned": 2}


def test_released_messages_are_planned_again(desk: Desk) -> None:
    run, (batch,) = desk.claimed(desk.same(3))
    desk.settle(batch, "released")
    (again,) = desk.journal.claims.claim(run, requests=5, batch_size=10)
    assert again.id != batch.id
    assert again.msisdns == batch.msisdns


def contents(desk: Desk) -> list[list[Any]]:
    """All rows that settling may change."""
    return [desk.sql(f"SELECT * FROM {table} ORDER BY 1") for table in ("batch", "message", "released_recipient")]


@pytest.mark.parametrize("first", ["accepted", "refused", "released", "split", "assumed", "cancelled"])
def test_a_late_outcome_does_not_change_a_settled_request(desk: Desk, first: str) -> None:
    _, (batch,) = desk.claimed([(A, SECRET), (B, SECRET)], send_at=NOW)
    desk.bring(batch, first)
    before = contents(desk)
    for state in ("accepted", "refused", "in_doubt", "released"):
        desk.settle(batch, state)
        assert [
            desk.sql(f"SELECT * FROM {table} ORDER BY 1") for table in ("batch", "message", "released_recipient")
        ] == before


def test_a_late_release_of_an_accepted_request_keeps_no_recipients(desk: Desk) -> None:
    run, (batch,) = desk.claimed([(A, SECRET)], send_at=NOW)
    desk.settle(batch, "in_doubt")
    desk.settle(batch, "accepted")
    desk.settle(batch, "released")
    assert desk.sql("SELECT * FROM released_recipient") == []
    desk.journal.doubt.reject_message_id(batch.id, "id-of-others")
    desk.settle(batch, "released")
    assert desk.sql("SELECT * FROM released_recipient") == [(batch.id, A)]
    assert desk.counts(run.campaign) == {"planned": 1}


def test_the_run_that_sent_a_request_may_settle_it_after_its_lease(desk: Desk) -> None:
    run, batches = desk.claimed(desk.personal(3))
    desk.expire(run)
    assert desk.journal.claims.expire_leases(run.campaign) == 3
    for batch, state in zip(batches, ("accepted", "refused", "released"), strict=True):
        desk.settle(batch, state)
    assert desk.counts(run.campaign) == {"accepted": 1, "refused": 1, "planned": 1}


def test_settling_no_outcomes_does_nothing(desk: Desk) -> None:
    run, _ = desk.claimed([(A, SECRET)])
    desk.journal.claims.settle([])
    desk.journal.claims.settle(iter(()))
    assert desk.counts(run.campaign) == {"sending": 1}


def test_many_outcomes_at_once(desk: Desk) -> None:
    run, batches = desk.claimed(desk.personal(2000))
    states = ("accepted", "refused", "in_doubt", "released")
    desk.journal.claims.settle(
        Outcome(
            batch.id,
            states[index % 4],
            NOW,
            message_id=str(index) if index % 4 == 0 else None,
            code=11 if index % 4 == 1 else None,
            reason="timeout" if index % 4 > 1 else None,
        )
        for index, batch in enumerate(batches)
    )
    assert desk.counts(run.campaign) == {"accepted": 500, "refused": 500, "in_doubt": 500, "planned": 500}


def test_a_claim_records_outcomes_too(desk: Desk) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(4), batch_size=1))
    first, second = desk.journal.claims.claim(run, requests=2, batch_size=1)
    outcomes = [
        Outcome(first.id, "accepted", NOW, message_id="99"),
        Outcome(second.id, "released", NOW, reason="not-reached"),
    ]
    claimed = desk.journal.claims.claim(run, requests=9, batch_size=1, outcomes=outcomes)
    assert desk.state(first) == "accepted"
    # Messages released in the same transaction are claimed again.
    assert sorted(batch.text for batch in claimed) == ["Hello number 1", "Hello number 2", "Hello number 3"]


@pytest.mark.parametrize("why", ["cancelled", "lease-ended"])
def test_a_refused_claim_records_no_outcomes(desk: Desk, why: str) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(2), batch_size=1))
    (first,) = desk.journal.claims.claim(run, requests=1, batch_size=1)
    outcomes = [Outcome(first.id, "accepted", NOW, message_id="99")]
    if why == "cancelled":
        desk.journal.campaigns.cancel(run.campaign)
    else:
        desk.expire(run)
    with pytest.raises((CampaignCancelledError, JournalError)):
        desk.journal.claims.claim(run, requests=1, batch_size=1, outcomes=outcomes)
    assert desk.state(first) == "sending"
    desk.journal.claims.settle(outcomes)
    assert desk.state(first) == "accepted"


# -- one id, one batch -------------------------------------------------------------------------------------------------


def test_a_duplicate_message_id_puts_only_the_later_request_in_doubt(desk: Desk) -> None:
    run, (first, second, third, fourth) = desk.claimed(desk.personal(4))
    desk.journal.claims.settle([Outcome(first.id, "accepted", NOW, message_id="99")])
    desk.journal.claims.settle(
        [
            Outcome(second.id, "accepted", NOW, message_id="100"),
            Outcome(third.id, "accepted", NOW, message_id="99"),
            Outcome(fourth.id, "refused", NOW, code=11),
        ]
    )
    assert [desk.state(batch) for batch in (first, second, third, fourth)] == [
        "accepted",
        "accepted",
        "in_doubt",
        "refused",
    ]
    assert desk.reason(third) == "id-seen-before"
    assert desk.one("SELECT doubted_at FROM batch WHERE id = :id", id=third.id) == int(NOW.timestamp()) * 1_000_000
    assert desk.counts(run.campaign) == {"accepted": 2, "in_doubt": 1, "refused": 1}


def test_a_duplicate_message_id_does_not_stop_a_claim(desk: Desk) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(3), batch_size=1))
    first, second = desk.journal.claims.claim(run, requests=2, batch_size=1)
    outcomes = [Outcome(batch.id, "accepted", NOW, message_id="99") for batch in (first, second)]
    desk.journal.claims.settle(outcomes[:1])
    (third,) = desk.journal.claims.claim(run, requests=1, batch_size=1, outcomes=outcomes[1:])
    assert [desk.state(batch) for batch in (first, second, third)] == ["accepted", "in_doubt", "sending"]
    assert desk.reason(second) == "id-seen-before"


def test_two_requests_with_one_new_message_id_are_both_in_doubt(desk: Desk) -> None:
    _, (first, second, third) = desk.claimed(desk.personal(3))
    outcomes = [
        Outcome(batch.id, "accepted", NOW, message_id=message_id)
        for batch, message_id in ((first, "99"), (second, "99"), (third, "5"))
    ]
    desk.journal.claims.settle(outcomes)
    assert [desk.state(batch) for batch in (first, second, third)] == ["in_doubt", "in_doubt", "accepted"]
    assert desk.reason(first) == desk.reason(second) == "id-seen-before"


def test_the_same_outcome_twice_is_not_a_duplicate(desk: Desk) -> None:
    _, (first, second) = desk.claimed(desk.personal(2))
    outcome = Outcome(first.id, "accepted", NOW, message_id="99")
    desk.journal.claims.settle([outcome])
    desk.journal.claims.settle([outcome, Outcome(second.id, "accepted", NOW, message_id="100")])
    desk.journal.claims.settle([outcome, Outcome(second.id, "accepted", NOW, message_id="99")])
    assert (desk.state(first), desk.state(second)) == ("accepted", "accepted")
    assert desk.sql("SELECT message_id FROM batch ORDER BY id") == [("99",), ("100",)]


def test_a_cancelled_requests_message_id_stays_taken(desk: Desk) -> None:
    _, (first, second) = desk.claimed(desk.personal(2))
    desk.settle(first, "accepted", message_id="99")
    desk.journal.schedule.mark_cancelled([first.id])
    desk.settle(second, "accepted", message_id="99")
    assert (desk.state(first), desk.state(second)) == ("cancelled", "in_doubt")


def test_another_campaign_may_have_the_same_message_id(desk: Desk) -> None:
    """One journal may hold ids of the sandbox and of the real gateway."""
    _, (own,) = desk.claimed([(A, SECRET)])
    _, (other,) = desk.claimed([(A, SECRET)], name="winter")
    desk.settle(own, "accepted", message_id="99")
    desk.settle(other, "accepted", message_id="99")
    assert (desk.state(own), desk.state(other)) == ("accepted", "accepted")


def test_one_message_id_from_eight_threads_is_accepted_once(desk: Desk) -> None:
    _, batches = desk.claimed(desk.personal(8))
    barrier, journal = threading.Barrier(8), desk.journal

    def settle(number: int) -> None:
        barrier.wait(30)
        journal.claims.settle([Outcome(number, "accepted", NOW, message_id="99")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(settle, [batch.id for batch in batches]))
    assert sorted(desk.state(batch) for batch in batches) == ["accepted"] + ["in_doubt"] * 7


# -- the database's own rules ------------------------------------------------------------------------------------------


def test_a_message_cannot_leave_a_request_that_may_have_sent_it(desk: Desk) -> None:
    states = [state for state in STATES if state not in {"planned", "released", "split"}]
    _, batches = desk.claimed([(A, text) for text in states])
    for batch, state in zip(batches, states, strict=True):
        desk.bring(batch, state)
    for batch in batches:
        for to in ("NULL", "(SELECT max(id) FROM batch)"):
            error = desk.refused(f"UPDATE message SET batch_id = {to} WHERE batch_id = :id", id=batch.id)
            assert error.startswith(f"{RULE}a message cannot leave a request that may have sent it")


def test_a_claimed_message_cannot_be_deleted(desk: Desk) -> None:
    run = desk.journal.claims.start_run(desk.record(desk.personal(2)))
    desk.journal.claims.claim(run, requests=1, batch_size=1)
    assert desk.refused("DELETE FROM message").startswith(f"{RULE}a message that was claimed cannot be deleted")
    desk.sql("DELETE FROM message WHERE batch_id IN (SELECT id FROM batch WHERE state = 'planned')")
    assert desk.one("SELECT count(*) FROM message") == 1


def test_a_batch_with_messages_cannot_be_deleted(desk: Desk) -> None:
    desk.claimed([(A, SECRET)])
    for table in ("batch", "run", "text", "campaign"):
        assert "foreign key" in desk.refused(f"DELETE FROM {table}").lower()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("state = 'accepted', settled_at = 5", "ck_batch_accepted_has_id"),
        ("message_id = '{id}'", "ck_batch_accepted_has_id"),
        ("state = 'refused', settled_at = 5", "ck_batch_refused_has_code"),
        ("state = 'in_doubt', settled_at = 5", "ck_batch_in_doubt_has_reason"),
        ("state = 'released'", "ck_batch_settled"),
        ("settled_at = 5", "ck_batch_settled"),
    ],
)
def test_constraints_are_enforced(desk: Desk, change: str, rule: str) -> None:
    _, (batch,) = desk.claimed([(A, SECRET)])
    assert rule in desk.refused(f"UPDATE batch SET {change} WHERE id = :id", id=batch.id)


def test_an_unknown_state_is_refused(desk: Desk) -> None:
    desk.claimed([(A, SECRET)])
    columns = "campaign_id, run_id, text_id, size, state, claimed_at, settled_at"
    values = "campaign_id, run_id, text_id, size, 'sent', 1, 1"
    error = desk.refused(f"INSERT INTO batch ({columns}) SELECT {values} FROM batch")
    assert "ck_batch_state" in error


def test_the_same_message_twice_in_a_campaign_is_refused(desk: Desk) -> None:
    desk.record([(A, SECRET)])
    copy = "INSERT INTO message (campaign_id, row, msisdn, text_id) SELECT campaign_id, 9, msisdn, text_id FROM message"
    assert "unique" in desk.refused(copy).lower()


@pytest.mark.parametrize(
    ("state", "needs", "rule"),
    [
        ("accepted", {"message_id": None}, "ck_batch_accepted_has_id"),
        ("refused", {"code": None}, "ck_batch_refused_has_code"),
        ("in_doubt", {"reason": None}, "ck_batch_in_doubt_has_reason"),
        ("sending", {}, "ck_batch_settled"),
        ("cancelled", {"message_id": "4711"}, "this change of state is not allowed"),
        ("assumed", {}, "this change of state is not allowed"),
        ("sent", {}, "this change of state is not allowed"),
    ],
)
def test_a_violated_rule_is_named_without_numbers_or_texts(
    desk: Desk, state: str, needs: dict[str, str | None], rule: str
) -> None:
    _, (good, bad) = desk.claimed([(A, SECRET), (B, "Other " + SECRET)])
    outcomes = [
        Outcome(good.id, "accepted", NOW, message_id="4710"),
        Outcome(bad.id, state, NOW, **{**_needs(state), **needs}),  # type: ignore[arg-type]
    ]
    message = desk.refusal(desk.journal.claims.settle, outcomes)
    assert message.startswith("The journal refused a change: ")
    assert rule in message
    for secret in (A, B, "4710", "4711", SECRET, "parameters", "UPDATE", "Failing row"):
        assert secret not in message
    assert (desk.state(good), desk.state(bad)) == ("sending", "sending")  # one transaction, so nothing changed


def _needs(state: str) -> dict[str, object]:
    needs: dict[str, dict[str, object]] = {
        "accepted": {"message_id": "4711"},
        "refused": {"code": 11},
        "in_doubt": {"reason": "x"},
    }
    return needs.get(state, {})


def test_a_value_that_is_too_long_is_refused_and_not_quoted(desk: Desk) -> None:
    """PostgreSQL enforces lengths, SQLite does not."""
    _, (batch,) = desk.claimed([(A, SECRET)])
    long = "9" * 41
    if desk.on_sqlite:
        desk.settle(batch, "accepted", message_id=long)
        assert desk.state(batch) == "accepted"
    else:
        with pytest.raises(JournalError) as caught:
            desk.settle(batch, "accepted", message_id=long)
        assert "StringDataRightTruncation" in str(caught.value)
        assert long not in str(caught.value)
