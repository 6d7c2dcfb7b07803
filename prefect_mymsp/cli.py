"""The command line: ``prefect-mymsp``. The same flows as in a deployment, for a person at a terminal."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from zoneinfo import ZoneInfo

import httpx
from cyclopts import App, CycloptsError, Parameter
from prefect.blocks.core import Block
from prefect.settings import PREFECT_API_URL
from rich.console import Console

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials
from prefect_mymsp.client import check_timezone
from prefect_mymsp.errors import ConfigurationError, InputError, MyMSPError, NotSentError
from prefect_mymsp.models import Decision, ReportFormat

if TYPE_CHECKING:
    from prefect_mymsp.flows import SendWindow, Suppression
    from prefect_mymsp.journal import Counts
    from prefect_mymsp.reports import CampaignReport

B = TypeVar("B", bound=Block)

#: All is done.
_DONE = 0
#: Refused before anything was sent by this command, or the thing asked for does not exist.
_REFUSED = 1
#: The command's words are off.
_MISUNDERSTOOD = 2
#: Done as far as it goes, and something is left for a person: doubt, messages that were not sent, a report.
_NEEDS_YOU = 3
_INTERRUPTED = 130

#: For the server that Prefect starts by itself where none is named: it reports on itself, and complains when it cannot.
_HUSH = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}

app = App(
    name="prefect-mymsp",
    help="""Send and follow SMS campaigns through myMSP from Prefect.

    Store the account once as a "myMSP Credentials" block, in Prefect's UI or from Python; the commands take its name.
    A campaign is known by its name: started again, it sends what is missing and nobody twice.

    Exit codes: 0 all is done; 1 refused, and nothing was sent; 2 the command was not understood; 3 done as far as it
    goes, and something is left for you, which the output names; 130 interrupted.
    """,
    help_epilogue="Try it without an account: prefect-mymsp demo",
    version_flags=["--version"],
)

Name = Annotated[str, Parameter(name=["--credentials", "-c"], help="The name of the stored credentials block.")]
Journal = Annotated[
    str | None,
    Parameter(help="The name of a stored journal block; the default is the journal that the settings name."),
]
Numbers = Annotated[bool, Parameter(help="Show the numbers of the people in full.", negative="")]
Since = Annotated[datetime | None, Parameter(help="Only from then on; without a zone, in the account's time zone.")]
Until = Annotated[datetime | None, Parameter(help="Only before then; likewise.")]


@app.command
def send(
    source: Annotated[str, Parameter(help="Path or URL of the CSV file with the recipients.")],
    message: Annotated[str, Parameter(help="The text; {column} is replaced by the row's value in that column.")],
    *,
    credentials: Name = "default",
    campaign: Annotated[
        str | None, Parameter(help="The campaign's name; the default is the file's name and today's date.")
    ] = None,
    sender: Annotated[str | None, Parameter(help="A registered sender; the default is the account's.")] = None,
    send_at: Annotated[
        datetime | None,
        Parameter(help="When the gateway shall send; without a zone, in the account's time zone. Exactly once."),
    ] = None,
    guard: Annotated[
        bool,
        Parameter(help="Send a few minutes later, each message exactly once: doubt can be looked up.", negative=""),
    ] = False,
    dry_run: Annotated[bool, Parameter(help="Show what would be sent, and send nothing.", negative="")] = False,
    yes: Annotated[
        bool, Parameter(name=["--yes", "-y"], help="Send without asking; needed where nobody can answer.", negative="")
    ] = False,
    wait: Annotated[bool, Parameter(help="Follow the deliveries.")] = True,
    deadline: Annotated[float, Parameter(help="Minutes to follow them at most.")] = 60.0,
    phone_column: Annotated[str | None, Parameter(help="The column with the phone numbers.")] = None,
    country: Annotated[str, Parameter(help="Country of numbers without a country code.")] = "SE",
    transliterate: Annotated[
        bool, Parameter(help="Replace typographic quotes and dashes, which would double the cost.", negative="")
    ] = False,
    flash: Annotated[bool, Parameter(help="Show the SMS at once instead of storing it.", negative="")] = False,
    window: Annotated[
        str | None,
        Parameter(help="The hours in which people may get messages, 08:00-20:00; outside it they are scheduled."),
    ] = None,
    suppress: Annotated[str | None, Parameter(help="A CSV file of numbers that must get nothing.")] = None,
    per_minute: Annotated[float | None, Parameter(help="Messages a minute, at most.")] = None,
    max_recipients: Annotated[int | None, Parameter(help="Send nothing if there are more people.")] = None,
    max_segments: Annotated[int | None, Parameter(help="Send nothing if a message takes more SMS.")] = None,
    fail_on_rejects: Annotated[
        bool, Parameter(help="Send nothing if there are rows that cannot be sent.", negative="")
    ] = False,
    allow_changed: Annotated[
        bool, Parameter(help="Send the changed text also to people who got the old one.", negative="")
    ] = False,
    allow_repeat: Annotated[
        bool, Parameter(help="Send what the same people were sent today under another name.", negative="")
    ] = False,
    journal: Journal = None,
) -> int:
    """Send a text to everybody in a CSV file, once: look, ask, send, follow.

    First the whole file is checked and shown: how many messages, what they cost in SMS, how they read, which rows
    have to be mended. Then it asks. After a crash, or for rows that were added, start it again: it sends what is
    missing.

    prefect-mymsp send customers.csv "Hello {name}, see you on {day}!" --credentials default
    """
    from prefect_mymsp.flows import Advanced, Audience, Safeguards, Speed, report_progress_to, send_campaign
    from prefect_mymsp.terminal import ProgressBars, show_paths, show_plan, show_report

    console, account = _console(), _load(MyMSPCredentials, credentials)
    options: dict[str, Any] = {
        "credentials": account,
        "campaign": campaign,
        "sender": sender,
        "send_at": _aware(send_at, account),
        "send_window": _window(window, account),
        "exactly_once": guard,
        "transliterate": transliterate,
        "audience": Audience(phone_column=phone_column, country=country),
        "suppression": _suppression(suppress),
        "safeguards": Safeguards(
            max_recipients=max_recipients,
            max_segments=max_segments,
            max_rejected=0 if fail_on_rejects else None,
            allow_changed_text=allow_changed,
            allow_repeat_today=allow_repeat,
        ),
        "speed": Speed(messages_per_minute=per_minute),
        "advanced": Advanced(flash=flash),
        "journal": _journal(journal),
    }
    with console.status("Checking the file …"):
        planned = send_campaign(source, message, dry_run=True, **options)
    show_plan(console, planned)
    if planned.conflict:
        raise InputError(planned.conflict)
    if not planned.messages:
        console.print("There is nobody to send to. Nothing was sent.")
        return _NEEDS_YOU
    if dry_run:
        return _DONE
    if not yes and planned.planned and not _agreed(console, planned):
        console.print("Nothing was sent.")
        return _REFUSED
    options["campaign"] = planned.campaign  # the name that was shown, also if midnight has passed since
    try:
        with ProgressBars(console) as bars, report_progress_to(bars.show):
            report = send_campaign(source, message, wait_minutes=deadline if wait else 0, **options)
    except KeyboardInterrupt:
        _tell_interrupted(console, planned.campaign, _counts(planned.campaign, account, options["journal"]))
        return _INTERRUPTED
    show_report(console, report)
    show_paths(console, report)
    if report.in_doubt:
        console.print(
            f"{report.in_doubt} messages may or may not have been sent. See whom it concerns: "
            f"prefect-mymsp resolve {report.campaign!r}",
            markup=False,
        )
    return _NEEDS_YOU if report.in_doubt or report.planned or report.refused else _DONE


def _counts(campaign: str, account: MyMSPCredentials, journal: CampaignJournal | None) -> Counts | None:
    """Where a campaign's messages stand; None when the journal does not know it."""
    from prefect_mymsp.blocks import open_existing_journal
    from prefect_mymsp.flows.manage_campaign import find_campaign

    with open_existing_journal(journal) as opened, contextlib.suppress(InputError):
        return None if opened is None else opened.campaigns.counts(find_campaign(opened, account, campaign))
    return None


