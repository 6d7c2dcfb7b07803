"""A campaign's report: its counts, its deliveries and its rejects."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_mymsp import wire
from prefect_mymsp.errors import JournalError
from prefect_mymsp.journal.schema import IN_DOUBT
from prefect_mymsp.journal.store import CampaignKey, Journal

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from prefect_mymsp.campaign.plan import Plan, Sample
    from prefect_mymsp.journal.store import Counts

#: The columns of a deliveries frame, in order, with their dtypes.
DELIVERY_DTYPES: dict[str, str] = {
    "campaign": "string",
    "row": "Int64",
    "recipient": "string",
    "state": "string",
    "message_id": "string",
    "text_key": "string",
    "segments": "Int64",
    "accepted_at": "datetime64[us, UTC]",
    "sent_at": "datetime64[us, UTC]",
    "delivered_at": "datetime64[us, UTC]",
    "status": "string",
    "error": "string",
}
REJECT_DTYPES: dict[str, str] = {"row": "Int64", "column": "string", "value": "string", "reason": "string"}
SUPPRESSED_DTYPES: dict[str, str] = {"row": "Int64", "msisdn": "string", "reason": "string"}
DUPLICATE_DTYPES: dict[str, str] = {"row": "Int64", "msisdn": "string", "first_row": "Int64"}


def deliveries_frame(journal: Journal, campaign: CampaignKey) -> pd.DataFrame:
    """What became of each message of a campaign, a row each, in the order of the source.

    Returns:
        Columns as in :data:`DELIVERY_DTYPES`, the same whether empty or not: ``campaign``; ``row``, the source's line;
        ``recipient``, the MSISDN; ``state``, one of planned, sending, accepted, rejected, in_doubt, assumed,
        cancelled; ``message_id``; ``text_key``, which tells texts apart; ``segments``; ``accepted_at`` (our clock, to
        the microsecond); ``sent_at`` and ``delivered_at`` (the gateway's clock, to the minute); ``status``, the
        gateway's word; ``error``, ours. All times in UTC, missing values are NA.

    Raises:
        JournalError: The journal cannot be read.
    """
    import pandas as pd

    parts = [_delivery_part(campaign.name, rows) for rows in journal.message_rows(campaign)]
    empty = pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in DELIVERY_DTYPES.items()})
    return pd.concat(parts, ignore_index=True) if parts else empty


def _delivery_part(name: str, rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    import pandas as pd

    columns = list(zip(*rows, strict=True))
    row, recipient, state, message_id, digest, segments, _, settled, sent, delivered, status, code, reason = columns
    accepted = [at if which == "accepted" else None for at, which in zip(settled, state, strict=True)]
    values: dict[str, Any] = {
        "campaign": [name] * len(rows),
        "row": row,
        "recipient": recipient,
        "state": state,
        "message_id": message_id,
        "text_key": [bytes(one).hex() for one in digest],
        "segments": segments,
        "accepted_at": accepted,
        "sent_at": sent,
        "delivered_at": delivered,
        "status": status,
        "error": [_error(*one) for one in zip(state, code, reason, strict=True)],
    }
    frame = {}
    for column, dtype in DELIVERY_DTYPES.items():
        if dtype.startswith("datetime"):
            micros = pd.array(values[column], dtype="Int64")
            frame[column] = pd.Series(pd.to_datetime(micros, unit="us", utc=True)).dt.as_unit("us")
        else:
            frame[column] = pd.Series(values[column], dtype=dtype)
    return pd.DataFrame(frame)


def _error(state: str, code: int | None, reason: str | None) -> str | None:
    """What went wrong with a message, for a person."""
    if state == "rejected" and code == 28:
        return "28: the gateway cannot use this number"  # by now it stood alone in its request
    if state == "rejected" and code is not None:
        return f"{code}: {wire.meaning(wire.SEND, code)}"
    return f"may have been sent ({reason})" if state == IN_DOUBT else None


def rejects_frame(table: pa.Table, dtypes: dict[str, str] | None = None) -> pd.DataFrame:
    """Rows that cannot be sent: ``row`` (the source's line), ``column``, ``value`` as it stands there, ``reason``."""
    import pandas as pd

    dtypes = dtypes or REJECT_DTYPES
    return pd.DataFrame(
        {name: pd.Series(table.column(name).to_pylist(), dtype=dtype) for name, dtype in dtypes.items()}
    )


_FORMULA = re.compile(r"^[\s\x00-\x1f]*[=+\-@]")


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """Write a frame as CSV: commas, UTF-8, times as ISO 8601; the file is for its owner only.

    A text that a spreadsheet would run as a formula gets an apostrophe in front.

    Raises:
        JournalError: The file cannot be written.
    """
    safe = frame.copy()
    for name in safe.columns[safe.dtypes == "string"]:
        if name != "recipient":
            risky = safe[name].str.contains(_FORMULA, na=False)
            safe[name] = safe[name].mask(risky, "'" + safe[name])
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            path.chmod(0o600)  # also when it was there before
            safe.to_csv(file, index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ")
    except OSError as error:
        raise JournalError(f"The report {path} cannot be written: {error.strerror}.") from error
    return path


def file_name(campaign: str) -> str:
    """A campaign's name as a file's name."""
    return re.sub(r"[^\w.-]+", "-", campaign, flags=re.UNICODE).strip("-.")[:120] or "campaign"


@dataclass
class CampaignReport:
    """What a campaign did, or with ``dry_run`` what it would do.

    Attributes:
        campaign: Its name.
        source: Where its rows come from.
        dry_run: Whether nothing was recorded or sent.
        rows: Rows of the source.
        invalid: Rows that cannot be sent; see :attr:`rejects`.
        duplicates: Rows whose number and text stand further up.
        suppressed: Rows left out because their number must get nothing; see :attr:`suppressed_rows`.
        groups: Recipient groups of the gateway that this start named; each is one of the messages.
        messages: Messages of the campaign; from here on, in a dry run, what there would be.
        segments: SMS the messages take.
        ucs2: Messages of this source that need UCS-2.
        known: Messages the campaign had before this start.
        planned: Not sent yet.
        sending: On the way in another run.
        accepted: Taken by the gateway.
        rejected: Refused by the gateway.
        in_doubt: May have been sent; never sent again without evidence.
        assumed: Were in doubt until a person said they were sent.
        cancelled: Taken back at the gateway before their delivery time.
        delivered: Confirmed by the phone.
        forcing: Characters that force UCS-2, at most 20.
        samples: A few messages, numbers masked.
        report_path: The delivery report as CSV; None in a dry run.
        rejects_path: The rejects as CSV; None when there are none, or in a dry run.
    """

    campaign: str
    source: str
    dry_run: bool
    rows: int
    invalid: int
    duplicates: int
    suppressed: int
    groups: int
    messages: int
    segments: int
    ucs2: int
    known: int
    planned: int
    sending: int
    accepted: int
    rejected: int
    in_doubt: int
    assumed: int
    cancelled: int
    delivered: int
    forcing: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    report_path: Path | None = None
    rejects_path: Path | None = None
    _rejects: pd.DataFrame | None = field(default=None, repr=False)
    _duplicates: pd.DataFrame | None = field(default=None, repr=False)
    _suppressed: pd.DataFrame | None = field(default=None, repr=False)
    _deliveries: pd.DataFrame | None = field(default=None, repr=False)

    @classmethod
    def of(cls, name: str, plan: Plan, counts: Counts | None, deliveries: pd.DataFrame | None) -> CampaignReport:
        """The report of a plan, and of what the journal says became of it; without counts a dry run."""
        return cls(
            campaign=name,
            source=plan.source,
            dry_run=counts is None,
            rows=plan.rows,
            invalid=plan.rejects.num_rows,
            duplicates=plan.duplicates.num_rows,
            suppressed=plan.suppressed.num_rows,
            groups=plan.groups,
            messages=plan.messages if counts is None else counts.messages,
            segments=plan.segments,
            ucs2=plan.ucs2,
            known=plan.known,
            planned=plan.messages if counts is None else counts.planned,
            sending=0 if counts is None else counts.sending,
            accepted=0 if counts is None else counts.accepted,
            rejected=0 if counts is None else counts.rejected,
            in_doubt=0 if counts is None else counts.in_doubt,
            assumed=0 if counts is None else counts.assumed,
            cancelled=0 if counts is None else counts.cancelled,
            delivered=0 if counts is None else counts.delivered,
            forcing=plan.forcing,
            samples=plan.samples,
            _rejects=rejects_frame(plan.rejects),
            _duplicates=rejects_frame(plan.duplicates, DUPLICATE_DTYPES),
            _suppressed=rejects_frame(plan.suppressed, SUPPRESSED_DTYPES),
            _deliveries=deliveries,
        )

    @property
    def deliveries(self) -> pd.DataFrame:
        """What became of each message; see :func:`deliveries_frame`. Empty in a dry run."""
        import pandas as pd

        if self._deliveries is None:
            return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in DELIVERY_DTYPES.items()})
        return self._deliveries

    @property
    def rejects(self) -> pd.DataFrame:
        """Rows that cannot be sent: ``row``, ``column``, ``value``, ``reason``."""
        assert self._rejects is not None  # noqa: S101  always made by of()
        return self._rejects

    @property
    def duplicate_rows(self) -> pd.DataFrame:
        """Rows that were left out because an earlier one has the same number and text: ``row``, ``first_row``."""
        assert self._duplicates is not None  # noqa: S101  always made by of()
        return self._duplicates

    @property
    def suppressed_rows(self) -> pd.DataFrame:
        """Rows left out because their number must get nothing: ``row``, ``msisdn``, ``reason``.

        The reason is ``opt-out`` for who said so in answer to a message, else ``on the list``.
        """
        assert self._suppressed is not None  # noqa: S101  always made by of()
        return self._suppressed

    def lines(self) -> list[tuple[str, str]]:
        """The counts as pairs of label and value, for a table or a log; no numbers of people, no texts."""
        pairs = [
            ("campaign", self.campaign),
            ("source", self.source),
            ("rows", f"{self.rows:,}"),
            ("invalid rows", f"{self.invalid:,}"),
            ("duplicate rows", f"{self.duplicates:,}"),
            *([("suppressed rows", f"{self.suppressed:,}")] if self.suppressed else []),
            ("messages", f"{self.messages:,}" + (f" ({self.groups:,} of them to groups)" if self.groups else "")),
            ("segments", f"{self.segments:,}" + (f" ({self.ucs2:,} messages in UCS-2)" if self.ucs2 else "")),
        ]
        if self.dry_run:
            return pairs
        pairs += [
            ("accepted", f"{self.accepted:,}"),
            ("delivered", f"{self.delivered:,}"),
            ("rejected", f"{self.rejected:,}"),
            ("in doubt", f"{self.in_doubt:,}"),
        ]
        rare = (
            ("settled as sent by a person", self.assumed),
            ("cancelled", self.cancelled),
            ("not sent yet", self.planned),
            ("being sent elsewhere", self.sending),
        )
        for label, count in rare:
            if count:
                pairs.append((label, f"{count:,}"))
        return pairs
