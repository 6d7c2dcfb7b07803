"""A campaign request: the parameters of one call of ``send_campaign``, checked before anything is opened."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from prefect_mymsp.errors import InputError
from prefect_mymsp.flows.options import Advanced, Audience, Safeguards, SendWindow, Speed, Suppression
from prefect_mymsp.phone import check_group_name
from prefect_mymsp.times import DEFAULT_TRACKING_DAYS, ceil_minute, require_aware

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.campaign import FollowOptions, Limits, SendOptions

    Recipients = str | Path | pd.DataFrame | None


@dataclass(frozen=True, kw_only=True)
class CampaignRequest:
    """A campaign that is to be sent, checked and without contradictions. It has read no recipients yet.

    Attributes:
        recipients: Path or URL of a CSV file, or a DataFrame; None to send to groups alone.
        message: The text, with placeholders.
        campaign: The campaign's name; empty until :meth:`named`.
        sender: A registered sender; None for the account's own.
        send_at: When the gateway sends, a whole minute in UTC; None for at once.
        transliterate: Whether to replace typographic characters.
        audience: Phone column, country, and recipient groups, each once.
        suppression: Numbers to suppress.
        safeguards: Conditions under which nothing is sent.
        limits: The limits of :class:`Safeguards` as the engine checks them.
        send_options: Rate, batch size, workers, and other options of the sender.
        follow_options: How deliveries are tracked; None to end when everything is sent.
        concurrency_limit: Name of a Prefect global concurrency limit.
        approval_timeout_s: Seconds to wait for an approval; None when none is needed.
    """

    recipients: Recipients
    message: str
    campaign: str
    sender: str | None
    send_at: datetime | None
    transliterate: bool
    audience: Audience
    suppression: Suppression
    safeguards: Safeguards
    limits: Limits
    send_options: SendOptions
    follow_options: FollowOptions | None
    concurrency_limit: str | None
    approval_timeout_s: float | None

    @property
    def workers(self) -> int:
        """Number of tasks that send side by side."""
        return self.send_options.workers

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the recipient groups."""
        return tuple(self.audience.groups)

    def named(self, timezone: str, scheduled_at: datetime) -> CampaignRequest:
        """The same request with a campaign name; the default is made of the recipients and the scheduled day.

        A run that is retried after midnight keeps its scheduled time, so it finds its campaign again.

        Args:
            timezone: IANA time zone of the account.
            scheduled_at: When the run was scheduled to start, aware.
        """
        if self.campaign:
            return self
        day = datetime.fromtimestamp(scheduled_at.timestamp(), ZoneInfo(timezone))
        return dataclasses.replace(self, campaign=f"{self._recipients_label()} {day:%Y-%m-%d}")

    def _recipients_label(self) -> str:
        if self.recipients is None:
            return " ".join(self.groups)[:100]
        if not isinstance(self.recipients, str | Path):
            return f"dataframe {_fingerprint(self.recipients)}"
        name = str(self.recipients)
        path = urlsplit(name).path if "://" in name else name.replace("\\", "/")
        return PurePosixPath(path).stem or "campaign"


