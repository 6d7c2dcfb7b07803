"""How fast a campaign is sent with every intent durable first, as ratios measured side by side.

    python tests/benchmarks/bench_send.py [--rows 8000] [--rounds 5] [--baselines]

Each round measures every variant once, so that a machine whose speed drifts affects all of them. A ratio is taken
within a round, and the median of the rounds is printed. With --baselines the engine is also compared with plain httpx,
with a loop over `requests`, and with one Prefect task for each row.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from prefect_mymsp.campaign import SendOptions, send_planned
from prefect_mymsp.client import AsyncMyMSPClient
from prefect_mymsp.journal import CampaignKey, Journal, PlannedChunk, text_digest

GATEWAY = Path(__file__).with_name("fast_gateway.py")
CONNECTIONS = 16
#: Rows that get a task each. A whole campaign would take minutes.
TASKS = 500


@contextlib.contextmanager
def gateway(latency_s: float) -> Iterator[str]:
    """The base URL of a fast gateway in a process of its own."""
    with subprocess.Popen([sys.executable, str(GATEWAY), str(latency_s)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}/external"
        finally:
            server.kill()


def client(base_url: str) -> AsyncMyMSPClient:
    return AsyncMyMSPClient("user", "password", base_url=base_url, connections=CONNECTIONS)


def texts_of(rows: int, personal: bool) -> list[str]:
    return [f"Hello number {row}, your appointment is tomorrow at noon." for row in range(rows if personal else 1)]


def bare(base_url: str, rows: int, batch: int | None) -> float:
    """Seconds that the client needs without a journal."""
    work = (
        [([f"46700{row:06d}"], f"Hello number {row}, your appointment is tomorrow at noon.") for row in range(rows)]
        if batch is None
        else [
            ([f"46700{row:06d}" for row in range(first, min(first + batch, rows))], texts_of(rows, False)[0])
            for first in range(0, rows, batch)
        ]
    )

    async def run() -> float:
        async with client(base_url) as sender:
            remaining = iter(work)

            async def send_remaining() -> None:
                for recipients, text in remaining:
                    await sender.send(recipients, text)

            began = time.perf_counter()
            await asyncio.gather(*(send_remaining() for _ in range(CONNECTIONS)))
            return time.perf_counter() - began

    return asyncio.run(run())


def recorded(journal: Journal, name: str, rows: int, personal: bool) -> CampaignKey:
    texts = texts_of(rows, personal)
    with journal.recording("bench", name, source="bench", sender=None, send_at=None) as recording:
        recording.add(
            PlannedChunk(
                rows=range(rows),
                msisdns=[f"46700{row:06d}" for row in range(rows)],
                text_of=range(rows) if personal else [0] * rows,
                texts=texts,
                digests=[text_digest(text) for text in texts],
                encodings=["GSM-7"] * len(texts),
                segments=[1] * len(texts),
            )
        )
        return recording.campaign


def journalled(base_url: str, rows: int, batch: int | None) -> float:
    """Seconds that the engine needs with a journal on disk, every intent durable before its request."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, Journal(Path(folder) / "journal.db") as journal:
        campaign = recorded(journal, "bench", rows, personal=batch is None)

        async def run() -> float:
            async with client(base_url) as sender:
                began = time.perf_counter()
                counts = await send_planned(journal, sender, campaign, SendOptions(batch_size=batch or 500))
                took = time.perf_counter() - began
            assert counts.accepted == rows, counts
            return took

        return asyncio.run(run())


def form_of(row: int) -> dict[str, str]:
    return {"user": "user", "pwd": "password", "recipients": f"46700{row:06d}", "msg": f"Hello number {row}"}


def httpx_alone(base_url: str, rows: int) -> float:
    """Seconds of plain httpx with one AsyncClient per connection: its pool is slower with this many connections."""

    async def run() -> float:
        remaining = iter(range(rows))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused; a default one costs 20 ms

        async def send_remaining(http: httpx.AsyncClient) -> None:
            for row in remaining:
                response = await http.post(f"{base_url}/sendSms", data=form_of(row))
                assert response.text.startswith("A")

        async with contextlib.AsyncExitStack() as clients:
            opened = [
                await clients.enter_async_context(httpx.AsyncClient(verify=context, trust_env=False))
                for _ in range(CONNECTIONS)
            ]
            began = time.perf_counter()
            await asyncio.gather(*map(send_remaining, opened))
            return time.perf_counter() - began

    return asyncio.run(run())


