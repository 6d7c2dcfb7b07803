"""Recording what a campaign is to send."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from prefect_mymsp.errors import InputError
from prefect_mymsp.journal import schema
from prefect_mymsp.journal.batches import plan_batches
from prefect_mymsp.journal.campaigns import check_not_purged, find_campaign, is_cancelled
from prefect_mymsp.journal.claim_queries import rows_of_document
from prefect_mymsp.journal.conditions import message_is_planned
from prefect_mymsp.journal.database import RECORDING, advisory_lock, execute_many, insert, slices
from prefect_mymsp.journal.records import CampaignKey, EarlierMessage, PlannedChunk, SourceCounts, text_digest
from prefect_mymsp.phone import GROUP_SIGN, check_group_name, mask_numbers
from prefect_mymsp.states import PERHAPS_SENT_STATES, PLANNED

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from prefect_mymsp.journal.database import Database


@contextlib.contextmanager
def record(
    database: Database,
    account: str,
    name: str,
    *,
    source: str,
    sender: str | None,
    send_at: datetime | None,
    batch_size: int,
) -> Iterator[Recording]:
    """Record a campaign's messages in one transaction; see :meth:`~prefect_mymsp.journal.Journal.recording`."""
    with database.write() as connection:
        advisory_lock(connection, RECORDING)  # two that insert the same rows in different orders would deadlock
        campaign = find_campaign(connection, account, name)
        if campaign is None:
            values = {
                "account": account,
                "name": name,
                "created_at": datetime.now(UTC),
                "sender": sender,
                "send_at": send_at,
                "source": source,
            }
            connection.execute(schema.campaign.insert().values(values))
            campaign = find_campaign(connection, account, name)
            assert campaign is not None  # noqa: S101  just inserted
        elif (campaign.sender, campaign.send_at) != (sender, send_at):
            raise InputError(
                f"The campaign {name!r} was started with another sender or scheduled time. Continue it with the same "
                "ones, or use another campaign name."
            )
        if is_cancelled(connection, campaign):
            raise InputError(f"The campaign {name!r} was cancelled. Use another campaign name to send again.")
        check_not_purged(connection, campaign)
        # Nothing is claimed while it changes.
        locking = sa.select(schema.campaign.c.id).where(schema.campaign.c.id == campaign.id)
        connection.execute(locking.with_for_update(key_share=True))
        yield Recording(connection, campaign)
        plan_batches(connection, campaign, batch_size)


