"""Charts as SVG: this module computes the layout, and one template draws it.

Each chart is drawn twice, for a wide and for a narrow screen: the text of a wide chart that is scaled down to a phone
is too small to read. In a page the colors are the page's CSS variables, so one drawing serves light, dark and print.
Outside of a page a chart is an image with its own colors and background; see :meth:`Chart.data_uri`.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

from prefect_mymsp.reports.html.rendering import render

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

#: Colors in a page: its variables. The template's color names are the keys.
_PAGE_COLORS = {name: f"var(--{name})" for name in ("ink", "muted", "line", "accent")}
#: Colors of an image that stands alone, those of a page in its light variant.
_IMAGE_COLORS = {"ink": "#1c1e21", "muted": "#5d6268", "line": "#dfdcd4", "accent": "#0f6b5c", "paper": "#fcfbf8"}
#: Widths of the two drawings. One unit is one CSS pixel where the page has that much room.
_WIDE, _NARROW = 720, 340
_FONT_SIZE = 13
#: Width of a character, at most, on average over a label. Space is reserved by it; the real font is the reader's.
_CHARACTER = 0.58 * _FONT_SIZE
#: The spans that a bar, or the distance between two ticks, may have.
_SPANS = [
    *(timedelta(minutes=minutes) for minutes in (1, 2, 5, 10, 15, 30)),
    *(timedelta(hours=hours) for hours in (1, 2, 3, 6, 12)),
    *(timedelta(days=days) for days in (1, 2, 7, 14, 30)),
]
_DAY = timedelta(days=1)
_MAX_BARS = 48
#: The share of all values that a chart over time shows at least. A few late ones must not squeeze the others together.
_SHOWN_SHARE = 0.99


@dataclass(frozen=True)
class Bar:
    """A bar, with the text that appears when the pointer rests on it."""

    x: float
    y: float
    width: float
    height: float
    hint: str


@dataclass(frozen=True)
class Label:
    """A text at a point, followed by ``note`` in a muted color.

    Attributes:
        x: Where the text starts, has its middle or ends, by ``anchor``.
        y: Its baseline.
        text: The text.
        anchor: start, middle or end.
        color: A color name of the template.
        note: Text after it, in a muted color.
    """

    x: float
    y: float
    text: str
    anchor: str = "start"
    color: str = "muted"
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A line between two points."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass
class Drawing:
    """The elements of one SVG."""

    width: int
    height: int
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """One chart in two sizes.

    Attributes:
        title: Its heading.
        description: Its content, in one sentence.
        element_id: Prefix of the ids of its elements, unique on a page.
        wide: The drawing for a screen or a sheet of paper.
        narrow: The drawing for a phone.
        rows: The values it shows, as (label, count).
        later: How many values lie after its end and are not drawn.
    """

    title: str
    description: str
    element_id: str
    wide: Drawing
    narrow: Drawing
    rows: tuple[tuple[str, int], ...]
    later: int = 0

    def svg(self, size: str) -> Markup:
        """One drawing as an element of a page, in the page's colors and font; ``size`` is wide or narrow."""
        return self._render(self.wide if size == "wide" else self.narrow, f"{self.element_id}-{size}", _PAGE_COLORS)

    def data_uri(self) -> str:
        """The wide drawing as the address of an image, with its own colors, for places that show images."""
        svg = self._render(self.wide, self.element_id, _IMAGE_COLORS)
        return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")

    def _render(self, drawing: Drawing, element_id: str, colors: Mapping[str, str]) -> Markup:
        return render(
            "chart.svg.jinja", chart=self, drawing=drawing, id=element_id, colors=colors, font_size=_FONT_SIZE
        )


# ---- bars over time --------------------------------------------------------------------------------------------------


