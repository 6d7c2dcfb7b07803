"""Charts as SVG for a page: drawn by matplotlib, in the page's own colours and type.

What matplotlib draws in a placeholder's colour takes the colour of the page's variable of that name, so one drawing
serves light, dark and paper. Each chart comes twice, for a screen and for a phone: scaled down, a wide one's text could
not be read.
"""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from prefect_mymsp.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that nothing else has, and the page's variables they stand for.
_INK, _MUTED, _LINE, _ACCENT = "#010203", "#010204", "#010205", "#010206"
_VARIABLES = {_INK: "ink", _MUTED: "muted", _LINE: "line", _ACCENT: "accent"}
#: What they are on a picture that stands elsewhere.
_PALETTE = {"ink": "#1c1e21", "muted": "#5d6268", "line": "#dfdcd4", "accent": "#0f6b5c"}
_PAPER = "#fcfbf8"
#: Points from edge to edge; a point is a pixel of the page where there is room for the chart.
_WIDE, _NARROW = 720, 340
_TYPE = 13
_STEPS = [
    timedelta(minutes=1),
    timedelta(minutes=2),
    timedelta(minutes=5),
    timedelta(minutes=10),
    timedelta(minutes=15),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=12),
    timedelta(days=1),
    timedelta(days=7),
    timedelta(days=30),
]
_BARS = 48
#: What share of all a chart over time shows at least; a few stragglers must not squeeze the rest into one bar.
_SHOWN = 0.99


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        wide: Its SVG for a screen or a sheet of paper.
        narrow: Its SVG for a phone.
        alt: What it shows, in a sentence.
        beyond: How many fall outside of it, and lie later.
        rows: What it shows, as (label, count).
    """

    wide: str
    narrow: str
    alt: str
    beyond: int
    rows: tuple[tuple[str, int], ...]

    def address(self) -> str:
        """The wide drawing as an image's address, for places that show one: on paper of its own, light or dark."""
        svg = re.sub(r"var\(--(\w+)\)", lambda found: _PALETTE[found[1]], self.wide)
        width, height = (int(float(part)) for part in svg[svg.index('"') + 1 :].split('"')[0].split()[2:])
        paper = f'<rect x="-16" y="-12" width="{width + 32}" height="{height + 24}" rx="6" fill="{_PAPER}"/>'
        size = f'width="{width + 32}" height="{height + 24}" viewBox="-16 -12 {width + 32} {height + 24}"'
        opened = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif">{paper}'
        whole = opened + svg[svg.index(">") + 1 :]
        return "data:image/svg+xml;base64," + base64.b64encode(whole.encode()).decode("ascii")


