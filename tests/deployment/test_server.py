"""The Prefect server of these tests, with this package installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.deployment.conftest import Server

pytestmark = pytest.mark.deployment


def test_a_server_registers_the_blocks_when_it_starts(server: Server) -> None:
    blocks = {"mymsp-credentials", "mymsp-campaign-journal", "mymsp-notification"}
    with server.client() as client:
        server.wait_for(lambda: blocks <= {block_type.slug for block_type in client.read_block_types()})
    path = server.run("-c", "import prefect_mymsp; print(prefect_mymsp.__file__)")
    assert path.strip() == str(server.root / "prefect_mymsp" / "__init__.py")
