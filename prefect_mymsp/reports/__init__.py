"""The journal's answers as DataFrames and files."""

from prefect_mymsp.reports.campaign import CampaignReport, deliveries_frame, rejects_frame, write_csv

__all__ = ["CampaignReport", "deliveries_frame", "rejects_frame", "write_csv"]
