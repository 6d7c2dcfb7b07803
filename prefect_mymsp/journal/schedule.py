"""Requests that wait at the gateway for their scheduled time: rescheduled and cancelled."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from prefect_mymsp.errors import InputError
from prefect_mymsp.journal import schema
from prefect_mymsp.journal.campaigns import check_not_purged, state_sizes
from prefect_mymsp.journal.conditions import raw
from prefect_mymsp.journal.database import slices
from prefect_mymsp.journal.records import ScheduledBatch
from prefect_mymsp.states import ACCEPTED, CANCELLED, IN_DOUBT, PLANNED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.database import Database
    from prefect_mymsp.journal.records import CampaignKey


class Schedule:
    """Scheduled requests, as ``journal.schedule``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def batches(
        self, campaign: CampaignKey, now: datetime, *, include_moving: bool = False
    ) -> dict[str, ScheduledBatch]:
        """Return accepted requests that are scheduled after ``now``, by message id.

        Args:
            campaign: The campaign.
            now: The present time, aware.
            include_moving: Also those that are being rescheduled to a time after ``now``.
        """
        batch = schema.batch
        is_waiting = batch.c.send_at > now
        if include_moving:
            is_waiting |= batch.c.rescheduled_to > now
        with self._database.read() as connection:
            return _scheduled(connection, campaign, is_waiting)

    def reschedule(self, campaign: CampaignKey, send_at: datetime) -> dict[str, ScheduledBatch]:
        """Give a campaign another scheduled time, before the requests to the gateway.

        Planned messages will be sent for the new time. From now on, each request at the gateway may have its old or
        its new time, until :meth:`mark_rescheduled` records which. All keep their distance from the campaign's time.

        Args:
            campaign: The campaign; no run may be sending it.
            send_at: The new time, a whole minute, in the future.

        Returns:
            The requests to move at the gateway, by message id, including what an earlier call for this time left.

        Raises:
            InputError: The campaign was cancelled or purged, has no scheduled time, was sent, is being sent, has
                requests in doubt that may wait at the gateway, or is still being rescheduled to another time.
        """
        table, batch, run, now = schema.campaign, schema.batch, schema.run, datetime.now(UTC)
        name = campaign.name
        with self._database.write() as connection:
            # No run can start before this transaction ends.
            before, cancelled_at = connection.execute(
                sa.select(table.c.send_at, table.c.cancelled_at)
                .where(table.c.id == campaign.id)
                .with_for_update(key_share=True)
            ).one()
            check_not_purged(connection, campaign)
            if cancelled_at is not None:
                raise InputError(f"The campaign {name!r} was cancelled; there is nothing to reschedule.")
            if before is None:
                raise InputError(f"The campaign {name!r} has no scheduled time: its messages are sent at once.")
            running = sa.select(run.c.id).where(
                run.c.campaign_id == campaign.id, run.c.ended_at.is_(None), run.c.lease_until > now
            )
            if connection.execute(running.limit(1)).first() is not None:
                raise InputError(
                    f"The campaign {name!r} is being sent, or its run has just ended. Wait a minute, then reschedule "
                    "it."
                )
            in_doubt = sa.select(sa.func.sum(batch.c.size)).where(
                batch.c.campaign_id == campaign.id, batch.c.state == IN_DOUBT, batch.c.send_at > now
            )
            if count := connection.execute(in_doubt).scalar():
                raise InputError(
                    f"{count} messages of campaign {name!r} are in doubt: they may wait at the gateway under an "
                    "unknown id, where they cannot be rescheduled. Start the campaign again, which looks them up, or "
                    "resolve them with resolve_campaign. Then reschedule it."
                )
            is_moving = batch.c.rescheduled_to > now
            is_waiting = (batch.c.send_at > now) | is_moving
            if before != send_at and _scheduled(connection, campaign, is_moving):
                raise InputError(
                    f"The campaign {name!r} is still being rescheduled to {before:%Y-%m-%d %H:%M} UTC, and some "
                    "requests may have the time before that. Reschedule it to that time once more first."
                )
            if PLANNED not in state_sizes(connection, campaign) and not _scheduled(connection, campaign, is_waiting):
                raise InputError(f"All of campaign {name!r} was sent; there is nothing to reschedule.")
            if before != send_at:
                delay = (send_at - before) // schema.MICROSECOND
                moved = sa.type_coerce(raw(batch.c.send_at) + delay, schema.Instant())
                where = (batch.c.campaign_id == campaign.id, batch.c.state == ACCEPTED, is_waiting)
                connection.execute(batch.update().where(*where).values(rescheduled_to=moved))
                connection.execute(table.update().where(table.c.id == campaign.id).values(send_at=send_at))
            return _scheduled(connection, campaign, is_moving)

    def mark_rescheduled(self, moved: Sequence[int], stayed: Sequence[int] = ()) -> None:
        """Record which time requests have that were being rescheduled.

        Args:
            moved: Requests that have the new time.
            stayed: Requests that do not: the gateway had sent them, or another system rescheduled or cancelled them.
        """
        batch = schema.batch
        with self._database.write() as connection:
            for ids in slices(moved):
                connection.execute(
                    batch.update()
                    .where(batch.c.id.in_(ids), batch.c.rescheduled_to.is_not(None))
                    .values(send_at=batch.c.rescheduled_to, rescheduled_to=None)
                )
            for ids in slices(stayed):
                connection.execute(batch.update().where(batch.c.id.in_(ids)).values(rescheduled_to=None))

    def mark_cancelled(self, batch_ids: Sequence[int]) -> None:
        """Record that accepted requests were cancelled at the gateway."""
        batch, now = schema.batch, datetime.now(UTC)
        with self._database.write() as connection:
            for ids in slices(batch_ids):
                connection.execute(
                    batch.update()
                    .where(batch.c.id.in_(ids), batch.c.state == ACCEPTED)
                    .values(state=CANCELLED, settled_at=now, final_at=now)
                )


def _scheduled(
    connection: Connection, campaign: CampaignKey, where: sa.ColumnElement[bool]
) -> dict[str, ScheduledBatch]:
    batch = schema.batch
    rows = connection.execute(
        sa.select(batch.c.message_id, batch.c.id, batch.c.send_at, batch.c.settled_at, batch.c.rescheduled_to)
        .where(batch.c.campaign_id == campaign.id, batch.c.state == ACCEPTED, where)
        .order_by(batch.c.id)
    )
    return {message_id: ScheduledBatch(*columns) for message_id, *columns in rows}
