r"""Templates, the alphabet of an SMS, and how many segments a text is paid as.

An SMS carries 140 octets (3GPP TS 23.040 §9.2.3.16). In the GSM 7-bit default alphabet (3GPP TS 23.038 §6.2.1) that is
160 septets, or 153 in each segment of a longer text, whose header takes the rest (TS 23.040 §9.2.3.24.1); the
characters of the extension table (§6.2.1.1: ``€ ^ { } [ ] ~ \ |`` and form feed) cost two septets, which are never
parted. One character outside that alphabet makes the whole text UCS-2 (§6.2.3): 70 UTF-16 units, or 67 a segment, and
the two units of an emoji are never parted. National language shift tables are not used.

Every count exists twice, for one text and for a column of them, and the two always agree.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefect_mymsp.errors import TemplateError, first_few
from prefect_mymsp.rejected_rows import RejectedRow, rejected_row_table

__all__ = [
    "MAX_CHARACTERS",
    "RENDERED_SCHEMA",
    "Rendered",
    "Segments",
    "Template",
    "count_segments",
    "segments_by_column",
    "split_segments",
    "transliterate",
    "transliterate_column",
    "truncate",
]

#: The gateway's limit of one message, in characters (Unicode code points). Vendor's document, section 4.1.1.
MAX_CHARACTERS = 765

Encoding = Literal["GSM-7", "UCS-2"]
_ENCODINGS: tuple[Encoding, Encoding] = ("GSM-7", "UCS-2")

_ENCODING_TYPE = pa.dictionary(pa.int8(), pa.string())

#: Columns of :attr:`Rendered.rows`. ``text`` is ``dictionary<int32, string>`` with one value instead when the template
#: has no placeholders.
RENDERED_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("msisdn", pa.string()),
        ("text", pa.string()),
        ("segments", pa.int16()),
        ("encoding", _ENCODING_TYPE),
    ]
)

# ---- segments ------------------------------------------------------------------------------------------------------

# TS 23.038 §6.2.1, in the table's order. Position 0x1B is the escape to the extension table, no character.
_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
# §6.2.1.1.
_EXTENSION = "\f^{}\\[~]|€"

_GSM_SINGLE, _GSM_PART = 160, 153
_UCS2_SINGLE, _UCS2_PART = 70, 67
_COST = dict.fromkeys(_BASIC, 1) | dict.fromkeys(_EXTENSION, 2)


@dataclass(frozen=True, slots=True)
class Segments:
    """What a text costs.

    Attributes:
        encoding: ``GSM-7`` or ``UCS-2``.
        units: Septets for GSM-7, 16-bit units for UCS-2.
        segments: How many are paid for; 0 only for the empty text.
        non_gsm_characters: The distinct characters, in order, that are not in the GSM alphabet and so force UCS-2.
    """

    encoding: Encoding
    units: int
    segments: int
    non_gsm_characters: tuple[str, ...]


def count_segments(text: str) -> Segments:
    """Count the segments a text is sent and paid as.

    Raises:
        TemplateError: The text holds half a surrogate pair, which no encoding can carry.
    """
    non_gsm_characters = tuple(dict.fromkeys(character for character in text if character not in _COST))
    _refuse_surrogates(non_gsm_characters)
    costs = _costs(text, ucs2=bool(non_gsm_characters))
    single, part = (_UCS2_SINGLE, _UCS2_PART) if non_gsm_characters else (_GSM_SINGLE, _GSM_PART)
    units = sum(costs)
    segments = min(units, 1) if units <= single else len(_lengths(costs, part))
    return Segments(_ENCODINGS[bool(non_gsm_characters)], units, segments, non_gsm_characters)


def split_segments(text: str) -> tuple[str, ...]:
    """Split a text as it travels; joined again it is the text, and nothing for the empty text.

    Raises:
        TemplateError: As :func:`count_segments`.
    """
    counted = count_segments(text)
    if counted.segments <= 1:
        return (text,) if text else ()
    ucs2 = counted.encoding == "UCS-2"
    parts, start = [], 0
    for length in _lengths(_costs(text, ucs2=ucs2), _UCS2_PART if ucs2 else _GSM_PART):
        parts.append(text[start : start + length])
        start += length
    return tuple(parts)


def _costs(text: str, *, ucs2: bool) -> list[int]:
    return [2 if character > "\uffff" else 1 for character in text] if ucs2 else [_COST[c] for c in text]


def _lengths(costs: Sequence[int], limit: int) -> list[int]:
    """Characters a segment when each takes as many as fit: there is no way with fewer segments."""
    lengths, length, filled = [], 0, 0
    for cost in costs:
        if filled + cost > limit:
            lengths.append(length)
            length, filled = 0, 0
        length += 1
        filled += cost
    lengths.append(length)
    return lengths


def _refuse_surrogates(characters: Iterable[str]) -> None:
    for character in characters:
        if "\ud800" <= character <= "\udfff":
            raise TemplateError(f"The text holds half a surrogate pair ({character!a}), which cannot be sent.")


def _character_class(characters: str) -> str:
    # Hexadecimal escapes: nothing in a class has a meaning of its own then.
    return "".join(f"\\x{{{ord(character):x}}}" for character in characters)


_ONLY_BASIC = f"^[{_character_class(_BASIC)}]*$"
_ANY_FORCING = f"[^{_character_class(_BASIC + _EXTENSION)}]"
_ANY_EXTENSION = f"[{_character_class(_EXTENSION)}]"
_ANY_ASTRAL = r"[\x{10000}-\x{10ffff}]"


def segments_by_column(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Count the segments of many texts; agrees with :func:`count_segments` in every case.

    Args:
        texts: String array of n without nulls.

    Returns:
        Segments (int16, n) and encoding (``dictionary<int8, string>`` of ``GSM-7`` and ``UCS-2``, n).
    """
    units = pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)
    basic = pc.match_substring_regex(texts, _ONLY_BASIC).to_numpy(zero_copy_only=False)
    segments = _whole_segments(units, _GSM_SINGLE, _GSM_PART)
    ucs2 = np.zeros(len(units), dtype=bool)
    rest = np.flatnonzero(~basic)
    if len(rest):
        some = texts.take(pa.array(rest)) if len(rest) < len(units) else texts
        forced = pc.match_substring_regex(some, _ANY_FORCING).to_numpy(zero_copy_only=False)
        for wide, pattern, single, part in (
            (False, _ANY_EXTENSION, _GSM_SINGLE, _GSM_PART),
            (True, _ANY_ASTRAL, _UCS2_SINGLE, _UCS2_PART),
        ):
            chosen = forced == wide
            where = rest[chosen]
            if not len(where):
                continue
            mine = some.filter(pa.array(chosen)) if len(where) < len(some) else some
            doubles = pc.count_substring_regex(mine, pattern).to_numpy(zero_copy_only=False)
            total = units[where] + doubles
            ucs2[where] = wide
            # A pair that does not fit moves on whole, so a segment may stay one unit short, never more. Where that
            # cannot make a difference the number is known; elsewhere the text itself is looked at.
            fewest = _whole_segments(total, single, part)
            most = _whole_segments(total, single, part - 1)
            segments[where] = fewest
            for i in np.flatnonzero((fewest != most) & (doubles > 0)).tolist():
                segments[where[i]] = count_segments(mine[i].as_py()).segments
    return pa.array(segments, pa.int16()), _encoding_array(ucs2)


