"""JSON values checked against a type, with pydantic; strict: JSON's true is no number, and 1.0 is no whole number."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from prefect_mymsp.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Hashable

T = TypeVar("T")

#: For every type that comes from JSON.
JSON_CONFIG: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def parse_json(kind: type[T], value: object, name: str = "") -> T:
    """Check a value from JSON against a type.

    Args:
        kind: A type that pydantic can check.
        value: The value, as ``json.loads`` returns it.
        name: The value's name in errors.

    Raises:
        ConfigurationError: It is not such a value; the message names the field.
    """
    try:
        return parse_json_text(kind, json.dumps(value), name)
    except (TypeError, RecursionError) as error:
        raise ConfigurationError(f"{name or 'The value'} cannot be written as JSON: {error}.") from error


def parse_json_text(kind: type[T], text: str | bytes, name: str = "") -> T:
    """A value of ``kind`` from JSON; as :func:`parse_json`."""
    try:
        value: T = _adapter(cast("Hashable", kind)).validate_json(text)
    except ValidationError as error:
        raise ConfigurationError(_first_error(error, name)) from error
    return value


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _first_error(error: ValidationError, name: str) -> str:
    detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if detail["type"] == "json_invalid":
        return f"The body is not JSON: {detail['msg']}."
    field = ".".join(filter(None, (name, *map(str, detail["loc"]))))
    if detail["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"{field}: there is no such field."
    reason = detail["msg"].removeprefix("Value error, ").removesuffix(".")
    return f"{field or 'The body'}: {reason}."
