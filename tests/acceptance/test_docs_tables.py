"""Tables and pictures of the documentation match the code."""

from __future__ import annotations

import re
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from prefect_mymsp import errors, states
from prefect_mymsp.errors import MyMSPError
from prefect_mymsp.journal import schema
from prefect_mymsp.protocol import CODES, ENDPOINTS
from prefect_mymsp.settings import MyMSPSettings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SVG = "{http://www.w3.org/2000/svg}"


def table(page: str, first_column: str) -> list[list[str]]:
    """The rows of the page's table whose first column has this heading."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"^\| {re.escape(first_column)} \|.*\n\|[- |]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in found.splitlines()]


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ---- errors.md -----------------------------------------------------------------------------------------------------


def test_the_table_of_codes_matches_the_codes() -> None:
    rows = [
        (int(number), meaning, remedy, scope, ENDPOINTS if endpoints == "all" else tuple(named(endpoints)))
        for number, meaning, remedy, scope, endpoints in table("errors.md", "Code")
    ]
    assert rows == [(code.number, code.meaning, code.remedy, code.scope, code.endpoints) for code in CODES]


def _tree(kind: type[MyMSPError] = MyMSPError, depth: int = 0) -> Iterator[tuple[int, str]]:
    yield depth, kind.__name__
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _tree(below, depth + 1)


def test_the_table_of_errors_matches_the_error_tree() -> None:
    rows = table("errors.md", "Error")
    assert [(cell.count("·"), *named(cell)) for cell, _, _ in rows] == list(_tree())
    doubtful = {name for _, name in _tree(errors.InDoubtError)}
    money = ""
    for cell, said, _ in rows:
        money = money if said == "likewise" else said
        assert ("it may have been sent" in money) == (named(cell)[0] in doubtful), cell


# ---- message-states.md -------------------------------------------------------------------------------------------

TRANSITIONS = {(old, new) for old, followers in states.TRANSITIONS.items() for new in followers}


def test_the_table_of_transitions_is_complete() -> None:
    listed = [(old.replace(" ", "_"), new.replace(" ", "_")) for old, new, _ in table("message-states.md", "From")]
    assert len(listed) == len(set(listed))
    assert set(listed) == TRANSITIONS


def test_the_picture_has_every_state_and_transition() -> None:
    picture = ET.parse(DOCS / "images" / "states.svg").getroot()
    boxes = {group.attrib["id"]: group.find(f"{SVG}rect") for group in picture.findall(f"{SVG}g")}
    assert set(boxes) == set(states.STATES)
    drawn = set()
    for way in picture.findall(f"{SVG}path[@class='way']"):
        old, _, new = way.attrib["id"].partition("-")
        numbers = [float(number) for number in re.findall(r"[\d.]+", way.attrib["d"])]
        for state, (x, y) in ((old, numbers[:2]), (new, numbers[-2:])):
            box = boxes[state]
            assert box is not None
            left, top, width, height = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
            on_the_edge = x in {left, left + width} or y in {top, top + height}
            assert on_the_edge, f"the way {old} to {new} misses {state}"
            assert left <= x <= left + width
            assert top <= y <= top + height
        drawn.add((old, new))
    assert drawn == TRANSITIONS
    for group in picture.findall(f"{SVG}g"):
        name = group.find(f"{SVG}text[@class='name']")
        assert name is not None
        assert name.text == group.attrib["id"].replace("_", " ")


def test_the_picture_has_a_dark_mode_and_loads_nothing() -> None:
    text = (DOCS / "images" / "states.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"<script|href|@import|url\((?!#)", text)


# ---- the other pages -----------------------------------------------------------------------------------------------


def test_security_lists_every_table_of_the_journal() -> None:
    assert {named(row[0])[0] for row in table("security.md", "Table")} == set(schema.metadata.tables)


def test_architecture_lists_every_room() -> None:
    listed = {room for row in table("architecture.md", "Module") for room in named(row[0])}
    package = ROOT / "prefect_mymsp"
    rooms = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    assert listed == rooms - {"__init__"}


def test_architecture_lists_every_file() -> None:
    for room, files in table("architecture.md", "Room"):
        (name,) = named(room)
        listed = [file for file in named(files) if file != "html"]
        paths = (ROOT / "prefect_mymsp" / name).rglob("*.py")
        assert sorted(listed) == sorted(path.stem for path in paths if not path.stem.startswith("__")), name


def test_architecture_names_files_that_exist() -> None:
    for _, files in table("architecture.md", "Rule"):
        for file in named(files):
            assert not file.endswith(".py") or (ROOT / "prefect_mymsp" / file).is_file(), file


def test_contributing_lists_every_marker() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    options = project["tool"]["pytest"]["ini_options"]
    markers = {line.partition(":")[0] for line in options["markers"]}
    rows = table("contributing.md", "Marker")
    assert {name for row in rows for name in named(row[0])} == markers
    assert set(re.findall(r"not (\w+)", options["addopts"])) == markers
    for row in rows[1:]:
        assert row[2] == f"`pytest -m {named(row[0])[0]}`"


def test_every_setting_in_the_docs_exists() -> None:
    known = {f"PREFECT_INTEGRATIONS_MYMSP_{name}".upper() for name in MyMSPSettings.model_fields}
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        there = set(re.findall(r"PREFECT_INTEGRATIONS_MYMSP_[A-Z_]+", page.read_text(encoding="utf-8")))
        assert there <= known, page.name
