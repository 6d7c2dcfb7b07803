"""What we meant to send, what came of it, and what became of it: the memory that makes a second start safe."""

from prefect_mymsp.journal.deliveries import CandidateBatch, OpenBatch
from prefect_mymsp.journal.journal import (
    Batch,
    CampaignKey,
    CampaignSummary,
    Counts,
    EarlierMessage,
    Journal,
    Outcome,
    PlannedChunk,
    Recording,
    ScheduledBatch,
    SendRun,
    SourceCounts,
    WatchedBatch,
)
from prefect_mymsp.journal.report_queries import Selection
from prefect_mymsp.journal.retention import PurgeResult

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
    "PlannedChunk",
    "PurgeResult",
    "Recording",
    "ScheduledBatch",
    "Selection",
    "SendRun",
    "SourceCounts",
    "WatchedBatch",
]
