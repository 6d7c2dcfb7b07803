"""Runs claim requests, send them, and settle them.

A claim is durable before it is returned, so that after a crash the journal lists every request that may have left. A
run keeps its claims while its lease is valid; then another run may put them in doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from prefect_mymsp.errors import CampaignCancelledError, JournalError
from prefect_mymsp.journal import schema
from prefect_mymsp.journal.batches import create_batches, plan_batches
from prefect_mymsp.journal.campaigns import NO_MESSAGES, check_not_purged, check_not_rescheduled, state_sizes
from prefect_mymsp.journal.claim_queries import ClaimQueries, accepted_document
from prefect_mymsp.journal.database import slices
from prefect_mymsp.journal.doubt import remember_recipients
from prefect_mymsp.journal.records import Batch, CampaignKey, Outcome, SendRun
from prefect_mymsp.states import ACCEPTED, IN_DOUBT, PLANNED, RELEASED, SENDING, SPLIT

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.database import Database

#: What a transaction returns.
Result = TypeVar("Result")

DEFAULT_LEASE_S = 60.0
_LEASE_ENDED = "This run's lease has ended. Another run may have put its requests in doubt; start the campaign again."


def _now() -> datetime:
    return datetime.now(UTC)


class Claims:
    """Runs and their requests, as ``journal.claims``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = ClaimQueries(database.engine.dialect.name)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def start_run(self, campaign: CampaignKey, *, lease_s: float = DEFAULT_LEASE_S) -> SendRun:
        """Begin to send a campaign. Several runs may send the same campaign.

        Raises:
            InputError: Its messages were purged, or it was rescheduled.
        """
        now = _now()
        values = {"campaign_id": campaign.id, "started_at": now, "lease_until": now + timedelta(seconds=lease_s)}
        with self._database.write() as connection:
            check_not_purged(connection, campaign)
            check_not_rescheduled(connection, campaign)
            planned = state_sizes(connection, campaign).get(PLANNED, NO_MESSAGES).messages
            run_id = connection.execute(schema.run.insert().values(values).returning(schema.run.c.id)).scalar_one()
        return SendRun(run_id, campaign, lease_s, planned)

    def renew(self, run: SendRun) -> None:
        """Renew a run's lease.

        Raises:
            JournalError: The lease had ended already.
        """
        table, now = schema.run, _now()
        with self._database.write() as connection:
            renewed = connection.execute(
                table.update()
                .where(table.c.id == run.id, table.c.lease_until > now, table.c.ended_at.is_(None))
                .values(lease_until=now + timedelta(seconds=run.lease_s))
            ).rowcount
        if not renewed:
            raise JournalError(_LEASE_ENDED)

    def end_run(self, run: SendRun) -> None:
        """End a run. Requests that it has not settled may have left: they are in doubt."""
        table, now = schema.run, _now()
        with self._database.write() as connection:
            connection.execute(table.update().where(table.c.id == run.id).values(ended_at=now))
            _put_in_doubt(connection, schema.batch.c.run_id == run.id, now)

    def expire_leases(self, campaign: CampaignKey) -> int:
        """Put requests in doubt whose run's lease has ended; returns how many requests."""
        table, now = schema.run, _now()
        expired = sa.select(table.c.id).where(table.c.campaign_id == campaign.id, table.c.lease_until <= now)
        where = schema.batch.c.run_id.in_(expired) & (schema.batch.c.campaign_id == campaign.id)
        with self._database.write() as connection:
            return _put_in_doubt(connection, where, now)

    def last_active(self, campaign: CampaignKey) -> datetime | None:
        """When a run of the campaign was alive for the last time, in UTC; None if there was no run."""
        run = schema.run
        alive_until = sa.func.coalesce(run.c.ended_at, run.c.lease_until, type_=schema.Instant())
        select = sa.select(sa.func.max(alive_until, type_=schema.Instant())).where(run.c.campaign_id == campaign.id)
        with self._database.read() as connection:
            last: datetime | None = connection.execute(select).scalar()
        return last

    def others_sending(self, campaign: CampaignKey, run: SendRun) -> bool:
        """Whether other runs have requests of this campaign in flight."""
        batch = schema.batch
        select = (
            sa.select(sa.literal(1))
            .where(batch.c.campaign_id == campaign.id, batch.c.state == SENDING, batch.c.run_id != run.id)
            .limit(1)
        )
        with self._database.read() as connection:
            return connection.execute(select).scalar() is not None

    # -- claims --------------------------------------------------------------------------------------------------------

    def has_planned(self, campaign: CampaignKey) -> bool:
        """Whether there is something to claim."""
        batch, message = schema.batch, schema.message
        planned = sa.exists().where(batch.c.campaign_id == campaign.id, batch.c.state == PLANNED)
        unbatched = sa.exists().where(message.c.campaign_id == campaign.id, message.c.batch_id.is_(None))
        with self._database.read() as connection:
            return bool(connection.execute(sa.select(planned | unbatched)).scalar())

    def claim(
        self,
        run: SendRun,
        *,
        requests: int,
        batch_size: int,
        send_at: datetime | None = None,
        outcomes: Sequence[Outcome] = (),
    ) -> list[Batch]:
        """Claim planned messages for up to ``requests`` requests. The claim is durable when this returns.

        Messages with the same text go into one request, up to ``batch_size`` of them. Requests come in the order of
        the source, the recipients of one request in the order of their numbers.

        Args:
            run: The run that sends them.
            requests: Largest number of requests.
            batch_size: Largest number of recipients in a request.
            send_at: Scheduled time in place of the campaign's.
            outcomes: Outcomes of earlier requests, recorded in the same transaction as by :meth:`settle`.

        Returns:
            The requests to send; empty when nothing is planned.

        Raises:
            JournalError: The run's lease has ended.
            CampaignCancelledError: The campaign was cancelled.
        """
        scheduled_for = send_at or run.campaign.send_at

        def claim(connection: Connection, outcomes: Sequence[Outcome]) -> list[Batch]:
            now, cancelled = self._check_lease(connection, run)
            if cancelled:
                raise CampaignCancelledError(f"Campaign {run.campaign.name!r} was cancelled.")
            self._settle(connection, outcomes)
            claimed = self._claim(connection, run, requests, scheduled_for, now)
            if claimed < requests and plan_batches(connection, run.campaign, batch_size):
                claimed += self._claim(connection, run, requests - claimed, scheduled_for, now)
            return self._claimed(connection, run, now, scheduled_for) if claimed else []

        return self._with_outcomes(outcomes, claim)

    def split(self, run: SendRun, batch_id: int, *, code: int = 28) -> list[Batch]:
        """Divide a refused request into two new ones, which are claimed. The claim is durable when this returns.

        Args:
            run: The run that has claimed it.
            batch_id: The request.
            code: The gateway's code, which does not identify the recipient.

        Raises:
            JournalError: The run's lease has ended, or the request is no longer the run's.
        """
        batch, message = schema.batch, schema.message
        with self._database.write() as connection:
            now, _ = self._check_lease(connection, run)
            row = connection.execute(
                batch.update()
                .where(batch.c.id == batch_id, batch.c.state == SENDING)
                .values(state=SPLIT, settled_at=now, code=code)
                .returning(batch.c.text_id, batch.c.send_at)
            ).one_or_none()
            if row is None:
                raise JournalError("The request cannot be split: this run no longer holds its claim.")
            text_id, send_at = row
            select = sa.select(message.c.id).where(message.c.batch_id == batch_id).order_by(message.c.id)
            message_ids = list(connection.scalars(select))
            middle = len(message_ids) // 2
            halves = [(text_id, half) for half in (message_ids[:middle], message_ids[middle:]) if half]
            values = {
                "campaign_id": run.campaign.id,
                "run_id": run.id,
                "sender": run.campaign.sender,
                "send_at": send_at,
                "state": SENDING,
                "claimed_at": now,
            }
            create_batches(connection, halves, values, batch_id)
            return self._claimed(connection, run, now, send_at)

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Record the outcomes of requests in one transaction.

        If another request of the campaign has the same message id already, both claims to it are uncertain: the new
        request is in doubt.
        """
        if outcomes := list(outcomes):
            self._with_outcomes(outcomes, self._settle)

    def _check_lease(self, connection: Connection, run: SendRun) -> tuple[datetime, bool]:
        """Return the time of a claim and whether the campaign is cancelled; if it is not, it stays so meanwhile.

        The time is now, or later than the run's latest claim: it identifies the claim even if the clock stands still.

        Raises:
            JournalError: The run's lease has ended.
        """
        now = _now()
        values = {"of_campaign": run.campaign.id, "by_run": run.id, "now": now}
        row = connection.execute(self._queries.check_lease, values).one_or_none()
        if row is None:
            raise JournalError(_LEASE_ENDED)
        latest, cancelled_at = row
        return now if latest is None else max(now, latest + schema.MICROSECOND), cancelled_at is not None

    def _claim(self, connection: Connection, run: SendRun, limit: int, send_at: datetime | None, now: datetime) -> int:
        """Give the next planned batches to the run; returns how many."""
        values = {
            "of_campaign": run.campaign.id,
            "limit": limit,
            "by_run": run.id,
            "now": now,
            "from_sender": run.campaign.sender,
            "scheduled_for": send_at,
        }
        return connection.execute(self._queries.claim, values).rowcount

    def _claimed(
        self, connection: Connection, run: SendRun, claimed_at: datetime, send_at: datetime | None
    ) -> list[Batch]:
        """Return the requests that a run claimed at a time."""
        values = {"of_campaign": run.campaign.id, "by_run": run.id, "now": claimed_at}
        rows = self._queries.fetch(connection, self._queries.claimed, values)
        return [Batch(row[0], row[1], row[2], row[3], send_at) for row in rows]

    def _with_outcomes(
        self, outcomes: Sequence[Outcome], change: Callable[[Connection, Sequence[Outcome]], Result]
    ) -> Result:
        """Run a transaction that records outcomes. If a message id is not unique, run it again with doubt instead."""
        try:
            with self._database.write() as connection:
                return change(connection, outcomes)
        except JournalError:
            doubtful = self._with_shared_ids([outcome for outcome in outcomes if outcome.state == ACCEPTED])
            if not doubtful:
                raise
            with self._database.write() as connection:
                return change(connection, [doubtful.get(outcome.batch_id, outcome) for outcome in outcomes])

    def _with_shared_ids(self, accepted: Sequence[Outcome]) -> dict[int, Outcome]:
        """Return accepted outcomes whose message id is not theirs alone, turned into doubt, by request."""
        batch = schema.batch
        holders: dict[tuple[int, str], set[int]] = {}
        campaigns: dict[int, int] = {}
        with self._database.read() as connection:
            for ids in slices([outcome.batch_id for outcome in accepted]):
                rows = connection.execute(sa.select(batch.c.id, batch.c.campaign_id).where(batch.c.id.in_(ids)))
                campaigns.update((row[0], row[1]) for row in rows)
            for message_ids in slices([outcome.message_id for outcome in accepted]):
                columns = (batch.c.campaign_id, batch.c.message_id, batch.c.id)
                for campaign_id, message_id, batch_id in connection.execute(
                    sa.select(*columns).where(batch.c.message_id.in_(message_ids))
                ):
                    holders.setdefault((campaign_id, message_id), set()).add(batch_id)
        keys = {outcome.batch_id: (campaigns[outcome.batch_id], outcome.message_id or "") for outcome in accepted}
        for batch_id, key in keys.items():
            holders.setdefault(key, set()).add(batch_id)
        return {
            outcome.batch_id: Outcome(outcome.batch_id, IN_DOUBT, outcome.at, reason="id-seen-before")
            for outcome in accepted
            if len(holders[keys[outcome.batch_id]]) > 1
        }

    def _settle(self, connection: Connection, outcomes: Sequence[Outcome]) -> None:
        if accepted := [outcome for outcome in outcomes if outcome.state == ACCEPTED]:
            connection.execute(self._queries.accept, {"document": accepted_document(accepted)})
        if others := [outcome for outcome in outcomes if outcome.state != ACCEPTED]:
            _settle_others(connection, others)


def _settle_others(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Record outcomes other than ``accepted``."""
    batch, message = schema.batch, schema.message
    values: list[dict[str, Any]] = [
        {
            "settled_id": outcome.batch_id,
            "new_state": outcome.state,
            "at": outcome.at,
            "with_code": outcome.code,
            "because": outcome.reason,
            "doubted": outcome.at if outcome.state == IN_DOUBT else None,
        }
        for outcome in outcomes
    ]
    connection.execute(
        batch.update()
        # Another run may have put it in doubt meanwhile; the outcome from the run that sent it takes precedence.
        .where(batch.c.id == sa.bindparam("settled_id"), (batch.c.state == SENDING) | (batch.c.state == IN_DOUBT))
        .values(
            state=sa.bindparam("new_state"),
            settled_at=sa.bindparam("at", type_=schema.Instant()),
            message_id=None,
            code=sa.bindparam("with_code"),
            reason=sa.bindparam("because"),
            doubted_at=sa.func.coalesce(batch.c.doubted_at, sa.bindparam("doubted", type_=schema.Instant())),
        ),
        values,
    )
    for ids in slices([outcome.batch_id for outcome in outcomes if outcome.state == RELEASED]):
        remember_recipients(connection, ids, RELEASED)
        released = sa.select(batch.c.id).where(batch.c.id.in_(ids), batch.c.state == RELEASED)
        connection.execute(message.update().where(message.c.batch_id.in_(released)).values(batch_id=None))


def _put_in_doubt(connection: Connection, where: sa.ColumnElement[bool], now: datetime) -> int:
    """Put requests in doubt that were being sent when their run ended; returns how many."""
    batch = schema.batch
    return connection.execute(
        batch.update()
        .where(where, batch.c.state == SENDING)
        .values(state=IN_DOUBT, reason="interrupted", settled_at=now, doubted_at=now)
    ).rowcount
