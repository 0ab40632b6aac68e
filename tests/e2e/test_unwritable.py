"""Where the shim can write nothing, bare uv works, and so must the shim. Bare uv is the control of each test."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import need, sandbox
from support.disk import small_disk
from support.herd import explain, failures, herd
from support.journal import Journal
from support.project import Project, run

Done = subprocess.CompletedProcess[bytes]
Factory = Callable[..., Project]
#: The words before a call in such a place.
Prefix = list[str]

#: root without its privileges: an owner of what root owns, bound by permissions like anyone else.
_UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
_OTHER_USER = 12345
_RUN = ["run", "python", "-c", "print('ran')"]


@contextmanager
def _another_users_folder(project: Project) -> Iterator[Prefix]:
    """A Dockerfile's WORKDIR belongs to root, `COPY --chown` gives its files to the user."""
    need.root()
    need.executable("setpriv")
    os.chown(project.root, _OTHER_USER, _OTHER_USER)
    yield _UNPRIVILEGED


@contextmanager
def _sandbox(project: Project) -> Iterator[Prefix]:
    """An agent's sandbox: only uv's cache and a scratch folder may be written. access(2) knows nothing of it."""
    scratch = project.root.parent / "scratch"
    scratch.mkdir()
    words = [sys.executable, "-I", sandbox.__file__, f"{scratch}:{_cache(project)}:/dev"]
    done = subprocess.run([*words, "true"], check=False)
    need.that(done.returncode != sandbox.MISSING, "needs a kernel with Landlock")
    yield [*words, "env", f"TMPDIR={scratch}"]


@contextmanager
def _full_disk(project: Project) -> Iterator[Prefix]:
    """A disk without room, or a quota that is used up."""
    fill = project.root / "fill"
    _until_full(lambda number: fill.write_bytes(bytes(number << 16)))
    yield []
    fill.unlink()


@contextmanager
def _no_inodes(project: Project) -> Iterator[Prefix]:
    fill = project.root / "fill"
    fill.mkdir()
    _until_full(lambda number: (fill / str(number)).mkdir())
    yield []


def _until_full(write: Callable[[int], object]) -> None:
    try:
        for number in range(9999):
            write(number)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    else:
        raise AssertionError("the disk is too large")


@contextmanager
def _read_only_mount(project: Project) -> Iterator[Prefix]:
    need.root()
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'
    yield ["unshare", "--mount", "sh", "-c", mount, str(project.root)]


_PLACES = [_another_users_folder, _sandbox, _full_disk, _no_inodes, _read_only_mount]


@pytest.fixture
def project(project_factory: Factory, tmp_path: Path) -> Iterator[Project]:
    """A project on a small disk of its own, with a complete environment that was made without the shim."""
    outside = project_factory()
    with small_disk(tmp_path / "disk", kilobytes=8000, inodes=2000) as disk:
        inside = Project(disk / "demo", outside.name, outside.python, outside.shim)
        inside.root.mkdir()
        inside.pyproject.write_bytes(outside.pyproject.read_bytes())
        assert run(inside, ["uv", "sync"], _env(inside, shimmed=False)).returncode == 0
        yield inside


def _cache(project: Project) -> Path:
    return project.root.parents[1] / "cache"  # not on the small disk


def _env(project: Project, **options: object) -> dict[str, str]:
    env = project.env("newest", **options)  # type: ignore[arg-type]
    return {**env, "UV_CACHE_DIR": str(_cache(project))}


def _both(project: Project, words: list[str], **env: str) -> tuple[Done, Done]:
    """What a command does without the shim, and what it does with it."""
    bare = run(project, words, {**_env(project, shimmed=False), **env})
    return bare, run(project, words, {**_env(project), **env}, timeout=60)


