"""Counting a source while it is read, chunk by chunk."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prefect_mymsp.campaign.plan import DUPLICATE_SCHEMA, SUPPRESSED_SCHEMA, Plan, Sample
from prefect_mymsp.journal import PlannedChunk, text_digest
from prefect_mymsp.phone import GROUP_SIGN, mask_number
from prefect_mymsp.recipients import REJECTED_ROW_SCHEMA
from prefect_mymsp.segments import SegmentCount, count_segments

if TYPE_CHECKING:
    from prefect_mymsp.campaign.suppression import SuppressedNumbers
    from prefect_mymsp.journal import EarlierMessage
    from prefect_mymsp.templates import RenderedChunk

_SAMPLES = 3
_SHOWN_ROWS = 5
_SHOWN_CHARACTERS = 20
#: How many texts are searched for characters that make them UCS-2.
_SEARCHED_TEXTS = 1000

_NO_TEXT = SegmentCount("GSM-7", 0, 0, ())


@dataclass(frozen=True)
class DistinctTexts:
    """A rendered chunk with each of its distinct texts once.

    Attributes:
        rendered: The chunk.
        texts: The distinct texts.
        text_of: For each row, the position of its text in ``texts``.
        digests: What identifies each of ``texts`` in the journal.
    """

    rendered: RenderedChunk
    texts: list[str]
    text_of: npt.NDArray[np.int64]
    digests: list[bytes]

    @classmethod
    def of(cls, rendered: RenderedChunk) -> DistinctTexts:
        """Find the distinct texts of a chunk."""
        texts, text_of = _distinct(rendered)
        return cls(rendered, texts, text_of, [text_digest(text) for text in texts])

    def without(self, rows: npt.NDArray[np.bool_]) -> DistinctTexts:
        """Return the chunk without some of its rows."""
        kept = self.rendered.rows.filter(pa.array(~rows))
        return DistinctTexts.of(dataclasses.replace(self.rendered, rows=kept))

    def keys(self) -> npt.NDArray[np.int64]:
        """For each row, eight bytes of its text's digest: enough to distinguish the texts for one number."""
        keys: npt.NDArray[np.int64] = np.frombuffer(b"".join(digest[:8] for digest in self.digests), dtype=np.int64)
        return keys[self.text_of]

    def planned(self) -> PlannedChunk:
        """Return the chunk as the journal takes it."""
        # Segments and encoding of a text are those of any row that has it.
        row_of_text = np.zeros(len(self.texts), dtype=np.int64)
        row_of_text[self.text_of] = np.arange(len(self.text_of))
        rows = self.rendered.rows
        distinct = rows.take(pa.array(row_of_text))
        return PlannedChunk(
            rows=rows.column("row").to_pylist(),
            msisdns=rows.column("msisdn").to_pylist(),
            text_of=self.text_of.tolist(),
            texts=self.texts,
            digests=self.digests,
            encodings=distinct.column("encoding").cast(pa.string()).to_pylist(),
            segments=distinct.column("segments").to_pylist(),
        )


def _distinct(rendered: RenderedChunk) -> tuple[list[str], npt.NDArray[Any]]:
    count = rendered.rows.num_rows
    if rendered.shared_text is not None:
        return [rendered.shared_text] if count else [], np.zeros(count, dtype=np.int64)
    encoded = rendered.rows.column("text").combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


