"""The campaign engine: plan what to send, claim → send → settle it, follow what was sent. No Prefect in here."""

from prefect_mymsp.campaign.follow import follow
from prefect_mymsp.campaign.plan import Plan, Sample, mask, plan_source
from prefect_mymsp.campaign.send import Listener, Progress, SendOptions, send_planned

__all__ = ["Listener", "Plan", "Progress", "Sample", "SendOptions", "follow", "mask", "plan_source", "send_planned"]
