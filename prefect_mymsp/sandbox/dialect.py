"""The forms of the sandbox's responses: every form the vendor's document shows or leaves open, chosen at run time.

Written from the document alone. The client has its own reading of it, and the two meet only over HTTP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from prefect_mymsp.sandbox.json_values import JSON_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from zoneinfo import ZoneInfo

Separator = Literal["lf", "crlf", "tab", "space", "comma", "semicolon", "none"]

_SEPARATORS: Final[Mapping[str, str]] = {
    "lf": "\n",
    "crlf": "\r\n",
    "tab": "\t",
    "space": " ",
    "comma": ",",
    "semicolon": ";",
    "none": "",
}
_CODECS: Final[Mapping[str, tuple[str, str]]] = {
    "utf-8": ("utf-8", "utf-8"),
    "utf-8-bom": ("utf-8-sig", "utf-8"),
    "iso-8859-1": ("iso-8859-1", "iso-8859-1"),
}

# Section 4.4.1: CR LF, LF and CR alike become the two characters backslash and n.
_NEWLINE = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Dialect:
    """The form of a response where the document leaves it open or contradicts itself.

    Attributes:
        separator: Text between ``A`` or ``N`` and the rest; the document leaves it open.
        line_ending: Between the lines of a response.
        trailing_newline: Whether a response ends with a line ending.
        records: Whether each ``;;`` record has a line of its own or they follow each other directly.
        smpp_time: Characters in a sendlater time: 16 is SMPP's absolute time, 15 (no tenth of a second) and the
            zone-less 12 are what the document's examples and field names also allow.
        update_time: A delivery report's time in getMsgUpdates: ``smpp`` as the field list of section 4.5.2 says,
            ``minutes`` (``YYYY-MM-DD hh:mm``) as its example shows.
        charset: Encoding of the response; characters it lacks become ``?``.
        declare_charset: Whether Content-Type names the charset.
        order: Of ids in lists; the document's example is descending.
    """

    __pydantic_config__ = JSON_CONFIG

    separator: Separator = "lf"
    line_ending: Literal["lf", "crlf"] = "lf"
    trailing_newline: bool = True
    records: Literal["lines", "joined"] = "lines"
    smpp_time: Literal[16, 15, 12] = 16
    update_time: Literal["minutes", "smpp"] = "minutes"
    charset: Literal["utf-8", "utf-8-bom", "iso-8859-1"] = "utf-8"
    declare_charset: bool = True
    order: Literal["descending", "ascending"] = "descending"

    @property
    def content_type(self) -> bytes:
        """The Content-Type header's value."""
        return b"text/plain; charset=" + _CODECS[self.charset][1].encode() if self.declare_charset else b"text/plain"

    def encode(self, text: str) -> bytes:
        """The response as bytes in the dialect's charset."""
        return text.encode(_CODECS[self.charset][0], "replace")

    def accepted(self, *lines: str) -> str:
        """``A`` and what follows, one string a line."""
        end = _SEPARATORS[self.line_ending]
        if not lines:
            return "A" + end * self.trailing_newline
        return "A" + _SEPARATORS[self.separator] + end.join(lines) + end * self.trailing_newline

    def refused(self, code: int) -> str:
        """``N`` and the error code."""
        return f"N{_SEPARATORS[self.separator]}{code}" + _SEPARATORS[self.line_ending] * self.trailing_newline

    def records_response(self, records: Iterable[str]) -> str:
        """``A`` and the records, each opened by two semicolons (sections 4.4.2 and 4.5.2)."""
        opened = [f";;{record}" for record in records]
        return self.accepted("".join(opened)) if self.records == "joined" and opened else self.accepted(*opened)

    def smpp(self, timestamp: float, zone: ZoneInfo) -> str:
        """``YYMMDDhhmmsstnnp`` in local time: tenth of a second, quarter-hours from UTC, sign (SMPP 3.4, 7.1.1)."""
        return _smpp(int(timestamp), zone, self.smpp_time)


@lru_cache(maxsize=8192)
def _smpp(timestamp: int, zone: ZoneInfo, length: int) -> str:
    local = datetime.fromtimestamp(timestamp, UTC).astimezone(zone)
    offset = local.utcoffset()
    quarters = round(offset.total_seconds() / 900) if offset is not None else 0
    text = f"{local:%y%m%d%H%M%S}"
    if length == 12:
        return text
    return f"{text}{'0' if length == 16 else ''}{abs(quarters):02d}{'+' if quarters >= 0 else '-'}"


def minutes(timestamp: float | None, zone: ZoneInfo) -> str:
    """``YYYY-MM-DD hh:mm`` in local time, or ``-1`` for what has not happened (section 4.2.2)."""
    return "-1" if timestamp is None else _minutes(int(timestamp // 60), zone)


@lru_cache(maxsize=8192)
def _minutes(minute: int, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(minute * 60, UTC).astimezone(zone):%Y-%m-%d %H:%M}"


def clean_text(value: str) -> str:
    """A value as ``clean=true`` returns it: no newline and no tab left in it (section 4.4.1)."""
    return _NEWLINE.sub(r"\\n", value).replace("\t", " ")
