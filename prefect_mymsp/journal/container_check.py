"""Detection of a journal that is lost when this container stops."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prefect_mymsp.database_urls import is_sqlite

if TYPE_CHECKING:
    from sqlalchemy import URL

#: Traces of container engines: environment variables, files below the root, names of control groups.
_ENVIRONMENT = ("KUBERNETES_SERVICE_HOST", "ECS_CONTAINER_METADATA_URI_V4", "CLOUD_RUN_JOB", "K_SERVICE")
_FILES = (".dockerenv", "run/.containerenv")
_CONTROL_GROUPS = re.compile(r"docker|kubepods|containerd|libpod")
#: File systems made of layers over an image, and file systems in memory.
_LAYERED = frozenset({"overlay", "aufs", "fuse-overlayfs"})
_MEMORY = frozenset({"tmpfs", "ramfs"})
#: A character that the mount table writes as an octal number.
_ESCAPE = re.compile(r"\\([0-7]{3})")


class _Mount(NamedTuple):
    """A mount: where it is, the kind of its file system, and which folder of that file system it shows."""

    point: str
    kind: str
    source: str


def ephemeral_storage_warning(url: URL, *, root: Path = Path("/"), env: Mapping[str, str] = os.environ) -> str | None:
    """Return a warning if the journal is lost when this container stops; None if it is not.

    Args:
        url: The journal's URL.
        root: The root folder, in which the system's own files are read.
        env: The environment.
    """
    if not is_sqlite(url) or not url.database:
        return None
    path = Path(os.path.realpath(url.database))
    mount = _mount_of(path, _read(root / "proc/self/mountinfo"))
    if mount is None:
        return None
    is_layered = mount.point == "/" and mount.kind in _LAYERED
    if not (is_layered or _is_in_container(root, env)):
        return None
    if mount.point == "/":
        place, end = "this container's own file system", "the container stops"
    elif mount.kind in _MEMORY:
        place, end = "this container's memory", "the container stops"
    elif "kubernetes.io~empty-dir" in mount.source:
        place, end = "an emptyDir of this pod", "the pod stops"
    else:
        return None
    return (
        f"The journal {path} is in {place} and is lost when {end}. A campaign that is started again would then send "
        "every message again. Keep the journal in PostgreSQL (a CampaignJournal block, or "
        "PREFECT_INTEGRATIONS_MYMSP_JOURNAL_URL) or on a persistent volume."
    )


def _is_in_container(root: Path, env: Mapping[str, str]) -> bool:
    return (
        any(env.get(name) for name in _ENVIRONMENT)
        or any((root / name).exists() for name in _FILES)
        or _CONTROL_GROUPS.search(_read(root / "proc/1/cgroup")) is not None
    )


def _mount_of(path: Path, mountinfo: str) -> _Mount | None:
    """Return the mount that holds a path, from the text of ``/proc/pid/mountinfo``; see proc(5)."""
    holder: _Mount | None = None
    for line in mountinfo.splitlines():
        mount_fields, _, file_system = line.partition(" - ")
        fields, kind = mount_fields.split(), file_system.partition(" ")[0]
        if len(fields) < 5 or not kind:
            continue
        source, point = (_ESCAPE.sub(lambda match: chr(int(match[1], 8)), field) for field in fields[3:5])
        # A later mount hides an earlier one on the same point.
        if path.is_relative_to(point) and (holder is None or len(point) >= len(holder.point)):
            holder = _Mount(point, kind, source)
    return holder


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
