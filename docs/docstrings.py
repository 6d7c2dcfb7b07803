"""How the reference reads the package's docstrings; .mkdocs.yml names this file as an extension of griffe.

Docstrings are written so that they read well in an editor: roles such as ``:func:`send_campaign``` and comments that
begin with ``#:``. Here roles become links, where what they name is in the reference, and such comments, and the
descriptions of pydantic's fields, become the docstrings of what they stand at.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

import griffe

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")
#: A line of a comment that documents what follows it.
_COMMENT = re.compile(r"\s*#: ?(.*)")


class Docstrings(griffe.Extension):
    """Turns the package's docstrings into what mkdocstrings shows."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Called once the whole package is read, so that every name can be resolved."""
        for each in _objects(pkg):
            if isinstance(each, griffe.Attribute) and each.docstring is None:
                told = _field(each) or _comment(each)
                each.docstring = griffe.Docstring(told, parent=each) if told else None
            for parameter in each.parameters if isinstance(each, griffe.Function) else ():
                parameter.default = _literal(parameter.default, loader)
                parameter.annotation = parameter.annotation and _bare(parameter.annotation, loader)
            if isinstance(each, griffe.Attribute):
                each.value = _literal(each.value, loader)
            if each.docstring is not None:
                each.docstring.value = _readable(each, each.docstring.value)


def _objects(parent: griffe.Object) -> Iterator[griffe.Object]:
    yield parent
    for member in parent.members.values():
        if isinstance(member, griffe.Object):
            yield from _objects(member)


def _literal(value: str | griffe.Expr | None, loader: griffe.GriffeLoader) -> str | griffe.Expr | None:
    """What a constant of ours stands for: a reader of a signature wants to know 5.0, not DEFAULT_RETRY_FOR_S."""
    meant = _value(value, loader)
    return value if meant is None or not str(value).isupper() else meant


def _bare(annotation: str | griffe.Expr, loader: griffe.GriffeLoader) -> str | griffe.Expr:
    """A type without what a form says about it: ``str`` for a name that means ``Annotated[str, Field(…)]``."""
    if isinstance(annotation, griffe.ExprBinOp):
        return griffe.ExprBinOp(_bare(annotation.left, loader), annotation.operator, _bare(annotation.right, loader))
    match _value(annotation, loader) or annotation:
        case griffe.ExprSubscript(left=left, slice=griffe.ExprTuple(elements=[bare, *_])) if str(left) == "Annotated":
            return bare
    return annotation


def _value(name: str | griffe.Expr | None, loader: griffe.GriffeLoader) -> str | griffe.Expr | None:
    """What was assigned to a name of ours; None for any other."""
    if not isinstance(name, griffe.ExprName):
        return None
    try:
        meant = loader.modules_collection[name.canonical_path]
    except KeyError:
        return None
    return meant.value if isinstance(meant, griffe.Attribute) else None


def _field(attribute: griffe.Attribute) -> str:
    """The description of a pydantic field, whose value is from now on its default."""
    value = attribute.value
    if not isinstance(value, griffe.ExprCall) or str(value.function) != "Field":
        return ""
    given = {each.name: each.value for each in value.arguments if isinstance(each, griffe.ExprKeyword)}
    default = given.get("default")
    attribute.value = None if str(default) == "..." else default
    return str(ast.literal_eval(str(given["description"]))) if "description" in given else ""


def _comment(attribute: griffe.Attribute) -> str:
    """The ``#:`` comment above an attribute."""
    if attribute.lineno is None:
        return ""
    told: list[str] = []
    for line in reversed(attribute.module.source.splitlines()[: attribute.lineno - 1]):
        found = _COMMENT.fullmatch(line)
        if found is None:
            break
        told.insert(0, found[1])
    return "\n".join(told)


def _readable(scope: griffe.Object, text: str) -> str:
    # A paragraph of two colons opens a literal block in reStructuredText; in Markdown its indent alone does.
    text = re.sub(r"^::\n", "", text, flags=re.MULTILINE)
    return _ROLE.sub(lambda role: _link(scope, role[2], short=bool(role[1])), text)


def _link(scope: griffe.Object, name: str, *, short: bool) -> str:
    shown = name.rpartition(".")[2] if short else name
    first, _, rest = name.partition(".")
    if not first:  # ``.errors.InputError``: from the package on
        path = f"{scope.package.path}{name}"
    else:
        try:
            path = scope.resolve(first) + (f".{rest}" if rest else "")
        except griffe.NameResolutionError:
            path = name
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'
