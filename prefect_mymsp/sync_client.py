"""The gateway for code without asyncio: :class:`MyMSPClient` runs an asynchronous client on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from zoneinfo import ZoneInfo

from prefect_mymsp.client import (
    DEFAULT_BASE_URL,
    DEFAULT_CONNECTIONS,
    DEFAULT_RETRY_FOR_S,
    DEFAULT_TIMEOUT_S,
    DEFAULT_TIMEZONE,
    AsyncMyMSPClient,
)
from prefect_mymsp.errors import NoResponseError, UnreachableError
from prefect_mymsp.models import Inbox, ReceivedMessage, ScheduledMessage, SmsResult, Updates

#: Seconds that calls in flight get to fail when the client is closed. Then they are cancelled.
_CLOSE_S = 1.0

T = TypeVar("T")


class _LoopThread:
    """An event loop on a thread, with the asynchronous client that belongs to it."""

    def __init__(self, client: AsyncMyMSPClient) -> None:
        """Start the thread.

        Raises:
            RuntimeError: The interpreter is shutting down.
        """
        self._client = client
        #: Calls that were still in flight a while after the client was closed.
        self._abandoned: frozenset[asyncio.Task[Any] | None] = frozenset()
        self._loop = asyncio.new_event_loop()
        self._resolver = ThreadPoolExecutor(4, thread_name_prefix="mymsp-resolver")
        self._loop.set_default_executor(self._resolver)
        self._thread = threading.Thread(target=self._run, name="mymsp-client", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._loop.close()
            raise

    def _run(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            # Signals are the main thread's: one that was delivered here would not interrupt its wait for a call.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._loop.run_forever()
        finally:
            self._resolver.shutdown(wait=False, cancel_futures=True)
            self._loop.close()

    def submit(self, function: Callable[[AsyncMyMSPClient], Coroutine[Any, Any, T]]) -> Future[T]:
        """Start a call on the loop. Cancelling the future cancels the call.

        Raises:
            RuntimeError: The loop has ended.
        """
        call = self._call(function)
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError:
            call.close()
            raise

    async def _call(self, function: Callable[[AsyncMyMSPClient], Coroutine[Any, Any, T]]) -> T:
        task = asyncio.current_task()
        try:
            return await function(self._client)
        except asyncio.CancelledError:
            if task in self._abandoned:
                raise NoResponseError(
                    "The client was closed while the request was in flight.", reason="connection-lost"
                ) from None
            raise

    def stop_retrying(self) -> None:
        """See :meth:`AsyncMyMSPClient.stop_retrying`."""
        self._loop.call_soon_threadsafe(self._client.stop_retrying)

    def stop(self) -> None:
        """Close the connections, let all calls fail, and end the thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)
        if threading.current_thread() is not self._thread:  # garbage may be collected on any thread
            self._thread.join()

    async def _shut_down(self) -> None:
        try:
            with contextlib.suppress(Exception):  # a connection that fails to close must not keep its call waiting
                await self._client.aclose()
            calls = asyncio.all_tasks() - {asyncio.current_task()}
            if calls:
                _, unfinished = await asyncio.wait(calls, timeout=_CLOSE_S)
                self._abandoned = frozenset(unfinished)
                for call in unfinished:
                    call.cancel()
                await asyncio.gather(*unfinished, return_exceptions=True)
        finally:
            self._loop.stop()


