"""Bringing a journal that an earlier version wrote up to date, in place and in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from prefect_mymsp.journal import schema
from prefect_mymsp.journal.schema import Instant

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection


def _to_2(operations: Operations) -> None:
    """Doubt can be resolved, ids are believed or not, campaigns can be cancelled; triggers hold the transitions."""
    batch = schema.batch
    with operations.batch_alter_table("campaign") as campaign:
        campaign.add_column(sa.Column("cancelled_at", Instant))
    checks = {str(check.name): check for check in batch.constraints if isinstance(check, sa.CheckConstraint)}
    with operations.batch_alter_table("batch", table_args=_kept_checks()) as table:
        table.alter_column("state", type_=sa.String(9), existing_type=sa.String(8), existing_nullable=False)
        table.add_column(sa.Column("doubted_at", Instant))
        table.add_column(sa.Column("believed_at", Instant))
        for name in ("ck_batch_state", "ck_batch_accepted_has_id"):
            if operations.get_bind().dialect.name != "sqlite":
                table.drop_constraint(operations.f(name), type_="check")
            table.create_check_constraint(operations.f(name), checks[name].sqltext)
    bind = operations.get_bind()
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
    schema.ghost.create(operations.get_bind())
    schema.collected.create(operations.get_bind())
    for statement in schema.trigger_statements(operations.get_bind().dialect.name):
        operations.execute(statement)


def _kept_checks() -> tuple[sa.CheckConstraint, ...]:
    """Checks of the batch table that stay: SQLite's tables are rebuilt, and checks are not read back from them."""
    changed = {"ck_batch_state", "ck_batch_accepted_has_id"}
    return tuple(
        sa.CheckConstraint(check.sqltext.text, name=check.name)
        for check in schema.batch.constraints
        if isinstance(check, sa.CheckConstraint) and str(check.name) not in changed
    )


_STEPS: dict[int, Callable[[Operations], None]] = {2: _to_2}


def migrate(connection: Connection, found: int) -> None:
    """Take a journal from version ``found`` to the present one.

    Raises:
        KeyError: There is no way from that version.
    """
    operations = Operations(MigrationContext.configure(connection))
    for version in range(found + 1, schema.VERSION + 1):
        _STEPS[version](operations)
    connection.execute(schema.schema_version.update().values(version=schema.VERSION))
