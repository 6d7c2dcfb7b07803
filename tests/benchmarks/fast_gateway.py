"""A minimal gateway: accepts every request as fast as Python allows, after a given latency."""

from __future__ import annotations

import asyncio
import selectors
import sys


class Responder(asyncio.Protocol):
    """One connection. Each complete request gets an id."""

    next_id = 100_000
    latency_s = 0.0

    def __init__(self) -> None:
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            if self.latency_s:
                asyncio.get_running_loop().call_later(self.latency_s, self.respond)
            else:
                self.respond()

    def respond(self) -> None:
        Responder.next_id += 1
        body = b"A\n%d\n" % Responder.next_id
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )


async def serve(latency_s: float) -> None:
    """Listen on a free port, print it, and respond until killed."""
    Responder.latency_s = latency_s
    server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are exact: with epoll they round up to whole milliseconds, 5 % of 20 ms."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(serve(float(sys.argv[1])))
