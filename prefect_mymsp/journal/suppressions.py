"""Suppressed numbers: their owners opted out, or they are on a suppression list."""

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
    """An account's suppressed numbers, as ``journal.suppressions``. An entry stays until it is removed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def msisdns(self, account: str) -> set[str]:
        """Return an account's suppressed numbers."""
        table = schema.suppression
        with self._database.read() as connection:
            return set(connection.scalars(sa.select(table.c.msisdn).where(table.c.account == account)))

    def add(self, account: str, msisdns: Iterable[str], reason: str) -> int:
        """Suppress numbers. Numbers that are suppressed already keep their time and reason.

        Args:
            account: Fingerprint of the gateway account.
            msisdns: Country code and number, digits only; a plus sign before them is allowed.
            reason: ``opt-out``, ``import`` or ``person``.

        Returns:
            How many are new.

        Raises:
            InputError: The reason is another one, or a number is not an MSISDN; nothing is added then.
        """
        if reason not in schema.SUPPRESSION_REASONS:
            raise InputError(f"The reason of a suppression must be one of {', '.join(schema.SUPPRESSION_REASONS)}.")
        table, now = schema.suppression, datetime.now(UTC)
        values = [
            {"account": account, "msisdn": msisdn, "since": now, "reason": reason} for msisdn in _checked(msisdns)
        ]
        with self._database.write() as connection:
            adding = insert(connection, table).on_conflict_do_nothing().returning(table.c.msisdn)
            return sum(len(connection.execute(adding, list(part)).all()) for part in slices(values))

    def remove(self, account: str, msisdns: Iterable[str]) -> int:
        """Stop suppressing numbers; returns how many were suppressed.

        Raises:
            InputError: A number is not an MSISDN; nothing is removed then.
        """
        table = schema.suppression
        with self._database.write() as connection:
            return sum(
                connection.execute(table.delete().where(table.c.account == account, table.c.msisdn.in_(part))).rowcount
                for part in slices(_checked(msisdns))
            )

    def rows(self, account: str) -> list[tuple[str, datetime, str, str | None]]:
        """Return an account's entries, the oldest first: (msisdn, since, reason, id of the message that opted out)."""
        table = schema.suppression
        select = (
            sa.select(table.c.msisdn, table.c.since, table.c.reason, table.c.message_id)
            .where(table.c.account == account)
            .order_by(table.c.since, table.c.msisdn)
        )
        with self._database.read() as connection:
            return [(row[0], row[1], row[2], row[3]) for row in connection.execute(select)]


def _checked(msisdns: Iterable[str]) -> list[str]:
    """MSISDNs, each once, in order: two transactions that add in different orders would deadlock."""
    checked = set[str]()
    for position, value in enumerate(msisdns, start=1):
        msisdn = parse_msisdn(value)
        if msisdn is None:
            raise InputError(
                f"Number {position} is not an MSISDN. Write the country code and the number as digits only, "
                "for instance 46701740605."
            )
        checked.add(msisdn)
    return sorted(checked)
