"""Collect what comes back: received messages, and the account's updates. Orchestration only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials, open_journal
from prefect_mymsp.errors import InputError, NotSentError, RefusedError
from prefect_mymsp.flows.emit_events import emit_received_messages, last_emitted_number
from prefect_mymsp.flows.task_support import run_interruptibly
from prefect_mymsp.models import OPT_OUT_WORDS
from prefect_mymsp.settings import MyMSPSettings

if TYPE_CHECKING:
    from pandas import DataFrame

    from prefect_mymsp.campaign import InboxResult, OptOuts, UpdatesResult
    from prefect_mymsp.journal import Journal
else:
    DataFrame = Any  # Prefect evaluates annotations, and pandas costs half a second

_STEP: dict[str, Any] = {"retries": 0, "cache_policy": NO_CACHE, "persist_result": False}


@dataclass(frozen=True)
class CollectedUpdates:
    """What a reading of the updates came to.

    Attributes:
        delivery_reports: Delivery reports that were read. They are hints: what they are about was asked of the gateway.
        changed: Messages whose status changed by that.
        linked: Requests in doubt that were found at the gateway.
        received: Messages of the inbox that are new.
        opted_out: How many of those ask for no more SMS.
        unparsed: Records that could not be read. They are kept in the journal, as they came.
        waiting: Answers that are left to the next reading, because something they point to could not be asked yet.
        problem: Why the updates could not be read, or not all of them; None when they could.
        inbox: The new messages of the inbox, with the columns of an inbox frame.
    """

    delivery_reports: int
    changed: int
    linked: int
    received: int
    opted_out: int
    unparsed: int
    waiting: int
    problem: str | None
    inbox: DataFrame = field(repr=False, compare=False)


@task(name="read-inbox", **_STEP)
def store_inbox(credentials: MyMSPCredentials, journal: Journal, account: str, opt_outs: OptOuts) -> InboxResult:
    """Store what is in the inbox above the cursor, each message once, and who wants no more SMS."""
    from prefect_mymsp.campaign import CampaignContext, read_inbox

    async def run() -> InboxResult:
        async with credentials.get_async_client() as client:
            with CampaignContext(journal, client, account) as context:
                return await read_inbox(context, opt_outs)

    return run_interruptibly(run())


@task(name="read-updates", **_STEP)
def read_updates(
    credentials: MyMSPCredentials, journal: Journal, account: str, deadline_s: float, requests_per_minute: int
) -> UpdatesResult:
    """Read the updates, keep them, and ask about the messages they point to. Never tried twice."""
    from prefect_mymsp.campaign import CampaignContext, process_updates

    async def run() -> UpdatesResult:
        async with credentials.get_async_client() as client:
            with CampaignContext(journal, client, account) as context:
                return await process_updates(
                    context,
                    deadline_s=deadline_s,
                    requests_per_minute=requests_per_minute,
                    tracking_days=MyMSPSettings().tracking_days,
                )

    return run_interruptibly(run())


@flow(name="collect-inbox", retries=0, persist_result=False)
def collect_inbox(
    credentials: MyMSPCredentials,
    opt_out_words: list[str] = list(OPT_OUT_WORDS),  # noqa: B006  never changed
    include_text_in_events: bool = False,
    events_max_age_days: float = 7.0,
    journal: CampaignJournal | None = None,
) -> DataFrame:
    """Store the received messages that are new, put who wants no more SMS on the suppression list, and tell of them.

    Each message is stored once, however often this runs, dies, or runs twice at once. For each, an event
    ``mymsp.message.received`` is emitted, at least once, and always under the same id.

    Args:
        credentials: The account.
        opt_out_words: Whose message begins with one of these, after the account's prefix, gets no more SMS from
            campaigns. Case and punctuation make no difference.
        include_text_in_events: Whether events hold the texts. Prefect keeps events, and shows them to all its users.
        events_max_age_days: Older messages are stored but start nothing: an old account's inbox holds years.
        journal: Where messages are stored; the default is the journal that the settings name.

    Returns:
        The new messages, by id, with the columns of :data:`prefect_mymsp.reports.frames.INBOX_DTYPES`. What an earlier
        run stored, and died before it returned, is not among them; the journal has it.

    Raises:
        InputError: An option makes no sense.
        NotSentError: The gateway refuses, or cannot be reached.
        InDoubtError: It does not answer; the next run begins where this one did.
        JournalError: The journal failed.
    """
    opt_outs = _checked(opt_out_words, events_max_age_days)
    with open_journal(journal) as opened:
        frame, _ = _inbox(credentials, opened, opt_outs, include_text_in_events, events_max_age_days)
    return frame


@flow(name="collect-updates", retries=0, persist_result=False)
def collect_updates(
    credentials: MyMSPCredentials,
    opt_out_words: list[str] = list(OPT_OUT_WORDS),  # noqa: B006  never changed
    include_text_in_events: bool = False,
    events_max_age_days: float = 7.0,
    requests_per_minute: int = 3000,
    deadline_s: float = 240.0,
    journal: CampaignJournal | None = None,
) -> CollectedUpdates:
    """Read the account's uncollected updates and look where they point; then read the inbox.

    The gateway gives each update once: other systems that work with this account will not see them. The answer is
    kept in the journal before anybody looks into it, and a run that dies leaves what it has not acted on to the next.
    Nothing in it is believed: delivery reports lead to the gateway's own results, received messages to the inbox.

    Args:
        credentials: The account. Its updates must have been activated by the gateway's support.
        opt_out_words: Whose message begins with one of these, after the account's prefix, gets no more SMS from
            campaigns. Case and punctuation make no difference.
        include_text_in_events: Whether events hold the texts. Prefect keeps events, and shows them to all its users.
        events_max_age_days: Older messages are stored but start nothing: an old account's inbox holds years.
        requests_per_minute: How fast results are asked for, at most.
        deadline_s: Seconds to ask for them, at most. What is left is done by the next run.
        journal: Where all is kept; the default is the journal that the settings name.

    Returns:
        What was found. Also when the gateway's answer was lost on its way: ``problem`` says so.

    Raises:
        InputError: An option makes no sense.
        NotSentError: The gateway refuses, or cannot be reached.
        InDoubtError: The inbox could not be read; the next run begins where this one did.
        JournalError: The journal failed.
    """
    from prefect_mymsp.account import account_fingerprint

    logger = get_run_logger()
    opt_outs = _checked(opt_out_words, events_max_age_days)
    if not deadline_s > 0 or requests_per_minute < 1:
        raise InputError("deadline_s and requests_per_minute must be above zero.")
    account = account_fingerprint(credentials.base_url, credentials.user)
    with open_journal(journal) as opened:
        told = read_updates(credentials, opened, account, deadline_s, requests_per_minute)
        # Whatever the updates say: one of them may have been lost, and it would have been about the inbox.
        frame, inbox = _inbox(credentials, opened, opt_outs, include_text_in_events, events_max_age_days)
    if isinstance(told.failure, RefusedError):
        logger.error("If user and password are right, ask the gateway's support to activate updates for the account.")
    if isinstance(told.failure, NotSentError):
        raise told.failure
    problem = None if told.failure is None else f"{told.failure} What it held is not given again."
    if problem is not None:
        logger.warning("%s", problem)
    logger.info(
        "%d delivery reports: %d messages changed, %d requests in doubt were found. %d records could not be read; %d "
        "answers wait for the next run.",
        told.delivery_reports, told.changed, told.linked, told.unparsed, told.postponed,
    )  # fmt: skip
    return CollectedUpdates(
        told.delivery_reports, told.changed, told.linked, len(inbox.new), inbox.opted_out, told.unparsed,
        told.postponed, problem, frame,
    )  # fmt: skip


def _checked(opt_out_words: list[str], events_max_age_days: float) -> OptOuts:
    from prefect_mymsp.campaign import OptOuts

    if not 0 <= events_max_age_days <= 36_500:
        raise InputError("events_max_age_days must be from 0 to 36,500.")
    return OptOuts(opt_out_words)


def _inbox(
    credentials: MyMSPCredentials, journal: Journal, opt_outs: OptOuts, include_text: bool, max_age_days: float
) -> tuple[DataFrame, InboxResult]:
    """Read the inbox, tell of what is new, and return it."""
    from prefect_mymsp.account import account_fingerprint
    from prefect_mymsp.reports import inbox_frame

    logger = get_run_logger()
    account = account_fingerprint(credentials.base_url, credentials.user)
    before = last_emitted_number(journal, account)
    inbox = store_inbox(credentials, journal, account, opt_outs)
    if inbox.unparsed:
        logger.error(
            "%d records of the inbox cannot be read. They are kept in the journal as they came; the gateway's own "
            "pages may show them.",
            len(inbox.unparsed),
        )
    logger.info("%d messages are new; %d of them ask for no more SMS.", len(inbox.new), inbox.opted_out)
    # Those of earlier runs that died before they were told of, too.
    emit_received_messages(journal, account, include_text=include_text, max_age_days=max_age_days)
    new = {message.message_id for message in inbox.new}
    rows = [row for part in journal.inbox.rows(account, after=before) for row in part if row[1] in new]
    rows.sort(key=lambda row: int(row[1]))
    return inbox_frame([rows]), inbox
