"""Reports to look at: one HTML file each, without scripts and without anything from the network.

What is shown is worked out here, by column, from the frames; the templates only lay it out, and escape all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

from prefect_mymsp.phone import mask_number, mask_numbers
from prefect_mymsp.reports.charts import Chart
from prefect_mymsp.reports.sanitize import escape_control_characters

if TYPE_CHECKING:
    import pandas as pd

#: Rows of a table, at most: a page is to be read. Of one at the end, of one before others, and of one of few words.
LONG, MIDDLING, SHORT = 100, 25, 12


@dataclass(frozen=True)
class Part:
    """A part of the sentence that says it all, in its tone: ``doubt``, ``bad`` or none."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Figure:
    """A number that is looked at first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Slice:
    """A part of all: how many, of how many, and how long its bar is (0 to 1)."""

    label: str
    count: int
    share: str
    part: float
    of: int = 0


@dataclass(frozen=True)
class Letter:
    """A message somebody wrote."""

    at: datetime | None
    sender: str
    prefix: str
    text: str
    opted_out: bool


@dataclass(frozen=True)
class Listed:
    """As many rows as are shown, and how many there are beyond them."""

    rows: Sequence[Any] = ()
    beyond: int = 0


NOTHING = Listed()


@dataclass
class Page:
    """What both kinds of report have."""

    kind: str
    title: str
    zone: tzinfo
    made_at: datetime
    masked: bool
    verdict: list[Part] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    all_of_it: str = ""
    over_time: Chart | None = None
    over_time_caption: str = ""


# ---- messages that people wrote --------------------------------------------------------------------------------------


def opted_out(letters: pd.DataFrame, opt_outs: Mapping[str, datetime]) -> pd.Series[bool]:
    """Which messages are those with which their writers opted out."""
    import pandas as pd

    since = pd.to_datetime(number(letters["sender"]).map(dict(opt_outs)), utc=True)
    when = letters["received_at"].fillna(letters["stored_at"])
    # The gateway tells whole minutes.
    told: pd.Series[bool] = since.dt.floor("min") == when.dt.floor("min")
    return told & since.notna()


def number(senders: pd.Series) -> pd.Series[str]:
    """Originators without the plus sign that some gateways write."""
    return senders.str.replace("+", "", regex=False)


def letters(frame: pd.DataFrame, opted: pd.Series[bool], zone: tzinfo, most: int, *, show_numbers: bool) -> Listed:
    """Received messages, the newest first."""
    when = frame["received_at"].fillna(frame["stored_at"])
    newest = when.sort_values(ascending=False, kind="stable").index[:most]
    shown = frame.loc[newest, ["sender", "prefix", "text"]].fillna("")
    rows = [
        Letter(
            at.to_pydatetime().astimezone(zone),
            who if show_numbers else mask_number(who),
            prefix,
            text if show_numbers else mask_numbers(text),
            bool(out),
        )
        for at, who, prefix, text, out in zip(
            when[newest], shown["sender"], shown["prefix"], shown["text"], opted[newest], strict=True
        )
    ]
    return Listed(rows, max(len(frame) - most, 0))


# ---- words -----------------------------------------------------------------------------------------------------------


def span_caption(times: pd.Series, chart: Chart | None, zone: tzinfo) -> str:
    """When the first and the last of what a chart shows were."""
    low, high = (time.to_pydatetime().astimezone(zone) for time in (times.min(), times.max()))
    if len(times.dropna()) == 1 or moment(low) == moment(high):
        return f"{'All' if len(times.dropna()) > 1 else 'The only one'} at {moment(low)}."
    told = f"The first at {moment(low)}, the last at {moment(high)}."
    beyond = 0 if chart is None else chart.beyond
    return f"{told} {many(beyond, 'later one is', 'later ones are')} not drawn." if beyond else told


def moment(time: datetime) -> str:
    """A moment as a person reads it, to the minute, in its own zone."""
    return f"{time.day} {time:%B %Y, %H:%M}"


def within(seconds: float) -> str:
    """The span that a latency surely lies in: the gateway cuts its minutes off, so up to one more is possible."""
    minutes = -int(-(seconds + 60) // 60)
    if minutes < 120:
        return f"{minutes:,} min"
    hours = -(-minutes // 60)
    return f"{hours:,} h" if hours < 48 else f"{-(-hours // 24):,} days"


def many(count: int, one: str, several: str | None = None) -> str:
    """A count and what is counted."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def first(rows: Sequence[Any], most: int) -> Listed:
    """The first rows, and how many there are beyond."""
    return Listed(rows[:most], max(len(rows) - most, 0))


@dataclass(frozen=True)
class Made:
    """A finished page.

    Attributes:
        html: All of it, one file.
        charts: The charts it shows, by their titles.
    """

    html: str
    charts: tuple[tuple[str, Chart], ...] = ()


def made(template: str, page: Page, *charts: tuple[str, Chart | None]) -> Made:
    """A page as HTML; every value is escaped, its control characters shown.

    Args:
        template: Which page it is.
        page: What is on it.
        charts: Which of it are charts, with their titles; None for one that is not drawn.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prefect_mymsp.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": lambda text: escape_control_characters(str(text)),
        "count": lambda number: f"{number:,}",
        "moment": moment,
        "brief": lambda time: f"{time.day} {time:%b %Y %H:%M}",
        "drawn": Markup,  # charts: their labels are ours, and matplotlib escapes them
    }
    drawn = tuple((title, chart) for title, chart in charts if chart is not None)
    return Made(environment.get_template(template).render(page=page), drawn)
