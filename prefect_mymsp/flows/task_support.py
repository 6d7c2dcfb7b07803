"""Support for the tasks of all flows: options, interruption, and progress."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from prefect_mymsp.artifacts import CampaignArtifacts
from prefect_mymsp.blocks import MyMSPCredentials

if TYPE_CHECKING:
    from prefect_mymsp.campaign import ProgressListener
    from prefect_mymsp.journal import Journal

T = TypeVar("T")
_Started = Future[tuple[asyncio.AbstractEventLoop, "asyncio.Task[Any] | None"]]

#: Options of every task that sends or polls: the journal decides what has been sent, so Prefect neither retries nor
#: caches, and stores nothing about recipients in its results.
STEP: dict[str, Any] = {"retries": 0, "cache_policy": NO_CACHE, "persist_result": False}

_listener: ContextVar[ProgressListener | None] = ContextVar("mymsp_listener", default=None)


@contextlib.contextmanager
def report_progress_to(listener: ProgressListener) -> Iterator[None]:
    """Call ``listener`` with the progress of campaigns that are sent or tracked in this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def progress_listener(campaign: str, credentials: MyMSPCredentials) -> Iterator[ProgressListener]:
    """A listener that updates the campaign's progress artifact, and calls the listener of this context."""
    with CampaignArtifacts(campaign, credentials).progress(also=_listener.get()) as listener:
        yield listener


def warn_if_lost_with_container(journal: Journal) -> None:
    """Log a warning when the journal is a file that is lost when this container stops."""
    from prefect_mymsp.journal.container_check import ephemeral_storage_warning

    if warning := ephemeral_storage_warning(journal.url):
        get_run_logger().warning("%s", warning)


def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in a thread and an event loop of its own.

    Prefect cancels a flow run by raising an exception in the main thread, and so does Ctrl-C. In an event loop the
    exception would surface in an arbitrary callback, which may swallow it. Here it interrupts only this wait: the work
    is cancelled, and the exception is raised again when the work has ended. A second interrupt cancels it again.
    """
    started: _Started = Future()

    async def start() -> T:
        started.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    context = contextvars.copy_context()
    interrupt: BaseException | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="mymsp-campaign") as pool:
        done = pool.submit(context.run, asyncio.run, start())
        while not done.done():
            try:
                while not done.done():
                    wait([done], timeout=1)  # without a timeout, Windows would not deliver signals
            except BaseException as error:  # noqa: BLE001  raised again below
                interrupt = interrupt or error
                _cancel(started, done)
    if interrupt is not None:
        raise interrupt
    return done.result()


def _cancel(started: _Started, done: Future[Any]) -> None:
    wait([started, done], return_when=FIRST_COMPLETED)
    if started.done():
        loop, task = started.result()
        if task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just closed
                loop.call_soon_threadsafe(task.cancel)
