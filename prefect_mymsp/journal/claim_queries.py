"""The statements that run for every window of requests, built once for each journal.

SQLAlchemy takes as long to build such a statement as SQLite takes to execute it for a hundred rows, and it holds the
interpreter lock meanwhile, which the requests in flight need too. SQLite's driver releases and takes that lock for
every row, so many rows go in or come out as one JSON document.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from prefect_mymsp.journal import schema
from prefect_mymsp.states import ACCEPTED, IN_DOUBT, PLANNED, SENDING

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.records import Outcome


class ClaimQueries:
    """Statements that claim and settle, for ``sqlite`` or ``postgresql``.

    Attributes:
        check_lease: Returns (time of the run's latest claim, when its campaign was cancelled); no row if its lease has
            ended.
        claim: Gives the next ``limit`` planned batches to the run.
        claimed: Returns (batch, text, recipients with commas between them, text's number) of one claim.
        accept: Records the message ids in ``document``, see :func:`accepted_document`.
    """

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self.check_lease = self._check_lease()
        self.claim = self._claim()
        self.claimed = self._as_document(self._claimed())
        self.accept = self._accept()

    def fetch(
        self, connection: Connection, statement: sa.Select[Any], values: Mapping[str, Any]
    ) -> Iterable[Sequence[Any]]:
        """Execute :attr:`claimed` and return its rows."""
        result = connection.execute(statement, values)
        if self._dialect == "postgresql":
            return result
        rows: list[list[Any]] = json.loads(result.scalar_one())
        return rows

    def _as_document(self, select: sa.Select[Any]) -> sa.Select[Any]:
        """Return a query's rows as one JSON document where that is faster."""
        if self._dialect == "postgresql":
            return select
        rows = select.subquery()
        return sa.select(sa.func.json_group_array(sa.func.json_array(*rows.c), type_=sa.Text()))

    @staticmethod
    def _check_lease() -> sa.Select[Any]:
        batch, run, campaign = schema.batch, schema.run, schema.campaign
        latest = sa.select(sa.func.max(batch.c.claimed_at)).where(
            batch.c.campaign_id == sa.bindparam("of_campaign"),
            batch.c.state == SENDING,
            batch.c.run_id == sa.bindparam("by_run"),
        )
        return (
            sa.select(latest.scalar_subquery(), campaign.c.cancelled_at)
            .join_from(run, campaign, campaign.c.id == run.c.campaign_id)
            .where(
                run.c.id == sa.bindparam("by_run"), run.c.lease_until > sa.bindparam("now"), run.c.ended_at.is_(None)
            )
            .with_for_update(read=True, of=campaign)
        )

    def _claim(self) -> sa.Update:
        batch = schema.batch
        following = (
            sa.select(batch.c.id)
            .where(batch.c.campaign_id == sa.bindparam("of_campaign"), batch.c.state == PLANNED)
            .order_by(batch.c.id)
            .limit(sa.bindparam("limit", type_=sa.Integer))
            .with_for_update(skip_locked=True)
        )
        if self._dialect == "postgresql":  # an array is evaluated once, whatever the planner estimates
            array = sa.func.array(following.scalar_subquery(), type_=postgresql.ARRAY(sa.BigInteger))
            chosen = batch.c.id == sa.any_(array)
        else:
            chosen = batch.c.id.in_(following)
        return (
            batch.update()
            .where(chosen)
            .values(
                state=SENDING,
                run_id=sa.bindparam("by_run"),
                claimed_at=sa.bindparam("now", type_=schema.Instant()),
                sender=sa.bindparam("from_sender"),
                send_at=sa.bindparam("scheduled_for", type_=schema.Instant()),
            )
        )

    def _claimed(self) -> sa.Select[Any]:
        batch, message, text = schema.batch, schema.message, schema.text
        # The database joins the recipients: one row per request instead of one per recipient.
        joined: Any
        if self._dialect == "postgresql":
            in_order: Any = postgresql.aggregate_order_by(sa.literal_column("','"), message.c.msisdn)
            joined = sa.func.string_agg(message.c.msisdn, in_order)
        else:  # SQLite reads them in this order from the index on their batch
            joined = sa.func.aggregate_strings(message.c.msisdn, ",")
        recipients = sa.select(joined).where(message.c.batch_id == batch.c.id).scalar_subquery()
        return (
            sa.select(batch.c.id, text.c.body, recipients.label("recipients"), batch.c.text_id)
            .join(text, text.c.id == batch.c.text_id)
            .where(
                batch.c.campaign_id == sa.bindparam("of_campaign"),
                batch.c.state == SENDING,
                batch.c.run_id == sa.bindparam("by_run"),
                batch.c.claimed_at == sa.bindparam("now"),
            )
            .order_by(batch.c.id)
        )

    def _accept(self) -> sa.Update:
        batch = schema.batch
        columns = {"accepted_id": sa.BigInteger(), "at": sa.BigInteger(), "gateway_id": sa.String()}
        accepted = rows_of_document(self._dialect, columns)
        return (
            batch.update()
            # Not with IN, which SQLAlchemy would render anew each time.
            .where(batch.c.id == accepted.c.accepted_id, (batch.c.state == SENDING) | (batch.c.state == IN_DOUBT))
            .values(
                state=ACCEPTED,
                settled_at=sa.type_coerce(accepted.c.at, schema.Instant()),
                message_id=accepted.c.gateway_id,
                code=None,
                reason=None,
            )
        )


def accepted_document(outcomes: Iterable[Outcome]) -> str:
    """Return accepted outcomes as the document that :attr:`ClaimQueries.accept` takes."""
    return json.dumps(
        [
            {
                "accepted_id": outcome.batch_id,
                "at": schema.microseconds(outcome.at),
                "gateway_id": outcome.message_id,
            }
            for outcome in outcomes
        ]
    )


def rows_of_document(dialect: str, columns: Mapping[str, Any]) -> sa.FromClause:
    """Return the rows of the parameter ``document``, a JSON array of objects, as a table for a statement."""
    if dialect == "postgresql":
        typed = [sa.column(name, type_) for name, type_ in columns.items()]
        document = sa.cast(sa.bindparam("document", type_=sa.Text()), postgresql.JSON)
        recordset = sa.func.json_to_recordset(document)
        return recordset.table_valued(*typed, name="document_rows").render_derived(with_types=True)
    each = sa.func.json_each(sa.bindparam("document", type_=sa.Text())).table_valued("value")
    return sa.select(
        *(sa.func.json_extract(each.c.value, f"$.{name}", type_=type_).label(name) for name, type_ in columns.items())
    ).subquery("document_rows")
