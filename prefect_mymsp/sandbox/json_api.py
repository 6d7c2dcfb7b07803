"""The JSON API under ``/_sandbox/``, through which tests in any language look at the gateway and change it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Required

from pydantic import with_config
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.sandbox.faults import Fault
from prefect_mymsp.sandbox.json_values import JSON_CONFIG, parse_json_text
from prefect_mymsp.sandbox.messages import iso
from prefect_mymsp.sandbox.page import page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from prefect_mymsp.models import ReceivedMessage
    from prefect_mymsp.sandbox.gateway import Gateway


@with_config(JSON_CONFIG)
class _ReceivedBody(TypedDict, total=False):
    originator: Required[str]
    text: Required[str]
    prefix: str | None
    kind: Literal["SMS", "VOI", "DPN"]
    user: str | None
    alias: str | None
    subject: str | None
    received_at: datetime | None


@with_config(JSON_CONFIG)
class _FaultsBody(TypedDict, total=False):
    seed: int
    random: list[dict[str, Any]]
    scripted: list[dict[str, Any]]


@with_config(JSON_CONFIG)
class _ClockBody(TypedDict, total=False):
    speed: float
    frozen: bool
    advance_s: float


def create_json_api(gateway: Gateway) -> Starlette:
    """The application that serves ``/_sandbox/`` and the page at ``/``."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "now": iso(gateway.clock.timestamp()), "messages": len(gateway.messages)})

    async def ledger(request: Request) -> Response:
        if request.query_params.get("summary") == "true":
            return JSONResponse(_summary(gateway))
        return JSONResponse({"messages": gateway.ledger(msisdn=request.query_params.get("msisdn"))})

    async def requests(request: Request) -> Response:
        with gateway.lock:
            log = {
                "total": gateway.request_count,
                "credentials_in_url": gateway.credentials_in_url_count,
                "faults": gateway.applied_faults(),
                "requests": [entry._asdict() | {"at": iso(entry.at)} for entry in gateway.requests],
            }
        return JSONResponse(log)

    async def inbox(request: Request) -> Response:
        if request.method == "POST":
            body = parse_json_text(_ReceivedBody, await request.body())
            return JSONResponse(_received_json(gateway.receive(**body)), 201)
        messages = gateway.inbox(request.query_params.get("user"))
        return JSONResponse({"messages": [_received_json(message) for message in messages]})

    async def faults(request: Request) -> Response:
        if request.method == "POST":
            fault = Fault.from_json(await _json_object(request))
            with gateway.lock:
                gateway.faults.replace(scripted=[*gateway.faults.remaining(), fault])
        elif request.method == "PUT":
            _replace_faults(gateway, parse_json_text(_FaultsBody, await request.body()))
        with gateway.lock:
            return JSONResponse(gateway.faults.as_json())

    async def clock(request: Request) -> Response:
        if request.method == "PUT":
            _set_clock(gateway, parse_json_text(_ClockBody, await request.body()))
        with gateway.lock:
            now, speed, frozen = gateway.clock.timestamp(), gateway.clock.speed, gateway.clock.frozen
        return JSONResponse({"now": iso(now), "speed": speed, "frozen": frozen})

    async def settings(request: Request) -> Response:
        if request.method == "PUT":
            gateway.configure(await _json_object(request))
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


async def _json_object(request: Request) -> dict[str, Any]:
    return parse_json_text(dict[str, Any], await request.body())


def _summary(gateway: Gateway) -> dict[str, Any]:
    with gateway.lock:
        counts = gateway.summary()
        cancelled = sum(message.cancelled for message in gateway.messages.values())
        accepted = len(gateway.messages)
    return {
        "messages": accepted,
        "cancelled": cancelled,
        "recipients": counts.total(),
        "distinct": len(counts),
        "duplicates": [_count(key, times) for key, times in counts.items() if times > 1],
        "counts": [_count(key, times) for key, times in counts.items()],
    }


def _count(key: tuple[str, str], times: int) -> dict[str, Any]:
    return {"msisdn": key[0], "text": key[1], "times": times}


def _received_json(message: ReceivedMessage) -> dict[str, Any]:
    at = message.received_at
    return asdict(message) | {"received_at": None if at is None else iso(at.timestamp())}


def _replace_faults(gateway: Gateway, body: _FaultsBody) -> None:
    lists = {name: [Fault.from_json(fault) for fault in body[name]] for name in ("random", "scripted") if name in body}
    gateway.faults.replace(seed=body.get("seed"), **lists)


def _set_clock(gateway: Gateway, body: _ClockBody) -> None:
    with gateway.lock:
        if "speed" in body:
            gateway.clock.speed = body["speed"]
        if "frozen" in body:
            gateway.clock.frozen = body["frozen"]
        if "advance_s" in body:
            gateway.clock.advance(body["advance_s"])
