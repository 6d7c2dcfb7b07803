"""Deliveries, inboxes and parsed pages for the tests of HTML reports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from prefect_mymsp.journal import CampaignKey, CampaignSummary, Counts, SourceCounts
from prefect_mymsp.reports.frames import DELIVERY_DTYPES, INBOX_DTYPES, REJECTED_ROW_DTYPES, empty_frame
from prefect_mymsp.reports.html.delivery_page import DeliveryData, delivery_page

ZONE = ZoneInfo("Europe/Stockholm")
BEGAN = datetime(2030, 1, 31, 8, 30, 12, 500_000, tzinfo=UTC)
MADE = datetime(2030, 1, 31, 13, 5, tzinfo=UTC)


class ParsedPage(HTMLParser):
    """A page as a parser sees it: its tags, texts and attributes."""

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


def deliveries(outcomes: Mapping[str, int], name: str = "Höst") -> pd.DataFrame:
    """Deliveries by outcome; ``delivered``, ``expired`` and ``waiting`` are accepted ones."""
    rows: list[dict[str, Any]] = []
    for outcome, count in outcomes.items():
        for _ in range(count):
            at = BEGAN + timedelta(seconds=3 * len(rows))
            accepted = outcome in {"delivered", "expired", "waiting"}
            minute = (at + timedelta(minutes=len(rows) % 7)).replace(second=0, microsecond=0)
            rows.append(
                {
                    "campaign": name,
                    "row": len(rows) + 2,
                    "recipient": f"4670174{605 + len(rows):04d}",
                    "state": "accepted" if accepted else outcome,
                    "text_key": "ab",
                    "segments": 2,
                    "accepted_at": at if accepted else None,
                    "sent_at": at.replace(second=0, microsecond=0) if outcome in {"delivered", "expired"} else None,
                    "delivered_at": minute if outcome == "delivered" else None,
                    "latency_s": max((minute - at).total_seconds(), 0.0) if outcome == "delivered" else None,
                    "status": {"waiting": "undelivered"}.get(outcome, outcome) if accepted else None,
                    "error": {
                        "refused": "28: the gateway cannot use this number",
                        "in_doubt": "may have been sent (timeout)",
                    }.get(outcome),
                }
            )
    return (
        empty_frame(DELIVERY_DTYPES)
        if not rows
        else pd.DataFrame(rows).reindex(columns=list(DELIVERY_DTYPES)).astype(DELIVERY_DTYPES)
    )


def delivery_data(
    states: Mapping[str, int], source: SourceCounts | None = None, *, name: str = "Höst", **more: Any
) -> DeliveryData:
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
        "complete": True,
        "deliveries": frame,
        "rejected_rows": empty_frame(REJECTED_ROW_DTYPES),
        "inbox": empty_frame(INBOX_DTYPES),
        "opt_outs": {},
        "text": "Hej!",
        "read_at": MADE,
    }
    return DeliveryData(**{**values, **more})


def rejected_rows(count: int, reason: str = "the number is missing", column: str = "Mobil") -> pd.DataFrame:
    values = {"campaign": "Höst", "row": range(3, count + 3), "column": column, "value": None, "reason": reason}
    return pd.DataFrame(values, index=range(count)).astype(REJECTED_ROW_DTYPES)


def inbox_of(*texts: str, sender: str = "+46701740605") -> pd.DataFrame:
    times = [BEGAN.replace(second=0, microsecond=0) + timedelta(minutes=10 + at) for at in range(len(texts))]
    values = {"message_id": map(str, range(len(texts))), "received_at": times, "stored_at": MADE, "text": texts}
    frame = pd.DataFrame({**values, "sender": sender, "prefix": "KLINIK", "kind": "SMS"}, index=range(len(texts)))
    return frame.reindex(columns=list(INBOX_DTYPES)).astype(INBOX_DTYPES)


def parse_delivery_page(data: DeliveryData, **options: Any) -> ParsedPage:
    page = ParsedPage(delivery_page(data, ZONE, **options).html)
    check(page)
    return page


def check(page: ParsedPage) -> None:
    """Assert what holds for every page: closed tags, unique ids, no scripts and no addresses."""
    assert page.unclosed == ""
    assert not {"script", "img", "iframe", "object", "embed", "form", "input", "a", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"href", "src", "xlink:href"}:
            assert value.startswith(("#", "data:,"))
        assert "http" not in value.replace("http-equiv", "").replace("http://www.w3.org", "") or name == "aria-label"
    assert len(page.ids) == len(set(page.ids))
