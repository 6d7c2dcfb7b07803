"""Blocks: stored configuration that builds a client or opens a journal, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
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


# An image of Prefect's: the gateway has no logo that may be distributed.
LOGO_URL = "https://cdn.sanity.io/images/3ugk85nk/production/c6f20e556dd16effda9df16551feecfb5822092b-48x48.png"


class MyMSPCredentials(CredentialsBlock):
    """An account at myMSP, the SMS gateway of 21st Century Mobile.

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

    # The error of an invalid block must not quote the other values.
    model_config = ConfigDict(hide_input_in_errors=True)

    user: str = Field(default=..., description="The account's user.", min_length=1)
    password: SecretStr = Field(default=..., description="The account's password.", min_length=1)
    base_url: str = Field(
        default=DEFAULT_BASE_URL,
        description="Address of the gateway. It must be https, or http for a sandbox on this machine.",
    )
    timezone: str = Field(
        default=DEFAULT_TIMEZONE,
        description="IANA time zone of the account. The gateway writes local times in it, without an offset.",
    )
    timeout_s: float = Field(
        default=DEFAULT_TIMEOUT_S,
        description="Seconds to wait for a connection, and for a complete response.",
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
            retry_for_s: Seconds to retry requests that did not reach the gateway.
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
            retry_for_s: Seconds to retry requests that did not reach the gateway.
            connections: Maximum number of requests in flight.
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
    """The database that records what campaigns have sent.

    Without this block, the journal is an SQLite file in Prefect's home. A container's files are lost when it stops.

    Example:
        Load a stored journal and send a campaign with it:
        ```python
        from prefect_mymsp import CampaignJournal
        from prefect_mymsp.flows import send_campaign

        journal = CampaignJournal.load("BLOCK_NAME")
        send_campaign("customers.csv", "Hello!", journal=journal)
        ```
    """

    _block_type_name: ClassVar[str | None] = "myMSP Campaign Journal"
    _block_type_slug: ClassVar[str | None] = "mymsp-campaign-journal"
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = "https://pypi.org/project/prefect-mymsp/"  # type: ignore[assignment]

    model_config = ConfigDict(hide_input_in_errors=True)

    url: SecretStr = Field(
        default=...,
        description="SQLAlchemy URL: postgresql://user:password@host/database, or sqlite:///path/to/journal.db.",
        min_length=1,
    )

    def get_journal(self) -> Journal:
        """Open the journal; use it as a context manager.

        Raises:
            ConfigurationError: The journal's URL cannot be used.
            JournalError: The journal cannot be opened.
        """
        from prefect_mymsp.journal import Journal

        return Journal(self.url.get_secret_value())


def journal_location(block: CampaignJournal | None = None) -> str | Path:
    """URL or path of a block's journal, or of the journal that the settings name. It may contain a password."""
    return block.url.get_secret_value() if block is not None else MyMSPSettings().journal_location()


@contextlib.contextmanager
def open_existing_journal(block: CampaignJournal | None = None) -> Iterator[Journal | None]:
    """Open a journal to read it; yields None, and creates nothing, if its SQLite file does not exist.

    Raises:
        ConfigurationError: The journal's URL cannot be used.
        JournalError: The journal cannot be opened.
    """
    from prefect_mymsp.database_urls import database_exists, parse_supported_url

    if not database_exists(parse_supported_url(journal_location(block), "The journal", allow_path=True)):
        yield None
        return
    with open_journal(block) as journal:
        yield journal


def open_journal(block: CampaignJournal | None = None) -> Journal:
    """Open the journal of a block, or the journal that the settings name.

    Raises:
        ConfigurationError: The journal's URL cannot be used.
        JournalError: The journal cannot be opened.
    """
    from prefect_mymsp.journal import Journal

    return Journal(journal_location(block))
