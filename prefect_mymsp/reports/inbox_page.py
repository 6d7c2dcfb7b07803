"""The inbox report: who wrote, when, and what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING

from prefect_mymsp.reports import charts
from prefect_mymsp.reports.charts import share
from prefect_mymsp.reports.page import (
    LONG,
    MIDDLING,
    NOTHING,
    SHORT,
    Figure,
    Listed,
    Made,
    Page,
    Part,
    Slice,
    first,
    letters,
    made,
    many,
    opted_out,
    span_caption,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class InboxPage(Page):
    """What is on an inbox report."""

    prefixes: Listed = NOTHING
    opt_outs: Listed = NOTHING
    messages: Listed = NOTHING


def inbox_page(
    inbox: pd.DataFrame,
    opt_outs: Mapping[str, datetime],
    zone: tzinfo,
    read_at: datetime,
    *,
    title: str = "Inbox",
    show_numbers: bool = False,
) -> Made:
    """An inbox report.

    Args:
        inbox: In :data:`~prefect_mymsp.reports.frames.INBOX_DTYPES`.
        opt_outs: Numbers that want no more SMS, and since when.
        zone: The zone to show times in.
        read_at: When all this was read, aware.
        title: What the report is about.
        show_numbers: Show the numbers of the people in full.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    page = InboxPage(
        kind="Inbox report",
        title=title,
        zone=zone,
        made_at=read_at.astimezone(zone),
        masked=not show_numbers,
        all_of_it="export_inbox_report writes all of them as CSV, Parquet or Excel.",
    )
    if inbox.empty:
        page.verdict = [Part("No message has been received.")]
        return made("inbox.html.jinja", page)
    when = inbox["received_at"].fillna(inbox["stored_at"])
    opted = opted_out(inbox, opt_outs)
    people, stopped = int(inbox["sender"].nunique()), int(inbox.loc[opted, "sender"].nunique())
    page.verdict = [Part(f"{many(len(inbox), 'message')} from {many(people, 'person', 'people')}.")]
    if stopped:
        page.verdict.append(Part(f"{many(stopped, 'person', 'people')} opted out.", "doubt"))
    page.figures = [
        Figure("Messages", f"{len(inbox):,}"),
        Figure("People", f"{people:,}"),
        Figure("Opted out", f"{stopped:,}", share(stopped, people)),
    ]
    page.over_time = charts.over_time(when, zone, "messages", "volume")
    page.over_time_caption = span_caption(when, page.over_time, zone)
    counts = inbox["prefix"].fillna("none").value_counts()
    page.prefixes = first(
        [
            Slice(str(label), int(count), share(int(count), len(inbox)), int(count) / len(inbox))
            for label, count in counts.items()
        ],
        SHORT,
    )
    page.opt_outs = letters(inbox[opted], opted[opted], zone, MIDDLING, show_numbers=show_numbers)
    page.messages = letters(inbox, opted, zone, LONG, show_numbers=show_numbers)
    return made("inbox.html.jinja", page, ("Messages over time", page.over_time))
