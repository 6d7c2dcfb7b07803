"""Prebuilt flows."""

from prefect_mymsp.flows.sending import listening, send_campaign, send_dataframe

__all__ = ["listening", "send_campaign", "send_dataframe"]