def build_request(
    recipients: Recipients,
    message: str,
    *,
    campaign: str | None = None,
    sender: str | None = None,
    send_at: datetime | None = None,
    send_window: SendWindow | None = None,
    exactly_once: bool = False,
    transliterate: bool = False,
    approval: bool = False,
    wait_minutes: float = 60.0,
    audience: Audience | None = None,
    suppression: Suppression | None = None,
    safeguards: Safeguards | None = None,
    speed: Speed | None = None,
    advanced: Advanced | None = None,
    tracking_days: float = DEFAULT_TRACKING_DAYS,
    now: datetime | None = None,
) -> CampaignRequest:
    """Check the parameters of a campaign, and that its files are there.

    It needs neither Prefect's API nor the journal, so a mistake is found before a server is started, a block is loaded
    or the journal is opened.

    Args:
        recipients: As in ``send_campaign``, or a DataFrame.
        message: As in ``send_campaign``, and likewise all parameters down to ``advanced``.
        campaign: The campaign's name.
        sender: The sender.
        send_at: When the gateway sends.
        send_window: Hours in which recipients may get messages.
        exactly_once: Whether messages wait at the gateway for a few minutes.
        transliterate: Whether to replace typographic characters.
        approval: Whether a person must approve.
        wait_minutes: How long to track deliveries.
        audience: Recipients besides the file.
        suppression: Numbers to suppress.
        safeguards: Conditions under which nothing is sent.
        speed: How fast messages leave.
        advanced: Details.
        tracking_days: Days after which a message is no longer tracked.
        now: The present; tests hand in their own.

    Raises:
        InputError: A parameter is wrong, or two contradict each other; the message names them.
        SourceError: A file does not exist or cannot be opened.
        TemplateError: The message is not valid.
    """
    from prefect_mymsp.campaign import FollowOptions, Limits, ReconcileOptions, SendOptions
    from prefect_mymsp.recipients.files import check_path
    from prefect_mymsp.templates import Template

    audience, suppression = audience or Audience(), suppression or Suppression()
    safeguards, speed, advanced = safeguards or Safeguards(), speed or Speed(), advanced or Advanced()
    groups = list(dict.fromkeys(map(check_group_name, audience.groups)))
    _check_numbers(wait_minutes, safeguards, advanced)
    if safeguards.all_or_nothing and send_at is None and not exactly_once:
        raise InputError("all_or_nothing needs scheduled messages. Set send_at or exactly_once.")
    if recipients is None and not groups:
        raise InputError("No recipients. Set recipients or groups.")
    if groups and safeguards.max_recipients is not None:
        raise InputError(
            "max_recipients cannot be combined with groups: the size of a group is stored at the gateway only. "
            "Remove one of the two."
        )
    _check_suppression(suppression)
    margin_s = ReconcileOptions().lookup_margin_s
    if exactly_once and not advanced.lead_minutes * 60 >= margin_s:
        raise InputError(
            f"lead_minutes must be at least {margin_s / 60:g}, so that a request in doubt can be looked up before "
            "its messages are sent."
        )
    Template(message, transliterate=transliterate)
    for path in (recipients, suppression.file):
        if isinstance(path, str | Path):
            check_path(str(path))
    return CampaignRequest(
        recipients=recipients,
        message=message,
        campaign=(campaign or "").strip(),
        sender=sender,
        send_at=_whole_minute(send_at, send_window, now or datetime.now(UTC)),
        transliterate=transliterate,
        audience=audience.model_copy(update={"groups": groups}),
        suppression=suppression,
        safeguards=safeguards,
        limits=Limits(
            max_segments=safeguards.max_segments,
            max_recipients=safeguards.max_recipients,
            max_rejected=safeguards.max_rejected,
        ),
        send_options=SendOptions(
            batch_size=speed.batch_size,
            flash=advanced.flash,
            destination_port=advanced.destination_port,
            schedule_ahead_s=advanced.lead_minutes * 60 if exactly_once else None,
            send_window=None if send_window is None else send_window.time_window(),
            messages_per_minute=speed.messages_per_minute,
            workers=speed.workers,
        ),
        follow_options=None
        if not wait_minutes
        else FollowOptions(
            deadline_s=wait_minutes * 60,
            quiet_s=advanced.quiet_minutes * 60,
            use_updates=advanced.use_updates,
            tracking_days=tracking_days,
        ),
        concurrency_limit=speed.concurrency_limit,
        approval_timeout_s=advanced.approval_hours * 3600 if approval else None,
    )


def _check_numbers(wait_minutes: float, safeguards: Safeguards, advanced: Advanced) -> None:
    for name, value in (
        ("wait_minutes", wait_minutes),
        ("max_late_minutes", safeguards.max_late_minutes),
        ("quiet_minutes", advanced.quiet_minutes),
    ):
        if not value >= 0:  # also for NaN
            raise InputError(f"{name} must not be below zero.")
    if not advanced.approval_hours > 0:
        raise InputError("approval_hours must be above zero.")


def _check_suppression(suppression: Suppression) -> None:
    if (suppression.table is None) != (suppression.database is None):
        raise InputError("suppression: table and database belong together. Set both, or neither.")
    if suppression.column is not None and suppression.file is None and suppression.table is None:
        raise InputError("suppression: column needs a file or a table.")


def _whole_minute(send_at: datetime | None, send_window: SendWindow | None, now: datetime) -> datetime | None:
    """A delivery time as the gateway takes it: a whole minute, rounded up."""
    if send_at is None:
        return None
    if require_aware(send_at, "send_at") <= now:
        raise InputError("send_at is not in the future. Leave it out to send at once.")
    try:
        minute = ceil_minute(send_at)
    except OverflowError:
        raise InputError("send_at is out of range.") from None
    if send_window is not None and not (hours := send_window.time_window()).contains(minute):
        opening = hours.next_opening(minute).astimezone(hours.zone)
        raise InputError(
            f"send_at lies outside the send window ({hours}), which opens next at {opening:%Y-%m-%d %H:%M}. "
            "Choose a time within it, or leave send_at out to have messages wait for the next opening."
        )
    return minute


def _fingerprint(frame: pd.DataFrame) -> str:
    """Eight hexadecimal digits of a DataFrame's contents: two different frames of one day are two campaigns."""
    from prefect_mymsp.journal import text_digest

    return text_digest(frame.to_csv(index=False)).hex()[:8]