class SourceTally:
    """Counts a source while its chunks pass: 27 bytes a row, so that a million rows need little memory."""

    def __init__(self, suppressed: SuppressedNumbers, max_segments: int | None) -> None:
        self._suppressed_numbers = suppressed
        self._max_segments = max_segments
        self._rows: list[npt.NDArray[np.int64]] = []
        self._numbers: list[npt.NDArray[np.int64]] = []
        self._keys: list[npt.NDArray[np.int64]] = []
        self._segments: list[npt.NDArray[np.int16]] = []
        self._ucs2: list[npt.NDArray[np.bool_]] = []
        self._rejected_rows: list[pa.Table] = []
        self._suppressed: list[pa.Table] = []
        self._groups: dict[str, bytes] = {}
        self._group_text = _NO_TEXT
        self._samples: list[Sample] = []
        self._longest: Sample | None = None
        self._non_gsm_characters: dict[str, None] = {}
        self._searched_texts = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, rejected_rows: pa.Table, texts: DistinctTexts) -> DistinctTexts:
        """Count one chunk; returns the part of it that may be sent."""
        self._rejected_rows += [rejected_rows, texts.rendered.rejected_rows]
        if not texts.rendered.rows.num_rows:
            return texts
        numbers, keys = texts.rendered.rows.column("msisdn").cast(pa.int64()).to_numpy(), texts.keys()
        self._digest.update(numbers.tobytes())
        self._digest.update(keys.tobytes())
        reasons = self._suppressed_numbers.reasons(numbers)
        left_out = reasons >= 0
        if left_out.any():
            self._add_suppressed(texts.rendered.rows, left_out, reasons)
            numbers, keys = numbers[~left_out], keys[~left_out]
            texts = texts.without(left_out)
            if not len(numbers):
                return texts
        table = texts.rendered.rows
        segments = table.column("segments").to_numpy()
        ucs2 = pc.equal(table.column("encoding").cast(pa.string()), "UCS-2").to_numpy()
        self._rows.append(table.column("row").to_numpy())
        self._numbers.append(numbers)
        self._keys.append(keys)
        self._segments.append(segments)
        self._ucs2.append(ucs2)
        self._sample(table, segments)
        self._search(table, ucs2)
        return texts

    def _add_suppressed(self, table: pa.Table, left_out: npt.NDArray[np.bool_], reasons: npt.NDArray[np.int8]) -> None:
        names = list(self._suppressed_numbers.lists)
        rows = table.select(["row", "msisdn"]).filter(pa.array(left_out))
        row_reasons = pa.array([names[position] for position in reasons[left_out].tolist()], pa.string())
        self._suppressed.append(rows.append_column("reason", row_reasons).cast(SUPPRESSED_SCHEMA))

    def add_groups(self, groups: Sequence[str], text: str) -> SegmentCount:
        """Count one message per group; returns the segments and encoding of each."""
        self._groups = dict.fromkeys((f"{GROUP_SIGN}{name}" for name in groups), text_digest(text))
        self._group_text = count_segments(text)
        self._digest.update("\0".join(self._groups).encode() + text_digest(text))
        self._non_gsm_characters.update(dict.fromkeys(self._group_text.non_gsm_characters))
        return self._group_text

    def _sample(self, table: pa.Table, segments: npt.NDArray[np.int16]) -> None:
        for index in range(min(_SAMPLES - len(self._samples), table.num_rows)):
            self._samples.append(_sample(table, index))
        longest = int(segments.argmax())
        if self._longest is None or segments[longest] > self._longest.segments:
            self._longest = _sample(table, longest)

    def _search(self, table: pa.Table, ucs2: npt.NDArray[np.bool_]) -> None:
        for index in np.flatnonzero(ucs2)[: _SEARCHED_TEXTS - self._searched_texts].tolist():
            self._searched_texts += 1
            counted = count_segments(table.column("text")[index].as_py())
            self._non_gsm_characters.update(dict.fromkeys(counted.non_gsm_characters))

    def membership(self) -> Callable[[EarlierMessage], bool]:
        """Return a test for whether the source holds a message recorded earlier, and the message may be sent."""
        numbers, keys = _joined(self._numbers, np.int64), _joined(self._keys, np.int64)
        pairs = set(zip(numbers.tolist(), keys.tolist(), strict=True))
        groups = self._groups

        def holds(message: EarlierMessage) -> bool:
            if message.msisdn.startswith(GROUP_SIGN):
                return groups.get(message.msisdn) == message.digest
            key = int.from_bytes(message.digest[:8], sys.byteorder, signed=True)
            return (int(message.msisdn), key) in pairs

        return holds

    def plan(self, label: str, detected_format: str) -> Plan:
        """Return what was counted."""
        rejected_rows = pa.concat_tables([*self._rejected_rows, REJECTED_ROW_SCHEMA.empty_table()]).sort_by("row")
        suppressed = pa.concat_tables([*self._suppressed, SUPPRESSED_SCHEMA.empty_table()]).sort_by("row")
        rows, numbers, keys = (_joined(parts, np.int64) for parts in (self._rows, self._numbers, self._keys))
        segments, ucs2 = _joined(self._segments, np.int16), _joined(self._ucs2, np.bool_)
        repeated, first = _find_duplicates(numbers, keys)
        sent = np.ones(len(rows), dtype=bool)
        sent[repeated] = False
        duplicates = pa.table(
            [
                pa.array(rows[repeated], pa.int64()),
                pa.array(numbers[repeated], pa.int64()).cast(pa.string()),
                pa.array(rows[first], pa.int64()),
            ],
            schema=DUPLICATE_SCHEMA,
        ).sort_by("row")
        limit = self._max_segments
        oversize = rows[sent & (segments > limit)] if limit is not None else np.empty(0, np.int64)
        groups, group_text = len(self._groups), self._group_text
        return Plan(
            source=label,
            detected_format=detected_format,
            rows=len(rows) + rejected_rows.num_rows + suppressed.num_rows,
            messages=int(sent.sum()) + groups,
            recipients=len(np.unique(numbers)),
            segments=int(segments[sent].sum(dtype=np.int64)) + groups * group_text.segments,
            ucs2=int(ucs2[sent].sum()) + groups * (group_text.encoding == "UCS-2"),
            longest=max(int(segments.max(initial=0)), group_text.segments),
            non_gsm_characters=tuple(self._non_gsm_characters)[:_SHOWN_CHARACTERS],
            rejected_rows=rejected_rows,
            duplicates=duplicates,
            suppressed=suppressed,
            samples=self._distinct_samples(set(rows[repeated].tolist())),
            digest=self._digest.hexdigest(),
            groups=groups,
            oversize=len(oversize) + groups * (limit is not None and group_text.segments > limit),
            oversize_rows=tuple(oversize[:_SHOWN_ROWS].tolist()),
        )

    def _distinct_samples(self, duplicate_rows: set[int]) -> tuple[Sample, ...]:
        samples = [sample for sample in self._samples if sample.row not in duplicate_rows]
        if self._longest is not None and all(sample.row != self._longest.row for sample in samples):
            samples.append(self._longest)
        return tuple(samples)


def _sample(table: pa.Table, index: int) -> Sample:
    row, msisdn, text, segments, encoding = (
        table.column(name)[index].as_py() for name in ("row", "msisdn", "text", "segments", "encoding")
    )
    return Sample(row, mask_number(msisdn), text, segments, encoding)


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts])


def _find_duplicates(
    numbers: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the positions of every pair of number and key that stood before, and the position of its first."""
    order = np.lexsort((keys, numbers))  # stable: equal pairs stay in the order of the source
    same = (numbers[order][1:] == numbers[order][:-1]) & (keys[order][1:] == keys[order][:-1])
    starts = np.flatnonzero(np.concatenate([[True], ~same])) if len(order) else np.empty(0, np.int64)
    group = np.cumsum(np.concatenate([[True], ~same])) - 1 if len(order) else np.empty(0, np.int64)
    repeated = np.flatnonzero(same) + 1
    return order[repeated], order[starts[group[repeated]]]
