"""Untrusted texts, made safe for terminals and spreadsheets.

Received texts and column names may contain anything: escape sequences for a terminal, characters that change the
direction of writing, formulas that a spreadsheet would run. HTML is escaped by the templates.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prefect_mymsp.phone import mask_number, mask_numbers

if TYPE_CHECKING:
    import pandas as pd

#: Control characters except tab and line feed, and characters that turn the direction of writing or are invisible:
#: Unicode's categories Cc and Cf without the characters that join emoji and letters.
_CONTROL_CHARACTERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
#: Characters that begin a formula, also in full width, which some spreadsheets accept.
_FORMULA_STARTS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
#: Where an apostrophe is needed: before a formula; before a tab or carriage return at the start; and where a new cell
#: would begin in a spreadsheet that takes semicolons or tabs for separators.
_FORMULA = re.compile(
    f"^(?=[\t\r\n])|^(?=[\\s\x00-\x1f]*[{_FORMULA_STARTS}])|(?<=[;\t\r\n])(?=[ \"']*[{_FORMULA_STARTS}])"
)
#: A number, also with a plus sign, is not a formula.
_NUMBER = re.compile(r"\+?[0-9][0-9 ]*|-?[0-9]+(?:\.[0-9]+)?", re.ASCII)
#: For Arrow's expressions: finds every text that the functions below may change, and a few more.
_SUSPICIOUS = f"[{_FORMULA_STARTS}\\p{{Cc}}\\p{{Cf}}\\x{{2028}}\\x{{2029}}\\x{{2065}}]"
#: Columns that hold a phone number.
_NUMBER_COLUMNS = ("recipient", "sender", "msisdn")
#: Columns whose text may quote a phone number.
_TEXT_COLUMNS = ("text", "subject", "alias", "error", "reason")


def escape_control_characters(text: str) -> str:
    r"""Write out control characters: ``\x1b[31m`` as text instead of the escape sequence."""
    return _CONTROL_CHARACTERS.sub(_escape_sequence, text)


def _escape_sequence(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escape_formula(text: str) -> str:
    """Put an apostrophe before everything that a spreadsheet would run as a formula."""
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub("'", text)


def escape_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of a frame whose texts have no control characters and no formulas."""
    import pyarrow as pa
    import pyarrow.compute as pc

    safe = frame.copy()
    for name in safe.columns[safe.dtypes == "string"]:
        texts = pa.Array.from_pandas(safe[name])
        suspicious = pc.match_substring_regex(texts, _SUSPICIOUS).fill_null(False).to_numpy(False)
        if suspicious.any():
            safe.loc[suspicious, name] = safe.loc[suspicious, name].map(
                lambda text: escape_formula(escape_control_characters(text))
            )
    return safe


def mask_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of a frame with masked phone numbers, both in their own columns and where texts quote them."""
    maskers = dict.fromkeys(_NUMBER_COLUMNS, mask_number) | dict.fromkeys(_TEXT_COLUMNS, mask_numbers)
    return frame.assign(
        **{
            name: frame[name].map(mask, na_action="ignore").astype("string")
            for name, mask in maskers.items()
            if name in frame.columns
        }
    )
