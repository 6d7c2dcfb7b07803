"""The journal's tables, one schema for SQLite and PostgreSQL.

::

    campaign 1 ──── n message n ──── 1 text          what we mean to send: one message is one SMS to one person
        │               │ n
        │               │
        │ 1             │ 0..1
        └──── n batch ──┘                            one batch is one sendSms request
                 │ n
                 └──── 1 run                         one process that sends, alive while its lease holds

Messages are put into batches when they are recorded, so that a claim changes one row a request. A message's state is
its batch's; without a batch it is *planned*::

    planned ──► sending         claimed: the request may leave
    sending ──► accepted        the gateway gave an id
       │ ├────► refused        the gateway refused, nothing was sent
       │ ├────► in_doubt        it may have been sent; never sent again without evidence
       │ ├────► released        provably not sent: its messages are planned again
       │ └────► split           refused for a number it did not name: its messages moved to smaller batches
    in_doubt ─► accepted        evidence: the gateway has it under this id
       │ ├────► released        evidence that it never arrived, or a person says so
       │ └────► assumed         a person says it was sent
    accepted ─► in_doubt        its id turned out to be somebody else's
         └────► cancelled       taken back at the gateway before its delivery time

Triggers hold these transitions, and that a message leaves a batch only when that is planned, released or split; a
claimed message is deleted only after its campaign was forgotten. Times are integers: microseconds since 1970-01-01 UTC,
the same in both databases.

Beside them stand ``reject`` (rows of a campaign's source that could not be sent), and what came back and what is
remembered of it: ``collected`` (raw answers of the destructive read), ``received`` (the inbox), ``suppression`` (who
gets no SMS), ``bookmark`` (how far a reader has come) and ``notice`` (notifications that went out).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    func,
    literal_column,
)

from prefect_mymsp.phone import MSISDN_MAX_DIGITS, MSISDN_MIN_DIGITS

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.engine import Connection, Dialect

VERSION = 6

PLANNED = "planned"
SENDING = "sending"
ACCEPTED = "accepted"
REFUSED = "refused"
IN_DOUBT = "in_doubt"
RELEASED = "released"
SPLIT = "split"
ASSUMED = "assumed"
CANCELLED = "cancelled"

#: From each state, those it may turn into.
TRANSITIONS: dict[str, tuple[str, ...]] = {
    PLANNED: (SENDING,),
    SENDING: (ACCEPTED, REFUSED, IN_DOUBT, RELEASED, SPLIT),
    IN_DOUBT: (ACCEPTED, REFUSED, RELEASED, ASSUMED),
    ACCEPTED: (IN_DOUBT, CANCELLED),
}
STATES = (PLANNED, SENDING, ACCEPTED, REFUSED, IN_DOUBT, RELEASED, SPLIT, ASSUMED, CANCELLED)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def microseconds(when: datetime) -> int:
    """An aware time as the journal keeps it: microseconds since the epoch."""
    # Prefect hands out pendulum's times, whose differences are no timedeltas.
    return datetime.__sub__(when, EPOCH) // MICROSECOND


class Instant(TypeDecorator[datetime]):
    """An aware datetime, stored as integer microseconds since the epoch."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Refuse naive times: they would silently be taken for UTC."""
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Back to an aware datetime in UTC."""
        return None if value is None else EPOCH + timedelta(microseconds=value)


# SQLite numbers rows by itself only for INTEGER keys; PostgreSQL wants them wide.
_Id = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

campaign = Table(
    "campaign",
    metadata,
    Column("id", _Id, primary_key=True),
    # Which gateway account, as a fingerprint: a name tried on the sandbox must not count as sent at the real one.
    Column("account", String(32), nullable=False),
    Column("name", String(200), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("sender", String(64)),
    Column("send_at", Instant),
    Column("source", Text, nullable=False),
    # Set when a person stopped it for good.
    Column("cancelled_at", Instant),
    # Set when its people were forgotten: what is left are counts.
    Column("purged_at", Instant),
    # Rows of its source when it was read last; of these, rows that cannot be sent, that repeat an earlier one, and
    # whose number must get nothing.
    Column("rows", BigInteger),
    Column("rejected", BigInteger),
    Column("duplicates", BigInteger),
    Column("suppressed", BigInteger),
    UniqueConstraint("account", "name"),
    CheckConstraint("length(name) > 0", name="name"),
)

text = Table(
    "text",
    metadata,
    # Ascending with first use, so that a campaign ordered by text keeps the order of its file.
    Column("id", _Id, primary_key=True),
    Column("digest", LargeBinary(16), nullable=False, unique=True),
    Column("body", Text, nullable=False),
    Column("encoding", String(5), nullable=False),
    Column("segments", SmallInteger, nullable=False),
    CheckConstraint("encoding IN ('GSM-7', 'UCS-2')", name="encoding"),
    CheckConstraint("segments > 0", name="segments"),
)

run = Table(
    "run",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign_id", ForeignKey(campaign.c.id), nullable=False, index=True),
    Column("started_at", Instant, nullable=False),
    # Until when its claims are its own; moved ahead while the process lives.
    Column("lease_until", Instant, nullable=False),
    Column("ended_at", Instant),
)

batch = Table(
    "batch",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign_id", ForeignKey(campaign.c.id), nullable=False),
    # Whose it is, and since when; nobody's while it is planned.
    Column("run_id", ForeignKey(run.c.id)),
    Column("text_id", ForeignKey(text.c.id), nullable=False),
    Column("sender", String(64)),
    Column("send_at", Instant),
    Column("state", String(9), nullable=False),
    Column("claimed_at", Instant),
    Column("settled_at", Instant),
    Column("message_id", String(40)),
    Column("code", Integer),
    Column("reason", String(40)),
    # Set when nothing more can be learnt from the gateway about it.
    Column("final_at", Instant),
    # When it first came into doubt; what has been doubtful once is watched until its delivery time.
    Column("doubted_at", Instant),
    # When a result first named our recipients, so that the id is known to be ours.
    Column("confirmed_at", Instant),
    # Its messages, and those of them that are delivered: counted here, because a campaign has a million messages.
    Column("size", Integer, nullable=False),
    Column("delivered", Integer, nullable=False, server_default="0"),
    # While it is being rescheduled: it waits at the gateway for ``send_at`` or already for this.
    Column("rescheduled_to", Instant),
    CheckConstraint(f"state IN ({', '.join(map(repr, STATES))})", name="state"),
    CheckConstraint("(state IN ('accepted', 'cancelled')) = (message_id IS NOT NULL)", name="accepted_has_id"),
    CheckConstraint("(state = 'planned') = (run_id IS NULL)", name="planned_is_nobodys"),
    CheckConstraint("(run_id IS NULL) = (claimed_at IS NULL)", name="claimed"),
    CheckConstraint("(state IN ('planned', 'sending')) = (settled_at IS NULL)", name="settled"),
    CheckConstraint("state <> 'refused' OR code IS NOT NULL", name="refused_has_code"),
    CheckConstraint("state <> 'in_doubt' OR reason IS NOT NULL", name="in_doubt_has_reason"),
    Index("ix_batch_state", "campaign_id", "state", "id"),
    Index("ix_batch_message_id", "campaign_id", "message_id", unique=True),
)

_IS_GROUP = "substr(msisdn, 1, 1) = '@'"
_IS_MSISDN = f"length(msisdn) BETWEEN {MSISDN_MIN_DIGITS} AND {MSISDN_MAX_DIGITS} AND ltrim(msisdn, '0123456789') = ''"

message = Table(
    "message",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign_id", ForeignKey(campaign.c.id), nullable=False),
    Column("row", BigInteger, nullable=False),
    # Or a recipient group of the gateway, written ``@name``: whom it reaches is the gateway's knowledge.
    Column("msisdn", String(200), nullable=False),
    Column("text_id", ForeignKey(text.c.id), nullable=False),
    Column("batch_id", ForeignKey(batch.c.id)),
    Column("status", String(64)),
    Column("sent_at", Instant),
    Column("delivered_at", Instant),
    # When we learnt of the status.
    Column("noted_at", Instant),
    # Nobody gets the same text twice in one campaign, whatever any process believes.
    UniqueConstraint("campaign_id", "msisdn", "text_id"),
    CheckConstraint(f"{_IS_GROUP} AND length(msisdn) > 1 OR {_IS_MSISDN}", name="msisdn"),
)
_unclaimed = message.c.batch_id.is_(None)
Index(
    "ix_message_planned",
    message.c.campaign_id,
    message.c.text_id,
    message.c.id,
    sqlite_where=_unclaimed,
    postgresql_where=_unclaimed,
)
# With the number: a claim reads nothing else, and a status finds its message among hundreds of its batch.
Index("ix_message_batch", message.c.batch_id, message.c.msisdn)


def is_group(msisdn: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a message goes to a group. Written so that few such messages are found by the index on them."""
    one: ColumnElement[int] = literal_column("1")
    return func.substr(msisdn, one, one) == literal_column("'@'")


