"""Calls in other processes. Not in conftest.py: several modules have that name, and a process could not import it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def call_at(moment: float, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function at a time of the wall clock, so that two processes begin together."""
    time.sleep(max(0.0, moment - time.time()))
    return function(*arguments)
