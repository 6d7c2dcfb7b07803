"""The delivery report: what was asked, what happened, and what is to be done."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING

from prefect_mymsp.journal.schema import ACCEPTED, ASSUMED, CANCELLED, IN_DOUBT, PLANNED, REFUSED, SENDING
from prefect_mymsp.phone import mask_number, mask_numbers
from prefect_mymsp.reports import charts
from prefect_mymsp.reports.charts import Chart, share
from prefect_mymsp.reports.frames import percentile
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
    moment,
    number,
    opted_out,
    span_caption,
    within,
)
from prefect_mymsp.reports.sanitize import escape_control_characters

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.journal import CampaignSummary

_DELIVERED = "delivered"
#: (label, less than so many seconds).
_LATENCIES = (
    ("under 1 minute", 60),
    ("1 to 2 minutes", 120),
    ("2 to 5 minutes", 300),
    ("5 to 15 minutes", 900),
    ("15 to 60 minutes", 3600),
    ("1 to 6 hours", 6 * 3600),
    ("6 to 24 hours", 24 * 3600),
    ("over a day", float("inf")),
)
_OPEN = {
    PLANNED: "not sent yet",
    SENDING: "being sent, or about to be",
    CANCELLED: "taken back before its delivery time",
    ASSUMED: "was in doubt; a person said it was sent",
}
_UNKNOWN = "not known"


@dataclass(frozen=True)
class Step:
    """A step of the way from a row to a phone."""

    label: str
    count: int
    share: str
    part: float
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A message in a table."""

    campaign: str = ""
    row: int | None = None
    recipient: str = ""
    column: str = ""
    reason: str = ""


@dataclass(frozen=True)
class CampaignRow:
    """A campaign among several."""

    name: str
    created_at: datetime
    messages: int
    accepted: int
    delivered: int
    in_doubt: int


@dataclass
class DeliveryPage(Page):
    """What is on a delivery report."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    several: bool = False
    campaigns: Listed = NOTHING
    counted: str = "Rows"
    funnel: list[Step] = field(default_factory=list)
    latency: Chart | None = None
    latency_caption: str = ""
    undelivered_about: str = ""
    reasons: Listed = NOTHING
    operators: Listed = NOTHING
    failures: Listed = NOTHING
    doubtful: Listed = NOTHING
    commands: list[str] = field(default_factory=list)
    rejected_rows: Listed = NOTHING
    all_rejects: str = ""
    replies: Listed = NOTHING
    replies_about: str = ""


@dataclass(frozen=True)
class DeliveryMaterial:
    """What a delivery report is made of.

    Attributes:
        campaigns: The campaigns it is about, the newest first.
        whole: Whether the deliveries are all that these campaigns have.
        deliveries: In :data:`~prefect_mymsp.reports.frames.DELIVERY_DTYPES`.
        rejected_rows: In :data:`~prefect_mymsp.reports.frames.REJECTED_ROW_DTYPES`.
        inbox: What came since, in :data:`~prefect_mymsp.reports.frames.INBOX_DTYPES`, from anybody.
        opt_outs: Numbers that want no more SMS, and since when.
        text: The text that everybody got; None when there are several.
        read_at: When all this was read, aware.
        title: What the report is about, when that is not one campaign.
    """

    campaigns: Sequence[CampaignSummary]
    whole: bool
    deliveries: pd.DataFrame
    rejected_rows: pd.DataFrame
    inbox: pd.DataFrame
    opt_outs: Mapping[str, datetime]
    text: str | None
    read_at: datetime
    title: str = ""


def delivery_page(
    material: DeliveryMaterial,
    zone: tzinfo,
    *,
    price_per_segment: float | None = None,
    show_numbers: bool = False,
) -> Made:
    """A delivery report.

    Args:
        material: What it is made of.
        zone: The zone to show times in.
        price_per_segment: What one SMS costs, in a currency of yours.
        show_numbers: Show the numbers of the people in full.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    campaigns, frame = material.campaigns, material.deliveries
    one = campaigns[0] if len(campaigns) == 1 else None
    page = DeliveryPage(
        kind="Delivery report",
        title=one.key.name if one is not None and not material.title else material.title,
        zone=zone,
        made_at=material.read_at.astimezone(zone),
        masked=not show_numbers,
        several=len(campaigns) > 1,
        all_of_it="export_delivery_report writes all of them as CSV, Parquet or Excel.",
        all_rejects="The first 10,000 are kept; export_delivery_report writes them as an Excel sheet.",
    )
    tally = _Tally.of(frame)
    _tell_delivery(page, material, tally, price_per_segment)
    if one is not None:
        page.asked = _asked(one, material.text, tally, zone, price_per_segment)
    elif not campaigns:
        page.asked = [("Campaigns", "none of which there is anything to report")]
    else:
        rows = [
            CampaignRow(
                each.key.name,
                each.created_at.astimezone(zone),
                each.counts.messages,
                each.counts.accepted,
                each.counts.delivered,
                each.counts.in_doubt,
            )
            for each in campaigns
        ]
        page.campaigns = first(rows, LONG)
    page.over_time = charts.over_time(frame["delivered_at"], zone, "deliveries", "deliveries")
    page.latency = charts.in_groups(_latency_groups(tally.latencies), "deliveries", "latency")
    if tally.latencies:
        page.over_time_caption = span_caption(frame["delivered_at"], page.over_time, zone)
        page.latency_caption = _latency_caption(tally.latencies)
    _tell_undelivered(page, material, show_numbers=show_numbers)
    _tell_rejects(page, material, show_numbers=show_numbers)
    _tell_replies(page, material, zone, show_numbers=show_numbers)
    drawn = ("Deliveries over time", page.over_time), ("How long they took", page.latency)
    return made("delivery.html.jinja", page, *drawn)


