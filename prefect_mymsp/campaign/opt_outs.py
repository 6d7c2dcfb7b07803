"""Recognise opt-outs among received messages, and the numbers of their senders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from prefect_mymsp.errors import InputError, SourceError
from prefect_mymsp.models import OPT_OUT_WORDS, ReceivedMessage
from prefect_mymsp.phone import parse_msisdn
from prefect_mymsp.recipients import normalize_number

# Letters and digits; an apostrophe or a dash within a word is part of it.
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")  # noqa: RUF001


class OptOuts:
    """Recognises opt-outs: messages whose first word, after the account's prefix, is an opt-out word.

    Case, punctuation, quotation marks, invisible characters and full-width letters make no difference: ``Stop.`` and
    ``"STOPP"`` are opt-outs. ``Stopped by your shop`` is not.
    """

    def __init__(self, words: Iterable[str] = OPT_OUT_WORDS) -> None:
        """Set the words.

        Raises:
            InputError: One of them is not a single word.
        """
        self._words = frozenset(map(_folded, words))
        for word in self._words:
            if not _WORD.fullmatch(word):
                raise InputError(f"{word!r} is not an opt-out word. Give single words, such as STOP.")

    def __call__(self, message: ReceivedMessage) -> bool:
        """Whether a message is an opt-out."""
        if message.kind == "DPN":  # a notification of a device; no person wrote it
            return False
        prefix = _folded(message.prefix or "")
        # The gateway's cleaning leaves the two characters \\n for a line break.
        text = _folded(message.text.replace("\\n", " "))
        if prefix:
            # The prefix has a field of its own; whether the text still begins with it is not documented.
            text = re.sub(rf"^[\W_]*{re.escape(prefix)}(?![^\W_])", "", text, count=1)
        first_word = _WORD.search(text)
        return (first_word is not None and first_word[0] in self._words) or prefix in self._words


def _folded(text: str) -> str:
    """Return a text without differences of case, invisible characters and variants of letters."""
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold()).strip()


def sender_msisdn(sender: str) -> str | None:
    """Return the MSISDN that campaigns use for the sender of a message; None for a sender that is no number."""
    msisdn = parse_msisdn(sender.strip())
    try:
        return normalize_number(sender if msisdn is None else f"+{msisdn}")
    except SourceError:
        return msisdn  # no mobile number; suppressing it does no harm
