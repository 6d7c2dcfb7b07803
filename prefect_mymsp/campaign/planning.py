"""Source → recipients → texts → journal: what a campaign is to send, known whole before anything is sent."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefect_mymsp.campaign.options import Limits
from prefect_mymsp.campaign.suppression import SuppressedNumbers
from prefect_mymsp.errors import ChangedTextError, InputError, RepeatError, TemplateError, first_few
from prefect_mymsp.journal import EarlierMessage, PlannedChunk, Recording, SourceCounts, text_digest
from prefect_mymsp.phone import mask_number
from prefect_mymsp.recipients import REJECTED_ROW_SCHEMA, Source
from prefect_mymsp.segments import SegmentCount, count_segments
from prefect_mymsp.templates import RenderedChunk, Template

#: What stands before a group's name in the journal, where an MSISDN would be.
_GROUP = "@"

_SAMPLES = 3
_SHOWN = 5
#: How many texts are searched for the characters that make them UCS-2.
_LOOKED_AT = 1000
#: How many rejected_rows the journal keeps for later reports; of a file with more, the column is wrong, not the rows.
_KEPT_REJECTS = 10_000

DUPLICATE_SCHEMA = pa.schema([("row", pa.int64()), ("msisdn", pa.string()), ("first_row", pa.int64())])
#: Rows left out because their number must get nothing; ``reason`` is a key of :attr:`SuppressedNumbers.lists`.
SUPPRESSED_SCHEMA = pa.schema([("row", pa.int64()), ("msisdn", pa.string()), ("reason", pa.string())])


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
        detected_format: How it was read, for a person; empty when there is none but groups.
        rows: Rows of the source, blank lines not counted: rejected_rows, suppressed ones, duplicates, and one for each
            message that does not go to a group.
        messages: Messages to send, one for each group among them.
        recipients: People they go to; those in groups are not known and do not count.
        segments: SMS these messages take together, a group taken for one person.
        ucs2: How many of them need UCS-2.
        longest: Segments of the longest message.
        non_gsm_characters: Characters found to force UCS-2, at most 20.
        rejected_rows: Rows that cannot be sent, in :data:`~prefect_mymsp.recipients.REJECTED_ROW_SCHEMA`, by row.
        duplicates: Rows whose number and text stand further up, in :data:`DUPLICATE_SCHEMA`; sent once.
        suppressed: Rows left out because their number must get nothing, in :data:`SUPPRESSED_SCHEMA`.
        samples: The first few messages, and the longest.
        digest: What the source holds for whom, as hexadecimal digits, whoever of them is suppressed.
        groups: Recipient groups of the gateway among the messages.
        oversize: Messages with more segments than the limits allow, and
        oversize_rows: the rows of the first few of them.
        known: Messages the campaign had already; 0 when nothing was recorded.
        new: Messages recorded now; 0 when nothing was recorded.
        withdrawn: Messages the campaign had, had not sent, and that the source no longer holds; they are dropped.
        changed: Messages whose recipient got another text of this campaign that the source no longer holds.
        waiting: Messages the campaign had already and has not sent, which the source still holds.
        conflict: What needs a person's say-so, where that was not to be refused; empty when nothing does.
    """

    source: str
    detected_format: str
    rows: int
    messages: int
    recipients: int
    segments: int
    ucs2: int
    longest: int
    non_gsm_characters: tuple[str, ...]
    rejected_rows: pa.Table = field(repr=False)
    duplicates: pa.Table = field(repr=False)
    suppressed: pa.Table = field(repr=False)
    samples: tuple[Sample, ...] = field(repr=False)
    digest: str
    groups: int = 0
    oversize: int = 0
    oversize_rows: tuple[int, ...] = ()
    known: int = 0
    new: int = 0
    withdrawn: int = 0
    changed: int = 0
    waiting: int = 0
    conflict: str = ""

    @property
    def due(self) -> int:
        """Messages that a start after this recording sends, doubt that is resolved not counted."""
        return self.new + self.waiting


