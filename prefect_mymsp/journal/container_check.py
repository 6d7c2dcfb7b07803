"""Whether a journal outlives the process: a file inside a container is gone with it, and with it who got what."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import URL

#: What container engines leave in a container's environment, its root, and the names of its control groups.
_ENVIRONMENT = ("KUBERNETES_SERVICE_HOST", "ECS_CONTAINER_METADATA_URI_V4", "CLOUD_RUN_JOB", "K_SERVICE")
_FILES = (".dockerenv", "run/.containerenv")
_GROUPS = re.compile(r"docker|kubepods|containerd|libpod")
#: File systems whose contents are layers over an image, or memory.
_LAYERED = frozenset({"overlay", "aufs", "fuse-overlayfs"})
_MEMORY = frozenset({"tmpfs", "ramfs"})


def ephemeral_storage_warning(url: URL, *, root: Path = Path("/"), env: Mapping[str, str] = os.environ) -> str | None:
    """Why a journal is lost with the container this runs in, for a person to read; None where it is not.

    Args:
        url: Where the journal is.
        root: Where the system's own files are looked for.
        env: The environment.
    """
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    path = Path(os.path.realpath(url.database))
    found = _mount(path, _read(root / "proc/self/mountinfo"))
    if found is None:
        return None
    point, kind, source = found
    layered = point == "/" and kind in _LAYERED
    if not (layered or _in_container(root, env)):
        return None
    if point == "/":
        where = "in this container's own file system: it is lost when the container ends"
    elif kind in _MEMORY:
        where = "in this container's memory: it is lost when the container ends"
    elif "kubernetes.io~empty-dir" in source:
        where = "in an emptyDir of this pod: it is lost when the pod ends"
    else:
        return None
    return (
        f"The journal {path} is {where}, and a campaign that is started again then sends everything again. Keep it in "
        "PostgreSQL (a CampaignJournal block, or PREFECT_INTEGRATIONS_MYMSP_JOURNAL_URL), or on a volume that stays."
    )


def _in_container(root: Path, env: Mapping[str, str]) -> bool:
    return (
        any(env.get(name) for name in _ENVIRONMENT)
        or any((root / name).exists() for name in _FILES)
        or _GROUPS.search(_read(root / "proc/1/cgroup")) is not None
    )


def _mount(path: Path, mountinfo: str) -> tuple[str, str, str] | None:
    """Mount point, kind of file system and mounted folder of what holds a path: proc(5), ``/proc/pid/mountinfo``."""
    found: tuple[str, str, str] | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.partition(" ")[0]
        if len(fields) < 5 or not kind:
            continue
        source, point = (re.sub(r"\\([0-7]{3})", lambda one: chr(int(one[1], 8)), each) for each in fields[3:5])
        # A later mount hides an earlier one on the same point.
        if path.is_relative_to(point) and (found is None or len(point) >= len(found[0])):
            found = point, kind, source
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
