# ruff: noqa: RUF001  typographic look-alikes are what is tested here
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_mymsp import recipients, templates
from prefect_mymsp.errors import TemplateError
from prefect_mymsp.templates import (
    MAX_CHARACTERS,
    RENDERED_SCHEMA,
    Template,
    count_segments,
    segments_by_column,
    split_segments,
    transliterate,
    transliterate_column,
    truncate,
)

A = "46701740605"
#: Long enough to reach several segments, from few characters so that the limits are hit.
TEXTS = st.one_of(
    st.text(st.sampled_from("aö€[\n"), max_size=480),
    st.text(st.sampled_from("ał😀€"), max_size=220),
    st.text(max_size=40),
    st.builds(lambda n, tail: "a" * n + tail, st.integers(140, 170), st.text(st.sampled_from("a€"), max_size=8)),
    st.builds(lambda n, tail: "ł" * n + tail, st.integers(60, 72), st.text(st.sampled_from("a😀"), max_size=8)),
    st.builds(lambda n, tail: "a" * n + tail, st.integers(300, 310), st.text(st.sampled_from("a€"), max_size=8)),
)


@dataclass
class Recipients:
    rows: Any
    columns: Any


def block(**columns: list[str]) -> Recipients:
    count = len(next(iter(columns.values())))
    return Recipients(
        rows=pa.table({"row": pa.array(range(2, 2 + count), pa.int64()), "msisdn": pa.array([A] * count, pa.string())}),
        columns=pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}),
    )


# ---- segments


def test_the_alphabet_is_that_of_23_038() -> None:
    assert len(templates._BASIC) == len(set(templates._BASIC)) == 127  # 128 positions, one of them the escape
    assert [templates._BASIC[i] for i in (0x00, 0x0A, 0x0D, 0x10, 0x1A)] == ["@", "\n", "\r", "Δ", "Ξ"]
    assert templates._BASIC[0x1B:0x1F] == "ÆæßÉ"  # one place left of the table, because of the escape at 0x1B
    assert templates._BASIC[0x20 - 1] == " "
    assert templates._BASIC[0x7F - 1] == "à"
    assert set(templates._EXTENSION) == set("€^{}[]~\\|\f")


@pytest.mark.parametrize(
    ("text", "encoding", "units", "segments"),
    [
        ("", "GSM-7", 0, 0),
        ("a", "GSM-7", 1, 1),
        ("å" * 160, "GSM-7", 160, 1),
        ("å" * 161, "GSM-7", 161, 2),
        ("a" * 306, "GSM-7", 306, 2),
        ("a" * 307, "GSM-7", 307, 3),
        ("€" * 80, "GSM-7", 160, 1),
        ("€" * 81, "GSM-7", 162, 2),
        ("€" * 152, "GSM-7", 304, 2),
        ("€" * 153, "GSM-7", 306, 3),  # 76 pairs a segment, one septet is left over each time
        ("a" * 765, "GSM-7", 765, 5),
        ("a" * 152 + "€" + "a" * 611, "GSM-7", 765, 6),
        ("€" * 765, "GSM-7", 1530, 11),
        ("ł" * 70, "UCS-2", 70, 1),
        ("ł" * 71, "UCS-2", 71, 2),
        ("ł" * 765, "UCS-2", 765, 12),
        ("😀" * 35, "UCS-2", 70, 1),
        ("😀" * 36, "UCS-2", 72, 2),
        ("😀" * 66, "UCS-2", 132, 2),
        ("😀" * 67, "UCS-2", 134, 3),
        ("\t", "UCS-2", 1, 1),
        ("ç", "UCS-2", 1, 1),  # only the capital is in the alphabet
    ],
)
def test_segments(text: str, encoding: str, units: int, segments: int) -> None:
    counted = count_segments(text)
    assert (counted.encoding, counted.units, counted.segments) == (encoding, units, segments)
    assert len(split_segments(text)) == segments


def test_what_forces_ucs2_is_named_once() -> None:
    assert count_segments("ł😀 łé€").non_gsm_characters == ("ł", "😀")
    assert count_segments("é€åäöøÇ").non_gsm_characters == ()


