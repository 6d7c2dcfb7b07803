"""People who must get nothing: their numbers from a file, a table or the journal, held by column."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from prefect_mymsp.errors import ConfigurationError, SourceError
from prefect_mymsp.recipients import Source, find_phone_column, open_source

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    Numbers = np.ndarray[Any, np.dtype[np.int64]]

#: Why somebody gets nothing: they said so in answer to a message, or a list that was given names them.
OPT_OUT, LISTED = "opt-out", "on the list"

_AT_ONCE = 50_000
#: How errors about the database of suppressed numbers begin.
_TABLE = "The suppression table"


@dataclass(frozen=True)
class NumberList:
    """The numbers of a list, and what of it suppresses nobody.

    Attributes:
        numbers: Distinct MSISDNs as integers, ascending.
        unreadable: Rows that are no number which can receive SMS.
        first_unreadable: The first few of them, as their lines in a file or their positions in a table.
    """

    numbers: Numbers = field(repr=False)
    unreadable: int = 0
    first_unreadable: tuple[int, ...] = ()


@dataclass(frozen=True)
class SuppressedNumbers:
    """Numbers that must get nothing, by the reason why.

    Attributes:
        lists: Distinct MSISDNs as integers, ascending, for each reason; the first reason that fits is told.
    """

    lists: Mapping[str, Numbers] = field(repr=False)

    def __or__(self, other: SuppressedNumbers) -> SuppressedNumbers:
        """Who is suppressed by either."""
        reasons = dict.fromkeys((*self.lists, *other.lists))
        return SuppressedNumbers({reason: np.union1d(self._of(reason), other._of(reason)) for reason in reasons})

    def _of(self, reason: str) -> Numbers:
        return self.lists.get(reason, np.empty(0, np.int64))

    def reasons(self, numbers: Numbers) -> np.ndarray[Any, np.dtype[np.int8]]:
        """For each of n numbers the position of its reason in ``lists``, int8 of n; -1 for who may get messages."""
        found = np.full(len(numbers), -1, dtype=np.int8)
        for position, listed in enumerate(self.lists.values()):
            if len(listed):
                at = np.minimum(np.searchsorted(listed, numbers), len(listed) - 1)
                found[(found < 0) & (listed[at] == numbers)] = position
        return found


def number_array(msisdns: Iterable[str]) -> Numbers:
    """MSISDNs as :class:`SuppressedNumbers` holds them."""
    return np.unique(np.fromiter(map(int, msisdns), np.int64))


@contextlib.contextmanager
def _in_its_words() -> Iterator[None]:
    """Errors about columns name the parameter of a campaign's own source; here it is another one."""
    try:
        yield
    except SourceError as error:
        raise SourceError(str(error).replace("phone_column", "the column of the suppression list")) from None


def read_suppression_file(file: str, *, column: str | None = None, country: str = "SE") -> NumberList:
    """The numbers in a CSV file.

    Args:
        file: Its path or URL, as :func:`~prefect_mymsp.recipients.open_source` takes it.
        column: The column with the numbers; None to find it by its name.
        country: Country of numbers without a country code, ISO 3166-1 alpha-2.

    Raises:
        SourceError: It cannot be read to its end.
        ConfigurationError: There is no such country.
    """
    with _in_its_words():
        return _collected([open_source(file, phone_column=column, country=country)])


def read_suppression_table(database: str, table: str, *, column: str | None = None, country: str = "SE") -> NumberList:
    """The numbers in a table or view of a database.

    Args:
        database: The SQLAlchemy URL of the database. No error shows it.
        table: The table's name, if need be with its schema in front.
        column: The column with the numbers; None to find it by its name.
        country: Country of numbers without a country code, ISO 3166-1 alpha-2.

    Raises:
        ConfigurationError: The URL cannot be used, or its driver is not installed.
        SourceError: The table or the column is not there, or cannot be read to its end.
    """
    from sqlalchemy import exc

    from prefect_mymsp.database_urls import database_exists, open_engine, parse_database_url

    url = parse_database_url(database, _TABLE)
    if not database_exists(url):  # connecting would create it
        raise ConfigurationError(f"{_TABLE}: the SQLite file of the database does not exist.")
    engine = open_engine(url, _TABLE)
    try:
        with _in_its_words(), engine.connect() as connection:
            return _collected(_table_parts(connection, table, column, country))
    except exc.SQLAlchemyError as error:
        # Not chained, nor quoted: a driver puts the address, the user and the statement into its words.
        cause = getattr(error, "orig", None) or error
        raise SourceError(
            f"The suppression table {table!r} cannot be read ({type(cause).__name__}). Nothing was sent; see that the "
            "database can be reached from here and that its user may read the table."
        ) from None


def _table_parts(connection: Connection, table: str, column: str | None, country: str) -> Iterator[Source]:
    import pandas as pd
    import sqlalchemy as sa

    inspector = sa.inspect(connection)
    schema, _, name = table.strip().rpartition(".")
    if not schema or inspector.has_table(table.strip()):
        schema, name = "", table.strip()
    if not inspector.has_table(name, schema=schema or None):
        raise SourceError(f"There is no suppression table {table!r} in that database. Nothing was sent.")
    columns = [str(each["name"]) for each in inspector.get_columns(name, schema=schema or None)]
    found = find_phone_column(columns, column, f"The suppression table {table!r}")
    numbers: sa.ColumnClause[Any] = sa.column(found)
    select = sa.select(numbers).select_from(sa.table(name, numbers, schema=schema or None)).where(numbers.is_not(None))
    with connection.execution_options(yield_per=_AT_ONCE).execute(select) as result:
        for part in result.scalars().partitions():
            yield open_source(pd.DataFrame({found: list(part)}), phone_column=found, country=country)


def _collected(sources: Iterable[Source]) -> NumberList:
    parts: list[Numbers] = [np.empty(0, np.int64)]
    unreadable: list[int] = []
    before = 0
    for source in sources:
        length = 0
        for block in source.chunks():
            parts.append(block.rows.column("msisdn").cast(pa.int64()).to_numpy())
            unreadable += [before + row for row in block.rejected_rows.column("row").to_pylist()]
            length += block.rows.num_rows + block.rejected_rows.num_rows
        before += length  # of a table in parts; a file is one
    return NumberList(np.unique(np.concatenate(parts)), len(unreadable), tuple(unreadable[:5]))
