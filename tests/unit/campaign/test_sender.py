"""The sender's loops, with a client whose responses a test writes down and a journal in SQLite."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

import pytest

from prefect_mymsp.campaign import Progress, RateGate, SendOptions, TimeWindow, send_planned
from prefect_mymsp.campaign.delivery_schedule import DeliverySchedule
from prefect_mymsp.errors import (
    CampaignCancelledError,
    CampaignStoppedError,
    JournalError,
    NoResponseError,
    RefusedError,
    UnreachableError,
)
from prefect_mymsp.journal import CampaignKey, Counts, Journal, PlannedChunk, text_digest
from prefect_mymsp.times import Clock

if TYPE_CHECKING:
    from prefect_mymsp.client import AsyncMyMSPClient

PEOPLE = [f"4670174060{number}" for number in range(8)]
#: A response: None for the next message id, or an error.
Response = BaseException | None


class SendingClient:
    """Stands in for the asynchronous client when messages are sent.

    Attributes:
        requests: Recipients of each request, in order.
        options: What else each request was made with.
        respond: Gives the response to a request, by its number from 0; it may wait.
    """

    def __init__(self, *responses: Response, connections: int = 1) -> None:
        self.connections = connections
        self.timeout_s, self.retry_for_s = 1.0, 0.3
        self.zone = ZoneInfo("Europe/Stockholm")
        self.requests: list[tuple[str, ...]] = []
        self.options: list[dict[str, Any]] = []
        self.retrying = True
        scripted = dict(enumerate(responses))

        async def respond(number: int) -> Response:
            return scripted.get(number)

        self.respond: Callable[[int], Awaitable[Response]] = respond

    def as_client(self) -> AsyncMyMSPClient:
        return cast("Any", self)  # type: ignore[no-any-return]

    def stop_retrying(self) -> None:
        self.retrying = False

    async def send(self, recipients: str, text: str, **options: Any) -> str:
        number = len(self.requests)
        self.requests.append(tuple(recipients.split(",")))
        self.options.append({"text": text, **options})
        response = await self.respond(number)
        if response is not None:
            raise response
        return str(100_000 + number)


class SuspendableClock(Clock):
    """The system's clock, and suspensions on top of it."""

    suspended_s = 0.0

    def elapsed(self) -> float:
        return super().elapsed() + self.suspended_s


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as journal:
        yield journal


def record(
    journal: Journal,
    *,
    personal: bool = True,
    groups: tuple[str, ...] = (),
    sender: str | None = None,
    send_at: datetime | None = None,
    batch_size: int = 500,
) -> CampaignKey:
    """Record a campaign to eight people, with a text each or one text for all."""
    texts = [f"Hello number {number}" for number in range(len(PEOPLE))] if personal else ["Hello"]
    chunk = PlannedChunk(
        rows=range(2, len(PEOPLE) + 2),
        msisdns=PEOPLE,
        text_of=range(len(PEOPLE)) if personal else [0] * len(PEOPLE),
        texts=texts,
        digests=[text_digest(text) for text in texts],
        encodings=["GSM-7"] * len(texts),
        segments=[1] * len(texts),
    )
    with journal.recording(
        "an account", "autumn", source="test", sender=sender, send_at=send_at, batch_size=batch_size
    ) as recording:
        recording.add(chunk)
        if groups:
            recording.add_groups(groups, "Hello group", encoding="GSM-7", segments=1)
    return recording.campaign


def send(
    journal: Journal, campaign: CampaignKey, client: SendingClient, *, clock: Clock | None = None, **options: Any
) -> Counts:
    return asyncio.run(
        send_planned(journal, client.as_client(), campaign, SendOptions(**options), clock=clock or Clock())
    )


def test_every_message_is_sent_once_in_the_order_of_the_rows(journal: Journal) -> None:
    campaign, client = record(journal), SendingClient()
    counts = send(journal, campaign, client)
    assert (counts.accepted, counts.messages) == (8, 8)
    assert client.requests == [(msisdn,) for msisdn in PEOPLE]
    assert send(journal, campaign, client).accepted == 8  # nothing left
    assert len(client.requests) == 8


def test_a_request_is_made_as_the_campaign_asks(journal: Journal) -> None:
    campaign = record(journal, personal=False, sender="Clinic", batch_size=5)
    client = SendingClient()
    send(journal, campaign, client, flash=True, destination_port=4711, batch_size=5)
    assert [len(recipients) for recipients in client.requests] == [5, 3]
    expected = {"text": "Hello", "sender": "Clinic", "send_at": None, "flash": True, "destination_port": 4711}
    assert client.options == [expected, expected]