@dataclass(frozen=True)
class _Tally:
    """A frame's deliveries, counted."""

    messages: int
    states: Mapping[str, int]
    sent: int
    delivered: int
    segments: int
    latencies: Sequence[tuple[float, int]]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _Tally:
        accepted = frame["state"] == ACCEPTED
        delivered = accepted & (frame["status"] == _DELIVERED).fillna(False)
        took = frame.loc[delivered, "latency_s"].dropna().floordiv(1).value_counts().sort_index()
        return cls(
            messages=len(frame),
            states={str(state): int(count) for state, count in frame["state"].value_counts().items()},
            sent=int((accepted & (frame["sent_at"].notna() | delivered)).sum()),
            delivered=int(delivered.sum()),
            segments=int(frame.loc[accepted, "segments"].sum()),
            latencies=list(zip(took.index.tolist(), took.tolist(), strict=True)),
        )

    def count(self, state: str) -> int:
        return self.states.get(state, 0)


def _tell_delivery(
    page: DeliveryPage, material: DeliveryMaterial, tally: _Tally, price_per_segment: float | None
) -> None:
    """The sentence at the top, the figures below it, and the funnel."""
    forgotten = [one for one in material.campaigns if one.purged_at is not None]
    counts = [one.counts for one in material.campaigns]
    if forgotten and material.whole:
        # Nothing is left of them but their counts.
        tally = _Tally(
            messages=sum(one.messages for one in counts),
            states={
                state: sum(getattr(one, state) for one in counts)
                for state in (PLANNED, SENDING, ACCEPTED, REFUSED, IN_DOUBT, ASSUMED, CANCELLED)
            },
            sent=max(tally.sent, sum(one.delivered for one in counts)),
            delivered=sum(one.delivered for one in counts),
            segments=sum(one.segments for one in counts),
            latencies=tally.latencies,
        )
        page.notes.append(
            "Whom these messages went to was forgotten on purpose; what is left are counts."
            if len(forgotten) == len(material.campaigns)
            else f"Of {len(forgotten):,} of these campaigns the people were forgotten on purpose; counts are left."
        )
    page.verdict = _verdict(tally)
    if tally.messages:
        page.figures = _figures(tally, price_per_segment)
    page.funnel, page.counted = _funnel(material, tally)


