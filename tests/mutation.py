"""Break one rule of the package in its syntax tree, and run the test that must fail then.

A place is named by its function, its kind of node and the names that the node mentions, so reformatting the code or
renaming a local variable does not move it.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "prefect_mymsp"

#: Makes a replacement for a node, from a node that it may change.
Change = Callable[[ast.AST], ast.AST]


class PlaceError(Exception):
    """A place does not exist, or is ambiguous, or its change changes nothing."""


@dataclass(frozen=True)
class Mutation:
    """A rule, the place that holds it, how it is broken there, and the test that notices.

    Attributes:
        rule: The rule, as a sentence.
        place: Module below the package, and function: ``campaign/sender.py::_Sender._send_batch``. Without a function,
            the whole module.
        node: Kind of node, and the names or constants that it mentions, in any order: ``condition purged_at``. With a
            minus sign, names that it does not mention. The kinds are those of :data:`KINDS`. It must be the only such
            node of the function; of nested ones the innermost counts.
        change: The change of the node.
        test: Arguments for pytest; the test that they select fails then.
    """

    rule: str
    place: str
    node: str
    change: Change
    test: str

    @property
    def path(self) -> Path:
        """The module that holds the rule."""
        return PACKAGE / self.place.partition("::")[0]

    def mutated(self) -> str:
        """The source of the module with the rule broken.

        Raises:
            PlaceError: The place does not exist, or nothing changes.
        """
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        before = ast.unparse(tree)
        slot = _find(tree, self.place.partition("::")[2], self.node, f"{self.place} {self.node!r}")
        slot.replace(self.change(slot.node))
        after = ast.unparse(ast.fix_missing_locations(tree))
        if after == before:
            raise PlaceError(f"{self.rule}: nothing changes.")
        compile(after, str(self.path), "exec")
        return after


# -- changes ---------------------------------------------------------------------------------------------------------


def never(node: ast.AST) -> ast.AST:
    """Replace a condition with False."""
    return ast.Constant(False)


def always(node: ast.AST) -> ast.AST:
    """Replace a condition with True."""
    return ast.Constant(True)


def drop(node: ast.AST) -> ast.AST:
    """Replace a statement with ``pass``."""
    return ast.Pass()


def to(code: str) -> Change:
    """Replace an expression, or a statement, with other code."""
    statement = ast.parse(code).body[0]

    def change(node: ast.AST) -> ast.AST:
        return statement if isinstance(node, ast.stmt) else _expression(statement)

    return change


def returning(code: str) -> Change:
    """Replace the value of a ``return``."""

    def change(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.Return)
        node.value = ast.parse(code, mode="eval").body
        return node

    return change


def without(*mentions: str) -> Change:
    """Drop the operand of an ``and``, an ``or``, ``&`` or ``|`` that mentions these names."""

    def change(node: ast.AST) -> ast.AST:
        for part in ast.walk(node):
            if isinstance(part, ast.BoolOp):
                kept = [value for value in part.values if not _mentioned(value) >= set(mentions)]
                if len(kept) < len(part.values):
                    part.values = kept if len(kept) > 1 else [kept[0], kept[0]]
                    return node
            elif isinstance(part, ast.BinOp):
                for dropped, other in ((part.left, part.right), (part.right, part.left)):
                    if _mentioned(dropped) >= set(mentions) and not _mentioned(other) >= set(mentions):
                        part.left = part.right = other
                        return node
        raise PlaceError(f"No operand mentions {mentions}.")

    return change


def preceded_by(code: str) -> Change:
    """Put statements before a statement."""
    statements = ast.parse(code).body

    def change(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.stmt)
        return ast.If(test=ast.Constant(True), body=[*statements, node], orelse=[])

    return change


def swapped(old: str, new: str) -> Change:
    """Replace a name, an attribute or a keyword within the node."""

    def change(node: ast.AST) -> ast.AST:
        for part in ast.walk(node):
            for attribute in ("id", "attr", "arg"):
                if getattr(part, attribute, None) == old:
                    setattr(part, attribute, new)
        return node

    return change


# -- places ----------------------------------------------------------------------------------------------------------


@dataclass
class _Slot:
    """The position of a node in its parent."""

    node: ast.AST
    parent: ast.AST
    field: str
    index: int | None

    def replace(self, other: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, other)
        else:
            getattr(self.parent, self.field)[self.index] = other


def _condition(slot: _Slot) -> bool:
    """The condition of an ``if``, a ``while``, a conditional expression or a comprehension."""
    return slot.field in {"test", "ifs"}


def _statement(slot: _Slot) -> bool:
    """A statement without a body."""
    return isinstance(slot.node, ast.stmt) and not hasattr(slot.node, "body")


def _return(slot: _Slot) -> bool:
    return isinstance(slot.node, ast.Return)


def _call(slot: _Slot) -> bool:
    return isinstance(slot.node, ast.Call)


def _keyword(slot: _Slot) -> bool:
    """The value of a keyword argument; it mentions the keyword too."""
    return isinstance(slot.parent, ast.keyword) and slot.field == "value"


def _entry(slot: _Slot) -> bool:
    """A value in a dictionary; it mentions its key too."""
    return isinstance(slot.parent, ast.Dict) and slot.field == "values"


def _operation(slot: _Slot) -> bool:
    return isinstance(slot.node, ast.BinOp)


def _comparison(slot: _Slot) -> bool:
    return isinstance(slot.node, ast.Compare)


def _value(slot: _Slot) -> bool:
    """The value of an assignment; it mentions the targets too, if they are attributes or constants."""
    return isinstance(slot.parent, ast.Assign | ast.AnnAssign | ast.AugAssign) and slot.field == "value"


KINDS: dict[str, Callable[[_Slot], bool]] = {
    "condition": _condition,
    "statement": _statement,
    "return": _return,
    "call": _call,
    "keyword": _keyword,
    "entry": _entry,
    "comparison": _comparison,
    "operation": _operation,
    "value": _value,
}


def _find(tree: ast.Module, function: str, node: str, description: str) -> _Slot:
    kind, *words = node.split()
    absent = {word[1:] for word in words if word.startswith("-")}
    mentions = {word for word in words if not word.startswith("-")}
    scope = _scope(tree, function, description)
    slots = [
        slot for slot in _slots(scope) if KINDS[kind](slot) and _names(slot) >= mentions and not _names(slot) & absent
    ]
    inner = [slot for slot in slots if not any(other is not slot and _within(other, slot) for other in slots)]
    if len(inner) != 1:
        raise PlaceError(f"{description}: {len(inner)} such nodes.")
    return inner[0]


def _scope(tree: ast.AST, function: str, description: str) -> ast.AST:
    for name in filter(None, function.split(".")):
        level, matches = [tree], list[ast.AST]()
        while level and not matches:  # the nearest one: a function may contain another of the same name
            level = [child for node in level for child in ast.iter_child_nodes(node)]
            matches = [
                node
                for node in level
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name
            ]
        if len(matches) != 1:
            raise PlaceError(f"{description}: {len(matches)} functions or classes {name!r}.")
        tree = matches[0]
    return tree


def _slots(scope: ast.AST) -> Iterator[_Slot]:
    for parent in ast.walk(scope):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                yield _Slot(value, parent, field, None)
            elif isinstance(value, list):
                for index, child in enumerate(value):
                    if isinstance(child, ast.AST):
                        yield _Slot(child, parent, field, index)


def _within(inner: _Slot, outer: _Slot) -> bool:
    return any(node is inner.node for node in ast.walk(outer.node) if node is not outer.node)


def _names(slot: _Slot) -> set[str]:
    names = _mentioned(slot.node)
    if isinstance(slot.parent, ast.keyword) and slot.parent.arg is not None:
        names.add(slot.parent.arg)
    if isinstance(slot.parent, ast.Dict) and slot.field == "values" and slot.index is not None:
        key = slot.parent.keys[slot.index]
        names |= set() if key is None else _mentioned(key)
    if isinstance(slot.parent, ast.Assign):
        names.update(name for target in slot.parent.targets for name in _mentioned(target))
    if isinstance(slot.parent, ast.AnnAssign | ast.AugAssign):
        names |= _mentioned(slot.parent.target)
    return names


def _mentioned(node: ast.AST) -> set[str]:
    """Names, attributes, keywords and constants within a node."""
    names: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            names.add(part.id)
        elif isinstance(part, ast.Attribute):
            names.add(part.attr)
        elif isinstance(part, ast.keyword) and part.arg is not None:
            names.add(part.arg)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str | int | float):
            names.add(str(part.value))
    return names


def _expression(statement: ast.stmt) -> ast.expr:
    assert isinstance(statement, ast.Expr)
    return statement.value


# -- running ---------------------------------------------------------------------------------------------------------


def test_fails(mutation: Mutation, *, mutated: bool) -> bool:
    """Whether the mutation's test fails in a copy of the project, with the rule broken or as it is."""
    source = mutation.mutated() if mutated else mutation.path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        for name in ("prefect_mymsp", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, copy / name)
        (copy / mutation.path.relative_to(ROOT)).write_text(source, encoding="utf-8")
        command = f"{sys.executable} -m pytest -n 0 -q -x -p no:cacheprovider {mutation.test}"
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        result = subprocess.run(
            ["sh", "-c", command], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
    if result.returncode not in (0, 1):  # no such test, or the copy cannot be imported
        sys.exit(f"{mutation.test}: {result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.returncode == 1