@pytest.mark.parametrize("place", _PLACES, ids=lambda place: place.__name__[1:])
def test_a_complete_environment_just_runs(place: Callable[[Project], object], project: Project) -> None:
    with place(project) as prefix:  # type: ignore[attr-defined]
        bare, done = _both(project, [*prefix, "uv", *_RUN], UV_MUTEX="require")
        assert (bare.returncode, bare.stdout) == (0, b"ran\n"), bare.stderr
        assert (done.returncode, done.stdout, done.stderr) == (0, b"ran\n", bare.stderr)
    assert not (project.root / ".uv-mutex/lock").exists()


@pytest.mark.parametrize("words", [["sync"], _RUN], ids=lambda words: words[0])
def test_in_another_users_folder_all_calls_work(words: list[str], project_factory: Factory) -> None:
    """Nor is there an environment yet, but a folder for it."""
    outcomes = []
    for name, shimmed in (("bare", False), ("shim", True)):
        project = project_factory(name)
        assert run(project, ["uv", "lock"], project.env("newest", shimmed=False)).returncode == 0
        project.venv.mkdir()
        with _another_users_folder(project) as prefix:
            environ = project.env("newest", shimmed=shimmed, UV_MUTEX="require")
            done = run(project, [*prefix, "uv", *words], environ)
        assert done.returncode == 0, done.stderr.decode()
        assert b"uv-mutex" not in done.stderr
        outcomes.append(done.stdout)
        assert not project.root.joinpath(".uv-mutex").exists()
    assert outcomes[0] == outcomes[1]


@pytest.mark.serial
@pytest.mark.parametrize("shimmed", [True, False])
def test_in_another_users_folder_one_builds_at_a_time(shimmed: bool, project_factory: Factory, tmp_path: Path) -> None:
    """The folder itself is locked. Each call has a TMPDIR and a cache of its own, as a job has."""
    journal = Journal(tmp_path / "journal")
    project = project_factory(backend_source=journal.backend)
    env = project.env("0.7.8", shimmed=shimmed, UV_MUTEX="require", BUILD_SECONDS="0.5")
    assert run(project, ["uv", "sync"], project.env("0.7.8", shimmed=False)).returncode == 0
    before = len(journal.entries())
    commands = []
    for number in range(6):
        (tmp_path / f"job-{number}").mkdir()
        own = [f"TMPDIR={tmp_path}/job-{number}", f"UV_CACHE_DIR={tmp_path}/job-{number}/cache"]
        commands.append([*_UNPRIVILEGED, "env", *own, "uv", "sync", "--reinstall-package", "demo"])
    with _another_users_folder(project):
        outcomes = herd(commands, env=env, cwd=project.root)
    together, most = 0, 0
    for entry in journal.entries()[before:]:
        together += 1 if entry.what == "enter" else -1
        most = max(most, together)
    if shimmed:
        assert not failures(outcomes), explain(outcomes)
        assert len(journal.entries()) == before + 12
    assert (most == 1) == shimmed


def _strace(inject: str) -> Prefix:
    calls = inject.partition(":")[0]
    return [need.executable("strace"), "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={inject}"]


def test_a_lock_that_nfs_lets_nobody_take_for_reading(project: Project) -> None:
    """NFS wants a file open for writing before it locks it for one alone; another user's file is open for reading."""
    need.root()
    assert run(project, ["uv", "sync"], _env(project)).returncode == 0
    lock = project.root / ".uv-mutex/lock"
    for path in (lock.parent, lock):
        os.chown(path, _OTHER_USER, _OTHER_USER)
    prefix = [*_strace("flock:error=EBADF:when=1"), *_UNPRIVILEGED]
    bare, done = _both(project, [*_UNPRIVILEGED, "uv", *_RUN])
    assert (bare.returncode, bare.stdout) == (0, b"ran\n"), bare.stderr
    done = run(project, [*prefix, "uv", *_RUN], _env(project))
    assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr
    assert b"uv-mutex" not in done.stderr, "the shared lock can be had at the second try"
    done = run(project, [*prefix, "uv", "version", "--bump", "patch"], _env(project))
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode().splitlines()[0] == (
        f"uv-mutex: warning: cannot lock {lock} alone: it may only be read, and NFS wants more; give yourself write "
        "access; this call goes on beside others who may only read it"
    )
    with lock.open("rb") as held:  # but not beside one who may write
        fcntl.flock(held, fcntl.LOCK_EX)
        done = run(project, [*prefix, "uv", "version", "--bump", "patch"], {**_env(project), "UV_MUTEX_TIMEOUT": "0.2"})
        assert (done.returncode, b"gave up after 0.2 s" in done.stderr) == (75, True), done.stderr


