"""The reports to look at: what they say, for whom, and that nothing in them can do anything."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from prefect_mymsp.cli import app
from prefect_mymsp.journal import CampaignKey, CampaignSummary, Counts, SourceCounts
from prefect_mymsp.reports import charts
from prefect_mymsp.reports.delivery_page import DeliveryMaterial, delivery_page
from prefect_mymsp.reports.frames import DELIVERY_DTYPES, INBOX_DTYPES, REJECTED_ROW_DTYPES, empty_frame, percentile
from prefect_mymsp.reports.inbox_page import inbox_page
from prefect_mymsp.reports.page import within
from tests.unit.reports.test_sanitize import HOSTILE

ZONE = ZoneInfo("Europe/Stockholm")
BEGAN = datetime(2030, 1, 31, 8, 30, 12, 500_000, tzinfo=UTC)
MADE = datetime(2030, 1, 31, 13, 5, tzinfo=UTC)


class Page(HTMLParser):
    """A page as a parser sees it: its tags, its texts, and what its attributes hold."""

    VOID = frozenset({"meta", "link", "br", "path", "use"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.pieces: list[str] = []
        self._open: list[str] = []
        self.unclosed = ""
        self.feed(html)
        self.close()
        self.unclosed = ",".join(self._open)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.pieces))


def deliveries(states: Mapping[str, int], name: str = "Höst") -> pd.DataFrame:
    """Deliveries by what became of them; ``delivered``, ``expired`` and ``waiting`` are accepted ones."""
    rows: list[dict[str, Any]] = []
    for what, count in states.items():
        for _ in range(count):
            at = BEGAN + timedelta(seconds=3 * len(rows))
            accepted = what in {"delivered", "expired", "waiting"}
            minute = (at + timedelta(minutes=len(rows) % 7)).replace(second=0, microsecond=0)
            rows.append(
                {
                    "campaign": name,
                    "row": len(rows) + 2,
                    "recipient": f"4670174{605 + len(rows):04d}",
                    "state": "accepted" if accepted else what,
                    "text_key": "ab",
                    "segments": 2,
                    "accepted_at": at if accepted else None,
                    "sent_at": at.replace(second=0, microsecond=0) if what in {"delivered", "expired"} else None,
                    "delivered_at": minute if what == "delivered" else None,
                    "latency_s": max((minute - at).total_seconds(), 0.0) if what == "delivered" else None,
                    "status": {"waiting": "undelivered"}.get(what, what) if accepted else None,
                    "error": {
                        "refused": "28: the gateway cannot use this number",
                        "in_doubt": "may have been sent (timeout)",
                    }.get(what),
                }
            )
    return (
        empty_frame(DELIVERY_DTYPES)
        if not rows
        else pd.DataFrame(rows).reindex(columns=list(DELIVERY_DTYPES)).astype(DELIVERY_DTYPES)
    )


def material(
    states: Mapping[str, int], source: SourceCounts | None = None, *, name: str = "Höst", **more: Any
) -> DeliveryMaterial:
    frame = deliveries(states, name)
    count = frame["state"].value_counts().to_dict()
    counts = Counts(
        len(frame),
        **{state: int(count.get(state, 0)) for state in
           ("planned", "sending", "accepted", "refused", "in_doubt", "assumed", "cancelled")},
        delivered=states.get("delivered", 0), final=0, segments=2 * int(count.get("accepted", 0)),
    )  # fmt: skip
    summary = CampaignSummary(
        CampaignKey(1, name, "a" * 32, None, None), BEGAN, "kunder.csv", BEGAN, None, None, source, counts
    )
    values: dict[str, Any] = {
        "campaigns": [summary],
        "whole": True,
        "deliveries": frame,
        "rejected_rows": empty_frame(REJECTED_ROW_DTYPES),
        "inbox": empty_frame(INBOX_DTYPES),
        "opt_outs": {},
        "text": "Hej!",
        "read_at": MADE,
    }
    return DeliveryMaterial(**{**values, **more})


def rejected_rows(count: int, reason: str = "the number is missing", column: str = "Mobil") -> pd.DataFrame:
    values = {"campaign": "Höst", "row": range(3, count + 3), "column": column, "value": None, "reason": reason}
    return pd.DataFrame(values, index=range(count)).astype(REJECTED_ROW_DTYPES)


def letters(*texts: str, sender: str = "+46701740605") -> pd.DataFrame:
    times = [BEGAN.replace(second=0, microsecond=0) + timedelta(minutes=10 + at) for at in range(len(texts))]
    values = {"message_id": map(str, range(len(texts))), "received_at": times, "stored_at": MADE, "text": texts}
    frame = pd.DataFrame({**values, "sender": sender, "prefix": "KLINIK", "kind": "SMS"}, index=range(len(texts)))
    return frame.reindex(columns=list(INBOX_DTYPES)).astype(INBOX_DTYPES)


def shown(what: DeliveryMaterial, **options: Any) -> Page:
    page = Page(delivery_page(what, ZONE, **options).html)
    check(page)
    return page


def check(page: Page) -> None:
    """What holds for every page."""
    assert page.unclosed == ""
    assert not {"script", "img", "iframe", "object", "embed", "form", "input", "a", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"href", "src", "xlink:href"}:
            assert value.startswith(("#", "data:,"))
        assert "http" not in value.replace("http-equiv", "").replace("http://www.w3.org", "") or name == "aria-label"
    assert len(page.ids) == len(set(page.ids))


# -- what a delivery report says ---------------------------------------------------------------------------------------


def test_the_whole_way_is_told() -> None:
    states = {"delivered": 90, "expired": 3, "waiting": 2, "refused": 2, "in_doubt": 2, "cancelled": 1}
    text = shown(material(states, SourceCounts(109, 5, 3, 1))).text
    assert "90 of 100 messages were delivered. 5 messages were accepted and not delivered so far." in text
    assert "The gateway refused 2. 2 may or may not have been sent and wait for a person." in text
    assert "Rows of the source 109 100%" in text
    assert "Valid 5 cannot be sent, 3 repeat an earlier one, 1 must get nothing 100 92%" in text
    assert "Accepted 2 refused, 2 in doubt, 1 taken back 95 87%" in text
    assert "Sent 2 wait at the gateway 93 85%" in text
    assert "Delivered 3 not confirmed 90 83%" in text
    for reason in (
        "sent; the gateway says “expired” 3 3.0%",
        "waits at the gateway, which says “undelivered” 2 2.0%",
        "28: the gateway cannot use this number 2 2.0%",
        "may have been sent (timeout) 2 2.0%",
        "taken back before its delivery time 1 1.0%",
    ):
        assert reason in text
    assert "Text Hej!" in text
    assert "31 January 2030, 09:30" in text
    assert "Europe/Stockholm" in text
    assert "prefect-mymsp resolve 'Höst' --credentials NAME" in text


@pytest.mark.parametrize("name", ["Höst", "it's; rm -rf / $HOME `id`", "--help", '"quoted"'])
def test_what_to_do_about_doubt_is_a_command_that_works(name: str) -> None:
    text = shown(material({"in_doubt": 1}, name=name)).text
    (told,) = re.findall(r"See all of them: (prefect-mymsp .*?) If they were sent", text)
    words = shlex.split(told)
    _, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
    assert bound.arguments["campaign"] == name


def test_a_campaign_without_messages_has_no_text() -> None:
    assert "each message its own" not in shown(material({}, text=None)).text
    assert "Text each message its own" in shown(material({"accepted": 2}, text=None)).text


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ({}, "There are no messages to report on."),
        ({"delivered": 1}, "The message was delivered."),
        ({"planned": 1}, "The message has not been delivered. 1 message has not been sent yet."),
        ({"delivered": 2}, "All 2 messages were delivered."),
        ({"expired": 2}, "None of 2 messages has been delivered. 2 messages were accepted and not delivered so far."),
        ({"delivered": 1, "in_doubt": 1}, "1 of 2 messages was delivered. 1 may or may not have been sent and waits"),
        ({"delivered": 1, "assumed": 1}, "1 of 2 messages was delivered. "),
        ({"delivered": 1, "cancelled": 1}, "1 of 2 messages was delivered. 1 was taken back before the delivery time."),
    ],
    ids=str,
)
def test_the_first_sentence(states: Mapping[str, int], verdict: str) -> None:
    assert verdict in shown(material(states, SourceCounts(sum(states.values()), 0, 0, 0))).text


def test_nothing_one_and_many_are_pages_alike() -> None:
    for count in (0, 1, 2, 200):
        page = shown(material({"delivered": count}, SourceCounts(count, 0, 0, 0)))
        assert f"Rows of the source {count} " in page.text
        assert ("svg" in page.tags) == (count > 1)


def test_numbers_are_masked_unless_asked_for() -> None:
    what = material(
        {"in_doubt": 1, "expired": 1, "delivered": 1}, rejected_rows=rejected_rows(1, "it can be read as +46701740699")
    )
    what = replace(what, inbox=letters("Hej", sender="46701740607"))
    hidden, full = delivery_page(what, ZONE).html, delivery_page(what, ZONE, show_numbers=True).html
    for number in ("46701740605", "46701740606", "46701740607", "46701740699"):
        assert number not in hidden
        assert number in full
    assert "Numbers are masked." in hidden
    assert "46•••••••06" in hidden


def test_long_tables_say_what_is_beyond() -> None:
    what = material({"expired": 300, "in_doubt": 60}, SourceCounts(1000, 640, 0, 0), rejected_rows=rejected_rows(400))
    page = shown(what)
    assert "And 200 more. export_delivery_report writes all of them" in page.text
    assert "And 35 more." in page.text
    assert "And 540 more. The first 10,000 are kept" in page.text
    assert page.tags.count("tr") < 300


def test_a_report_without_its_source_begins_with_the_messages() -> None:
    for what in (
        material({"delivered": 3}, None),
        replace(material({"delivered": 3}, SourceCounts(9, 0, 0, 0)), whole=False),
    ):
        text = shown(what).text
        assert "Messages 3 100%" in text
        assert "Rows of the source" not in text


def test_a_campaign_that_was_continued_with_another_file() -> None:
    text = shown(material({"delivered": 5}, SourceCounts(3, 0, 0, 0))).text
    assert "Valid 3 100% Messages of this and of earlier readings of the source 5" in text


def test_several_campaigns_are_listed_and_named_in_every_table() -> None:
    one, other = material({"in_doubt": 1}, name="first"), material({"expired": 1}, name="second")
    both = replace(
        one,
        campaigns=[*one.campaigns, *other.campaigns],
        deliveries=pd.concat([one.deliveries, other.deliveries], ignore_index=True),
        title="This morning",
        whole=False,
    )
    text = shown(both).text
    assert "Delivery report This morning" in text
    assert re.search(r"first 31 Jan 2030 09:30 1 0 0 1 second 31 Jan 2030 09:30 1 1 0 0", text)
    assert "first 2 46•••••••05 may have been sent (timeout)" in text


def test_people_who_were_forgotten_leave_counts() -> None:
    known = material({"delivered": 4, "refused": 1}, SourceCounts(6, 1, 0, 0))
    (summary,) = known.campaigns
    what = replace(known, campaigns=[replace(summary, purged_at=MADE)], deliveries=empty_frame(DELIVERY_DTYPES))
    text = shown(what).text
    assert "4 of 5 messages were delivered." in text
    assert "Whom these messages went to was forgotten on purpose" in text
    assert "Delivered 4" in text


def test_costs_are_told_when_there_is_a_price() -> None:
    text = shown(material({"delivered": 10}), price_per_segment=0.42).text
    assert "20 SMS at 0.42: 8.40" in text


def test_replies_and_opt_outs_are_those_of_the_people_it_went_to() -> None:
    what = material({"delivered": 2})
    inbox: Any = pd.concat(
        [letters("Ja tack", "STOPP"), letters("A stranger's", sender="46709999999")], ignore_index=True
    )
    stopped = {"46701740605": inbox.loc[1, "received_at"].to_pydatetime() + timedelta(seconds=4)}
    text = shown(replace(what, inbox=inbox, opt_outs=stopped)).text
    assert "2 messages from 1 person whom this went to" in text
    assert "1 person opted out." in text
    assert "STOPP opt-out" in text
    assert "Ja tack opt-out" not in text
    assert "stranger" not in text


def test_operators_are_told_where_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "By the operator" not in shown(material({"expired": 2})).text  # fictional numbers are nobody's
    names = {"467017406": "Telefonbolaget <b>", "467017407": "not known"}
    monkeypatch.setattr("prefect_mymsp.reports.delivery_page._operator", lambda prefix: names[prefix])
    text = shown(material({"expired": 100, "delivered": 50})).text
    assert "Telefonbolaget <b>" in text
    assert "not known" in text
    assert "takes the number along" in text


# -- harmless ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hostile", [text for text in HOSTILE if text])
def test_whatever_strangers_write_is_text(hostile: str) -> None:
    what = material({"delivered": 1, "in_doubt": 1, "expired": 1}, SourceCounts(9, 1, 0, 0), name=hostile, text=hostile)
    (summary,) = what.campaigns
    summary = replace(summary, source=hostile, key=replace(summary.key, sender=hostile))
    frame = what.deliveries.assign(
        status=what.deliveries["status"].mask(what.deliveries["status"] == "expired", hostile), error=hostile
    ).astype(DELIVERY_DTYPES)
    inbox = letters(hostile).assign(prefix=hostile).astype(INBOX_DTYPES)
    changed = replace(
        what,
        campaigns=[summary],
        deliveries=frame,
        rejected_rows=rejected_rows(1, hostile, hostile),
        inbox=inbox,
        title=hostile,
    )
    harmless = material(
        {"delivered": 1, "in_doubt": 1, "expired": 1}, SourceCounts(9, 1, 0, 0), rejected_rows=rejected_rows(1)
    )
    plain = shown(replace(harmless, inbox=letters("Hej")))
    for html in (delivery_page(changed, ZONE).html, inbox_page(inbox, {}, ZONE, MADE, title=hostile).html):
        page = Page(html)
        check(page)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert sorted(set(Page(delivery_page(changed, ZONE).html).tags)) == sorted(set(plain.tags))


def test_a_page_forbids_itself_scripts_and_the_network() -> None:
    html = delivery_page(material({"delivered": 3}), ZONE).html
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    assert "url(" not in html.replace("url(#", "")
    assert "@import" not in html


# -- seen --------------------------------------------------------------------------------------------------------------


def colors(css: str) -> list[dict[str, str]]:
    """The page's palettes: light, dark, print."""
    found = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    return [{**found[0], **palette} for palette in found]


