"""One connection to the gateway behind httpx's transport interface, asynchronous or synchronous.

Whether a request may have been sent, and which answer is whose, is decided on the connection, and costs money. httpx's
own connections take bytes that an answer leaves over for the beginning of the next answer: a refusal that comes twice
would make the next request look refused, and its message would be sent again. A lane leaves such a connection.

The bytes of HTTP/1.1 are h11's to write and to read, sockets and TLS the standard library's. A failure is one of
httpx's: ConnectError and ConnectTimeout before the first byte of a request can have left, and any other after that.
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
from typing import Self, cast
from urllib.request import getproxies, proxy_bypass

import h11
import httpx

#: A head larger than this is not the gateway's.
_MAX_HEAD_BYTES = 100 * 1024
_PIECE_BYTES = 64 * 1024
#: Seconds for which no connection is used again once one was closed without notice.
_WARY_S = 600.0


def environment_proxy(host: str) -> str | None:
    """The proxy that the environment names for https to a host; None for none."""
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    return None if proxy is None or proxy_bypass(host) else proxy


class KeepAlivePolicy:
    """Whether a client's lanes use their connections again.

    A server that closes connections it has not announced to close takes the next request with it, and every other
    message would be in doubt. One such loss, and for a while each request gets a connection of its own.
    """

    def __init__(self) -> None:
        self._wary_until = -math.inf

    @property
    def allowed(self) -> bool:
        """Whether to, now."""
        return time.monotonic() >= self._wary_until

    def failed(self) -> None:
        """A connection that had been used before ended without one byte of an answer."""
        self._wary_until = time.monotonic() + _WARY_S


class _Dialogue:
    """The requests and answers of one connection, as bytes and back; no I/O."""

    def __init__(self) -> None:
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._used_at = 0.0
        self._answers = 0
        self._silent = True

    def asked(self, request: httpx.Request) -> bytes:
        """The bytes of a request."""
        self._silent = True
        try:
            parts = (
                h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw),
                h11.Data(data=request.content),
                h11.EndOfMessage(),
            )
            return b"".join(self._state.send(part) or b"" for part in parts)
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from error

    def told(self, data: bytes) -> None:
        """Take bytes of the answer; none when there will be no more."""
        if not data and self._state.their_state is h11.SEND_RESPONSE:
            raise httpx.RemoteProtocolError("the connection was closed without an answer")
        self._silent = False
        self._state.receive_data(data)

    def head(self) -> h11.Response | None:
        """The answer's head; None when more bytes are needed."""
        while (event := self._next()) is not None:
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise httpx.RemoteProtocolError("no answer where one was due")
        return None

    def body(self) -> bytes | None:
        """The next piece of the body; None when more bytes are needed, empty when it is whole."""
        while isinstance(event := self._next(), h11.Data):
            if event.data:
                return bytes(event.data)
        return None if event is None else b""

    def _next(self) -> object | None:
        try:
            event = self._state.next_event()
        except h11.RemoteProtocolError as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        return None if event is h11.NEED_DATA else event

    def again(self) -> bool:
        """Whether another request may follow: the answer was whole, and nothing came after it."""
        if self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE:
            return False
        if self._state.trailing_data[0]:
            return False
        self._state.start_next_cycle()
        self._answers += 1
        self._used_at = time.monotonic()
        return True

    def closed_unannounced(self, error: BaseException) -> bool:
        """Whether a failure looks as if the server had closed the connection after an answer, before this request."""
        return self._answers > 0 and self._silent and isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError))

    def idle_s(self) -> float:
        """Seconds since the last answer."""
        return time.monotonic() - self._used_at


def _response(
    head: h11.Response, request: httpx.Request, stream: httpx.AsyncByteStream | httpx.SyncByteStream
) -> httpx.Response:
    return httpx.Response(head.status_code, headers=head.headers.raw_items(), stream=stream, request=request)


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _timeouts(request: httpx.Request) -> tuple[float, float]:
    """Seconds to connect, and for the answer's head, and then for each piece of its body, to come."""
    timeout = request.extensions["timeout"]
    return timeout["connect"], timeout["read"]


