"""Shared parts of the commands: option types, exit codes, loading blocks, and checks that need no server."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

from cyclopts import Group, Parameter, validators
from rich.console import Console

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, open_existing_journal
from prefect_mymsp.errors import InputError
from prefect_mymsp.models import ReportFormat

if TYPE_CHECKING:
    from prefect_mymsp.flows import SendWindow
    from prefect_mymsp.journal import Counts

# Exit codes.
DONE = 0
REFUSED = 1
USAGE_ERROR = 2
NEEDS_ATTENTION = 3
INTERRUPTED = 130

#: Options of which at most one may be given.
DECISION = Group("Decision", validator=validators.MutuallyExclusive())  # type: ignore[no-untyped-call]

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Campaign = Annotated[str, Parameter(help="Name of the campaign.")]
Credentials = Annotated[str, Parameter(name=["--credentials", "-c"], help="Name of the saved credentials block.")]
Journal = Annotated[
    str | None, Parameter(help="Name of a saved journal block. Default: the journal from the settings.")
]
WaitMinutes = Annotated[float, Parameter(help="Track deliveries for at most this long.")]
ShowNumbers = Annotated[Flag, Parameter(help="Show phone numbers in full.")]
Since = Annotated[
    datetime | None, Parameter(help="Only from this time on. Without an offset, in the account's time zone.")
]
Until = Annotated[
    datetime | None, Parameter(help="Only before this time. Without an offset, in the account's time zone.")
]
Format = Annotated[ReportFormat, Parameter(help="Kind of file. html is a page to read.")]
OutputPath = Annotated[Path | None, Parameter(help="File or folder to write to. Default: the folder for reports.")]
NewOnly = Annotated[Flag, Parameter(help="Only messages that are in no earlier report to the same place.")]


def make_console() -> Console:
    """The console for a command's output, without Prefect's log lines."""
    from prefect_mymsp.terminal import hide_prefect_logs

    hide_prefect_logs()
    return Console(highlight=False)


def load_credentials(name: str) -> MyMSPCredentials:
    """Load a credentials block, and start Prefect's temporary server if none is configured."""
    from prefect_mymsp.flows.parameters import load_block
    from prefect_mymsp.terminal import start_server

    start_server()
    return load_block(MyMSPCredentials, name)


def load_journal(name: str | None) -> CampaignJournal | None:
    """Load a journal block; None for the journal from the settings."""
    from prefect_mymsp.flows.parameters import load_block

    return None if name is None else load_block(CampaignJournal, name)


def in_account_zone(time: datetime | None, account: MyMSPCredentials) -> datetime | None:
    """A time from the command line; without an offset, it is in the account's time zone."""
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=ZoneInfo(account.timezone))


def parse_send_window(hours: str | None) -> SendWindow | None:
    """Parse hours such as ``08:00-20:00``.

    Raises:
        InputError: It is not a range of hours.
    """
    from prefect_mymsp.flows import SendWindow

    if hours is None:
        return None
    opens, dash, closes = hours.partition("-")
    if not dash:
        raise InputError(f"send_window {hours!r} is not a range of hours. Write 08:00-20:00.")
    return SendWindow(opens=opens, closes=closes)


def check_files_and_options(recipients: str, message: str, options: dict[str, Any]) -> None:
    """Refuse a missing file or a wrong option before a server is started or a block is loaded."""
    from prefect_mymsp.flows.campaign_request import build_request
    from prefect_mymsp.recipients import open_source
    from prefect_mymsp.templates import Template

    send_at = options["send_at"]
    if send_at is not None and send_at.tzinfo is None:
        send_at = None  # its time zone is the account's; the flow checks it
    build_request(recipients, message, **{**options, "send_at": send_at})
    audience, suppression = options["audience"], options["suppression"]
    if _is_local_file(recipients):
        source = open_source(recipients, phone_column=audience.phone_column, country=audience.country)
        Template(message, transliterate=options["transliterate"]).check_columns(
            source.columns, source_label=source.label
        )
    if suppression.file is not None and _is_local_file(suppression.file):
        open_source(suppression.file, phone_column=suppression.column, country=audience.country)


def _is_local_file(name: str) -> bool:
    """Whether a name is neither a URL nor a pipe, which can be read only once."""
    path = Path(name)
    return "://" not in name and not (path.is_fifo() or path.is_char_device())


def campaign_counts(campaign: str, account: MyMSPCredentials, journal: CampaignJournal | None) -> Counts | None:
    """The counts of a campaign; None when the journal does not have it."""
    with open_existing_journal(journal) as opened:
        key = None if opened is None else opened.campaigns.get(account.account, campaign)
        return None if opened is None or key is None else opened.campaigns.counts(key)