def contrast(one: str, other: str) -> float:
    """As WCAG 2 counts it."""

    def luminance(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(digit * 2 for digit in color[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_every_color_can_be_read_in_light_dark_and_print() -> None:
    html = delivery_page(material({"delivered": 3}), ZONE).html
    palettes = colors(html[html.index("<style>") : html.index("</style>")])
    assert len(palettes) == 3
    for palette in palettes:
        for name in ("ink", "muted", "doubt", "bad"):
            assert contrast(palette[name], palette["paper"]) >= 4.5, (name, palette)
        assert contrast(palette["ink"], palette["tint"]) >= 7
        assert contrast(palette["accent"], palette["paper"]) >= 3


def test_a_chart_takes_its_colors_and_its_type_from_the_page() -> None:
    times = pd.Series(pd.date_range(BEGAN, periods=300, freq="20s"))
    chart = charts.over_time(times, ZONE, "deliveries", "test")
    assert chart is not None
    for svg in (chart.wide, chart.narrow):
        assert set(re.findall(r"var\(--(\w+)\)", svg)) == {"muted", "line", "accent", "ink"}
        assert "#" not in re.sub(r'(?:href="|url\()#', "", svg)
        assert "font-family" not in svg
        assert " width=" not in svg[: svg.index(">")]
    assert "300 deliveries" in chart.alt
    assert sum(count for _, count in chart.rows) == 300


def test_a_chart_elsewhere_is_an_image_with_colors_and_paper_of_its_own() -> None:
    chart = charts.in_groups([("one", 3), ("two", 4)], "deliveries", "test")
    assert chart is not None
    kind, _, encoded = chart.address().partition(",")
    assert kind == "data:image/svg+xml;base64"
    root = ElementTree.fromstring(base64.b64decode(encoded))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("viewBox")) == ("752", "-16 -12 752 94")
    assert "var(" not in base64.b64decode(encoded).decode()


def test_every_chart_says_what_it_shows() -> None:
    page = shown(material({"delivered": 30}))
    named = [value for name, value in page.attributes if name == "aria-label"]
    assert len(named) == 2
    assert re.match(r"30 deliveries from 31 January 2030 09:30 to .*, in steps of a minute; most of them, \d", named[0])
    assert named[1].startswith("30 deliveries: under 1 minute: ")
    headings = [tag for tag in page.tags if tag in {"h1", "h2", "h3"}]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


def test_times_cross_the_night_the_clocks_change() -> None:
    night = pd.Series(pd.date_range("2030-10-26T20:00Z", periods=12, freq="h"))  # 03:00 comes twice
    chart = charts.over_time(night, ZONE, "deliveries", "night")
    assert chart is not None
    assert sum(count for _, count in chart.rows) == 12
    assert max(count for _, count in chart.rows) <= 2


def test_a_few_stragglers_do_not_squeeze_the_rest_together() -> None:
    soon = pd.Series(pd.date_range(BEGAN, periods=1000, freq="s"))
    late = pd.Series([pd.Timestamp(BEGAN + timedelta(days=3))])
    chart = charts.over_time(pd.concat([soon, late]), ZONE, "deliveries", "late")
    assert chart is not None
    assert chart.beyond == 1
    assert len(chart.rows) > 10


def test_nothing_to_compare_is_no_chart() -> None:
    nothing = pd.Series([], dtype="datetime64[us, UTC]")
    one = pd.Series([pd.Timestamp(BEGAN)])
    assert charts.over_time(nothing, ZONE, "deliveries", "x") is None
    assert charts.over_time(one, ZONE, "deliveries", "x") is None
    assert charts.in_groups([("a", 0), ("b", 3)], "deliveries", "x") is None


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [(0, 0, "0%"), (0, 9, "0%"), (9, 9, "100%"), (1, 100_000, "<0.1%"), (99_999, 100_000, ">99.9%"), (1, 3, "33%"),
     (1, 30, "3.3%"), (995, 1000, "99.5%")],
)  # fmt: skip
def test_a_share_is_never_rounded_to_none_or_all(part: int, whole: int, told: str) -> None:
    assert charts.share(part, whole) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "1 min"), (0.5, "2 min"), (60, "2 min"), (61, "3 min"), (7079, "119 min"), (7200, "3 h"), (200_000, "3 days")],
)
def test_a_latency_is_told_with_its_last_minute_in_full(seconds: float, told: str) -> None:
    assert within(seconds) == told


