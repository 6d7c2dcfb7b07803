"""The plan of a campaign: a source's messages and rejected rows, counted before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

#: Rows whose number and text stand further up; ``first_row`` is where.
DUPLICATE_SCHEMA = pa.schema([("row", pa.int64()), ("msisdn", pa.string()), ("first_row", pa.int64())])
#: Rows with a suppressed number; ``reason`` is a key of :attr:`SuppressedNumbers.lists`.
SUPPRESSED_SCHEMA = pa.schema([("row", pa.int64()), ("msisdn", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class Sample:
    """A message as one recipient gets it.

    Attributes:
        row: Its line in the source.
        recipient: The MSISDN, masked.
        text: The text.
        segments: SMS segments of the text.
        encoding: ``GSM-7`` or ``UCS-2``.
    """

    row: int
    recipient: str
    text: str = field(repr=False)
    segments: int
    encoding: str


@dataclass(frozen=True)
class Plan:
    """The plan of a campaign.

    Attributes:
        source: The source's label.
        detected_format: How it was read, for a person; empty if there are groups only.
        rows: Rows of the source without blank lines: rejected rows, suppressed rows, duplicates, and one for each
            message that does not go to a group.
        messages: Messages to send, including one for each group.
        recipients: Recipients of these messages, not counting the members of groups.
        segments: SMS that are billed for these messages; a group counts as one person.
        ucs2: Messages that need UCS-2.
        longest: Segments of the longest message.
        non_gsm_characters: Characters found that make texts UCS-2, at most 20.
        rejected_rows: Rows that cannot be sent, in :data:`~prefect_mymsp.recipients.REJECTED_ROW_SCHEMA`, by row.
        duplicates: Rows whose number and text stand further up, in :data:`DUPLICATE_SCHEMA`; sent once.
        suppressed: Rows with a suppressed number, in :data:`SUPPRESSED_SCHEMA`.
        samples: The first few messages, and the longest.
        digest: Hexadecimal digits that identify which texts the source holds for which numbers, whether suppressed or
            not.
        groups: Recipient groups of the gateway among the messages.
        oversize: Messages with more segments than the limits allow.
        oversize_rows: The rows of the first few of them.
        recorded_before: Messages recorded by earlier runs of the campaign; 0 if nothing was recorded.
        new: Messages recorded now; 0 if nothing was recorded.
        dropped: Messages that the campaign had planned and the source no longer holds; they will not be sent.
        changed: Messages that were sent and that the source has replaced by another text for the same number.
        still_planned: Messages that the campaign had planned and the source still holds.
        conflict: The conflict that a person must allow before the campaign is sent, if it was not raised; else empty.
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
    recorded_before: int = 0
    new: int = 0
    dropped: int = 0
    changed: int = 0
    still_planned: int = 0
    conflict: str = ""

    @property
    def due(self) -> int:
        """Messages that the next start sends, not counting requests in doubt that are resolved meanwhile."""
        return self.new + self.still_planned
