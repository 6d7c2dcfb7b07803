"""Frames into files and tables: CSV, Parquet, Excel, SQL.

A file appears whole or not at all, and for its owner only: it holds numbers. A row of a table lands there once.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_mymsp.errors import ConfigurationError, ExportError, InputError
from prefect_mymsp.reports.sanitize import escape_control_characters, escape_formulas

if TYPE_CHECKING:
    import pandas as pd
    import sqlalchemy as sa
    from sqlalchemy.engine import URL, Connection, Engine

#: Rows below the header of an Excel sheet, at most.
EXCEL_ROWS = 1_048_575
#: Characters in a cell of Excel, at most.
EXCEL_CHARACTERS = 32_767
#: Seconds to wait for another's write to an SQLite target.
_PATIENCE_S = 60.0
_AT_ONCE = 20_000


def file_name(title: str) -> str:
    """A campaign's name, or another title, as a file's name."""
    return re.sub(r"[^\w.-]+", "-", title, flags=re.UNICODE).strip("-.")[:120] or "campaign"


# ---- files -----------------------------------------------------------------------------------------------------------


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """Write a frame as CSV: commas, UTF-8, times as ISO 8601 in UTC.

    A text that a spreadsheet would run as a formula gets an apostrophe in front; control characters are shown, not
    written. A number with its plus sign stays as it is.

    Raises:
        ExportError: The file cannot be written.
    """
    safe = escape_formulas(frame)
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        safe.to_csv(file, index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ")
    return path


def write_text(text: str, path: Path) -> Path:
    """Write a page as it is, in UTF-8.

    Raises:
        ExportError: The file cannot be written.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
    return path


def write_parquet(frame: pd.DataFrame, path: Path) -> Path:
    """Write a frame as Parquet: dtypes and zones as they are, texts as they came.

    Raises:
        ExportError: The file cannot be written.
    """
    with replacing(path) as part:
        frame.to_parquet(part, engine="pyarrow", index=False)
    return path


