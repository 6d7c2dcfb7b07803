"""The client against raw sockets on loopback: acceptance, refusal, doubt, retries, secrets.

Every case of doubt counts the requests at the server: a request that may have been sent is not repeated.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import pickle
import socket
import ssl
import threading
import time
import traceback
import zlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_mymsp.client import AsyncMyMSPClient, check_base_url
from prefect_mymsp.errors import (
    ConfigurationError,
    InDoubtError,
    InputError,
    MyMSPError,
    NoResponseError,
    NotSentError,
    ProtocolError,
    RateLimitedError,
    RefusedError,
    UnexpectedStatusError,
    UnreachableError,
)
from prefect_mymsp.models import ScheduledMessage, Updates
from prefect_mymsp.sync_client import MyMSPClient
from tests.loopback import (
    NUMBER,
    PASSWORD,
    USER,
    LoopbackServer,
    Reply,
    breaks_off,
    counts_up,
    drips,
    drips_lines,
    free_port,
    hangs,
    http,
    resets,
    run,
    says,
    send,
)

pytestmark = pytest.mark.usefixtures("no_proxies")


def updates(client: AsyncMyMSPClient) -> Awaitable[Updates]:
    return client.fetch_updates()


# ------------------------------------------------------------------------------------------------ accepted, rejected

AT = datetime(2030, 1, 15, 9, 45, tzinfo=UTC)
HEADER = ";;12556\t2007-12-02 15:14\tjDoe\tAPREFIX\tSMS\t46701740699\tnull\tnull\t"
CALLS: dict[str, tuple[Callable[[Any], Any], str, Callable[[Any], bool]]] = {
    "sendSms": (send, "A\n12556", lambda value: bool(value == "12556")),
    "getSmsResult": (
        lambda client: client.fetch_result("12556"),
        f"A\n1/1/0\n{NUMBER}\t2007-12-02 15:14\tundelivered\t-1",
        lambda value: value.statuses[0].sent_at == datetime(2007, 12, 2, 14, 14, tzinfo=UTC),
    ),
    "sendlater/get": (
        lambda client: client.get_scheduled_time("12556"),
        "A\n12556\t300115104500004+",
        lambda value: bool(value == AT),
    ),
    "sendlater/getall": (
        lambda client: client.list_scheduled(),
        "A\n12556\t300115104500004+",
        lambda value: bool(value == [ScheduledMessage("12556", AT)]),
    ),
    "sendlater/update": (lambda client: client.reschedule("12556", AT), "A", lambda value: value is None),
    "sendlater/cancel": (lambda client: client.cancel("12556"), "A\n", lambda value: value is None),
    "getMsgReceived": (
        lambda client: client.fetch_inbox(12000),
        f"A\n{HEADER}A text",
        lambda value: [message.text for message in value] == ["A text"],
    ),
    "getMsgUpdates": (
        updates,
        f"A\n;;0\t12556\t98765\t{NUMBER}\tdelivered\t2007-12-02 15:14",
        lambda value: [report.recipient for report in value.delivery_reports] == [NUMBER],
    ),
}


@pytest.mark.parametrize("endpoint", CALLS)
def test_accepted(endpoint: str) -> None:
    act, response, holds = CALLS[endpoint]
    with LoopbackServer(says(response)) as server:
        assert holds(run(server.url, act))
    [request] = server.requests
    assert request.line == f"POST /external/{endpoint} HTTP/1.1"
    assert request.headers["content-type"].split(";")[0] == "application/x-www-form-urlencoded"
    assert (request.form["user"], request.form["pwd"]) == (USER, PASSWORD)
    assert b"canary" not in request.head
    assert "authorization" not in request.headers


@pytest.mark.parametrize("endpoint", CALLS)
def test_rejected(endpoint: str) -> None:
    act = CALLS[endpoint][0]
    with LoopbackServer(says("N\r\n7\r\n")) as server, pytest.raises(RefusedError) as refused:
        run(server.url, act, retry_for_s=1.0)
    assert (refused.value.code, refused.value.endpoint) == (7, endpoint)
    assert refused.value.account_wide
    assert len(server.requests) == 1


def test_invalid_arguments_are_rejected_before_any_request() -> None:
    with LoopbackServer(says("A\n1")) as server:
        for act in (
            lambda client: client.send("0701740605", "Hej"),
            lambda client: client.send([NUMBER], "x" * 766),
            lambda client: client.send([NUMBER], "Hej", send_at=datetime(2030, 1, 1, 12, 0)),
            lambda client: client.cancel("abc"),
        ):
            with pytest.raises(InputError):
                run(server.url, act)
    assert server.requests == []


def test_times_are_read_in_the_gateways_zone() -> None:
    with LoopbackServer(says(CALLS["getSmsResult"][1])) as server:
        result = run(server.url, lambda client: client.fetch_result("12556"), timezone="Asia/Kathmandu")
    assert result.statuses[0].sent_at == datetime(2007, 12, 2, 9, 29, tzinfo=UTC)


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found"])
def test_a_refusal_with_status_4xx_is_a_refusal(status: str) -> None:
    with LoopbackServer(says(http("N\n28", status))) as server, pytest.raises(RefusedError) as refused:
        run(server.url, send)
    assert refused.value.code == 28
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "response",
    [
        http(gzip.compress(b"A\n12556"), "200 OK", "Content-Encoding: gzip"),
        http(zlib.compress(b"A\n12556"), "200 OK", "Content-Encoding: Deflate"),
        http(b"A\n12556", "200 OK", "Content-Encoding: UTF-8"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nA\n\r\n5\r\n12556\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + http("A\n12556"),
        http("A\n12556", "201 Created"),
        http("\ufeffA\r\n12556\r\n".encode("utf-16-le"), "200 OK", "Content-Type: text/plain; charset=utf-16"),
        http("A\n12556", "200 OK", "Content-Type: text/plain; charset*=a; charset*0=b"),
        http("A\n12556", "200 OK", "Set-Cookie: \xe5=;;;", "Content-Type: \xe5"),
    ],
    ids=[
        "gzip",
        "deflate",
        "no compression",
        "chunked",
        "continue",
        "created",
        "utf-16",
        "odd content type",
        "odd headers",
    ],
)
def test_other_forms_of_an_acceptance(response: bytes) -> None:
    with LoopbackServer(says(response)) as server:
        assert run(server.url, send) == "12556"


def delayed(head: bytes, *rest: bytes, pause_s: float) -> Reply:
    def reply(server: LoopbackServer, connection: socket.socket) -> bool:
        connection.sendall(head)
        for part in rest:
            server.stopping.wait(pause_s)
            connection.sendall(part)
        return True

    return reply


def test_a_complete_response_counts_even_if_its_last_chunk_is_late() -> None:
    """Each read is within the timeout, but not their sum; the complete response is still accepted."""
    slow = delayed(b"HTTP/1.1 200 OK\r\n", b"Content-Length: 7\r\n\r\nA\n", b"12556", pause_s=0.3)
    with LoopbackServer(slow) as server:
        assert run(server.url, send, timeout_s=0.5) == "12556"
        assert len(server.requests) == 1


def test_a_response_that_ends_with_the_connection() -> None:
    with LoopbackServer(breaks_off(b"HTTP/1.0 200 OK\r\n\r\nA\n12556\n")) as server:
        assert run(server.url, send) == "12556"


def test_no_compression_is_requested() -> None:
    # A truncated compressed response may decompress without an error, to an id without its last digits.
    with LoopbackServer(says("A\n1")) as server:
        run(server.url, send)
    assert server.requests[0].headers["accept-encoding"] == "identity"


# ------------------------------------------------------------------------------------------------ in doubt

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PACKED = gzip.compress(b"A\n12556")
HTML = "<!DOCTYPE html><html><body>Log in</body></html>"
DOUBTS: dict[str, tuple[Reply, type[InDoubtError], str | None]] = {
    "closed before any byte": (breaks_off(), NoResponseError, "connection-lost"),
    "reset": (resets, NoResponseError, "connection-lost"),
    "closed in the status line": (breaks_off(b"HTTP/1.1 2"), NoResponseError, "connection-lost"),
    "closed in the headers": (breaks_off(b"HTTP/1.1 200 OK\r\nContent-Le"), NoResponseError, "connection-lost"),
    "closed before the body": (breaks_off(http("", length=7)), NoResponseError, "connection-lost"),
    "closed in the body": (breaks_off(http("A\n123", length=7)), NoResponseError, "connection-lost"),
    "closed in the refusal": (breaks_off(http("N\n2", length=4)), NoResponseError, "connection-lost"),
    "closed in a chunk": (breaks_off(CHUNKED + b"5\r\nA\n12"), NoResponseError, "connection-lost"),
    "closed before the last chunk": (breaks_off(CHUNKED + b"5\r\nA\n123\r\n"), NoResponseError, "connection-lost"),
    "no HTTP": (breaks_off(b"220 smtp ready\r\n\r\n"), NoResponseError, None),
    "no status": (breaks_off(b"HTTP/1.1 OK\r\n\r\nA\n12556"), NoResponseError, None),
    "no response": (hangs(), NoResponseError, "timeout"),
    "no body": (hangs(http("", length=7)), NoResponseError, "timeout"),
    "half a body": (hangs(http("A\n123", length=7)), NoResponseError, "timeout"),
    "a byte at a time": (drips(http("", length=100), b"A" + b"\n" * 99, 0.05), NoResponseError, "timeout"),
    "headers a byte at a time": (drips(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 100, 0.05), NoResponseError, "timeout"),
    "a chunk's head a byte at a time": (drips(CHUNKED, b"1;" + b"x" * 98, 0.05), NoResponseError, "timeout"),
    "patience without end": (drips_lines(b"HTTP/1.1 102 Processing\r\n\r\n", 0.05), NoResponseError, "timeout"),
    "another protocol": (hangs(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), NoResponseError, None),
    "500": (says(http("A\n12556", "500 Internal Server Error")), UnexpectedStatusError, "http-500"),
    "502": (says(http(HTML, "502 Bad Gateway")), UnexpectedStatusError, "http-502"),
    "503": (says(http("N\n28", "503 Service Unavailable", "Retry-After: 0")), UnexpectedStatusError, "http-503"),
    "504": (says(http("", "504 Gateway Timeout")), UnexpectedStatusError, "http-504"),
    **{
        f"{status}": (
            says(http("A\n12556", f"{status} Elsewhere", "Location: /external/elsewhere")),
            UnexpectedStatusError,
            f"http-{status}",
        )
        for status in (300, 301, 302, 303, 307, 308)
    },
    **{
        f"redirect to {location!r}": (says(http("", "302 Found", f"Location: {location}")), InDoubtError, None)
        for location in ("mailto:x@y", "foo:bar", "https://xn--/", "//[", "http://[::1", "http://h:99999/", "\xff", "?")
    },
    "304": (says(b"HTTP/1.1 304 Not Modified\r\n\r\n"), UnexpectedStatusError, "http-304"),
    "400 and an A": (says(http("A\n12556", "400 Bad Request")), UnexpectedStatusError, "http-400"),
    "404": (says(http(HTML, "404 Not Found")), UnexpectedStatusError, "http-404"),
    "404 and half a refusal": (says(http("N\n", "404 Not Found")), UnexpectedStatusError, "http-404"),
    "408": (says(http("", "408 Request Timeout")), UnexpectedStatusError, "http-408"),
    "web page": (says(HTML), ProtocolError, "html"),
    "empty": (says(""), ProtocolError, "empty"),
    "204": (says(b"HTTP/1.1 204 No Content\r\n\r\n"), ProtocolError, "empty"),
    "no id": (says("A\n"), ProtocolError, "no-id"),
    "junk": (says("A\n12556 queued"), ProtocolError, None),
    "broken gzip": (says(http(b"A\n12556", "200 OK", "Content-Encoding: gzip")), ProtocolError, None),
    "empty gzip": (says(http(b"", "200 OK", "Content-Encoding: gzip")), ProtocolError, "empty"),
    "gzip twice": (says(http(PACKED + gzip.compress(b"7"), "200 OK", "Content-Encoding: gzip")), ProtocolError, None),
    "gzip that is cut": (says(http(PACKED[:-9], "200 OK", "Content-Encoding: gzip")), ProtocolError, "unreadable"),
    "gzip without its end": (says(http(PACKED[:-1], "200 OK", "Content-Encoding: gzip")), ProtocolError, "unreadable"),
    "another compression": (says(http(b"\x0b\x02\x80A\n1\x03", "200 OK", "Content-Encoding: br")), ProtocolError, None),
    "absurd code": (says("N\n" + "9" * 5000), ProtocolError, None),
}


@pytest.mark.parametrize("case", DOUBTS)
def test_a_doubt_is_an_error_and_is_never_retried(case: str) -> None:
    reply, error, reason = DOUBTS[case]
    began = time.monotonic()
    with LoopbackServer(reply, says("A\n99999")) as server:
        with pytest.raises(error) as doubt:
            run(server.url, send, timeout_s=0.25, retry_for_s=1.0)
        took = time.monotonic() - began
        assert len(server.requests) == 1
    assert reason in {None, doubt.value.reason}
    assert doubt.value.raw is None
    assert not isinstance(doubt.value, NotSentError)
    assert took < 1.5
    if isinstance(doubt.value, UnexpectedStatusError):
        assert doubt.value.reason == f"http-{doubt.value.status}"


@pytest.mark.parametrize(
    ("reply", "error", "raw"),
    [
        (breaks_off(http("A\n;;1\t12554\t467", length=500)), NoResponseError, b"A\n;;1\t12554\t467"),
        (breaks_off(CHUNKED + b"4\r\nA\n;;\r\n3\r\n0\t1"), NoResponseError, b"A\n;;0\t1"),
        (hangs(http("A\n;;0\t12556", length=500)), NoResponseError, b"A\n;;0\t12556"),
        (drips(http("", length=500), b"A\n" + b";" * 498, 0.05), NoResponseError, b"A\n;;;"),
        (says(http("A\n;;0\t12556", "502 Bad Gateway")), UnexpectedStatusError, b"A\n;;0\t12556"),
        (says(HTML), ProtocolError, HTML.encode()),
        (says(http("A\n;;0\t12556", "200 OK", "Content-Encoding: gzip")), ProtocolError, b"A\n;;0\t12556"),
        (says(""), ProtocolError, b""),
        (says("n\n7"), ProtocolError, b"n\n7"),
        (breaks_off(), NoResponseError, b""),
    ],
    ids=["cut", "cut chunk", "timeout", "drip", "502", "page", "not compressed", "empty", "lower case", "nothing"],
)
def test_an_error_has_the_bytes_of_a_destructive_read(reply: Reply, error: type[InDoubtError], raw: bytes) -> None:
    with LoopbackServer(reply, says("A")) as server:
        with pytest.raises(error) as doubt:
            run(server.url, updates, timeout_s=0.25, retry_for_s=1.0)
        assert len(server.requests) == 1
    assert doubt.value.raw is not None
    assert doubt.value.raw.startswith(raw)
    assert doubt.value.raw == raw or len(raw) == 5
    assert "12556" not in f"{doubt.value!s} {doubt.value!r}"
    copied = pickle.loads(pickle.dumps(doubt.value))
    assert copied.raw == doubt.value.raw


def test_updates_have_the_raw_response() -> None:
    response = "A\r\n;;1\t12554\tAnna\t2019-03-01 12:52\tP\tSMS\tå\r\n".encode("latin-1")
    with LoopbackServer(says(http(response)), says(http(response))) as server:
        assert run(server.url, updates).raw == response
        raw = run(server.url, lambda client: client.fetch_raw_updates())
    assert raw == response
    read = MyMSPClient(USER, PASSWORD).parse_updates(raw)
    assert (read.raw, [message.text for message in read.received_messages]) == (response, ["å"])


def test_an_error_has_the_bytes_of_raw_updates() -> None:
    with LoopbackServer(says(http(b"<html>a page"))) as server, pytest.raises(ProtocolError) as doubt:
        run(server.url, lambda client: client.fetch_raw_updates())
    assert doubt.value.raw == b"<html>a page"


def test_an_inbox_with_a_bad_record() -> None:
    response = f"A\n{HEADER}A text\n;;12557\tbad\n"
    with LoopbackServer(says(http(response)), says(http(response))) as server:
        inbox = run(server.url, lambda client: client.fetch_inbox_lenient(12000))
        assert [message.text for message in inbox.messages] == ["A text"]
        assert inbox.unparsed == (";;12557\tbad",)
        with pytest.raises(ProtocolError):
            run(server.url, lambda client: client.fetch_inbox(12000))


# ------------------------------------------------------------------------------------------------ not sent


def test_a_refused_connection_fails_at_once_without_retries() -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        run(f"http://127.0.0.1:{free_port()}", send)
    assert time.monotonic() - began < 1.0


def test_a_refused_connection_is_retried_for_the_configured_time() -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        run(f"http://127.0.0.1:{free_port()}", send, retry_for_s=0.5)
    assert 0.1 < time.monotonic() - began < 1.0


def test_retries_can_be_stopped() -> None:
    def stop_retrying_later_and_send(client: Any) -> Any:
        asyncio.get_running_loop().call_later(0.5, client.stop_retrying)
        return send(client)

    began = time.monotonic()
    with pytest.raises(UnreachableError):
        run(f"http://127.0.0.1:{free_port()}", stop_retrying_later_and_send, retry_for_s=60)
    assert 0.4 < time.monotonic() - began < 5


def test_a_gateway_that_comes_back_gets_the_message_once() -> None:
    port = free_port()
    gates: list[LoopbackServer] = []
    timer = threading.Timer(0.15, lambda: gates.append(LoopbackServer(says("A\n12556"), port=port)))
    timer.start()
    try:
        assert run(f"http://127.0.0.1:{port}", send, retry_for_s=5.0) == "12556"
    finally:
        timer.join()
        gates[0].close()
    assert len(gates[0].requests) == 1


def test_an_untrusted_certificate(server_tls: ssl.SSLContext) -> None:
    with LoopbackServer(says("A\n12556"), tls=server_tls) as server, pytest.raises(UnreachableError, match="TLS"):
        run(server.url, send)
    assert server.requests == []


def test_a_trusted_certificate(server_tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with LoopbackServer(says("A\n12556"), tls=server_tls) as server:
        assert run(server.url, send) == "12556"
    assert b"canary" not in server.requests[0].head


def test_plain_http_behind_https() -> None:
    with LoopbackServer(says("A\n12556")) as server, pytest.raises(UnreachableError):
        run(server.url.replace("http:", "https:"), send, timeout_s=0.3)
    assert server.requests == []


@pytest.mark.parametrize("response", [b"", http("", "400 Bad Request")], ids=["nothing", "400"])
def test_tls_that_ends_in_the_handshake(response: bytes) -> None:
    def hang_up(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(response)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        with pytest.raises(UnreachableError):
            run(f"https://127.0.0.1:{listener.getsockname()[1]}", send)
        thread.join()


def test_tls_that_never_responds() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(UnreachableError),
    ):
        run(f"https://127.0.0.1:{listener.getsockname()[1]}", send, timeout_s=0.3)


def test_more_calls_than_connections_wait_their_turn() -> None:
    async def send_many(client: AsyncMyMSPClient) -> list[str]:
        return await asyncio.gather(*(send(client) for _ in range(12)))

    with LoopbackServer(counts_up(pause_s=0.05)) as server:
        ids = run(server.url, send_many, connections=2)
        assert sorted(ids, key=int) == [str(number) for number in range(1, 13)]
        assert server.most_open <= 2


def test_closing_the_client_fails_waiting_calls_as_not_sent() -> None:
    async def close(client: AsyncMyMSPClient) -> list[str | BaseException]:
        calls = [asyncio.create_task(send(client)) for _ in range(3)]
        await asyncio.sleep(0.2)
        await client.aclose()
        return await asyncio.gather(*calls, return_exceptions=True)

    with LoopbackServer(hangs()) as server:
        errors = run(server.url, close, connections=1)
        assert [type(error) for error in errors] == [NoResponseError, UnreachableError, UnreachableError]
        assert len(server.requests) == 1


# ------------------------------------------------------------------------------------------------ 429


def limited(*headers: str) -> Reply:
    return says(http("A\n1", "429 Too Many Requests", *headers))


def in_s(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "at_least_s"),
    [([], 0.1), (["Retry-After: 0"], 0.0), (["Retry-After: 1"], 1.0), (["Retry-After: soon"], 0.1), (["date"], 0.0)],
    ids=str,
)
def test_429_is_retried_and_accepted_once(headers: list[str], at_least_s: float) -> None:
    response_headers = [f"Retry-After: {in_s(1)}" if header == "date" else header for header in headers]
    began = time.monotonic()
    with LoopbackServer(limited(*response_headers), says("A\n12556")) as server:
        assert run(server.url, send, retry_for_s=4.0) == "12556"
    assert time.monotonic() - began >= at_least_s
    assert len(server.requests) == 2
    assert server.requests[0].body == server.requests[1].body


@pytest.mark.parametrize(
    ("header", "retry_after_s"),
    [
        ("Retry-After: 60", 60.0),
        ("Retry-After: 0", 0.0),
        ("Retry-After: -1", None),
        ("Retry-After: 1.5", None),
        ("Retry-After: inf", None),
        ("Retry-After: soon", None),
        ("Retry-After:", None),
        ("X-Nothing: 1", None),
        ("Retry-After: Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Retry-After: Wed, 21 Oct 2015 07:28:00 +99999999999999", None),
        ("Retry-After: Wed, 21 Oct 99999 07:28:00 GMT", None),
    ],
)
def test_429_longer_than_the_time_for_retries(header: str, retry_after_s: float | None) -> None:
    began = time.monotonic()
    with LoopbackServer(limited(header)) as server, pytest.raises(RateLimitedError) as limit:
        run(server.url, send, retry_for_s=0.0)
    assert limit.value.retry_after_s == retry_after_s
    assert len(server.requests) == 1
    assert time.monotonic() - began < 1.0


def test_429_with_a_date_after_the_time_for_retries() -> None:
    with LoopbackServer(limited(f"Retry-After: {in_s(60)}")) as server, pytest.raises(RateLimitedError) as limit:
        run(server.url, send, retry_for_s=2.0)
    assert limit.value.retry_after_s is not None
    assert 50 < limit.value.retry_after_s <= 60
    assert len(server.requests) == 1


def test_429_with_an_absurd_wait() -> None:
    with LoopbackServer(limited("Retry-After: " + "9" * 5000)) as server, pytest.raises(RateLimitedError) as limit:
        run(server.url, send, retry_for_s=2.0)
    assert limit.value.retry_after_s is not None


def test_429_then_doubt_is_doubt() -> None:
    with LoopbackServer(limited("Retry-After: 0"), breaks_off(), says("A\n12556")) as server:
        with pytest.raises(NoResponseError):
            run(server.url, send, retry_for_s=4.0)
        assert len(server.requests) == 2


# ------------------------------------------------------------------------------------------------ secrets


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _assert_no_canary(error: BaseException) -> None:
    shown = [*traceback.format_exception(error), repr(vars(error)), repr(pickle.dumps(error))]
    for chained in _chain(error):
        shown += [str(chained), repr(chained), repr(chained.args), *traceback.format_exception(chained, chain=False)]
        frame = chained.__traceback__
        while frame is not None:  # the local variables of the package, which debuggers and error reporters show
            if (
                "prefect_mymsp" in frame.tb_frame.f_code.co_filename
                and "/tests/" not in frame.tb_frame.f_code.co_filename
            ):
                shown += [repr(value) for value in frame.tb_frame.f_locals.values()]
            frame = frame.tb_next
    assert [text for text in shown if "canary" in text] == []


def test_the_password_is_never_shown(
    caplog: pytest.LogCaptureFixture, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "prefect_mymsp"):
        caplog.set_level(logging.DEBUG, name)
    errors: list[MyMSPError] = []

    def collect_error(url: str, act: Callable[[Any], Any] = send) -> None:
        with pytest.raises(MyMSPError) as raised:
            run(url, act, timeout_s=0.15)
        errors.append(raised.value)

    replies = [reply for reply, _, _ in DOUBTS.values()]
    for reply in [*replies, limited("Retry-After: 60"), says("N\n24"), says("N\n7")]:
        with LoopbackServer(reply) as server:
            collect_error(server.url)
    with LoopbackServer(hangs(http("A\n;;", length=100))) as server:
        collect_error(server.url, updates)
    with LoopbackServer(says("A\n1"), tls=server_tls) as server:
        collect_error(server.url)
        collect_error(server.url.replace("https", "http"))
    collect_error(f"http://127.0.0.1:{free_port()}")
    with LoopbackServer(says("A\n1")) as server:
        collect_error(server.url.replace("http", "https"))
        run(server.url, send)
        collect_error(server.url, lambda client: client.send("0701740605", "Hej"))
    with LoopbackServer(says(http("", "407 Proxy Authentication Required"))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        collect_error("https://127.0.0.1:9/external")
    for error in errors:
        _assert_no_canary(error)
    assert caplog.records
    assert "canary" not in caplog.text
    assert [record for record in caplog.records if "canary" in repr((record.msg, record.args))] == []


@pytest.mark.parametrize("make", [MyMSPClient, AsyncMyMSPClient])
def test_a_client_shows_its_base_url_only(make: type[MyMSPClient] | type[AsyncMyMSPClient]) -> None:
    client = make(USER, PASSWORD, base_url="http://127.0.0.1:1")
    assert repr(client) == f"{make.__name__}('http://127.0.0.1:1/external')"
    assert "canary" not in f"{client!s} {client!r} {vars(client)!r}"


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_loopback_never_uses_a_proxy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackServer(says("A\n666")) as proxy, LoopbackServer(says("A\n12556")) as server:
        monkeypatch.setenv(name, proxy.url)
        assert run(server.url, send) == "12556"
        assert proxy.requests == []


def test_a_proxy_sees_the_host_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackServer(says(http("", "403 Forbidden"))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(UnreachableError):
            run("https://mymsp.invalid", send)
    assert [request.line for request in proxy.requests] == ["CONNECT mymsp.invalid:443 HTTP/1.1"]
    assert b"canary" not in proxy.requests[0].head + proxy.requests[0].body


@pytest.mark.parametrize(
    ("base_url", "normalised"),
    [
        ("https://mymsp.21st.se", "https://mymsp.21st.se/external"),
        ("https://mymsp.21st.se/", "https://mymsp.21st.se/external"),
        ("https://mymsp.21st.se/external", "https://mymsp.21st.se/external"),
        (" https://mymsp.21st.se/external/\n", "https://mymsp.21st.se/external"),
        ("HTTPS://MYMSP.21st.se/External", "https://mymsp.21st.se/External"),
        ("https://host.invalid:8443/a/b/", "https://host.invalid:8443/a/b"),
        ("https://host.invalid/a%3Fb", "https://host.invalid/a%3Fb"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/external"),
        ("http://127.255.0.9/x", "http://127.255.0.9/x"),
        ("http://[::1]:8080/", "http://[::1]:8080/external"),
        ("http://localhost:1/x/", "http://localhost:1/x"),
        ("HTTP://LocalHost", "http://localhost/external"),
    ],
)
def test_base_urls_are_normalised(base_url: str, normalised: str) -> None:
    assert check_base_url(base_url) == normalised
    assert MyMSPClient("u", "p", base_url=base_url).base_url == normalised
    assert AsyncMyMSPClient("u", "p", base_url=base_url).base_url == normalised


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "mymsp.21st.se",
        "/external",
        "https://",
        "https:///external",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "http://mymsp.21st.se/external",
        "http://127.0.0.1.invalid",
        "http://localhost.invalid",
        "http://126.0.0.1",
        "http://128.0.0.1",
        "http://0.0.0.0",
        "http://192.168.0.1",
        "http://[::2]",
        "http://[::]",
        "https://canaryuser:canarypassword@mymsp.21st.se",
        "https://canaryuser@mymsp.21st.se",
        "https://mymsp.21st.se/external?pwd=canary",
        "https://mymsp.21st.se/external?",
        "https://mymsp.21st.se/external#canary",
        "https://mymsp.21st.se/external#",
        "https://host.invalid:99999",
        "https://host.invalid:port",
        "https://xn--/",
        "https://host.invalid/\ud83d",
        "https://host.invalid\n/external",
        "https://" + "x" * 70_000,
    ],
)
def test_invalid_base_urls_are_refused(base_url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        MyMSPClient("u", "p", base_url=base_url)
    assert "canary" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "setting",
    [
        {"user": ""},
        {"password": ""},
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": float("nan")},
        {"retry_for_s": -0.1},
        {"retry_for_s": float("nan")},
        {"connections": 0},
        {"timezone": "Europe/Nowhere"},
        {"timezone": ""},
        {"timezone": "../../etc/passwd"},
        {"timezone": "/etc/localtime"},
        {"timezone": "Europe"},
    ],
    ids=str,
)
def test_invalid_settings_are_refused(setting: dict[str, Any]) -> None:
    for make in (MyMSPClient, AsyncMyMSPClient):
        with pytest.raises(ConfigurationError):
            make(**{"user": "u", "password": "p", **setting})
