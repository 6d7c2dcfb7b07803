"""The mutations fit the code. Whether a test notices each takes minutes: ``python tests/mutations.py``."""

from __future__ import annotations

import ast

import pytest

from tests.mutation import ROOT, Mutation, PlaceError, never, swapped, to, without
from tests.mutations import MUTATIONS


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_a_mutation_changes_the_place_that_holds_its_rule(mutation: Mutation) -> None:
    assert mutation.mutated()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_the_test_of_a_mutation_exists(mutation: Mutation) -> None:
    path, _, word = mutation.test.partition(" -k ")
    tests = ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    names = [test.name for test in tests if isinstance(test, ast.FunctionDef) and test.name.startswith("test_")]
    assert [name for name in names if word in name]


def test_each_rule_is_listed_once() -> None:
    assert len({mutation.rule for mutation in MUTATIONS}) == len(MUTATIONS)


def mutation(place: str, node: str, change: object) -> Mutation:
    return Mutation("a rule", place, node, change, "a test")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("place", "node", "complaint"),
    [
        ("times.py::no_such_function", "return", "0 functions or classes 'no_such_function'"),
        ("times.py::floor_minute", "return no_such_name", "0 such nodes"),
        ("times.py::Clock", "return", "3 such nodes"),
    ],
)
def test_a_place_that_is_missing_or_ambiguous_is_refused(place: str, node: str, complaint: str) -> None:
    with pytest.raises(PlaceError, match=complaint):
        mutation(place, node, never).mutated()


def test_a_change_must_change_something() -> None:
    with pytest.raises(PlaceError, match="nothing changes"):
        mutation("times.py::floor_minute", "return", swapped("no_such_name", "another")).mutated()
    with pytest.raises(PlaceError, match="No operand mentions"):
        mutation("times.py::resolve_repeated_hour", "condition value earliest", without("no_such_name")).mutated()


def test_a_place_is_found_whatever_the_formatting_and_the_local_names() -> None:
    place = "campaign/send_decisions.py::next_claim_window"
    changed = mutation(place, "return MAX_CLAIM_WINDOW", to("return 1")).mutated()
    assert "return 1" in changed
