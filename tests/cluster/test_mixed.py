"""One host sees a flock and another doesn't: one of them gets a clear error, and never are two inside."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import need
from support.gluster import GlusterHost, Volume
from support.herd import explain, failures, herd
from support.host import project_on
from support.journal import Journal
from support.project import Project, run

NOWHERE = "http://127.0.0.1:9/simple"
NO_FLOCK = "#include <errno.h>\nint flock(int fd, int operation) { errno = ENOSYS; return -1; }\n"
ERROR = b"uv-mutex: this host, which has no flock there, can't lock "


@pytest.fixture
def seeing(serve: Callable[..., Volume]) -> list[GlusterHost]:
    """A host whose flock works, and one whose doesn't, on one volume."""
    volume = serve()
    return [volume.host("host-a"), volume.host("host-b", flock=False)]


def sync(host: GlusterHost, project: str) -> subprocess.CompletedProcess[bytes]:
    """Run `uv sync` on a host."""
    return host.run(["uv", "sync"], host.env("newest", UV_OFFLINE="1"), project)


def test_flock_came_first(seeing: list[GlusterHost], tmp_path: Path) -> None:
    project = project_on(seeing[0], "demo", index_url=NOWHERE, backend_source=Journal(tmp_path / "journal").backend)
    assert sync(seeing[0], project).returncode == 0
    done = sync(seeing[1], project)
    assert done.returncode == 2
    assert done.stderr.startswith(ERROR)
    assert done.stderr.count(b"\n") == 1
    assert (
        b"/.uv-mutex/lock: the project is locked by flock on other hosts or before; "
        b"set UV_MUTEX_BACKEND=lease on all of them while none runs, and remove /"
    ) in done.stderr
    # What it says helps.
    seeing[0].reach(f"{project}/.uv-mutex/backend").unlink()
    for host in seeing:
        done = host.run(["uv", "sync"], host.env("newest", UV_OFFLINE="1", UV_MUTEX_BACKEND="lease"), project)
        assert done.returncode == 0, done.stderr.decode()


def test_lease_came_first(seeing: list[GlusterHost], tmp_path: Path) -> None:
    project = project_on(seeing[0], "demo", index_url=NOWHERE, backend_source=Journal(tmp_path / "journal").backend)
    for host in reversed(seeing):  # the one that has a choice follows
        done = sync(host, project)
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("attempt", range(3))
def test_both_come_at_once(seeing: list[GlusterHost], tmp_path: Path, attempt: int) -> None:
    journal = Journal(tmp_path / "journal")
    project = project_on(seeing[attempt % 2], "demo", index_url=NOWHERE, backend_source=journal.backend)
    words = ["uv", "sync", "--reinstall-package", "demo"]
    commands = [
        host.enter(words, env=host.env("newest", UV_OFFLINE="1", BUILD_SECONDS="0.5"), cwd=host.path(project))
        for host in seeing
    ]
    outcomes = herd(commands * 3, env={}, cwd=Path("/"))
    failed = failures(outcomes)
    assert len(failed) in (0, 3), explain(outcomes)
    assert all(ERROR in outcome.stderr and outcome.returncode == 2 for outcome in failed), explain(outcomes)
    done = [entry.what for entry in journal.entries()]
    assert done == ["enter", "leave"] * (len(outcomes) - len(failed))


@pytest.mark.parametrize("blind_first", [False, True])
def test_on_a_local_disk(project_factory: Callable[..., Project], tmp_path: Path, *, blind_first: bool) -> None:
    library = tmp_path / "noflock.so"
    (tmp_path / "noflock.c").write_text(NO_FLOCK)
    subprocess.run([need.executable("gcc"), "-shared", "-fPIC", "-o", library, tmp_path / "noflock.c"], check=True)
    project = project_factory()
    seeing = project.env("newest")
    blind = project.env("newest", LD_PRELOAD=os.fspath(library))
    first, second = (blind, seeing) if blind_first else (seeing, blind)
    done = run(project, ["uv", "sync"], first)
    assert done.returncode == 0, done.stderr.decode()
    assert (project.root / ".uv-mutex/backend").read_text() == ("lease\n" if blind_first else "flock\n")
    # Not fresh: the native launcher would answer it, and no library can be loaded before that.
    done = run(project, ["uv", "sync", "--reinstall"], second)
    if blind_first:
        assert done.returncode == 0, done.stderr.decode()
    else:
        assert (done.returncode, done.stderr.startswith(ERROR)) == (2, True), done.stderr.decode()
