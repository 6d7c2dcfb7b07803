"""Forgetting people: what is deleted, what is made empty, and what stays so that the counts do.

Texts get a digest of their own when they are emptied: an empty text under the old digest would be sent in its place by
the next campaign that has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from prefect_mymsp.journal import schema

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """What a purge came to.

    Attributes:
        campaigns: Campaigns whose people were forgotten.
        messages: Their messages.
        texts: Texts that were emptied.
        received: Inbox messages that were emptied.
        answers: Raw answers that were deleted.
        kept: Names of campaigns that are old enough but not over: messages of theirs are still to be sent.
    """

    campaigns: int
    messages: int
    texts: int
    received: int
    answers: int
    kept: tuple[str, ...]


def campaign(connection: Connection, number: int, now: datetime) -> int:
    """Forget a campaign's people, all of whose messages are in batches; returns how many messages went."""
    table, message, batch, ghost = schema.campaign, schema.message, schema.batch, schema.ghost
    connection.execute(table.update().where(table.c.id == number).values(purged_at=now))
    its = sa.select(batch.c.id).where(batch.c.campaign_id == number)
    connection.execute(ghost.delete().where(ghost.c.batch_id.in_(its)))
    connection.execute(schema.reject.delete().where(schema.reject.c.campaign_id == number))
    return connection.execute(message.delete().where(message.c.campaign_id == number)).rowcount


def texts(connection: Connection) -> int:
    """Empty the texts that no message has; returns how many."""
    text, message = schema.text, schema.message
    on_sqlite = connection.dialect.name == "sqlite"
    random = sa.func.randomblob(16) if on_sqlite else sa.func.uuid_send(sa.func.gen_random_uuid())
    unused = text.c.id.not_in(sa.select(message.c.text_id))
    return connection.execute(text.update().where(text.c.body != "", unused).values(body="", digest=random)).rowcount


def received(connection: Connection, account: str, before: datetime) -> int:
    """Empty what was received before a moment; returns how many messages that were."""
    table = schema.received
    when = sa.func.coalesce(table.c.received_at, table.c.stored_at, type_=schema.Instant())
    people = (table.c.sender, table.c.alias, table.c.subject)
    told = sa.or_(table.c.text != "", *(column.is_not(None) for column in people))
    return connection.execute(
        table.update()
        .where(table.c.account == account, when < before, told)
        .values(sender=None, alias=None, subject=None, text="")
    ).rowcount


def answers(connection: Connection, account: str, before: datetime) -> int:
    """Delete raw answers that were read before a moment; returns how many."""
    table = schema.collected
    return connection.execute(table.delete().where(table.c.account == account, table.c.collected_at < before)).rowcount
