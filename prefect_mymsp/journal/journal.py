"""Reading and writing the journal. Every public method is one transaction, or one block of a recording."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, Connection

from prefect_mymsp.errors import CampaignCancelledError, InputError, JournalError
from prefect_mymsp.journal import claiming, retention, schema
from prefect_mymsp.journal.bookmarks import Bookmarks, NotificationLimiter
from prefect_mymsp.journal.claim_queries import ClaimQueries, acceptances, told_by
from prefect_mymsp.journal.database import PRAGMAS, RECORDING, Database, advisory_lock
from prefect_mymsp.journal.database import insert as _insert
from prefect_mymsp.journal.database import slices as _slices
from prefect_mymsp.journal.deliveries import Deliveries
from prefect_mymsp.journal.inbox import Inbox
from prefect_mymsp.journal.report_queries import ReportQueries
from prefect_mymsp.journal.retention import PurgeResult
from prefect_mymsp.journal.schema import (
    ACCEPTED,
    ASSUMED,
    CANCELLED,
    IN_DOUBT,
    PLANNED,
    REFUSED,
    RELEASED,
    SENDING,
    SPLIT,
)
from prefect_mymsp.journal.suppressions import Suppressions
from prefect_mymsp.models import Decision, JoinedMSISDNs, RecipientStatus, SmsResult
from prefect_mymsp.phone import check_group_name, gateway_digits, mask_numbers
from prefect_mymsp.times import require_aware

#: What a change of the journal returns.
Changed = TypeVar("Changed")

_LEASE_S = 60.0


@dataclass(frozen=True, slots=True)
class CampaignKey:
    """A campaign in the journal.

    Attributes:
        id: Its number in the journal.
        name: Its name, unique for the account.
        account: Fingerprint of gateway and user.
        sender: The sender it sends with; None for the account's.
        send_at: The delivery time it sends with, in UTC; None for at once.
    """

    id: int
    name: str
    account: str
    sender: str | None
    send_at: datetime | None


@dataclass(frozen=True, slots=True)
class PlannedChunk:
    """Rows to record, by column, all of one length but for the texts.

    Attributes:
        rows: Line of the source each message comes from.
        msisdns: Whom it goes to.
        text_of: Index into ``texts`` for each row.
        texts: The distinct texts of the block.
        digests: 16 bytes identifying each text, see :func:`text_digest`.
        encodings: ``GSM-7`` or ``UCS-2``, for each text.
        segments: SMS each text needs.
    """

    rows: Sequence[int]
    msisdns: Sequence[str]
    text_of: Sequence[int]
    texts: Sequence[str] = field(repr=False)
    digests: Sequence[bytes] = field(repr=False)
    encodings: Sequence[str]
    segments: Sequence[int]


class Batch(NamedTuple):
    """One request that is ours to make: durable in the journal before anybody sees it.

    Attributes:
        id: Its number in the journal.
        text: What to send.
        joined: To whom: MSISDNs with commas between them, ascending; or ``@`` and the name of a recipient group.
        text_id: The text's number in the journal.
        send_at: The delivery time to ask for, a whole minute in UTC; None for at once.
    """

    id: int
    text: str
    joined: str
    text_id: int
    send_at: datetime | None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id}, {self.size} recipients, {self.send_at})"  # no text, no numbers

    @property
    def recipients(self) -> str:
        """To whom, as the client takes it: a recipient group by its name."""
        return self.joined[1:] if self.joined[0] == "@" else JoinedMSISDNs(self.joined)

    @property
    def msisdns(self) -> tuple[str, ...]:
        """To whom, each."""
        return tuple(self.joined.split(","))

    @property
    def size(self) -> int:
        """How many messages it is; one for a recipient group."""
        return self.joined.count(",") + 1


@dataclass(frozen=True, slots=True)
class WatchedBatch:
    """A batch that was in doubt at some time and whose delivery time is still to come.

    Attributes:
        id: Its number in the journal.
        state: What it is now.
        text_id: The text's number in the journal.
        send_at: The delivery time that was asked for.
        settled_at: When it came into its present state.
        msisdns: To whom it was to go.
    """

    id: int
    state: str
    text_id: int
    send_at: datetime
    settled_at: datetime | None
    msisdns: frozenset[str] = field(repr=False)

    @property
    def group(self) -> bool:
        """Whether it was for a recipient group, so that nobody here knows whom it was to reach."""
        return any(one.startswith("@") for one in self.msisdns)


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """An accepted batch that waits at the gateway.

    Attributes:
        id: Its number in the journal.
        send_at: The delivery time that was asked for.
        settled_at: When its message id was learnt.
        rescheduled_to: The time it is being rescheduled to: it may wait for this one already. None when it is not.
    """

    id: int
    send_at: datetime
    settled_at: datetime
    rescheduled_to: datetime | None


@dataclass(frozen=True, slots=True)
class EarlierMessage:
    """A message recorded before: its number, its text and its row then.

    Attributes:
        msisdn: Whom it goes to.
        digest: Its text, see :func:`text_digest`.
        row: Its line in the source it was recorded from.
    """

    msisdn: str
    digest: bytes
    row: int


class Outcome(NamedTuple):
    """What came of one batch's request.

    Attributes:
        batch_id: Which batch.
        state: ``accepted``, ``refused``, ``in_doubt`` or ``released``.
        at: When we knew.
        message_id: The gateway's id, for ``accepted``.
        code: The gateway's code, for ``refused`` and where it explains ``released``.
        reason: One short word, for ``in_doubt`` and ``released``.
    """

    batch_id: int
    state: str
    at: datetime
    message_id: str | None = None
    code: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SendRun:
    """One process's right to send a campaign's messages.

    Attributes:
        id: Its number in the journal.
        campaign: What it sends.
        lease_s: Seconds each renewal lasts.
        planned: Planned messages when it began.
    """

    id: int
    campaign: CampaignKey
    lease_s: float
    planned: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Messages of a campaign by state; the states add up to ``messages``.

    A message to a recipient group is one until a result tells how many people the group has, and then so many.

    Attributes:
        messages: All of them.
        planned: Not sent and not being sent.
        sending: A request may be on its way.
        accepted: The gateway gave an id.
        refused: The gateway refused.
        in_doubt: May have been sent.
        assumed: Were in doubt until a person said they were sent.
        cancelled: Taken back at the gateway before their delivery time.
        delivered: Of the accepted: the phone confirmed.
        final: Of the accepted: nothing more can be learnt.
        segments: SMS that the accepted messages cost.
    """

    messages: int
    planned: int
    sending: int
    accepted: int
    refused: int
    in_doubt: int
    assumed: int
    cancelled: int
    delivered: int
    final: int
    segments: int


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """What a campaign's source came to.

    Attributes:
        rows: All its rows, blank lines not counted.
        rejected: Rows that cannot be sent.
        duplicates: Rows whose number and text stand further up.
        suppressed: Rows whose number must get nothing.
    """

    rows: int
    rejected: int
    duplicates: int
    suppressed: int


@dataclass(frozen=True, slots=True)
class CampaignSummary:
    """A campaign and where its messages stand.

    Attributes:
        key: The campaign.
        created_at: When it was first recorded.
        source: Where its rows came from, as a person knows it.
        active_at: When something last happened to it, or will: the latest of its requests' times, its runs' and its
            delivery time.
        cancelled_at: When a person stopped it for good; None when nobody did.
        purged_at: When its people were forgotten; None while they are known.
        source_rows: What its source came to when it was read last; None in journals of earlier versions.
        counts: Its messages by state.
    """

    key: CampaignKey
    created_at: datetime
    source: str
    active_at: datetime
    cancelled_at: datetime | None
    purged_at: datetime | None
    source_rows: SourceCounts | None
    counts: Counts

    @property
    def open(self) -> bool:
        """Whether more is to be done or learnt: messages to send, in doubt, or not final."""
        counts = self.counts
        unsent = counts.planned if self.cancelled_at is None else 0
        unknown = unsent + counts.sending + counts.in_doubt + counts.accepted - counts.final
        return self.purged_at is None and unknown > 0


class _Sizes(NamedTuple):
    """Messages of one state, those delivered, those of which nothing more can be learnt, and their segments."""

    messages: int
    delivered: int
    final: int
    segments: int


