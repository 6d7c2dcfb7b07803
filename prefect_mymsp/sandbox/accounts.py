"""Accounts and settings of the sandbox; from JSON, every key and type is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import NonNegativeFloat, NonNegativeInt

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.sandbox.dialect import Dialect
from prefect_mymsp.sandbox.json_values import JSON_CONFIG, parse_json

DEFAULT_USER: Final = "demo"
DEFAULT_PASSWORD: Final = "demo-password"  # noqa: S105  a password for a machine without secrets

#: A phone number: country code and number, 8 to 15 digits, as in section 4.1.1.
MSISDN: Final = re.compile(r"[1-9][0-9]{7,14}", re.ASCII)


@dataclass(slots=True)
class Account:
    """One customer of the gateway.

    Attributes:
        user: Login name.
        password: Login password; never shown by the sandbox.
        originators: Registered originators; None accepts every originator.
        groups: Recipient groups by name; a short name is one more entry with the same members.
        credits: Credits left, one for each recipient; None is without limit.
        max_messages: SMS this account may send in all, counted by recipient; None is without limit.
        max_recipients: Recipients a single send may have; None is without limit.
        updates: Whether getMsgUpdates is activated.
    """

    __pydantic_config__ = JSON_CONFIG

    user: str = DEFAULT_USER
    password: str = field(default=DEFAULT_PASSWORD, repr=False)
    originators: tuple[str, ...] | None = ("Demo", "Acme")
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    credits: NonNegativeInt | None = None
    max_messages: NonNegativeInt | None = None
    max_recipients: NonNegativeInt | None = None
    updates: bool = True

    def __post_init__(self) -> None:
        if not self.user or not self.password:
            raise ConfigurationError("An account needs a user and a password that are not empty.")
        for name, members in self.groups.items():
            if not name or "," in name:
                raise ConfigurationError(f"A group's name is not empty and has no comma: {name!r}.")
            wrong = [member for member in members if not MSISDN.fullmatch(member)]
            if wrong:
                raise ConfigurationError(f"Group {name!r} has members that are no MSISDN: {wrong[:5]}.")

    def as_json(self) -> dict[str, Any]:
        """The account without its password."""
        return {
            "originators": None if self.originators is None else list(self.originators),
            "groups": {name: list(members) for name, members in self.groups.items()},
            "credits": self.credits,
            "max_messages": self.max_messages,
            "max_recipients": self.max_recipients,
            "updates": self.updates,
        }

    def changed(self, changes: object) -> Account:
        """This account with the keys of a JSON object put in their place.

        Raises:
            ConfigurationError: A key is unknown, or has a value of the wrong type.
        """
        changes = _changes(changes, f"Account {self.user!r}")
        if "user" in changes:
            raise ConfigurationError("The user of an account cannot be changed.")
        return parse_json(Account, {"user": self.user, "password": self.password, **self.as_json(), **changes})


def change_accounts(accounts: Mapping[str, Account], changes: object) -> dict[str, Account]:
    """Accounts with the keys of a JSON object put in their place: settings by user, null to remove an account."""
    changed = dict(accounts)
    for user, change in _changes(changes, "accounts").items():
        if change is None:
            changed.pop(user, None)
        else:
            changed[user] = changed.get(user, Account(user=user)).changed(change)
    if not changed:
        raise ConfigurationError("At least one account must remain.")
    return changed


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the gateway for all accounts.

    Attributes:
        sent_after_s: Simulated seconds from acceptance (or the delivery time) to sent; each recipient's own lies
            between half and one and a half times this.
        delivered_after_s: Simulated seconds from sent to delivered, spread likewise.
        archive_after_s: Age in simulated seconds at which a message is archived (323); None is never.
        latency_ms: Real milliseconds before every response under ``/external/``.
        zone: Of the local times in responses.
        dialect: Form of the responses.
    """

    __pydantic_config__ = JSON_CONFIG

    sent_after_s: NonNegativeFloat = 1.0
    delivered_after_s: NonNegativeFloat = 4.0
    archive_after_s: NonNegativeFloat | None = None
    latency_ms: NonNegativeFloat = 0.0
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("Europe/Stockholm"))
    dialect: Dialect = field(default_factory=Dialect)

    def as_json(self) -> dict[str, Any]:
        """The settings as ``GET /_sandbox/settings`` shows them."""
        return {
            "sent_after_s": self.sent_after_s,
            "delivered_after_s": self.delivered_after_s,
            "archive_after_s": self.archive_after_s,
            "latency_ms": self.latency_ms,
            "zone": self.zone.key,
            "dialect": {f.name: getattr(self.dialect, f.name) for f in fields(Dialect)},
        }

    def changed(self, changes: Mapping[str, object]) -> Settings:
        """These settings with the given keys put in their place; ``dialect`` may name only some of its own."""
        fields = self.as_json()
        if "dialect" in changes:
            changes = {**changes, "dialect": fields["dialect"] | _changes(changes["dialect"], "dialect")}
        return parse_json(Settings, fields | dict(changes))


def _changes(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{name} must be a JSON object, not {value!r}.")
    return value
