"""Suppressed numbers: lists, their union, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_mymsp.campaign import SuppressedNumbers
from prefect_mymsp.campaign.suppression import number_array, read_suppression_file
from prefect_mymsp.errors import SourceError


@given(
    st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(10**7, 10**7 + 30)), max_size=3),
    st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(10**7, 10**7 + 30)), max_size=3),
    st.lists(st.integers(10**7, 10**7 + 30)),
)
def test_two_lists_suppress_the_numbers_of_either(
    first: dict[str, set[int]], second: dict[str, set[int]], numbers: list[int]
) -> None:
    both = SuppressedNumbers({key: number_array(map(str, value)) for key, value in first.items()}) | SuppressedNumbers(
        {key: number_array(map(str, value)) for key, value in second.items()}
    )
    names = list(both.lists)
    for number, position in zip(numbers, both.reasons(np.array(numbers, np.int64)).tolist(), strict=True):
        reasons = [name for name in names if number in first.get(name, set()) | second.get(name, set())]
        assert (names[position] if position >= 0 else None) == (reasons[0] if reasons else None)


def test_a_suppression_file_is_read_in_many_forms(tmp_path: Path) -> None:
    path = tmp_path / "opted out.csv"
    path.write_text(
        "Namn;Mobilnummer\nÅsa;070-174 06 05\nBo;+46 70 174 06 06\nKontor;08-465 004 00\nÅsa;0046701740605\n"
    )
    suppressed = read_suppression_file(str(path))
    assert suppressed.numbers.tolist() == [46701740605, 46701740606]
    assert (suppressed.unreadable, suppressed.first_unreadable) == (1, (4,))
    assert "467" not in repr(suppressed)
    path.write_text("070-174 06 05\n070-174 06 06\n")  # one column of numbers needs no header
    assert read_suppression_file(str(path)).numbers.tolist() == [46701740605, 46701740606]
    path.write_text("phone\n")
    assert read_suppression_file(str(path)).numbers.tolist() == []


def test_a_suppression_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
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