class Recording:
    """A campaign while its messages are recorded. Nothing is kept unless the recording ends without an error.

    Attributes:
        campaign: The campaign.
        messages_before: Messages of the campaign before this recording.
    """

    def __init__(self, connection: Connection, campaign: CampaignKey) -> None:
        self._connection = connection
        self._text_ids: dict[bytes, int] = {}
        self.campaign = campaign
        self.messages_before = self._messages()
        last_id = sa.select(sa.func.coalesce(sa.func.max(schema.message.c.id), 0))
        self._last_id_before = connection.execute(last_id).scalar_one()

    def _messages(self) -> int:
        message = schema.message
        count = sa.select(sa.func.count()).where(message.c.campaign_id == self.campaign.id)
        return self._connection.execute(count).scalar_one()

    def added(self) -> int:
        """Number of messages added so far."""
        return self._messages() - self.messages_before

    def find_changed_texts(self, *, groups: bool = False) -> list[EarlierMessage]:
        """Return claimed messages to recipients for whom this recording added another message.

        Args:
            groups: Messages to recipient groups instead of those to people.
        """
        new, old, text = schema.message.alias("new"), schema.message.alias("old"), schema.text
        is_group = schema.is_group(new.c.msisdn)
        same_recipient = (
            (old.c.campaign_id == new.c.campaign_id)
            & (old.c.msisdn == new.c.msisdn)
            & (old.c.id <= self._last_id_before)
        )
        select = (
            sa.select(old.c.msisdn, text.c.digest, old.c.row)
            .distinct()
            .select_from(new.join(old, same_recipient).join(text, text.c.id == old.c.text_id))
            .join(schema.batch, schema.batch.c.id == old.c.batch_id)
            .where(
                new.c.campaign_id == self.campaign.id,
                new.c.id > self._last_id_before,
                schema.batch.c.state != PLANNED,
                is_group if groups else ~is_group,
            )
        )
        return [EarlierMessage(row[0], bytes(row[1]), row[2]) for row in self._connection.execute(select)]

    def planned_before(self, *, groups: bool = False) -> Iterator[tuple[int, EarlierMessage]]:
        """Yield messages that were recorded before and that no run has claimed: (number in the journal, message).

        Args:
            groups: Messages to recipient groups instead of those to people.
        """
        message, text = schema.message, schema.text
        is_group = schema.is_group(message.c.msisdn)
        rows = self._connection.execute(
            sa.select(message.c.id, message.c.msisdn, text.c.digest, message.c.row)
            .join(text, text.c.id == message.c.text_id)
            .outerjoin(schema.batch, schema.batch.c.id == message.c.batch_id)
            .where(
                message.c.campaign_id == self.campaign.id,
                message_is_planned,
                message.c.id <= self._last_id_before,
                is_group if groups else ~is_group,
            )
        )
        return ((row[0], EarlierMessage(row[1], bytes(row[2]), row[3])) for row in rows)

    def drop_planned(self, message_ids: Sequence[int]) -> None:
        """Delete messages that no run has claimed, because the source does not have them any more."""
        batch, message = schema.batch, schema.message
        for ids in slices(message_ids):
            self._connection.execute(message.delete().where(message.c.id.in_(ids)))
        if message_ids:
            is_empty = ~sa.exists().where(message.c.batch_id == batch.c.id)
            is_planned = (batch.c.campaign_id == self.campaign.id, batch.c.state == PLANNED)
            self._connection.execute(batch.delete().where(*is_planned, is_empty))
            size = sa.select(sa.func.count()).where(message.c.batch_id == batch.c.id).scalar_subquery()
            self._connection.execute(batch.update().where(*is_planned).values(size=size))

    def find_repeats(self, since: datetime) -> list[tuple[str, int]]:
        """Find other campaigns of the account that have sent the same texts to the same recipients.

        Args:
            since: Only messages claimed at this time or later, aware.

        Returns:
            (campaign name, number of this recording's new messages that it has sent).
        """
        new, old, batch = schema.message.alias("new"), schema.message.alias("old"), schema.batch
        campaign = schema.campaign
        was_sent = (batch.c.claimed_at >= since, batch.c.state.in_(PERHAPS_SENT_STATES))
        recent = self._connection.execute(
            sa.select(batch.c.campaign_id, campaign.c.name)
            .distinct()
            .join(campaign, campaign.c.id == batch.c.campaign_id)
            .where(campaign.c.account == self.campaign.account, campaign.c.id != self.campaign.id, *was_sent)
        ).all()
        repeats = []
        for campaign_id, name in recent:
            same_message = (old.c.msisdn == new.c.msisdn) & (old.c.text_id == new.c.text_id)
            select = (
                sa.select(sa.func.count())
                .select_from(new.join(old, same_message).join(batch, batch.c.id == old.c.batch_id))
                .where(
                    new.c.campaign_id == self.campaign.id,
                    new.c.id > self._last_id_before,
                    old.c.campaign_id == campaign_id,
                    *was_sent,
                )
            )
            if count := self._connection.execute(select).scalar_one():
                repeats.append((name, count))
        return repeats

    def record_source(self, counts: SourceCounts, rejected_rows: Sequence[tuple[int, str, str]]) -> None:
        """Record the counts and rejected rows of the source for later reports, in place of earlier ones.

        Args:
            counts: The source's rows by kind.
            rejected_rows: (row, column, reason) of rows that cannot be sent; the first few thousand suffice. Their
                values are not kept, and numbers that a reason quotes are masked.
        """
        campaign, rejected_row = schema.campaign, schema.rejected_row
        self._connection.execute(
            campaign.update().where(campaign.c.id == self.campaign.id).values(dataclasses.asdict(counts))
        )
        self._connection.execute(rejected_row.delete().where(rejected_row.c.campaign_id == self.campaign.id))
        values = [
            {"campaign_id": self.campaign.id, "row": row, "column": column, "reason": mask_numbers(reason)}
            for row, column, reason in rejected_rows
        ]
        if values:
            self._connection.execute(rejected_row.insert(), values)

    def add(self, chunk: PlannedChunk) -> None:
        """Record messages. Messages that the campaign has already stay as they are."""
        if not len(chunk.rows):
            return
        text_ids = self._record_texts(chunk)
        values = [
            {"campaign_id": self.campaign.id, "row": row, "msisdn": msisdn, "text_id": text_ids[index]}
            for row, msisdn, index in zip(chunk.rows, chunk.msisdns, chunk.text_of, strict=True)
        ]
        statement = insert(self._connection, schema.message)
        if self._connection.dialect.name == "postgresql":  # one statement takes half the time of many
            columns = {name: schema.message.c[name].type for name in values[0]}
            rows = sa.select(*rows_of_document("postgresql", columns).c)
            statement = statement.from_select(list(columns), rows)
            self._connection.execute(statement.on_conflict_do_nothing(), {"document": json.dumps(values)})
        else:
            execute_many(self._connection, statement.on_conflict_do_nothing(), values)

    def add_groups(self, names: Sequence[str], text: str, *, encoding: str, segments: int) -> None:
        """Record one text for recipient groups of the gateway: one message and one request each, with ``row`` 0.

        The members of a group are stored at the gateway only. The journal holds the group as ``@name`` and counts it as
        one message until a result counts its members.

        Args:
            names: Names or short names of the groups in the gateway.
            text: The text to send.
            encoding: ``GSM-7`` or ``UCS-2``.
            segments: SMS segments of the text.

        Raises:
            InputError: A name cannot be used, see :func:`~prefect_mymsp.phone.check_group_name`.
        """
        checked = [check_group_name(name) for name in names]
        self.add(
            PlannedChunk(
                rows=[0] * len(names),
                msisdns=[f"{GROUP_SIGN}{name}" for name in checked],
                text_of=[0] * len(names),
                texts=[text],
                digests=[text_digest(text)],
                encodings=[encoding],
                segments=[segments],
            )
        )

    def _record_texts(self, chunk: PlannedChunk) -> list[int]:
        """Record the chunk's texts that are new; returns the numbers of all its texts in their order."""
        text = schema.text
        if len(chunk.texts) == 1 and chunk.digests[0] in self._text_ids:
            return [self._text_ids[chunk.digests[0]]]
        execute_many(
            self._connection,
            insert(self._connection, text).on_conflict_do_nothing(),
            [
                {"digest": digest, "body": body, "encoding": encoding, "segments": segments}
                for digest, body, encoding, segments in zip(
                    chunk.digests, chunk.texts, chunk.encodings, chunk.segments, strict=True
                )
            ],
        )
        text_ids: dict[bytes, int] = {}
        for digests in slices(chunk.digests):
            rows = self._connection.execute(sa.select(text.c.digest, text.c.id).where(text.c.digest.in_(digests)))
            text_ids.update((bytes(row[0]), row[1]) for row in rows)
        self._text_ids = text_ids if len(text_ids) == 1 else {}
        return [text_ids[digest] for digest in chunk.digests]
