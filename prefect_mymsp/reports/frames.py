"""The journal as DataFrames: one schema each, the same columns and dtypes whether empty or not.

Missing values are ``NA`` (``NaT`` in times). All times are in UTC. Those of our own clock have microseconds; those of
the gateway (``sent_at``, ``delivered_at``, ``received_at``) have whole minutes, cut off rather than rounded, so that
10:31 stands for any moment until 10:32.
"""

from __future__ import annotations

import itertools
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

#: A message a row; see :func:`deliveries_frame`.
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
#: A row of a source that cannot be sent; see :func:`rejected_rows_frame`.
REJECTED_ROW_DTYPES: dict[str, str] = {
    "campaign": _TEXT,
    "row": _COUNT,
    "column": _TEXT,
    "value": _TEXT,
    "reason": _TEXT,
}
#: A row of a source that repeats an earlier one.
DUPLICATE_ROW_DTYPES: dict[str, str] = {"row": _COUNT, "msisdn": _TEXT, "first_row": _COUNT}
SUPPRESSED_ROW_DTYPES: dict[str, str] = {"row": _COUNT, "msisdn": _TEXT, "reason": _TEXT}
#: A received message a row; see :func:`inbox_frame`.
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
#: A message that waits at the gateway a row; see :func:`scheduled_frame`.
SCHEDULED_DTYPES: dict[str, str] = {
    "message_id": _TEXT,
    "send_at": _TIME,
    "campaign": _TEXT,
    "recipients": _COUNT,
    "segments": _COUNT,
}
#: A campaign a row; see :func:`campaigns_frame`.
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
    """What became of each message of campaigns, a row each, in the order of their sources.

    Args:
        journal: Where they are recorded.
        *campaigns: Which ones, all of one account.

    Returns:
        Columns as in :data:`DELIVERY_DTYPES`:

        - ``campaign``: its name;
        - ``row``: the line of its source, by which to join back to the source's other columns; 0 for a recipient group;
        - ``recipient``: the MSISDN, or ``@`` and a recipient group's name;
        - ``state``: planned, sending, accepted, refused, in_doubt, assumed or cancelled;
        - ``message_id``: the gateway's id; NA unless the gateway has it;
        - ``text_key``: tells texts apart;
        - ``segments``: SMS the text takes;
        - ``accepted_at``: when we learnt the id; NA unless accepted;
        - ``sent_at``, ``delivered_at``: the gateway's times, NA until it tells them;
        - ``latency_s``: seconds from when the request left, or from the delivery time if that is later, to
          ``delivered_at``; never negative. As the gateway tells minutes, the phone had the SMS at least so many
          seconds later and less than 60 more; NA unless delivered;
        - ``status``: the gateway's word, NA until it says one;
        - ``error``: ours, for a person; NA when there is none.

    Raises:
        JournalError: The journal cannot be read.
    """
    if not campaigns:
        return empty_frame(DELIVERY_DTYPES)
    (account,) = {one.account for one in campaigns}
    selection = Selection(campaigns=[one.id for one in campaigns])
    return deliveries(read_deliveries(journal, account, selection, {one.id: one.name for one in campaigns}))


def read_deliveries(
    journal: Journal, account: str, selection: Selection, names: Mapping[int, str] | None = None
) -> pa.Table:
    """Messages of an account as a table in the order of campaigns and rows: :data:`DELIVERY_DTYPES` and two more.

    Args:
        journal: Where they are recorded.
        account: See :func:`~prefect_mymsp.account.account_fingerprint`.
        selection: Which ones.
        names: Names of campaigns by their numbers in the journal; the default is to look them up.

    Returns:
        The deliveries' columns, ``number`` (the message's in the journal) and ``final_at``: when the outcome became
        final, null or in the future while it may change.
    """
    import numpy as np
    import pyarrow as pa

    if names is None:
        names = {one.key.id: one.key.name for one in journal.campaigns.summaries(account)}
    parts = [_delivery_part(columns, names) for columns in journal.report_queries.messages(account, selection)]
    table = pa.concat_tables([*parts, _delivery_part({}, names)])
    order = [table.column(name).to_numpy() for name in ("number", "row", "order")]
    table = table.drop_columns(["order"])
    ordered = all(
        bool(np.all((high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] >= low[:-1]))))
        for high, low in itertools.pairwise(reversed(order[1:]))
    )
    return table if ordered else table.take(pa.array(np.lexsort(order)))


