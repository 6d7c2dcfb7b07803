"""The one way from a template to HTML or SVG: everything is escaped, and control characters are written out."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import TYPE_CHECKING, Any

from prefect_mymsp.reports.html.wording import format_time
from prefect_mymsp.reports.sanitize import escape_control_characters

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup


def render(template: str, **values: Any) -> Markup:
    """A template of this package with its values, as markup that other templates include as it is."""
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(**values))  # noqa: S704  the template has escaped it


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prefect_mymsp.reports.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": lambda value: escape_control_characters(str(value)),
        "count": lambda number: f"{number:,}",
        "time": format_time,
        "short_time": _short_time,
        "coordinate": lambda value: f"{round(value, 2):g}",
    }
    return environment


def _short_time(time: datetime) -> str:
    return f"{time.day} {time:%b %Y %H:%M}"
