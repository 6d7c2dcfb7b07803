"""CampaignFollower a campaign, as a task, and who listens to how far it has come."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_mymsp.artifacts import CampaignArtifacts
from prefect_mymsp.blocks import MyMSPCredentials
from prefect_mymsp.flows.task_support import run_interruptibly

if TYPE_CHECKING:
    from prefect_mymsp.campaign import CampaignFollower, FollowOptions, ProgressListener
    from prefect_mymsp.journal import CampaignKey, Journal

_listener: ContextVar[ProgressListener | None] = ContextVar("mymsp_listener", default=None)


@contextlib.contextmanager
def report_progress_to(listener: ProgressListener) -> Iterator[None]:
    """Have ``listener`` called with the progress of campaigns that are sent or followed in this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def progress_listener(campaign: str, credentials: MyMSPCredentials) -> Iterator[ProgressListener]:
    """A listener that keeps Prefect's page of a campaign up to date, and calls who listens in this context."""
    with CampaignArtifacts(campaign, credentials).progress(also=_listener.get()) as listener:
        yield listener


@task(name="follow-deliveries", retries=0, cache_policy=NO_CACHE, persist_result=False)
def follow_deliveries(
    credentials: MyMSPCredentials, journal: Journal, campaign: CampaignKey, options: FollowOptions
) -> CampaignFollower:
    """Ask the gateway until every delivery is settled, nothing moves any more, or time is up."""
    from prefect_mymsp.campaign import CampaignContext, CampaignFollower

    async def run(listener: ProgressListener) -> CampaignFollower:
        async with credentials.get_async_client() as client:
            with CampaignContext(journal, client, campaign.account) as context:
                following = CampaignFollower(context, campaign, options, listener)
                await following.run()
                return following

    with progress_listener(campaign.name, credentials) as listener:
        return run_interruptibly(run(listener))
