"""What a campaign shows in Prefect's pages: its progress, a summary, tables of rejects and failures, and its events.

Nothing here can stop a campaign. Prefect is told from a thread of its own, with a patience that ends, and that it
could not be told is logged once. Outside of a run there is nothing to show, and nothing happens.

What is shown holds counts and masked numbers, no texts. Campaign names, columns and values come from files, which come
from strangers: see :func:`neutralize_markup`.
"""

from __future__ import annotations

import contextvars
import dataclasses
import json
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.logging import get_logger

from prefect_mymsp.errors import MyMSPError
from prefect_mymsp.events import campaign_slug, emit_campaign_event, in_prefect_run
from prefect_mymsp.phone import mask_number, mask_numbers, mask_value

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.blocks import MyMSPCredentials
    from prefect_mymsp.campaign import Plan, Progress, ProgressListener
    from prefect_mymsp.journal import Counts
    from prefect_mymsp.reports import CampaignReport

#: Rows of a table at most: events and artifacts are not files.
MAX_TABLE_ROWS = 200
_EVERY_S = 1.0
#: Seconds that one request to Prefect may take, and that a campaign's end waits for what it shows.
_TIMEOUT_S = 10.0
_PATIENCE_S = 20.0

_STEPS = {"send": ("sending", "sent"), "follow": ("following", "settled")}

# One of Prefect's two user interfaces takes a table's cells for Markdown and the other for plain text, so that no way
# of escaping is right in both. What Markdown and HTML are made of gives way to characters that look like it.
_MARKUP = re.compile(
    r"""
    [<>`*\[\]|~]                             # tags, code, emphasis, links, cells
    | (?<![^\W_])_+ | _+(?![^\W_])           # emphasis; a single one within a word is none
    | \\(?=[!-/:-@\[-`{-~]|$)                # escapes
    | &(?=\#?\w+;)                           # entities
    | (?<=\w)@(?=\w) | (?<=www)\. | :(?=//)  # links that need no brackets
    | ^[-+=](?=[ =-]|$) | ^\#                # lists, rules, headings
    """,
    re.VERBOSE | re.IGNORECASE,
)
_TWINS = {"<": "‹", ">": "›", "`": "‘", "*": "∗", "|": "¦", "~": "∼", "\\": "∖", "-": "–"}  # noqa: RUF001


def neutralize_markup(text: str, length: int = 200) -> str:
    """A text of somebody else's as one line that means nothing in Markdown, in a table of it, or as plain text.

    Line breaks become spaces, invisible characters go, and what would be markup or a link gives way to characters that
    look alike.

    Args:
        text: Anything.
        length: Characters of it that are kept.
    """
    line = " ".join("".join(" " if one.isspace() else one for one in text[: 4 * length] if _shows(one)).split())
    line = line[: length - 1].rstrip() + "…" if len(line) > length else line
    return _MARKUP.sub(_twin, line)


def _shows(character: str) -> bool:
    # Control and format characters do not, those that turn the direction of writing among them; spaces are dealt with.
    return character.isspace() or not unicodedata.category(character).startswith("C")


def _twin(found: re.Match[str]) -> str:
    # All of ASCII has a full-width twin; some have one that more fonts know.
    return "".join(_TWINS.get(one) or chr(ord(one) + 0xFEE0) for one in found[0])


