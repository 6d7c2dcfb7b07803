"""Prebuilt flows."""

from prefect_mymsp.flows.collecting import CollectedUpdates, collect_inbox, collect_updates
from prefect_mymsp.flows.deciding import resolve_in_doubt
from prefect_mymsp.flows.exporting import export_delivery_report, export_inbox_report
from prefect_mymsp.flows.following import listening
from prefect_mymsp.flows.options import Day, Guard, OnRejects, SendWindow, Suppression
from prefect_mymsp.flows.purging import purge
from prefect_mymsp.flows.sending import send_campaign, send_dataframe
from prefect_mymsp.flows.stopping import cancel_campaign, reschedule_campaign
from prefect_mymsp.flows.tracking import CampaignStatus, track_campaign, track_open_campaigns

__all__ = [
    "CampaignStatus",
    "CollectedUpdates",
    "Day",
    "Guard",
    "OnRejects",
    "SendWindow",
    "Suppression",
    "cancel_campaign",
    "collect_inbox",
    "collect_updates",
    "export_delivery_report",
    "export_inbox_report",
    "listening",
    "purge",
    "reschedule_campaign",
    "resolve_in_doubt",
    "send_campaign",
    "send_dataframe",
    "track_campaign",
    "track_open_campaigns",
]
