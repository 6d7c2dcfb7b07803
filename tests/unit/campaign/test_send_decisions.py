"""The decisions of sending, as tables: the response to a request, the lease, the claim window, the end of a run."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from prefect_mymsp.campaign.send_decisions import (
    MAX_CLAIM_WINDOW,
    BatchDecision,
    FailureStreak,
    NextStep,
    judge_response,
    lease_allows_request,
    next_claim_window,
    next_step,
    stop_error,
)
from prefect_mymsp.errors import (
    CampaignCancelledError,
    CampaignStoppedError,
    ConfigurationError,
    InputError,
    JournalError,
    MyMSPError,
    NoResponseError,
    ProtocolError,
    RateLimitedError,
    RefusedError,
    UnexpectedStatusError,
    UnreachableError,
)
from prefect_mymsp.journal import Counts
from prefect_mymsp.protocol import CODES, SEND, refusal
from prefect_mymsp.states import ACCEPTED, IN_DOUBT, REFUSED, RELEASED

LIMIT = 3
NONE = FailureStreak()
TIMEOUT = NoResponseError("no response", reason="timeout")


def refused(code: int) -> RefusedError:
    return refusal(SEND, code)


# ---- the response to a request ---------------------------------------------------------------------------------------

SPLIT = None
#: A refusal of the account or of the campaign: nothing was sent, and nothing else can be.
STOPPING_CODES = (7, 11, 12, 22, 23, 24, 25, 33, 34, 35, 36, 37, 38)
#: A refusal of one message.
DOCUMENTED_CODES = {code.number for code in CODES if SEND in code.endpoints}
MESSAGE_CODES = tuple(sorted(DOCUMENTED_CODES - {*STOPPING_CODES, 28}))
UNDOCUMENTED = 4711

RESPONSES = [
    # response, recipients, state, code, reason, stops
    (None, 1, ACCEPTED, None, None, False),
    (None, 500, ACCEPTED, None, None, False),
    *[(refused(code), size, RELEASED, code, "refused", True) for code in STOPPING_CODES for size in (1, 500)],
    *[(refused(code), size, REFUSED, code, None, False) for code in MESSAGE_CODES for size in (1, 500)],
    # One of the recipients is bad: the batch is halved until that one is alone.
    (refused(28), 500, SPLIT, 28, None, False),
    (refused(28), 2, SPLIT, 28, None, False),
    (refused(28), 1, REFUSED, 28, None, False),
    # An undocumented code may be cut short, or concern one recipient.
    (refused(UNDOCUMENTED), 500, SPLIT, UNDOCUMENTED, None, False),
    (refused(UNDOCUMENTED), 1, REFUSED, UNDOCUMENTED, None, False),
    # The request never reached the gateway, after all retries.
    (UnreachableError("refused"), 500, RELEASED, None, "not-reached", True),
    (RateLimitedError("429", retry_after_s=None), 1, RELEASED, None, "not-reached", True),
    (ConfigurationError("no password"), 1, RELEASED, None, "not-reached", True),
    # The gateway may have acted on the request.
    (TIMEOUT, 500, IN_DOUBT, None, "timeout", False),
    (UnexpectedStatusError("502", status=502), 1, IN_DOUBT, None, "http-502", False),
    (ProtocolError("page", reason="html"), 1, IN_DOUBT, None, "html", False),
    (ProtocolError("page", reason="x" * 50), 1, IN_DOUBT, None, "x" * 40, False),
    # Interrupted: it may have left.
    (asyncio.CancelledError(), 500, IN_DOUBT, None, "interrupted", True),
    (KeyboardInterrupt(), 1, IN_DOUBT, None, "interrupted", True),
    (ValueError("a bug"), 1, IN_DOUBT, None, "interrupted", True),
]


@pytest.mark.parametrize(("response", "size", "state", "code", "reason", "stops"), RESPONSES, ids=str)
def test_a_response_decides_the_state_of_its_messages(
    response: BaseException | None, size: int, state: str | None, code: int | None, reason: str | None, stops: bool
) -> None:
    decision = judge_response(response, size, NONE, LIMIT)
    assert (decision.state, decision.code, decision.reason, decision.stop) == (state, code, reason, stops)


def test_every_documented_code_has_a_case() -> None:
    cases = {response.code for response, *_ in RESPONSES if isinstance(response, RefusedError)}
    assert cases >= DOCUMENTED_CODES
    assert MESSAGE_CODES


STREAKS = [
    # responses in order; the last one has to stop the campaign if `stops`
    ([TIMEOUT] * 2, False),
    ([TIMEOUT] * 3, True),
    ([TIMEOUT, TIMEOUT, None, TIMEOUT], False),  # accepted in between
    ([TIMEOUT, TIMEOUT, refused(MESSAGE_CODES[0]), TIMEOUT], False),  # the gateway responded in between
    ([refused(MESSAGE_CODES[0])] * 2, False),
    ([refused(MESSAGE_CODES[0])] * 3, True),
    ([refused(UNDOCUMENTED)] * 3, True),
    ([refused(MESSAGE_CODES[0]), refused(UNDOCUMENTED), refused(MESSAGE_CODES[0])], True),
    ([refused(MESSAGE_CODES[0]), TIMEOUT, refused(MESSAGE_CODES[0]), TIMEOUT, refused(MESSAGE_CODES[0])], True),
    ([refused(MESSAGE_CODES[0]), refused(MESSAGE_CODES[0]), None, refused(MESSAGE_CODES[0])], False),
    ([refused(28)] * 50, False),  # bad numbers are the file's, however many in a row
    ([refused(MESSAGE_CODES[0]), refused(MESSAGE_CODES[0]), refused(28), refused(MESSAGE_CODES[0])], True),
]


@pytest.mark.parametrize(("responses", "stops"), STREAKS)
@pytest.mark.parametrize("size", [1, 500])
def test_failures_in_a_row_stop_the_campaign(responses: list[MyMSPError | None], stops: bool, size: int) -> None:
    decision = BatchDecision(None, NONE)
    for number, response in enumerate(responses):
        assert not decision.stop, number
        decision = judge_response(response, size, decision.streak, LIMIT)
    assert decision.stop is stops


# ---- the lease -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("now_s", "allowed"), [(100, True), (153, True), (154, True), (154.1, False), (5000, False)])
def test_no_request_is_made_at_the_end_of_a_lease(now_s: float, allowed: bool) -> None:
    assert lease_allows_request(now_s, renewed_at_s=100, lease_s=60) is allowed


# ---- the claim window ----------------------------------------------------------------------------------------------

WINDOWS = [
    # current, requests begun, in seconds, next: 0.065 s of work for 4 connections
    (8, 0, 10.0, 4),  # nothing moves: one request per connection
    (8, 50, 1.0, 4),  # slower than the connections
    (8, 200, 1.0, 13),  # the pace
    (8, 800, 1.0, 16),  # no faster than doubling
    (8, 8, 0.0, 16),  # emptied at once
    (512, 80_000, 1.0, 512),  # the most
    (400, 200, 1.0, 13),  # down again at once
]


@pytest.mark.parametrize(("current", "begun", "elapsed_s", "window"), WINDOWS)
def test_the_claim_window_follows_the_pace(current: int, begun: int, elapsed_s: float, window: int) -> None:
    assert next_claim_window(current, begun, elapsed_s, claim_window_s=0.065, connections=4) == window
    assert window <= MAX_CLAIM_WINDOW


# ---- the end of a run ----------------------------------------------------------------------------------------------

STEPS = [
    # outstanding, others sending, reconciling, planned
    (3, False, False, False, NextStep.AWAIT_RESPONSES),
    (0, True, False, False, NextStep.AWAIT_OTHER_RUNS),
    (0, False, True, False, NextStep.AWAIT_RECONCILER),
    (0, False, False, True, NextStep.CLAIM),
    (0, False, False, False, NextStep.FINISH),
]


@pytest.mark.parametrize(("outstanding", "others_sending", "reconciling", "has_planned", "step"), STEPS)
def test_a_run_ends_when_nothing_can_be_planned_again(
    outstanding: int, others_sending: bool, reconciling: bool, has_planned: bool, step: NextStep
) -> None:
    facts = {"others_sending": others_sending, "reconciling": reconciling, "has_planned": has_planned}
    assert next_step(outstanding=outstanding, **facts) is step


def test_a_run_ends_only_if_nothing_is_left_at_all() -> None:
    for outstanding, *facts in itertools.product((0, 1), *[(False, True)] * 3):
        others_sending, reconciling, has_planned = map(bool, facts)
        step = next_step(
            outstanding=int(outstanding),
            others_sending=others_sending,
            reconciling=reconciling,
            has_planned=has_planned,
        )
        assert (step is NextStep.FINISH) is not any((outstanding, *facts))


# ---- the error that ends a campaign --------------------------------------------------------------------------------

COUNTS = Counts(
    messages=10,
    planned=4,
    sending=0,
    accepted=3,
    refused=2,
    in_doubt=1,
    assumed=0,
    cancelled=0,
    delivered=0,
    final=0,
    segments=3,
)

CAUSES = [
    (refused(7), "Check user and password"),
    (refused(11), "Wait until the account may send again"),
    (refused(12), "Buy credits"),
    (refused(33), "Register the sender"),
    (refused(35), "Choose a later time"),
    (refused(36), "Send without `flash`"),
    (TIMEOUT, "Check why the gateway's responses are lost or incomplete"),
    (InputError("That is wrong."), "Correct this"),
    (UnreachableError("No connection."), "Wait until the gateway responds again"),
]


@pytest.mark.parametrize(("cause", "remedy"), CAUSES, ids=lambda value: str(value)[:40])
def test_a_stopped_campaign_says_what_was_sent_and_how_to_continue(cause: MyMSPError, remedy: str) -> None:
    error = stop_error("autumn", cause, COUNTS)
    assert isinstance(error, CampaignStoppedError)
    assert error.counts["accepted"] == 3
    message = str(error)
    assert message.startswith(f"Campaign 'autumn' stopped: {cause}")
    assert "3 accepted, 2 refused, 1 in doubt, 4 not sent." in message
    assert f"To continue: {remedy}" in message
    assert ". Then start the same campaign again; no message is sent twice." in message


def test_a_failure_of_the_journal_stays_one() -> None:
    error = stop_error("autumn", JournalError("The disk is full."), None)
    assert type(error) is JournalError
    assert str(error) == (
        "The disk is full. This has stopped campaign 'autumn'. To continue, start the same campaign again; no "
        "message is sent twice."
    )


def test_a_cancelled_campaign_is_not_to_be_continued() -> None:
    cause = CampaignCancelledError("Campaign 'autumn' was cancelled.")
    assert stop_error("autumn", cause, None) is cause