def _verdict(tally: _Tally) -> list[Part]:
    if not tally.messages:
        return [Part("There are no messages to report on.")]
    told = [Part(_reached(tally))]
    if pending := tally.count(ACCEPTED) - tally.delivered:
        told.append(Part(f"{many(pending, 'message was', 'messages were')} accepted and not delivered so far."))
    if unsent := tally.count(PLANNED) + tally.count(SENDING):
        told.append(Part(f"{many(unsent, 'message has', 'messages have')} not been sent yet."))
    if refused := tally.count(REFUSED):
        told.append(Part(f"The gateway refused {refused:,}.", "bad"))
    if doubtful := tally.count(IN_DOUBT):
        waiting = many(doubtful, "may or may not have been sent and waits", "may or may not have been sent and wait")
        told.append(Part(f"{waiting} for a person.", "doubt"))
    if cancelled := tally.count(CANCELLED):
        told.append(Part(f"{many(cancelled, 'was', 'were')} taken back before the delivery time."))
    return told


def _reached(tally: _Tally) -> str:
    if tally.messages == 1:
        return "The message was delivered." if tally.delivered else "The message has not been delivered."
    if tally.delivered == tally.messages:
        return f"All {tally.messages:,} messages were delivered."
    if not tally.delivered:
        return f"None of {tally.messages:,} messages has been delivered."
    return f"{tally.delivered:,} of {tally.messages:,} messages {'was' if tally.delivered == 1 else 'were'} delivered."


def _figures(tally: _Tally, price_per_segment: float | None) -> list[Figure]:
    found = [Figure("Delivered", share(tally.delivered, tally.messages), f"{tally.delivered:,} of {tally.messages:,}")]
    if tally.latencies:
        half, most = percentile(tally.latencies, 0.5), percentile(tally.latencies, 0.95)
        assert half is not None  # noqa: S101  there are some
        assert most is not None  # noqa: S101
        found.append(Figure("Half arrived within", within(half), f"95 of 100 within {within(most)}"))
    accepted = tally.count(ACCEPTED)
    segments = f"{tally.segments / accepted:.1f} a message" if tally.segments > accepted else ""
    if price_per_segment is not None:
        segments = f"at {price_per_segment:g} each: {price_per_segment * tally.segments:,.2f}"
    found.append(Figure("SMS used", f"{tally.segments:,}", segments))
    if doubtful := tally.count(IN_DOUBT):
        found.append(Figure("In doubt", f"{doubtful:,}", "waits for a person"))
    else:
        failed = tally.messages - tally.delivered
        found.append(Figure("Not delivered", f"{failed:,}", share(failed, tally.messages)))
    return found


def _funnel(material: DeliveryMaterial, tally: _Tally) -> tuple[list[Step], str]:
    """Rows → valid → accepted → sent → delivered; from the messages on where the rows are not known."""
    steps: list[tuple[str, int, str]] = []
    sources = [one.source_rows for one in material.campaigns]
    known = [one for one in sources if one is not None]
    whole = material.whole and known and len(known) == len(sources)
    if whole:
        rows, rejected, duplicates, suppressed = (
            sum(getattr(one, name) for one in known) for name in ("rows", "rejected", "duplicates", "suppressed")
        )
        left_out = [
            (rejected, "cannot be sent", "cannot be sent"),
            (duplicates, "repeats an earlier one", "repeat an earlier one"),
            (suppressed, "must get nothing", "must get nothing"),
        ]
        valid = rows - rejected - duplicates - suppressed
        steps += [("Rows of the source", rows, ""), ("Valid", valid, _listed(left_out))]
        if tally.messages != valid:
            steps.append(("Messages", tally.messages, "of this and of earlier readings of the source"))
    else:
        steps.append(("Messages", tally.messages, ""))
    accepted = tally.count(ACCEPTED)
    away = [
        (tally.count(REFUSED), "refused", "refused"),
        (tally.count(IN_DOUBT), "in doubt", "in doubt"),
        (tally.count(PLANNED) + tally.count(SENDING), "not sent yet", "not sent yet"),
        (tally.count(CANCELLED), "taken back", "taken back"),
        (tally.count(ASSUMED), "settled as sent by a person", "settled as sent by a person"),
    ]
    steps += [
        ("Accepted", accepted, _listed(away)),
        ("Sent", tally.sent, _listed([(accepted - tally.sent, "waits at the gateway", "wait at the gateway")])),
        ("Delivered", tally.delivered, _listed([(tally.sent - tally.delivered, "not confirmed", "not confirmed")])),
    ]
    top = steps[0][1]
    shown = [Step(label, count, share(count, top), count / top if top else 0.0, note) for label, count, note in steps]
    return shown, "Rows" if whole else "Messages"


