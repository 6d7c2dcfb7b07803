"""Follow what was sent: one campaign to its end, or everything of an account in passes. Orchestration only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, open_journal
from prefect_mymsp.errors import InputError, RefusedError
from prefect_mymsp.flows.emit_events import emit_completed_campaigns, emit_if_completed
from prefect_mymsp.flows.manage_campaign import find_campaign
from prefect_mymsp.flows.steps import follow_deliveries
from prefect_mymsp.flows.task_support import run_interruptibly
from prefect_mymsp.settings import MyMSPSettings

if TYPE_CHECKING:
    from pandas import DataFrame

    from prefect_mymsp.campaign import CampaignProgress, TrackingResult, TrackOptions
    from prefect_mymsp.journal import CampaignKey, Journal
else:
    DataFrame = Any  # Prefect evaluates annotations, and pandas costs half a second

_STEP: dict[str, Any] = {"retries": 0, "cache_policy": NO_CACHE, "persist_result": False}


@dataclass(frozen=True)
class CampaignStatus:
    """Where a campaign stands.

    Attributes:
        campaign: Its name.
        complete: Whether all is done and known that will be: nothing is left to send, on its way or in doubt, and
            each accepted message is delivered, put away by the gateway, or older than seven days.
        messages: All its messages; the states from ``planned`` to ``cancelled`` add up to it.
        planned: Not sent.
        sending: A request may be on its way.
        accepted: Taken by the gateway.
        refused: Refused by the gateway.
        in_doubt: May have been sent; never sent again without evidence.
        assumed: Were in doubt until a person said they were sent.
        cancelled: Taken back at the gateway before their delivery time.
        delivered: Of the accepted: confirmed by the phone.
        open: Of the accepted: more may be learnt.
        given_up: Accepted or in doubt, and too old for more to be learnt.
        stopped: Whether a person stopped it for good: what is planned will not be sent.
        todo: What a person should do; empty when that is nothing.
        problem: Why the gateway could not be asked about everything; None when it could.
    """

    campaign: str
    complete: bool
    messages: int
    planned: int
    sending: int
    accepted: int
    refused: int
    in_doubt: int
    assumed: int
    cancelled: int
    delivered: int
    open: int
    given_up: int
    stopped: bool
    todo: str
    problem: str | None = None
    _key: CampaignKey | None = field(default=None, repr=False, compare=False)
    _journal: CampaignJournal | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, standing: CampaignProgress, problem: str | None, journal: CampaignJournal | None) -> CampaignStatus:
        """The status of a campaign that stands so, in the journal of that block."""
        counts = standing.counts
        return cls(
            campaign=standing.campaign.name,
            complete=standing.complete,
            messages=counts.messages,
            planned=counts.planned,
            sending=counts.sending,
            accepted=counts.accepted,
            refused=counts.refused,
            in_doubt=counts.in_doubt,
            assumed=counts.assumed,
            cancelled=counts.cancelled,
            delivered=counts.delivered,
            open=standing.pending.open,
            given_up=standing.pending.given_up,
            stopped=standing.cancelled,
            todo=standing.todo(),
            problem=problem,
            _key=standing.campaign,
            _journal=journal,
        )

    @property
    def deliveries(self) -> DataFrame:
        """What became of each message, read from the journal now; columns as in a campaign's report."""
        from prefect_mymsp.reports import deliveries_frame

        assert self._key is not None  # noqa: S101  set by of()
        with open_journal(self._journal) as journal:
            return deliveries_frame(journal, self._key)


@task(name="poll-open-campaigns", **_STEP)
def poll_open_campaigns(
    credentials: MyMSPCredentials, journal: Journal, account: str, options: TrackOptions
) -> TrackingResult:
    """Ask once about everything that is not final."""
    from prefect_mymsp.campaign import track_account

    async def run() -> TrackingResult:
        async with credentials.get_async_client() as client:
            return await track_account(journal, client, account, options)

    return run_interruptibly(run())