@contextlib.contextmanager
def _connecting() -> Iterator[None]:
    """Failures before there is a connection."""
    try:
        yield
    except TimeoutError as error:
        raise httpx.ConnectTimeout("no connection in time") from error
    except (OSError, UnicodeError) as error:  # a name that is none to the resolver is the latter
        raise httpx.ConnectError(str(error)) from error


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Failures after a request may have left."""
    try:
        yield
    except TimeoutError as error:
        raise httpx.ReadTimeout("no answer in time") from error
    except OSError as error:
        raise httpx.ReadError(str(error)) from error


def _has_unread(fileno: int) -> bool:
    """Whether something waits to be read at a socket: its end, or bytes that nobody has asked for."""
    if fileno < 0:
        return True  # closed by another thread
    if not hasattr(select, "poll"):
        return bool(select.select([fileno], [], [], 0)[0])
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))


class SingleConnectionTransport(httpx.AsyncBaseTransport):
    """A single HTTP/1.1 connection, opened when it is needed, kept open, and replaced when it is no longer usable.

    One request at a time: the next may begin when the response of the one before is closed.
    """

    def __init__(self, context: ssl.SSLContext, reuse: KeepAlivePolicy, *, keepalive_s: float) -> None:
        """Make a lane; nothing is connected yet.

        Args:
            context: For https.
            reuse: Shared by the lanes of a client.
            keepalive_s: Seconds after which an idle connection is not used any more.
        """
        self._context = context
        self._reuse = reuse
        self._keepalive_s = keepalive_s
        #: The id of the last message that was sent here.
        self.last_message_id: str | None = None
        self._line: _Line | None = None
        self._place: object = None

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
        """Close the connection; the next request would open another one."""
        self.leave()
        await asyncio.sleep(0)  # the loop closes it in its next round

    def leave(self) -> None:
        """Use this connection no more: what else comes on it is not for the next request."""
        line, self._line = self._line, None
        if line is not None:
            line.leave()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read the head of its answer; failures are httpx's."""
        connect_s, read_s = _timeouts(request)
        line = self._line
        if (
            line is None
            or not self._reuse.allowed
            or line.has_unexpected_data()
            or line.dialogue.idle_s() > self._keepalive_s
        ):
            self.leave()
            line = self._line = await self._open(request.url, connect_s)
        try:
            line.write(line.dialogue.asked(request))
            until = time.monotonic() + read_s
            while (head := line.dialogue.head()) is None:
                line.dialogue.told(await line.read(until))
        except BaseException as error:
            if self._line is line and line.dialogue.closed_unannounced(error):
                self._reuse.failed()
            self.leave()
            raise
        return _response(head, request, _Body(self, line, read_s))

    async def _open(self, url: httpx.URL, connect_s: float) -> _Line:
        loop = asyncio.get_running_loop()
        host, https = url.raw_host.decode("ascii"), url.scheme == "https"
        until = loop.time() + connect_s
        with _connecting():
            async with asyncio.timeout_at(until):
                found = await loop.getaddrinfo(host, _port(url), type=socket.SOCK_STREAM)
            # One after the other, each with its share of the time, and first the one that answered last time.
            places = sorted((address[:2] for *_, address in found), key=lambda place: place != self._place)
            for left in range(len(places), 0, -1):
                place = places[-left]
                try:
                    async with asyncio.timeout((until - loop.time()) / left):
                        _, line = await loop.create_connection(
                            _Line, *place, ssl=self._context if https else None, server_hostname=host if https else None
                        )
                    # Session tickets of TLS are news to the socket, but to nobody else.
                    if line.has_news() or (not https and line.has_unexpected_data()):
                        line.leave()
                        raise ConnectionResetError(errno.ECONNRESET, "ended before anything was asked")
                except OSError:
                    if left == 1:
                        raise
                else:
                    self._place = place
                    return line
        raise httpx.ConnectError("the host has no address")

    def ended(self, line: _Line) -> None:
        """Keep the connection for the next request, or leave it."""
        if line is not self._line:
            return
        if line.dialogue.again() and self._reuse.allowed:
            line.idle = True
        else:
            self.leave()


class _Line(asyncio.Protocol):
    """The asynchronous connection: what has arrived and was not read yet."""

    def __init__(self) -> None:
        self.dialogue = _Dialogue()
        self._pieces: deque[bytes] = deque()
        #: Whether nothing has been asked that was not answered.
        self.idle = True
        self._over = False
        self._failure: Exception | None = None
        self._news: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # a loop may have classes of its own for it
        self._fileno: int = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        if self.idle:
            self._transport.abort()  # it will not be used again, and need not be read
        self._tell()

    def eof_received(self) -> None:
        self._over = True
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over, self._failure = True, self._failure or exc
        self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def write(self, data: bytes) -> None:
        """Begin to send; a gateway that does not take it does not answer in time either."""
        self.idle = False
        self._transport.write(data)

    async def read(self, until: float) -> bytes:
        """What has arrived, as soon as something has; nothing at the end."""
        if not self._pieces and not self._over:
            self._news = asyncio.get_running_loop().create_future()
            with _reading():
                try:
                    async with asyncio.timeout(until - time.monotonic()):
                        await self._news
                except TimeoutError:
                    if not self._pieces:  # what came while the machine stood still is there
                        raise
        if self._pieces:
            return self._pieces.popleft()
        if self._failure is not None:
            raise httpx.ReadError(str(self._failure)) from self._failure
        return b""

    def has_news(self) -> bool:
        """Whether it has ended, or something has come that was not read yet."""
        return self._over or bool(self._pieces) or self._transport.is_closing()

    def has_unexpected_data(self) -> bool:
        """Whether it cannot be used again: it has ended, or something has come that nobody asked for."""
        return self.has_news() or _has_unread(self._fileno)

    def leave(self) -> None:
        """Close it at once: what is being read is not whole."""
        self._over, self._failure = True, self._failure or ConnectionAbortedError(errno.ECONNABORTED, "closed by us")
        self._transport.abort()


