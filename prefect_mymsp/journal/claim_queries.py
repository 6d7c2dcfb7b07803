"""The statements that run for every window of a campaign, built once for each journal.

SQLAlchemy needs as long to build such a statement as SQLite needs to carry it out for a hundred rows, and it needs
the interpreter for it, which the requests on their way want too. SQLite's driver hands the interpreter back and forth
for every row, so many rows go in, or come out, as one JSON document.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.schema import ACCEPTED, IN_DOUBT, PLANNED, SENDING

if TYPE_CHECKING:
    from prefect_mymsp.journal.journal import Outcome


class ClaimQueries:
    """Claiming and settling, for ``sqlite`` or ``postgresql``.

    Attributes:
        moment: (time of the run's latest claim, when its campaign was cancelled); no row when its lease has ended.
        take: Make the next ``most`` planned batches the run's.
        claimed: (batch, text, recipients with commas between them, text's number) of one claim.
        accept: Give batches the ids in ``document``, see :func:`acceptances`.
    """

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self.moment = self._moment()
        self.take = self._take()
        self.claimed = self._document(self._claimed())
        self.accept = self._accept()

    def plain(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """SQLite's statements, by name: text with named parameters, and the values of those that are constants."""
        dialect = sqlite.dialect(paramstyle="named")
        statements = {"moment": self.moment, "take": self.take, "claimed": self.claimed, "accept": self.accept}
        compiled = {name: statement.compile(dialect=dialect) for name, statement in statements.items()}
        return {name: (str(one), dict(one.params)) for name, one in compiled.items()}

    def fetched(
        self, connection: Connection, statement: sa.Select[Any], values: Mapping[str, Any]
    ) -> Iterable[Sequence[Any]]:
        """The rows of a statement that :meth:`_document` made."""
        result = connection.execute(statement, values)
        if self._dialect == "postgresql":
            return result
        found: list[list[Any]] = json.loads(result.scalar_one())
        return found

    def _document(self, select: sa.Select[Any]) -> sa.Select[Any]:
        """A query whose rows come as one document, where that is the faster way."""
        if self._dialect == "postgresql":
            return select
        rows = select.subquery()
        return sa.select(sa.func.json_group_array(sa.func.json_array(*rows.c), type_=sa.Text()))

    @staticmethod
    def _moment() -> sa.Select[Any]:
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

    def _take(self) -> sa.Update:
        batch = schema.batch
        following = (
            sa.select(batch.c.id)
            .where(batch.c.campaign_id == sa.bindparam("of_campaign"), batch.c.state == PLANNED)
            .order_by(batch.c.id)
            .limit(sa.bindparam("most", type_=sa.Integer))
            .with_for_update(skip_locked=True)
        )
        if self._dialect == "postgresql":  # as an array it is looked up once, whatever the planner thinks
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
                sender=sa.bindparam("from_originator"),
                send_at=sa.bindparam("at", type_=schema.Instant()),
            )
        )

    def _claimed(self) -> sa.Select[Any]:
        batch, message, text = schema.batch, schema.message, schema.text
        # Recipients are joined by the database: a row a request instead of a row a recipient.
        joined: Any
        if self._dialect == "postgresql":
            in_order: Any = postgresql.aggregate_order_by(sa.literal_column("','"), message.c.msisdn)
            joined = sa.func.string_agg(message.c.msisdn, in_order)
        else:  # SQLite meets them in this order, in the index on their batch
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
        told = told_by(self._dialect, {"which": sa.BigInteger(), "at": sa.BigInteger(), "gateway_id": sa.String()})
        return (
            batch.update()
            # Not with IN, which SQLAlchemy would write out anew each time.
            .where(batch.c.id == told.c.which, (batch.c.state == SENDING) | (batch.c.state == IN_DOUBT))
            .values(
                state=ACCEPTED,
                settled_at=sa.type_coerce(told.c.at, schema.Instant()),
                message_id=told.c.gateway_id,
                code=None,
                reason=None,
            )
        )


def acceptances(outcomes: Iterable[Outcome]) -> str:
    """Accepted outcomes as a document for :attr:`ClaimQueries.accept`."""
    return json.dumps(
        [{"which": one.batch_id, "at": schema.microseconds(one.at), "gateway_id": one.message_id} for one in outcomes]
    )


def told_by(dialect: str, columns: Mapping[str, Any]) -> sa.FromClause:
    """The rows in the parameter ``document``, a JSON array of objects, as a table of a statement."""
    if dialect == "postgresql":
        typed = [sa.column(name, type_) for name, type_ in columns.items()]
        document = sa.cast(sa.bindparam("document", type_=sa.Text()), postgresql.JSON)
        recordset = sa.func.json_to_recordset(document)
        return recordset.table_valued(*typed, name="told").render_derived(with_types=True)
    each = sa.func.json_each(sa.bindparam("document", type_=sa.Text())).table_valued("value")
    return sa.select(
        *(sa.func.json_extract(each.c.value, f"$.{name}", type_=type_).label(name) for name, type_ in columns.items())
    ).subquery("told")
