"""Plans of a few rows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from prefect_mymsp.campaign import Plan, SuppressedNumbers, plan_campaign
from prefect_mymsp.campaign.suppression import number_array
from prefect_mymsp.recipients import open_source
from prefect_mymsp.templates import Template


def number(index: int) -> str:
    return f"0701740{605 + index}"


def msisdn(index: int) -> str:
    return f"46701740{605 + index}"


def planned(rows: list[tuple[str, str]], message: str = "Hej {name}", **how: Any) -> Plan:
    frame = pd.DataFrame(rows, columns=["mobil", "name"], dtype="string")
    return plan_campaign(open_source(frame, chunk_rows=2), Template(message), **how)


def suppressed(*indexes: int, reason: str = "opt-out") -> SuppressedNumbers:
    return SuppressedNumbers({reason: number_array(map(msisdn, indexes))})