_NOTHING = _Sizes(0, 0, 0, 0)
_COUNTED = (PLANNED, SENDING, ACCEPTED, REFUSED, IN_DOUBT, ASSUMED, CANCELLED)


def text_digest(text: str) -> bytes:
    """The 16 bytes that stand for a text: BLAKE2b of its UTF-8."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def _now() -> datetime:
    return datetime.now(UTC)


class Journal(Deliveries):
    """The journal, open. A context manager; may be shared between threads.

    With SQLite every commit is on disk before it returns (``synchronous=FULL``): after a power cut the journal holds
    every intent whose request left. PostgreSQL does the same unless its ``synchronous_commit`` was turned off.
    """

    def __init__(self, url: str | URL | Path) -> None:
        """Open the journal, and create it if it is not there.

        Args:
            url: A file's path, or an SQLAlchemy URL of SQLite or PostgreSQL.

        Raises:
            ConfigurationError: The URL cannot be used.
            JournalError: It cannot be opened, or was written by another version of this package.
        """
        self._database = Database(url)
        self._write, self._read = self._database.write, self._database.read
        #: Where it is, without a password.
        self.location = self._database.location
        self._hot = ClaimQueries(self._database.engine.dialect.name)
        #: By run; None where it is not worth one.
        self._processes: dict[int, claiming.ClaimingProcess | None] = {}
        self.campaigns: Journal = self
        self.claims: Journal = self
        self.doubt: Journal = self
        self.schedule: Journal = self
        self.deliveries: Journal = self
        self.retention: Journal = self
        self.inbox = Inbox(self._database)
        self.raw_responses = self.inbox
        self.suppressions = Suppressions(self._database)
        self.bookmarks = Bookmarks(self._database)
        self.notifications = NotificationLimiter(self._database)
        self.report_queries = ReportQueries(self._database)

    @property
    def url(self) -> URL:
        """Its URL, the password included: never print it, hand it to another process only."""
        return self._database.url

    def __repr__(self) -> str:
        return f"Journal({self.location!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections, and end the processes of runs that have not ended."""
        while self._processes:
            _, process = self._processes.popitem()
            if process is not None:
                process.close()
        self._database.engine.dispose()

    # -- what we mean to send ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def recording(
        self,
        account: str,
        name: str,
        *,
        source: str,
        sender: str | None,
        send_at: datetime | None,
        batch_size: int = 500,
    ) -> Iterator[Recording]:
        """Record what a campaign is to send; all of it or, when the block raises, nothing.

        Args:
            account: See :func:`~prefect_mymsp.account.account_fingerprint`.
            name: The campaign's name. The same name continues the same campaign.
            source: Where the rows come from, as a person knows it.
            sender: The sender to send with.
            send_at: The delivery time to send with, aware.
            batch_size: How many recipients of one text one request may have.

        Raises:
            InputError: The campaign exists with another sender or delivery time.
            JournalError: The journal cannot be written.
        """
        with self._write() as connection:
            advisory_lock(connection, RECORDING)  # the same rows in two orders would wait for each other for ever
            key = self._campaign(connection, account, name)
            if key is None:
                values = {
                    "account": account,
                    "name": name,
                    "created_at": _now(),
                    "sender": sender,
                    "send_at": send_at,
                    "source": source,
                }
                connection.execute(schema.campaign.insert().values(values))
                key = self._campaign(connection, account, name)
                assert key is not None  # noqa: S101  just inserted
            elif (key.sender, key.send_at) != (sender, send_at):
                raise InputError(
                    f"The campaign {name!r} was started with another sender or delivery time. Continue it with "
                    "the same ones, or give this sending a name of its own."
                )
            if self._cancelled(connection, key):
                raise InputError(f"The campaign {name!r} was cancelled. Give a new sending a name of its own.")
            self._refuse_forgotten(connection, key)
            # Nothing is claimed while it changes.
            locking = sa.select(schema.campaign.c.id).where(schema.campaign.c.id == key.id)
            connection.execute(locking.with_for_update(key_share=True))
            yield Recording(connection, key)
            self._plan_batches(connection, key, batch_size)

    def get(self, account: str, name: str) -> CampaignKey | None:
        """The campaign of that name, or None."""
        with self._read() as connection:
            return self._campaign(connection, account, name)

    def recent_names(self, account: str, *, limit: int = 5) -> list[str]:
        """The account's latest campaigns, the newest first."""
        table = schema.campaign
        with self._read() as connection:
            select = sa.select(table.c.name).where(table.c.account == account).order_by(table.c.id.desc()).limit(limit)
            return list(connection.scalars(select))

    @staticmethod
    def _campaign(connection: Connection, account: str, name: str) -> CampaignKey | None:
        table = schema.campaign
        found = connection.execute(
            sa.select(table.c.id, table.c.name, table.c.account, table.c.sender, table.c.send_at).where(
                table.c.account == account, table.c.name == name
            )
        ).one_or_none()
        return None if found is None else CampaignKey(*found)

    @staticmethod
    def _cancelled(connection: Connection, campaign: CampaignKey) -> bool:
        """Whether it is cancelled; if not, it will not be before this transaction ends."""
        column = schema.campaign.c.cancelled_at
        found = connection.execute(
            sa.select(column).where(schema.campaign.c.id == campaign.id).with_for_update(read=True)
        ).scalar()
        return found is not None

    def check_not_purged(self, campaign: CampaignKey) -> None:
        """Nothing more can be done with a campaign whose people were forgotten.

        Raises:
            InputError: They were.
        """
        with self._read() as connection:
            self._refuse_forgotten(connection, campaign)

    @staticmethod
    def _refuse_forgotten(connection: Connection, campaign: CampaignKey) -> None:
        column = schema.campaign.c.purged_at
        if connection.scalar(sa.select(column).where(schema.campaign.c.id == campaign.id)) is not None:
            raise InputError(
                f"The people of campaign {campaign.name!r} were forgotten; only its counts are left. Give a new "
                "sending a name of its own."
            )

    @staticmethod
    def _refuse_moved(connection: Connection, campaign: CampaignKey) -> None:
        """What begins to send must know the time to send for; it will not change before this transaction ends."""
        table = schema.campaign
        found = connection.execute(
            sa.select(table.c.send_at).where(table.c.id == campaign.id).with_for_update(read=True)
        ).all()
        if found and found[0][0] != campaign.send_at:
            raise InputError(
                f"The campaign {campaign.name!r} was rescheduled meanwhile. Start it again, with its new delivery time."
            )

    # -- sending -----------------------------------------------------------------------------------------------

    def start_run(self, campaign: CampaignKey, *, lease_s: float = _LEASE_S) -> SendRun:
        """Begin to send a campaign; other runs of it may be under way.

        Raises:
            InputError: Its people were forgotten, or it has another delivery time by now.
        """
        now = _now()
        values = {"campaign_id": campaign.id, "started_at": now, "lease_until": now + timedelta(seconds=lease_s)}
        with self._write() as connection:
            self._refuse_forgotten(connection, campaign)
            self._refuse_moved(connection, campaign)
            messages = self._sizes(connection, campaign).get(PLANNED, _NOTHING).messages
            number = connection.execute(schema.run.insert().values(values).returning(schema.run.c.id)).scalar_one()
        return SendRun(number, campaign, lease_s, messages)

    def renew(self, run: SendRun) -> None:
        """Move the run's lease ahead.

        Raises:
            JournalError: The lease had ended: another run may have taken its claims over.
        """
        now = _now()
        with self._write() as connection:
            renewed = connection.execute(
                schema.run.update()
                .where(schema.run.c.id == run.id, schema.run.c.lease_until > now, schema.run.c.ended_at.is_(None))
                .values(lease_until=now + timedelta(seconds=run.lease_s))
            ).rowcount
        if not renewed:
            raise JournalError("This run's lease has ended; its claims are no longer its own.")

    def end_run(self, run: SendRun) -> None:
        """End a run. What it still claims was interrupted and may have left: it is in doubt."""
        if process := self._processes.pop(run.id, None):
            process.close()
        now = _now()
        with self._write() as connection:
            connection.execute(schema.run.update().where(schema.run.c.id == run.id).values(ended_at=now))
            self._abandon(connection, schema.batch.c.run_id == run.id, "interrupted", now)

    def expire_leases(self, campaign: CampaignKey) -> int:
        """Put in doubt what runs claimed whose lease has ended; returns how many requests that concerns."""
        now = _now()
        dead = sa.select(schema.run.c.id).where(
            schema.run.c.campaign_id == campaign.id, schema.run.c.lease_until <= now
        )
        with self._write() as connection:
            return self._abandon(connection, schema.batch.c.run_id.in_(dead), "interrupted", now, campaign)

    @staticmethod
    def _abandon(
        connection: Connection,
        which: sa.ColumnElement[bool],
        reason: str,
        now: datetime,
        campaign: CampaignKey | None = None,
    ) -> int:
        where = [which, schema.batch.c.state == SENDING]
        if campaign is not None:
            where.append(schema.batch.c.campaign_id == campaign.id)
        return connection.execute(
            schema.batch.update().where(*where).values(state=IN_DOUBT, reason=reason, settled_at=now, doubted_at=now)
        ).rowcount

    def claim(
        self,
        run: SendRun,
        *,
        requests: int,
        batch_size: int,
        send_at: datetime | None = None,
        outcomes: Sequence[Outcome] = (),
    ) -> list[Batch]:
        """Take planned messages for up to ``requests`` requests; their intents are durable when this returns.

        Rows with the same text go into one request, up to ``batch_size`` of them. Requests come in the order of the
        file, and one request's recipients in that of their numbers.

        Args:
            run: Who sends them.
            requests: How many requests to prepare at most.
            batch_size: How many recipients one request may have.
            send_at: The delivery time to ask for, instead of the campaign's.
            outcomes: What came of earlier requests, recorded in the same transaction, as :meth:`settle` does.

        Returns:
            The requests to make; empty when nothing is planned any more.

        Raises:
            JournalError: The run's lease has ended.
            CampaignCancelledError: A person has cancelled the campaign.
        """

        def take(connection: Connection, outcomes: Sequence[Outcome]) -> list[Batch]:
            now, cancelled = self._moment(connection, run)
            if cancelled:
                raise CampaignCancelledError(f"Campaign {run.campaign.name!r} was cancelled.")
            self._settle(connection, outcomes)
            taken = self._take(connection, run, requests, at, now)
            if taken < requests and self._plan_batches(connection, run.campaign, batch_size):
                taken += self._take(connection, run, requests - taken, at, now)
            return self._claimed(connection, run, now, at) if taken else []

        at = send_at or run.campaign.send_at
        if requests >= claiming.AT_PACE:
            self._consider_process(run)
        claimed = self._claim_aside(run, requests, at, outcomes)
        return self._with_outcomes(outcomes, take) if claimed is None else claimed

    def _claim_aside(
        self, run: SendRun, requests: int, send_at: datetime | None, outcomes: Sequence[Outcome]
    ) -> list[Batch] | None:
        """Claim in the run's process. None if there is none, or if that is more than it knows."""
        process = self._processes.get(run.id)
        if process is None or not process.ready or any(one.state != ACCEPTED for one in outcomes):
            return None
        at = None if send_at is None else schema.microseconds(send_at)
        claimed = process.claim(requests, at, acceptances(outcomes) if outcomes else "")
        return None if claimed is None else _batches(json.loads(claimed), send_at)

    def _consider_process(self, run: SendRun) -> None:
        """Start a process for a run's claims, if it is worth it. Asked once in a run's life."""
        if run.id in self._processes or self._database.file is None:
            return
        batch = schema.batch
        planned = sa.select(batch.c.id).where(batch.c.campaign_id == run.campaign.id, batch.c.state == PLANNED)
        some = planned.limit(claiming.WORTH_IT).subquery()
        with self._read() as connection:
            left = connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()
        self._processes[run.id] = None
        if left >= claiming.WORTH_IT:
            its = {"of_campaign": run.campaign.id, "by_run": run.id, "from_originator": run.campaign.sender}
            self._processes[run.id] = claiming.ClaimingProcess(
                self._database.file, its, statements=self._hot.plain(), pragmas=PRAGMAS
            )

    def _take(self, connection: Connection, run: SendRun, limit: int, send_at: datetime | None, now: datetime) -> int:
        """Make the next planned batches the run's, in the order of the file; returns how many."""
        values = {
            "of_campaign": run.campaign.id,
            "most": limit,
            "by_run": run.id,
            "now": now,
            "from_originator": run.campaign.sender,
            "at": send_at,
        }
        return connection.execute(self._hot.take, values).rowcount

    def _claimed(self, connection: Connection, run: SendRun, now: datetime, send_at: datetime | None) -> list[Batch]:
        """What there is to send in the batches that a run has claimed at a moment."""
        values = {"of_campaign": run.campaign.id, "by_run": run.id, "now": now}
        return _batches(self._hot.fetched(connection, self._hot.claimed, values), send_at)

    @staticmethod
    def _plan_batches(connection: Connection, campaign: CampaignKey, batch_size: int) -> int:
        """Put messages that are in no batch into planned ones, neighbours of one text together; returns how many."""
        message, planned = schema.message, Journal._plan_groups(connection, campaign)
        select = (
            sa.select(message.c.id, message.c.text_id)
            .where(message.c.campaign_id == campaign.id, message.c.batch_id.is_(None))
            .order_by(message.c.text_id, message.c.id)
            .limit(100 * max(batch_size, 100))
            .with_for_update(skip_locked=True)
        )
        while groups := _group(connection.execute(select), batch_size):
            values = {"campaign_id": campaign.id, "state": PLANNED}
            Journal._into_batches(connection, groups, values)
            planned += sum(len(members) for _, members in groups)
        return planned

    @staticmethod
    def _plan_groups(connection: Connection, campaign: CampaignKey) -> int:
        """Put messages to recipient groups that are in no batch into planned ones, each alone; returns how many."""
        message = schema.message
        loose = connection.execute(
            sa.select(message.c.text_id, message.c.id)
            .where(
                message.c.campaign_id == campaign.id, message.c.batch_id.is_(None), schema.is_group(message.c.msisdn)
            )
            .order_by(message.c.id)
            .with_for_update(skip_locked=True)
        ).all()
        if loose:
            groups = [(row[0], [row[1]]) for row in loose]
            Journal._into_batches(connection, groups, {"campaign_id": campaign.id, "state": PLANNED})
        return len(loose)

    def _moment(self, connection: Connection, run: SendRun) -> tuple[datetime, bool]:
        """The time of a claim, and whether the campaign is cancelled; if not, it will not be before the claim ends.

        It is now, or later than the run's latest, so that a claim is told by it even if clocks stand.

        Raises:
            JournalError: The run's lease has ended.
        """
        now = _now()
        values = {"of_campaign": run.campaign.id, "by_run": run.id, "now": now}
        held = connection.execute(self._hot.moment, values).one_or_none()
        if held is None:
            raise JournalError("This run's lease has ended; its claims are no longer its own.")
        latest, cancelled_at = held
        return now if latest is None else max(now, latest + schema.MICROSECOND), cancelled_at is not None

    @staticmethod
    def _into_batches(
        connection: Connection,
        groups: Sequence[tuple[int, list[int]]],
        values: Mapping[str, Any],
        held_by: int | None = None,
    ) -> list[int]:
        """One new batch a group of a text's messages, which were in batch ``held_by`` or in none; their numbers."""
        rows = [{**values, "text_id": text_id, "size": len(members)} for text_id, members in groups]
        numbers: Sequence[int]
        if connection.dialect.name == "sqlite":  # nobody else writes: the numbers are known beforehand
            first = connection.execute(sa.select(sa.func.coalesce(sa.func.max(schema.batch.c.id), 0) + 1)).scalar_one()
            numbers = range(first, first + len(rows))
            same = {key: _plain(value) for key, value in values.items()}
            for number, row in zip(numbers, rows, strict=True):
                row.update(same, id=number)
            _many(connection, schema.batch.insert(), rows)
        else:
            insert = schema.batch.insert().returning(schema.batch.c.id, sort_by_parameter_order=True)
            numbers = connection.scalars(insert, rows).all()
        Journal._move(connection, numbers, [members for _, members in groups], held_by)
        return list(numbers)

    @staticmethod
    def _move(connection: Connection, batches: Sequence[int], groups: Sequence[list[int]], held_by: int | None) -> None:
        """Put each group of messages into its batch."""
        message = schema.message
        into = message.update().values(batch_id=sa.bindparam("into"))
        # A sum, or SQLite would look through all that are in no batch for each of them.
        holder = message.c.batch_id + sa.literal_column("0", sa.BigInteger)
        free = holder.is_not_distinct_from(sa.bindparam("held", type_=sa.BigInteger))
        single = [
            {"into": number, "which": members[0], "held": held_by}
            for number, members in zip(batches, groups, strict=True)
            if len(members) == 1
        ]
        _many(connection, into.where(message.c.id == sa.bindparam("which"), free), single)
        for number, members in zip(batches, groups, strict=True):
            if len(members) > 1:
                among = _among(connection, message.c.id, members)
                connection.execute(into.where(among, free), {"into": number, "held": held_by})

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Record what came of requests, all in one transaction.

        An id that another batch of the campaign has already cannot be this one's: that batch is in doubt.
        """
        if outcomes := list(outcomes):
            self._with_outcomes(outcomes, self._settle)

    def _with_outcomes(
        self, outcomes: Sequence[Outcome], change: Callable[[Connection, Sequence[Outcome]], Changed]
    ) -> Changed:
        """One transaction that records outcomes; once more, with doubt for ids that others have, if it must be so."""
        try:
            with self._write() as connection:
                return change(connection, outcomes)
        except JournalError:
            taken = self._taken([one for one in outcomes if one.state == ACCEPTED])
            if not taken:
                raise
            with self._write() as connection:
                return change(connection, [taken.get(one.batch_id, one) for one in outcomes])

    def _taken(self, accepted: Sequence[Outcome]) -> dict[int, Outcome]:
        """Of accepted outcomes those whose id is not theirs alone, turned into doubt."""
        batch = schema.batch
        owners: dict[tuple[int, str], set[int]] = {}
        with self._read() as connection:
            campaigns: dict[int, int] = {}
            for some in _slices([one.batch_id for one in accepted]):
                rows = connection.execute(sa.select(batch.c.id, batch.c.campaign_id).where(batch.c.id.in_(some)))
                campaigns.update((row[0], row[1]) for row in rows)
            for some in _slices([one.message_id for one in accepted]):
                holders = connection.execute(
                    sa.select(batch.c.campaign_id, batch.c.message_id, batch.c.id).where(batch.c.message_id.in_(some))
                )
                for row in holders:
                    owners.setdefault((row[0], row[1]), set()).add(row[2])
        for one in accepted:
            owners.setdefault((campaigns[one.batch_id], one.message_id or ""), set()).add(one.batch_id)
        return {
            one.batch_id: Outcome(one.batch_id, IN_DOUBT, one.at, reason="id-seen-before")
            for one in accepted
            if len(owners[campaigns[one.batch_id], one.message_id or ""]) > 1
        }

    def _settle(self, connection: Connection, outcomes: Sequence[Outcome]) -> None:
        if accepted := [one for one in outcomes if one.state == ACCEPTED]:
            connection.execute(self._hot.accept, {"document": acceptances(accepted)})
        if others := [one for one in outcomes if one.state != ACCEPTED]:
            self._settle_others(connection, others)

    def _settle_others(self, connection: Connection, outcomes: Sequence[Outcome]) -> None:
        """Record what was not accepted."""
        batch, message = schema.batch, schema.message
        values = [
            {
                "which": outcome.batch_id,
                "to": outcome.state,
                "at": outcome.at,
                "with_code": outcome.code,
                "because": outcome.reason,
                "doubted": outcome.at if outcome.state == IN_DOUBT else None,
            }
            for outcome in outcomes
        ]
        connection.execute(
            batch.update()
            # A take-over may have put it in doubt meanwhile; who made the request knows better.
            .where(batch.c.id == sa.bindparam("which"), (batch.c.state == SENDING) | (batch.c.state == IN_DOUBT))
            .values(
                state=sa.bindparam("to"),
                settled_at=sa.bindparam("at", type_=schema.Instant()),
                message_id=None,
                code=sa.bindparam("with_code"),
                reason=sa.bindparam("because"),
                doubted_at=sa.func.coalesce(batch.c.doubted_at, sa.bindparam("doubted", type_=schema.Instant())),
            ),
            values,
        )
        released = [outcome.batch_id for outcome in outcomes if outcome.state == RELEASED]
        for some in _slices(released):
            self._remember(connection, some, RELEASED)
            freed = sa.select(batch.c.id).where(batch.c.id.in_(some), batch.c.state == RELEASED)
            connection.execute(message.update().where(message.c.batch_id.in_(freed)).values(batch_id=None))

    def split(self, run: SendRun, batch_id: int, *, code: int = 28) -> list[Batch]:
        """Divide a batch refused with a code between two new ones; their intents are durable when this returns."""
        batch, message = schema.batch, schema.message
        with self._write() as connection:
            now, _ = self._moment(connection, run)
            found = connection.execute(
                batch.update()
                .where(batch.c.id == batch_id, batch.c.state == SENDING)
                .values(state=SPLIT, settled_at=now, code=code)
                .returning(batch.c.text_id, batch.c.send_at)
            ).one_or_none()
            if found is None:
                raise JournalError("This batch is no longer this run's to divide.")
            text_id, send_at = found
            members = list(
                connection.scalars(sa.select(message.c.id).where(message.c.batch_id == batch_id).order_by(message.c.id))
            )
            middle = len(members) // 2
            halves = [(text_id, half) for half in (members[:middle], members[middle:]) if half]
            values = {
                "campaign_id": run.campaign.id,
                "run_id": run.id,
                "sender": run.campaign.sender,
                "send_at": send_at,
                "state": SENDING,
                "claimed_at": now,
            }
            self._into_batches(connection, halves, values, batch_id)
            return self._claimed(connection, run, now, send_at)

    def has_planned(self, campaign: CampaignKey) -> bool:
        """Whether a claim would find anything."""
        batch, message = schema.batch, schema.message
        planned = sa.exists().where(batch.c.campaign_id == campaign.id, batch.c.state == PLANNED)
        loose = sa.exists().where(message.c.campaign_id == campaign.id, message.c.batch_id.is_(None))
        with self._read() as connection:
            return bool(connection.execute(sa.select(planned | loose)).scalar())

    def last_active(self, campaign: CampaignKey) -> datetime | None:
        """When a run of the campaign was last known to be alive, in UTC; None when there was none."""
        run = schema.run
        alive_until = sa.func.coalesce(run.c.ended_at, run.c.lease_until, type_=schema.Instant())
        with self._read() as connection:
            found: datetime | None = connection.execute(
                sa.select(sa.func.max(alive_until, type_=schema.Instant())).where(run.c.campaign_id == campaign.id)
            ).scalar()
        return found

    def others_sending(self, campaign: CampaignKey, run: SendRun) -> bool:
        """Whether other runs have requests of this campaign on their way."""
        batch = schema.batch
        with self._read() as connection:
            found = connection.execute(
                sa.select(sa.literal(1))
                .where(batch.c.campaign_id == campaign.id, batch.c.state == SENDING, batch.c.run_id != run.id)
                .limit(1)
            ).scalar()
        return found is not None

    # -- looking up doubt --------------------------------------------------------------------------------------

    def watched(self, campaign: CampaignKey, now: datetime) -> list[WatchedBatch]:
        """Batches that were in doubt at some time and have a delivery time after ``now``, and all on their way.

        Those on their way (``sending``) are there because what a schedule shows may be theirs.
        """
        batch = schema.batch
        with self._read() as connection:
            rows = connection.execute(
                sa.select(batch.c.id, batch.c.state, batch.c.text_id, batch.c.send_at, batch.c.settled_at)
                .where(
                    batch.c.campaign_id == campaign.id,
                    batch.c.send_at > now,
                    batch.c.doubted_at.is_not(None) | (batch.c.state == SENDING),
                )
                .order_by(batch.c.id)
            ).all()
            members = self._intended(connection, [row[0] for row in rows])
        return [
            WatchedBatch(row[0], row[1], row[2], row[3], row[4], frozenset(members.get(row[0], ()))) for row in rows
        ]

    @staticmethod
    def _intended(connection: Connection, batches: Sequence[int]) -> dict[int, list[str]]:
        """Whom batches were meant for, also those whose messages have moved on since they were released."""
        members: dict[int, list[str]] = {}
        for table, column in ((schema.message, schema.message.c.batch_id), (schema.ghost, schema.ghost.c.batch_id)):
            for some in _slices(batches):
                for row in connection.execute(sa.select(column, table.c.msisdn).where(column.in_(some))):
                    members.setdefault(row[0], []).append(row[1])
        return members

    def known_message_ids(self, campaign: CampaignKey, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that belong to a batch of any campaign of the account."""
        batch, known = schema.batch, set[str]()
        with self._read() as connection:
            for some in _slices(ids):
                rows = connection.execute(
                    sa.select(batch.c.message_id)
                    .join(schema.campaign, schema.campaign.c.id == batch.c.campaign_id)
                    .where(schema.campaign.c.account == campaign.account, batch.c.message_id.in_(some))
                )
                known.update(row[0] for row in rows)
        return known

    def reject_message_id(self, batch_id: int, reason: str) -> None:
        """Put an accepted batch in doubt: the id it was given is not its own."""
        batch, now = schema.batch, _now()
        with self._write() as connection:
            connection.execute(
                batch.update()
                .where(batch.c.id == batch_id, batch.c.state == ACCEPTED)
                .values(
                    state=IN_DOUBT,
                    message_id=None,
                    reason=reason,
                    settled_at=now,
                    confirmed_at=None,
                    final_at=None,
                    doubted_at=sa.func.coalesce(batch.c.doubted_at, sa.literal(now, schema.Instant())),
                )
            )

    def resolve(self, campaign: CampaignKey, decision: Decision) -> int:
        """Settle what is in doubt by a person's word; returns how many messages that concerns.

        Raises:
            InputError: The campaign's people were forgotten.
        """
        batch, message, now = schema.batch, schema.message, _now()
        state = ASSUMED if decision is Decision.SENT else RELEASED
        where = (batch.c.campaign_id == campaign.id, batch.c.state == IN_DOUBT)
        with self._write() as connection:
            self._refuse_forgotten(connection, campaign)
            numbers = connection.scalars(sa.select(batch.c.id).where(*where).with_for_update()).all()
            count = 0
            for some in _slices(numbers):
                count += connection.execute(
                    sa.select(sa.func.count()).select_from(message).where(message.c.batch_id.in_(some))
                ).scalar_one()
                if state == RELEASED:
                    self._remember(connection, some, IN_DOUBT)
                connection.execute(
                    batch.update().where(batch.c.id.in_(some)).values(state=state, settled_at=now, reason="decided")
                )
                if state == RELEASED:
                    connection.execute(message.update().where(message.c.batch_id.in_(some)).values(batch_id=None))
            return count

    @staticmethod
    def _remember(connection: Connection, batches: Sequence[int], state: str) -> None:
        """Keep whom doubtful batches were for after they are released: their request may yet turn up."""
        batch, message, ghost = schema.batch, schema.message, schema.ghost
        doubtful = (
            sa.select(message.c.batch_id, message.c.msisdn)
            .join(batch, batch.c.id == message.c.batch_id)
            .where(
                batch.c.id.in_(batches),
                batch.c.state == state,
                batch.c.doubted_at.is_not(None),
                batch.c.send_at.is_not(None),
            )
        )
        connection.execute(ghost.insert().from_select(["batch_id", "msisdn"], doubtful))

    # -- stopping ----------------------------------------------------------------------------------------------

    def cancel(self, campaign: CampaignKey) -> None:
        """Stop a campaign for good: nothing of it is claimed from now on, by any run."""
        table = schema.campaign
        with self._write() as connection:
            connection.execute(
                table.update()
                .where(table.c.id == campaign.id, table.c.cancelled_at.is_(None))
                .values(cancelled_at=_now())
            )

    def batches(
        self, campaign: CampaignKey, now: datetime, *, include_moving: bool = False
    ) -> dict[str, ScheduledBatch]:
        """Accepted batches whose delivery time is after ``now``, by message id.

        Args:
            campaign: Whose.
            now: The moment, aware.
            include_moving: Also those that are being rescheduled to a time after ``now``.
        """
        batch = schema.batch
        waits = batch.c.send_at > now
        where = (
            batch.c.campaign_id == campaign.id,
            batch.c.state == ACCEPTED,
            waits | (batch.c.rescheduled_to > now) if include_moving else waits,
        )
        with self._read() as connection:
            return self._scheduled(connection, where)

    @staticmethod
    def _scheduled(connection: Connection, where: Sequence[sa.ColumnElement[bool]]) -> dict[str, ScheduledBatch]:
        batch = schema.batch
        rows = connection.execute(
            sa.select(batch.c.message_id, batch.c.id, batch.c.send_at, batch.c.settled_at, batch.c.rescheduled_to)
            .where(*where)
            .order_by(batch.c.id)
        )
        return {row[0]: ScheduledBatch(row[1], row[2], row[3], row[4]) for row in rows}

    def reschedule(self, campaign: CampaignKey, send_at: datetime) -> dict[str, ScheduledBatch]:
        """Give a campaign another delivery time, before the gateway is told of it.

        What is planned will be sent for the new time. What waits at the gateway waits from now on for either of two
        times, until :meth:`mark_rescheduled` tells for which; each is as long after the campaign's as it was before.

        Args:
            campaign: Which campaign; nobody may be sending it.
            send_at: The new delivery time, a whole minute, in the future.

        Returns:
            What is to be moved at the gateway, by message id; also what an earlier call for this time left over.

        Raises:
            InputError: It was cancelled or forgotten, has no delivery time, was sent, is being sent, holds doubt about
                requests that may wait at the gateway, or an earlier rescheduling to another time has not come to its
                end.
        """
        table, batch, run, now = schema.campaign, schema.batch, schema.run, _now()
        name, its = campaign.name, batch.c.campaign_id == campaign.id
        with self._write() as connection:
            # No run begins while this looks for one.
            before, cancelled = connection.execute(
                sa.select(table.c.send_at, table.c.cancelled_at)
                .where(table.c.id == campaign.id)
                .with_for_update(key_share=True)
            ).one()
            self._refuse_forgotten(connection, campaign)
            if cancelled is not None:
                raise InputError(f"The campaign {name!r} was cancelled; there is nothing to reschedule.")
            if before is None:
                raise InputError(f"The campaign {name!r} has no delivery time: its messages leave when they are sent.")
            alive = sa.select(run.c.id).where(
                run.c.campaign_id == campaign.id, run.c.ended_at.is_(None), run.c.lease_until > now
            )
            if connection.execute(alive.limit(1)).first() is not None:
                raise InputError(
                    f"The campaign {name!r} is being sent, or was until a moment ago. Wait until its run has ended, "
                    "then reschedule it."
                )
            doubtful = sa.select(sa.func.sum(batch.c.size)).where(its, batch.c.state == IN_DOUBT, batch.c.send_at > now)
            if count := connection.execute(doubtful).scalar():
                raise InputError(
                    f"{count} messages of campaign {name!r} are in doubt: they may wait at the gateway for the time "
                    "there was, under an id that nobody here knows, and could not be moved. Start the campaign "
                    "again, which looks them up, or settle them with resolve_campaign; then reschedule it."
                )
            unfinished = (its, batch.c.state == ACCEPTED, batch.c.rescheduled_to > now)
            if before != send_at and self._scheduled(connection, unfinished):
                raise InputError(
                    f"Rescheduling campaign {name!r} to {_shown(before)} has not come to its end: some requests may "
                    "wait for that time and some for the one before. Reschedule it to that time once more first."
                )
            waiting = (its, batch.c.state == ACCEPTED, (batch.c.send_at > now) | (batch.c.rescheduled_to > now))
            if not self._sizes(connection, campaign).get(PLANNED) and not self._scheduled(connection, waiting):
                raise InputError(f"All of campaign {name!r} was sent; there is nothing to reschedule.")
            if before != send_at:
                later = (send_at - before) // schema.MICROSECOND
                moved = sa.type_coerce(sa.type_coerce(batch.c.send_at, sa.BigInteger) + later, schema.Instant())
                connection.execute(batch.update().where(*waiting).values(rescheduled_to=moved))
                connection.execute(table.update().where(table.c.id == campaign.id).values(send_at=send_at))
            return self._scheduled(connection, unfinished)

    def mark_rescheduled(self, moved: Sequence[int], stayed: Sequence[int] = ()) -> None:
        """Record for which time batches wait that were being rescheduled.

        Args:
            moved: Those that wait for the new one.
            stayed: Those that do not: the gateway had sent them, or somebody else has moved or cancelled them there.
        """
        batch = schema.batch
        with self._write() as connection:
            for some in _slices(moved):
                connection.execute(
                    batch.update()
                    .where(batch.c.id.in_(some), batch.c.rescheduled_to.is_not(None))
                    .values(send_at=batch.c.rescheduled_to, rescheduled_to=None)
                )
            for some in _slices(stayed):
                connection.execute(batch.update().where(batch.c.id.in_(some)).values(rescheduled_to=None))

    def mark_cancelled(self, batches: Sequence[int]) -> None:
        """Record that accepted batches were taken back at the gateway."""
        batch, now = schema.batch, _now()
        with self._write() as connection:
            for some in _slices(batches):
                connection.execute(
                    batch.update()
                    .where(batch.c.id.in_(some), batch.c.state == ACCEPTED)
                    .values(state=CANCELLED, settled_at=now, final_at=now)
                )

    # -- following ---------------------------------------------------------------------------------------------

    def recipients(self, batches: Sequence[int]) -> dict[int, set[str]]:
        """The MSISDNs of each batch."""
        message, members = schema.message, dict[int, set[str]]()
        with self._read() as connection:
            for some in _slices(batches):
                rows = connection.execute(
                    sa.select(message.c.batch_id, message.c.msisdn).where(message.c.batch_id.in_(some))
                )
                for row in rows:
                    members.setdefault(row[0], set()).add(row[1])
        return members

    def confirm_message_ids(self, batches: Sequence[int]) -> None:
        """Record that a result named these batches' recipients: their ids are theirs."""
        batch, now = schema.batch, _now()
        with self._write() as connection:
            for some in _slices(batches):
                connection.execute(batch.update().where(batch.c.id.in_(some)).values(confirmed_at=now))

    def record_statuses(
        self, statuses: Mapping[int, Sequence[RecipientStatus]], *, archived: Iterable[int] = ()
    ) -> int:
        """Record what the gateway says of batches' recipients; returns how many messages changed.

        A recipient that is not ours changes nothing. A batch is final when all its messages are delivered.

        Args:
            statuses: The gateway's statuses by batch number.
            archived: Batches the gateway no longer answers for: they keep what is known of them.
        """
        batch, message, now = schema.batch, schema.message, _now()
        values = [
            {
                "of": number,
                "who": gateway_digits(one.recipient),
                "word": one.status[:64].replace("\x00", "\ufffd"),  # which PostgreSQL cannot hold
                "sent": one.sent_at,
                "got": one.delivered_at,
            }
            for number, several in statuses.items()
            for one in several
        ]
        changed = 0
        with self._write() as connection:
            if values:
                before = self._changes(connection)
                fresh = sa.or_(
                    message.c.status.is_distinct_from(sa.bindparam("word")),
                    message.c.sent_at.is_distinct_from(sa.bindparam("sent", type_=schema.Instant())),
                    message.c.delivered_at.is_distinct_from(sa.bindparam("got", type_=schema.Instant())),
                )
                result = connection.execute(
                    message.update()
                    .where(message.c.batch_id == sa.bindparam("of"), message.c.msisdn == sa.bindparam("who"), fresh)
                    .values(
                        status=sa.bindparam("word"),
                        sent_at=sa.bindparam("sent", type_=schema.Instant()),
                        delivered_at=sa.bindparam("got", type_=schema.Instant()),
                        noted_at=sa.case(
                            (
                                message.c.status.is_distinct_from(sa.bindparam("word")),
                                sa.literal(now, schema.Instant()),
                            ),
                            else_=message.c.noted_at,
                        ),
                    ),
                    values,
                )
                changed = result.rowcount if before is None else (self._changes(connection) or 0) - before
            for some in _slices(list(statuses)):
                delivered = sa.select(sa.func.count()).where(
                    message.c.batch_id == batch.c.id, message.c.status == "delivered"
                )
                # Of those whose people were forgotten meanwhile, nothing is counted any more.
                mine = batch.update().where(batch.c.id.in_(some), sa.exists().where(message.c.batch_id == batch.c.id))
                connection.execute(mine.values(delivered=delivered.scalar_subquery()))
                connection.execute(mine.where(batch.c.delivered == batch.c.size).values(final_at=now))
            for some in _slices(list(archived)):
                connection.execute(batch.update().where(batch.c.id.in_(some)).values(final_at=now))
        return changed

    def record_group_results(self, results: Mapping[int, SmsResult]) -> int:
        """Record how far the messages to recipient groups have come; returns how many of them changed.

        Only their counts: whom a group reached is not ours to keep. A batch is final when all have it.

        Args:
            results: The gateway's results by batch number.
        """
        batch, message, changed = schema.batch, schema.message, 0
        with self._write() as connection:
            for number, result in results.items():
                delivered = min(result.delivered, result.recipients)
                final = delivered == result.recipients
                news = (batch.c.size != result.recipients) | (batch.c.delivered != delivered)
                changed += connection.execute(
                    batch.update()
                    .where(batch.c.id == number, batch.c.state == ACCEPTED, news)
                    .values(size=result.recipients, delivered=delivered, final_at=_now() if final else None)
                ).rowcount
                if final:
                    connection.execute(
                        message.update()
                        .where(message.c.batch_id == number)
                        .values(
                            status="delivered",
                            sent_at=min((one.sent_at for one in result.statuses if one.sent_at), default=None),
                            delivered_at=max(
                                (one.delivered_at for one in result.statuses if one.delivered_at), default=None
                            ),
                        )
                    )
        return changed

    @staticmethod
    def _changes(connection: Connection) -> int | None:
        """Rows changed so far on an SQLite connection: its executemany does not add them up reliably."""
        if connection.dialect.name != "sqlite":
            return None
        return int(connection.exec_driver_sql("SELECT total_changes()").scalar_one())

    # -- answers -----------------------------------------------------------------------------------------------

    def counts(self, campaign: CampaignKey) -> Counts:
        """Where the campaign's messages stand."""
        with self._read() as connection:
            return _counted(self._sizes(connection, campaign))

    def summaries(
        self,
        account: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        among: Collection[int] | None = None,
        open_only: bool = False,
    ) -> list[CampaignSummary]:
        """An account's campaigns and where they stand, the newest first.

        Args:
            account: See :func:`~prefect_mymsp.account.account_fingerprint`.
            since: First recorded then or later, aware.
            until: First recorded before then, aware.
            among: Only those with these numbers.
            open_only: Only those of which more is to be done or learnt.
        """
        table = schema.campaign
        where = [table.c.account == account]
        if since is not None:
            where.append(table.c.created_at >= since)
        if until is not None:
            where.append(table.c.created_at < until)
        with self._read() as connection:
            if among is not None:
                where.append(_among(connection, table.c.id, sorted(among)))
            found = self._summaries(connection, where)
        return [one for one in found if one.open] if open_only else found

    def purge(self, account: str, before: datetime) -> PurgeResult:
        """Forget people: of campaigns last active before a moment, of messages received and answers read before it.

        What a campaign came to stays, to the last number: its requests, their states and ids, and with them
        :meth:`counts`. Numbers, statuses and texts go, but for texts that a remembered campaign has too. Suppressions
        stay: who wanted no more SMS must get none, however long ago that was, so a number on that list is not
        forgotten. Inbox messages stay as times and kinds, so that none is stored twice; answers of the destructive
        read go whole, whether they were acted on or not. Doubt that was never resolved cannot be any more.

        Each campaign is forgotten in a transaction of its own: after a failure, call it again.

        Args:
            account: See :func:`~prefect_mymsp.account.account_fingerprint`.
            before: Aware; see :class:`CampaignSummary` for when a campaign was last active.

        Raises:
            InputError: The moment has no time zone or is yet to come.
            JournalError: The journal cannot be written.
        """
        if require_aware(before, "before") > _now():
            raise InputError("before must be in the past.")
        table = schema.campaign
        old = [table.c.account == account, table.c.purged_at.is_(None), table.c.created_at < before]
        with self._read() as connection:
            quiet = [one.key for one in self._summaries(connection, old) if one.active_at < before]
        kept, messages = list[str](), 0
        for key in quiet:
            with self._write() as connection:
                connection.execute(sa.select(table.c.id).where(table.c.id == key.id).with_for_update(key_share=True))
                for found in self._summaries(connection, [*old, table.c.id == key.id]):
                    unsent = found.counts.sending or (found.counts.planned and found.cancelled_at is None)
                    if unsent or found.active_at >= before:
                        kept.append(key.name)
                        continue
                    self._plan_batches(connection, key, 500)  # what is in no batch would not be counted any more
                    messages += retention.campaign(connection, key.id, _now())
        with self._write() as connection:
            advisory_lock(connection, RECORDING)  # a recording holds texts whose messages are still to come
            texts = retention.texts(connection)
            received = retention.received(connection, account, before)
            answers = retention.answers(connection, account, before)
        self._database.checkpoint_wal()
        return PurgeResult(len(quiet) - len(kept), messages, texts, received, answers, tuple(kept))

    @staticmethod
    def _summaries(connection: Connection, where: Sequence[sa.ColumnElement[bool]]) -> list[CampaignSummary]:
        """Campaigns, the newest first, each counted as :meth:`_sizes` counts it."""
        table, batch, message, run, text = schema.campaign, schema.batch, schema.message, schema.run, schema.text
        ids = sa.select(table.c.id).where(*where)
        key = (table.c.id, table.c.name, table.c.account, table.c.sender, table.c.send_at)
        came_to = (table.c.rows, table.c.rejected, table.c.duplicates, table.c.suppressed)
        rows = connection.execute(
            sa.select(*key, table.c.created_at, table.c.source, table.c.cancelled_at, table.c.purged_at, *came_to)
            .where(*where)
            .order_by(table.c.id.desc())
        ).all()
        sizes: dict[int, dict[str, _Sizes]] = {row[0]: {} for row in rows}
        active: dict[int, list[datetime | None]] = {row[0]: [row[4], row[5]] for row in rows}
        times = (batch.c.claimed_at, batch.c.settled_at, batch.c.final_at, batch.c.send_at)
        for row in connection.execute(
            sa.select(
                batch.c.campaign_id,
                batch.c.state,
                sa.func.sum(batch.c.size),
                sa.func.sum(batch.c.delivered),
                sa.func.sum(sa.case((batch.c.final_at.is_not(None), batch.c.size), else_=0)),
                sa.func.sum(text.c.segments * batch.c.size),
                *map(sa.func.max, times),
            )
            .join(text, text.c.id == batch.c.text_id)
            .where(batch.c.campaign_id.in_(ids))
            .group_by(batch.c.campaign_id, batch.c.state)
        ):
            active[row[0]] += row[6:]
            if row[1] not in {RELEASED, SPLIT}:
                sizes[row[0]][row[1]] = _Sizes(*(int(value or 0) for value in row[2:6]))
        for number, loose in connection.execute(
            sa.select(message.c.campaign_id, sa.func.count())
            .where(message.c.campaign_id.in_(ids), message.c.batch_id.is_(None))
            .group_by(message.c.campaign_id)
        ):
            planned = sizes[number].get(PLANNED, _NOTHING)
            sizes[number][PLANNED] = planned._replace(messages=planned.messages + loose)
        for number, began, ended in connection.execute(
            sa.select(run.c.campaign_id, sa.func.max(run.c.started_at), sa.func.max(run.c.ended_at))
            .where(run.c.campaign_id.in_(ids))
            .group_by(run.c.campaign_id)
        ):
            active[number] += (began, ended)
        return [
            CampaignSummary(
                CampaignKey(row[0], row[1], row[2], row[3], row[4]),
                row[5],
                row[6],
                max(when for when in active[row[0]] if when is not None),
                row[7],
                row[8],
                None if row[9] is None else SourceCounts(*row[9:13]),
                _counted(sizes[row[0]]),
            )
            for row in rows
        ]

    @staticmethod
    def _sizes(connection: Connection, campaign: CampaignKey) -> dict[str, _Sizes]:
        """A campaign's messages by state; batches whose messages have moved on do not count."""
        batch, message, text = schema.batch, schema.message, schema.text
        size = batch.c.size
        select = (
            sa.select(
                batch.c.state,
                sa.func.sum(size),
                sa.func.sum(batch.c.delivered),
                sa.func.sum(sa.case((batch.c.final_at.is_not(None), size), else_=0)),
                sa.func.sum(text.c.segments * size),
            )
            .join(text, text.c.id == batch.c.text_id)
            .where(batch.c.campaign_id == campaign.id, batch.c.state.not_in([RELEASED, SPLIT]))
            .group_by(batch.c.state)
        )
        found = {row[0]: _Sizes(*(int(value or 0) for value in row[1:])) for row in connection.execute(select)}
        alone = sa.select(sa.func.count()).where(message.c.campaign_id == campaign.id, message.c.batch_id.is_(None))
        if loose := connection.execute(alone).scalar_one():
            found[PLANNED] = _Sizes(found.get(PLANNED, _NOTHING).messages + loose, 0, 0, 0)
        return found