class MyMSPClient:
    """The gateway's eight endpoints, for code without asyncio. Use it as a context manager.

    The methods, their arguments and their errors are those of :class:`~prefect_mymsp.client.AsyncMyMSPClient`. Several
    threads may share a client. Its thread starts with the first call and ends with :meth:`close`, or when the client is
    garbage. A call that is interrupted, for example with Ctrl-C, closes its connection: the gateway may have acted on
    the request. A forked process starts a thread and connections of its own.

    Inside a running event loop a call blocks that loop; use the asynchronous client there.

    Example:
        ```python
        from prefect_mymsp.sync_client import MyMSPClient

        def hello(user: str, password: str) -> str:
            with MyMSPClient(user, password) as client:
                return client.send(["46701740605"], "Hello!")
        ```
    """

    def __init__(
        self,
        user: str,
        password: str,
        *,
        base_url: str = DEFAULT_BASE_URL,
        timezone: str = DEFAULT_TIMEZONE,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry_for_s: float = DEFAULT_RETRY_FOR_S,
        connections: int = DEFAULT_CONNECTIONS,
    ) -> None:
        """Create a client. It connects with the first request.

        Args:
            user: The account's user.
            password: The account's password. User and password are sent in POST bodies only.
            base_url: The address of the endpoints; https, or http on loopback.
            timezone: IANA zone of the times that the gateway writes without an offset.
            timeout_s: Seconds to connect, and seconds until the complete response has arrived; a day at most.
            retry_for_s: Seconds to retry requests that did not reach the gateway or got HTTP 429.
            connections: Requests in flight at once, at most.

        Raises:
            ConfigurationError: A setting is invalid.
        """
        #: Makes no requests: each loop thread has a clone of it.
        self._settings = AsyncMyMSPClient(
            user,
            password,
            base_url=base_url,
            timezone=timezone,
            timeout_s=timeout_s,
            retry_for_s=retry_for_s,
            connections=connections,
        )
        self._lock = threading.Lock()
        self._loop_thread: _LoopThread | None = None
        self._finalizer: weakref.finalize[..., MyMSPClient] | None = None
        self._retries_stopped = False
        _clients.add(self)

    @property
    def base_url(self) -> str:
        """The address of the endpoints."""
        return self._settings.base_url

    @property
    def zone(self) -> ZoneInfo:
        """The zone of times that the gateway writes without an offset."""
        return self._settings.zone

    @property
    def timeout_s(self) -> float:
        """Seconds until the complete response must have arrived."""
        return self._settings.timeout_s

    @property
    def retry_for_s(self) -> float:
        """Seconds to retry requests that were not sent."""
        return self._settings.retry_for_s

    @property
    def connections(self) -> int:
        """Requests in flight at once, at most."""
        return self._settings.connections

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. A later call starts anew.

        Calls in flight on other threads fail as in doubt. Calls that wait for a connection or for a retry fail as not
        sent.
        """
        with self._lock:
            finalizer, self._finalizer, self._loop_thread = self._finalizer, None, None
            self._retries_stopped = False
        if finalizer is not None:
            finalizer()

    def stop_retrying(self) -> None:
        """Retry nothing from now on. Calls that wait for a retry fail at once, as not sent."""
        with self._lock:
            self._retries_stopped = True
            if self._loop_thread is not None:
                self._loop_thread.stop_retrying()

    def _call(self, function: Callable[[AsyncMyMSPClient], Coroutine[Any, Any, T]]) -> T:
        future: Future[T] | None = None
        try:
            with self._lock:
                future = self._submit(function)
            return future.result()
        except BaseException:
            if future is not None:  # interrupted: the call must not go on by itself
                future.cancel()
            raise
        finally:
            del future  # an error, its traceback and the future would keep each other alive

    def _submit(self, function: Callable[[AsyncMyMSPClient], Coroutine[Any, Any, T]]) -> Future[T]:
        try:
            return self._running_loop_thread().submit(function)
        except RuntimeError:
            raise UnreachableError("The request was not sent: the interpreter is shutting down.") from None

    def _running_loop_thread(self) -> _LoopThread:
        # While the interpreter shuts down, the finalizer ends the thread, and a program may still make calls.
        if self._loop_thread is None or self._finalizer is None or not self._finalizer.alive:
            client = self._settings.clone()
            if self._retries_stopped:
                client.stop_retrying()
            self._loop_thread = _LoopThread(client)
            self._finalizer = weakref.finalize(self, self._loop_thread.stop)
        return self._loop_thread

    def _forget_loop_thread(self) -> None:
        """In a forked process the thread does not exist, and its sockets and selector belong to the parent."""
        self._lock = threading.Lock()
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._loop_thread is not None:
            _inherited.append(self._loop_thread)
        self._finalizer = self._loop_thread = None

    def send(
        self,
        recipients: str | Iterable[str],
        text: str,
        *,
        sender: str | None = None,
        send_at: datetime | None = None,
        flash: bool = False,
        destination_port: int | None = None,
    ) -> str:
        """Send a text; see :meth:`AsyncMyMSPClient.send <prefect_mymsp.client.AsyncMyMSPClient.send>`."""
        return self._call(
            lambda client: client.send(
                recipients,
                text,
                sender=sender,
                send_at=send_at,
                flash=flash,
                destination_port=destination_port,
            )
        )

    def fetch_result(self, message_id: str) -> SmsResult:
        """Fetch the result of a message, with a status for each recipient (4.2)."""
        return self._call(lambda client: client.fetch_result(message_id))

    def get_scheduled_time(self, message_id: str) -> datetime | None:
        """Get the time at which a message will be sent, in UTC; None if it has none (4.3.1)."""
        return self._call(lambda client: client.get_scheduled_time(message_id))

    def list_scheduled(self) -> list[ScheduledMessage]:
        """List all messages that wait for their scheduled time, in the gateway's order (4.3.2)."""
        return self._call(lambda client: client.list_scheduled())

    def reschedule(self, message_id: str, send_at: datetime) -> None:
        """Change the time of a scheduled message (4.3.4). The time is aware, and rounded up to the minute."""
        self._call(lambda client: client.reschedule(message_id, send_at))

    def cancel(self, message_id: str) -> None:
        """Cancel a scheduled message (4.3.5)."""
        self._call(lambda client: client.cancel(message_id))

    def fetch_inbox(self, after_id: str | int = 0) -> list[ReceivedMessage]:
        """Fetch received messages with an id above ``after_id``, in no order (4.4). They stay at the gateway."""
        return self._call(lambda client: client.fetch_inbox(after_id))

    def fetch_inbox_lenient(self, after_id: str | int = 0) -> Inbox:
        """Fetch received messages as :meth:`fetch_inbox` does, and records that cannot be read as text."""
        return self._call(lambda client: client.fetch_inbox_lenient(after_id))

    def fetch_raw_updates(self) -> bytes:
        """Fetch the updates that were not fetched before, as bytes (4.5). This removes them from the gateway."""
        return self._call(lambda client: client.fetch_raw_updates())

    def fetch_updates(self) -> Updates:
        """Fetch the updates that were not fetched before (4.5). This removes them from the gateway."""
        return self._call(lambda client: client.fetch_updates())

    def parse_updates(self, raw: bytes) -> Updates:
        """Parse the bytes of :meth:`fetch_raw_updates`."""
        return self._settings.parse_updates(raw)


_clients: weakref.WeakSet[MyMSPClient] = weakref.WeakSet()
#: Loop threads of the parent process. Closing one would change the parent's selector, so they are kept.
_inherited: list[_LoopThread] = []


def _after_fork() -> None:
    for client in _clients:
        client._forget_loop_thread()  # noqa: SLF001  its own module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
