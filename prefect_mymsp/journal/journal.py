"""The journal: one database and its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from prefect_mymsp.journal.bookmarks import Bookmarks
from prefect_mymsp.journal.campaigns import Campaigns
from prefect_mymsp.journal.claims import Claims
from prefect_mymsp.journal.database import Database
from prefect_mymsp.journal.deliveries import Deliveries
from prefect_mymsp.journal.doubt import Doubt
from prefect_mymsp.journal.inbox import Inbox
from prefect_mymsp.journal.notifications import NotificationLimiter
from prefect_mymsp.journal.raw_responses import RawResponses
from prefect_mymsp.journal.recording import Recording, record
from prefect_mymsp.journal.report_queries import ReportQueries
from prefect_mymsp.journal.retention import Retention
from prefect_mymsp.journal.schedule import Schedule
from prefect_mymsp.journal.suppressions import Suppressions

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path
    from types import TracebackType

    from sqlalchemy.engine import URL


class Journal:
    """An open journal. A context manager; may be shared between threads.

    Every method of its parts is one transaction. In SQLite every commit is on disk before it returns
    (``synchronous=FULL``), so that after a power cut the journal lists every request that may have left. PostgreSQL
    does the same unless its ``synchronous_commit`` was turned off.

    Attributes:
        location: Its URL without a password.
        campaigns: Campaigns and their counts.
        claims: Runs claim requests and settle them.
        doubt: Requests that may have been sent.
        schedule: Requests that wait at the gateway.
        deliveries: Results of accepted requests.
        inbox: Received messages.
        raw_responses: Responses stored before they are parsed.
        suppressions: Suppressed numbers.
        bookmarks: Small values kept between runs.
        notifications: A limit on notifications.
        retention: Deletion of personal data.
        report_queries: Messages by column, for reports.
    """

    def __init__(self, url: str | URL | Path) -> None:
        """Open the journal; an empty or missing one is created.

        Args:
            url: A file's path, or an SQLAlchemy URL of SQLite or PostgreSQL.

        Raises:
            ConfigurationError: The URL cannot be used.
            JournalError: The journal cannot be opened, or was written by another version of this package.
        """
        database = self._database = Database(url)
        self.location = database.location
        self.campaigns = Campaigns(database)
        self.claims = Claims(database)
        self.doubt = Doubt(database)
        self.schedule = Schedule(database)
        self.deliveries = Deliveries(database)
        self.inbox = Inbox(database)
        self.raw_responses = RawResponses(database)
        self.suppressions = Suppressions(database)
        self.bookmarks = Bookmarks(database)
        self.notifications = NotificationLimiter(database)
        self.retention = Retention(database)
        self.report_queries = ReportQueries(database)

    @property
    def url(self) -> URL:
        """Its URL, including the password: never print it."""
        return self._database.url

    def __repr__(self) -> str:
        return f"Journal({self.location!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._database.engine.dispose()

    def recording(
        self,
        account: str,
        name: str,
        *,
        source: str,
        sender: str | None,
        send_at: datetime | None,
        batch_size: int = 500,
    ) -> AbstractContextManager[Recording]:
        """Record what a campaign is to send: everything, or nothing if the block raises an error.

        Args:
            account: Fingerprint of the gateway account.
            name: The campaign's name. The same name continues the same campaign.
            source: A label for the source of the rows.
            sender: The sender that phones show; None for the account's default.
            send_at: The scheduled time, aware; None to send at once.
            batch_size: Largest number of recipients in a request.

        Raises:
            InputError: The campaign exists with another sender or scheduled time, was cancelled or was purged.
            JournalError: The journal cannot be written.
        """
        return record(
            self._database, account, name, source=source, sender=sender, send_at=send_at, batch_size=batch_size
        )
