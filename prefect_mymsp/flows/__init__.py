"""Prebuilt flows."""

from prefect_mymsp.flows.sending import Guard, listening, send_campaign, send_dataframe
from prefect_mymsp.flows.stopping import cancel_campaign, resolve_in_doubt

__all__ = ["Guard", "cancel_campaign", "listening", "resolve_in_doubt", "send_campaign", "send_dataframe"]
