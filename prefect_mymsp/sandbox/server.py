"""Running the sandbox: in a background thread for tests, or in the foreground for the command line.

It listens on loopback and nowhere else: parts of it need no password, and it holds all messages sent to it.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import TYPE_CHECKING, Self

import uvicorn

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.sandbox.accounts import DEFAULT_PASSWORD, DEFAULT_USER, Account
from prefect_mymsp.sandbox.app import create_app
from prefect_mymsp.sandbox.clock import Clock
from prefect_mymsp.sandbox.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_KEEP_ALIVE_S = 30
_START_TIMEOUT_S = 10.0


class _Server(uvicorn.Server):
    """A uvicorn server with an event for its start, which leaves no connection behind."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Requests still waiting here are slow on purpose; their responses are no longer needed.
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise ConfigurationError(f"The sandbox listens on a loopback address, not on {host!r}.") from error
    if not address.is_loopback:
        raise ConfigurationError(f"The sandbox listens on loopback only, not on {host}: its data is not protected.")
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # With the protocol left at 0 asyncio does not set TCP_NODELAY, and every response waits 40 ms for a delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"The sandbox cannot listen on {host}, port {port}: {error.strerror}.") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(gateway: Gateway, on_started: Callable[[], None]) -> _Server:
    config = uvicorn.Config(
        create_app(gateway),
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )
    return _Server(config, on_started)


class Sandbox:
    """A gateway on a free loopback port, running in a thread of this process for as long as the ``with`` block.

    Args:
        gateway: The state to serve; a new one with the default account when None.
        host: Loopback address to listen on.
        port: Port; a free one when 0.
        speed: Speed of a new gateway's clock.

    Attributes:
        gateway: The state. Its methods lock; hold ``gateway.lock`` over several steps.
        url: Root, for instance ``http://127.0.0.1:43123``; set once it runs.
        base_url: The client's base URL: the root and ``/external``.
        user: Login of the gateway's first account.
        password: And its password.
    """

    def __init__(
        self, gateway: Gateway | None = None, *, host: str = "127.0.0.1", port: int = 0, speed: float = 1.0
    ) -> None:
        self.gateway = gateway or Gateway(clock=Clock(speed=speed))
        self._host, self._port = host, port
        account = next(iter(self.gateway.accounts.values()))
        self.user, self.password = account.user, account.password
        self.url = self.base_url = ""
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Listen; returns when requests are served.

        Raises:
            ConfigurationError: The address is not loopback, or the port is taken.
        """
        if self._thread is not None:
            raise ConfigurationError("This sandbox is running already.")
        listener = _listen(self._host, self._port)
        started = threading.Event()
        self._server = _server(self.gateway, started.set)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="mymsp-sandbox", daemon=True
        )
        self.url = _url(listener)
        self.base_url = f"{self.url}/external"
        self._thread.start()
        if not started.wait(_START_TIMEOUT_S):
            self.stop()
            raise ConfigurationError("The sandbox did not start.")
        return self

    def stop(self) -> None:
        """Close every connection and stop listening; does nothing when it is not running."""
        if self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    speed: float = 1.0,
    user: str = DEFAULT_USER,
    password: str = DEFAULT_PASSWORD,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a new gateway in the foreground until Ctrl-C, then shut down in order.

    Args:
        host: Loopback address to listen on.
        port: Port; a free one when 0.
        speed: Simulated seconds a real second.
        user: Login of the one account.
        password: Its password.
        on_ready: Called with the root URL once requests are served.

    Raises:
        ConfigurationError: The address is not loopback, the port is taken, or the speed is not above 0.
    """
    gateway = Gateway(accounts=[Account(user=user, password=password)], clock=Clock(speed=speed))
    listener = _listen(host, port)
    url = _url(listener)
    try:
        _server(gateway, lambda: on_ready(url) if on_ready is not None else None).run(sockets=[listener])
    except KeyboardInterrupt:
        # uvicorn has shut down by now and raises the signal it caught once more.
        return
    finally:
        listener.close()
