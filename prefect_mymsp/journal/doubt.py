"""Requests in doubt: they may have been sent, and are never sent again without evidence."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.campaigns import check_not_purged
from prefect_mymsp.journal.conditions import batch_due_at, batch_is_open
from prefect_mymsp.journal.database import slices
from prefect_mymsp.journal.deliveries import OPEN_BATCH_COLUMNS, batch_is_to_group, open_batch
from prefect_mymsp.journal.records import CandidateBatch, WatchedBatch
from prefect_mymsp.models import Decision
from prefect_mymsp.states import ACCEPTED, ASSUMED, IN_DOUBT, RELEASED, SENDING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.database import Database
    from prefect_mymsp.journal.records import CampaignKey


class Doubt:
    """Requests in doubt, as ``journal.doubt``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def watched(self, campaign: CampaignKey, now: datetime) -> list[WatchedBatch]:
        """Return requests scheduled after ``now`` that were in doubt at some time, and those that are being sent.

        A message that the gateway lists with an unknown id may belong to any of them.
        """
        batch = schema.batch
        select = (
            sa.select(batch.c.id, batch.c.state, batch.c.text_id, batch.c.send_at, batch.c.settled_at)
            .where(
                batch.c.campaign_id == campaign.id,
                batch.c.send_at > now,
                batch.c.doubted_at.is_not(None) | (batch.c.state == SENDING),
            )
            .order_by(batch.c.id)
        )
        with self._database.read() as connection:
            rows = connection.execute(select).all()
            recipients = _intended_recipients(connection, [row[0] for row in rows])
        return [
            WatchedBatch(row[0], row[1], row[2], row[3], row[4], frozenset(recipients.get(row[0], ()))) for row in rows
        ]

    def known_message_ids(self, campaign: CampaignKey, ids: Sequence[str]) -> set[str]:
        """Return the message ids that belong to a request of any campaign of the account."""
        batch, claimed_ids = schema.batch, set[str]()
        with self._database.read() as connection:
            for some_ids in slices(ids):
                select = (
                    sa.select(batch.c.message_id)
                    .join(schema.campaign, schema.campaign.c.id == batch.c.campaign_id)
                    .where(schema.campaign.c.account == campaign.account, batch.c.message_id.in_(some_ids))
                )
                claimed_ids.update(connection.scalars(select))
        return claimed_ids

    def candidates(self, account: str, msisdns: Sequence[str], since: datetime) -> list[CandidateBatch]:
        """Return requests to any of these recipients that may have a message at the gateway under an unknown id.

        Args:
            account: Fingerprint of the gateway account.
            msisdns: The recipients.
            since: Only requests whose messages were to leave at this time or later, aware.
        """
        batch, message, campaign = schema.batch, schema.message, schema.campaign
        has_no_id = batch.c.state.in_([SENDING, IN_DOUBT]) | (batch_is_open & batch.c.confirmed_at.is_(None))
        rows, recipients = dict[int, Any](), dict[int, set[str]]()
        with self._database.read() as connection:
            for some_msisdns in slices(msisdns):
                select = (
                    sa.select(*OPEN_BATCH_COLUMNS, batch.c.campaign_id, batch.c.state)
                    .distinct()
                    .join(message, message.c.batch_id == batch.c.id)
                    .join(campaign, campaign.c.id == message.c.campaign_id)
                    .where(
                        campaign.c.account == account,
                        message.c.msisdn.in_(some_msisdns),
                        has_no_id,
                        batch_due_at >= since,
                    )
                )
                rows.update((row[0], row) for row in connection.execute(select))
            for ids in slices(sorted(rows)):
                members = sa.select(message.c.batch_id, message.c.msisdn).where(message.c.batch_id.in_(ids))
                for batch_id, msisdn in connection.execute(members):
                    recipients.setdefault(batch_id, set()).add(msisdn)
        return [
            CandidateBatch(open_batch(row), row[-2], row[-1], frozenset(recipients.get(batch_id, ())))
            for batch_id, row in sorted(rows.items())
        ]

    def has_group_in_doubt(self, account: str, since: datetime) -> bool:
        """Whether a request to a recipient group is in doubt whose message was to leave at this time or later."""
        batch, campaign = schema.batch, schema.campaign
        select = (
            sa.select(sa.literal(1))
            .select_from(batch.join(campaign, campaign.c.id == batch.c.campaign_id))
            .where(campaign.c.account == account, batch.c.state == IN_DOUBT, batch_is_to_group, batch_due_at >= since)
            .limit(1)
        )
        with self._database.read() as connection:
            return connection.execute(select).first() is not None

    def confirm_message_ids(self, batch_ids: Sequence[int]) -> None:
        """Record that a result named the recipients of these requests: their message ids belong to them."""
        batch, now = schema.batch, datetime.now(UTC)
        with self._database.write() as connection:
            for ids in slices(batch_ids):
                connection.execute(batch.update().where(batch.c.id.in_(ids)).values(confirmed_at=now))

    def reject_message_id(self, batch_id: int, reason: str) -> None:
        """Put an accepted request in doubt, because its message id belongs to another message."""
        batch, now = schema.batch, datetime.now(UTC)
        with self._database.write() as connection:
            connection.execute(
                batch.update()
                .where(batch.c.id == batch_id, batch.c.state == ACCEPTED)
                .values(
                    state=IN_DOUBT,
                    message_id=None,
                    reason=reason,
                    settled_at=now,
                    confirmed_at=None,
                    final_at=None,
                    doubted_at=sa.func.coalesce(batch.c.doubted_at, sa.literal(now, schema.Instant())),
                )
            )

    def resolve(self, campaign: CampaignKey, decision: Decision) -> int:
        """Resolve requests in doubt by a person's decision; returns the number of messages.

        Raises:
            InputError: The campaign's messages were purged.
        """
        batch, message, now = schema.batch, schema.message, datetime.now(UTC)
        state = ASSUMED if decision == "sent" else RELEASED
        select = sa.select(batch.c.id).where(batch.c.campaign_id == campaign.id, batch.c.state == IN_DOUBT)
        with self._database.write() as connection:
            check_not_purged(connection, campaign)
            count = 0
            for ids in slices(connection.scalars(select.with_for_update()).all()):
                members = sa.select(sa.func.count()).select_from(message).where(message.c.batch_id.in_(ids))
                count += connection.execute(members).scalar_one()
                if state == RELEASED:
                    remember_recipients(connection, ids, IN_DOUBT)
                connection.execute(
                    batch.update().where(batch.c.id.in_(ids)).values(state=state, settled_at=now, reason="decided")
                )
                if state == RELEASED:
                    connection.execute(message.update().where(message.c.batch_id.in_(ids)).values(batch_id=None))
            return count


