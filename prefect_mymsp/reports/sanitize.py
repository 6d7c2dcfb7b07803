"""Texts of strangers, made harmless for the place where they are shown.

Whoever sends an SMS, or names a column, writes what they like: escape sequences that repaint a terminal, characters
that turn the direction of writing, formulas that a spreadsheet would run. HTML is escaped by the template itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

#: Controls but for tab and line feed, and what turns the direction of writing or shows nothing: Unicode's Cc and Cf
#: without what joins emoji and letters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
#: Characters that open a formula, also in the full width that some spreadsheets read alike.
_OPENING = "=+\\-@\uff1d\uff0b\uff0d\uff20"
#: Where an apostrophe has to stand: before a formula; before tab and carriage return at the start; and where another
#: cell would begin for a spreadsheet that takes semicolons or tabs for separators.
_FORMULA = re.compile(f"^(?=[\t\r\n])|^(?=[\\s\x00-\x1f]*[{_OPENING}])|(?<=[;\t\r\n])(?=[ \"']*[{_OPENING}])")
#: A number with its plus sign is not a formula, whatever it is taken for.
_NUMBER = re.compile(r"\+?[0-9][0-9 ]*|-?[0-9]+(?:\.[0-9]+)?", re.ASCII)
_DIGITS = re.compile(r"([0-9]{2})([0-9]+)([0-9]{2})", re.ASCII)
#: A number in a sentence: so many digits in a row, or as people write theirs, with a plus sign or a zero in front.
_QUOTED = re.compile(r"(?<![0-9])(?:[0-9]{8,15}|[+0](?:[ \-./()]{0,2}[0-9]){8,14})(?![0-9])", re.ASCII)
#: What is worth a look, for the expressions of Arrow: whatever :func:`escape_control_characters` or
#: :func:`escape_formula` may change.
_RISKY = f"[{_OPENING}\\p{{Cc}}\\p{{Cf}}\\x{{2028}}\\x{{2029}}\\x{{2065}}]"
#: Columns that hold somebody's number.
_NUMBERS = ("recipient", "sender", "msisdn")
#: Columns that hold what somebody wrote.
_TEXTS = ("text", "subject", "alias")


def escape_control_characters(text: str) -> str:
    r"""A text whose every control character is seen and does nothing: ``\x1b[31m`` for what turns a terminal red."""
    return _UNSEEN.sub(_seen, text)


def _seen(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escape_formula(text: str) -> str:
    """A text that no spreadsheet runs: an apostrophe stands before what would begin a formula."""
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub("'", text)


def masked(text: str) -> str:
    """A number as it may be shown: its first two and last two digits. What is no number stays."""
    return _DIGITS.sub(lambda found: f"{found[1]}{'•' * len(found[2])}{found[3]}", text)


def masked_text(text: str) -> str:
    """A text in which no number of a person can be read, as far as it can be told for one."""
    return _QUOTED.sub(_hidden, text)


def _hidden(found: re.Match[str]) -> str:
    inner = [at for at, character in enumerate(found[0]) if character.isdigit()][2:-2]
    return "".join("•" if at in inner else character for at, character in enumerate(found[0]))


def shape(text: str) -> str:
    """What a value looks like, all but the last two of its letters and digits hidden: it may be anybody's anything."""
    places = [at for at, character in enumerate(text) if character.isalnum()]
    hidden = set(places if len(places) <= 4 else places[:-2])
    return "".join("•" if at in hidden else character for at, character in enumerate(text))


def mask_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose numbers of people are masked: in columns of their own, and where texts quote them."""
    columns = dict.fromkeys(_NUMBERS, masked) | dict.fromkeys(_TEXTS, masked_text)
    return frame.assign(
        **{
            name: frame[name].map(hide, na_action="ignore").astype("string")
            for name, hide in columns.items()
            if name in frame.columns
        }
    )


def escape_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose texts do nothing in a spreadsheet, and show all that is there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    safe = frame.copy()
    for name in safe.columns[safe.dtypes == "string"]:
        risky = pc.match_substring_regex(pa.Array.from_pandas(safe[name]), _RISKY).fill_null(False).to_numpy(False)
        if risky.any():
            safe.loc[risky, name] = safe.loc[risky, name].map(
                lambda text: escape_formula(escape_control_characters(text))
            )
    return safe