class Recording:
    """A campaign while its messages are being recorded; nothing counts until the recording ends well."""

    def __init__(self, connection: Connection, campaign: CampaignKey) -> None:
        self._connection = connection
        self._text_ids: dict[bytes, int] = {}
        self.campaign = campaign
        #: Messages of the campaign before this recording.
        self.messages_before = self._messages()
        self._before = connection.execute(sa.select(sa.func.coalesce(sa.func.max(schema.message.c.id), 0))).scalar_one()

    def _messages(self) -> int:
        message = schema.message
        return self._connection.execute(
            sa.select(sa.func.count()).where(message.c.campaign_id == self.campaign.id)
        ).scalar_one()

    def added(self) -> int:
        """How many messages this recording has added so far."""
        return self._messages() - self.messages_before

    def find_changed_texts(self, *, groups: bool = False) -> list[EarlierMessage]:
        """Messages the campaign had before, to numbers for which this recording has added another one.

        Args:
            groups: Those to recipient groups instead of those to people.
        """
        new, old, text = schema.message.alias("new"), schema.message.alias("old"), schema.text
        to = schema.is_group(new.c.msisdn)
        return [
            EarlierMessage(row[0], bytes(row[1]), row[2])
            for row in self._connection.execute(
                sa.select(old.c.msisdn, text.c.digest, old.c.row)
                .distinct()
                .select_from(
                    new.join(
                        old,
                        (old.c.campaign_id == new.c.campaign_id)
                        & (old.c.msisdn == new.c.msisdn)
                        & (old.c.id <= self._before),
                    ).join(text, text.c.id == old.c.text_id)
                )
                .join(schema.batch, schema.batch.c.id == old.c.batch_id)
                .where(
                    new.c.campaign_id == self.campaign.id,
                    new.c.id > self._before,
                    schema.batch.c.state != PLANNED,
                    to if groups else ~to,
                )
            )
        ]

    def planned_before(self, *, groups: bool = False) -> Iterator[tuple[int, EarlierMessage]]:
        """Messages the campaign had before and that nobody has claimed: (number, message).

        Args:
            groups: Those to recipient groups instead of those to people.
        """
        message, text = schema.message, schema.text
        to = schema.is_group(message.c.msisdn)
        rows = self._connection.execute(
            sa.select(message.c.id, message.c.msisdn, text.c.digest, message.c.row)
            .join(text, text.c.id == message.c.text_id)
            .outerjoin(schema.batch, schema.batch.c.id == message.c.batch_id)
            .where(
                message.c.campaign_id == self.campaign.id,
                _is_planned(),
                message.c.id <= self._before,
                to if groups else ~to,
            )
        )
        return ((row[0], EarlierMessage(row[1], bytes(row[2]), row[3])) for row in rows)

    def drop_planned(self, numbers: Sequence[int]) -> None:
        """Forget messages that were never claimed: the source does not have them any more."""
        message = schema.message
        for some in _slices(numbers):
            self._connection.execute(message.delete().where(message.c.id.in_(some)))
        if numbers:
            empty = ~sa.exists().where(message.c.batch_id == schema.batch.c.id)
            planned = (schema.batch.c.campaign_id == self.campaign.id, schema.batch.c.state == PLANNED)
            self._connection.execute(schema.batch.delete().where(*planned, empty))
            left = sa.select(sa.func.count()).where(message.c.batch_id == schema.batch.c.id).scalar_subquery()
            self._connection.execute(schema.batch.update().where(*planned).values(size=left))

    def find_repeats(self, since: datetime) -> list[tuple[str, int]]:
        """Other campaigns of the account that sent the same since then: (name, how many of the new messages)."""
        new, old, batch = schema.message.alias("new"), schema.message.alias("old"), schema.batch
        campaign = schema.campaign
        sent = (SENDING, ACCEPTED, IN_DOUBT, ASSUMED)
        recent = self._connection.execute(
            sa.select(batch.c.campaign_id, campaign.c.name)
            .distinct()
            .join(campaign, campaign.c.id == batch.c.campaign_id)
            .where(
                campaign.c.account == self.campaign.account,
                campaign.c.id != self.campaign.id,
                batch.c.claimed_at >= since,
                batch.c.state.in_(sent),
            )
        ).all()
        found = []
        for number, name in recent:
            same = (
                sa.select(sa.func.count())
                .select_from(
                    new.join(old, (old.c.msisdn == new.c.msisdn) & (old.c.text_id == new.c.text_id)).join(
                        batch, batch.c.id == old.c.batch_id
                    )
                )
                .where(
                    new.c.campaign_id == self.campaign.id,
                    new.c.id > self._before,
                    old.c.campaign_id == number,
                    batch.c.claimed_at >= since,
                    batch.c.state.in_(sent),
                )
            )
            if count := self._connection.execute(same).scalar_one():
                found.append((name, count))
        return found

    def record_source(self, counts: SourceCounts, rejected_rows: Sequence[tuple[int, str, str]]) -> None:
        """Record what the source came to, instead of what it came to before: for reports weeks later.

        Args:
            counts: How many rows there are of each kind.
            rejected_rows: (row, column, reason) of those that cannot be sent; the first few thousand will do.
                What stands
                there is not kept, and a number that a reason quotes is masked.
        """
        campaign, reject = schema.campaign, schema.reject
        self._connection.execute(
            campaign.update().where(campaign.c.id == self.campaign.id).values(dataclasses.asdict(counts))
        )
        self._connection.execute(reject.delete().where(reject.c.campaign_id == self.campaign.id))
        values = [
            {"campaign_id": self.campaign.id, "row": row, "column": column, "reason": mask_numbers(reason)}
            for row, column, reason in rejected_rows
        ]
        if values:
            self._connection.execute(reject.insert(), values)

    def add(self, block: PlannedChunk) -> None:
        """Record a block's messages; those the campaign knows already stay as they are."""
        if not len(block.rows):
            return
        numbers = self._texts(block)
        campaign_id = self.campaign.id
        values = [
            {"campaign_id": campaign_id, "row": row, "msisdn": msisdn, "text_id": numbers[which]}
            for row, msisdn, which in zip(block.rows, block.msisdns, block.text_of, strict=True)
        ]
        insert = _insert(self._connection, schema.message)
        if self._connection.dialect.name == "postgresql":  # one statement takes half the time of many
            columns = {name: schema.message.c[name].type for name in values[0]}
            told = sa.select(*told_by("postgresql", columns).c)
            insert = insert.from_select(list(columns), told)
            self._connection.execute(insert.on_conflict_do_nothing(), {"document": json.dumps(values)})
        else:
            _many(self._connection, insert.on_conflict_do_nothing(), values)

    def add_groups(self, names: Sequence[str], text: str, *, encoding: str, segments: int) -> None:
        """Record one text for recipient groups of the gateway, a message and a request each; their ``row`` is 0.

        Whom a group reaches the gateway knows: the journal holds it as ``@name``, and counts it as one message until
        a result tells how many people it has.

        Args:
            names: Names or short names of the groups, as the gateway has them.
            text: What they get.
            encoding: ``GSM-7`` or ``UCS-2``.
            segments: SMS the text needs.

        Raises:
            InputError: A name the gateway cannot be told: empty, too long, like a number, with a comma or a line break.
        """
        checked = [check_group_name(name) for name in names]
        self.add(
            PlannedChunk(
                rows=[0] * len(names),
                msisdns=[f"@{name}" for name in checked],
                text_of=[0] * len(names),
                texts=[text],
                digests=[text_digest(text)],
                encodings=[encoding],
                segments=[segments],
            )
        )

    def _texts(self, block: PlannedChunk) -> list[int]:
        """The journal's numbers of the block's texts, recorded if they are new, in the order of the block."""
        text = schema.text
        if len(block.texts) == 1 and block.digests[0] in self._text_ids:
            return [self._text_ids[block.digests[0]]]
        _many(
            self._connection,
            _insert(self._connection, text).on_conflict_do_nothing(),
            [
                {"digest": digest, "body": body, "encoding": encoding, "segments": segments}
                for digest, body, encoding, segments in zip(
                    block.digests, block.texts, block.encodings, block.segments, strict=True
                )
            ],
        )
        found: dict[bytes, int] = {}
        for some in _slices(block.digests):
            rows = self._connection.execute(sa.select(text.c.digest, text.c.id).where(text.c.digest.in_(some)))
            found.update((bytes(row[0]), row[1]) for row in rows)
        self._text_ids = found if len(found) == 1 else {}
        return [found[digest] for digest in block.digests]