def over_time(times: pd.Series, zone: tzinfo, *, title: str, noun: str, element_id: str) -> Chart | None:
    """Chart the number of values per span of time; None if they all fall into one minute.

    Args:
        times: Moments, aware; missing ones do not count.
        zone: The zone of the axis.
        title: The chart's heading.
        noun: The counted things, in the plural.
        element_id: Prefix of the ids of its elements, unique on the page.
    """
    import numpy as np
    import pandas as pd

    present = times.dropna().sort_values()
    if present.empty or present.iloc[-1] - present.iloc[0] < _SPANS[0]:
        return None
    edges, span = _edges(present, zone)
    boundaries = pd.DatetimeIndex([edge.astimezone(UTC) for edge in edges]).as_unit("us").asi8
    values = present.astype("datetime64[us, UTC]").astype("int64").to_numpy()
    counts = np.histogram(values, bins=boundaries)[0].tolist()
    starts, end = edges[:-1], edges[-1]
    peak = counts.index(max(counts))
    description = (
        f"{sum(counts):,} {noun} from {starts[0]:%d %B %Y %H:%M} to {end:%d %B %Y %H:%M}, in steps of "
        f"{_span_words(span)}; most of them, {counts[peak]:,}, from {starts[peak]:%d %B %H:%M}."
    )
    wide = _draw_over_time(starts, counts, _WIDE, 200, most_ticks=8)
    narrow = _draw_over_time(starts, counts, _NARROW, 190, most_ticks=4)
    rows = tuple((f"{start:%Y-%m-%d %H:%M}", count) for start, count in zip(starts, counts, strict=True))
    return Chart(title, description, element_id, wide, narrow, rows, later=len(present) - sum(counts))


def _edges(present: pd.Series, zone: tzinfo) -> tuple[list[datetime], timedelta]:
    """Where the bars begin, and where the last one ends, in the axis' zone; and the span of a bar."""
    first, last = present.iloc[0], present.iloc[-1]
    nearly_last = present.iloc[min(int(len(present) * _SHOWN_SHARE), len(present) - 1)]
    # Late values are cut off only where they take more room than all the others.
    end = nearly_last if last - first > 3 * max(nearly_last - first, timedelta(minutes=10)) else last
    span = next((span for span in _SPANS if end - first < span * _MAX_BARS), _SPANS[-1])
    start = _floor(first.to_pydatetime().astimezone(zone), span)
    if span < _DAY:  # real hours, also in the night when the clocks change
        bars = int((end.to_pydatetime() - start) / span) + 1
        return [(start.astimezone(UTC) + bar * span).astimezone(zone) for bar in range(bars + 1)], span
    bars = int((end.to_pydatetime().astimezone(zone) - start) / span) + 1  # days of the calendar, of 23 to 25 hours
    return [start + bar * span for bar in range(bars + 1)], span


def _draw_over_time(
    starts: Sequence[datetime], counts: Sequence[int], width: int, height: int, *, most_ticks: int
) -> Drawing:
    drawing = Drawing(width, height)
    scale = _scale(max(counts))
    left = _text_width(f"{scale[-1]:,}") + 8
    top, bottom = _FONT_SIZE / 2 + 1, height - 2.9 * _FONT_SIZE
    for value in scale:
        y = bottom - (bottom - top) * value / scale[-1]
        drawing.lines.append(Line(left, y, width, y))
        drawing.labels.append(Label(left - 8, y + 0.36 * _FONT_SIZE, f"{value:,}", "end"))
    slot = (width - left) / len(counts)
    for index, (start, count) in enumerate(zip(starts, counts, strict=True)):
        if count:
            high = (bottom - top) * count / scale[-1]
            hint = f"{start.day} {start:%b %H:%M}: {count:,}"
            drawing.bars.append(Bar(left + (index + 0.07) * slot, bottom - high, 0.86 * slot, high, hint))
    for index, text, date in _ticks(starts, most_ticks):
        x = left + index * slot
        half = max(_text_width(text), _text_width(date)) / 2
        anchor, at = "middle", x
        if x - half < 0:
            anchor, at = "start", 0
        elif x + half > width:
            anchor, at = "end", width
        drawing.lines.append(Line(x, bottom, x, bottom + 5))
        drawing.labels.append(Label(at, bottom + 5 + 1.1 * _FONT_SIZE, text, anchor))
        if date:
            drawing.labels.append(Label(at, bottom + 5 + 2.25 * _FONT_SIZE, date, anchor))
    return drawing


