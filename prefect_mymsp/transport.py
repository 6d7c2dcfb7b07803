"""One HTTP/1.1 connection to the gateway, behind httpx's transport interface.

The connection decides whether a request may have been sent, and which response belongs to which request. Both cost
money. httpx's own connections read the bytes left over after a response as the start of the next response: a refusal
that arrives twice would make the next request look refused, and its message would be sent again. This transport closes
such a connection.

h11 reads and writes the bytes of HTTP/1.1; asyncio does sockets and TLS. Failures are httpx's: ConnectError and
ConnectTimeout before the first byte of the request can have left, any other error after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self, cast
from urllib.request import getproxies, proxy_bypass

import h11
import httpx

#: A longer response head does not come from the gateway.
_MAX_HEAD_BYTES = 100 * 1024
#: Seconds without keep-alive after the gateway closed an idle connection without notice.
_KEEP_ALIVE_BAN_S = 600.0


def environment_proxy(host: str) -> str | None:
    """The proxy that the environment configures for https to a host; None for none."""
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    return None if proxy is None or proxy_bypass(host) else proxy


class KeepAlivePolicy:
    """Whether the transports of a client keep their connections open between requests.

    A server that closes idle connections without notice loses the request that is just being sent, and every other
    message would be in doubt. After one such loss each request gets its own connection for ten minutes.
    """

    def __init__(self) -> None:
        self._banned_until = -math.inf

    @property
    def allowed(self) -> bool:
        """Whether connections may be kept open now."""
        return time.monotonic() >= self._banned_until

    def record_loss(self) -> None:
        """A reused connection ended before the first byte of a response."""
        self._banned_until = time.monotonic() + _KEEP_ALIVE_BAN_S


class _Exchange:
    """The requests and responses of one connection, to and from bytes. It does no I/O."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._last_response_at = 0.0
        self._responses = 0
        self._received_nothing = True

    def serialize_request(self, request: httpx.Request) -> bytes:
        """Return the bytes of a request."""
        self._received_nothing = True
        try:
            events = (
                h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw),
                h11.Data(data=request.content),
                h11.EndOfMessage(),
            )
            return b"".join(self._connection.send(event) or b"" for event in events)
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from error

    def receive_data(self, data: bytes) -> None:
        """Add bytes of the response; empty bytes mean the end of the connection."""
        if not data and self._connection.their_state is h11.SEND_RESPONSE:
            raise httpx.RemoteProtocolError("the connection was closed without a response")
        self._received_nothing = False
        self._connection.receive_data(data)

    def next_response(self) -> h11.Response | None:
        """Return the head of the response; None if more bytes are needed."""
        while (event := self._next_event()) is not None:
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise httpx.RemoteProtocolError("there is no response where one was expected")
        return None

    def next_chunk(self) -> bytes | None:
        """Return the next chunk of the body; None if more bytes are needed, empty at its end."""
        while isinstance(event := self._next_event(), h11.Data):
            if event.data:
                return bytes(event.data)
        return None if event is None else b""

    def _next_event(self) -> object | None:
        try:
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        return None if event is h11.NEED_DATA else event

    def start_next_cycle(self) -> bool:
        """Prepare for another request. Return False if the response is incomplete, or something follows it."""
        if self._connection.our_state is not h11.DONE or self._connection.their_state is not h11.DONE:
            return False
        if self._connection.trailing_data[0]:
            return False
        self._connection.start_next_cycle()
        self._responses += 1
        self._last_response_at = time.monotonic()
        return True

    def was_closed_while_idle(self, error: BaseException) -> bool:
        """Whether a failure looks as if the server had closed the connection after a response, before this request."""
        connection_ended = isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError))
        return self._responses > 0 and self._received_nothing and connection_ended

    def idle_s(self) -> float:
        """Seconds since the last response."""
        return time.monotonic() - self._last_response_at


