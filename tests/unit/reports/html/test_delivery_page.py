"""Delivery reports as HTML pages: their content, and that no text in them becomes active."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest

from prefect_mymsp.cli import app
from prefect_mymsp.journal import SourceCounts
from prefect_mymsp.reports.frames import DELIVERY_DTYPES, INBOX_DTYPES, empty_frame
from prefect_mymsp.reports.html.delivery_page import delivery_page
from prefect_mymsp.reports.html.inbox_page import inbox_page
from tests.unit.reports.html.report_pages import (
    MADE,
    ZONE,
    ParsedPage,
    check,
    delivery_data,
    inbox_of,
    parse_delivery_page,
    rejected_rows,
)
from tests.unit.reports.test_sanitize import HOSTILE

# -- content ----------------------------------------------------------------------------------------------------------


def test_the_funnel_counts_every_step_from_rows_to_deliveries() -> None:
    states = {"delivered": 90, "expired": 3, "waiting": 2, "refused": 2, "in_doubt": 2, "cancelled": 1}
    text = parse_delivery_page(delivery_data(states, SourceCounts(109, 5, 3, 1))).text
    assert "90 of 100 messages were delivered. 5 messages were accepted but not delivered so far." in text
    assert "The gateway refused 2 messages. 2 messages are in doubt and need a decision." in text
    assert "Rows in the source 109 100%" in text
    assert "Valid rows 5 rejected, 3 duplicates, 1 suppressed 100 92%" in text
    assert "Accepted 2 refused, 2 in doubt, 1 cancelled 95 87%" in text
    assert "Sent 2 wait at the gateway 93 85%" in text
    assert "Delivered 3 not confirmed 90 83%" in text
    for reason in (
        "sent; the gateway reports “expired” 3 3.0%",
        "waits at the gateway, which reports “undelivered” 2 2.0%",
        "28: the gateway cannot use this number 2 2.0%",
        "may have been sent (timeout) 2 2.0%",
        "cancelled before its send time 1 1.0%",
    ):
        assert reason in text
    assert "Text Hej!" in text
    assert "31 January 2030, 09:30" in text
    assert "Europe/Stockholm" in text
    assert "prefect-mymsp resolve --credentials NAME 'Höst'" in text


@pytest.mark.parametrize("name", ["Höst", "it's; rm -rf / $HOME `id`", "--help", '"quoted"'])
def test_the_command_that_resolves_doubt_is_quoted_for_the_shell(name: str) -> None:
    text = parse_delivery_page(delivery_data({"in_doubt": 1}, name=name)).text
    (command,) = re.findall(r"List all of them: (prefect-mymsp .*?) If they were sent", text)
    words = shlex.split(command)
    _, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
    assert bound.arguments["campaign"] == name


def test_the_text_is_shown_only_with_messages() -> None:
    assert "different for each message" not in parse_delivery_page(delivery_data({}, text=None)).text
    assert "Text different for each message" in parse_delivery_page(delivery_data({"accepted": 2}, text=None)).text


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ({}, "There are no messages to report."),
        ({"delivered": 1}, "The message was delivered."),
        ({"planned": 1}, "The message has not been delivered. 1 message has not been sent yet."),
        ({"delivered": 2}, "All 2 messages were delivered."),
        ({"expired": 2}, "None of 2 messages has been delivered. 2 messages were accepted but not delivered so far."),
        ({"delivered": 1, "in_doubt": 1}, "1 of 2 messages was delivered. 1 message is in doubt and needs a decision."),
        ({"delivered": 1, "assumed": 1}, "1 of 2 messages was delivered. "),
        (
            {"delivered": 1, "cancelled": 1},
            "1 message was cancelled before the send time.",
        ),
    ],
    ids=str,
)
def test_the_verdict(states: Mapping[str, int], verdict: str) -> None:
    assert verdict in parse_delivery_page(delivery_data(states, SourceCounts(sum(states.values()), 0, 0, 0))).text


def test_pages_with_any_number_of_messages() -> None:
    for count in (0, 1, 2, 200):
        page = parse_delivery_page(delivery_data({"delivered": count}, SourceCounts(count, 0, 0, 0)))
        assert f"Rows in the source {count} " in page.text
        assert ("svg" in page.tags) == (count > 1)


def test_numbers_are_masked_by_default() -> None:
    data = delivery_data(
        {"in_doubt": 1, "expired": 1, "delivered": 1}, rejected_rows=rejected_rows(1, "it can be read as +46701740699")
    )
    data = replace(data, inbox=inbox_of("Hej", sender="46701740607"))
    hidden, full = delivery_page(data, ZONE).html, delivery_page(data, ZONE, show_numbers=True).html
    for number in ("46701740605", "46701740606", "46701740607", "46701740699"):
        assert number not in hidden
        assert number in full
    assert "Phone numbers are masked." in hidden
    assert "46•••••••06" in hidden


def test_long_tables_count_the_omitted_rows() -> None:
    data = delivery_data(
        {"expired": 300, "in_doubt": 60}, SourceCounts(1000, 640, 0, 0), rejected_rows=rejected_rows(400)
    )
    page = parse_delivery_page(data)
    assert "And 200 more. export_delivery_report writes all of them" in page.text
    assert "And 35 more." in page.text
    assert "And 540 more. The journal keeps the first 10,000" in page.text
    assert page.tags.count("tr") < 300


def test_a_partial_report_begins_with_the_messages() -> None:
    for data in (
        delivery_data({"delivered": 3}, None),
        replace(delivery_data({"delivered": 3}, SourceCounts(9, 0, 0, 0)), complete=False),
    ):
        text = parse_delivery_page(data).text
        assert "Messages 3 100%" in text
        assert "Rows in the source" not in text


def test_a_campaign_continued_with_another_file() -> None:
    text = parse_delivery_page(delivery_data({"delivered": 5}, SourceCounts(3, 0, 0, 0))).text
    assert "Valid rows 3 100% Messages from this and earlier versions of the source 5" in text


def test_several_campaigns_are_listed_and_named_in_every_table() -> None:
    first, second = delivery_data({"in_doubt": 1}, name="first"), delivery_data({"expired": 1}, name="second")
    both = replace(
        first,
        campaigns=[*first.campaigns, *second.campaigns],
        deliveries=pd.concat([first.deliveries, second.deliveries], ignore_index=True),
        title="This morning",
        complete=False,
    )
    text = parse_delivery_page(both).text
    assert "Delivery report This morning" in text
    assert re.search(r"first 31 Jan 2030 09:30 1 0 0 1 second 31 Jan 2030 09:30 1 1 0 0", text)
    assert "first 2 46•••••••05 may have been sent (timeout)" in text


def test_a_purged_campaign_keeps_its_counts() -> None:
    unpurged = delivery_data({"delivered": 4, "refused": 1}, SourceCounts(6, 1, 0, 0))
    (summary,) = unpurged.campaigns
    data = replace(unpurged, campaigns=[replace(summary, purged_at=MADE)], deliveries=empty_frame(DELIVERY_DTYPES))
    text = parse_delivery_page(data).text
    assert "4 of 5 messages were delivered." in text
    assert "The recipients of these messages were purged" in text
    assert "Delivered 4" in text


def test_the_cost_is_calculated_from_a_price() -> None:
    text = parse_delivery_page(delivery_data({"delivered": 10}), price_per_segment=0.42).text
    assert "20 segments at 0.42: 8.40" in text


def test_replies_and_opt_outs_are_those_of_the_recipients() -> None:
    data = delivery_data({"delivered": 2})
    inbox: Any = pd.concat(
        [inbox_of("Ja tack", "STOPP"), inbox_of("A stranger's", sender="46709999999")], ignore_index=True
    )
    stopped = {"46701740605": inbox.loc[1, "received_at"].to_pydatetime() + timedelta(seconds=4)}
    text = parse_delivery_page(replace(data, inbox=inbox, opt_outs=stopped)).text
    assert "2 messages from 1 recipient in the inbox as collected so far" in text
    assert "1 recipient opted out." in text
    assert "STOPP opt-out" in text
    assert "Ja tack opt-out" not in text
    assert "stranger" not in text


def test_failures_are_counted_by_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    # Fictional numbers have no operator.
    assert "By the operator" not in parse_delivery_page(delivery_data({"expired": 2})).text
    names = {"467017406": "Telefonbolaget <b>", "467017407": "unknown"}
    monkeypatch.setattr("prefect_mymsp.reports.html.failures._operator", lambda prefix: names[prefix])
    text = parse_delivery_page(delivery_data({"expired": 100, "delivered": 50})).text
    assert "Telefonbolaget <b>" in text
    assert "unknown" in text
    assert "keep their number" in text


# -- safety ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hostile", [text for text in HOSTILE if text])
def test_hostile_text_stays_text(hostile: str) -> None:
    outcomes, source = {"delivered": 1, "in_doubt": 1, "expired": 1}, SourceCounts(9, 1, 0, 0)
    data = delivery_data(outcomes, source, name=hostile, text=hostile)
    (summary,) = data.campaigns
    summary = replace(summary, source=hostile, key=replace(summary.key, sender=hostile))
    frame = data.deliveries.assign(
        status=data.deliveries["status"].mask(data.deliveries["status"] == "expired", hostile), error=hostile
    ).astype(DELIVERY_DTYPES)
    inbox = inbox_of(hostile).assign(prefix=hostile).astype(INBOX_DTYPES)
    changed = replace(
        data,
        campaigns=[summary],
        deliveries=frame,
        rejected_rows=rejected_rows(1, hostile, hostile),
        inbox=inbox,
        title=hostile,
    )
    harmless = delivery_data(outcomes, source, rejected_rows=rejected_rows(1))
    plain = parse_delivery_page(replace(harmless, inbox=inbox_of("Hej")))
    for html in (delivery_page(changed, ZONE).html, inbox_page(inbox, {}, ZONE, MADE, title=hostile).html):
        page = ParsedPage(html)
        check(page)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert sorted(set(ParsedPage(delivery_page(changed, ZONE).html).tags)) == sorted(set(plain.tags))


def test_a_page_forbids_scripts_and_the_network() -> None:
    html = delivery_page(delivery_data({"delivered": 3}), ZONE).html
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
    assert "url(" not in html
    assert "@import" not in html


# -- colors ------------------------------------------------------------------------------------------------------------


def colors(css: str) -> list[dict[str, str]]:
    """The page's palettes: light, dark, print."""
    blocks = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    return [{**blocks[0], **palette} for palette in blocks]


def contrast(color: str, background: str) -> float:
    """The contrast ratio as defined by WCAG 2."""

    def luminance(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(digit * 2 for digit in color[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(color), luminance(background)))
    return (light + 0.05) / (dark + 0.05)


def test_every_color_is_readable_in_light_dark_and_print() -> None:
    html = delivery_page(delivery_data({"delivered": 3}), ZONE).html
    palettes = colors(html[html.index("<style>") : html.index("</style>")])
    assert len(palettes) == 3
    for palette in palettes:
        for name in ("ink", "muted", "doubt", "bad"):
            assert contrast(palette[name], palette["paper"]) >= 4.5, (name, palette)
        assert contrast(palette["ink"], palette["tint"]) >= 7
        assert contrast(palette["accent"], palette["paper"]) >= 3