def _listed(counted: Sequence[tuple[int, str, str]]) -> str:
    """Those of (count, what it is, what they are) that there are."""
    return ", ".join(many(count, one, several) for count, one, several in counted if count)


def _asked(
    one: CampaignSummary, text: str | None, tally: _Tally, zone: tzinfo, price_per_segment: float | None
) -> list[tuple[str, str]]:
    asked = [("Source", one.source), ("Recorded", moment(one.created_at.astimezone(zone)))]
    if one.key.send_at is not None:
        asked.append(("Delivery time", moment(one.key.send_at.astimezone(zone))))
    else:
        asked.append(("Delivery time", "at once"))
    asked.append(("Originator", one.key.sender or "the account's own"))
    if text is not None or tally.messages:
        asked.append(("Text", text if text is not None else "each message its own"))
    if one.cancelled_at is not None:
        asked.append(("Stopped for good", moment(one.cancelled_at.astimezone(zone))))
    if price_per_segment is not None:
        cost = price_per_segment * tally.segments
        asked.append(("Cost", f"{many(tally.segments, 'SMS', 'SMS')} at {price_per_segment:g}: {cost:,.2f}"))
    return asked


def _latency_groups(latencies: Sequence[tuple[float, int]]) -> list[tuple[str, int]]:
    """Counted by how long it took, from the shortest to the longest there is."""
    groups, low = [], 0.0
    for label, high in _LATENCIES:
        groups.append((label, sum(count for seconds, count in latencies if low <= seconds < high)))
        low = high
    while len(groups) > 1 and not groups[-1][1]:
        groups.pop()
    return groups


def _latency_caption(latencies: Sequence[tuple[float, int]]) -> str:
    half, most, longest = (percentile(latencies, part) for part in (0.5, 0.95, 1.0))
    assert half is not None  # noqa: S101  there are some
    assert most is not None  # noqa: S101
    assert longest is not None  # noqa: S101
    told = "From when a message left, or from its delivery time, to the minute in which the phone confirmed it."
    if within(half) == within(longest):
        return f"{told} With that minute in full: within {within(longest)}."
    return (
        f"{told} With that minute in full, half arrived within {within(half)}, 95 of 100 within {within(most)}, and "
        f"the last one within {within(longest)}."
    )


def _tell_undelivered(page: DeliveryPage, material: DeliveryMaterial, *, show_numbers: bool) -> None:
    frame = material.deliveries
    delivered = (frame["state"] == ACCEPTED) & (frame["status"] == _DELIVERED).fillna(False)
    failed = frame[~delivered]
    if failed.empty:
        return
    reasons = _reasons(failed)
    counts = reasons.value_counts()
    rows = [
        Slice(str(label), int(count), share(int(count), len(frame)), int(count) / len(failed))
        for label, count in counts.items()
    ]
    page.reasons = first(rows, SHORT)
    page.undelivered_about = f"{len(failed):,} of {len(frame):,} messages, {share(len(failed), len(frame))}."
    page.operators = first(_operators(frame["recipient"], ~delivered), SHORT)
    settled = failed["state"] != IN_DOUBT
    page.failures = _lines(failed[settled], reasons[settled], LONG, show_numbers=show_numbers)
    doubtful = failed[~settled]
    if not doubtful.empty:
        page.doubtful = _lines(doubtful, reasons[~settled], MIDDLING, show_numbers=show_numbers)
        page.commands = [_resolving(escape_control_characters(str(name))) for name in doubtful["campaign"].unique()[:5]]


def _resolving(campaign: str) -> str:
    """The command that shows, and settles, what of a campaign is in doubt."""
    named = f"--campaign={shlex.quote(campaign)}" if campaign.startswith("-") else shlex.quote(campaign)
    return f"prefect-mymsp resolve {named} --credentials NAME"


