"""Both clients against servers of our own on loopback: real sockets, real TLS, nothing of the transport replaced.

Every case of doubt counts the requests at the server: what may have been sent is never sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ipaddress
import logging
import pickle
import socket
import ssl
import struct
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from prefect_mymsp import transport
from prefect_mymsp.client import AsyncMyMSPClient, check_base_url
from prefect_mymsp.errors import (
    ConfigurationError,
    InDoubtError,
    InputError,
    MyMSPError,
    NoAnswerError,
    NotSentError,
    ProtocolError,
    RateLimitedError,
    RefusedError,
    UnexpectedStatusError,
    UnreachableError,
)
from prefect_mymsp.models import ScheduledMessage
from prefect_mymsp.sync_client import MyMSPClient

USER, PASSWORD = "canaryuser4711", "canarypassword4711"
NUMBER = "46701740605"
KINDS = pytest.mark.parametrize("kind", ["sync", "async"])


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# ------------------------------------------------------------------------------------------------ servers


@dataclass(frozen=True)
class Request:
    line: str
    headers: dict[str, str]
    head: bytes
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode("ascii"), keep_blank_values=True, strict_parsing=True))


#: What a server does once it has read a request; whether the connection stays open afterwards.
Reply = Callable[["Gate", socket.socket], bool]


class Gate:
    """A server that reads whole requests, keeps them, and does to each what the next reply says (the last repeats)."""

    def __init__(self, *replies: Reply, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.replies = list(replies)
        self.tls = tls
        self.requests: list[Request] = []
        self.connections = 0
        self.most_open = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self.stopping.is_set():
                connection.close()
                return
            with self._lock:
                self._open.add(connection)
                self.connections += 1
                self.most_open = max(self.most_open, len(self._open))
            self._start(self._serve, connection)

    def _serve(self, raw: socket.socket) -> None:
        connection = raw
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                connection = self.tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._open.discard(raw)
                    self._open.add(connection)
                connection.do_handshake()
            while (request := _read_request(connection)) is not None:
                with self._lock:
                    self.requests.append(request)
                    reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                if not reply(self, connection):
                    break
        except OSError:
            pass
        finally:
            with self._lock:
                self._open -= {raw, connection}
            connection.close()
            raw.close()

    def close(self) -> None:
        self.stopping.set()
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            _shut(connection)
        _shut(self._listener)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _read_request(connection: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        chunk = connection.recv(65536)
        if not chunk:
            return None
        body += chunk
    return Request(line, headers, head, body)


def http(body: bytes | str, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content) if length is None else length}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


def says(data: bytes | str, *, stay: bool = True) -> Reply:
    """A whole answer, or raw bytes and the end of the connection."""
    whole = http(data) if isinstance(data, str) else data

    def reply(_: Gate, connection: socket.socket) -> bool:
        connection.sendall(whole)
        return stay

    return reply


def breaks_off(data: bytes = b"") -> Reply:
    return says(data, stay=False)


def says_again_later(answer: bytes) -> Reply:
    """An answer, and once more when the next request is likely to be under way."""

    def later(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(answer)

    def reply(_: Gate, connection: socket.socket) -> bool:
        connection.sendall(answer)
        threading.Timer(0.03, later, [connection]).start()
        return True

    return reply


def resets(_: Gate, connection: socket.socket) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def hangs(data: bytes = b"") -> Reply:
    def reply(gate: Gate, connection: socket.socket) -> bool:
        connection.sendall(data)
        gate.stopping.wait(30)
        return False

    return reply


def drips(head: bytes, body: bytes, pause_s: float) -> Reply:
    def reply(gate: Gate, connection: socket.socket) -> bool:
        connection.sendall(head)
        for at in range(len(body)):
            if gate.stopping.wait(pause_s):
                break
            connection.sendall(body[at : at + 1])
        return False

    return reply


def drips_lines(line: bytes, pause_s: float) -> Reply:
    def reply(gate: Gate, connection: socket.socket) -> bool:
        while not gate.stopping.wait(pause_s):
            connection.sendall(line)
        return False

    return reply


def counts_up(pause_s: float = 0.0) -> Reply:
    """Accepts everything, each with an id of its own."""
    lock = threading.Lock()
    ids = iter(range(1, 1_000_000))

    def reply(_: Gate, connection: socket.socket) -> bool:
        with lock:
            message_id = next(ids)
        time.sleep(pause_s)
        connection.sendall(http(f"A\n{message_id}\n"))
        return True

    return reply


def run(kind: str, url: str, act: Callable[[Any], Any], **settings: Any) -> Any:
    """What ``act`` gives with a client of that kind: a value, or an awaitable of one."""
    settings = {"timeout_s": 5.0, "retry_for_s": 0.0, **settings}
    if kind == "sync":
        with MyMSPClient(USER, PASSWORD, base_url=url, **settings) as client:
            return act(client)

    async def go() -> Any:
        async with AsyncMyMSPClient(USER, PASSWORD, base_url=url, **settings) as client:
            return await act(client)

    return asyncio.run(go())


def send(client: Any) -> Any:
    return client.send([NUMBER], "Hej!")


def updates(client: Any) -> Any:
    return client.fetch_updates()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "gate.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


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


@KINDS
@pytest.mark.parametrize("endpoint", CALLS)
def test_accepted(kind: str, endpoint: str) -> None:
    act, answer, holds = CALLS[endpoint]
    with Gate(says(answer)) as gate:
        assert holds(run(kind, gate.url, act))
    [request] = gate.requests
    assert request.line == f"POST /external/{endpoint} HTTP/1.1"
    assert request.headers["content-type"].split(";")[0] == "application/x-www-form-urlencoded"
    assert (request.form["user"], request.form["pwd"]) == (USER, PASSWORD)
    assert b"canary" not in request.head
    assert "authorization" not in request.headers


@KINDS
@pytest.mark.parametrize("endpoint", CALLS)
def test_rejected(kind: str, endpoint: str) -> None:
    act = CALLS[endpoint][0]
    with Gate(says("N\r\n7\r\n")) as gate, pytest.raises(RefusedError) as refused:
        run(kind, gate.url, act, retry_for_s=1.0)
    assert (refused.value.code, refused.value.endpoint) == (7, endpoint)
    assert refused.value.account_wide
    assert len(gate.requests) == 1


@KINDS
def test_what_cannot_be_sent_is_found_before_any_request(kind: str) -> None:
    with Gate(says("A\n1")) as gate:
        for act in (
            lambda client: client.send("0701740605", "Hej"),
            lambda client: client.send([NUMBER], "x" * 766),
            lambda client: client.send([NUMBER], "Hej", send_at=datetime(2030, 1, 1, 12, 0)),
            lambda client: client.cancel("abc"),
        ):
            with pytest.raises(InputError):
                run(kind, gate.url, act)
    assert gate.requests == []


@KINDS
def test_the_gateways_zone(kind: str) -> None:
    with Gate(says(CALLS["getSmsResult"][1])) as gate:
        result = run(kind, gate.url, lambda client: client.fetch_result("12556"), timezone="Asia/Kathmandu")
    assert result.statuses[0].sent_at == datetime(2007, 12, 2, 9, 29, tzinfo=UTC)


@KINDS
@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found"])
def test_a_refusal_with_a_client_error_is_a_refusal(kind: str, status: str) -> None:
    with Gate(says(http("N\n28", status))) as gate, pytest.raises(RefusedError) as refused:
        run(kind, gate.url, send)
    assert refused.value.code == 28
    assert len(gate.requests) == 1


@KINDS
@pytest.mark.parametrize(
    "answer",
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
def test_other_ways_to_say_yes(kind: str, answer: bytes) -> None:
    with Gate(says(answer)) as gate:
        assert run(kind, gate.url, send) == "12556"


def after_a_while(head: bytes, *rest: bytes, pause_s: float) -> Reply:
    def reply(gate: Gate, connection: socket.socket) -> bool:
        connection.sendall(head)
        for part in rest:
            gate.stopping.wait(pause_s)
            connection.sendall(part)
        return True

    return reply


@KINDS
def test_an_answer_that_is_whole_is_taken_however_late_its_last_piece_comes(kind: str) -> None:
    """Each read is in time, all of them together are not: the id is there nevertheless."""
    with Gate(after_a_while(b"HTTP/1.1 200 OK\r\n", b"Content-Length: 7\r\n\r\nA\n", b"12556", pause_s=0.3)) as gate:
        assert run(kind, gate.url, send, timeout_s=0.5) == "12556"
        assert len(gate.requests) == 1


@KINDS
def test_an_answer_that_ends_with_the_connection(kind: str) -> None:
    with Gate(breaks_off(b"HTTP/1.0 200 OK\r\n\r\nA\n12556\n")) as gate:
        assert run(kind, gate.url, send) == "12556"


@KINDS
def test_no_compression_is_asked_for(kind: str) -> None:
    # A compressed answer that is cut short decompresses without complaint to an id that lacks its last digits.
    with Gate(says("A\n1")) as gate:
        run(kind, gate.url, send)
    assert gate.requests[0].headers["accept-encoding"] == "identity"


# ------------------------------------------------------------------------------------------------ in doubt

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PACKED = gzip.compress(b"A\n12556")
HTML = "<!DOCTYPE html><html><body>Log in</body></html>"
DOUBTS: dict[str, tuple[Reply, type[InDoubtError], str | None]] = {
    "closed before any byte": (breaks_off(), NoAnswerError, "connection-lost"),
    "reset": (resets, NoAnswerError, "connection-lost"),
    "closed in the status line": (breaks_off(b"HTTP/1.1 2"), NoAnswerError, "connection-lost"),
    "closed in the headers": (breaks_off(b"HTTP/1.1 200 OK\r\nContent-Le"), NoAnswerError, "connection-lost"),
    "closed before the body": (breaks_off(http("", length=7)), NoAnswerError, "connection-lost"),
    "closed in the body": (breaks_off(http("A\n123", length=7)), NoAnswerError, "connection-lost"),
    "closed in the refusal": (breaks_off(http("N\n2", length=4)), NoAnswerError, "connection-lost"),
    "closed in a chunk": (breaks_off(CHUNKED + b"5\r\nA\n12"), NoAnswerError, "connection-lost"),
    "closed before the last chunk": (breaks_off(CHUNKED + b"5\r\nA\n123\r\n"), NoAnswerError, "connection-lost"),
    "no HTTP": (breaks_off(b"220 smtp ready\r\n\r\n"), NoAnswerError, None),
    "no status": (breaks_off(b"HTTP/1.1 OK\r\n\r\nA\n12556"), NoAnswerError, None),
    "no answer": (hangs(), NoAnswerError, "timeout"),
    "no body": (hangs(http("", length=7)), NoAnswerError, "timeout"),
    "half a body": (hangs(http("A\n123", length=7)), NoAnswerError, "timeout"),
    "a byte at a time": (drips(http("", length=100), b"A" + b"\n" * 99, 0.05), NoAnswerError, "timeout"),
    "headers a byte at a time": (drips(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 100, 0.05), NoAnswerError, "timeout"),
    "a chunk's head a byte at a time": (drips(CHUNKED, b"1;" + b"x" * 98, 0.05), NoAnswerError, "timeout"),
    "patience without end": (drips_lines(b"HTTP/1.1 102 Processing\r\n\r\n", 0.05), NoAnswerError, "timeout"),
    "another protocol": (hangs(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), NoAnswerError, None),
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
        f"redirect to {where!r}": (says(http("", "302 Found", f"Location: {where}")), InDoubtError, None)
        for where in ("mailto:x@y", "foo:bar", "https://xn--/", "//[", "http://[::1", "http://h:99999/", "\xff", "?")
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


@KINDS
@pytest.mark.parametrize("case", DOUBTS)
def test_in_doubt_is_said_and_never_sent_again(kind: str, case: str) -> None:
    reply, error, reason = DOUBTS[case]
    began = time.monotonic()
    with Gate(reply, says("A\n99999")) as gate:
        with pytest.raises(error) as doubt:
            run(kind, gate.url, send, timeout_s=0.25, retry_for_s=1.0)
        took = time.monotonic() - began
        assert len(gate.requests) == 1
    assert reason in {None, doubt.value.reason}
    assert doubt.value.raw is None
    assert not isinstance(doubt.value, NotSentError)
    assert took < 1.5
    if isinstance(doubt.value, UnexpectedStatusError):
        assert doubt.value.reason == f"http-{doubt.value.status}"


@KINDS
@pytest.mark.parametrize(
    ("reply", "error", "raw"),
    [
        (breaks_off(http("A\n;;1\t12554\t467", length=500)), NoAnswerError, b"A\n;;1\t12554\t467"),
        (breaks_off(CHUNKED + b"4\r\nA\n;;\r\n3\r\n0\t1"), NoAnswerError, b"A\n;;0\t1"),
        (hangs(http("A\n;;0\t12556", length=500)), NoAnswerError, b"A\n;;0\t12556"),
        (drips(http("", length=500), b"A\n" + b";" * 498, 0.05), NoAnswerError, b"A\n;;;"),
        (says(http("A\n;;0\t12556", "502 Bad Gateway")), UnexpectedStatusError, b"A\n;;0\t12556"),
        (says(HTML), ProtocolError, HTML.encode()),
        (says(http("A\n;;0\t12556", "200 OK", "Content-Encoding: gzip")), ProtocolError, b"A\n;;0\t12556"),
        (says(""), ProtocolError, b""),
        (says("n\n7"), ProtocolError, b"n\n7"),
        (breaks_off(), NoAnswerError, b""),
    ],
    ids=["cut", "cut chunk", "timeout", "drip", "502", "page", "not compressed", "empty", "lower case", "nothing"],
)
def test_what_had_arrived_of_a_destructive_read_comes_out(
    kind: str, reply: Reply, error: type[InDoubtError], raw: bytes
) -> None:
    with Gate(reply, says("A")) as gate:
        with pytest.raises(error) as doubt:
            run(kind, gate.url, updates, timeout_s=0.25, retry_for_s=1.0)
        assert len(gate.requests) == 1
    assert doubt.value.raw is not None
    assert doubt.value.raw.startswith(raw)
    assert doubt.value.raw == raw or len(raw) == 5
    assert "12556" not in f"{doubt.value!s} {doubt.value!r}"
    copied = pickle.loads(pickle.dumps(doubt.value))
    assert copied.raw == doubt.value.raw


@KINDS
def test_updates_keep_the_raw_answer(kind: str) -> None:
    answer = "A\r\n;;1\t12554\tAnna\t2019-03-01 12:52\tP\tSMS\tå\r\n".encode("latin-1")
    with Gate(says(http(answer)), says(http(answer))) as gate:
        assert run(kind, gate.url, updates).raw == answer
        raw = run(kind, gate.url, lambda client: client.fetch_raw_updates())
    assert raw == answer
    read = MyMSPClient(USER, PASSWORD).parse_updates(raw)
    assert (read.raw, [message.text for message in read.received_messages]) == (answer, ["å"])


@KINDS
def test_what_had_arrived_of_an_unread_answer_comes_out(kind: str) -> None:
    with Gate(says(http(b"<html>a page"))) as gate, pytest.raises(ProtocolError) as doubt:
        run(kind, gate.url, lambda client: client.fetch_raw_updates())
    assert doubt.value.raw == b"<html>a page"


@KINDS
def test_an_inbox_with_a_bad_record(kind: str) -> None:
    answer = f"A\n{HEADER}A text\n;;12557\tbad\n"
    with Gate(says(http(answer)), says(http(answer))) as gate:
        inbox = run(kind, gate.url, lambda client: client.fetch_inbox_lenient(12000))
        assert [message.text for message in inbox.messages] == ["A text"]
        assert inbox.unparsed == (";;12557\tbad",)
        with pytest.raises(ProtocolError):
            run(kind, gate.url, lambda client: client.fetch_inbox(12000))


# ------------------------------------------------------------------------------------------------ not sent


@KINDS
def test_refused_is_prompt_without_patience(kind: str) -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        run(kind, f"http://127.0.0.1:{free_port()}", send)
    assert time.monotonic() - began < 1.0


@KINDS
def test_refused_is_tried_for_as_long_as_patience_lasts(kind: str) -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        run(kind, f"http://127.0.0.1:{free_port()}", send, retry_for_s=0.5)
    assert 0.1 < time.monotonic() - began < 1.0


@KINDS
def test_lost_patience_ends_the_tries(kind: str) -> None:
    def lose_it_and_send(client: Any) -> Any:
        if kind == "sync":
            threading.Timer(0.5, client.stop_retrying).start()
        else:
            asyncio.get_running_loop().call_later(0.5, client.stop_retrying)
        return send(client)

    began = time.monotonic()
    with pytest.raises(UnreachableError):
        run(kind, f"http://127.0.0.1:{free_port()}", lose_it_and_send, retry_for_s=60)
    assert 0.4 < time.monotonic() - began < 5


@KINDS
def test_a_gateway_that_comes_back_gets_the_message_once(kind: str) -> None:
    port = free_port()
    gates: list[Gate] = []
    timer = threading.Timer(0.15, lambda: gates.append(Gate(says("A\n12556"), port=port)))
    timer.start()
    try:
        assert run(kind, f"http://127.0.0.1:{port}", send, retry_for_s=5.0) == "12556"
    finally:
        timer.join()
        gates[0].close()
    assert len(gates[0].requests) == 1


@KINDS
def test_an_untrusted_certificate(kind: str, server_tls: ssl.SSLContext) -> None:
    with Gate(says("A\n12556"), tls=server_tls) as gate, pytest.raises(UnreachableError, match="TLS"):
        run(kind, gate.url, send)
    assert gate.requests == []


@KINDS
def test_a_trusted_certificate(
    kind: str, server_tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Gate(says("A\n12556"), tls=server_tls) as gate:
        assert run(kind, gate.url, send) == "12556"
    assert b"canary" not in gate.requests[0].head


@KINDS
def test_plain_http_behind_https(kind: str) -> None:
    with Gate(says("A\n12556")) as gate, pytest.raises(UnreachableError):
        run(kind, gate.url.replace("http:", "https:"), send, timeout_s=0.3)
    assert gate.requests == []


@KINDS
@pytest.mark.parametrize("answer", [b"", http("", "400 Bad Request")], ids=["nothing", "400"])
def test_tls_that_ends_in_the_handshake(kind: str, answer: bytes) -> None:
    def hang_up(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        with pytest.raises(UnreachableError):
            run(kind, f"https://127.0.0.1:{listener.getsockname()[1]}", send)
        thread.join()


@KINDS
def test_tls_that_never_answers(kind: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(UnreachableError),
    ):
        run(kind, f"https://127.0.0.1:{listener.getsockname()[1]}", send, timeout_s=0.3)


@KINDS
def test_more_callers_than_connections_wait_in_line_or_have_not_sent(kind: str) -> None:
    """Whoever gets no connection in time has sent nothing, and the others are not disturbed."""
    with Gate(counts_up(pause_s=0.05)) as gate:
        outcomes = _many(kind, gate.url, 12, connections=2, timeout_s=5.0)
        assert sorted(outcomes, key=int) == [str(n) for n in range(1, 13)]
        assert gate.most_open <= 2


# ------------------------------------------------------------------------------------------------ 429


def limited(*headers: str) -> Reply:
    return says(http("A\n1", "429 Too Many Requests", *headers))


def in_s(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@KINDS
@pytest.mark.parametrize(
    ("headers", "at_least_s"),
    [([], 0.1), (["Retry-After: 0"], 0.0), (["Retry-After: 1"], 1.0), (["Retry-After: soon"], 0.1), (["date"], 0.0)],
    ids=str,
)
def test_429_is_tried_again_and_accepted_once(kind: str, headers: list[str], at_least_s: float) -> None:
    given = [f"Retry-After: {in_s(1)}" if header == "date" else header for header in headers]
    began = time.monotonic()
    with Gate(limited(*given), says("A\n12556")) as gate:
        assert run(kind, gate.url, send, retry_for_s=4.0) == "12556"
    assert time.monotonic() - began >= at_least_s
    assert len(gate.requests) == 2
    assert gate.requests[0].body == gate.requests[1].body


@KINDS
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
def test_429_beyond_patience(kind: str, header: str, retry_after_s: float | None) -> None:
    began = time.monotonic()
    with Gate(limited(header)) as gate, pytest.raises(RateLimitedError) as limit:
        run(kind, gate.url, send, retry_for_s=0.0)
    assert limit.value.retry_after_s == retry_after_s
    assert len(gate.requests) == 1
    assert time.monotonic() - began < 1.0


@KINDS
def test_429_with_a_date_beyond_patience(kind: str) -> None:
    with Gate(limited(f"Retry-After: {in_s(60)}")) as gate, pytest.raises(RateLimitedError) as limit:
        run(kind, gate.url, send, retry_for_s=2.0)
    assert limit.value.retry_after_s is not None
    assert 50 < limit.value.retry_after_s <= 60
    assert len(gate.requests) == 1


@KINDS
def test_429_and_an_absurd_wait(kind: str) -> None:
    with Gate(limited("Retry-After: " + "9" * 5000)) as gate, pytest.raises(RateLimitedError) as limit:
        run(kind, gate.url, send, retry_for_s=2.0)
    assert limit.value.retry_after_s is not None


@KINDS
def test_429_then_doubt_is_doubt(kind: str) -> None:
    with Gate(limited("Retry-After: 0"), breaks_off(), says("A\n12556")) as gate:
        with pytest.raises(NoAnswerError):
            run(kind, gate.url, send, retry_for_s=4.0)
        assert len(gate.requests) == 2


# ------------------------------------------------------------------------------------------------ secrets


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _assert_no_canary(error: BaseException) -> None:
    shown = [*traceback.format_exception(error), repr(vars(error)), repr(pickle.dumps(error))]
    for each in _chain(error):
        shown += [str(each), repr(each), repr(each.args), *traceback.format_exception(each, chain=False)]
        at = each.__traceback__
        while at is not None:  # the locals of our own frames, which a debugger or an error reporter would show
            if "prefect_mymsp" in at.tb_frame.f_code.co_filename and "/tests/" not in at.tb_frame.f_code.co_filename:
                shown += [repr(value) for value in at.tb_frame.f_locals.values()]
            at = at.tb_next
    assert [text for text in shown if "canary" in text] == []


@KINDS
def test_the_password_is_never_shown(
    kind: str, caplog: pytest.LogCaptureFixture, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "prefect_mymsp"):
        caplog.set_level(logging.DEBUG, name)
    errors: list[MyMSPError] = []

    def note(url: str, act: Callable[[Any], Any] = send) -> None:
        with pytest.raises(MyMSPError) as raised:
            run(kind, url, act, timeout_s=0.15)
        errors.append(raised.value)

    replies = [reply for reply, _, _ in DOUBTS.values()]
    for reply in [*replies, limited("Retry-After: 60"), says("N\n24"), says("N\n7")]:
        with Gate(reply) as gate:
            note(gate.url)
    with Gate(hangs(http("A\n;;", length=100))) as gate:
        note(gate.url, updates)
    with Gate(says("A\n1"), tls=server_tls) as gate:
        note(gate.url)
        note(gate.url.replace("https", "http"))
    note(f"http://127.0.0.1:{free_port()}")
    with Gate(says("A\n1")) as gate:
        note(gate.url.replace("http", "https"))
        run(kind, gate.url, send)
        note(gate.url, lambda client: client.send("0701740605", "Hej"))
    with Gate(says(http("", "407 Proxy Authentication Required"))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        note("https://127.0.0.1:9/external")
    for error in errors:
        _assert_no_canary(error)
    assert caplog.records
    assert "canary" not in caplog.text
    assert [record for record in caplog.records if "canary" in repr((record.msg, record.args))] == []


@pytest.mark.parametrize("make", [MyMSPClient, AsyncMyMSPClient])
def test_clients_show_where_they_go_and_nothing_else(make: type[MyMSPClient] | type[AsyncMyMSPClient]) -> None:
    client = make(USER, PASSWORD, base_url="http://127.0.0.1:1")
    assert repr(client) == f"{make.__name__}('http://127.0.0.1:1/external')"
    assert "canary" not in f"{client!s} {client!r} {vars(client)!r}"


# ------------------------------------------------------------------------------------------------ settings


@KINDS
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_plain_http_on_loopback_never_takes_a_proxy(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Gate(says("A\n666")) as proxy, Gate(says("A\n12556")) as gate:
        monkeypatch.setenv(name, proxy.url)
        assert run(kind, gate.url, send) == "12556"
        assert proxy.requests == []


@KINDS
def test_a_proxy_sees_where_https_goes_and_no_more(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Gate(says(http("", "403 Forbidden"))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(UnreachableError):
            run(kind, "https://mymsp.invalid", send)
    assert [request.line for request in proxy.requests] == ["CONNECT mymsp.invalid:443 HTTP/1.1"]
    assert b"canary" not in proxy.requests[0].head + proxy.requests[0].body


@pytest.mark.parametrize(
    ("given", "used"),
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
def test_base_urls_are_normalised(given: str, used: str) -> None:
    assert check_base_url(given) == used
    assert MyMSPClient("u", "p", base_url=given).base_url == used
    assert AsyncMyMSPClient("u", "p", base_url=given).base_url == used


@pytest.mark.parametrize(
    "given",
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
def test_base_urls_that_are_refused(given: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        MyMSPClient("u", "p", base_url=given)
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
def test_settings_that_are_refused(setting: dict[str, Any]) -> None:
    for make in (MyMSPClient, AsyncMyMSPClient):
        with pytest.raises(ConfigurationError):
            make(**{"user": "u", "password": "p", **setting})


def test_both_clients_have_the_same_methods() -> None:
    def methods(client: type) -> set[str]:
        functions = {name for name, value in vars(client).items() if callable(value) and not name.startswith("_")}
        return functions - {"close", "aclose", "clone"}

    assert methods(MyMSPClient) == methods(AsyncMyMSPClient)


# ------------------------------------------------------------------------------------------------ connections


def _many(kind: str, url: str, count: int, **settings: Any) -> list[str]:
    """That many sends at once, through one client."""
    settings = {"timeout_s": 20.0, "retry_for_s": 0.0, **settings}
    if kind == "async":

        async def go() -> list[str]:
            async with AsyncMyMSPClient(USER, PASSWORD, base_url=url, **settings) as client:
                return await asyncio.gather(*(client.send([NUMBER], f"Hej {n}") for n in range(count)))

        return asyncio.run(go())
    outcomes: list[str] = []
    with MyMSPClient(USER, PASSWORD, base_url=url, **settings) as client:
        threads = [
            threading.Thread(target=lambda n=n: outcomes.append(client.send([NUMBER], f"Hej {n}")))
            for n in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return outcomes


@KINDS
def test_many_at_once_share_few_connections(kind: str) -> None:
    with Gate(counts_up(pause_s=0.005)) as gate:
        ids = _many(kind, gate.url, 200 if kind == "async" else 40, **({} if kind == "async" else {"connections": 4}))
        assert len(set(ids)) == len(ids) == len(gate.requests)
        assert gate.most_open <= (16 if kind == "async" else 4)
        assert len({request.form["msg"] for request in gate.requests}) == len(ids)
        assert gate.connections <= (16 if kind == "async" else 4)  # and none was opened anew


@KINDS
def test_a_connection_is_used_again(kind: str) -> None:
    with Gate(counts_up()) as gate:

        async def three(client: Any) -> list[str]:
            return [await send(client) for _ in range(3)]

        act = three if kind == "async" else lambda client: [send(client) for _ in range(3)]
        assert run(kind, gate.url, act) == ["1", "2", "3"]
        assert gate.connections == 1


@KINDS
def test_a_connection_the_gateway_closed_while_idle_is_replaced(kind: str) -> None:
    with Gate(says(http("A\n12556"), stay=False)) as gate:

        async def twice(client: Any) -> list[str]:
            first = await send(client)
            await asyncio.sleep(0.1)
            return [first, await send(client)]

        def both(client: Any) -> list[str]:
            first = send(client)
            time.sleep(0.1)
            return [first, send(client)]

        assert run(kind, gate.url, twice if kind == "async" else both) == ["12556", "12556"]
        assert len(gate.requests) == 2


def _in_turn(kind: str, url: str, count: int, pause_s: float = 0.0) -> list[str | int]:
    """One send after the other through one client: the id of each, the code of the refusal, or why it is doubtful."""
    outcomes: list[str | int] = []

    async def asynchronous(client: AsyncMyMSPClient) -> None:
        for _ in range(count):
            try:
                outcomes.append(await client.send([NUMBER], "Hej!"))
            except RefusedError as error:
                outcomes.append(error.code)
            except InDoubtError as error:
                outcomes.append(error.reason)
            await asyncio.sleep(pause_s)

    def synchronous(client: MyMSPClient) -> None:
        for _ in range(count):
            try:
                outcomes.append(client.send([NUMBER], "Hej!"))
            except RefusedError as error:
                outcomes.append(error.code)
            except InDoubtError as error:
                outcomes.append(error.reason)
            time.sleep(pause_s)

    run(kind, url, asynchronous if kind == "async" else synchronous)
    return outcomes


@KINDS
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize(("answer", "outcome"), [("A\n77", "77"), ("N\n28", 28)], ids=["accepted", "refused"])
def test_an_answer_that_comes_twice_is_not_the_next_ones(
    kind: str,
    secure: bool,
    apart: bool,
    answer: str,
    outcome: str | int,
    server_tls: ssl.SSLContext,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a message that was accepted would look refused, and be sent again."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    def twice(_: Gate, connection: socket.socket) -> bool:
        for data in [http(answer)] * 2 if apart else [http(answer) * 2]:
            connection.sendall(data)
            time.sleep(0.01)
        return True

    with Gate(twice, counts_up(), tls=server_tls if secure else None) as gate:
        assert _in_turn(kind, gate.url, 3, pause_s=0.05) == [outcome, "1", "2"]
        assert gate.connections == 2


@KINDS
def test_a_refusal_that_comes_once_more_and_late_is_not_the_next_ones(kind: str) -> None:
    with Gate(says_again_later(http("N\n28")), counts_up(pause_s=0.1)) as gate:
        assert _in_turn(kind, gate.url, 3) == [28, "1", "2"]
        assert gate.connections == 2


@KINDS
def test_an_id_that_comes_once_more_is_not_the_next_ones(kind: str) -> None:
    """Or each answer would be taken for the next request's from then on."""
    with Gate(says_again_later(http("A\n77")), counts_up(pause_s=0.1)) as gate:
        assert _in_turn(kind, gate.url, 4) == ["77", "77", "2", "3"]  # a campaign takes both for doubtful
        assert gate.connections == 2


