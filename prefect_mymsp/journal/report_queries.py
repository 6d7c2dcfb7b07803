"""What reports are made of: the journal read by column, whole campaigns and whole periods at a time.

A database's driver hands over row by row, which costs more than finding the rows. So each chunk comes as one document
a column, made by the database itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.schema import ACCEPTED, ASSUMED, CANCELLED, PLANNED, REFUSED, Instant

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.database import Database

#: So long after its delivery time nothing more is expected of a message that the gateway has accepted.
OVERDUE = timedelta(days=7)

Columns = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages are asked for; times are aware, ``since`` is included, ``until`` is not.

    Attributes:
        campaigns: Only those of these campaigns, by their numbers in the journal; None for all of the account's.
        since: Only those whose request left then or later.
        until: Only those whose request left before then.
        final_since: Only those whose outcome became final then or later.
        final_until: Only those whose outcome became final before then.
    """

    campaigns: Sequence[int] | None = None
    since: datetime | None = None
    until: datetime | None = None
    final_since: datetime | None = None
    final_until: datetime | None = None


class ReportQueries:
    """The journal's messages by column, as ``journal.report_queries``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def messages(self, account: str, selection: Selection, *, chunk: int = 50_000) -> Iterator[Columns]:
        """Messages in the order they were recorded, by column, as they were when the reading began.

        Args:
            account: See :func:`~prefect_mymsp.account.account_fingerprint`.
            selection: Which ones.
            chunk: Messages in a chunk, at most.

        Yields:
            Lists of one length: ``number`` and ``campaign`` (numbers in the journal), ``row``, ``msisdn``, ``state``,
            ``message_id``, ``text_key`` (hexadecimal), ``segments``, ``claimed_at``, ``settled_at``, ``send_at``,
            ``sent_at``, ``delivered_at``, ``final_at``, ``status``, ``code``, ``reason``. Times are integer
            microseconds since the epoch, in UTC. ``final_at`` is when the outcome became final; in the future or
            None, it may still change.

        Raises:
            JournalError: The journal cannot be read.
        """
        message, text = schema.message, schema.text
        with self._database.read() as connection:
            on_sqlite = connection.dialect.name == "sqlite"
            if not on_sqlite:  # SQLite's transactions see one state by themselves
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            digest = sa.func.lower(sa.func.hex(text.c.digest)) if on_sqlite else sa.func.encode(text.c.digest, "hex")
            columns = _message_columns(digest)
            first, last = connection.execute(
                sa.select(sa.func.min(message.c.id), sa.func.max(message.c.id)).where(_of(account, selection.campaigns))
            ).one()
            after = -1 if first is None else first - 1
            while last is not None:
                part = (
                    sa.select(*columns)
                    .select_from(_MESSAGES)
                    .where(message.c.id > after, message.c.id <= last, *_within(account, selection))
                    .order_by(message.c.id)
                    .limit(chunk)
                )
                found = _documents(connection, part)
                if found["number"]:
                    yield found
                if len(found["number"]) < chunk:
                    return
                after = max(found["number"])

    def latencies(self, account: str, campaigns: Sequence[int] | None = None) -> dict[int, list[tuple[int, int]]]:
        """How long delivered messages took, at least, by campaign's number: (whole seconds, messages), ascending.

        From when the request left, or the delivery time if that is later, until the minute of delivery began.
        """
        message, batch = schema.message, schema.batch
        began = _raw(_later(batch.c.claimed_at, batch.c.send_at))
        took = _raw(message.c.delivered_at) - began
        seconds = sa.case((took > 0, took // 1_000_000), else_=0)
        select = (
            sa.select(message.c.campaign_id, seconds, sa.func.count())
            .select_from(message.join(batch, batch.c.id == message.c.batch_id))
            .where(_of(account, campaigns), batch.c.state == ACCEPTED, message.c.delivered_at.is_not(None))
            .group_by(message.c.campaign_id, seconds)
            .order_by(message.c.campaign_id, seconds)
        )
        found: dict[int, list[tuple[int, int]]] = {}
        with self._database.read() as connection:
            for campaign, each, count in connection.execute(select):
                found.setdefault(campaign, []).append((int(each), count))
        return found

    def rejected_rows(self, campaigns: Sequence[int]) -> Columns:
        """Rows of campaigns' sources that could not be sent, as the latest start found them, by column.

        Returns:
            Lists of one length, in order: ``campaign`` (its number), ``row``, ``column``, ``reason``.
        """
        reject = schema.reject
        select = (
            sa.select(reject.c.campaign_id.label("campaign"), reject.c.row, reject.c.column, reject.c.reason)
            .where(reject.c.campaign_id.in_(list(campaigns)))
            .order_by(reject.c.campaign_id, reject.c.row, reject.c.id)
        )
        with self._database.read() as connection:
            return _documents(connection, select)

    def scheduled(self, account: str, now: datetime) -> Columns:
        """Requests that wait at the gateway for their delivery time, by column.

        Returns:
            Lists of one length, in the order they are due: ``campaign`` (its number), ``message_id``, ``send_at``
            (integer microseconds since the epoch), ``recipients``, ``segments``.
        """
        batch, text = schema.batch, schema.text
        mine = sa.select(schema.campaign.c.id).where(schema.campaign.c.account == account)
        select = (
            sa.select(
                batch.c.campaign_id.label("campaign"),
                batch.c.message_id,
                _raw(batch.c.send_at).label("send_at"),
                batch.c.size.label("recipients"),
                (batch.c.size * text.c.segments).label("segments"),
            )
            .join(text, text.c.id == batch.c.text_id)
            .where(batch.c.campaign_id.in_(mine), batch.c.state == ACCEPTED, batch.c.send_at > now)
            .order_by(batch.c.send_at, batch.c.id)
        )
        with self._database.read() as connection:
            return _documents(connection, select)

    def shared_text(self, campaign: int) -> str | None:
        """The text that everybody gets; None when there are several, or none that is remembered."""
        message, text = schema.message, schema.text
        with self._database.read() as connection:
            low, high = connection.execute(
                sa.select(sa.func.min(message.c.text_id), sa.func.max(message.c.text_id)).where(
                    message.c.campaign_id == campaign
                )
            ).one()
            if low is None or low != high:
                return None
            body: str | None = connection.scalar(sa.select(text.c.body).where(text.c.id == low))
            return body or None


_MESSAGES = schema.message.join(schema.text, schema.text.c.id == schema.message.c.text_id).outerjoin(
    schema.batch, schema.batch.c.id == schema.message.c.batch_id
)


def _raw(time: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """A time as the integer that is stored."""
    return sa.type_coerce(time, sa.BigInteger)


def _later(first: sa.ColumnElement[Any], second: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The later of two times, of which the second may be missing."""
    return sa.case((second > first, second), else_=first)


