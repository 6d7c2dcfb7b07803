"""What an account still waits for, across its campaigns: for who looks at all of them at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.database import slices
from prefect_mymsp.journal.schema import ACCEPTED, IN_DOUBT, PLANNED, SENDING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefect_mymsp.journal.database import Database
    from prefect_mymsp.journal.journal import CampaignKey


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """An accepted batch of which more can be learnt.

    Attributes:
        id: Its number in the journal.
        message_id: The gateway's id.
        claimed_at: When it was about to be sent.
        settled_at: When its id was learnt.
        confirmed: Whether a result has named our recipients under that id.
        group: Whether it is for a recipient group, whose members only the gateway knows.
        due_at: When its messages were to leave: its delivery time, or when it was about to be sent.
    """

    id: int
    message_id: str
    claimed_at: datetime
    settled_at: datetime
    confirmed: bool
    group: bool
    due_at: datetime


@dataclass(frozen=True, slots=True)
class CandidateBatch:
    """A batch that a message at the gateway may belong to although the journal does not know it by that id.

    Attributes:
        batch: The batch, its ``message_id`` empty unless it was accepted.
        campaign_id: Whose it is.
        state: ``sending``, ``in_doubt``, or ``accepted`` under an id that no result has confirmed yet.
        msisdns: Whom it is for.
    """

    batch: OpenBatch
    campaign_id: int
    state: str
    msisdns: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pending:
    """What is left to do and to learn of a campaign, in messages.

    Attributes:
        open: Accepted, in requests that are not final, and not too old to be asked about.
        in_doubt: In doubt, and not too old for evidence to turn up.
        scheduled: Of the doubtful: their delivery time is still to come, so that they can be looked up.
        given_up: Of either kind, but too old.
        running: Whether a process is sending the campaign.
    """

    open: int = 0
    in_doubt: int = 0
    scheduled: int = 0
    given_up: int = 0
    running: bool = False


_batch, _message, _campaign = schema.batch, schema.message, schema.campaign
#: When a batch's messages were to leave.
_due = sa.func.coalesce(_batch.c.send_at, _batch.c.claimed_at, type_=schema.Instant())
_OPEN = (_batch.c.state == ACCEPTED) & _batch.c.final_at.is_(None)
_group = _message.alias("its_group")
_TO_GROUP = (
    sa.exists()
    .where(
        _message.c.campaign_id == _batch.c.campaign_id,
        _message.c.batch_id == _batch.c.id,
        schema.is_group(_message.c.msisdn),
    )
    .correlate(_batch)
)
#: What :func:`_open` makes a batch of.
_COLUMNS = (
    _batch.c.id,
    sa.func.coalesce(_batch.c.message_id, ""),
    _batch.c.claimed_at,
    sa.func.coalesce(_batch.c.settled_at, _batch.c.claimed_at, type_=schema.Instant()),
    _batch.c.confirmed_at,
    _TO_GROUP,
    _due,
)


def _open(row: Sequence[Any]) -> OpenBatch:
    return OpenBatch(row[0], row[1], row[2], row[3], row[4] is not None, bool(row[5]), row[6])


class Deliveries:
    """Questions across an account's campaigns, as ``journal.deliveries``. None of them changes anything."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_batches(
        self, campaign: CampaignKey, *, after: int = 0, limit: int = 1000, since: datetime | None = None
    ) -> list[OpenBatch]:
        """A campaign's accepted batches of which more can be learnt, numbers above ``after``, ascending.

        Args:
            campaign: Whose.
            after: Only batches with a higher number.
            limit: How many at most.
            since: Only those whose messages were to leave then or later, aware.
        """
        where = [_batch.c.campaign_id == campaign.id, _OPEN, _batch.c.id > after]
        if since is not None:
            where.append(_due >= since)
        select = sa.select(*_COLUMNS).where(*where).order_by(_batch.c.id).limit(limit)
        with self._database.read() as connection:
            return [_open(row) for row in connection.execute(select)]

    def pending(self, account: str, since: datetime, now: datetime | None = None) -> dict[int, Pending]:
        """What an account's campaigns wait for, by campaign number; campaigns that wait for nothing are left out.

        Args:
            account: See :func:`~prefect_mymsp.account.account_fingerprint`.
            since: Requests whose messages were to leave before then are too old, aware.
            now: The moment, aware; the default is the present.
        """
        ours = (_campaign.c.account == account, _campaign.c.purged_at.is_(None))

        def total(what: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
            return sa.func.coalesce(sa.func.sum(sa.case((what, _batch.c.size), else_=0)), 0)

        now = now or datetime.now(UTC)
        young, doubtful = _due >= since, _batch.c.state == IN_DOUBT
        sums = (
            sa.select(
                _batch.c.campaign_id,
                total(_OPEN & young),
                total(doubtful & young),
                total(doubtful & (_batch.c.send_at > now)),
                total((_OPEN | doubtful) & ~young),
            )
            .join(_campaign, _campaign.c.id == _batch.c.campaign_id)
            .where(*ours, _OPEN | _batch.c.state.in_([PLANNED, SENDING, IN_DOUBT]))
            .group_by(_batch.c.campaign_id)
        )
        alive = (
            sa.select(schema.run.c.campaign_id)
            .join(_campaign, _campaign.c.id == schema.run.c.campaign_id)
            .where(*ours, schema.run.c.ended_at.is_(None), schema.run.c.lease_until > now)
        )
        with self._database.read() as connection:
            running = set(connection.scalars(alive))
            return {
                row[0]: Pending(int(row[1]), int(row[2]), int(row[3]), int(row[4]), row[0] in running)
                for row in connection.execute(sums)
            }

    def by_message_ids(self, account: str, ids: Sequence[str]) -> dict[str, tuple[int, OpenBatch | None]]:
        """The batches that have these ids: campaign number, and the batch if more can be learnt of it.

        Ids that no campaign of the account has are left out.
        """
        found: dict[str, tuple[int, OpenBatch | None]] = {}
        with self._database.read() as connection:
            for some in slices(ids):
                select = (
                    sa.select(
                        *_COLUMNS, _batch.c.campaign_id, _batch.c.message_id, _OPEN & _campaign.c.purged_at.is_(None)
                    )
                    .join(_campaign, _campaign.c.id == _batch.c.campaign_id)
                    .where(_campaign.c.account == account, _batch.c.message_id.in_(some))
                )
                for row in connection.execute(select):
                    found[row[-2]] = (row[-3], _open(row) if row[-1] else None)
        return found

    def candidates(self, account: str, msisdns: Sequence[str], since: datetime) -> list[CandidateBatch]:
        """Batches for any of these people that may have a message at the gateway under an id we do not know.

        Args:
            account: See :func:`~prefect_mymsp.account.account_fingerprint`.
            msisdns: For whom.
            since: Only batches whose messages were to leave then or later, aware.
        """
        loose = _batch.c.state.in_([SENDING, IN_DOUBT]) | (_OPEN & _batch.c.confirmed_at.is_(None))
        rows, members = dict[int, Any](), dict[int, set[str]]()
        with self._database.read() as connection:
            for some in slices(msisdns):
                select = (
                    sa.select(*_COLUMNS, _batch.c.campaign_id, _batch.c.state)
                    .distinct()
                    .join(_message, _message.c.batch_id == _batch.c.id)
                    .join(_campaign, _campaign.c.id == _message.c.campaign_id)
                    .where(_campaign.c.account == account, _message.c.msisdn.in_(some), loose, _due >= since)
                )
                rows.update((row[0], row) for row in connection.execute(select))
            for some in slices(sorted(rows)):
                named = sa.select(_message.c.batch_id, _message.c.msisdn).where(_message.c.batch_id.in_(some))
                for number, msisdn in connection.execute(named):
                    members.setdefault(number, set()).add(msisdn)
        return [
            CandidateBatch(_open(row), row[-2], row[-1], frozenset(members.get(number, ())))
            for number, row in sorted(rows.items())
        ]

    def has_group_in_doubt(self, account: str, since: datetime) -> bool:
        """Whether requests to recipient groups are in doubt whose messages were to leave then or later."""
        select = (
            sa.select(sa.literal(1))
            .select_from(_batch.join(_campaign, _campaign.c.id == _batch.c.campaign_id))
            .where(_campaign.c.account == account, _batch.c.state == IN_DOUBT, _TO_GROUP, _due >= since)
            .limit(1)
        )
        with self._database.read() as connection:
            return connection.execute(select).first() is not None

    def undelivered(self, campaign: CampaignKey) -> dict[str, int]:
        """How many of a campaign's accepted messages, not delivered, have which of the gateway's words."""
        word = sa.func.coalesce(_message.c.status, "unknown")
        select = (
            sa.select(word, sa.func.count())
            .select_from(_message.join(_batch, _batch.c.id == _message.c.batch_id))
            .where(_message.c.campaign_id == campaign.id, _batch.c.state == ACCEPTED, word != "delivered")
            .group_by(word)
        )
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(select)}
