"""Limits on a plan."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_mymsp.campaign import Limits, check_limits, plan_campaign
from prefect_mymsp.errors import InputError, LimitError
from prefect_mymsp.templates import Template
from tests.unit.campaign.plans import number, planned, suppressed

BAD = [(number(0), "A"), ("12", "B"), (number(1), ""), (number(2), "C")]


@pytest.mark.parametrize(("share", "refused"), [(None, False), (1.0, False), (0.5, False), (0.49, True), (0.0, True)])
def test_a_share_of_rejected_rows_is_allowed(share: float | None, refused: bool) -> None:
    limits, plan = Limits(max_rejected=share), planned(BAD)
    if not refused:
        check_limits(limits, plan)
        return
    with pytest.raises(LimitError, match=r"2 of 4 rows of DataFrame.*row 2 \(mobil\), row 3 \(name\)") as caught:
        check_limits(limits, plan)
    assert "raise max_rejected" in str(caught.value)


def test_a_share_is_exact_to_the_row() -> None:
    rows = [(number(index), "A") for index in range(71)] + [("12", "B")] * 29
    check_limits(Limits(max_rejected=0.29), planned(rows))  # 0.29 * 100 is less than 29 to a computer
    with pytest.raises(LimitError):
        check_limits(Limits(max_rejected=0.289), planned(rows))


def test_too_many_recipients_are_refused() -> None:
    rows = [(number(0), "A"), (number(0), "B"), (number(1), "C"), (number(2), "D")]
    check_limits(Limits(max_recipients=3), planned(rows))  # two messages to one person are one person
    check_limits(Limits(max_recipients=2), planned(rows, suppressed=suppressed(1)))
    with pytest.raises(LimitError, match=r"3 recipients would get messages.*allows 2"):
        check_limits(Limits(max_recipients=2), planned(rows))


def test_messages_with_too_many_segments_are_listed_by_row() -> None:
    rows = [(number(0), "A"), (number(1), "B" * 160), (number(1), "B" * 160), (number(2), "Ł" * 70), (number(3), "D")]
    limits = Limits(max_segments=1)
    with pytest.raises(LimitError, match=r"2 messages.*the longest needs 2\. Rows 2, 4\. .*one of 'Ł'") as caught:
        check_limits(limits, planned(rows, limits=limits))
    assert "BBB" not in str(caught.value)
    wider = Limits(max_segments=2)
    check_limits(wider, planned(rows, limits=wider))
    many = [(number(index), "B" * 160) for index in range(9)]
    to_groups = plan_campaign(None, Template("x" * 161), groups=["staff"], limits=limits)
    with pytest.raises(LimitError, match=r"1 messages.*the longest needs 2\. Nothing was sent"):
        check_limits(limits, to_groups)
    with pytest.raises(LimitError, match=r"9 messages.*Rows 1, 2, 3, 4, 5, …\."):
        check_limits(limits, planned(many, limits=limits))


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_segments", 0), ("max_recipients", -1), ("max_rejected", 1.01), ("max_rejected", float("nan"))],
)
def test_limits_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        Limits(**{name: value})
