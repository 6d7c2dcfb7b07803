"""Source → recipients → texts → journal: what a campaign is to send, known whole before anything is sent."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefect_mymsp.errors import ChangedTextError, RepeatError
from prefect_mymsp.journal.store import Earlier, PlannedBlock, Recording, text_digest
from prefect_mymsp.recipients import REJECT_SCHEMA, Source
from prefect_mymsp.texts import Rendered, Template, count_segments

_SAMPLES = 3
#: How many texts are searched for the characters that make them UCS-2.
_LOOKED_AT = 1000

DUPLICATE_SCHEMA = pa.schema([("row", pa.int64()), ("msisdn", pa.string()), ("first_row", pa.int64())])


@dataclass(frozen=True)
class Sample:
    """A message as one recipient would get it.

    Attributes:
        row: Its line in the source.
        recipient: The MSISDN, masked.
        text: The text.
        segments: SMS it takes.
        encoding: ``GSM-7`` or ``UCS-2``.
    """

    row: int
    recipient: str
    text: str = field(repr=False)
    segments: int
    encoding: str


@dataclass(frozen=True)
class Plan:
    """What a source holds for a campaign.

    Attributes:
        source: The source's label.
        rows: Rows of the source, blank lines not counted.
        messages: Messages to send: rows without rejects and duplicates.
        segments: SMS these messages take together.
        ucs2: How many of them need UCS-2.
        longest: Segments of the longest message.
        forcing: Characters found to force UCS-2, at most 20.
        rejects: Rows that cannot be sent, in :data:`~prefect_mymsp.recipients.REJECT_SCHEMA`, by row.
        duplicates: Rows whose number and text stand further up, in :data:`DUPLICATE_SCHEMA`; sent once.
        samples: The first few messages, and the longest.
        known: Messages the campaign had already; 0 when nothing was recorded.
        new: Messages recorded now; 0 when nothing was recorded.
        withdrawn: Messages the campaign had, had not sent, and that the source no longer holds; they are dropped.
        changed: Messages whose recipient got another text of this campaign that the source no longer holds.
    """

    source: str
    rows: int
    messages: int
    segments: int
    ucs2: int
    longest: int
    forcing: tuple[str, ...]
    rejects: pa.Table = field(repr=False)
    duplicates: pa.Table = field(repr=False)
    samples: tuple[Sample, ...] = field(repr=False)
    known: int = 0
    new: int = 0
    withdrawn: int = 0
    changed: int = 0


def mask(msisdn: str) -> str:
    """An MSISDN for logs and previews: country code and the last two digits."""
    return f"{msisdn[:2]}{'•' * max(len(msisdn) - 4, 0)}{msisdn[-2:]}" if len(msisdn) > 4 else "•" * len(msisdn)


def plan_source(
    source: Source,
    template: Template,
    recording: Recording | None = None,
    *,
    allow_changed: bool = False,
    repeats_since: datetime | None = None,
) -> Plan:
    """Read a source once, block by block, check and render every row, and record it when a recording is given.

    A recording of a campaign that exists already continues it: what the source still holds stays, what it holds anew
    is added, and what it no longer holds is dropped unless it has been sent.

    Args:
        source: Where the rows come from.
        template: The message.
        recording: Where to record the messages; None to look only.
        allow_changed: Whether people who got a text of this campaign may get the changed one too.
        repeats_since: Refuse messages that another campaign of the account has sent since then, aware; None to
            allow them.

    Raises:
        TemplateError: The template needs a column the source has not.
        SourceError: The source cannot be read to its end.
        ChangedTextError: People would get a second, different text.
        RepeatError: People would get a text they got under another campaign's name.
        JournalError: The journal cannot be written.
    """
    template.check_columns(source.columns, source_label=source.label)
    tally = _Tally()
    for block in source.blocks():
        rendered = template.render_block(block)
        tally.add(block.rejects, rendered)
        if recording is not None:
            recording.add(_planned(rendered))
    plan = tally.plan(source.label, recording)
    return plan if recording is None else _continued(plan, tally, recording, allow_changed, repeats_since)


def _continued(
    plan: Plan, tally: _Tally, recording: Recording, allow_changed: bool, repeats_since: datetime | None
) -> Plan:
    """Compare with what the campaign, and other campaigns, had before; refuse what needs a person's say-so."""
    name, withdrawn, changed = recording.campaign.name, 0, list[Earlier]()
    if plan.known:
        holds = tally.holds()
        before = list(recording.planned_before())
        dropped = [
            number for (number, _), here in zip(before, holds([one for _, one in before]), strict=True) if not here
        ]
        recording.withdraw(dropped)
        withdrawn = len(dropped)
        doubled = recording.doubled()
        changed = [one for one, here in zip(doubled, holds(doubled), strict=True) if not here]
    if changed and not allow_changed:
        rows = ", ".join(str(row) for row in sorted({one.row for one in changed})[:5])
        raise ChangedTextError(
            f"{len(changed)} people have got a text of campaign {name!r} that {plan.source} now has another one for "
            f"(rows {rows}{', …' if len(changed) > 5 else ''}). Nothing was sent. Restore the text to send only what "
            "is missing, or allow changed texts to send them the new one too.",
            messages=len(changed),
        )
    if repeats_since is not None and (repeats := recording.repeats(repeats_since)):
        other, count = max(repeats, key=lambda each: each[1])
        raise RepeatError(
            f"{count} of these messages went out today under the name {other!r}. Nothing was sent. Use that name to "
            "send only what is missing, or allow the repeat.",
            messages=sum(number for _, number in repeats),
        )
    return dataclasses.replace(plan, new=recording.new() + withdrawn, withdrawn=withdrawn, changed=len(changed))


