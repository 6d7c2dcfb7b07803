"""The command line: ``prefect-mymsp``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefect_mymsp.blocks import MyMSPCredentials
from prefect_mymsp.errors import ConfigurationError, MyMSPError
from prefect_mymsp.models import Decision

app = App(
    name="prefect-mymsp",
    help="Send and follow SMS campaigns through myMSP from Prefect.",
    version_flags=["--version"],
)


@app.command
def sandbox(
    *,
    port: Annotated[int, Parameter(help="The port to listen on; 0 picks a free one.")] = 8025,
    speed: Annotated[float, Parameter(help="How many times as fast as real time deliveries advance.")] = 1.0,
) -> None:
    """Run a gateway on this machine that sends nothing, until Ctrl-C.

    It answers all eight endpoints as the vendor's document says. Point credentials at it and develop against it.
    """
    from prefect_mymsp.sandbox.accounts import DEFAULT_PASSWORD, DEFAULT_USER
    from prefect_mymsp.sandbox.server import serve

    console = Console()

    def ready(url: str) -> None:
        console.print(f"[bold]myMSP sandbox[/bold] at {url}")
        console.print(f"  base URL   {url}/external")
        console.print(f"  user       {DEFAULT_USER}")
        console.print(f"  password   {DEFAULT_PASSWORD}")
        console.print("Numbers from 46701740605 to 46701740699 have outcomes of their own; see docs/sandbox.md.")
        console.print("Nothing leaves this machine. Ctrl-C ends it.")

    serve(port=port, speed=speed, on_ready=ready)


@app.command
def demo(
    *,
    folder: Annotated[Path | None, Parameter(help="Where to work; the default is a new temporary folder.")] = None,
) -> int:
    """Send a sample campaign through a gateway on this machine: a CSV in, delivered and reported.

    Prefect runs in the demo's own folder; your profile, your server and your journal are not touched.
    """
    try:
        home = folder.expanduser().absolute() if folder else Path(tempfile.mkdtemp(prefix="prefect-mymsp-demo-"))
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        Console(stderr=True).print(f"The folder cannot be used: {error.strerror}.")
        return 1
    # A process of its own, because Prefect has read the settings of this one: its profile, its server, its .toml file.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect_mymsp.demo"]
    try:
        return subprocess.run(command, env=environment, cwd=home, check=False).returncode
    except KeyboardInterrupt:
        return 130


@app.command
def resolve(
    campaign: Annotated[str, Parameter(help="The campaign's name.")],
    *,
    credentials: Annotated[str, Parameter(help="The name of the stored credentials block.")],
    decision: Annotated[Decision | None, Parameter(help="What became of them; leave it out to look only.")] = None,
    show_numbers: Annotated[bool, Parameter(help="Show the numbers of the people in full.")] = False,
) -> None:
    """Show whose messages of a campaign may or may not have been sent, and settle them by your word.

    Look for evidence first. With "sent" they are never sent again; with "not-sent" the next start sends them.
    """
    from prefect_mymsp.campaign import mask
    from prefect_mymsp.flows import resolve_in_doubt

    doubtful = resolve_in_doubt(campaign, _load(credentials), decision)
    table = Table("row", "recipient", "text", "why")
    for row, recipient, text_key, error in doubtful[["row", "recipient", "text_key", "error"]].itertuples(index=False):
        shown = recipient if show_numbers else mask(recipient)
        table.add_row(str(row), Text(shown), Text(text_key[:8]), Text(str(error)))
    console = Console()
    console.print(table)
    told = "are in doubt" if decision is None else f"were in doubt and are settled as {decision.value}"
    console.print(f"{len(doubtful)} messages {told}.")


@app.command
def cancel(
    campaign: Annotated[str, Parameter(help="The campaign's name.")],
    *,
    credentials: Annotated[str, Parameter(help="The name of the stored credentials block.")],
) -> int:
    """Stop a campaign for good, and cancel at the gateway what waits there. Exit code 3 if not all could be stopped."""
    from prefect_mymsp.flows import cancel_campaign

    told = cancel_campaign(campaign, _load(credentials))
    console = Console(highlight=False)
    console.print(f"Cancelled at the gateway: {told.cancelled} requests.")
    console.print(f"Too late, sent already:   {told.sent}.")
    console.print(f"Could not be cancelled:   {told.unknown}.")
    return 3 if told.sent or told.unknown else 0


def _load(name: str) -> MyMSPCredentials:
    try:
        block = MyMSPCredentials.load(name)
    except ValueError as error:
        raise ConfigurationError(
            f"There are no credentials named {name!r}. Save a myMSP Credentials block under that name, in Prefect's "
            "UI or from Python."
        ) from error
    assert isinstance(block, MyMSPCredentials)  # noqa: S101  outside of an event loop, load() has loaded it
    return block


def main() -> None:
    """Run the command line; our errors are one sentence, not a traceback."""
    try:
        result = app()
    except MyMSPError as error:
        Console(stderr=True).print(f"[bold red]Error:[/bold red] {error}", highlight=False)
        result = 1
    except KeyboardInterrupt:
        result = 130
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