class _Body(httpx.AsyncByteStream):
    def __init__(self, lane: SingleConnectionTransport, line: _Line, read_s: float) -> None:
        self._lane, self._line, self._read_s = lane, line, read_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        dialogue, until = self._line.dialogue, time.monotonic() + self._read_s
        while (piece := dialogue.body()) != b"":
            if piece is None:
                dialogue.told(await self._line.read(until))
            else:
                yield piece
                until = time.monotonic() + self._read_s

    async def aclose(self) -> None:
        self._lane.ended(self._line)


class SyncSingleConnectionTransport(httpx.BaseTransport):
    """As :class:`SingleConnectionTransport`, for a thread that waits."""

    def __init__(self, context: ssl.SSLContext, reuse: KeepAlivePolicy, *, keepalive_s: float) -> None:
        """Make a lane; nothing is connected yet. See :class:`SingleConnectionTransport`."""
        self._context = context
        self._reuse = reuse
        self._keepalive_s = keepalive_s
        self.last_message_id: str | None = None
        self._line: _SyncLine | None = None

    def close(self) -> None:
        """Close the connection; the next request would open another one."""
        self.leave()

    def leave(self) -> None:
        """Use this connection no more; see :meth:`SingleConnectionTransport.leave`."""
        line, self._line = self._line, None
        if line is not None:
            line.leave()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read the head of its answer; failures are httpx's."""
        connect_s, read_s = _timeouts(request)
        line = self._line
        if (
            line is None
            or not self._reuse.allowed
            or line.has_unexpected_data()
            or line.dialogue.idle_s() > self._keepalive_s
        ):
            self.leave()
            with _connecting():
                line = self._line = _SyncLine(request.url, self._context, connect_s)
        try:
            until = time.monotonic() + read_s
            line.write(line.dialogue.asked(request), until)
            while (head := line.dialogue.head()) is None:
                line.dialogue.told(line.read(until))
        except BaseException as error:
            if self._line is line and line.dialogue.closed_unannounced(error):
                self._reuse.failed()
            self.leave()
            raise
        return _response(head, request, _SyncBody(self, line, read_s))

    def ended(self, line: _SyncLine) -> None:
        """Keep the connection for the next request, or leave it."""
        if line is self._line and not (line.dialogue.again() and self._reuse.allowed):
            self.leave()


class _SyncLine:
    """The synchronous connection."""

    def __init__(self, url: httpx.URL, context: ssl.SSLContext, connect_s: float) -> None:
        self.dialogue = _Dialogue()
        self._left = False
        host = url.raw_host.decode("ascii")
        self._socket = socket.create_connection((host, _port(url)), connect_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if url.scheme == "https":
                self._socket = context.wrap_socket(self._socket, server_hostname=host)
        except BaseException:
            self._socket.close()
            raise
        if url.scheme == "http" and self.has_unexpected_data():  # session tickets of TLS are news to the socket too
            self._socket.close()
            raise ConnectionResetError(errno.ECONNRESET, "ended before anything was asked")

    def write(self, data: bytes, until: float) -> None:
        """Send; a gateway that does not take all of it may have answered nevertheless."""
        with _reading(), contextlib.suppress(ConnectionError):
            self._wait_until(until)
            self._socket.sendall(data)

    def read(self, until: float) -> bytes:
        """What has arrived, as soon as something has; nothing at the end."""
        with _reading():
            self._wait_until(until)
            data = self._socket.recv(_PIECE_BYTES)
            if not data and self._left:
                raise ConnectionAbortedError(errno.ECONNABORTED, "closed by us")
            return data

    def _wait_until(self, until: float) -> None:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)

    def has_unexpected_data(self) -> bool:
        """Whether it cannot be used again: it has ended, or something has come that nobody asked for."""
        unread = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        return bool(unread) or _has_unread(self._socket.fileno())

    def leave(self) -> None:
        """Close it at once, also for a thread that waits for it: what it reads is not whole."""
        self._left = True
        with contextlib.suppress(OSError):
            # Not the method of an SSLSocket: it forgets TLS first, and what another thread sends then would be plain.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self._socket.close()


class _SyncBody(httpx.SyncByteStream):
    def __init__(self, lane: SyncSingleConnectionTransport, line: _SyncLine, read_s: float) -> None:
        self._lane, self._line, self._read_s = lane, line, read_s

    def __iter__(self) -> Iterator[bytes]:
        dialogue, until = self._line.dialogue, time.monotonic() + self._read_s
        while (piece := dialogue.body()) != b"":
            if piece is None:
                dialogue.told(self._line.read(until))
            else:
                yield piece
                until = time.monotonic() + self._read_s

    def close(self) -> None:
        self._lane.ended(self._line)
