"""The gateway over HTTPS. Each method is one request.

Every failure belongs to one side of the fork in :mod:`prefect_mymsp.errors`: nothing was sent, or something may have
been sent. A request that provably never reached the gateway, or that got HTTP 429, is retried for ``retry_for_s``
seconds. Nothing else is ever repeated, and nothing else in this package retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import random
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
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
    NoResponseError,
    ProtocolError,
    RateLimitedError,
    UnexpectedStatusError,
    UnreachableError,
)
from prefect_mymsp.models import Inbox, ReceivedMessage, ScheduledMessage, SmsResult, Updates
from prefect_mymsp.transport import KeepAlivePolicy, SingleConnectionTransport, environment_proxy

DEFAULT_BASE_URL = "https://mymsp.21st.se/external"
DEFAULT_TIMEZONE = "Europe/Stockholm"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_RETRY_FOR_S = 5.0
#: Requests in flight at once. More of them are slower on loopback; at 20 ms latency 16 carry 800 requests a second.
DEFAULT_CONNECTIONS = 16
#: The longest timeout. Operating systems have limits of their own.
MAX_TIMEOUT_S = 86_400.0

_HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "text/plain, */*;q=0.1",
    "Accept-Encoding": "identity",
    "User-Agent": "prefect-mymsp",
}
_CONNECT_TIMEOUT_S = 10.0
#: Shorter than the keep-alive of common servers, so that no request is written to a connection that is being closed.
_KEEP_ALIVE_S = 3.0
#: A larger response does not come from the gateway. A million recipients fit.
_MAX_RESPONSE_BYTES = 256 * 1024 * 1024
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0

#: Everything that a connection can raise. httpx lets OSError and ValueError through from below.
_TRANSPORT_FAILURES = (httpx.HTTPError, httpx.StreamError, OSError, ValueError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """One request: its endpoint, its body, and the parser of its response.

    Attributes:
        destructive: Reading removes the data from the gateway, so an error must carry the bytes that were received.
    """

    endpoint: str
    body: bytes = field(repr=False)
    parse: Callable[[protocol.Response], T]
    destructive: bool = False


def check_base_url(base_url: str) -> str:
    """Check a base URL, and return it without a trailing slash. A bare host gets the vendor's path ``/external``.

    Raises:
        ConfigurationError: It is not https (http is allowed on loopback), or it has credentials, a query or a fragment.
    """
    try:
        url = httpx.URL(base_url.strip())
        host = url.host  # an invalid IDNA host fails here, not above
    except (httpx.InvalidURL, TypeError, ValueError):
        raise ConfigurationError("base_url is not a URL.") from None
    if url.userinfo or "?" in base_url or "#" in base_url:
        raise ConfigurationError(
            "base_url must not have credentials or a query. User and password are separate settings."
        )
    if not host or url.scheme not in {"https", "http"} or not 0 < (url.port or 443) < 65536:
        raise ConfigurationError(f"base_url must look like {DEFAULT_BASE_URL}.")
    if url.scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(
            f"base_url must be https: over plain http, others could read the password, numbers and texts on the way to "
            f"{host}. Plain http is allowed for a gateway on this machine."
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
    """Look up a time zone by its IANA name.

    Raises:
        ConfigurationError: There is no such zone.
    """
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        raise ConfigurationError(
            f"There is no time zone {timezone!r}. Use an IANA name such as Europe/Stockholm."
        ) from None


class _TransportPool:
    """The transports of a client between two calls of ``aclose``; each carries one request at a time."""

    def __init__(self, connections: int) -> None:
        self.slots = asyncio.Semaphore(connections)
        self.transports: list[httpx.AsyncBaseTransport] = []
        self.idle: list[httpx.AsyncBaseTransport] = []
        self.closed = False
        self.retries_stopped = asyncio.Event()


class AsyncMyMSPClient:
    """The gateway's eight endpoints, asynchronously. Use it as an asynchronous context manager.

    Every method can raise these errors:

    * :class:`~prefect_mymsp.errors.InputError`: an argument cannot be sent. Nothing left this machine.
    * :class:`~prefect_mymsp.errors.RefusedError`: the gateway refused the request. Nothing was sent.
    * :class:`~prefect_mymsp.errors.UnreachableError`, :class:`~prefect_mymsp.errors.RateLimitedError`: the gateway did
      not act on the request. Nothing was sent, also not by the retries.
    * :class:`~prefect_mymsp.errors.InDoubtError`: the gateway may have acted on the request. Calling :meth:`send` again
      could send the message twice.

    A cancelled call closes its connection; the gateway may have acted on it. A client belongs to one event loop at a
    time: call :meth:`aclose` before another loop uses it. Each connection has a transport of its own, because httpx's
    shared pool loses most of its speed beyond eight connections.
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
        if not user or not password:
            raise ConfigurationError("user and password must not be empty.")
        if not 0 < timeout_s <= MAX_TIMEOUT_S or not retry_for_s >= 0 or connections < 1:
            raise ConfigurationError(
                f"timeout_s must be above 0 and at most {MAX_TIMEOUT_S:,.0f}, retry_for_s at least 0, and connections "
                "at least 1."
            )
        self._login = protocol.Login(user, password)
        self.base_url = check_base_url(base_url)
        self._host = httpx.URL(self.base_url).host
        self.zone = check_timezone(timezone)
        self.timeout_s = timeout_s
        self.retry_for_s = retry_for_s
        self.connections = connections
        self._is_https = self.base_url.startswith("https")
        self._timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S))
        self._timezone = timezone
        self._urls: dict[str, httpx.URL] = {}
        self._keep_alive = KeepAlivePolicy()
        self._pool = _TransportPool(connections)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"

    def clone(self) -> AsyncMyMSPClient:
        """Return a client with the same settings and with connections of its own, for another event loop."""
        return AsyncMyMSPClient(
            self._login.user,
            self._login.password,
            base_url=self.base_url,
            timezone=self._timezone,
            timeout_s=self.timeout_s,
            retry_for_s=self.retry_for_s,
            connections=self.connections,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. A later call opens new ones.

        Calls in flight fail as in doubt. Calls that wait for a connection or for a retry fail as not sent.
        """
        pool, self._pool = self._pool, _TransportPool(self.connections)
        pool.closed = True
        pool.retries_stopped.set()
        for transport in pool.transports:
            await transport.aclose()

    def stop_retrying(self) -> None:
        """Retry nothing from now on. Calls that wait for a retry fail at once, as not sent."""
        self._pool.retries_stopped.set()

    # ---- the endpoints -----------------------------------------------------------------------------------------------

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
        """Send a text to one or more recipients (4.1).

        After an :class:`~prefect_mymsp.errors.InDoubtError` the message may have been sent: another call could send it
        again.

        Args:
            recipients: MSISDNs (country code and number, digits only), or names of recipient groups at the gateway.
            text: 1 to 765 characters.
            sender: A sender that is registered with the gateway; None for the account's own.
            send_at: When the gateway sends the message, aware, rounded up to the minute; None for now.
            flash: Show the message at once instead of storing it in the phone.
            destination_port: Port on the phone, 1 to 65535; None for an ordinary SMS.

        Returns:
            The message id.
        """
        # A request body holds the password: no local variable, which a debugger or an error reporter would show.
        return await self._run(
            _Call(
                protocol.SEND,
                protocol.build_send(
                    self._login,
                    recipients,
                    text,
                    originator=sender,
                    send_at=send_at,
                    flash=flash,
                    destination_port=destination_port,
                ),
                protocol.parse_send,
            )
        )

    async def fetch_result(self, message_id: str) -> SmsResult:
        """Fetch the result of a message, with a status for each recipient (4.2)."""
        return await self._run(
            _Call(
                protocol.RESULT,
                protocol.build_result(self._login, message_id),
                lambda response: protocol.parse_result(response, str(message_id)),
            )
        )

    async def get_scheduled_time(self, message_id: str) -> datetime | None:
        """Get the time at which a message will be sent, in UTC; None if it has none (4.3.1)."""
        return await self._run(
            _Call(
                protocol.SCHEDULED_TIME,
                protocol.build_scheduled_time(self._login, message_id),
                lambda response: protocol.parse_scheduled_time(response, str(message_id)),
            )
        )

    async def list_scheduled(self) -> list[ScheduledMessage]:
        """List all messages that wait for their scheduled time, in the gateway's order (4.3.2)."""
        return await self._run(
            _Call(protocol.SCHEDULED, protocol.build_scheduled(self._login), protocol.parse_scheduled)
        )

    async def reschedule(self, message_id: str, send_at: datetime) -> None:
        """Change the time of a scheduled message (4.3.4). The time is aware, and rounded up to the minute."""
        return await self._run(
            _Call(
                protocol.RESCHEDULE,
                protocol.build_reschedule(self._login, message_id, send_at),
                lambda response: protocol.parse_acknowledgement(response, protocol.RESCHEDULE),
            )
        )

    async def cancel(self, message_id: str) -> None:
        """Cancel a scheduled message (4.3.5)."""
        return await self._run(
            _Call(
                protocol.CANCEL,
                protocol.build_cancel(self._login, message_id),
                lambda response: protocol.parse_acknowledgement(response, protocol.CANCEL),
            )
        )

    async def fetch_inbox(self, after_id: str | int = 0) -> list[ReceivedMessage]:
        """Fetch received messages with an id above ``after_id``, in no order (4.4). They stay at the gateway.

        One record that cannot be read makes the whole call fail; see :meth:`fetch_inbox_lenient`.
        """
        return await self._run(_Call(protocol.INBOX, protocol.build_inbox(self._login, after_id), protocol.parse_inbox))

    async def fetch_inbox_lenient(self, after_id: str | int = 0) -> Inbox:
        """Fetch received messages as :meth:`fetch_inbox` does, and records that cannot be read as text."""
        return await self._run(
            _Call(protocol.INBOX, protocol.build_inbox(self._login, after_id), protocol.parse_inbox_lenient)
        )

    async def fetch_raw_updates(self) -> bytes:
        """Fetch the updates that were not fetched before, as bytes (4.5). This removes them from the gateway.

        Store the bytes durably before :meth:`parse_updates`. An :class:`~prefect_mymsp.errors.InDoubtError` has the
        bytes that were received in ``raw``.
        """
        return await self._run(
            _Call(protocol.UPDATES, protocol.build_updates(self._login), protocol.parse_raw_updates, destructive=True)
        )

    async def fetch_updates(self) -> Updates:
        """Fetch the updates that were not fetched before (4.5). This removes them from the gateway.

        Store ``raw`` before you use the updates. An :class:`~prefect_mymsp.errors.InDoubtError` has the bytes that were
        received in ``raw``.
        """
        return await self._run(
            _Call(protocol.UPDATES, protocol.build_updates(self._login), protocol.parse_updates, destructive=True)
        )

    def parse_updates(self, raw: bytes) -> Updates:
        """Parse the bytes of :meth:`fetch_raw_updates`. The charset is detected, since the header is not stored.

        Raises:
            ProtocolError: They are not a response of ``getMsgUpdates``.
            RefusedError: They are a refusal.
        """
        return protocol.parse_updates(protocol.Response(raw, None, self.zone))

    # ---- one call: retries, connections, the response ----------------------------------------------------------------

    async def _run(self, call: _Call[T]) -> T:
        """Make a request, and retry it as long as it provably was not processed."""
        retries = _RetrySchedule(self.retry_for_s)
        pool = self._pool
        while True:
            try:
                async with self._transport(pool, call.endpoint) as transport:
                    return await self._attempt(call, transport)
            except (UnreachableError, RateLimitedError) as error:
                pause_s = retries.pause_after(error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(pool.retries_stopped.wait(), pause_s)
                    raise

    @contextlib.asynccontextmanager
    async def _transport(self, pool: _TransportPool, endpoint: str) -> AsyncIterator[httpx.AsyncBaseTransport]:
        async with pool.slots:
            if pool.closed:
                raise UnreachableError(f"{endpoint}: the client was closed before the request was sent.")
            if pool.idle:
                transport = pool.idle.pop()  # the one used last is the most likely to be connected still
            else:
                transport = self._new_transport()
                pool.transports.append(transport)
            try:
                yield transport
            finally:
                pool.idle.append(transport)

    def _new_transport(self) -> httpx.AsyncBaseTransport:
        """A transport of our own; httpx's if the environment configures a proxy."""
        # On loopback a proxy would get the password in plain text.
        proxy = environment_proxy(self._host) if self._is_https else None
        if proxy is None:
            return SingleConnectionTransport(self._tls_context, self._keep_alive, keep_alive_s=_KEEP_ALIVE_S)
        try:
            # httpx would read what is left over after a response as the next one: no connection is used twice here.
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=0)
            return httpx.AsyncHTTPTransport(verify=self._tls_context, limits=limits, proxy=proxy)
        except (ImportError, ValueError, httpx.InvalidURL):
            # The proxy's URL may contain a password.
            raise ConfigurationError("The environment configures a proxy that httpx cannot use.") from None

    @cached_property
    def _tls_context(self) -> ssl.SSLContext:
        if not self._is_https:
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used; httpx's context takes 20 ms
        context = httpx.create_ssl_context()  # the CAs of certifi, or of SSL_CERT_FILE and SSL_CERT_DIR
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def _attempt(self, call: _Call[T], transport: httpx.AsyncBaseTransport) -> T:
        """Make one request and read its response."""
        received = bytearray()
        deadline = time.monotonic() + self.timeout_s
        try:
            # Our transport limits the time for the whole head; through a proxy httpx limits each read of it, and this
            # limits all of them.
            async with asyncio.timeout(2 * self.timeout_s + 10.0):
                response = await transport.handle_async_request(self._request(call))
                async with contextlib.aclosing(response):
                    late = False
                    async for chunk in response.aiter_raw():
                        received += chunk
                        if len(received) > _MAX_RESPONSE_BYTES:
                            raise httpx.ReadError("the response is too large")
                        # Every read has a timeout of its own: a gateway that sends byte by byte would hold the
                        # connection forever. But a late chunk that completes the response proves the outcome of the
                        # request, so only data after a late chunk is an error.
                        if late:
                            raise httpx.ReadTimeout("the response is too slow")
                        late = time.monotonic() > deadline
        except _TRANSPORT_FAILURES as error:
            raise self._transport_error(call, error, bytes(received)) from None
        try:
            value = self._parse(call, response, bytes(received))
        except MyMSPError:
            # A refusal may arrive twice, and late. On the same connection it would look like the next response, and an
            # accepted message would be sent again.
            if isinstance(transport, SingleConnectionTransport):
                transport.abort()
            raise
        if call.endpoint == protocol.SEND and isinstance(transport, SingleConnectionTransport):
            # The same id again: from now on each response may belong to the request before.
            if value == transport.last_message_id:
                transport.abort()
            transport.last_message_id = str(value)
        return value

    def _request(self, call: _Call[T]) -> httpx.Request:
        url = self._urls.get(call.endpoint)
        if url is None:
            url = self._urls[call.endpoint] = httpx.URL(f"{self.base_url}/{call.endpoint}")
        extensions = {"timeout": self._timeout.as_dict()}
        return httpx.Request("POST", url, headers=_HEADERS, content=call.body, extensions=extensions)

    def _parse(self, call: _Call[T], response: httpx.Response, body: bytes) -> T:
        """Return the value of a complete response, or raise the error that it means."""
        raw = body if call.destructive else None
        try:
            body = _decompress(response, body)
        except ValueError:
            raise ProtocolError(
                f"{call.endpoint}: the response cannot be decompressed.", reason="unreadable", raw=raw
            ) from None
        raw = body if call.destructive else None
        try:
            return self._parse_status(call, response, body, raw)
        except ProtocolError as error:
            error.raw = raw
            raise

    def _parse_status(self, call: _Call[T], response: httpx.Response, body: bytes, raw: bytes | None) -> T:
        status = response.status_code
        content = protocol.Response(body, response.headers.get("content-type"), self.zone)
        if 200 <= status < 300:
            return call.parse(content)
        if status == 429:
            retry_after_s = _retry_after_s(response.headers.get("retry-after"))
            request = "" if retry_after_s is None else f" and requests a pause of {retry_after_s:.0f} s"
            raise RateLimitedError(
                f"{call.endpoint}: the gateway is overloaded (HTTP 429){request}.", retry_after_s=retry_after_s
            )
        if 400 <= status < 500:
            # N and a code is the gateway's refusal, whatever the status. An A is never trusted here.
            with contextlib.suppress(ProtocolError):
                protocol.parse_acknowledgement(content, call.endpoint)
        raise UnexpectedStatusError(
            f"{call.endpoint}: the gateway returned HTTP {status}, which does not prove the outcome of the request.",
            status=status,
            raw=raw,
        )

    def _transport_error(self, call: _Call[T], error: Exception, received: bytes) -> MyMSPError:
        """Map a failed connection to one side of the fork: was anything sent?"""
        endpoint, host = call.endpoint, self._host
        # The request cannot have left.
        if isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout)):
            return UnreachableError(f"{endpoint}: the connection to {host} timed out.")
        if isinstance(error, httpx.ProxyError):
            return UnreachableError(f"{endpoint}: the proxy refused the connection to {host}.")
        if isinstance(error, httpx.ConnectError):
            problem = "TLS failed" if _is_tls(error) else "no connection"
            return UnreachableError(f"{endpoint}: {problem} to {host} ({_cause(error)}).")
        if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            return UnreachableError(f"{endpoint}: the request is invalid ({type(error).__name__}).")
        # It may have left.
        raw = received if call.destructive else None
        if isinstance(error, (httpx.TimeoutException, TimeoutError)):
            return NoResponseError(
                f"{endpoint}: no complete response within {self.timeout_s:g} s.", reason="timeout", raw=raw
            )
        return NoResponseError(
            f"{endpoint}: the connection ended before the complete response ({type(error).__name__}).",
            reason="connection-lost",
            raw=raw,
        )


