"""Every code block in README.md and docs/ is parsed, run and type-checked.

A Python block is run in a folder with the README's ``customers.csv`` and with credentials of the sandbox saved as
``default``; its output must equal its lines beginning with ``# >``. A block with a title is written to that file in the
folder, and pytest runs the page's tests (``test_*.py``) there. A block that cannot be run has a line
``<!-- not run: why -->`` above it; its names and types are still checked.

Checks that need only the test dependencies run with the suite. The other checks (mypy, the mkdocs site) and the slow
ones, which run the pages, are marked ``docs``; CI runs them.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
import zlib
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeVar

import cyclopts
import pytest
import yaml  # type: ignore[import-untyped]
from prefect.cli._app import _app as prefect_app  # there is no public API for parsing its options
from pydantic import SecretStr

import prefect_mymsp
from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.cli import app as package_app
from prefect_mymsp.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*\Z")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        page: The page that contains it.
        line: The line its code begins at.
        language: The declared language, or empty.
        title: The name of the file it shows, or empty.
        code: The code without its indent.
        runs: Whether it is run.
    """

    page: Path
    line: int
    language: str
    title: str
    code: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page.name}, line {self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    blocks = []
    for match in _FENCE.finditer(text):
        language, _, rest = match[3].strip().partition(" ")
        title = _TITLE.search(rest)
        blocks.append(
            Block(
                page=page,
                line=text.count("\n", 0, match.start(4)) + 1,
                language=language,
                title=title[1] if title else "",
                code=textwrap.dedent(match[4]),
                runs=_NOT_RUN.search(text, 0, match.start()) is None,
            )
        )
    assert text.count("```") == 2 * len(blocks), f"{page.name} has a block that is not closed"
    return blocks


# ---- valid blocks --------------------------------------------------------------------------------------------------


def _is_python(block: Block) -> None:
    compile(block.code, str(block), "exec", dont_inherit=True)
    assert "#>" not in block.code, "what it prints begins with # >"


def _is_bash(block: Block) -> None:
    result = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in commands(block.code):
        _is_a_command(command, block)


def commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a script, as words, without assignments of variables before them."""
    for line in re.sub(r"\\\n", " ", script).splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        reader.whitespace_split = True
        words: list[str] = []
        for word in [*reader, ";"]:
            if set(word) <= set("&|;"):
                if words:
                    yield words
                words = []
            elif words or not re.match(r"\w+=", word):
                words.append(word)


def _is_a_command(words: list[str], block: Block) -> None:
    name, arguments = Path(words[0]).name, words[1:]
    if name in _PARSERS:
        _PARSERS[name](arguments)
    elif name in {"python", "python3"} and arguments and arguments[0].endswith(".py"):
        titles = {titled.title for titled in blocks_of(block.page)}
        assert arguments[0] in titles or (ROOT / arguments[0]).is_file(), f"there is no {arguments[0]}"
    elif name == "pytest" and "-m" in arguments:
        _markers_exist(arguments[arguments.index("-m") + 1])


def _parse_package_command(arguments: list[str]) -> None:
    package_app.parse_args(arguments, exit_on_error=False, print_error=False)


def _parse_prefect_command(arguments: list[str]) -> None:
    # Session options such as --profile are parsed first, the other arguments by the command itself.
    _, session, *_ = prefect_app.meta.parse_args(arguments, exit_on_error=False, print_error=False)
    prefect_app.parse_args(list(session.args), exit_on_error=False, print_error=False)


_PARSERS: dict[str, Callable[[list[str]], None]] = {
    "prefect-mymsp": _parse_package_command,
    "prefect": _parse_prefect_command,
}


def _markers_exist(expression: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    markers = {line.partition(":")[0] for line in project["tool"]["pytest"]["ini_options"]["markers"]}
    assert set(re.findall(r"\w+", expression)) - {"and", "or", "not"} <= markers, f"no such marker: {expression}"


def _is_csv(block: Block) -> None:
    lines = block.code.splitlines()
    widths = {len(row) for row in csv.reader(lines, csv.Sniffer().sniff(lines[0], ";,\t|"))}
    assert len(widths) == 1


def _is_anything(block: Block) -> None:
    """Accept any content: the output of a program, or a drawing."""


CHECKS: dict[str, Callable[[Block], object]] = {
    "python": _is_python,
    "bash": _is_bash,
    "json": lambda block: json.loads(block.code),
    "toml": lambda block: tomllib.loads(block.code),
    "yaml": lambda block: yaml.safe_load(block.code),
    "csv": _is_csv,
    "console": _is_anything,
    "text": _is_anything,
}


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_code_blocks_are_valid(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in CHECKS, f"{block}: declare its language, one of {', '.join(CHECKS)}"
        try:
            CHECKS[block.language](block)
        except (AssertionError, ValueError, SyntaxError, yaml.YAMLError, csv.Error, cyclopts.CycloptsError) as error:
            pytest.fail(f"{block}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_commands_in_sentences_exist(page: Path) -> None:
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for span in re.findall(r"`([^`\n]+)`", prose):
        for words in commands(span) if span.startswith(("prefect ", "prefect-mymsp ")) else ():
            try:
                _PARSERS[words[0]](words[1:])
            except cyclopts.MissingArgumentError:
                pass  # a sentence may omit arguments
            except cyclopts.CycloptsError as error:
                pytest.fail(f"{page.name}: `{span}`: {error}")


# ---- running blocks ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, gateway: Sandbox, credentials: MyMSPCredentials, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the README's CSV, and the sandbox's account saved as ``default``."""
    gateway.gateway.configure({"accounts": {gateway.user: {"password": "demo-password"}}})
    MyMSPCredentials(user=gateway.user, password=SecretStr("demo-password"), base_url=gateway.base_url).save(
        "default", overwrite=True
    )
    path = tmp_path / "page"
    path.mkdir()
    (table,) = [block.code for block in blocks_of(README) if block.language == "csv"]
    (path / "customers.csv").write_text(table, encoding="utf-8")
    monkeypatch.chdir(path)
    return path


#: Code that a page requires to have run before its first block.
BEFORE = {
    "reports.md": """
from pathlib import Path
from prefect.blocks.system import Secret
from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.flows import send_campaign
send_campaign("customers.csv", "Hello {name}!", campaign="reminders week 49")
Secret(value=f"sqlite:///{Path('warehouse.db').absolute()}").save("warehouse", overwrite=True)
""",
}

#: The sandbox's URL in the pages; the tests replace it with that of the running sandbox.
SHOWN_URL = "http://127.0.0.1:8025/external"


@pytest.mark.docs
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("prefect_harness", "workspace")
@pytest.mark.parametrize(
    "page", [page for page in PAGES[1:] if any(block.language == "python" for block in blocks_of(page))],
    ids=lambda page: page.name,
)  # fmt: skip
def test_the_code_of_a_page_runs(page: Path, folder: Path, gateway: Sandbox) -> None:
    exec(BEFORE.get(page.name, ""), {})
    for block in blocks_of(page):
        code = block.code.replace(SHOWN_URL, gateway.base_url)
        if block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(code, encoding="utf-8")
        if block.language == "python" and block.runs and not _is_pytest_file(block):
            assert _run(block, code) == _expected_output(code), str(block)
    if any(_is_pytest_file(block) for block in blocks_of(page)):
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert result.returncode == 0, result.stdout


def _is_pytest_file(block: Block) -> bool:
    return re.fullmatch(r"(conftest|test_\w+)\.py", block.title) is not None


def _run(block: Block, code: str) -> list[str]:
    """Run a block as a module of its own, and return its output."""
    names: dict[str, Any] = {"__name__": Path(block.title).stem or "page"}
    with redirect_stdout(io.StringIO()) as printed:
        # The line numbers in tracebacks are those of the page.
        exec(compile("\n" * (block.line - 1) + code, str(block.page), "exec", dont_inherit=True), names)
    return printed.getvalue().splitlines() if _expected_output(code) else []


def _expected_output(code: str) -> list[str]:
    """The output that a block declares."""
    return re.findall(r"^ *# > ?(.*)$", code, re.MULTILINE)


@pytest.mark.docs
@pytest.mark.timeout(300)
def test_python_blocks_pass_mypy(tmp_path: Path) -> None:
    for block in (block for page in PAGES for block in blocks_of(page) if block.language == "python"):
        name = re.sub(r"\W", "_", f"{block.page.stem}_{block.line}")
        (tmp_path / f"{name}.py").write_text(block.code, encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nplugins = pydantic.mypy\ncheck_untyped_defs = true\nfollow_imports = silent\n"
        "ignore_missing_imports = true\n",
        encoding="utf-8",
    )
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-pretty", "--cache-dir", str(tmp_path / "cache"), "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    # Prefect types functions that run sync or async as a value or a coroutine: every use of a loaded block is an error.
    errors = [
        line for line in result.stdout.splitlines() if ": error: " in line and "| Coroutine[Any, Any, " not in line
    ]
    assert not errors, "\n".join(errors)


# ---- the site ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as published, built strictly: a broken link, or a page missing from the navigation, fails."""
    path = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-f", ".mkdocs.yml", "-d", str(path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (path / "index.html").is_file()
    return path


class _Loaded(HTMLParser):
    """Addresses that a browser loads when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag not in {"a", "link"} or (tag == "link" and attributes.get("rel") not in {"canonical", "next", "prev"}):
            names = ("src", "srcset", "href", "data", "poster")
            self.addresses += [attributes[name] for name in names if name in attributes]
        self.addresses += re.findall(r"url\(([^)]+)\)", attributes.get("style", ""))
        assert "mermaid" not in attributes.get("class", ""), "the script of a drawing would be loaded from another host"


@pytest.mark.docs
def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES) - 1
    for page in pages:
        loaded = _Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert any(address.endswith(".css") for address in loaded.addresses)
        assert any(address.endswith(".js") for address in loaded.addresses)
        external = [address for address in loaded.addresses if re.match(r"\s*(https?:)?//", address)]
        assert not external, f"{page.relative_to(site)}: {external}"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", text), sheet.name


#: Modules that are run and not imported, and modules that are internal.
NO_NAMES = {"cli", "database_urls", "demo", "rejected_rows", "transport", "terminal"}


def public_names() -> dict[str, Any]:
    """Every public name: those of a package's ``__all__``, or those a module defines without an underscore."""
    names: dict[str, Any] = {}
    modules = [module.name for module in pkgutil.iter_modules(prefect_mymsp.__path__)]
    for path in ["prefect_mymsp", *(f"prefect_mymsp.{name}" for name in modules if name not in NO_NAMES)]:
        module = importlib.import_module(path)
        defined = [
            name
            for name, value in vars(module).items()
            if name[0] != "_" and getattr(value, "__module__", "") == path and not isinstance(value, TypeVar)
        ]
        names |= {f"{path}.{name}": getattr(module, name) for name in getattr(module, "__all__", defined)}
    return names


def test_every_public_name_is_in_the_reference() -> None:
    documented = re.findall(r"^::: ([\w.]+)$", "".join(page.read_text("utf-8") for page in PAGES), re.MULTILINE)
    names = public_names()
    documented_ids = {
        id(value) for name, value in names.items() if name in documented or name.rpartition(".")[0] in documented
    }
    missing = sorted(name for name, value in names.items() if id(value) not in documented_ids)
    assert not missing, "add ::: MODULE to docs/reference.md or docs/python-api.md"


@pytest.mark.docs
def test_every_public_name_is_on_the_site(site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    shown = {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines()}
    # By the name it is imported by, or, if a module has the same name, by the name it is defined under.
    missing = [
        name
        for name, value in public_names().items()
        if not {name, f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"} & shown
    ]
    assert not missing, "without a docstring, or a comment that begins with #:, a name is not shown"