def deliveries(table: pa.Table) -> pd.DataFrame:
    """The frame of such a table."""
    return _frame(table, DELIVERY_DTYPES)


def _delivery_part(columns: Columns, names: Mapping[int, str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    def array(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array(columns.get(name, []), kind)

    time, text = pa.timestamp("us", tz="UTC"), pa.large_string()
    state = columns.get("state", [])
    accepted = pc.equal(pa.array(state, text), ACCEPTED)
    delivered = array("delivered_at", pa.int64())
    began = pc.max_element_wise(array("claimed_at", pa.int64()), array("send_at", pa.int64()))
    took = pc.max_element_wise(pc.subtract(delivered, began), pa.scalar(0, pa.int64()), skip_nulls=False)
    # Few kinds of errors, and few campaigns, for many messages.
    told = list(zip(state, columns.get("code", []), columns.get("reason", []), strict=True))
    errors = {each: _error(*each) for each in set(told)}
    values = {
        "campaign": pa.array([names[number] for number in columns.get("campaign", [])], text),
        "row": array("row", pa.int64()),
        "recipient": array("msisdn", text),
        "state": pa.array(state, text),
        "message_id": array("message_id", text),
        "text_key": array("text_key", text),
        "segments": array("segments", pa.int64()),
        "accepted_at": pc.if_else(accepted, array("settled_at", pa.int64()), None).cast(time),
        "sent_at": array("sent_at", pa.int64()).cast(time),
        "delivered_at": delivered.cast(time),
        "latency_s": pc.divide(took.cast(pa.float64()), 1e6),
        "status": array("status", text),
        "error": pa.array([errors[each] for each in told], text),
        "number": array("number", pa.int64()),
        "final_at": array("final_at", pa.int64()).cast(time),
        "order": array("campaign", pa.int64()),
    }
    return pa.table(values)


def _error(state: str, code: int | None, reason: str | None) -> str | None:
    """What went wrong with a message, for a person."""
    if state == REFUSED and code == 28:
        return "28: the gateway cannot use this number"  # by now it stood alone in its request
    if state == REFUSED and code is not None:
        return f"{code}: {protocol.meaning(protocol.SEND, code)}"
    return f"may have been sent ({reason})" if state == IN_DOUBT else None


# ---- rejects ---------------------------------------------------------------------------------------------------------


def rejected_rows_frame(source: pa.Table, campaign: str) -> pd.DataFrame:
    """Rows of a campaign's source that cannot be sent, as the source was read just now.

    Returns:
        Columns as in :data:`REJECTED_ROW_DTYPES`: ``campaign``; ``row``, the source's line; ``column``, empty when the
        fault
        is the line's; ``value``, as it stands there; ``reason``, for who mends it.
    """
    columns = {"campaign": [campaign] * source.num_rows}
    columns |= {name: source.column(name).to_pylist() for name in REJECTED_ROW_DTYPES if name != "campaign"}
    return _frame(_table(columns, REJECTED_ROW_DTYPES), REJECTED_ROW_DTYPES)


def recorded_rejected_rows_frame(journal: Journal, *campaigns: CampaignKey) -> pd.DataFrame:
    """Rows of campaigns' sources that could not be sent when they were last read, also weeks later.

    Returns:
        Columns as in :data:`REJECTED_ROW_DTYPES`, the first 10,000 of each campaign. The journal keeps where a row
        is, not
        what stands there: ``value`` is NA, and numbers that a reason quotes are masked.

    Raises:
        JournalError: The journal cannot be read.
    """
    names = {one.id: one.name for one in campaigns}
    columns = journal.report_queries.rejected_rows(list(names))
    columns["campaign"] = [names[number] for number in columns["campaign"]]
    return _frame(_table(columns, REJECTED_ROW_DTYPES), REJECTED_ROW_DTYPES)


def duplicate_rows_frame(source: pa.Table) -> pd.DataFrame:
    """Rows of a source that repeat an earlier one: ``row``, ``msisdn``, ``first_row``."""
    columns = {name: source.column(name).to_pylist() for name in DUPLICATE_ROW_DTYPES}
    return _frame(_table(columns, DUPLICATE_ROW_DTYPES), DUPLICATE_ROW_DTYPES)


def suppressed_rows_frame(source: pa.Table) -> pd.DataFrame:
    """Rows left out because their number must get nothing: ``row``, ``msisdn``, ``reason``."""
    columns = {name: source.column(name).to_pylist() for name in SUPPRESSED_ROW_DTYPES}
    return _frame(_table(columns, SUPPRESSED_ROW_DTYPES), SUPPRESSED_ROW_DTYPES)


# ---- the inbox, the schedule, the campaigns --------------------------------------------------------------------------


def inbox_frame(parts: Iterable[Sequence[tuple[Any, ...]]]) -> pd.DataFrame:
    """Received messages, a row each, in the order they were stored.

    Args:
        parts: As ``journal.inbox.rows`` yields them.

    Returns:
        Columns as in :data:`INBOX_DTYPES`: ``message_id``, the gateway's; ``received_at``, the gateway's time, NA when
        it told none; ``stored_at``, when it came into the journal (our clock); ``sender``, who wrote; ``prefix``,
        the keyword that routed it here; ``kind``, SMS, VOI or DPN; ``text``; ``user``, ``alias`` and ``subject`` as
        the gateway has them. Texts are written by strangers: escape them wherever they are shown. Of messages that
        were forgotten, sender, alias and subject are NA and the text is empty.
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
    """What waits at the gateway for its delivery time, a message a row, in the order it is due.

    Args:
        journal: Where our campaigns are recorded.
        account: See :func:`~prefect_mymsp.account.account_fingerprint`.
        listed: What the gateway says is waiting; None for what the journal believes.
        now: The moment, aware; the default is the present.

    Returns:
        Columns as in :data:`SCHEDULED_DTYPES`: ``message_id``; ``send_at``, NA when the gateway gives no time;
        ``campaign``, ``recipients`` and ``segments`` (SMS, for all of its recipients), NA for messages that other
        systems have scheduled on this account.
    """
    columns = journal.report_queries.scheduled(account, now or datetime.now(UTC))
    names = {one.key.id: one.key.name for one in journal.campaigns.summaries(account)} if columns["campaign"] else {}
    columns["campaign"] = [names[number] for number in columns["campaign"]]
    if listed is not None:
        ours = {message_id: at for at, message_id in enumerate(columns["message_id"])}
        distant = datetime.max.replace(tzinfo=UTC)
        due = sorted(listed, key=lambda one: (one.send_at or distant, one.message_id))
        found = [ours.get(one.message_id) for one in due]
        columns = {
            name: [None if at is None else values[at] for at in found]
            for name, values in columns.items()
            if name in {"campaign", "recipients", "segments"}
        }
        columns["message_id"] = [one.message_id for one in due]
        columns["send_at"] = [_micros(one.send_at) for one in due]
    return _frame(_table(columns, SCHEDULED_DTYPES), SCHEDULED_DTYPES)


def campaigns_frame(
    journal: Journal, campaigns: Sequence[CampaignSummary], *, price_per_segment: Decimal | float | None = None
) -> pd.DataFrame:
    """Campaigns and what they came to, a row each, in the order given.

    Args:
        journal: Where they are recorded.
        campaigns: As ``journal.campaigns.summaries`` gives them, all of one account.
        price_per_segment: What one SMS costs, in a currency of yours.

    Returns:
        Columns as in :data:`CAMPAIGN_DTYPES`: ``campaign``; ``created_at``, when it was first recorded;
        ``send_at``, NA for at once; ``sender``, NA for the account's; ``source``; ``rows`` of the source when it
        was last read, and of these the ``rejected``, ``duplicates`` and ``suppressed`` ones, NA where the journal did
        not count them yet; ``messages`` by state, which add up; ``delivered`` and ``final`` ones of the accepted;
        ``delivery_rate``, delivered of accepted, NA when none was; ``latency_p50_s``, ``latency_p95_s`` and
        ``latency_max_s`` of the delivered (see :func:`deliveries_frame` for what a latency is), in whole seconds, NA
        when there are none or the people were forgotten; ``segments``, SMS the accepted messages took; ``cost``,
        these times the price, NA without a price.

    Raises:
        JournalError: The journal cannot be read.
    """
    columns: Columns = {name: [] for name in CAMPAIGN_DTYPES}
    took = {}
    if campaigns:
        took = journal.report_queries.latencies(campaigns[0].key.account, [one.key.id for one in campaigns])
    price = None if price_per_segment is None else Decimal(str(price_per_segment))
    for one in campaigns:
        key, counts, source = one.key, one.counts, one.source_rows
        values: dict[str, Any] = {
            "campaign": key.name,
            "created_at": _micros(one.created_at),
            "send_at": _micros(key.send_at),
            "sender": key.sender,
            "source": one.source,
            "delivery_rate": counts.delivered / counts.accepted if counts.accepted else None,
            "segments": counts.segments,
            "cost": None if price is None else float(price * counts.segments),
        }
        for name in ("rows", "rejected", "duplicates", "suppressed"):
            values[name] = None if source is None else getattr(source, name)
        latencies = took.get(key.id, [])
        for name, share in (("latency_p50_s", 0.5), ("latency_p95_s", 0.95), ("latency_max_s", 1.0)):
            values[name] = percentile(latencies, share)
        for name, column in columns.items():
            column.append(values[name] if name in values else getattr(counts, name))
    return _frame(_table(columns, CAMPAIGN_DTYPES), CAMPAIGN_DTYPES)


def percentile(counted: Sequence[tuple[float, int]], share: float) -> float | None:
    """The value that a share of all does not exceed, by nearest rank; None of nothing.

    Args:
        counted: (value, how often it occurs), ascending.
        share: From 0 to 1.
    """
    total = sum(count for _, count in counted)
    reached = 0
    for value, count in counted:
        reached += count
        if reached >= share * total:
            return float(value)
    return None


# ---- shared ----------------------------------------------------------------------------------------------------------


def _micros(time: datetime | None) -> int | None:
    from prefect_mymsp.journal.schema import microseconds

    return None if time is None else microseconds(time)


def _table(columns: Columns, dtypes: Mapping[str, str]) -> pa.Table:
    """Lists of values as a table in a schema; a column that is missing is null, one beyond the schema left out."""
    import pyarrow as pa

    kinds = {_TEXT: pa.large_string(), _COUNT: pa.int64(), _TIME: pa.int64(), _FRACTION: pa.float64()}
    nothing = [None] * max(map(len, columns.values()), default=0)
    arrays = {name: pa.array(columns.get(name, nothing), kinds[dtype]) for name, dtype in dtypes.items()}
    times = pa.timestamp("us", tz="UTC")
    return pa.table({name: one.cast(times) if dtypes[name] == _TIME else one for name, one in arrays.items()})


def _frame(table: pa.Table, dtypes: Mapping[str, str]) -> pd.DataFrame:
    """A table as a frame of exactly these columns and dtypes; texts stay where Arrow has them."""
    import pandas as pd
    import pyarrow as pa

    kinds = {
        pa.large_string(): pd.StringDtype("pyarrow", na_value=pd.NA),
        pa.int64(): pd.Int64Dtype(),
        pa.float64(): pd.Float64Dtype(),
    }
    frame: pd.DataFrame = table.select(list(dtypes)).to_pandas(types_mapper=kinds.get)
    return frame
