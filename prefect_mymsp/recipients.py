"""CSV files and DataFrames in, valid mobile numbers and reasoned rejected_rows out, a block of rows at a time.

Every row of a source ends up in exactly one of two tables of its block: :attr:`Block.rows` when its number can receive
SMS, :attr:`Block.rejected_rows` with line, column, value and reason when it cannot. Nothing is repaired by guessing: a
number
that a spreadsheet has rounded is rejected, however likely one reading of it may be.

Two roads lead through a CSV file and give the same answer. Where the quoting is regular, records are found with numpy
and parsed by pyarrow, and common Swedish mobile numbers are recognised by one regular expression over the whole column.
The rest goes to :mod:`csv` and :mod:`phonenumbers` value by value: ragged lines, loose quotation marks, foreign and
doubtful numbers.
"""

from __future__ import annotations

import codecs
import csv
import decimal
import difflib
import io
import ipaddress
import math
import os
import re
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from prefect_mymsp.errors import ConfigurationError, SourceError, first_few
from prefect_mymsp.phone import MSISDN_MAX_DIGITS, MSISDN_MIN_DIGITS, is_msisdn, plain_characters

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["REJECTED_ROW_SCHEMA", "Block", "Source", "find_phone_column", "normalize_number", "open_source"]

#: One line a row that cannot be sent: ``row`` as in :class:`Block`, the source's ``column`` (empty when the fault is
#: the line's), the raw ``value`` cut to 80 characters, and the ``reason`` as a sentence for who mends the source.
REJECTED_ROW_SCHEMA = pa.schema(
    [("row", pa.int64()), ("column", pa.string()), ("value", pa.string()), ("reason", pa.string())]
)

_ROW_SCHEMA = pa.schema([("row", pa.int64()), ("msisdn", pa.string())])
_VALUE_LENGTH = 80
_Reject = tuple[int, str, str, str]


@dataclass(frozen=True)
class Block:
    """A stretch of a source's rows, checked.

    Attributes:
        rows: Two columns, in the source's order. ``row``: int64, for a file the physical line (from 1) where the
            record starts, for a DataFrame the position (from 1). ``msisdn``: string.
        columns: The source's cells for the same rows as ``rows``: string columns named and ordered as
            :attr:`Source.columns`, raw, never null. A table of its own, so that a column called ``row`` is no clash.
        rejected_rows: The rows that cannot be sent, in :data:`REJECTED_ROW_SCHEMA`, by ``row``.
    """

    rows: pa.Table
    columns: pa.Table
    rejected_rows: pa.Table


@dataclass(frozen=True)
class _Cells:
    """Rows as read, before numbers are checked: ``rows`` int64 of n, ``table`` n string rows, faults of the lines."""

    rows: np.ndarray[Any, np.dtype[np.int64]]
    table: pa.Table
    rejected_rows: list[_Reject]


class Source:
    """A table of recipients that can be read as often as needed; made by :func:`open_source`.

    Attributes:
        columns: The names of the columns, trimmed, in order. Columns without a name are left out.
        phone_column: The one that holds the numbers, spelled as in ``columns``.
        label: A name that is safe to log: the file's name, a URL's host and path, or ``DataFrame``.
        detected_format: What was found out about it, for a person: the column of the numbers, encoding and separator.
    """

    def __init__(self, reader: _CsvText | _Frame, columns: tuple[str, ...], phone_column: str, country: str) -> None:
        self.columns = columns
        self.phone_column = phone_column
        self.label = reader.label
        self.detected_format = f"numbers in column {phone_column!r}{reader.form}"
        self._reader = reader
        self._region = country

    def __repr__(self) -> str:
        return f"Source({self.label!r}, columns={self.columns!r}, phone_column={self.phone_column!r})"

    def chunks(self) -> Iterator[Block]:
        """Read the source from its beginning, block by block.

        Yields:
            Blocks in order, each of at most ``chunk_rows`` rows and their neighbouring rejected_rows; none at all for a
            source without rows.

        Raises:
            SourceError: The file changed or vanished since it was opened, or a quotation mark is never closed.
                Nothing has been sent.
        """
        position = self.columns.index(self.phone_column)
        # MSISDN means country code first, by definition (ITU-T E.164), so foreign ones need no plus sign there.
        bare = _key(self.phone_column) == "msisdn"
        for cells in self._reader.read():
            yield _check(cells, position, self.columns, self._region, bare=bare)


def open_source(
    source: str | os.PathLike[str] | pd.DataFrame,
    *,
    phone_column: str | None = None,
    country: str = "SE",
    chunk_rows: int = 50_000,
) -> Source:
    """Open a CSV file, a URL of one, or a DataFrame, and find its columns.

    Encoding (UTF-8, UTF-16 with BOM, Windows-1252), separator (semicolon, comma, tab, bar, or Excel's ``sep=`` line)
    and the phone column are found by themselves. A file of one column of numbers needs no header. Blank lines, and
    lines with separators only, are skipped.

    Args:
        source: A path (``~`` is expanded), a ``file://`` or ``https://`` URL (``http://`` to this machine only), any
            other URL that fsspec can open, or a DataFrame, which is only read. What comes from a URL is kept in a
            nameless temporary file, readable by nobody else, and gone with the returned object.
        phone_column: Name of the column with the numbers, in any case; found by its usual English and Swedish names
            when not given.
        country: Country of the numbers written without one, ISO 3166-1 alpha-2.
        chunk_rows: At most this many rows a block.

    Raises:
        SourceError: The source cannot be read as a table of recipients; the message says what, where and what to do.
        ConfigurationError: ``country`` is not a country, or ``chunk_rows`` is not positive.
    """
    country = country.upper()
    if country not in phonenumbers.SUPPORTED_REGIONS:
        raise ConfigurationError(f"{country!r} is not a country: give two letters of ISO 3166-1, for instance 'SE'.")
    if chunk_rows < 1:
        raise ConfigurationError(f"chunk_rows must be at least 1, not {chunk_rows}.")
    if isinstance(source, str | os.PathLike):
        text = _open_csv(os.fspath(source), phone_column, chunk_rows)
        columns = tuple(name for name in text.header if name)
        return Source(text, columns, text.phone_column, country)
    frame = _Frame(source, chunk_rows)
    found = frame.phone_column = find_phone_column(frame.columns, phone_column, frame.label)
    return Source(frame, frame.columns, found, country)


# ---- numbers -------------------------------------------------------------------------------------------------------