def _tell_interrupted(console: Console, campaign: str, counts: Counts | None) -> None:
    """What a person who has pressed Ctrl-C asks next."""
    if counts is None:
        console.print("Interrupted. Nothing was sent.")
        return
    unsure = counts.in_doubt + counts.sending
    console.print(
        f"Interrupted. Campaign {campaign!r}: {counts.accepted:,} accepted, {counts.refused:,} refused, "
        f"{unsure:,} in doubt, {counts.planned:,} not sent. Start the same command again with --campaign "
        f"{campaign!r} to go on; nobody gets the message twice.",
        markup=False,
    )


def _agreed(console: Console, planned: CampaignReport) -> bool:
    if not sys.stdin.isatty():
        raise InputError("Nobody is here to agree; with --yes the campaign is sent without asking. Nothing was sent.")
    cost = f" ({planned.segments:,} SMS)" if planned.planned == planned.messages else ""
    asked = f"Send {planned.planned:,} messages{cost}? Write yes: "
    return console.input(asked, markup=False).strip().lower() in {"yes", "y", "ja", "j"}


@app.command
def track(
    campaign: Annotated[str | None, Parameter(help="The campaign's name; leave it out for all open ones.")] = None,
    *,
    credentials: Name = "default",
    deadline: Annotated[float, Parameter(help="Minutes to follow one campaign at most.")] = 60.0,
    journal: Journal = None,
) -> int:
    """Follow a campaign until its deliveries are settled, or look once at all that are open.

    It sends nothing. Exit code 3 says that something is left for you: doubt, or messages that were not sent.
    """
    from prefect_mymsp.flows import report_progress_to, track_campaign, track_open_campaigns
    from prefect_mymsp.terminal import ProgressBars, frame, pairs

    console, account = _console(), _load(MyMSPCredentials, credentials)
    if campaign is None:
        with console.status("Asking the gateway …"):
            found = track_open_campaigns(account, journal=_journal(journal))
        shown = ["campaign", "messages", "planned", "in_doubt", "accepted", "delivered", "open", "complete", "todo"]
        console.print(frame("Open campaigns", found[shown], limit=100))
        return _NEEDS_YOU if len(found) and (found["todo"].fillna("") != "").any() else _DONE
    with ProgressBars(console) as bars, report_progress_to(bars.show):
        status = track_campaign(campaign, account, deadline_s=deadline * 60, journal=_journal(journal))
    states = ("messages", "accepted", "delivered", "open", "refused", "in_doubt", "planned", "cancelled")
    console.print(pairs((name.replace("_", " "), f"{getattr(status, name):,}") for name in states))
    if status.stopped:
        console.print("It was cancelled: what is planned will not be sent.")
    for told in (status.todo, status.problem):
        if told:
            console.print(told, markup=False)
    return _NEEDS_YOU if status.todo or status.problem else _DONE


