"""Send a campaign: check the source, record it, send it, follow it, report it. Orchestration only."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import WithJsonSchema

from prefect_mymsp.artifacts import CampaignArtifacts
from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, open_existing_journal, open_journal
from prefect_mymsp.errors import (
    CampaignStoppedError,
    ExportError,
    InputError,
    JournalError,
    LimitError,
    MyMSPError,
    NotApprovedError,
)
from prefect_mymsp.flows.approval import Proposal, ask
from prefect_mymsp.flows.concurrency import concurrency_gate, refuse_late
from prefect_mymsp.flows.emit_events import emit_if_completed
from prefect_mymsp.flows.follow_deliveries import follow_deliveries, progress_listener
from prefect_mymsp.flows.options import Guard, OnRejects, SendWindow, Suppression
from prefect_mymsp.flows.remembering import warn_if_lost_with_container
from prefect_mymsp.flows.task_support import run_interruptibly
from prefect_mymsp.flows.workers import require_shared_journal, send_with_workers
from prefect_mymsp.phone import check_group_name
from prefect_mymsp.settings import MyMSPSettings
from prefect_mymsp.times import ceil_minute, require_aware

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.campaign import (
        Cancelled,
        FollowOptions,
        Limits,
        Plan,
        ProgressListener,
        SendOptions,
        SuppressedNumbers,
    )
    from prefect_mymsp.journal import CampaignKey, Counts, Journal
    from prefect_mymsp.reports import CampaignReport
else:
    # Prefect evaluates a flow's annotations for its form; one that it cannot would cost all of them their types.
    CampaignReport = Any

# The journal decides what has been sent: no retry, no cache, and nothing about recipients in Prefect's results.
_STEP: dict[str, Any] = {"retries": 0, "cache_policy": NO_CACHE, "persist_result": False}

_frames: ContextVar[dict[str, pd.DataFrame] | None] = ContextVar("mymsp_frames", default=None)


@dataclass(frozen=True)
class _Job:
    """What one call of the flow was asked for, checked."""

    source: Any
    groups: tuple[str, ...]
    credentials: MyMSPCredentials
    message: str
    campaign: str
    sender: str | None
    send_at: datetime | None
    phone_column: str | None
    country: str
    transliterate: bool
    suppression: Suppression | None
    use_opt_outs: bool
    limits: Limits
    options: SendOptions
    concurrency_limit: str | None
    wait: bool
    follow: FollowOptions
    allow_changed: bool
    allow_repeat: bool
    all_or_nothing: bool
    max_late_s: float
    approval_timeout_s: float | None
    shares: int
    journal: CampaignJournal | None

    @property
    def account(self) -> str:
        from prefect_mymsp.account import account_fingerprint

        return account_fingerprint(self.credentials.base_url, self.credentials.user)


@dataclass(frozen=True)
class _Checked:
    """A source that was checked: what it holds, who was left out of it, and the campaign if it was recorded."""

    plan: Plan
    suppressed: SuppressedNumbers
    campaign: CampaignKey | None = None


class _Rehearsed(Exception):  # noqa: N818  never seen: it ends a recording without keeping it
    def __init__(self, plan: Plan) -> None:
        self.plan = plan


@task(name="check-recipients", **_STEP)
def check_recipients(
    job: _Job,
    journal: Journal | None,
    *,
    rehearse: bool = False,
    refuse: bool = True,
    approved: _Checked | None = None,
) -> _Checked:
    """Read and check the whole source; with a journal, record what is to be sent.

    Args:
        job: What is asked for.
        journal: Where to record it; None to look only.
        rehearse: Whether to check the source against what the journal has, and leave the journal as it is.
        refuse: Whether to refuse what needs a person's say-so; if not, the plan tells of it.
        approved: What a person approved. Nothing beyond that is recorded: another source is refused, and who was
            suppressed then still is.
    """
    from prefect_mymsp.campaign import plan_campaign
    from prefect_mymsp.recipients import open_source
    from prefect_mymsp.templates import Template

    source = None
    if job.source is not None:
        source = open_source(job.source, phone_column=job.phone_column, country=job.country)
    template = Template(job.message, transliterate=job.transliterate)
    suppressed = _suppressed(job, journal)
    if approved is not None:
        suppressed |= approved.suppressed
    how: dict[str, Any] = {"groups": job.groups, "suppressed": suppressed, "limits": job.limits}
    if journal is None:
        plan = plan_campaign(source, template, **how)
        _keep_to_limits(job, plan)
        return _Checked(plan, suppressed)
    midnight = datetime.now(ZoneInfo(job.credentials.timezone)).replace(hour=0, minute=0, second=0, microsecond=0)
    label = source.label if source is not None else "recipient groups"
    try:
        with journal.recording(
            job.account,
            job.campaign,
            source=label,
            sender=job.sender,
            send_at=job.send_at,
            batch_size=job.options.request_size,
        ) as recording:
            plan = plan_campaign(
                source,
                template,
                recording,
                allow_changed=job.allow_changed,
                repeats_since=None if job.allow_repeat else midnight,
                refuse=refuse,
                **how,
            )
            _keep_to_limits(job, plan)
            if approved is not None and approved.plan.digest != plan.digest:
                raise NotApprovedError(
                    f"{plan.source} has changed since campaign {job.campaign!r} was approved. Nothing was sent; start "
                    "it again to have it approved as it is now."
                )
            if rehearse:
                raise _Rehearsed(plan)  # noqa: TRY301  so that nothing of it is kept
            return _Checked(plan, suppressed, recording.campaign)
    except _Rehearsed as rehearsed:
        return _Checked(rehearsed.plan, suppressed)


def _suppressed(job: _Job, journal: Journal | None) -> SuppressedNumbers:
    """Who must get nothing, from the lists that were given and from the journal."""
    from prefect_mymsp.campaign import SuppressedNumbers
    from prefect_mymsp.campaign.suppression import (
        LISTED,
        OPT_OUT,
        number_array,
        read_suppression_file,
        read_suppression_table,
    )

    suppressed = SuppressedNumbers({})
    if job.use_opt_outs:
        with contextlib.nullcontext(journal) if journal is not None else open_existing_journal(job.journal) as opened:
            if opened is not None:
                suppressed |= SuppressedNumbers({OPT_OUT: number_array(opened.suppressions.msisdns(job.account))})
    given = job.suppression
    if given is None:
        return suppressed
    lists = []
    if given.file is not None:
        lists.append(read_suppression_file(given.file, column=given.column, country=job.country))
    if given.table is not None and given.database is not None:
        url = str(given.database.get())
        lists.append(read_suppression_table(url, given.table, column=given.column, country=job.country))
    for listed in lists:
        suppressed |= SuppressedNumbers({LISTED: listed.numbers})
        if listed.unreadable:
            get_run_logger().warning(
                "%d entries of the suppression list are no numbers that can receive SMS (rows %s%s): nobody is left "
                "out for them.",
                listed.unreadable,
                ", ".join(map(str, listed.first_unreadable)),
                ", …" if listed.unreadable > len(listed.first_unreadable) else "",
            )
    return suppressed


def _keep_to_limits(job: _Job, plan: Plan) -> None:
    """Refuse a plan beyond its limits; its rejects are left as a file, to be mended."""
    from prefect_mymsp.campaign import check_limits
    from prefect_mymsp.reports.exports import write_rejected_rows

    try:
        check_limits(job.limits, plan)
    except LimitError as error:
        path = write_rejected_rows(job.campaign, plan.rejected_rows, MyMSPSettings().reports_folder())
        raise LimitError(f"{error} What cannot be sent is listed in {path}." if path else str(error)) from None


@task(name="send-messages", **_STEP)
def send_messages(job: _Job, journal: Journal, campaign: CampaignKey) -> Counts:
    """Send everything the journal holds planned for the campaign."""
    with progress_listener(job.campaign, job.credentials) as listener:
        return run_interruptibly(send_planned_for(job, journal, campaign, listener))


async def send_planned_for(
    job: _Job, journal: Journal, campaign: CampaignKey, listener: ProgressListener | None
) -> Counts:
    """Send what a job has planned, from this process."""
    from prefect_mymsp.campaign import send_planned

    async with job.credentials.get_async_client(retry_for_s=MyMSPSettings().retry_for_s) as client:
        return await send_planned(journal, client, campaign, job.options, listener)


@task(name="cancel-scheduled-messages", **_STEP)
def cancel_scheduled_messages(credentials: MyMSPCredentials, journal: Journal, campaign: CampaignKey) -> Cancelled:
    """Cancel the campaign for good, and at the gateway what still waits there for its delivery time."""
    from prefect_mymsp.campaign import CampaignContext, cancel_at_gateway

    async def run() -> Cancelled:
        async with credentials.get_async_client() as client:
            with CampaignContext(journal, client, campaign.account) as context:
                return await cancel_at_gateway(context, campaign)

    journal.campaigns.cancel(campaign)
    return run_interruptibly(run())


def _run(job: _Job, *, dry_run: bool) -> CampaignReport:
    """The road of a campaign; every step is a task run of its own."""
    from prefect_mymsp.reports import CampaignReport, deliveries_frame

    logger, show = get_run_logger(), CampaignArtifacts(job.campaign, job.credentials)
    if dry_run:
        with open_existing_journal(job.journal) as there:
            checked = check_recipients(job, there, rehearse=True, refuse=False)
        report = CampaignReport.of(job.campaign, checked.plan, None, None)
        show.finished(report)
        logger.info("Dry run, nothing was sent. %s", _told(report))
        if report.conflict:
            logger.warning("A start would be refused: %s", report.conflict)
        return report
    with open_journal(job.journal) as journal:
        warn_if_lost_with_container(journal)
        require_shared_journal(job.shares, journal)
        if job.send_at is None:  # what has a time of its own is not late before that
            known = journal.campaigns.get(job.account, job.campaign)
            refuse_late(job.campaign, job.max_late_s, None if known is None else journal.claims.last_active(known))
        if job.concurrency_limit is not None:
            gate = concurrency_gate(job.concurrency_limit)
            job = dataclasses.replace(job, options=dataclasses.replace(job.options, gate=gate))
        approved = None if job.approval_timeout_s is None else _approved(job, journal, job.approval_timeout_s)
        checked = check_recipients(job, journal, approved=approved)
        plan, campaign = checked.plan, checked.campaign
        assert campaign is not None  # noqa: S101  recorded above
        logger.info(
            "Campaign %r: %d rows, %d of them cannot be sent, %d suppressed, %d duplicates; %d messages are new, %d "
            "were known.",
            job.campaign,
            plan.rows,
            plan.rejected_rows.num_rows,
            plan.suppressed.num_rows,
            plan.duplicates.num_rows,
            plan.new,
            plan.known,
        )
        show.started(plan)
        stopped: BaseException | None = None
        try:
            show.sent(_send(job, journal, campaign))
            _tell_what_waits(journal, campaign)
            if job.wait:
                follow_deliveries(job.credentials, journal, campaign, job.follow)
            emit_if_completed(journal, campaign)
        except BaseException as error:
            stopped = error
            raise
        finally:
            # Also when it stopped: who was reached is what everybody asks then.
            try:
                report = CampaignReport.of(
                    job.campaign, plan, journal.campaigns.counts(campaign), deliveries_frame(journal, campaign)
                )
            except JournalError:
                if stopped is None:
                    raise
                raise stopped from stopped.__cause__  # it says what is to be done
            unwritten = _write(job, report)
            if stopped is None:
                show.finished(report)
            else:
                show.stopped(stopped, report)
            logger.info("%s", _told(report))
            if stopped is None and not report.messages - report.refused - report.cancelled:
                logger.warning("Nobody gets anything of campaign %r: see what was refused or left out.", job.campaign)
            if report.in_doubt:
                logger.warning(
                    "%d messages may or may not have been sent. They are not sent again; the report names them.",
                    report.in_doubt,
                )
            if unwritten is not None and stopped is None:
                raise ExportError(
                    f"{unwritten} The campaign itself was sent, and only its report is missing. {_told(report)}."
                ) from unwritten
            if unwritten is not None:
                logger.error("%s", unwritten)
        return report


def _approved(job: _Job, journal: Journal, timeout_s: float) -> _Checked:
    """What a person approves of; the journal holds nothing of it before."""
    proposed = check_recipients(job, journal, rehearse=True)
    if not proposed.plan.due:
        return proposed
    get_run_logger().info("Campaign %r waits for approval: %d messages.", job.campaign, proposed.plan.due)
    proposal = Proposal(
        campaign=job.campaign,
        message=job.message,
        sender=job.sender,
        send_at=job.send_at,
        window=job.options.send_window,
        groups=job.groups,
        plan=proposed.plan,
    )
    ask(proposal, timeout_s)
    if job.send_at is not None and job.send_at <= datetime.now(UTC):
        raise InputError("send_at has passed while the campaign waited for approval. Nothing was sent.")
    return proposed


def _tell_what_waits(journal: Journal, campaign: CampaignKey) -> None:
    waiting = journal.schedule.batches(campaign, datetime.now(UTC)).values()
    if waiting:
        times = sorted(batch.send_at for batch in waiting)
        get_run_logger().info(
            "%d requests wait at the gateway for their delivery time, from %s to %s UTC.",
            len(times),
            f"{times[0]:%Y-%m-%d %H:%M}",
            f"{times[-1]:%Y-%m-%d %H:%M}",
        )


def _send_planned(job: _Job, journal: Journal, campaign: CampaignKey) -> Counts:
    if job.shares == 1:
        return send_messages(job, journal, campaign)
    with progress_listener(job.campaign, job.credentials) as listener:
        return send_with_workers(job, journal, campaign, listener)


def _send(job: _Job, journal: Journal, campaign: CampaignKey) -> Counts:
    """Send; where half a campaign is worse than none, take it back unless all of it was accepted."""
    if not job.all_or_nothing:
        return _send_planned(job, journal, campaign)
    try:
        return _all_accepted(job, _send_planned(job, journal, campaign))
    except MyMSPError as error:
        told = cancel_scheduled_messages(job.credentials, journal, campaign)
        raise CampaignStoppedError(
            f"{error} All or nothing was asked for: {told.cancelled} requests were cancelled at the gateway, "
            f"{told.sent} had been sent, {told.unknown} could not be cancelled. The campaign is closed; start again "
            "under another name.",
            counts=dataclasses.asdict(journal.campaigns.counts(campaign)),
        ) from error
    except BaseException:  # somebody ends the run, within seconds: too few to take thousands of messages back
        with contextlib.suppress(MyMSPError):  # that it is ended goes on, whatever the journal says
            if waiting := len(journal.schedule.batches(campaign, datetime.now(UTC))):
                get_run_logger().warning(
                    "All or nothing was asked for, and the run ends with %d requests waiting at the gateway. They go "
                    "out when it is time: start the same campaign again to send the rest, or cancel it to take them "
                    "back.",
                    waiting,
                )
        raise


def _all_accepted(job: _Job, counts: Counts) -> Counts:
    if counts.accepted < counts.messages:
        raise CampaignStoppedError(
            f"Only {counts.accepted} of {counts.messages} messages of campaign {job.campaign!r} were accepted.",
            counts=dataclasses.asdict(counts),
        )
    return counts


def _write(job: _Job, report: CampaignReport) -> ExportError | None:
    """Write a campaign's files; returns why that could not be done."""
    from prefect_mymsp.reports.exports import write_campaign_report

    try:
        write_campaign_report(report, MyMSPSettings().reports_folder())
    except ExportError as error:
        return error
    return None


