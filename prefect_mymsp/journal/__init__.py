"""What we meant to send, what came of it, and what became of it: the memory that makes a second start safe."""

from prefect_mymsp.journal.forgetting import Forgotten
from prefect_mymsp.journal.reading import Selection
from prefect_mymsp.journal.store import (
    Batch,
    CampaignKey,
    CampaignSummary,
    Counts,
    Earlier,
    Journal,
    Outcome,
    PlannedBlock,
    Recording,
    Run,
    ScheduledBatch,
    SourceCounts,
    Watched,
)
from prefect_mymsp.journal.tracking import Claimant, OpenBatch, Waiting

__all__ = [
    "Batch",
    "CampaignKey",
    "CampaignSummary",
    "Claimant",
    "Counts",
    "Earlier",
    "Forgotten",
    "Journal",
    "OpenBatch",
    "Outcome",
    "PlannedBlock",
    "Recording",
    "Run",
    "ScheduledBatch",
    "Selection",
    "SourceCounts",
    "Waiting",
    "Watched",
]
