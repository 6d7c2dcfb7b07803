"""Responses that the gateway returns only once: stored before they are parsed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from prefect_mymsp.journal import schema

if TYPE_CHECKING:
    from prefect_mymsp.journal.database import Database


class RawResponses:
    """Raw responses of the destructive read, as ``journal.raw_responses``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, account: str, raw: bytes) -> int:
        """Store a response; returns its number."""
        table = schema.raw_response
        insert = table.insert().values(account=account, stored_at=datetime.now(UTC), raw=raw).returning(table.c.id)
        with self._database.write() as connection:
            number: int = connection.execute(insert).scalar_one()
            return number

    def unparsed(self, account: str) -> list[tuple[int, bytes]]:
        """Return responses that were not processed, the oldest first: (number, response)."""
        table = schema.raw_response
        select = (
            sa.select(table.c.id, table.c.raw)
            .where(table.c.account == account, table.c.parsed_at.is_(None))
            .order_by(table.c.id)
        )
        with self._database.read() as connection:
            return [(row[0], bytes(row[1])) for row in connection.execute(select)]

    def mark_parsed(self, number: int) -> None:
        """Record that a response was processed."""
        table = schema.raw_response
        with self._database.write() as connection:
            connection.execute(
                table.update()
                .where(table.c.id == number, table.c.parsed_at.is_(None))
                .values(parsed_at=datetime.now(UTC))
            )