def remember_recipients(connection: Connection, batch_ids: Sequence[int], state: str) -> None:
    """Keep the recipients of scheduled requests that were in doubt, before their messages leave them.

    Args:
        connection: In a transaction that writes.
        batch_ids: Requests that are released.
        state: Only requests in this state.
    """
    batch, message = schema.batch, schema.message
    recipients = (
        sa.select(message.c.batch_id, message.c.msisdn)
        .join(batch, batch.c.id == message.c.batch_id)
        .where(
            batch.c.id.in_(batch_ids),
            batch.c.state == state,
            batch.c.doubted_at.is_not(None),
            batch.c.send_at.is_not(None),
        )
    )
    connection.execute(schema.released_recipient.insert().from_select(["batch_id", "msisdn"], recipients))


def _intended_recipients(connection: Connection, batch_ids: Sequence[int]) -> dict[int, list[str]]:
    """Return the recipients of requests, also of released ones whose messages have left them."""
    recipients: dict[int, list[str]] = {}
    for table in (schema.message, schema.released_recipient):
        for ids in slices(batch_ids):
            select = sa.select(table.c.batch_id, table.c.msisdn).where(table.c.batch_id.in_(ids))
            for batch_id, msisdn in connection.execute(select):
                recipients.setdefault(batch_id, []).append(msisdn)
    return recipients