class SingleConnectionTransport(httpx.AsyncBaseTransport):
    """A single connection: opened when needed, kept open, and replaced when it is unusable.

    It carries one request at a time. The next one may start when the response before it is closed.

    Attributes:
        last_message_id: The id of the last message that was accepted on this transport.
    """

    def __init__(self, context: ssl.SSLContext, keep_alive: KeepAlivePolicy, *, keep_alive_s: float) -> None:
        """Create a transport without a connection.

        Args:
            context: For https.
            keep_alive: Shared by the transports of a client.
            keep_alive_s: Seconds after which an idle connection is not reused.
        """
        self._context = context
        self._keep_alive = keep_alive
        self._keep_alive_s = keep_alive_s
        self.last_message_id: str | None = None
        self._connection: _Connection | None = None
        self._last_address: object = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection for good: no request is sent from now on."""
        self._closed = True
        self.abort()
        await asyncio.sleep(0)  # the loop closes the socket in its next iteration

    def abort(self) -> None:
        """Close the connection. Bytes that still arrive on it must not be read as the next response."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read the head of its response."""
        timeout = request.extensions["timeout"]
        connection = self._reusable_connection()
        if connection is None:
            connection = self._connection = await self._connect(request.url, timeout["connect"])
        exchange = connection.exchange
        try:
            connection.write(exchange.serialize_request(request))
            deadline = time.monotonic() + timeout["read"]
            while (head := exchange.next_response()) is None:
                exchange.receive_data(await connection.read(deadline))
        except BaseException as error:
            if self._connection is connection and exchange.was_closed_while_idle(error):
                self._keep_alive.record_loss()
            self.abort()
            raise
        body = _ResponseBody(self, connection, timeout["read"])
        return httpx.Response(head.status_code, headers=head.headers.raw_items(), stream=body, request=request)

    def _reusable_connection(self) -> _Connection | None:
        connection = self._connection
        if connection is None:
            return None
        idle_too_long = connection.exchange.idle_s() > self._keep_alive_s
        if idle_too_long or not self._keep_alive.allowed or connection.has_unexpected_data():
            self.abort()
            return None
        return connection

    async def _connect(self, url: httpx.URL, timeout_s: float) -> _Connection:
        loop = asyncio.get_running_loop()
        host, https = url.raw_host.decode("ascii"), url.scheme == "https"
        port = url.port or (443 if https else 80)
        deadline = loop.time() + timeout_s
        with _connect_errors():
            async with asyncio.timeout_at(deadline):
                address_infos = await _resolve(host, port)
            addresses = [address[:2] for *_, address in address_infos]
            # One after the other, starting with the last one that worked; each gets its share of the time.
            addresses.sort(key=lambda address: address != self._last_address)
            for untried in range(len(addresses), 0, -1):
                address = addresses[-untried]
                try:
                    async with asyncio.timeout((deadline - loop.time()) / untried):
                        connection = await self._open(address, host if https else None)
                except OSError:
                    if untried == 1:
                        raise
                else:
                    self._last_address = address
                    return connection
        raise httpx.ConnectError("the host has no address")

    async def _open(self, address: tuple[Any, ...], tls_host: str | None) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection, *address, ssl=None if tls_host is None else self._context, server_hostname=tls_host
        )
        # With TLS, session tickets wait at the socket: only what they decrypt to counts as data.
        has_data = connection.has_received() if tls_host is not None else connection.has_unexpected_data()
        if has_data or self._closed:
            connection.abort()
            raise ConnectionResetError(errno.ECONNRESET, "the connection ended before the request")
        return connection

    def finish_response(self, connection: _Connection) -> None:
        """Keep the connection for the next request, or close it."""
        if connection is not self._connection:
            return
        if connection.exchange.start_next_cycle() and self._keep_alive.allowed:
            connection.idle = True
        else:
            self.abort()


class _Connection(asyncio.Protocol):
    """A socket, with the bytes that were received and not read yet.

    Attributes:
        idle: Whether no response is expected.
    """

    def __init__(self) -> None:
        self.exchange = _Exchange()
        self.idle = True
        self._received: deque[bytes] = deque()
        self._ended = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # other event loops have their own classes
        self._fileno: int = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        if self.idle:
            self._transport.abort()  # unexpected data: the connection will not be reused
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended, self._failure = True, self._failure or exc
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def write(self, data: bytes) -> None:
        """Start sending. It does not block: a gateway that does not read will not respond in time either."""
        self.idle = False
        self._transport.write(data)

    async def read(self, deadline: float) -> bytes:
        """Return received bytes as soon as there are any; empty bytes at the end of the connection."""
        if not self._received and not self._ended:
            self._waiter = asyncio.get_running_loop().create_future()
            with _read_errors():
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        await self._waiter
                except TimeoutError:
                    if not self._received:  # bytes can have arrived while the machine was suspended
                        raise
        if self._received:
            return self._received.popleft()
        if self._failure is not None:
            raise httpx.ReadError(str(self._failure)) from self._failure
        return b""

    def has_received(self) -> bool:
        """Whether the connection has ended, or received bytes are waiting to be read."""
        return self._ended or bool(self._received) or self._transport.is_closing()

    def has_unexpected_data(self) -> bool:
        """Whether the connection has ended, or bytes are waiting although no response is expected."""
        return self.has_received() or _is_readable(self._fileno)

    def abort(self) -> None:
        """Close the connection at once. A response that is being read is incomplete."""
        self._ended, self._failure = True, self._failure or ConnectionAbortedError(errno.ECONNABORTED, "closed by us")
        self._transport.abort()


class _ResponseBody(httpx.AsyncByteStream):
    def __init__(self, transport: SingleConnectionTransport, connection: _Connection, read_s: float) -> None:
        self._transport, self._connection, self._read_s = transport, connection, read_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange, deadline = self._connection.exchange, time.monotonic() + self._read_s
        while (chunk := exchange.next_chunk()) != b"":
            if chunk is None:
                exchange.receive_data(await self._connection.read(deadline))
            else:
                yield chunk
                deadline = time.monotonic() + self._read_s

    async def aclose(self) -> None:
        self._transport.finish_response(self._connection)


async def _resolve(host: str, port: int) -> list[Any]:
    try:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except RuntimeError:
        # The interpreter is shutting down and starts no more threads, and a program may still make calls.
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


@contextlib.contextmanager
def _connect_errors() -> Iterator[None]:
    """Map errors to httpx's, before the request can have left."""
    try:
        yield
    except TimeoutError as error:
        raise httpx.ConnectTimeout("the connection timed out") from error
    except (OSError, UnicodeError) as error:  # the resolver raises UnicodeError for an invalid name
        raise httpx.ConnectError(str(error)) from error


@contextlib.contextmanager
def _read_errors() -> Iterator[None]:
    """Map errors to httpx's, after the request may have left."""
    try:
        yield
    except TimeoutError as error:
        raise httpx.ReadTimeout("no response in time") from error
    except OSError as error:
        raise httpx.ReadError(str(error)) from error


def _is_readable(fileno: int) -> bool:
    """Whether a socket has ended or has bytes to read."""
    if fileno < 0:
        return True  # closed
    if not hasattr(select, "poll"):
        return bool(select.select([fileno], [], [], 0)[0])
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))
