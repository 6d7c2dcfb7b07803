"""Collect received messages and the account's updates from the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow, task
from prefect.logging import get_run_logger

from prefect_mymsp.blocks import MyMSPCredentials, open_journal
from prefect_mymsp.errors import InputError, NotSentError, RefusedError
from prefect_mymsp.flows.emit_events import emit_received_messages, last_emitted_number
from prefect_mymsp.flows.form import label
from prefect_mymsp.flows.parameters import Credentials, Journal, load_credentials
from prefect_mymsp.flows.results import CollectedUpdates
from prefect_mymsp.flows.task_support import STEP, run_interruptibly
from prefect_mymsp.models import OPT_OUT_WORDS
from prefect_mymsp.settings import MyMSPSettings

if TYPE_CHECKING:
    from pandas import DataFrame

    from prefect_mymsp.campaign import InboxResult, OptOuts, UpdatesResult
    from prefect_mymsp.journal import Journal as OpenJournal
else:
    DataFrame = Any  # Prefect evaluates annotations, and importing pandas takes half a second


@task(name="read-inbox", **STEP)
def store_inbox(credentials: MyMSPCredentials, journal: OpenJournal, opt_outs: OptOuts) -> InboxResult:
    """Fetch the inbox above the cursor, and store each message and each opt-out once."""
    from prefect_mymsp.campaign import CampaignContext, read_inbox

    async def read() -> InboxResult:
        async with credentials.get_async_client() as client:
            with CampaignContext(journal, client, credentials.account) as context:
                return await read_inbox(context, opt_outs)

    return run_interruptibly(read())


@task(name="read-updates", **STEP)
def read_updates(
    credentials: MyMSPCredentials, journal: OpenJournal, deadline_s: float, requests_per_minute: int
) -> UpdatesResult:
    """Fetch the updates, store them, and poll the messages they refer to. Never retried: the gateway removes them."""
    from prefect_mymsp.campaign import CampaignContext, process_updates

    async def read() -> UpdatesResult:
        async with credentials.get_async_client() as client:
            with CampaignContext(journal, client, credentials.account) as context:
                return await process_updates(
                    context,
                    deadline_s=deadline_s,
                    requests_per_minute=requests_per_minute,
                    tracking_days=MyMSPSettings().tracking_days,
                )

    return run_interruptibly(read())


@flow(name="collect-inbox", retries=0, persist_result=False)
def collect_inbox(
    credentials: Credentials = "default",
    opt_out_words: Annotated[list[str], label("Opt out words")] = list(OPT_OUT_WORDS),  # noqa: B006  never changed
    include_text_in_events: Annotated[bool, label("Include text in events")] = False,
    events_max_age_days: Annotated[float, label("Events max age days")] = 7.0,
    journal: Journal = None,
) -> DataFrame:
    """Store new received messages, add opt-outs to the suppression list, and emit an event for each message.

    Each message is stored once, however often this flow runs, fails, or runs twice at once. Its event
    ``mymsp.message.received`` is emitted at least once, always with the same id.

    Args:
        credentials: Gateway account that received them.
        opt_out_words: First words, after the account's prefix, that opt a sender out. Case and punctuation are ignored.
        include_text_in_events: Include the text in events. Prefect stores events and shows them to all its users.
        events_max_age_days: Emit no events for older messages. The inbox of an old account holds years of messages.
        journal: Database that stores the messages.

    Returns:
        The new messages, by id, with the columns of :data:`prefect_mymsp.reports.frames.INBOX_DTYPES`. Messages that an
        earlier run stored before it died are not among them; they are in the journal.

    Raises:
        InputError: An option is out of range.
        NotSentError: The gateway refuses or cannot be reached.
        InDoubtError: The gateway does not respond. The next run starts at the same point.
        JournalError: The journal failed.
    """
    opt_outs = _checked_opt_outs(opt_out_words, events_max_age_days)
    account = load_credentials(credentials)
    with open_journal(journal) as opened:
        frame, _ = _collect_inbox(account, opened, opt_outs, include_text_in_events, events_max_age_days)
    return frame


@flow(name="collect-updates", retries=0, persist_result=False)
def collect_updates(
    credentials: Credentials = "default",
    opt_out_words: Annotated[list[str], label("Opt out words")] = list(OPT_OUT_WORDS),  # noqa: B006  never changed
    include_text_in_events: Annotated[bool, label("Include text in events")] = False,
    events_max_age_days: Annotated[float, label("Events max age days")] = 7.0,
    requests_per_minute: Annotated[int, label("Requests per minute")] = 3000,
    max_minutes: Annotated[float, label("Max minutes")] = 4.0,
    journal: Journal = None,
) -> CollectedUpdates:
    """Collect the account's updates, poll the messages they refer to, and then collect the inbox.

    The gateway returns each update once, so other systems of this account cannot read it. The response is stored in the
    journal before it is parsed, and a run that dies leaves the rest to the next one. Updates are hints: the status
    itself comes from the gateway's results, and received messages come from the inbox.

    Args:
        credentials: Gateway account. The gateway's support must have activated updates for it.
        opt_out_words: First words, after the account's prefix, that opt a sender out. Case and punctuation are ignored.
        include_text_in_events: Include the text in events. Prefect stores events and shows them to all its users.
        events_max_age_days: Emit no events for older messages. The inbox of an old account holds years of messages.
        requests_per_minute: Maximum number of status requests per minute.
        max_minutes: Poll messages for at most this long. The next run polls the rest.
        journal: Database that stores the updates and the messages.

    Returns:
        The collected updates. ``problem`` is set if the gateway's response was lost.

    Raises:
        InputError: An option is out of range.
        NotSentError: The gateway refuses or cannot be reached.
        InDoubtError: The inbox could not be read. The next run starts at the same point.
        JournalError: The journal failed.
    """
    logger = get_run_logger()
    opt_outs = _checked_opt_outs(opt_out_words, events_max_age_days)
    if not max_minutes > 0:
        raise InputError("max_minutes must be above zero.")
    if requests_per_minute < 1:
        raise InputError("requests_per_minute must be at least 1.")
    account = load_credentials(credentials)
    with open_journal(journal) as opened:
        updates = read_updates(account, opened, max_minutes * 60, requests_per_minute)
        # Always: a lost update may have been about the inbox.
        frame, inbox = _collect_inbox(account, opened, opt_outs, include_text_in_events, events_max_age_days)
    if isinstance(updates.failure, RefusedError):
        logger.error("Check user and password. If they are right, ask the gateway's support to activate updates.")
    if isinstance(updates.failure, NotSentError):
        raise updates.failure
    problem = None if updates.failure is None else f"{updates.failure} The gateway will not send these updates again."
    if problem is not None:
        logger.warning("%s", problem)
    logger.info(
        "%d delivery reports: %d messages changed, %d requests in doubt were found. %d records could not be parsed; %d "
        "updates wait for the next run.",
        updates.delivery_reports, updates.changed, updates.linked, updates.unparsed, updates.postponed,
    )  # fmt: skip
    return CollectedUpdates(
        delivery_reports=updates.delivery_reports,
        changed=updates.changed,
        linked=updates.linked,
        received=len(inbox.new),
        opted_out=inbox.opted_out,
        unparsed=updates.unparsed,
        postponed=updates.postponed,
        problem=problem,
        inbox=frame,
    )


def _checked_opt_outs(opt_out_words: list[str], events_max_age_days: float) -> OptOuts:
    from prefect_mymsp.campaign import OptOuts

    if not 0 <= events_max_age_days <= 36_500:
        raise InputError("events_max_age_days must be from 0 to 36,500.")
    return OptOuts(opt_out_words)


def _collect_inbox(
    credentials: MyMSPCredentials,
    journal: OpenJournal,
    opt_outs: OptOuts,
    include_text: bool,
    max_age_days: float,
) -> tuple[DataFrame, InboxResult]:
    """Store new messages and emit their events; returns the messages as a frame, and the counts."""
    from prefect_mymsp.reports import inbox_frame

    logger, account = get_run_logger(), credentials.account
    last_number = last_emitted_number(journal, account)
    inbox = store_inbox(credentials, journal, opt_outs)
    if inbox.unparsed:
        logger.error(
            "%d records of the inbox cannot be parsed. The journal keeps them as they came; the gateway's web pages "
            "may show them.",
            len(inbox.unparsed),
        )
    logger.info("%d new messages, %d of them opt-outs.", len(inbox.new), inbox.opted_out)
    # Includes messages that an earlier run stored before it died.
    emit_received_messages(journal, account, include_text=include_text, max_age_days=max_age_days)
    new_ids = {message.message_id for message in inbox.new}
    rows = [row for chunk in journal.inbox.rows(account, after=last_number) for row in chunk if row[1] in new_ids]
    rows.sort(key=lambda row: int(row[1]))
    return inbox_frame([rows]), inbox
