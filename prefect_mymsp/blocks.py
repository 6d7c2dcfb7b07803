"""Blocks: stored configuration that builds a client, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from prefect.blocks.abstract import CredentialsBlock
from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, field_validator

from prefect_mymsp.client import (
    DEFAULT_BASE_URL,
    DEFAULT_CONNECTIONS,
    DEFAULT_RETRY_FOR_S,
    DEFAULT_TIMEOUT_S,
    DEFAULT_TIMEZONE,
    MAX_TIMEOUT_S,
    AsyncMyMSPClient,
    check_base_url,
    check_timezone,
)
from prefect_mymsp.settings import MyMSPSettings
from prefect_mymsp.sync_client import MyMSPClient

if TYPE_CHECKING:
    from prefect_mymsp.journal import Journal


# A picture of Prefect's own: the gateway has no logo that may be passed on.
LOGO_URL = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"


class MyMSPCredentials(CredentialsBlock):
    """User and password of an account at myMSP, the SMS gateway of 21st Century Mobile.

    Example:
        Load stored credentials and send an SMS:
        ```python
        from prefect_mymsp import MyMSPCredentials

        credentials = MyMSPCredentials.load("BLOCK_NAME")
        with credentials.get_client() as client:
            message_id = client.send(["46701740605"], "Hello!")
        ```
    """

    _block_type_name: ClassVar[str | None] = "myMSP Credentials"
    _block_type_slug: ClassVar[str | None] = "mymsp-credentials"
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = "https://pypi.org/project/prefect-mymsp/"  # type: ignore[assignment]

    # A wrong block's error must not quote what else was given.
    model_config = ConfigDict(hide_input_in_errors=True)

    user: str = Field(default=..., description="The account's user.", min_length=1)
    password: SecretStr = Field(default=..., description="The account's password.", min_length=1)
    base_url: str = Field(
        default=DEFAULT_BASE_URL,
        description="Where the gateway's endpoints live. Only https, or http on this machine for a sandbox.",
    )
    timezone: str = Field(
        default=DEFAULT_TIMEZONE,
        description="The IANA time zone of the times that the gateway writes without one.",
    )
    timeout_s: float = Field(
        default=DEFAULT_TIMEOUT_S,
        description="Seconds until a connection must be made, and until a whole answer must have come.",
        gt=0,
        le=MAX_TIMEOUT_S,
    )

    @field_validator("base_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        return check_base_url(value)

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, value: str) -> str:
        return check_timezone(value).key

    @property
    def account(self) -> str:
        """The account's key in the journal: the same for the same gateway and user, whatever the password."""
        from prefect_mymsp.account import account_fingerprint

        return account_fingerprint(self.base_url, self.user)

    def get_client(self, *, retry_for_s: float = DEFAULT_RETRY_FOR_S) -> MyMSPClient:
        """A synchronous client for this account; use it as a context manager.

        Args:
            retry_for_s: Seconds to keep trying what never reached the gateway.
        """
        return MyMSPClient(
            self.user,
            self.password.get_secret_value(),
            base_url=self.base_url,
            timezone=self.timezone,
            timeout_s=self.timeout_s,
            retry_for_s=retry_for_s,
        )

    def get_async_client(
        self, *, retry_for_s: float = DEFAULT_RETRY_FOR_S, connections: int = DEFAULT_CONNECTIONS
    ) -> AsyncMyMSPClient:
        """An asynchronous client for this account; use it as an async context manager.

        Args:
            retry_for_s: Seconds to keep trying what never reached the gateway.
            connections: Requests in flight at once, at most.
        """
        return AsyncMyMSPClient(
            self.user,
            self.password.get_secret_value(),
            base_url=self.base_url,
            timezone=self.timezone,
            timeout_s=self.timeout_s,
            retry_for_s=retry_for_s,
            connections=connections,
        )


class CampaignJournal(Block):
    """Where campaigns remember what was sent: a database that several machines can reach.

    Without this block the journal is an SQLite file in Prefect's home, which a container forgets when it ends.

    Example:
        Load a stored journal and send a campaign with it:
        ```python
        from prefect_mymsp import CampaignJournal
        from prefect_mymsp.flows import send_campaign

        send_campaign("customers.csv", "Hello!", journal=CampaignJournal.load("BLOCK_NAME"))
        ```
    """

    _block_type_name: ClassVar[str | None] = "myMSP Campaign Journal"
    _block_type_slug: ClassVar[str | None] = "mymsp-campaign-journal"
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = "https://pypi.org/project/prefect-mymsp/"  # type: ignore[assignment]

    model_config = ConfigDict(hide_input_in_errors=True)

    url: SecretStr = Field(
        default=...,
        description="An SQLAlchemy URL: postgresql://user:password@host/database, or sqlite:///path/to/journal.db.",
        min_length=1,
    )

    def get_journal(self) -> Journal:
        """The journal, open; use it as a context manager.

        Raises:
            ConfigurationError: The URL cannot be used.
            JournalError: The journal cannot be opened.
        """
        from prefect_mymsp.journal import Journal

        return Journal(self.url.get_secret_value())


@contextlib.contextmanager
def open_existing_journal(block: CampaignJournal | None = None) -> Iterator[Journal | None]:
    """As :func:`open_journal`, for who only looks: None, and nothing is created, while its file is not there."""
    from prefect_mymsp.database_urls import database_exists, parse_supported_url

    location = block.url.get_secret_value() if block is not None else MyMSPSettings().journal_location()
    if not database_exists(parse_supported_url(location, "The journal")):
        yield None
        return
    with open_journal(block) as journal:
        yield journal


def open_journal(block: CampaignJournal | None = None) -> Journal:
    """The journal of a block, or the one that the settings name.

    Raises:
        ConfigurationError: Its URL cannot be used.
        JournalError: It cannot be opened.
    """
    from prefect_mymsp.journal import Journal

    return block.get_journal() if block is not None else Journal(MyMSPSettings().journal_location())