def plan_campaign(
    source: Source | None,
    template: Template,
    recording: Recording | None = None,
    *,
    groups: Sequence[str] = (),
    suppressed: SuppressedNumbers | None = None,
    limits: Limits | None = None,
    allow_changed: bool = False,
    repeats_since: datetime | None = None,
    refuse: bool = True,
) -> Plan:
    """Read a source once, block by block, check and render every row, and record it when a recording is given.

    A recording of a campaign that exists already continues it: what the source still holds stays, what it holds anew
    is added, and what it no longer holds, or what must no longer be sent, is dropped unless it has been sent.

    Args:
        source: Where the rows come from; None to send to groups alone.
        template: The message.
        recording: Where to record the messages; None to look only.
        groups: Recipient groups of the gateway that get the message too.
        suppressed: Who must get nothing. Whom a group holds is not known here, so nobody in it is left out.
        limits: Messages with more segments than these allow are told by row; to refuse them is the caller's.
        allow_changed: Whether people who got a text of this campaign may get the changed one too.
        repeats_since: Refuse messages that another campaign of the account has sent since then, aware; None to
            allow them.
        refuse: Whether to refuse what needs a person's say-so; if not, the plan tells of it.

    Raises:
        TemplateError: The template needs a column the source has not, or has placeholders and goes to groups.
        SourceError: The source cannot be read to its end.
        ChangedTextError: People would get a second, different text.
        RepeatError: People would get a text they got under another campaign's name.
        JournalError: The journal cannot be written.
    """
    if groups and template.placeholders:
        raise TemplateError(
            f"{{{template.placeholders[0]}}}: a recipient group gets one text, without placeholders. Send to groups "
            "and to rows as two campaigns, or take the placeholders out."
        )
    tally = _Tally(suppressed or SuppressedNumbers({}), limits or Limits())
    if source is not None:
        template.check_columns(source.columns, source_label=source.label)
        for block in source.chunks():
            texts = tally.add(block.rejected_rows, _Texts.of(template.render_chunk(block)))
            if recording is not None:
                recording.add(texts.planned())
    if groups:
        text = template.render({})
        counted = tally.add_groups(groups, text)
        if recording is not None:
            recording.add_groups(list(groups), text, encoding=counted.encoding, segments=counted.segments)
    label = source.label if source is not None else f"groups {first_few(groups, 3)}"
    plan = tally.plan(label, "" if source is None else source.detected_format, recording)
    if recording is not None:
        kept = plan.rejected_rows.slice(0, _KEPT_REJECTS).to_pydict()
        told = list(zip(kept["row"], kept["column"], kept["reason"], strict=True))
        came_to = SourceCounts(
            plan.rows, plan.rejected_rows.num_rows, plan.duplicates.num_rows, plan.suppressed.num_rows
        )
        recording.record_source(came_to, told)
    return plan if recording is None else _continued(plan, tally, recording, allow_changed, repeats_since, refuse)


def _continued(
    plan: Plan,
    tally: _Tally,
    recording: Recording,
    allow_changed: bool,
    repeats_since: datetime | None,
    refuse: bool,
) -> Plan:
    """Compare with what the campaign, and other campaigns, had before; refuse what needs a person's say-so."""
    name, withdrawn, waiting, changed = recording.campaign.name, 0, 0, list[EarlierMessage]()
    if plan.known:
        holds = tally.holds()
        before = [*recording.planned_before(), *recording.planned_before(groups=True)]
        dropped = [
            number for (number, _), here in zip(before, holds([one for _, one in before]), strict=True) if not here
        ]
        recording.drop_planned(dropped)
        withdrawn, waiting = len(dropped), len(before) - len(dropped)
        doubled = [*recording.find_changed_texts(), *recording.find_changed_texts(groups=True)]
        changed = [one for one, here in zip(doubled, holds(doubled), strict=True) if not here]
    conflict: InputError | None = None
    if changed and not allow_changed:
        rows = ", ".join(str(row) for row in sorted({one.row for one in changed})[:5])
        conflict = ChangedTextError(
            f"{len(changed)} people have got a text of campaign {name!r} that {plan.source} now has another one for "
            f"(rows {rows}{', …' if len(changed) > 5 else ''}). Nothing was sent. Restore the text to send only what "
            "is missing, or send them the new one too with allow_changed_text.",
            messages=len(changed),
        )
    elif repeats_since is not None and (repeats := recording.find_repeats(repeats_since)):
        other, count = max(repeats, key=lambda each: each[1])
        conflict = RepeatError(
            f"{count} of these messages went out today under the name {other!r}. Nothing was sent. Use that name to "
            "send only what is missing, or send it again with allow_repeat_today.",
            messages=sum(number for _, number in repeats),
        )
    if conflict is not None and refuse:
        raise conflict
    return dataclasses.replace(
        plan,
        new=recording.added() + withdrawn,
        withdrawn=withdrawn,
        changed=len(changed),
        waiting=waiting,
        conflict="" if conflict is None else str(conflict),
    )


