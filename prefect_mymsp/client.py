"""The gateway over HTTPS: one synchronous and one asynchronous client over the same protocol functions.

Each method is one request. A failure lands on one side of the fork drawn in :mod:`prefect_mymsp.errors`: either
nothing was sent, or it may have been. What provably never reached the gateway, and what it turned away unprocessed
with HTTP 429, is tried again for ``retry_for_s`` seconds; nothing else ever is. This is the only place that retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import random
import ssl
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from types import TracebackType
from typing import Generic, Self, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx

from prefect_mymsp import protocol
from prefect_mymsp.errors import (
    ConfigurationError,
    MyMSPError,
    NoAnswerError,
    ProtocolError,
    RateLimitedError,
    UnexpectedStatusError,
    UnreachableError,
)
from prefect_mymsp.models import Inbox, ReceivedMessage, ScheduledMessage, SmsResult, Updates
from prefect_mymsp.transport import (
    KeepAlivePolicy,
    SingleConnectionTransport,
    SyncSingleConnectionTransport,
    environment_proxy,
)

DEFAULT_BASE_URL = "https://mymsp.21st.se/external"
DEFAULT_TIMEZONE = "Europe/Stockholm"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_RETRY_FOR_S = 5.0
#: Requests in flight at once. More lanes cost more than they bring on loopback; at 20 ms they carry 800 a second.
DEFAULT_CONNECTIONS = 16

_HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "text/plain, */*;q=0.1",
    "Accept-Encoding": "identity",
    "User-Agent": "prefect-mymsp",
}
#: Shorter than what common servers keep an idle connection open, so that none is written to while it is closing.
_KEEPALIVE_S = 3.0
#: The longest wait for an answer: systems cannot count any number of seconds.
MAX_TIMEOUT_S = 86_400.0
#: An answer larger than this is not the gateway's; a million recipients fit.
_MAX_ANSWER_BYTES = 256 * 1024 * 1024

#: All that a connection may raise; OSError and ValueError are what httpx lets through from below.
_TRANSPORT_FAILURES = (httpx.HTTPError, httpx.StreamError, OSError, ValueError)

T = TypeVar("T")
L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """One request: where, what, and how its answer is read."""

    endpoint: str
    body: bytes = field(repr=False)
    parse: Callable[[protocol.Response], T]
    #: Reading removes it from the gateway: whatever arrived must come out, even with an error.
    destructive: bool = False


def check_base_url(base_url: str) -> str:
    """The base URL without a trailing slash; a bare host gets the vendor's ``/external``.

    Raises:
        ConfigurationError: Not https (plain http is for loopback only), or it holds credentials, a query or a fragment.
    """
    try:
        url = httpx.URL(base_url.strip())
        host = url.host  # a host that is no valid IDNA fails here, not above
    except (httpx.InvalidURL, TypeError, ValueError):
        raise ConfigurationError("base_url is not a URL.") from None
    if url.userinfo or "?" in base_url or "#" in base_url:
        raise ConfigurationError("base_url must hold neither credentials nor a query; user and password are settings.")
    if not host or url.scheme not in {"https", "http"} or not 0 < (url.port or 443) < 65536:
        raise ConfigurationError(f"base_url must look like {DEFAULT_BASE_URL}.")
    if url.scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(
            f"base_url must be https: over plain http the password and every number and text could be read on the way "
            f"to {host}. Plain http is for a gateway on this machine only."
        )
    path = url.raw_path.rstrip(b"/") or b"/external"
    return str(url.copy_with(raw_path=path))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_timezone(timezone: str) -> ZoneInfo:
    """The zone by its IANA name.

    Raises:
        ConfigurationError: There is no such zone.
    """
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        raise ConfigurationError(
            f"There is no time zone {timezone!r}; use an IANA name such as Europe/Stockholm."
        ) from None


class _Gateway:
    """What both clients share: settings, the eight calls, and the reading of answers and failures."""

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
        """Make a client; no connection is opened before the first request.

        Args:
            user: The account's user.
            password: Its password. Both travel in POST bodies alone.
            base_url: Where the endpoints live; https, or http on loopback.
            timezone: IANA zone of the times the gateway writes without one.
            timeout_s: Seconds to connect, and seconds until a whole answer must have come; a day at most.
            retry_for_s: Seconds to keep trying what never reached the gateway or was answered with 429.
            connections: Requests in flight at once, at most.

        Raises:
            ConfigurationError: A setting is wrong.
        """
        if not user or not password:
            raise ConfigurationError("User and password must not be empty.")
        if not 0 < timeout_s <= MAX_TIMEOUT_S or not retry_for_s >= 0 or connections < 1:
            raise ConfigurationError(
                "timeout_s and connections must be above zero, retry_for_s not below, and timeout_s a day at most."
            )
        self._login = protocol.Login(user, password)
        self.base_url = check_base_url(base_url)
        self._host = httpx.URL(self.base_url).host
        self.zone = check_timezone(timezone)
        self.timeout_s = timeout_s
        self.retry_for_s = retry_for_s
        self.connections = connections
        # On loopback the environment's proxies are not for us: plain http through one would show it the password.
        self._trust_env = self.base_url.startswith("https")
        self._timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0))
        self._urls: dict[str, httpx.URL] = {}
        self._reuse = KeepAlivePolicy()
        self._prepare()

    def _prepare(self) -> None: ...

    @cached_property
    def _context(self) -> ssl.SSLContext:
        if not self.base_url.startswith("https"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used; httpx's own costs 20 ms
        context = httpx.create_ssl_context()  # certifi's CAs, or those SSL_CERT_FILE and SSL_CERT_DIR name
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _another(self, lane: Callable[..., L], proxied: Callable[..., L]) -> L:
        """A connection to be: our own, or httpx's when the environment names a proxy."""
        proxy = environment_proxy(self._host) if self._trust_env else None
        if proxy is None:
            return lane(self._context, self._reuse, keepalive_s=_KEEPALIVE_S)
        try:
            # What an answer leaves over would be the beginning of the next one: no connection is used twice here.
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=0)
            return proxied(verify=self._context, limits=limits, proxy=proxy)
        except (ImportError, ValueError, httpx.InvalidURL):
            # Its URL may hold a password.
            raise ConfigurationError("The environment names a proxy that httpx cannot use as it is.") from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"

    # -- the eight calls ---------------------------------------------------------------------------------------

    def _send(
        self,
        recipients: str | Iterable[str],
        text: str,
        sender: str | None,
        send_at: datetime | None,
        flash: bool,
        destination_port: int | None,
    ) -> _Call[str]:
        body = protocol.build_send(
            self._login,
            recipients,
            text,
            originator=sender,
            send_at=send_at,
            flash=flash,
            destination_port=destination_port,
        )
        return _Call(protocol.SEND, body, protocol.parse_send)

    def _result(self, message_id: str) -> _Call[SmsResult]:
        body = protocol.build_result(self._login, message_id)
        return _Call(protocol.RESULT, body, lambda answer: protocol.parse_result(answer, str(message_id)))

    def _delivery_time(self, message_id: str) -> _Call[datetime | None]:
        body = protocol.build_scheduled_time(self._login, message_id)
        return _Call(
            protocol.SCHEDULED_TIME, body, lambda answer: protocol.parse_scheduled_time(answer, str(message_id))
        )

    def _scheduled(self) -> _Call[list[ScheduledMessage]]:
        return _Call(protocol.SCHEDULED, protocol.build_scheduled(self._login), protocol.parse_scheduled)

    def _reschedule(self, message_id: str, send_at: datetime) -> _Call[None]:
        body = protocol.build_reschedule(self._login, message_id, send_at)
        return _Call(
            protocol.RESCHEDULE, body, lambda answer: protocol.parse_acknowledgement(answer, protocol.RESCHEDULE)
        )

    def _cancel(self, message_id: str) -> _Call[None]:
        body = protocol.build_cancel(self._login, message_id)
        return _Call(protocol.CANCEL, body, lambda answer: protocol.parse_acknowledgement(answer, protocol.CANCEL))

    def _inbox(self, after_id: str | int) -> _Call[list[ReceivedMessage]]:
        return _Call(protocol.INBOX, protocol.build_inbox(self._login, after_id), protocol.parse_inbox)

    def _read_inbox(self, after_id: str | int) -> _Call[Inbox]:
        return _Call(protocol.INBOX, protocol.build_inbox(self._login, after_id), protocol.parse_inbox_lenient)

    def _collect(self) -> _Call[bytes]:
        return _Call(
            protocol.UPDATES, protocol.build_updates(self._login), protocol.parse_raw_updates, destructive=True
        )

    def _updates(self) -> _Call[Updates]:
        return _Call(protocol.UPDATES, protocol.build_updates(self._login), protocol.parse_updates, destructive=True)

    def parse_updates(self, raw: bytes) -> Updates:
        """Read what :meth:`fetch_raw_updates` returned; its charset is guessed, since no header is kept.

        Raises:
            ProtocolError: It is no answer of ``getMsgUpdates``.
            RefusedError: It is a refusal.
        """
        return protocol.parse_updates(protocol.Response(raw, None, self.zone))

    # -- answers and failures ----------------------------------------------------------------------------------

    def _request(self, call: _Call[T]) -> httpx.Request:
        url = self._urls.get(call.endpoint)
        if url is None:
            url = self._urls[call.endpoint] = httpx.URL(f"{self.base_url}/{call.endpoint}")
        extensions = {"timeout": self._timeout.as_dict()}
        return httpx.Request("POST", url, headers=_HEADERS, content=call.body, extensions=extensions)

    def _heard(
        self,
        call: _Call[T],
        lane: httpx.AsyncBaseTransport | httpx.BaseTransport,
        response: httpx.Response,
        body: bytes,
    ) -> T:
        """The answer's value, or the error it stands for.

        After anything but a success the connection is not used again: a refusal may come once more, and late. The next
        request would look refused, and its message would be sent again. Likewise after an id that came before: from
        then on each answer may be the one to the request before.
        """
        own = (
            lane if isinstance(lane, (SingleConnectionTransport, SyncSingleConnectionTransport)) else None
        )  # httpx's are used once
        try:
            value = self._read(call, response, body)
        except MyMSPError:
            if own is not None:
                own.leave()
            raise
        if own is not None and call.endpoint == protocol.SEND:
            if value == own.last_message_id:
                own.leave()
            own.last_message_id = str(value)
        return value

    def _read(self, call: _Call[T], response: httpx.Response, body: bytes) -> T:
        """The answer's value, or the error it stands for."""
        status = response.status_code
        raw = body if call.destructive else None
        try:
            body = _unpacked(response, body)
        except ValueError:
            raise ProtocolError(
                f"{call.endpoint}: the answer cannot be decompressed.", reason="unreadable", raw=raw
            ) from None
        raw = body if call.destructive else None
        answer = protocol.Response(body, response.headers.get("content-type"), self.zone)
        try:
            if 200 <= status < 300:
                return call.parse(answer)
            if status == 429:
                after = _retry_after_s(response.headers.get("retry-after"))
                asked = "" if after is None else f" and asked to wait {after:.0f} s"
                raise RateLimitedError(
                    f"{call.endpoint}: the gateway has too much to do (HTTP 429){asked}.", retry_after_s=after
                )
            if 400 <= status < 500:
                # A plain N and a code is the gateway's own refusal, whatever status carries it. Never an A.
                with contextlib.suppress(ProtocolError):
                    protocol.parse_acknowledgement(answer, call.endpoint)
            raise UnexpectedStatusError(
                f"{call.endpoint}: the gateway answered HTTP {status}, which does not say what became of the request.",
                status=status,
                raw=raw,
            )
        except ProtocolError as error:
            error.raw = raw
            raise

    def _failure(self, call: _Call[T], error: Exception, arrived: bytes) -> MyMSPError:
        """Which side of the fork a transport failure lands on; the answer to "was it sent?"."""
        host = self._host
        if isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout)):
            return UnreachableError(f"{call.endpoint}: no connection to {host} in time.")
        if isinstance(error, httpx.ProxyError):
            return UnreachableError(f"{call.endpoint}: the proxy on the way to {host} refused.")
        if isinstance(error, httpx.ConnectError):
            what = "TLS failed" if _is_tls(error) else "no connection"
            return UnreachableError(f"{call.endpoint}: {what} to {host} ({_cause(error)}).")
        if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            return UnreachableError(f"{call.endpoint}: the request could not be made ({type(error).__name__}).")
        raw = arrived if call.destructive else None
        if isinstance(error, (httpx.TimeoutException, TimeoutError)):
            return NoAnswerError(
                f"{call.endpoint}: no whole answer within {self.timeout_s:g} s.", reason="timeout", raw=raw
            )
        return NoAnswerError(
            f"{call.endpoint}: the connection was lost before the answer had come ({type(error).__name__}).",
            reason="connection-lost",
            raw=raw,
        )