class _RetrySchedule:
    """Times of retries of unsent requests: after doubling pauses with jitter, or as in Retry-After."""

    def __init__(self, retry_for_s: float) -> None:
        self._ends_at = time.monotonic() + retry_for_s
        self._pause_s = _FIRST_PAUSE_S

    def pause_after(self, error: UnreachableError | RateLimitedError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            UnreachableError: The time for retries ends before the next attempt.
            RateLimitedError: Likewise.
        """
        pause_s = self._pause_s * random.uniform(0.75, 1.25)  # noqa: S311  jitter, not a secret
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        if isinstance(error, RateLimitedError) and error.retry_after_s is not None:
            pause_s = error.retry_after_s + pause_s * 0.1
        if time.monotonic() + pause_s > self._ends_at:
            raise error
        return pause_s


def _retry_after_s(header: str | None) -> float | None:
    """The seconds of a Retry-After header in either of its forms (RFC 9110, 10.2.3); None if it is unusable."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        retry_at = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    if retry_at.tzinfo is None:
        retry_at = retry_at.replace(tzinfo=UTC)
    return max(0.0, (retry_at - datetime.now(UTC)).total_seconds())


def _decompress(response: httpx.Response, body: bytes) -> bytes:
    """Undo a compression, although the request does not accept any.

    Raises:
        ValueError: The body cannot be decompressed completely: an id would lose its last digits.
    """
    coding = response.headers.get("content-encoding", "").strip().lower()
    if not body or coding not in {"gzip", "x-gzip", "deflate"}:
        return body  # some servers write a charset into this header
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by the first bytes
    try:
        decompressed = decompressor.decompress(body, _MAX_RESPONSE_BYTES)
    except zlib.error as error:
        raise ValueError(coding) from error
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError(coding)
    return decompressed


def _cause(error: BaseException) -> str:
    """The innermost reason of a connection failure, without the texts of other libraries."""
    while error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(error, OSError) or error.strerror is None:
        return type(error).__name__
    # asyncio puts addresses into strerror. The errors of TLS and of the resolver have numbers of their own.
    if error.errno is not None and error.errno in errno.errorcode and type(error).__module__ == "builtins":
        return os.strerror(error.errno)
    return str(error.strerror)


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
