"""Rows are written to a table once, however often and however concurrently."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import sqlalchemy as sa

from prefect_mymsp.errors import ConfigurationError, ExportError
from prefect_mymsp.reports import append_rows
from prefect_mymsp.reports.frames import DELIVERY_DTYPES, empty_frame

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

NOON = datetime(2030, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)
CANARY = "canary-Pilgrimsfalk-77"


def frame(count: int, state: str = "accepted", first: int = 0) -> pd.DataFrame:
    """A frame of deliveries."""
    rows = range(first, first + count)
    some = empty_frame(DELIVERY_DTYPES).reindex(range(count))
    return some.assign(
        campaign="autumn",
        row=[number + 2 for number in rows],
        recipient=[f"4670174{number:04d}" for number in rows],
        state=state,
        accepted_at=NOON,
        latency_s=1.5,
    ).astype(DELIVERY_DTYPES)


def append(url: str, some: pd.DataFrame, *, final: bool = True, read_at: datetime = NOON, table: str = "sms") -> int:
    keys = [f"key-{row}" for row in some["row"]]
    return append_rows(some, url, table, keys=keys, final=[final] * len(some), read_at=read_at)


def in_parts(url: str, starts: Sequence[int]) -> int:
    """Append overlapping parts."""
    return sum(append(url, frame(300, first=start)) for start in starts)


def stored_rows(desk: Desk, columns: str = "row_key, state, final") -> list[Any]:
    return sorted(desk.sql(f"SELECT {columns} FROM sms"))


def test_a_row_is_written_once(desk: Desk) -> None:
    assert append(desk.url, frame(3)) == 3
    assert append(desk.url, frame(3)) == 0
    assert append(desk.url, frame(5), read_at=NOON + timedelta(hours=1)) == 2
    assert [key for (key,) in stored_rows(desk, "row_key")] == [f"key-{row}" for row in range(2, 7)]


def test_values_are_written_unchanged(desk: Desk) -> None:
    some = frame(2).assign(error=pd.array(["=1+1'; DROP TABLE sms; --", None], dtype="string"))
    append(desk.url, some)
    kinds: dict[str, Any] = {"string": sa.Text(), "Int64": sa.BigInteger(), "Float64": sa.Double()}
    time = sa.DateTime(timezone=True)
    columns: list[Any] = [sa.column(name, kinds.get(dtype, time)) for name, dtype in DELIVERY_DTYPES.items()]
    engine = sa.create_engine(
        sa.make_url(desk.url).set(drivername="sqlite" if desk.on_sqlite else "postgresql+psycopg")
    )
    with engine.connect() as connection:
        rows = connection.execute(sa.select(*columns).select_from(sa.table("sms")).order_by(sa.column("row"))).all()
    engine.dispose()
    expected = some.astype(object).where(some.notna(), None)
    for row, want in zip(rows, expected.itertuples(index=False), strict=True):
        got = [value.replace(tzinfo=UTC) if isinstance(value, datetime) else value for value in row]
        assert got == [value.to_pydatetime() if isinstance(value, pd.Timestamp) else value for value in want]


def test_a_pending_row_is_updated_and_a_final_one_never_changes(desk: Desk) -> None:
    later, latest = NOON + timedelta(hours=1), NOON + timedelta(hours=2)
    assert append(desk.url, frame(2), final=False) == 2
    assert append(desk.url, frame(2), final=False, read_at=later) == 0  # nothing new about them
    assert append(desk.url, frame(1, "in_doubt"), final=False, read_at=later) == 1
    assert append(desk.url, frame(2, "planned"), final=False, read_at=NOON - timedelta(hours=1)) == 0  # read earlier
    assert append(desk.url, frame(1, "assumed"), read_at=latest) == 1
    assert append(desk.url, frame(1, "refused"), read_at=latest + timedelta(hours=1)) == 0
    assert [(key, state, bool(final)) for key, state, final in stored_rows(desk)] == [
        ("key-2", "assumed", True),
        ("key-3", "accepted", False),
    ]


def test_two_concurrent_exports_write_each_row_once(desk: Desk) -> None:
    starts = [0, 200, 100, 400, 300, 50]
    counts = desk.in_processes(in_parts, [starts], [starts[::-1]])
    assert sum(counts) == 700
    assert len(stored_rows(desk)) == 700


def test_a_failed_append_writes_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_mymsp.reports.tables._ROWS_PER_STATEMENT", 2)
    append(desk.url, frame(1))
    spoiled = frame(5, first=1)
    keys = [*(f"key-{row}" for row in spoiled["row"][:4]), None]
    with pytest.raises(ExportError, match="Cannot write to the table 'sms'"):
        append_rows(spoiled, desk.url, "sms", keys=keys, final=[True] * 5, read_at=NOON)  # type: ignore[arg-type]
    assert len(stored_rows(desk)) == 1
    assert append(desk.url, frame(5)) == 4


def test_an_empty_append_creates_the_table(desk: Desk) -> None:
    assert append(desk.url, frame(0)) == 0
    assert stored_rows(desk) == []


def test_a_table_without_the_columns_is_refused(desk: Desk) -> None:
    desk.sql("CREATE TABLE sms (row_key TEXT, campaign TEXT)")
    with pytest.raises(ExportError, match="has no column 'row', 'recipient'"):
        append(desk.url, frame(1))
    desk.sql("DROP TABLE sms")
    append(desk.url, frame(0))
    desk.sql("CREATE TABLE other AS SELECT * FROM sms")
    with pytest.raises(ExportError, match=r"'row_key' of the table .* must be unique"):
        append(desk.url, frame(1), table="other")
    desk.sql("CREATE UNIQUE INDEX once ON other (row_key)")
    desk.sql("ALTER TABLE other ADD COLUMN theirs TEXT")
    assert append(desk.url, frame(1), table="other") == 1
    assert append(desk.url, frame(1), table="other") == 0


def test_a_table_in_a_schema(desk: Desk) -> None:
    if desk.on_sqlite:
        assert append(desk.url, frame(1), table="main.sms") == 1
        return
    name = desk.one("SELECT current_schema()")
    assert append(desk.url, frame(1), table=f"{name}.sms") == 1
    assert stored_rows(desk, "state") == [("accepted",)]


def test_a_name_that_needs_quoting(desk: Desk) -> None:
    assert append(desk.url, frame(1), table='Utskick "vecka" 49; --') == 1
    assert append(desk.url, frame(1), table='Utskick "vecka" 49; --') == 0


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://me:{CANARY}@localhost/x",
        f"nonsense {CANARY}",
        f"postgresql://me:{CANARY}@localhost:1/x?connect_timeout=1",
        f"sqlite:////nowhere/{CANARY}/x.db",
        f"postgresql://me:{CANARY}@host:port/x",
    ],
)
def test_errors_do_not_quote_the_password(url: str) -> None:
    with pytest.raises((ConfigurationError, ExportError)) as caught:
        append(url, frame(1))
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert "46701740000" not in "".join(traceback.format_exception(caught.value))
