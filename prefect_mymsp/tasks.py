"""One task for each endpoint of the gateway, each with an async twin whose name begins with ``a``.

``credentials`` comes first, then the parameters of the client's method. No task takes its result from Prefect's cache:
a second send of the same text is meant, and a status must be fresh. Reads that change nothing are retried. A send, a
change to a scheduled message and the destructive read are not retried, whatever Prefect's settings are. With
``.with_options(retries=…)`` they are retried after failures that provably sent nothing, and after no others.

With ``.map`` write ``unmapped(credentials)``; otherwise Prefect iterates over the block's fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from prefect_mymsp.blocks import MyMSPCredentials
from prefect_mymsp.errors import InDoubtError, RateLimitedError, UnreachableError
from prefect_mymsp.models import ReceivedMessage, ScheduledMessage, SmsResult, Updates


def _failure(state: State[Any]) -> BaseException | None:
    """The exception that a task run ended with; fetches nothing."""
    data = state.data
    return data if isinstance(data, BaseException) else getattr(data, "result", None)


def _had_no_effect(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether the failed request provably had no effect at the gateway."""
    return isinstance(_failure(state), (UnreachableError, RateLimitedError))


def _may_succeed_later(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a read that changes nothing may succeed when it is repeated."""
    return isinstance(_failure(state), (UnreachableError, RateLimitedError, InDoubtError))


_ONCE: dict[str, Any] = {
    "retries": 0,
    "retry_condition_fn": _had_no_effect,
    "cache_policy": NO_CACHE,
}
_READ: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [2, 10, 30],
    "retry_jitter_factor": 0.2,
    "retry_condition_fn": _may_succeed_later,
    "cache_policy": NO_CACHE,
}


@task(**_ONCE)
def send_sms(
    credentials: MyMSPCredentials,
    recipients: str | Iterable[str],
    text: str,
    *,
    sender: str | None = None,
    send_at: datetime | None = None,
    flash: bool = False,
    destination_port: int | None = None,
) -> str:
    """Send a text to one or several recipients; see :meth:`prefect_mymsp.client.MyMSPClient.send`.

    A retried flow runs this task again and sends again. Only campaigns record what they have sent.

    Returns:
        The message id.

    Raises:
        NotSentError: Nothing was sent.
        InDoubtError: It may have been sent. Check at the gateway before you send again.
    """
    with credentials.get_client() as client:
        return client.send(
            recipients,
            text,
            sender=sender,
            send_at=send_at,
            flash=flash,
            destination_port=destination_port,
        )


@task(**_ONCE)
async def asend_sms(
    credentials: MyMSPCredentials,
    recipients: str | Iterable[str],
    text: str,
    *,
    sender: str | None = None,
    send_at: datetime | None = None,
    flash: bool = False,
    destination_port: int | None = None,
) -> str:
    """Send a text to one or several recipients; the async twin of :func:`send_sms`."""
    async with credentials.get_async_client() as client:
        return await client.send(
            recipients,
            text,
            sender=sender,
            send_at=send_at,
            flash=flash,
            destination_port=destination_port,
        )


@task(**_READ)
def fetch_sms_result(credentials: MyMSPCredentials, message_id: str) -> SmsResult:
    """Fetch the delivery status of a message, for each recipient."""
    with credentials.get_client() as client:
        return client.fetch_result(message_id)


@task(**_READ)
async def afetch_sms_result(credentials: MyMSPCredentials, message_id: str) -> SmsResult:
    """Fetch the delivery status of a message; the async twin of :func:`fetch_sms_result`."""
    async with credentials.get_async_client() as client:
        return await client.fetch_result(message_id)


@task(**_READ)
def get_scheduled_time(credentials: MyMSPCredentials, message_id: str) -> datetime | None:
    """Return the time a scheduled message will be sent, in UTC; None when the message is not scheduled."""
    with credentials.get_client() as client:
        return client.get_scheduled_time(message_id)


@task(**_READ)
async def aget_scheduled_time(credentials: MyMSPCredentials, message_id: str) -> datetime | None:
    """Return the time a scheduled message will be sent; the async twin of :func:`get_scheduled_time`."""
    async with credentials.get_async_client() as client:
        return await client.get_scheduled_time(message_id)


@task(**_READ)
def list_scheduled(credentials: MyMSPCredentials) -> list[ScheduledMessage]:
    """List all scheduled messages of the account, in the gateway's order."""
    with credentials.get_client() as client:
        return client.list_scheduled()


@task(**_READ)
async def alist_scheduled(credentials: MyMSPCredentials) -> list[ScheduledMessage]:
    """List all scheduled messages; the async twin of :func:`list_scheduled`."""
    async with credentials.get_async_client() as client:
        return await client.list_scheduled()


@task(**_ONCE)
def update_scheduled_time(credentials: MyMSPCredentials, message_id: str, send_at: datetime) -> None:
    """Move a scheduled message to another time; ``send_at`` is aware and rounded up to the minute."""
    with credentials.get_client() as client:
        client.reschedule(message_id, send_at)


@task(**_ONCE)
async def aupdate_scheduled_time(credentials: MyMSPCredentials, message_id: str, send_at: datetime) -> None:
    """Move a scheduled message to another time; the async twin of :func:`update_scheduled_time`."""
    async with credentials.get_async_client() as client:
        await client.reschedule(message_id, send_at)


@task(**_ONCE)
def cancel_scheduled(credentials: MyMSPCredentials, message_id: str) -> None:
    """Cancel a scheduled message."""
    with credentials.get_client() as client:
        client.cancel(message_id)


@task(**_ONCE)
async def acancel_scheduled(credentials: MyMSPCredentials, message_id: str) -> None:
    """Cancel a scheduled message; the async twin of :func:`cancel_scheduled`."""
    async with credentials.get_async_client() as client:
        await client.cancel(message_id)


@task(**_READ)
def fetch_inbox(credentials: MyMSPCredentials, after_id: str | int = 0) -> list[ReceivedMessage]:
    """Fetch received messages with an id above ``after_id``, unsorted; reading does not remove them."""
    with credentials.get_client() as client:
        return client.fetch_inbox(after_id)


@task(**_READ)
async def afetch_inbox(credentials: MyMSPCredentials, after_id: str | int = 0) -> list[ReceivedMessage]:
    """Fetch received messages; the async twin of :func:`fetch_inbox`."""
    async with credentials.get_async_client() as client:
        return await client.fetch_inbox(after_id)


@task(**_ONCE)
def fetch_updates(credentials: MyMSPCredentials) -> Updates:
    """Fetch the updates that were not fetched before; the gateway removes them. Store ``raw`` before you use the rest.

    An InDoubtError from this task holds in ``raw`` the bytes that had arrived.
    """
    with credentials.get_client() as client:
        return client.fetch_updates()


@task(**_ONCE)
async def afetch_updates(credentials: MyMSPCredentials) -> Updates:
    """Fetch the updates that were not fetched before; the async twin of :func:`fetch_updates`."""
    async with credentials.get_async_client() as client:
        return await client.fetch_updates()
