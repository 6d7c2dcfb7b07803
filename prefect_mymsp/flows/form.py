"""Titles and fields of Prefect's run form. Everything in here changes the JSON schema only."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


def label(title: str) -> Any:
    """The title of a parameter. Prefect replaces ``Field(title=...)`` by the parameter's name, but keeps this one."""
    return Field(json_schema_extra={"title": title})


class Choice:
    """The titles of a union's sides, which the form shows on a switch. A block or a group keeps its own title.

    Args:
        titles: One title for each side, in the order of the union; empty for a block or a group.
    """

    def __init__(self, *titles: str) -> None:
        self._titles = titles

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        sides: list[JsonSchemaValue] = []
        for side, title in zip(schema["anyOf"], self._titles, strict=True):
            if "$ref" not in side:
                side["title"] = title
            if side.get("format") == "path":  # the form has no field for paths, only for text
                del side["format"]
            if side not in sides:
                sides.append(side)
        schema["anyOf"] = sides
        return schema


class Group(BaseModel):
    """Options that belong together. A misspelt option is refused, in the form's schema and in Python.

    The schema has no description: the parameter has one, and the form would show both.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        field_title_generator=lambda name, _: name.replace("_", " ").capitalize(),
        json_schema_extra=lambda schema: schema.pop("description", None),
    )


def blank(description: str, kind: Literal["string", "integer", "number"] = "string", **bounds: Any) -> Any:
    """An optional field of a group that the form shows empty. The form leaves out an empty field, which means None.

    Args:
        description: What the field is for.
        kind: The JSON type of a value.
        bounds: More of its JSON schema, such as ``minimum``.
    """

    def show_as_plain_field(schema: JsonSchemaValue) -> None:
        del schema["anyOf"], schema["default"]
        schema.update(type=kind, **bounds)

    return Field(default=None, description=description, json_schema_extra=show_as_plain_field)
