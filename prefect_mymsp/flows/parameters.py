"""Parameters that several flows share: the gateway account, the journal, a database behind a Secret block."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

import httpx
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL
from pydantic import ValidationError, WithJsonSchema

from prefect_mymsp.blocks import CampaignJournal, MyMSPCredentials
from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.flows.form import Choice, label

B = TypeVar("B", bound=Block)

# What Prefect allows as the name of a block. A URL with a password in it does not match: Prefect refuses it by the
# schema before it stores the parameters of a deployment or of its runs.
_BLOCK_NAME = r"^[a-z0-9-]+$"

BlockName = Annotated[str, WithJsonSchema({"type": "string", "title": "By name", "pattern": _BLOCK_NAME})]

#: The name of a campaign.
CampaignName = Annotated[str, label("Campaign")]
#: A credentials block, or the name of a saved one.
Credentials = Annotated[MyMSPCredentials | BlockName, label("Credentials")]

# Journals and databases are given as blocks only. Prefect stores the parameters of a plain Python call before anything
# can refuse them, and a parameter that takes text invites a URL with its password.
#: A journal block; None for the journal that the settings name.
Journal = Annotated[CampaignJournal | None, Choice("", "From settings"), label("Journal")]
#: A Secret block that holds an SQLAlchemy URL; None for no database.
Database = Annotated[Secret | None, Choice("", "No database")]  # type: ignore[type-arg]  # with one it is another block


def load_credentials(credentials: MyMSPCredentials | str) -> MyMSPCredentials:
    """The credentials block itself, loaded if only its name was given.

    Args:
        credentials: The block, or the name of a saved one.

    Raises:
        ConfigurationError: There is no block of that name, or it cannot be loaded.
    """
    return credentials if isinstance(credentials, MyMSPCredentials) else load_block(MyMSPCredentials, credentials)


def load_block(kind: type[B], name: str) -> B:
    """A saved block.

    Args:
        kind: The type of the block.
        name: Its name.

    Raises:
        ConfigurationError: There is no block of that name, or it cannot be loaded. The message does not repeat a name
            that no block can have: it may be a password in the wrong place.
    """
    slug = kind.get_block_type_slug()
    if not re.match(_BLOCK_NAME, name):
        raise ConfigurationError(
            f"The name of the {slug} block is not valid. A name consists of lowercase letters, digits and dashes."
        )
    try:
        block = kind.load(name)
    except ValidationError as error:
        fields = ", ".join(sorted({str(part["loc"][0]) for part in error.errors() if part["loc"]}))
        raise ConfigurationError(
            f"The block {slug}/{name} holds values that are not valid ({fields}). Save it again."
        ) from None
    except ValueError:
        raise ConfigurationError(
            f"There is no {slug} block named {name!r}. Save one under that name, in Prefect's UI or from Python."
        ) from None
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"The block {slug}/{name} cannot be loaded: Prefect's API at {PREFECT_API_URL.value()} cannot be reached "
            f"({type(error).__name__}). Start the server with prefect server start, or correct PREFECT_API_URL."
        ) from None
    assert isinstance(block, kind)  # noqa: S101  outside an event loop load() returns the block
    return block
