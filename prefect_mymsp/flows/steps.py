"""The steps of a campaign, each a task run of its own: check, send, cancel, track."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from prefect import task
from prefect.logging import get_run_logger

from prefect_mymsp.blocks import MyMSPCredentials
from prefect_mymsp.errors import LimitError
from prefect_mymsp.flows.campaign_request import CampaignRequest
from prefect_mymsp.flows.task_support import STEP, progress_listener, run_interruptibly
from prefect_mymsp.settings import MyMSPSettings

if TYPE_CHECKING:
    from prefect_mymsp.campaign import (
        CampaignFollower,
        Cancelled,
        FollowOptions,
        Plan,
        ProgressListener,
        SuppressedNumbers,
    )
    from prefect_mymsp.journal import CampaignKey, Counts, Journal


@dataclass(frozen=True)
class CheckedRecipients:
    """Recipients that were read and checked.

    Attributes:
        plan: What is to be sent.
        suppressed: The suppressed numbers.
        campaign: The campaign in the journal; None when nothing was recorded.
    """

    plan: Plan
    suppressed: SuppressedNumbers
    campaign: CampaignKey | None = None


class _RollBack(Exception):  # noqa: N818  no error: it ends a recording without keeping it
    def __init__(self, plan: Plan) -> None:
        self.plan = plan


@task(name="check-recipients", **STEP)
def check_recipients(
    request: CampaignRequest,
    credentials: MyMSPCredentials,
    journal: Journal | None,
    *,
    record: bool = True,
    raise_conflict: bool = True,
    approved: CheckedRecipients | None = None,
) -> CheckedRecipients:
    """Read and check all recipients, and record their messages in the journal.

    Args:
        request: The campaign.
        credentials: The account that sends.
        journal: Where to record; None to check the recipients by themselves.
        record: Whether to keep the recording. Without it, recipients are checked against the journal, which stays as
            it is.
        raise_conflict: Whether to refuse changed or repeated texts that were not allowed; otherwise the plan names
            them.
        approved: What was approved. Other recipients or texts are refused; numbers that were suppressed then still are.
    """
    from prefect_mymsp.campaign import plan_campaign
    from prefect_mymsp.campaign.safeguards import check_same_as_approved
    from prefect_mymsp.recipients import open_source
    from prefect_mymsp.templates import Template

    audience, safeguards = request.audience, request.safeguards
    source = None
    if request.recipients is not None:
        source = open_source(request.recipients, phone_column=audience.phone_column, country=audience.country)
    template = Template(request.message, transliterate=request.transliterate)
    suppressed = _suppressed_numbers(request, credentials, journal)
    if approved is not None:
        suppressed |= approved.suppressed
    options: dict[str, Any] = {"groups": request.groups, "suppressed": suppressed, "limits": request.limits}
    if journal is None:
        plan = plan_campaign(source, template, **options)
        _check_limits(request, plan)
        return CheckedRecipients(plan, suppressed)
    midnight = datetime.now(ZoneInfo(credentials.timezone)).replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        with journal.recording(
            credentials.account,
            request.campaign,
            source=source.label if source is not None else "recipient groups",
            sender=request.sender,
            send_at=request.send_at,
            batch_size=request.send_options.request_size,
        ) as recording:
            plan = plan_campaign(
                source,
                template,
                recording,
                allow_changed_text=safeguards.allow_changed_text,
                repeats_since=None if safeguards.allow_repeat_today else midnight,
                raise_conflict=raise_conflict,
                **options,
            )
            _check_limits(request, plan)
            if approved is not None:
                check_same_as_approved(request.campaign, approved=approved.plan, plan=plan)
            if not record:
                raise _RollBack(plan)  # noqa: TRY301  so that the transaction is rolled back
            return CheckedRecipients(plan, suppressed, recording.campaign)
    except _RollBack as rolled_back:
        return CheckedRecipients(rolled_back.plan, suppressed)


def _suppressed_numbers(
    request: CampaignRequest, credentials: MyMSPCredentials, journal: Journal | None
) -> SuppressedNumbers:
    """The numbers of the suppression lists, and those that have opted out."""
    from prefect_mymsp.campaign import SuppressedNumbers
    from prefect_mymsp.campaign.suppression import (
        LISTED,
        OPT_OUT,
        number_array,
        read_suppression_file,
        read_suppression_table,
    )

    suppression, country = request.suppression, request.audience.country
    suppressed = SuppressedNumbers({})
    if suppression.opt_outs and journal is not None:
        suppressed |= SuppressedNumbers({OPT_OUT: number_array(journal.suppressions.msisdns(credentials.account))})
    lists = []
    if suppression.file is not None:
        lists.append(read_suppression_file(suppression.file, column=suppression.column, country=country))
    if suppression.table is not None and suppression.database is not None:
        url = str(suppression.database.get())
        lists.append(read_suppression_table(url, suppression.table, column=suppression.column, country=country))
    for numbers in lists:
        suppressed |= SuppressedNumbers({LISTED: numbers.numbers})
        if numbers.unreadable:
            get_run_logger().warning(
                "%d entries of the suppression list are not mobile numbers, so they suppress no one (rows %s%s).",
                numbers.unreadable,
                ", ".join(map(str, numbers.first_unreadable)),
                ", …" if numbers.unreadable > len(numbers.first_unreadable) else "",
            )
    return suppressed


def _check_limits(request: CampaignRequest, plan: Plan) -> None:
    """Refuse a plan beyond its limits; its rejected rows are written to a file, to be fixed."""
    from prefect_mymsp.campaign import check_limits
    from prefect_mymsp.reports.exports import write_rejected_rows

    try:
        check_limits(request.limits, plan)
    except LimitError as error:
        path = write_rejected_rows(request.campaign, plan.rejected_rows, MyMSPSettings().reports_folder())
        raise LimitError(f"{error} The rejected rows are listed in {path}." if path else str(error)) from None


@task(name="send-messages", **STEP)
def send_messages(
    request: CampaignRequest, credentials: MyMSPCredentials, journal: Journal, campaign: CampaignKey
) -> Counts:
    """Send everything the journal holds planned for the campaign."""
    with progress_listener(request.campaign, credentials) as listener:
        return run_interruptibly(send_from_this_process(request, credentials, journal, campaign, listener))


async def send_from_this_process(
    request: CampaignRequest,
    credentials: MyMSPCredentials,
    journal: Journal,
    campaign: CampaignKey,
    listener: ProgressListener | None,
) -> Counts:
    """Send planned messages of the campaign until none are left; other processes may do so at the same time."""
    from prefect_mymsp.campaign import send_planned

    async with credentials.get_async_client(retry_for_s=MyMSPSettings().retry_for_s) as client:
        return await send_planned(journal, client, campaign, request.send_options, listener)


@task(name="cancel-scheduled-messages", **STEP)
def cancel_scheduled_messages(credentials: MyMSPCredentials, journal: Journal, campaign: CampaignKey) -> Cancelled:
    """Cancel the campaign for good, and at the gateway the requests that still wait for their delivery time."""
    from prefect_mymsp.campaign import CampaignContext, cancel_at_gateway

    async def cancel() -> Cancelled:
        async with credentials.get_async_client() as client:
            with CampaignContext(journal, client, campaign.account) as context:
                return await cancel_at_gateway(context, campaign)

    journal.campaigns.cancel(campaign)
    return run_interruptibly(cancel())


@task(name="follow-deliveries", **STEP)
def follow_deliveries(
    credentials: MyMSPCredentials, journal: Journal, campaign: CampaignKey, options: FollowOptions
) -> CampaignFollower:
    """Poll the gateway until every delivery is settled, nothing changes any more, or time is up."""
    from prefect_mymsp.campaign import CampaignContext, CampaignFollower

    async def follow(listener: ProgressListener) -> CampaignFollower:
        async with credentials.get_async_client() as client:
            with CampaignContext(journal, client, campaign.account) as context:
                follower = CampaignFollower(context, campaign, options, listener)
                await follower.run()
                return follower

    with progress_listener(campaign.name, credentials) as listener:
        return run_interruptibly(follow(listener))