def write_excel(frames: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Write frames as the sheets of an Excel file; times in UTC, which their headers say.

    Texts are made harmless as in :func:`write_csv`. Numbers of people are texts, so that no digit is lost.

    Args:
        frames: By the name of the sheet.
        path: The file.

    Raises:
        ConfigurationError: XlsxWriter is not installed.
        InputError: A frame has more rows than a sheet of Excel.
        ExportError: The file cannot be written.
    """
    try:
        import xlsxwriter
    except ModuleNotFoundError:
        raise ConfigurationError("Excel files need XlsxWriter: install prefect-mymsp[reports].") from None
    for frame in frames.values():
        if len(frame) > EXCEL_ROWS:
            raise InputError(
                f"{len(frame):,} rows are more than the {EXCEL_ROWS:,} of a sheet in Excel: write CSV or Parquet."
            )
    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with replacing(path) as part, xlsxwriter.Workbook(str(part), options) as book:
        for name, frame in frames.items():
            _write_sheet(book, name, escape_formulas(frame))
    return path


def _write_sheet(book: Any, name: str, frame: pd.DataFrame) -> None:
    head = book.add_format({"bold": True, "bottom": 1})
    time = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss", "align": "left"})
    sheet = book.add_worksheet(name)
    sheet.freeze_panes(1, 0)
    if len(frame):
        sheet.autofilter(0, 0, len(frame), len(frame.columns) - 1)
        sheet.ignore_errors({"number_stored_as_text": f"A2:XFD{len(frame) + 1}"})
    values, writers = [], []
    for at, (title, dtype) in enumerate(frame.dtypes.items()):
        column, heading, write = frame[title], str(title), sheet.write_number
        if str(dtype).startswith("datetime"):
            column, heading = column.dt.tz_localize(None), f"{title} (UTC)"

            def write(row: int, at: int, value: datetime) -> None:
                sheet.write_datetime(row, at, value, time)

        elif str(dtype) == "string":

            def write(row: int, at: int, value: str) -> None:
                sheet.write_string(row, at, value[:EXCEL_CHARACTERS])

        values.append(listed(column))
        writers.append(write)
        longest = max((len(str(value)) for value in values[-1][:200] if value is not None), default=0)
        sheet.set_column(at, at, min(max(len(heading) + 3, longest + 2), 60))
        sheet.write_string(0, at, heading, head)
    for number, row in enumerate(zip(*values, strict=True), start=1):
        for at, value in enumerate(row):
            if value is not None:
                writers[at](number, at, value)


def listed(column: pd.Series) -> list[Any]:
    """A column's values as Python's own, None where one is missing."""
    import pyarrow as pa

    values: list[Any] = pa.Array.from_pandas(column).to_pylist()
    return values


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, in the same folder, that takes the place of ``path`` when it is whole.

    Raises:
        ExportError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", dir=path.parent)  # for its owner only
        os.close(handle)
        part = Path(name)
        try:
            yield part
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ExportError(
            f"The report {escape_control_characters(str(path))} cannot be written: {error.strerror or error}."
        ) from error


# ---- tables ----------------------------------------------------------------------------------------------------------

#: What a table has beside the frame's columns: which row it is, whether it may still change, and when it was read.
KEY, FINAL, EXPORTED_AT = "row_key", "final", "exported_at"


def append_rows(
    frame: pd.DataFrame,
    url: str | URL,
    table: str,
    *,
    keys: Sequence[str],
    final: Sequence[bool],
    read_at: datetime,
) -> int:
    """Append a frame to a table of SQLite or PostgreSQL, each row once, however often or concurrently this runs.

    The table is made when it is not there: the frame's columns; ``row_key``, its primary key; ``final``, whether the
    row may still change; ``exported_at``, when it was read. A row whose key is there already brings it up to date if
    that one was not final and was read earlier; a final row is never touched again. All of it is one transaction, and
    one at a time for a table.

    Args:
        frame: The rows.
        url: An SQLAlchemy URL.
        table: The table's name, with a schema before a dot where the database has them.
        keys: What identifies each row, for ever.
        final: Whether each row will not change any more.
        read_at: When the rows were read from the journal, aware.

    Returns:
        How many rows were inserted or changed.

    Raises:
        ConfigurationError: The URL cannot be used, or its driver is not installed.
        ExportError: The database refuses, or a table of that name has other columns or no unique ``row_key``.
    """
    import sqlalchemy as sa
    from sqlalchemy import exc

    engine = _target(url)
    schema, _, name = table.rpartition(".")
    try:
        target = _table(frame, name, schema or None)
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                lock = sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(table, 7262626))
                connection.execute(sa.select(lock))
            _check(connection, target)
            return _insert(connection, target, frame, keys, final, read_at)
    except exc.SQLAlchemyError as error:
        # Its text would quote rows, and with them numbers and texts: the kind must do.
        cause = getattr(error, "orig", None) or error
        raise ExportError(f"The table {table!r} cannot be written ({type(cause).__name__}).") from None
    finally:
        engine.dispose()


def _target(url: str | URL) -> Engine:
    import sqlalchemy as sa
    from sqlalchemy import event, exc
    from sqlalchemy.engine import make_url
    from sqlalchemy.pool import NullPool

    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):
        # Never quote it: it may hold a password.
        raise ConfigurationError("The database's URL cannot be read; write sqlite:///path or postgresql://…") from None
    if backend not in {"sqlite", "postgresql", "postgres"}:
        raise ConfigurationError(
            f"Rows are appended to SQLite or PostgreSQL, not to {backend}: for another database, write Parquet and "
            "load that."
        )
    try:
        if backend != "sqlite":
            return sa.create_engine(
                parsed.set(drivername="postgresql+psycopg"), poolclass=NullPool, hide_parameters=True
            )
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The database needs {error.name}: install prefect-mymsp[postgres] for PostgreSQL."
        ) from None
    engine = sa.create_engine(parsed, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": _PATIENCE_S})

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin below: the driver's would not hold a CREATE TABLE

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _table(frame: pd.DataFrame, name: str, schema: str | None) -> sa.Table:
    import sqlalchemy as sa

    kinds: dict[str, Any] = {"string": sa.Text(), "Int64": sa.BigInteger(), "Float64": sa.Double()}
    time = sa.DateTime(timezone=True)
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column(KEY, sa.String(32), primary_key=True),
        *(sa.Column(str(title), kinds.get(str(dtype), time)) for title, dtype in frame.dtypes.items()),
        sa.Column(FINAL, sa.Boolean, nullable=False),
        sa.Column(EXPORTED_AT, time, nullable=False),
        schema=schema,
    )


def _check(connection: Connection, target: sa.Table) -> None:
    """Make the table, or see that the one that is there can hold the rows, each once."""
    import sqlalchemy as sa

    inspector = sa.inspect(connection)
    if not inspector.has_table(target.name, schema=target.schema):
        target.create(connection)
        return
    there = {column["name"] for column in inspector.get_columns(target.name, schema=target.schema)}
    if missing := [column.name for column in target.columns if column.name not in there]:
        raise ExportError(
            f"The table {target.fullname!r} has no column {', '.join(map(repr, missing))}. Add what is missing, or let "
            "a new table be made under another name."
        )
    where: Any = {"table_name": target.name, "schema": target.schema}
    unique: list[Sequence[str | None]] = [inspector.get_pk_constraint(**where)["constrained_columns"]]
    unique += [one["column_names"] for one in inspector.get_unique_constraints(**where)]
    unique += [one["column_names"] for one in inspector.get_indexes(**where) if one["unique"]]
    if [KEY] not in unique:
        raise ExportError(f"The table {target.fullname!r} needs {KEY!r} to be unique, or rows could land twice.")


def _insert(
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
    columns = [list(keys), *(listed(frame[name]) for name in frame.columns), list(final)]
    columns.append([read_at.astimezone(UTC)] * len(frame))
    on_postgresql = connection.dialect.name == "postgresql"
    inserting: Any = postgresql.insert(target) if on_postgresql else sqlite.insert(target)
    if on_postgresql:  # an array a column: a statement a row takes ten times as long
        arrays = [
            sa.cast(sa.bindparam(f"c{at}"), postgresql.ARRAY(column.type)) for at, column in enumerate(target.columns)
        ]
        told = sa.func.unnest(*arrays).table_valued(*names, name="told").render_derived()
        inserting = inserting.from_select(names, sa.select(*told.c))
    new = inserting.excluded
    older = target.c[EXPORTED_AT] < new[EXPORTED_AT]
    differs = sa.or_(*(target.c[name].is_distinct_from(new[name]) for name in names if name not in {KEY, EXPORTED_AT}))
    statement = inserting.on_conflict_do_update(
        index_elements=[KEY],
        set_={name: new[name] for name in names if name != KEY},
        where=sa.and_(target.c[FINAL].is_(False), older, differs),
    )
    changed = 0
    for start in range(0, len(frame), _AT_ONCE):
        part = [column[start : start + _AT_ONCE] for column in columns]
        if on_postgresql:
            arrays_of = {f"c{at}": one for at, one in enumerate(part)}
            done = connection.execute(statement, arrays_of, execution_options={"preserve_rowcount": True})
            changed += done.rowcount
        else:
            before = _changes(connection)
            connection.execute(statement, [dict(zip(names, row, strict=True)) for row in zip(*part, strict=True)])
            changed += _changes(connection) - before
    return changed


def _changes(connection: Connection) -> int:
    """Rows changed so far on an SQLite connection: its executemany does not add them up reliably."""
    return int(connection.exec_driver_sql("SELECT total_changes()").scalar_one())
