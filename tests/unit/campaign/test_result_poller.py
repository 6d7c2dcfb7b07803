"""How fast, how long and how often results are requested; what a round records."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_mymsp.campaign import CampaignContext
from prefect_mymsp.campaign.result_poller import MAX_WITHOUT_RESPONSE, PollBudget, ResultPoller
from prefect_mymsp.errors import InDoubtError, RefusedError
from prefect_mymsp.journal import Journal
from tests.clock import ManualClock
from tests.unit.campaign.scripted import ACCOUNT, ScriptedClient, record_accepted, result

A, B = "46701740605", "46701740606"
REFUSED_ACCOUNT = RefusedError(7, "not authorized", "getSmsResult", scope="account")
NO_RESPONSE = InDoubtError("lost", reason="connection-lost")


# -- the budget ------------------------------------------------------------------------------------------------------


def test_requests_are_spaced_out() -> None:
    budget = PollBudget(ends_at=100.0, requests_per_minute=60)
    assert [budget.reserve(now) for now in (10.0, 10.0, 10.5, 20.0)] == [10.0, 11.0, 12.0, 20.0]
    assert budget.requests == 4


def test_no_request_is_made_after_the_end() -> None:
    budget = PollBudget(ends_at=12.0, requests_per_minute=60)
    assert [budget.reserve(10.0) for _ in range(4)] == [10.0, 11.0, None, None]
    assert budget.requests == 2
    assert not budget.exhausted(11.9)
    assert budget.exhausted(12.0)


def test_no_more_requests_are_made_than_allowed() -> None:
    budget = PollBudget(ends_at=100.0, requests_per_minute=60_000, max_requests=2)
    assert [budget.reserve(10.0) is not None for _ in range(3)] == [True, True, False]
    assert budget.exhausted(10.0)


def test_a_gateway_that_does_not_respond_is_left_alone_until_the_next_round() -> None:
    budget = PollBudget(ends_at=100.0, requests_per_minute=60_000)
    for _ in range(MAX_WITHOUT_RESPONSE - 1):
        budget.record_failure()
    assert not budget.exhausted(10.0)
    budget.record_response()
    for _ in range(MAX_WITHOUT_RESPONSE):
        assert not budget.exhausted(10.0)
        budget.record_failure()
    assert budget.exhausted(10.0)
    budget.try_again()
    assert not budget.exhausted(10.0)
    assert budget.without_response == 2 * MAX_WITHOUT_RESPONSE - 1


def test_an_incomplete_result_is_a_response() -> None:
    budget = PollBudget(ends_at=100.0, requests_per_minute=60_000)
    for _ in range(MAX_WITHOUT_RESPONSE):
        budget.record_response()
        budget.record_incomplete()
    assert not budget.exhausted(10.0)
    assert budget.without_response == MAX_WITHOUT_RESPONSE


def test_a_refused_account_is_polled_no_further() -> None:
    budget = PollBudget(ends_at=100.0, requests_per_minute=60_000)
    budget.record_failure(REFUSED_ACCOUNT)
    budget.try_again()
    budget.record_response()
    assert budget.exhausted(10.0)
    assert budget.refusal is REFUSED_ACCOUNT


# -- the poller ------------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as journal:
        yield journal


def poll(journal: Journal, client: ScriptedClient, clock: ManualClock, **options: Any) -> tuple[ResultPoller, int]:
    """Poll everything that is open once."""

    async def run() -> tuple[ResultPoller, int]:
        with CampaignContext(journal, client.as_client(), ACCOUNT, clock) as context:
            budget: dict[str, Any] = {"deadline_s": 60.0, "requests_per_minute": 60, **options}
            poller = ResultPoller(context, **budget)
            campaign = journal.campaigns.get(ACCOUNT, "autumn")
            assert campaign is not None
            return poller, await poller.poll(journal.deliveries.open_batches(campaign))

    return asyncio.run(run())


def test_statuses_are_recorded_at_the_pace_of_the_budget(journal: Journal) -> None:
    campaign = record_accepted(journal, [(A, "x", "501"), (B, "y", "502")])
    clock = ManualClock()
    client = ScriptedClient(results={"501": result("501", A), "502": result("502", B)})
    poller, changed = poll(journal, client, clock)
    assert (changed, poller.complete, list(poller.remaining)) == (2, True, [])
    assert journal.campaigns.counts(campaign).delivered == 2
    assert clock.slept == [1.0]


def test_what_the_budget_is_too_small_for_remains(journal: Journal) -> None:
    record_accepted(journal, [(A, "x", "501"), (B, "y", "502")])
    client = ScriptedClient(results={"501": result("501", A), "502": result("502", B)})
    poller, changed = poll(journal, client, ManualClock(), max_requests=1)
    assert changed == 1
    assert [batch.message_id for batch in poller.remaining] == ["502"]
    assert not poller.complete
    assert poller.exhausted


def test_an_id_of_another_message_brings_its_request_into_doubt(journal: Journal) -> None:
    campaign = record_accepted(journal, [(A, "x", "501"), (B, "y", "502")])
    client = ScriptedClient(results={"501": result("501", B), "502": result("502", B)})
    poller, _ = poll(journal, client, ManualClock())
    counts = journal.campaigns.counts(campaign)
    assert (counts.in_doubt, counts.delivered) == (1, 1)
    assert poller.complete


def test_a_request_without_a_response_changes_nothing(journal: Journal) -> None:
    campaign = record_accepted(journal, [(A, "x", "501"), (B, "y", "502")])
    client = ScriptedClient(results={"501": NO_RESPONSE, "502": result("502", B)})
    poller, changed = poll(journal, client, ManualClock())
    assert (changed, poller.budget.without_response, poller.complete) == (1, 1, False)
    assert journal.campaigns.counts(campaign).accepted == 2


def test_a_refusal_of_the_account_ends_the_round(journal: Journal) -> None:
    record_accepted(journal, [(A, "x", "501"), (B, "y", "502")])
    client = ScriptedClient(results={"501": REFUSED_ACCOUNT, "502": REFUSED_ACCOUNT})
    poller, changed = poll(journal, client, ManualClock())
    assert changed == 0
    assert poller.budget.refusal is REFUSED_ACCOUNT
    assert client.calls == ["getSmsResult 501"]
