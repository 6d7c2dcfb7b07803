"""The statements of claims are built once, for both databases, and quote no values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.dialects import postgresql, sqlite

from prefect_mymsp.journal import Outcome
from prefect_mymsp.journal.claim_queries import ClaimQueries, accepted_document

DIALECTS: dict[str, Any] = {
    "sqlite": sqlite.dialect(),
    "postgresql": postgresql.dialect(),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("query", ["check_lease", "claim", "claimed", "accept"])
def test_a_query_compiles_to_the_same_text_each_time(name: str, query: str) -> None:
    texts = {str(getattr(ClaimQueries(name), query).compile(dialect=DIALECTS[name])) for _ in range(2)}
    assert len(texts) == 1
    assert "POSTCOMPILE" not in texts.pop()  # would be rendered anew for each execution


def test_postgresql_skips_rows_that_another_run_is_claiming() -> None:
    text = str(ClaimQueries("postgresql").claim.compile(dialect=DIALECTS["postgresql"]))
    assert "FOR UPDATE SKIP LOCKED" in text


def test_accepted_outcomes_become_one_document() -> None:
    at = datetime(2031, 5, 1, 12, 0, 0, 5, tzinfo=UTC)
    document = json.loads(accepted_document([Outcome(7, "accepted", at, message_id="99")]))
    assert document == [{"accepted_id": 7, "at": int(at.timestamp()) * 1_000_000 + 5, "gateway_id": "99"}]
