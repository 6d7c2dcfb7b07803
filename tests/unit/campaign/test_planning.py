"""What a source holds for a campaign: who is left out and why, what goes to groups, and what is too much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_mymsp.campaign import Limits, Plan, SuppressedNumbers, check_limits, plan_campaign
from prefect_mymsp.campaign.suppression import number_array, read_suppression_file
from prefect_mymsp.errors import InputError, LimitError, SourceError, TemplateError
from prefect_mymsp.recipients import open_source
from prefect_mymsp.templates import Template


def number(index: int) -> str:
    return f"0701740{605 + index}"


def msisdn(index: int) -> str:
    return f"46701740{605 + index}"


def planned(rows: list[tuple[str, str]], message: str = "Hej {name}", **how: Any) -> Plan:
    frame = pd.DataFrame(rows, columns=["mobil", "name"], dtype="string")
    return plan_campaign(open_source(frame, chunk_rows=2), Template(message), **how)


def suppressed(*indexes: int, reason: str = "opt-out") -> SuppressedNumbers:
    return SuppressedNumbers({reason: number_array(map(msisdn, indexes))})


# -- suppression -------------------------------------------------------------------------------------------------------


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


def test_the_digest_tells_sources_apart_whoever_is_suppressed() -> None:
    rows = [(number(0), "A"), (number(1), "B"), (number(2), "C")]
    digest = planned(rows).digest
    assert planned(rows, suppressed=suppressed(0, 1, 2)).digest == digest
    assert planned([*rows, ("08-465 004 00", "C")]).digest == digest  # cannot be sent anyway
    others = [rows[:2], [*rows, rows[0]], [rows[0], rows[1], (number(2), "D")], [rows[0], rows[1], (number(3), "C")]]
    digests = {planned(other).digest for other in others} | {planned(rows, "Hello {name}").digest}
    digests |= {planned(rows, "Hej", groups=names).digest for names in (["a"], ["a", "b"], ["ab"])}
    assert len(digests | {digest}) == 9


@given(
    st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(10**7, 10**7 + 30)), max_size=3),
    st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(10**7, 10**7 + 30)), max_size=3),
    st.lists(st.integers(10**7, 10**7 + 30)),
)
def test_two_lists_together_suppress_whom_either_does(
    first: dict[str, set[int]], second: dict[str, set[int]], asked: list[int]
) -> None:
    both = SuppressedNumbers({key: number_array(map(str, value)) for key, value in first.items()}) | SuppressedNumbers(
        {key: number_array(map(str, value)) for key, value in second.items()}
    )
    names = list(both.lists)
    for one, position in zip(asked, both.reasons(np.array(asked, np.int64)).tolist(), strict=True):
        why = [name for name in names if one in first.get(name, set()) | second.get(name, set())]
        assert (names[position] if position >= 0 else None) == (why[0] if why else None)


def test_a_suppression_file_is_read_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "opted out.csv"
    path.write_text(
        "Namn;Mobilnummer\nÅsa;070-174 06 05\nBo;+46 70 174 06 06\nKontor;08-465 004 00\nÅsa;0046701740605\n"
    )
    found = read_suppression_file(str(path))
    assert found.numbers.tolist() == [46701740605, 46701740606]
    assert (found.unreadable, found.first_unreadable) == (1, (4,))
    assert "467" not in repr(found)
    path.write_text("070-174 06 05\n070-174 06 06\n")  # one column of numbers needs no header
    assert read_suppression_file(str(path)).numbers.tolist() == [46701740605, 46701740606]
    path.write_text("phone\n")
    assert read_suppression_file(str(path)).numbers.tolist() == []


def test_a_suppression_file_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.csv"):
        read_suppression_file(str(tmp_path / "gone.csv"))
    path = tmp_path / "list.csv"
    path.write_text("")
    with pytest.raises(SourceError, match="empty"):
        read_suppression_file(str(path))
    path.write_text("who;when\nÅsa;Monday\n")
    with pytest.raises(SourceError, match="Set the column of the suppression list"):
        read_suppression_file(str(path))
    with pytest.raises(SourceError, match="no column 'nummer'"):
        read_suppression_file(str(path), column="nummer")


# -- groups ------------------------------------------------------------------------------------------------------------


def test_a_group_is_one_message() -> None:
    plan = planned([(number(0), "A")], "Hej då Ł", groups=["staff", "board"])
    assert (plan.rows, plan.messages, plan.groups, plan.recipients, plan.segments, plan.ucs2) == (1, 3, 2, 1, 3, 3)
    alone = plan_campaign(None, Template("x" * 161), groups=["staff"])
    assert (alone.rows, alone.messages, alone.segments, alone.longest) == (0, 1, 2, 2)
    assert alone.source == "groups 'staff'"
    assert alone.samples == ()


def test_a_group_gets_no_placeholders() -> None:
    with pytest.raises(TemplateError, match=r"\{name\}.*without placeholders"):
        planned([(number(0), "A")], groups=["staff"])


# -- limits ------------------------------------------------------------------------------------------------------------

BAD = [(number(0), "A"), ("12", "B"), (number(1), ""), (number(2), "C")]


@pytest.mark.parametrize(("share", "refused"), [(None, False), (1.0, False), (0.5, False), (0.49, True), (0.0, True)])
def test_rows_that_cannot_be_sent(share: float | None, refused: bool) -> None:
    limits, plan = Limits(max_rejected=share), planned(BAD)
    if not refused:
        check_limits(limits, plan)
        return
    with pytest.raises(LimitError, match=r"2 of 4 rows of DataFrame.*row 2 \(mobil\), row 3 \(name\)") as caught:
        check_limits(limits, plan)
    assert "on_rejects" in str(caught.value)


def test_a_share_is_held_to_the_row() -> None:
    rows = [(number(index), "A") for index in range(71)] + [("12", "B")] * 29
    check_limits(Limits(max_rejected=0.29), planned(rows))  # 0.29 * 100 is less than 29 to a computer
    with pytest.raises(LimitError):
        check_limits(Limits(max_rejected=0.289), planned(rows))


def test_too_many_people() -> None:
    rows = [(number(0), "A"), (number(0), "B"), (number(1), "C"), (number(2), "D")]
    check_limits(Limits(max_recipients=3), planned(rows))  # two messages to one person are one person
    check_limits(Limits(max_recipients=2), planned(rows, suppressed=suppressed(1)))
    with pytest.raises(LimitError, match=r"3 recipients would get messages.*allows 2"):
        check_limits(Limits(max_recipients=2), planned(rows))


def test_too_long_messages_are_told_by_row() -> None:
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
def test_limits_that_are_none(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        Limits(**{name: value})
