"""Asyncio work in a synchronous step, so that whoever interrupts the step stops the work in order."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Coroutine
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")
_Begun = Future[tuple[asyncio.AbstractEventLoop, "asyncio.Task[Any] | None"]]


def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on a thread and an event loop of its own.

    Prefect cancels a flow run by raising an exception in the main thread, and so does Ctrl-C. In an event loop it
    would come up in whatever callback happens to run, which may swallow it. Here it meets nothing but this waiting:
    the work is cancelled, and the exception goes on when it has ended. Interrupted again, it is cancelled again.
    """
    begun: _Begun = Future()

    async def begin() -> T:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    context = contextvars.copy_context()
    interrupted: BaseException | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="mymsp-campaign") as pool:
        done = pool.submit(context.run, asyncio.run, begin())
        while not done.done():
            try:
                while not done.done():
                    wait([done], timeout=1)  # a wait without end hears no signals on Windows
            except BaseException as error:  # noqa: BLE001  it goes on below
                interrupted = interrupted or error
                _cancel(begun, done)
    if interrupted is not None:
        raise interrupted
    return done.result()


def _cancel(begun: _Begun, done: Future[Any]) -> None:
    wait([begun, done], return_when=FIRST_COMPLETED)
    if begun.done():
        loop, task = begun.result()
        if task is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel)