def test_percentiles_are_values_that_occur() -> None:
    assert percentile([], 0.5) is None
    assert [percentile([(1.0, 1), (5.0, 1)], share) for share in (0.0, 0.5, 0.51, 1.0)] == [1.0, 1.0, 5.0, 5.0]
    assert percentile([(0.0, 95), (60.0, 5)], 0.95) == 0.0


# -- the inbox report --------------------------------------------------------------------------------------------------


def test_an_inbox_report() -> None:
    frame: Any = letters("Ja tack", "STOPP", "Hej")
    frame.loc[2, ["prefix", "sender"]] = [pd.NA, "46701740606"]
    stopped = {"46701740605": frame.loc[1, "received_at"].to_pydatetime()}
    page = Page(inbox_page(frame, stopped, ZONE, MADE).html)
    check(page)
    assert "3 messages from 2 people. 1 person opted out." in page.text
    assert "KLINIK 2 67%" in page.text
    assert "none 1 33%" in page.text
    assert page.text.index("Hej") < page.text.index("Ja tack")  # the newest first
    assert "+46•••••••05" in page.text
    assert "46701740605" in inbox_page(frame, stopped, ZONE, MADE, show_numbers=True).html


def test_an_empty_inbox() -> None:
    page = Page(inbox_page(empty_frame(INBOX_DTYPES), {}, ZONE, MADE).html)
    check(page)
    assert "No message has been received." in page.text


def test_an_inbox_that_was_forgotten() -> None:
    frame = letters("", "").assign(sender=None).astype(INBOX_DTYPES)
    page = Page(inbox_page(frame, {}, ZONE, MADE).html)
    check(page)
    assert "2 messages from 0 people." in page.text


@pytest.mark.parametrize("night", ["2026-03-28 22:00", "2026-10-24 22:00"])
@pytest.mark.parametrize("hours", [2, 5, 9, 20, 47])
def test_a_chart_of_the_night_the_clocks_change(night: str, hours: int) -> None:
    times = pd.Series(pd.date_range(night, periods=hours * 60, freq="1min", tz="UTC").as_unit("us"))
    chart = charts.over_time(times, ZONE, "deliveries", "night")
    assert chart is not None
    counts = [count for _, count in chart.rows]
    assert sum(counts) == len(times)
    assert max(counts) == counts[1], "as many in each span, but for the first and the last"
    assert len(set(counts[1:-1])) == 1
