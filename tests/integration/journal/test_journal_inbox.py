"""The inbox, raw responses, suppressions, bookmarks and the limit on notifications."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from prefect_mymsp.errors import InputError, JournalError
from prefect_mymsp.journal import Journal
from prefect_mymsp.models import ReceivedMessage
from tests.integration.conftest import ACCOUNT

if TYPE_CHECKING:
    from tests.integration.conftest import Desk

OTHER = "fedcba9876543210fedcba9876543210"
NOON = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)


def message(number: int, text: str = "Hello", sender: str | None = "46701740605") -> ReceivedMessage:
    received_at = NOON + timedelta(minutes=number)
    return ReceivedMessage(str(number), received_at, "demo", "WIN", "SMS", sender, "Anna", None, text)


def stop(message: ReceivedMessage) -> bool:
    return message.text.upper() == "STOP"


def ids(messages: Sequence[ReceivedMessage]) -> list[int]:
    return [int(message.message_id) for message in messages]


# -- the inbox ---------------------------------------------------------------------------------------------------------


def test_each_message_is_stored_once(desk: Desk) -> None:
    received = desk.journal.inbox
    assert ids(received.store(ACCOUNT, [message(3), message(1), message(3)], stop)) == [3, 1]
    assert ids(received.store(ACCOUNT, [message(1), message(2), message(3)], stop)) == [2]
    assert received.store(ACCOUNT, [message(1, "another text")], stop) == []
    assert received.store(ACCOUNT, [], stop) == []
    assert ids(received.store(OTHER, [message(1)], stop)) == [1]  # another account has ids of its own
    assert [row[1] for part in received.rows(ACCOUNT) for row in part] == ["3", "1", "2"]


def test_the_cursor_is_the_highest_id(desk: Desk) -> None:
    received = desk.journal.inbox
    assert received.cursor(ACCOUNT) == 0
    received.store(ACCOUNT, [message(12556), message(9), message(12554)], stop)
    assert received.cursor(ACCOUNT) == 12556
    received.store(ACCOUNT, [message(100)], stop)
    assert received.cursor(ACCOUNT) == 12556  # as texts, '9' would be higher than either
    received.store(ACCOUNT, [message(12557), message(12556)], stop)
    assert received.cursor(ACCOUNT) == 12557
    assert received.cursor(OTHER) == 0
    assert desk.journal.bookmarks.get(ACCOUNT, "inbox") == "12557"


def test_ids_that_are_not_numbers_do_not_move_the_cursor(desk: Desk) -> None:
    received = desk.journal.inbox
    strange = [ReceivedMessage(name, None, None, None, None, None, None, None, "") for name in ("x7", "9" * 30, "٣")]
    assert received.store(ACCOUNT, strange, stop) == strange
    assert received.cursor(ACCOUNT) == 0
    received.store(ACCOUNT, [message(5)], stop)
    assert received.cursor(ACCOUNT) == 5


def test_rows_come_in_order_in_chunks_and_by_time(desk: Desk) -> None:
    received = desk.journal.inbox
    numbers = list(range(1, 31))
    random.Random(7).shuffle(numbers)
    received.store(ACCOUNT, [message(number) for number in numbers], stop)
    parts = list(received.rows(ACCOUNT, chunk=7))
    assert [len(part) for part in parts] == [7, 7, 7, 7, 2]
    rows = [row for part in parts for row in part]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert [int(row[1]) for row in rows] == numbers
    number, _, received_at, stored_at, *rest = rows[0]
    assert received_at == (NOON + timedelta(minutes=numbers[0])).timestamp() * 1_000_000
    assert abs(stored_at / 1_000_000 - datetime.now(UTC).timestamp()) < 60
    assert rest == ["demo", "WIN", "SMS", "46701740605", "Anna", None, "Hello"]
    later = [row for part in received.rows(ACCOUNT, after=rows[9][0]) for row in part]
    assert later == rows[10:]
    assert number == rows[0][0]
    period = received.rows(ACCOUNT, since=NOON + timedelta(minutes=10), until=NOON + timedelta(minutes=20))
    assert sorted(int(row[1]) for part in period for row in part) == list(range(10, 20))


def test_a_message_without_a_time_counts_from_when_it_was_stored(desk: Desk) -> None:
    received = desk.journal.inbox
    received.store(ACCOUNT, [ReceivedMessage("1", None, None, None, "SMS", "46701740605", None, None, "Hi")], stop)
    now = datetime.now(UTC)
    assert list(received.rows(ACCOUNT, since=now - timedelta(minutes=5), until=now + timedelta(minutes=5)))
    assert not list(received.rows(ACCOUNT, since=now + timedelta(minutes=5)))


def test_any_text_is_stored_unchanged(desk: Desk) -> None:
    texts = ["'; DROP TABLE received; --", "<script>", "=1+1", "\x1b[31m", "åäö €", "😀" * 300, "x" * 100_000, "\t\n;;"]
    received = desk.journal.inbox
    received.store(ACCOUNT, [message(number, text) for number, text in enumerate(texts)], stop)
    assert [row[-1] for part in received.rows(ACCOUNT) for row in part] == texts


def test_a_nul_in_a_message_is_replaced(desk: Desk) -> None:
    received = desk.journal.inbox
    received.store(ACCOUNT, [message(1, "a\x00b", "4670\x00")], stop)
    ((row,),) = received.rows(ACCOUNT)
    assert (row[-1], row[7]) == ("a\ufffdb", "4670\ufffd")


def test_an_error_stores_nothing(desk: Desk) -> None:
    def fails(message: ReceivedMessage) -> bool:
        if message.message_id == "2":
            raise RuntimeError
        return True

    received = desk.journal.inbox
    with pytest.raises(RuntimeError):
        received.store(ACCOUNT, [message(1), message(2)], fails)
    assert (received.cursor(ACCOUNT), list(received.rows(ACCOUNT))) == (0, [])
    assert desk.journal.suppressions.msisdns(ACCOUNT) == set()
    assert ids(received.store(ACCOUNT, [message(1), message(2)], stop)) == [1, 2]


def _store(url: str, first: int, count: int) -> int:
    with Journal(url) as journal:
        stored = 0
        for start in range(first, first + count, 7):
            stored += len(journal.inbox.store(ACCOUNT, [message(number) for number in range(start, start + 14)], stop))
        return stored


def test_two_processes_store_each_message_once(desk: Desk) -> None:
    desk.journal.close()
    assert sum(desk.in_processes(_store, [1, 140], [1, 140])) == 147
    assert desk.one("SELECT count(*) FROM received") == 147
    assert desk.journal.inbox.cursor(ACCOUNT) == 147


def test_numbers_in_the_journal_ascend(desk: Desk) -> None:
    """A reader that has read up to a number must not miss a lower one that is stored later."""
    begun, may_end = threading.Event(), threading.Event()

    def slow(_: ReceivedMessage) -> bool:
        begun.set()
        return not may_end.wait(30)

    received = desk.journal.inbox
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(received.store, ACCOUNT, [message(1)], slow)
        assert begun.wait(30)
        second = pool.submit(received.store, ACCOUNT, [message(2)], stop)
        with pytest.raises(FutureTimeout):
            second.result(0.3)
        may_end.set()
        assert ids([*first.result(30), *second.result(30)]) == [1, 2]
    assert [row[1] for part in received.rows(ACCOUNT) for row in part] == ["1", "2"]


# -- opting out --------------------------------------------------------------------------------------------------------


def test_an_opt_out_suppresses_its_sender(desk: Desk) -> None:
    received, suppressions = desk.journal.inbox, desk.journal.suppressions
    received.store(
        ACCOUNT,
        [
            message(1, "STOP", "46701740606"),
            message(2, "Do not stop", "46701740607"),
            message(3, "stop", "+46701740608"),
            message(4, "STOP", "46701740606"),
            message(5, "STOP", "Acme"),  # a sender name cannot be suppressed
            message(6, "STOP", None),
        ],
        stop,
    )
    assert suppressions.msisdns(ACCOUNT) == {"46701740606", "46701740608"}
    assert suppressions.msisdns(OTHER) == set()
    assert suppressions.rows(ACCOUNT) == [
        ("46701740606", NOON + timedelta(minutes=1), "opt-out", "1"),
        ("46701740608", NOON + timedelta(minutes=3), "opt-out", "3"),
    ]


def test_a_removed_number_is_suppressed_only_by_a_new_message(desk: Desk) -> None:
    received, suppressions = desk.journal.inbox, desk.journal.suppressions
    received.store(ACCOUNT, [message(1, "STOP")], stop)
    assert suppressions.remove(ACCOUNT, ["46701740605"]) == 1
    received.store(ACCOUNT, [message(1, "STOP")], stop)  # read again
    assert suppressions.msisdns(ACCOUNT) == set()
    received.store(ACCOUNT, [message(2, "STOP")], stop)
    assert suppressions.msisdns(ACCOUNT) == {"46701740605"}


def test_each_number_is_added_once(desk: Desk) -> None:
    suppressions = desk.journal.suppressions
    many = [str(46_700_000_000 + index) for index in range(2500)]
    assert suppressions.add(ACCOUNT, many, "import") == 2500
    assert suppressions.add(ACCOUNT, [*many, "+46701740605", "46701740605"], "person") == 1
    assert suppressions.msisdns(ACCOUNT) == {*many, "46701740605"}
    assert {row[2] for row in suppressions.rows(ACCOUNT)} == {"import", "person"}
    assert suppressions.remove(ACCOUNT, [*many[:2000], "46799999999"]) == 2000
    assert len(suppressions.msisdns(ACCOUNT)) == 501
    assert suppressions.add(ACCOUNT, [], "person") == 0


@pytest.mark.parametrize("number", ["0701740605", "070-174 06 05", "4670", "Acme", "@group", "", "46701740605;"])
def test_a_value_that_is_not_an_msisdn_is_refused_and_not_quoted(desk: Desk, number: str) -> None:
    suppressions = desk.journal.suppressions
    for arguments in (([number], "import"), (["46701740606", number], "person")):
        with pytest.raises(InputError) as caught:
            suppressions.add(ACCOUNT, *arguments)
        assert not number or number not in str(caught.value).replace("46701740605.", "")
    with pytest.raises(InputError):
        suppressions.remove(ACCOUNT, [number])
    assert desk.journal.suppressions.msisdns(ACCOUNT) == set()


def test_an_unknown_reason_is_refused(desk: Desk) -> None:
    with pytest.raises(InputError, match="opt-out, import, person"):
        desk.journal.suppressions.add(ACCOUNT, ["46701740605"], "whim")
    desk.refused(
        "INSERT INTO suppression (account, msisdn, since, reason) VALUES (:a, '46701740605', 1, 'whim')", a=ACCOUNT
    )
    desk.refused(
        "INSERT INTO suppression (account, msisdn, since, reason) VALUES (:a, '0701x40605', 1, 'person')", a=ACCOUNT
    )


# -- raw responses -----------------------------------------------------------------------------------------------------


def test_raw_responses_are_unparsed_until_marked(desk: Desk) -> None:
    first, second = (
        desk.journal.raw_responses.add(ACCOUNT, b"A\n\xff\x00"),
        desk.journal.raw_responses.add(ACCOUNT, b"A"),
    )
    desk.journal.raw_responses.add(OTHER, b"A")
    assert desk.journal.raw_responses.unparsed(ACCOUNT) == [(first, b"A\n\xff\x00"), (second, b"A")]
    desk.journal.raw_responses.mark_parsed(first)
    desk.journal.raw_responses.mark_parsed(first)
    assert desk.journal.raw_responses.unparsed(ACCOUNT) == [(second, b"A")]
    assert desk.one("SELECT count(*) FROM raw_response") == 3


# -- bookmarks ---------------------------------------------------------------------------------------------------------


def test_bookmarks(desk: Desk) -> None:
    bookmarks = desk.journal.bookmarks
    assert bookmarks.get(ACCOUNT, "deliveries") is None
    bookmarks.put(ACCOUNT, "deliveries", "7")
    bookmarks.put(ACCOUNT, "deliveries", "8")
    bookmarks.put(OTHER, "deliveries", "9")
    assert bookmarks.get(ACCOUNT, "deliveries") == "8"
    assert bookmarks.get(ACCOUNT, "inbox") is None


# -- notices -----------------------------------------------------------------------------------------------------------


def test_the_limit_counts_notifications_in_a_period(desk: Desk) -> None:
    admit: Callable[..., bool] = desk.journal.notifications.try_acquire
    admitted = [admit(ACCOUNT, "failure", at_most=2, per_s=60, now=NOON + timedelta(seconds=s)) for s in (0, 1, 2, 59)]
    assert admitted == [True, True, False, False]
    assert admit(ACCOUNT, "another topic", at_most=1, per_s=60, now=NOON)
    assert admit(OTHER, "failure", at_most=1, per_s=60, now=NOON)
    # The first has left the period, the second has not; refused notifications do not count.
    admitted = [admit(ACCOUNT, "failure", at_most=2, per_s=60, now=NOON + timedelta(seconds=s)) for s in (60, 60, 61)]
    assert admitted == [True, False, True]
    assert not admit(ACCOUNT, "failure", at_most=0, per_s=60)
    assert admit(ACCOUNT, "now", at_most=1, per_s=0.5)


@pytest.mark.parametrize(("at_most", "per_s"), [(-1, 60.0), (1, 0.0), (1, float("nan"))])
def test_an_impossible_limit_is_refused(desk: Desk, at_most: int, per_s: float) -> None:
    with pytest.raises(InputError):
        desk.journal.notifications.try_acquire(ACCOUNT, "failure", at_most=at_most, per_s=per_s)


def _admit(url: str, times: int) -> int:
    with Journal(url) as journal:
        return sum(journal.notifications.try_acquire(ACCOUNT, "failure", at_most=7, per_s=3600) for _ in range(times))


def test_two_processes_share_one_limit(desk: Desk) -> None:
    desk.journal.close()
    assert sum(desk.in_processes(_admit, [20], [20])) == 7
    assert desk.one("SELECT count(*) FROM notification") == 7


def test_errors_do_not_show_received_texts(desk: Desk) -> None:
    desk.journal.close()
    desk.sql("DROP TABLE received")
    with pytest.raises(JournalError) as caught:
        desk.open().inbox.store(ACCOUNT, [message(1, "a secret text")], stop)
    assert "secret" not in str(caught.value)
    assert "46701740605" not in str(caught.value)
