"""Return values of the flows, with DataFrames made on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefect_mymsp.blocks import CampaignJournal, open_journal

if TYPE_CHECKING:
    from pandas import DataFrame

    from prefect_mymsp.campaign import CampaignProgress
    from prefect_mymsp.journal import CampaignKey


@dataclass(frozen=True)
class CampaignStatus:
    """The state of a campaign.

    Attributes:
        campaign: Name of the campaign.
        complete: Whether nothing more will happen: no message is left to send or being sent, and each message that is
            accepted or in doubt is final or no longer tracked.
        messages: All messages; the counts from ``planned`` to ``cancelled`` add up to it.
        planned: Not sent.
        sending: A request may be under way.
        accepted: Accepted by the gateway.
        refused: Refused by the gateway.
        in_doubt: May have been sent; never sent again without evidence.
        assumed: Were in doubt, and a person resolved them as sent.
        cancelled: Cancelled at the gateway before their delivery time.
        delivered: Accepted and confirmed by the phone.
        open: Accepted, and their status may still change.
        given_up: Accepted or in doubt, and no longer tracked.
        stopped: Whether a person cancelled the campaign; planned messages will not be sent.
        todo: The next steps for a person; empty when there is nothing to do.
        problem: Why some statuses could not be fetched; None if all were.
    """

    campaign: str
    complete: bool
    messages: int
    planned: int
    sending: int
    accepted: int
    refused: int
    in_doubt: int
    assumed: int
    cancelled: int
    delivered: int
    open: int
    given_up: int
    stopped: bool
    todo: str
    problem: str | None = None
    _key: CampaignKey | None = field(default=None, repr=False, compare=False)
    _journal: CampaignJournal | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, progress: CampaignProgress, problem: str | None, journal: CampaignJournal | None) -> CampaignStatus:
        """The status of a campaign.

        Args:
            progress: Its progress, as read from the journal.
            problem: Why some statuses could not be fetched; None if all were.
            journal: The journal's block; None for the journal from the settings.
        """
        counts = progress.counts
        return cls(
            campaign=progress.campaign.name,
            complete=progress.complete,
            messages=counts.messages,
            planned=counts.planned,
            sending=counts.sending,
            accepted=counts.accepted,
            refused=counts.refused,
            in_doubt=counts.in_doubt,
            assumed=counts.assumed,
            cancelled=counts.cancelled,
            delivered=counts.delivered,
            open=progress.pending.open,
            given_up=progress.pending.given_up,
            stopped=progress.cancelled,
            todo=progress.todo(),
            problem=problem,
            _key=progress.campaign,
            _journal=journal,
        )

    @property
    def deliveries(self) -> DataFrame:
        """The current state of each message, read from the journal; columns as in a campaign's report."""
        from prefect_mymsp.reports import deliveries_frame

        assert self._key is not None  # noqa: S101  set by of()
        with open_journal(self._journal) as journal:
            return deliveries_frame(journal, self._key)


@dataclass(frozen=True)
class CollectedUpdates:
    """The result of collecting the account's updates.

    Attributes:
        delivery_reports: Delivery reports that were read. Each is a hint; the status itself is fetched from the
            gateway.
        changed: Messages whose status changed.
        linked: Requests in doubt that were found at the gateway.
        received: New messages in the inbox.
        opted_out: New messages whose sender opted out.
        unparsed: Records that could not be parsed; the journal keeps them as they came.
        postponed: Updates left for the next run, because a message they refer to could not be fetched yet.
        problem: Why the updates could not be read completely; None when they could.
        inbox: The new messages, with the columns of an inbox frame.
    """

    delivery_reports: int
    changed: int
    linked: int
    received: int
    opted_out: int
    unparsed: int
    postponed: int
    problem: str | None
    inbox: DataFrame = field(repr=False, compare=False)
