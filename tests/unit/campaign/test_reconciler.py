"""One reconciliation after the other, against a scripted gateway and a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from prefect_mymsp.campaign import CampaignContext, ReconcileOptions
from prefect_mymsp.campaign.reconciler import Reconciler
from prefect_mymsp.errors import InDoubtError, RefusedError
from prefect_mymsp.journal import CampaignKey, Journal
from prefect_mymsp.states import ACCEPTED, IN_DOUBT
from tests.clock import START, ManualClock
from tests.unit.campaign.scripted import ACCOUNT, ScriptedClient, claim_and_settle, record, result

A, B, C = "46701740605", "46701740606", "46701740607"
NINE = START + timedelta(hours=1)
NO_SUCH_MESSAGE = RefusedError(32, "no such message", "getSmsResult")
NO_RESPONSE = InDoubtError("lost", reason="connection-lost")


class Desk:
    """A campaign for nine o'clock, its gateway, its clock, and its reconciler."""

    def __init__(self, journal: Journal, stack: ExitStack) -> None:
        self.journal = journal
        self.client = ScriptedClient()
        self.clock = ManualClock()
        self.context = stack.enter_context(CampaignContext(journal, self.client.as_client(), ACCOUNT, self.clock))
        self.campaign: CampaignKey
        self.reconciler: Reconciler

    def start(self, *requests: tuple[str, str, str | None], late: bool = True) -> list[int]:
        """Record (MSISDN, text, message id or None for doubt); late responses have arrived unless told otherwise."""
        self.campaign = record(self.journal, [(msisdn, text) for msisdn, text, _ in requests], NINE)
        states = [(IN_DOUBT, None) if message_id is None else (ACCEPTED, message_id) for _, _, message_id in requests]
        batch_ids = claim_and_settle(self.journal, self.campaign, states)
        self.reconciler = Reconciler(self.context, self.campaign, ReconcileOptions())
        if late:
            self.clock.advance(60.0)
        return batch_ids

    def reconcile(self, times: int = 1) -> None:
        async def run() -> None:
            for _ in range(times):
                await self.reconciler.reconcile()

        asyncio.run(run())

    @property
    def counts(self) -> tuple[int, int, int]:
        """Messages accepted, in doubt, and planned (again)."""
        counts = self.journal.campaigns.counts(self.campaign)
        return counts.accepted, counts.in_doubt, counts.planned


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(stack.enter_context(Journal(tmp_path / "journal.db")), stack)


def test_a_request_in_doubt_that_is_listed_is_linked(desk: Desk) -> None:
    desk.start((A, "x", None))
    desk.client.listed = {"501": NINE}
    desk.client.results = {"501": result("501", A)}
    desk.reconcile()
    assert desk.counts == (1, 0, 0)
    desk.reconcile()
    assert not desk.reconciler.pending
    assert desk.client.calls == ["sendlater/getall", "getSmsResult 501"]


def test_a_request_that_three_lists_do_not_show_is_planned_again(desk: Desk) -> None:
    desk.start((A, "x", None))
    desk.reconcile(2)
    assert desk.counts == (0, 1, 0)
    assert desk.reconciler.pending
    desk.reconcile()
    assert desk.counts == (0, 0, 1)
    assert desk.client.calls == ["sendlater/getall"] * 3


def test_lists_count_only_after_the_response_can_no_longer_arrive(desk: Desk) -> None:
    desk.start((A, "x", None), late=False)
    desk.reconcile(5)
    assert desk.counts == (0, 1, 0)
    desk.clock.advance(30.0)
    desk.reconcile(3)
    assert desk.counts == (0, 0, 1)


def test_a_list_that_lacks_an_accepted_request_proves_no_absence(desk: Desk) -> None:
    desk.start((A, "x", None), (B, "y", "501"))
    desk.client.results = {"501": result("501", B)}
    desk.reconcile(2)
    assert desk.counts == (1, 1, 0)
    desk.client.listed = {"501": NINE}
    desk.reconcile(3)
    assert desk.counts == (1, 0, 1)


def test_lists_that_fail_prove_nothing(desk: Desk) -> None:
    desk.start((A, "x", None))
    desk.client.listed = NO_RESPONSE
    desk.reconcile(5)
    assert desk.counts == (0, 1, 0)
    assert desk.reconciler.pending


def test_an_unknown_message_that_cannot_be_identified_proves_no_absence(desk: Desk) -> None:
    desk.start((A, "x", None))
    desk.client.listed, desk.client.results = {"501": NINE}, {"501": NO_RESPONSE}
    desk.reconcile(5)
    assert desk.counts == (0, 1, 0)


