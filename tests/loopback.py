"""A gateway of raw sockets on loopback: what the client does when a server misbehaves at the level of bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import parse_qsl

from prefect_mymsp.client import AsyncMyMSPClient

USER, PASSWORD = "canaryuser4711", "canarypassword4711"
NUMBER = "46701740605"

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    line: str
    headers: dict[str, str]
    head: bytes
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode("ascii"), keep_blank_values=True, strict_parsing=True))


#: Handles one request, and returns whether the connection stays open.
Reply = Callable[["LoopbackServer", socket.socket], bool]


class LoopbackServer:
    """A server on loopback that records whole requests. Each is handled by the next reply; the last one repeats."""

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
            shut(connection)
        shut(self._listener)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shut(connection: socket.socket) -> None:
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
    """A complete response, or raw bytes."""
    whole = http(data) if isinstance(data, str) else data

    def reply(_: LoopbackServer, connection: socket.socket) -> bool:
        connection.sendall(whole)
        return stay

    return reply


def breaks_off(data: bytes = b"") -> Reply:
    return says(data, stay=False)


def says_twice(response: bytes) -> Reply:
    """A response that is sent again when the next request is probably in flight."""

    def later(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(response)

    def reply(_: LoopbackServer, connection: socket.socket) -> bool:
        connection.sendall(response)
        threading.Timer(0.03, later, [connection]).start()
        return True

    return reply


def resets(_: LoopbackServer, connection: socket.socket) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def hangs(data: bytes = b"") -> Reply:
    def reply(server: LoopbackServer, connection: socket.socket) -> bool:
        connection.sendall(data)
        server.stopping.wait(30)
        return False

    return reply


def drips(head: bytes, body: bytes, pause_s: float) -> Reply:
    def reply(server: LoopbackServer, connection: socket.socket) -> bool:
        connection.sendall(head)
        for at in range(len(body)):
            if server.stopping.wait(pause_s):
                break
            connection.sendall(body[at : at + 1])
        return False

    return reply


def drips_lines(line: bytes, pause_s: float) -> Reply:
    def reply(server: LoopbackServer, connection: socket.socket) -> bool:
        while not server.stopping.wait(pause_s):
            connection.sendall(line)
        return False

    return reply


def counts_up(pause_s: float = 0.0) -> Reply:
    """Accept every message with an id of its own."""
    lock = threading.Lock()
    ids = iter(range(1, 1_000_000))

    def reply(_: LoopbackServer, connection: socket.socket) -> bool:
        with lock:
            message_id = next(ids)
        time.sleep(pause_s)
        connection.sendall(http(f"A\n{message_id}\n"))
        return True

    return reply


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def run(url: str, act: Callable[[AsyncMyMSPClient], Awaitable[T]], **settings: Any) -> T:
    """Use a client in an event loop of its own."""

    async def main() -> T:
        options = {"timeout_s": 5.0, "retry_for_s": 0.0, **settings}
        async with AsyncMyMSPClient(USER, PASSWORD, base_url=url, **options) as client:
            return await act(client)

    return asyncio.run(main())


async def send(client: AsyncMyMSPClient) -> str:
    return await client.send([NUMBER], "Hej!")
