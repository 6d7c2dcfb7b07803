"""The journal's tables, one schema for SQLite and PostgreSQL.

::

    campaign 1 ──── n message n ──── 1 text          what is to be sent: one message is one SMS to one person
        │               │ n
        │               │
        │ 1             │ 0..1
        └──── n batch ──┘                            one batch is one sendSms request
                 │ n
                 └──── 1 run                         one sending process, alive while its lease is valid

Messages are put into batches when they are recorded, so that a claim updates one row per request. A message has the
state of its batch; a message without a batch is *planned*. The states and their legal changes are in
:mod:`prefect_mymsp.states`. Triggers enforce these changes. They also enforce that a message leaves a batch only while
the batch is planned, released or split, and that a claimed message is deleted only after its campaign was purged.

Times are integers in both databases: microseconds since 1970-01-01 UTC.
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

from prefect_mymsp.phone import GROUP_SIGN, MSISDN_MAX_DIGITS, MSISDN_MIN_DIGITS
from prefect_mymsp.states import (
    EMPTIED_STATES,
    IDENTIFIED_STATES,
    IN_DOUBT,
    PLANNED,
    REFUSED,
    SENDING,
    STATES,
    TRANSITIONS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement
    from sqlalchemy.engine import Connection, Dialect

#: The version of this schema. ``docs/contributing.md`` says how to change the schema.
VERSION = 1

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def microseconds(when: datetime) -> int:
    """Convert an aware time to microseconds since the epoch."""
    # Prefect passes pendulum times, whose differences are no timedeltas.
    return datetime.__sub__(when, EPOCH) // MICROSECOND


class Instant(TypeDecorator[datetime]):
    """An aware datetime, stored as integer microseconds since the epoch."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Convert to an integer. Naive times are refused: they would be taken for UTC."""
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Convert to an aware datetime in UTC."""
        return None if value is None else EPOCH + timedelta(microseconds=value)


def _one_of(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(map(repr, values))})"


# SQLite assigns numbers only to INTEGER keys; PostgreSQL needs wide ones.
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
    # Fingerprint of the gateway account: a name tried on the sandbox must not count as sent at the real gateway.
    Column("account", String(32), nullable=False),
    Column("name", String(200), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("sender", String(64)),
    Column("send_at", Instant),
    Column("source", Text, nullable=False),
    # Set when a person cancels the campaign for good.
    Column("cancelled_at", Instant),
    # Set when its messages were purged and only its batches, which hold the counts, are left.
    Column("purged_at", Instant),
    # Rows of its source when it was read last; of these, rejected, duplicate and suppressed ones.
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
    # Until this time no other run touches its claims; renewed while the process lives.
    Column("lease_until", Instant, nullable=False),
    Column("ended_at", Instant),
)

batch = Table(
    "batch",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign_id", ForeignKey(campaign.c.id), nullable=False),
    # The run that claimed it, and when; empty while it is planned.
    Column("run_id", ForeignKey(run.c.id)),
    Column("text_id", ForeignKey(text.c.id), nullable=False),
    Column("sender", String(64)),
    Column("send_at", Instant),
    Column("state", String(9), nullable=False),
    Column("claimed_at", Instant),
    # When it came into its present state.
    Column("settled_at", Instant),
    Column("message_id", String(40)),
    Column("code", Integer),
    Column("reason", String(40)),
    # Set when its result will not change any more.
    Column("final_at", Instant),
    # When it first came into doubt. A batch that was in doubt once is watched until its scheduled time.
    Column("doubted_at", Instant),
    # When a result first named its recipients: this confirms the message id.
    Column("confirmed_at", Instant),
    # The number of its messages, and how many of them are delivered. Counted here: a campaign has a million messages.
    Column("size", Integer, nullable=False),
    Column("delivered", Integer, nullable=False, server_default="0"),
    # While it is being rescheduled: it waits at the gateway for ``send_at`` or already for this time.
    Column("rescheduled_to", Instant),
    CheckConstraint(_one_of("state", STATES), name="state"),
    CheckConstraint(f"({_one_of('state', IDENTIFIED_STATES)}) = (message_id IS NOT NULL)", name="accepted_has_id"),
    CheckConstraint(f"(state = '{PLANNED}') = (run_id IS NULL)", name="planned_has_no_run"),
    CheckConstraint("(run_id IS NULL) = (claimed_at IS NULL)", name="claimed"),
    CheckConstraint(f"({_one_of('state', (PLANNED, SENDING))}) = (settled_at IS NULL)", name="settled"),
    CheckConstraint(f"state <> '{REFUSED}' OR code IS NOT NULL", name="refused_has_code"),
    CheckConstraint(f"state <> '{IN_DOUBT}' OR reason IS NOT NULL", name="in_doubt_has_reason"),
    Index("ix_batch_state", "campaign_id", "state", "id"),
    Index("ix_batch_message_id", "campaign_id", "message_id", unique=True),
)

_IS_GROUP = f"substr(msisdn, 1, 1) = '{GROUP_SIGN}'"
_IS_MSISDN = (
    f"length(msisdn) BETWEEN {MSISDN_MIN_DIGITS} AND {MSISDN_MAX_DIGITS} "
    "AND ltrim(msisdn, '0123456789') = '' AND substr(msisdn, 1, 1) <> '0'"
)

message = Table(
    "message",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign_id", ForeignKey(campaign.c.id), nullable=False),
    Column("row", BigInteger, nullable=False),
    # Or a recipient group of the gateway, written ``@name``; its members are stored at the gateway only.
    Column("msisdn", String(200), nullable=False),
    Column("text_id", ForeignKey(text.c.id), nullable=False),
    Column("batch_id", ForeignKey(batch.c.id)),
    Column("status", String(64)),
    Column("sent_at", Instant),
    Column("delivered_at", Instant),
    # When the status was recorded.
    Column("status_changed_at", Instant),
    # No number gets the same text twice in one campaign, whatever a process does.
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
# Includes the number: a claim reads nothing else, and a status finds its message among the hundreds of its batch.
Index("ix_message_batch", message.c.batch_id, message.c.msisdn)


def is_group(msisdn: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a message goes to a recipient group. Written so that the index on these few messages is used."""
    first: ColumnElement[int] = literal_column("1")
    return func.substr(msisdn, first, first) == literal_column(f"'{GROUP_SIGN}'")


