"""A campaign's parameters become a checked request, or an error that names the parameter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_mymsp.errors import InputError, MyMSPError, SourceError, TemplateError
from prefect_mymsp.flows import Advanced, Audience, Safeguards, SendWindow, Speed, Suppression, send_dataframe
from prefect_mymsp.flows.campaign_request import CampaignRequest, build_request

NOW = datetime(2026, 3, 2, 12, 0, 30, tzinfo=UTC)
SCHEDULED = datetime(2026, 3, 2, 23, 30, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "spring sale.csv"
    path.write_text("phone\n0701740605\n")
    return path


def test_without_options_everything_has_its_default(file: Path) -> None:
    request = build_request(file, "Hello!", now=NOW)
    assert (request.audience, request.suppression, request.safeguards) == (Audience(), Suppression(), Safeguards())
    assert (request.workers, request.concurrency_limit, request.approval_timeout_s) == (1, None, None)
    assert request.send_options.schedule_ahead_s is None
    assert request.send_options.send_window is None
    assert request.follow_options is not None
    assert (request.follow_options.deadline_s, request.follow_options.quiet_s) == (3600, 900)


def test_empty_groups_are_the_same_as_none(file: Path) -> None:
    groups: dict[str, Any] = {
        "audience": Audience(),
        "suppression": Suppression(),
        "safeguards": Safeguards(),
        "speed": Speed(),
        "advanced": Advanced(),
    }
    assert build_request(file, "Hello!", now=NOW, **groups) == build_request(file, "Hello!", now=NOW)


def test_every_option_reaches_the_engine(file: Path) -> None:
    request = build_request(
        file,
        "Hello!",
        campaign="  spring ",
        sender="Acme",
        send_window=SendWindow(timezone="UTC"),
        exactly_once=True,
        transliterate=True,
        approval=True,
        wait_minutes=30,
        audience=Audience(phone_column="phone", country="NO", groups=["staff", " staff ", "board"]),
        safeguards=Safeguards(max_segments=2, max_rejected=0.1, max_late_minutes=5, all_or_nothing=True),
        speed=Speed(messages_per_minute=600, concurrency_limit="sms", workers=4, batch_size=20),
        advanced=Advanced(
            flash=True, destination_port=99, lead_minutes=10, quiet_minutes=2, use_updates=True, approval_hours=0.5
        ),
        tracking_days=3,
        now=NOW,
    )
    assert (request.campaign, request.sender, request.transliterate) == ("spring", "Acme", True)
    assert (request.audience.phone_column, request.audience.country) == ("phone", "NO")
    assert request.groups == ("staff", "board")
    assert (request.limits.max_segments, request.limits.max_recipients, request.limits.max_rejected) == (2, None, 0.1)
    options = request.send_options
    assert (options.batch_size, options.flash, options.destination_port, options.schedule_ahead_s) == (
        20,
        True,
        99,
        600,
    )
    assert str(options.send_window) == "08:00 to 20:00 UTC"
    assert (request.workers, options.messages_per_minute, options.worker_rate) == (4, 600, 150)
    assert (request.concurrency_limit, request.approval_timeout_s) == ("sms", 1800)
    follow = request.follow_options
    assert follow is not None
    assert (follow.deadline_s, follow.quiet_s, follow.use_updates, follow.tracking_days) == (1800, 120, True, 3)


def test_wait_minutes_of_zero_follows_nothing(file: Path) -> None:
    assert build_request(file, "Hello!", wait_minutes=0).follow_options is None


@pytest.mark.parametrize(("seconds", "minute"), [(1, 1), (30, 1), (31, 2), (90, 2)])
def test_a_delivery_time_is_rounded_up_to_a_whole_minute(file: Path, seconds: int, minute: int) -> None:
    request = build_request(file, "Hello!", send_at=NOW + timedelta(seconds=seconds), now=NOW)
    assert request.send_at == NOW.replace(second=0) + timedelta(minutes=minute)


SECRET: Any = Secret(value=SecretStr("sqlite:///people.db"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"send_at": NOW.replace(tzinfo=None)}, "send_at has no time zone"),
        ({"send_at": NOW}, "send_at is not in the future"),
        ({"send_at": datetime.max.replace(tzinfo=UTC)}, "send_at is out of range"),
        ({"send_at": NOW + timedelta(hours=12), "send_window": SendWindow()}, "send_at lies outside the send window"),
        ({"send_window": SendWindow(days=[])}, "days"),
        ({"wait_minutes": -1}, "wait_minutes must not be below zero"),
        ({"wait_minutes": float("nan")}, "wait_minutes must not be below zero"),
        ({"audience": Audience(groups=[" "])}, "group is empty"),
        ({"audience": Audience(groups=["a"]), "safeguards": Safeguards(max_recipients=2)}, "max_recipients cannot be"),
        ({"safeguards": Safeguards(all_or_nothing=True)}, "all_or_nothing needs scheduled messages"),
        ({"safeguards": Safeguards(max_late_minutes=-1)}, "max_late_minutes must not be below zero"),
        ({"safeguards": Safeguards(max_recipients=0)}, "max_recipients must be at least 1"),
        ({"safeguards": Safeguards(max_segments=0)}, "max_segments must be at least 1"),
        ({"safeguards": Safeguards(max_rejected=1.5)}, "max_rejected is a share"),
        ({"suppression": Suppression(table="gone")}, "table and database belong together"),
        ({"suppression": Suppression(database=SECRET)}, "table and database belong together"),
        ({"suppression": Suppression(column="phone")}, "column needs a file or a table"),
        ({"speed": Speed(messages_per_minute=0)}, "messages_per_minute must be above zero"),
        ({"speed": Speed(workers=0)}, "workers must be at least 1"),
        ({"speed": Speed(batch_size=0)}, "batch_size must be above zero"),
        ({"advanced": Advanced(destination_port=70_000)}, "port"),
        ({"advanced": Advanced(lead_minutes=1), "exactly_once": True}, "lead_minutes must be at least 1.5"),
        ({"advanced": Advanced(quiet_minutes=-1)}, "quiet_minutes must not be below zero"),
        ({"advanced": Advanced(approval_hours=0)}, "approval_hours must be above zero"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_option_is_named(file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_request(file, "Hello!", now=NOW, **options)


def test_a_message_or_a_file_that_cannot_be_used_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No recipients\. Set recipients or groups"):
        build_request(None, "Hello!")
    with pytest.raises(TemplateError):
        build_request(file, "Hello {name")
    with pytest.raises(SourceError, match=r"gone\.csv: there is no such file"):
        build_request(tmp_path / "gone.csv", "Hello!")
    with pytest.raises(SourceError, match="this is a directory"):
        build_request(str(tmp_path), "Hello!")
    with pytest.raises(SourceError, match=r"do-not-call\.csv: there is no such file"):
        build_request(file, "Hello!", suppression=Suppression(file=str(tmp_path / "do-not-call.csv")))
    assert build_request("https://files.example.com/people.csv", "Hello!").recipients  # not opened yet


def named(request: CampaignRequest) -> str:
    return request.named("Europe/Stockholm", SCHEDULED).campaign


def test_a_campaign_without_a_name_is_named_after_its_recipients_and_its_day(file: Path) -> None:
    # Half past eleven in UTC is the next day in Stockholm.
    assert named(build_request(file, "Hello!")) == "spring sale 2026-03-03"
    assert named(build_request("https://files.example.com/a/people.csv?key=1", "Hello!")) == "people 2026-03-03"
    groups = Audience(groups=["staff", "board"])
    assert named(build_request(None, "Hello!", audience=groups)) == "staff board 2026-03-03"
    assert named(build_request(file, "Hello!", campaign="spring")) == "spring"
    frames = [pd.DataFrame({"phone": [number]}) for number in ("0701740605", "0701740605", "0701740606")]
    names = [named(build_request(frame, "Hello!")) for frame in frames]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("dataframe ")


@pytest.mark.parametrize(
    "options",
    [
        {"message": "Hello {name"},
        {"wait_minutes": -1},
        {"safeguards": Safeguards(max_recipients=0)},
        {"send_at": NOW},
    ],
)
def test_send_dataframe_refuses_a_wrong_option_before_prefect_starts(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "false")  # a flow run would fail in another way
    with pytest.raises(MyMSPError):
        send_dataframe(pd.DataFrame({"phone": ["0701740605"]}), **{"message": "Hello!", **options})
