"""The journal read by column for reports: whole campaigns and whole periods at a time.

A database driver returns row by row, which costs more than finding the rows. So each chunk comes as one JSON document
per column, which the database itself makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.conditions import later, message_is_delivered, raw
from prefect_mymsp.journal.schema import Instant
from prefect_mymsp.states import ACCEPTED, FINAL_STATES, PLANNED
from prefect_mymsp.times import tracking_period

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.database import Database
    from prefect_mymsp.journal.records import Selection

Columns = dict[str, list[Any]]

_batch, _message, _text = schema.batch, schema.message, schema.text
_MESSAGES = _message.join(_text, _text.c.id == _message.c.text_id).outerjoin(_batch, _batch.c.id == _message.c.batch_id)


class ReportQueries:
    """The journal's messages by column, as ``journal.report_queries``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def messages(
        self,
        account: str,
        selection: Selection,
        *,
        chunk: int = 50_000,
    ) -> Iterator[Columns]:
        """Yield messages by column in the order they were recorded, all as they are when the reading begins.

        Args:
            account: Fingerprint of the gateway account.
            selection: Which messages.
            chunk: Largest number of messages in a chunk.

        Yields:
            Lists of one length: ``number`` and ``campaign`` (numbers in the journal), ``row``, ``msisdn``, ``state``,
            ``message_id``, ``text_key`` (hexadecimal), ``segments``, ``claimed_at``, ``settled_at``, ``send_at``,
            ``sent_at``, ``delivered_at``, ``final_at``, ``status``, ``code``, ``reason``. Times are integer
            microseconds since the epoch, in UTC. ``final_at`` is when the outcome became final; if it is None or in
            the future, the outcome can still change.

        Raises:
            InputError: A tracking period of the selection is out of range.
            JournalError: The journal cannot be read.
        """
        final_at = _final_at(selection.tracking_days)
        with self._database.read() as connection:
            on_sqlite = connection.dialect.name == "sqlite"
            if not on_sqlite:  # SQLite's transactions see one state anyway
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            digest = sa.func.lower(sa.func.hex(_text.c.digest)) if on_sqlite else sa.func.encode(_text.c.digest, "hex")
            columns = _message_columns(digest, final_at)
            first, last = connection.execute(
                sa.select(sa.func.min(_message.c.id), sa.func.max(_message.c.id)).where(
                    _is_of(account, selection.campaigns)
                )
            ).one()
            after = -1 if first is None else first - 1
            while last is not None:
                part = (
                    sa.select(*columns)
                    .select_from(_MESSAGES)
                    .where(_message.c.id > after, _message.c.id <= last, *_conditions(account, selection))
                    .order_by(_message.c.id)
                    .limit(chunk)
                )
                values = _columns(connection, part)
                if values["number"]:
                    yield values
                if len(values["number"]) < chunk:
                    return
                after = max(values["number"])

    def latencies(self, account: str, campaigns: Sequence[int] | None = None) -> dict[int, list[tuple[int, int]]]:
        """Return the minimum delivery times by campaign number: (whole seconds, messages), ascending.

        A delivery time runs from the request, or from the scheduled time if that is later, to the start of the minute
        of delivery.
        """
        began = raw(later(_batch.c.claimed_at, _batch.c.send_at))
        took = raw(_message.c.delivered_at) - began
        seconds = sa.case((took > 0, took // 1_000_000), else_=0)
        select = (
            sa.select(_message.c.campaign_id, seconds, sa.func.count())
            .select_from(_message.join(_batch, _batch.c.id == _message.c.batch_id))
            .where(_is_of(account, campaigns), _batch.c.state == ACCEPTED, _message.c.delivered_at.is_not(None))
            .group_by(_message.c.campaign_id, seconds)
            .order_by(_message.c.campaign_id, seconds)
        )
        latencies: dict[int, list[tuple[int, int]]] = {}
        with self._database.read() as connection:
            for campaign_id, whole_seconds, count in connection.execute(select):
                latencies.setdefault(campaign_id, []).append((int(whole_seconds), count))
        return latencies

    def rejected_rows(self, campaigns: Sequence[int]) -> Columns:
        """Return the rejected rows of campaigns' sources as the latest start found them, by column.

        Returns:
            Lists of one length, in order: ``campaign`` (its number), ``row``, ``column``, ``reason``.
        """
        table = schema.rejected_row
        select = (
            sa.select(table.c.campaign_id.label("campaign"), table.c.row, table.c.column, table.c.reason)
            .where(table.c.campaign_id.in_(list(campaigns)))
            .order_by(table.c.campaign_id, table.c.row, table.c.id)
        )
        with self._database.read() as connection:
            return _columns(connection, select)

    def scheduled(self, account: str, now: datetime) -> Columns:
        """Return the requests that wait at the gateway for their scheduled time, by column.

        Returns:
            Lists of one length, in the order in which they are due: ``campaign`` (its number), ``message_id``,
            ``send_at`` (integer microseconds since the epoch), ``recipients``, ``segments``.
        """
        campaigns = sa.select(schema.campaign.c.id).where(schema.campaign.c.account == account)
        select = (
            sa.select(
                _batch.c.campaign_id.label("campaign"),
                _batch.c.message_id,
                raw(_batch.c.send_at).label("send_at"),
                _batch.c.size.label("recipients"),
                (_batch.c.size * _text.c.segments).label("segments"),
            )
            .join(_text, _text.c.id == _batch.c.text_id)
            .where(_batch.c.campaign_id.in_(campaigns), _batch.c.state == ACCEPTED, _batch.c.send_at > now)
            .order_by(_batch.c.send_at, _batch.c.id)
        )
        with self._database.read() as connection:
            return _columns(connection, select)

    def shared_text(self, campaign: int) -> str | None:
        """Return the text that all of a campaign's messages have; None if there are several or none."""
        bounds = sa.select(sa.func.min(_message.c.text_id), sa.func.max(_message.c.text_id)).where(
            _message.c.campaign_id == campaign
        )
        with self._database.read() as connection:
            lowest, highest = connection.execute(bounds).one()
            if lowest is None or lowest != highest:
                return None
            body: str | None = connection.scalar(sa.select(_text.c.body).where(_text.c.id == lowest))
            return body or None


def _final_at(tracking_days: float) -> sa.ColumnElement[Any]:
    """When a message's outcome became, or becomes, final; None if that is unknown."""
    period = tracking_period(tracking_days) // schema.MICROSECOND
    tracked_until = sa.type_coerce(raw(later(_batch.c.claimed_at, _batch.c.send_at)) + period, Instant())
    learned_at = sa.case(
        # A message to a recipient group has no time of its own: the request's is taken.
        (message_is_delivered, sa.func.coalesce(_message.c.status_changed_at, _batch.c.final_at, _batch.c.settled_at)),
        else_=sa.func.coalesce(_batch.c.final_at, tracked_until),
    )
    return sa.case(
        (_batch.c.state.in_(FINAL_STATES), _batch.c.settled_at),
        (_batch.c.state == ACCEPTED, sa.case((learned_at < tracked_until, learned_at), else_=tracked_until)),
    )


def _message_columns(digest: sa.ColumnElement[str], final_at: sa.ColumnElement[Any]) -> list[sa.ColumnElement[Any]]:
    return [
        _message.c.id.label("number"),
        _message.c.campaign_id.label("campaign"),
        _message.c.row,
        _message.c.msisdn,
        sa.func.coalesce(_batch.c.state, PLANNED).label("state"),
        _batch.c.message_id,
        digest.label("text_key"),
        _text.c.segments,
        raw(_batch.c.claimed_at).label("claimed_at"),
        raw(_batch.c.settled_at).label("settled_at"),
        raw(_batch.c.send_at).label("send_at"),
        raw(_message.c.sent_at).label("sent_at"),
        raw(_message.c.delivered_at).label("delivered_at"),
        raw(final_at).label("final_at"),
        _message.c.status,
        _batch.c.code,
        _batch.c.reason,
    ]


def _is_of(account: str, campaigns: Sequence[int] | None, *, indexed: bool = True) -> sa.ColumnElement[bool]:
    """Whether a message is of the account, and of the campaigns if they are given; with or without an index."""
    select = sa.select(schema.campaign.c.id).where(schema.campaign.c.account == account)
    if campaigns is not None:
        select = select.where(schema.campaign.c.id.in_(list(campaigns)))
    campaign_id = _message.c.campaign_id
    return campaign_id.in_(select) if indexed else (campaign_id + 0).in_(select)


def _conditions(account: str, selection: Selection) -> Iterator[sa.ColumnElement[bool]]:
    # In the order of the table: following an index and then sorting takes four times as long.
    yield _is_of(account, selection.campaigns, indexed=False)
    if selection.since is not None:
        yield _batch.c.claimed_at >= selection.since
    if selection.until is not None:
        yield _batch.c.claimed_at < selection.until
    if selection.final_since is not None:
        yield _final_at(selection.tracking_days_then or selection.tracking_days) >= selection.final_since
    if selection.final_until is not None:
        yield _final_at(selection.tracking_days) < selection.final_until


def _columns(connection: Connection, select: sa.Select[Any]) -> Columns:
    """Return a query's columns, each read as one document."""
    rows = select.subquery()
    listed: list[sa.ColumnElement[str]]
    if connection.dialect.name == "postgresql":
        listed = [sa.cast(sa.func.json_agg(column), sa.Text) for column in rows.c]
    else:
        listed = [sa.func.json_group_array(column, type_=sa.Text()) for column in rows.c]
    documents = connection.execute(sa.select(*listed)).one()
    return {
        column.name: json.loads(document) if document is not None else []
        for column, document in zip(rows.c, documents, strict=True)
    }
