r"""The alphabet of an SMS, and how many segments a text is billed as.

An SMS carries 140 octets (3GPP TS 23.040 §9.2.3.16). In the GSM 7-bit default alphabet (3GPP TS 23.038 §6.2.1) that is
160 septets, or 153 in each segment of a longer text, whose header takes the rest (TS 23.040 §9.2.3.24.1); the
characters of the extension table (§6.2.1.1: ``€ ^ { } [ ] ~ \ |`` and form feed) cost two septets, which are never
parted. One character outside that alphabet makes the whole text UCS-2 (§6.2.3): 70 UTF-16 units, or 67 a segment, and
the two units of an emoji are never parted. National language shift tables are not used.

Every count exists twice, for one text and for a column of texts, and the two always agree.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefect_mymsp.errors import TemplateError

__all__ = [
    "MAX_CHARACTERS",
    "SegmentCount",
    "check_surrogates",
    "count_segments",
    "count_segments_by_column",
    "encoding_array",
    "split_segments",
    "transliterate",
    "transliterate_column",
    "truncate",
]

#: The gateway's limit of one message, in characters (Unicode code points). Vendor's document, section 4.1.1.
MAX_CHARACTERS = 765

Encoding = Literal["GSM-7", "UCS-2"]
_ENCODINGS: tuple[Encoding, Encoding] = ("GSM-7", "UCS-2")

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
class SegmentCount:
    """The segments of a text.

    Attributes:
        encoding: ``GSM-7`` or ``UCS-2``.
        units: Septets for GSM-7, 16-bit units for UCS-2.
        segments: SMS that are billed; 0 for the empty text only.
        non_gsm_characters: The distinct characters, in order, that are not in the GSM alphabet. Any of them makes the
            whole text UCS-2.
    """

    encoding: Encoding
    units: int
    segments: int
    non_gsm_characters: tuple[str, ...]


def count_segments(text: str) -> SegmentCount:
    """Count the segments as which a text is sent and billed.

    Raises:
        TemplateError: The text holds half a surrogate pair, which no encoding can carry.
    """
    non_gsm_characters = tuple(dict.fromkeys(character for character in text if character not in _COST))
    check_surrogates(non_gsm_characters)
    costs = _costs(text, ucs2=bool(non_gsm_characters))
    single, part = (_UCS2_SINGLE, _UCS2_PART) if non_gsm_characters else (_GSM_SINGLE, _GSM_PART)
    units = sum(costs)
    segments = min(units, 1) if units <= single else len(_lengths(costs, part))
    return SegmentCount(_ENCODINGS[bool(non_gsm_characters)], units, segments, non_gsm_characters)


def split_segments(text: str) -> tuple[str, ...]:
    """Split a text into the parts that travel in one segment each; none for the empty text.

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
    """Return how many characters go into each segment; filling each as far as possible needs the fewest."""
    lengths, length, filled = [], 0, 0
    for cost in costs:
        if filled + cost > limit:
            lengths.append(length)
            length, filled = 0, 0
        length += 1
        filled += cost
    lengths.append(length)
    return lengths


def check_surrogates(characters: Iterable[str]) -> None:
    """Check that no character is half a surrogate pair.

    Raises:
        TemplateError: One is, and no encoding can carry it.
    """
    for character in characters:
        if "\ud800" <= character <= "\udfff":
            raise TemplateError(f"The text holds half a surrogate pair ({character!a}), which cannot be sent.")


def _character_class(characters: str) -> str:
    # Hexadecimal escapes: nothing in a class has a meaning of its own then.
    return "".join(f"\\x{{{ord(character):x}}}" for character in characters)


_ONLY_BASIC = f"^[{_character_class(_BASIC)}]*$"
_ANY_NON_GSM = f"[^{_character_class(_BASIC + _EXTENSION)}]"
_ANY_EXTENSION = f"[{_character_class(_EXTENSION)}]"
_ANY_ASTRAL = r"[\x{10000}-\x{10ffff}]"