class ProgressArtifact:
    """A campaign's listener that keeps a progress artifact up to date, at most once a second; a context manager.

    Calling it takes microseconds, whatever Prefect's API does: a thread of its own tells Prefect the newest of what
    there is to tell, and its last word when the context ends. Each step of the campaign has an artifact of its own.

    Args:
        campaign: The campaign's name.
        account: Fingerprint of gateway and user.
        also: A listener to call as well.
    """

    def __init__(self, campaign: str, account: str, also: ProgressListener | None = None) -> None:
        self._campaign = campaign
        self._slug = campaign_slug(campaign, account)
        self._also = also
        self._shown = in_prefect_run()
        self._thread: threading.Thread | None = None
        self._newest: Progress | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._failed = False

    def __call__(self, progress: Progress) -> None:
        """Take note of the progress."""
        if self._also is not None:
            self._also(progress)
        if not self._shown:
            return
        with self._changed:
            self._newest = progress
            if self._thread is None:
                self._thread = _thread("progress", self._tell)
            self._changed.notify()

    def __enter__(self) -> ProgressArtifact:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Show where it ended, unless Prefect takes too long for that."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_PATIENCE_S)

    def _tell(self) -> None:
        with _unharmed("progress"), _client() as client:
            artifacts: dict[str, UUID] = {}
            while (progress := self._next()) is not None:
                try:
                    self._show(client, artifacts, progress)
                except Exception as error:  # noqa: BLE001  next time it may work
                    if not self._failed:
                        _untold("progress", error)
                    self._failed = True
                with self._changed:
                    self._changed.wait_for(lambda: self._ended, _EVERY_S)

    def _next(self) -> Progress | None:
        """What to show next, when there is something; None when there will be nothing more."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended)
            progress, self._newest = self._newest, None
            return progress

    def _show(self, client: SyncPrefectClient, artifacts: dict[str, UUID], progress: Progress) -> None:
        doing, done = _STEPS.get(progress.step, (progress.step, "done"))
        percent = 100.0 * min(progress.done / progress.total, 1.0) if progress.total else 100.0
        told = f"{neutralize_markup(self._campaign)}: {progress.done:,} of {progress.total:,} messages {done}"
        if (known := artifacts.get(progress.step)) is not None:
            client.update_artifact(known, ArtifactUpdate(data=percent, description=told))
        else:
            request = _artifact("progress", f"{self._slug}-{doing}", told, percent)
            artifacts[progress.step] = client.create_artifact(request).id


def create_summary_artifact(report: CampaignReport, account: str, *, stopped: str | None = None) -> None:
    """Leave a Markdown artifact with a campaign's counts.

    Args:
        report: The campaign's report.
        account: Fingerprint of gateway and user.
        stopped: Why the campaign stopped, when it did.
    """
    _leave(lambda: [_summary(report, account, stopped)])


def create_rejected_rows_artifact(report: CampaignReport, account: str) -> None:
    """Leave a table artifact of the rows that could not be sent, unless there are none; values are masked.

    Args:
        report: The campaign's report.
        account: Fingerprint of gateway and user.
    """
    _leave(lambda: _rejects(report, account))


def create_undelivered_artifact(report: CampaignReport, account: str) -> None:
    """Leave a table artifact of the messages that were refused, are in doubt or are not delivered, unless none are.

    Args:
        report: The campaign's report.
        account: Fingerprint of gateway and user.
    """
    _leave(lambda: _failures(report, account))


class CampaignArtifacts:
    """All that one campaign shows in Prefect: call each method where its name says.

    Args:
        campaign: The campaign's name.
        credentials: The account that sends it.
    """

    def __init__(self, campaign: str, credentials: MyMSPCredentials) -> None:
        self._campaign = campaign
        self._credentials = credentials

    @property
    def account(self) -> str:
        """Fingerprint of gateway and user."""
        from prefect_mymsp.account import account_fingerprint

        return account_fingerprint(self._credentials.base_url, self._credentials.user)

    def listener(self, also: ProgressListener | None = None) -> ProgressArtifact:
        """A listener for :func:`~prefect_mymsp.campaign.send_planned` and ``follow``; use it as a context manager.

        Args:
            also: A listener to call as well.
        """
        return ProgressArtifact(self._campaign, self.account, also)

    def started(self, plan: Plan) -> None:
        """The campaign is recorded, and sending begins."""
        with _unharmed("events"):
            counts = {
                "rows": plan.rows,
                "rejected": plan.rejected_rows.num_rows,
                "duplicates": plan.duplicates.num_rows,
                "messages": plan.messages,
                "known": plan.known,
                "new": plan.new,
            }
            emit_campaign_event("started", self._campaign, counts, account=self.account)

    def sent(self, counts: Counts) -> None:
        """Everything that was planned has been sent; deliveries may still be awaited."""
        with _unharmed("events"):
            emit_campaign_event("sent", self._campaign, dataclasses.asdict(counts), account=self.account)

    def finished(self, report: CampaignReport) -> None:
        """The campaign has run to its end, or with ``dry_run`` was looked at: its artifacts.

        Settled deliveries are reported by :func:`~prefect_mymsp.flows.emit_events.emit_completed_campaigns`, once.
        """
        _leave(lambda: _all(report, self.account, None))

    def stopped(self, error: BaseException, report: CampaignReport) -> None:
        """The campaign stopped before its end: the same artifacts, with the reason.

        Args:
            error: What stopped it; only our own errors, which hold neither numbers nor texts, are quoted.
            report: How far it came.
        """
        reason = str(error) if isinstance(error, MyMSPError) else type(error).__name__
        with _unharmed("events"):
            emit_campaign_event("stopped", self._campaign, _counts(report), account=self.account, reason=reason)
        _leave(lambda: _all(report, self.account, reason))


def _counts(report: CampaignReport) -> dict[str, int]:
    values = ((one.name, getattr(report, one.name)) for one in dataclasses.fields(report))
    return {name: value for name, value in values if type(value) is int}


# ---- artifacts -----------------------------------------------------------------------------------------------------


def _all(report: CampaignReport, account: str, stopped: str | None) -> list[ArtifactCreate]:
    return [_summary(report, account, stopped), *_rejects(report, account), *_failures(report, account)]


def _summary(report: CampaignReport, account: str, stopped: str | None) -> ArtifactCreate:
    if report.dry_run:
        told = "Dry run: nothing was sent."
    elif stopped is not None:
        told = f"Stopped: {neutralize_markup(stopped, 1000)}"
    else:
        told = "Ran to its end."
    lines = [f"## {neutralize_markup(report.campaign)}", "", told, "", "| What | |", "| --- | ---: |"]
    lines += [
        f"| {neutralize_markup(label)} | {neutralize_markup(value)} |"
        for label, value in report.lines()
        if label != "campaign"
    ]
    if report.conflict:
        lines += ["", f"A start would be refused: {neutralize_markup(report.conflict, 1000)}"]
    if report.in_doubt:
        lines += ["", "What is in doubt may or may not have been sent. It is not sent again; the report names it."]
    paths = (("Deliveries", report.report_path), ("Rows that cannot be sent", report.rejected_rows_path))
    lines += ["", *(f"{what}: {neutralize_markup(str(path), 400)}  " for what, path in paths if path is not None)]
    return _artifact("markdown", f"{campaign_slug(report.campaign, account)}-summary", told, "\n".join(lines))


def _rejects(report: CampaignReport, account: str) -> list[ArtifactCreate]:
    rows = [
        {
            "row": int(row) if row else "",
            "column": neutralize_markup(column),
            "value": mask_value(neutralize_markup(value, 40)),
            "reason": neutralize_markup(mask_numbers(reason)),
        }
        for row, column, value, reason in _first(report.rejected_rows, ["row", "column", "value", "reason"])
    ]
    return _table(rows, len(report.rejected_rows), report, account, "rejects", "rows that cannot be sent")


def _failures(report: CampaignReport, account: str) -> list[ArtifactCreate]:
    deliveries = report.deliveries
    status = deliveries["status"]
    failed = deliveries["state"].isin(["refused", "in_doubt"]) | (status.notna() & (status != "delivered"))
    failures = deliveries[failed.fillna(value=False)]
    columns = ["row", "recipient", "state", "status", "error", "message_id"]
    rows = [
        {
            "row": int(row) if row else "",
            "recipient": neutralize_markup(mask_number(recipient)),
            "state": state.replace("_", " "),
            "status": neutralize_markup(status, 40),
            "error": neutralize_markup(mask_numbers(error)),
            "message id": neutralize_markup(message_id, 40),
        }
        for row, recipient, state, status, error, message_id in _first(failures, columns)
    ]
    return _table(rows, len(failures), report, account, "failures", "messages refused, in doubt or not delivered")


def _table(
    rows: list[dict[str, Any]], total: int, report: CampaignReport, account: str, what: str, told: str
) -> list[ArtifactCreate]:
    """A table of the first rows, its last line saying how many more there are; nothing when there are none."""
    if not rows:
        return []
    if total > len(rows):
        more = f"and {total - len(rows):,} more: see the report"
        rows = [*rows, {name: more if name == list(rows[0])[-1] else "…" for name in rows[0]}]
    key = f"{campaign_slug(report.campaign, account)}-{what}"
    return [_artifact("table", key, f"{neutralize_markup(report.campaign)}: {told}: {total:,}", json.dumps(rows))]


def _first(frame: pd.DataFrame, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """The first rows of a frame, missing values as empty texts."""
    import pandas as pd

    for values in frame.head(MAX_TABLE_ROWS)[columns].itertuples(index=False, name=None):
        yield tuple("" if pd.isna(value) else value for value in values)


def _artifact(kind: str, key: str, description: str, data: Any) -> ArtifactCreate:
    return ArtifactCreate(
        type=kind,
        key=f"mymsp-{key}",
        description=description,
        data=data,
        flow_run_id=_uuid(runtime.flow_run.id),
        task_run_id=_uuid(runtime.task_run.id),
    )


def _uuid(value: str | None) -> UUID | None:
    return UUID(value) if value else None


# ---- Prefect's API -------------------------------------------------------------------------------------------------


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    # With settings of its own it is not the client that the flow's engine uses, whose patience is minutes.
    with get_client(httpx_settings={"timeout": _TIMEOUT_S}, sync_client=True) as client:
        yield client


def _thread(what: str, target: Callable[[], None]) -> threading.Thread:
    """A running thread in this context, which says which run this is and where Prefect is; it holds up nobody's end."""
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(target,), name=f"mymsp-{what}", daemon=True)
    thread.start()
    return thread


def _leave(artifacts: Callable[[], Iterable[ArtifactCreate]]) -> None:
    """Make artifacts and give them to Prefect, in this run's name; whatever fails is logged and forgotten."""
    if not in_prefect_run():
        return

    def create() -> None:
        with _unharmed("artifacts"), _client() as client:
            for artifact in artifacts():
                client.create_artifact(artifact)

    with _unharmed("artifacts"):
        thread = _thread("artifacts", create)
        thread.join(_PATIENCE_S)
        if thread.is_alive():
            _untold("artifacts", TimeoutError())


@contextmanager
def _unharmed(what: str) -> Iterator[None]:
    """Whatever fails in here is logged, and the campaign goes on: what cannot be shown has been sent all the same."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        _untold(what, error)


def _untold(what: str, error: Exception) -> None:
    # The error's own words may hold the address of Prefect's API, and what was to be shown.
    get_logger(__name__).warning(
        "Prefect could not be shown this campaign's %s (%s). The campaign is not affected.", what, type(error).__name__
    )
