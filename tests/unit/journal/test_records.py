"""The journal's records: what they compute, and what they must not show."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from prefect_mymsp.journal import Batch, CampaignKey, CampaignSummary, Counts, PlannedChunk, WatchedBatch, text_digest
from prefect_mymsp.models import JoinedMSISDNs

NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)
A, B = "46701740605", "46701740606"
COUNTS = Counts(
    messages=10, planned=0, sending=0, accepted=10, refused=0, in_doubt=0, assumed=0, cancelled=0, delivered=8,
    final=10, segments=10,
)  # fmt: skip
SUMMARY = CampaignSummary(
    key=CampaignKey(1, "autumn", "a" * 32, None, None), created_at=NOON, source="a file", active_at=NOON,
    cancelled_at=None, purged_at=None, source_rows=None, counts=COUNTS,
)  # fmt: skip


def test_a_digest_depends_on_every_character() -> None:
    assert len(text_digest("Hej")) == 16
    assert len({text_digest(text) for text in ("", "Hej", "hej", "Hej ", "Héj", "He\u0301j")}) == 6


def test_a_batch_of_msisdns() -> None:
    batch = Batch(7, "canary", f"{A},{B}", 3, NOON)
    assert (batch.msisdns, batch.size) == ((A, B), 2)
    assert batch.recipients == f"{A},{B}"
    assert isinstance(batch.recipients, JoinedMSISDNs)
    assert repr(batch) == f"Batch(7, 2 recipients, {NOON})"


def test_a_batch_to_a_group_has_the_groups_name() -> None:
    batch = Batch(7, "Hej", "@Everybody in the office", 3, None)
    assert (batch.recipients, batch.size) == ("Everybody in the office", 1)


def test_a_watched_batch_knows_whether_it_is_to_a_group() -> None:
    batch = WatchedBatch(1, "in_doubt", 2, NOON, None, frozenset({A, B}))
    assert not batch.group
    assert replace(batch, msisdns=frozenset({"@Office"})).group


def test_records_do_not_show_numbers_or_texts() -> None:
    chunk = PlannedChunk([2], ["46700000000"], [0], ["canary"], [text_digest("canary")], ["GSM-7"], [1])
    assert "canary" not in repr(chunk)
    assert A not in repr(WatchedBatch(1, "in_doubt", 2, NOON, None, frozenset({A})))


@pytest.mark.parametrize(
    ("counts", "is_open"),
    [
        (COUNTS, False),
        (replace(COUNTS, final=9), True),
        (replace(COUNTS, planned=1), True),
        (replace(COUNTS, sending=1), True),
        (replace(COUNTS, in_doubt=1), True),
        (replace(COUNTS, refused=1, assumed=1, cancelled=1), False),
    ],
    ids=["all final", "accepted", "planned", "sending", "in doubt", "ended"],
)
def test_a_campaign_is_open_while_messages_have_no_final_outcome(counts: Counts, is_open: bool) -> None:
    assert replace(SUMMARY, counts=counts).open is is_open
    assert not replace(SUMMARY, counts=counts, purged_at=NOON).open


def test_planned_messages_of_a_cancelled_campaign_are_not_open() -> None:
    counts = replace(COUNTS, planned=5)
    assert not replace(SUMMARY, counts=counts, cancelled_at=NOON).open
    assert replace(SUMMARY, counts=replace(counts, in_doubt=1), cancelled_at=NOON).open


def test_open_counts_accepted_messages_without_a_final_result() -> None:
    assert replace(COUNTS, accepted=10, final=7).open == 3
