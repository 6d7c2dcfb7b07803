"""The synchronous client: Ctrl-C, threads, event loops, forks, closing. The requests are tested in ``test_client``."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.errors import InDoubtError, InputError, NoResponseError, RefusedError, UnreachableError
from prefect_mymsp.sync_client import MyMSPClient
from prefect_mymsp.transport import SingleConnectionTransport
from tests.loopback import NUMBER, PASSWORD, USER, LoopbackServer, counts_up, free_port, hangs, http, says


def client_for(server: LoopbackServer, **settings: Any) -> MyMSPClient:
    return MyMSPClient(USER, PASSWORD, base_url=server.url, **{"timeout_s": 5.0, "retry_for_s": 0.0, **settings})


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("mymsp-client", "mymsp-resolver"))]


def wait_until_no_threads() -> None:
    deadline = time.monotonic() + 5
    while client_threads():
        assert time.monotonic() < deadline, client_threads()
        time.sleep(0.01)


def test_it_has_the_methods_of_the_asynchronous_client() -> None:
    def signatures(client: type) -> dict[str, Any]:
        return {
            name: inspect.signature(value)
            for name, value in vars(client).items()
            if callable(value) and not name.startswith("_") and name not in {"close", "aclose", "clone"}
        }

    assert signatures(MyMSPClient) == signatures(AsyncMyMSPClient)


def test_its_settings_are_readable() -> None:
    client = MyMSPClient(USER, PASSWORD, timezone="Asia/Kathmandu", timeout_s=2, retry_for_s=3, connections=4)
    assert (client.base_url, client.zone.key) == ("https://mymsp.21st.se/external", "Asia/Kathmandu")
    assert (client.timeout_s, client.retry_for_s, client.connections) == (2, 3, 4)


def test_errors_are_those_of_the_asynchronous_client() -> None:
    with LoopbackServer(says("N\n28"), says("")) as server, client_for(server) as client:
        with pytest.raises(InputError):
            client.send("0701740605", "Hej")
        with pytest.raises(RefusedError):
            client.send(NUMBER, "Hej")
        with pytest.raises(InDoubtError):
            client.send(NUMBER, "Hej")
        assert len(server.requests) == 2


def test_calls_reuse_one_connection_and_one_thread() -> None:
    with LoopbackServer(counts_up()) as server, client_for(server) as client:
        assert client_threads() == []
        assert [client.send(NUMBER, "Hej") for _ in range(5)] == ["1", "2", "3", "4", "5"]
        assert server.connections == 1
        assert [thread.name for thread in client_threads()].count("mymsp-client") == 1
    wait_until_no_threads()


def test_threads_share_a_client() -> None:
    message_ids: list[str] = []
    with LoopbackServer(counts_up(pause_s=0.02)) as server, client_for(server, connections=3) as client:
        threads = [threading.Thread(target=lambda: message_ids.append(client.send(NUMBER, "Hej"))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(message_ids, key=int) == [str(number) for number in range(1, 21)]
        assert server.most_open <= 3


def test_it_works_inside_a_running_event_loop() -> None:
    async def main(server: LoopbackServer) -> list[str]:
        with client_for(server) as client:
            blocking = client.send(NUMBER, "Hej")
            return [blocking, await asyncio.to_thread(client.send, NUMBER, "Hej")]

    with LoopbackServer(counts_up()) as server:
        assert asyncio.run(main(server)) == ["1", "2"]


def test_close_fails_calls_in_flight_as_in_doubt_and_waiting_calls_as_not_sent() -> None:
    errors: list[BaseException] = []
    started = threading.Event()

    def call(client: MyMSPClient) -> None:
        try:
            started.set()
            client.send(NUMBER, "Hej")
        except Exception as error:
            errors.append(error)

    with LoopbackServer(hangs()) as server:
        client = client_for(server, connections=1)
        threads = [threading.Thread(target=call, args=[client]) for _ in range(2)]
        threads[0].start()
        started.wait(5)
        deadline = time.monotonic() + 5
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        threads[1].start()
        time.sleep(0.1)
        began = time.monotonic()
        client.close()
        for thread in threads:
            thread.join(5)
        assert time.monotonic() - began < 2
        assert sorted(type(error).__name__ for error in errors) == ["NoResponseError", "UnreachableError"]
        assert len(server.requests) == 1
    wait_until_no_threads()


def test_close_fails_a_call_in_flight_even_if_its_connection_cannot_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def aclose(_: SingleConnectionTransport) -> None:
        raise OSError("not closed")

    monkeypatch.setattr(SingleConnectionTransport, "aclose", aclose)
    errors: list[BaseException] = []

    def call(client: MyMSPClient) -> None:
        try:
            client.send(NUMBER, "Hej")
        except Exception as error:
            errors.append(error)

    with LoopbackServer(hangs()) as server:
        client = client_for(server)
        thread = threading.Thread(target=call, args=[client], daemon=True)
        thread.start()
        deadline = time.monotonic() + 5
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        client.close()
        thread.join(4)
        assert not thread.is_alive()
    assert [type(error).__name__ for error in errors] == ["NoResponseError"]
    wait_until_no_threads()


def test_a_retry_ends_when_the_client_is_closed() -> None:
    client = MyMSPClient(USER, PASSWORD, base_url=f"http://127.0.0.1:{free_port()}", retry_for_s=60)
    threading.Timer(0.3, client.close).start()
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        client.send(NUMBER, "Hej")
    assert time.monotonic() - began < 5


def test_retries_that_are_stopped_before_the_first_call() -> None:
    client = MyMSPClient(USER, PASSWORD, base_url=f"http://127.0.0.1:{free_port()}", retry_for_s=60)
    client.stop_retrying()
    began = time.monotonic()
    with client, pytest.raises(UnreachableError):
        client.send(NUMBER, "Hej")
    assert time.monotonic() - began < 5


def test_a_closed_client_can_be_used_again() -> None:
    with LoopbackServer(counts_up()) as server:
        client = client_for(server)
        assert client.send(NUMBER, "Hej") == "1"
        client.close()
        client.close()
        assert client.send(NUMBER, "Hej") == "2"
        client.close()
    wait_until_no_threads()


def test_a_forgotten_client_leaves_no_thread() -> None:
    with LoopbackServer(counts_up()) as server:
        client = client_for(server)
        client.send(NUMBER, "Hej")
        del client
        gc.collect()
        wait_until_no_threads()


# ---- in a process of its own ---------------------------------------------------------------------------------------

_START = f"""
import asyncio, os, sys, threading, time
from prefect_mymsp.errors import MyMSPError
from prefect_mymsp.sync_client import MyMSPClient
client = MyMSPClient({USER!r}, {PASSWORD!r}, base_url=sys.argv[1], timeout_s=30, retry_for_s=0)
send = lambda text: client.send({NUMBER!r}, text)
"""


def process(server: LoopbackServer, program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", _START + program, server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(server: LoopbackServer, program: str) -> list[str]:
    running = process(server, program)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (0, ""), err
    return out.splitlines()


@pytest.mark.parametrize(
    "reply", [hangs(), hangs(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nA\n")], ids=["head", "body"]
)
def test_ctrl_c_interrupts_a_call_at_once_and_closes_its_connection(reply: Any) -> None:
    program = """
