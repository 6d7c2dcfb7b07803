"""The journal as DataFrames. Each has a schema: the same columns and dtypes, also when empty.

Missing values are ``NA`` (``NaT`` in times). All times are in UTC. Times of this machine's clock have microseconds.
Times of the gateway (``sent_at``, ``delivered_at``, ``received_at``) are whole minutes, cut off and not rounded: 10:31
stands for any moment before 10:32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from prefect_mymsp import protocol
from prefect_mymsp.journal import Selection
from prefect_mymsp.states import ACCEPTED, IN_DOUBT, REFUSED

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from prefect_mymsp.journal import CampaignKey, CampaignSummary, Journal
    from prefect_mymsp.journal.report_queries import Columns
    from prefect_mymsp.models import ScheduledMessage

_TEXT, _COUNT, _TIME, _FRACTION = "string", "Int64", "datetime64[us, UTC]", "Float64"

#: One row per message; see :func:`deliveries_frame`.
DELIVERY_DTYPES: dict[str, str] = {
    "campaign": _TEXT,
    "row": _COUNT,
    "recipient": _TEXT,
    "state": _TEXT,
    "message_id": _TEXT,
    "text_key": _TEXT,
    "segments": _COUNT,
    "accepted_at": _TIME,
    "sent_at": _TIME,
    "delivered_at": _TIME,
    "latency_s": _FRACTION,
    "status": _TEXT,
    "error": _TEXT,
}
#: One row per row of a source that cannot be sent; see :func:`rejected_rows_frame`.
REJECTED_ROW_DTYPES: dict[str, str] = {
    "campaign": _TEXT,
    "row": _COUNT,
    "column": _TEXT,
    "value": _TEXT,
    "reason": _TEXT,
}
#: One row per row of a source with the number and the text of an earlier one.
DUPLICATE_ROW_DTYPES: dict[str, str] = {"row": _COUNT, "msisdn": _TEXT, "first_row": _COUNT}
#: One row per row of a source with a suppressed number.
SUPPRESSED_ROW_DTYPES: dict[str, str] = {"row": _COUNT, "msisdn": _TEXT, "reason": _TEXT}
#: One row per received message; see :func:`inbox_frame`.
INBOX_DTYPES: dict[str, str] = {
    "message_id": _TEXT,
    "received_at": _TIME,
    "stored_at": _TIME,
    "sender": _TEXT,
    "prefix": _TEXT,
    "kind": _TEXT,
    "text": _TEXT,
    "user": _TEXT,
    "alias": _TEXT,
    "subject": _TEXT,
}
#: One row per message that is scheduled at the gateway; see :func:`scheduled_frame`.
SCHEDULED_DTYPES: dict[str, str] = {
    "message_id": _TEXT,
    "send_at": _TIME,
    "campaign": _TEXT,
    "recipients": _COUNT,
    "segments": _COUNT,
}
#: One row per campaign; see :func:`campaigns_frame`.
CAMPAIGN_DTYPES: dict[str, str] = {
    "campaign": _TEXT,
    "created_at": _TIME,
    "send_at": _TIME,
    "sender": _TEXT,
    "source": _TEXT,
    "rows": _COUNT,
    "rejected": _COUNT,
    "duplicates": _COUNT,
    "suppressed": _COUNT,
    "messages": _COUNT,
    "planned": _COUNT,
    "sending": _COUNT,
    "accepted": _COUNT,
    "refused": _COUNT,
    "in_doubt": _COUNT,
    "assumed": _COUNT,
    "cancelled": _COUNT,
    "delivered": _COUNT,
    "final": _COUNT,
    "delivery_rate": _FRACTION,
    "latency_p50_s": _FRACTION,
    "latency_p95_s": _FRACTION,
    "latency_max_s": _FRACTION,
    "segments": _COUNT,
    "cost": _FRACTION,
}


def empty_frame(dtypes: Mapping[str, str]) -> pd.DataFrame:
    """A frame without rows in one of the schemas above."""
    return _frame(_table({}, dtypes), dtypes)


# ---- deliveries ------------------------------------------------------------------------------------------------------


def deliveries_frame(journal: Journal, *campaigns: CampaignKey) -> pd.DataFrame:
    """The messages of campaigns and their deliveries, one row each, in the order of the sources.

    Args:
        journal: Where they are recorded.
        *campaigns: The campaigns, all of one account.

    Returns:
        Columns as in :data:`DELIVERY_DTYPES`:

        - ``campaign``: the campaign's name;
        - ``row``: the line of the source, to join the source's other columns; 0 for a recipient group;
        - ``recipient``: the MSISDN, or ``@`` and the name of a recipient group;
        - ``state``: planned, sending, accepted, refused, in_doubt, assumed or cancelled;
        - ``message_id``: the gateway's id; NA unless the gateway has assigned one;
        - ``text_key``: the same for the same text;
        - ``segments``: SMS segments of the text;
        - ``accepted_at``: when this machine received the id; NA unless accepted;
        - ``sent_at``, ``delivered_at``: the gateway's times; NA until it reports them;
        - ``latency_s``: seconds from the request, or from the send time if that is later, to ``delivered_at``; never
          negative. The gateway reports minutes, so the phone received the SMS at least this many seconds later and
          less than 60 seconds after that; NA unless delivered;
        - ``status``: the gateway's status; NA until it reports one;
        - ``error``: the failure, in words; NA without one.

    Raises:
        JournalError: The journal cannot be read.
    """
    if not campaigns:
        return empty_frame(DELIVERY_DTYPES)
    (account,) = {campaign.account for campaign in campaigns}
    selection = Selection(campaigns=[campaign.id for campaign in campaigns])
    names = {campaign.id: campaign.name for campaign in campaigns}
    return deliveries(read_deliveries(journal, account, selection, names))


def read_deliveries(journal: Journal, account: str, selection: Selection, names: Mapping[int, str]) -> pa.Table:
    """Messages of an account as a table, ordered by campaign and row.

    Args:
        journal: Where they are recorded.
        account: See :func:`~prefect_mymsp.account.account_fingerprint`.
        selection: Which messages.
        names: Names of campaigns by their numbers in the journal.

    Returns:
        The columns of :data:`DELIVERY_DTYPES`; ``number``, the message's number in the journal; and ``final_at``, when
        the outcome became final, null or in the future while it may change.
    """
    import numpy as np
    import pyarrow as pa

    parts = [_delivery_table(columns, names) for columns in journal.report_queries.messages(account, selection)]
    table = pa.concat_tables([*parts, _delivery_table({}, names)])
    number, row, campaign = (table.column(name).to_numpy() for name in ("number", "row", "campaign_number"))
    table = table.drop_columns(["campaign_number"])
    next_campaign, same_campaign = campaign[1:] > campaign[:-1], campaign[1:] == campaign[:-1]
    if np.all(next_campaign | (same_campaign & (row[1:] >= row[:-1]))):  # mostly: the journal has recorded them so
        return table
    return table.take(pa.array(np.lexsort((number, row, campaign))))


def deliveries(table: pa.Table) -> pd.DataFrame:
    """The frame of a table of :func:`read_deliveries`."""
    return _frame(table, DELIVERY_DTYPES)


def _delivery_table(columns: Columns, names: Mapping[int, str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    def array(name: str, type_: pa.DataType) -> pa.Array:
        return pa.array(columns.get(name, []), type_)

    time, text = pa.timestamp("us", tz="UTC"), pa.large_string()
    state = columns.get("state", [])
    is_accepted = pc.equal(pa.array(state, text), ACCEPTED)
    delivered_at = array("delivered_at", pa.int64())
    left_at = pc.max_element_wise(array("claimed_at", pa.int64()), array("send_at", pa.int64()))
    latency = pc.max_element_wise(pc.subtract(delivered_at, left_at), pa.scalar(0, pa.int64()), skip_nulls=False)
    # Many messages share few errors and campaigns: each text is made once.
    error_keys = list(zip(state, columns.get("code", []), columns.get("reason", []), strict=True))
    errors = {key: _error(*key) for key in set(error_keys)}
    values = {
        "campaign": pa.array([names[number] for number in columns.get("campaign", [])], text),
        "row": array("row", pa.int64()),
        "recipient": array("msisdn", text),
        "state": pa.array(state, text),
        "message_id": array("message_id", text),
        "text_key": array("text_key", text),
        "segments": array("segments", pa.int64()),
        "accepted_at": pc.if_else(is_accepted, array("settled_at", pa.int64()), None).cast(time),
        "sent_at": array("sent_at", pa.int64()).cast(time),
        "delivered_at": delivered_at.cast(time),
        "latency_s": pc.divide(latency.cast(pa.float64()), 1e6),
        "status": array("status", text),
        "error": pa.array([errors[key] for key in error_keys], text),
        "number": array("number", pa.int64()),
        "final_at": array("final_at", pa.int64()).cast(time),
        "campaign_number": array("campaign", pa.int64()),
    }
    return pa.table(values)


def _error(state: str, code: int | None, reason: str | None) -> str | None:
    """The failure of a message, in words."""
    if state == REFUSED and code == protocol.BAD_RECIPIENT:
        return "28: the gateway cannot use this number"  # bisecting has left it alone in its request
    if state == REFUSED and code is not None:
        return f"{code}: {protocol.code_meaning(protocol.SEND, code)}"
    return f"may have been sent ({reason})" if state == IN_DOUBT else None


# ---- rows that are left out ------------------------------------------------------------------------------------------


def rejected_rows_frame(rejected_rows: pa.Table, campaign: str) -> pd.DataFrame:
    """The rejected rows of a source that was just read.

    Args:
        rejected_rows: The rejected rows of a plan.
        campaign: The campaign's name.

    Returns:
        Columns as in :data:`REJECTED_ROW_DTYPES`: ``campaign``; ``row``, the line of the source; ``column``, empty when
        the whole line is wrong; ``value``, the cell as it is; ``reason``, what to fix.
    """
    columns = {"campaign": [campaign] * rejected_rows.num_rows}
    columns |= {name: rejected_rows.column(name).to_pylist() for name in REJECTED_ROW_DTYPES if name != "campaign"}
    return _frame(_table(columns, REJECTED_ROW_DTYPES), REJECTED_ROW_DTYPES)


def recorded_rejected_rows_frame(journal: Journal, *campaigns: CampaignKey) -> pd.DataFrame:
    """The rejected rows of campaigns as the journal recorded them when the sources were last read.

    Returns:
        Columns as in :data:`REJECTED_ROW_DTYPES`, the first 10,000 of each campaign. The journal does not store cells:
        ``value`` is NA, and numbers that a reason quotes are masked.

    Raises:
        JournalError: The journal cannot be read.
    """
    names = {campaign.id: campaign.name for campaign in campaigns}
    columns = journal.report_queries.rejected_rows(list(names))
    columns["campaign"] = [names[number] for number in columns["campaign"]]
    return _frame(_table(columns, REJECTED_ROW_DTYPES), REJECTED_ROW_DTYPES)


def duplicate_rows_frame(duplicates: pa.Table) -> pd.DataFrame:
    """Rows of a source with the number and the text of an earlier one: ``row``, ``msisdn``, ``first_row``."""
    columns = {name: duplicates.column(name).to_pylist() for name in DUPLICATE_ROW_DTYPES}
    return _frame(_table(columns, DUPLICATE_ROW_DTYPES), DUPLICATE_ROW_DTYPES)


def suppressed_rows_frame(suppressed: pa.Table) -> pd.DataFrame:
    """Rows of a source with a suppressed number: ``row``, ``msisdn``, ``reason``."""
    columns = {name: suppressed.column(name).to_pylist() for name in SUPPRESSED_ROW_DTYPES}
    return _frame(_table(columns, SUPPRESSED_ROW_DTYPES), SUPPRESSED_ROW_DTYPES)


# ---- the inbox, the schedule, the campaigns --------------------------------------------------------------------------


def inbox_frame(parts: Iterable[Sequence[tuple[Any, ...]]]) -> pd.DataFrame:
    """Received messages, one row each, in the order in which they were stored.

    Args:
        parts: What ``journal.inbox.rows`` yields.

    Returns:
        Columns as in :data:`INBOX_DTYPES`: ``message_id``, the gateway's; ``received_at``, the gateway's time, NA when
        it gave none; ``stored_at``, when it came into the journal; ``sender``; ``prefix``, the keyword that routed it
        here; ``kind``, SMS, VOI or DPN; ``text``; ``user``, ``alias`` and ``subject`` as the gateway has them. Texts
        are untrusted: escape them wherever you show them. In purged messages, sender, alias and subject are NA and the
        text is empty.
    """
    import pyarrow as pa

    names = ("number", "message_id", "received_at", "stored_at", "user", "prefix", "kind", "sender", "alias",
             "subject", "text")  # fmt: skip
    tables = [
        _table(dict(zip(names, map(list, zip(*part, strict=True)), strict=True)), INBOX_DTYPES)
        for part in parts
        if part
    ]
    return _frame(pa.concat_tables([*tables, _table({}, INBOX_DTYPES)]), INBOX_DTYPES)


def scheduled_frame(
    journal: Journal, account: str, listed: Sequence[ScheduledMessage] | None = None, *, now: datetime | None = None
) -> pd.DataFrame:
    """Messages that are scheduled at the gateway, one row each, in the order in which they are due.

    Args:
        journal: Where the campaigns are recorded.
        account: See :func:`~prefect_mymsp.account.account_fingerprint`.
        listed: The gateway's own list; None for what the journal has recorded.
        now: The present, aware; the default is the clock's.

    Returns:
        Columns as in :data:`SCHEDULED_DTYPES`: ``message_id``; ``send_at``, NA when the gateway gives no time;
        ``campaign``, ``recipients`` and ``segments`` (of all recipients together), NA for messages that other systems
        have scheduled on this account.
    """
    columns = journal.report_queries.scheduled(account, now or datetime.now(UTC))
    summaries = journal.campaigns.summaries(account) if columns["campaign"] else []
    names = {summary.key.id: summary.key.name for summary in summaries}
    columns["campaign"] = [names[number] for number in columns["campaign"]]
    if listed is not None:
        recorded = {message_id: index for index, message_id in enumerate(columns["message_id"])}
        never = datetime.max.replace(tzinfo=UTC)
        due = sorted(listed, key=lambda message: (message.send_at or never, message.message_id))
        indexes = [recorded.get(message.message_id) for message in due]
        columns = {
            name: [None if index is None else columns[name][index] for index in indexes]
            for name in ("campaign", "recipients", "segments")
        }
        columns["message_id"] = [message.message_id for message in due]
        columns["send_at"] = [_micros(message.send_at) for message in due]
    return _frame(_table(columns, SCHEDULED_DTYPES), SCHEDULED_DTYPES)


def campaigns_frame(
    journal: Journal, campaigns: Sequence[CampaignSummary], *, price_per_segment: Decimal | float | None = None
) -> pd.DataFrame:
    """Campaigns and their figures, one row each, in the order given.

    Args:
        journal: Where they are recorded.
        campaigns: What ``journal.campaigns.summaries`` returns, all of one account.
        price_per_segment: What one segment costs, in a currency of yours.

    Returns:
        Columns as in :data:`CAMPAIGN_DTYPES`: ``campaign``; ``created_at``, when it was first recorded; ``send_at``, NA
        for at once; ``sender``, NA for the account's default; ``source``; ``rows`` of the source when it was last read,
        and of these ``rejected``, ``duplicates`` and ``suppressed``, NA when they were not counted; ``messages``, the
        sum of the following states; ``delivered`` and ``final``, of the accepted; ``delivery_rate``, delivered of
        accepted, NA when none was accepted; ``latency_p50_s``, ``latency_p95_s`` and ``latency_max_s`` of the delivered
        (see :func:`deliveries_frame` for latencies), in whole seconds, NA when none was delivered or the recipients
        were purged; ``segments`` of the accepted; ``cost``, segments times the price, NA without a price.

    Raises:
        JournalError: The journal cannot be read.
    """
    columns: Columns = {name: [] for name in CAMPAIGN_DTYPES}
    latencies = {}
    if campaigns:
        ids = [summary.key.id for summary in campaigns]
        latencies = journal.report_queries.latencies(campaigns[0].key.account, ids)
    price = None if price_per_segment is None else Decimal(str(price_per_segment))
    for summary in campaigns:
        key, counts, source = summary.key, summary.counts, summary.source_rows
        values: dict[str, Any] = {
            "campaign": key.name,
            "created_at": _micros(summary.created_at),
            "send_at": _micros(key.send_at),
            "sender": key.sender,
            "source": summary.source,
            "delivery_rate": counts.delivered / counts.accepted if counts.accepted else None,
            "segments": counts.segments,
            "cost": None if price is None else float(price * counts.segments),
        }
        for name in ("rows", "rejected", "duplicates", "suppressed"):
            values[name] = None if source is None else getattr(source, name)
        for name, share in (("latency_p50_s", 0.5), ("latency_p95_s", 0.95), ("latency_max_s", 1.0)):
            values[name] = percentile(latencies.get(key.id, []), share)
        for name, column in columns.items():
            column.append(values[name] if name in values else getattr(counts, name))
    return _frame(_table(columns, CAMPAIGN_DTYPES), CAMPAIGN_DTYPES)


def percentile(counts: Sequence[tuple[float, int]], share: float) -> float | None:
    """The smallest value that at least a share of all values does not exceed (nearest rank); None without values.

    Args:
        counts: (value, how often it occurs), ascending.
        share: From 0 to 1.
    """
    total = sum(count for _, count in counts)
    cumulated = 0
    for value, count in counts:
        cumulated += count
        if cumulated >= share * total:
            return float(value)
    return None


# ---- shared ----------------------------------------------------------------------------------------------------------


def _micros(time: datetime | None) -> int | None:
    from prefect_mymsp.journal.schema import microseconds

    return None if time is None else microseconds(time)


def _table(columns: Columns, dtypes: Mapping[str, str]) -> pa.Table:
    """Lists of values as a table in a schema. Missing columns are null, columns beyond the schema are left out."""
    import pyarrow as pa

    types = {_TEXT: pa.large_string(), _COUNT: pa.int64(), _TIME: pa.int64(), _FRACTION: pa.float64()}
    nulls = [None] * max(map(len, columns.values()), default=0)
    arrays = {name: pa.array(columns.get(name, nulls), types[dtype]) for name, dtype in dtypes.items()}
    time = pa.timestamp("us", tz="UTC")
    return pa.table({name: array.cast(time) if dtypes[name] == _TIME else array for name, array in arrays.items()})


def _frame(table: pa.Table, dtypes: Mapping[str, str]) -> pd.DataFrame:
    """A table as a frame of exactly these columns and dtypes; texts stay in Arrow's memory."""
    import pandas as pd
    import pyarrow as pa

    types = {
        pa.large_string(): pd.StringDtype("pyarrow", na_value=pd.NA),
        pa.int64(): pd.Int64Dtype(),
        pa.float64(): pd.Float64Dtype(),
    }
    frame: pd.DataFrame = table.select(list(dtypes)).to_pandas(types_mapper=types.get)
    return frame
