"""Fixtures for tests of campaigns."""

from __future__ import annotations

import pytest

from prefect_mymsp.sandbox import Sandbox
from tests.integration.campaign.lab import Lab
from tests.integration.conftest import Desk


@pytest.fixture
def lab(desk: Desk, mymsp_sandbox: Sandbox) -> Lab:
    mymsp_sandbox.gateway.configure({"sent_after_s": 0, "delivered_after_s": 0})
    return Lab(desk, mymsp_sandbox)