def requests_loop(base_url: str, rows: int) -> float:
    """Seconds of a loop over the rows with requests."""
    import requests

    began = time.perf_counter()
    for row in range(rows):
        response = requests.post(f"{base_url}/sendSms", data=form_of(row), timeout=30)
        assert response.text.startswith("A")
    return time.perf_counter() - began


def task_per_row(base_url: str, rows: int) -> float:
    """Seconds of a flow with a task for each row, on Prefect's thread pool and a running server."""
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner
    from pydantic import SecretStr

    from prefect_mymsp import MyMSPCredentials
    from prefect_mymsp.tasks import send_sms

    credentials = MyMSPCredentials(user="user", password=SecretStr("password"), base_url=base_url)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=CONNECTIONS))  # type: ignore[arg-type]
    def campaign() -> float:
        began = time.perf_counter()
        futures = [send_sms.submit(credentials, f"46700{row:06d}", f"Hello number {row}") for row in range(rows)]
        for future in futures:
            future.result()
        return time.perf_counter() - began

    return campaign()


@contextlib.contextmanager
def prefect_server() -> Iterator[None]:
    """A Prefect server on a temporary database, started before anything is measured."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=60):
        yield


def compare(name: str, rows: int, rounds: int, engine: Callable[[], float], baseline: Callable[[], float]) -> None:
    ratios, rates = [], []
    for _ in range(rounds):
        gc.collect()  # so that neither pays for the garbage of the other
        engine_s = engine()
        gc.collect()
        baseline_s = baseline()
        ratios.append(baseline_s / engine_s)
        rates.append(rows / engine_s)
    print(
        f"{name}: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f}), "
        f"{statistics.median(rates):,.0f} rows/s",
        flush=True,
    )


def engine_against_client(url: str, rows: int, rounds: int, latency_s: float) -> None:
    """Compare the engine with the bare client, for personal rows and for one text for all."""
    compare(
        "  personal rows, journal against bare client",
        rows,
        rounds,
        lambda: journalled(url, rows, None),
        lambda: bare(url, rows, None),
    )
    if latency_s:
        compare(
            "  personal rows, journal against connections ÷ latency",
            rows,
            rounds,
            lambda: journalled(url, rows, None),
            lambda: rows / (CONNECTIONS / latency_s),
        )
    many = rows * 100
    compare(
        "  one text for all, journal against bare client",
        many,
        rounds,
        lambda: journalled(url, many, 500),
        lambda: bare(url, many, 500),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--baselines", action="store_true")
    arguments = parser.parse_args()
    global CONNECTIONS  # noqa: PLW0603
    CONNECTIONS = arguments.connections
    rows, rounds = arguments.rows, arguments.rounds
    for latency_s in (0.0, 0.02):
        with gateway(latency_s) as url:
            print(f"latency {latency_s * 1000:.0f} ms, {CONNECTIONS} connections")
            engine_against_client(url, rows, rounds, latency_s)
    if arguments.baselines:
        with gateway(0.0) as url:
            compare(
                "personal rows, journal against plain httpx",
                rows,
                rounds,
                lambda: journalled(url, rows, None),
                lambda: httpx_alone(url, rows),
            )
            compare(
                "personal rows, journal against a loop with requests",
                rows,
                rounds,
                lambda: journalled(url, rows, None),
                lambda: requests_loop(url, rows),
            )
            with prefect_server():
                compare(
                    f"personal rows, journal against a task for each of {TASKS} rows",
                    rows,
                    rounds,
                    lambda: journalled(url, rows, None),
                    lambda: task_per_row(url, TASKS) * rows / TASKS,
                )


if __name__ == "__main__":
    main()
