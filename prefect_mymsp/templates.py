"""Messages with placeholders, rendered for one row or for a chunk of rows."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefect_mymsp import segments
from prefect_mymsp.errors import TemplateError, first_few
from prefect_mymsp.rejected_rows import RejectedRow, rejected_row_table
from prefect_mymsp.segments import (
    MAX_CHARACTERS,
    check_surrogates,
    count_segments,
    count_segments_by_column,
    encoding_array,
    transliterate_column,
)

__all__ = ["RENDERED_SCHEMA", "RenderedChunk", "Template"]

#: Columns of :attr:`RenderedChunk.rows`. ``text`` is ``dictionary<int32, string>`` with one value instead when the
#: template has no placeholders.
RENDERED_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("msisdn", pa.string()),
        ("text", pa.string()),
        ("segments", pa.int16()),
        ("encoding", pa.dictionary(pa.int8(), pa.string())),
    ]
)

#: Trimmed from a cell before it goes into a text: every kind of space, and invisible characters at the edges.
_OUTER_SPACE = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
_EMPTY = "the message needs it and the cell is empty"


class _Recipients(Protocol):
    """The attributes of :class:`~prefect_mymsp.recipients.RecipientChunk` that a template uses."""

    @property
    def rows(self) -> Any:
        """Table with ``row`` int64 and ``msisdn`` string."""

    @property
    def columns(self) -> Any:
        """Table with the source's string columns, as many rows as ``rows``."""