def _planned(rendered: Rendered) -> PlannedBlock:
    """A rendered block as the journal takes it: each distinct text once."""
    texts, text_of = _distinct(rendered)
    segments, encodings = _each(rendered, texts, text_of)
    return PlannedBlock(
        rows=rendered.rows.column("row").to_pylist(),
        msisdns=rendered.rows.column("msisdn").to_pylist(),
        text_of=text_of.tolist(),
        texts=texts,
        digests=[text_digest(text) for text in texts],
        encodings=encodings,
        segments=segments,
    )


def _distinct(rendered: Rendered) -> tuple[list[str], np.ndarray[Any, Any]]:
    count = rendered.rows.num_rows
    if rendered.shared_text is not None:
        return [rendered.shared_text] if count else [], np.zeros(count, dtype=np.int64)
    encoded = rendered.rows.column("text").combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def _each(rendered: Rendered, texts: Sequence[str], text_of: np.ndarray[Any, Any]) -> tuple[list[int], list[str]]:
    """Segments and encoding of each distinct text, picked from any row that has it."""
    some_row = np.zeros(len(texts), dtype=np.int64)
    some_row[text_of] = np.arange(len(text_of))
    picked = rendered.rows.take(pa.array(some_row))
    return picked.column("segments").to_pylist(), picked.column("encoding").cast(pa.string()).to_pylist()