try:
    send("first")
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(send("second"))
client.close()
print([thread.name for thread in threading.enumerate()])
"""
    with LoopbackServer(reply, counts_up()) as server:
        running = process(server, program)
        deadline = time.monotonic() + 60
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        began = time.monotonic()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
        assert time.monotonic() - began < 5
        assert (running.returncode, err) == (0, "")
        assert out.splitlines() == ["interrupted", "1", "['MainThread']"]
        assert [request.form["msg"] for request in server.requests] == ["first", "second"]
        assert server.connections == 2


def test_ctrl_c_ends_a_program_with_a_call_in_flight() -> None:
    with LoopbackServer(hangs()) as server:
        running = process(server, "with client:\n    send('first')\n")
        deadline = time.monotonic() + 60
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        began = time.monotonic()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
        assert time.monotonic() - began < 5
        assert running.returncode in {-signal.SIGINT, 130, 1}
        assert err.splitlines()[-1] == "KeyboardInterrupt"


def test_a_program_may_end_without_closing_its_client() -> None:
    with LoopbackServer(counts_up()) as server:
        assert output_of(server, "print(send('first'))\n") == ["1"]


def test_a_program_may_end_while_another_thread_calls() -> None:
    program = """
def call():
    try:
        send("first")
    except MyMSPError as error:
        print(type(error).__name__)
