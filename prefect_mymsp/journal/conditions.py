"""SQL expressions for rules that several parts of the journal share."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.schema import Instant
from prefect_mymsp.states import ACCEPTED, DELIVERED, PLANNED

_batch, _message = schema.batch, schema.message

#: Whether a request is open: accepted, and its result may still change.
batch_is_open = (_batch.c.state == ACCEPTED) & _batch.c.final_at.is_(None)
#: When the messages of a request are to leave: the scheduled time, or when it was claimed.
batch_due_at = sa.func.coalesce(_batch.c.send_at, _batch.c.claimed_at, type_=Instant())
#: Whether the phone confirmed a message.
message_is_delivered = _message.c.status == DELIVERED
#: Whether a message, joined to its batch if it has one, is planned.
message_is_planned = _message.c.batch_id.is_(None) | (_batch.c.state == PLANNED)


def raw(time: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """A time as the integer that is stored."""
    return sa.type_coerce(time, sa.BigInteger)


def later(first: sa.ColumnElement[Any], second: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The later of two times; the second may be missing."""
    return sa.case((second > first, second), else_=first)