def _told(report: CampaignReport) -> str:
    return "; ".join(f"{label}: {value}" for label, value in report.lines())


def _campaign_name(label: str, timezone: str) -> str:
    """A name for who gives none: the source and the day it was meant for, so that a retry finds its campaign."""
    when = datetime.fromtimestamp(runtime.flow_run.get_scheduled_start_time().timestamp(), ZoneInfo(timezone))
    return f"{label} {when:%Y-%m-%d}"


def _fingerprint(frame: pd.DataFrame) -> str:
    """Eight characters that tell frames apart: two of one day must not be taken for one campaign that has changed."""
    from prefect_mymsp.journal import text_digest

    return text_digest(frame.to_csv(index=False)).hex()[:8]


def _frame_of(source: str | Path | None) -> Any:
    """The DataFrame that a label stands for; any other source as it is.

    Not in the flow itself: a flow goes to other machines with what it names, and a ContextVar cannot.
    """
    return (_frames.get() or {}).get(str(source), source)


def _source_label(source: str) -> str:
    path = urlsplit(source).path if "://" in source else source.replace("\\", "/")
    return PurePosixPath(path).stem or "campaign"


def _checked_time(send_at: datetime | None, window: SendWindow | None) -> datetime | None:
    """A delivery time as the gateway will have it, a whole minute, rounded up."""
    if send_at is None:
        return None
    if require_aware(send_at, "send_at") <= datetime.now(UTC):
        raise InputError("send_at is not in the future; leave it out to send at once.")
    try:
        minute = ceil_minute(send_at)
    except OverflowError:
        raise InputError("send_at is out of range.") from None
    if window is not None and not (hours := window.window()).contains(minute):
        opening = hours.next_opening(minute).astimezone(hours.zone)
        raise InputError(
            f"send_at lies outside the send window ({hours}), which opens next at {opening:%Y-%m-%d %H:%M}. "
            "Choose a time within it, or leave send_at out to have messages wait for its opening."
        )
    return minute


