"""What a sender can ask for, as types that Prefect's forms can show. Plain values: they check nothing but themselves.

Their bounds are in the form's schema alone. What a value means is checked when the flow runs, where a wrong one is an
error of ours that says what to do.
"""

from __future__ import annotations

from datetime import datetime, time
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from prefect.blocks.system import Secret
from pydantic import BaseModel, ConfigDict, Field

from prefect_mymsp.client import DEFAULT_TIMEZONE, check_timezone
from prefect_mymsp.errors import InputError

if TYPE_CHECKING:
    from prefect_mymsp.campaign import TimeWindow


class Guard(StrEnum):
    """How a campaign without a delivery time is sent."""

    #: At once: a request whose answer is lost stays in doubt.
    NONE = "none"
    #: Scheduled a few minutes ahead: a request whose answer is lost can be looked up, and every message is sent once.
    SCHEDULE = "schedule"


class OnRejects(StrEnum):
    """What becomes of a campaign when some of its rows cannot be sent."""

    #: They are left out and reported, the others are sent.
    SKIP = "skip"
    #: Nothing is sent until they are mended.
    FAIL = "fail"


class Day(StrEnum):
    """A day of the week."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


_CLOCK: dict[str, Any] = {"pattern": r"^([01]?\d|2[0-3]):[0-5]\d$", "examples": ["08:00"]}


class SendWindow(BaseModel):
    """The hours in which people may get messages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    opens: str = Field(
        default="08:00", description="The first minute of it, by the clock on the wall.", json_schema_extra=_CLOCK
    )
    closes: str = Field(
        default="20:00",
        description="The minute after its last. Earlier than it opens means on the next day, the same around the "
        "clock.",
        json_schema_extra=_CLOCK,
    )
    timezone: str = Field(default=DEFAULT_TIMEZONE, description="The IANA zone of that clock.")
    days: list[Day] = Field(
        default=list(Day),
        description="The days of the week on which it opens.",
        json_schema_extra={"minItems": 1, "uniqueItems": True},
    )

    def window(self) -> TimeWindow:
        """The same to reckon with.

        Raises:
            InputError: A time is no time, no day is given, or the zone is not known.
        """
        from prefect_mymsp.campaign import TimeWindow

        numbers = {day: number for number, day in enumerate(Day)}
        return TimeWindow(
            opens=_clock("opens", self.opens),
            closes=_clock("closes", self.closes),
            zone=ZoneInfo(check_timezone(self.timezone).key),
            days=frozenset(numbers[day] for day in self.days),
        )


def _clock(name: str, given: str) -> time:
    try:
        return datetime.strptime(given.strip(), "%H:%M").time()  # noqa: DTZ007  a time of day, in the window's zone
    except ValueError:
        raise InputError(f"The send window {name} at {given!r}, which is no time of day; write 08:00.") from None


class Suppression(BaseModel):
    """Numbers that must get nothing: a file of them, a table of them, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = Field(
        default=None, description="Path or URL of a CSV file of numbers, written as people write them."
    )
    table: str | None = Field(
        default=None, description="A table of numbers in a database, if need be with its schema: marketing.opted_out."
    )
    column: str | None = Field(
        default=None,
        description="The column with the numbers, in the file and the table; the default is to find it by its name.",
    )
    database: Secret | None = Field(  # type: ignore[type-arg]  # with one it would be another block
        default=None, description="A Secret block that holds the SQLAlchemy URL of the table's database."
    )
