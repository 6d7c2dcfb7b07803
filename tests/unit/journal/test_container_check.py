"""Where a journal is lost with its container, by the mounts of the system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from prefect_mymsp.journal.container_check import ephemeral_storage_warning

# As Docker and Kubernetes mount them.
OVERLAY = "1410 1299 0:182 / / rw,relatime master:430 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A"
DISK = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw"
VOLUME = "1420 1410 8:1 /var/lib/docker/volumes/journal/_data /data rw,relatime master:1 - ext4 /dev/sda1 rw"
CLAIM = "1421 1410 0:60 / /data rw,relatime - nfs4 10.0.0.7:/export/pvc-1 rw,vers=4.1"
EMPTY_DIR = "1422 1410 8:1 /var/lib/kubelet/pods/0a/volumes/kubernetes.io~empty-dir/tmp /data rw - ext4 /dev/sda1 rw"
MEMORY = "1423 1410 0:70 / /data rw - tmpfs tmpfs rw"
SPACE = r"1424 1410 8:1 /srv /with\040space rw - ext4 /dev/sda1 rw"
HIDDEN = "1425 1410 8:1 /srv /data rw - ext4 /dev/sda1 rw"

System = Callable[..., Path]


@pytest.fixture
def system(tmp_path: Path) -> System:
    """A system's own files, with what is mounted and what a container engine has left."""

    def make(*mounts: str, file: str | None = ".dockerenv", cgroup: str = "0::/\n") -> Path:
        for name, text in {"proc/self/mountinfo": "\n".join(mounts) + "\n", "proc/1/cgroup": cgroup}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        if file:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
        return tmp_path

    return make


def warn(root: Path, journal: str = "sqlite:////data/mymsp/journal.db", **env: str) -> str | None:
    return ephemeral_storage_warning(make_url(journal), root=root, env=env)


@pytest.mark.parametrize(
    ("mounts", "where"),
    [
        ([OVERLAY], "own file system"),
        ([DISK], "own file system"),
        ([OVERLAY, SPACE], "own file system"),
        ([OVERLAY, MEMORY], "memory"),
        ([OVERLAY, HIDDEN, MEMORY], "memory"),
        ([OVERLAY, EMPTY_DIR], "emptyDir"),
    ],
    ids=["layers", "disk", "another mount", "memory", "hidden mount", "emptyDir"],
)
def test_a_file_that_is_lost_with_its_container(system: System, mounts: list[str], where: str) -> None:
    warning = warn(system(*mounts))
    assert warning is not None
    assert where in warning
    assert "/data/mymsp/journal.db" in warning
    assert "PostgreSQL" in warning


@pytest.mark.parametrize("mounts", [[OVERLAY, VOLUME], [OVERLAY, CLAIM], [OVERLAY, MEMORY, HIDDEN]])
def test_a_file_on_a_volume_gives_no_warning(system: System, mounts: list[str]) -> None:
    assert warn(system(*mounts)) is None


def test_a_mount_point_with_a_space(system: System) -> None:
    assert warn(system(OVERLAY, SPACE), "sqlite:////with space/journal.db") is None


def test_a_database_server_gives_no_warning(system: System) -> None:
    assert warn(system(OVERLAY), "postgresql://db.example.com/mymsp") is None


@pytest.mark.parametrize(
    ("marks", "env"),
    [
        ({"file": ".dockerenv"}, {}),
        ({"file": "run/.containerenv"}, {}),
        ({"cgroup": "12:pids:/kubepods/besteffort/pod0a/b1\n0::/\n"}, {}),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}),
    ],
    ids=["Docker", "Podman", "control group", "Kubernetes"],
)
def test_a_container_is_recognised(system: System, marks: dict[str, str], env: dict[str, str]) -> None:
    root = system(DISK, **{"file": None, **marks})
    assert warn(root, **env) is not None


def test_an_overlay_root_is_a_container(system: System) -> None:
    assert warn(system(OVERLAY, file=None)) is not None


def test_a_machines_own_disk_gives_no_warning(system: System) -> None:
    assert warn(system(DISK, file=None)) is None


def test_a_system_without_a_mount_table_gives_no_warning(tmp_path: Path) -> None:
    assert warn(tmp_path, KUBERNETES_SERVICE_HOST="10.96.0.1") is None
