"""Send a campaign: check the recipients, record them, send, track the deliveries, report. Orchestration only."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow, runtime
from prefect.logging import get_run_logger

from prefect_mymsp.artifacts import CampaignArtifacts
from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, open_existing_journal, open_journal
from prefect_mymsp.errors import CampaignStoppedError, ExportError, JournalError, MyMSPError
from prefect_mymsp.flows.approval import request_approval
from prefect_mymsp.flows.campaign_request import CampaignRequest, build_request
from prefect_mymsp.flows.concurrency import scheduled_start, with_concurrency_limit
from prefect_mymsp.flows.emit_events import emit_if_completed
from prefect_mymsp.flows.form import Choice, Group, label
from prefect_mymsp.flows.options import Advanced, Audience, Safeguards, SendWindow, Speed, Suppression
from prefect_mymsp.flows.parameters import Credentials, Journal, load_credentials
from prefect_mymsp.flows.steps import (
    CheckedRecipients,
    cancel_scheduled_messages,
    check_recipients,
    follow_deliveries,
    send_messages,
)
from prefect_mymsp.flows.task_support import progress_listener, warn_if_lost_with_container
from prefect_mymsp.flows.workers import require_shared_journal, send_with_workers
from prefect_mymsp.settings import MyMSPSettings

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp import journal as journals
    from prefect_mymsp.journal import CampaignKey, Counts
    from prefect_mymsp.reports import CampaignReport
else:
    # Prefect evaluates a flow's annotations for its form; if one of them failed, all would lose their types.
    CampaignReport = Any

_frames: ContextVar[dict[str, pd.DataFrame] | None] = ContextVar("mymsp_frames", default=None)


@flow(name="send-campaign", retries=0, persist_result=False)
def send_campaign(
    recipients: Annotated[str | Path | None, Choice("File or URL", "File or URL", "Only groups"), label("Recipients")],
    message: Annotated[str, label("Message")],
    credentials: Credentials = "default",
    campaign: Annotated[str | None, Choice("Name", "File name and date"), label("Campaign")] = None,
    sender: Annotated[str | None, Choice("Name or number", "Account's own"), label("Sender")] = None,
    send_at: Annotated[datetime | None, Choice("Later", "Now"), label("Send at")] = None,
    send_window: Annotated[SendWindow | None, Choice("", "Any time"), label("Send window")] = None,
    exactly_once: Annotated[bool, label("Exactly once")] = False,
    transliterate: Annotated[bool, label("Transliterate")] = False,
    dry_run: Annotated[bool, label("Dry run")] = False,
    approval: Annotated[bool, label("Approval")] = False,
    wait_minutes: Annotated[float, label("Wait minutes")] = 60.0,
    audience: Annotated[Audience | None, Choice("", "Automatic"), label("Audience")] = None,
    suppression: Annotated[Suppression | None, Choice("", "Opt-outs only"), label("Suppression")] = None,
    safeguards: Annotated[Safeguards | None, Choice("", "Standard"), label("Safeguards")] = None,
    speed: Annotated[Speed | None, Choice("", "Full speed"), label("Speed")] = None,
    advanced: Annotated[Advanced | None, Choice("", "Standard"), label("Advanced")] = None,
    journal: Journal = None,
) -> CampaignReport:
    """Send a text message to everyone in a CSV file, once, and track the deliveries.

    The whole file is checked before the first message is sent. Rows that cannot be sent are rejected, and reported with
    line, value and reason. A campaign never sends a row twice: started again under the same name, after a crash or on
    purpose, it sends only what is missing.

    Args:
        recipients: CSV file with the recipients, as a path or URL.
        message: Text to send. {name} stands for the row's value in the column “name”.
        credentials: Gateway account to send from.
        campaign: Name of the campaign. Run again under the same name, it sends only what is missing.
        sender: Registered sender that phones show.
        send_at: When the gateway sends, with a time zone.
        send_window: Hours in which recipients may get messages.
        exactly_once: Hold messages at the gateway for a few minutes, so that a request in doubt can be looked up.
        transliterate: Replace typographic quotes and dashes, which can double the cost.
        dry_run: Check everything and send nothing.
        approval: Pause until a person approves the campaign in Prefect.
        wait_minutes: How long to track deliveries. 0 ends the run when everything is sent.
        audience: Phone column, country and recipient groups.
        suppression: Numbers that must not receive the message.
        safeguards: Conditions under which nothing is sent.
        speed: How fast messages leave.
        advanced: Details that rarely matter.
        journal: Database that records what was sent.

    Returns:
        Counts, and ``.deliveries``, ``.rejected_rows`` and ``.suppressed_rows`` as DataFrames. The deliveries are
        written as CSV to ``report_path``.

    Raises:
        InputError: A parameter or the file is wrong; nothing was sent.
        LimitError: The campaign exceeds one of its limits, or starts too late; nothing was sent.
        NotApprovedError: The campaign was rejected, or not approved in time; nothing was sent.
        CampaignStoppedError: The gateway refuses or cannot be reached. Start the campaign again to continue it.
        CampaignCancelledError: The campaign was cancelled.
        JournalError: The journal failed; nothing was sent that is not recorded in it.
    """
    request = build_request(
        _frame_or_source(recipients),
        message,
        campaign=campaign,
        sender=sender,
        send_at=send_at,
        send_window=send_window,
        exactly_once=exactly_once,
        transliterate=transliterate,
        approval=approval,
        wait_minutes=wait_minutes,
        audience=audience,
        suppression=suppression,
        safeguards=safeguards,
        speed=speed,
        advanced=advanced,
        tracking_days=MyMSPSettings().tracking_days,
    )
    account = load_credentials(credentials)
    request = request.named(account.timezone, runtime.flow_run.get_scheduled_start_time())
    if dry_run:
        return _rehearse(request, account, journal)
    require_shared_journal(request.workers, journal)
    with open_journal(journal) as opened:
        request, checked = _start(request, account, opened)
        return _send_and_report(request, account, opened, checked)


def send_dataframe(
    df: pd.DataFrame,
    message: str,
    credentials: MyMSPCredentials | str = "default",
    campaign: str | None = None,
    sender: str | None = None,
    send_at: datetime | None = None,
    send_window: SendWindow | None = None,
    exactly_once: bool = False,
    transliterate: bool = False,
    dry_run: bool = False,
    approval: bool = False,
    wait_minutes: float = 60.0,
    audience: Audience | None = None,
    suppression: Suppression | None = None,
    safeguards: Safeguards | None = None,
    speed: Speed | None = None,
    advanced: Advanced | None = None,
    journal: CampaignJournal | None = None,
) -> CampaignReport:
    """Send a text message to everyone in a DataFrame, once, and track the deliveries.

    Call it inside a flow or outside of one; it runs :func:`send_campaign` as a flow run of its own. The rows stay in
    this process and in the journal: Prefect's API stores how many rows there are, and none of them.

    Args:
        df: The recipients; ``row`` in reports is the position, from 1.
        message: Text to send. {name} stands for the row's value in the column “name”.
        credentials: Gateway account to send from: the block, or the name of a saved one.
        campaign: Name of the campaign; by default made of the frame's contents and the day.
        sender: Registered sender that phones show; by default the account's own.
        send_at: When the gateway sends, with a time zone; by default at once.
        send_window: Hours in which recipients may get messages; by default any time.
        exactly_once: Hold messages at the gateway for a few minutes, so that a request in doubt can be looked up.
        transliterate: Replace typographic quotes and dashes, which can double the cost.
        dry_run: Check everything and send nothing.
        approval: Pause until a person approves the campaign in Prefect.
        wait_minutes: How long to track deliveries. 0 ends the run when everything is sent.
        audience: Phone column, country and recipient groups.
        suppression: Numbers that must not receive the message.
        safeguards: Conditions under which nothing is sent.
        speed: How fast messages leave.
        advanced: Details that rarely matter.
        journal: Database that records what was sent; by default the one that the settings name.

    Returns:
        As :func:`send_campaign`.

    Raises:
        InputError: A parameter or the frame is wrong; nothing was sent.
        CampaignStoppedError: The gateway refuses or cannot be reached. Start the campaign again to continue it.
        JournalError: The journal failed; nothing was sent that is not recorded in it.
    """
    options: dict[str, Any] = {name: value for name, value in locals().items() if name != "df"}
    _check_before_prefect(df, options)
    # Prefect stores this label, so two frames of the same size must differ in it.
    frame_label = f"DataFrame of {len(df)} rows, {uuid.uuid4().hex[:8]}"
    token = _frames.set({**(_frames.get() or {}), frame_label: df})
    try:
        report: CampaignReport = send_campaign(frame_label, **options)
        return report
    finally:
        _frames.reset(token)


def _check_before_prefect(df: pd.DataFrame, options: dict[str, Any]) -> None:
    """Refuse wrong options before Prefect starts a server or a run.

    Options that Prefect would convert, such as a mapping for a group, are left for the run to check.
    """
    options = {name: options[name] for name in options if name not in {"credentials", "dry_run", "journal"}}
    groups = [options[name] for name in ("send_window", "audience", "suppression", "safeguards", "speed", "advanced")]
    if all(group is None or isinstance(group, Group) for group in groups) and not isinstance(options["send_at"], str):
        build_request(df, **options)


def _frame_or_source(recipients: str | Path | None) -> str | Path | pd.DataFrame | None:
    """The DataFrame that a label stands for; any other recipients as they are.

    Not in the flow itself: a flow is pickled for other machines with everything it names, and a ContextVar cannot be.
    """
    return (_frames.get() or {}).get(str(recipients), recipients)


def _rehearse(request: CampaignRequest, account: MyMSPCredentials, journal: CampaignJournal | None) -> CampaignReport:
    """Check everything against the journal, if there is one, and send nothing."""
    from prefect_mymsp.reports import CampaignReport

    with open_existing_journal(journal) as opened:
        checked = check_recipients(request, account, opened, record=False, raise_conflict=False)
    report = CampaignReport.of(request.campaign, checked.plan, None, None)
    CampaignArtifacts(request.campaign, account).finished(report)
    logger = get_run_logger()
    logger.info("Dry run: nothing was sent. %s", _summary(report))
    if report.conflict:
        logger.warning("A real run would be refused: %s", report.conflict)
    return report


def _start(
    request: CampaignRequest, account: MyMSPCredentials, journal: journals.Journal
) -> tuple[CampaignRequest, CheckedRecipients]:
    """Everything before the first message: warnings, refusals, approval, and the recording in the journal."""
    from prefect_mymsp.campaign.safeguards import check_start_time

    warn_if_lost_with_container(journal)
    if request.send_at is None:  # a campaign with a delivery time is not late before that
        campaign = journal.campaigns.get(account.account, request.campaign)
        check_start_time(
            request.campaign,
            scheduled_at=scheduled_start(),
            last_active=None if campaign is None else journal.claims.last_active(campaign),
            now=datetime.now(UTC),
            max_late_minutes=request.safeguards.max_late_minutes,
        )
    request = with_concurrency_limit(request)
    approved = None
    if request.approval_timeout_s is not None:
        approved = _approved(request, account, journal, request.approval_timeout_s)
    checked = check_recipients(request, account, journal, approved=approved)
    plan = checked.plan
    get_run_logger().info(
        "Campaign %r: %d rows, of which %d are rejected, %d suppressed and %d duplicates; %d messages are new, %d were "
        "recorded before.",
        request.campaign, plan.rows, plan.rejected_rows.num_rows, plan.suppressed.num_rows, plan.duplicates.num_rows,
        plan.new, plan.recorded_before,
    )  # fmt: skip
    return request, checked


def _approved(
    request: CampaignRequest, account: MyMSPCredentials, journal: journals.Journal, timeout_s: float
) -> CheckedRecipients:
    """The recipients that a person approved; until then, the journal holds nothing of them."""
    from prefect_mymsp.campaign.safeguards import check_still_ahead

    proposed = check_recipients(request, account, journal, record=False)
    if proposed.plan.due:
        get_run_logger().info("Campaign %r waits for approval: %d messages.", request.campaign, proposed.plan.due)
        request_approval(request, proposed.plan, timeout_s)
        check_still_ahead(request.send_at, datetime.now(UTC))
    return proposed


def _send_and_report(
    request: CampaignRequest, account: MyMSPCredentials, journal: journals.Journal, checked: CheckedRecipients
) -> CampaignReport:
    """Send the recorded messages, track them, and write the report, also after a failure."""
    campaign = checked.campaign
    assert campaign is not None  # noqa: S101  recorded by check_recipients
    artifacts = CampaignArtifacts(request.campaign, account)
    artifacts.started(checked.plan)
    failure: BaseException | None = None
    try:
        artifacts.sent(_send(request, account, journal, campaign))
        _log_scheduled(journal, campaign)
        if request.follow_options is not None:
            follow_deliveries(account, journal, campaign, request.follow_options)
        emit_if_completed(journal, campaign)
    except BaseException as error:
        failure = error
        raise
    finally:
        # After a failure too: the first question then is which messages were sent.
        report = _report(request, journal, checked, campaign, failure)
        unwritten = _write_files(report)
        if failure is None:
            artifacts.finished(report)
        else:
            artifacts.stopped(failure, report)
        _log_report(report, failure)
        if unwritten is not None and failure is None:
            raise ExportError(
                f"{unwritten} The campaign itself was sent; only its report is missing. {_summary(report)}."
            ) from unwritten
        if unwritten is not None:
            get_run_logger().error("%s", unwritten)
    return report


def _send(
    request: CampaignRequest, account: MyMSPCredentials, journal: journals.Journal, campaign: CampaignKey
) -> Counts:
    """Send; an all-or-nothing campaign is cancelled at the gateway unless all of it was accepted."""
    from prefect_mymsp.campaign.safeguards import check_all_accepted

    if not request.safeguards.all_or_nothing:
        return _send_planned(request, account, journal, campaign)
    try:
        counts = _send_planned(request, account, journal, campaign)
        check_all_accepted(request.campaign, counts)
        return counts
    except MyMSPError as error:
        cancelled = cancel_scheduled_messages(account, journal, campaign)
        raise CampaignStoppedError(
            f"{error} Because of all_or_nothing, {cancelled.cancelled} requests were cancelled at the gateway; "
            f"{cancelled.sent} had been sent, {cancelled.unknown} could not be cancelled. The campaign is closed. "
            "Start it again under another name.",
            counts=dataclasses.asdict(journal.campaigns.counts(campaign)),
        ) from error
    except BaseException:  # the run must end within seconds, too few to cancel thousands of messages
        with contextlib.suppress(MyMSPError):  # the interrupt goes on, even if the journal fails
            if waiting := len(journal.schedule.batches(campaign, datetime.now(UTC))):
                get_run_logger().warning(
                    "all_or_nothing: the run ends while %d requests wait at the gateway, and they will be sent at "
                    "their time. Start the same campaign again to send the rest, or cancel it.",
                    waiting,
                )
        raise


def _send_planned(
    request: CampaignRequest, account: MyMSPCredentials, journal: journals.Journal, campaign: CampaignKey
) -> Counts:
    if request.workers == 1:
        return send_messages(request, account, journal, campaign)
    with progress_listener(request.campaign, account) as listener:
        return send_with_workers(request, account, journal, campaign, listener)


def _log_scheduled(journal: journals.Journal, campaign: CampaignKey) -> None:
    times = sorted(batch.send_at for batch in journal.schedule.batches(campaign, datetime.now(UTC)).values())
    if times:
        get_run_logger().info(
            "%d requests wait at the gateway for their delivery time, from %s to %s UTC.",
            len(times),
            f"{times[0]:%Y-%m-%d %H:%M}",
            f"{times[-1]:%Y-%m-%d %H:%M}",
        )


def _report(
    request: CampaignRequest,
    journal: journals.Journal,
    checked: CheckedRecipients,
    campaign: CampaignKey,
    failure: BaseException | None,
) -> CampaignReport:
    """The report of the campaign, from the journal. If the journal fails too, the first failure is raised again."""
    from prefect_mymsp.reports import CampaignReport, deliveries_frame

    try:
        counts, deliveries = journal.campaigns.counts(campaign), deliveries_frame(journal, campaign)
    except JournalError:
        if failure is None:
            raise
        raise failure from failure.__cause__  # it contains the remedy
    return CampaignReport.of(request.campaign, checked.plan, counts, deliveries)


def _write_files(report: CampaignReport) -> ExportError | None:
    """Write the report's files; returns the error if that fails."""
    from prefect_mymsp.reports.exports import write_campaign_report

    try:
        write_campaign_report(report, MyMSPSettings().reports_folder())
    except ExportError as error:
        return error
    return None


def _log_report(report: CampaignReport, failure: BaseException | None) -> None:
    logger = get_run_logger()
    logger.info("%s", _summary(report))
    if failure is None and not report.messages - report.refused - report.cancelled:
        logger.warning(
            "Campaign %r reaches no recipients: every row was rejected, suppressed or refused.", report.campaign
        )
    if report.in_doubt:
        logger.warning(
            "%d messages are in doubt: they may or may not have been sent. They are not sent again; the report lists "
            "them.",
            report.in_doubt,
        )


def _summary(report: CampaignReport) -> str:
    return "; ".join(f"{name}: {value}" for name, value in report.lines())