@settings(max_examples=500, deadline=None)
@given(TEXTS)
@example("a" * 152 + "€" * 4 + "a")
def test_a_split_text_is_the_text(text: str) -> None:
    counted, parts = count_segments(text), split_segments(text)
    assert "".join(parts) == text
    assert len(parts) == counted.segments
    gsm = counted.encoding == "GSM-7"
    for part in parts:
        alone = count_segments(part)
        units = alone.units if gsm else len(part.encode("utf-16-le")) // 2
        assert 0 < units <= ((160 if gsm else 70) if len(parts) == 1 else (153 if gsm else 67))
    assert sum(len(part.encode("utf-16-le")) for part in parts) == len(text.encode("utf-16-le"))


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=12))
def test_a_column_counts_as_its_texts_do(column: list[str]) -> None:
    segments, encoding = segments_by_column(pa.array(column, pa.string()))
    assert segments.type == pa.int16()
    assert encoding.type == pa.dictionary(pa.int8(), pa.string())
    counted = [count_segments(text) for text in column]
    assert segments.to_pylist() == [c.segments for c in counted]
    assert encoding.to_pylist() == [c.encoding for c in counted]


def test_every_character_counts_alike_in_both_ways() -> None:
    characters = [chr(i) for i in range(0x11000) if not 0xD800 <= i <= 0xDFFF]
    segments, encoding = segments_by_column(pa.array([c * 36 + "a" * 90 for c in characters]))
    counted = [count_segments(c * 36 + "a" * 90) for c in characters]
    assert segments.to_pylist() == [c.segments for c in counted]
    assert encoding.to_pylist() == [c.encoding for c in counted]


def test_half_a_surrogate_pair_cannot_be_sent() -> None:
    for action in (count_segments, split_segments, Template):
        with pytest.raises(TemplateError, match="surrogate"):
            action("a\ud83d")


# ---- transliteration


def test_typography_becomes_what_a_keyboard_gives() -> None:
    written = "“Hej” – it’s 5 000 kr…\u200b\u00ad\t«nu»\u2028\u202aJa\u202c"
    assert transliterate(written) == '"Hej" - it\'s 5 000 kr... "nu"\nJa'
    assert count_segments(transliterate(written)).encoding == "GSM-7"


def test_letters_and_emoji_are_never_changed() -> None:
    for text in ("åäöéèøæßüñÇ€", "Łukasz Żółć", "👩‍👩‍👧", "شُكْرًا", "Ђорђе"):
        assert transliterate(text) == text


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.text(st.sampled_from("".join(templates._TYPED.values()) + "aå😀") | st.characters(exclude_categories=["Cs"]))
    )
)
def test_a_column_is_transliterated_as_its_texts_are(column: list[str]) -> None:
    assert transliterate_column(pa.array(column, pa.string())).to_pylist() == [transliterate(text) for text in column]


# ---- shortening


@pytest.mark.parametrize(
    ("text", "segments", "shortened"),
    [
        ("Import failed", 1, "Import failed"),
        ("a" * 160, 1, "a" * 160),
        ("a" * 161, 1, "a" * 157 + "..."),
        ("a" * 161, 2, "a" * 161),
        ("a" * 307, 2, "a" * 303 + "..."),
        ("€" * 81, 1, "€" * 78 + "..."),
        ("a" * 800, 5, "a" * 762 + "..."),
        ("one " * 50, 1, "one " * 39 + "o..."),
        ("“Nightly” failed… 🔥 10 €", 1, '"Nightly" failed... 10 €'),
        ("Zażółć gęślą jaźń", 1, "Zazolc gesla jazn"),
        ("Łódź → Ærø, Þór, œuf", 1, "Lodz -> Ærø, Thor, oeuf"),
        ("ｆｕｌｌ　ｗｉｄｔｈ １", 1, "full width 1"),
        ("about 10² kg at a price of 5 € each", 1, "about 10? kg at a price of 5 € each"),
        ("Привет, мир", 1, "Привет, мир"),
        ("Привет " * 20, 1, "Привет " * 9 + "Прив..."),
        ("Привет 🔥", 1, "Привет 🔥"),
        ("1️⃣ 👩‍🚒 on call", 1, "1 on call"),
        ("a\x00b\x1b[0m\ud800c\ue000", 1, "ab[0mc"),
        ("one\r\n\r\n  two   three\t\n", 1, "one\ntwo three"),
        (" \n\t🔥", 1, ""),
        ("", 1, ""),
        ("a" * 10**6, 1, "a" * 157 + "..."),
    ],
)
def test_shortened(text: str, segments: int, shortened: str) -> None:
    assert truncate(text, segments) == shortened


