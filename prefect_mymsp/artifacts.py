"""Artifacts and events of a campaign: its progress, a summary, and tables of rejected rows and failures.

Nothing here can stop a campaign. A separate thread sends requests to Prefect, waits for a limited time, and logs a
failure once. Outside of a run nothing is shown and nothing happens.

Artifacts hold counts and masked numbers, no texts. Campaign names, columns and values come from files and are not
trusted: see :func:`neutralize_markup`.
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
from prefect_mymsp.states import DELIVERED, IN_DOUBT, REFUSED

if TYPE_CHECKING:
    import pandas as pd

    from prefect_mymsp.blocks import MyMSPCredentials
    from prefect_mymsp.campaign import Plan, Progress, ProgressListener
    from prefect_mymsp.journal import Counts
    from prefect_mymsp.reports import CampaignReport

#: Rows of a table, at most: events and artifacts are not files.
MAX_TABLE_ROWS = 200
_UPDATE_INTERVAL_S = 1.0
#: Time limits for one request to Prefect, and for the artifacts at the end of a campaign.
_REQUEST_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 20.0

#: By the step of a campaign: the artifact's name, and the word for a message that is done.
_STEPS = {"send": ("sending", "sent"), "follow": ("tracking", "final")}

# One of Prefect's two user interfaces renders a table's cells as Markdown and the other as plain text, so no escaping
# is right in both. Characters of Markdown and HTML are replaced by characters that look alike.
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
    """Return an untrusted text as one line without markup in Markdown, a Markdown table, or plain text.

    Line breaks become spaces, invisible characters are removed, and characters of markup or links are replaced by
    characters that look alike.

    Args:
        text: Any text.
        length: Number of characters to keep.
    """
    characters = (" " if character.isspace() else character for character in text[: 4 * length] if _is_kept(character))
    line = " ".join("".join(characters).split())
    line = line[: length - 1].rstrip() + "…" if len(line) > length else line
    return _MARKUP.sub(_lookalikes, line)


def _is_kept(character: str) -> bool:
    # Control and format characters are removed, including those that change the direction of writing.
    return character.isspace() or not unicodedata.category(character).startswith("C")


def _lookalikes(match: re.Match[str]) -> str:
    # Every ASCII character has a full-width twin; some have one that more fonts contain.
    return "".join(_TWINS.get(character) or chr(ord(character) + 0xFEE0) for character in match[0])


class ProgressArtifact:
    """A campaign's listener that updates a progress artifact at most once a second; a context manager.

    A call takes microseconds, however slow Prefect's API is: a separate thread sends the latest progress to Prefect,
    and the final progress when the context ends. Each step of the campaign has its own artifact.

    Args:
        campaign: The campaign's name.
        account: Fingerprint of gateway and user.
        also: Another listener to call.
    """

    def __init__(self, campaign: str, account: str, also: ProgressListener | None = None) -> None:
        self._campaign = campaign
        self._slug = campaign_slug(campaign, account)
        self._also = also
        self._enabled = in_prefect_run()
        self._thread: threading.Thread | None = None
        self._latest: Progress | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._failed = False

    def __call__(self, progress: Progress) -> None:
        """Record the progress."""
        if self._also is not None:
            self._also(progress)
        if not self._enabled:
            return
        with self._changed:
            self._latest = progress
            if self._thread is None:
                self._thread = _start_thread("progress", self._send_updates)
            self._changed.notify()

    def __enter__(self) -> ProgressArtifact:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Send the final progress; gives up after a while."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_TIMEOUT_S)

    def _send_updates(self) -> None:
        with _log_failure("progress"), _prefect_client() as client:
            artifact_ids: dict[str, UUID] = {}
            while (progress := self._next_progress()) is not None:
                try:
                    self._send(client, artifact_ids, progress)
                except Exception as error:  # noqa: BLE001  the next update may succeed
                    if not self._failed:
                        _log_unshown("progress", error)
                    self._failed = True
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, _UPDATE_INTERVAL_S)

    def _next_progress(self) -> Progress | None:
        """Wait for progress that has not been sent; None when there is none and there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None or self._closed)
            progress, self._latest = self._latest, None
            return progress

    def _send(self, client: SyncPrefectClient, artifact_ids: dict[str, UUID], progress: Progress) -> None:
        name, done = _STEPS.get(progress.step, (progress.step, "done"))
        percent = 100.0 * min(progress.done / progress.total, 1.0) if progress.total else 100.0
        description = f"{neutralize_markup(self._campaign)}: {progress.done:,} of {progress.total:,} messages {done}"
        if (artifact_id := artifact_ids.get(progress.step)) is not None:
            client.update_artifact(artifact_id, ArtifactUpdate(data=percent, description=description))
        else:
            request = _artifact("progress", f"{self._slug}-{name}", description, percent)
            artifact_ids[progress.step] = client.create_artifact(request).id


