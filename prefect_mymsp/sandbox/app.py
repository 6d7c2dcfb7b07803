"""The gateway over HTTP: ``/external/`` for the client, ``/_sandbox/`` for tests, ``/`` for a person.

A few lines of plain ASGI serve the eight endpoints, because thousands of requests go through them; Starlette serves
everything else.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from prefect_mymsp.sandbox.faults import ENDPOINTS
from prefect_mymsp.sandbox.json_api import create_json_api

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from prefect_mymsp.sandbox.gateway import Gateway
    from prefect_mymsp.sandbox.messages import Reply

_PATHS: Final = {f"/external/{endpoint}": endpoint for endpoint in ENDPOINTS}
_LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


class ConnectionDropped(ConnectionError):  # noqa: N818  named after the event
    """The server that runs the app offers no way to drop a connection."""


def create_app(gateway: Gateway) -> ASGIApp:
    """The ASGI application that serves ``gateway``; dropping connections needs uvicorn."""
    rest = create_json_api(gateway)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = _PATHS.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is not None:
            await _external(gateway, endpoint, scope, receive, send)
        elif scope["type"] == "http" and not _from_loopback_name(scope):
            # A page on the web may have its own name point to 127.0.0.1 and would then read test data with it.
            await Response("Only loopback names are served\n", 421)(scope, receive, send)
        else:
            await rest(scope, receive, send)

    return app


async def _external(gateway: Gateway, endpoint: str, scope: Scope, receive: Receive, send: Send) -> None:
    method = scope["method"]
    if method not in {"GET", "POST"}:
        await Response("Only GET and POST\n", 405, {"allow": "GET, POST"})(scope, receive, send)
        return
    message = await receive()
    body = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    if message["type"] == "http.disconnect":
        return
    reply = gateway.handle(method, endpoint, scope["query_string"], body)
    if reply.delay_s:
        await asyncio.sleep(reply.delay_s)
    if reply.dropped:
        await _drop(receive, send)
        return
    length = str(reply.announced).encode()
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [*reply.headers, (b"content-length", length)],
        }
    )
    if reply.announced == len(reply.body):
        await send({"type": "http.response.body", "body": reply.body})
    else:
        await _truncate(reply, receive, send)


def _transport(send: Send) -> asyncio.WriteTransport:
    # ``send`` is a bound method of uvicorn's RequestResponseCycle, which holds the connection's transport. ASGI itself
    # has no way to close a connection without a response.
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if not isinstance(transport, asyncio.WriteTransport):
        raise ConnectionDropped("The sandbox can only drop connections under uvicorn.")
    return transport


async def _drop(receive: Receive, send: Send) -> None:
    _transport(send).abort()
    await _wait_for_disconnect(receive)


async def _truncate(reply: Reply, receive: Receive, send: Send) -> None:
    transport = _transport(send)
    await send({"type": "http.response.body", "body": reply.body, "more_body": True})
    transport.close()  # what is in its buffer still leaves, unlike with abort()
    await _wait_for_disconnect(receive)


async def _wait_for_disconnect(receive: Receive) -> None:
    # Until uvicorn has seen the closed connection it would return 500 for a request without a response.
    while (await receive())["type"] != "http.disconnect":
        pass


def _from_loopback_name(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"host":
            host = value.decode("iso-8859-1")
            return (host if host.endswith("]") else host.rpartition(":")[0] or host) in _LOOPBACK_NAMES
    return False