def _cause(error: BaseException) -> str:
    """The innermost reason of a connection failure, by its name: texts of other libraries may hold anything."""
    while error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(error, OSError) or error.strerror is None:
        return type(error).__name__
    # asyncio writes addresses there; what TLS and the resolver write has numbers of its own.
    if error.errno is not None and error.errno in errno.errorcode and type(error).__module__ == "builtins":
        return os.strerror(error.errno)
    return str(error.strerror)


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _retry_after_s(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header in either of its forms (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


class _Patience:
    """When to try again what was not sent: doubling pauses with jitter, or what the gateway asks for."""

    def __init__(self, retry_for_s: float) -> None:
        self._until = time.monotonic() + retry_for_s
        self._pause_s = 0.2

    def pause_after(self, error: UnreachableError | RateLimitedError) -> float:
        """Seconds to wait before the next try.

        Raises:
            UnreachableError: Patience ends before the next try would begin.
            RateLimitedError: Likewise.
        """
        pause = self._pause_s * random.uniform(0.75, 1.25)  # noqa: S311  jitter, not a secret
        self._pause_s = min(self._pause_s * 2, 10.0)
        if isinstance(error, RateLimitedError) and error.retry_after_s is not None:
            pause = error.retry_after_s + pause * 0.1
        if time.monotonic() + pause > self._until:
            raise error
        return pause


def _unpacked(response: httpx.Response, body: bytes) -> bytes:
    """The body without the compression that nobody asked for.

    Raises:
        ValueError: It cannot be decompressed, or not to its end: an id would lose its last digits.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    if not body or coding not in {"gzip", "x-gzip", "deflate"}:
        return body  # servers are known to write a charset here
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either of the two, as its first bytes say
    try:
        unpacked = unpacking.decompress(body, _MAX_ANSWER_BYTES)
    except zlib.error as error:
        raise ValueError(coding) from error
    if not unpacking.eof or unpacking.unused_data:
        raise ValueError(coding)
    return unpacked


def _append(arrived: bytearray, chunk: bytes, late: bool, deadline: float) -> bool:
    """Take a piece of an answer; returns whether it came late, so that it must have been the last."""
    arrived += chunk
    if len(arrived) > _MAX_ANSWER_BYTES:
        raise httpx.ReadError("answer too large")
    # Each piece has a timeout of its own: a gateway that answers a byte at a time would hold a connection for ever. But
    # what is whole when it comes late says what became of the request.
    if late:
        raise httpx.ReadTimeout("answer too slow")
    return time.monotonic() > deadline


class MyMSPClient(_Gateway):
    """The eight endpoints, synchronously. Use it as a context manager; it may be shared between threads.

    Every method raises :class:`~prefect_mymsp.errors.InputError` for what cannot be sent,
    :class:`~prefect_mymsp.errors.RefusedError` when the gateway refuses,
    :class:`~prefect_mymsp.errors.UnreachableError` or :class:`~prefect_mymsp.errors.RateLimitedError` when the gateway
    did not act, and :class:`~prefect_mymsp.errors.InDoubtError` when it may have.

    Example:
        ```python
        from prefect_mymsp.client import MyMSPClient

        def hello(user: str, password: str) -> str:
            with MyMSPClient(user, password) as client:
                return client.send(["46701740605"], "Hello!")
        ```
    """

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.Semaphore(self.connections)
        self._idle: list[httpx.BaseTransport] = []
        self._made: list[httpx.BaseTransport] = []
        self._hurried = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call would open new ones."""
        with self._lock:
            made = self._made
            self._prepare()
        for lane in made:
            lane.close()

    def stop_retrying(self) -> None:
        """Try nothing again from now on: calls that wait to do so fail at once, as not sent."""
        self._hurried.set()

    @contextlib.contextmanager
    def _lane(self) -> Iterator[httpx.BaseTransport]:
        with self._free:
            with self._lock:
                made = self._made
                if self._idle:
                    lane = self._idle.pop()
                else:
                    lane = self._another(SyncSingleConnectionTransport, httpx.HTTPTransport)
                    made.append(lane)
            try:
                yield lane
            finally:
                with self._lock:
                    if made is self._made:
                        self._idle.append(lane)
                    else:  # closed by close() in the meantime
                        lane.close()

    def _run(self, call: _Call[T]) -> T:
        patience = _Patience(self.retry_for_s)
        while True:
            try:
                with self._lane() as lane:
                    return self._once(call, lane)
            except (UnreachableError, RateLimitedError) as error:
                if self._hurried.wait(patience.pause_after(error)):
                    raise

    def _once(self, call: _Call[T], lane: httpx.BaseTransport) -> T:
        arrived, late = bytearray(), False
        deadline = time.monotonic() + self.timeout_s
        try:
            response = lane.handle_request(self._request(call))
            with contextlib.closing(response):
                for chunk in response.iter_raw():
                    late = _append(arrived, chunk, late, deadline)
        except _TRANSPORT_FAILURES as error:
            raise self._failure(call, error, bytes(arrived)) from None
        return self._heard(call, lane, response, bytes(arrived))

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
        """Send a text to one or several recipients (4.1). After an InDoubtError, do not simply call it again.

        Args:
            recipients: MSISDNs (country code and number, digits) or names of recipient groups at the gateway.
            text: 1 to 765 characters.
            sender: A registered sender; None for the account's own.
            send_at: Aware time to send it at, rounded up to the minute; None for now.
            flash: Show it at once instead of storing it in the phone.
            destination_port: Port on the phone, 1 to 65535; None for an ordinary SMS.

        Returns:
            The message id.
        """
        return self._run(self._send(recipients, text, sender, send_at, flash, destination_port))

    def fetch_result(self, message_id: str) -> SmsResult:
        """How far a message has come, a status for each recipient (4.2)."""
        return self._run(self._result(message_id))

    def get_scheduled_time(self, message_id: str) -> datetime | None:
        """When a message will be sent, in UTC; None when it has no delivery time (4.3.1)."""
        return self._run(self._delivery_time(message_id))

    def list_scheduled(self) -> list[ScheduledMessage]:
        """All messages that wait for their delivery time, in the gateway's order (4.3.2)."""
        return self._run(self._scheduled())

    def reschedule(self, message_id: str, send_at: datetime) -> None:
        """Give a waiting message another delivery time, aware, rounded up to the minute (4.3.4)."""
        return self._run(self._reschedule(message_id, send_at))

    def cancel(self, message_id: str) -> None:
        """Cancel a waiting message (4.3.5)."""
        return self._run(self._cancel(message_id))

    def fetch_inbox(self, after_id: str | int = 0) -> list[ReceivedMessage]:
        """Received messages with an id above ``after_id``, not sorted (4.4). Reading does not remove them."""
        return self._run(self._inbox(after_id))

    def fetch_inbox_lenient(self, after_id: str | int = 0) -> Inbox:
        """As :meth:`fetch_inbox`, but a record that cannot be read does not hide the others."""
        return self._run(self._read_inbox(after_id))

    def fetch_raw_updates(self) -> bytes:
        """What has not been collected yet (4.5), unread; reading removes it from the gateway.

        Keep it durably, then look into it with :meth:`parse_updates`. An InDoubtError from here carries in ``raw``
        what had arrived.
        """
        return self._run(self._collect())

    def fetch_updates(self) -> Updates:
        """What has not been collected yet; reading removes it from the gateway (4.5). Keep ``raw`` before using it.

        An InDoubtError from here carries in ``raw`` what had arrived.
        """
        return self._run(self._updates())


class AsyncMyMSPClient(_Gateway):
    """The eight endpoints, asynchronously: the methods of :class:`MyMSPClient`, awaited, with the same errors.

    Holds ``connections`` lanes, each a single connection over one shared TLS context: httpx's shared pool loses most
    of its speed beyond eight connections. A cancelled call leaves its connection. It belongs to one event loop at a
    time: close it before another one uses it.
    """

    def _prepare(self) -> None:
        self._idle: list[httpx.AsyncBaseTransport] = []
        self._made: list[httpx.AsyncBaseTransport] = []
        self._free: asyncio.Semaphore | None = None
        self._hurried = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the next call would open new ones."""
        made = self._made
        self._prepare()
        for lane in made:
            await lane.aclose()

    def stop_retrying(self) -> None:
        """Try nothing again from now on; see :meth:`MyMSPClient.stop_retrying`."""
        self._hurried.set()

    @contextlib.asynccontextmanager
    async def _lane(self) -> AsyncIterator[httpx.AsyncBaseTransport]:
        if self._free is None:
            self._free = asyncio.Semaphore(self.connections)
        async with self._free:
            made = self._made
            if self._idle:
                lane = self._idle.pop()  # the one used last has the connection most likely to be open still
            else:
                lane = self._another(SingleConnectionTransport, httpx.AsyncHTTPTransport)
                made.append(lane)
            try:
                yield lane
            finally:
                if made is self._made:
                    self._idle.append(lane)
                else:  # closed by aclose() in the meantime
                    await lane.aclose()

    async def _run(self, call: _Call[T]) -> T:
        patience = _Patience(self.retry_for_s)
        while True:
            try:
                async with self._lane() as lane:
                    return await self._once(call, lane)
            except (UnreachableError, RateLimitedError) as error:
                pause = patience.pause_after(error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurried.wait(), pause)
                    raise

    async def _once(self, call: _Call[T], lane: httpx.AsyncBaseTransport) -> T:
        arrived, late = bytearray(), False
        deadline = time.monotonic() + self.timeout_s
        try:
            # A lane bounds the head as a whole; through a proxy httpx bounds each read of it, and this all of them.
            async with asyncio.timeout(2 * self.timeout_s + 10.0):
                response = await lane.handle_async_request(self._request(call))
                async with contextlib.aclosing(response):
                    async for chunk in response.aiter_raw():
                        late = _append(arrived, chunk, late, deadline)
        except _TRANSPORT_FAILURES as error:
            raise self._failure(call, error, bytes(arrived)) from None
        return self._heard(call, lane, response, bytes(arrived))

    async def send(
        self,
        recipients: str | Iterable[str],
        text: str,
        *,
        sender: str | None = None,
        send_at: datetime | None = None,
        flash: bool = False,
        destination_port: int | None = None,
    ) -> str:
        """Send a text; see :meth:`MyMSPClient.send`."""
        return await self._run(self._send(recipients, text, sender, send_at, flash, destination_port))

    async def fetch_result(self, message_id: str) -> SmsResult:
        """How far a message has come; see :meth:`MyMSPClient.fetch_result`."""
        return await self._run(self._result(message_id))

    async def get_scheduled_time(self, message_id: str) -> datetime | None:
        """When a message will be sent; see :meth:`MyMSPClient.get_scheduled_time`."""
        return await self._run(self._delivery_time(message_id))

    async def list_scheduled(self) -> list[ScheduledMessage]:
        """All waiting messages; see :meth:`MyMSPClient.list_scheduled`."""
        return await self._run(self._scheduled())

    async def reschedule(self, message_id: str, send_at: datetime) -> None:
        """Give a waiting message another time; see :meth:`MyMSPClient.reschedule`."""
        return await self._run(self._reschedule(message_id, send_at))

    async def cancel(self, message_id: str) -> None:
        """Cancel a waiting message; see :meth:`MyMSPClient.cancel`."""
        return await self._run(self._cancel(message_id))

    async def fetch_inbox(self, after_id: str | int = 0) -> list[ReceivedMessage]:
        """Received messages; see :meth:`MyMSPClient.fetch_inbox`."""
        return await self._run(self._inbox(after_id))

    async def fetch_inbox_lenient(self, after_id: str | int = 0) -> Inbox:
        """Received messages, whatever else there is; see :meth:`MyMSPClient.fetch_inbox_lenient`."""
        return await self._run(self._read_inbox(after_id))

    async def fetch_raw_updates(self) -> bytes:
        """What has not been collected yet, unread; see :meth:`MyMSPClient.fetch_raw_updates`."""
        return await self._run(self._collect())

    async def fetch_updates(self) -> Updates:
        """What has not been collected yet; see :meth:`MyMSPClient.fetch_updates`."""
        return await self._run(self._updates())
