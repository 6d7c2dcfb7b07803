"""The command line, ``prefect-mymsp``: the flows in a terminal."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from prefect_mymsp.cli.local import QUIET_SERVER, demo, sandbox
from prefect_mymsp.cli.support import (
    DECISION,
    DONE,
    INTERRUPTED,
    NEEDS_ATTENTION,
    REFUSED,
    USAGE_ERROR,
    Campaign,
    Credentials,
    Flag,
    Format,
    Journal,
    NewOnly,
    OutputPath,
    ShowNumbers,
    Since,
    Until,
    WaitMinutes,
    campaign_counts,
    check_files_and_options,
    in_account_zone,
    load_credentials,
    load_journal,
    make_console,
    parse_send_window,
)
from prefect_mymsp.errors import InputError, MyMSPError, NotSentError
from prefect_mymsp.models import Decision

if TYPE_CHECKING:
    from prefect_mymsp.journal import Counts
    from prefect_mymsp.reports import CampaignReport

app = App(
    name="prefect-mymsp",
    help="""Send SMS campaigns through myMSP, and track their deliveries.

    Save the account once as a "myMSP Credentials" block, in Prefect's UI or from Python. Each command takes the block's
    name. A campaign has a name as well: started again under the same name, it sends only what is missing.

    Exit codes: 0 done; 1 refused, nothing was sent; 2 wrong usage; 3 done, but something needs your attention (messages
    in doubt, refused or not sent); 130 interrupted.
    """,
    help_epilogue="Try it without an account: prefect-mymsp demo",
    version_flags=["--version"],
)
inbox_app = App(
    name="inbox",
    help="Fetch new received messages, store and show them. Senders that reply STOP are opted out of campaigns.",
)
app.command(inbox_app)
app.command(sandbox)
app.command(demo)


@app.command
def send(
    recipients: Annotated[str, Parameter(help="CSV file with the recipients, as a path or URL.")],
    message: Annotated[str, Parameter(help="Text to send. {name} stands for the row's value in the column name.")],
    /,
    *,
    credentials: Credentials = "default",
    campaign: Annotated[
        str | None, Parameter(help="Name of the campaign. Default: the file's name and the date.")
    ] = None,
    sender: Annotated[str | None, Parameter(help="Registered sender that phones show. Default: the account's.")] = None,
    send_at: Annotated[
        datetime | None,
        Parameter(help="When the gateway sends. Without an offset, in the account's time zone."),
    ] = None,
    send_window: Annotated[
        str | None, Parameter(help="Hours in which recipients may get messages, such as 08:00-20:00.")
    ] = None,
    exactly_once: Annotated[
        Flag,
        Parameter(
            help="Hold messages at the gateway for a few minutes, so that a request in doubt can be looked up.",
        ),
    ] = False,
    transliterate: Annotated[
        Flag, Parameter(help="Replace typographic quotes and dashes, which can double the cost.")
    ] = False,
    dry_run: Annotated[Flag, Parameter(help="Check everything and send nothing.")] = False,
    yes: Annotated[Flag, Parameter(name=["--yes", "-y"], help="Send without confirmation.")] = False,
    wait_minutes: WaitMinutes = 60.0,
    no_wait: Annotated[Flag, Parameter(help="Do not track deliveries.")] = False,
    phone_column: Annotated[
        str | None, Parameter(help="Column with the phone numbers. Default: found by its name.")
    ] = None,
    country: Annotated[str, Parameter(help="Country of numbers without a country code (ISO 3166).")] = "SE",
    suppression_file: Annotated[str | None, Parameter(help="CSV file of numbers to suppress.")] = None,
    max_recipients: Annotated[
        int | None, Parameter(help="Send nothing if there are more recipients than this.")
    ] = None,
    max_segments: Annotated[
        int | None, Parameter(help="Send nothing if a message has more SMS segments than this.")
    ] = None,
    max_rejected: Annotated[
        float | None, Parameter(help="Send nothing if a larger share of the rows is rejected; 0.05 is one in twenty.")
    ] = None,
    allow_changed_text: Annotated[
        Flag,
        Parameter(help="Send a changed text to recipients of the campaign's old text."),
    ] = False,
    allow_repeat_today: Annotated[
        Flag,
        Parameter(help="Send a text again that another campaign sent to the same recipients today."),
    ] = False,
    messages_per_minute: Annotated[float | None, Parameter(help="Maximum number of messages per minute.")] = None,
    flash: Annotated[Flag, Parameter(help="Show the message at once instead of storing it on the phone.")] = False,
    journal: Journal = None,
) -> int:
    """Send a message to everyone in a CSV file: check, confirm, send, track.

    The command checks the whole file first. It shows the number of messages, the SMS segments they take, sample texts
    and the rows to fix, and asks for confirmation. Run it again after a crash, or with rows added: it sends only what
    is missing.

    prefect-mymsp send customers.csv "Hello {name}, see you on {day}!"
    """
    from prefect_mymsp.flows import (
        Advanced,
        Audience,
        Safeguards,
        Speed,
        Suppression,
        report_progress_to,
        send_campaign,
    )
    from prefect_mymsp.terminal import ProgressBars, show_paths, show_plan, show_report

    options: dict[str, Any] = {
        "campaign": campaign,
        "sender": sender,
        "send_at": send_at,
        "send_window": parse_send_window(send_window),
        "exactly_once": exactly_once,
        "transliterate": transliterate,
        "wait_minutes": 0.0 if no_wait else wait_minutes,
        "audience": Audience(phone_column=phone_column, country=country),
        "suppression": Suppression(file=suppression_file),
        "safeguards": Safeguards(
            max_recipients=max_recipients,
            max_segments=max_segments,
            max_rejected=max_rejected,
            allow_changed_text=allow_changed_text,
            allow_repeat_today=allow_repeat_today,
        ),
        "speed": Speed(messages_per_minute=messages_per_minute),
        "advanced": Advanced(flash=flash),
    }
    check_files_and_options(recipients, message, options)
    console, account = make_console(), load_credentials(credentials)
    options |= {"credentials": account, "send_at": in_account_zone(send_at, account), "journal": load_journal(journal)}
    if options["send_window"] is not None:
        options["send_window"] = options["send_window"].model_copy(update={"timezone": account.timezone})
    with console.status("Checking the recipients …"):
        plan = send_campaign(recipients, message, dry_run=True, **options)
    show_plan(console, plan)
    if plan.conflict:
        raise InputError(plan.conflict)
    if not plan.messages:
        console.print("No recipients left. Nothing was sent.")
        return NEEDS_ATTENTION
    if dry_run:
        return DONE
    if not yes and plan.planned and not _confirm(console, plan):
        console.print("Nothing was sent.")
        return REFUSED
    options["campaign"] = plan.campaign  # the name that was shown; after midnight the default would be another
    try:
        with ProgressBars(console) as bars, report_progress_to(bars.update):
            report = send_campaign(recipients, message, **options)
    except KeyboardInterrupt:
        _show_interrupted(console, plan.campaign, campaign_counts(plan.campaign, account, options["journal"]))
        return INTERRUPTED
    show_report(console, report)
    show_paths(console, report)
    if report.in_doubt:
        console.print(
            f"{report.in_doubt:,} messages may or may not have been sent. List them with: "
            f"prefect-mymsp resolve {shlex.quote(report.campaign)}",
            markup=False,
        )
    return NEEDS_ATTENTION if report.in_doubt or report.planned or report.refused else DONE


def _confirm(console: Console, plan: CampaignReport) -> bool:
    if not sys.stdin.isatty():
        raise InputError("No terminal to confirm in; add `--yes`. Nothing was sent.")
    cost = f" ({plan.segments:,} SMS segments)" if plan.planned == plan.messages else ""
    answer = console.input(f"Send {plan.planned:,} messages{cost}? Type yes: ", markup=False)
    return answer.strip().lower() in {"yes", "y", "ja", "j"}


def _show_interrupted(console: Console, campaign: str, counts: Counts | None) -> None:
    if counts is None:
        console.print("Interrupted. Nothing was sent.")
        return
    console.print(
        f"Interrupted. Campaign {campaign!r}: {counts.accepted:,} accepted, {counts.refused:,} refused, "
        f"{counts.in_doubt + counts.sending:,} in doubt, {counts.planned:,} not sent. To continue, run the same "
        f"command with --campaign {shlex.quote(campaign)}; no message is sent twice.",
        markup=False,
    )


@app.command
def track(
    campaign: Annotated[str | None, Parameter(help="Name of the campaign. Default: all open campaigns.")] = None,
    /,
    *,
    credentials: Credentials = "default",
    wait_minutes: WaitMinutes = 60.0,
    journal: Journal = None,
) -> int:
    """Track one campaign until its deliveries are settled, or poll all open campaigns once.

    It sends nothing. Exit code 3 means that messages are in doubt or not sent.
    """
    from prefect_mymsp.flows import report_progress_to, track_campaign, track_open_campaigns
    from prefect_mymsp.terminal import ProgressBars, frame_table, key_value_table, plain_text

    console, account = make_console(), load_credentials(credentials)
    if campaign is None:
        with console.status("Polling the gateway …"):
            campaigns = track_open_campaigns(account, journal=load_journal(journal))
        columns = ["campaign", "messages", "delivered", "open", "in_doubt", "planned"]
        console.print(frame_table("Open campaigns", campaigns[columns], limit=100))
        unfinished = campaigns[campaigns["todo"].fillna("") != ""]
        for name, todo in zip(unfinished["campaign"], unfinished["todo"], strict=True):
            console.print(plain_text(f"{name}: {_in_cli_terms(todo)}"))
        return NEEDS_ATTENTION if len(unfinished) else DONE
    with ProgressBars(console) as bars, report_progress_to(bars.update):
        status = track_campaign(campaign, account, wait_minutes=wait_minutes, journal=load_journal(journal))
    states = ("messages", "accepted", "delivered", "open", "refused", "in_doubt", "planned", "cancelled")
    console.print(key_value_table((state.replace("_", " "), f"{getattr(status, state):,}") for state in states))
    if status.stopped:
        console.print("The campaign was cancelled. Planned messages will not be sent.")
    for note in (status.todo, status.problem):
        if note:
            console.print(_in_cli_terms(note), markup=False)
    return NEEDS_ATTENTION if status.todo or status.problem else DONE


@app.command
def cancel(campaign: Campaign, /, *, credentials: Credentials = "default", journal: Journal = None) -> int:
    """Cancel a campaign for good, also its messages that are scheduled at the gateway.

    Exit code 3 means that some messages were sent or may have been sent.
    """
    from prefect_mymsp.flows import cancel_campaign

    console, account = make_console(), load_credentials(credentials)
    block = load_journal(journal)
    result = cancel_campaign(campaign, account, journal=block)
    counts = campaign_counts(campaign, account, block)
    assert counts is not None  # noqa: S101  cancel_campaign has found it
    sent, in_doubt = counts.accepted + counts.assumed, counts.in_doubt + counts.sending
    console.print(
        f"Requests: {result.cancelled:,} cancelled, {result.sent:,} already sent, {result.unknown:,} could not be "
        f"cancelled.\nMessages: {counts.messages:,} in all, {sent:,} sent, {counts.cancelled:,} cancelled, "
        f"{in_doubt:,} in doubt, {counts.planned:,} never sent."
    )
    return NEEDS_ATTENTION if result.unknown or sent or in_doubt else DONE


@app.command
def resolve(
    campaign: Campaign,
    /,
    *,
    sent: Annotated[Flag, Parameter(help="They were sent: never send them again.", group=DECISION)] = False,
    not_sent: Annotated[Flag, Parameter(help="They were not sent: the next start sends them.", group=DECISION)] = False,
    show_numbers: ShowNumbers = False,
    credentials: Credentials = "default",
    journal: Journal = None,
) -> int:
    """List a campaign's messages in doubt, or resolve them by your decision.

    Look for evidence first, on the gateway's web pages or by asking a recipient. Exit code 3 means that messages are
    still in doubt.
    """
    from prefect_mymsp.flows import resolve_campaign
    from prefect_mymsp.reports.sanitize import mask_frame
    from prefect_mymsp.terminal import frame_table

    decision: Decision | None = "sent" if sent else "not-sent" if not_sent else None
    console, account = make_console(), load_credentials(credentials)
    block = load_journal(journal)
    doubtful = resolve_campaign(campaign, decision, account, journal=block)
    shown = doubtful[["row", "recipient", "text_key", "error"]]
    shown = shown.assign(text_key=shown["text_key"].str[:8])
    console.print(frame_table("In doubt", shown if show_numbers else mask_frame(shown), limit=len(shown)))
    outcome = "are in doubt" if decision is None else f"were in doubt and are resolved as {decision}"
    console.print(f"{len(doubtful):,} messages {outcome}.")
    counts = campaign_counts(campaign, account, block)
    sending = 0 if counts is None else counts.sending
    if sending:
        console.print(
            f"{sending:,} more are being sent. If the process that sends them has died, try again in a minute."
        )
    return NEEDS_ATTENTION if sending or (decision is None and len(doubtful)) else DONE


@app.command
def report(
    campaign: Annotated[str | None, Parameter(help="Name of the campaign. Default: all campaigns.")] = None,
    /,
    *,
    format: Format = "html",  # noqa: A002  the usual name
    path: OutputPath = None,
    since: Since = None,
    until: Until = None,
    new_only: NewOnly = False,
    show_numbers: ShowNumbers = False,
    price: Annotated[float | None, Parameter(help="Price of one SMS segment, to show the cost.")] = None,
    credentials: Credentials = "default",
    journal: Journal = None,
) -> None:
    """Write a delivery report, of one campaign or of a period."""
    from prefect_mymsp.flows import export_delivery_report
    from prefect_mymsp.terminal import show_exported

    console, account = make_console(), load_credentials(credentials)
    with console.status("Writing the report …"):
        exported = export_delivery_report(
            campaign,
            account,
            format=format,
            path=path,
            since=in_account_zone(since, account),
            until=in_account_zone(until, account),
            new_only=new_only,
            show_numbers=show_numbers,
            price=price,
            journal=load_journal(journal),
        )
    show_exported(console, exported)


@inbox_app.default
def inbox(
    *,
    show_numbers: ShowNumbers = False,
    updates: Annotated[
        Flag,
        Parameter(help="Also collect the account's updates. This removes them, so other systems cannot read them."),
    ] = False,
    credentials: Credentials = "default",
    journal: Journal = None,
) -> None:
    """Fetch new received messages, store them, and show them. Senders that reply STOP are opted out of campaigns."""
    from prefect_mymsp.flows import collect_inbox, collect_updates
    from prefect_mymsp.reports.sanitize import mask_frame
    from prefect_mymsp.terminal import frame_table

    console, account = make_console(), load_credentials(credentials)
    with console.status("Fetching messages …"):
        if updates:
            messages = collect_updates(account, journal=load_journal(journal)).inbox
        else:
            messages = collect_inbox(account, journal=load_journal(journal))
    shown = messages[["received_at", "sender", "prefix", "text"]]
    shown = shown if show_numbers else mask_frame(shown)
    local = shown["received_at"].dt.tz_convert(account.timezone).dt.strftime("%Y-%m-%d %H:%M")
    console.print(frame_table("New messages", shown.assign(received_at=local), limit=100))


@inbox_app.command(name="report")
def inbox_report(
    *,
    format: Format = "html",  # noqa: A002  the usual name
    path: OutputPath = None,
    since: Since = None,
    until: Until = None,
    new_only: NewOnly = False,
    show_numbers: ShowNumbers = False,
    credentials: Credentials = "default",
    journal: Journal = None,
) -> None:
    """Write a report of the received messages."""
    from prefect_mymsp.flows import export_inbox_report
    from prefect_mymsp.terminal import show_exported

    console, account = make_console(), load_credentials(credentials)
    with console.status("Writing the report …"):
        exported = export_inbox_report(
            account,
            format=format,
            path=path,
            since=in_account_zone(since, account),
            until=in_account_zone(until, account),
            new_only=new_only,
            show_numbers=show_numbers,
            journal=load_journal(journal),
        )
    show_exported(console, exported)


def _cli_terms() -> dict[str, str]:
    """Names of parameters and flows, with their spelling on the command line."""
    names = {
        name for command in (send, track, resolve, report, inbox) for name in inspect.signature(command).parameters
    }
    flags = {name: f"--{name.replace('_', '-')}" for name in names if "_" in name}
    return flags | {"resolve_campaign": "prefect-mymsp resolve", "cancel_campaign": "prefect-mymsp cancel"}


def _in_cli_terms(message: str) -> str:
    """A flow's message with its parameters spelled as flags: ``max_recipients`` becomes ``--max-recipients``."""
    terms = _cli_terms()
    return re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda match: terms.get(match[0], match[0]), message)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Errors of this package are printed as one sentence, without a traceback.

    Args:
        arguments: The arguments after ``prefect-mymsp``; by default those of the process.
    """
    for name, value in QUIET_SERVER.items():
        os.environ.setdefault(name, value)
    try:
        result = app(sys.argv[1:] if arguments is None else arguments, exit_on_error=False)
    except CycloptsError:
        result = USAGE_ERROR  # cyclopts has printed the error
    except MyMSPError as error:
        stderr = Console(stderr=True, highlight=False)
        stderr.print("[bold red]Error:[/bold red]", end=" ")
        stderr.print(_in_cli_terms(str(error)), markup=False)
        result = REFUSED if isinstance(error, NotSentError) else NEEDS_ATTENTION
    except KeyboardInterrupt:
        result = INTERRUPTED
    sys.exit(result if isinstance(result, int) else DONE)