@dataclass(frozen=True)
class _Texts:
    """A rendered block with its distinct texts, each once.

    Attributes:
        rendered: The block.
        texts: The distinct texts.
        text_of: Index into ``texts`` for each row.
        digests: What identifies each of ``texts``.
    """

    rendered: RenderedChunk
    texts: list[str]
    text_of: np.ndarray[Any, Any]
    digests: list[bytes]

    @classmethod
    def of(cls, rendered: RenderedChunk) -> _Texts:
        texts, text_of = _distinct(rendered)
        return cls(rendered, texts, text_of, [text_digest(text) for text in texts])

    def without(self, rows: np.ndarray[Any, np.dtype[np.bool_]]) -> _Texts:
        """The same without some of its rows."""
        kept = self.rendered.rows.filter(pa.array(~rows))
        return _Texts.of(dataclasses.replace(self.rendered, rows=kept))

    def keys(self) -> np.ndarray[Any, Any]:
        """Eight bytes for each row's text: they tell two texts for one number apart; the journal compares all."""
        keys: np.ndarray[Any, Any] = np.frombuffer(b"".join(digest[:8] for digest in self.digests), dtype=np.int64)
        picked: np.ndarray[Any, Any] = keys[self.text_of]
        return picked

    def planned(self) -> PlannedChunk:
        """The block as the journal takes it."""
        segments, encodings = _each(self.rendered, self.texts, self.text_of)
        return PlannedChunk(
            rows=self.rendered.rows.column("row").to_pylist(),
            msisdns=self.rendered.rows.column("msisdn").to_pylist(),
            text_of=self.text_of.tolist(),
            texts=self.texts,
            digests=self.digests,
            encodings=encodings,
            segments=segments,
        )


def _distinct(rendered: RenderedChunk) -> tuple[list[str], np.ndarray[Any, Any]]:
    count = rendered.rows.num_rows
    if rendered.shared_text is not None:
        return [rendered.shared_text] if count else [], np.zeros(count, dtype=np.int64)
    encoded = rendered.rows.column("text").combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def _each(rendered: RenderedChunk, texts: Sequence[str], text_of: np.ndarray[Any, Any]) -> tuple[list[int], list[str]]:
    """SegmentCount and encoding of each distinct text, picked from any row that has it."""
    some_row = np.zeros(len(texts), dtype=np.int64)
    some_row[text_of] = np.arange(len(text_of))
    picked = rendered.rows.take(pa.array(some_row))
    return picked.column("segments").to_pylist(), picked.column("encoding").cast(pa.string()).to_pylist()


