"""Following a campaign, as a task, and who listens to how far it has come."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_mymsp.blocks import MyMSPCredentials
from prefect_mymsp.flows.finishing import finish
from prefect_mymsp.showing import Show

if TYPE_CHECKING:
    from prefect_mymsp.campaign import Following, FollowOptions, Listener
    from prefect_mymsp.journal import CampaignKey, Journal

_listener: ContextVar[Listener | None] = ContextVar("mymsp_listener", default=None)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have ``listener`` called with the progress of campaigns that are sent or followed in this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def progress_of(campaign: str, credentials: MyMSPCredentials) -> Iterator[Listener]:
    """A listener that keeps Prefect's page of a campaign up to date, and calls who listens in this context."""
    with Show(campaign, credentials).listener(also=_listener.get()) as listener:
        yield listener


@task(name="follow-deliveries", retries=0, cache_policy=NO_CACHE, persist_result=False)
def follow_deliveries(
    credentials: MyMSPCredentials, journal: Journal, campaign: CampaignKey, options: FollowOptions
) -> Following:
    """Ask the gateway until every delivery is settled, nothing moves any more, or time is up."""
    from prefect_mymsp.campaign import Following, JournalThread

    async def run(listener: Listener) -> Following:
        thread = JournalThread()
        try:
            async with credentials.get_async_client() as client:
                following = Following(journal, thread, client, campaign, options, listener)
                await following.run()
                return following
        finally:
            thread.close()

    with progress_of(campaign.name, credentials) as listener:
        return finish(run(listener))
