"""Texts of strangers, made harmless for the place where they are shown.

Whoever sends an SMS, or names a column, writes what they like: escape sequences that repaint a terminal, characters
that turn the direction of writing, formulas that a spreadsheet would run. HTML is escaped by the template itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prefect_mymsp.phone import mask_number, mask_numbers

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
#: What is worth a look, for the expressions of Arrow: whatever :func:`escape_control_characters` or
#: :func:`escape_formula` may change.
_RISKY = f"[{_OPENING}\\p{{Cc}}\\p{{Cf}}\\x{{2028}}\\x{{2029}}\\x{{2065}}]"
#: Columns that hold somebody's number.
_NUMBERS = ("recipient", "sender", "msisdn")
#: Columns that hold what somebody wrote, or what may quote a number.
_TEXTS = ("text", "subject", "alias", "error", "reason")


def escape_control_characters(text: str) -> str:
    r"""A text whose every control character is seen and does nothing: ``\x1b[31m`` for what turns a terminal red."""
    return _UNSEEN.sub(_seen, text)


def _seen(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escape_formula(text: str) -> str:
    """A text that no spreadsheet runs: an apostrophe stands before what would begin a formula."""
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub("'", text)


def mask_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose numbers of people are masked: in columns of their own, and where texts quote them."""
    columns = dict.fromkeys(_NUMBERS, mask_number) | dict.fromkeys(_TEXTS, mask_numbers)
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