@flow(name="track-campaign", retries=0, persist_result=False)
def track_campaign(
    campaign: str,
    credentials: MyMSPCredentials,
    deadline_s: float = 3600.0,
    quiet_s: float = 900.0,
    use_updates: bool = False,
    journal: CampaignJournal | None = None,
) -> CampaignStatus:
    """Follow a campaign that was sent before, until its deliveries are settled.

    It ends when every accepted message is delivered, nothing has changed for a while, or time is up. What has been
    learnt is in the journal, whatever happens; start it again to go on. It sends nothing.

    Args:
        campaign: Its name.
        credentials: The account that sent it.
        deadline_s: Seconds to follow it at most.
        quiet_s: Seconds without any change after which nothing more is expected; messages that wait for their
            delivery time are waited for.
        use_updates: Read the account's uncollected updates for hints; other systems will not see those then.
        journal: Where it is remembered; the default is the journal that the settings name.

    Returns:
        Its counts, and ``.deliveries`` as a DataFrame. Also when the gateway did not answer: ``problem`` says so.

    Raises:
        InputError: There is no such campaign, or its people were forgotten.
        JournalError: The journal failed.
    """
    from prefect_mymsp.campaign import CompletionLog, FollowOptions

    if not deadline_s > 0 or not quiet_s >= 0:
        raise InputError("deadline_s must be above zero, and quiet_s not below.")
    logger = get_run_logger()
    options = FollowOptions(
        deadline_s=deadline_s,
        quiet_s=quiet_s,
        use_updates=use_updates,
        tracking_days=MyMSPSettings().tracking_days,
    )
    with open_journal(journal) as opened:
        key = find_campaign(opened, credentials, campaign)
        opened.campaigns.check_not_purged(key)
        CompletionLog(opened, key.account).watch([key.id])  # so that a pass tells of it should this run die
        following = follow_deliveries(credentials, opened, key, options)
        standing = emit_if_completed(opened, key)
    problem = _problem(following.refusal, following.unanswered)
    if problem is not None:
        logger.error("%s", problem)
    if following.updates_refusal is not None:
        logger.warning("The account's updates cannot be read. %s", following.updates_refusal)
    status = CampaignStatus.of(standing, problem, journal)
    logger.info(
        "Campaign %r: %d messages, %d accepted, %d delivered, %d may still be, %d in doubt, %d not sent. %s",
        campaign, status.messages, status.accepted, status.delivered, status.open, status.in_doubt, status.planned,
        "It is complete." if status.complete else status.todo,
    )  # fmt: skip
    return status


@flow(name="track-open-campaigns", retries=0, persist_result=False)
def track_open_campaigns(
    credentials: MyMSPCredentials,
    max_requests: int = 10_000,
    requests_per_minute: int = 3000,
    deadline_s: float = 240.0,
    journal: CampaignJournal | None = None,
) -> DataFrame:
    """Make one pass over everything of an account that is not final: to be scheduled every few minutes.

    Each message that may still be delivered is asked about once. What is in doubt and waits for its delivery time is
    looked up, and what dead runs had on their way is put in doubt. It sends nothing: when messages prove to be unsent,
    ``todo`` says that the campaign has to be started again. Two passes at once do no harm.

    A campaign is complete when nothing of it is left to send, on its way or in doubt, and each accepted message is
    delivered, archived by the gateway, or no longer tracked: its delivery time is more than ``tracking_days`` ago, 7
    unless the setting ``PREFECT_INTEGRATIONS_MYMSP_TRACKING_DAYS`` says otherwise. An event is emitted for it once.

    Args:
        credentials: The account.
        max_requests: Questions a pass asks at most. The next one begins with what it did not come to.
        requests_per_minute: How fast it asks, at most.
        deadline_s: Seconds a pass lasts at most; less than the time to the next one.
        journal: Where campaigns are remembered; the default is the journal that the settings name.

    Returns:
        A row for each campaign that was open, with the columns of
        :data:`prefect_mymsp.reports.tracking.TRACKING_DTYPES`.

    Raises:
        InputError: An option makes no sense.
        RefusedError: The gateway refuses the account, and nothing was learnt.
        JournalError: The journal failed.
    """
    from prefect_mymsp.account import account_fingerprint
    from prefect_mymsp.campaign import TrackOptions
    from prefect_mymsp.reports.tracking import tracking_frame

    logger = get_run_logger()
    options = TrackOptions(
        tracking_days=MyMSPSettings().tracking_days,
        max_requests=max_requests,
        requests_per_minute=requests_per_minute,
        deadline_s=deadline_s,
    )
    account = account_fingerprint(credentials.base_url, credentials.user)
    with open_journal(journal) as opened:
        told = poll_open_campaigns(credentials, opened, account, options)
        completed = emit_completed_campaigns(opened, account, told.campaigns)
    if told.refusal is not None and told.unanswered == told.requests:
        raise told.refusal
    if problem := _problem(told.refusal, told.unanswered):
        logger.error("%s", problem)
    if told.incomplete:
        logger.info("There was no time to ask about everything; the next pass begins there.")
    for one in told.campaigns:
        if todo := one.todo():
            logger.warning("Campaign %r: %s", one.campaign.name, todo)
    logger.info(
        "%d campaigns seen, %d of them now complete; %d messages found delivered, %d may still be.",
        len(told.campaigns), len(completed), sum(one.newly_delivered for one in told.campaigns),
        sum(one.pending.open for one in told.campaigns),
    )  # fmt: skip
    return tracking_frame(told.campaigns)


def _problem(refusal: RefusedError | None, unanswered: int) -> str | None:
    if refusal is not None:
        return f"{refusal} Nothing more can be learnt until that is mended."
    if unanswered:
        return f"The gateway did not answer {unanswered} questions; what it knows of these messages is still to learn."
    return None
