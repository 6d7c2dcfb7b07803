"""The campaign engine: plan, send, reconcile and track campaigns. It does not import Prefect."""

from prefect_mymsp.campaign.cancel import Cancelled, cancel_at_gateway
from prefect_mymsp.campaign.context import CampaignContext, Progress, ProgressListener
from prefect_mymsp.campaign.delivery_schedule import TimeWindow
from prefect_mymsp.campaign.follow import CampaignFollower, follow
from prefect_mymsp.campaign.inbox import InboxResult, read_inbox
from prefect_mymsp.campaign.limits import check_limits
from prefect_mymsp.campaign.opt_outs import OptOuts
from prefect_mymsp.campaign.options import FollowOptions, Limits, ReconcileOptions, SendOptions, TrackOptions
from prefect_mymsp.campaign.plan import Plan, Sample
from prefect_mymsp.campaign.planning import plan_campaign
from prefect_mymsp.campaign.progress import CampaignProgress, CompletionLog, campaign_progress
from prefect_mymsp.campaign.rate import RateGate
from prefect_mymsp.campaign.reschedule import Rescheduled, reschedule_at_gateway
from prefect_mymsp.campaign.sender import send_planned
from prefect_mymsp.campaign.suppression import SuppressedNumbers
from prefect_mymsp.campaign.track import TrackingResult, track_account
from prefect_mymsp.campaign.updates import UpdatesResult, process_updates

__all__ = [
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
    "Sample",
    "SendOptions",
    "SuppressedNumbers",
    "TimeWindow",
    "TrackOptions",
    "TrackingResult",
    "UpdatesResult",
    "campaign_progress",
    "cancel_at_gateway",
    "check_limits",
    "follow",
    "plan_campaign",
    "process_updates",
    "read_inbox",
    "reschedule_at_gateway",
    "send_planned",
    "track_account",
]
