"""Suppressed numbers, from a file, a table or the journal, held by column."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefect_mymsp.errors import ConfigurationError, SourceError
from prefect_mymsp.recipients import Source, find_phone_column, open_source

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    Numbers = npt.NDArray[np.int64]

#: Why a number is suppressed: its owner opted out by SMS, or it is on a suppression list.
OPT_OUT, LISTED = "opt-out", "on the list"

_TABLE = "The suppression table"
_CHUNK_ROWS = 50_000
_SHOWN_ROWS = 5


@dataclass(frozen=True)
class NumberList:
    """The numbers of a suppression list, and its rows without a usable number.

    Attributes:
        numbers: Distinct MSISDNs as integers, ascending.
        unreadable: Rows without a number that can receive SMS.
        first_unreadable: The first few of them, as lines in a file or positions in a table.
    """

    numbers: Numbers = field(repr=False)
    unreadable: int = 0
    first_unreadable: tuple[int, ...] = ()


@dataclass(frozen=True)
class SuppressedNumbers:
    """Suppressed numbers, by reason.

    Attributes:
        lists: Distinct MSISDNs as integers, ascending, for each reason; the first reason that applies is reported.
    """

    lists: Mapping[str, Numbers] = field(repr=False)

    def __or__(self, other: SuppressedNumbers) -> SuppressedNumbers:
        """Return the numbers suppressed by either."""
        reasons = dict.fromkeys((*self.lists, *other.lists))
        return SuppressedNumbers({reason: np.union1d(self._of(reason), other._of(reason)) for reason in reasons})

    def _of(self, reason: str) -> Numbers:
        return self.lists.get(reason, np.empty(0, np.int64))

    def reasons(self, numbers: Numbers) -> npt.NDArray[np.int8]:
        """For each of n numbers the position of its reason in ``lists``, int8 of n; -1 if it is not suppressed."""
        positions = np.full(len(numbers), -1, dtype=np.int8)
        for position, listed in enumerate(self.lists.values()):
            if len(listed):
                nearest = np.minimum(np.searchsorted(listed, numbers), len(listed) - 1)
                positions[(positions < 0) & (listed[nearest] == numbers)] = position
        return positions


def number_array(msisdns: Iterable[str]) -> Numbers:
    """Return MSISDNs as :class:`SuppressedNumbers` holds them."""
    return np.unique(np.fromiter(map(int, msisdns), np.int64))


@contextlib.contextmanager
def _suppression_column_errors() -> Iterator[None]:
    """Errors about columns name the option of the campaign's recipients; name the one of the suppression list."""
    try:
        yield
    except SourceError as error:
        raise SourceError(str(error).replace("phone_column", "the column of the suppression list")) from None


def read_suppression_file(file: str, *, column: str | None = None, country: str = "SE") -> NumberList:
    """Read the numbers in a CSV file.

    Args:
        file: Its path or URL, as for :func:`~prefect_mymsp.recipients.open_source`.
        column: The column with the numbers; None to find it by its name.
        country: Country of numbers without a country code, ISO 3166-1 alpha-2.

    Raises:
        SourceError: It cannot be read to its end.
        ConfigurationError: There is no such country.
    """
    with _suppression_column_errors():
        return _collect([open_source(file, phone_column=column, country=country)])


def read_suppression_table(database: str, table: str, *, column: str | None = None, country: str = "SE") -> NumberList:
    """Read the numbers in a table or view of a database.

    Args:
        database: The SQLAlchemy URL of the database. No error shows it.
        table: The table's name, with its schema in front if it needs one.
        column: The column with the numbers; None to find it by its name.
        country: Country of numbers without a country code, ISO 3166-1 alpha-2.

    Raises:
        ConfigurationError: The URL cannot be used, or its driver is not installed.
        SourceError: The table or the column does not exist, or cannot be read to its end.
    """
    from sqlalchemy import exc

    from prefect_mymsp.database_urls import database_exists, open_engine, parse_database_url

    url = parse_database_url(database, _TABLE)
    if not database_exists(url):  # SQLite would create the file
        raise ConfigurationError(f"{_TABLE}: its SQLite file does not exist. Correct the database URL.")
    try:
        engine = open_engine(url, _TABLE)
        with _suppression_column_errors(), engine.connect() as connection:
            return _collect(_table_parts(connection, table, column, country))
    except exc.SQLAlchemyError as error:
        # Neither chained nor quoted: a driver puts the address, the user and the statement into its messages.
        cause = getattr(error, "orig", None) or error
        raise SourceError(
            f"{_TABLE} {table!r} cannot be read ({type(cause).__name__}). Nothing was sent. Check that the database "
            "can be reached from here and that its user may read the table."
        ) from None


def _table_parts(connection: Connection, table: str, column: str | None, country: str) -> Iterator[Source]:
    import pandas as pd
    import sqlalchemy as sa

    inspector = sa.inspect(connection)
    schema, _, name = table.strip().rpartition(".")
    if not schema or inspector.has_table(table.strip()):
        schema, name = "", table.strip()
    if not inspector.has_table(name, schema=schema or None):
        raise SourceError(
            f"{_TABLE} {table!r} does not exist in that database. Nothing was sent. Correct its name, with its schema "
            "in front if it needs one."
        )
    columns = [str(column_info["name"]) for column_info in inspector.get_columns(name, schema=schema or None)]
    phone_column = find_phone_column(columns, column, f"{_TABLE} {table!r}")
    numbers: sa.ColumnClause[Any] = sa.column(phone_column)
    select = sa.select(numbers).select_from(sa.table(name, numbers, schema=schema or None)).where(numbers.is_not(None))
    with connection.execution_options(yield_per=_CHUNK_ROWS).execute(select) as result:
        for part in result.scalars().partitions():
            frame = pd.DataFrame({phone_column: list(part)})
            yield open_source(frame, phone_column=phone_column, country=country)


def _collect(sources: Iterable[Source]) -> NumberList:
    """Collect the numbers of a file, or of a table in parts."""
    parts: list[Numbers] = [np.empty(0, np.int64)]
    unreadable: list[int] = []
    rows_before = 0
    for source in sources:
        rows = 0
        for chunk in source.chunks():
            parts.append(chunk.rows.column("msisdn").cast(pa.int64()).to_numpy())
            unreadable += [rows_before + row for row in chunk.rejected_rows.column("row").to_pylist()]
            rows += chunk.rows.num_rows + chunk.rejected_rows.num_rows
        rows_before += rows
    return NumberList(np.unique(np.concatenate(parts)), len(unreadable), tuple(unreadable[:_SHOWN_ROWS]))
