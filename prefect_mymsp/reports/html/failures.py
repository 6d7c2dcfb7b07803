"""Failures: reasons, operators, the recipients, messages in doubt, and rejected rows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefect_mymsp.phone import mask_number, mask_numbers
from prefect_mymsp.reports.html.charts import share
from prefect_mymsp.reports.html.page import LONG, MEDIUM, SHORT, Rows, ShareRow
from prefect_mymsp.reports.html.tally import delivered_mask
from prefect_mymsp.reports.sanitize import escape_control_characters
from prefect_mymsp.states import ASSUMED, CANCELLED, IN_DOUBT, PLANNED, SENDING

if TYPE_CHECKING:
    import pandas as pd

_STATE_REASONS = {
    PLANNED: "not sent yet",
    SENDING: "being sent, or about to be",
    CANCELLED: "cancelled before its send time",
    ASSUMED: "was in doubt; resolved as sent",
}
_UNKNOWN_OPERATOR = "unknown"


@dataclass(frozen=True)
class RecipientRow:
    """A message that was not delivered."""

    campaign: str
    row: int
    recipient: str
    reason: str


@dataclass(frozen=True)
class RejectedRow:
    """A row of a source that cannot be sent."""

    campaign: str
    row: int
    column: str
    reason: str


@dataclass(frozen=True)
class Failures:
    """The messages that were not delivered.

    Attributes:
        summary: The number of messages, in words.
        reasons: Counted by reason.
        operators: Counted by operator; empty when no operator is known.
        undelivered: The recipients, without those in doubt.
        in_doubt: The recipients of messages in doubt.
        commands: Commands that list all messages in doubt, for the first few campaigns.
    """

    summary: str = ""
    reasons: Rows = field(default_factory=Rows)
    operators: Rows = field(default_factory=Rows)
    undelivered: Rows = field(default_factory=Rows)
    in_doubt: Rows = field(default_factory=Rows)
    commands: Sequence[str] = ()


def failures(deliveries: pd.DataFrame, *, show_numbers: bool) -> Failures:
    """The messages in a frame of deliveries that were not delivered."""
    not_delivered = ~delivered_mask(deliveries)
    failed = deliveries[not_delivered]
    if failed.empty:
        return Failures()
    reasons = _reasons(failed)
    by_reason = [
        ShareRow(str(reason), int(count), share(int(count), len(deliveries)), int(count) / len(failed))
        for reason, count in reasons.value_counts().items()
    ]
    is_in_doubt = failed["state"] == IN_DOUBT
    doubtful_campaigns = failed.loc[is_in_doubt, "campaign"].unique()[:5]
    return Failures(
        summary=f"{len(failed):,} of {len(deliveries):,} messages, {share(len(failed), len(deliveries))}.",
        reasons=Rows.first(by_reason, SHORT),
        operators=Rows.first(_operators(deliveries["recipient"], not_delivered), SHORT),
        undelivered=_recipients(failed[~is_in_doubt], reasons[~is_in_doubt], LONG, show_numbers=show_numbers),
        in_doubt=_recipients(failed[is_in_doubt], reasons[is_in_doubt], MEDIUM, show_numbers=show_numbers),
        commands=[_resolve_command(escape_control_characters(str(name))) for name in doubtful_campaigns],
    )


def rejected_row_table(rejected_rows: pd.DataFrame, rejected: int, *, show_numbers: bool) -> Rows:
    """The first rows that cannot be sent.

    Args:
        rejected_rows: In :data:`~prefect_mymsp.reports.frames.REJECTED_ROW_DTYPES`.
        rejected: How many there are; the journal keeps the first 10,000 of each campaign.
        show_numbers: Show numbers that a reason quotes in full.
    """
    columns = ["campaign", "row", "column", "reason"]
    rows = [
        RejectedRow(str(campaign), int(row), str(column or ""), reason if show_numbers else mask_numbers(reason))
        for campaign, row, column, reason in rejected_rows.head(LONG)[columns].itertuples(index=False)
    ]
    return Rows(rows, max(rejected, len(rejected_rows)) - len(rows))


def _resolve_command(campaign: str) -> str:
    """The command that shows the messages of a campaign that are in doubt, and resolves them."""
    end_of_options = "-- " if campaign.startswith("-") else ""
    return f"prefect-mymsp resolve --credentials NAME {end_of_options}{shlex.quote(campaign)}"


def _recipients(failed: pd.DataFrame, reasons: pd.Series[str], limit: int, *, show_numbers: bool) -> Rows:
    columns = failed.head(limit)
    rows = [
        RecipientRow(str(campaign), int(row), recipient if show_numbers else mask_number(recipient), str(reason))
        for campaign, row, recipient, reason in zip(
            columns["campaign"], columns["row"], columns["recipient"], reasons.head(limit), strict=True
        )
    ]
    return Rows(rows, max(len(failed) - limit, 0))


def _reasons(failed: pd.DataFrame) -> pd.Series[str]:
    """Why each message was not delivered, in words that many of them share."""
    import pandas as pd

    keys = failed[["state", "status", "error"]].astype("string").fillna("")
    sent = failed["sent_at"].notna()
    # Few combinations, also of a million messages.
    words = {
        (state, status, error, was_sent): _reason(state, status, error, was_sent=was_sent)
        for state, status, error, was_sent in keys.assign(sent=sent).drop_duplicates().itertuples(index=False)
    }
    reasons = [words[key] for key in zip(keys["state"], keys["status"], keys["error"], sent, strict=True)]
    return pd.Series(reasons, index=failed.index, dtype="string")


def _reason(state: str, status: str, error: str, *, was_sent: bool) -> str:
    if state in _STATE_REASONS:
        return _STATE_REASONS[state]
    if error:
        return error
    if not status:
        return "accepted; no status from the gateway yet"
    if was_sent:
        return f"sent; the gateway reports “{status}”"
    return f"waits at the gateway, which reports “{status}”"


def _operators(recipients: pd.Series, failed: pd.Series[bool]) -> list[ShareRow]:
    """Messages by the operator that a number's range was first given to; nothing when none is known."""
    import pandas as pd

    prefixes = recipients.str.slice(0, 9)  # the longest prefix that stands for an operator has nine digits
    names = {prefix: _operator(prefix) for prefix in prefixes.unique()}
    table = pd.DataFrame({"operator": prefixes.map(names), "failed": failed})
    groups = table.groupby("operator", sort=False)["failed"].agg(["sum", "size"])
    if list(groups.index) == [_UNKNOWN_OPERATOR]:
        return []
    groups = groups.sort_values(["sum", "size"], ascending=False)
    return [
        ShareRow(str(name), int(count), share(int(count), int(total)), float(count) / float(total), int(total))
        for name, count, total in groups.itertuples()
    ]


def _operator(prefix: str) -> str:
    """The operator that a prefix was first given to, with the country code; many countries do not publish it."""
    import phonenumbers
    from phonenumbers import carrier

    if not prefix.isdigit():
        return "recipient groups"
    for length in (1, 2, 3):
        code = int(prefix[:length])
        if code in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
            number = phonenumbers.PhoneNumber(country_code=code, national_number=int(prefix[length:] + "00"))
            name = carrier.name_for_valid_number(number, "en")
            return f"{name} (+{code})" if name else _UNKNOWN_OPERATOR
    return _UNKNOWN_OPERATOR