def _scale(most: int) -> list[int]:
    """Values of the axis: from 0 to the highest count or a little above, in at most four round steps."""
    sizes = (factor * 10**power for power in itertools.count() for factor in (1, 2, 5))
    step = next(size for size in sizes if size * 4 >= most)
    return [step * number for number in range(-(-most // step) + 1)]


def _ticks(starts: Sequence[datetime], most: int) -> list[tuple[int, str, str]]:
    """The bars that begin at a tick, the tick's time, and the date below where the date changes."""
    length = starts[-1] - starts[0]
    every = next((span for span in _SPANS if length < span * most), timedelta(days=-(-length.days // most) or 1))
    ticks: list[tuple[int, str, str]] = []
    previous_floor, previous_date = None, ""
    for index, start in enumerate(starts):
        floor = _floor(start, every) if every <= _DAY else starts[0] + (start - starts[0]) // every * every
        if floor == previous_floor or (previous_floor is None and floor != start):
            previous_floor = floor
            continue
        previous_floor = floor
        date = f"{start.day} {start:%b}"
        if every >= _DAY:
            ticks.append((index, date, ""))
        else:
            ticks.append((index, f"{start:%H:%M}", "" if date == previous_date else date))
        previous_date = date
    return ticks or [(0, f"{starts[0]:%H:%M}", f"{starts[0].day} {starts[0]:%b}")]


def _floor(moment: datetime, span: timedelta) -> datetime:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if span >= _DAY else midnight + (moment - midnight) // span * span


def _span_words(span: timedelta) -> str:
    minutes = int(span.total_seconds()) // 60
    for size, name in ((1440, "day"), (60, "hour"), (1, "minute")):
        if minutes >= size:
            count = minutes // size
            return f"{count} {name}s" if count > 1 else f"{'an' if name == 'hour' else 'a'} {name}"
    return ""


# ---- bars by group ---------------------------------------------------------------------------------------------------


def by_group(rows: Sequence[tuple[str, int]], *, title: str, noun: str, element_id: str) -> Chart | None:
    """Chart the number of values per group; None if fewer than two groups have any.

    Args:
        rows: (label, count), in the order of the bars.
        title: The chart's heading.
        noun: The counted things, in the plural.
        element_id: Prefix of the ids of its elements, unique on the page.
    """
    if sum(count > 0 for _, count in rows) < 2:
        return None
    total = sum(count for _, count in rows)
    description = f"{total:,} {noun}: " + "; ".join(f"{label}: {count:,}" for label, count in rows) + "."
    wide, narrow = (_draw_by_group(rows, total, width) for width in (_WIDE, _NARROW))
    return Chart(title, description, element_id, wide, narrow, tuple(rows))


def _draw_by_group(rows: Sequence[tuple[str, int]], total: int, width: int) -> Drawing:
    row_height, bar_height, gap = 30, 18, 8
    drawing = Drawing(width, row_height * len(rows))
    left = max(_text_width(label) for label, _ in rows) + gap
    right = max(_text_width(f"{count:,}  {share(count, total)}") for _, count in rows) + gap
    longest = max(count for _, count in rows)
    for index, (label, count) in enumerate(rows):
        y = row_height * index + (row_height - bar_height) / 2
        baseline = y + bar_height / 2 + 0.36 * _FONT_SIZE
        long = (width - left - right) * count / longest
        drawing.labels.append(Label(left - gap, baseline, label, "end", "ink"))
        if count:
            drawing.bars.append(Bar(left, y, max(long, 1), bar_height, f"{label}: {count:,}"))
        drawing.labels.append(Label(left + long + gap, baseline, f"{count:,}", "start", "ink", share(count, total)))
    return drawing


def _text_width(text: str) -> float:
    return _CHARACTER * len(text)


def share(part: int, total: int) -> str:
    """A share in per cent, never rounded to nothing or to everything."""
    if not total or not part:
        return "0%"
    percent = 100 * part / total
    if part == total:
        return "100%"
    if percent < 0.1:
        return "<0.1%"
    if percent > 99.9:
        return ">99.9%"
    return f"{percent:.1f}%" if percent < 10 or percent > 99 else f"{percent:.0f}%"
