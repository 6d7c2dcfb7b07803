"""A notification block that texts the people on call, for Prefect's Automations, flows and hooks."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, ClassVar

from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.utilities.asyncutils import sync_compatible
from pydantic import ConfigDict, Field, field_validator

from prefect_mymsp.blocks import LOGO_URL, CampaignJournal, MyMSPCredentials, open_journal
from prefect_mymsp.errors import MyMSPError

if TYPE_CHECKING:
    from prefect_mymsp.client import AsyncMyMSPClient

__all__ = ["MyMSPNotification"]


class LocalLimiter:
    """Limits notifications within this process, for use while the journal cannot be reached."""

    def __init__(self) -> None:
        self._sent_at: defaultdict[str, deque[float]] = defaultdict(deque)  # by topic, on the monotonic clock
        self._lock = threading.Lock()

    def try_acquire(self, topic: str, *, max_notifications: int, period_s: float) -> bool:
        """Whether one more notification may be sent now; if so, it is counted."""
        now = time.monotonic()
        with self._lock:
            sent_at = self._sent_at[topic]
            while sent_at and sent_at[0] <= now - period_s:
                sent_at.popleft()
            if len(sent_at) >= max_notifications:
                return False
            sent_at.append(now)
            return True


_local_limiter = LocalLimiter()


class MyMSPNotification(NotificationBlock):
    """Texts the people on call, from an Automation, a flow or a hook.

    Each recipient gets one SMS per notification. When the gateway's response is lost, the SMS is not sent again. The
    number of notifications in a period is limited across all processes that share the journal, so a deployment that
    fails all night does not text all night.

    Example:
        Load a stored notification block and text the people on call:
        ```python
        from prefect_mymsp import MyMSPNotification

        on_call = MyMSPNotification.load("BLOCK_NAME")
        on_call.notify("The nightly import has no rows.", subject="Import")
        ```
    """

    _block_type_name: ClassVar[str | None] = "myMSP Notification"
    _block_type_slug: ClassVar[str | None] = "mymsp-notification"
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = "https://pypi.org/project/prefect-mymsp/"  # type: ignore[assignment]

    # Prefect's server shows the validation error of a stored block; the error must not quote the block's values.
    model_config = ConfigDict(hide_input_in_errors=True)

    credentials: MyMSPCredentials = Field(default=..., description="Gateway account to send from.")
    recipients: list[str] = Field(
        default=...,
        description="Phone numbers to text, with country code, such as +46701740605.",
        min_length=1,
        max_length=50,
        repr=False,
    )
    sender: str | None = Field(
        default=None, description="Registered sender that phones show. The default is the account's own.", min_length=1
    )
    max_segments: int = Field(
        default=1,
        description="Maximum number of SMS segments of one notification. Longer texts are truncated.",
        ge=1,
        le=5,
    )
    max_notifications: int = Field(
        default=5, description="Maximum number of notifications of this block within the period.", ge=1
    )
    period_minutes: float = Field(
        default=60.0, description="Length of that period, in minutes.", gt=0, allow_inf_nan=False
    )
    journal: CampaignJournal | None = Field(
        default=None,
        description="Journal that counts the notifications. The default is the journal from the settings.",
    )

    @field_validator("recipients")
    @classmethod
    def _msisdns(cls, numbers: list[str]) -> list[str]:
        from prefect_mymsp.recipients import normalize_number

        msisdns: dict[str, None] = {}
        for position, number in enumerate(numbers, start=1):
            try:
                msisdns[normalize_number(number)] = None
            except MyMSPError:
                # The original error contains the number.
                raise ValueError(f"recipient {position} is not a mobile number; write it like +46701740605") from None
        return list(msisdns)

    def notify(self, body: str, subject: str | None = None) -> Any:
        """Text the recipients. Above the limit, log a warning and send nothing.

        In asynchronous code, await the result, as with Prefect's own notification blocks.

        Args:
            body: The message. Subject and body are truncated together to ``max_segments``.
            subject: The first line.

        Raises:
            NotificationError: At least one recipient was not texted, or may not have been. No other error is raised:
                Prefect's server retries after any other error, and each retry would text the recipients again.
        """
        return sync_compatible(self.anotify)(body, subject)

    async def anotify(self, body: str, subject: str | None = None) -> None:
        """Text the recipients; the async twin of :meth:`notify`."""
        failure = ""
        try:
            await self._notify(body, subject)
        except NotificationError as error:
            failure = error.log
        except MyMSPError as error:
            failure = str(error)
        except Exception as error:  # noqa: BLE001  no other error may reach the server
            # The message of an unknown error may hold secrets; its type does not.
            failure = f"The notification failed with an unexpected error: {type(error).__name__}."
        if failure:
            # Raised outside the except blocks: an error's context is pickled with it, and would hold the request and
            # the password.
            raise NotificationError(failure)

    async def _notify(self, body: str, subject: str | None) -> None:
        from prefect_mymsp.segments import truncate

        text = truncate(f"{subject or ''}\n{body}", self.max_segments)
        if not text:
            raise NotificationError("Subject and body are empty. Nothing was sent.")
        if not await asyncio.to_thread(self._try_acquire):
            self.logger.warning(
                "Notification not sent: the limit of %d notifications in %g minutes is reached.",
                self.max_notifications,
                self.period_minutes,
            )
            return
        # One request per recipient, so that one bad number does not stop the others.
        count = len(self.recipients)
        async with self.credentials.get_async_client(connections=min(count, 16)) as client:
            results = await asyncio.gather(*(self._send(client, recipient, text) for recipient in self.recipients))
        failures = [failure for failure in results if failure is not None]
        if failures:
            reasons = " ".join(dict.fromkeys(failures))
            raise NotificationError(
                f"{len(failures)} of {count} recipients were not texted, or may not have been: {reasons}"
            )
        self.logger.info("Texted %d %s.", count, "recipient" if count == 1 else "recipients")

    async def _send(self, client: AsyncMyMSPClient, recipient: str, text: str) -> str | None:
        """Text one recipient; returns the reason when it failed."""
        try:
            await client.send([recipient], text, sender=self.sender)
        except MyMSPError as error:
            return str(error)
        return None

    def _try_acquire(self) -> bool:
        """Whether one more notification may be sent now; if so, it is counted."""
        account, topic, period_s = self.credentials.account, self._topic(), 60 * self.period_minutes
        try:
            with open_journal(self.journal) as journal:
                return journal.notifications.try_acquire(account, topic, at_most=self.max_notifications, per_s=period_s)
        except MyMSPError as error:
            # The journal's failure may be the very thing to notify about.
            self.logger.warning("The journal failed, so the limit holds for this process only: %s", error)
            return _local_limiter.try_acquire(
                f"{account} {topic}", max_notifications=self.max_notifications, period_s=period_s
            )

    def _topic(self) -> str:
        """The scope of the limit: this saved block, or all unsaved blocks with the same recipients; no numbers."""
        if self._block_document_id is not None:
            return f"notification {self._block_document_id}"
        numbers = "\n".join(sorted(self.recipients))
        return f"notification {hashlib.blake2b(numbers.encode(), digest_size=16).hexdigest()}"
