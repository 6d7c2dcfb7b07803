"""Claims in a process of their own, where a thread that makes them would slow the requests down.

SQLite needs some 15 µs a request, and with each statement its driver takes the interpreter from the requests on their
way. That is felt at some two thousand of them a second; below, and where little is left to send, no process starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: A claim of so many requests is a fast campaign's.
AT_PACE = 128
#: Planned requests that are worth a process: about a second of such a campaign.
WORTH_IT = 4000
#: Seconds for which the process waits for another's write. Then it says no, and the journal waits.
_PATIENCE_S = 5.0
#: Seconds without an answer after which it is given up: before a lease may end.
_GIVE_UP_S = 15.0


class ClaimingProcess:
    """claimer.py at work for one run; for one thread at a time.

    It is given up when it does not answer. Whether it has made the last claim is unknown then: what it may have claimed
    is nobody's to send, and in doubt when the run ends.
    """

    def __init__(
        self,
        place: tuple[Path, int, int],
        run: Mapping[str, Any],
        *,
        statements: Mapping[str, tuple[str, dict[str, Any]]],
        pragmas: tuple[str, ...],
    ) -> None:
        """Start it. Where that is not possible, it never becomes ready.

        Args:
            place: The journal's file, its device and its inode.
            run: What all claims of the run have in common, for the statements.
            statements: ``moment``, ``accept``, ``take`` and ``claimed``: text, and the constants in it.
            pragmas: How its connection is to behave.
        """
        self._ready, self._gone = False, True
        if not _can_start():
            return
        with contextlib.suppress(OSError):
            self._start()
        if self._gone:
            return
        setup = {
            "place": [str(place[0]), *place[1:]],
            "patience_s": _PATIENCE_S,
            "pragmas": pragmas,
            "statements": statements,
            "run": run,
        }
        with self._or_gone():
            self._send(json.dumps(setup).encode() + b"\n")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as unless_started, theirs:
            unless_started.enter_context(ours)
            theirs.settimeout(None)  # whatever the application's default is
            script = str(Path(__file__).with_name("claimer.py"))
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", script, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a traceback may quote numbers
                start_new_session=True,  # Ctrl-C is for who started it
            )
            unless_started.pop_all()
        ours.settimeout(_GIVE_UP_S)
        self._ours, self._stream, self._says = ours, ours.makefile("rwb"), select.poll()
        self._says.register(ours, select.POLLIN)
        self._gone = False

    @property
    def ready(self) -> bool:
        """Whether it can be asked."""
        if not self._ready and not self._gone and self._says.poll(0):
            with self._or_gone():
                if self._stream.readline() != b"ready\n":
                    raise EOFError
                self._ready = True
        return self._ready and not self._gone

    def claim(self, most: int, at: int | None, accepted: str) -> str | None:
        """What :meth:`claimer.Claimer.claim` says; None too when it does not answer, and was given up."""
        with self._or_gone():
            told = accepted.encode()
            self._send(json.dumps([most, at, len(told)]).encode() + b"\n" + told)
            size = int(self._stream.readline())
            if size >= 0:
                claimed = self._stream.read(size)
                if len(claimed) < size:
                    raise EOFError
                return claimed.decode()
        return None

    def close(self) -> None:
        """End it. Between two claims it holds nothing."""
        if not self._gone:
            self._gone = True
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(OSError):  # what could not be sent
                self._stream.close()
            self._ours.close()

    def _send(self, what: bytes) -> None:
        self._stream.write(what)
        self._stream.flush()

    @contextlib.contextmanager
    def _or_gone(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, ValueError):  # not there, no answer in time, half of one
            self.close()


def _can_start() -> bool:
    """Whether Python can be started here: in an application that is one file, it would be the application."""
    named = re.match(r"(python|pypy)[0-9.]*[a-z]?$", Path(sys.executable or "").name)
    return os.name == "posix" and named is not None and not getattr(sys, "frozen", False)