@given(TEXTS, st.integers(1, 5))
@example("a" * 159 + "🔥" * 9, 1)
@example("a" * 100 + "Привет" * 20, 1)
def test_a_shortened_text_fits_and_is_as_long_as_it_can_be(text: str, segments: int) -> None:
    shortened = truncate(text, segments)
    assert len(shortened) <= MAX_CHARACTERS
    assert count_segments(shortened).segments <= segments
    assert truncate(shortened, segments) == shortened
    whole = truncate(text[: 2 * MAX_CHARACTERS], 10)
    if count_segments(whole).segments > segments:
        kept = len(shortened.removesuffix("..."))
        longer = whole[: kept + 1 + len(whole[kept:]) - len(whole[kept:].lstrip())] + "..."
        assert count_segments(longer).segments > segments
    elif len(whole) < MAX_CHARACTERS:
        assert shortened == whole


# ---- templates


def test_placeholders_and_braces() -> None:
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
def test_messages_that_cannot_be_used(message: str, fault: str) -> None:
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


def test_an_exact_match_wins_and_a_doubtful_one_is_refused() -> None:
    assert Template("{namn}").render({"Namn": "1", "namn": "2"}) == "2"
    with pytest.raises(TemplateError, match="may be 'Namn', 'namn'"):
        Template("{NAMN}").check_columns(["Namn", "namn"], source_label="a.csv")


def test_attributes_and_indexes_are_names_like_others() -> None:
    for name in ("phone.__class__", "phone[0]", "phone!r", "phone:>10"):
        with pytest.raises(TemplateError, match="is no column"):
            Template(f"{{{name}}}").render({"phone": "x"})


def test_a_block() -> None:
    rendered = Template("Hej {namn}, {ort}!").render_chunk(
        block(namn=["Åsa ", "\u00a0", "x" * 760, "Łu"], Ort=["Lund", "", "Ystad", "\tÅmål"])
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
    rendered = Template("Hej 😀 {{}}").render_chunk(block(namn=["a", ""]))
    assert rendered.shared_text == "Hej 😀 {}"
    assert rendered.rows.column("text").type == pa.dictionary(pa.int32(), pa.string())
    assert rendered.rows.column("text").to_pylist() == ["Hej 😀 {}"] * 2
    assert rendered.rows.column("segments").to_pylist() == [1, 1]
    assert rendered.rows.column("encoding").to_pylist() == ["UCS-2"] * 2
    assert rendered.rejected_rows.num_rows == 0


@pytest.mark.parametrize("message", ["Hej", "Hej {namn}"])
def test_a_block_without_rows(message: str) -> None:
    assert Template(message).render_chunk(block(namn=[])).rows.num_rows == 0


def test_transliteration_goes_over_message_and_values() -> None:
    template = Template("”{namn}”…", transliterate=True)
    rendered = template.render_chunk(block(namn=["O’Hara", "\u202a"]))
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
def test_a_block_renders_as_its_rows_do(rows: list[tuple[str, str]], message: str, wide: bool) -> None:
    template = Template(message, transliterate=wide)
    given_block = block(a=[a for a, _ in rows], b=[b for _, b in rows])
    rendered = template.render_chunk(given_block)
    expected = {}
    for number, (a, b) in enumerate(rows, 2):
        try:
            expected[number] = template.render({"a": a, "b": b})
        except TemplateError:
            expected[number] = ""
    texts_found = dict(zip(*(rendered.rows.column(c).to_pylist() for c in ("row", "text")), strict=True))
    assert texts_found == {number: text for number, text in expected.items() if text}
    assert rendered.rejected_rows.column("row").to_pylist() == [number for number, text in expected.items() if not text]
    for text, segments in zip(*(rendered.rows.column(c).to_pylist() for c in ("text", "segments")), strict=True):
        assert len(text) <= MAX_CHARACTERS
        assert segments == count_segments(text).segments >= math.ceil(len(text) / 160)


def test_a_block_of_the_sibling_module_is_taken() -> None:
    import pandas as pd

    source = recipients.open_source(
        pd.DataFrame({"phone": ["0701740605", "x"], "row": ["1", "2"], "msisdn": ["m", "n"]}), phone_column="phone"
    )
    template = Template("{row} {msisdn}")
    template.check_columns(source.columns, source_label=source.label)
    (checked,) = source.chunks()
    assert template.render_chunk(checked).rows.column("text").to_pylist() == ["1 m"]
