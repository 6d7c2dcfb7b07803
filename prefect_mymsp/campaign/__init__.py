"""The campaign engine: plan what to send, claim → send → settle it, follow what was sent. No Prefect in here."""

from prefect_mymsp.campaign.cancel import Cancelled, cancel_at_gateway
from prefect_mymsp.campaign.context import CampaignContext, Progress, ProgressListener
from prefect_mymsp.campaign.delivery_schedule import TimeWindow
from prefect_mymsp.campaign.follow import CampaignFollower, follow
from prefect_mymsp.campaign.limits import check_limits
from prefect_mymsp.campaign.opt_outs import OptOuts
from prefect_mymsp.campaign.options import FollowOptions, Limits, ReconcileOptions, SendOptions, TrackOptions
from prefect_mymsp.campaign.planning import Plan, Sample, plan_campaign
from prefect_mymsp.campaign.rate import RateGate
from prefect_mymsp.campaign.reschedule import Rescheduled, reschedule_at_gateway
from prefect_mymsp.campaign.result_poller import ResultPoller
from prefect_mymsp.campaign.sender import send_planned
from prefect_mymsp.campaign.suppression import SuppressedNumbers
from prefect_mymsp.campaign.track import (
    CampaignProgress,
    CompletionLog,
    TrackingResult,
    campaign_progress,
    track_account,
)
from prefect_mymsp.campaign.updates import EVIDENCE, InboxResult, UpdateReader, UpdatesResult, read_inbox

__all__ = [
    "EVIDENCE",
    "CampaignContext",
    "CampaignFollower",
    "CampaignProgress",
    "Cancelled",
    "CompletionLog",
    "FollowOptions",
    "InboxResult",
    "Limits",
    "OptOuts",
    "Plan",
    "Progress",
    "ProgressListener",
    "RateGate",
    "ReconcileOptions",
    "Rescheduled",
    "ResultPoller",
    "Sample",
    "SendOptions",
    "SuppressedNumbers",
    "TimeWindow",
    "TrackOptions",
    "TrackingResult",
    "UpdateReader",
    "UpdatesResult",
    "campaign_progress",
    "cancel_at_gateway",
    "check_limits",
    "follow",
    "plan_campaign",
    "read_inbox",
    "reschedule_at_gateway",
    "send_planned",
    "track_account",
]
