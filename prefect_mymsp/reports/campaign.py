"""A campaign's report: its counts, its deliveries and its rejects."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_mymsp.reports.frames import DELIVERY_DTYPES, duplicates_frame, empty_frame, rejects_frame, suppressed_frame

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.campaign.plan import Plan, Sample
    from prefect_mymsp.journal import Counts


@dataclass
class CampaignReport:
    """What a campaign did, or with ``dry_run`` what it would do.

    Attributes:
        campaign: Its name.
        source: Where its rows come from.
        read_as: How that was read: the column of the numbers, and a file's encoding and separator.
        dry_run: Whether nothing was recorded or sent.
        rows: Rows of the source.
        invalid: Rows that cannot be sent; see :attr:`rejects`.
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
        rejected: Refused by the gateway.
        in_doubt: May have been sent; never sent again without evidence.
        assumed: Were in doubt until a person said they were sent.
        cancelled: Taken back at the gateway before their delivery time.
        delivered: Confirmed by the phone.
        forcing: Characters that force UCS-2, at most 20.
        samples: A few messages, numbers masked.
        objection: In a dry run, why a start would be refused; empty when it would not.
        report_path: The delivery report as CSV; None in a dry run.
        rejects_path: The rejects as CSV; None when there are none, or in a dry run.
    """

    campaign: str
    source: str
    read_as: str
    dry_run: bool
    rows: int
    invalid: int
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
    rejected: int
    in_doubt: int
    assumed: int
    cancelled: int
    delivered: int
    forcing: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    objection: str = ""
    report_path: Path | None = None
    rejects_path: Path | None = None
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
            read_as=plan.read_as,
            dry_run=counts is None,
            rows=plan.rows,
            invalid=plan.rejects.num_rows,
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
            rejected=0 if counts is None else counts.rejected,
            in_doubt=0 if counts is None else counts.in_doubt,
            assumed=0 if counts is None else counts.assumed,
            cancelled=0 if counts is None else counts.cancelled,
            delivered=0 if counts is None else counts.delivered,
            forcing=plan.forcing,
            samples=plan.samples,
            objection=plan.objection,
            _rejects=rejects_frame(plan.rejects, name),
            _duplicates=duplicates_frame(plan.duplicates),
            _suppressed=suppressed_frame(plan.suppressed),
            _deliveries=deliveries,
        )

    @property
    def deliveries(self) -> pd.DataFrame:
        """What became of each message; see :func:`deliveries_frame`. Empty in a dry run."""
        return empty_frame(DELIVERY_DTYPES) if self._deliveries is None else self._deliveries

    @property
    def rejects(self) -> pd.DataFrame:
        """Rows that cannot be sent; see :func:`rejects_frame`."""
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
            *([("read as", self.read_as)] if self.dry_run and self.read_as else []),
            ("rows", f"{self.rows:,}"),
            ("invalid rows", f"{self.invalid:,}"),
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
            ("rejected", f"{self.rejected:,}"),
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
