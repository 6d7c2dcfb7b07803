"""Messages are put into batches: each batch is one request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.database import execute_many, is_among
from prefect_mymsp.states import PLANNED

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.records import CampaignKey

_Group = tuple[int, list[int]]


def plan_batches(connection: Connection, campaign: CampaignKey, batch_size: int) -> int:
    """Put messages that are in no batch into planned ones, neighbours with the same text together.

    Returns:
        How many messages were put into batches.
    """
    message, planned = schema.message, _plan_group_batches(connection, campaign)
    select = (
        sa.select(message.c.id, message.c.text_id)
        .where(message.c.campaign_id == campaign.id, message.c.batch_id.is_(None))
        .order_by(message.c.text_id, message.c.id)
        .limit(100 * max(batch_size, 100))
        .with_for_update(skip_locked=True)
    )
    while groups := group_by_text(connection.execute(select), batch_size):
        create_batches(connection, groups, {"campaign_id": campaign.id, "state": PLANNED})
        planned += sum(len(message_ids) for _, message_ids in groups)
    return planned


def _plan_group_batches(connection: Connection, campaign: CampaignKey) -> int:
    """Put each message to a recipient group that is in no batch into one of its own; returns how many."""
    message = schema.message
    rows = connection.execute(
        sa.select(message.c.text_id, message.c.id)
        .where(message.c.campaign_id == campaign.id, message.c.batch_id.is_(None), schema.is_group(message.c.msisdn))
        .order_by(message.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    if rows:
        groups = [(row[0], [row[1]]) for row in rows]
        create_batches(connection, groups, {"campaign_id": campaign.id, "state": PLANNED})
    return len(rows)


def group_by_text(rows: Iterable[Any], batch_size: int) -> list[_Group]:
    """Group neighbouring messages with the same text, at most ``batch_size`` in each group."""
    groups: list[_Group] = []
    for message_id, text_id in rows:
        if not groups or groups[-1][0] != text_id or len(groups[-1][1]) == batch_size:
            groups.append((text_id, []))
        groups[-1][1].append(message_id)
    return groups


def create_batches(
    connection: Connection, groups: Sequence[_Group], values: Mapping[str, Any], moved_from: int | None = None
) -> list[int]:
    """Create one batch for each group of messages and move the messages into it.

    Args:
        connection: In a transaction that writes.
        groups: The text's number and the messages' numbers, for each batch.
        values: Columns that all new batches have in common.
        moved_from: The batch the messages are in now; None for messages in no batch.

    Returns:
        The numbers of the new batches.
    """
    rows = [{**values, "text_id": text_id, "size": len(message_ids)} for text_id, message_ids in groups]
    batch_ids: Sequence[int]
    if connection.dialect.name == "sqlite":  # no other connection writes, so the numbers are predictable
        first = connection.execute(sa.select(sa.func.coalesce(sa.func.max(schema.batch.c.id), 0) + 1)).scalar_one()
        batch_ids = range(first, first + len(rows))
        common = {key: _plain(value) for key, value in values.items()}
        for batch_id, row in zip(batch_ids, rows, strict=True):
            row.update(common, id=batch_id)
        execute_many(connection, schema.batch.insert(), rows)
    else:
        insert = schema.batch.insert().returning(schema.batch.c.id, sort_by_parameter_order=True)
        batch_ids = connection.scalars(insert, rows).all()
    _move(connection, batch_ids, [message_ids for _, message_ids in groups], moved_from)
    return list(batch_ids)


def _move(
    connection: Connection, batch_ids: Sequence[int], groups: Sequence[list[int]], moved_from: int | None
) -> None:
    """Move each group of messages into its batch."""
    message = schema.message
    move = message.update().values(batch_id=sa.bindparam("into"))
    # With an addition: otherwise SQLite would scan all messages that are in no batch for each of them.
    present = message.c.batch_id + sa.literal_column("0", sa.BigInteger)
    is_there = present.is_not_distinct_from(sa.bindparam("moved_from", type_=sa.BigInteger))
    single = [
        {"into": batch_id, "moved_id": message_ids[0], "moved_from": moved_from}
        for batch_id, message_ids in zip(batch_ids, groups, strict=True)
        if len(message_ids) == 1
    ]
    execute_many(connection, move.where(message.c.id == sa.bindparam("moved_id"), is_there), single)
    for batch_id, message_ids in zip(batch_ids, groups, strict=True):
        if len(message_ids) > 1:
            among = is_among(connection, message.c.id, message_ids)
            connection.execute(move.where(among, is_there), {"into": batch_id, "moved_from": moved_from})


def _plain(value: Any) -> Any:
    """A value in the form SQLite's driver takes."""
    return schema.microseconds(value) if isinstance(value, datetime) else value
