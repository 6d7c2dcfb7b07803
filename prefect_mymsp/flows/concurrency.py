"""Values from Prefect's server: the scheduled start of a run, and slots of a global concurrency limit."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import rate_limit
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.flows.campaign_request import CampaignRequest

if TYPE_CHECKING:
    from prefect_mymsp.campaign import RateGate


def scheduled_start() -> datetime:
    """When this run was scheduled to start, aware. A run inside another one is as late as the outermost run."""
    started: datetime = runtime.flow_run.get_scheduled_start_time() - _delay_of_outermost_run()
    return started


def _delay_of_outermost_run() -> timedelta:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.parent_task_run_id is None:
        return timedelta()
    try:
        with get_client(sync_client=True) as client:
            outermost = client.read_flow_run(UUID(runtime.flow_run.get_root_flow_run_id()))
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"The scheduled start of the run cannot be read from Prefect's API ({type(error).__name__})."
        ) from None
    if outermost.start_time is None or outermost.expected_start_time is None:
        return timedelta()
    delay: timedelta = outermost.start_time - outermost.expected_start_time
    return max(timedelta(), delay)


def with_concurrency_limit(request: CampaignRequest) -> CampaignRequest:
    """The same request, with its global concurrency limit as the gate that each HTTP request passes.

    Raises:
        ConfigurationError: The slots of the limit do not decay, or Prefect's API cannot be reached.
    """
    if request.concurrency_limit is None:
        return request
    options = dataclasses.replace(request.send_options, gate=concurrency_gate(request.concurrency_limit))
    return dataclasses.replace(request, send_options=options)


def concurrency_gate(name: str) -> RateGate | None:
    """A global concurrency limit as a gate: each request takes a slot, which is freed by its decay.

    Args:
        name: The limit's name.

    Returns:
        The gate; None, with a warning, when there is no limit of that name.

    Raises:
        ConfigurationError: The slots of the limit do not decay, or Prefect's API cannot be reached.
    """
    from prefect_mymsp.campaign import RateGate

    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            get_run_logger().warning("There is no global concurrency limit %r, so it does not limit requests.", name)
            return None
        except httpx.HTTPError as error:
            raise ConfigurationError(
                f"concurrency_limit: {name!r} cannot be read from Prefect's API ({type(error).__name__})."
            ) from None
    if not limit.slot_decay_per_second > 0:
        raise ConfigurationError(
            f"concurrency_limit: the slots of {name!r} do not decay, so they would never be freed. Set its slot "
            "decay to the requests per second that it should allow."
        )

    # About a second's worth at a time: few calls, and no long wait for many slots at once.
    max_requests = max(1, min(limit.limit, math.ceil(limit.slot_decay_per_second)))
    return RateGate(_Slots(name), max_requests=max_requests)


@dataclass(frozen=True)
class _Slots:
    """Takes slots of a concurrency limit. It is a class, so that it can be pickled for other machines."""

    name: str

    async def __call__(self, requests: int) -> None:
        try:
            await rate_limit(self.name, occupy=requests, strict=True)
        except Exception as error:  # noqa: BLE001  any failure of Prefect's API
            raise ConfigurationError(
                f"concurrency_limit: {self.name!r} gave no slots ({type(error).__name__}). Check that it still "
                "exists and that Prefect's API can be reached."
            ) from None
