"""The list of mutations fits the code as it is; whether each is noticed takes minutes: python tests/mutations.py."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_a_mutation_breaks_a_rule_that_stands_there(mutation: Mutation) -> None:
    source = (ROOT / "prefect_mymsp" / mutation.file).read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1
    assert mutation.new != mutation.old
    ast.parse(source.replace(mutation.old, mutation.new))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_the_test_that_a_mutation_names_exists(mutation: Mutation) -> None:
    path, _, word = mutation.test.partition(" -k ")
    tests = ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    names = [one.name for one in tests if isinstance(one, ast.FunctionDef) and one.name.startswith("test_")]
    assert [name for name in names if word in name]


def test_each_rule_is_there_once() -> None:
    assert len({mutation.rule for mutation in MUTATIONS}) == len(MUTATIONS)
    assert Path(ROOT / "prefect_mymsp").is_dir()
