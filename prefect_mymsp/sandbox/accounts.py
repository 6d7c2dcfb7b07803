"""What the sandbox can be told: accounts, delivery times, dialect; read from JSON with every key and type checked."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.sandbox.dialect import CHOICES, Dialect

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_USER: Final = "demo"
DEFAULT_PASSWORD: Final = "demo-password"  # noqa: S105  a password for a machine without secrets

#: What the sandbox takes for a phone number: country code and number, 8 to 15 digits, as in section 4.1.1.
MSISDN: Final = re.compile(r"[1-9][0-9]{7,14}", re.ASCII)


@dataclass(slots=True)
class Account:
    """One customer of the gateway.

    Attributes:
        user: Login name.
        password: Login password; never shown by the sandbox.
        originators: Registered originator texts; None lets every originator pass.
        groups: Recipient groups by name; a short name is one more entry with the same members.
        credits: What is left, one credit a recipient; None is without limit.
        max_messages: SMS this account may have sent in all, counted by recipient; None is without limit.
        max_recipients: Recipients a single send may have; None is without limit.
        updates: Whether getMsgUpdates is activated.
    """

    user: str = DEFAULT_USER
    password: str = field(default=DEFAULT_PASSWORD, repr=False)
    originators: tuple[str, ...] | None = ("Demo", "Acme")
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    credits: int | None = None
    max_messages: int | None = None
    max_recipients: int | None = None
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

    def changed(self, value: object) -> Account:
        """This account with the keys of a JSON object put in their place."""
        given = _object(value, "An account", {"password", *self.as_json()})
        changes: dict[str, Any] = {}
        for name, item in given.items():
            if name == "originators":
                changes[name] = None if item is None else _texts(item, name)
            elif name == "groups":
                changes[name] = {group: _texts(members, group) for group, members in _object(item, name).items()}
            elif name == "password":
                changes[name] = _text(item, name)
            elif name == "updates":
                changes[name] = _flag(item, name)
            else:
                changes[name] = None if item is None else _count(item, name)
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the gateway behaves towards every account.

    Attributes:
        sent_after_s: Simulated seconds from acceptance (or the delivery time) to sent; each recipient's own lies
            between half and one and a half times this.
        delivered_after_s: Simulated seconds from sent to delivered, spread likewise.
        archive_after_s: Age in simulated seconds at which a message is archived (323); None is never.
        latency_ms: Real milliseconds every answer under ``/external/`` waits.
        zone: Of the local times in answers.
        dialect: Form of the answers.
    """

    sent_after_s: float = 1.0
    delivered_after_s: float = 4.0
    archive_after_s: float | None = None
    latency_ms: float = 0.0
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

    def changed(self, given: Mapping[str, object]) -> Settings:
        """These settings with the given keys put in their place; ``dialect`` may name only some of its own."""
        changes: dict[str, Any] = {}
        for name, item in given.items():
            if name == "zone":
                changes[name] = _zone(item)
            elif name == "dialect":
                changes[name] = _dialect(self.dialect, item)
            elif name == "archive_after_s" and item is None:
                changes[name] = None
            else:
                changes[name] = _seconds(item, name)
        return replace(self, **changes)


def _dialect(dialect: Dialect, value: object) -> Dialect:
    given = _object(value, "dialect", CHOICES)
    for name, item in given.items():
        # Compared with its type: JSON's true is not 1, and 16.0 is not a number of characters.
        if not any(item == choice and type(item) is type(choice) for choice in CHOICES[name]):
            raise ConfigurationError(f"dialect.{name} is one of {', '.join(map(str, CHOICES[name]))}, not {item!r}.")
    return replace(dialect, **given)


def _zone(value: object) -> ZoneInfo:
    name = _text(value, "zone")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(f"Unknown time zone {value!r}.") from error


def _object(value: object, name: str, keys: Mapping[str, object] | set[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{name} must be a JSON object, not {value!r}.")
    if keys is not None and (unknown := sorted(set(value) - set(keys))):
        raise ConfigurationError(f"{name}: unknown {', '.join(unknown)}; there are {', '.join(sorted(keys))}.")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a text, not {value!r}.")
    return value


def _texts(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigurationError(f"{name} must be a list of texts, not {value!r}.")
    return tuple(_text(item, name) for item in value)


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be true or false, not {value!r}.")
    return value


def _count(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigurationError(f"{name} must be a whole number of at least 0, not {value!r}.")
    return value


def _seconds(value: object, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ConfigurationError(f"{name} must be a number of at least 0, not {value!r}.")
    return float(value)