@KINDS
@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.02])
def test_connections_that_are_closed_unannounced_are_not_used_again(kind: str, after_s: float) -> None:
    """Or every other message would be in doubt."""
    counting = counts_up()

    def closing(gate: Gate, connection: socket.socket) -> bool:
        counting(gate, connection)
        time.sleep(after_s)
        return False

    with Gate(closing) as gate:
        outcomes = _in_turn(kind, gate.url, 20)
        assert outcomes.count("connection-lost") <= 1
        assert len(gate.requests) == 20 - outcomes.count("connection-lost")


@KINDS
def test_connections_that_were_closed_unannounced_are_used_again_later(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_KEEP_ALIVE_BAN_S", 0.0)
    counting = counts_up()

    def closing(gate: Gate, connection: socket.socket) -> bool:
        counting(gate, connection)
        time.sleep(0.02)
        return False

    with Gate(counting, closing, counting) as gate:
        assert _in_turn(kind, gate.url, 5) == ["1", "2", "connection-lost", "3", "4"]
        assert gate.connections == 2


@KINDS
def test_a_tls_connection_is_used_again(
    kind: str, server_tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Gate(counts_up(), tls=server_tls) as gate:
        assert _in_turn(kind, gate.url, 5, pause_s=0.01) == ["1", "2", "3", "4", "5"]
        assert gate.connections == 1


@KINDS
def test_a_host_with_several_addresses(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them refuses, as 127.0.0.2 does where nobody listens."""
    looked_up: list[str] = []

    def addresses(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        looked_up.append(host)
        places = [host] if host.startswith("127.") else ["127.0.0.2", "127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port)) for place in places]

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    with Gate(says(http("A\n12556"), stay=False)) as gate:
        assert _in_turn(kind, gate.url.replace("127.0.0.1", "localhost"), 2, pause_s=0.05) == ["12556"] * 2
    assert "localhost" in looked_up
    assert gate.connections == 2


@KINDS
def test_why_there_was_no_connection_is_said(kind: str) -> None:
    with pytest.raises(UnreachableError, match=r"no connection to 127\.0\.0\.1 \(Connection refused\)"):
        run(kind, f"http://127.0.0.1:{free_port()}", send)


@KINDS
def test_a_name_that_is_none_was_sent_nothing(kind: str) -> None:
    with pytest.raises(UnreachableError):
        run(kind, f"https://{'a' * 70}.invalid", send)


@KINDS
def test_what_is_cut_by_closing_the_client_is_not_whole(kind: str) -> None:
    """The answer ends with the connection, and it is we who end it."""
    begun = threading.Event()

    def half(gate: Gate, connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nA\n125")
        begun.set()
        gate.stopping.wait(10)
        return False

    async def asynchronous(url: str) -> None:
        async with AsyncMyMSPClient(USER, PASSWORD, base_url=url, timeout_s=5.0, retry_for_s=0.0) as client:
            under_way = asyncio.create_task(client.send([NUMBER], "Hej!"))
            await asyncio.to_thread(begun.wait, 5)
            await asyncio.sleep(0.1)
            await client.aclose()
            with pytest.raises(NoAnswerError):
                await under_way

    def synchronous(url: str) -> None:
        with MyMSPClient(USER, PASSWORD, base_url=url, timeout_s=5.0, retry_for_s=0.0) as client:

            def close() -> None:
                begun.wait(5)
                time.sleep(0.1)
                client.close()

            closing = threading.Thread(target=close)
            closing.start()
            with pytest.raises(NoAnswerError):
                client.send([NUMBER], "Hej!")
            closing.join()

    with Gate(half) as gate:
        if kind == "async":
            asyncio.run(asynchronous(gate.url))
        else:
            synchronous(gate.url)
        assert len(gate.requests) == 1


@KINDS
def test_a_gateway_that_never_stops_talking_is_not_listened_to(kind: str) -> None:
    def talks(gate: Gate, connection: socket.socket) -> bool:
        connection.sendall(http("A\n12556"))
        gate.stopping.wait(0.05)
        with contextlib.suppress(OSError):
            for _ in range(2000):
                connection.sendall(b"x" * 65536)
                said.append(65536)
        return False

    said: list[int] = []
    with Gate(talks, says("A\n12557")) as gate:
        assert _in_turn(kind, gate.url, 2, pause_s=0.5) == ["12556", "12557"]
        assert sum(said) < 20_000_000  # what the system's buffers hold


@KINDS
@pytest.mark.parametrize("said", [b"", http("N\n12")], ids=["nothing", "a refusal"])
def test_a_connection_that_ends_before_anything_was_asked_was_sent_nothing(kind: str, said: bytes) -> None:
    """Nor is what it says an answer."""

    def first(connection: socket.socket) -> None:
        connection.sendall(said)
        connection.close()

    with Gate(says("A\n12556")) as gate, pytest.MonkeyPatch.context() as patched:
        patched.setattr(gate, "_serve", first)
        made = asyncio.BaseEventLoop.create_connection

        async def create(*args: Any, **settings: Any) -> Any:
            connected = await made(*args, **settings)
            await asyncio.sleep(0.1)
            return connected

        patched.setattr(asyncio.BaseEventLoop, "create_connection", create)
        with pytest.raises(UnreachableError):
            run(kind, gate.url, send)


@KINDS
def test_through_a_proxy_no_connection_is_used_twice(
    kind: str, server_tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx makes these, and would take what an answer leaves over for the next one."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    def connects(_: Gate, connection: socket.socket) -> bool:
        with socket.create_connection(("127.0.0.1", gate.port)) as there:
            connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=_carry, args=(there, connection))
            back.start()
            _carry(connection, there)
            back.join()
        return False

    with Gate(says(http("N\n28") * 2), counts_up(), tls=server_tls) as gate, Gate(connects) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert _in_turn(kind, gate.url, 3) == [28, "1", "2"]
        assert (proxy.connections, gate.connections) == (3, 3)


def _carry(here: socket.socket, there: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := here.recv(65536):
            there.sendall(data)
    _shut(there)
    _shut(here)


@KINDS
def test_a_client_is_usable_after_a_doubt(kind: str) -> None:
    with Gate(hangs(), breaks_off(), breaks_off(http("A\n1", length=9)), says("A\n12556")) as gate:

        async def again(client: Any) -> str:
            for _ in range(3):
                with pytest.raises(NoAnswerError):
                    await send(client)
            return str(await send(client))

        def anew(client: Any) -> str:
            for _ in range(3):
                with pytest.raises(NoAnswerError):
                    send(client)
            return str(send(client))

        assert run(kind, gate.url, again if kind == "async" else anew, timeout_s=0.3, connections=1) == "12556"
        assert len(gate.requests) == 4


def test_a_closed_client_can_be_used_again() -> None:
    with Gate(counts_up()) as gate:
        client = MyMSPClient(USER, PASSWORD, base_url=gate.url)
        assert send(client) == "1"
        client.close()
        client.close()
        assert send(client) == "2"
        client.close()


def test_a_closed_async_client_can_be_used_again_even_in_another_loop() -> None:
    with Gate(counts_up()) as gate:
        client = AsyncMyMSPClient(USER, PASSWORD, base_url=gate.url, connections=2)

        async def go() -> list[str]:
            before = await asyncio.gather(*(client.send([NUMBER], "Hej") for _ in range(5)))
            await client.aclose()
            await client.aclose()
            after = await client.send([NUMBER], "Hej")
            await client.aclose()
            return [*before, after]

        assert len({*asyncio.run(go()), *asyncio.run(go())}) == 12


def test_an_async_client_closed_under_way_can_be_used_again() -> None:
    async def go(url: str) -> str:
        async with AsyncMyMSPClient(USER, PASSWORD, base_url=url, connections=1, timeout_s=2) as client:
            under_way = asyncio.create_task(client.send([NUMBER], "Hej"))
            await asyncio.sleep(0.1)
            await client.aclose()
            with pytest.raises(InDoubtError):
                await under_way
            return await client.send([NUMBER], "Hej")

    with Gate(hangs(), says("A\n12556")) as gate:
        assert asyncio.run(go(gate.url)) == "12556"


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.003, 0.01, 0.1])
def test_cancelling_sends_leaves_the_client_usable(after_s: float) -> None:
    def slow_then_fast(gate: Gate, connection: socket.socket) -> bool:
        slow = gate.requests[-1].form["msg"] == "slow"
        gate.stopping.wait(0.3 if slow else 0)
        connection.sendall(http("A\n12556"))
        return True

    async def go(url: str) -> list[str]:
        async with AsyncMyMSPClient(USER, PASSWORD, base_url=url, connections=2, timeout_s=2) as client:
            for _ in range(3):
                tasks = [asyncio.create_task(client.send([NUMBER], "slow")) for _ in range(5)]
                await asyncio.sleep(after_s)
                for task in tasks:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            return await asyncio.gather(*(client.send([NUMBER], "fast") for _ in range(4)))

    with Gate(slow_then_fast) as gate:
        assert asyncio.run(go(gate.url)) == ["12556"] * 4