# What people put between the digits of a number. No dot: 070174060.5 is not for the fast road to judge.
_FAST_LOOSE = "[ ()\u00a0-]+"

_SCIENTIFIC = re.compile(r"[+-]?\d+(?:[.,]\d+)?\s?[eE]\s?[+-]?\d{1,3}")
_FLOAT = re.compile(r"([+-]?\d+)[.,]0+")
_EXTENSION = re.compile(r"(?i)\d.*?(?:;\s*ext\s*=|\bext(?:ension)?\b\.?|\bankn(?:ytning)?\b\.?|\bx|#)\s*\d+$")
_TRUNK_ZERO = re.compile(r"^((?:\+|00)?)\s*([1-9]\d{0,2})[\s-]*\(0\)")
_SEVERAL = re.compile(r"\d[^/,;|&]{5,}[/,;|&]\s*[+(]?\s*\d[\d\s()-]{5,}")

_KINDS = {
    phonenumbers.PhoneNumberType.TOLL_FREE: "a toll-free number",
    phonenumbers.PhoneNumberType.PREMIUM_RATE: "a premium-rate number",
    phonenumbers.PhoneNumberType.SHARED_COST: "a shared-cost number",
    phonenumbers.PhoneNumberType.VOIP: "an Internet telephony number",
    phonenumbers.PhoneNumberType.PERSONAL_NUMBER: "a personal redirection number",
    phonenumbers.PhoneNumberType.PAGER: "a pager",
    phonenumbers.PhoneNumberType.UAN: "a company number",
    phonenumbers.PhoneNumberType.VOICEMAIL: "a voicemail box",
}
_MOBILE_KINDS = (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE)


def normalize_number(number: str, country: str = "SE") -> str:
    """One number as the gateway wants it: country code and number, digits only.

    Args:
        number: As people write it, ``070-174 06 05`` or ``+46 (0)70 174 06 05``.
        country: Country of a number written without one, ISO 3166-1 alpha-2.

    Raises:
        SourceError: It cannot receive SMS, or is no number; the message says why.
    """
    msisdn, reason = _judge(number, country.upper(), bare=False)
    if not msisdn:
        raise SourceError(f"{number[:_VALUE_LENGTH]!r} cannot be sent to: {reason}.")
    return msisdn


@lru_cache(maxsize=65_536)
def _judge(cell: str, country: str, *, bare: bool) -> tuple[str, str]:
    """The MSISDN of a cell, or the reason why there is none: one of the two is empty."""
    text = plain_characters(cell).strip()
    if text.startswith("="):  # ="0701740605", how exporters keep Excel from reading a number
        text = text[1:].strip()
    text = text.strip("'\" ")
    if text[:4].lower() == "tel:":
        text = text[4:].strip()
    if not text:
        return "", "the number is missing"
    if _SCIENTIFIC.fullmatch(text):
        return "", (
            "a spreadsheet has turned the number into a power of ten and may have lost digits: "
            "format the column as text and enter the number again"
        )
    if whole := _FLOAT.fullmatch(text):
        text = whole[1]
    fault = _unreadable(text)
    if fault:
        return "", fault
    if (trunk := _TRUNK_ZERO.match(text)) and int(trunk[2]) in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
        own = int(trunk[2]) == phonenumbers.country_code_for_region(country)
        if trunk[1] or own:  # +46 (0)70: the zero is for calls within the country
            text = ("+" if own else trunk[1]) + trunk[2] + text[trunk.end() :]
    digits = re.sub(r"\D", "", text)
    if len(digits) > 17:
        return "", f"{len(digits)} digits are too many: perhaps two numbers in one cell"
    return _judge_digits(digits, country, plus=text.lstrip("( ").startswith("+"), bare=bare)


def _unreadable(text: str) -> str:
    """What makes a text no phone number before its digits are looked at, or nothing."""
    if not any(map(str.isdigit, text)):
        return "this is not a phone number"
    if _EXTENSION.search(text):
        return "it has an extension: SMS can only be sent to a whole number"
    if _SEVERAL.search(text):
        return "there are two numbers in the cell: keep one, or give the other a row of its own"
    for character in text:
        if character.isalpha():
            return f"it contains letters ({character!r})"
        if character not in "0123456789+-()./ ":
            return f"it contains {character!r}, which is no part of a phone number"
    if "+" in text.lstrip("( +")[1:] or text.count("+") > 1:
        return "it has a plus sign in the middle: perhaps two numbers in one cell"
    return ""


def _judge_digits(digits: str, country: str, *, plus: bool, bare: bool) -> tuple[str, str]:
    national = None if plus else _parse(digits, country)
    abroad = None
    if plus:
        number = _parse(f"+{digits}", None)
    elif national is not None and phonenumbers.is_valid_number(national):
        number = national
        if _trunk_prefix(country) == "0" and digits == phonenumbers.national_significant_number(national):
            # A leading zero is missing. What is left must not be somebody else's number abroad.
            abroad = _parse(f"+{digits}", None)
            if abroad is not None and phonenumbers.is_valid_number(abroad):
                return "", f"it can be read as 0{digits} or as +{digits}: write it with its plus sign or its zero"
    elif digits.startswith("00"):
        number = _parse(f"+{digits[2:]}", None)
    else:
        number = national
        abroad = None if digits.startswith("0") else _parse(f"+{digits}", None)
        if abroad is not None and _is_mobile(abroad):
            if not bare:
                return "", f"no such number in {country}; if it is a foreign number, write it with a plus: +{digits}"
            number = abroad
    if number is None:
        return "", "no country has a code it could begin with" if plus else "this is not a phone number"
    if not _is_mobile(number):
        valid = phonenumbers.is_valid_number(number)
        return "", _wrong_kind(number) if valid else _impossible(number, digits)
    msisdn = f"{number.country_code}{phonenumbers.national_significant_number(number)}"
    if not is_msisdn(msisdn):
        return "", (
            f"{len(msisdn)} digits with the country code; an MSISDN has {MSISDN_MIN_DIGITS} to {MSISDN_MAX_DIGITS}"
        )
    return msisdn, ""


def _parse(text: str, country: str | None) -> Any:
    try:
        return phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException:
        return None


def _is_mobile(number: Any) -> bool:
    # number_type is UNKNOWN for an invalid number: this is a check of validity too.
    return phonenumbers.number_type(number) in _MOBILE_KINDS


def _trunk_prefix(country: str) -> str:
    metadata: Any = phonenumbers.PhoneMetadata.metadata_for_region(country)
    return str(metadata.national_prefix or "") if metadata else ""


