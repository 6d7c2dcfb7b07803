"""The alphabet of an SMS, its segments, transliteration and truncation."""

# ruff: noqa: RUF001  the tests contain confusable characters
from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_mymsp import segments as rules
from prefect_mymsp.errors import TemplateError
from prefect_mymsp.segments import (
    MAX_CHARACTERS,
    count_segments,
    count_segments_by_column,
    split_segments,
    transliterate,
    transliterate_column,
    truncate,
)
from prefect_mymsp.templates import Template

#: Long enough to reach several segments, from few characters so that the limits are hit.
TEXTS = st.one_of(
    st.text(st.sampled_from("aö€[\n"), max_size=480),
    st.text(st.sampled_from("ał😀€"), max_size=220),
    st.text(max_size=40),
    st.builds(lambda n, tail: "a" * n + tail, st.integers(140, 170), st.text(st.sampled_from("a€"), max_size=8)),
    st.builds(lambda n, tail: "ł" * n + tail, st.integers(60, 72), st.text(st.sampled_from("a😀"), max_size=8)),
    st.builds(lambda n, tail: "a" * n + tail, st.integers(300, 310), st.text(st.sampled_from("a€"), max_size=8)),
)


def test_the_alphabet_is_that_of_23_038() -> None:
    assert len(rules._BASIC) == len(set(rules._BASIC)) == 127  # 128 positions, one of them the escape
    assert [rules._BASIC[i] for i in (0x00, 0x0A, 0x0D, 0x10, 0x1A)] == ["@", "\n", "\r", "Δ", "Ξ"]
    assert rules._BASIC[0x1B:0x1F] == "ÆæßÉ"  # shifted by one, because of the escape at 0x1B
    assert rules._BASIC[0x20 - 1] == " "
    assert rules._BASIC[0x7F - 1] == "à"
    assert set(rules._EXTENSION) == set("€^{}[]~\\|\f")


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
        ("€" * 153, "GSM-7", 306, 3),  # 76 pairs per segment leave one septet unused
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
def test_segments_are_counted(text: str, encoding: str, units: int, segments: int) -> None:
    counted = count_segments(text)
    assert (counted.encoding, counted.units, counted.segments) == (encoding, units, segments)
    assert len(split_segments(text)) == segments


def test_characters_outside_the_alphabet_are_named_once() -> None:
    assert count_segments("ł😀 łé€").non_gsm_characters == ("ł", "😀")
    assert count_segments("é€åäöøÇ").non_gsm_characters == ()


@settings(max_examples=500, deadline=None)
@given(TEXTS)
@example("a" * 152 + "€" * 4 + "a")
def test_the_parts_of_a_text_join_to_the_text(text: str) -> None:
    counted, parts = count_segments(text), split_segments(text)
    assert "".join(parts) == text
    assert len(parts) == counted.segments
    gsm = counted.encoding == "GSM-7"
    for part in parts:
        part_count = count_segments(part)
        units = part_count.units if gsm else len(part.encode("utf-16-le")) // 2
        assert 0 < units <= ((160 if gsm else 70) if len(parts) == 1 else (153 if gsm else 67))
    assert sum(len(part.encode("utf-16-le")) for part in parts) == len(text.encode("utf-16-le"))


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=12))
def test_a_column_is_counted_like_its_texts(column: list[str]) -> None:
    segments, encoding = count_segments_by_column(pa.array(column, pa.string()))
    assert segments.type == pa.int16()
    assert encoding.type == pa.dictionary(pa.int8(), pa.string())
    counted = [count_segments(text) for text in column]
    assert segments.to_pylist() == [c.segments for c in counted]
    assert encoding.to_pylist() == [c.encoding for c in counted]


def test_every_character_is_counted_alike_in_a_text_and_in_a_column() -> None:
    characters = [chr(i) for i in range(0x11000) if not 0xD800 <= i <= 0xDFFF]
    segments, encoding = count_segments_by_column(pa.array([c * 36 + "a" * 90 for c in characters]))
    counted = [count_segments(c * 36 + "a" * 90) for c in characters]
    assert segments.to_pylist() == [c.segments for c in counted]
    assert encoding.to_pylist() == [c.encoding for c in counted]


def test_a_lone_surrogate_is_refused() -> None:
    for action in (count_segments, split_segments, Template):
        with pytest.raises(TemplateError, match="surrogate"):
            action("a\ud83d")


def test_typographic_characters_are_transliterated() -> None:
    written = "“Hej” – it’s 5 000 kr…\u200b\u00ad\t«nu»\u2028\u202aJa\u202c"
    assert transliterate(written) == '"Hej" - it\'s 5 000 kr... "nu"\nJa'
    assert count_segments(transliterate(written)).encoding == "GSM-7"


def test_letters_and_emoji_are_never_changed() -> None:
    for text in ("åäöéèøæßüñÇ€", "Łukasz Żółć", "👩‍👩‍👧", "شُكْرًا", "Ђорђе"):
        assert transliterate(text) == text


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.text(st.sampled_from("".join(rules._TYPED.values()) + "aå😀") | st.characters(exclude_categories=["Cs"]))
    )
)
def test_a_column_is_transliterated_like_its_texts(column: list[str]) -> None:
    assert transliterate_column(pa.array(column, pa.string())).to_pylist() == [transliterate(text) for text in column]


@pytest.mark.parametrize(
    ("text", "segments", "truncated"),
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
def test_a_text_is_truncated(text: str, segments: int, truncated: str) -> None:
    assert truncate(text, segments) == truncated


@given(TEXTS, st.integers(1, 5))
@example("a" * 159 + "🔥" * 9, 1)
@example("a" * 100 + "Привет" * 20, 1)
def test_a_truncated_text_fits_and_is_as_long_as_possible(text: str, segments: int) -> None:
    truncated = truncate(text, segments)
    assert len(truncated) <= MAX_CHARACTERS
    assert count_segments(truncated).segments <= segments
    assert truncate(truncated, segments) == truncated
    untruncated = truncate(text[: 2 * MAX_CHARACTERS], 10)
    if count_segments(untruncated).segments > segments:
        kept = len(truncated.removesuffix("..."))
        longer = untruncated[: kept + 1 + len(untruncated[kept:]) - len(untruncated[kept:].lstrip())] + "..."
        assert count_segments(longer).segments > segments
    elif len(untruncated) < MAX_CHARACTERS:
        assert truncated == untruncated
