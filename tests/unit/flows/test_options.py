"""The options of a campaign as types: what a form shows of them, and what a wrong one is told."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.utilities.callables import parameter_schema, parameter_schema_from_entrypoint

from prefect_mymsp import flows
from prefect_mymsp.campaign import TimeWindow
from prefect_mymsp.errors import ConfigurationError, InputError
from prefect_mymsp.flows import Day, SendWindow, send_campaign

FLOWS: list[Any] = [value for value in vars(flows).values() if isinstance(value, Flow)]


def has_form(schema: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Whether a form can show more than a box for JSON: a type, a choice of types, or a definition of one."""
    if "$ref" in schema:
        return has_form(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return all(has_form(each, definitions) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return has_form(schema["items"], definitions)
    return "type" in schema


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: str(flow.name))
def test_every_parameter_of_a_flow_has_a_place_in_the_deployment_form(flow: Any) -> None:
    schema = parameter_schema(flow)
    assert schema.properties
    for name, shown in schema.properties.items():
        assert shown["title"] == name
        assert shown.get("description", "").endswith("."), name
        assert has_form(shown, schema.definitions), name
    # A deployment by its dotted name reads the source instead; the form must be the same.
    assert parameter_schema_from_entrypoint(f"{flow.fn.__module__}.{flow.fn.__name__}") == schema


def test_the_models_within_have_their_places_too() -> None:
    definitions = parameter_schema(send_campaign).definitions
    assert {"SendWindow", "Suppression", "Guard", "OnRejects", "Day", "CampaignJournal"} <= set(definitions)
    assert definitions["MyMSPCredentials"]["block_type_slug"] == "mymsp-credentials"
    assert definitions["Secret"]["block_type_slug"] == "secret"
    for model in ("SendWindow", "Suppression"):
        assert definitions[model]["description"].endswith(".")
        assert definitions[model].get("required", []) == []  # each has a default
        for name, shown in definitions[model]["properties"].items():
            assert shown["description"].endswith("."), name
            assert has_form(shown, definitions), name
    for name in ("Guard", "OnRejects", "Day"):
        assert len(definitions[name]["enum"]) > 1


def test_only_what_must_be_given_is_required() -> None:
    schema = parameter_schema(send_campaign)
    assert schema.required == ["source", "credentials", "message"]
    assert all("default" in shown for name, shown in schema.properties.items() if name not in schema.required)


def test_the_documentation_names_each_option_and_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "campaign-options.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (?:`(.+?)`)? ?\|", page.partition("\nExamples")[0], re.MULTILINE))
    options = inspect.signature(send_campaign.fn).parameters
    assert list(told) == list(options)
    for name, option in options.items():
        default = option.default
        shown = json.dumps(default) if isinstance(default, str) else repr(default)
        assert told[name] == ("" if default is option.empty else shown)


def test_a_send_window() -> None:
    usual = SendWindow().window()
    assert str(usual) == "08:00 to 20:00 Europe/Stockholm"
    weekdays = SendWindow(opens="9:30", closes="00:00", timezone="UTC", days=[Day.FRIDAY, Day.MONDAY])
    assert isinstance(weekdays.window(), TimeWindow)
    assert str(weekdays.window()) == "09:30 to 00:00 UTC, Mon Fri"


@pytest.mark.parametrize("given", ["", "8", "24:00", "08:60", "08:00:00", "eight", "-1:00", "08.00"])
def test_a_time_that_is_none(given: str) -> None:
    with pytest.raises(InputError, match=r"window opens.*no time of day; write 08:00"):
        SendWindow(opens=given).window()
    with pytest.raises(InputError, match="window closes"):
        SendWindow(closes=given).window()


def test_a_zone_or_days_that_are_none() -> None:
    with pytest.raises(ConfigurationError, match="no time zone 'Sweden'"):
        SendWindow(timezone="Sweden").window()
    with pytest.raises(InputError, match="days on which it opens"):
        SendWindow(days=[]).window()
