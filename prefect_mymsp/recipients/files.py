"""The bytes of a source: from a path, a URL, or a pipe."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from prefect_mymsp.errors import SourceError

_COPY_BYTES = 1 << 20
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+://")
_HTTP_TIMEOUT_S = 30.0


class SourceFile:
    """The bytes of a file, readable from the start as often as needed, by several readers at once.

    Attributes:
        label: A name that is safe to log: the file's name, or a URL's host and path.
    """

    def __init__(self, label: str, path: Path | None, spool: IO[bytes] | None) -> None:
        self.label = label
        self._path = path
        self._spool = spool
        if spool is not None:
            weakref.finalize(self, spool.close)
        self._version = None if path is None else _version(path)

    def chunks(self, size: int) -> Iterator[bytes]:
        """Read the file from its start, at most ``size`` bytes at a time.

        Raises:
            SourceError: The file cannot be read, or changed since it was opened.
        """
        try:
            if self._path is None:
                yield from self._spooled_chunks(size)
                return
            with self._path.open("rb") as file:
                while True:
                    chunk = file.read(size)
                    # After each read: the file must be the one in which columns and encoding were detected.
                    if _version(self._path) != self._version:
                        raise self.changed()
                    if not chunk:
                        return
                    yield chunk
        except OSError as error:
            raise SourceError(f"{self.label}: cannot be read ({_os_reason(error)}).") from error

    def _spooled_chunks(self, size: int) -> Iterator[bytes]:
        spool = self._spool
        position = 0
        while spool is not None:
            spool.seek(position)
            chunk = spool.read(size)
            if not chunk:
                return
            position += len(chunk)
            yield chunk

    def changed(self) -> SourceError:
        """The error for a file that changed since it was opened."""
        return SourceError(f"{self.label}: the file has changed since it was opened. Start again.")


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _os_reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def open_file(source: str) -> SourceFile:
    """Open a path or a URL.

    Raises:
        SourceError: It cannot be opened.
    """
    if not _URL.match(source):
        return _open_path(source)
    try:
        parts = urlsplit(source)
        host, scheme = parts.hostname or "", parts.scheme.lower()
    except ValueError:
        raise SourceError("The source is not a valid URL.") from None
    if scheme == "file":
        if host not in ("", "localhost"):
            raise SourceError(f"file://{host}/…: a file URL must name a file on this machine.")
        return _open_path(url2pathname(unquote(parts.path)))
    label = f"{host}{parts.path}"
    if scheme in ("http", "https"):
        return SourceFile(label, None, _download(source, label))
    return SourceFile(label, None, _copy_remote(source, scheme, label))


def check_path(source: str) -> None:
    """Check that a path names a file that can be opened. Nothing is read from it; URLs and pipes are not checked.

    Raises:
        SourceError: It cannot be opened.
    """
    if not _URL.match(source):
        with _path_errors(source):
            _locate(source)


def _open_path(name: str) -> SourceFile:
    with _path_errors(name):
        path, is_file = _locate(name)
        if is_file:
            return SourceFile(path.name, path, None)
        with path.open("rb") as pipe:  # /dev/stdin, <(command): can be read only once
            return SourceFile(path.name, None, _copy(pipe))


def _locate(name: str) -> tuple[Path, bool]:
    """The path of a file that can be opened, and whether it is a regular file."""
    if not name or "\0" in name:
        raise SourceError("The source's file name is empty or contains a NUL character.")
    path = Path(name).expanduser()
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise SourceError(f"{path}: this is a directory. Give a CSV file in it.")
    if is_file := stat.S_ISREG(mode):
        path.open("rb").close()
    return path, is_file


@contextlib.contextmanager
def _path_errors(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise SourceError(f"{name}: there is no such file (looked from {Path.cwd()}).") from error
    except PermissionError as error:
        raise SourceError(f"{name}: no permission to read this file. Ask for permission, or copy it.") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: ~user of an unknown user
        reason = _os_reason(error) if isinstance(error, OSError) else str(error)
        raise SourceError(f"{name}: cannot be read ({reason}).") from error


def _copy(file: IO[bytes]) -> IO[bytes]:
    # A TemporaryFile has no name where the system allows it: no other user can open it and nothing stays behind.
    spool = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        shutil.copyfileobj(file, spool, _COPY_BYTES)
    except BaseException:
        spool.close()
        raise
    return spool


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _download(url: str, label: str) -> IO[bytes]:
    import httpx

    def check_encrypted(request: httpx.Request) -> None:  # called for every hop of a redirect
        if request.url.scheme != "https" and not _is_loopback(request.url.host):
            raise SourceError(f"{label}: phone numbers must not cross a network unencrypted. Use https://.")

    spool = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with (
            httpx.Client(
                follow_redirects=True, timeout=_HTTP_TIMEOUT_S, event_hooks={"request": [check_encrypted]}
            ) as client,
            client.stream("GET", url) as response,
        ):
            _check_status(response.status_code, label)
            for chunk in response.iter_bytes():
                spool.write(chunk)
    except BaseException as error:
        spool.close()
        if isinstance(error, httpx.HTTPError | httpx.InvalidURL | httpx.StreamError | OSError):
            # Not chained: httpx puts the whole URL, with any secret in it, into its messages.
            raise SourceError(f"{label}: cannot be downloaded ({type(error).__name__}).") from None
        raise
    return spool


def _check_status(status: int, label: str) -> None:
    if status != 200:
        raise SourceError(f"{label}: the server returned HTTP {status}. Check the address and its permissions.")


def _copy_remote(url: str, scheme: str, label: str) -> IO[bytes]:
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        raise SourceError(f"{label}: {scheme}:// needs the package fsspec. Install it.") from None
    try:
        with fsspec.open(url, "rb") as file:
            return _copy(file)
    except ImportError as error:
        # fsspec's own message, "Install s3fs to access S3", names a package, not the address.
        raise SourceError(f"{label}: {scheme}:// cannot be opened here. {error}") from None
    except Exception as error:  # noqa: BLE001  every storage has its own errors, with the address in their messages
        unknown = isinstance(error, ValueError) and "protocol" in str(error).lower()
        reason = f"unknown scheme {scheme}://" if unknown else type(error).__name__
        raise SourceError(f"{label}: cannot be opened ({reason}).") from None