def test_a_message_without_a_result_is_ignored_once(desk: Desk) -> None:
    """It may have been cancelled in between, but then the next list does not show it."""
    desk.start((A, "x", None))
    desk.client.listed, desk.client.results = {"501": NINE}, {"501": NO_SUCH_MESSAGE}
    desk.reconcile(5)
    assert desk.counts == (0, 1, 0)
    desk.client.listed = {}
    desk.reconcile(2)
    assert desk.counts == (0, 0, 1)


def test_beside_foreign_messages_the_form_of_numbers_is_verified_once(desk: Desk) -> None:
    desk.start((A, "x", None), (B, "y", "501"))
    desk.client.listed = {"501": NINE, "900": NINE}
    desk.client.results = {"501": result("501", B), "900": result("900", C)}
    desk.reconcile(3)
    assert desk.counts == (1, 0, 1)
    assert desk.client.calls.count("getSmsResult 501") == 1
    assert desk.client.calls.count("getSmsResult 900") == 1


def test_without_a_verified_number_foreign_messages_prevent_absence(desk: Desk) -> None:
    desk.start((A, "x", None), (B, "y", "501"))
    desk.client.listed = {"501": NINE, "900": NINE}
    desk.client.results = {"501": result("501", "0" + B[2:]), "900": result("900", C)}
    desk.reconcile(5)
    assert desk.counts == (1, 1, 0)


def test_texts_that_cannot_be_told_apart_are_cancelled_and_planned_again(desk: Desk) -> None:
    desk.start((A, "x", None), (A, "y", None))
    desk.client.listed, desk.client.results = {"501": NINE}, {"501": result("501", A)}
    desk.reconcile()
    assert desk.client.calls[-1] == "sendlater/cancel 501"
    desk.reconcile(3)
    assert desk.counts == (0, 0, 2)


def test_a_request_that_arrives_after_it_was_planned_again_is_cancelled(desk: Desk) -> None:
    desk.start((A, "x", None))
    desk.reconcile(3)
    desk.client.listed, desk.client.results = {"501": NINE}, {"501": result("501", A)}
    desk.reconcile()
    assert desk.reconciler.released == 1
    assert desk.client.calls[-1] == "sendlater/cancel 501"


@pytest.mark.parametrize(
    ("response", "counts"),
    [
        (result("50", A), (1, 0, 0)),
        (result("50", B), (0, 1, 0)),
        (NO_SUCH_MESSAGE, (0, 1, 0)),
        (NO_RESPONSE, (1, 0, 0)),
    ],
    ids=["its result names our recipient", "another recipient", "no such message", "no response"],
)
def test_an_id_that_three_lists_do_not_show_is_checked(
    desk: Desk, response: object, counts: tuple[int, int, int]
) -> None:
    desk.start((A, "x", "50"))
    desk.client.results = {"50": response}  # type: ignore[dict-item]
    desk.reconcile(2)
    assert desk.client.calls == ["sendlater/getall"] * 2
    desk.reconcile()
    assert desk.counts == counts


def test_an_id_that_was_cut_short_is_replaced_by_the_listed_one(desk: Desk) -> None:
    desk.start((A, "x", "50"))
    desk.client.listed = {"501": NINE}
    desk.client.results = {"50": NO_SUCH_MESSAGE, "501": result("501", A)}
    desk.reconcile(3)
    assert desk.counts == (0, 1, 0)
    assert desk.reconciler.has_unseen_changes
    desk.reconcile()
    assert desk.counts == (1, 0, 0)


def test_it_is_pending_from_the_change_of_the_journal_until_the_list_has_settled_it(desk: Desk) -> None:
    """A sender stops as soon as nothing is pending, also while a list is on its way."""
    desk.start((A, "x", "501"))
    desk.client.listed = {"501": NINE}
    pending: list[bool] = []
    desk.client.before_list = lambda: pending.append(desk.reconciler.pending)
    thread = desk.context.thread

    async def spying(*call: object, **options: object) -> object:
        pending.append(desk.reconciler.pending)
        return await thread(*call, **options)  # type: ignore[arg-type]

    desk.reconciler._thread = spying  # type: ignore[assignment]
    assert desk.reconciler.pending
    desk.reconcile()
    assert pending[:3] == [True, True, True]
    assert not desk.reconciler.pending


def test_without_anything_to_look_up_no_list_is_requested(desk: Desk) -> None:
    desk.start((A, "x", "501"))
    desk.client.listed = {"501": NINE}
    desk.reconcile(3)
    assert desk.client.calls == ["sendlater/getall"]
    assert desk.reconciler.last_delivery == NINE