@pytest.mark.parametrize("connections", [1, 4])
def test_no_request_is_made_after_the_machine_was_suspended(journal: Journal, connections: int) -> None:
    """The lease has expired meanwhile: another run may hold the same batches in doubt."""
    campaign, client, clock = record(journal), SendingClient(connections=connections), SuspendableClock()

    async def respond(number: int) -> Response:
        if number == 1:
            clock.suspended_s = 1000.0
        return None

    client.respond = respond
    with pytest.raises(JournalError, match=r"could not be renewed in time.*start the same campaign again"):
        send(journal, campaign, client, clock=clock)
    made = len(client.requests)
    assert made <= 1 + connections
    counts = journal.campaigns.counts(campaign)
    assert (counts.accepted, counts.planned, counts.in_doubt) == (made, 8 - made, 0)


def test_batches_that_were_not_started_are_released(journal: Journal) -> None:
    campaign, client = record(journal), SendingClient(None, UnreachableError("Connection refused."))
    with pytest.raises(CampaignStoppedError, match=r"Connection refused.*1 accepted, .* 0 in doubt, 7 not sent"):
        send(journal, campaign, client)
    assert len(client.requests) == 2
    counts = journal.campaigns.counts(campaign)
    assert (counts.accepted, counts.planned, counts.in_doubt) == (1, 7, 0)


def test_a_fault_of_the_client_leaves_its_request_in_doubt(journal: Journal) -> None:
    campaign, client = record(journal), SendingClient(None, None, ZeroDivisionError("a bug"))
    with pytest.raises(BaseExceptionGroup) as caught:
        send(journal, campaign, client)
    assert caught.value.subgroup(ZeroDivisionError) is not None
    counts = journal.campaigns.counts(campaign)
    # A claim that was being made at that moment is in doubt too.
    assert counts.accepted == 2
    assert counts.in_doubt >= 1
    assert counts.planned == 6 - counts.in_doubt


def test_the_halves_of_a_split_batch_are_sent_next(journal: Journal) -> None:
    campaign = record(journal, personal=False)
    refused = RefusedError(28, "bad recipient", "sendSms")
    client = SendingClient(refused, refused, None, refused, None, refused)
    counts = send(journal, campaign, client)
    assert client.requests == [
        tuple(PEOPLE), tuple(PEOPLE[:4]), tuple(PEOPLE[:2]), tuple(PEOPLE[2:4]), (PEOPLE[2],), (PEOPLE[3],),
        tuple(PEOPLE[4:]),
    ]  # fmt: skip
    assert (counts.accepted, counts.refused) == (7, 1)


def test_repeated_doubt_stops_the_campaign(journal: Journal) -> None:
    doubt = NoResponseError("No response.", reason="timeout")
    campaign, client = record(journal), SendingClient(doubt, doubt, None, doubt, doubt, doubt)
    with pytest.raises(CampaignStoppedError, match="No response"):
        send(journal, campaign, client, max_consecutive_failures=3)
    counts = journal.campaigns.counts(campaign)
    assert (counts.accepted, counts.in_doubt, counts.planned) == (1, 5, 2)


def test_progress_is_reported_up_to_the_end(journal: Journal) -> None:
    campaign, client, reports = record(journal), SendingClient(), list[Progress]()
    asyncio.run(send_planned(journal, client.as_client(), campaign, SendOptions(), reports.append))
    assert reports[-1] == Progress("send", 8, 8)
    assert [report.done for report in reports] == sorted(report.done for report in reports)


@pytest.mark.parametrize("cancellations", [1, 2])
def test_a_cancelled_sending_waits_for_its_requests_once(journal: Journal, cancellations: int) -> None:
    campaign, client = record(journal), SendingClient(connections=2)

    async def run() -> None:
        begun, responded = asyncio.Event(), asyncio.Event()

        async def respond(number: int) -> Response:
            if number == 1:
                begun.set()
            await responded.wait()
            return None

        client.respond = respond
        sending = asyncio.ensure_future(send_planned(journal, client.as_client(), campaign))
        await begun.wait()
        for _ in range(cancellations):
            sending.cancel()
            await asyncio.sleep(0.01)
        responded.set()
        with pytest.raises(asyncio.CancelledError):
            await sending

    asyncio.run(run())
    counts = journal.campaigns.counts(campaign)
    assert (counts.accepted, counts.in_doubt) == ((2, 0) if cancellations == 1 else (0, 2))
    assert counts.planned == 6
    assert not client.retrying


