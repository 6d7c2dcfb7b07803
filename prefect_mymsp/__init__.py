"""Send and track SMS campaigns through myMSP, the SMS gateway of 21st Century Mobile, from Prefect."""

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials
from prefect_mymsp.notifications import MyMSPNotification

# Prefect's server imports this package to register its blocks; each block's module must be imported here.
__all__ = ["CampaignJournal", "MyMSPCredentials", "MyMSPNotification"]
