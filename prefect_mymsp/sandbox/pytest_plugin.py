"""Fixtures for tests against the sandbox, for those who opt in.

In a ``conftest.py``::

    pytest_plugins = ["prefect_mymsp.sandbox.pytest_plugin"]

The plugin is not registered as an entry point: installing the package must not change anybody's test run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from prefect_mymsp.sandbox.server import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def mymsp_sandbox_server() -> Iterator[Sandbox]:
    """One sandbox for the whole session; it keeps what tests leave in it."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def mymsp_sandbox(mymsp_sandbox_server: Sandbox) -> Sandbox:
    """The session's sandbox, empty and with its first settings."""
    mymsp_sandbox_server.gateway.reset()
    return mymsp_sandbox_server
