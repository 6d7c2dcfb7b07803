"""Received messages, each stored once."""

from __future__ import annotations

from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.conditions import raw
from prefect_mymsp.journal.database import RECEIVING, advisory_lock, insert
from prefect_mymsp.phone import parse_msisdn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.database import Database
    from prefect_mymsp.models import ReceivedMessage

#: The bookmark that holds how far the inbox was read.
_CURSOR = "inbox"
#: Longer ids do not fit into PostgreSQL's 64-bit integers.
_MAX_ID_DIGITS = 18
#: The time of receipt: a message may have none from the gateway.
received_time = sa.func.coalesce(schema.received.c.received_at, schema.received.c.stored_at, type_=schema.Instant())


class Inbox:
    """An account's received messages, as ``journal.inbox``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def cursor(self, account: str) -> int:
        """The highest id of a stored message; 0 before the first."""
        table = schema.bookmark
        select = sa.select(table.c.value).where(table.c.account == account, table.c.name == _CURSOR)
        with self._database.read() as connection:
            return int(connection.scalar(select) or 0)

    def store(
        self, account: str, messages: Sequence[ReceivedMessage], opt_out: Callable[[ReceivedMessage], bool]
    ) -> list[ReceivedMessage]:
        """Store messages of the inbox, each once, in one transaction.

        The cursor moves to the highest id among them, never back. The sender of a new message that opts out is added
        to the account's suppressions. A sender that is suppressed already, or that was removed after an older message,
        stays as it is.

        Args:
            account: Fingerprint of the gateway account.
            messages: As ``getMsgReceived`` returned them, in any order. Never those of an update, which can be forged.
            opt_out: Whether a message opts out.

        Returns:
            The messages that were not stored before, in the given order.
        """
        if not messages:
            return []
        table, now = schema.received, datetime.now(UTC)
        unique: dict[str, ReceivedMessage] = {}
        for message in messages:
            unique.setdefault(message.message_id, message)
        values = [
            {
                "account": account,
                "message_id": message.message_id,
                "received_at": message.received_at,
                "stored_at": now,
                "user": _storable(message.user),
                "prefix": _storable(message.prefix),
                "kind": _storable(message.kind),
                "sender": _storable(message.sender),
                "alias": _storable(message.alias),
                "subject": _storable(message.subject),
                "text": _storable(message.text),
            }
            for message in unique.values()
        ]
        with self._database.write() as connection:
            # A reader that has read up to a number must not miss a lower one that is stored later.
            advisory_lock(connection, RECEIVING)
            adding = insert(connection, table).on_conflict_do_nothing().returning(table.c.message_id)
            stored = set(connection.scalars(adding, values))
            new = [message for message in unique.values() if message.message_id in stored]
            _suppress_senders(connection, account, [message for message in new if opt_out(message)], now)
            _advance_cursor(connection, account, messages)
        return new

    def rows(
        self,
        account: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int = 0,
        chunk: int = 50_000,
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Yield stored messages in the order in which they were stored, in chunks of plain tuples.

        Args:
            account: Fingerprint of the gateway account.
            since: Received at this time or later, aware; a message without a time counts from when it was stored.
            until: Received before this time, aware.
            after: Only messages with a higher number in the journal.
            chunk: Largest number of messages in a chunk.

        Yields:
            Tuples of (number in the journal, message id, received_at, stored_at, user, prefix, kind, sender, alias,
            subject, text). Times are integer microseconds since the epoch, in UTC. Purged messages have no sender,
            alias and subject, and an empty text.
        """
        table = schema.received
        where = [table.c.account == account, table.c.id > after]
        if since is not None:
            where.append(received_time >= since)
        if until is not None:
            where.append(received_time < until)
        select = (
            sa.select(
                table.c.id,
                table.c.message_id,
                raw(table.c.received_at),
                raw(table.c.stored_at),
                table.c.user,
                table.c.prefix,
                table.c.kind,
                table.c.sender,
                table.c.alias,
                table.c.subject,
                table.c.text,
            )
            .where(*where)
            .order_by(table.c.id)
        )
        with (
            self._database.read() as connection,
            connection.execution_options(yield_per=chunk).execute(select) as result,
        ):
            for part in result.partitions():
                yield [tuple(row) for row in part]


def _suppress_senders(connection: Connection, account: str, opt_outs: Sequence[ReceivedMessage], now: datetime) -> None:
    values: list[dict[str, Any]] = [
        {
            "account": account,
            "msisdn": msisdn,
            "since": message.received_at or now,
            "reason": "opt-out",
            "message_id": message.message_id,
        }
        for message in opt_outs
        if message.sender is not None and (msisdn := parse_msisdn(message.sender.strip())) is not None
    ]
    values.sort(key=itemgetter("msisdn"))  # two transactions that add in different orders would deadlock
    if values:
        connection.execute(insert(connection, schema.suppression).on_conflict_do_nothing(), values)


def _advance_cursor(connection: Connection, account: str, messages: Sequence[ReceivedMessage]) -> None:
    """Move the cursor to the highest id, which need not be the last."""
    ids = [
        int(message.message_id)
        for message in messages
        if message.message_id.isascii() and message.message_id.isdigit() and len(message.message_id) <= _MAX_ID_DIGITS
    ]
    if not ids:
        return
    table = schema.bookmark
    adding = insert(connection, table).values(account=account, name=_CURSOR, value=str(max(ids)))
    new = adding.excluded.value
    connection.execute(
        adding.on_conflict_do_update(
            index_elements=["account", "name"],
            set_={"value": new},
            where=sa.cast(table.c.value, sa.BigInteger) < sa.cast(new, sa.BigInteger),
        )
    )


def _storable(value: str | None) -> str | None:
    """An untrusted text without the one character that PostgreSQL cannot store."""
    return None if value is None else value.replace("\x00", "\ufffd")
