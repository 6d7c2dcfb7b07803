"""What a source holds for a campaign: rows left out and why, digests, groups."""

from __future__ import annotations

import pytest

from prefect_mymsp.campaign import plan_campaign
from prefect_mymsp.errors import TemplateError
from prefect_mymsp.templates import Template
from tests.unit.campaign.plans import msisdn, number, planned, suppressed


def test_every_row_is_sent_rejected_suppressed_or_a_duplicate() -> None:
    rows = [
        (number(0), "A"),
        (number(1), "B"),
        (number(0), "A"),
        ("08-465 004 00", "C"),
        (number(1), "B"),
        (number(2), ""),
    ]
    plan = planned(rows, suppressed=suppressed(1) | suppressed(1, 5, reason="on the list"))
    assert plan.suppressed.to_pylist() == [
        {"row": 2, "msisdn": msisdn(1), "reason": "opt-out"},
        {"row": 5, "msisdn": msisdn(1), "reason": "opt-out"},
    ]
    assert plan.duplicates.column("row").to_pylist() == [3]
    assert plan.rejected_rows.column("row").to_pylist() == [4, 6]
    assert (plan.rows, plan.messages, plan.recipients, plan.segments) == (6, 1, 1, 1)
    assert [sample.row for sample in plan.samples] == [1]  # what is sent
    assert (
        plan.rows == plan.messages + plan.rejected_rows.num_rows + plan.suppressed.num_rows + plan.duplicates.num_rows
    )


def test_the_digest_depends_on_the_source_and_not_on_suppression() -> None:
    rows = [(number(0), "A"), (number(1), "B"), (number(2), "C")]
    digest = planned(rows).digest
    assert planned(rows, suppressed=suppressed(0, 1, 2)).digest == digest
    assert planned([*rows, ("08-465 004 00", "C")]).digest == digest  # cannot be sent anyway
    others = [rows[:2], [*rows, rows[0]], [rows[0], rows[1], (number(2), "D")], [rows[0], rows[1], (number(3), "C")]]
    digests = {planned(other).digest for other in others} | {planned(rows, "Hello {name}").digest}
    digests |= {planned(rows, "Hej", groups=names).digest for names in (["a"], ["a", "b"], ["ab"])}
    assert len(digests | {digest}) == 9


def test_a_group_is_one_message() -> None:
    plan = planned([(number(0), "A")], "Hej då Ł", groups=["staff", "board"])
    assert (plan.rows, plan.messages, plan.groups, plan.recipients, plan.segments, plan.ucs2) == (1, 3, 2, 1, 3, 3)
    alone = plan_campaign(None, Template("x" * 161), groups=["staff"])
    assert (alone.rows, alone.messages, alone.segments, alone.longest) == (0, 1, 2, 2)
    assert alone.source == "groups 'staff'"
    assert alone.samples == ()


@pytest.mark.parametrize("groups", [[], ["staff"], ["staff", "board"]], ids=len)
@pytest.mark.parametrize("opted_out", [(), (1,), (0, 1, 2)], ids=len)
@pytest.mark.parametrize("listed", [(), (0, 2), (9,)], ids=len)
@pytest.mark.parametrize("repeated", [0, 1, 3])
def test_groups_suppression_and_duplicates_in_every_combination(
    groups: list[str], opted_out: tuple[int, ...], listed: tuple[int, ...], repeated: int
) -> None:
    rows = [(number(0), "A"), (number(1), "B"), (number(2), "C"), ("08-465 004 00", "D")]
    numbers = suppressed(*opted_out) | suppressed(*listed, reason="on the list")
    plan = planned(rows + rows[:repeated], "Hej", groups=groups, suppressed=numbers)
    recipients = {0, 1, 2} - {*opted_out, *listed}
    assert (plan.recipients, plan.groups) == (len(recipients), len(groups))
    assert plan.messages == plan.segments == len(recipients) + len(groups)
    left_out = [index for index in (0, 1, 2, *range(repeated)) if index not in recipients]
    assert plan.suppressed.column("msisdn").to_pylist() == [msisdn(index) for index in left_out]
    reasons = ["opt-out" if index in opted_out else "on the list" for index in left_out]
    assert plan.suppressed.column("reason").to_pylist() == reasons
    assert plan.duplicates.num_rows == len(recipients & set(range(repeated)))
    assert plan.rejected_rows.column("row").to_pylist() == [4]
    assert plan.rows == 4 + repeated
    assert plan.rows + len(groups) == (
        plan.messages + plan.rejected_rows.num_rows + plan.suppressed.num_rows + plan.duplicates.num_rows
    )


def test_a_message_with_placeholders_to_a_group_is_refused() -> None:
    with pytest.raises(TemplateError, match=r"\{name\}.*without placeholders"):
        planned([(number(0), "A")], groups=["staff"])
