"""The inbox report as a page: messages over time and by prefix, and opt-outs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING

from prefect_mymsp.reports.html import charts
from prefect_mymsp.reports.html.charts import share
from prefect_mymsp.reports.html.page import (
    LONG,
    MEDIUM,
    SHORT,
    Figure,
    Page,
    RenderedPage,
    Rows,
    ShareRow,
    Statement,
    render_page,
)
from prefect_mymsp.reports.html.received import opt_out_messages, received_at, received_rows
from prefect_mymsp.reports.html.wording import describe_period, plural

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class InboxPage(Page):
    """The values of the template of an inbox report."""

    prefixes: Rows = field(default_factory=Rows)
    opt_outs: Rows = field(default_factory=Rows)
    messages: Rows = field(default_factory=Rows)


def inbox_page(
    inbox: pd.DataFrame,
    opt_outs: Mapping[str, datetime],
    zone: tzinfo,
    read_at: datetime,
    *,
    title: str = "Inbox",
    show_numbers: bool = False,
) -> RenderedPage:
    """An inbox report.

    Args:
        inbox: In :data:`~prefect_mymsp.reports.frames.INBOX_DTYPES`.
        opt_outs: MSISDNs that opted out, and when.
        zone: The zone of its times.
        read_at: When all this was read, aware.
        title: The title of the report.
        show_numbers: Show phone numbers in full.
    """
    page = InboxPage(
        kind="Inbox report",
        title=title,
        zone=zone,
        created_at=read_at.astimezone(zone),
        masked=not show_numbers,
        full_list_hint="export_inbox_report writes all of them as CSV, Parquet or Excel.",
    )
    if inbox.empty:
        page.verdict = [Statement("No message has been received.")]
        return render_page("inbox.html.jinja", page)
    when = received_at(inbox)
    opted_out = opt_out_messages(inbox, opt_outs)
    people, people_out = int(inbox["sender"].nunique()), int(inbox.loc[opted_out, "sender"].nunique())
    page.verdict = [Statement(f"{plural(len(inbox), 'message')} from {plural(people, 'person', 'people')}.")]
    if people_out:
        page.verdict.append(Statement(f"{plural(people_out, 'person', 'people')} opted out.", "doubt"))
    page.figures = [
        Figure("Messages", f"{len(inbox):,}"),
        Figure("People", f"{people:,}"),
        Figure("Opted out", f"{people_out:,}", share(people_out, people)),
    ]
    page.over_time = charts.over_time(when, zone, title="Messages over time", noun="messages", element_id="messages")
    later = 0 if page.over_time is None else page.over_time.later
    page.over_time_caption = describe_period(when, zone, later=later)
    prefixes = [
        ShareRow(str(prefix), int(count), share(int(count), len(inbox)), int(count) / len(inbox))
        for prefix, count in inbox["prefix"].fillna("none").value_counts().items()
    ]
    page.prefixes = Rows.first(prefixes, SHORT)
    page.opt_outs = received_rows(inbox[opted_out], opted_out[opted_out], zone, MEDIUM, show_numbers=show_numbers)
    page.messages = received_rows(inbox, opted_out, zone, LONG, show_numbers=show_numbers)
    return render_page("inbox.html.jinja", page, page.over_time)
