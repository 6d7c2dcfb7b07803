"""The context of all work on an account's campaigns: the journal and its thread, the client, the account, progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from prefect_mymsp.times import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from types import TracebackType

    from prefect_mymsp.client import AsyncMyMSPClient
    from prefect_mymsp.journal import Journal

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a step of a campaign, in messages.

    Attributes:
        step: ``send`` or ``follow``.
        done: Messages that were sent or refused, or those whose delivery is final.
        total: Messages that the step has to handle.
    """

    step: str
    done: int
    total: int


#: Called with the progress from time to time.
ProgressListener = Callable[[Progress], None]


class JournalThread:
    """Runs the journal's blocking calls one after the other, on a thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mymsp-journal")

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` on the thread and wait for it, even when cancelled: no claim may get lost."""
        call = asyncio.wrap_future(self._pool.submit(function, *args, **kwargs))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await call
            raise

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=True)


class CampaignContext:
    """Journal, gateway and account of a piece of work; a context manager that owns the journal's thread.

    Attributes:
        journal: Where campaigns are recorded.
        thread: Calls the journal from asyncio: ``await context.thread(journal.claims.renew, run)``.
        client: The gateway.
        account: Fingerprint of the account, see :func:`~prefect_mymsp.account.account_fingerprint`.
        clock: The time; a test moves it.
    """

    def __init__(self, journal: Journal, client: AsyncMyMSPClient, account: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self.journal = journal
        self.thread = JournalThread()
        self.client = client
        self.account = account
        self.clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.thread.close()