def test_a_cancelled_campaign_stops_and_keeps_its_outcomes(journal: Journal) -> None:
    campaign, client = record(journal), SendingClient()

    async def respond(number: int) -> Response:
        if number == 1:
            journal.campaigns.cancel(campaign)
        return None

    client.respond = respond
    with pytest.raises(CampaignCancelledError) as cancelled:
        send(journal, campaign, client)
    assert cancelled.value.__cause__ is None  # Dask pickles an error's causes, and itself among them without end
    counts = journal.campaigns.counts(campaign)
    assert (counts.accepted, counts.planned, counts.in_doubt) == (len(client.requests), 8 - len(client.requests), 0)


# -- products of options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [(), ("choir",), ("choir", "office")], ids=len)
@pytest.mark.parametrize("personal", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 500])
@pytest.mark.parametrize("connections", [1, 3])
def test_recipients_and_groups_are_sent_once_in_any_combination(
    journal: Journal, groups: tuple[str, ...], personal: bool, batch_size: int, connections: int
) -> None:
    campaign = record(journal, personal=personal, groups=groups, batch_size=batch_size)
    client = SendingClient(connections=connections)
    counts = send(journal, campaign, client, batch_size=batch_size)
    assert counts.accepted == counts.messages == len(PEOPLE) + len(groups)
    assert sorted(itertools.chain(*client.requests)) == sorted([*PEOPLE, *groups])
    limit = 1 if personal else batch_size
    assert all(len(recipients) <= limit for recipients in client.requests)
    assert all((group,) in client.requests for group in groups)  # a group goes alone


def open_now() -> TimeWindow:
    return TimeWindow(time(0), time(0), ZoneInfo("UTC"))


def opens_later() -> TimeWindow:
    opening = (datetime.now(UTC) + timedelta(hours=2)).replace(second=0, microsecond=0)
    return TimeWindow(opening.time(), (opening + timedelta(hours=1)).time(), ZoneInfo("UTC"))


@pytest.mark.parametrize("own_time", [False, True])
@pytest.mark.parametrize("window", [None, open_now, opens_later])
@pytest.mark.parametrize("ahead_s", [None, 300.0])
@pytest.mark.parametrize("per_minute", [None, 6000.0])
@pytest.mark.parametrize("workers", [1, 3])
def test_messages_are_scheduled_in_any_combination(
    journal: Journal,
    own_time: bool,
    window: Callable[[], TimeWindow] | None,
    ahead_s: float | None,
    per_minute: float | None,
    workers: int,
) -> None:
    send_at = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(hours=1) if own_time else None
    send_window = window and window()
    campaign, client, acquired = record(journal, send_at=send_at), SendingClient(connections=2), list[int]()

    all_sent = asyncio.Event()

    async def acquire(requests: int) -> None:
        acquired.append(requests)

    async def respond(number: int) -> Response:
        if number == 7:
            all_sent.set()
        return None

    client.respond = respond
    schedule = DeliverySchedule(send_at, send_window, ahead_s, lookup_margin_s=90.0, max_request_s=1.3)
    slot = None if per_minute is None else datetime.min.replace(tzinfo=UTC)
    before = schedule.next_delivery(datetime.now(UTC), slot).send_at

    async def run() -> Counts:
        options = SendOptions(
            send_window=send_window,
            schedule_ahead_s=ahead_s,
            messages_per_minute=per_minute,
            workers=workers,
            gate=RateGate(acquire, max_requests=3),
        )
        sending = asyncio.ensure_future(send_planned(journal, client.as_client(), campaign, options))
        await all_sent.wait()
        if schedule.may_schedule:  # the ids would be looked up at the gateway
            sending.cancel()
        await asyncio.wait({sending})
        return journal.campaigns.counts(campaign)

    counts = asyncio.run(run())
    after = schedule.next_delivery(datetime.now(UTC), slot).send_at
    assert counts.accepted == 8
    assert {options["send_at"] for options in client.options} <= {before, after}
    assert sum(acquired) >= 8
    assert max(acquired) <= 3
