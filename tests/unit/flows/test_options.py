"""The parameters of ``send_campaign`` as Prefect's form gets them, and as Python checks them."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.utilities.callables import parameter_schema, parameter_schema_from_entrypoint
from pydantic import BaseModel, ValidationError

from prefect_mymsp import flows
from prefect_mymsp.campaign import TimeWindow
from prefect_mymsp.errors import ConfigurationError, InputError
from prefect_mymsp.flows import (
    Advanced,
    Audience,
    Safeguards,
    SendWindow,
    Speed,
    Suppression,
    send_campaign,
    send_dataframe,
)

ROOT = Path(__file__).parents[3]
#: What the form of ``send_campaign`` is made from; see :func:`send_campaign_form`.
FORM = ROOT / "tests" / "data" / "forms" / "send-campaign.json"
FLOWS: list[Any] = [value for value in vars(flows).values() if isinstance(value, Flow)]
GROUPS: list[type[BaseModel]] = [SendWindow, Audience, Suppression, Safeguards, Speed, Advanced]


def has_form(schema: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Whether the form has more for this schema than an editor of JSON: a type, a choice of types, or a definition."""
    if "$ref" in schema:
        return has_form(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return all(has_form(side, definitions) for side in schema["anyOf"])
    if schema.get("type") == "array":
        return has_form(schema["items"], definitions)
    return "type" in schema


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: str(flow.name))
def test_every_parameter_has_a_field_in_the_deployment_form(flow: Any) -> None:
    schema = parameter_schema(flow)
    assert schema.properties
    for name, field in schema.properties.items():
        assert field["title"].replace("-", " ") == name.replace("_", " ").capitalize()
        assert field.get("description", "").endswith("."), name
        assert has_form(field, schema.definitions), name
    # A deployment by dotted name gets its schema from the source; the form must be the same.
    assert parameter_schema_from_entrypoint(f"{flow.fn.__module__}.{flow.fn.__name__}") == schema


def send_campaign_form() -> str:
    """The schema of the form without the blocks, whose definitions are Prefect's."""
    schema = parameter_schema(send_campaign)
    definitions = {name: found for name, found in schema.definitions.items() if "block_type_slug" not in found}
    form = {"properties": schema.properties, "required": schema.required, "definitions": definitions}
    return json.dumps(form, indent=2, ensure_ascii=False) + "\n"


def test_the_form_of_send_campaign_is_the_one_that_was_looked_at() -> None:
    # After a change on purpose: look at the form in Prefect's UI, then run python -m tests.unit.flows.test_options.
    assert send_campaign_form() == FORM.read_text(encoding="utf-8")


def test_block_parameters_offer_their_blocks() -> None:
    definitions = parameter_schema(send_campaign).definitions
    slugs = {name: found["block_type_slug"] for name, found in definitions.items() if "block_type_slug" in found}
    assert slugs == {
        "CampaignJournal": "mymsp-campaign-journal",
        "MyMSPCredentials": "mymsp-credentials",
        "Secret": "secret",
    }


def test_only_the_credentials_take_text_in_place_of_a_block() -> None:
    # Prefect stores the parameters of a Python call before anything can refuse them: no URL with a password may fit.
    schema = parameter_schema(send_campaign)
    (by_name,) = (side for side in schema.properties["credentials"]["anyOf"] if "$ref" not in side)
    for name, allowed in (("default", True), ("my-account-2", True), ("postgresql://u:p@h/d", False), ("Ä", False)):
        assert (re.search(by_name["pattern"], name) is not None) is allowed
    for field in (
        schema.properties["journal"],
        schema.definitions["Suppression"]["properties"]["database"],
    ):
        assert [side.get("type", "block") for side in field["anyOf"]] == ["block", "null"]


def test_field_names_are_unique_across_parameters_and_groups() -> None:
    names = [*inspect.signature(send_campaign.fn).parameters]
    for group in GROUPS:
        names += group.model_fields
    assert len(names) == len(set(names))


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_groups_refuse_unknown_options_and_never_change(group: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        group.model_validate({"max_recipient": 5})
    with pytest.raises(ValidationError, match="frozen"):
        setattr(group(), next(iter(group.model_fields)), "other")


def test_send_dataframe_takes_the_parameters_of_send_campaign() -> None:
    of_flow = inspect.signature(send_campaign.fn, eval_str=True).parameters
    of_function = inspect.signature(send_dataframe).parameters
    assert list(of_function) == ["df", *list(of_flow)[1:]]
    assert [p.default for p in of_function.values()] == [p.default for p in of_flow.values()]
    # The annotations name the same types; those of the flow say besides how the form shows them.
    for name, parameter in list(of_function.items())[1:]:
        shown = str(parameter.annotation)
        plain = of_flow[name].annotation.__origin__
        assert shown == _written(plain), name


def _written(annotation: Any) -> str:
    """A type as it is written in source: ``SendWindow | None``."""
    sides = getattr(annotation, "__args__", None)
    if sides is None or isinstance(annotation, type):
        return str(annotation.__name__)
    return " | ".join("None" if side is type(None) else _written(getattr(side, "__origin__", side)) for side in sides)


def test_the_documentation_lists_each_option_with_its_default() -> None:
    page = (ROOT / "docs" / "campaign-options.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([\w.]+)` \| (?:`(.+?)`)? ?\|", page, re.MULTILINE))
    expected: dict[str, str] = {}
    for name, parameter in inspect.signature(send_campaign.fn).parameters.items():
        expected[name] = "" if parameter.default is parameter.empty else _shown(parameter.default)
    for group in GROUPS:
        for name, field in group.model_fields.items():
            expected[name] = "all" if name == "days" else _shown(field.default)
    assert listed == expected


def _shown(default: object) -> str:
    return json.dumps(default) if isinstance(default, str) else repr(default)


def test_a_send_window() -> None:
    assert str(SendWindow().time_window()) == "08:00 to 20:00 Europe/Stockholm"
    weekdays = SendWindow(opens="9:30", closes="00:00", timezone="UTC", days=["friday", "monday"])
    assert isinstance(weekdays.time_window(), TimeWindow)
    assert str(weekdays.time_window()) == "09:30 to 00:00 UTC, Mon Fri"


@pytest.mark.parametrize("value", ["", "8", "24:00", "08:60", "08:00:00", "eight", "-1:00", "08.00"])
def test_an_invalid_time_of_day_is_refused(value: str) -> None:
    with pytest.raises(InputError, match=r"opens is .*not a time of day. Write 08:00"):
        SendWindow(opens=value).time_window()
    with pytest.raises(InputError, match="closes is "):
        SendWindow(closes=value).time_window()


def test_an_unknown_time_zone_or_no_days_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no time zone 'Sweden'"):
        SendWindow(timezone="Sweden").time_window()
    with pytest.raises(InputError, match="days on which it opens"):
        SendWindow(days=[]).time_window()


if __name__ == "__main__":
    FORM.parent.mkdir(exist_ok=True)
    FORM.write_text(send_campaign_form(), encoding="utf-8")
