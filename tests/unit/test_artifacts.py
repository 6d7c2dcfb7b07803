# ruff: noqa: RUF001  characters that look alike are what is tested here
"""Neutralized markup, slugs of campaign names, and the first word of a text."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefect_mymsp.artifacts import neutralize_markup
from prefect_mymsp.events import campaign_slug, first_word
from prefect_mymsp.phone import mask_value

ACCOUNT = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("reminders week 49", "reminders week 49"),
        ("Påminnelse (v. 49), 100 % – åäö", "Påminnelse (v. 49), 100 % – åäö"),
        ("phone_number", "phone_number"),
        ("2031-05-01 09:00", "2031-05-01 09:00"),
        ("/srv/drop/people.csv", "/srv/drop/people.csv"),
        ("C:\\reports\\people.csv", "C:\\reports\\people.csv"),
        ("AT&T #4 {x} 3~", "AT&T #4 {x} 3∼"),
        ("a|b", "a¦b"),
        ("<script>alert(1)</script>", "‹script›alert(1)‹/script›"),
        ("&lt;b&gt; &#60;", "＆lt;b＆gt; ＆#60;"),
        ("[here](http://evil.example)", "［here］(http：//evil.example)"),
        ("![x](//evil.example)", "!［x］(//evil.example)"),
        ("WWW.evil.example", "WWW．evil.example"),
        ("x@evil.example", "x＠evil.example"),
        ("`code` **bold** _it_ __b__ ~~x~~", "‘code‘ ∗∗bold∗∗ ＿it＿ ＿＿b＿＿ ∼∼x∼∼"),
        ("# head", "＃ head"),
        ("- item", "– item"),
        ("--- | ---", "–-- ¦ ---"),
        ("a\\|b \\*c\\", "a∖¦b ∖∗c∖"),
        ("one\r\ntwo\n\n\tthree\u2028four", "one two three four"),
        ("\u202egnp.exe\u200b\x00\x1b[31m\ud800", "gnp.exe［31m"),
        ("", ""),
    ],
)
def test_markup_is_neutralized(written: str, shown: str) -> None:
    assert neutralize_markup(written) == shown


@given(st.text(max_size=300), st.integers(1, 250))
@example("_" * 50, 20)
@example("a __b__ _c_ d__e", 20)
@example("\\<\\|\\\\", 20)
@example("a" * 50, 20)
def test_no_markup_is_left(text: str, length: int) -> None:
    shown = neutralize_markup(text, length)
    assert len(shown) <= length
    assert not re.search(
        r"[\n\r<>`*\[\]|~]|\\[!-/:-@\[-`{-~]|\\$|&#?\w+;|://|www\.|\w@\w", shown, re.IGNORECASE | re.ASCII
    )
    assert not re.search(r"^[-+=] |^#|(?<![^\W_])_|_(?![^\W_])", shown)
    assert all(one == " " or unicodedata.category(one)[0] not in "CZ" for one in shown)
    assert neutralize_markup(shown, length) == shown


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("reminders week 49", "reminders-week-49-"),
        ("Påminnelse", "paminnelse-"),
        ("", "c-"),
        ("напоминание", "c-"),
        ("🔥", "c-"),
        ("--x--", "x-"),
        ("x" * 500, "x" * 40 + "-"),
        ("a" * 39 + " b", "a" * 39 + "-"),
    ],
)
def test_slugs(name: str, begins: str) -> None:
    slug = campaign_slug(name, ACCOUNT)
    assert slug.startswith(begins)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", slug)
    assert 10 <= len(slug) <= 50


def test_similar_names_have_different_slugs() -> None:
    names = ["week 49", "week-49", "Week 49", "week_49", "wéek 49", "x" * 41, "x" * 42, "напоминание", "🔥"]
    assert len({campaign_slug(name, account) for name in names for account in (ACCOUNT, "other")}) == 2 * len(names)
    assert campaign_slug("week 49", ACCOUNT) == campaign_slug("week 49", ACCOUNT)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("status", "STATUS"),
        ("  Stopp!\nnu", "STOPP"),
        ("«ja», tack", "JA"),
        ("avslå resten", "AVSLÅ"),
        ("Q&A", "Q&A"),
        ("sms-stop", "SMS-STOP"),
        ("4711", "4711"),
        ("12345", ""),
        ("0701740605 ring mig", ""),
        ("070-1740605", ""),
        ("<b>", "B"),
        ("x" * 21, ""),
        ("!!! hej", ""),
        ("", ""),
        ("\n\t ", ""),
    ],
)
def test_the_first_word_of_a_text(text: str, word: str) -> None:
    assert first_word(text) == word


def test_a_value_is_masked_after_it_is_cut() -> None:
    assert mask_value(neutralize_markup("0701740605" * 30, 40)) == "•" * 37 + "60…"
