"""Fixtures for tests of campaigns."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_mymsp.sandbox import Sandbox
from tests.integration.campaign.bench import Bench
from tests.integration.campaign.lab import Lab
from tests.integration.conftest import Desk


@pytest.fixture
def lab(desk: Desk, mymsp_sandbox: Sandbox) -> Lab:
    """The sandbox gateway and a journal in each of the two databases."""
    mymsp_sandbox.gateway.configure({"sent_after_s": 0, "delivered_after_s": 0})
    return Lab(desk, mymsp_sandbox)


@pytest.fixture
def bench(mymsp_sandbox: Sandbox, tmp_path: Path, empty_journal: Path) -> Iterator[Bench]:
    """The sandbox gateway and a journal in SQLite."""
    mymsp_sandbox.gateway.configure({"sent_after_s": 0, "delivered_after_s": 0})
    shutil.copy(empty_journal, tmp_path / "journal.db")
    bench = Bench(mymsp_sandbox, tmp_path / "journal.db")
    yield bench
    bench.journal.close()