class _Tally:
    """What is counted while a source passes by: 27 bytes a row, so that a million rows stay in bounds."""

    def __init__(self, suppressed: SuppressedNumbers, limits: Limits) -> None:
        self._suppressed_by = suppressed
        self._limits = limits
        self._rows: list[np.ndarray[Any, Any]] = []
        self._numbers: list[np.ndarray[Any, Any]] = []
        self._keys: list[np.ndarray[Any, Any]] = []
        self._segments: list[np.ndarray[Any, Any]] = []
        self._ucs2: list[np.ndarray[Any, Any]] = []
        self._rejects: list[pa.Table] = []
        self._suppressed: list[pa.Table] = []
        self._groups: dict[str, bytes] = {}
        self._group_text: SegmentCount | None = None
        self._samples: list[Sample] = []
        self._longest: Sample | None = None
        self._forcing: dict[str, None] = {}
        self._looked_at = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def add(self, rejected_rows: pa.Table, texts: _Texts) -> _Texts:
        """Count one block; returns what of it may be sent."""
        self._rejects += [rejected_rows, texts.rendered.rejected_rows]
        if not texts.rendered.rows.num_rows:
            return texts
        numbers, keys = texts.rendered.rows.column("msisdn").cast(pa.int64()).to_numpy(), texts.keys()
        self._digest.update(numbers.tobytes())
        self._digest.update(keys.tobytes())
        reasons = self._suppressed_by.reasons(numbers)
        left_out = reasons >= 0
        if left_out.any():
            self._leave_out(texts.rendered.rows, left_out, reasons)
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
        self._look(table, segments, ucs2)
        return texts

    def _leave_out(self, table: pa.Table, left_out: np.ndarray[Any, Any], reasons: np.ndarray[Any, Any]) -> None:
        names = list(self._suppressed_by.lists)
        of_these = table.select(["row", "msisdn"]).filter(pa.array(left_out))
        why = pa.array([names[position] for position in reasons[left_out].tolist()], pa.string())
        self._suppressed.append(of_these.append_column("reason", why).cast(SUPPRESSED_SCHEMA))

    def add_groups(self, groups: Sequence[str], text: str) -> SegmentCount:
        """Count one message a group; returns what each costs."""
        self._groups = dict.fromkeys((f"{_GROUP}{name}" for name in groups), text_digest(text))
        self._group_text = count_segments(text)
        self._digest.update("\0".join(self._groups).encode() + text_digest(text))
        self._forcing.update(dict.fromkeys(self._group_text.non_gsm_characters))
        return self._group_text

    def _look(self, table: pa.Table, segments: np.ndarray[Any, Any], ucs2: np.ndarray[Any, Any]) -> None:
        for index in range(min(_SAMPLES - len(self._samples), table.num_rows)):
            self._samples.append(_sample(table, index))
        longest = int(segments.argmax())
        if self._longest is None or segments[longest] > self._longest.segments:
            self._longest = _sample(table, longest)
        for index in np.flatnonzero(ucs2)[: _LOOKED_AT - self._looked_at].tolist():
            self._looked_at += 1
            self._forcing.update(dict.fromkeys(count_segments(table.column("text")[index].as_py()).non_gsm_characters))

    def holds(self) -> Callable[[Sequence[EarlierMessage]], list[bool]]:
        """A test whether messages recorded before are in this source too, and may be sent."""
        numbers, keys = _joined(self._numbers, np.int64), _joined(self._keys, np.int64)
        here = set(zip(numbers.tolist(), keys.tolist(), strict=True))
        groups = self._groups

        def held(one: EarlierMessage) -> bool:
            if one.msisdn.startswith(_GROUP):
                return groups.get(one.msisdn) == one.digest
            return (int(one.msisdn), int.from_bytes(one.digest[:8], sys.byteorder, signed=True)) in here

        return lambda messages: [held(one) for one in messages]

    def plan(self, label: str, detected_format: str, recording: Recording | None) -> Plan:
        """All of it."""
        rejected_rows = pa.concat_tables([*self._rejects, REJECTED_ROW_SCHEMA.empty_table()]).sort_by("row")
        suppressed = pa.concat_tables([*self._suppressed, SUPPRESSED_SCHEMA.empty_table()]).sort_by("row")
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
        repeated = set(rows[again].tolist())
        samples = [sample for sample in self._samples if sample.row not in repeated]
        if self._longest is not None and all(sample.row != self._longest.row for sample in samples):
            samples.append(self._longest)
        allowed = self._limits.max_segments
        oversize = rows[once & (segments > allowed)] if allowed is not None else np.empty(0, np.int64)
        groups, group = len(self._groups), self._group_text or SegmentCount("GSM-7", 0, 0, ())
        return Plan(
            source=label,
            detected_format=detected_format,
            rows=len(rows) + rejected_rows.num_rows + suppressed.num_rows,
            messages=int(once.sum()) + groups,
            recipients=len(np.unique(numbers)),
            segments=int(segments[once].sum(dtype=np.int64)) + groups * group.segments,
            ucs2=int(ucs2[once].sum()) + groups * (group.encoding == "UCS-2"),
            longest=max(int(segments.max(initial=0)), group.segments),
            non_gsm_characters=tuple(self._forcing)[:20],
            rejected_rows=rejected_rows,
            duplicates=duplicates,
            suppressed=suppressed,
            samples=tuple(samples),
            digest=self._digest.hexdigest(),
            groups=groups,
            oversize=len(oversize) + groups * (allowed is not None and group.segments > allowed),
            oversize_rows=tuple(oversize[:_SHOWN].tolist()),
            known=0 if recording is None else recording.messages_before,
            new=0 if recording is None else recording.added(),
        )


def _sample(table: pa.Table, index: int) -> Sample:
    row, msisdn, text, segments, encoding = (
        table.column(name)[index].as_py() for name in ("row", "msisdn", "text", "segments", "encoding")
    )
    return Sample(row, mask_number(msisdn), text, segments, encoding)


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
