"""Prebuilt flows."""

from prefect_mymsp.flows.export import export_delivery_report, export_inbox_report
from prefect_mymsp.flows.inbox import collect_inbox, collect_updates
from prefect_mymsp.flows.manage_campaign import cancel_campaign, reschedule_campaign, resolve_campaign
from prefect_mymsp.flows.options import Advanced, Audience, Day, Safeguards, SendWindow, Speed, Suppression, Table
from prefect_mymsp.flows.purge import purge_journal
from prefect_mymsp.flows.results import CampaignStatus, CollectedUpdates
from prefect_mymsp.flows.send import send_campaign, send_dataframe
from prefect_mymsp.flows.task_support import report_progress_to
from prefect_mymsp.flows.track import track_campaign, track_open_campaigns

__all__ = [
    "Advanced",
    "Audience",
    "CampaignStatus",
    "CollectedUpdates",
    "Day",
    "Safeguards",
    "SendWindow",
    "Speed",
    "Suppression",
    "Table",
    "cancel_campaign",
    "collect_inbox",
    "collect_updates",
    "export_delivery_report",
    "export_inbox_report",
    "purge_journal",
    "report_progress_to",
    "reschedule_campaign",
    "resolve_campaign",
    "send_campaign",
    "send_dataframe",
    "track_campaign",
    "track_open_campaigns",
]