def _among(connection: Connection, column: sa.ColumnElement[int], ids: list[int]) -> sa.ColumnElement[bool]:
    """Whether a column is one of many numbers, in one parameter: a long IN list costs more than the update."""
    if connection.dialect.name == "postgresql":
        return column == sa.any_(
            sa.cast(sa.literal(ids, postgresql.ARRAY(sa.BigInteger)), postgresql.ARRAY(sa.BigInteger))
        )
    listed = sa.func.json_each(json.dumps(ids)).table_valued("value")
    return column.in_(sa.select(listed.c.value))


def _counted(found: Mapping[str, _Sizes]) -> Counts:
    accepted = found.get(ACCEPTED, _NOTHING)
    return Counts(
        messages=sum(one.messages for one in found.values()),
        delivered=accepted.delivered,
        final=accepted.final,
        segments=accepted.segments,
        **{state: found.get(state, _NOTHING).messages for state in _COUNTED},
    )


def _shown(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"


def _batches(rows: Iterable[Sequence[Any]], send_at: datetime | None) -> list[Batch]:
    return [Batch(row[0], row[1], row[2], row[3], send_at) for row in rows]


def _is_planned() -> sa.ColumnElement[bool]:
    """Whether a message, joined to its batch if it has one, is not claimed."""
    return schema.message.c.batch_id.is_(None) | (schema.batch.c.state == PLANNED)


def _many(connection: Connection, statement: sa.Insert | sa.Update, rows: Sequence[dict[str, Any]]) -> None:
    """Carry out a statement for each row of values; SQLite's driver gets them without SQLAlchemy's work."""
    if not rows:
        return
    if connection.dialect.name != "sqlite":
        connection.execute(statement, rows)
        return
    keys = list(rows[0]) if isinstance(statement, sa.Insert) else None
    compiled: Any = statement.compile(dialect=connection.dialect, column_keys=keys)
    in_order = itemgetter(*compiled.positiontup)
    connection.exec_driver_sql(str(compiled), [in_order(row) for row in rows])


def _plain(value: Any) -> Any:
    """A value as SQLite's driver takes it."""
    return schema.microseconds(value) if isinstance(value, datetime) else value


def _texts(connection: Connection, numbers: set[int]) -> dict[int, str]:
    bodies: dict[int, str] = {}
    for some in _slices(sorted(numbers)):
        rows = connection.execute(sa.select(schema.text.c.id, schema.text.c.body).where(schema.text.c.id.in_(some)))
        bodies.update((row[0], row[1]) for row in rows)
    return bodies


def _group(rows: Iterable[Any], batch_size: int) -> list[tuple[int, list[int]]]:
    """Neighbouring messages of one text together, at most ``batch_size`` of them."""
    groups: list[tuple[int, list[int]]] = []
    for row in rows:
        number, text_id = row[0], row[1]
        if not groups or groups[-1][0] != text_id or len(groups[-1][1]) == batch_size:
            groups.append((text_id, []))
        groups[-1][1].append(number)
    return groups