@app.command
def inbox(
    *,
    credentials: Name = "default",
    show_numbers: Numbers = False,
    updates: Annotated[
        bool,
        Parameter(help="Read the account's updates too; other systems will not see those then.", negative=""),
    ] = False,
    journal: Journal = None,
) -> None:
    """Store the received messages that are new, and show them. Who writes STOP gets no more SMS from campaigns."""
    from prefect_mymsp.flows import collect_inbox, collect_updates
    from prefect_mymsp.reports.sanitize import mask_frame
    from prefect_mymsp.terminal import frame

    console, account = _console(), _load(MyMSPCredentials, credentials)
    with console.status("Asking the gateway …"):
        if updates:
            new = collect_updates(account, journal=_journal(journal)).inbox
        else:
            new = collect_inbox(account, journal=_journal(journal))
    shown = new[["received_at", "sender", "prefix", "text"]]
    console.print(frame("New messages", shown if show_numbers else mask_frame(shown), limit=100))


@app.command
def report(
    campaign: Annotated[str | None, Parameter(help="The campaign's name; leave it out for all of them.")] = None,
    *,
    credentials: Name = "default",
    inbox: Annotated[bool, Parameter(help="Report the received messages instead.", negative="")] = False,
    format: Annotated[  # noqa: A002  what everybody calls it
        ReportFormat, Parameter(help="A page to look at (html), or csv, excel or parquet.")
    ] = ReportFormat.HTML,
    path: Annotated[Path | None, Parameter(help="The file or folder; the default is the folder for reports.")] = None,
    since: Since = None,
    until: Until = None,
    new_only: Annotated[
        bool, Parameter(name=["--new"], help="Only what is new since the last such report.", negative="")
    ] = False,
    show_numbers: Numbers = False,
    price: Annotated[float | None, Parameter(help="What one SMS costs, to show the cost.")] = None,
    journal: Journal = None,
) -> None:
    """Write a report to look at, or a file to work with: of a campaign, of a period, or of the inbox."""
    from prefect_mymsp.flows import export_delivery_report, export_inbox_report
    from prefect_mymsp.terminal import plain

    console, account = _console(), _load(MyMSPCredentials, credentials)
    asked: dict[str, Any] = {
        "since": _aware(since, account),
        "until": _aware(until, account),
        "new_only": new_only,
        "format": format,
        "path": path,
        "show_numbers": show_numbers,
        "journal": _journal(journal),
    }
    if format is ReportFormat.SQL:
        raise InputError("Tables are written by the flow export_delivery_report; choose html, csv, excel or parquet.")
    with console.status("Writing the report …"):
        if inbox:
            done = export_inbox_report(account, **asked)
        else:
            done = export_delivery_report(account, campaign, price_per_segment=price, **asked)
    console.print(f"{done.rows:,} rows are in")
    for written in (done.path, done.rejected_rows_path):
        if written is not None:
            console.print(plain(f"  {written}"), soft_wrap=True)


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
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "",
        **_HUSH,
    }
    command = [sys.executable, "-m", "prefect_mymsp.demo"]
    try:
        return subprocess.run(command, env=environment, cwd=home, check=False).returncode
    except KeyboardInterrupt:
        return _INTERRUPTED