threading.Thread(target=call, daemon=True).start()
time.sleep(0.5)
"""
    with LoopbackServer(hangs()) as server:
        assert output_of(server, program) in (["NoResponseError"], [])


def test_a_program_may_send_while_it_ends() -> None:
    program = """
import atexit
def last():
    try:
        print(send("last"))
    except MyMSPError as error:
        print(type(error).__name__)
send("first")
atexit.register(last)
"""
    with LoopbackServer(counts_up()) as server:
        assert output_of(server, program) == ["2"]


@pytest.mark.parametrize(
    ("program", "numbers"),
    [
        ("atexit.register(last)", ["1"]),
        ("atexit.register(last); print(send('first'))", ["1", "2"]),
        ("print(send('first')); atexit.register(last)", ["1", "2"]),
    ],
    ids=["first call", "registered before the first call", "registered after it"],
)
def test_a_program_may_open_a_connection_while_it_ends(program: str, numbers: list[str]) -> None:
    """The response closes its connection, so that the last call needs one of its own."""
    last = """
import atexit
def last():
    try:
        print(send("last"))
    except MyMSPError as error:
        print(type(error).__name__)
"""
    replies = [says(http(f"A\n{number}\n", "200 OK", "Connection: close"), stay=False) for number in (1, 2)]
    with LoopbackServer(*replies) as server:
        output = output_of(server, last + program)
    # From Python 3.12 on, a program that is ending cannot start a thread.
    unsent = sys.version_info >= (3, 12) and output[-1] == "UnreachableError"
    assert output == numbers or (unsent and output[:-1] == numbers[:-1])


def test_a_forked_process_has_connections_of_its_own() -> None:
    program = """
print(send("parent"), flush=True)
child = os.fork()
if child == 0:
    print(send("child"), flush=True)
    client.close()
    os._exit(0)
os.waitpid(child, 0)
print(send("parent again"), flush=True)
client.close()
"""
    with LoopbackServer(counts_up()) as server:
        assert output_of(server, program) == ["1", "2", "3"]
        assert server.connections == 2


def test_a_late_response_to_an_interrupted_call_is_not_read_as_the_next() -> None:
    """The response to the interrupted call arrives late; the next call must not get it."""

    def responds_late(server: LoopbackServer, connection: Any) -> bool:
        server.stopping.wait(0.3)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nA\n77")
        return True

    with LoopbackServer(responds_late, counts_up()) as server, client_for(server, connections=1) as client:
        with pytest.raises(NoResponseError):
            send_and_close(client, server)
        assert client.send(NUMBER, "second") == "1"
        assert server.connections == 2


def send_and_close(client: MyMSPClient, server: LoopbackServer) -> None:
    """Send a message, and close the client meanwhile."""

    def close() -> None:
        deadline = time.monotonic() + 5
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        client.close()

    closing = threading.Thread(target=close)
    closing.start()
    try:
        client.send(NUMBER, "first")
    finally:
        closing.join()
