"""Selections of exports: periods that make no sense are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from prefect_mymsp.errors import InputError
from prefect_mymsp.reports.selections import DeliverySelection, InboxSelection

NOON = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("kind", [DeliverySelection, InboxSelection])
def test_a_period_is_checked(kind: type[DeliverySelection] | type[InboxSelection]) -> None:
    kind(since=NOON, until=NOON + timedelta(minutes=1)).check()
    kind(new_only=True).check()
    with pytest.raises(InputError, match="since has no time zone"):
        kind(since=NOON.replace(tzinfo=None)).check()
    with pytest.raises(InputError, match="is empty"):
        kind(since=NOON, until=NOON).check()
    with pytest.raises(InputError, match="leave out since and until"):
        kind(until=NOON, new_only=True).check()


def test_a_whole_campaign_has_no_period() -> None:
    assert DeliverySelection("autumn").is_whole_campaign
    for part in (
        DeliverySelection(),
        DeliverySelection("autumn", since=NOON),
        DeliverySelection("autumn", until=NOON),
        DeliverySelection("autumn", new_only=True),
    ):
        assert not part.is_whole_campaign
