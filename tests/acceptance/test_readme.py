"""Every code block of the README is run."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_mymsp import MyMSPCredentials
from prefect_mymsp.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("prefect_harness", "workspace")

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def python_blocks() -> list[str]:
    return [code for language, code in BLOCKS if language == "python"]


@pytest.fixture
def in_a_folder(tmp_path: Path, mymsp_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's CSV, and credentials saved under the README's name."""
    mymsp_sandbox.gateway.configure({"sent_after_s": 0, "delivered_after_s": 0})
    monkeypatch.chdir(tmp_path)
    (table,) = [text for language, text in BLOCKS if language == "csv"]
    (tmp_path / "customers.csv").write_text(table, encoding="utf-8")
    MyMSPCredentials(
        user=mymsp_sandbox.user, password=SecretStr(mymsp_sandbox.password), base_url=mymsp_sandbox.base_url
    ).save("default", overwrite=True)
    return tmp_path


def run(code: str) -> tuple[dict[str, Any], str]:
    names: dict[str, Any] = {"__name__": "readme"}
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "README.md", "exec", dont_inherit=True), names)
    return names, printed.getvalue()


def test_the_readme_has_the_expected_blocks() -> None:
    assert [language for language, _ in BLOCKS] == ["bash", "bash", "csv", *["python"] * 5]


def test_ci_runs_the_same_commands() -> None:
    ci = (Path(__file__).parents[2] / ".ci" / "run").read_text(encoding="utf-8")
    demo, tests = (code.strip() for language, code in BLOCKS if language == "bash")
    assert demo.endswith("pip install -e . && .venv/bin/prefect-mymsp demo")
    assert tests.endswith("pip install -e '.[test]' && .venv/bin/pytest")
    assert 'prefect-mymsp" demo' in ci
    assert "-e '.[test]'" in ci


def test_a_campaign_in_ten_lines(in_a_folder: Path, mymsp_sandbox: Sandbox) -> None:
    code = python_blocks()[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names, printed = run(code)
    assert "2 of 2 delivered, 0 in doubt" in printed
    assert "landline" in printed
    assert names["report"].rejected_rows["row"].tolist() == [4]
    assert names["report"].report_path.exists()
    assert {message["text"] for message in mymsp_sandbox.gateway.ledger()} == {
        "Hello Åsa, see you on Monday!",
        "Hello Björn, see you on Tuesday!",
    }


def test_sending_a_dataframe(in_a_folder: Path, mymsp_sandbox: Sandbox) -> None:
    names, _ = run(python_blocks()[1])
    assert names["report"].delivered == 2
    assert {message["text"] for message in mymsp_sandbox.gateway.ledger()} == {"Hello Disa!", "Hello Egil!"}


def test_saving_a_block(in_a_folder: Path) -> None:
    run(python_blocks()[2])
    loaded = MyMSPCredentials.load("example")
    assert isinstance(loaded, MyMSPCredentials)
    assert loaded.user == "demo"


def test_tasks(in_a_folder: Path, mymsp_sandbox: Sandbox) -> None:
    _, printed = run(python_blocks()[3])
    assert printed.strip() == "2 recipients"
    assert len(mymsp_sandbox.gateway.ledger()) == 1


def test_the_pytest_fixture(in_a_folder: Path, mymsp_sandbox: Sandbox) -> None:
    names, _ = run(python_blocks()[4])
    assert names["pytest_plugins"] == ["prefect_mymsp.sandbox.pytest_plugin"]
    names["test_message_is_sent"](mymsp_sandbox)


def test_the_tables_match_the_code() -> None:
    from prefect_mymsp import tasks

    rows = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert [name for name in rows if name in MyMSPCredentials.model_fields] == list(MyMSPCredentials.model_fields)
    named = [name for name in rows if name not in MyMSPCredentials.model_fields]
    assert len(named) == 8
    for name in named:
        assert hasattr(tasks, name)
        assert hasattr(tasks, f"a{name}")
        never = "never" in next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        assert (getattr(tasks, name).retries == 0) is never
