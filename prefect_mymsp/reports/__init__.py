"""The journal's answers as DataFrames and files."""

from prefect_mymsp.reports.campaign import CampaignReport
from prefect_mymsp.reports.exports import Exported
from prefect_mymsp.reports.frames import (
    campaigns_frame,
    deliveries_frame,
    inbox_frame,
    recorded_rejected_rows_frame,
    rejected_rows_frame,
    scheduled_frame,
)
from prefect_mymsp.reports.writers import append_rows, write_csv, write_excel, write_parquet

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