def over_time(times: pd.Series, zone: tzinfo, what: str, name: str) -> Chart | None:
    """How many there were in each span of time; None when there is nothing to compare.

    Args:
        times: Moments, aware; missing ones do not count.
        zone: The zone to show them in.
        what: What is counted, in the plural.
        name: A name for the drawing that is its own on the page.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    import numpy as np
    import pandas as pd

    known = times.dropna().sort_values()
    if known.empty or known.iloc[-1] - known.iloc[0] < _STEPS[0]:
        return None
    first, last = known.iloc[0], known.iloc[-1]
    most = known.iloc[min(int(len(known) * _SHOWN), len(known) - 1)]
    # Worth it only where the stragglers take more room than all the others.
    end = most if last - first > 3 * max(most - first, timedelta(minutes=10)) else last
    step = next((one for one in _STEPS if end - first < one * _BARS), _STEPS[-1])
    begin = _floor(first.to_pydatetime().astimezone(zone), step)
    bars = int((end.to_pydatetime() - begin) / step) + 1
    if step < timedelta(days=1):  # by the hours that pass, also in the night the clocks change
        moments = [(begin.astimezone(UTC) + at * step).astimezone(zone) for at in range(bars + 1)]
    else:
        moments = [begin + at * step for at in range(bars + 1)]
    edges = pd.DatetimeIndex([moment.astimezone(UTC) for moment in moments]).as_unit("us").asi8
    counts, _ = np.histogram(known.astype("datetime64[us, UTC]").astype("int64").to_numpy(), bins=edges)
    until = moments.pop()
    peak = int(np.argmax(counts))
    span = _span(step)
    alt = (
        f"{int(counts.sum()):,} {what} from {moments[0]:%d %B %Y %H:%M} to {until:%d %B %Y %H:%M}, "
        f"in steps of {span}; most of them, {int(counts[peak]):,}, from {moments[peak]:%d %B %H:%M}."
    )

    def draw(axes: Axes, narrow: bool) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.bar(range(bars), counts, width=0.86, align="edge", color=_ACCENT, linewidth=0)
        axes.set_xlim(-0.2, bars + 0.2)
        marks = _marks(moments, 4 if narrow else 8)
        axes.set_xticks([at for at, _ in marks], [label for _, label in marks], ha="left")
        ticks = MaxNLocator(4, integer=True).tick_values(0, int(counts.max()))
        axes.set_yticks(ticks)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(0, ticks[-1])
        axes.grid(axis="y", color=_LINE, linewidth=1)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", length=5, color=_LINE)
        axes.spines["bottom"].set_color(_LINE)

    rows = tuple((f"{moment:%Y-%m-%d %H:%M}", int(count)) for moment, count in zip(moments, counts, strict=True))
    return _chart(draw, name, 200, 190, alt, len(known) - int(counts.sum()), rows)


def in_groups(rows: Sequence[tuple[str, int]], what: str, name: str) -> Chart | None:
    """How many there are in each group, a bar each; None when there is nothing to compare.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    total = sum(count for _, count in rows)
    if sum(count > 0 for _, count in rows) < 2:
        return None
    most = max(count for _, count in rows)

    def draw(axes: Axes, narrow: bool) -> None:
        places = range(len(rows))
        axes.barh(places, [count for _, count in rows], height=0.62, color=_ACCENT, linewidth=0)
        axes.set_yticks(places, [label for label, _ in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, most * (1.55 if narrow else 1.25))
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        for place, (_, count) in zip(places, rows, strict=True):
            beside: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline", "annotation_clip": False}
            number = f"{count:,}"
            axes.annotate(number, (count, place), (6, 0), **beside)
            # Where a digit is as wide as another, so much room is taken by the number.
            after = 14 + _TYPE * 0.62 * len(number)
            axes.annotate(share(count, total), (count, place), (after, 0), color=_MUTED, **beside)

    listed = "; ".join(f"{label}: {count:,}" for label, count in rows)
    height = 30 * len(rows) + 10
    return _chart(draw, name, height, height, f"{total:,} {what}: {listed}.", 0, tuple(rows))


def share(part: int, whole: int) -> str:
    """A share in per cent, never rounded to none or to all."""
    if not whole or not part:
        return "0%"
    percent = 100 * part / whole
    if part == whole:
        return "100%"
    if percent < 0.1:
        return "<0.1%"
    if percent > 99.9:
        return ">99.9%"
    return f"{percent:.1f}%" if percent < 10 or percent > 99 else f"{percent:.0f}%"


def _floor(moment: datetime, step: timedelta) -> datetime:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if step >= timedelta(days=1) else midnight + (moment - midnight) // step * step


def _span(step: timedelta) -> str:
    minutes = int(step.total_seconds()) // 60
    for size, name in ((1440, "day"), (60, "hour"), (1, "minute")):
        if minutes >= size:
            count = minutes // size
            return f"{count} {name}s" if count > 1 else f"a {name}" if name != "hour" else "an hour"
    return ""


def _marks(moments: Sequence[datetime], most: int) -> list[tuple[int, str]]:
    """Where the axis has ticks, and what they say: times of day, with the date where it changes."""
    every = -(-len(moments) // most)
    marks, before = [], None
    days = moments[-1] - moments[0] >= timedelta(days=most)
    for at, moment in itertools.islice(enumerate(moments), 0, None, every):
        date = f"{moment.day} {moment:%b}"
        label = date if days else f"{moment:%H:%M}\n{'' if date == before else date} "
        marks.append((at, label))
        before = date
    return marks


def _chart(
    draw: Callable[[Axes, bool], None],
    name: str,
    height: int,
    narrow_height: int,
    alt: str,
    beyond: int,
    rows: tuple[tuple[str, int], ...],
) -> Chart:
    wide = _svg(lambda axes: draw(axes, False), f"{name}-wide", _WIDE, height)
    narrow = _svg(lambda axes: draw(axes, True), f"{name}-narrow", _NARROW, narrow_height)
    return Chart(wide, narrow, alt, beyond, rows)


def _svg(draw: Callable[[Axes], None], name: str, width: int, height: int) -> str:
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ModuleNotFoundError:
        raise ConfigurationError("Charts need matplotlib: install prefect-mymsp[reports].") from None
    look: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "DejaVu Sans",  # comes with matplotlib: it only measures by it
        "font.size": _TYPE,
        "text.color": _INK,
        "text.parse_math": False,
        "axes.labelcolor": _MUTED,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
        "xtick.labelcolor": _MUTED,
        "ytick.labelcolor": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
    }
    with mpl.rc_context(look):
        layout = ConstrainedLayoutEngine(w_pad=0, h_pad=0.02)
        figure = Figure(figsize=(width / 72, height / 72), layout=layout)
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        return _inlined(figure, name)


def _inlined(figure: Figure, name: str) -> str:
    """A figure's SVG as an element of a page: in its colours and its type, without a size of its own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*</defs>", "", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None  # noqa: S101  matplotlib always writes one
    svg = re.sub(r"<svg[^>]*>", f'<svg {box[0]} aria-hidden="true" focusable="false">', svg, count=1, flags=re.DOTALL)
    # An id must be its own on the page, which holds several drawings.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]*|font-family: [^;\"]*;? ?", lambda found: _size(found[1]), svg)
    svg = re.sub(r"(\.[0-9]{2})[0-9]+", r"\1", svg)
    used = set(re.findall(r'(?:url\(|href=")#([\w.-]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return re.sub(r">\s+<", "><", svg).strip()


def _size(pixels: str | None) -> str:
    return f"font-size: {pixels}px" if pixels else ""
