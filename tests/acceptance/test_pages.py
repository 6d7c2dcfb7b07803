"""The sandbox's page in a real browser. Run by CI with `pytest -m browser`; needs Debian's chromium."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from prefect_mymsp.sandbox import Sandbox

pytestmark = pytest.mark.browser

HOSTILE = "<script>document.title = 'run'</script><img src=x onerror=\"document.title='run'\"> & \"quoted\""


def browser(url: str, folder: Path, *options: str) -> str:
    chromium = shutil.which("chromium")
    assert chromium, "install Debian's chromium"
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        *options,
        url,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_sandbox_page_shows_hostile_texts_harmlessly(mymsp_sandbox: Sandbox, tmp_path: Path) -> None:
    gateway = mymsp_sandbox.gateway
    form = f"user={mymsp_sandbox.user}&pwd={mymsp_sandbox.password}&recipients=46701740605&msg=Hello%20there"
    gateway.handle("POST", "sendSms", b"", form.encode())
    gateway.receive(originator="46701740606", text=HOSTILE)
    dom = browser(mymsp_sandbox.url, tmp_path, "--dump-dom")
    assert "<title>myMSP sandbox</title>" in dom
    assert "&lt;script&gt;" in dom
    assert "<script" not in dom
    assert "<img" not in dom
    assert "Hello there" in dom
    picture = tmp_path / "page.png"
    browser(mymsp_sandbox.url, tmp_path, f"--screenshot={picture}", "--window-size=1000,600")
    assert picture.stat().st_size > 5_000
