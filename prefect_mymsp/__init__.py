"""Send and follow SMS campaigns through myMSP, the SMS gateway of 21st Century Mobile, from Prefect."""

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials

# Prefect's server imports this package to register its blocks; each block's module must be imported here.
__all__ = ["CampaignJournal", "MyMSPCredentials"]