def _reasons(failed: pd.DataFrame) -> pd.Series:
    """Why each message is not delivered, in words that many of them share."""
    import pandas as pd

    keys = failed[["state", "status", "error"]].astype("string").fillna("")
    sent = failed["sent_at"].notna()
    kinds = keys.assign(sent=sent).drop_duplicates()
    told = {
        (state, status, error, was_sent): _reason(state, status, error, was_sent)
        for state, status, error, was_sent in kinds.itertuples(index=False)
    }
    each = [told[key] for key in zip(keys["state"], keys["status"], keys["error"], sent, strict=True)]
    return pd.Series(each, index=failed.index, dtype="string")


def _reason(state: str, status: str, error: str, sent: bool) -> str:
    if state in _OPEN:
        return _OPEN[state]
    if error:
        return error
    if not status:
        return "accepted; the gateway has not said more"
    return f"sent; the gateway says “{status}”" if sent else f"waits at the gateway, which says “{status}”"


def _operators(recipients: pd.Series, failed: pd.Series) -> list[Slice]:
    """Not delivered by the operator that each number's range was first given to; nothing when none is known."""
    import pandas as pd

    # The longest prefix that tells an operator has nine digits.
    prefix = recipients.str.slice(0, 9)
    names = {one: _operator(one) for one in prefix.unique()}
    table = pd.DataFrame({"operator": prefix.map(names), "failed": failed})
    groups = table.groupby("operator", sort=False)["failed"].agg(["sum", "size"])
    if list(groups.index) == [_UNKNOWN]:
        return []
    groups = groups.sort_values(["sum", "size"], ascending=False)
    return [
        Slice(str(name), int(bad), share(int(bad), int(size)), float(bad) / float(size), int(size))
        for name, bad, size in groups.itertuples()
    ]


def _operator(prefix: str) -> str:
    """The operator a prefix was first given to, with its country code; not every country tells."""
    import phonenumbers
    from phonenumbers import carrier

    if not prefix.isdigit():
        return "recipient groups"
    for length in (1, 2, 3):
        code = int(prefix[:length])
        if code in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
            number = phonenumbers.PhoneNumber(country_code=code, national_number=int(prefix[length:] + "00"))
            name = carrier.name_for_valid_number(number, "en")
            return f"{name} (+{code})" if name else _UNKNOWN
    return _UNKNOWN


def _lines(frame: pd.DataFrame, reasons: pd.Series[str], most: int, *, show_numbers: bool) -> Listed:
    rows = [
        Line(
            str(campaign), int(row), str(recipient) if show_numbers else mask_number(str(recipient)), reason=str(reason)
        )
        for campaign, row, recipient, reason in zip(
            frame["campaign"].head(most), frame["row"], frame["recipient"], reasons, strict=False
        )
    ]
    return Listed(rows, max(len(frame) - most, 0))


def _tell_rejects(page: DeliveryPage, material: DeliveryMaterial, *, show_numbers: bool) -> None:
    columns = ("campaign", "row", "column", "reason")
    rows = [
        Line(
            str(campaign),
            int(row),
            column=str(column or ""),
            reason=str(reason) if show_numbers else mask_numbers(str(reason)),
        )
        for campaign, row, column, reason in material.rejected_rows.head(LONG)[list(columns)].itertuples(index=False)
    ]
    rejected = sum(one.source_rows.rejected for one in material.campaigns if one.source_rows is not None)
    page.rejected_rows = Listed(rows, max(rejected, len(material.rejected_rows)) - len(rows))


def _tell_replies(page: DeliveryPage, material: DeliveryMaterial, zone: tzinfo, *, show_numbers: bool) -> None:
    # Few write back: who of them got something is looked for, not who of all that got something has written.
    inbox, recipients = material.inbox, material.deliveries["recipient"]
    senders = number(inbox["sender"])
    wrote = inbox[senders.isin(recipients[recipients.isin(senders.unique())].unique())]
    if wrote.empty:
        return
    opted = opted_out(wrote, material.opt_outs)
    people, stopped = int(wrote["sender"].nunique()), int(wrote.loc[opted, "sender"].nunique())
    page.replies = letters(wrote, opted, zone, LONG, show_numbers=show_numbers)
    page.replies_about = (
        f"{many(len(wrote), 'message')} from {many(people, 'person', 'people')} whom this went to, as far as the inbox "
        f"has been collected; {many(stopped, 'person', 'people')} opted out."
    )