def _checked_suppression(suppression: Suppression | None) -> Suppression | None:
    if suppression is None:
        return None
    if suppression.file is None and suppression.table is None:
        raise InputError("The suppression list names neither a file nor a table.")
    if (suppression.table is None) != (suppression.database is None):
        raise InputError("A suppression table and its database belong together: give both, or a file.")
    return suppression


# A path is a string to a form.
Source = Annotated[str | Path | None, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})]


@flow(name="send-campaign", retries=0, persist_result=False)
def send_campaign(
    source: Source,
    credentials: MyMSPCredentials,
    message: str,
    campaign: str | None = None,
    sender: str | None = None,
    send_at: datetime | None = None,
    wait: bool = True,
    deadline_s: float = 3600.0,
    dry_run: bool = False,
    phone_column: str | None = None,
    country: str = "SE",
    transliterate: bool = False,
    batch_size: int = 500,
    flash: bool = False,
    destination_port: int | None = None,
    quiet_s: float = 900.0,
    guard: Guard = Guard.NONE,
    lead_s: float = 300.0,
    allow_changed: bool = False,
    allow_repeat: bool = False,
    all_or_nothing: bool = False,
    use_updates: bool = False,
    shares: int = 1,
    journal: CampaignJournal | None = None,
    groups: list[str] = [],  # noqa: B006  never changed
    suppression: Suppression | None = None,
    use_opt_outs: bool = True,
    window: SendWindow | None = None,
    max_late_s: float = 7200.0,
    messages_per_minute: float | None = None,
    concurrency_limit: str | None = None,
    max_segments: int | None = None,
    max_recipients: int | None = None,
    on_rejects: OnRejects = OnRejects.SKIP,
    max_rejected: float | None = None,
    approval: bool = False,
    approval_timeout_s: float = 86_400.0,
) -> CampaignReport:
    """Send a text to everybody in a CSV file, once, and follow the deliveries.

    The whole file is checked before the first SMS leaves. Rows that cannot be sent are left out and reported with
    line, value and reason. The same campaign name never sends a row twice: started again, after a crash or on
    purpose, it sends what is missing.

    Args:
        source: Path or URL of the CSV file with the recipients; none to send to groups alone.
        credentials: The gateway account that sends.
        message: The text; {column} is replaced by the row's value in that column; a brace is written twice.
        campaign: The campaign's name; the default is the file's name and the day the run was scheduled for.
        sender: A registered sender; the default is the account's own.
        send_at: When the gateway shall send, with a time zone; the default is at once.
        wait: Whether to follow the deliveries.
        deadline_s: Seconds to follow them at most.
        dry_run: Show what would be sent, and send nothing.
        phone_column: The column with the phone numbers; the default is to find it by its name.
        country: Country of numbers without a country code (ISO 3166).
        transliterate: Replace typographic quotes, dashes and the like, which would force UCS-2.
        batch_size: Recipients of one text in one request, at most.
        flash: Show the SMS at once instead of storing it.
        destination_port: Port on the phone; the default is an ordinary SMS.
        quiet_s: Seconds without any change after which no more deliveries are expected.
        guard: With "schedule" messages are sent lead_s seconds later, and each exactly once, for while they wait at
            the gateway, what became of a lost answer can be looked up; with "none" they are sent at once, at most once.
        lead_s: Seconds ahead when guard is "schedule".
        allow_changed: Send people who got a text of this campaign its changed text as well.
        allow_repeat: Send texts that the same people were sent today under another campaign name.
        all_or_nothing: Take a scheduled campaign back at the gateway unless all of it was accepted.
        use_updates: Read the account's uncollected updates for hints; other systems will not see those then.
        shares: Tasks that send the campaign side by side, with a task runner that has several machines; 1 sends from
            this process. Above 1 the journal must be in PostgreSQL.
        journal: Where to remember what was sent; the default is the journal that the settings name.
        groups: Recipient groups of the gateway that get the message too, one request each; the message must be
            without placeholders then.
        suppression: Numbers that must get nothing, besides those who opted out.
        use_opt_outs: Leave out who has opted out, as the journal knows.
        window: The hours in which people may get messages; outside it they are scheduled to its opening.
        max_late_s: Seconds after its scheduled time that a run may begin; a later one refuses to send.
        messages_per_minute: Messages a minute, at most; the default is as fast as the gateway takes them.
        concurrency_limit: A global concurrency limit of Prefect with slot decay; each request takes one slot.
        max_segments: SMS that one message may take; if one takes more, nothing is sent.
        max_recipients: People who may get messages; if there are more, nothing is sent.
        on_rejects: With "skip" rows that cannot be sent are left out, with "fail" nothing is sent if there are any.
        max_rejected: Share of the rows that may be left out, 0.05 is one in twenty; if more must be, nothing is
            sent.
        approval: Pause before the first message until a person approves what is to be sent.
        approval_timeout_s: Seconds to wait for that approval.

    Returns:
        Counts, and ``.deliveries``, ``.rejected_rows`` and ``.suppressed_rows`` as DataFrames; the deliveries are left
        as CSV at ``report_path``.

    Raises:
        InputError: Something given cannot be sent; nothing was.
        LimitError: The campaign exceeds one of its limits, or begins too late; nothing was sent.
        NotApprovedError: A person refused, or nobody approved in time; nothing was sent.
        CampaignStoppedError: The gateway refuses or cannot be reached; continue by starting the campaign again.
        CampaignCancelledError: A person cancelled the campaign.
        JournalError: The journal failed; nothing was sent that it does not know of.
    """
    from prefect_mymsp.campaign import FollowOptions, Limits, SendOptions

    if all_or_nothing and send_at is None and guard is not Guard.SCHEDULE:
        raise InputError("all_or_nothing needs scheduled messages: give send_at, or guard='schedule'.")
    names = tuple(dict.fromkeys(map(check_group_name, groups)))
    if source is None and not names:
        raise InputError("There is nobody to send to: give a source, or recipient groups.")
    if names and max_recipients is not None:
        raise InputError(
            "max_recipients cannot be kept with recipient groups: only the gateway knows how many people they hold. "
            "Leave one of the two out."
        )
    if not max_late_s >= 0 or not approval_timeout_s > 0:
        raise InputError("max_late_s must not be below zero, and approval_timeout_s must be above it.")

    given = _frame_of(source)
    if given is None:
        label = " ".join(names)[:100]
    else:
        label = _source_label(str(source)) if given is source else f"dataframe {_fingerprint(given)}"
    job = _Job(
        source=given,
        groups=names,
        credentials=credentials,
        message=message,
        campaign=(campaign or "").strip() or _campaign_name(label, credentials.timezone),
        sender=sender,
        send_at=_checked_time(send_at, window),
        phone_column=phone_column,
        country=country,
        transliterate=transliterate,
        suppression=_checked_suppression(suppression),
        use_opt_outs=use_opt_outs,
        limits=Limits(
            max_segments=max_segments,
            max_recipients=max_recipients,
            max_rejected=0.0 if on_rejects is OnRejects.FAIL else max_rejected,
        ),
        options=SendOptions(
            batch_size=batch_size,
            flash=flash,
            destination_port=destination_port,
            schedule_ahead_s=lead_s if guard is Guard.SCHEDULE else None,
            send_window=None if window is None else window.window(),
            messages_per_minute=messages_per_minute,
            workers=shares,
        ),
        concurrency_limit=concurrency_limit,
        wait=wait,
        follow=FollowOptions(
            deadline_s=deadline_s,
            quiet_s=quiet_s,
            use_updates=use_updates,
            tracking_days=MyMSPSettings().tracking_days,
        ),
        allow_changed=allow_changed,
        allow_repeat=allow_repeat,
        all_or_nothing=all_or_nothing,
        max_late_s=max_late_s,
        approval_timeout_s=approval_timeout_s if approval else None,
        shares=shares,
        journal=journal,
    )
    return _run(job, dry_run=dry_run)


