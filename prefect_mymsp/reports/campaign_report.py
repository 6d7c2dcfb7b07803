"""A campaign's report: its counts, its deliveries, and the rows that were left out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_mymsp.reports.frames import (
    DELIVERY_DTYPES,
    DUPLICATE_ROW_DTYPES,
    REJECTED_ROW_DTYPES,
    SUPPRESSED_ROW_DTYPES,
    duplicate_rows_frame,
    empty_frame,
    rejected_rows_frame,
    suppressed_rows_frame,
)

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.campaign.plan import Plan, Sample
    from prefect_mymsp.journal import Counts


@dataclass
class CampaignReport:
    """The result of a campaign, or with ``dry_run`` its plan.

    Attributes:
        campaign: Its name.
        source: Label of its source.
        detected_format: How the source was read: the phone column, and a file's encoding and separator.
        dry_run: Whether nothing was recorded or sent.
        rows: Rows of the source.
        rejected: Rows that cannot be sent; see :attr:`rejected_rows`.
        duplicates: Rows with the number and the text of an earlier row; see :attr:`duplicate_rows`.
        suppressed: Rows with a suppressed number; see :attr:`suppressed_rows`.
        groups: Recipient groups of the gateway that this run named; each is one of the messages.
        messages: Messages of the campaign. In a dry run, this and the following counts are those of a real run.
        segments: SMS segments that the messages take.
        ucs2: Messages of this source that need UCS-2.
        recorded_before: Messages recorded by earlier runs of the campaign.
        planned: Not sent yet; in a dry run, the messages that a run would send.
        sending: Being sent by another run.
        accepted: Accepted by the gateway.
        refused: Refused by the gateway.
        in_doubt: May have been sent; not sent again without evidence.
        assumed: Were in doubt, and a person resolved them as sent.
        cancelled: Cancelled at the gateway before their send time.
        delivered: Confirmed by the phone.
        non_gsm_characters: Characters that need UCS-2, at most 20.
        samples: A few messages, with masked numbers.
        conflict: In a dry run, the conflict that would stop a run; empty if there is none.
        report_path: The deliveries as CSV; None in a dry run.
        rejected_rows_path: The rejected rows as CSV; None when there are none, and in a dry run.
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
    recorded_before: int
    planned: int
    sending: int = 0
    accepted: int = 0
    refused: int = 0
    in_doubt: int = 0
    assumed: int = 0
    cancelled: int = 0
    delivered: int = 0
    non_gsm_characters: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    conflict: str = ""
    report_path: Path | None = None
    rejected_rows_path: Path | None = None
    _rejected_rows: pd.DataFrame | None = field(default=None, repr=False)
    _duplicate_rows: pd.DataFrame | None = field(default=None, repr=False)
    _suppressed_rows: pd.DataFrame | None = field(default=None, repr=False)
    _deliveries: pd.DataFrame | None = field(default=None, repr=False)

    @classmethod
    def of(cls, name: str, plan: Plan, counts: Counts | None, deliveries: pd.DataFrame | None) -> CampaignReport:
        """The report of a plan and of the journal's counts and deliveries; without counts, of a dry run."""
        report = cls(
            campaign=name,
            source=plan.source,
            detected_format=plan.detected_format,
            dry_run=counts is None,
            rows=plan.rows,
            rejected=plan.rejected_rows.num_rows,
            duplicates=plan.duplicates.num_rows,
            suppressed=plan.suppressed.num_rows,
            groups=plan.groups,
            messages=plan.messages,
            segments=plan.segments,
            ucs2=plan.ucs2,
            recorded_before=plan.recorded_before,
            planned=plan.due if plan.recorded_before else plan.messages,
            non_gsm_characters=plan.non_gsm_characters,
            samples=plan.samples,
            conflict=plan.conflict,
            _rejected_rows=rejected_rows_frame(plan.rejected_rows, name),
            _duplicate_rows=duplicate_rows_frame(plan.duplicates),
            _suppressed_rows=suppressed_rows_frame(plan.suppressed),
            _deliveries=deliveries,
        )
        if counts is None:
            return report
        return dataclasses.replace(
            report,
            messages=counts.messages,
            planned=counts.planned,
            sending=counts.sending,
            accepted=counts.accepted,
            refused=counts.refused,
            in_doubt=counts.in_doubt,
            assumed=counts.assumed,
            cancelled=counts.cancelled,
            delivered=counts.delivered,
        )

    @property
    def deliveries(self) -> pd.DataFrame:
        """One row per message; see :func:`deliveries_frame`. Empty in a dry run."""
        return empty_frame(DELIVERY_DTYPES) if self._deliveries is None else self._deliveries

    @property
    def rejected_rows(self) -> pd.DataFrame:
        """Rows that cannot be sent; see :func:`rejected_rows_frame`."""
        return empty_frame(REJECTED_ROW_DTYPES) if self._rejected_rows is None else self._rejected_rows

    @property
    def duplicate_rows(self) -> pd.DataFrame:
        """Rows with the number and the text of an earlier row: ``row``, ``msisdn``, ``first_row``."""
        return empty_frame(DUPLICATE_ROW_DTYPES) if self._duplicate_rows is None else self._duplicate_rows

    @property
    def suppressed_rows(self) -> pd.DataFrame:
        """Rows with a suppressed number: ``row``, ``msisdn``, ``reason``.

        The reason is ``opt-out`` for people who opted out by SMS, and ``on the list`` for a suppression list.
        """
        return empty_frame(SUPPRESSED_ROW_DTYPES) if self._suppressed_rows is None else self._suppressed_rows

    def counts(self) -> dict[str, int]:
        """All counts by name, for an event; neither numbers of people nor texts."""
        values = {attribute.name: getattr(self, attribute.name) for attribute in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if type(value) is int}

    def lines(self) -> list[tuple[str, str]]:
        """The counts as pairs of label and value, for a table or a log; neither numbers of people nor texts."""
        pairs = [
            ("campaign", self.campaign),
            ("source", self.source),
            *([("format", self.detected_format)] if self.dry_run and self.detected_format else []),
            ("rows", f"{self.rows:,}"),
            ("rejected rows", f"{self.rejected:,}"),
            ("duplicate rows", f"{self.duplicates:,}"),
            *([("suppressed rows", f"{self.suppressed:,}")] if self.suppressed else []),
            ("messages", f"{self.messages:,}" + (f" ({self.groups:,} of them to groups)" if self.groups else "")),
            ("segments", f"{self.segments:,}" + (f" ({self.ucs2:,} messages in UCS-2)" if self.ucs2 else "")),
        ]
        if self.dry_run:
            if earlier := self.messages - self.planned:
                pairs += [("recorded earlier", f"{earlier:,}"), ("to send", f"{self.planned:,}")]
            return pairs
        pairs += [
            ("accepted", f"{self.accepted:,}"),
            ("delivered", f"{self.delivered:,}"),
            ("refused", f"{self.refused:,}"),
            ("in doubt", f"{self.in_doubt:,}"),
        ]
        rare = (
            ("resolved as sent", self.assumed),
            ("cancelled", self.cancelled),
            ("not sent yet", self.planned),
            ("being sent by another run", self.sending),
        )
        return [*pairs, *((label, f"{count:,}") for label, count in rare if count)]
