"""Rows into a database table: each row once, however often and however concurrently exports run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect_mymsp.errors import ExportError
from prefect_mymsp.reports.writers import python_values

if TYPE_CHECKING:
    import pandas as pd
    import sqlalchemy as sa
    from sqlalchemy.engine import URL, Connection

#: Columns of a table in addition to the frame's: key, whether the row is final, and when it was read.
KEY, FINAL, EXPORTED_AT = "row_key", "final", "exported_at"

_ROWS_PER_STATEMENT = 20_000


def append_rows(
    frame: pd.DataFrame,
    url: str | URL,
    table: str,
    *,
    keys: Sequence[str],
    final: Sequence[bool],
    read_at: datetime,
) -> int:
    """Append a frame to a table of SQLite or PostgreSQL.

    A missing table is created with the frame's columns; ``row_key``, its primary key; ``final``, whether the row is
    final; and ``exported_at``, when it was read. A row whose key exists updates the existing row if that one is not
    final and was read earlier; a final row never changes. Everything happens in one transaction, and one export at a
    time writes to a table.

    Args:
        frame: The rows.
        url: An SQLAlchemy URL.
        table: The table's name, with a schema before a dot where the database has schemas.
        keys: The permanent key of each row.
        final: Whether each row is final.
        read_at: When the rows were read from the journal, aware.

    Returns:
        How many rows were inserted or updated.

    Raises:
        ConfigurationError: The URL is unusable, or its driver is not installed.
        ExportError: The database reports an error, or the existing table lacks columns or a unique ``row_key``.
    """
    import sqlalchemy as sa
    from sqlalchemy import exc

    from prefect_mymsp.database_urls import open_engine, parse_supported_url

    engine = open_engine(parse_supported_url(url, "The export table"), "The export table", always_writes=True)
    schema, _, name = table.rpartition(".")
    try:
        target = _table_of(frame, name, schema or None)
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                lock = sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(table, 7262626))
                connection.execute(sa.select(lock))
            _create_or_check(connection, target)
            return _upsert(connection, target, frame, keys, final, read_at)
    except exc.SQLAlchemyError as error:
        # The error's text quotes rows, and with them numbers and texts: name only its kind.
        cause = getattr(error, "orig", None) or error
        raise ExportError(f"Cannot write to the table {table!r} ({type(cause).__name__}).") from None
    finally:
        engine.dispose()


def _table_of(frame: pd.DataFrame, name: str, schema: str | None) -> sa.Table:
    import sqlalchemy as sa

    types: dict[str, Any] = {"string": sa.Text(), "Int64": sa.BigInteger(), "Float64": sa.Double()}
    time = sa.DateTime(timezone=True)
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column(KEY, sa.String(32), primary_key=True),
        *(sa.Column(str(title), types.get(str(dtype), time)) for title, dtype in frame.dtypes.items()),
        sa.Column(FINAL, sa.Boolean, nullable=False),
        sa.Column(EXPORTED_AT, time, nullable=False),
        schema=schema,
    )


def _create_or_check(connection: Connection, target: sa.Table) -> None:
    """Create the table, or check that the existing one has the columns and a unique key."""
    import sqlalchemy as sa

    inspector = sa.inspect(connection)
    if not inspector.has_table(target.name, schema=target.schema):
        target.create(connection)
        return
    existing = {column["name"] for column in inspector.get_columns(target.name, schema=target.schema)}
    if missing := [column.name for column in target.columns if column.name not in existing]:
        raise ExportError(
            f"The table {target.fullname!r} has no column {', '.join(map(repr, missing))}. Add the columns, or choose "
            "another table name: a missing table is created."
        )
    name: Any = {"table_name": target.name, "schema": target.schema}
    unique: list[Sequence[str | None]] = [inspector.get_pk_constraint(**name)["constrained_columns"]]
    unique += [constraint["column_names"] for constraint in inspector.get_unique_constraints(**name)]
    unique += [index["column_names"] for index in inspector.get_indexes(**name) if index["unique"]]
    if [KEY] not in unique:
        raise ExportError(f"{KEY!r} of the table {target.fullname!r} must be unique, or rows could be written twice.")


def _upsert(
    connection: Connection,
    target: sa.Table,
    frame: pd.DataFrame,
    keys: Sequence[str],
    final: Sequence[bool],
    read_at: datetime,
) -> int:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite

    names = [column.name for column in target.columns]
    columns = [list(keys), *(python_values(frame[name]) for name in frame.columns), list(final)]
    columns.append([read_at.astimezone(UTC)] * len(frame))
    on_postgresql = connection.dialect.name == "postgresql"
    insert: Any = postgresql.insert(target) if on_postgresql else sqlite.insert(target)
    if on_postgresql:  # one array per column: one statement per row takes ten times as long
        arrays = [
            sa.cast(sa.bindparam(f"c{index}"), postgresql.ARRAY(column.type))
            for index, column in enumerate(target.columns)
        ]
        rows = sa.func.unnest(*arrays).table_valued(*names, name="rows").render_derived()
        insert = insert.from_select(names, sa.select(*rows.c))
    new = insert.excluded
    is_older = target.c[EXPORTED_AT] < new[EXPORTED_AT]
    differs = sa.or_(*(target.c[name].is_distinct_from(new[name]) for name in names if name not in {KEY, EXPORTED_AT}))
    statement = insert.on_conflict_do_update(
        index_elements=[KEY],
        set_={name: new[name] for name in names if name != KEY},
        where=sa.and_(target.c[FINAL].is_(False), is_older, differs),
    )
    written = 0
    for start in range(0, len(frame), _ROWS_PER_STATEMENT):
        part = [column[start : start + _ROWS_PER_STATEMENT] for column in columns]
        if on_postgresql:
            parameters = {f"c{index}": values for index, values in enumerate(part)}
            result = connection.execute(statement, parameters, execution_options={"preserve_rowcount": True})
            written += result.rowcount
        else:
            before = _total_changes(connection)
            connection.execute(statement, [dict(zip(names, row, strict=True)) for row in zip(*part, strict=True)])
            written += _total_changes(connection) - before
    return written


def _total_changes(connection: Connection) -> int:
    """Rows written so far on an SQLite connection; the driver's count for executemany is not reliable."""
    return int(connection.exec_driver_sql("SELECT total_changes()").scalar_one())
