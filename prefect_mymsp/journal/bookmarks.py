"""Small things to remember between runs: how far a reader has come, and which notifications went out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from prefect_mymsp.errors import InputError
from prefect_mymsp.journal import schema
from prefect_mymsp.journal.database import NOTING, advisory_lock, insert

if TYPE_CHECKING:
    from prefect_mymsp.journal.database import Database


class Bookmarks:
    """How far readers have come, as ``journal.bookmarks``: one text for each account and name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, account: str, name: str) -> str | None:
        """What was put under that name; None when nothing was."""
        table = schema.bookmark
        with self._database.read() as connection:
            found: str | None = connection.scalar(
                sa.select(table.c.value).where(table.c.account == account, table.c.name == name)
            )
            return found

    def put(self, account: str, name: str, value: str) -> None:
        """Put a value under that name, instead of the one that is there."""
        with self._database.write() as connection:
            adding = insert(connection, schema.bookmark).values(account=account, name=name, value=value)
            connection.execute(
                adding.on_conflict_do_update(index_elements=["account", "name"], set_={"value": adding.excluded.value})
            )


class NotificationLimiter:
    """Notifications that went out, as ``journal.notifications``: a failing deployment must not send hundreds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def try_acquire(self, account: str, topic: str, *, at_most: int, per_s: float, now: datetime | None = None) -> bool:
        """Whether one more notification may go; if so, it counts from now on, for every process.

        Args:
            account: See :func:`~prefect_mymsp.account.account_fingerprint`.
            topic: What is counted together.
            at_most: How many may go.
            per_s: In so many seconds.
            now: The moment, aware; the default is the present.

        Raises:
            InputError: No number of notifications, or no time.
        """
        if at_most < 0 or not per_s > 0:
            raise InputError("at_most must not be negative, and per_s must be above zero.")
        table, now = schema.notice, now or datetime.now(UTC)
        lately = sa.select(sa.func.count()).where(
            table.c.account == account, table.c.topic == topic, table.c.noted_at > now - timedelta(seconds=per_s)
        )
        with self._database.write() as connection:
            advisory_lock(connection, NOTING)  # counting and adding must not meet another one's
            if connection.execute(lately).scalar_one() >= at_most:
                return False
            connection.execute(table.insert().values(account=account, topic=topic, noted_at=now))
            return True
