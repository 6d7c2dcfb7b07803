"""Received messages on a page, with opt-outs marked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING

from prefect_mymsp.phone import mask_number, mask_numbers, parse_msisdn
from prefect_mymsp.reports.html.page import Rows

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ReceivedRow:
    """A received message."""

    at: datetime | None
    sender: str
    prefix: str
    text: str
    opted_out: bool


def sender_msisdns(inbox: pd.DataFrame) -> pd.Series[str]:
    """The senders as MSISDNs, as the journal writes recipients and opt-outs; other senders as they are."""
    senders: pd.Series[str] = inbox["sender"].map(
        lambda sender: parse_msisdn(sender.strip()) or sender, na_action="ignore"
    )
    return senders


def received_at(inbox: pd.DataFrame) -> pd.Series:
    """When each message was received; where the gateway gives no time, when it was stored."""
    return inbox["received_at"].fillna(inbox["stored_at"])


def opt_out_messages(inbox: pd.DataFrame, opt_outs: Mapping[str, datetime]) -> pd.Series[bool]:
    """Mask of the messages that opted their senders out.

    Args:
        inbox: In :data:`~prefect_mymsp.reports.frames.INBOX_DTYPES`.
        opt_outs: MSISDNs that opted out, and when.
    """
    import pandas as pd

    since = pd.to_datetime(sender_msisdns(inbox).map(dict(opt_outs)), utc=True)
    # The gateway's times are whole minutes.
    same_minute: pd.Series[bool] = since.dt.floor("min") == received_at(inbox).dt.floor("min")
    return same_minute & since.notna()


def received_rows(
    inbox: pd.DataFrame, opted_out: pd.Series[bool], zone: tzinfo, limit: int, *, show_numbers: bool
) -> Rows:
    """Received messages, the newest first."""
    when = received_at(inbox)
    newest = when.sort_values(ascending=False, kind="stable").index[:limit]
    shown = inbox.loc[newest, ["sender", "prefix", "text"]].fillna("")
    rows = [
        ReceivedRow(
            at.to_pydatetime().astimezone(zone),
            sender if show_numbers else mask_number(sender),
            prefix,
            text if show_numbers else mask_numbers(text),
            bool(is_opt_out),
        )
        for at, sender, prefix, text, is_opt_out in zip(
            when[newest], shown["sender"], shown["prefix"], shown["text"], opted_out[newest], strict=True
        )
    ]
    return Rows(rows, max(len(inbox) - limit, 0))
