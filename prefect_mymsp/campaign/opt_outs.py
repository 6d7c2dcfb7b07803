"""Who writes that they want no more SMS."""

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
    """Tells whether a message asks for no more SMS: its first word, after the account's prefix, is an opt-out word.

    Case, punctuation, quotation marks, invisible characters and full-width letters make no difference: ``Stop.`` and
    ``"STOPP"`` ask for it. ``Stopped by your shop`` does not.
    """

    def __init__(self, words: Iterable[str] = OPT_OUT_WORDS) -> None:
        """Choose the words.

        Raises:
            InputError: One of them is not one word.
        """
        self._words = frozenset(map(_folded, words))
        for word in self._words:
            if not _WORD.fullmatch(word):
                raise InputError(f"{word!r} is not an opt-out word: give single words, for instance STOP.")

    def __call__(self, message: ReceivedMessage) -> bool:
        """Whether a message asks for no more SMS."""
        if message.kind == "DPN":  # a device's notification; nobody wrote it
            return False
        prefix = _folded(message.prefix or "")
        # The gateway's cleaning leaves the two characters \\n for a line break.
        text = _folded(message.text.replace("\\n", " "))
        if prefix:
            # It stands in a field of its own; whether the text still begins with it is not documented.
            text = re.sub(rf"^[\W_]*{re.escape(prefix)}(?![^\W_])", "", text, count=1)
        found = _WORD.search(text)
        return (found is not None and found[0] in self._words) or prefix in self._words


def _folded(text: str) -> str:
    """A text as it is compared: without case, invisible characters and variants of letters."""
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold()).strip()


def sender_msisdn(sender: str) -> str | None:
    """The MSISDN of an sender as campaigns have it; None for what is no phone number, such as a name."""
    written = parse_msisdn(sender.strip())
    try:
        return normalize_number(sender if written is None else f"+{written}")
    except SourceError:
        return written  # no mobile number we know of; to suppress it does no harm
