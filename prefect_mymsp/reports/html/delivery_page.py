"""The delivery report as a page: its data, and the page put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING

from prefect_mymsp.reports.html import charts
from prefect_mymsp.reports.html.charts import Chart
from prefect_mymsp.reports.html.failures import Failures, failures, rejected_row_table
from prefect_mymsp.reports.html.funnel import Funnel, funnel
from prefect_mymsp.reports.html.page import LONG, Page, RenderedPage, Rows, render_page
from prefect_mymsp.reports.html.received import opt_out_messages, received_rows, sender_msisdns
from prefect_mymsp.reports.html.summary import campaign_facts, figures, verdict
from prefect_mymsp.reports.html.tally import Tally
from prefect_mymsp.reports.html.timing import latency_caption, latency_groups
from prefect_mymsp.reports.html.wording import describe_period, plural

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.journal import CampaignSummary, SourceCounts


@dataclass(frozen=True)
class DeliveryData:
    """The data of a delivery report.

    Attributes:
        campaigns: The campaigns it is about, the newest first.
        complete: Whether the deliveries are all that these campaigns have.
        deliveries: In :data:`~prefect_mymsp.reports.frames.DELIVERY_DTYPES`.
        rejected_rows: In :data:`~prefect_mymsp.reports.frames.REJECTED_ROW_DTYPES`.
        inbox: Messages received since, from all senders, in :data:`~prefect_mymsp.reports.frames.INBOX_DTYPES`.
        opt_outs: MSISDNs that opted out, and when.
        text: The text that all messages share; None when there are several.
        read_at: When all this was read, aware.
        title: Its title; empty for one campaign.
    """

    campaigns: Sequence[CampaignSummary]
    complete: bool
    deliveries: pd.DataFrame
    rejected_rows: pd.DataFrame
    inbox: pd.DataFrame
    opt_outs: Mapping[str, datetime]
    text: str | None
    read_at: datetime
    title: str = ""


@dataclass(frozen=True)
class CampaignRow:
    """A campaign among several."""

    name: str
    created_at: datetime
    messages: int
    accepted: int
    delivered: int
    in_doubt: int


@dataclass
class DeliveryPage(Page):
    """The values of the template of a delivery report: ``facts`` for one campaign, ``campaigns`` for several."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    several_campaigns: bool = False
    campaigns: Rows = field(default_factory=Rows)
    funnel: Funnel = field(default_factory=Funnel)
    latency: Chart | None = None
    latency_caption: str = ""
    failures: Failures = field(default_factory=Failures)
    rejected_rows: Rows = field(default_factory=Rows)
    rejected_rows_hint: str = ""
    replies: Rows = field(default_factory=Rows)
    replies_summary: str = ""


def delivery_page(
    data: DeliveryData, zone: tzinfo, *, price_per_segment: float | None = None, show_numbers: bool = False
) -> RenderedPage:
    """A delivery report.

    Args:
        data: The data of the report.
        zone: The zone of its times.
        price_per_segment: What one segment costs.
        show_numbers: Show phone numbers in full.
    """
    campaigns, deliveries = data.campaigns, data.deliveries
    campaign = campaigns[0] if len(campaigns) == 1 else None
    tally, note = _tally(data)
    page = DeliveryPage(
        kind="Delivery report",
        title=data.title or (campaign.key.name if campaign is not None else ""),
        zone=zone,
        created_at=data.read_at.astimezone(zone),
        masked=not show_numbers,
        full_list_hint="export_delivery_report writes all of them as CSV, Parquet or Excel.",
        verdict=verdict(tally),
        figures=figures(tally, price_per_segment),
        notes=[note] if note else [],
        several_campaigns=len(campaigns) > 1,
        funnel=funnel(tally, _sources(data)),
        failures=failures(deliveries, show_numbers=show_numbers),
        rejected_rows_hint="The journal keeps the first 10,000; export_delivery_report writes them as an Excel sheet.",
    )
    if campaign is not None:
        page.facts = campaign_facts(campaign, data.text, tally, zone, price_per_segment)
    elif campaigns:
        page.campaigns = Rows.first([_campaign_row(summary, zone) for summary in campaigns], LONG)
    else:
        page.facts = [("Campaigns", "none with anything to report")]
    delivered_at = deliveries["delivered_at"]
    page.over_time = charts.over_time(
        delivered_at, zone, title="Deliveries over time", noun="deliveries", element_id="deliveries"
    )
    page.latency = charts.by_group(
        latency_groups(tally.latencies), title="Time to delivery", noun="deliveries", element_id="latency"
    )
    if tally.latencies:
        later = 0 if page.over_time is None else page.over_time.later
        page.over_time_caption = describe_period(delivered_at, zone, later=later)
        page.latency_caption = latency_caption(tally.latencies)
    rejected = sum(summary.source_rows.rejected for summary in campaigns if summary.source_rows is not None)
    page.rejected_rows = rejected_row_table(data.rejected_rows, rejected, show_numbers=show_numbers)
    page.replies, page.replies_summary = _replies(data, zone, show_numbers=show_numbers)
    return render_page("delivery.html.jinja", page, page.over_time, page.latency)


def _tally(data: DeliveryData) -> tuple[Tally, str]:
    """The counts of the report, and a note when recipients were purged and only the journal's counts are left."""
    tally = Tally.of_frame(data.deliveries)
    purged = sum(campaign.purged_at is not None for campaign in data.campaigns)
    if not purged or not data.complete:
        return tally, ""
    if purged == len(data.campaigns):
        note = "The recipients of these messages were purged; only counts are left."
    else:
        note = f"The recipients of {purged:,} of these campaigns were purged; only counts are left of them."
    return tally.with_counts([campaign.counts for campaign in data.campaigns]), note


def _sources(data: DeliveryData) -> list[SourceCounts] | None:
    """The counts of the sources, if the report covers whole campaigns and the journal has the counts."""
    sources = [campaign.source_rows for campaign in data.campaigns if campaign.source_rows is not None]
    return sources if data.complete and sources and len(sources) == len(data.campaigns) else None


def _campaign_row(campaign: CampaignSummary, zone: tzinfo) -> CampaignRow:
    counts = campaign.counts
    return CampaignRow(
        campaign.key.name,
        campaign.created_at.astimezone(zone),
        counts.messages,
        counts.accepted,
        counts.delivered,
        counts.in_doubt,
    )


def _replies(data: DeliveryData, zone: tzinfo, *, show_numbers: bool) -> tuple[Rows, str]:
    """Messages received from recipients of the report, and their counts in words."""
    inbox, recipients = data.inbox, data.deliveries["recipient"]
    senders = sender_msisdns(inbox)
    # Few people write back: look the senders up among the recipients, not the recipients among the senders.
    replies = inbox[senders.isin(recipients[recipients.isin(senders.unique())].unique())]
    if replies.empty:
        return Rows(), ""
    opted_out = opt_out_messages(replies, data.opt_outs)
    people, people_out = int(replies["sender"].nunique()), int(replies.loc[opted_out, "sender"].nunique())
    summary = (
        f"{plural(len(replies), 'message')} from {plural(people, 'recipient')} in the inbox as collected so far. "
        f"{plural(people_out, 'recipient')} opted out."
    )
    return received_rows(replies, opted_out, zone, LONG, show_numbers=show_numbers), summary
