"""How far a flock reaches, read from mount tables as they look on machines that aren't at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uv_mutex.commands.doctor import lock_checks
from uv_mutex.commands.doctor.finding import FINE, WARNING
from uv_mutex.locking import filesystem
from uv_mutex.locking.lock_file import LockFile

_ROOT = b"22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"

# Type, mount options, super options; the reach, what the doctor makes of it, and words of that.
_CASES = [
    ("ext4", "rw", "rw", filesystem.THIS_HOST, FINE, "which this host has for itself; nothing to do"),
    (
        "nfs4",
        "rw",
        "rw,vers=4.2,local_lock=none",
        filesystem.EVERYWHERE,
        FINE,
        "make sure with `uv-mutex doctor --peer`",
    ),
    ("nfs", "rw", "rw,vers=3,nolock,local_lock=all", filesystem.THIS_HOST, FINE, "(local_lock=all, nolock) reaches"),
    ("nfs", "rw", "rw,vers=3,local_lock=flock", filesystem.THIS_HOST, FINE, "on nfs (local_lock=flock) reaches"),
    ("lustre", "rw", "rw,flock,lazystatfs", filesystem.EVERYWHERE, FINE, "lustre, whose flock reaches every host"),
    (
        "lustre",
        "rw",
        "rw,localflock,lazystatfs",
        filesystem.THIS_HOST,
        FINE,
        "by lease (flock on lustre (localflock) reaches this",
    ),
    (
        "beegfs",
        "rw",
        "rw,cfgFile=/etc/beegfs/beegfs-client.conf",
        filesystem.THIS_HOST,
        FINE,
        "by lease (flock on beegfs reaches this host alone)",
    ),
    (
        "fuse.sshfs",
        "rw",
        "rw,user_id=0",
        filesystem.THIS_HOST,
        FINE,
        "by lease (flock on fuse.sshfs reaches this host alone)",
    ),
    ("fuse.s3fs", "rw", "rw", filesystem.THIS_HOST, FINE, "this host alone"),
    ("fuse.gcsfuse", "rw", "rw", filesystem.THIS_HOST, FINE, "this host alone"),
    ("fuse.glusterfs", "rw", "rw", filesystem.EVERYWHERE, FINE, "reaches every host"),
    ("ceph", "rw", "rw", filesystem.EVERYWHERE, FINE, "reaches every host"),
    ("gpfs", "rw", "rw", filesystem.EVERYWHERE, FINE, "reaches every host"),
    ("ocfs2", "rw", "rw,localflocks", filesystem.THIS_HOST, FINE, "ocfs2 (localflocks)"),
    (
        "fuse.somenew",
        "rw",
        "rw",
        filesystem.UNKNOWN,
        WARNING,
        "isn't known here; run `uv-mutex doctor --peer` on two hosts",
    ),
]


def table(folder: Path, kind: str, options: str = "rw", more: str = "rw") -> bytes:
    """A mount table with a file system of this type at a folder."""
    point = os.fsencode(folder).replace(b"\\", b"\\134").replace(b" ", b"\\040").replace(b"\n", b"\\012")
    return _ROOT + b"90 22 0:50 / " + point + f" {options} shared:7 - {kind} server:/x {more}\n".encode()


@pytest.mark.parametrize("case", _CASES, ids=lambda case: f"{case[0]} {case[2]}")
def test_reach(tmp_path: Path, case: tuple[str, str, str, str, int, str]) -> None:
    kind, options, more, reach, grade, words = case
    faked = table(tmp_path, kind, options, more)
    mount = filesystem.find(f"{tmp_path}/a/b", faked)
    assert mount
    assert (mount.kind, mount.point, mount.source) == (kind, str(tmp_path), "server:/x")
    assert mount.flock_reach == reach
    found = list(lock_checks.check_lock(LockFile(str(tmp_path)), faked))
    assert max(each.grade for each in found) == grade, [*map(str, found)]
    assert any(words in str(each) for each in found), [*map(str, found)]


def test_a_chroot_shows_no_mount_of_its_root(tmp_path: Path) -> None:
    mount = filesystem.find(f"{tmp_path}/not-there", b"90 22 0:50 / /proc rw - proc proc rw\n")
    if not os.major(tmp_path.stat().st_dev):  # as on tmpfs, which can't be told from a network then
        assert mount is None
    else:
        assert mount
        assert mount.is_local
        assert mount.point == str(tmp_path)


def test_lustre_without_flock() -> None:
    mount = filesystem.find("/l", b"90 22 0:50 / /l rw - lustre mgs:/x rw,noflock\n")
    assert mount
    assert mount.flock_reach == filesystem.NOWHERE


def test_pretending_does_no_harm_to_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_MUTEX_BACKEND", "lease")
    lock = LockFile(str(tmp_path))
    found = list(lock_checks.check_lock(lock, table(tmp_path, "beegfs")))
    assert [each.grade for each in found] == [FINE]
    assert "locked by lease (UV_MUTEX_BACKEND says so), and that excludes" in str(found[0])


@pytest.mark.parametrize("name", ["a b", "a\nb", "a\\b", "a\\040b", "é"])
def test_odd_paths(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    mount = filesystem.find(str(folder), table(folder, "nfs"))
    assert mount
    assert (mount.kind, mount.point) == ("nfs", str(folder))
    mount = filesystem.find(f"{folder}x", table(folder, "nfs"))
    assert mount
    assert mount.kind == "ext4"


@pytest.mark.parametrize("faked", [b"", b"\n", b"x", b"1 2 3 4 / rw", b"1 2 3 4 / rw - ", b"\xff\x00 " * 9])
def test_a_table_that_cannot_be_read(faked: bytes) -> None:
    assert filesystem.find("/", faked) is None


def test_the_real_table() -> None:
    mount = filesystem.find("/proc/self")
    assert mount
    assert mount.kind == "proc"
