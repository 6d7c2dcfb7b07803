"""Prebuilt flows."""

from prefect_mymsp.flows.deciding import resolve_in_doubt
from prefect_mymsp.flows.options import Day, Guard, OnRejects, SendWindow, Suppression
from prefect_mymsp.flows.purging import purge
from prefect_mymsp.flows.sending import listening, send_campaign, send_dataframe
from prefect_mymsp.flows.stopping import cancel_campaign, reschedule_campaign

__all__ = [
    "Day",
    "Guard",
    "OnRejects",
    "SendWindow",
    "Suppression",
    "cancel_campaign",
    "listening",
    "purge",
    "reschedule_campaign",
    "resolve_in_doubt",
    "send_campaign",
    "send_dataframe",
]
