"""Claims for one run in a journal of SQLite, for another process: the script that claiming.py starts.

It imports Python's own library alone, so that it is there in some 30 ms and 14 MB. It knows the one case that comes a
thousand times a second: every outcome is an acceptance, and as many requests are planned as are asked for. In any other
it takes its transaction back and says no; then the journal does the work, with all its rules.
"""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedRWPair


class Claimer:
    """A connection to the journal, and what is done with it again and again."""

    def __init__(self, setup: dict[str, Any], wanted: Callable[[], bool] = lambda: True) -> None:
        """Open it.

        Args:
            setup: What claiming.py says there.
            wanted: Whether somebody still waits for the claim that is being made.

        Raises:
            OSError: The file is not there any more, or another one is.
            sqlite3.Error: It cannot be opened.
        """
        self._statements: dict[str, tuple[str, dict[str, Any]]] = setup["statements"]
        self._run: dict[str, Any] = setup["run"]
        self._wanted = wanted
        place, *identity = setup["place"]
        connection = sqlite3.connect(
            f"{Path(place).as_uri()}?mode=rw", uri=True, timeout=setup["patience_s"], isolation_level=None
        )
        self._cursor = connection.cursor()
        for pragma in setup["pragmas"]:
            self._cursor.execute(f"PRAGMA {pragma}")
        self._cursor.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # now the file is open
        found = Path(place).stat()
        if [found.st_dev, found.st_ino] != identity:
            raise FileNotFoundError(place)

    def claim(self, most: int, at: int | None, accepted: str) -> str | None:
        """Record acceptances and claim requests, in one transaction that is durable when this returns.

        Args:
            most: How many requests.
            at: The delivery time to ask for, in microseconds since 1970; None for at once.
            accepted: The acceptances, as hot.py writes them; empty for none.

        Returns:
            The requests, as hot.py reads them. None when there is more to this; the journal is as it was.
        """
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
            # Who asked may have died while another's write was waited for.
            claimed = self._claim(most, at, accepted) if self._wanted() else None
            self._cursor.execute("COMMIT" if claimed is not None else "ROLLBACK")
        except sqlite3.Error:
            if self._cursor.connection.in_transaction:
                self._cursor.execute("ROLLBACK")
            return None
        return claimed

    def _claim(self, most: int, at: int | None, accepted: str) -> str | None:
        now = time.time_ns() // 1000
        moment = self._execute("moment", now=now).fetchone()
        if moment is None or moment[1] is not None:
            return None  # the lease has ended, or a person has cancelled the campaign
        if moment[0] is not None:
            now = max(now, moment[0] + 1)  # a claim is told by its time
        if accepted:
            self._execute("accept", document=accepted)
        if self._execute("take", now=now, most=most, at=at).rowcount < most:
            return None
        claimed: str = self._execute("claimed", now=now).fetchone()[0]
        return claimed

    def _execute(self, which: str, **values: Any) -> sqlite3.Cursor:
        statement, constants = self._statements[which]
        return self._cursor.execute(statement, {**constants, **self._run, **values})


def serve(stream: BufferedRWPair, wanted: Callable[[], bool]) -> None:
    """Answer until the other side is gone.

    It sends the setup as a line of JSON and gets ``ready``; then for each claim a line of JSON, the last of its values
    being how many bytes of acceptances follow, and gets a line that says how many bytes of requests follow, or -1.
    """
    claimer = Claimer(json.loads(stream.readline()), wanted)
    stream.write(b"ready\n")
    stream.flush()
    while line := stream.readline():
        most, at, size = json.loads(line)
        claimed = claimer.claim(most, at, stream.read(size).decode())
        told = (claimed or "").encode()
        stream.write(b"%d\n%b" % (-1 if claimed is None else len(told), told))
        stream.flush()


def left(theirs: socket.socket) -> bool:
    """Whether the other side is gone."""
    try:
        return not theirs.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


if __name__ == "__main__":
    # Who started this ends it, by going. Then the last claim is done or not done, as after a crash.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as theirs, theirs.makefile("rwb") as both_ways:
        serve(both_ways, lambda: not left(theirs))
