"""Purging: personal data is deleted, the counts stay."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from prefect_mymsp.errors import InputError
from prefect_mymsp.journal import schema
from prefect_mymsp.journal.batches import plan_batches
from prefect_mymsp.journal.campaigns import summarize
from prefect_mymsp.journal.database import RECORDING, advisory_lock
from prefect_mymsp.journal.inbox import received_time
from prefect_mymsp.journal.records import CampaignKey, PurgeResult
from prefect_mymsp.times import require_aware

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.database import Database


class Retention:
    """Deletion of personal data, as ``journal.retention``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def purge(self, account: str, before: datetime) -> PurgeResult:
        """Purge campaigns last active before a time, messages received and raw responses stored before it.

        A campaign's requests stay, with their states and ids, and so do its counts. Its numbers, statuses and texts
        are deleted, except for texts that another campaign uses. Suppressions stay, however old they are. Received
        messages stay as times and kinds, so that none is stored twice. Raw responses are deleted, processed or not.
        Requests in doubt cannot be resolved any more.

        Each campaign is purged in a transaction of its own: after an error, call it again.

        Args:
            account: Fingerprint of the gateway account.
            before: Aware and in the past. See :class:`CampaignSummary` for when a campaign was last active.

        Raises:
            InputError: The time has no time zone or is in the future.
            JournalError: The journal cannot be written.
        """
        if require_aware(before, "before") > datetime.now(UTC):
            raise InputError("before must be in the past.")
        table = schema.campaign
        is_old = [table.c.account == account, table.c.purged_at.is_(None), table.c.created_at < before]
        with self._database.read() as connection:
            campaigns = [summary.key for summary in summarize(connection, is_old) if summary.active_at < before]
        skipped, messages = list[str](), 0
        for campaign in campaigns:
            with self._database.write() as connection:
                locking = sa.select(table.c.id).where(table.c.id == campaign.id)
                connection.execute(locking.with_for_update(key_share=True))
                for summary in summarize(connection, [*is_old, table.c.id == campaign.id]):
                    counts = summary.counts
                    unsent = counts.sending or (counts.planned and summary.cancelled_at is None)
                    if unsent or summary.active_at >= before:
                        skipped.append(campaign.name)
                    else:
                        messages += _purge_campaign(connection, campaign)
        with self._database.write() as connection:
            advisory_lock(connection, RECORDING)  # a recording holds texts whose messages come later
            texts = _empty_unused_texts(connection)
            received = _empty_received(connection, account, before)
            raw_responses = _delete_raw_responses(connection, account, before)
        self._database.checkpoint_wal()
        return PurgeResult(len(campaigns) - len(skipped), messages, texts, received, raw_responses, tuple(skipped))


def _purge_campaign(connection: Connection, campaign: CampaignKey) -> int:
    """Delete a campaign's messages; returns how many."""
    table, message, batch = schema.campaign, schema.message, schema.batch
    released_recipient, rejected_row = schema.released_recipient, schema.rejected_row
    plan_batches(connection, campaign, 500)  # messages in no batch would be missing in the counts
    connection.execute(table.update().where(table.c.id == campaign.id).values(purged_at=datetime.now(UTC)))
    batch_ids = sa.select(batch.c.id).where(batch.c.campaign_id == campaign.id)
    connection.execute(released_recipient.delete().where(released_recipient.c.batch_id.in_(batch_ids)))
    connection.execute(rejected_row.delete().where(rejected_row.c.campaign_id == campaign.id))
    return connection.execute(message.delete().where(message.c.campaign_id == campaign.id)).rowcount


def _empty_unused_texts(connection: Connection) -> int:
    """Empty the texts that no message has; returns how many.

    They get a random digest: under the old one, the next campaign with that text would send the empty text.
    """
    text, message = schema.text, schema.message
    on_sqlite = connection.dialect.name == "sqlite"
    random = sa.func.randomblob(16) if on_sqlite else sa.func.uuid_send(sa.func.gen_random_uuid())
    unused = text.c.id.not_in(sa.select(message.c.text_id))
    return connection.execute(text.update().where(text.c.body != "", unused).values(body="", digest=random)).rowcount


def _empty_received(connection: Connection, account: str, before: datetime) -> int:
    """Empty messages received before a time; returns how many."""
    table = schema.received
    personal = (table.c.sender, table.c.alias, table.c.subject)
    is_not_empty = sa.or_(table.c.text != "", *(column.is_not(None) for column in personal))
    return connection.execute(
        table.update()
        .where(table.c.account == account, received_time < before, is_not_empty)
        .values(sender=None, alias=None, subject=None, text="")
    ).rowcount


def _delete_raw_responses(connection: Connection, account: str, before: datetime) -> int:
    """Delete raw responses stored before a time; returns how many."""
    table = schema.raw_response
    return connection.execute(table.delete().where(table.c.account == account, table.c.stored_at < before)).rowcount
