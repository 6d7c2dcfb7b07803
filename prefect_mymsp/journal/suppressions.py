"""Who gets no SMS any more: numbers whose owners said so, and those on somebody's list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from prefect_mymsp.errors import InputError
from prefect_mymsp.journal import schema
from prefect_mymsp.journal.database import insert, slices
from prefect_mymsp.phone import parse_msisdn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prefect_mymsp.journal.database import Database


class Suppressions:
    """An account's suppression list, as ``journal.suppressions``. An entry stays until it is removed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def msisdns(self, account: str) -> set[str]:
        """The MSISDNs on an account's list."""
        table = schema.suppression
        with self._database.read() as connection:
            return set(connection.scalars(sa.select(table.c.msisdn).where(table.c.account == account)))

    def add(self, account: str, msisdns: Iterable[str], reason: str) -> int:
        """Put numbers on an account's list; those that are there stay as they are.

        Args:
            account: See :func:`~prefect_mymsp.account.account_fingerprint`.
            msisdns: Country code and number, digits only; a plus sign before them does no harm.
            reason: ``opt-out``, ``import`` or ``person``.

        Returns:
            How many are new.

        Raises:
            InputError: Another reason, or something that is not an MSISDN; nothing is added then.
        """
        if reason not in schema.REASONS:
            raise InputError(f"The reason of a suppression is one of {', '.join(schema.REASONS)}.")
        table, now = schema.suppression, datetime.now(UTC)
        values = [
            {"account": account, "msisdn": number, "since": now, "reason": reason} for number in _checked(msisdns)
        ]
        with self._database.write() as connection:
            adding = insert(connection, table).on_conflict_do_nothing().returning(table.c.msisdn)
            return sum(len(connection.execute(adding, list(some)).all()) for some in slices(values))

    def remove(self, account: str, msisdns: Iterable[str]) -> int:
        """Take numbers off an account's list; returns how many were on it.

        Raises:
            InputError: Something is not an MSISDN; nothing is removed then.
        """
        table = schema.suppression
        with self._database.write() as connection:
            return sum(
                connection.execute(table.delete().where(table.c.account == account, table.c.msisdn.in_(some))).rowcount
                for some in slices(_checked(msisdns))
            )

    def rows(self, account: str) -> list[tuple[str, datetime, str, str | None]]:
        """An account's list, the oldest entry first: (msisdn, since, reason, id of the message that said so)."""
        table = schema.suppression
        with self._database.read() as connection:
            found = connection.execute(
                sa.select(table.c.msisdn, table.c.since, table.c.reason, table.c.message_id)
                .where(table.c.account == account)
                .order_by(table.c.since, table.c.msisdn)
            )
            return [(row[0], row[1], row[2], row[3]) for row in found]


def _checked(msisdns: Iterable[str]) -> list[str]:
    """MSISDNs, each once, in order: two that add in different orders would wait for each other."""
    found = set[str]()
    for position, given in enumerate(msisdns, start=1):
        number = parse_msisdn(given)
        if number is None:
            raise InputError(
                f"Number {position} is not an MSISDN: write country code and number as digits only, "
                "for instance 46701740605."
            )
        found.add(number)
    return sorted(found)