class _Tally:
    """What is counted while a source passes by: 27 bytes a row, so that a million rows stay in bounds."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray[Any, Any]] = []
        self._numbers: list[np.ndarray[Any, Any]] = []
        self._keys: list[np.ndarray[Any, Any]] = []
        self._segments: list[np.ndarray[Any, Any]] = []
        self._ucs2: list[np.ndarray[Any, Any]] = []
        self._rejects: list[pa.Table] = []
        self._samples: list[Sample] = []
        self._longest: Sample | None = None
        self._forcing: dict[str, None] = {}
        self._looked_at = 0

    def add(self, rejects: pa.Table, rendered: Rendered) -> None:
        """Count one block."""
        self._rejects += [rejects, rendered.rejects]
        table = rendered.rows
        if not table.num_rows:
            return
        texts, text_of = _distinct(rendered)
        # Eight bytes of the digest tell apart two texts for one number; the journal compares all sixteen.
        digests = np.frombuffer(b"".join(text_digest(text)[:8] for text in texts), dtype=np.int64)
        segments = table.column("segments").to_numpy()
        ucs2 = pc.equal(table.column("encoding").cast(pa.string()), "UCS-2").to_numpy()
        self._rows.append(table.column("row").to_numpy())
        self._numbers.append(table.column("msisdn").cast(pa.int64()).to_numpy())
        self._keys.append(digests[text_of])
        self._segments.append(segments)
        self._ucs2.append(ucs2)
        self._look(table, segments, ucs2)

    def _look(self, table: pa.Table, segments: np.ndarray[Any, Any], ucs2: np.ndarray[Any, Any]) -> None:
        for index in range(min(_SAMPLES - len(self._samples), table.num_rows)):
            self._samples.append(_sample(table, index))
        longest = int(segments.argmax())
        if self._longest is None or segments[longest] > self._longest.segments:
            self._longest = _sample(table, longest)
        for index in np.flatnonzero(ucs2)[: _LOOKED_AT - self._looked_at].tolist():
            self._looked_at += 1
            self._forcing.update(dict.fromkeys(count_segments(table.column("text")[index].as_py()).forcing))

    def holds(self) -> Callable[[Sequence[Earlier]], list[bool]]:
        """A test whether messages recorded before are in this source too."""
        numbers, keys = _joined(self._numbers, np.int64), _joined(self._keys, np.int64)
        here = set(zip(numbers.tolist(), keys.tolist(), strict=True))

        def holds(messages: Sequence[Earlier]) -> list[bool]:
            return [(int(one.msisdn), int.from_bytes(one.digest[:8], sys.byteorder, signed=True)) in here
                    for one in messages]  # fmt: skip

        return holds

    def plan(self, label: str, recording: Recording | None) -> Plan:
        """All of it."""
        rejects = pa.concat_tables([*self._rejects, REJECT_SCHEMA.empty_table()]).sort_by("row")
        rows, numbers, keys = (_joined(parts, np.int64) for parts in (self._rows, self._numbers, self._keys))
        segments, ucs2 = _joined(self._segments, np.int16), _joined(self._ucs2, np.bool_)
        again, first = _repeats(numbers, keys)
        once = np.ones(len(rows), dtype=bool)
        once[again] = False
        duplicates = pa.table(
            [
                pa.array(rows[again], pa.int64()),
                pa.array(numbers[again], pa.int64()).cast(pa.string()),
                pa.array(rows[first], pa.int64()),
            ],
            schema=DUPLICATE_SCHEMA,
        ).sort_by("row")
        samples = list(self._samples)
        if self._longest is not None and all(sample.row != self._longest.row for sample in samples):
            samples.append(self._longest)
        return Plan(
            source=label,
            rows=len(rows) + rejects.num_rows,
            messages=int(once.sum()),
            segments=int(segments[once].sum(dtype=np.int64)),
            ucs2=int(ucs2[once].sum()),
            longest=int(segments.max(initial=0)),
            forcing=tuple(self._forcing)[:20],
            rejects=rejects,
            duplicates=duplicates,
            samples=tuple(samples),
            known=0 if recording is None else recording.known,
            new=0 if recording is None else recording.new(),
        )


def _sample(table: pa.Table, index: int) -> Sample:
    row, msisdn, text, segments, encoding = (
        table.column(name)[index].as_py() for name in ("row", "msisdn", "text", "segments", "encoding")
    )
    return Sample(row, mask(msisdn), text, segments, encoding)


def _joined(parts: Sequence[np.ndarray[Any, Any]], dtype: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([np.empty(0, dtype), *parts])


def _repeats(
    numbers: np.ndarray[Any, Any], keys: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Positions of every pair that stood before, and the position where each stood first."""
    order = np.lexsort((keys, numbers))  # stable: equal pairs stay in the order of the source
    same = (numbers[order][1:] == numbers[order][:-1]) & (keys[order][1:] == keys[order][:-1])
    begins = np.flatnonzero(np.concatenate([[True], ~same])) if len(order) else np.empty(0, np.int64)
    group = np.cumsum(np.concatenate([[True], ~same])) - 1 if len(order) else np.empty(0, np.int64)
    repeated = np.flatnonzero(same) + 1
    return order[repeated], order[begins[group[repeated]]]
