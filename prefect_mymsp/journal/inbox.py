"""What came back: messages people wrote, each stored once, and raw answers, kept before anybody looks into them."""

from __future__ import annotations

from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.database import RECEIVING, advisory_lock, insert
from prefect_mymsp.phone import parse_msisdn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.database import Database
    from prefect_mymsp.models import ReceivedMessage

#: The bookmark that holds how far the inbox has been read.
INBOX = "inbox"
#: Longer ids are no numbers to count with: PostgreSQL's have 64 bits.
_LONGEST_ID = 18


class Inbox:
    """Inbox and raw answers, as ``journal.inbox``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- the inbox -------------------------------------------------------------------------------------------------

    def cursor(self, account: str) -> int:
        """The highest id of a message that was stored; 0 before the first."""
        table = schema.bookmark
        with self._database.read() as connection:
            found = connection.scalar(sa.select(table.c.value).where(table.c.account == account, table.c.name == INBOX))
            return int(found or 0)

    def store(
        self, account: str, messages: Sequence[ReceivedMessage], opt_out: Callable[[ReceivedMessage], bool]
    ) -> list[ReceivedMessage]:
        """Store messages of the inbox, each once; all of it in one transaction.

        The cursor moves to the highest id among them, never back. A number whose new message opts out is put on the
        account's suppression list; one that was there already, or was taken off after an older message, stays as it is.

        Args:
            account: See :func:`~prefect_mymsp.account.account_fingerprint`.
            messages: As ``getMsgReceived`` gave them, in any order. Never those of an update, which can be forged.
            opt_out: Whether a message asks for no more SMS.

        Returns:
            Those that were not stored before, in the order given.
        """
        if not messages:
            return []
        table, now = schema.received, datetime.now(UTC)
        once: dict[str, ReceivedMessage] = {}
        for one in messages:
            once.setdefault(one.message_id, one)
        values = [
            {
                "account": account,
                "message_id": one.message_id,
                "received_at": one.received_at,
                "stored_at": now,
                "user": _storable(one.user),
                "prefix": _storable(one.prefix),
                "kind": _storable(one.kind),
                "sender": _storable(one.sender),
                "alias": _storable(one.alias),
                "subject": _storable(one.subject),
                "text": _storable(one.text),
            }
            for one in once.values()
        ]
        with self._database.write() as connection:
            # Who has read up to a number must not miss a lower one that comes later.
            advisory_lock(connection, RECEIVING)
            adding = insert(connection, table).on_conflict_do_nothing().returning(table.c.message_id)
            stored = set(connection.scalars(adding, values))
            new = [one for one in once.values() if one.message_id in stored]
            self._suppress(connection, account, [one for one in new if opt_out(one)], now)
            self._advance(connection, account, messages)
        return new

    @staticmethod
    def _suppress(connection: Connection, account: str, asking: Sequence[ReceivedMessage], now: datetime) -> None:
        values: list[dict[str, Any]] = [
            {
                "account": account,
                "msisdn": number,
                "since": one.received_at or now,
                "reason": "opt-out",
                "message_id": one.message_id,
            }
            for one in asking
            if one.sender is not None and (number := parse_msisdn(one.sender.strip())) is not None
        ]
        values.sort(key=itemgetter("msisdn"))  # two that add in different orders would wait for each other
        if values:
            connection.execute(insert(connection, schema.suppression).on_conflict_do_nothing(), values)

    @staticmethod
    def _advance(connection: Connection, account: str, messages: Sequence[ReceivedMessage]) -> None:
        """Move the cursor to the highest id, which need not be the last."""
        ids = [
            int(one.message_id)
            for one in messages
            if one.message_id.isascii() and one.message_id.isdigit() and len(one.message_id) <= _LONGEST_ID
        ]
        if not ids:
            return
        table = schema.bookmark
        adding = insert(connection, table).values(account=account, name=INBOX, value=str(max(ids)))
        new = adding.excluded.value
        connection.execute(
            adding.on_conflict_do_update(
                index_elements=["account", "name"],
                set_={"value": new},
                where=sa.cast(table.c.value, sa.BigInteger) < sa.cast(new, sa.BigInteger),
            )
        )

    def rows(
        self,
        account: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int = 0,
        chunk: int = 50_000,
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Stored messages in the order they were stored, in chunks of plain tuples.

        Args:
            account: Whose inbox.
            since: Inbox then or later, aware; a message without a time counts by when it was stored.
            until: Inbox before then, aware.
            after: Only those with a higher number in the journal.
            chunk: Messages in a chunk, at most.

        Yields:
            Tuples of (number in the journal, message id, received_at, stored_at, user, prefix, kind, sender,
            alias, subject, text); times in integer microseconds since the epoch, in UTC. Of forgotten messages the
            sender, alias and subject are None and the text is empty.
        """
        table = schema.received
        when = sa.func.coalesce(table.c.received_at, table.c.stored_at, type_=schema.Instant())
        where = [table.c.account == account, table.c.id > after]
        if since is not None:
            where.append(when >= since)
        if until is not None:
            where.append(when < until)
        select = (
            sa.select(
                table.c.id,
                table.c.message_id,
                sa.type_coerce(table.c.received_at, sa.BigInteger),
                sa.type_coerce(table.c.stored_at, sa.BigInteger),
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

    # -- raw answers -----------------------------------------------------------------------------------------------

    def add(self, account: str, raw: bytes) -> int:
        """Keep an answer of the destructive read before anybody looks into it; returns its number."""
        table = schema.collected
        values = {"account": account, "collected_at": datetime.now(UTC), "raw": raw}
        with self._database.write() as connection:
            number: int = connection.execute(table.insert().values(values).returning(table.c.id)).scalar_one()
            return number

    def unparsed(self, account: str) -> list[tuple[int, bytes]]:
        """Answers that have not been acted on, the oldest first: (number, the answer)."""
        table = schema.collected
        with self._database.read() as connection:
            found = connection.execute(
                sa.select(table.c.id, table.c.raw)
                .where(table.c.account == account, table.c.parsed_at.is_(None))
                .order_by(table.c.id)
            )
            return [(row[0], bytes(row[1])) for row in found]

    def mark_parsed(self, number: int) -> None:
        """Record that an answer has been acted on."""
        table = schema.collected
        with self._database.write() as connection:
            connection.execute(
                table.update()
                .where(table.c.id == number, table.c.parsed_at.is_(None))
                .values(parsed_at=datetime.now(UTC))
            )


def _storable(value: str | None) -> str | None:
    """A stranger's text without the one character that PostgreSQL cannot hold."""
    return None if value is None else value.replace("\x00", "\ufffd")