@app.command
def resolve(
    campaign: Annotated[str, Parameter(help="The campaign's name.")],
    *,
    credentials: Name = "default",
    decision: Annotated[Decision | None, Parameter(help="What became of them; leave it out to look only.")] = None,
    show_numbers: Numbers = False,
    journal: Journal = None,
) -> int:
    """Show whose messages of a campaign may or may not have been sent, and settle them by your word.

    Look for evidence first. With "sent" they are never sent again; with "not-sent" the next start sends them. Exit
    code 3 says that there are some, and that they wait for your decision.
    """
    from prefect_mymsp.flows import resolve_campaign
    from prefect_mymsp.reports.sanitize import mask_frame
    from prefect_mymsp.terminal import frame

    console, account = _console(), _load(MyMSPCredentials, credentials)
    book = _journal(journal)
    doubtful = resolve_campaign(campaign, account, decision, journal=book)
    shown = doubtful[["row", "recipient", "text_key", "error"]]
    shown = shown.assign(text_key=shown["text_key"].str[:8])
    console.print(frame("In doubt", shown if show_numbers else mask_frame(shown), limit=len(shown)))
    told = "are in doubt" if decision is None else f"were in doubt and are settled as {decision.value}"
    console.print(f"{len(doubtful)} messages {told}.")
    counts = _counts(campaign, account, book)
    if sending := counts.sending if counts is not None else 0:
        console.print(
            f"{sending} more are on their way. If the process that sends them has died, ask again in a minute."
        )
    return _NEEDS_YOU if sending or (decision is None and len(doubtful)) else _DONE


