"""One connection to the gateway behind httpx's transport interface.

httpx keeps connections in a pool, which takes longer to find the only one it has than the request takes. This is the
connection the pool would have used, httpcore's own, without the pool.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

#: httpcore's failures by httpx's names for them, the narrowest first.
_FAILURES: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ReadTimeout, httpx.ReadTimeout),
    (httpcore.WriteTimeout, httpx.WriteTimeout),
    (httpcore.TimeoutException, httpx.TimeoutException),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.ReadError, httpx.ReadError),
    (httpcore.WriteError, httpx.WriteError),
    (httpcore.NetworkError, httpx.NetworkError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.LocalProtocolError, httpx.LocalProtocolError),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
    (httpcore.ProtocolError, httpx.TransportError),
)


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except tuple(known for known, _ in _FAILURES) as error:
        name = next(theirs for known, theirs in _FAILURES if isinstance(error, known))
        raise name(str(error)) from error


def proxy_for(host: str) -> str | None:
    """The proxy that the environment names for https to a host; None for none."""
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    return None if proxy is None or proxy_bypass(host) else proxy


class Lane(httpx.AsyncBaseTransport):
    """A single HTTP/1.1 connection, opened when it is needed, kept open, and replaced when it is no longer usable.

    One request at a time: the next may begin when the response of the one before is closed.
    """

    def __init__(self, context: ssl.SSLContext, *, keepalive_s: float) -> None:
        """Make a lane; nothing is connected yet.

        Args:
            context: For https.
            keepalive_s: Seconds after which an idle connection is not used any more.
        """
        self._context = context
        self._keepalive_s = keepalive_s
        self._connection: httpcore.AsyncHTTPConnection | None = None

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
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read the head of its answer; failures are httpx's."""
        with _as_httpx():
            asked = httpcore.Request(
                request.method,
                httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
            answer = await (await self._open(asked.url.origin)).handle_async_request(asked)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions, request=request
        )

    async def _open(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        connection = self._connection
        if connection is not None and connection.can_handle_request(origin):
            if not (connection.is_closed() or connection.has_expired()):
                return connection
            await connection.aclose()
        self._connection = httpcore.AsyncHTTPConnection(
            origin, ssl_context=self._context, keepalive_expiry=self._keepalive_s
        )
        return self._connection


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for chunk in self._answer.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        with _as_httpx():
            await self._answer.aclose()
