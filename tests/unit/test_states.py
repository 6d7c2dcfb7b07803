"""The states of a request fit together, and each meaning is defined once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prefect_mymsp import states
from prefect_mymsp.states import (
    ACCEPTED,
    ASSUMED,
    CANCELLED,
    DELIVERED,
    EMPTIED_STATES,
    FINAL_STATES,
    IN_DOUBT,
    MESSAGE_STATES,
    PERHAPS_SENT_STATES,
    PLANNED,
    REFUSED,
    RELEASED,
    SENDING,
    SPLIT,
    STATES,
    TRANSITIONS,
    is_delivered,
)

PACKAGE = Path(states.__file__).parent


def test_every_state_can_be_reached_from_planned() -> None:
    reached, new = set[str](), {PLANNED}
    while new:
        reached |= new
        new = {state for old in new for state in TRANSITIONS.get(old, ())} - reached
    assert reached == set(STATES)


@pytest.mark.parametrize("state", STATES)
def test_nothing_that_may_have_been_sent_is_sent_again_without_evidence(state: str) -> None:
    """Only a released request's messages are planned again, and only from sending or in doubt."""
    assert PLANNED not in TRANSITIONS.get(state, ())
    assert (RELEASED in TRANSITIONS.get(state, ())) == (state in {SENDING, IN_DOUBT})


def test_a_message_is_in_one_of_the_states_that_hold_messages() -> None:
    assert {RELEASED, SPLIT} == EMPTIED_STATES
    assert set(MESSAGE_STATES) == set(STATES) - EMPTIED_STATES


def test_final_states_never_change() -> None:
    assert FINAL_STATES == (REFUSED, ASSUMED, CANCELLED)
    assert not set(FINAL_STATES) & set(TRANSITIONS)


def test_what_was_perhaps_sent_is_neither_planned_nor_refused() -> None:
    assert set(PERHAPS_SENT_STATES) == {SENDING, ACCEPTED, IN_DOUBT, ASSUMED}
    assert CANCELLED not in PERHAPS_SENT_STATES


@pytest.mark.parametrize("status", ["undelivered", "expired", "sent", "DELIVERED", "", None])
def test_only_delivered_is_delivered(status: str | None) -> None:
    assert not is_delivered(status)


def test_delivered_is_delivered() -> None:
    assert is_delivered(DELIVERED)


def test_states_are_spelled_only_in_their_module() -> None:
    """Elsewhere the constants are used, so that each meaning has one home."""
    spelled = re.compile(r"""["'](?:planned|in_doubt|assumed)["']""")
    found = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted((PACKAGE / "journal").rglob("*.py"))
        if spelled.search(path.read_text("utf-8"))
    ]
    assert found == []
