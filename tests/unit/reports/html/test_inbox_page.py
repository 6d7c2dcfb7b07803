"""Inbox reports as pages."""

from __future__ import annotations

from typing import Any

import pandas as pd

from prefect_mymsp.reports.frames import INBOX_DTYPES, empty_frame
from prefect_mymsp.reports.html.inbox_page import inbox_page
from tests.unit.reports.html.report_pages import MADE, ZONE, ParsedPage, check, inbox_of

# -- the inbox report --------------------------------------------------------------------------------------------------


def test_an_inbox_report() -> None:
    frame: Any = inbox_of("Ja tack", "STOPP", "Hej")
    frame.loc[2, ["prefix", "sender"]] = [pd.NA, "46701740606"]
    stopped = {"46701740605": frame.loc[1, "received_at"].to_pydatetime()}
    page = ParsedPage(inbox_page(frame, stopped, ZONE, MADE).html)
    check(page)
    assert "3 messages from 2 people. 1 person opted out." in page.text
    assert "KLINIK 2 67%" in page.text
    assert "none 1 33%" in page.text
    assert page.text.index("Hej") < page.text.index("Ja tack")  # newest first
    assert "+46•••••••05" in page.text
    assert "46701740605" in inbox_page(frame, stopped, ZONE, MADE, show_numbers=True).html


def test_an_empty_inbox() -> None:
    page = ParsedPage(inbox_page(empty_frame(INBOX_DTYPES), {}, ZONE, MADE).html)
    check(page)
    assert "No message has been received." in page.text


def test_a_purged_inbox() -> None:
    frame = inbox_of("", "").assign(sender=None).astype(INBOX_DTYPES)
    page = ParsedPage(inbox_page(frame, {}, ZONE, MADE).html)
    check(page)
    assert "2 messages from 0 people." in page.text
