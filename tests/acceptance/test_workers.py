"""Campaigns with several workers; tests/deployment counts what they send."""

from __future__ import annotations

from pathlib import Path

import cloudpickle
import pytest

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.errors import InputError
from prefect_mymsp.flows import (
    Speed,
    send_campaign,
)
from prefect_mymsp.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_harness", "workspace")


@pytest.mark.parametrize(("workers", "why"), [(2, "PostgreSQL"), (0, "at least 1")])
def test_several_workers_need_a_shared_journal(
    credentials: MyMSPCredentials, gateway: Sandbox, tmp_path: Path, workers: int, why: str
) -> None:
    people = tmp_path / "people.csv"
    people.write_text("phone\n0701740605\n")
    with pytest.raises(InputError, match=why):
        send_campaign(people, "Hello!", credentials, wait_minutes=0, speed=Speed(workers=workers))
    assert not gateway.gateway.summary()


def test_the_flow_can_be_pickled_for_other_machines() -> None:
    # As Dask pickles it, with everything its function refers to.
    assert cloudpickle.loads(cloudpickle.dumps(send_campaign.with_options(name="big"))).name == "big"
