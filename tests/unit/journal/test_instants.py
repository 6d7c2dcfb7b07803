"""Times in the journal, whoever made them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from prefect.types._datetime import create_datetime_instance
from sqlalchemy.dialects import sqlite

from prefect_mymsp.journal.schema import Instant

NOON = datetime(2031, 5, 1, 12, 0, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    "value", [NOON, NOON.astimezone(UTC), create_datetime_instance(NOON)], ids=lambda one: type(one).__module__
)
def test_a_time_is_the_same_in_every_zone_and_library(value: datetime) -> None:
    assert Instant().process_bind_param(value, sqlite.dialect()) == 1_935_396_000_000_000


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        Instant().process_bind_param(NOON.replace(tzinfo=None), sqlite.dialect())