def _impossible(number: Any, digits: str) -> str:
    reason = phonenumbers.is_possible_number_with_reason(number)
    if reason == phonenumbers.ValidationResult.TOO_SHORT:
        return f"{len(digits)} digits are too few for a phone number (country code +{number.country_code})"
    if reason == phonenumbers.ValidationResult.TOO_LONG:
        return f"{len(digits)} digits are too many for a phone number (country code +{number.country_code})"
    if reason == phonenumbers.ValidationResult.INVALID_COUNTRY_CODE:
        return f"there is no country code +{number.country_code}"
    country = phonenumbers.region_code_for_country_code(number.country_code)
    example: Any = phonenumbers.example_number_for_type(country, phonenumbers.PhoneNumberType.MOBILE)
    if example is None:
        return f"no such number: country code +{number.country_code} has no numbers of this form"
    form = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
    return f"no such number ({len(digits)} digits); a mobile number there is of the form {form}"


def _wrong_kind(number: Any) -> str:
    kind = phonenumbers.number_type(number)
    if kind == phonenumbers.PhoneNumberType.FIXED_LINE:
        length = phonenumbers.length_of_geographical_area_code(number)
        code = phonenumbers.national_significant_number(number)[:length]
        trunk = _trunk_prefix(phonenumbers.region_code_for_number(number) or "001") if code else ""
        return f"a landline number{f' ({trunk}{code})' if code else ''}: it cannot receive SMS"
    return f"{_KINDS.get(kind, 'not a mobile number')}: it cannot receive SMS"


@lru_cache(maxsize=1)
def _fast_pattern() -> str:
    """The expression for Swedish mobile numbers without separators, or nothing, which closes the fast road.

    The series (070, 072, 073, …) come from the installed phonenumbers, so that both roads always know the same ones.
    Its metadata must be of the simple form it has had so far: two fixed digits and seven free ones.
    """
    metadata: Any = phonenumbers.PhoneMetadata.metadata_for_region("SE")
    series = metadata.mobile.national_number_pattern
    if not re.fullmatch(r"7\[\d+\]\\d\{7\}", series):
        return ""
    return rf"^(?:(?:\+|00)460?|46|0)?{series}$"


def _fast_msisdns(cells: pa.Array) -> tuple[pa.Array, pa.Array]:
    """MSISDNs of the Swedish mobile numbers among the cells, and a mask of those it is sure of."""
    compact = pc.replace_substring_regex(cells, _FAST_LOOSE, "")
    sure = pc.match_substring_regex(compact, _fast_pattern())
    # The last nine characters are the number within the country; where that is not so, the mask says so.
    return pc.binary_join_element_wise("46", pc.utf8_slice_codeunits(compact, -9), ""), sure


def _check(cells: _Cells, position: int, names: Sequence[str], country: str, *, bare: bool) -> Block:
    numbers = cells.table.column(position).combine_chunks()
    if country == "SE" and _fast_pattern():
        msisdns, sure = _fast_msisdns(numbers)
        doubtful = np.flatnonzero(~sure.to_numpy(zero_copy_only=False))
    else:
        msisdns = pa.nulls(len(numbers), pa.string())
        doubtful = np.arange(len(numbers))
    rows, table, rejected_rows = cells.rows, cells.table, cells.rejected_rows
    if len(doubtful):
        values = numbers.take(pa.array(doubtful)).to_pylist()
        judged = [_judge(value, country, bare=bare) for value in values]
        name = names[position]
        refused = [
            (int(row), name, value, reason)
            for row, value, (msisdn, reason) in zip(rows[doubtful], values, judged, strict=True)
            if not msisdn
        ]
        slow = np.zeros(len(numbers), dtype=bool)
        slow[doubtful] = True
        msisdns = pc.replace_with_mask(msisdns, pa.array(slow), pa.array([m or None for m, _ in judged], pa.string()))
        if refused:
            keep = msisdns.is_valid()
            msisdns, table = msisdns.filter(keep), table.filter(keep)
            rows = rows[keep.to_numpy(zero_copy_only=False)]
            rejected_rows = sorted(rejected_rows + refused) if rejected_rows else refused
    return Block(
        rows=pa.table([pa.array(rows, pa.int64()), msisdns], schema=_ROW_SCHEMA),
        columns=table.combine_chunks(),
        rejected_rows=_reject_table(rejected_rows),
    )


def _reject_table(rejected_rows: Sequence[_Reject]) -> pa.Table:
    columns = list(zip(*rejected_rows, strict=True)) or [(), (), (), ()]
    columns[2] = tuple(value[:_VALUE_LENGTH] for value in columns[2])
    return pa.table(
        [pa.array(c, t) for c, t in zip(columns, REJECTED_ROW_SCHEMA.types, strict=True)], schema=REJECTED_ROW_SCHEMA
    )


# ---- columns -------------------------------------------------------------------------------------------------------

_TRIM = " \t\r\n\v\f\u00a0\u202f\u2007\u200b\u2060\ufeff"

#: Names of phone columns without case, spaces and punctuation, the surest first.
_PHONE_NAMES: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        """
        mobile mobilephone mobilephonenumber mobilephoneno mobilenumber mobileno mobilenr mobiletel mobiletelephone
        cell cellphone cellphonenumber cellnumber cellular cellularphone msisdn gsm gsmnumber gsmnummer gsmnr sms
        smsnumber smsno smsnummer smsnr mobil mobilnummer mobilnr mobiltelefon mobiltelefonnummer mobiltelefonnr
        mobiltel mobiltelnr mobiltfn mob mobnr mobtel mobtfn telefonmobil telmobil phonemobile
        """,
        """
        phone phonenumber phoneno phonenr phonenum telephone telephonenumber telephoneno tel telno telnumber telefon
        telefonnummer telefonnr telnr telnummer tfn tfnnr tele tlf tlfnr telefonno
        """,
        "number nummer",
    )
)


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def find_phone_column(columns: Sequence[str], wanted: str | None, label: str) -> str:
    """The column with the phone numbers: the one that is wanted, or the one with a usual name.

    Raises:
        SourceError: There is none, or more than one; names the columns there are and says what to do.
    """
    if wanted is not None:
        return _named_column(columns, wanted, label)
    for names in _PHONE_NAMES:
        found = [column for column in columns if _key(column) in names]
        if len(found) == 1:
            return found[0]
        if found:
            raise SourceError(
                f"{label}: {first_few(found)} may all be the column with the phone numbers; "
                "say which one with phone_column."
            )
    raise SourceError(
        f"{label}: no column looks like phone numbers. There are: {first_few(columns)}. "
        "Say which one it is with phone_column."
    )