def send_dataframe(
    df: pd.DataFrame, credentials: MyMSPCredentials, message: str, campaign: str | None = None, **options: Any
) -> CampaignReport:
    """Send a text to everybody in a DataFrame, once, and follow the deliveries: :func:`send_campaign` for frames.

    Call it in a flow or outside of one; it runs ``send-campaign`` as a flow run of its own. The rows stay in this
    process and in the journal: Prefect's API sees how many there are, not who.

    Args:
        df: The recipients; ``row`` in reports is the position, from 1.
        credentials: The gateway account.
        message: The text, with ``{column}`` placeholders.
        campaign: The campaign's name; the default is made of the frame's contents and the day.
        **options: The other parameters of :func:`send_campaign`.

    Returns:
        As :func:`send_campaign`.

    Raises:
        InputError: Something given cannot be sent; nothing was.
        CampaignStoppedError: The gateway refuses or cannot be reached; continue by starting the campaign again.
        JournalError: The journal failed; nothing was sent that it does not know of.
    """
    label = f"DataFrame of {len(df)} rows, {uuid.uuid4().hex[:8]}"
    token = _frames.set({**(_frames.get() or {}), label: df})
    try:
        report: CampaignReport = send_campaign(label, credentials, message, campaign, **options)
        return report
    finally:
        _frames.reset(token)
