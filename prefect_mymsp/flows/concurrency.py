"""What Prefect has to say before a campaign may go: when its run was to begin, and a global concurrency limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import rate_limit
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from prefect_mymsp.errors import ConfigurationError, LimitError

if TYPE_CHECKING:
    from prefect_mymsp.campaign import RateGate


def refuse_late(campaign: str, max_late_s: float, last_active: datetime | None) -> None:
    """Refuse a run that begins long after its time: what was right then may be wrong or unwelcome now.

    A campaign that was being sent a short while ago, and now is started again, is not late: a crash must not end it.
    That of a run within another one which began late itself is as late as that one.

    Args:
        campaign: The campaign's name.
        max_late_s: Seconds after its time that a run may begin.
        last_active: When the campaign was last being sent, aware; None when it never was.

    Raises:
        LimitError: It begins later than that.
    """
    scheduled = runtime.flow_run.get_scheduled_start_time() - _lateness_above()
    since = max(scheduled, last_active) if last_active is not None else scheduled
    late_s = (datetime.now(UTC) - since).total_seconds()
    if late_s <= max_late_s:
        return
    what = "was last being sent" if since is last_active else "was to begin"
    raise LimitError(
        f"Campaign {campaign!r} {what} at {since.astimezone(UTC):%Y-%m-%d %H:%M} UTC, {_told(late_s)} ago; max_late_s "
        f"allows {_told(max_late_s)}. Nothing was sent now. If it is still right to send it, start "
        f"it again under the name {campaign!r}, with a larger max_late_s."
    )


def _lateness_above() -> timedelta:
    """How late the outermost flow run began in which this one runs."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.parent_task_run_id is None:
        return timedelta()
    try:
        with get_client(sync_client=True) as client:
            outermost = client.read_flow_run(UUID(runtime.flow_run.get_root_flow_run_id()))
    except httpx.HTTPError as error:
        raise ConfigurationError(f"Prefect's server does not say how late it is ({type(error).__name__}).") from None
    if outermost.start_time is None or outermost.expected_start_time is None:
        return timedelta()
    late: timedelta = outermost.start_time - outermost.expected_start_time
    return max(timedelta(), late)


def _told(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def concurrency_gate(name: str) -> RateGate | None:
    """One of Prefect's global concurrency limits as a gate: each request takes a slot, which decays by itself.

    Args:
        name: The limit's name.

    Returns:
        The gate; None, with a warning, when there is no limit of that name.

    Raises:
        ConfigurationError: Slots of that limit do not decay.
    """
    from prefect_mymsp.campaign import RateGate

    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            get_run_logger().warning("There is no global concurrency limit %r; requests are not limited by it.", name)
            return None
        except httpx.HTTPError as error:
            raise ConfigurationError(
                f"Prefect's server does not say whether there is a concurrency limit {name!r} ({type(error).__name__})."
            ) from None
    if not limit.slot_decay_per_second > 0:
        raise ConfigurationError(
            f"The slots of the concurrency limit {name!r} do not decay, so they would not come back. Give it a slot "
            "decay: the requests a second it is to allow."
        )

    # About a second's worth at a time: fewer questions, and no long wait for many slots at once.
    return RateGate(_Slots(name), max_requests=max(1, min(limit.limit, math.ceil(limit.slot_decay_per_second))))


@dataclass(frozen=True)
class _Slots:
    """Takes slots of a concurrency limit; a class, so that it travels to other machines."""

    name: str

    async def __call__(self, requests: int) -> None:
        try:
            await rate_limit(self.name, occupy=requests, strict=True)
        except Exception as error:  # noqa: BLE001  whatever keeps Prefect's server from answering
            raise ConfigurationError(
                f"The concurrency limit {self.name!r} gave no slots ({type(error).__name__}); see that it is there and "
                "that Prefect's server answers."
            ) from None
