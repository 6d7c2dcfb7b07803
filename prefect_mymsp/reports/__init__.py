"""The journal's answers as DataFrames and files."""

from prefect_mymsp.reports.campaign import CampaignReport
from prefect_mymsp.reports.exports import Exported
from prefect_mymsp.reports.files import append_rows, write_csv, write_excel, write_parquet
from prefect_mymsp.reports.frames import (
    campaigns_frame,
    deliveries_frame,
    inbox_frame,
    recorded_rejects_frame,
    rejects_frame,
    scheduled_frame,
)

__all__ = [
    "CampaignReport",
    "Exported",
    "append_rows",
    "campaigns_frame",
    "deliveries_frame",
    "inbox_frame",
    "recorded_rejects_frame",
    "rejects_frame",
    "scheduled_frame",
    "write_csv",
    "write_excel",
    "write_parquet",
]