def create_summary_artifact(report: CampaignReport, account: str, *, stopped: str | None = None) -> None:
    """Create a Markdown artifact with a campaign's counts.

    Args:
        report: The campaign's report.
        account: Fingerprint of gateway and user.
        stopped: The reason why the campaign stopped; None if it did not.
    """
    _create(lambda: [_summary(report, account, stopped)])


def create_rejected_rows_artifact(report: CampaignReport, account: str) -> None:
    """Create a table artifact of the rows that cannot be sent, if there are any; values are masked.

    Args:
        report: The campaign's report.
        account: Fingerprint of gateway and user.
    """
    _create(lambda: _rejected_rows(report, account))


def create_undelivered_artifact(report: CampaignReport, account: str) -> None:
    """Create a table artifact of the messages that are refused, in doubt or not delivered, if there are any.

    Args:
        report: The campaign's report.
        account: Fingerprint of gateway and user.
    """
    _create(lambda: _undelivered(report, account))


class CampaignArtifacts:
    """The artifacts and events of one campaign; call each method when the campaign reaches that step.

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

    def progress(self, also: ProgressListener | None = None) -> ProgressArtifact:
        """A listener for :func:`~prefect_mymsp.campaign.send_planned` and ``follow``; use it as a context manager.

        Args:
            also: Another listener to call.
        """
        return ProgressArtifact(self._campaign, self.account, also)

    def started(self, plan: Plan) -> None:
        """The campaign is recorded, and sending begins: an event."""
        with _log_failure("events"):
            counts = {
                "rows": plan.rows,
                "rejected": plan.rejected_rows.num_rows,
                "duplicates": plan.duplicates.num_rows,
                "messages": plan.messages,
                "recorded_before": plan.recorded_before,
                "new": plan.new,
            }
            emit_campaign_event("started", self._campaign, counts, account=self.account)

    def sent(self, counts: Counts) -> None:
        """All planned messages were sent; deliveries may be open: an event."""
        with _log_failure("events"):
            emit_campaign_event("sent", self._campaign, dataclasses.asdict(counts), account=self.account)

    def finished(self, report: CampaignReport) -> None:
        """The run of the campaign, or its dry run, has ended: artifacts.

        :func:`~prefect_mymsp.flows.emit_events.emit_completed_campaigns` emits the event when deliveries are final.
        """
        _create(lambda: _all_artifacts(report, self.account, None))

    def stopped(self, error: BaseException, report: CampaignReport) -> None:
        """The campaign stopped with an error: an event, and the same artifacts with the reason.

        Args:
            error: The error that stopped it. Only errors of this package are quoted; they hold neither numbers nor
                texts.
            report: The report of the campaign so far.
        """
        reason = str(error) if isinstance(error, MyMSPError) else type(error).__name__
        with _log_failure("events"):
            emit_campaign_event("stopped", self._campaign, report.counts(), account=self.account, reason=reason)
        _create(lambda: _all_artifacts(report, self.account, reason))


# ---- artifacts -----------------------------------------------------------------------------------------------------


def _all_artifacts(report: CampaignReport, account: str, stopped: str | None) -> list[ArtifactCreate]:
    return [_summary(report, account, stopped), *_rejected_rows(report, account), *_undelivered(report, account)]


def _summary(report: CampaignReport, account: str, stopped: str | None) -> ArtifactCreate:
    if report.dry_run:
        outcome = "Dry run: nothing was sent."
    elif stopped is not None:
        outcome = f"Stopped: {neutralize_markup(stopped, 1000)}"
    else:
        outcome = "Finished."
    lines = [f"## {neutralize_markup(report.campaign)}", "", outcome, "", "| | |", "| --- | ---: |"]
    lines += [
        f"| {neutralize_markup(label)} | {neutralize_markup(value)} |"
        for label, value in report.lines()
        if label != "campaign"
    ]
    if report.conflict:
        lines += ["", f"This campaign would be refused: {neutralize_markup(report.conflict, 1000)}"]
    if report.in_doubt:
        lines += [
            "",
            "Messages in doubt may or may not have been sent. They are not sent again; the report lists them.",
        ]
    paths = (("Deliveries", report.report_path), ("Rejected rows", report.rejected_rows_path))
    lines += ["", *(f"{label}: {neutralize_markup(str(path), 400)}  " for label, path in paths if path is not None)]
    return _artifact("markdown", f"{campaign_slug(report.campaign, account)}-summary", outcome, "\n".join(lines))


def _rejected_rows(report: CampaignReport, account: str) -> list[ArtifactCreate]:
    rows = [
        {
            "row": int(row) if row else "",
            "column": neutralize_markup(column),
            "value": mask_value(neutralize_markup(value, 40)),
            "reason": neutralize_markup(mask_numbers(reason)),
        }
        for row, column, value, reason in _first_rows(report.rejected_rows, ["row", "column", "value", "reason"])
    ]
    return _table(rows, len(report.rejected_rows), report, account, "rejected-rows", "rejected rows")


def _undelivered(report: CampaignReport, account: str) -> list[ArtifactCreate]:
    deliveries = report.deliveries
    status = deliveries["status"]
    is_undelivered = deliveries["state"].isin([REFUSED, IN_DOUBT]) | (status.notna() & (status != DELIVERED))
    undelivered = deliveries[is_undelivered.fillna(value=False)]
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
        for row, recipient, state, status, error, message_id in _first_rows(undelivered, columns)
    ]
    return _table(rows, len(undelivered), report, account, "undelivered", "messages refused, in doubt or not delivered")


def _table(
    rows: list[dict[str, Any]], total: int, report: CampaignReport, account: str, name: str, description: str
) -> list[ArtifactCreate]:
    """A table of the first rows; the last line counts the omitted rows. No table if there are no rows."""
    if not rows:
        return []
    if total > len(rows):
        last_column = list(rows[0])[-1]
        more = f"and {total - len(rows):,} more: see the report"
        rows = [*rows, {column: more if column == last_column else "…" for column in rows[0]}]
    key = f"{campaign_slug(report.campaign, account)}-{name}"
    description = f"{neutralize_markup(report.campaign)}: {description}: {total:,}"
    return [_artifact("table", key, description, json.dumps(rows))]


def _first_rows(frame: pd.DataFrame, columns: list[str]) -> Iterator[tuple[Any, ...]]:
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
def _prefect_client() -> Iterator[SyncPrefectClient]:
    # With its own settings it is not the client of the flow's engine, which waits for minutes.
    with get_client(httpx_settings={"timeout": _REQUEST_TIMEOUT_S}, sync_client=True) as client:
        yield client


def _start_thread(name: str, target: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread in a copy of this context, which holds the run and Prefect's settings."""
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(target,), name=f"mymsp-{name}", daemon=True)
    thread.start()
    return thread


def _create(artifacts: Callable[[], Iterable[ArtifactCreate]]) -> None:
    """Create artifacts of this run in Prefect; a failure is logged."""
    if not in_prefect_run():
        return

    def create() -> None:
        with _log_failure("artifacts"), _prefect_client() as client:
            for artifact in artifacts():
                client.create_artifact(artifact)

    with _log_failure("artifacts"):
        thread = _start_thread("artifacts", create)
        thread.join(_CLOSE_TIMEOUT_S)
        if thread.is_alive():
            _log_unshown("artifacts", TimeoutError())


@contextmanager
def _log_failure(content: str) -> Iterator[None]:
    """Log any failure inside and continue: the campaign itself is not affected."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        _log_unshown(content, error)


def _log_unshown(content: str, error: Exception) -> None:
    # The error's text may hold the address of Prefect's API, and the content of an artifact.
    get_logger(__name__).warning(
        "The %s of this campaign could not be shown in Prefect (%s). The campaign is not affected.",
        content,
        type(error).__name__,
    )
