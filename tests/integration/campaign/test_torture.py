"""A faulty gateway, killed processes, two at once: counted in the gateway's ledger, not in the journal.

The short version runs with every test run; the long one is `pytest -m torture`.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from prefect_mymsp.account import account_fingerprint
from prefect_mymsp.journal import Counts, Journal, PlannedChunk, text_digest
from prefect_mymsp.sandbox import Fault
from prefect_mymsp.sandbox.server import Sandbox
from tests.integration.campaign import sending_process

LEASE_S = 2.5
TIMEOUT_S = 1.5


@dataclass(frozen=True)
class Ordeal:
    """What a campaign has to survive.

    Attributes:
        rows: Messages.
        personal: Whether each has a text of its own.
        scheduled: Whether they have a delivery time.
        kills: Processes to kill.
        batch_size: Recipients of one text in one request.
    """

    rows: int
    personal: bool
    scheduled: bool
    kills: int
    batch_size: int = 100

    def __str__(self) -> str:
        kind = "personal" if self.personal else "batches"
        return f"{self.rows}-{kind}-{'scheduled' if self.scheduled else 'immediate'}"


SHORT = [
    Ordeal(rows=150, personal=True, scheduled=True, kills=2),
    Ordeal(rows=3_000, personal=False, scheduled=False, kills=2, batch_size=25),
]
LONG = [
    Ordeal(rows=2_000, personal=True, scheduled=True, kills=6),
    Ordeal(rows=2_000, personal=True, scheduled=False, kills=6),
    Ordeal(rows=20_000, personal=False, scheduled=True, kills=6),
    Ordeal(rows=20_000, personal=False, scheduled=False, kills=6),
]


def faults() -> list[Fault]:
    """Faults by probability, of sending and of reading."""
    reads = ("getSmsResult", "sendlater/getall", "sendlater/cancel")
    return [
        Fault("response_lost", probability=0.03),
        Fault("lost_before", probability=0.03),
        Fault("error_after", probability=0.02),
        Fault("error_before", probability=0.02),
        Fault("truncated", probability=0.01),
        Fault("cut_short", probability=0.005, keep_bytes=4),
        Fault("html", probability=0.01, processed=True),
        Fault("slow", probability=0.01, delay_s=TIMEOUT_S + 1),
        Fault("late", probability=0.01, delay_s=1.0),
        Fault("cut_short", probability=0.02, endpoints=reads),
        Fault("response_lost", probability=0.02, endpoints=reads),
        Fault("error_before", probability=0.02, endpoints=reads),
        Fault("html", probability=0.01, endpoints=reads),
    ]


def run_ordeal(ordeal: Ordeal, journal_url: str, processes: ForkServerContext, seed: int) -> None:
    rng = random.Random(seed)
    with Sandbox() as sandbox, Journal(journal_url) as journal:
        sandbox.gateway.faults.replace(seed=seed, random=faults())
        sandbox.gateway.configure({"latency_ms": 10})
        expected = record(ordeal, journal, sandbox)
        job = {
            "journal": journal.url.render_as_string(hide_password=False),
            "account": account_fingerprint(sandbox.base_url, "demo"),
            "campaign": "ordeal",
            "base_url": sandbox.base_url,
            "batch_size": ordeal.batch_size,
            "lease_s": LEASE_S,
            "timeout_s": TIMEOUT_S,
            "reconcile": {"late_arrival_s": 3.0, "interval_s": 0.2},
        }
        killed = 0
        for _ in range(60):
            senders = [processes.Process(target=sending_process.main, args=(job,)) for _ in range(2)]
            for sender in senders:
                sender.start()
            if killed < ordeal.kills and in_the_middle(sandbox, senders, rng.randint(10, 60)):
                for sender in senders[: rng.choice([1, 2])]:
                    sender.kill()
                    killed += 1
            codes = [ended(sender) for sender in senders]
            assert set(codes) <= {0, -signal.SIGKILL}, codes
            counts = count(journal, job)
            if codes == [0, 0]:
                break
        else:
            pytest.fail(f"not done after many starts: {counts}")
        assert killed, "no process was killed while it was sending"
        check(ordeal, counts, expected, sandbox)


def record(ordeal: Ordeal, journal: Journal, sandbox: Sandbox) -> Counter[tuple[str, str]]:
    msisdns = [f"46700{number:06d}" for number in range(ordeal.rows)]
    texts = [f"Hello number {number}!" for number in range(ordeal.rows)] if ordeal.personal else ["Hello everybody!"]
    send_at = (datetime.now(UTC) + timedelta(hours=3)).replace(second=0, microsecond=0) if ordeal.scheduled else None
    block = PlannedChunk(
        rows=range(2, ordeal.rows + 2),
        msisdns=msisdns,
        text_of=list(range(ordeal.rows)) if ordeal.personal else [0] * ordeal.rows,
        texts=texts,
        digests=[text_digest(text) for text in texts],
        encodings=["GSM-7"] * len(texts),
        segments=[1] * len(texts),
    )
    account = account_fingerprint(sandbox.base_url, "demo")
    with journal.recording(
        account,
        "ordeal",
        source="ordeal",
        sender=None,
        send_at=send_at,
        batch_size=ordeal.batch_size,
    ) as recording:
        recording.add(block)
    return Counter((msisdn, texts[number if ordeal.personal else 0]) for number, msisdn in enumerate(msisdns))


def in_the_middle(sandbox: Sandbox, senders: list[ForkServerProcess], requests: int) -> bool:
    """Wait for this many more requests; False if the senders end before that."""
    target = sandbox.gateway.request_count + requests
    while sandbox.gateway.request_count < target:
        if not any(sender.is_alive() for sender in senders):
            return False
        time.sleep(0.005)
    return True


def ended(process: ForkServerProcess) -> int | None:
    """The exit code of a process, after waiting for it."""
    process.join(300)
    return process.exitcode


def count(journal: Journal, job: dict[str, Any]) -> Counts:
    campaign = journal.campaigns.get(job["account"], job["campaign"])
    assert campaign is not None
    return journal.campaigns.counts(campaign)


def check(ordeal: Ordeal, counts: Counts, expected: Counter[tuple[str, str]], sandbox: Sandbox) -> None:
    struck = sandbox.gateway.applied_faults()
    assert len(struck) >= 4, f"too few kinds of faults: {struck}"
    sent = sandbox.gateway.summary()
    assert not [key for key, times in sent.items() if times > 1], "a message was sent twice"
    assert set(sent) <= set(expected), "an unknown message was sent"
    assert counts.messages == ordeal.rows
    assert counts.planned == counts.sending == 0
    assert counts.accepted + counts.refused + counts.in_doubt == ordeal.rows
    if ordeal.scheduled:
        assert counts.in_doubt == counts.refused == 0, counts
        assert sent == expected, "a message was not sent"
    else:
        # What the journal calls accepted is at the gateway; the rest is in doubt.
        assert counts.accepted <= len(sent) <= counts.accepted + counts.in_doubt


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A journal's URL in the database that the parameter names."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'journal.db'}"
    url: str = request.getfixturevalue("postgres").journal()
    return url


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("ordeal", "database"), [(SHORT[0], "sqlite"), (SHORT[1], "postgresql")], ids=str, indirect=["database"]
)
def test_a_short_ordeal(ordeal: Ordeal, database: str, forkserver: ForkServerContext) -> None:
    run_ordeal(ordeal, database, forkserver, seed=1)


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("ordeal", LONG, ids=str)
def test_a_long_ordeal(ordeal: Ordeal, database: str, forkserver: ForkServerContext, seed: int) -> None:
    run_ordeal(ordeal, database, forkserver, seed)
