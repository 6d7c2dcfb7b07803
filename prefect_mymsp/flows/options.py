"""Groups of campaign options, as Prefect's run form shows them.

Bounds stand in the form's schema alone. Values are checked when the request is built, where a wrong value is an error
of this package with a remedy. Field names are unique across all groups, so an error can name a field by itself.
"""

from __future__ import annotations

from datetime import datetime, time
from typing import TYPE_CHECKING, Any, Literal, get_args
from zoneinfo import ZoneInfo

from prefect.blocks.system import Secret
from pydantic import ConfigDict, Field

from prefect_mymsp.client import DEFAULT_TIMEZONE, check_timezone
from prefect_mymsp.errors import InputError
from prefect_mymsp.flows.form import Group, blank
from prefect_mymsp.flows.parameters import Database

if TYPE_CHECKING:
    from prefect_mymsp.campaign import TimeWindow

#: A day of the week.
Day = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_DAYS: tuple[Day, ...] = get_args(Day)
_TIME_OF_DAY: dict[str, Any] = {"pattern": r"^([01]?\d|2[0-3]):[0-5]\d$", "examples": ["08:00"]}


class SendWindow(Group):
    """Hours in which recipients may get messages. Outside them, messages wait for the next opening."""

    model_config = ConfigDict(title="Only within hours")

    opens: str = Field(default="08:00", description="Opening time, local (HH:MM).", json_schema_extra=_TIME_OF_DAY)
    closes: str = Field(
        default="20:00",
        description="Closing time, local (HH:MM). Earlier than “opens” means the next day.",
        json_schema_extra=_TIME_OF_DAY,
    )
    days: list[Day] = Field(
        default=list(_DAYS),
        description="Days on which the window opens.",
        json_schema_extra={"minItems": 1, "uniqueItems": True},
    )
    timezone: str = Field(default=DEFAULT_TIMEZONE, description="IANA time zone of these hours.")

    def time_window(self) -> TimeWindow:
        """The same hours as the campaign engine takes them.

        Raises:
            InputError: A time is not valid, no day is given, or the time zone is unknown.
        """
        from prefect_mymsp.campaign import TimeWindow

        return TimeWindow(
            opens=_time_of_day("opens", self.opens),
            closes=_time_of_day("closes", self.closes),
            zone=ZoneInfo(check_timezone(self.timezone).key),
            days=frozenset(_DAYS.index(day) for day in self.days),
        )


def _time_of_day(field: str, value: str) -> time:
    try:
        return datetime.strptime(value.strip(), "%H:%M").time()  # noqa: DTZ007  a time of day, in the window's zone
    except ValueError:
        raise InputError(f"send_window: {field} is {value!r}, which is not a time of day. Write 08:00.") from None


class Audience(Group):
    """The recipients besides the file itself: its phone column, the numbers' country, recipient groups."""

    model_config = ConfigDict(title="Set up")

    phone_column: str | None = blank("Column with the phone numbers. Left empty, it is found by its name.")
    country: str = Field(default="SE", description="Country of numbers without a country code (ISO 3166).")
    groups: list[str] = Field(
        default=[], description="Recipient groups stored at the gateway that get the message too."
    )


class Suppression(Group):
    """Numbers that must not receive the message."""

    model_config = ConfigDict(title="Add a list")

    file: str | None = blank("CSV file of numbers to leave out, as a path or URL.")
    table: str | None = blank("Database table of numbers to leave out, such as marketing.opted_out.")
    database: Database = Field(default=None, description="Secret block that holds the table's SQLAlchemy URL.")
    column: str | None = blank("Column with the numbers. Left empty, it is found by its name.")
    opt_outs: bool = Field(default=True, description="Leave out recipients who replied STOP.")


class Safeguards(Group):
    """Conditions under which nothing is sent."""

    model_config = ConfigDict(title="Adjust")

    max_recipients: int | None = blank("Maximum number of recipients.", "integer", minimum=1)
    max_segments: int | None = blank("Maximum number of SMS segments of one message.", "integer", minimum=1)
    max_rejected: float | None = blank(
        "Maximum share of rejected rows: 0 allows none, 0.05 one in twenty.",
        "number",
        minimum=0,
        maximum=1,
    )
    max_late_minutes: float = Field(
        default=120.0, description="Maximum delay of a scheduled run's start.", json_schema_extra={"minimum": 0}
    )
    all_or_nothing: bool = Field(
        default=False, description="Cancel a scheduled campaign unless the gateway accepts all of it."
    )
    allow_changed_text: bool = Field(
        default=False, description="Send a changed text to recipients of the campaign's old text."
    )
    allow_repeat_today: bool = Field(
        default=False, description="Send a text again that another campaign sent to the same recipients today."
    )


class Speed(Group):
    """How fast messages leave."""

    model_config = ConfigDict(title="Limit")

    messages_per_minute: float | None = blank(
        "Maximum number of messages per minute of this run.", "number", exclusiveMinimum=0
    )
    concurrency_limit: str | None = blank("Prefect global concurrency limit with slot decay, shared by all runs.")
    workers: int = Field(
        default=1,
        description="Tasks that send side by side. More than one needs a PostgreSQL journal.",
        json_schema_extra={"minimum": 1},
    )
    batch_size: int = Field(
        default=500,
        description="Maximum number of recipients in one request.",
        json_schema_extra={"minimum": 1, "maximum": 500},
    )


class Advanced(Group):
    """Details that rarely matter."""

    model_config = ConfigDict(title="Change")

    flash: bool = Field(default=False, description="Show the message at once instead of storing it on the phone.")
    destination_port: int | None = blank(
        "Port on the phone, for messages to an app.", "integer", minimum=1, maximum=65535
    )
    lead_minutes: float = Field(
        default=5.0,
        description="With “exactly once”: minutes that messages wait at the gateway.",
        json_schema_extra={"exclusiveMinimum": 0},
    )
    quiet_minutes: float = Field(
        default=15.0,
        description="Stop tracking after this many minutes without a change.",
        json_schema_extra={"minimum": 0},
    )
    use_updates: bool = Field(
        default=False,
        description="Also read the account's update queue. This removes the updates, so other systems "
        "cannot read them.",
    )
    approval_hours: float = Field(
        default=24.0,
        description="Hours to wait for approval. After that, nothing is sent.",
        json_schema_extra={"exclusiveMinimum": 0},
    )


class Table(Group):
    """A database table that receives the rows of an export, each once."""

    model_config = ConfigDict(title="Add rows to a table")

    name: str = Field(description="Name of the table, with its schema where there is one, such as marketing.sms.")
    database: Secret = Field(  # type: ignore[type-arg]  # with one it is another block
        description="Secret block that holds the database's SQLAlchemy URL (SQLite or PostgreSQL)."
    )
    include_pending: bool = Field(
        default=False, description="Also add messages whose outcome may still change, and update their rows later."
    )
