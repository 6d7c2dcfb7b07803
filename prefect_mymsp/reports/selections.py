"""The selection of an export: deliveries, or received messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from prefect_mymsp.errors import InputError
from prefect_mymsp.times import DEFAULT_TRACKING_DAYS, require_aware


@dataclass(frozen=True)
class DeliverySelection:
    """The deliveries of an export.

    Attributes:
        campaign: The name of one campaign; None for all campaigns of the account.
        since: Only messages whose request was sent at this time or later, aware.
        until: Only messages whose request was sent before this time, aware.
        new_only: Only messages whose outcome has become final since the last export to the same target.
        tracking_days: Days for which messages are tracked, see :func:`~prefect_mymsp.times.tracking_period`. While a
            message is tracked, its outcome is not final.
    """

    campaign: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    new_only: bool = False
    tracking_days: float = DEFAULT_TRACKING_DAYS

    @property
    def is_whole_campaign(self) -> bool:
        """Whether it selects one whole campaign."""
        return self.campaign is not None and self.since is None and self.until is None and not self.new_only

    def check(self) -> None:
        """Refuse an invalid period.

        Raises:
            InputError: A time has no zone, the period is empty, or ``new_only`` is combined with a period.
        """
        _check_period(self.since, self.until, new_only=self.new_only)


@dataclass(frozen=True)
class InboxSelection:
    """The received messages of an export.

    Attributes:
        since: Only messages received at this time or later, aware.
        until: Only messages received before this time, aware.
        new_only: Only messages stored in the journal since the last export to the same target.
    """

    since: datetime | None = None
    until: datetime | None = None
    new_only: bool = False

    def check(self) -> None:
        """Refuse an invalid period.

        Raises:
            InputError: A time has no zone, the period is empty, or ``new_only`` is combined with a period.
        """
        _check_period(self.since, self.until, new_only=self.new_only)


def _check_period(since: datetime | None, until: datetime | None, *, new_only: bool) -> None:
    for name, time in (("since", since), ("until", until)):
        if time is not None:
            require_aware(time, name)
    if since is not None and until is not None and since >= until:
        raise InputError("since is not before until: the period is empty.")
    if new_only and (since is not None or until is not None):
        raise InputError("new_only starts where the last export ended: leave out since and until.")
