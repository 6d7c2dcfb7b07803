"""The gateway over HTTP: ``/external/`` for the client, ``/_sandbox/`` for the test, ``/`` for the person.

The eight endpoints are answered by a few lines of plain ASGI, because a campaign's worth of requests goes through them;
everything else is Starlette.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.sandbox.faults import ENDPOINTS, Fault
from prefect_mymsp.sandbox.page import page
from prefect_mymsp.sandbox.state import iso

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from prefect_mymsp.models import ReceivedMessage
    from prefect_mymsp.sandbox.state import Gateway, Reply

_PATHS: Final = {f"/external/{endpoint}": endpoint for endpoint in ENDPOINTS}
_LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


class ConnectionDropped(ConnectionError):  # noqa: N818  named after the event
    """The app was told to drop a connection but runs under a server it cannot do that with."""


def create_app(gateway: Gateway) -> ASGIApp:
    """The ASGI application that serves ``gateway``; dropping connections needs uvicorn."""
    rest = _json_api(gateway)

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
    # has no way to close a connection without an answer.
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if not isinstance(transport, asyncio.WriteTransport):
        raise ConnectionDropped("The sandbox can only drop connections under uvicorn.")
    return transport


async def _drop(receive: Receive, send: Send) -> None:
    _transport(send).abort()
    await _gone(receive)


async def _truncate(reply: Reply, receive: Receive, send: Send) -> None:
    transport = _transport(send)
    await send({"type": "http.response.body", "body": reply.body, "more_body": True})
    transport.close()  # what is in its buffer still leaves, unlike with abort()
    await _gone(receive)


async def _gone(receive: Receive) -> None:
    # Until uvicorn knows that the connection is gone it would answer 500 for a request without a response.
    while (await receive())["type"] != "http.disconnect":
        pass


def _from_loopback_name(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"host":
            host = value.decode("iso-8859-1")
            return (host if host.endswith("]") else host.rpartition(":")[0] or host) in _LOOPBACK_NAMES
    return False


# ---------------------------------------------------------------- /_sandbox/


def _json_api(gateway: Gateway) -> Starlette:
    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "now": iso(gateway.clock.timestamp()), "messages": len(gateway.messages)})

    async def ledger(request: Request) -> Response:
        if request.query_params.get("summary") == "true":
            return JSONResponse(_summary(gateway))
        return JSONResponse({"messages": gateway.ledger(msisdn=request.query_params.get("msisdn"))})

    async def requests(request: Request) -> Response:
        with gateway.lock:
            shown = {
                "total": gateway.request_count,
                "credentials_in_url": gateway.credentials_in_url_count,
                "faults": gateway.faults_struck(),
                "requests": [r._asdict() | {"at": iso(r.at)} for r in gateway.requests],
            }
        return JSONResponse(shown)

    async def inbox(request: Request) -> Response:
        if request.method == "POST":
            return JSONResponse(_received_json(gateway.receive(**_received(await _body(request)))), 201)
        return JSONResponse({"messages": [_received_json(m) for m in gateway.inbox(request.query_params.get("user"))]})

    async def faults(request: Request) -> Response:
        if request.method != "GET":
            given = await _body(request)
            with gateway.lock:
                if request.method == "POST":
                    added = [Fault.from_json(given)]
                    gateway.faults.replace(scripted=[*gateway.faults.remaining(), *added])
                else:
                    _replace_faults(gateway, given)
        with gateway.lock:
            return JSONResponse(gateway.faults.as_json())

    async def clock(request: Request) -> Response:
        if request.method == "PUT":
            _set_clock(gateway, await _body(request))
        with gateway.lock:
            timer = gateway.clock
            return JSONResponse({"now": iso(timer.timestamp()), "speed": timer.speed, "frozen": timer.frozen})

    async def settings(request: Request) -> Response:
        if request.method == "PUT":
            gateway.configure(await _body(request))
        with gateway.lock:
            accounts = {user: account.as_json() for user, account in gateway.accounts.items()}
            return JSONResponse(gateway.settings.as_json() | {"accounts": accounts})

    async def reset(request: Request) -> Response:
        gateway.reset()
        return JSONResponse({"status": "ok"})

    async def front(request: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return Response(page(gateway), media_type="text/html", headers={"content-security-policy": policy})

    async def refuse(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    return Starlette(
        routes=[
            _route("/", front, "GET"),
            _route("/_sandbox/health", health, "GET"),
            _route("/_sandbox/ledger", ledger, "GET"),
            _route("/_sandbox/requests", requests, "GET"),
            _route("/_sandbox/inbox", inbox, "GET", "POST"),
            _route("/_sandbox/faults", faults, "GET", "PUT", "POST"),
            _route("/_sandbox/clock", clock, "GET", "PUT"),
            _route("/_sandbox/settings", settings, "GET", "PUT"),
            _route("/_sandbox/reset", reset, "POST"),
        ],
        exception_handlers={ConfigurationError: refuse},
    )


def _route(path: str, endpoint: Callable[[Request], Awaitable[Response]], *methods: str) -> Route:
    return Route(path, endpoint, methods=list(methods))


async def _body(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(await request.body())
        # JSON can spell half a surrogate pair, which no answer could be written with.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"The body is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ConfigurationError("The body must be a JSON object.")
    return value


def _only(given: dict[str, Any], known: Iterable[str]) -> None:
    names = sorted(known)
    if unknown := sorted(set(given) - set(names)):
        raise ConfigurationError(f"Unknown {', '.join(unknown)}; there are {', '.join(names)}.")


def _summary(gateway: Gateway) -> dict[str, Any]:
    with gateway.lock:
        counts = gateway.summary()
        cancelled = sum(message.cancelled for message in gateway.messages.values())
        accepted = len(gateway.messages)
    shown = [_count(key, times) for key, times in counts.items()]
    return {
        "messages": accepted,
        "cancelled": cancelled,
        "recipients": counts.total(),
        "distinct": len(counts),
        "duplicates": [_count(key, times) for key, times in counts.items() if times > 1],
        "counts": shown,
    }


def _count(key: tuple[str, str], times: int) -> dict[str, Any]:
    return {"msisdn": key[0], "text": key[1], "times": times}


def _received(given: dict[str, Any]) -> dict[str, Any]:
    _only(given, {"originator", "text", "prefix", "kind", "user", "alias", "subject", "received_at"})
    for name in ("originator", "text"):
        if name not in given:
            raise ConfigurationError(f"A received message needs {name}.")
    optional = {"prefix", "user", "alias", "subject", "received_at"}
    for name, value in given.items():
        if not (isinstance(value, str) or (value is None and name in optional)):
            raise ConfigurationError(f"{name} must be a text, not {value!r}.")
    if given.get("received_at") is not None:
        try:
            return given | {"received_at": datetime.fromisoformat(given["received_at"])}
        except ValueError as error:
            raise ConfigurationError(f"received_at is not a time in ISO 8601: {given['received_at']!r}.") from error
    return given


def _received_json(message: ReceivedMessage) -> dict[str, Any]:
    at = message.received_at
    return asdict(message) | {"received_at": None if at is None else iso(at.timestamp())}


def _replace_faults(gateway: Gateway, given: dict[str, Any]) -> None:
    _only(given, {"seed", "random", "scripted"})
    seed = given.get("seed")
    if "seed" in given and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise ConfigurationError(f"seed must be a whole number, not {seed!r}.")

    def parsed(name: str) -> Sequence[Fault] | None:
        if name not in given:
            return None
        if not isinstance(given[name], list):
            raise ConfigurationError(f"{name} must be a list of faults.")
        return [Fault.from_json(fault) for fault in given[name]]

    gateway.faults.replace(seed=seed, random=parsed("random"), scripted=parsed("scripted"))


def _set_clock(gateway: Gateway, given: dict[str, Any]) -> None:
    _only(given, {"speed", "advance_s", "frozen"})
    for name in ("speed", "advance_s"):
        value = given.get(name, 1)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ConfigurationError(f"{name} must be a number, not {value!r}.")
    if not isinstance(given.get("frozen", False), bool):
        raise ConfigurationError(f"frozen must be true or false, not {given['frozen']!r}.")
    with gateway.lock:
        if "speed" in given:
            gateway.clock.speed = given["speed"]
        if "frozen" in given:
            gateway.clock.frozen = given["frozen"]
        if "advance_s" in given:
            gateway.clock.advance(given["advance_s"])