def count_segments_by_column(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
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
        rest_texts = texts.take(pa.array(rest)) if len(rest) < len(units) else texts
        non_gsm = pc.match_substring_regex(rest_texts, _ANY_NON_GSM).to_numpy(zero_copy_only=False)
        for is_ucs2, pattern, single, part in (
            (False, _ANY_EXTENSION, _GSM_SINGLE, _GSM_PART),
            (True, _ANY_ASTRAL, _UCS2_SINGLE, _UCS2_PART),
        ):
            chosen = non_gsm == is_ucs2
            positions = rest[chosen]
            if not len(positions):
                continue
            chosen_texts = rest_texts.filter(pa.array(chosen)) if len(positions) < len(rest_texts) else rest_texts
            doubles = pc.count_substring_regex(chosen_texts, pattern).to_numpy(zero_copy_only=False)
            total = units[positions] + doubles
            ucs2[positions] = is_ucs2
            # A pair that does not fit moves on whole, so a segment may stay one unit short, never more. Only where that
            # makes a difference is the text itself counted.
            fewest = _whole_segments(total, single, part)
            most = _whole_segments(total, single, part - 1)
            segments[positions] = fewest
            for index in np.flatnonzero((fewest != most) & (doubles > 0)).tolist():
                segments[positions[index]] = count_segments(chosen_texts[index].as_py()).segments
    return pa.array(segments, pa.int16()), encoding_array(ucs2)


def _whole_segments(units: Any, single: int, part: int) -> Any:
    return np.where(units <= single, np.minimum(units, 1), -(-units // part))


def encoding_array(ucs2: Any) -> pa.Array:
    """Encodings of n texts, ``dictionary<int8, string>``, from n booleans that are true for UCS-2."""
    return pa.DictionaryArray.from_arrays(pa.array(ucs2.astype(np.int8)), pa.array(_ENCODINGS, pa.string()))


# ---- transliteration -----------------------------------------------------------------------------------------------

# Typographic characters of word processors and web pages, with their replacements. Letters are not touched: the
# spelling of a name stays, whatever it costs.
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
_TRANSLITERATION = str.maketrans({character: typed for typed, variants in _TYPED.items() for character in variants})
_ANY_TYPED = f"[{_character_class(''.join(_TYPED.values()))}]"
_REPLACED = tuple(
    (f"[{_character_class(variants)}]+" if not typed else f"[{_character_class(variants)}]", typed)
    for typed, variants in _TYPED.items()
)


def transliterate(text: str) -> str:
    """Replace typographic quotes, dashes, ellipses and spaces by what a keyboard types, in the GSM alphabet.

    Letters are never changed: å, ä, ö, é and ø are in the alphabet, and ``ł`` stays and makes the text UCS-2.
    """
    return text.translate(_TRANSLITERATION)


def transliterate_column(texts: pa.Array) -> pa.Array:
    """Apply :func:`transliterate` to a string array of n; returns a string array of n."""
    typographic = pc.match_substring_regex(texts, _ANY_TYPED)
    if not pc.any(typographic).as_py():
        return texts
    for pattern, typed in _REPLACED:
        texts = pc.replace_substring_regex(texts, pattern, typed)
    return texts


# Letters and signs that Unicode does not decompose, with their usual replacements.
_SPELLED = {
    "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "œ": "oe", "Œ": "OE",
    "→": "->", "←": "<-", "≥": ">=", "≤": "<=", "≠": "!=",
}  # fmt: skip
_ENDING = "..."


def truncate(text: str, segments: int) -> str:
    """Cut a text to a number of segments, with three dots where it is cut; for notifications.

    Characters that would make the text UCS-2, and more than halve the room, are replaced: typographic characters by
    what a keyboard types, letters by the nearest in the GSM alphabet (``č`` by ``c``), emoji by nothing, the rest by a
    question mark. If more than a tenth of the text would become question marks, it is in another script: it stays as
    it is, and is UCS-2. Blank lines and repeated spaces are removed too.

    Args:
        text: Any text; broken Unicode and control characters are dropped.
        segments: How many the result may need. It never has more than :data:`MAX_CHARACTERS` characters.

    Returns:
        The text, or its beginning; empty if nothing in it can be sent.
    """
    text = transliterate(text[: 2 * MAX_CHARACTERS].replace("\r\n", "\n"))
    text = "".join(each for each in text if each in _COST or unicodedata.category(each) not in {"Cc", "Cn", "Co", "Cs"})
    nearest = [_nearest_gsm(character) for character in text]
    lost = sum(near == "?" != character for near, character in zip(nearest, text, strict=True))
    text = text if 10 * lost > len(text) else "".join(nearest)
    text = "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))

    def fits(candidate: str) -> bool:
        return len(candidate) <= MAX_CHARACTERS and count_segments(candidate).segments <= segments

    if fits(text):
        return text
    # A shorter beginning never needs more segments, so bisection finds the longest that fits.
    fitting, too_long = 0, len(text)
    while too_long - fitting > 1:
        middle = (fitting + too_long) // 2
        fitting, too_long = (middle, too_long) if fits(text[:middle] + _ENDING) else (fitting, middle)
    return text[:fitting].rstrip() + _ENDING


def _nearest_gsm(character: str) -> str:
    """Return a character in the GSM alphabet: itself, its base letter, nothing for a mark or an emoji, or ``?``."""
    if character in _COST:
        return character
    category, near = unicodedata.category(character), _SPELLED.get(character, "")
    if not near and (category[0] in "LP" or category == "Nd"):  # of other things the base may mean something else: 10²
        near = "".join(part for part in unicodedata.normalize("NFKD", character) if part in _COST)
    return near or ("" if category in {"Cf", "Mn", "Mc", "Me", "Sk", "So"} else "?")
