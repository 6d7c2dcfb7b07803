"""Results of accepted requests, which are tracked until they are final."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.conditions import batch_due_at, batch_is_open, message_is_delivered
from prefect_mymsp.journal.database import slices
from prefect_mymsp.journal.records import OpenBatch, Pending
from prefect_mymsp.phone import gateway_digits
from prefect_mymsp.states import ACCEPTED, DELIVERED, IN_DOUBT, PLANNED, SENDING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.database import Database
    from prefect_mymsp.journal.records import CampaignKey
    from prefect_mymsp.models import RecipientStatus, SmsResult

_batch, _message, _campaign = schema.batch, schema.message, schema.campaign
_group = _message.alias("group_message")
#: Whether a request is for a recipient group.
batch_is_to_group = (
    sa.exists()
    .where(
        _group.c.campaign_id == _batch.c.campaign_id, _group.c.batch_id == _batch.c.id, schema.is_group(_group.c.msisdn)
    )
    .correlate(_batch)
)
#: The columns that :func:`open_batch` takes.
OPEN_BATCH_COLUMNS = (
    _batch.c.id,
    sa.func.coalesce(_batch.c.message_id, ""),
    _batch.c.claimed_at,
    sa.func.coalesce(_batch.c.settled_at, _batch.c.claimed_at, type_=schema.Instant()),
    _batch.c.confirmed_at,
    batch_is_to_group,
    batch_due_at,
)


def open_batch(row: Sequence[Any]) -> OpenBatch:
    """Make a record of a row that begins with :data:`OPEN_BATCH_COLUMNS`."""
    return OpenBatch(row[0], row[1], row[2], row[3], row[4] is not None, bool(row[5]), row[6])


class Deliveries:
    """Results of accepted requests, as ``journal.deliveries``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_batches(
        self, campaign: CampaignKey, *, after: int = 0, limit: int = 1000, since: datetime | None = None
    ) -> list[OpenBatch]:
        """Return a campaign's open requests in the order of their numbers.

        Args:
            campaign: The campaign.
            after: Only requests with a higher number.
            limit: Largest number of requests.
            since: Only requests whose messages were to leave at this time or later, aware.
        """
        where = [_batch.c.campaign_id == campaign.id, batch_is_open, _batch.c.id > after]
        if since is not None:
            where.append(batch_due_at >= since)
        select = sa.select(*OPEN_BATCH_COLUMNS).where(*where).order_by(_batch.c.id).limit(limit)
        with self._database.read() as connection:
            return [open_batch(row) for row in connection.execute(select)]

    def by_message_ids(self, account: str, ids: Sequence[str]) -> dict[str, tuple[int, OpenBatch | None]]:
        """Return the requests that have these message ids: (campaign number, the request if it is open).

        Ids that no campaign of the account has are left out.
        """
        batches: dict[str, tuple[int, OpenBatch | None]] = {}
        with self._database.read() as connection:
            for some_ids in slices(ids):
                is_open = batch_is_open & _campaign.c.purged_at.is_(None)
                select = (
                    sa.select(*OPEN_BATCH_COLUMNS, _batch.c.campaign_id, _batch.c.message_id, is_open)
                    .join(_campaign, _campaign.c.id == _batch.c.campaign_id)
                    .where(_campaign.c.account == account, _batch.c.message_id.in_(some_ids))
                )
                for row in connection.execute(select):
                    batches[row[-2]] = (row[-3], open_batch(row) if row[-1] else None)
        return batches

    def recipients(self, batch_ids: Sequence[int]) -> dict[int, set[str]]:
        """Return the recipients of each request."""
        recipients: dict[int, set[str]] = {}
        with self._database.read() as connection:
            for ids in slices(batch_ids):
                select = sa.select(_message.c.batch_id, _message.c.msisdn).where(_message.c.batch_id.in_(ids))
                for batch_id, msisdn in connection.execute(select):
                    recipients.setdefault(batch_id, set()).add(msisdn)
        return recipients

    def pending(self, account: str, since: datetime, now: datetime | None = None) -> dict[int, Pending]:
        """Count an account's messages that have no final outcome, by campaign number.

        Campaigns without such messages are left out.

        Args:
            account: Fingerprint of the gateway account.
            since: Requests whose messages were to leave before this time are too old, aware.
            now: The present time, aware; None for the clock's.
        """
        now = now or datetime.now(UTC)
        run = schema.run
        is_of_account = (_campaign.c.account == account, _campaign.c.purged_at.is_(None))
        is_young, is_in_doubt = batch_due_at >= since, _batch.c.state == IN_DOUBT

        def total(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
            return sa.func.coalesce(sa.func.sum(sa.case((condition, _batch.c.size), else_=0)), 0)

        sums = (
            sa.select(
                _batch.c.campaign_id,
                total(batch_is_open & is_young),
                total(is_in_doubt & is_young),
                total(is_in_doubt & (_batch.c.send_at > now)),
                total((batch_is_open | is_in_doubt) & ~is_young),
            )
            .join(_campaign, _campaign.c.id == _batch.c.campaign_id)
            .where(*is_of_account, batch_is_open | _batch.c.state.in_([PLANNED, SENDING, IN_DOUBT]))
            .group_by(_batch.c.campaign_id)
        )
        alive = (
            sa.select(run.c.campaign_id)
            .join(_campaign, _campaign.c.id == run.c.campaign_id)
            .where(*is_of_account, run.c.ended_at.is_(None), run.c.lease_until > now)
        )
        with self._database.read() as connection:
            running = set(connection.scalars(alive))
            return {
                row[0]: Pending(int(row[1]), int(row[2]), int(row[3]), int(row[4]), row[0] in running)
                for row in connection.execute(sums)
            }

    def undelivered(self, campaign: CampaignKey) -> dict[str, int]:
        """Count a campaign's accepted messages that are not delivered, by the gateway's status."""
        status = sa.func.coalesce(_message.c.status, "unknown")
        select = (
            sa.select(status, sa.func.count())
            .select_from(_message.join(_batch, _batch.c.id == _message.c.batch_id))
            .where(_message.c.campaign_id == campaign.id, _batch.c.state == ACCEPTED, status != DELIVERED)
            .group_by(status)
        )
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(select)}

    def record_statuses(
        self, statuses: Mapping[int, Sequence[RecipientStatus]], *, archived: Iterable[int] = ()
    ) -> int:
        """Record the gateway's statuses of requests' recipients; returns how many messages changed.

        A status of a recipient that is not the request's changes nothing. A request is final when all its messages
        are delivered.

        Args:
            statuses: The gateway's statuses by request.
            archived: Requests whose messages the gateway has archived. They are final and keep their recorded results.
        """
        now = datetime.now(UTC)
        values = [
            {
                "of_batch": batch_id,
                "recipient": gateway_digits(status.recipient),
                "new_status": status.status[:64].replace("\x00", "\ufffd"),  # PostgreSQL cannot store NUL
                "new_sent_at": status.sent_at,
                "new_delivered_at": status.delivered_at,
            }
            for batch_id, batch_statuses in statuses.items()
            for status in batch_statuses
        ]
        with self._database.write() as connection:
            changed = _update_statuses(connection, values, now) if values else 0
            for ids in slices(list(statuses)):
                delivered = sa.select(sa.func.count()).where(_message.c.batch_id == _batch.c.id, message_is_delivered)
                # Requests whose messages were purged meanwhile keep their counts.
                has_messages = sa.exists().where(_message.c.batch_id == _batch.c.id)
                update = _batch.update().where(_batch.c.id.in_(ids), has_messages)
                connection.execute(update.values(delivered=delivered.scalar_subquery()))
                connection.execute(update.where(_batch.c.delivered == _batch.c.size).values(final_at=now))
            for ids in slices(list(archived)):
                connection.execute(_batch.update().where(_batch.c.id.in_(ids)).values(final_at=now))
        return changed

    def record_group_results(self, results: Mapping[int, SmsResult]) -> int:
        """Record the results of requests to recipient groups; returns how many requests changed.

        Only counts are recorded, not the members. A request is final when all members' messages are delivered.

        Args:
            results: The gateway's results by request.
        """
        changed = 0
        with self._database.write() as connection:
            for batch_id, result in results.items():
                delivered = min(result.delivered, result.recipients)
                is_final = delivered == result.recipients
                differs = (_batch.c.size != result.recipients) | (_batch.c.delivered != delivered)
                final_at = datetime.now(UTC) if is_final else None
                changed += connection.execute(
                    _batch.update()
                    .where(_batch.c.id == batch_id, _batch.c.state == ACCEPTED, differs)
                    .values(size=result.recipients, delivered=delivered, final_at=final_at)
                ).rowcount
                if is_final:
                    sent = [status.sent_at for status in result.statuses if status.sent_at]
                    arrived = [status.delivered_at for status in result.statuses if status.delivered_at]
                    connection.execute(
                        _message.update()
                        .where(_message.c.batch_id == batch_id)
                        .values(
                            status=DELIVERED,
                            sent_at=min(sent, default=None),
                            delivered_at=max(arrived, default=None),
                        )
                    )
        return changed