def _named_column(columns: Sequence[str], wanted: str, label: str) -> str:
    name = wanted.strip(_TRIM)
    found = [column for column in columns if column == name] or [
        column for column in columns if column.casefold() == name.casefold()
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise SourceError(
            f"{label}: {first_few(found)} differ only in case; write phone_column exactly as one of them."
        )
    folded = {column.casefold(): column for column in columns}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
    raise SourceError(f"{label}: there is no column {wanted!r}.{hint} There are: {first_few(columns)}.")


def _refuse_duplicates(columns: Sequence[str], label: str) -> None:
    twice = [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]
    if twice:
        raise SourceError(f"{label}: more than one column is called {first_few(twice)}; give each a name of its own.")


# ---- bytes ---------------------------------------------------------------------------------------------------------

_SCAN_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 18
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+://")
_HTTP_TIMEOUT_S = 30.0

_OTHER_FORMATS = (
    (b"PK\x03\x04", "an Excel workbook (.xlsx) or a zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"{\\rtf", "a rich-text document"),
)


class _Bytes:
    """The bytes of a file, readable from the start as often as needed, by several readers at once."""

    def __init__(self, label: str, path: Path | None, spool: IO[bytes] | None) -> None:
        self.label = label
        self._path = path
        self._spool = spool
        if spool is not None:
            weakref.finalize(self, spool.close)
        self._version = None if path is None else self._stat(path)

    @staticmethod
    def _stat(path: Path) -> tuple[int, int]:
        found = path.stat()
        return found.st_size, found.st_mtime_ns

    def chunks(self, size: int) -> Iterator[bytes]:
        try:
            if self._path is None:
                yield from self._spooled(size)
                return
            with self._path.open("rb") as file:
                while True:
                    chunk = file.read(size)
                    # After each reading: what was found out about the file when it was opened must still hold.
                    if self._stat(self._path) != self._version:
                        raise SourceError(f"{self.label}: the file has changed since it was opened; start again.")
                    if not chunk:
                        return
                    yield chunk
        except OSError as error:
            raise SourceError(f"{self.label}: cannot be read ({_os_reason(error)}).") from error

    def _spooled(self, size: int) -> Iterator[bytes]:
        spool = self._spool
        position = 0
        while spool is not None:
            spool.seek(position)
            chunk = spool.read(size)
            if not chunk:
                return
            position += len(chunk)
            yield chunk


def _os_reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _open_bytes(source: str) -> _Bytes:
    if _URL.match(source):
        try:
            parts = urlsplit(source)
            host, scheme = parts.hostname or "", parts.scheme.lower()
        except ValueError:
            raise SourceError("The source is not a valid URL.") from None
        if scheme == "file":
            if host not in ("", "localhost"):
                raise SourceError(f"file://{host}/…: a file URL must name a file of this machine.")
            return _open_path(url2pathname(unquote(parts.path)))
        label = f"{host}{parts.path}"
        if scheme in ("http", "https"):
            return _Bytes(label, None, _download(source, label))
        return _Bytes(label, None, _open_remote(source, scheme, label))
    return _open_path(source)


def _open_path(name: str) -> _Bytes:
    if not name or "\0" in name:
        raise SourceError("The source's file name is empty or contains a NUL character.")
    try:
        path = Path(name).expanduser()
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise SourceError(f"{path}: this is a directory; give a CSV file in it.")
        if stat.S_ISREG(mode):
            with path.open("rb"):
                return _Bytes(path.name, path, None)
        with path.open("rb") as pipe:  # /dev/stdin, <(command): can be read only once
            return _Bytes(path.name, None, _spooled_copy(pipe))
    except FileNotFoundError as error:
        raise SourceError(f"{name}: there is no such file (looked from {Path.cwd()}).") from error
    except PermissionError as error:
        raise SourceError(f"{name}: you may not read this file; ask for permission or copy it.") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: ~user of an unknown user
        reason = _os_reason(error) if isinstance(error, OSError) else str(error)
        raise SourceError(f"{name}: cannot be read ({reason}).") from error


def _spooled_copy(file: IO[bytes]) -> IO[bytes]:
    # A TemporaryFile has no name where the system allows it: nobody else can open it and nothing stays behind.
    spool = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        shutil.copyfileobj(file, spool, _SCAN_BYTES)
    except BaseException:
        spool.close()
        raise
    return spool


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _download(url: str, label: str) -> IO[bytes]:
    import httpx

    def only_safe(request: httpx.Request) -> None:  # every hop of a redirect comes through here
        if request.url.scheme != "https" and not _is_loopback(request.url.host):
            raise SourceError(f"{label}: phone numbers must not cross a network in the clear; use https://.")

    spool = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with (
            httpx.Client(
                follow_redirects=True, timeout=_HTTP_TIMEOUT_S, event_hooks={"request": [only_safe]}
            ) as client,
            client.stream("GET", url) as response,
        ):
            _only_ok(response.status_code, label)
            for chunk in response.iter_bytes():
                spool.write(chunk)
    except BaseException as error:
        spool.close()
        if isinstance(error, httpx.HTTPError | httpx.InvalidURL | httpx.StreamError | OSError):
            # Not chained: httpx puts the whole URL, with whatever secret is in it, into its messages.
            raise SourceError(f"{label}: cannot be downloaded ({type(error).__name__}).") from None
        raise
    return spool


def _only_ok(status: int, label: str) -> None:
    if status != 200:
        raise SourceError(f"{label}: the server answered HTTP {status}; check the address and who may read it.")


def _open_remote(url: str, scheme: str, label: str) -> IO[bytes]:
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        raise SourceError(f"{label}: opening {scheme}:// needs the package fsspec; install it.") from None
    try:
        with fsspec.open(url, "rb") as file:
            return _spooled_copy(file)
    except ImportError as error:
        # fsspec's own sentence, "Install s3fs to access S3": it names a package, not the address.
        raise SourceError(f"{label}: {scheme}:// cannot be opened here. {error}") from None
    except Exception as error:  # noqa: BLE001  every storage has errors of its own, and puts the address into them
        unknown = isinstance(error, ValueError) and "protocol" in str(error).lower()
        reason = f"nothing here knows {scheme}://" if unknown else type(error).__name__
        raise SourceError(f"{label}: cannot be opened ({reason}).") from None


# ---- encoding ------------------------------------------------------------------------------------------------------


def _encoding(data: _Bytes) -> tuple[str, int]:
    """The encoding that reads the whole file without error, and the length of its byte order mark.

    Looking at all of it first is cheap, and the only way not to find the first Swedish letter at line 900,000 in an
    encoding that was guessed at line 1.
    """
    start = next(data.chunks(16), b"")
    if not start:
        raise SourceError(f"{data.label}: the file is empty.")
    for magic, what in _OTHER_FORMATS:
        if start.startswith(magic):
            raise SourceError(f"{data.label}: this is {what}, not CSV; open it and save it as CSV (UTF-8).")
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html)", start, re.IGNORECASE):
        raise SourceError(f"{data.label}: this is a web page, not CSV; perhaps the address asks you to log in first.")
    for bom, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if start.startswith(bom):
            if line := _undecodable(data, encoding, len(bom)):
                raise SourceError(
                    f"{data.label}: line {line} is not {encoding.upper()}, though the file begins as such: it is "
                    "damaged or was put together from several; save it again as UTF-8."
                )
            return encoding, len(bom)
    if start[1::2].count(0) * 2 >= len(start[1::2]) > 1 or start[::2].count(0) * 2 >= len(start[::2]) > 1:
        raise SourceError(f"{data.label}: UTF-16 without a byte order mark, or no text at all; save it as CSV (UTF-8).")
    line = _undecodable(data, "utf-8", 0)
    if not line:
        return "utf-8", 0
    if _holds_utf8(data):
        raise SourceError(
            f"{data.label}: line {line} is not UTF-8, but other lines are: the file was put together from several "
            "encodings; save it again as UTF-8."
        )
    if line := _undecodable(data, "cp1252", 0):
        raise SourceError(f"{data.label}: line {line} is neither UTF-8 nor Windows-1252; save the file as CSV (UTF-8).")
    return "cp1252", 0


def _decoded(data: _Bytes, encoding: str, skip: int, size: int, errors: str = "strict") -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    for chunk in data.chunks(size):
        yield decoder.decode(chunk[skip:])
        skip = max(skip - len(chunk), 0)
    yield decoder.decode(b"", final=True)


def _undecodable(data: _Bytes, encoding: str, skip: int) -> int:
    """The first line that is not in the encoding, or 0."""
    try:
        for _ in _decoded(data, encoding, skip, _SCAN_BYTES):
            pass
    except UnicodeDecodeError:
        line = 1
        for text in _decoded(data, encoding, skip, _SCAN_BYTES, "replace"):
            damaged = text.find("\ufffd")
            line += text.count("\n", 0, damaged if damaged >= 0 else len(text))
            if damaged >= 0:
                break
        return line
    return 0


def _holds_utf8(data: _Bytes) -> bool:
    """Whether a file that is not UTF-8 has letters that are; in Windows-1252 text such pairs do not occur."""
    return any(
        re.search("[\x80-\U0010ffff]", re.sub("[\udc80-\udcff]", "", text))
        for text in _decoded(data, "utf-8", 0, _SCAN_BYTES, "surrogateescape")
    )


# ---- CSV -----------------------------------------------------------------------------------------------------------

_SEPARATORS = (";", "\t", "|", ",")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)\1*"?', re.IGNORECASE)
_NUMBER_LIKE = re.compile(r"[\s+()./'=\":\d,;|eE-]*")
_QUOTE = 34
_NEWLINE = 10
#: Encodings by the names people know, where Python has others.
_ENCODINGS = {"cp1252": "Windows-1252", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "utf-32-le": "UTF-32"}


def _open_csv(source: str, phone_column: str | None, chunk_rows: int) -> _CsvText:
    data = _open_bytes(source)
    encoding, bom = _encoding(data)
    text = _CsvText(data, encoding, bom, chunk_rows)
    text.read_header(phone_column)
    return text


@dataclass
class _CsvText:
    """A CSV file whose header has been read.

    Attributes:
        header: All columns, also those without a name (empty).
        header_lines: Physical lines before the first record.
    """

    data: _Bytes
    encoding: str
    bom: int
    chunk_rows: int
    separator: str = ";"
    header: tuple[str, ...] = ()
    header_lines: int = 0
    phone_column: str = ""
    chunk_bytes: int = _SCAN_BYTES
    named: list[int] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.data.label

    @property
    def form(self) -> str:
        separated = f", separated by {_shown(self.separator)}" if len(self.header) > 1 else ""
        return f", {_ENCODINGS.get(self.encoding, self.encoding.upper())}{separated}"

    # -- header

    def read_header(self, phone_column: str | None) -> None:
        sample, complete = self._sample()
        if not complete and (last := sample.rfind("\n")) >= 0:
            sample = sample[: last + 1]
        lines = sample.count("\n") + 1
        self.chunk_bytes = max(256, min(self.chunk_rows * (len(sample) // lines + 1), 8 << 20))
        if not sample.strip(_TRIM + "\0;,|"):
            raise SourceError(f"{self.label}: the file is empty.")
        first, _, rest = sample.partition("\n")
        body, skipped = sample, 0
        if told := _SEPARATOR_LINE.fullmatch(first.strip(_TRIM.replace("\t", ""))):
            self.separator, body, skipped = told[1], rest, 1
            if not "\t" <= told[1] <= "~" or told[1].isalnum() or told[1] in '" \n':
                raise SourceError(f"{self.label}: the first line asks for the separator {told[1]!r}; use ';'.")
        else:
            self.separator = self._sniff(body, phone_column)
        header, self.header_lines = self._first_record(body)
        self.header_lines += skipped
        if header is None:
            raise SourceError(f"{self.label}: there is no header, only a line that names the separator.")
        self.header = tuple(name.strip(_TRIM) for name in header)
        if self._is_headerless(phone_column):
            self.header_lines = max(self.header_lines - 1, skipped)
            self.header = ((phone_column or "").strip(_TRIM) or "phone", *("" for _ in self.header[1:]))
        self.named = [i for i, name in enumerate(self.header) if name]
        _refuse_duplicates(self.header, self.label)
        columns = [self.header[i] for i in self.named]
        try:
            self.phone_column = find_phone_column(columns, phone_column, self.label)
        except SourceError:
            if any(_looks_like_number(name) for name in columns):
                raise SourceError(
                    f"{self.label}: line {self.header_lines} looks like a recipient, not like the names of the "
                    "columns; put a line such as 'phone;name' above it."
                ) from None
            raise

    def _sample(self) -> tuple[str, bool]:
        texts, length = [], 0
        for text in _decoded(self.data, self.encoding, self.bom, _SAMPLE_BYTES):
            texts.append(text)
            length += len(text)
            if length >= _SAMPLE_BYTES // 4:
                break
        sample = "".join(texts).replace("\r\n", "\n").replace("\r", "\n")
        return sample, length < _SAMPLE_BYTES // 4

    def _sniff(self, sample: str, phone_column: str | None) -> str:
        """The separator under which the header makes most sense, judged by names first, then by the lines after it."""
        best, best_score = "", (False, 0.0, 0)
        wanted = (phone_column or "").strip(_TRIM).casefold()
        for separator in _SEPARATORS:
            records = _first_records(sample, separator, 60)
            header = [name.strip(_TRIM) for name in records[0]] if records else []
            if len(header) < 2:
                continue
            width = len(header)
            known = any(n.casefold() == wanted if wanted else any(_key(n) in g for g in _PHONE_NAMES) for n in header)
            alike = sum(len(record) == width for record in records) / len(records)
            if (score := (known, alike, width)) > best_score:
                best, best_score = separator, score
        if best:
            return best
        # One column. A separator that occurs further down still parts fields, so that those lines are told apart.
        return next((s for s in _SEPARATORS if any(len(r) > 1 for r in _first_records(sample, s, 60))), ";")

    def _first_record(self, text: str) -> tuple[list[str] | None, int]:
        reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=self.separator, strict=True)
        try:
            for record in reader:
                if any(name.strip(_TRIM) for name in record):
                    return record, reader.line_num
        except csv.Error:
            raise SourceError(
                f"{self.label}: a quotation mark in the header (line {reader.line_num}) is not closed."
            ) from None
        return None, reader.line_num

    def _is_headerless(self, phone_column: str | None) -> bool:
        """Whether the file is one column whose first line is a number already."""
        first, *others = self.header
        if any(others) or not _looks_like_number(first):
            return False
        return phone_column is None or phone_column.strip(_TRIM) != first

    # -- records

    def read(self) -> Iterator[_Cells]:
        line, skip, tail = 1, self.header_lines, b""
        chunks = self._normalised()
        chunk = next(chunks, b"")
        while chunk:
            following = next(chunks, b"")
            piece = tail + chunk
            if not following and not piece.endswith(b"\n"):
                piece += b"\n"
            while skip and (at := piece.find(b"\n")) >= 0:
                piece, skip, line = piece[at + 1 :], skip - 1, line + 1
            end = 0
            if piece and not skip:
                fast = self._read_fast(piece, line)
                stuck = not following or len(piece) > 4 * max(self.chunk_bytes, _SCAN_BYTES)
                if fast is None or (fast[1] < len(piece) and stuck):
                    yield from self._read_slowly(chain((piece, following), chunks), line)
                    return
                cells, end = fast
                line += piece.count(b"\n", 0, end)
                yield from self._cut(cells)
            tail, chunk = piece[end:], following

    def _normalised(self) -> Iterator[bytes]:
        """The file in UTF-8 without byte order mark, every kind of line end a line feed, in chunks that are not empty.

        Line ends within quoted fields change too: a carriage return in an SMS is a character paid for and not seen.
        """
        held = b""
        if self.encoding == "utf-8":  # found valid when it was opened
            raw: Iterable[bytes] = self.data.chunks(self.chunk_bytes)
        else:
            texts = _decoded(self.data, self.encoding, self.bom, self.chunk_bytes)
            raw = (text.encode() for text in texts)
        skip = self.bom if self.encoding == "utf-8" else 0
        try:
            for part in raw:
                chunk = held + part[skip:]
                skip, held = max(skip - len(part), 0), b""
                if chunk.endswith(b"\r"):  # its line feed may come with the next chunk
                    chunk, held = chunk[:-1], b"\r"
                if b"\r" in chunk:
                    chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
                if chunk:
                    yield chunk
        except UnicodeError:
            raise SourceError(f"{self.label}: the file has changed since it was opened; start again.") from None
        if held:
            yield b"\n"

    def _cut(self, cells: _Cells) -> Iterator[_Cells]:
        total = len(cells.rows)
        if total <= self.chunk_rows:
            if total or cells.rejected_rows:
                yield cells
            return
        rejected_rows = cells.rejected_rows
        for start in range(0, total, self.chunk_rows):
            rows = cells.rows[start : start + self.chunk_rows]
            last = start + self.chunk_rows >= total
            mine = rejected_rows if last else [reject for reject in rejected_rows if reject[0] <= rows[-1]]
            rejected_rows = rejected_rows[len(mine) :]
            yield _Cells(rows, cells.table.slice(start, self.chunk_rows), mine)

    def _read_fast(self, piece: bytes, line: int) -> tuple[_Cells, int] | None:
        """The whole records of a piece that starts with a record, and where they end; None if quoting is irregular."""
        found = _find_records(piece, ord(self.separator))
        if found is None:
            return None
        starts, ends, fields, lines = found
        if not len(ends):
            return _Cells(np.empty(0, np.int64), self._table([], 0), []), 0
        odd = fields != len(self.header)
        if b"\0" in piece:
            nul = np.flatnonzero(np.frombuffer(piece, np.uint8) == 0)
            nul = nul[nul <= ends[-1]]
            odd[np.searchsorted(ends, nul)] = True
        rows = line + lines
        end = int(ends[-1]) + 1
        rejected_rows: list[_Reject] = []
        body: bytes | memoryview = memoryview(piece)[:end]
        if odd.any():
            parts: list[bytes | memoryview] = []
            keep = np.ones(len(ends), dtype=bool)
            written = 0
            for i in np.flatnonzero(odd).tolist():
                start, stop = int(starts[i]), int(ends[i])
                parts.append(body[written:start])
                written = stop + 1
                raw = piece[start:stop].decode()
                try:
                    record = next(csv.reader(io.StringIO(raw, newline="\n"), delimiter=self.separator), [])
                    fitted = self._fit(record, int(rows[i]), raw, rejected_rows)
                except csv.Error:
                    fitted = None
                    rejected_rows.append((int(rows[i]), "", raw, "a field is too long"))
                if fitted is None:
                    keep[i] = False
                else:
                    parts.append(_csv_line(fitted, self.separator))
            parts.append(body[written:])
            body, rows = b"".join(parts), rows[keep]
        table = self._parse(body)
        if table.num_rows != len(rows):  # pyarrow saw other records: let the slow road decide
            return None
        return self._without_blanks(_Cells(rows, table, rejected_rows)), end

    def _parse(self, body: bytes | memoryview) -> pa.Table:
        names = [str(i) for i in range(len(self.header))]
        if not len(body):
            return self._table([], 0)
        if body[:3] == codecs.BOM_UTF8:  # pyarrow takes one away wherever a piece begins with it, a first name too
            body = codecs.BOM_UTF8 + body
        try:
            return pa_csv.read_csv(
                pa.py_buffer(body),
                read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(body) + 1),
                parse_options=pa_csv.ParseOptions(delimiter=self.separator, newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), check_utf8=False, strings_can_be_null=False
                ),
            )
        except pa.ArrowException:
            return self._table([], 0)

    def _table(self, records: list[list[str]], count: int) -> pa.Table:
        columns = list(zip(*records, strict=True)) if count else [()] * len(self.header)
        arrays = [pa.array(column, pa.string()) for column in columns]
        return pa.table(arrays, names=[str(i) for i in range(len(self.header))])

    def _without_blanks(self, cells: _Cells) -> _Cells:
        """Drop the lines that hold separators only, give the columns their names and leave out those without."""
        table, rows = cells.table, cells.rows
        phone = table.column(self.header.index(self.phone_column))
        # Blank is short; most of the lines are ruled out by that.
        suspects = np.flatnonzero(pc.less(pc.binary_length(phone), 3).to_numpy())
        if len(suspects):
            columns = table.take(pa.array(suspects)).to_pydict().values()
            blank = [i for i, cells_ in zip(suspects, zip(*columns, strict=True), strict=True) if not _filled(cells_)]
            if blank:
                keep = np.ones(len(rows), dtype=bool)
                keep[blank] = False
                table, rows = table.filter(pa.array(keep)), rows[keep]
        table = table.select(self.named).rename_columns([self.header[i] for i in self.named])
        return _Cells(rows, table, cells.rejected_rows)

    def _fit(self, record: list[str], row: int, raw: str, rejected_rows: list[_Reject]) -> list[str] | None:
        """The record with as many fields as the header, or None when it is blank or now among the rejected_rows."""
        if not _filled(record):
            return None
        width, needed = len(self.header), self.named[-1] + 1
        if "\0" in raw:
            reason = "the line contains a NUL character: the file is damaged there"
        elif len(record) < needed:
            reason = f"the line has {_count(len(record), 'field')}, the header has {needed}"
        elif _filled(record[width:]):
            reason = (
                f"the line has {_count(len(record), 'field')}, the header has {width}: "
                f"put a field that contains {_shown(self.separator)} in quotation marks"
            )
        else:
            return (record + [""] * (width - len(record)))[:width]
        rejected_rows.append((row, "", raw, reason))
        return None

    def _read_slowly(self, pieces: Iterable[bytes], line: int) -> Iterator[_Cells]:
        """The same by :mod:`csv`, for quoting that is irregular: from there to the end of the file."""
        latest = ""

        def lines() -> Iterator[str]:
            nonlocal latest
            rest = b""
            for piece in pieces:
                *whole, rest = (rest + piece).split(b"\n")
                for one in whole:
                    latest = one.decode()
                    yield latest + "\n"
            if rest:
                latest = rest.decode()
                yield latest

        reader = csv.reader(lines(), delimiter=self.separator, strict=True)
        rows: list[int] = []
        records: list[list[str]] = []
        rejected_rows: list[_Reject] = []
        while True:
            before = reader.line_num
            row = line + before
            try:
                record = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                if reader.line_num - before > 1 or "end of data" in str(error):
                    raise SourceError(
                        f"{self.label}: a quotation mark in line {row} is never closed, or one within the field is "
                        "not doubled; mend that line."
                    ) from None
                reason = (
                    "a field is too long"
                    if "limit" in str(error)
                    else 'a quotation mark within a quoted field must be doubled ("")'
                )
                rejected_rows.append((row, "", latest, reason))
                continue
            raw = self.separator.join(record)
            fitted = record
            if len(record) != len(self.header) or "\0" in raw:
                made = self._fit(record, row, raw, rejected_rows)
                if made is None:
                    continue
                fitted = made
            rows.append(row)
            records.append(fitted)
            if len(rows) >= self.chunk_rows:
                yield from self._slow_block(rows, records, rejected_rows)
                rows, records, rejected_rows = [], [], []
        yield from self._slow_block(rows, records, rejected_rows)

    def _slow_block(self, rows: list[int], records: list[list[str]], rejected_rows: list[_Reject]) -> Iterator[_Cells]:
        cells = _Cells(np.array(rows, np.int64), self._table(records, len(records)), rejected_rows)
        yield from self._cut(self._without_blanks(cells))


def _find_records(piece: bytes, separator: int) -> tuple[Any, Any, Any, Any] | None:
    """Where the whole records of a piece are, by RFC 4180; the piece starts with a record.

    Returns:
        Four int64 arrays, one entry a record: first byte, the line feed that ends it, number of fields, lines before
        it in the piece. None when a quotation mark stands where RFC 4180 has none, so that counting them is no proof.
    """
    data = np.frombuffer(piece, np.uint8)
    ends = np.flatnonzero(data == _NEWLINE)
    order = None
    parted = np.flatnonzero(data == separator)
    if b'"' in piece:
        quotes = np.flatnonzero(data == _QUOTE)
        order = np.flatnonzero((np.searchsorted(quotes, ends) & 1) == 0)  # an odd number before it: within quotes
        ends = ends[order]
        if len(ends):
            parted = parted[(np.searchsorted(quotes, parted) & 1) == 0]
            quotes = quotes[quotes < ends[-1]]
            opening, closing = quotes[0::2], quotes[1::2]
            before = data[np.maximum(opening - 1, 0)]
            regular = (before == separator) | (before == _NEWLINE) | (before == _QUOTE) | (opening == 0)
            after = data[closing + 1]
            regular &= (after == separator) | (after == _NEWLINE) | (after == _QUOTE)
            if not regular.all():
                return None
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    fields = np.diff(np.searchsorted(parted, ends), prepend=0) + 1
    if order is None:
        lines = np.arange(len(ends), dtype=np.int64)
    else:
        lines = np.concatenate(([0], order[:-1] + 1)) if len(ends) else order
    return starts, ends, fields, lines


def _first_records(sample: str, separator: str, count: int) -> list[list[str]]:
    reader = csv.reader(io.StringIO(sample, newline="\n"), delimiter=separator)
    records: list[list[str]] = []
    try:
        for record in reader:
            if _filled(record):
                records.append(record)
            if len(records) == count:
                break
    except csv.Error:
        pass
    return records


def _csv_line(record: list[str], separator: str) -> bytes:
    quoted = ('"' + value.replace('"', '""') + '"' for value in record)
    return (separator.join(quoted) + "\n").encode()


def _filled(record: Iterable[str]) -> bool:
    return any(value.strip(_TRIM) for value in record)


def _looks_like_number(name: str) -> bool:
    plain = plain_characters(name).lower().removeprefix("tel:")
    return sum(map(str.isdigit, plain)) >= 5 and _NUMBER_LIKE.fullmatch(plain) is not None


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _shown(separator: str) -> str:
    return "a tab" if separator == "\t" else f"'{separator}'"


# ---- DataFrames ----------------------------------------------------------------------------------------------------


#: A spreadsheet shows six digits of a long number; what it leaves of eleven are five zeros.
_ROUNDED = 100_000


class _Frame:
    """A DataFrame, read a slice at a time; it is never modified."""

    label = "DataFrame"
    form = ""

    def __init__(self, frame: Any, chunk_rows: int) -> None:
        import pandas as pd

        if not isinstance(frame, pd.DataFrame):
            raise SourceError(f"A source is a path, a URL or a DataFrame, not {type(frame).__name__}.")
        if isinstance(frame.columns, pd.MultiIndex):
            raise SourceError("DataFrame: its columns have several levels; flatten them to one name a column.")
        self._frame = frame
        self._block_rows = chunk_rows
        names = tuple(str(name).strip(_TRIM) for name in frame.columns)
        _refuse_duplicates(names, self.label)
        if not any(names):
            raise SourceError("DataFrame: it has no columns.")
        self._named = [i for i, name in enumerate(names) if name]
        self.columns = tuple(names[i] for i in self._named)
        self.phone_column = ""

    def read(self) -> Iterator[_Cells]:
        for start in range(0, len(self._frame), self._block_rows):
            part = self._frame.iloc[start : start + self._block_rows]
            rows = np.arange(start + 1, start + 1 + len(part), dtype=np.int64)
            faults: dict[int, _Reject] = {}
            arrays = []
            for name, i in zip(self.columns, self._named, strict=True):
                array = _texts(part.iloc[:, i], numbers=name == self.phone_column)
                if isinstance(array, list):
                    array = self._storable(array, name, rows, faults)
                arrays.append(array)
            table = pa.table(arrays, names=list(self.columns))
            if faults:
                keep = np.ones(len(part), dtype=bool)
                keep[list(faults)] = False
                table, rows = table.filter(pa.array(keep)), rows[keep]
            yield _Cells(rows, table, [faults[i] for i in sorted(faults)])

    @staticmethod
    def _storable(values: list[str], name: str, rows: Any, faults: dict[int, _Reject]) -> pa.Array:
        """The values as an array; those that are no text at all become faults of their rows."""
        try:
            joined = "".join(values)
            joined.encode()
            whole = "\0" not in joined
        except UnicodeEncodeError:
            whole = False
        if not whole:
            values = list(values)
            for i, value in enumerate(values):
                shown = value.encode("utf-8", "replace").decode()
                if shown != value or "\0" in value:
                    what = "half a surrogate pair, which is no character" if shown != value else "a NUL character"
                    faults.setdefault(i, (int(rows[i]), name, shown, f"the text contains {what}"))
                    values[i] = ""
        return pa.array(values, pa.string())


def _texts(series: Any, *, numbers: bool) -> pa.Array | list[str]:
    """A column as text: a string array without nulls where that is quick, else a list still to be checked.

    ``numbers`` says that they are phone numbers.
    """
    import pandas as pd

    if isinstance(series.dtype, pd.SparseDtype):
        series = series.sparse.to_dense()
    if isinstance(series.dtype, pd.CategoricalDtype):
        categories = _texts(series.cat.categories.to_series(), numbers=numbers)
        known = categories if isinstance(categories, list) else categories.to_pylist()
        return [known[code] if code >= 0 else "" for code in series.cat.codes.tolist()]
    kind = series.dtype.kind
    if kind in "iu":
        return pc.fill_null(pc.cast(pa.array(series, from_pandas=True), pa.string()), "")
    if isinstance(series.dtype, pd.StringDtype):
        try:
            array = pc.fill_null(pc.cast(pa.array(series, from_pandas=True), pa.string()), "")
        except (UnicodeError, pa.ArrowException):  # half a surrogate pair
            array = None
        if array is not None and not pc.any(pc.match_substring(array, "\0")).as_py():
            return array
    narrow = kind == "f" and series.dtype.itemsize < 8
    return [_text(value, narrow=narrow, number=numbers) for value in series.astype(object).tolist()]


def _text(value: Any, *, narrow: bool = False, number: bool = False) -> str:
    """One value as a person would write it; ``narrow`` floats (32 bits or fewer) hold no more than 7 digits.

    A phone ``number`` that is a float and ends in many zeros was most likely a power of ten, 4.67E+10, when it was
    read: it is written as one again, so that it is refused for what it is.
    """
    import pandas as pd

    if isinstance(value, str):
        return value
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating):
        narrow = narrow or (isinstance(value, np.floating) and value.itemsize < 8)
        amount = float(value)
        if math.isnan(amount):
            return ""
        if number and abs(amount) >= _ROUNDED and amount % _ROUNDED == 0:
            return f"{amount:.6G}"
        exact = 2**24 if narrow else 2**53
        if abs(amount) < exact:
            return str(int(amount)) if amount.is_integer() else repr(amount) if not narrow else f"{amount:.7g}"
        return f"{amount:.6e}" if narrow else repr(amount)
    if isinstance(value, decimal.Decimal):
        return "" if value.is_nan() else format(value, "f")
    if isinstance(value, pd.Timestamp) or (hasattr(value, "hour") and hasattr(value, "isoformat")):
        if hasattr(value, "date"):
            moment = value.isoformat(sep=" ")
            clock = (value.hour, value.minute, value.second, value.microsecond, getattr(value, "nanosecond", 0))
            return moment if any(clock) else str(value.date().isoformat())
        return str(value.isoformat())
    return str(value)
