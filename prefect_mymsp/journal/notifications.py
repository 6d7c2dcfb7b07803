"""Notifications that were sent, so that a failing deployment does not send hundreds of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from prefect_mymsp.errors import InputError
from prefect_mymsp.journal import schema
from prefect_mymsp.journal.database import NOTIFYING, advisory_lock

if TYPE_CHECKING:
    from prefect_mymsp.journal.database import Database


class NotificationLimiter:
    """A limit on notifications for all processes together, as ``journal.notifications``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def try_acquire(self, account: str, topic: str, *, at_most: int, per_s: float, now: datetime | None = None) -> bool:
        """Count one more notification if the limit allows it; returns whether it may be sent.

        Args:
            account: Fingerprint of the gateway account.
            topic: The group of notifications that share the limit.
            at_most: Largest number of notifications.
            per_s: The period in which they are counted, in seconds.
            now: The present time, aware; None for the clock's.

        Raises:
            InputError: ``at_most`` is negative, or ``per_s`` is not above zero.
        """
        if at_most < 0 or not per_s > 0:
            raise InputError("at_most must not be negative, and per_s must be above zero.")
        table, now = schema.notification, now or datetime.now(UTC)
        recent = sa.select(sa.func.count()).where(
            table.c.account == account, table.c.topic == topic, table.c.sent_at > now - timedelta(seconds=per_s)
        )
        with self._database.write() as connection:
            advisory_lock(connection, NOTIFYING)  # two processes must not count at the same time
            if connection.execute(recent).scalar_one() >= at_most:
                return False
            connection.execute(table.insert().values(account=account, topic=topic, sent_at=now))
            return True
