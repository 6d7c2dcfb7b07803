"""Debian's Chromium, driven over its debugging protocol: pages, screenshots, requests and console messages."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

_PATIENCE_S = 30.0


class Chromium:
    """A browser with one page; a context manager.

    Attributes:
        requests: Addresses it requested.
        complaints: Console messages and exceptions.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._number = 0
        self._home = Path(tempfile.mkdtemp(prefix="mymsp-chromium-"))

    def __enter__(self) -> Self:
        chromium = shutil.which("chromium")
        assert chromium, "install Debian's chromium"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        options += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
        command = [chromium, *options, f"--user-data-dir={self._home}", "--remote-debugging-port=0", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._socket = self._connect()
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=_PATIENCE_S)
        shutil.rmtree(self._home, ignore_errors=True)

    def _connect(self) -> ClientConnection:
        port_file, ends = self._home / "DevToolsActivePort", time.monotonic() + _PATIENCE_S
        while not port_file.exists() or "\n" not in port_file.read_text("utf-8"):
            assert time.monotonic() < ends, "Chromium did not start"
            time.sleep(0.05)
        port = port_file.read_text("utf-8").split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        return connect(page["webSocketDebuggerUrl"], max_size=None)

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self._socket.recv(timeout=_PATIENCE_S))
        kind, parameters = event.get("method"), event.get("params", {})
        if kind == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif kind in {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}:
            self.complaints.append(json.dumps(parameters))
        return event

    def open(self, url: str, *, width: int = 1280, dark: bool = False) -> None:
        """Open a page and wait until it is loaded."""
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self._ask("Page.navigate", url=url)
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        return self._ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def text(self) -> str:
        """The visible text of the page."""
        return str(self.evaluate("document.body.innerText"))

    def picture(self, path: Path, *, height: int | None = None, of: str = "body") -> None:
        """Take a screenshot of an element in the page's full width, up to a limited height."""
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        top = self.evaluate(f"document.querySelector({of!r}).getBoundingClientRect().top + scrollY")
        whole = self.evaluate(f"document.querySelector({of!r}).getBoundingClientRect().height")
        high = min(max(whole, size["height"] if of == "body" else 0), height or 16_000)
        clip = {"x": 0, "y": top, "width": size["width"], "height": high, "scale": 1}
        self._write(path, self._ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip))

    def paper(self, path: Path) -> None:
        """Print the page into a PDF."""
        self._write(path, self._ask("Page.printToPDF", printBackground=True, preferCSSPageSize=True))

    @staticmethod
    def _write(path: Path, answer: Any) -> None:
        path.write_bytes(base64.b64decode(answer["data"]))
