"""The campaign engine: plan what to send, claim → send → settle it, follow what was sent. No Prefect in here."""

from prefect_mymsp.campaign.follow import FollowOptions, follow
from prefect_mymsp.campaign.limits import Limits
from prefect_mymsp.campaign.pace import Gate
from prefect_mymsp.campaign.plan import Plan, Sample, mask, plan_source
from prefect_mymsp.campaign.reconcile import Cancelled, LookOptions, cancel_scheduled
from prefect_mymsp.campaign.reschedule import Rescheduled, reschedule_scheduled
from prefect_mymsp.campaign.send import JournalThread, Listener, Progress, SendOptions, send_planned
from prefect_mymsp.campaign.suppression import Suppressed
from prefect_mymsp.campaign.window import Window

__all__ = [
    "Cancelled",
    "FollowOptions",
    "Gate",
    "JournalThread",
    "Limits",
    "Listener",
    "LookOptions",
    "Plan",
    "Progress",
    "Rescheduled",
    "Sample",
    "SendOptions",
    "Suppressed",
    "Window",
    "cancel_scheduled",
    "follow",
    "mask",
    "plan_source",
    "reschedule_scheduled",
    "send_planned",
]