_to_group = is_group(message.c.msisdn)
Index("ix_message_group", message.c.campaign_id, message.c.batch_id, sqlite_where=_to_group, postgresql_where=_to_group)

#: Rows of a campaign's source that could not be sent when it was read last. Their values are not kept.
rejected_row = Table(
    "rejected_row",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("campaign_id", ForeignKey(campaign.c.id), nullable=False, index=True),
    Column("row", BigInteger, nullable=False),
    Column("column", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

#: Recipients of a scheduled batch that was in doubt and was released: its request may still turn up at the gateway.
released_recipient = Table(
    "released_recipient",
    metadata,
    Column("batch_id", ForeignKey(batch.c.id), primary_key=True),
    Column("msisdn", String(200), primary_key=True),
)

#: Responses that the gateway returns only once, stored before they are parsed.
raw_response = Table(
    "raw_response",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("account", String(32), nullable=False),
    Column("stored_at", Instant, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    # Set when its contents were processed.
    Column("parsed_at", Instant),
)

#: Messages in the inbox, each once. They are untrusted, so no column has a length.
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

#: Why a number is suppressed: its owner opted out, a list was imported, or a person added it.
SUPPRESSION_REASONS = ("opt-out", "import", "person")

#: Numbers that are suppressed for an account.
suppression = Table(
    "suppression",
    metadata,
    Column("account", String(32), primary_key=True),
    Column("msisdn", String(15), primary_key=True),
    Column("since", Instant, nullable=False),
    Column("reason", String(7), nullable=False),
    # The received message that opted out.
    Column("message_id", Text),
    CheckConstraint(_IS_MSISDN, name="msisdn"),
    CheckConstraint(_one_of("reason", SUPPRESSION_REASONS), name="reason"),
)

#: Small values kept between runs, for instance the position of a reader.
bookmark = Table(
    "bookmark",
    metadata,
    Column("account", String(32), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("value", Text, nullable=False),
)

#: Notifications that were sent, to limit their number.
notification = Table(
    "notification",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("account", String(32), nullable=False),
    Column("topic", String(200), nullable=False),
    Column("sent_at", Instant, nullable=False),
    Index("ix_notification_topic", "account", "topic", "sent_at"),
)

#: Prefix of a trigger's error. The text after it is shown to people.
RULE = "journal rule: "

# Pair by pair: SQLite rebuilds the list of an IN for each row, and nearly all rows match one of the first two pairs.
_LEGAL = " OR ".join(
    f"OLD.state = '{old}' AND NEW.state = '{new}'" for old, successors in TRANSITIONS.items() for new in successors
)
_MESSAGE_STATE = "OLD.batch_id IS NOT NULL AND (SELECT state FROM batch WHERE id = OLD.batch_id)"
_NOT_PURGED = "(SELECT purged_at FROM campaign WHERE id = OLD.campaign_id) IS NULL"
#: Name, table, event, condition that breaks the rule, and the error.
_TRIGGERS = (
    (
        "batch_transition",
        "batch",
        "UPDATE OF state",
        f"NEW.state <> OLD.state AND NOT ({_LEGAL})",
        "this change of state is not allowed",
    ),
    (
        "message_claim",
        "message",
        "UPDATE OF batch_id",
        f"{_MESSAGE_STATE} NOT IN ('{PLANNED}', {', '.join(map(repr, sorted(EMPTIED_STATES)))})",
        "a message cannot leave a request that may have sent it",
    ),
    (
        "message_delete",
        "message",
        "DELETE",
        f"{_MESSAGE_STATE} <> '{PLANNED}' AND {_NOT_PURGED}",
        "a message that was claimed cannot be deleted",
    ),
    (
        "campaign_purged",
        "campaign",
        "UPDATE OF purged_at",
        "OLD.purged_at IS NOT NULL AND NEW.purged_at IS NULL",
        "a purged campaign stays purged",
    ),
)


def trigger_statements(dialect: str) -> list[str]:
    """Return the statements that create the triggers in ``sqlite`` or ``postgresql``."""
    statements = []
    for name, table, trigger_event, broken, error in _TRIGGERS:
        if dialect == "sqlite":
            statements.append(
                f"CREATE TRIGGER {name} BEFORE {trigger_event} ON {table} FOR EACH ROW WHEN {broken} "
                f"BEGIN SELECT RAISE(ABORT, '{RULE}{error}'); END"
            )
        else:
            result = "OLD" if trigger_event == "DELETE" else "NEW"
            statements += [
                (
                    f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {broken} THEN "
                    f"RAISE EXCEPTION '{RULE}{error}' USING ERRCODE = 'check_violation'; "
                    f"END IF; RETURN {result}; END $$"
                ),
                f"CREATE TRIGGER {name} BEFORE {trigger_event} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()",
            ]
    return statements


def create(connection: Connection) -> None:
    """Create all tables and triggers. Another application's table with the same name is an error."""
    metadata.create_all(connection, checkfirst=False)
    for statement in trigger_statements(connection.dialect.name):
        connection.exec_driver_sql(statement)
    connection.execute(schema_version.insert().values(version=VERSION))
