"""Options of the campaign engine: sending, reconciling, tracking, and the limits of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefect_mymsp import protocol
from prefect_mymsp.campaign.rate import request_size, worker_rate
from prefect_mymsp.errors import InputError
from prefect_mymsp.times import DEFAULT_TRACKING_DAYS, tracking_period

if TYPE_CHECKING:
    from prefect_mymsp.campaign.delivery_schedule import TimeWindow
    from prefect_mymsp.campaign.rate import RateGate


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a plan.

    Attributes:
        max_segments: Maximum number of segments of one message; None for the gateway's limit.
        max_recipients: Maximum number of recipients; None for any number.
        max_rejected: Share of the rows, from 0 to 1, that may be left out because they cannot be sent; None for
            any. Duplicates and suppressed rows do not count.
    """

    max_segments: int | None = None
    max_recipients: int | None = None
    max_rejected: float | None = None

    def __post_init__(self) -> None:
        if self.max_segments is not None and self.max_segments < 1:
            raise InputError(
                "max_segments must be at least 1; leave it out to allow any message that the gateway accepts."
            )
        if self.max_recipients is not None and self.max_recipients < 1:
            raise InputError("max_recipients must be at least 1; leave it out to allow any number.")
        if self.max_rejected is not None and not 0 <= self.max_rejected <= 1:
            raise InputError("max_rejected is a share of the rows, from 0 to 1: 0.05 allows one row in twenty.")


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """Options for looking up scheduled messages in doubt.

    Attributes:
        late_arrival_s: Seconds after which a request with a lost response can no longer arrive.
        cutoff_before_delivery_s: Seconds before the delivery time after which nothing is sent again.
        interval_s: Seconds between two lookups.
    """

    late_arrival_s: float = 30.0
    cutoff_before_delivery_s: float = 60.0
    interval_s: float = 3.0

    @property
    def lookup_margin_s(self) -> float:
        """Seconds before its delivery time for which a message must be scheduled, so that doubt can be looked up."""
        return self.late_arrival_s + self.cutoff_before_delivery_s


@dataclass(frozen=True, slots=True)
class SendOptions:
    """Options for sending a campaign.

    Attributes:
        batch_size: Maximum number of recipients in one request.
        flash: Show the SMS at once instead of storing it.
        destination_port: Port on the phone; None for an ordinary SMS.
        max_consecutive_failures: Requests in doubt in a row, or refusals in a row, that stop the campaign.
        claim_window_s: Seconds of work to claim at once. What is claimed when a process dies is in doubt, so keep
            this short.
        lease_s: Seconds after which another run may take over the claims of a run that no longer renews its lease.
        schedule_ahead_s: Seconds ahead to schedule the messages of a campaign without a delivery time, so that requests
            in doubt can be looked up. None to send at once.
        send_window: Hours in which recipients may get messages. Outside it messages are scheduled to its next opening;
            a campaign's own delivery time is not changed. None for any time.
        messages_per_minute: Rate at which the campaign sends messages at once, at most; the delivery times of
            scheduled messages are spaced out at the same rate. None for no limit.
        workers: Processes that send the campaign at the same time; they share its rate.
        gate: Limit to pass before requests are made; None for none.
        reconcile: How scheduled messages in doubt are looked up.
        shutdown_timeout_s: Seconds that requests in flight may take when the sending is cancelled. Prefect kills a
            cancelled flow run after 30 s.
    """

    batch_size: int = 500
    flash: bool = False
    destination_port: int | None = None
    max_consecutive_failures: int = 20
    claim_window_s: float = 0.065
    lease_s: float = 60.0
    schedule_ahead_s: float | None = None
    send_window: TimeWindow | None = None
    messages_per_minute: float | None = None
    workers: int = 1
    gate: RateGate | None = None
    reconcile: ReconcileOptions = field(default_factory=ReconcileOptions)
    shutdown_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_consecutive_failures", "claim_window_s", "lease_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above zero.")
        if self.workers < 1:
            raise InputError("workers must be at least 1.")
        if self.destination_port is not None:
            protocol.check_port(self.destination_port)
        margin_s = self.reconcile.lookup_margin_s
        if self.schedule_ahead_s is not None and self.schedule_ahead_s < margin_s:
            raise InputError(
                f"The lead time must be at least {margin_s:.0f} s, or requests in doubt could not be looked up "
                "before their delivery time."
            )
        if self.messages_per_minute is not None and not self.messages_per_minute > 0:
            raise InputError("messages_per_minute must be above zero; leave it out to send as fast as possible.")

    @property
    def worker_rate(self) -> float | None:
        """Messages per minute for each of the campaign's workers; None for no limit."""
        return worker_rate(self.messages_per_minute, self.workers)

    @property
    def request_size(self) -> int:
        """Recipients of one text in one request, at most, at the rate of one worker."""
        return request_size(self.batch_size, self.worker_rate)


@dataclass(frozen=True, slots=True)
class FollowOptions:
    """Options for tracking one campaign.

    Attributes:
        deadline_s: Maximum number of seconds to track.
        quiet_s: Seconds without any change after which tracking ends; counted from the delivery time if the campaign
            has one.
        first_pause_s: Seconds between the first two rounds. Each pause is half as long again as the one before it;
            after a change the pauses start over.
        longest_pause_s: Seconds a pause lasts, at most.
        requests_per_minute: Requests per minute, at most.
        use_updates: Whether to read ``getMsgUpdates`` for hints. Reading removes them, so other systems of this account
            cannot read them.
        tracking_days: Days for which a message is tracked, counted from when it was due.
    """

    deadline_s: float = 3600.0
    quiet_s: float = 900.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    requests_per_minute: int = 3000
    use_updates: bool = False
    tracking_days: float = DEFAULT_TRACKING_DAYS


@dataclass(frozen=True, slots=True)
class TrackOptions:
    """Limits of one polling pass over an account.

    Attributes:
        tracking_days: Days for which a message is tracked, counted from when it was due.
        max_requests: Maximum number of results to request. The next pass starts with the remaining ones.
        requests_per_minute: Requests per minute, at most.
        deadline_s: Maximum duration in seconds, not counting responses under way.
        reconcile: How scheduled messages in doubt are looked up.
    """

    tracking_days: float = DEFAULT_TRACKING_DAYS
    max_requests: int = 10_000
    requests_per_minute: int = 3000
    deadline_s: float = 240.0
    reconcile: ReconcileOptions = field(default_factory=ReconcileOptions)

    def __post_init__(self) -> None:
        tracking_period(self.tracking_days)
        if not self.deadline_s > 0 or min(self.max_requests, self.requests_per_minute) < 1:
            raise InputError("max_requests, requests_per_minute and deadline_s must be above zero.")
