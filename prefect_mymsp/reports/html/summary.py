"""The top of a delivery report: the verdict, the figures, and the facts about the campaign."""

from __future__ import annotations

from datetime import tzinfo
from typing import TYPE_CHECKING

from prefect_mymsp.reports.frames import percentile
from prefect_mymsp.reports.html.charts import share
from prefect_mymsp.reports.html.page import Figure, Statement
from prefect_mymsp.reports.html.tally import Tally
from prefect_mymsp.reports.html.wording import format_duration, format_time, plural
from prefect_mymsp.states import ACCEPTED, CANCELLED, IN_DOUBT, PLANNED, REFUSED, SENDING

if TYPE_CHECKING:
    from prefect_mymsp.journal import CampaignSummary


def verdict(tally: Tally) -> list[Statement]:
    """The result in a few sentences; problems have a tone."""
    if not tally.messages:
        return [Statement("There are no messages to report.")]
    statements = [Statement(_delivered(tally))]
    if pending := tally.count(ACCEPTED) - tally.delivered:
        statements.append(
            Statement(f"{plural(pending, 'message was', 'messages were')} accepted but not delivered so far.")
        )
    if unsent := tally.count(PLANNED) + tally.count(SENDING):
        statements.append(Statement(f"{plural(unsent, 'message has', 'messages have')} not been sent yet."))
    if refused := tally.count(REFUSED):
        statements.append(Statement(f"The gateway refused {plural(refused, 'message')}.", "bad"))
    if in_doubt := tally.count(IN_DOUBT):
        doubt = plural(in_doubt, "message is in doubt and needs", "messages are in doubt and need")
        statements.append(Statement(f"{doubt} a decision.", "doubt"))
    if cancelled := tally.count(CANCELLED):
        statements.append(
            Statement(f"{plural(cancelled, 'message was', 'messages were')} cancelled before the send time.")
        )
    return statements


def _delivered(tally: Tally) -> str:
    if tally.messages == 1:
        return "The message was delivered." if tally.delivered else "The message has not been delivered."
    if tally.delivered == tally.messages:
        return f"All {tally.messages:,} messages were delivered."
    if not tally.delivered:
        return f"None of {tally.messages:,} messages has been delivered."
    return f"{tally.delivered:,} of {tally.messages:,} messages {'was' if tally.delivered == 1 else 'were'} delivered."


def figures(tally: Tally, price_per_segment: float | None) -> list[Figure]:
    """Four numbers: deliveries, time to delivery, segments, and messages that need attention."""
    if not tally.messages:
        return []
    shown = [Figure("Delivered", share(tally.delivered, tally.messages), f"{tally.delivered:,} of {tally.messages:,}")]
    half, most = percentile(tally.latencies, 0.5), percentile(tally.latencies, 0.95)
    if half is not None and most is not None:
        shown.append(Figure("Half delivered within", format_duration(half), f"95% within {format_duration(most)}"))
    accepted = tally.count(ACCEPTED)
    note = f"{tally.segments / accepted:.1f} per message" if tally.segments > accepted else ""
    if price_per_segment is not None:
        note = f"at {price_per_segment:g} each: {price_per_segment * tally.segments:,.2f}"
    shown.append(Figure("Segments", f"{tally.segments:,}", note))
    if in_doubt := tally.count(IN_DOUBT):
        shown.append(Figure("In doubt", f"{in_doubt:,}", "needs a decision"))
    else:
        undelivered = tally.messages - tally.delivered
        shown.append(Figure("Not delivered", f"{undelivered:,}", share(undelivered, tally.messages)))
    return shown


def campaign_facts(
    campaign: CampaignSummary, text: str | None, tally: Tally, zone: tzinfo, price_per_segment: float | None
) -> list[tuple[str, str]]:
    """The parameters of the campaign, as pairs of label and value.

    Args:
        campaign: The campaign.
        text: The text that all its messages share; None when there are several.
        tally: Its messages.
        zone: The zone to write times in.
        price_per_segment: What one segment costs.
    """
    facts = [("Source", campaign.source), ("Recorded", format_time(campaign.created_at.astimezone(zone)))]
    send_at = campaign.key.send_at
    facts.append(("Send time", "at once" if send_at is None else format_time(send_at.astimezone(zone))))
    facts.append(("Sender", campaign.key.sender or "the account's default"))
    if text is not None or tally.messages:
        facts.append(("Text", "different for each message" if text is None else text))
    if campaign.cancelled_at is not None:
        facts.append(("Cancelled", format_time(campaign.cancelled_at.astimezone(zone))))
    if price_per_segment is not None:
        cost = price_per_segment * tally.segments
        facts.append(("Cost", f"{plural(tally.segments, 'segment')} at {price_per_segment:g}: {cost:,.2f}"))
    return facts
