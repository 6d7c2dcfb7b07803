"""Numbers that must get nothing, from a table in either database; what is wrong with it is said without its URL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from prefect_mymsp.campaign import suppression
from prefect_mymsp.campaign.suppression import read_suppression_table
from prefect_mymsp.errors import ConfigurationError, SourceError

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

TWO = [46701740605, 46701740606]


def filled(desk: Desk, column: str, kind: str, *values: Any, table: str = "opted_out") -> str:
    """The database's URL, with a table of one column and some beside it."""
    desk.sql(f'CREATE TABLE {table} (id integer, "{column}" {kind}, why text)')
    for value in values:
        desk.sql(f"INSERT INTO {table} VALUES (1, :value, '070-174 06 09')", value=value)
    return desk.url


@pytest.mark.parametrize(
    ("column", "kind", "values"),
    [
        ("mobile", "text", ["070-174 06 05", "+46 70 174 06 06", "0046701740605", None]),
        ("msisdn", "bigint", [46701740605, 46701740606, 46701740606, None]),
        ("Phone Number", "numeric(20)", [46701740605, 701740606]),
    ],
    ids=["text", "numbers", "decimals"],
)
def test_numbers_are_read_as_the_table_has_them(desk: Desk, column: str, kind: str, values: list[Any]) -> None:
    assert read_suppression_table(filled(desk, column, kind, *values), "opted_out").numbers.tolist() == TWO


def test_what_is_no_number_is_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "_CHUNK_ROWS", 2)
    url = filled(desk, "phone", "text", "070-174 06 05", "08-465 004 00", "0701740606", "", "nobody")
    found = read_suppression_table(url, "opted_out")
    assert found.numbers.tolist() == TWO
    assert (found.unreadable, found.first_unreadable) == (3, (2, 4, 5))


def test_the_column_may_be_told_and_the_table_be_a_view(desk: Desk) -> None:
    url = filled(desk, "contact", "text", "0701740605", "0701740606")
    desk.sql("CREATE VIEW gone AS SELECT contact AS who FROM opted_out")
    assert read_suppression_table(url, "gone", column="WHO").numbers.tolist() == TWO
    with pytest.raises(SourceError, match=r"'opted_out': no column is named like a phone number column.*'contact'"):
        read_suppression_table(url, "opted_out")
    with pytest.raises(SourceError, match=r"no column 'contract'\. Did you mean 'contact'"):
        read_suppression_table(url, "opted_out", column="contract")


def test_a_table_in_a_schema(desk: Desk) -> None:
    schema = "main" if desk.on_sqlite else desk.one("SELECT current_schema()")
    url = filled(desk, "phone", "text", "0701740605", "0701740606", table='"opted.out"')
    assert read_suppression_table(url, "opted.out").numbers.tolist() == TWO
    filled(desk, "phone", "text", "0701740605")
    assert read_suppression_table(url, f"{schema}.opted_out").numbers.tolist() == TWO[:1]
    with pytest.raises(SourceError, match=r"'nowhere\.opted_out' does not exist"):
        read_suppression_table(url, "nowhere.opted_out")


def test_what_is_wrong_is_said_without_the_url(desk: Desk, tmp_path: Path) -> None:
    url = filled(desk, "phone", "text")
    with pytest.raises(SourceError, match="'gone' does not exist"):
        read_suppression_table(url, "gone")
    with pytest.raises(SourceError, match="does not exist"):
        read_suppression_table(url, 'opted_out"; DROP TABLE opted_out; --')
    assert read_suppression_table(desk.url, "opted_out").numbers.tolist() == []
    secret = "canary-5f1e"
    missing = tmp_path / f"{secret}.db"
    wrong = [
        (f"sqlite:///{missing}", ConfigurationError, "does not exist"),
        ("not a URL " + secret, ConfigurationError, "cannot be read"),
        (f"postgresql://u:{secret}@host:port/x", ConfigurationError, "cannot be read"),
        (f"nosuchdb://u:{secret}@localhost/x", ConfigurationError, "does not support this kind of database"),
        (f"oracle+oracledb://u:{secret}@localhost/x", ConfigurationError, "needs oracledb"),
        (f"postgresql://u:{secret}@127.0.0.1:9/{secret}", SourceError, r"cannot be read \(OperationalError\)"),
    ]
    for url, kind, told in wrong:
        with pytest.raises(kind, match=told) as caught:
            read_suppression_table(url, "opted_out")
        assert secret not in repr(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert not missing.exists()
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"this is no database, whatever its name says" * 50)
    with pytest.raises(SourceError, match="cannot be read"):
        read_suppression_table(f"sqlite:///{broken}", "opted_out")


def test_thousands_are_read_in_parts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "_CHUNK_ROWS", 700)
    desk.sql("CREATE TABLE opted_out (msisdn text)")
    engine = sa.create_engine(
        sa.make_url(desk.url) if desk.on_sqlite else sa.make_url(desk.url).set(drivername="postgresql+psycopg")
    )
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO opted_out VALUES (:number)"), [{"number": desk.number(i)} for i in range(2000)]
        )
    engine.dispose()
    assert read_suppression_table(desk.url, "opted_out").numbers.tolist() == sorted(
        {int(desk.number(i)) for i in range(2000)}
    )
