"""A block that texts the people on call: for Prefect's Automations, and for flows and hooks."""

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

#: When notifications went out that the journal could not be asked about, by topic, on the monotonic clock.
_remembered: defaultdict[str, deque[float]] = defaultdict(deque)
_remembering = threading.Lock()


class MyMSPNotification(NotificationBlock):
    """Texts the people on call, from an Automation, a flow or a hook.

    Each of them gets one SMS for a notification, also when its answer is lost: what may have been sent is never sent
    again. How many notifications may go is limited across all processes that share the journal, so that a deployment
    that fails all night does not text all night.

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

    # Prefect's server shows why a stored block cannot be used; what is in it must not be part of that.
    model_config = ConfigDict(hide_input_in_errors=True)

    credentials: MyMSPCredentials = Field(default=..., description="The gateway account that sends.")
    recipients: list[str] = Field(
        default=...,
        description="The phone numbers to text, with country code: +46701740605.",
        min_length=1,
        max_length=50,
        repr=False,
    )
    sender: str | None = Field(
        default=None, description="A registered sender. The default is the account's own.", min_length=1
    )
    max_segments: int = Field(
        default=1,
        description="SMS that one notification may take for each recipient. Longer texts are shortened.",
        ge=1,
        le=5,
    )
    at_most: int = Field(
        default=5, description="How many notifications of this block may go out within the minutes below.", ge=1
    )
    per_minutes: float = Field(
        default=60.0, description="The minutes within which at most so many go out.", gt=0, allow_inf_nan=False
    )
    journal: CampaignJournal | None = Field(
        default=None,
        description="Where it is remembered what went out. The default is the journal that the settings name.",
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
                # Its own words name the number.
                raise ValueError(f"recipient {position} is no mobile number; write it like +46701740605") from None
        return list(msisdns)

    def notify(self, body: str, subject: str | None = None) -> Any:
        """Text the recipients, unless too many notifications went out lately: then it is logged and nothing is sent.

        Where asynchronous code runs this is to be awaited, as with Prefect's own notification blocks.

        Args:
            body: What to say. Subject and body are shortened together to ``max_segments``.
            subject: The first line.

        Raises:
            NotificationError: Somebody was not texted, or may not have been. No other error is raised: after any other
                Prefect's server tries again, and the people on call would be texted once for each try.
        """
        return sync_compatible(self.anotify)(body, subject)

    async def anotify(self, body: str, subject: str | None = None) -> None:
        """Text the recipients; the async twin of :meth:`notify`."""
        fault = ""
        try:
            await self._notify(body, subject)
        except NotificationError as error:
            fault = error.log
        except MyMSPError as error:
            fault = str(error)
        except Exception as error:  # noqa: BLE001  nothing else may reach the server
            # The error's own words may hold anything, its type does not.
            fault = f"The notification failed in an unexpected way: {type(error).__name__}."
        if fault:
            # Raised here, not above: an error's context travels with it to other processes, request and password
            # included.
            raise NotificationError(fault)

    async def _notify(self, body: str, subject: str | None) -> None:
        from prefect_mymsp.templates import truncate

        text = truncate(f"{subject or ''}\n{body}", self.max_segments)
        if not text:
            raise NotificationError("Subject and body are empty: nobody was texted.")
        if not await asyncio.to_thread(self._admitted):
            self.logger.warning(
                "Nobody was texted: %d notifications went out within %g minutes already.",
                self.at_most,
                self.per_minutes,
            )
            return
        # A request for each recipient, so that one bad number does not silence the others.
        count = len(self.recipients)
        async with self.credentials.get_async_client(connections=min(count, 16)) as client:
            answers = await asyncio.gather(*(self._text(client, recipient, text) for recipient in self.recipients))
        failures = [answer for answer in answers if answer is not None]
        if failures:
            told = " ".join(dict.fromkeys(failures))
            raise NotificationError(f"{len(failures)} of {count} people were not texted, or may not have been: {told}")
        self.logger.info("Texted %d %s.", count, "person" if count == 1 else "people")

    async def _text(self, client: AsyncMyMSPClient, recipient: str, text: str) -> str | None:
        """Text one of them; returns what went wrong."""
        try:
            await client.send([recipient], text, sender=self.sender)
        except MyMSPError as error:
            return str(error)
        return None

    def _admitted(self) -> bool:
        """Whether one more may go now; if so it counts."""
        from prefect_mymsp.account import account_fingerprint

        account, per_s = account_fingerprint(self.credentials.base_url, self.credentials.user), 60 * self.per_minutes
        try:
            with open_journal(self.journal) as journal:
                return journal.notifications.try_acquire(account, self._topic(), at_most=self.at_most, per_s=per_s)
        except MyMSPError as error:
            # What took the journal away may be what somebody must be told of.
            self.logger.warning("Notifications are counted in this process alone: %s", error)
            return _admitted_here(f"{account} {self._topic()}", self.at_most, per_s)

    def _topic(self) -> str:
        """What is limited together: this block, or all unsaved ones for the same people. Holds no number in clear."""
        if self._block_document_id is not None:
            return f"notification {self._block_document_id}"
        people = "\n".join(sorted(self.recipients))
        return f"notification {hashlib.blake2b(people.encode(), digest_size=16).hexdigest()}"


def _admitted_here(topic: str, at_most: int, per_s: float) -> bool:
    now = time.monotonic()
    with _remembering:
        went_out = _remembered[topic]
        while went_out and went_out[0] <= now - per_s:
            went_out.popleft()
        if len(went_out) >= at_most:
            return False
        went_out.append(now)
        return True