def _whole_segments(units: Any, single: int, part: int) -> Any:
    return np.where(units <= single, np.minimum(units, 1), -(-units // part))


def _encoding_array(ucs2: Any) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(ucs2.astype(np.int8)), pa.array(_ENCODINGS, pa.string()))


# ---- transliteration -----------------------------------------------------------------------------------------------

# What word processors and web pages put in, and what a keyboard would have given. Letters are not touched: a name is
# spelled as it is spelled, whatever that costs.
_TYPED = {
    "'": "‘’‚‛′´`",  # noqa: RUF001
    '"': "“”„‟″«»",
    "-": "‐‑‒–—―−",  # noqa: RUF001
    "...": "…",
    "*": "•",
    " ": "\t\v\x85\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000",
    "\n": "\u2028\u2029",
    # Invisible: soft hyphen, zero-width space, directional marks, word joiner, BOM. The zero-width joiners stay: they
    # hold emoji together, and letters of scripts that are UCS-2 anyway.
    "": "\u00ad\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff",
}
_TRANSLITERATION = str.maketrans({character: typed for typed, found in _TYPED.items() for character in found})
_ANY_TYPED = f"[{_character_class(''.join(_TYPED.values()))}]"
_REPLACED = tuple(
    (f"[{_character_class(found)}]+" if not typed else f"[{_character_class(found)}]", typed)
    for typed, found in _TYPED.items()
)


def transliterate(text: str) -> str:
    """Typographic quotes, dashes, ellipses and spaces as a keyboard would have typed them, in the GSM alphabet.

    Letters are never changed: å, ä, ö, é and ø are in the alphabet already, and ``ł`` stays and forces UCS-2.
    """
    return text.translate(_TRANSLITERATION)


def transliterate_column(texts: pa.Array) -> pa.Array:
    """:func:`transliterate` for a string array of n; returns a string array of n."""
    touched = pc.match_substring_regex(texts, _ANY_TYPED)
    if not pc.any(touched).as_py():
        return texts
    for pattern, typed in _REPLACED:
        texts = pc.replace_substring_regex(texts, pattern, typed)
    return texts


# Letters and signs that Unicode does not take apart, as people spell them who have no key for them.
_SPELLED = {
    "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "œ": "oe", "Œ": "OE",
    "→": "->", "←": "<-", "≥": ">=", "≤": "<=", "≠": "!=",
}  # fmt: skip
_ENDING = "..."


def truncate(text: str, segments: int) -> str:
    """A text cut to so many segments, the cut shown by three dots: for notices, which must fit rather than be exact.

    What would force UCS-2, and more than halve the room, gives way: typographic characters to what a keyboard would
    have given, letters to the nearest in the GSM alphabet (``č`` to ``c``), emoji to nothing, the rest to a question
    mark. If that would spoil more than a tenth of the text, it is in another script: it stays, and is UCS-2. Blank
    lines and repeated spaces go too.

    Args:
        text: Anything, also broken Unicode and control characters, which are dropped.
        segments: How many the result may need; its characters are never more than :data:`MAX_CHARACTERS`.

    Returns:
        The text, or its beginning; empty when there is nothing in it that can be sent.
    """
    text = transliterate(text[: 2 * MAX_CHARACTERS].replace("\r\n", "\n"))
    text = "".join(one for one in text if one in _COST or unicodedata.category(one) not in {"Cc", "Cn", "Co", "Cs"})
    nearest = [_nearest(character) for character in text]
    spoilt = sum(near == "?" != was for near, was in zip(nearest, text, strict=True))
    text = text if 10 * spoilt > len(text) else "".join(nearest)
    text = "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))

    def fits(candidate: str) -> bool:
        return len(candidate) <= MAX_CHARACTERS and count_segments(candidate).segments <= segments

    if fits(text):
        return text
    # The shorter the beginning, the fewer its segments, also where what forces UCS-2 is cut off: halving finds it.
    short, long = 0, len(text)
    while long - short > 1:
        middle = (short + long) // 2
        short, long = (middle, long) if fits(text[:middle] + _ENDING) else (short, middle)
    return text[:short].rstrip() + _ENDING


def _nearest(character: str) -> str:
    """What the GSM alphabet has for a character: itself, its base letter, nothing for a mark or an emoji, or ``?``."""
    if character in _COST:
        return character
    category, near = unicodedata.category(character), _SPELLED.get(character, "")
    if not near and (category[0] in "LP" or category == "Nd"):  # of other things the base may mean something else: 10²
        near = "".join(one for one in unicodedata.normalize("NFKD", character) if one in _COST)
    return near or ("" if category in {"Cf", "Mn", "Mc", "Me", "Sk", "So"} else "?")


# ---- templates -----------------------------------------------------------------------------------------------------

#: Trimmed from a cell before it goes into a text: every kind of space, and the invisible at the edges.
_OUTER = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
_EMPTY = "the message needs it and the cell is empty"


class _Recipients(Protocol):
    """What a template needs of a block of recipients: a Block of the sibling module."""

    @property
    def rows(self) -> Any:
        """Table with ``row`` int64 and ``msisdn`` string."""

    @property
    def columns(self) -> Any:
        """Table with the source's string columns, as many rows as ``rows``."""


@dataclass(frozen=True)
class Rendered:
    """A block's texts, ready to be planned.

    Attributes:
        rows: :data:`RENDERED_SCHEMA`: ``row`` and ``msisdn`` as in the block, ``text``, ``segments`` int16,
            ``encoding`` ``dictionary<int8, string>`` of ``GSM-7`` and ``UCS-2``. In the block's order.
        rejected_rows: Rows whose text cannot be made or sent, in
            :data:`~prefect_mymsp.recipients.REJECTED_ROW_SCHEMA`; each row of the chunk is either here or in ``rows``.
            ``column`` is empty when the whole text is at fault.
        shared_text: The one text of all rows when the template has no placeholders, else None. ``text`` is then
            dictionary-encoded with this as its only value.
    """

    rows: pa.Table
    rejected_rows: pa.Table
    shared_text: str | None


class Template:
    """A message with ``{column}`` placeholders; ``{{`` and ``}}`` are braces.

    Placeholders are names and nothing else: no attributes, no indexes, no formats. They match columns without regard to
    case and outer spaces; an exact match wins.

    Args:
        message: The message as written.
        transliterate: Whether :func:`transliterate` goes over message and values.

    Attributes:
        message: The message as given.
        placeholders: Names of the distinct placeholders, in order.

    Raises:
        TemplateError: A brace without its partner, a placeholder without a name, an empty message, or one that is too
            long whatever the values are. Positions count characters from 1.
    """

    def __init__(self, message: str, *, transliterate: bool = False) -> None:
        self.message = message
        self._transliterate = transliterate
        _refuse_surrogates(message)
        if "\0" in message:
            raise TemplateError(f"The message contains a NUL character at position {message.index(chr(0)) + 1}.")
        # Literal text and names in turn: literals[0], names[0], literals[1], …
        self._literals, self._names = _parse(message)
        if transliterate:
            self._literals = [_typed(literal) for literal in self._literals]
        self.placeholders = tuple(dict.fromkeys(self._names))
        if not self._names and not self._literals[0].strip(_OUTER):
            raise TemplateError("The message is empty.")
        fixed = sum(map(len, self._literals))
        if fixed + len(self._names) > MAX_CHARACTERS:
            raise TemplateError(
                f"The message is too long: {fixed} characters without its placeholders, "
                f"and the gateway takes {MAX_CHARACTERS}."
            )

    def __repr__(self) -> str:
        return f"Template({self.message!r}, transliterate={self._transliterate})"

    def check_columns(self, columns: Sequence[str], *, source_label: str) -> None:
        """Make sure that each placeholder is a column.

        Args:
            columns: Names of the source's columns.
            source_label: What to call the source in the message of the error.

        Raises:
            TemplateError: Some are not, or stand for several columns; names all of them, and the columns there are.
        """
        faults = [fault for name in self.placeholders if (fault := _column_fault(name, columns))]
        if faults:
            there = f"{source_label} has the columns {first_few(columns)}." if columns else f"{source_label} has none."
            raise TemplateError(f"{' '.join(faults)} {there}")

    def render(self, values: Mapping[str, str]) -> str:
        """Render one row; :meth:`render_chunk` gives the same texts.

        Args:
            values: The row's cells by column.

        Raises:
            TemplateError: A placeholder is no column or its cell is empty, or the text is too long.
        """
        self.check_columns(tuple(values), source_label="The row")
        parts = [self._literals[0]]
        for name, literal in zip(self._names, self._literals[1:], strict=True):
            value = values[_matching(name, tuple(values))[0]].strip(_OUTER)
            if self._transliterate:
                value = _typed(value).strip(_OUTER)
            if not value:
                raise TemplateError(f"{{{name}}}: {_EMPTY}.")
            parts += (value, literal)
        text = "".join(parts)
        _refuse_surrogates(text)
        if len(text) > MAX_CHARACTERS:
            raise TemplateError(f"Cannot be sent: {_too_long(len(text))}.")
        return text

    def render_chunk(self, block: _Recipients) -> Rendered:
        """Render a block of n recipients by column.

        Args:
            block: A ``Block`` of the recipients' module.

        Raises:
            TemplateError: A placeholder is no column; see :meth:`check_columns`.
        """
        rows, columns = block.rows, block.columns
        if not self._names:
            return self._render_shared(rows)
        names = columns.column_names
        self.check_columns(names, source_label="The source")
        positions = {name: names.index(_matching(name, names)[0]) for name in self.placeholders}
        values: dict[int, Any] = {}
        filled = np.ones(rows.num_rows, dtype=bool)
        rejected_rows: list[RejectedRow] = []
        numbers = rows.column("row").to_numpy()
        for position in positions.values():
            if position in values:
                continue
            raw = _flat(columns.column(position))
            value = pc.utf8_trim(raw, characters=_OUTER)
            if self._transliterate:
                value = pc.utf8_trim(transliterate_column(value), characters=_OUTER)
            values[position] = value
            empty = pc.equal(pc.binary_length(value), 0).to_numpy(zero_copy_only=False) & filled
            if empty.any():
                filled &= ~empty
                rejected_rows += [
                    RejectedRow(int(numbers[i]), names[position], raw[i].as_py(), _EMPTY)
                    for i in np.flatnonzero(empty).tolist()
                ]
        parts: list[Any] = [self._literals[0]]
        for name, literal in zip(self._names, self._literals[1:], strict=True):
            parts += (values[positions[name]], literal)
        texts = pc.binary_join_element_wise(*(p for p in parts if not isinstance(p, str) or p), "")
        lengths = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
        fitting = lengths <= MAX_CHARACTERS
        if not fitting.all():
            rejected_rows += [
                RejectedRow(int(numbers[i]), "", texts[i].as_py(), _too_long(int(lengths[i])))
                for i in np.flatnonzero(~fitting & filled).tolist()
            ]
        keep = filled & fitting
        if not keep.all():
            mask = pa.array(keep)
            rows, texts = rows.filter(mask), texts.filter(mask)
        segments, encoding = segments_by_column(texts)
        return Rendered(_rendered_table(rows, texts, segments, encoding), rejected_row_table(rejected_rows), None)

    def _render_shared(self, rows: Any) -> Rendered:
        text = self._literals[0]
        counted = count_segments(text)
        count = rows.num_rows
        texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([text], pa.string()))
        segments = pa.array(np.full(count, counted.segments, np.int16))
        encoding = _encoding_array(np.full(count, counted.encoding == "UCS-2"))
        return Rendered(_rendered_table(rows, texts, segments, encoding), rejected_row_table([]), text)


