"""Placeholders, and texts for one row and for a chunk."""

# ruff: noqa: RUF001  typographic look-alikes are what is tested here
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_mymsp import recipients
from prefect_mymsp.errors import TemplateError
from prefect_mymsp.segments import (
    MAX_CHARACTERS,
    count_segments,
)
from prefect_mymsp.templates import RENDERED_SCHEMA, Template

A = "46701740605"


@dataclass
class Recipients:
    rows: Any
    columns: Any


def chunk(**columns: list[str]) -> Recipients:
    count = len(next(iter(columns.values())))
    return Recipients(
        rows=pa.table({"row": pa.array(range(2, 2 + count), pa.int64()), "msisdn": pa.array([A] * count, pa.string())}),
        columns=pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}),
    )


def test_placeholders_and_braces_are_rendered() -> None:
    template = Template("{{{Namn}}} { tid }: {Namn}")
    assert template.placeholders == ("Namn", "tid")
    assert template.render({"namn": " Åsa\u00a0", "TID ": "9"}) == "{Åsa} 9: Åsa"
    assert Template("{{}}").render({}) == "{}"


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("Hej {namn", "{ at position 5 is not closed"),
        ("Hej {na{mn}", "{ at position 5 is not closed"),
        ("Hej namn}", "} at position 9 closes nothing"),
        ("{{a}", "} at position 4 closes nothing"),
        ("Hej {}", "position 5 has no name"),
        ("Hej { }", "position 5 has no name"),
        ("", "empty"),
        (" \n\u200b", "empty"),
        ("a\0", "NUL character at position 2"),
        ("a" * 766, "766 characters without its placeholders"),
        ("a" * 765 + "{b}", "too long"),
    ],
)
def test_a_message_that_cannot_be_rendered_is_refused(message: str, fault: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(message)
    assert fault in str(caught.value)


def test_columns_are_checked_all_at_once() -> None:
    template = Template("{Nam} {ort} {x}")
    with pytest.raises(TemplateError) as caught:
        template.check_columns(["Namn", "ORT"], source_label="a.csv")
    assert str(caught.value) == (
        "{Nam} is no column; did you mean {Namn}? {x} is no column. a.csv has the columns 'Namn', 'ORT'."
    )
    Template("{ort}").check_columns(["Namn", " ORT "], source_label="a.csv")


def test_an_exact_match_wins_and_an_ambiguous_one_is_refused() -> None:
    assert Template("{namn}").render({"Namn": "1", "namn": "2"}) == "2"
    with pytest.raises(TemplateError, match="may be 'Namn', 'namn'"):
        Template("{NAMN}").check_columns(["Namn", "namn"], source_label="a.csv")


def test_attributes_and_indexes_are_no_columns() -> None:
    for name in ("phone.__class__", "phone[0]", "phone!r", "phone:>10"):
        with pytest.raises(TemplateError, match="is no column"):
            Template(f"{{{name}}}").render({"phone": "x"})


def test_a_chunk_is_rendered() -> None:
    rendered = Template("Hej {namn}, {ort}!").render_chunk(
        chunk(namn=["Åsa ", "\u00a0", "x" * 760, "Łu"], Ort=["Lund", "", "Ystad", "\tÅmål"])
    )
    assert rendered.rows.schema == RENDERED_SCHEMA
    assert rendered.rows.to_pylist() == [
        {"row": 2, "msisdn": A, "text": "Hej Åsa, Lund!", "segments": 1, "encoding": "GSM-7"},
        {"row": 5, "msisdn": A, "text": "Hej Łu, Åmål!", "segments": 1, "encoding": "UCS-2"},
    ]
    assert rendered.rejected_rows.schema == recipients.REJECTED_ROW_SCHEMA
    empty, long = rendered.rejected_rows.to_pylist()
    assert (empty["row"], empty["column"], empty["value"]) == (3, "namn", "\u00a0")
    assert "empty" in empty["reason"]
    assert (long["row"], long["column"], len(long["value"])) == (4, "", 80)
    assert "772 characters" in long["reason"]
    assert rendered.shared_text is None


def test_a_message_without_placeholders_is_rendered_once() -> None:
    rendered = Template("Hej 😀 {{}}").render_chunk(chunk(namn=["a", ""]))
    assert rendered.shared_text == "Hej 😀 {}"
    assert rendered.rows.column("text").type == pa.dictionary(pa.int32(), pa.string())
    assert rendered.rows.column("text").to_pylist() == ["Hej 😀 {}"] * 2
    assert rendered.rows.column("segments").to_pylist() == [1, 1]
    assert rendered.rows.column("encoding").to_pylist() == ["UCS-2"] * 2
    assert rendered.rejected_rows.num_rows == 0


@pytest.mark.parametrize("message", ["Hej", "Hej {namn}"])
def test_a_chunk_without_rows_is_rendered(message: str) -> None:
    assert Template(message).render_chunk(chunk(namn=[])).rows.num_rows == 0


def test_message_and_values_are_transliterated() -> None:
    template = Template("”{namn}”…", transliterate=True)
    rendered = template.render_chunk(chunk(namn=["O’Hara", "\u202a"]))
    assert rendered.rows.column("text").to_pylist() == ['"O\'Hara"...']
    assert rendered.rejected_rows.column("row").to_pylist() == [3]
    assert template.render({"namn": "O’Hara"}) == '"O\'Hara"...'


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \u00a0…’\u200b"), max_size=8),
            st.text(max_size=3).map(lambda t: t * 200),
        ),
        min_size=1,
        max_size=6,
    ),
    message=st.sampled_from(["{a}", "{{{A}: {b}}}", "{b}{a}{B}", "Hej {a}’"]),
    wide=st.booleans(),
)
def test_a_chunk_renders_as_its_rows_do(rows: list[tuple[str, str]], message: str, wide: bool) -> None:
    template = Template(message, transliterate=wide)
    recipient_chunk = chunk(a=[a for a, _ in rows], b=[b for _, b in rows])
    rendered = template.render_chunk(recipient_chunk)
    expected = {}
    for number, (a, b) in enumerate(rows, 2):
        try:
            expected[number] = template.render({"a": a, "b": b})
        except TemplateError:
            expected[number] = ""
    texts = dict(zip(*(rendered.rows.column(c).to_pylist() for c in ("row", "text")), strict=True))
    assert texts == {number: text for number, text in expected.items() if text}
    assert rendered.rejected_rows.column("row").to_pylist() == [number for number, text in expected.items() if not text]
    for text, segments in zip(*(rendered.rows.column(c).to_pylist() for c in ("text", "segments")), strict=True):
        assert len(text) <= MAX_CHARACTERS
        assert segments == count_segments(text).segments >= math.ceil(len(text) / 160)


def test_a_chunk_of_a_source_is_rendered() -> None:
    import pandas as pd

    source = recipients.open_source(
        pd.DataFrame({"phone": ["0701740605", "x"], "row": ["1", "2"], "msisdn": ["m", "n"]}), phone_column="phone"
    )
    template = Template("{row} {msisdn}")
    template.check_columns(source.columns, source_label=source.label)
    (checked,) = source.chunks()
    assert template.render_chunk(checked).rows.column("text").to_pylist() == ["1 m"]
