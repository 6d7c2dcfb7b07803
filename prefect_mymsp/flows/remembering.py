"""A word of warning where what was sent is not remembered for long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.logging import get_run_logger

if TYPE_CHECKING:
    from prefect_mymsp.journal import Journal


def warn_if_lost_with_container(journal: Journal) -> None:
    """Log a warning in the flow run when the journal is lost with the container this runs in."""
    from prefect_mymsp.journal.container_check import ephemeral_storage_warning

    if warning := ephemeral_storage_warning(journal.url):
        get_run_logger().warning("%s", warning)