_typed: Callable[[str], str] = transliterate  # under a name that the constructor's argument does not hide


def _parse(message: str) -> tuple[list[str], list[str]]:
    literals, names = [""], []
    at = 0
    while at < len(message):
        character = message[at]
        if character not in "{}":
            end = min((i for i in (message.find("{", at), message.find("}", at)) if i >= 0), default=len(message))
            literals[-1] += message[at:end]
            at = end
        elif message[at : at + 2] == character * 2:
            literals[-1] += character
            at += 2
        elif character == "}":
            raise TemplateError(f"The }} at position {at + 1} closes nothing; write }}}} for a brace.")
        else:
            end = message.find("}", at)
            name = message[at + 1 : end]
            if end < 0 or "{" in name:
                raise TemplateError(f"The {{ at position {at + 1} is not closed; write {{{{ for a brace.")
            if not name.strip(_OUTER):
                raise TemplateError(f"The placeholder at position {at + 1} has no name; write {{{{}}}} for two braces.")
            names.append(name.strip(_OUTER))
            literals.append("")
            at = end + 1
    return literals, names


def _matching(name: str, columns: Sequence[str]) -> list[str]:
    """The columns a placeholder stands for: one, when all is well."""
    if name in columns:
        return [name]
    wanted = name.casefold()
    return [column for column in columns if column.strip(_OUTER).casefold() == wanted]


def _column_fault(name: str, columns: Sequence[str]) -> str:
    found = _matching(name, columns)
    if len(found) == 1:
        return ""
    if found:
        return f"{{{name}}} may be {first_few(found)}: write it exactly as one of them."
    folded = {column.strip(_OUTER).casefold(): column for column in columns}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"{{{name}}} is no column{f'; did you mean {{{folded[near[0]]}}}?' if near else '.'}"


def _too_long(length: int) -> str:
    return f"the text has {length} characters, and the gateway takes {MAX_CHARACTERS}"


def _flat(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _rendered_table(rows: Any, texts: Any, segments: Any, encoding: Any) -> pa.Table:
    return pa.table(
        {
            "row": rows.column("row"),
            "msisdn": rows.column("msisdn"),
            "text": texts,
            "segments": segments,
            "encoding": encoding,
        }
    )
