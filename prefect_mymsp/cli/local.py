"""The commands that need no account: a sandbox gateway, and a demo with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from prefect_mymsp.cli.support import INTERRUPTED, REFUSED

#: For the server that Prefect starts when none is configured: it sends no usage statistics.
QUIET_SERVER = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


def sandbox(
    *,
    port: Annotated[int, Parameter(help="Port to listen on. 0 picks a free one.")] = 8025,
    speed: Annotated[float, Parameter(help="Speed of deliveries; 2 is twice real time.")] = 1.0,
) -> None:
    """Run a gateway on this machine that sends nothing. Stop it with Ctrl-C.

    It has all eight endpoints of the vendor's API. Use it to develop and test.
    """
    from prefect_mymsp.sandbox.accounts import DEFAULT_PASSWORD, DEFAULT_USER
    from prefect_mymsp.sandbox.server import serve

    console = Console()

    def show_address(url: str) -> None:
        console.print(f"[bold]myMSP sandbox[/bold] at {url}")
        console.print(f"  base URL   {url}/external")
        console.print(f"  user       {DEFAULT_USER}")
        console.print(f"  password   {DEFAULT_PASSWORD}")
        console.print("Numbers 46701740605 to 46701740699 simulate different outcomes; see docs/sandbox.md.")
        console.print("No message leaves this machine. Press Ctrl-C to stop.")

    serve(port=port, speed=speed, on_ready=show_address)


def demo(
    *, folder: Annotated[Path | None, Parameter(help="Folder to work in. Default: a new temporary folder.")] = None
) -> int:
    """Send a sample campaign through a sandbox on this machine, and report it.

    Prefect runs in the demo's own folder. Your profile, server and journal are not touched.
    """
    try:
        home = folder.expanduser().absolute() if folder else Path(tempfile.mkdtemp(prefix="prefect-mymsp-demo-"))
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        Console(stderr=True).print(f"The folder cannot be used: {error.strerror}.")
        return REFUSED
    # In a new process: this one has already read the settings of the user's profile.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "",
        **QUIET_SERVER,
    }
    command = [sys.executable, "-m", "prefect_mymsp.demo"]
    try:
        return subprocess.run(command, env=environment, cwd=home, check=False).returncode
    except KeyboardInterrupt:
        return INTERRUPTED
