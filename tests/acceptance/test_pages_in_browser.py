"""The sandbox's page and the reports in a real browser. Run by CI with `pytest -m browser`; needs Debian's chromium."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from prefect_mymsp.journal import SourceCounts
from prefect_mymsp.reports.html.delivery_page import delivery_page
from prefect_mymsp.reports.html.inbox_page import inbox_page
from prefect_mymsp.sandbox import Sandbox
from tests.chromium import Chromium
from tests.unit.reports.html.report_pages import MADE, ZONE, delivery_data, inbox_of, rejected_rows
from tests.unit.reports.test_sanitize import HOSTILE as HOSTILE_TEXTS

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


def test_the_sandbox_page_escapes_hostile_texts(mymsp_sandbox: Sandbox, tmp_path: Path) -> None:
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


STATES = {"delivered": 150, "expired": 30, "waiting": 5, "refused": 5, "in_doubt": 8, "cancelled": 2}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports as files: with everything, full of hostile texts; with one message; and empty."""
    folder = tmp_path_factory.mktemp("reports")
    inbox = inbox_of(*HOSTILE_TEXTS)
    stopped = {"46701740605": inbox["received_at"].max().to_pydatetime()}
    full = delivery_data(
        STATES, SourceCounts(216, 12, 3, 1), name=HOSTILE, rejected_rows=rejected_rows(12, HOSTILE),
        inbox=inbox, opt_outs=stopped,
        text=HOSTILE,
    )  # fmt: skip
    pages = {
        "full": delivery_page(full, ZONE, price_per_segment=0.4).html,
        "nothing": delivery_page(delivery_data({}, SourceCounts(0, 0, 0, 0)), ZONE).html,
        "one": delivery_page(delivery_data({"delivered": 1}), ZONE).html,
        "inbox": inbox_page(inbox, stopped, ZONE, MADE).html,
    }
    paths = {name: folder / f"{name}.html" for name in pages}
    for name, html in pages.items():
        paths[name].write_text(html, encoding="utf-8")
    return paths


@pytest.mark.parametrize("name", ["full", "nothing", "one", "inbox"])
def test_a_report_loads_nothing_runs_nothing_and_fits(reports: dict[str, Path], name: str, tmp_path: Path) -> None:
    with Chromium() as browsing:
        for width in (1280, 390):
            for dark in (False, True):
                browsing.open(reports[name].as_uri(), width=width, dark=dark)
                assert browsing.evaluate("document.documentElement.scrollWidth") <= width
                background = browsing.evaluate("getComputedStyle(document.body).backgroundColor")
                assert background == ("rgb(21, 23, 26)" if dark else "rgb(252, 251, 248)")
                browsing.picture(tmp_path / "page.png")
                assert (tmp_path / "page.png").stat().st_size > 5_000
        browsing.paper(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").stat().st_size > 5_000
        assert browsing.evaluate("document.title").endswith(" report")
        assert set(browsing.requests) == {reports[name].as_uri()}
        assert browsing.complaints == []


def test_the_visible_content_of_a_report(reports: dict[str, Path]) -> None:
    with Chromium() as browsing:
        browsing.open(reports["full"].as_uri())
        text = browsing.text()
        headings = browsing.evaluate("[...document.querySelectorAll('h2')].map(h => h.innerText).join('|')")
        assert headings == (
            "Campaign|Results|In doubt|Delivery times|Not delivered|Rows to fix|Replies|Undelivered recipients"
        )
        assert "150 of 200 messages were delivered." in text
        assert HOSTILE in text
        assert r"\x1b[31mred\x1b[0m" in text
        assert r"invoice\u202egnp.exe" in text
        assert "=cmd|' /C calc'!A0" in text
        assert "4670174" not in text
        shown = "[...document.querySelectorAll('figure svg')].filter(s => s.getBoundingClientRect().height > 40).length"
        assert browsing.evaluate(shown) == 2
        assert browsing.evaluate("document.querySelector('.wide').getBoundingClientRect().width") > 600
        bars = "[...document.querySelectorAll('.funnel .bar i')].map(b => Math.round(b.getBoundingClientRect().width))"
        widths = browsing.evaluate(bars)
        assert widths == sorted(widths, reverse=True)
        assert widths[-1] / widths[0] == pytest.approx(150 / 216, abs=0.02)
        browsing.open(reports["full"].as_uri(), width=390)
        assert browsing.evaluate("document.querySelector('.wide').getBoundingClientRect().width") == 0
        assert browsing.evaluate(shown) == 2
        size = "parseFloat(getComputedStyle(document.querySelector('.narrow text')).fontSize)"
        drawn = "document.querySelector('.narrow svg').getBoundingClientRect().width / 340"
        assert browsing.evaluate(size) * browsing.evaluate(drawn) >= 12
