"""Rows per processor second and memory of making and parsing reports, compared with ``pandas.read_csv``.

``python tests/benchmarks/bench_reports.py --rows 1000000`` makes a journal with one campaign of that many messages,
sent 500 at a time, nine of ten delivered, and runs each of these in a separate process:

* ``frame`` reads the deliveries out of the journal; ``csv`` reads the CSV file that this frame was written to;
* ``result`` parses one getSmsResult response of as many lines; ``result-csv`` reads the same bytes as a table;
* ``page`` makes the HTML report of that frame.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

ACCOUNT = "a" * 32
ZONE = ZoneInfo("Europe/Stockholm")
AT_ONCE = 500
BEGAN = datetime(2030, 1, 31, 8, 30, tzinfo=UTC)


def make_journal(path: Path, rows: int) -> None:
    """A journal with one delivered campaign."""
    from prefect_mymsp.journal import Journal, Outcome, PlannedChunk, text_digest
    from prefect_mymsp.models import RecipientStatuses

    rng = random.Random(7)
    with Journal(path) as journal:
        text = "The same for everybody"
        with journal.recording(ACCOUNT, "big", source="big.csv", sender=None, send_at=None) as recording:
            for start in range(0, rows, 50_000):
                count = min(50_000, rows - start)
                recording.add(
                    PlannedChunk(
                        rows=range(start + 2, start + 2 + count),
                        msisdns=[f"4670{start + at:07d}" for at in range(count)],
                        text_of=[0] * count,
                        texts=[text],
                        digests=[text_digest(text)],
                        encodings=["GSM-7"],
                        segments=[1],
                    )
                )
        run = journal.claims.start_run(recording.campaign, lease_s=3600)
        while batches := journal.claims.claim(run, requests=200, batch_size=AT_ONCE):
            now = datetime.now(UTC)
            journal.claims.settle(
                [Outcome(batch.id, "accepted", now, message_id=str(12_000_000 + batch.id)) for batch in batches]
            )
            statuses = {}
            for batch in batches:
                got = [
                    BEGAN + timedelta(minutes=rng.randrange(90)) if rng.random() < 0.9 else None for _ in batch.msisdns
                ]
                words = ["sent" if at is None else "delivered" for at in got]
                statuses[batch.id] = RecipientStatuses(batch.msisdns, [BEGAN] * len(got), words, got)
            journal.deliveries.record_statuses(statuses)
        journal.claims.end_run(run)


def make_response(path: Path, rows: int) -> None:
    """One response of getSmsResult with many recipients."""
    rng = random.Random(7)
    with path.open("w", encoding="utf-8") as file:
        file.write(f"A\n{rows}/{rows}/{rows}\n")
        for at in range(rows):
            got = f"2030-01-31 {9 + rng.randrange(2):02}:{rng.randrange(60):02}" if rng.random() < 0.9 else "-1"
            word = "sent" if got == "-1" else "delivered"
            file.write(f"4670{at:07d}\t2030-01-31 09:{rng.randrange(60):02}\t{word}\t{got}\n")


def frame(folder: Path) -> int:
    """Deliveries from the journal."""
    from prefect_mymsp.journal import Journal
    from prefect_mymsp.reports import deliveries_frame

    with Journal(folder / "journal.db") as journal:
        campaign = journal.campaigns.get(ACCOUNT, "big")
        assert campaign is not None
        return len(deliveries_frame(journal, campaign))


def csv(folder: Path) -> int:
    """The same rows from a file, with the same types."""
    import pandas as pd

    from prefect_mymsp.reports.frames import DELIVERY_DTYPES

    times = [name for name, dtype in DELIVERY_DTYPES.items() if dtype.startswith("datetime")]
    others: Any = {name: dtype for name, dtype in DELIVERY_DTYPES.items() if name not in times}
    return len(pd.read_csv(folder / "frame.csv", dtype=others, parse_dates=times))


def result(folder: Path) -> int:
    """A large response, parsed."""
    from prefect_mymsp.protocol import Response, parse_result

    response = Response((folder / "response.txt").read_bytes(), "text/plain; charset=utf-8", ZONE)
    return len(parse_result(response, "1").statuses)


def result_csv(folder: Path) -> int:
    """The same bytes as a table."""
    import pandas as pd

    columns = ["recipient", "sent_at", "status", "delivered_at"]
    texts: Any = {"recipient": "string", "status": "string"}
    times = ["sent_at", "delivered_at"]
    read = pd.read_csv(
        folder / "response.txt", sep="\t", skiprows=2, names=columns, dtype=texts, parse_dates=times, na_values=["-1"]
    )
    return len(read)


def page(folder: Path) -> int:
    """The HTML report."""
    from prefect_mymsp.journal import Journal
    from prefect_mymsp.reports.exports import DeliverySelection, FileTarget, export_deliveries

    target = FileTarget("html", folder / "page.html", folder)
    with Journal(folder / "journal.db") as journal:
        return export_deliveries(journal, ACCOUNT, DeliverySelection("big"), target, zone=ZONE).rows


WAYS: dict[str, Callable[[Path], int]] = {
    "frame": frame,
    "csv": csv,
    "result": result,
    "result-csv": result_csv,
    "page": page,
}
#: Comparisons that are printed.
PAIRS = (("frame", "csv"), ("result", "result-csv"), ("page", "csv"))


def measure(way: str, folder: Path) -> tuple[float, float, float, int]:
    """Run one way in a process of its own.

    Returns:
        Processor seconds without imports, peak resident memory in MB, the same before it began, and its rows.
    """
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    figures = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(figures[0]), float(figures[1]), float(figures[2]), int(figures[3])


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        _work(options.way, options.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_journal(folder / "journal.db", options.rows)
        make_response(folder / "response.txt", options.rows)
        _write_csv(folder)
        rates = {}
        for way in WAYS:
            seconds, peak, before, rows = measure(way, folder)
            if rows != options.rows:
                raise SystemExit(f"{way} has {rows:,} rows, not {options.rows:,}.")
            rates[way] = rows / seconds
            print(
                f"{way:>10}: {seconds:6.2f} s, {rates[way]:10,.0f} rows/s, {1e6 / rates[way]:5.2f} µs a row, "
                f"peak {peak:5.0f} MB ({before:.0f} before)"
            )
        for one, other in PAIRS:
            print(f"  {one} / {other}: {rates[one] / rates[other]:.2f} times as many rows a second")


def _write_csv(folder: Path) -> None:
    from prefect_mymsp.journal import Journal
    from prefect_mymsp.reports import deliveries_frame, write_csv

    with Journal(folder / "journal.db") as journal:
        campaign = journal.campaigns.get(ACCOUNT, "big")
        assert campaign is not None
        write_csv(deliveries_frame(journal, campaign), folder / "frame.csv")


def _work(way: str, folder: Path) -> None:
    import pandas as pd
    import pyarrow.compute

    import prefect_mymsp.journal
    import prefect_mymsp.reports.exports  # noqa: F401

    del pd, pyarrow
    before = _memory()
    # Processor time of all threads, so that other processes do not count.
    started = time.process_time()
    rows = WAYS[way](folder)
    print(time.process_time() - started, _memory(), before, rows)


def _memory() -> float:
    """Peak resident memory of this process in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss is never below that of the parent process
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1e3
    # Kilobytes, but bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
