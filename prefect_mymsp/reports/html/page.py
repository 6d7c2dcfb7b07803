"""The parts of every report page: heading, verdict, figures, charts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any

from prefect_mymsp.reports.html.charts import Chart
from prefect_mymsp.reports.html.rendering import render

#: Rows that a table shows, at most: of the longest tables, of tables in the middle of a page, and of summaries.
LONG, MEDIUM, SHORT = 100, 25, 12


@dataclass(frozen=True)
class Statement:
    """A sentence of the verdict, with its tone: ``doubt``, ``bad`` or none."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Figure:
    """One of the large numbers below the verdict."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class ShareRow:
    """A row of a summary: a count, the share it is shown with, and the length of its bar, from 0 to 1."""

    label: str
    count: int
    share: str
    fraction: float
    total: int = 0


@dataclass(frozen=True)
class Rows:
    """The rows of a table that are shown, and how many more there are."""

    shown: Sequence[Any] = ()
    more: int = 0

    @classmethod
    def first(cls, rows: Sequence[Any], limit: int) -> Rows:
        """The first rows of all."""
        return cls(rows[:limit], max(len(rows) - limit, 0))


@dataclass
class Page:
    """The values that the templates of all reports share.

    Attributes:
        kind: The kind of report, for the heading.
        title: Its title.
        zone: The zone of all its times.
        created_at: When it was made, in that zone.
        masked: Whether numbers are masked.
        full_list_hint: The place of the full list, for tables that the page cuts off.
        verdict: The sentences at the top.
        figures: The large numbers below.
        notes: Sentences at the end.
        over_time: The chart over time; None when there is nothing to compare.
        over_time_caption: The text below it.
    """

    kind: str
    title: str
    zone: tzinfo
    created_at: datetime
    masked: bool
    full_list_hint: str = ""
    verdict: list[Statement] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    over_time: Chart | None = None
    over_time_caption: str = ""


@dataclass(frozen=True)
class RenderedPage:
    """A finished page.

    Attributes:
        html: All of it, one file.
        charts: The charts it shows.
    """

    html: str
    charts: tuple[Chart, ...] = ()


def render_page(template: str, page: Page, *charts: Chart | None) -> RenderedPage:
    """A page as HTML; ``charts`` are those of the page, None for one that is not drawn."""
    return RenderedPage(str(render(template, page=page)), tuple(chart for chart in charts if chart is not None))