@app.command
def cancel(
    campaign: Annotated[str, Parameter(help="The campaign's name.")],
    *,
    credentials: Name = "default",
    journal: Journal = None,
) -> int:
    """Stop a campaign for good, and cancel at the gateway what waits there.

    Exit code 3 says that not all could be stopped: something of it was sent, or may have been.
    """
    from prefect_mymsp.flows import cancel_campaign

    console, account = _console(), _load(MyMSPCredentials, credentials)
    book = _journal(journal)
    told = cancel_campaign(campaign, account, journal=book)
    console.print(f"Cancelled at the gateway: {told.cancelled} requests.")
    console.print(f"Too late, sent already:   {told.sent}.")
    console.print(f"Could not be cancelled:   {told.unknown}.")
    counts = _counts(campaign, account, book)
    assert counts is not None  # noqa: S101  it was found to be cancelled
    sent, unsure = counts.accepted + counts.assumed, counts.in_doubt + counts.sending
    console.print(
        f"Of its {counts.messages:,} messages {sent:,} were sent, {counts.cancelled:,} were taken back, "
        f"{unsure:,} are in doubt, and {counts.planned:,} will never be sent."
    )
    return _NEEDS_YOU if told.unknown or sent or unsure else _DONE


def _console() -> Console:
    """Where a command speaks; Prefect's log is kept out of it."""
    from prefect_mymsp.terminal import quiet_prefect

    quiet_prefect()
    return Console(highlight=False)


def _load(kind: type[B], name: str) -> B:
    from prefect_mymsp.terminal import start_server

    try:
        start_server()
        block = kind.load(name)
    except httpx.TransportError:
        raise ConfigurationError(
            f"Prefect's API at {PREFECT_API_URL.value()} cannot be reached. Nothing was sent. Start it with: prefect "
            "server start; or correct PREFECT_API_URL."
        ) from None
    except ValueError as error:
        raise ConfigurationError(
            f"There is no {kind.get_block_type_slug()} block named {name!r}. Save one under that name, in Prefect's UI "
            "or from Python."
        ) from error
    assert isinstance(block, kind)  # noqa: S101  outside of an event loop, load() has loaded it
    return block


def _journal(name: str | None) -> CampaignJournal | None:
    return None if name is None else _load(CampaignJournal, name)


def _aware(when: datetime | None, account: MyMSPCredentials) -> datetime | None:
    """A time as a person writes it: without a zone, it is by the account's clock."""
    return when if when is None or when.tzinfo is not None else when.replace(tzinfo=ZoneInfo(account.timezone))


def _window(hours: str | None, account: MyMSPCredentials) -> SendWindow | None:
    from prefect_mymsp.flows import SendWindow

    if hours is None:
        return None
    opens, dash, closes = hours.partition("-")
    if not dash:
        raise InputError(f"The window {hours!r} is no span of hours; write 08:00-20:00.")
    return SendWindow(opens=opens, closes=closes, timezone=check_timezone(account.timezone).key)


def _suppression(path: str | None) -> Suppression | None:
    from prefect_mymsp.flows import Suppression

    return None if path is None else Suppression(file=path)


#: What a flow's options are called here, where the name is not just spelt with dashes.
_FLAGS = {
    "messages_per_minute": "--per-minute",
    "allow_changed_text": "--allow-changed",
    "allow_repeat_today": "--allow-repeat",
}
_OPTIONS = re.compile(
    r"\b(phone_column|send_at|max_recipients|max_segments|allow_changed_text|allow_repeat_today|messages_per_minute)\b"
)


def _in_flags(told: str) -> str:
    """An error that names options of a flow, as one of the command that was typed."""
    return _OPTIONS.sub(lambda found: _FLAGS.get(found[0], f"--{found[0].replace('_', '-')}"), told)


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; our errors are one sentence, not a traceback.

    Args:
        words: What stands behind ``prefect-mymsp``; the default is what was typed.
    """
    for name, value in _HUSH.items():
        os.environ.setdefault(name, value)
    try:
        result = app(sys.argv[1:] if words is None else words, exit_on_error=False)
    except CycloptsError:
        result = _MISUNDERSTOOD  # it has said what it did not understand
    except MyMSPError as error:
        Console(stderr=True).print("[bold red]Error:[/bold red]", end=" ")
        Console(stderr=True, highlight=False).print(_in_flags(str(error)), markup=False)
        result = _REFUSED if isinstance(error, NotSentError) else _NEEDS_YOU
    except KeyboardInterrupt:
        result = _INTERRUPTED
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
