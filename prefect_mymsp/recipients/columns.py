"""Names of columns: cleaning them, finding the one with the phone numbers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from prefect_mymsp.errors import SourceError, first_few
from prefect_mymsp.phone import plain_characters

#: Trimmed from names of columns: spaces, and invisible characters.
OUTER_SPACE = " \t\r\n\v\f\u00a0\u202f\u2007\u200b\u2060\ufeff"

#: Names of phone columns without case, spaces and punctuation; the most specific ones first.
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

_NUMBER_LIKE = re.compile(r"[\s+()./'=\":\d,;|eE-]*")


def clean_name(name: str) -> str:
    """The name of a column without outer spaces."""
    return name.strip(OUTER_SPACE)


def name_key(name: str) -> str:
    """The name of a column without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name.casefold())


def is_phone_name(name: str) -> bool:
    """Whether a name is a usual name of a phone column."""
    return any(name_key(name) in names for names in _PHONE_NAMES)


def looks_like_number(name: str) -> bool:
    """Whether the name of a column is rather a phone number, so that the file has no header."""
    plain = plain_characters(name).lower().removeprefix("tel:")
    return sum(map(str.isdigit, plain)) >= 5 and _NUMBER_LIKE.fullmatch(plain) is not None


def has_content(cells: Iterable[str]) -> bool:
    """Whether any cell holds more than spaces."""
    return any(cell.strip(OUTER_SPACE) for cell in cells)


def find_phone_column(columns: Sequence[str], phone_column: str | None, label: str) -> str:
    """Find the column with the phone numbers.

    Args:
        columns: Names of the source's columns.
        phone_column: The name of the column, in any case; None to find it by its usual names.
        label: The source's name in errors.

    Raises:
        SourceError: There is no such column, or more than one; the message lists the columns and advises what to set.
    """
    if phone_column is not None:
        return _named_column(columns, phone_column, label)
    for names in _PHONE_NAMES:
        candidates = [column for column in columns if name_key(column) in names]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise SourceError(
                f"{label}: several columns may hold the phone numbers: {first_few(candidates)}. "
                "Set phone_column to one of them."
            )
    raise SourceError(
        f"{label}: no column is named like a phone number column. The columns are: {first_few(columns)}. "
        "Set phone_column to the one with the numbers."
    )


def _named_column(columns: Sequence[str], phone_column: str, label: str) -> str:
    name = clean_name(phone_column)
    matches = [column for column in columns if column == name] or [
        column for column in columns if column.casefold() == name.casefold()
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise SourceError(
            f"{label}: the columns {first_few(matches)} differ only in case. Write phone_column exactly as one of them."
        )
    folded = {column.casefold(): column for column in columns}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    hint = f" Did you mean {folded[close[0]]!r}?" if close else ""
    raise SourceError(f"{label}: there is no column {phone_column!r}.{hint} The columns are: {first_few(columns)}.")


def check_unique(columns: Sequence[str], label: str) -> None:
    """Check that no two columns have the same name; columns without a name may be many.

    Raises:
        SourceError: Two columns have the same name.
    """
    repeated = [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]
    if repeated:
        raise SourceError(f"{label}: more than one column is named {first_few(repeated)}. Rename all but one.")
