"""Messages are grouped by text, without a database."""

from __future__ import annotations

import pytest

from prefect_mymsp.journal.batches import group_by_text


@pytest.mark.parametrize(
    ("text_ids", "batch_size", "sizes"),
    [
        ("", 3, []),
        ("a", 3, [("a", 1)]),
        ("aaa", 3, [("a", 3)]),
        ("aaaa", 3, [("a", 3), ("a", 1)]),
        ("aab", 3, [("a", 2), ("b", 1)]),
        ("abab", 3, [("a", 1), ("b", 1), ("a", 1), ("b", 1)]),
        ("aabbb", 1, [("a", 1), ("a", 1), ("b", 1), ("b", 1), ("b", 1)]),
    ],
)
def test_neighbours_with_the_same_text_share_a_batch(
    text_ids: str, batch_size: int, sizes: list[tuple[str, int]]
) -> None:
    rows = [(number, ord(text_id)) for number, text_id in enumerate(text_ids)]
    groups = group_by_text(rows, batch_size)
    assert [(chr(text_id), len(message_ids)) for text_id, message_ids in groups] == sizes
    assert [message_id for _, message_ids in groups for message_id in message_ids] == list(range(len(text_ids)))
