"""Detection of a file's encoding, from all of its bytes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prefect_mymsp.errors import SourceError

if TYPE_CHECKING:
    from prefect_mymsp.recipients.files import SourceFile

_SCAN_BYTES = 1 << 20

_OTHER_FORMATS = (
    (b"PK\x03\x04", "an Excel workbook (.xlsx) or a zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"{\\rtf", "a rich-text document"),
)
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Common names, where Python uses others.
_NAMES = {"cp1252": "Windows-1252", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "utf-32-le": "UTF-32"}


def encoding_name(encoding: str) -> str:
    """An encoding's name for a person."""
    return _NAMES.get(encoding, encoding.upper())


def detect_encoding(file: SourceFile) -> tuple[str, int]:
    """Return the encoding that decodes the whole file without error, and the length of its byte order mark.

    Decoding the whole file first is cheap. An encoding guessed at line 1 could fail at the first Swedish letter in line
    900,000.

    Raises:
        SourceError: The file is empty, is not text, or is in no encoding that can be detected.
    """
    start = next(file.chunks(16), b"")
    _check_is_text(file, start)
    for mark, encoding in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            if line := _first_undecodable_line(file, encoding, len(mark)):
                raise SourceError(
                    f"{file.label}: line {line} is not {encoding.upper()}, though the file begins as such. The file is "
                    "damaged or was joined from several files. Save it again as UTF-8."
                )
            return encoding, len(mark)
    if start[1::2].count(0) * 2 >= len(start[1::2]) > 1 or start[::2].count(0) * 2 >= len(start[::2]) > 1:
        raise SourceError(f"{file.label}: UTF-16 without a byte order mark, or not text. Save it as CSV (UTF-8).")
    line = _first_undecodable_line(file, "utf-8", 0)
    if not line:
        return "utf-8", 0
    if _holds_utf8(file):
        raise SourceError(
            f"{file.label}: line {line} is not UTF-8, but other lines are. The file was joined from files in several "
            "encodings. Save it again as UTF-8."
        )
    if line := _first_undecodable_line(file, "cp1252", 0):
        raise SourceError(f"{file.label}: line {line} is neither UTF-8 nor Windows-1252. Save the file as CSV (UTF-8).")
    return "cp1252", 0


def _check_is_text(file: SourceFile, start: bytes) -> None:
    if not start:
        raise SourceError(f"{file.label}: the file is empty.")
    for magic, format_name in _OTHER_FORMATS:
        if start.startswith(magic):
            raise SourceError(f"{file.label}: this is {format_name}, not CSV. Open it and save it as CSV (UTF-8).")
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html)", start, re.IGNORECASE):
        raise SourceError(f"{file.label}: this is a web page, not CSV. Perhaps the address needs a login first.")


def decode(file: SourceFile, encoding: str, skip: int, size: int, errors: str = "strict") -> Iterator[str]:
    """Decode a file in chunks of at most ``size`` bytes, leaving out its first ``skip`` bytes.

    Raises:
        UnicodeDecodeError: With ``errors="strict"``, a chunk is not in the encoding.
    """
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    for chunk in file.chunks(size):
        yield decoder.decode(chunk[skip:])
        skip = max(skip - len(chunk), 0)
    yield decoder.decode(b"", final=True)


def _first_undecodable_line(file: SourceFile, encoding: str, skip: int) -> int:
    """Return the first line that is not in the encoding, or 0."""
    try:
        for _ in decode(file, encoding, skip, _SCAN_BYTES):
            pass
    except UnicodeDecodeError:
        line = 1
        for text in decode(file, encoding, skip, _SCAN_BYTES, "replace"):
            damaged = text.find("\ufffd")
            line += text.count("\n", 0, damaged if damaged >= 0 else len(text))
            if damaged >= 0:
                break
        return line
    return 0


def _holds_utf8(file: SourceFile) -> bool:
    """Whether a file that is not UTF-8 has letters that are; in Windows-1252 text such pairs do not occur."""
    return any(
        re.search("[\x80-\U0010ffff]", re.sub("[\udc80-\udcff]", "", text))
        for text in decode(file, "utf-8", 0, _SCAN_BYTES, "surrogateescape")
    )
