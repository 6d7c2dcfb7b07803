"""The connection: reuse, unexpected bytes, TLS, proxies, closing, cancelling."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from prefect_mymsp import transport
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.errors import (
    InDoubtError,
    NoResponseError,
    RefusedError,
    UnreachableError,
)
from tests.loopback import (
    NUMBER,
    PASSWORD,
    USER,
    LoopbackServer,
    breaks_off,
    counts_up,
    free_port,
    hangs,
    http,
    run,
    says,
    says_twice,
    send,
    shut,
)

pytestmark = pytest.mark.usefixtures("no_proxies")


def test_many_calls_share_few_connections() -> None:
    async def send_many(client: AsyncMyMSPClient) -> list[str]:
        return await asyncio.gather(*(send(client) for _ in range(200)))

    with LoopbackServer(counts_up(pause_s=0.005)) as server:
        ids = run(server.url, send_many, timeout_s=20.0)
        assert sorted(ids, key=int) == [str(number) for number in range(1, 201)]
        assert server.most_open <= 16
        assert server.connections <= 16  # none was opened again


def test_a_connection_is_reused() -> None:
    with LoopbackServer(counts_up()) as server:
        assert in_turn(server.url, 3) == ["1", "2", "3"]
        assert server.connections == 1


def test_a_connection_that_was_closed_while_idle_is_replaced() -> None:
    with LoopbackServer(says(http("A\n12556"), stay=False)) as server:
        assert in_turn(server.url, 2, pause_s=0.1) == ["12556", "12556"]
        assert len(server.requests) == 2


def in_turn(url: str, count: int, pause_s: float = 0.0) -> list[str | int]:
    """Send one message after the other: the id of each, the code of the refusal, or the reason of the doubt."""

    async def send_in_turn(client: AsyncMyMSPClient) -> list[str | int]:
        outcomes: list[str | int] = []
        for _ in range(count):
            try:
                outcomes.append(await send(client))
            except RefusedError as error:
                outcomes.append(error.code)
            except InDoubtError as error:
                outcomes.append(error.reason)
            await asyncio.sleep(pause_s)
        return outcomes

    return run(url, send_in_turn)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize(("response", "outcome"), [("A\n77", "77"), ("N\n28", 28)], ids=["accepted", "refused"])
def test_a_response_that_arrives_twice_is_not_read_as_the_next(
    secure: bool,
    apart: bool,
    response: str,
    outcome: str | int,
    server_tls: ssl.SSLContext,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a message that was accepted would look refused, and be sent again."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    def twice(_: LoopbackServer, connection: socket.socket) -> bool:
        for data in [http(response)] * 2 if apart else [http(response) * 2]:
            connection.sendall(data)
            time.sleep(0.01)
        return True

    with LoopbackServer(twice, counts_up(), tls=server_tls if secure else None) as server:
        assert in_turn(server.url, 3, pause_s=0.05) == [outcome, "1", "2"]
        assert server.connections == 2


def test_a_refusal_that_arrives_again_and_late_is_not_read_as_the_next() -> None:
    with LoopbackServer(says_twice(http("N\n28")), counts_up(pause_s=0.1)) as server:
        assert in_turn(server.url, 3) == [28, "1", "2"]
        assert server.connections == 2


def test_an_id_that_arrives_again_is_read_as_the_next_once_at_most() -> None:
    """Or each response would be taken for the next request's from then on."""
    with LoopbackServer(says_twice(http("A\n77")), counts_up(pause_s=0.1)) as server:
        assert in_turn(server.url, 4) == ["77", "77", "2", "3"]  # a campaign takes both for doubtful
        assert server.connections == 2


@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.02])
def test_keep_alive_ends_when_connections_are_closed_without_notice(after_s: float) -> None:
    """Or every other message would be in doubt."""
    counting = counts_up()

    def closing(server: LoopbackServer, connection: socket.socket) -> bool:
        counting(server, connection)
        time.sleep(after_s)
        return False

    with LoopbackServer(closing) as server:
        outcomes = in_turn(server.url, 20)
        assert outcomes.count("connection-lost") <= 1
        assert len(server.requests) == 20 - outcomes.count("connection-lost")


def test_keep_alive_starts_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_KEEP_ALIVE_BAN_S", 0.0)
    counting = counts_up()

    def closing(server: LoopbackServer, connection: socket.socket) -> bool:
        counting(server, connection)
        time.sleep(0.02)
        return False

    with LoopbackServer(counting, closing, counting) as server:
        assert in_turn(server.url, 5) == ["1", "2", "connection-lost", "3", "4"]
        assert server.connections == 2