def _update_statuses(connection: Connection, values: list[dict[str, Any]], now: datetime) -> int:
    """Record statuses that differ; returns how many messages changed."""
    instant = schema.Instant()
    status: sa.BindParameter[Any] = sa.bindparam("new_status")
    sent_at = sa.bindparam("new_sent_at", type_=instant)
    delivered_at = sa.bindparam("new_delivered_at", type_=instant)
    status_differs = _message.c.status.is_distinct_from(status)
    differs = sa.or_(
        status_differs,
        _message.c.sent_at.is_distinct_from(sent_at),
        _message.c.delivered_at.is_distinct_from(delivered_at),
    )
    before = _total_changes(connection)
    result = connection.execute(
        _message.update()
        .where(_message.c.batch_id == sa.bindparam("of_batch"), _message.c.msisdn == sa.bindparam("recipient"), differs)
        .values(
            status=status,
            sent_at=sent_at,
            delivered_at=delivered_at,
            status_changed_at=sa.case((status_differs, sa.literal(now, instant)), else_=_message.c.status_changed_at),
        ),
        values,
    )
    return result.rowcount if before is None else (_total_changes(connection) or 0) - before


def _total_changes(connection: Connection) -> int | None:
    """Rows changed so far on an SQLite connection: its executemany does not count them reliably. None elsewhere."""
    if connection.dialect.name != "sqlite":
        return None
    return int(connection.exec_driver_sql("SELECT total_changes()").scalar_one())
