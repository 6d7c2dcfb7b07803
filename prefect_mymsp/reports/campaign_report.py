"""A campaign's report: its counts, its deliveries and its rejects."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_mymsp.reports.frames import (
    DELIVERY_DTYPES,
    duplicate_rows_frame,
    empty_frame,
    rejected_rows_frame,
    suppressed_rows_frame,
)

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.campaign.planning import Plan, Sample
    from prefect_mymsp.journal import Counts


@dataclass
class CampaignReport:
    """What a campaign did, or with ``dry_run`` what it would do.

    Attributes:
        campaign: Its name.
        source: Where its rows come from.
        detected_format: How that was read: the column of the numbers, and a file's encoding and separator.
        dry_run: Whether nothing was recorded or sent.
        rows: Rows of the source.
        rejected: Rows that cannot be sent; see :attr:`rejected_rows`.
        duplicates: Rows whose number and text stand further up.
        suppressed: Rows left out because their number must get nothing; see :attr:`suppressed_rows`.
        groups: Recipient groups of the gateway that this start named; each is one of the messages.
        messages: Messages of the campaign; from here on, in a dry run, what there would be.
        segments: SMS the messages take.
        ucs2: Messages of this source that need UCS-2.
        known: Messages the campaign had before this start.
        planned: Not sent yet; in a dry run, what a start would send.
        sending: On the way in another run.
        accepted: Taken by the gateway.
        refused: Refused by the gateway.
        in_doubt: May have been sent; never sent again without evidence.
        assumed: Were in doubt until a person said they were sent.
        cancelled: Taken back at the gateway before their delivery time.
        delivered: Confirmed by the phone.
        non_gsm_characters: Characters that force UCS-2, at most 20.
        samples: A few messages, numbers masked.
        conflict: In a dry run, why a start would be refused; empty when it would not.
        report_path: The delivery report as CSV; None in a dry run.
        rejected_rows_path: The rejects as CSV; None when there are none, or in a dry run.
    """

    campaign: str
    source: str
    detected_format: str
    dry_run: bool
    rows: int
    rejected: int
    duplicates: int
    suppressed: int
    groups: int
    messages: int
    segments: int
    ucs2: int
    known: int
    planned: int
    sending: int
    accepted: int
    refused: int
    in_doubt: int
    assumed: int
    cancelled: int
    delivered: int
    non_gsm_characters: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    conflict: str = ""
    report_path: Path | None = None
    rejected_rows_path: Path | None = None
    _rejects: pd.DataFrame | None = field(default=None, repr=False)
    _duplicates: pd.DataFrame | None = field(default=None, repr=False)
    _suppressed: pd.DataFrame | None = field(default=None, repr=False)
    _deliveries: pd.DataFrame | None = field(default=None, repr=False)

    @classmethod
    def of(cls, name: str, plan: Plan, counts: Counts | None, deliveries: pd.DataFrame | None) -> CampaignReport:
        """The report of a plan, and of what the journal says became of it; without counts a dry run."""
        return cls(
            campaign=name,
            source=plan.source,
            detected_format=plan.detected_format,
            dry_run=counts is None,
            rows=plan.rows,
            rejected=plan.rejected_rows.num_rows,
            duplicates=plan.duplicates.num_rows,
            suppressed=plan.suppressed.num_rows,
            groups=plan.groups,
            messages=plan.messages if counts is None else counts.messages,
            segments=plan.segments,
            ucs2=plan.ucs2,
            known=plan.known,
            planned=(plan.due if plan.known else plan.messages) if counts is None else counts.planned,
            sending=0 if counts is None else counts.sending,
            accepted=0 if counts is None else counts.accepted,
            refused=0 if counts is None else counts.refused,
            in_doubt=0 if counts is None else counts.in_doubt,
            assumed=0 if counts is None else counts.assumed,
            cancelled=0 if counts is None else counts.cancelled,
            delivered=0 if counts is None else counts.delivered,
            non_gsm_characters=plan.non_gsm_characters,
            samples=plan.samples,
            conflict=plan.conflict,
            _rejects=rejected_rows_frame(plan.rejected_rows, name),
            _duplicates=duplicate_rows_frame(plan.duplicates),
            _suppressed=suppressed_rows_frame(plan.suppressed),
            _deliveries=deliveries,
        )

    @property
    def deliveries(self) -> pd.DataFrame:
        """What became of each message; see :func:`deliveries_frame`. Empty in a dry run."""
        return empty_frame(DELIVERY_DTYPES) if self._deliveries is None else self._deliveries

    @property
    def rejected_rows(self) -> pd.DataFrame:
        """Rows that cannot be sent; see :func:`rejected_rows_frame`."""
        assert self._rejects is not None  # noqa: S101  always made by of()
        return self._rejects

    @property
    def duplicate_rows(self) -> pd.DataFrame:
        """Rows that were left out because an earlier one has the same number and text: ``row``, ``first_row``."""
        assert self._duplicates is not None  # noqa: S101  always made by of()
        return self._duplicates

    @property
    def suppressed_rows(self) -> pd.DataFrame:
        """Rows left out because their number must get nothing: ``row``, ``msisdn``, ``reason``.

        The reason is ``opt-out`` for who said so in answer to a message, else ``on the list``.
        """
        assert self._suppressed is not None  # noqa: S101  always made by of()
        return self._suppressed

    def lines(self) -> list[tuple[str, str]]:
        """The counts as pairs of label and value, for a table or a log; no numbers of people, no texts."""
        pairs = [
            ("campaign", self.campaign),
            ("source", self.source),
            *([("read as", self.detected_format)] if self.dry_run and self.detected_format else []),
            ("rows", f"{self.rows:,}"),
            ("invalid rows", f"{self.rejected:,}"),
            ("duplicate rows", f"{self.duplicates:,}"),
            *([("suppressed rows", f"{self.suppressed:,}")] if self.suppressed else []),
            ("messages", f"{self.messages:,}" + (f" ({self.groups:,} of them to groups)" if self.groups else "")),
            ("segments", f"{self.segments:,}" + (f" ({self.ucs2:,} messages in UCS-2)" if self.ucs2 else "")),
        ]
        if self.dry_run:
            if earlier := self.messages - self.planned:
                pairs += [("known from earlier starts", f"{earlier:,}"), ("left to send", f"{self.planned:,}")]
            return pairs
        pairs += [
            ("accepted", f"{self.accepted:,}"),
            ("delivered", f"{self.delivered:,}"),
            ("refused", f"{self.refused:,}"),
            ("in doubt", f"{self.in_doubt:,}"),
        ]
        rare = (
            ("settled as sent by a person", self.assumed),
            ("cancelled", self.cancelled),
            ("not sent yet", self.planned),
            ("being sent elsewhere", self.sending),
        )
        for label, count in rare:
            if count:
                pairs.append((label, f"{count:,}"))
        return pairs