@dataclass(frozen=True)
class RenderedChunk:
    """The texts of a chunk of recipients, ready to be planned.

    Attributes:
        rows: :data:`RENDERED_SCHEMA`: ``row`` and ``msisdn`` as in the chunk, ``text``, ``segments`` int16,
            ``encoding`` ``dictionary<int8, string>`` of ``GSM-7`` and ``UCS-2``. In the chunk's order.
        rejected_rows: Rows whose text cannot be rendered or sent, in
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

    A placeholder is the name of a column and nothing else: no attributes, no indexes, no formats. Case and outer spaces
    make no difference; an exact match wins.

    Args:
        message: The message as written.
        transliterate: Whether :func:`~prefect_mymsp.segments.transliterate` is applied to message and values.

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
        check_surrogates(message)
        if "\0" in message:
            raise TemplateError(f"The message contains a NUL character at position {message.index(chr(0)) + 1}.")
        # Literal text and names in turn: literals[0], names[0], literals[1], …
        self._literals, self._names = _parse(message)
        if transliterate:
            self._literals = [segments.transliterate(literal) for literal in self._literals]
        self.placeholders = tuple(dict.fromkeys(self._names))
        if not self._names and not self._literals[0].strip(_OUTER_SPACE):
            raise TemplateError("The message is empty.")
        fixed = sum(map(len, self._literals))
        if fixed + len(self._names) > MAX_CHARACTERS:
            raise TemplateError(
                f"The message is too long: {fixed} characters without its placeholders; the gateway takes "
                f"{MAX_CHARACTERS}. Shorten it."
            )

    def __repr__(self) -> str:
        return f"Template({self.message!r}, transliterate={self._transliterate})"

    def check_columns(self, columns: Sequence[str], *, source_label: str) -> None:
        """Check that each placeholder is a column.

        Args:
            columns: Names of the source's columns.
            source_label: The source's name in errors.

        Raises:
            TemplateError: Placeholders are not columns, or match several; the message lists them and the columns.
        """
        faults = [fault for name in self.placeholders if (fault := _column_fault(name, columns))]
        if faults:
            has = f"has the columns {first_few(columns)}" if columns else "has no columns"
            raise TemplateError(f"{' '.join(faults)} {source_label} {has}.")

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
            value = values[_matching_columns(name, tuple(values))[0]].strip(_OUTER_SPACE)
            if self._transliterate:
                value = segments.transliterate(value).strip(_OUTER_SPACE)
            if not value:
                raise TemplateError(f"{{{name}}}: {_EMPTY}.")
            parts += (value, literal)
        text = "".join(parts)
        check_surrogates(text)
        if len(text) > MAX_CHARACTERS:
            raise TemplateError(f"Cannot be sent: {_too_long(len(text))}.")
        return text

    def render_chunk(self, chunk: _Recipients) -> RenderedChunk:
        """Render a chunk of n recipients by column.

        Args:
            chunk: A :class:`~prefect_mymsp.recipients.RecipientChunk`.

        Raises:
            TemplateError: A placeholder is no column; see :meth:`check_columns`.
        """
        if not self._names:
            return self._render_shared(chunk.rows)
        columns = chunk.columns.column_names
        self.check_columns(columns, source_label="The source")
        positions = {name: columns.index(_matching_columns(name, columns)[0]) for name in self.placeholders}
        rows, rejected_rows = chunk.rows, list[RejectedRow]()
        numbers = rows.column("row").to_numpy()
        filled = np.ones(rows.num_rows, dtype=bool)
        values: dict[int, Any] = {}
        for position in dict.fromkeys(positions.values()):
            raw = _flat(chunk.columns.column(position))
            values[position] = self._trimmed(raw)
            empty = pc.equal(pc.binary_length(values[position]), 0).to_numpy(zero_copy_only=False) & filled
            if empty.any():
                filled &= ~empty
                rejected_rows += [
                    RejectedRow(int(numbers[index]), columns[position], raw[index].as_py(), _EMPTY)
                    for index in np.flatnonzero(empty).tolist()
                ]
        parts: list[Any] = [self._literals[0]]
        for name, literal in zip(self._names, self._literals[1:], strict=True):
            parts += (values[positions[name]], literal)
        texts = pc.binary_join_element_wise(*(part for part in parts if not isinstance(part, str) or part), "")
        lengths = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
        fitting = lengths <= MAX_CHARACTERS
        if not fitting.all():
            rejected_rows += [
                RejectedRow(int(numbers[index]), "", texts[index].as_py(), _too_long(int(lengths[index])))
                for index in np.flatnonzero(~fitting & filled).tolist()
            ]
        keep = filled & fitting
        if not keep.all():
            rows, texts = rows.filter(pa.array(keep)), texts.filter(pa.array(keep))
        counts, encodings = count_segments_by_column(texts)
        return RenderedChunk(
            _rendered_table(rows, texts, counts, encodings), rejected_row_table(rejected_rows), shared_text=None
        )

    def _trimmed(self, raw: Any) -> Any:
        value = pc.utf8_trim(raw, characters=_OUTER_SPACE)
        if self._transliterate:
            value = pc.utf8_trim(transliterate_column(value), characters=_OUTER_SPACE)
        return value

    def _render_shared(self, rows: Any) -> RenderedChunk:
        text = self._literals[0]
        counted = count_segments(text)
        count = rows.num_rows
        texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([text], pa.string()))
        counts = pa.array(np.full(count, counted.segments, np.int16))
        encodings = encoding_array(np.full(count, counted.encoding == "UCS-2"))
        return RenderedChunk(_rendered_table(rows, texts, counts, encodings), rejected_row_table([]), shared_text=text)


def _parse(message: str) -> tuple[list[str], list[str]]:
    """Split a message into its literal texts and the names of its placeholders."""
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
            raise TemplateError(f"The }} at position {at + 1} closes nothing. Write }}}} for a brace.")
        else:
            end = message.find("}", at)
            name = message[at + 1 : end]
            if end < 0 or "{" in name:
                raise TemplateError(f"The {{ at position {at + 1} is not closed. Write {{{{ for a brace.")
            if not name.strip(_OUTER_SPACE):
                raise TemplateError(f"The placeholder at position {at + 1} has no name. Write {{{{}}}} for two braces.")
            names.append(name.strip(_OUTER_SPACE))
            literals.append("")
            at = end + 1
    return literals, names


def _matching_columns(name: str, columns: Sequence[str]) -> list[str]:
    """Return the columns that a placeholder matches; exactly one if it can be rendered."""
    if name in columns:
        return [name]
    folded = name.casefold()
    return [column for column in columns if column.strip(_OUTER_SPACE).casefold() == folded]


def _column_fault(name: str, columns: Sequence[str]) -> str:
    matches = _matching_columns(name, columns)
    if len(matches) == 1:
        return ""
    if matches:
        return f"{{{name}}} may be {first_few(matches)}; write it exactly as one of them."
    folded = {column.strip(_OUTER_SPACE).casefold(): column for column in columns}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"{{{name}}} is no column{f'; did you mean {{{folded[close[0]]}}}?' if close else '.'}"


def _too_long(length: int) -> str:
    return f"the text has {length} characters; the gateway takes {MAX_CHARACTERS}"


def _flat(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _rendered_table(rows: Any, texts: Any, counts: Any, encodings: Any) -> pa.Table:
    return pa.table(
        {
            "row": rows.column("row"),
            "msisdn": rows.column("msisdn"),
            "text": texts,
            "segments": counts,
            "encoding": encodings,
        }
    )