def _final_at() -> sa.ColumnElement[Any]:
    """When a message's outcome became, or becomes, final; None while nobody can say."""
    batch, message = schema.batch, schema.message
    overdue = sa.type_coerce(_raw(_later(batch.c.claimed_at, batch.c.send_at)) + OVERDUE // schema.MICROSECOND, Instant)
    told = sa.case(
        # Journals of earlier versions do not say when they learnt of a delivery.
        (message.c.status == "delivered", sa.func.coalesce(message.c.noted_at, batch.c.final_at, batch.c.settled_at)),
        else_=sa.func.coalesce(batch.c.final_at, overdue),
    )
    return sa.case(
        (batch.c.state.in_([REFUSED, ASSUMED, CANCELLED]), batch.c.settled_at),
        (batch.c.state == ACCEPTED, sa.case((told < overdue, told), else_=overdue)),
    )


def _message_columns(digest: sa.ColumnElement[str]) -> list[sa.ColumnElement[Any]]:
    batch, message, text = schema.batch, schema.message, schema.text
    return [
        message.c.id.label("number"),
        message.c.campaign_id.label("campaign"),
        message.c.row,
        message.c.msisdn,
        sa.func.coalesce(batch.c.state, PLANNED).label("state"),
        batch.c.message_id,
        digest.label("text_key"),
        text.c.segments,
        _raw(batch.c.claimed_at).label("claimed_at"),
        _raw(batch.c.settled_at).label("settled_at"),
        _raw(batch.c.send_at).label("send_at"),
        _raw(message.c.sent_at).label("sent_at"),
        _raw(message.c.delivered_at).label("delivered_at"),
        _raw(_final_at()).label("final_at"),
        message.c.status,
        batch.c.code,
        batch.c.reason,
    ]


def _of(account: str, campaigns: Sequence[int] | None, *, indexed: bool = True) -> sa.ColumnElement[bool]:
    """Whether a message is of the account, and of the campaigns if some are given; found by an index or not."""
    mine = sa.select(schema.campaign.c.id).where(schema.campaign.c.account == account)
    if campaigns is not None:
        mine = mine.where(schema.campaign.c.id.in_(list(campaigns)))
    campaign_id = schema.message.c.campaign_id
    return campaign_id.in_(mine) if indexed else (campaign_id + 0).in_(mine)


def _within(account: str, selection: Selection) -> Iterator[sa.ColumnElement[bool]]:
    claimed_at = schema.batch.c.claimed_at
    # In the order of the table: to follow an index, and then to sort, takes four times as long.
    yield _of(account, selection.campaigns, indexed=False)
    if selection.since is not None:
        yield claimed_at >= selection.since
    if selection.until is not None:
        yield claimed_at < selection.until
    if selection.final_since is not None:
        yield _final_at() >= selection.final_since
    if selection.final_until is not None:
        yield _final_at() < selection.final_until


def _documents(connection: Connection, select: sa.Select[Any]) -> Columns:
    """A query's columns, each as the one document that the database makes of it."""
    rows = select.subquery()
    listed: list[sa.ColumnElement[str]]
    if connection.dialect.name == "postgresql":
        listed = [sa.cast(sa.func.json_agg(column), sa.Text) for column in rows.c]
    else:
        listed = [sa.func.json_group_array(column, type_=sa.Text()) for column in rows.c]
    found = connection.execute(sa.select(*listed)).one()
    return {
        column.name: json.loads(document) if document is not None else []
        for column, document in zip(rows.c, found, strict=True)
    }
