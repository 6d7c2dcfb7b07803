"""Paths, URLs and pipes."""

from __future__ import annotations

import gc
import http.server
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_mymsp.errors import SourceError
from prefect_mymsp.recipients import open_source
from tests.unit.recipients.tables import A, valid_rows, write


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/list.csv"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"phone\n0701740605\n")
            return
        self.send_response(302 if "away" in self.path else 403)
        self.send_header("Location", "http://example.invalid/list.csv")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        open_source(tmp_path / "missing.csv")
    with pytest.raises(SourceError, match="directory"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="NUL"):
        open_source("a\0b.csv")
    with pytest.raises(SourceError, match="path, a URL or a DataFrame, not list"):
        open_source([1])  # type: ignore[arg-type]


def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "phone\n")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(SourceError, match="no permission"):
            open_source(path)
    finally:
        os.seteuid(user)


def test_a_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.csv", "phone\n0701740605\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert valid_rows(open_source("~/a.csv")) == [(2, A, "0701740605")]


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "phone\n0701740605\n")
    source = open_source(path)
    write(path, "phone\n0701740605\n0701740606\n")
    with pytest.raises(SourceError, match="has changed"):
        list(source.chunks())
    path.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        list(source.chunks())


def test_a_download_leaves_nothing_behind(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = open_source(f"http://{server}/list.csv?token=secret")
    assert source.label == "127.0.0.1/list.csv"
    first, second = source.chunks(), source.chunks()  # two readers at once
    assert next(first).rows.to_pydict() == next(second).rows.to_pydict() == {"row": [2], "msisdn": [A]}
    del source, first, second
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_shows_no_secret(server: str) -> None:
    for path, message in (("secret-free", "HTTP 403"), ("away", "must not cross a network unencrypted")):
        with pytest.raises(SourceError, match=message) as caught:
            open_source(f"http://anna:pass@{server}/{path}?token=secret")
        assert "token" not in str(caught.value)
        assert "pass" not in str(caught.value)
        assert caught.value.__cause__ is None
    with pytest.raises(SourceError, match=r"cannot be downloaded \(ConnectError\)"):
        open_source("http://127.0.0.1:9/list.csv?token=secret")
    with pytest.raises(SourceError, match="Use https"):
        open_source("http://example.invalid/list.csv")


def test_other_urls(tmp_path: Path) -> None:
    path = write(tmp_path / "ett namn.csv", "phone\n0701740605\n")
    assert open_source(path.as_uri()).label == "ett namn.csv"
    with pytest.raises(SourceError, match="on this machine"):
        open_source("file://elsewhere/a.csv")
    with pytest.raises(SourceError, match="unknown scheme nosuch://"):
        open_source("nosuch://bucket/a.csv")
    with pytest.raises(SourceError, match="not a valid URL"):
        open_source("https://[/a.csv")


def test_storage_that_fsspec_opens() -> None:
    import fsspec  # type: ignore[import-untyped]

    with fsspec.open("memory://lists/a.csv", "wb") as file:
        file.write(b"phone\n0701740605\n")
    assert valid_rows(open_source("memory://lists/a.csv")) == [(2, A, "0701740605")]
    with pytest.raises(SourceError, match="FileNotFoundError"):
        open_source("memory://lists/b.csv")


def test_a_pipe_can_be_read_again(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"phone\n0701740605\n",))
    writer.start()
    source = open_source(pipe)
    writer.join()
    assert valid_rows(source) == valid_rows(source) == [(2, A, "0701740605")]