_to_group = is_group(message.c.msisdn)
Index("ix_message_group", message.c.campaign_id, message.c.batch_id, sqlite_where=_to_group, postgresql_where=_to_group)

#: Rows of a campaign's source that could not be sent when it was read last: where to mend them, not what stands there.
reject = Table(
    "reject",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign_id", ForeignKey(campaign.c.id), nullable=False, index=True),
    Column("row", BigInteger, nullable=False),
    Column("column", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

#: Whom a batch was for that was in doubt and has been released: what it asked for may yet turn up at the gateway.
ghost = Table(
    "ghost",
    metadata,
    Column("batch_id", ForeignKey(batch.c.id), primary_key=True),
    Column("msisdn", String(200), primary_key=True),
)

#: Answers of the destructive read, kept before they are parsed.
collected = Table(
    "collected",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("account", String(32), nullable=False),
    Column("collected_at", Instant, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    # Set when what is in it has been acted on.
    Column("parsed_at", Instant),
)

#: What people wrote to us, as the inbox has it; each message once. Written by strangers: no length is known.
received = Table(
    "received",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("account", String(32), nullable=False),
    Column("message_id", Text, nullable=False),
    Column("received_at", Instant),
    Column("stored_at", Instant, nullable=False),
    Column("user", Text),
    Column("prefix", Text),
    Column("kind", Text),
    Column("sender", Text),
    Column("alias", Text),
    Column("subject", Text),
    Column("text", Text, nullable=False),
    UniqueConstraint("account", "message_id"),
)

#: Why a number gets no SMS any more: its owner wrote so, it was on somebody's list, or a person put it there.
REASONS = ("opt-out", "import", "person")

#: Who must get no SMS from an account.
suppression = Table(
    "suppression",
    metadata,
    Column("account", String(32), primary_key=True),
    Column("msisdn", String(15), primary_key=True),
    Column("since", Instant, nullable=False),
    Column("reason", String(7), nullable=False),
    # The received message that said so.
    Column("message_id", Text),
    CheckConstraint(_IS_MSISDN, name="msisdn"),
    CheckConstraint(f"reason IN ({', '.join(map(repr, REASONS))})", name="reason"),
)

#: How far a reader has come.
bookmark = Table(
    "bookmark",
    metadata,
    Column("account", String(32), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("value", Text, nullable=False),
)

#: Notifications that went out, to count how many did lately.
notice = Table(
    "notice",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("account", String(32), nullable=False),
    Column("topic", String(200), nullable=False),
    Column("noted_at", Instant, nullable=False),
    Index("ix_notice_topic", "account", "topic", "noted_at"),
)

#: What a trigger says when a rule is broken; the part after it is fit for a person to read.
RULE = "journal rule: "

# Pair by pair, because SQLite makes a list of IN anew for each row: for most it is one of the first two.
_LEGAL = " OR ".join(
    f"OLD.state = '{old}' AND NEW.state = '{new}'" for old, those in TRANSITIONS.items() for new in those
)
_BATCH_BROKEN = f"NEW.state <> OLD.state AND NOT ({_LEGAL})"
_ITS_STATE = "OLD.batch_id IS NOT NULL AND (SELECT state FROM batch WHERE id = OLD.batch_id)"
_HELD = f"{_ITS_STATE} NOT IN ('planned', 'released', 'split')"
_CLAIMED = f"{_ITS_STATE} <> 'planned'"
_REMEMBERED = "(SELECT purged_at FROM campaign WHERE id = OLD.campaign_id) IS NULL"
_TRIGGERS = (
    (
        "batch_transition",
        "batch",
        "UPDATE OF state",
        _BATCH_BROKEN,
        "a batch cannot change from one state to another so",
    ),
    ("message_claim", "message", "UPDATE OF batch_id", _HELD, "a message cannot leave a batch that may have sent it"),
    (
        "message_delete",
        "message",
        "DELETE",
        f"{_CLAIMED} AND {_REMEMBERED}",
        "a message that was claimed is not forgotten",
    ),
    (
        "campaign_forgotten",
        "campaign",
        "UPDATE OF purged_at",
        "OLD.purged_at IS NOT NULL AND NEW.purged_at IS NULL",
        "a campaign that was forgotten stays so",
    ),
)


def trigger_statements(dialect: str) -> list[str]:
    """The statements that create the triggers in ``sqlite`` or ``postgresql``."""
    statements = []
    for name, table, when, broken, told in _TRIGGERS:
        if dialect == "sqlite":
            statements.append(
                f"CREATE TRIGGER {name} BEFORE {when} ON {table} FOR EACH ROW WHEN {broken} "
                f"BEGIN SELECT RAISE(ABORT, '{RULE}{told}'); END"
            )
        else:
            result = "OLD" if when == "DELETE" else "NEW"
            statements += [
                (
                    f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {broken} THEN "
                    f"RAISE EXCEPTION '{RULE}{told}' USING ERRCODE = 'check_violation'; END IF; RETURN {result}; END $$"
                ),
                f"CREATE TRIGGER {name} BEFORE {when} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()",
            ]
    return statements


def create_triggers(connection: Connection) -> None:
    """Create the triggers."""
    for statement in trigger_statements(connection.dialect.name):
        connection.exec_driver_sql(statement)


def drop_triggers(connection: Connection) -> None:
    """Remove the triggers, those of earlier versions too; there may be none."""
    for name, table, *_ in _TRIGGERS:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
        else:
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name} ON {table}")
            connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {name}()")


def create(connection: Connection) -> None:
    """Create everything in an empty database."""
    metadata.create_all(connection)
    create_triggers(connection)
    connection.execute(schema_version.insert().values(version=VERSION))
