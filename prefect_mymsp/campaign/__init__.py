"""The campaign engine: plan what to send, claim → send → settle it, follow what was sent. No Prefect in here."""

from prefect_mymsp.campaign.cancel import Cancelled, cancel_scheduled
from prefect_mymsp.campaign.collect import EVIDENCE, Collected, Collector, InboxRead, read_inbox
from prefect_mymsp.campaign.follow import Following, FollowOptions, follow
from prefect_mymsp.campaign.limits import Limits
from prefect_mymsp.campaign.opt_outs import OptOuts
from prefect_mymsp.campaign.pace import Gate
from prefect_mymsp.campaign.plan import Plan, Sample, mask, plan_source
from prefect_mymsp.campaign.reconcile import LookOptions
from prefect_mymsp.campaign.reschedule import Rescheduled, reschedule_scheduled
from prefect_mymsp.campaign.results import Results
from prefect_mymsp.campaign.send import JournalThread, Listener, Progress, SendOptions, send_planned
from prefect_mymsp.campaign.suppression import Suppressed
from prefect_mymsp.campaign.track import Completions, Pass, Standing, TrackOptions, standings_of, track_open
from prefect_mymsp.campaign.window import Window

__all__ = [
    "EVIDENCE",
    "Cancelled",
    "Collected",
    "Collector",
    "Completions",
    "FollowOptions",
    "Following",
    "Gate",
    "InboxRead",
    "JournalThread",
    "Limits",
    "Listener",
    "LookOptions",
    "OptOuts",
    "Pass",
    "Plan",
    "Progress",
    "Rescheduled",
    "Results",
    "Sample",
    "SendOptions",
    "Standing",
    "Suppressed",
    "TrackOptions",
    "Window",
    "cancel_scheduled",
    "follow",
    "mask",
    "plan_source",
    "read_inbox",
    "reschedule_scheduled",
    "send_planned",
    "standings_of",
    "track_open",
]
