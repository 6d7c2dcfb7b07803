"""The decisions of the sender, as pure functions: facts in, decision out. ``sender`` carries them out.

- The meaning of a response for its messages and for the campaign: :func:`judge_response`
- Whether the lease still allows a request: :func:`lease_allows_request`
- How much to claim next: :func:`next_claim_window`
- Whether the run is finished: :func:`next_step`
- The error of a stopped campaign: :func:`stop_error`
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from prefect_mymsp.errors import (
    CampaignCancelledError,
    CampaignStoppedError,
    InDoubtError,
    InputError,
    JournalError,
    MyMSPError,
    NotSentError,
    RefusedError,
)
from prefect_mymsp.states import ACCEPTED, IN_DOUBT, REFUSED, RELEASED

if TYPE_CHECKING:
    from prefect_mymsp.journal import Counts

#: Requests to claim at once, at most.
MAX_CLAIM_WINDOW = 512
#: Share of a lease after which requests are no longer made under it.
_SAFE_LEASE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class FailureStreak:
    """Failures in a row, counted since the last accepted request.

    Attributes:
        in_doubt: Requests in doubt. A refusal ends this streak: there was a response.
        refused: Refused requests, not counting those with a bad recipient.
    """

    in_doubt: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class BatchDecision:
    """The decision about a batch after its request.

    Attributes:
        state: The state to record; None to split the batch in two and send the halves.
        streak: The failures in a row, this request included.
        code: The gateway's code, if it refused.
        reason: One short word for the journal.
        stop: Whether the campaign stops.
    """

    state: str | None
    streak: FailureStreak
    code: int | None = None
    reason: str | None = None
    stop: bool = False


_NO_FAILURES = FailureStreak()
_ACCEPTED = BatchDecision(ACCEPTED, _NO_FAILURES)


def judge_response(
    error: BaseException | None, batch_size: int, streak: FailureStreak, max_consecutive_failures: int
) -> BatchDecision:
    """Judge the response to a request: its meaning for the messages, and for the campaign.

    Args:
        error: The client's error; None if the gateway accepted the request.
        batch_size: Recipients of the request.
        streak: The failures in a row before this request.
        max_consecutive_failures: Failures in a row that stop the campaign.
    """
    if error is None:
        return _ACCEPTED
    if isinstance(error, RefusedError):
        return _judge_refusal(error, batch_size, streak, max_consecutive_failures)
    if isinstance(error, NotSentError):
        return BatchDecision(RELEASED, streak, reason="not-reached", stop=True)
    if isinstance(error, InDoubtError):
        streak = replace(streak, in_doubt=streak.in_doubt + 1)
        stop = streak.in_doubt >= max_consecutive_failures
        return BatchDecision(IN_DOUBT, streak, reason=error.reason[:40], stop=stop)
    # Cancelled, or a fault of this package: the request may have left.
    return BatchDecision(IN_DOUBT, streak, reason="interrupted", stop=True)


def _judge_refusal(
    error: RefusedError, batch_size: int, streak: FailureStreak, max_consecutive_failures: int
) -> BatchDecision:
    code = error.code
    if error.scope in {"account", "campaign"}:
        return BatchDecision(RELEASED, streak, code, reason="refused", stop=True)
    if error.scope != "number":
        streak = replace(streak, refused=streak.refused + 1)
    stop = streak.refused >= max_consecutive_failures
    # An undocumented code may be cut short, or concern one recipient: it must not refuse all of them.
    if batch_size > 1 and error.scope in {"number", "unknown"}:
        return BatchDecision(None, streak, code, stop=stop)
    return BatchDecision(REFUSED, replace(streak, in_doubt=0), code, stop=stop)


def lease_allows_request(now_s: float, renewed_at_s: float, lease_s: float) -> bool:
    """Whether a request may still be made under a lease.

    Args:
        now_s: The time in seconds, on a clock that also counts suspension.
        renewed_at_s: When the lease was renewed or begun, on the same clock.
        lease_s: Seconds that it lasts.
    """
    return now_s - renewed_at_s <= _SAFE_LEASE_SHARE * lease_s


def next_claim_window(
    current: int, requests_begun: int, elapsed_s: float, claim_window_s: float, connections: int
) -> int:
    """Return the number of requests to claim at once.

    That is what can be sent in ``claim_window_s`` at the present pace, and at least one request per connection. Idle
    connections empty the first window at once, so it grows no faster than doubling: what is claimed when the process
    dies is in doubt.

    Args:
        current: The present window.
        requests_begun: Requests that were begun since the last claim.
        elapsed_s: Seconds since the last claim.
        claim_window_s: Seconds of work to claim at once.
        connections: Requests in flight at once.
    """
    pace = requests_begun / max(elapsed_s, 1e-4)
    return int(min(MAX_CLAIM_WINDOW, 2 * current, max(connections, pace * claim_window_s)))


class NextStep(Enum):
    """The next step after a claim that found nothing."""

    #: Wait for the outstanding requests: their messages may have to be sent again.
    AWAIT_RESPONSES = auto()
    #: Wait for the other runs: batches that they release, or hold when they die, may have to be sent.
    AWAIT_OTHER_RUNS = auto()
    #: Wait for the reconciler: absent requests are sent again.
    AWAIT_RECONCILER = auto()
    #: Claim again: messages have been planned meanwhile.
    CLAIM = auto()
    #: Nothing is left to send.
    FINISH = auto()


def next_step(*, outstanding: int, others_sending: bool, reconciling: bool, has_planned: bool) -> NextStep:
    """The next step after a claim that found nothing.

    Args:
        outstanding: Requests of this run that are claimed and have no response yet.
        others_sending: Whether another run holds claims of the campaign.
        reconciling: Whether a lookup at the gateway may settle something.
        has_planned: Whether messages are planned.
    """
    if outstanding:
        return NextStep.AWAIT_RESPONSES
    if others_sending:
        return NextStep.AWAIT_OTHER_RUNS
    if reconciling:
        return NextStep.AWAIT_RECONCILER
    # Another run may have given back its claims while the last requests were outstanding.
    return NextStep.CLAIM if has_planned else NextStep.FINISH


def stop_error(campaign: str, cause: MyMSPError, counts: Counts | None) -> MyMSPError:
    """The error of a stopped campaign: its cause, the counts so far, and how to continue.

    Args:
        campaign: The campaign's name.
        cause: Why it stopped.
        counts: Its messages by state; None if the journal failed.
    """
    if isinstance(cause, CampaignCancelledError):
        return cause
    if isinstance(cause, JournalError) or counts is None:
        return JournalError(
            f"{cause} This has stopped campaign {campaign!r}. To continue, start the same campaign again; no message "
            "is sent twice."
        )
    if isinstance(cause, RefusedError):
        remedy = cause.remedy
    elif isinstance(cause, InDoubtError):
        remedy = "Check why the gateway's responses are lost or incomplete"
    elif isinstance(cause, InputError):
        remedy = "Correct this"
    else:
        remedy = "Wait until the gateway responds again"
    return CampaignStoppedError(
        f"Campaign {campaign!r} stopped: {cause} So far: {counts.accepted} accepted, {counts.refused} refused, "
        f"{counts.in_doubt} in doubt, {counts.planned} not sent. To continue: {remedy}. Then start the same campaign "
        "again; no message is sent twice.",
        counts=dataclasses.asdict(counts),
    )
