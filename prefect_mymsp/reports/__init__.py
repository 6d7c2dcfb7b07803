"""Reports from the journal: DataFrames, files, database tables and HTML pages."""

from prefect_mymsp.reports.campaign_report import CampaignReport
from prefect_mymsp.reports.exports import Exported
from prefect_mymsp.reports.frames import (
    campaigns_frame,
    deliveries_frame,
    inbox_frame,
    recorded_rejected_rows_frame,
    rejected_rows_frame,
    scheduled_frame,
)
from prefect_mymsp.reports.tables import append_rows
from prefect_mymsp.reports.writers import write_csv, write_excel, write_parquet

__all__ = [
    "CampaignReport",
    "Exported",
    "append_rows",
    "campaigns_frame",
    "deliveries_frame",
    "inbox_frame",
    "recorded_rejected_rows_frame",
    "rejected_rows_frame",
    "scheduled_frame",
    "write_csv",
    "write_excel",
    "write_parquet",
]