@pytest.mark.parametrize("words", [_RUN, ["sync"]], ids=lambda words: words[0])
def test_where_nothing_can_be_locked_a_call_goes_on(words: list[str], project: Project) -> None:
    """A folder that may be neither written nor listed."""
    with _another_users_folder(project) as prefix:
        project.root.chmod(0o711)
        words = [*prefix, "uv", *words]
        bare, done = _both(project, words)
        assert bare.returncode == 0, bare.stderr
        assert (done.returncode, done.stdout) == (0, bare.stdout)
        reason = f"cannot lock {project.root}: Permission denied; give yourself write access there"
        assert f"uv-mutex: warning: {reason}; this call goes on without a lock\n" in done.stderr.decode()
        assert done.stderr.count(b"uv-mutex") == 1
        done = run(project, words, {**_env(project), "UV_MUTEX": "require"})
        assert done.returncode == 2
        assert (
            done.stderr.decode() == f"uv-mutex: {reason}; UV_MUTEX=require asks for the lock, unset it to do without\n"
        )


@pytest.mark.parametrize("holder", ["parent", "descriptor"])
def test_flock_of_the_folder_does_not_stop_the_call_below(holder: str, project: Project) -> None:
    """`flock . uv run …` is what people used before."""
    need.executable("flock")
    script = {"parent": 'flock -o . "$@"', "descriptor": 'exec 9< . && flock 9 && "$@"'}[holder]
    words = ["sh", "-c", script, "sh", "uv", *_RUN]
    bare, done = _both(project, words)
    assert (bare.returncode, done.returncode, done.stdout) == (0, 0, b"ran\n"), done.stderr
    assert (project.root / ".uv-mutex/lock").exists()
    subprocess.run(["rm", "-r", project.root / ".uv-mutex"], check=True)
    with _another_users_folder(project) as prefix:
        done = run(project, [*words[:4], *prefix, *words[4:]], _env(project), timeout=60)
    assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr
    assert b"it seems that a process above this call holds it; use uv-mutex exec instead of flock" in done.stderr


def test_without_a_process_for_the_preparation_uv_runs_all_the_same(project: Project) -> None:
    """`ulimit -u`, when there is no room for one more."""
    (project.root / "uv.lock").touch()  # not fresh
    prefix = _strace("clone:error=EAGAIN:when=1")  # Python's fork; threads are another system call
    done = run(project, [*prefix, "uv", *_RUN], _env(project))
    assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr
    reason = "Resource temporarily unavailable; allow more (ulimit -u), or try again"
    line, *_ = done.stderr.decode().splitlines()
    assert line.startswith("uv-mutex: warning: cannot start a process for ")
    assert line.endswith(f"{reason}; this call goes on without a lock")
    done = run(project, [*prefix, "uv", "sync", "--reinstall"], {**_env(project), "UV_MUTEX": "require"})
    assert done.returncode == 2
    assert reason in done.stderr.decode()


def test_a_wait_without_a_thread_ends_in_time(project: Project) -> None:
    assert run(project, ["uv", "sync"], _env(project)).returncode == 0
    with (project.root / ".uv-mutex/lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        done = run(
            project,
            [*_strace("clone,clone3:error=EAGAIN:when=1"), "uv", "sync"],
            {**_env(project), "UV_MUTEX_TIMEOUT": "5"},
        )
    assert time.monotonic() - began >= 5
    assert done.returncode == 75
    first, last = done.stderr.decode().splitlines()
    assert first.startswith("uv-mutex: waiting for other uv calls (")
    assert last.startswith("uv-mutex: gave up after 5 s")
