"""The server of these tests is a real one, with this package installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.deployment.conftest import Server

pytestmark = pytest.mark.deployment


def test_a_server_registers_our_blocks_when_it_starts(server: Server) -> None:
    ours = {"mymsp-credentials", "mymsp-campaign-journal", "mymsp-notification"}
    with server.client() as client:
        server.wait_for(lambda: ours <= {one.slug for one in client.read_block_types()})
    told = server.run("-c", "import prefect_mymsp; print(prefect_mymsp.__file__)")
    assert told.strip() == str(server.root / "prefect_mymsp" / "__init__.py")
