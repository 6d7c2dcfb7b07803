"""Decisions about a whole campaign: its start time, full acceptance, and its approval."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect_mymsp.errors import CampaignStoppedError, InputError, LimitError, NotApprovedError

if TYPE_CHECKING:
    from prefect_mymsp.campaign.plan import Plan
    from prefect_mymsp.journal import Counts


def check_start_time(
    campaign: str, *, scheduled_at: datetime, last_active: datetime | None, now: datetime, max_late_minutes: float
) -> None:
    """Refuse a run that starts long after its scheduled time: the message may be out of date by then.

    A campaign that was being sent a short while ago is not late: a crash must not end it.

    Args:
        campaign: The campaign's name.
        scheduled_at: When the run was scheduled to start, aware.
        last_active: When the campaign was last being sent, aware; None when it never was.
        now: The present, aware.
        max_late_minutes: How late a run may start.

    Raises:
        LimitError: The run starts later than that.
    """
    since = scheduled_at if last_active is None else max(scheduled_at, last_active)
    late_minutes = (now - since).total_seconds() / 60
    if late_minutes <= max_late_minutes:
        return
    event = "was last being sent" if since is last_active else "was scheduled to start"
    raise LimitError(
        f"Campaign {campaign!r} {event} at {since.astimezone(UTC):%Y-%m-%d %H:%M} UTC, {_duration(late_minutes)} ago; "
        f"max_late_minutes allows {_duration(max_late_minutes)}. Nothing was sent by this run. To send it anyway, "
        f"start it again under the name {campaign!r} with a larger max_late_minutes."
    )


def _duration(minutes: float) -> str:
    rounded = math.ceil(minutes)
    return f"{rounded // 60} h {rounded % 60:02} min" if rounded >= 60 else f"{rounded} min"


def check_all_accepted(campaign: str, counts: Counts) -> None:
    """Refuse the result of an all-or-nothing campaign unless the gateway accepted every message.

    Raises:
        CampaignStoppedError: Some messages were not accepted.
    """
    if counts.accepted < counts.messages:
        raise CampaignStoppedError(
            f"The gateway accepted only {counts.accepted} of {counts.messages} messages of campaign {campaign!r}.",
            counts=dataclasses.asdict(counts),
        )


def check_same_as_approved(campaign: str, *, approved: Plan, plan: Plan) -> None:
    """Refuse a plan that differs from the one that was approved.

    Numbers that were suppressed meanwhile make no difference: fewer messages need no new approval.

    Raises:
        NotApprovedError: The recipients or their texts have changed.
    """
    if approved.digest != plan.digest:
        raise NotApprovedError(
            f"{plan.source} has changed since campaign {campaign!r} was approved. Nothing was sent. Start the campaign "
            "again to have its present version approved."
        )


def check_still_ahead(send_at: datetime | None, now: datetime) -> None:
    """Refuse a delivery time that passed while the campaign waited for approval.

    Raises:
        InputError: It has passed.
    """
    if send_at is not None and send_at <= now:
        raise InputError("send_at has passed while the campaign waited for approval. Nothing was sent.")
