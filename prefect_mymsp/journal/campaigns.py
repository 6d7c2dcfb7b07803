"""Campaigns: found by name, counted, cancelled."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from prefect_mymsp.errors import InputError
from prefect_mymsp.journal import schema
from prefect_mymsp.journal.database import is_among
from prefect_mymsp.journal.records import CampaignKey, CampaignSummary, Counts, SourceCounts
from prefect_mymsp.states import ACCEPTED, EMPTIED_STATES, MESSAGE_STATES, PLANNED

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.database import Database


class StateSizes(NamedTuple):
    """Messages of a campaign in one state; of these the delivered and the final ones, and their SMS segments."""

    messages: int
    delivered: int
    final: int
    segments: int


NO_MESSAGES = StateSizes(0, 0, 0, 0)

_KEY = (
    schema.campaign.c.id,
    schema.campaign.c.name,
    schema.campaign.c.account,
    schema.campaign.c.sender,
    schema.campaign.c.send_at,
)
_SIZE = schema.batch.c.size
#: Sums over the batches of one state, in the order of :class:`StateSizes`.
_SUMS = (
    sa.func.sum(_SIZE),
    sa.func.sum(schema.batch.c.delivered),
    sa.func.sum(sa.case((schema.batch.c.final_at.is_not(None), _SIZE), else_=0)),
    sa.func.sum(schema.text.c.segments * _SIZE),
)


class Campaigns:
    """An account's campaigns, as ``journal.campaigns``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, account: str, name: str) -> CampaignKey | None:
        """Return the campaign of that name, or None."""
        with self._database.read() as connection:
            return find_campaign(connection, account, name)

    def find(self, account: str, name: str) -> CampaignKey:
        """Return the campaign of that name.

        Raises:
            InputError: The account has no such campaign; the message names the latest ones.
        """
        campaign = self.get(account, name)
        if campaign is None:
            latest = ", ".join(map(repr, self.recent_names(account)))
            hint = f"Its latest campaigns are {latest}." if latest else "It has no campaigns yet."
            raise InputError(f"This account has no campaign {name!r}. {hint}")
        return campaign

    def recent_names(self, account: str, *, limit: int = 5) -> list[str]:
        """Return the names of an account's latest campaigns, the newest first."""
        table = schema.campaign
        select = sa.select(table.c.name).where(table.c.account == account).order_by(table.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return list(connection.scalars(select))

    def counts(self, campaign: CampaignKey) -> Counts:
        """Count a campaign's messages by state."""
        with self._database.read() as connection:
            return _counts(state_sizes(connection, campaign))

    def summaries(
        self,
        account: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        among: Collection[int] | None = None,
        open_only: bool = False,
    ) -> list[CampaignSummary]:
        """Return an account's campaigns with their counts, the newest first.

        Args:
            account: Fingerprint of the gateway account.
            since: Only campaigns first recorded at this time or later, aware.
            until: Only campaigns first recorded before this time, aware.
            among: Only campaigns with these numbers in the journal.
            open_only: Only campaigns with messages that are left to send, in doubt or not final.
        """
        table = schema.campaign
        where = [table.c.account == account]
        if since is not None:
            where.append(table.c.created_at >= since)
        if until is not None:
            where.append(table.c.created_at < until)
        with self._database.read() as connection:
            if among is not None:
                where.append(is_among(connection, table.c.id, sorted(among)))
            summaries = summarize(connection, where)
        return [summary for summary in summaries if summary.open] if open_only else summaries

    def cancel(self, campaign: CampaignKey) -> None:
        """Cancel a campaign for good: from now on no run claims any of its messages."""
        table = schema.campaign
        with self._database.write() as connection:
            connection.execute(
                table.update()
                .where(table.c.id == campaign.id, table.c.cancelled_at.is_(None))
                .values(cancelled_at=datetime.now(UTC))
            )

    def check_not_purged(self, campaign: CampaignKey) -> None:
        """Check that a campaign's messages are still there.

        Raises:
            InputError: They were purged.
        """
        with self._database.read() as connection:
            check_not_purged(connection, campaign)


def find_campaign(connection: Connection, account: str, name: str) -> CampaignKey | None:
    """Return the campaign of that name, or None."""
    table = schema.campaign
    row = connection.execute(sa.select(*_KEY).where(table.c.account == account, table.c.name == name)).one_or_none()
    return None if row is None else CampaignKey(*row)


def is_cancelled(connection: Connection, campaign: CampaignKey) -> bool:
    """Whether a campaign is cancelled. If it is not, it stays so until this transaction ends."""
    table = schema.campaign
    select = sa.select(table.c.cancelled_at).where(table.c.id == campaign.id).with_for_update(read=True)
    return connection.execute(select).scalar() is not None


def check_not_purged(connection: Connection, campaign: CampaignKey) -> None:
    """Check that a campaign's messages are still there.

    Raises:
        InputError: They were purged.
    """
    table = schema.campaign
    if connection.scalar(sa.select(table.c.purged_at).where(table.c.id == campaign.id)) is not None:
        raise InputError(
            f"The messages of campaign {campaign.name!r} were purged; only its counts are left. Use another campaign "
            "name to send again."
        )


def check_not_rescheduled(connection: Connection, campaign: CampaignKey) -> None:
    """Check that a campaign still has the caller's scheduled time. It cannot change until this transaction ends.

    Raises:
        InputError: The campaign was rescheduled.
    """
    table = schema.campaign
    select = sa.select(table.c.send_at).where(table.c.id == campaign.id).with_for_update(read=True)
    rows = connection.execute(select).all()
    if rows and rows[0][0] != campaign.send_at:
        raise InputError(
            f"The campaign {campaign.name!r} has been rescheduled. Start it again with its new scheduled time."
        )


def state_sizes(connection: Connection, campaign: CampaignKey) -> dict[str, StateSizes]:
    """Count a campaign's messages by state. Batches whose messages were moved to others do not count."""
    batch, message, text = schema.batch, schema.message, schema.text
    select = (
        sa.select(batch.c.state, *_SUMS)
        .join(text, text.c.id == batch.c.text_id)
        .where(batch.c.campaign_id == campaign.id, batch.c.state.not_in(sorted(EMPTIED_STATES)))
        .group_by(batch.c.state)
    )
    sizes = {row[0]: _state_sizes(row[1:]) for row in connection.execute(select)}
    unbatched = sa.select(sa.func.count()).where(message.c.campaign_id == campaign.id, message.c.batch_id.is_(None))
    _add_planned(sizes, connection.execute(unbatched).scalar_one())
    return sizes


def summarize(connection: Connection, where: Sequence[sa.ColumnElement[bool]]) -> list[CampaignSummary]:
    """Return campaigns with their counts, the newest first."""
    table, batch, message, run, text = schema.campaign, schema.batch, schema.message, schema.run, schema.text
    ids = sa.select(table.c.id).where(*where)
    source_counts = (table.c.rows, table.c.rejected, table.c.duplicates, table.c.suppressed)
    columns = (table.c.created_at, table.c.source, table.c.cancelled_at, table.c.purged_at, *source_counts)
    rows = connection.execute(sa.select(*_KEY, *columns).where(*where).order_by(table.c.id.desc())).all()
    sizes: dict[int, dict[str, StateSizes]] = {row[0]: {} for row in rows}
    active: dict[int, list[datetime | None]] = {row[0]: [row[4], row[5]] for row in rows}
    times = (batch.c.claimed_at, batch.c.settled_at, batch.c.final_at, batch.c.send_at)
    batches = (
        sa.select(batch.c.campaign_id, batch.c.state, *_SUMS, *map(sa.func.max, times))
        .join(text, text.c.id == batch.c.text_id)
        .where(batch.c.campaign_id.in_(ids))
        .group_by(batch.c.campaign_id, batch.c.state)
    )
    for campaign_id, state, *sums_and_times in connection.execute(batches):
        active[campaign_id] += sums_and_times[len(_SUMS) :]
        if state not in EMPTIED_STATES:
            sizes[campaign_id][state] = _state_sizes(sums_and_times[: len(_SUMS)])
    unbatched = (
        sa.select(message.c.campaign_id, sa.func.count())
        .where(message.c.campaign_id.in_(ids), message.c.batch_id.is_(None))
        .group_by(message.c.campaign_id)
    )
    for campaign_id, count in connection.execute(unbatched):
        _add_planned(sizes[campaign_id], count)
    runs = (
        sa.select(run.c.campaign_id, sa.func.max(run.c.started_at), sa.func.max(run.c.ended_at))
        .where(run.c.campaign_id.in_(ids))
        .group_by(run.c.campaign_id)
    )
    for campaign_id, started_at, ended_at in connection.execute(runs):
        active[campaign_id] += (started_at, ended_at)
    return [
        CampaignSummary(
            key=CampaignKey(*row[:5]),
            created_at=row[5],
            source=row[6],
            active_at=max(time for time in active[row[0]] if time is not None),
            cancelled_at=row[7],
            purged_at=row[8],
            source_rows=None if row[9] is None else SourceCounts(*row[9:13]),
            counts=_counts(sizes[row[0]]),
        )
        for row in rows
    ]


def _state_sizes(sums: Sequence[int | None]) -> StateSizes:
    return StateSizes(*(int(value or 0) for value in sums))


def _add_planned(sizes: dict[str, StateSizes], unbatched: int) -> None:
    """Add messages that are in no batch to the planned ones."""
    if unbatched:
        planned = sizes.get(PLANNED, NO_MESSAGES)
        sizes[PLANNED] = planned._replace(messages=planned.messages + unbatched)


def _counts(sizes: Mapping[str, StateSizes]) -> Counts:
    accepted = sizes.get(ACCEPTED, NO_MESSAGES)
    return Counts(
        messages=sum(size.messages for size in sizes.values()),
        delivered=accepted.delivered,
        final=accepted.final,
        segments=accepted.segments,
        **{state: sizes.get(state, NO_MESSAGES).messages for state in MESSAGE_STATES},
    )
