"""Charts: what they count, how they look, and what they say to those who cannot see them."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from prefect_mymsp.reports.html import charts
from prefect_mymsp.reports.html.charts import Chart, Drawing
from tests.unit.reports.html.report_pages import BEGAN, ZONE, delivery_data, parse_delivery_page

SVG = "{http://www.w3.org/2000/svg}"


def over_time(times: pd.Series) -> Chart:
    chart = charts.over_time(times, ZONE, title="Deliveries over time", noun="deliveries", element_id="test")
    assert chart is not None
    return chart


def every_minute(start: str, minutes: int) -> pd.Series:
    return pd.Series(pd.date_range(start, periods=minutes, freq="1min", tz="UTC").as_unit("us"))


def by_group(rows: list[tuple[str, int]]) -> Chart:
    chart = charts.by_group(rows, title="Time to delivery", noun="deliveries", element_id="test")
    assert chart is not None
    return chart


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_a_chart_in_a_page_has_the_pages_colors_and_font() -> None:
    for chart in (over_time(every_minute("2030-01-31 08:30", 100)), by_group([("one", 3), ("two", 4)])):
        for size in ("wide", "narrow"):
            svg = str(chart.svg(size))
            assert set(re.findall(r"var\(--(\w+)\)", svg)) <= {"muted", "line", "accent", "ink"}
            assert set(re.findall(r'(?:fill|stroke)="(?!var)([^"]*)"', svg)) == set()
            assert "font-family" not in svg
            assert " width=" not in svg[: svg.index(">")]


def test_a_chart_as_an_image_has_its_own_colors_and_background() -> None:
    kind, _, encoded = by_group([("one", 3), ("two", 4)]).data_uri().partition(",")
    assert kind == "data:image/svg+xml;base64"
    root = ElementTree.fromstring(base64.b64decode(encoded))
    assert root.tag == f"{SVG}svg"
    assert (root.get("width"), root.get("viewBox")) == ("752", "-16 -12 752 84")
    assert "var(" not in base64.b64decode(encoded).decode()


def test_labels_are_escaped() -> None:
    chart = by_group([('<b>&"', 3), ("\x1b[31m", 4)])
    root = ElementTree.fromstring(base64.b64decode(chart.data_uri().partition(",")[2]))
    assert [text.text for text in root.iter(f"{SVG}text")][::2] == ['<b>&"', "\\x1b[31m"]


def test_a_chart_has_a_title_a_description_and_a_hint_for_each_bar() -> None:
    page = parse_delivery_page(delivery_data({"delivered": 30}))
    described = [value.split() for name, value in page.attributes if name == "aria-labelledby" and " " in value]
    assert len(described) == 4  # two charts in two sizes
    assert all(element_id in page.ids for pair in described for element_id in pair)
    assert "Deliveries over time 30 deliveries from 31 January 2030 09:30 to " in page.text
    assert "in steps of a minute; most of them, " in page.text
    assert "Time to delivery 30 deliveries: under 1 minute: " in page.text
    assert re.search(r"31 Jan 09:30: \d", page.text)
    headings = [tag for tag in page.tags if tag in {"h1", "h2", "h3"}]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


@pytest.mark.parametrize("minutes", [2, 7, 60, 47 * 60, 10 * 1440, 400 * 1440])
@pytest.mark.parametrize("count", [1, 99, 1_234_567])
def test_everything_lies_within_the_drawing(minutes: int, count: int) -> None:
    few = pd.Series(pd.date_range(BEGAN, BEGAN + timedelta(minutes=minutes), periods=9).as_unit("us"))
    for drawing in (over_time(few).wide, over_time(few).narrow, *drawings(count)):
        assert drawing.bars
        for bar in drawing.bars:
            assert 0 <= bar.x <= bar.x + bar.width <= drawing.width
            assert 0 <= bar.y <= bar.y + bar.height <= drawing.height
            assert bar.height > 0
        for label in drawing.labels:
            width = charts._text_width(f"{label.text} {label.note}" if label.note else label.text)
            start = label.x - {"start": 0, "middle": width / 2, "end": width}[label.anchor]
            assert start >= 0
            assert start + width <= drawing.width
            assert label.y <= drawing.height


def drawings(count: int) -> list[Drawing]:
    chart = by_group([("15 to 60 minutes", count), ("over a day", 1)])
    return [chart.wide, chart.narrow]


@pytest.mark.parametrize(
    ("most", "scale"),
    [
        (1, [0, 1]),
        (4, [0, 1, 2, 3, 4]),
        (5, [0, 2, 4, 6]),
        (26, [0, 10, 20, 30]),
        (100, [0, 50, 100]),
        (101, [0, 50, 100, 150]),
        (7_300, [0, 2_000, 4_000, 6_000, 8_000]),
    ],
)
def test_the_scale_has_round_steps(most: int, scale: list[int]) -> None:
    assert charts._scale(most) == scale


@pytest.mark.parametrize(
    ("start", "minutes", "ticks"),
    [
        ("2030-01-31 08:03", 12, ["09:04", "09:06", "09:08", "09:10", "09:12", "09:14"]),
        ("2030-01-31 22:30", 100, ["23:30", "23:45", "00:00", "00:15", "00:30", "00:45", "01:00"]),
        ("2030-01-31 08:00", 4 * 1440, ["1 Feb", "2 Feb", "3 Feb", "4 Feb"]),
    ],
)
def test_ticks_stand_at_round_times(start: str, minutes: int, ticks: list[str]) -> None:
    drawing = over_time(every_minute(start, minutes)).wide
    texts = [label.text for label in drawing.labels if ":" in label.text or "Feb" in label.text or "Jan" in label.text]
    assert [text for text in texts if ":" in text or minutes > 1440] == ticks


def test_the_date_stands_below_the_first_tick_and_where_it_changes() -> None:
    drawing = over_time(every_minute("2030-01-31 22:30", 100)).wide
    assert [label.text for label in drawing.labels if "Jan" in label.text or "Feb" in label.text] == ["31 Jan", "1 Feb"]


# -- counting ----------------------------------------------------------------------------------------------------------


def test_every_value_is_counted_once() -> None:
    chart = over_time(pd.Series(pd.date_range(BEGAN, periods=300, freq="20s")))
    assert "300 deliveries" in chart.description
    assert sum(count for _, count in chart.rows) == 300
    assert chart.later == 0


def test_times_in_the_night_when_an_hour_comes_twice() -> None:
    chart = over_time(pd.Series(pd.date_range("2030-10-26T20:00Z", periods=12, freq="h")))
    assert sum(count for _, count in chart.rows) == 12
    assert max(count for _, count in chart.rows) <= 2


@pytest.mark.parametrize("night", ["2026-03-28 22:00", "2026-10-24 22:00"])
@pytest.mark.parametrize("hours", [2, 5, 9, 20, 47])
def test_bars_are_equally_long_when_the_clocks_change(night: str, hours: int) -> None:
    chart = over_time(every_minute(night, hours * 60))
    counts = [count for _, count in chart.rows]
    assert sum(counts) == hours * 60
    assert max(counts) == counts[1]
    assert len(set(counts[1:-1])) == 1


@pytest.mark.parametrize("zone", ["Europe/Stockholm", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("start", [datetime(2026, 3, 1, 0, 30, tzinfo=UTC), datetime(2026, 10, 1, 22, 30, tzinfo=UTC)])
def test_no_day_is_left_out_when_the_clocks_change(zone: str, start: datetime) -> None:
    times = pd.Series(pd.date_range(start, periods=45 * 24, freq="h").as_unit("us"))
    chart = charts.over_time(times, ZoneInfo(zone), title="", noun="deliveries", element_id="days")
    assert chart is not None
    assert (sum(count for _, count in chart.rows), chart.later) == (len(times), 0)


def test_a_few_late_values_are_left_out() -> None:
    soon = pd.Series(pd.date_range(BEGAN, periods=1000, freq="s"))
    late = pd.Series([pd.Timestamp(BEGAN + timedelta(days=3))])
    chart = over_time(pd.concat([soon, late]))
    assert chart.later == 1
    assert len(chart.rows) > 10


def test_nothing_to_compare_is_no_chart() -> None:
    for times in (pd.Series([], dtype="datetime64[us, UTC]"), pd.Series([pd.Timestamp(BEGAN)])):
        assert charts.over_time(times, ZONE, title="", noun="deliveries", element_id="x") is None
    assert charts.by_group([("a", 0), ("b", 3)], title="", noun="deliveries", element_id="x") is None


@pytest.mark.parametrize(
    ("part", "total", "text"),
    [(0, 0, "0%"), (0, 9, "0%"), (9, 9, "100%"), (1, 100_000, "<0.1%"), (99_999, 100_000, ">99.9%"), (1, 3, "33%"),
     (1, 30, "3.3%"), (995, 1000, "99.5%")],
)  # fmt: skip
def test_a_share_is_never_rounded_to_nothing_or_everything(part: int, total: int, text: str) -> None:
    assert charts.share(part, total) == text
