"""Small values kept between runs, for instance the position of a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.database import insert

if TYPE_CHECKING:
    from prefect_mymsp.journal.database import Database


class Bookmarks:
    """One text for each account and name, as ``journal.bookmarks``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, account: str, name: str) -> str | None:
        """Return the value under a name; None if there is none."""
        table = schema.bookmark
        select = sa.select(table.c.value).where(table.c.account == account, table.c.name == name)
        with self._database.read() as connection:
            value: str | None = connection.scalar(select)
            return value

    def put(self, account: str, name: str, value: str) -> None:
        """Store a value under a name in place of an earlier one."""
        with self._database.write() as connection:
            adding = insert(connection, schema.bookmark).values(account=account, name=name, value=value)
            connection.execute(
                adding.on_conflict_do_update(index_elements=["account", "name"], set_={"value": adding.excluded.value})
            )
