"""The journal: the messages of campaigns, their requests, and their deliveries.

It makes a second start safe: no message is sent twice, and none is lost.
"""

from prefect_mymsp.journal.journal import Journal
from prefect_mymsp.journal.recording import Recording
from prefect_mymsp.journal.records import (
    Batch,
    CampaignKey,
    CampaignSummary,
    CandidateBatch,
    Counts,
    EarlierMessage,
    OpenBatch,
    Outcome,
    Pending,
    PlannedChunk,
    PurgeResult,
    ScheduledBatch,
    Selection,
    SendRun,
    SourceCounts,
    WatchedBatch,
    text_digest,
)

__all__ = [
    "Batch",
    "CampaignKey",
    "CampaignSummary",
    "CandidateBatch",
    "Counts",
    "EarlierMessage",
    "Journal",
    "OpenBatch",
    "Outcome",
    "Pending",
    "PlannedChunk",
    "PurgeResult",
    "Recording",
    "ScheduledBatch",
    "Selection",
    "SendRun",
    "SourceCounts",
    "WatchedBatch",
    "text_digest",
]
