"""Faults between a request and its response, random or scripted."""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.sandbox.json_values import JSON_CONFIG, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The vendor's eight endpoints, as they stand in the URL after ``/external/``.
ENDPOINTS: Final = (
    "sendSms",
    "getSmsResult",
    "sendlater/get",
    "sendlater/getall",
    "sendlater/update",
    "sendlater/cancel",
    "getMsgReceived",
    "getMsgUpdates",
)

FaultKind = Literal[
    "none",
    "response_lost",
    "lost_before",
    "late",
    "error_before",
    "error_after",
    "rate_limited",
    "slow",
    "truncated",
    "cut_short",
    "html",
    "empty",
    "refuse",
]

#: The fields each kind takes besides ``kind``, ``endpoints``, ``probability`` and ``times``.
_OWN_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "none": frozenset(),
    "response_lost": frozenset(),
    "lost_before": frozenset(),
    "late": frozenset({"delay_s"}),
    "error_before": frozenset({"status"}),
    "error_after": frozenset({"status"}),
    "rate_limited": frozenset({"retry_after_s"}),
    "slow": frozenset({"delay_s"}),
    "truncated": frozenset({"keep_bytes"}),
    "cut_short": frozenset({"keep_bytes"}),
    "html": frozenset({"processed"}),
    "empty": frozenset({"processed"}),
    "refuse": frozenset({"code"}),
}
_NEVER_PROCESSED: Final = frozenset({"lost_before", "late", "error_before", "rate_limited", "refuse"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One way an exchange fails.

    Attributes:
        kind: ``none`` lets a request pass (for scripts); ``response_lost`` processes it and closes the connection
            without a byte; ``lost_before`` closes it with nothing processed; ``late`` closes it and processes the
            request ``delay_s`` of simulated time later; ``error_before``/``error_after`` return ``status`` before or
            after processing; ``rate_limited`` returns 429; ``slow`` processes, then responds ``delay_s`` real seconds
            later; ``truncated`` announces a longer body than it sends; ``cut_short`` shortens the body with a matching
            Content-Length; ``html`` and ``empty`` replace the response; ``refuse`` returns ``N`` and ``code``.
        endpoints: The endpoints it applies to.
        probability: Chance a request, for a random fault.
        times: Number of requests it still applies to, for a scripted fault.
        status: HTTP status of ``error_before`` and ``error_after``.
        retry_after_s: Value of the Retry-After header of ``rate_limited``; no header when None.
        delay_s: Seconds, for ``slow`` (real) and ``late`` (simulated).
        keep_bytes: Bytes left of a ``truncated`` or ``cut_short`` response. When None: half of it, but a ``cut_short``
            sendSms response keeps only its ``A``, as half an id would be a wrong id.
        processed: Whether ``html`` or ``empty`` comes after processing; when None, ``html`` before, ``empty`` after.
        code: Error code of ``refuse``.
    """

    __pydantic_config__ = JSON_CONFIG

    kind: FaultKind
    endpoints: tuple[str, ...] = ("sendSms",)
    probability: float | None = None
    times: int | None = None
    status: int = 503
    retry_after_s: int | None = None
    delay_s: float = 1.0
    keep_bytes: int | None = None
    processed: bool | None = None
    code: int = 13

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ConfigurationError(f"Unknown fault {self.kind!r}; there are {', '.join(get_args(FaultKind))}.")
        unknown = [name for name in self.endpoints if name not in ENDPOINTS]
        if unknown or not self.endpoints:
            raise ConfigurationError(f"Unknown endpoints {unknown}; there are {', '.join(ENDPOINTS)}.")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ConfigurationError(f"A probability lies between 0 and 1, not {self.probability}.")
        if self.times is not None and self.times < 1:
            raise ConfigurationError(f"times must be at least 1, not {self.times}.")
        if not 400 <= self.status <= 599:
            raise ConfigurationError(f"status must lie between 400 and 599, not {self.status}.")
        if not (math.isfinite(self.delay_s) and self.delay_s >= 0):
            raise ConfigurationError(f"delay_s must be at least 0, not {self.delay_s}.")
        for name in ("retry_after_s", "keep_bytes", "code"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigurationError(f"{name} must be at least 0, not {value}.")

    @property
    def processes(self) -> bool:
        """Whether the gateway acts on the request at once."""
        if self.kind in _NEVER_PROCESSED:
            return False
        return self.kind != "html" if self.processed is None else self.processed

    def as_json(self) -> dict[str, Any]:
        """The fault as ``GET /_sandbox/faults`` shows it: only the fields its kind has."""
        shown: dict[str, Any] = {"kind": self.kind, "endpoints": list(self.endpoints)}
        for name in ("probability", "times"):
            if getattr(self, name) is not None:
                shown[name] = getattr(self, name)
        shown.update({name: getattr(self, name) for name in sorted(_OWN_FIELDS[self.kind])})
        if "processed" in shown:
            shown["processed"] = self.processes
        return shown

    @classmethod
    def from_json(cls, value: object) -> Fault:
        """A fault from its JSON object.

        Raises:
            ConfigurationError: A key is unknown, does not belong to the kind, or has a value of the wrong type.
        """
        if not isinstance(value, dict):
            raise ConfigurationError(f"A fault is a JSON object, not {value!r}.")
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in _OWN_FIELDS:
            raise ConfigurationError(f"Unknown fault {kind!r}; there are {', '.join(_OWN_FIELDS)}.")
        allowed = {"kind", "endpoints", "probability", "times"} | _OWN_FIELDS[kind]
        unknown = sorted(set(value) - allowed)
        if unknown:
            raise ConfigurationError(f"Fault {kind!r} takes {', '.join(sorted(allowed))}, not {', '.join(unknown)}.")
        endpoints = value.get("endpoints", ["sendSms"])
        return parse_json(cls, value | {"endpoints": list(ENDPOINTS) if endpoints == "all" else endpoints})


class FaultPlan:
    """The faults of the next requests: scripted faults first, in order, then random ones.

    Random faults draw one number a request from a generator seeded with ``seed``, so requests in the same order meet
    the same faults. Threads may share a plan.

    Args:
        seed: Of the generator.
        random: Faults by probability; those of one endpoint share the draw and may not exceed 1 together.
        scripted: Faults for the next ``times`` (default 1) requests to their endpoints.
    """

    def __init__(self, *, seed: int = 0, random: Sequence[Fault] = (), scripted: Sequence[Fault] = ()) -> None:
        self._lock = threading.RLock()
        self.seed = seed
        self.random = list(random)
        self._script: list[Fault] = []
        self._struck: Counter[int] = Counter()
        self._restart()
        self.replace(scripted=scripted)

    def replace(
        self,
        *,
        seed: int | None = None,
        random: Sequence[Fault] | None = None,
        scripted: Sequence[Fault] | None = None,
    ) -> None:
        """Put new faults in place; what is not given stays.

        A new seed or new random faults start the generator again from the seed.

        Raises:
            ConfigurationError: The faults do not fit together; nothing has changed.
        """
        with self._lock:
            chosen = self.random if random is None else list(random)
            script = self.remaining() if scripted is None else list(scripted)
            _check_plan(chosen, script)
            self.seed = self.seed if seed is None else seed
            self.random, self._script = chosen, script
            self._struck.clear()
            if seed is not None or random is not None:
                self._restart()

    def _restart(self) -> None:
        # A repeatable draw is the point; nothing secret hangs on it.
        self._generator = Random(self.seed)  # noqa: S311

    def remaining(self) -> list[Fault]:
        """Scripted faults that still apply, with the number of requests left."""
        return [
            replace(f, times=remaining)
            for i, f in enumerate(self._script)
            if (remaining := (f.times or 1) - self._struck[i]) > 0
        ]

    def draw(self, endpoint: str) -> Fault | None:
        """The fault the next request to ``endpoint`` meets; None when it passes."""
        with self._lock:
            fault = self._draw(endpoint)
        return None if fault is None or fault.kind == "none" else fault

    def _draw(self, endpoint: str) -> Fault | None:
        for i, fault in enumerate(self._script):
            if endpoint in fault.endpoints and self._struck[i] < (fault.times or 1):
                self._struck[i] += 1
                return fault
        candidates = [f for f in self.random if endpoint in f.endpoints]
        if not candidates:
            return None
        point = self._generator.random()
        for fault in candidates:
            point -= fault.probability or 0.0
            if point < 0:
                return fault
        return None

    def as_json(self) -> dict[str, Any]:
        """The plan as ``GET /_sandbox/faults`` shows it."""
        return {
            "seed": self.seed,
            "random": [f.as_json() for f in self.random],
            "scripted": [f.as_json() for f in self.remaining()],
        }


def _check_plan(chosen: Sequence[Fault], script: Sequence[Fault]) -> None:
    if any(f.probability is None or f.times is not None for f in chosen):
        raise ConfigurationError("A random fault has a probability and no times.")
    if any(f.probability is not None for f in script):
        raise ConfigurationError("A scripted fault has times and no probability.")
    for endpoint in ENDPOINTS:
        total = math.fsum(f.probability or 0.0 for f in chosen if endpoint in f.endpoints)
        if total > 1 + 1e-9:
            raise ConfigurationError(f"The probabilities for {endpoint} add up to {total:g}, more than 1.")
