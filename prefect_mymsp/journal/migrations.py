"""Bringing a journal that an earlier version wrote up to date, in place and in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.schema import CreateTable

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.schema import Instant

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection


def _to_2(operations: Operations) -> None:
    """Doubt can be resolved, ids are confirmed or not, campaigns can be cancelled; triggers hold the transitions."""
    batch, bind = schema.batch, operations.get_bind()
    operations.add_column("campaign", sa.Column("cancelled_at", Instant))
    message = schema.message
    members = sa.select(sa.func.count()).where(message.c.batch_id == batch.c.id)
    delivered = members.where(message.c.status == "delivered").scalar_subquery()
    if bind.dialect.name == "sqlite":
        _rebuild(bind, batch, {"size": members.scalar_subquery()})
        operations.create_index("ix_batch_state", "batch", ["campaign_id", "state", "id"])
    else:
        operations.alter_column("batch", "state", type_=sa.String(9))
        operations.add_column("batch", sa.Column("doubted_at", Instant))
        operations.add_column("batch", sa.Column("confirmed_at", Instant))
        operations.add_column("batch", sa.Column("size", sa.Integer))
        bind.execute(batch.update().values(size=members.scalar_subquery()))
        operations.alter_column("batch", "size", nullable=False)
        operations.add_column("batch", sa.Column("delivered", sa.Integer, nullable=False, server_default="0"))
        operations.alter_column("batch", "run_id", nullable=True)
        operations.alter_column("batch", "claimed_at", nullable=True)
        checks = {str(check.name): check for check in batch.constraints if isinstance(check, sa.CheckConstraint)}
        for name in ("ck_batch_state", "ck_batch_accepted_has_id", "ck_batch_settled"):
            operations.drop_constraint(operations.f(name), "batch", type_="check")
        new = ("ck_batch_planned_is_nobodys", "ck_batch_claimed")
        for name in ("ck_batch_state", "ck_batch_accepted_has_id", "ck_batch_settled", *new):
            operations.create_check_constraint(operations.f(name), "batch", checks[name].sqltext)
    bind.execute(batch.update().values(delivered=delivered))
    bind.execute(batch.update().where(batch.c.state == schema.IN_DOUBT).values(doubted_at=batch.c.settled_at))
    # An id belongs to one batch now; of several that were given the same, the first keeps it.
    earlier = batch.alias("earlier")
    taken = sa.exists().where(
        earlier.c.campaign_id == batch.c.campaign_id,
        earlier.c.message_id == batch.c.message_id,
        earlier.c.id < batch.c.id,
    )
    doubt = {"state": schema.IN_DOUBT, "message_id": None, "reason": "id-seen-before", "final_at": None}
    bind.execute(batch.update().where(taken).values(doubted_at=batch.c.settled_at, **doubt))
    operations.create_index("ix_batch_message_id", "batch", ["campaign_id", "message_id"], unique=True)
    key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    operations.create_table(
        "ghost",
        sa.Column("batch_id", key, nullable=False),
        sa.Column("msisdn", sa.String(15), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "msisdn", name=operations.f("pk_ghost")),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name=operations.f("fk_ghost_batch_id")),
    )
    operations.create_table(
        "collected",
        sa.Column("id", key, nullable=False),
        sa.Column("account", sa.String(32), nullable=False),
        sa.Column("collected_at", Instant, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name=operations.f("pk_collected")),
    )


def _to_3(operations: Operations) -> None:
    """Recipient groups, the inbox, suppressions, bookmarks, notices; campaigns can be forgotten."""
    message, ghost, bind = schema.message, schema.ghost, operations.get_bind()
    operations.add_column("campaign", sa.Column("purged_at", Instant))
    operations.add_column("collected", sa.Column("parsed_at", Instant))
    if all(
        column["name"] != "rescheduled_to" for column in sa.inspect(bind).get_columns("batch")
    ):  # else rebuilt from 1
        operations.add_column("batch", sa.Column("rescheduled_to", Instant))
    if bind.dialect.name == "sqlite":
        _rebuild(bind, message, {})
        _rebuild(bind, ghost, {})
        for index in message.indexes:
            index.create(bind)
    else:
        for table in (message, ghost):
            operations.alter_column(table.name, "msisdn", type_=table.c.msisdn.type)
        (check,) = (one for one in message.constraints if isinstance(one, sa.CheckConstraint))
        operations.drop_constraint(operations.f("ck_message_msisdn"), "message", type_="check")
        operations.create_check_constraint(operations.f("ck_message_msisdn"), "message", check.sqltext)
        (group,) = (index for index in message.indexes if index.name == "ix_message_group")
        group.create(bind)
    for table in (schema.received, schema.suppression, schema.bookmark, schema.notice):
        table.create(bind)


def _to_4(operations: Operations) -> None:
    """A campaign remembers what its source came to, and a message when its status was learnt: what reports need."""
    bind = operations.get_bind()
    for name in ("rows", "rejected", "duplicates", "suppressed"):
        operations.add_column("campaign", sa.Column(name, sa.BigInteger))
    # Where the step before has rebuilt the table, it is in its present form already.
    if all(column["name"] != "noted_at" for column in sa.inspect(bind).get_columns("message")):
        operations.add_column("message", sa.Column("noted_at", Instant))
    schema.reject.create(bind)


def _to_5(operations: Operations) -> None:
    """A batch's messages are found by their number."""
    operations.drop_index("ix_message_batch", "message")
    operations.create_index("ix_message_batch", "message", ["batch_id", "msisdn"])


def _to_6(operations: Operations) -> None:
    """The trigger that holds the transitions compares pairs; triggers are made anew with every migration."""


def _rebuild(connection: Connection, table: sa.Table, added: dict[str, sa.ScalarSelect[int]]) -> None:
    """Bring an SQLite table, whose constraints cannot be altered, into its present form; indexes are left to do.

    Foreign keys must not be checked meanwhile: the table is gone for a moment.

    Args:
        connection: In a transaction.
        table: What it shall be.
        added: New columns that may not be null, and what they are for each old row.
    """
    made = str(CreateTable(table).compile(connection))
    connection.exec_driver_sql(made.replace(f"CREATE TABLE {table.name} ", f"CREATE TABLE {table.name}_new ", 1))
    names = [column["name"] for column in sa.inspect(connection).get_columns(table.name)]
    new = sa.table(f"{table.name}_new", *map(sa.column, [*names, *added]))
    rows = sa.select(*(table.c[name] for name in names), *added.values())
    connection.execute(new.insert().from_select([*names, *added], rows))
    connection.exec_driver_sql(f"DROP TABLE {table.name}")
    connection.exec_driver_sql(f"ALTER TABLE {table.name}_new RENAME TO {table.name}")


_STEPS: dict[int, Callable[[Operations], None]] = {2: _to_2, 3: _to_3, 4: _to_4, 5: _to_5, 6: _to_6}


def migrate(connection: Connection, found: int) -> None:
    """Take a journal from version ``found`` to the present one.

    Raises:
        KeyError: There is no way from that version.
    """
    operations = Operations(MigrationContext.configure(connection))
    schema.drop_triggers(connection)  # they hold the rules of journals, not of changes to their form
    for version in range(found + 1, schema.VERSION + 1):
        _STEPS[version](operations)
    schema.create_triggers(connection)
    connection.execute(schema.schema_version.update().values(version=schema.VERSION))
