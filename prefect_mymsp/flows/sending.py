"""Send a campaign: check the source, record it, send it, follow it, report it. Orchestration only."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import uuid
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import Field

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, open_journal
from prefect_mymsp.errors import CampaignStoppedError, InputError, MyMSPError
from prefect_mymsp.settings import MyMSPSettings

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.campaign import Cancelled, FollowOptions, Listener, Plan, SendOptions
    from prefect_mymsp.journal import CampaignKey, Counts, Journal
    from prefect_mymsp.reports import CampaignReport

T = TypeVar("T")

# The journal decides what has been sent: no retry, no cache, and nothing about recipients in Prefect's results.
_STEP: dict[str, Any] = {"retries": 0, "cache_policy": NO_CACHE, "persist_result": False}

_listener: ContextVar[Listener | None] = ContextVar("mymsp_listener", default=None)
_frames: ContextVar[dict[str, pd.DataFrame] | None] = ContextVar("mymsp_frames", default=None)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have ``listener`` called with the progress of campaigns that are sent in this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@dataclass(frozen=True)
class _Job:
    """What one call of the flow was asked for, checked."""

    source: Any
    credentials: MyMSPCredentials
    message: str
    campaign: str
    originator: str | None
    deliver_at: datetime | None
    phone_column: str | None
    region: str
    transliterate: bool
    options: SendOptions
    wait: bool
    follow: FollowOptions
    allow_changed: bool
    allow_repeat: bool
    all_or_nothing: bool
    journal: CampaignJournal | None

    @property
    def account(self) -> str:
        from prefect_mymsp.journal.store import account_fingerprint

        return account_fingerprint(self.credentials.base_url, self.credentials.user)


@task(name="check-recipients", **_STEP)
def check_recipients(job: _Job, journal: Journal | None) -> tuple[Plan, CampaignKey | None]:
    """Read and check the whole source; with a journal, record what is to be sent."""
    from prefect_mymsp.campaign import plan_source
    from prefect_mymsp.recipients import open_source
    from prefect_mymsp.texts import Template

    source = open_source(job.source, phone_column=job.phone_column, region=job.region)
    template = Template(job.message, transliterate=job.transliterate)
    if journal is None:
        return plan_source(source, template), None
    midnight = datetime.now(ZoneInfo(job.credentials.timezone)).replace(hour=0, minute=0, second=0, microsecond=0)
    with journal.recording(
        job.account,
        job.campaign,
        source=source.label,
        originator=job.originator,
        deliver_at=job.deliver_at,
        batch_size=job.options.batch_size,
    ) as recording:
        plan = plan_source(
            source,
            template,
            recording,
            allow_changed=job.allow_changed,
            repeats_since=None if job.allow_repeat else midnight,
        )
        return plan, recording.campaign


@task(name="send-messages", **_STEP)
def send_messages(job: _Job, journal: Journal, campaign: CampaignKey) -> Counts:
    """Send everything the journal holds planned for the campaign."""
    from prefect_mymsp.campaign import send_planned

    listener, patience_s = _listener.get(), MyMSPSettings().patience_s

    async def send() -> Counts:
        async with job.credentials.get_async_client(patience_s=patience_s) as client:
            return await send_planned(journal, client, campaign, job.options, listener)

    return finish(send())


@task(name="follow-deliveries", **_STEP)
def follow_deliveries(job: _Job, journal: Journal, campaign: CampaignKey) -> Counts:
    """Ask the gateway until every delivery is settled, nothing moves any more, or time is up."""
    from prefect_mymsp.campaign import follow

    listener = _listener.get()

    async def run() -> Counts:
        async with job.credentials.get_async_client() as client:
            return await follow(journal, client, campaign, job.follow, listener)

    return finish(run())


@task(name="take-back-messages", **_STEP)
def take_back_messages(credentials: MyMSPCredentials, journal: Journal, campaign: CampaignKey) -> Cancelled:
    """Cancel the campaign for good, and at the gateway what still waits there for its delivery time."""
    from prefect_mymsp.campaign import JournalThread, cancel_scheduled

    async def run() -> Cancelled:
        thread = JournalThread()
        try:
            async with credentials.get_async_client() as client:
                return await cancel_scheduled(journal, thread, client, campaign)
        finally:
            thread.close()

    journal.cancel(campaign)
    return finish(run())


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where an event loop is running already (a notebook, an async flow)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, thread_name_prefix="mymsp-campaign") as pool:
        return pool.submit(context.run, asyncio.run, work).result()


def _run(job: _Job, *, dry_run: bool) -> CampaignReport:
    """The road of a campaign; every step is a task run of its own."""
    from prefect_mymsp.reports import CampaignReport

    logger = get_run_logger()
    if dry_run:
        plan, _ = check_recipients(job, None)
        report = CampaignReport.of(job.campaign, plan, None, None)
        logger.info("Dry run, nothing was sent. %s", _told(report))
        return report
    with open_journal(job.journal) as journal:
        plan, campaign = check_recipients(job, journal)
        assert campaign is not None  # noqa: S101  recorded above
        logger.info(
            "Campaign %r: %d rows, %d of them cannot be sent, %d duplicates; %d messages are new, %d were known.",
            job.campaign,
            plan.rows,
            plan.rejects.num_rows,
            plan.duplicates.num_rows,
            plan.new,
            plan.known,
        )
        try:
            _send(job, journal, campaign)
            if job.wait:
                follow_deliveries(job, journal, campaign)
        finally:
            # Also when it stopped: who was reached is what everybody asks then.
            report = _report(job, journal, campaign, plan)
            logger.info("%s", _told(report))
            if report.in_doubt:
                logger.warning(
                    "%d messages may or may not have been sent. They are not sent again; the report names them.",
                    report.in_doubt,
                )
        return report


def _send(job: _Job, journal: Journal, campaign: CampaignKey) -> None:
    """Send; where half a campaign is worse than none, take it back unless all of it was accepted."""
    if not job.all_or_nothing:
        send_messages(job, journal, campaign)
        return
    try:
        counts = send_messages(job, journal, campaign)
        if counts.accepted < counts.messages:
            raise CampaignStoppedError(
                f"Only {counts.accepted} of {counts.messages} messages of campaign {job.campaign!r} were accepted.",
                counts=dataclasses.asdict(counts),
            )
    except MyMSPError as error:
        told = take_back_messages(job.credentials, journal, campaign)
        raise CampaignStoppedError(
            f"{error} All or nothing was asked for: {told.cancelled} requests were cancelled at the gateway, "
            f"{told.sent} had been sent, {told.unknown} could not be cancelled. The campaign is closed; start again "
            "under another name.",
            counts=dataclasses.asdict(journal.counts(campaign)),
        ) from error


def _report(job: _Job, journal: Journal, campaign: CampaignKey, plan: Plan) -> CampaignReport:
    from prefect_mymsp.reports import CampaignReport, deliveries_frame, write_csv
    from prefect_mymsp.reports.campaign import file_name

    report = CampaignReport.of(job.campaign, plan, journal.counts(campaign), deliveries_frame(journal, campaign))
    folder, name = MyMSPSettings().reports_folder(), file_name(job.campaign)
    report.report_path = write_csv(report.deliveries, folder / f"{name}.csv")
    if report.invalid:
        report.rejects_path = write_csv(report.rejects, folder / f"{name}-rejects.csv")
    return report


def _told(report: CampaignReport) -> str:
    return "; ".join(f"{label}: {value}" for label, value in report.lines())


def _campaign_name(label: str, timezone: str) -> str:
    """A name for who gives none: the source and the day it was meant for, so that a retry finds its campaign."""
    when = datetime.fromtimestamp(runtime.flow_run.get_scheduled_start_time().timestamp(), ZoneInfo(timezone))
    return f"{label} {when:%Y-%m-%d}"


def _fingerprint(frame: pd.DataFrame) -> str:
    """Eight characters that tell frames apart: two of one day must not be taken for one campaign that has changed."""
    from prefect_mymsp.journal.store import text_digest

    return text_digest(frame.to_csv(index=False)).hex()[:8]


def _source_label(source: str) -> str:
    path = urlsplit(source).path if "://" in source else source.replace("\\", "/")
    return PurePosixPath(path).stem or "campaign"


def _checked(deliver_at: datetime | None) -> datetime | None:
    if deliver_at is None:
        return None
    if deliver_at.utcoffset() is None:
        raise InputError("deliver_at has no time zone; give an aware time, for instance 2030-01-31T09:00+01:00.")
    if deliver_at <= datetime.now(UTC):
        raise InputError("deliver_at is not in the future; leave it out to send at once.")
    # As the gateway will have it: whole minutes, rounded up.
    return (deliver_at.astimezone(UTC) + timedelta(seconds=59, microseconds=999_999)).replace(second=0, microsecond=0)


class Guard(StrEnum):
    """How a campaign without a delivery time is sent."""

    #: At once: a request whose answer is lost stays in doubt.
    NONE = "none"
    #: Scheduled a few minutes ahead: a request whose answer is lost can be looked up, and every message is sent once.
    SCHEDULE = "schedule"


Source = Annotated[str | Path, Field(description="Path or URL of the CSV file with the recipients.")]
Message = Annotated[str, Field(description="The text; {column} is replaced by the row's value in that column.")]
Credentials = Annotated[MyMSPCredentials, Field(description="The gateway account that sends.")]


@flow(name="send-campaign", retries=0, persist_result=False)
def send_campaign(
    source: Source,
    credentials: Credentials,
    message: Message,
    campaign: str | None = None,
    originator: str | None = None,
    deliver_at: datetime | None = None,
    wait: bool = True,
    deadline_s: float = 3600.0,
    dry_run: bool = False,
    phone_column: str | None = None,
    region: str = "SE",
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
    journal: CampaignJournal | None = None,
) -> CampaignReport:
    """Send a text to everybody in a CSV file, once, and follow the deliveries.

    The whole file is checked before the first SMS leaves. Rows that cannot be sent are left out and reported with
    line, value and reason. The same campaign name never sends a row twice: started again, after a crash or on
    purpose, it sends what is missing.

    Args:
        source: Path or URL of the CSV file.
        credentials: The gateway account.
        message: The text, with ``{column}`` placeholders; ``{{`` and ``}}`` are braces.
        campaign: The campaign's name; the default is the file's name and the day the run was scheduled for.
        originator: A registered originator; the default is the account's own.
        deliver_at: When the gateway shall send, with a time zone; the default is at once.
        wait: Whether to follow the deliveries.
        deadline_s: Seconds to follow them at most.
        dry_run: Show what would be sent, and send nothing.
        phone_column: The column with the phone numbers; the default is to find it by its name.
        region: Country of numbers without a country code (ISO 3166).
        transliterate: Replace typographic quotes, dashes and the like, which would force UCS-2.
        batch_size: Recipients of one text in one request, at most.
        flash: Show the SMS at once instead of storing it.
        destination_port: Port on the phone; the default is an ordinary SMS.
        quiet_s: Seconds without any change after which no more deliveries are expected.
        guard: ``schedule`` has the messages sent ``lead_s`` seconds later, and each exactly once: while they wait at
            the gateway, what became of a lost answer can be looked up. ``none`` sends at once, at most once.
        lead_s: Seconds ahead for ``guard="schedule"``.
        allow_changed: Send people who got a text of this campaign its changed text as well.
        allow_repeat: Send texts that the same people were sent today under another campaign name.
        all_or_nothing: Take a scheduled campaign back at the gateway unless all of it was accepted.
        use_updates: Read the account's uncollected updates for hints; other systems will not see those then.
        journal: Where to remember what was sent; the default is the journal that the settings name.

    Returns:
        Counts, and ``.deliveries`` and ``.rejects`` as DataFrames; the deliveries are left as CSV at ``report_path``.

    Raises:
        InputError: Something given cannot be sent; nothing was.
        CampaignStoppedError: The gateway refuses or cannot be reached; continue by starting the campaign again.
        CampaignCancelledError: A person cancelled the campaign.
        JournalError: The journal failed; nothing was sent that it does not know of.
    """
    from prefect_mymsp.campaign import FollowOptions, SendOptions

    if all_or_nothing and deliver_at is None and guard is not Guard.SCHEDULE:
        raise InputError("all_or_nothing needs scheduled messages: give deliver_at, or guard='schedule'.")

    given: Any = (_frames.get() or {}).get(str(source), source)
    label = _source_label(str(source)) if given is source else f"dataframe {_fingerprint(given)}"
    job = _Job(
        source=given,
        credentials=credentials,
        message=message,
        campaign=(campaign or "").strip() or _campaign_name(label, credentials.timezone),
        originator=originator,
        deliver_at=_checked(deliver_at),
        phone_column=phone_column,
        region=region,
        transliterate=transliterate,
        options=SendOptions(
            batch_size=batch_size,
            flash=flash,
            destination_port=destination_port,
            guard_lead_s=lead_s if guard is Guard.SCHEDULE else None,
        ),
        wait=wait,
        follow=FollowOptions(deadline_s=deadline_s, quiet_s=quiet_s, use_updates=use_updates),
        allow_changed=allow_changed,
        allow_repeat=allow_repeat,
        all_or_nothing=all_or_nothing,
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