def test_a_tls_connection_is_reused(
    server_tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with LoopbackServer(counts_up(), tls=server_tls) as server:
        assert in_turn(server.url, 5, pause_s=0.01) == ["1", "2", "3", "4", "5"]
        assert server.connections == 1


def test_a_host_with_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them refuses, as 127.0.0.2 does where nobody listens."""
    looked_up: list[str] = []

    def addresses(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        looked_up.append(host)
        places = [host] if host.startswith("127.") else ["127.0.0.2", "127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port)) for place in places]

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    with LoopbackServer(says(http("A\n12556"), stay=False)) as server:
        assert in_turn(server.url.replace("127.0.0.1", "localhost"), 2, pause_s=0.05) == ["12556"] * 2
    assert "localhost" in looked_up
    assert server.connections == 2


def test_an_error_says_why_there_was_no_connection() -> None:
    with pytest.raises(UnreachableError, match=r"no connection to 127\.0\.0\.1 \(Connection refused\)"):
        run(f"http://127.0.0.1:{free_port()}", send)


def test_an_invalid_host_name_is_unreachable() -> None:
    with pytest.raises(UnreachableError):
        run(f"https://{'a' * 70}.invalid", send)


def test_a_response_that_is_cut_by_closing_the_client_is_incomplete() -> None:
    """The end of the connection would complete the response, but it is the client that ends it."""
    begun = threading.Event()

    def half(server: LoopbackServer, connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nA\n125")
        begun.set()
        server.stopping.wait(10)
        return False

    async def close_in_flight(client: AsyncMyMSPClient) -> None:
        sending = asyncio.create_task(send(client))
        await asyncio.to_thread(begun.wait, 5)
        await asyncio.sleep(0.1)
        await client.aclose()
        with pytest.raises(NoResponseError):
            await sending

    with LoopbackServer(half) as server:
        run(server.url, close_in_flight)
        assert len(server.requests) == 1


def test_a_server_that_keeps_sending_is_disconnected() -> None:
    def talks(server: LoopbackServer, connection: socket.socket) -> bool:
        connection.sendall(http("A\n12556"))
        server.stopping.wait(0.05)
        with contextlib.suppress(OSError):
            for _ in range(2000):
                connection.sendall(b"x" * 65536)
                said.append(65536)
        return False

    said: list[int] = []
    with LoopbackServer(talks, says("A\n12557")) as server:
        assert in_turn(server.url, 2, pause_s=0.5) == ["12556", "12557"]
        assert sum(said) < 20_000_000  # what the system's buffers hold


@pytest.mark.parametrize("said", [b"", http("N\n12")], ids=["nothing", "a refusal"])
def test_a_connection_that_ends_before_the_request_is_not_sent(said: bytes) -> None:
    """Nor is what it says a response."""

    def first(connection: socket.socket) -> None:
        connection.sendall(said)
        connection.close()

    with LoopbackServer(says("A\n12556")) as server, pytest.MonkeyPatch.context() as patched:
        patched.setattr(server, "_serve", first)
        made = asyncio.BaseEventLoop.create_connection

        async def create(*args: Any, **settings: Any) -> Any:
            connected = await made(*args, **settings)
            await asyncio.sleep(0.1)
            return connected

        patched.setattr(asyncio.BaseEventLoop, "create_connection", create)
        with pytest.raises(UnreachableError):
            run(server.url, send)


def test_through_a_proxy_no_connection_is_reused(
    server_tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx makes these, and would take what a response leaves over for the next one."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    def connects(_: LoopbackServer, connection: socket.socket) -> bool:
        with socket.create_connection(("127.0.0.1", server.port)) as there:
            connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=_carry, args=(there, connection))
            back.start()
            _carry(connection, there)
            back.join()
        return False

    with (
        LoopbackServer(says(http("N\n28") * 2), counts_up(), tls=server_tls) as server,
        LoopbackServer(connects) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert in_turn(server.url, 3) == [28, "1", "2"]
        assert (proxy.connections, server.connections) == (3, 3)


def _carry(here: socket.socket, there: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := here.recv(65536):
            there.sendall(data)
    shut(there)
    shut(here)


def test_a_client_is_usable_after_a_doubt() -> None:
    async def fail_three_times(client: AsyncMyMSPClient) -> str:
        for _ in range(3):
            with pytest.raises(NoResponseError):
                await send(client)
        return await send(client)

    with LoopbackServer(hangs(), breaks_off(), breaks_off(http("A\n1", length=9)), says("A\n12556")) as server:
        assert run(server.url, fail_three_times, timeout_s=0.3, connections=1) == "12556"
        assert len(server.requests) == 4


def test_a_closed_client_can_be_used_again_even_in_another_loop() -> None:
    with LoopbackServer(counts_up()) as server:
        client = AsyncMyMSPClient(USER, PASSWORD, base_url=server.url, connections=2)

        async def go() -> list[str]:
            before = await asyncio.gather(*(client.send([NUMBER], "Hej") for _ in range(5)))
            await client.aclose()
            await client.aclose()
            after = await client.send([NUMBER], "Hej")
            await client.aclose()
            return [*before, after]

        assert len({*asyncio.run(go()), *asyncio.run(go())}) == 12


def test_a_client_closed_in_flight_can_be_used_again() -> None:
    async def go(url: str) -> str:
        async with AsyncMyMSPClient(USER, PASSWORD, base_url=url, connections=1, timeout_s=2) as client:
            under_way = asyncio.create_task(client.send([NUMBER], "Hej"))
            await asyncio.sleep(0.1)
            await client.aclose()
            with pytest.raises(InDoubtError):
                await under_way
            return await client.send([NUMBER], "Hej")

    with LoopbackServer(hangs(), says("A\n12556")) as server:
        assert asyncio.run(go(server.url)) == "12556"


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.003, 0.01, 0.1])
def test_cancelling_sends_leaves_the_client_usable(after_s: float) -> None:
    def slow_then_fast(server: LoopbackServer, connection: socket.socket) -> bool:
        slow = server.requests[-1].form["msg"] == "slow"
        server.stopping.wait(0.3 if slow else 0)
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

    with LoopbackServer(slow_then_fast) as server:
        assert asyncio.run(go(server.url)) == ["12556"] * 4
