"""Which messages are opt-outs, and the number of their sender."""

from __future__ import annotations

import pytest

from prefect_mymsp.campaign import OptOuts
from prefect_mymsp.campaign.opt_outs import sender_msisdn
from prefect_mymsp.errors import InputError
from prefect_mymsp.models import OPT_OUT_WORDS, ReceivedMessage


def wrote(text: str, prefix: str | None = "DEMO", kind: str | None = "SMS") -> ReceivedMessage:
    return ReceivedMessage("1", None, "jDoe", prefix, kind, "46701740605", None, None, text)


@pytest.mark.parametrize("word", OPT_OUT_WORDS)
def test_every_opt_out_word_is_recognised_in_any_case(word: str) -> None:
    for written in (word, word.lower(), word.title()):
        assert OptOuts()(wrote(written))


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "{}.",
        " {} ",
        '"{}"',
        "\u201c{}\u201d",
        "\u2018{}\u2019",
        "\u00ab{}\u00bb!",
        "{}!!! now",
        "{}, thank you",
        "{}\u2026",
        "- {}",
        "({})",
        "*{}*",
        "_{}_",
        "DEMO {}",
        "demo:{}",
        "\u200b{}\u00ad",
        "\ufeff{}",
        "\U0001f6d1{}\U0001f6d1",
        r"\n{}\nBye",
    ],
)
def test_punctuation_and_prefix_make_no_difference(form: str) -> None:
    assert OptOuts()(wrote(form.format("STOP")))
    assert OptOuts()(wrote(form.format("avanmäl")))


@pytest.mark.parametrize(
    "text",
    [
        "Stopped by your shop",
        "Please stop",
        "Do not STOP",
        "stop-motion is an art",
        "STOP2",
        "2STOP",
        "DEMOSTOP",
        "Endless",
        "",
        " ",
        "...",
        "\U0001f6d1",
        r"\n\n",
        "DEMO",
        "DEMO please stop",
        "unstoppable",
    ],
)
def test_other_messages_are_no_opt_outs(text: str) -> None:
    assert not OptOuts()(wrote(text))


@pytest.mark.parametrize("text", ["\uff33\uff34\uff2f\uff30", "avanma\u0308l", "AVANM\u00c4L", "Sto\u200bp"])
def test_letters_that_look_the_same_are_recognised(text: str) -> None:
    assert OptOuts()(wrote(text))


@pytest.mark.parametrize(
    ("prefix", "text", "asks"),
    [
        ("STOP", "", True),
        ("stop", "DEMO", True),
        (None, "STOP", True),
        (None, "DEMO STOP", False),
        ("DEMO", "demo DEMO STOP", False),
        ("A.B", "axb STOP", False),
        ("A.B", "a.b STOP", True),
        ("DEMO", "DEMOS STOP", False),
        ("End", "x", True),
    ],
)
def test_the_prefix_is_skipped_and_may_be_an_opt_out_word(prefix: str | None, text: str, asks: bool) -> None:
    assert OptOuts()(wrote(text, prefix)) is asks


@pytest.mark.parametrize(("kind", "asks"), [("SMS", True), (None, True), ("VOI", True), ("DPN", False)])
def test_a_notification_of_a_device_is_no_opt_out(kind: str | None, asks: bool) -> None:
    assert OptOuts()(wrote("STOP", kind=kind)) is asks


def test_other_words_can_be_set() -> None:
    opt_outs = OptOuts(["nej", "Slut"])
    assert opt_outs(wrote("NEJ tack"))
    assert opt_outs(wrote("slut!"))
    assert not opt_outs(wrote("STOP"))
    assert not OptOuts([])(wrote("STOP"))
    for wrong in ("", "STOP ALL", "STOP!", "   "):
        with pytest.raises(InputError, match="single words"):
            OptOuts(["STOP", wrong])


@pytest.mark.parametrize(
    ("sender", "msisdn"),
    [
        ("46701740605", "46701740605"),
        ("+46701740605", "46701740605"),
        (" 46701740605 ", "46701740605"),
        ("0701740605", "46701740605"),
        ("070-174 06 05", "46701740605"),
        ("0046701740605", "46701740605"),
        ("460701740605", "46701740605"),
        ("4790000000", "4790000000"),
        ("71120", "71120"),
        ("4681234567", "4681234567"),
        ("Anna", None),
        ("", None),
        ("Shop24", None),
        ("112", None),
    ],
)
def test_the_msisdn_that_campaigns_use_for_a_sender(sender: str, msisdn: str | None) -> None:
    assert sender_msisdn(sender) == msisdn
