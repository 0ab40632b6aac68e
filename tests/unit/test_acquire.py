"""The lock: one inside at a time, whoever asks and however; who holds it is known, and the wait for it ends in time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import need
from support.terminal import wait_until

from uv_mutex.errors import FAILED, TIMED_OUT, MutexError
from uv_mutex.locking import acquire, lease, lock_file, wait
from uv_mutex.locking.acquire import Lock, Patience
from uv_mutex.locking.lock_file import Place
from uv_mutex.locking.owner import Holder, read_holder
from uv_mutex.uv.project import Project

_SOURCES = str(Path(__file__).parents[2] / "src")

# Another process that locks as filelock does, says so, and lets go when its stdin ends.
_FILELOCK = """\
import os, sys
from filelock import lock_descriptor
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print(lock_descriptor(fd, blocking=False), flush=True)
sys.stdin.read()
"""

# Another process that takes the lock as the shim does.
_TAKE = f"""\
import os, sys
sys.path.insert(0, {_SOURCES!r})
from uv_mutex.locking import acquire
from uv_mutex.locking.lock_file import Place
print("begun", flush=True)
taken = acquire.take(Place(sys.argv[1], sys.argv[2]), acquire.Patience(None, quiet=True))
print("taken", os.stat(sys.argv[1]).st_ino, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The lock of a project that was never locked."""
    return Place(f"{tmp_path}/.uv-mutex/lock", str(tmp_path))


def _take(place: Place, *, shared: bool = False, limit: float | None = 20) -> Lock:
    return acquire.take(place, Patience(limit, quiet=True), shared=shared)


@contextlib.contextmanager
def _another(program: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            yield other
        finally:
            other.kill()


def _said(other: subprocess.Popen[str]) -> str:
    assert other.stdout
    return other.stdout.readline().strip()


def _let_go(other: subprocess.Popen[str]) -> None:
    assert other.stdin
    other.stdin.close()


def _filelock_gets_it(place: Place) -> bool:
    with _another(_FILELOCK, place.path) as other:
        return _said(other) == "True"


def _busy(place: Place, *, shared: bool = False) -> bool:
    try:
        _take(place, shared=shared, limit=0).release()
    except MutexError as error:
        if error.status != TIMED_OUT:
            raise
        return True
    return False


def test_take_makes_a_folder_that_git_ignores(place: Place, tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    _take(place).release()
    folder = tmp_path / ".uv-mutex"
    assert "*" in (folder / ".gitignore").read_text().splitlines()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o775
    assert stat.S_IMODE((folder / "lock").stat().st_mode) == 0o664  # whoever may work there may lock
    assert not (folder / "lock").read_bytes()


def test_release_leaves_the_file(place: Place) -> None:
    held = _take(place)
    inode = os.stat(place.path).st_ino
    held.release()
    assert os.stat(place.path).st_ino == inode
    assert not _busy(place)


def test_filelock_contends(place: Place) -> None:
    held = _take(place)
    assert not _filelock_gets_it(place)
    held.release()
    assert _filelock_gets_it(place)


@pytest.mark.parametrize(("first", "second", "together"), [(0, 0, False), (0, 1, False), (1, 0, False), (1, 1, True)])
def test_only_shared_goes_with_shared(place: Place, first: int, second: int, together: bool) -> None:
    held = _take(place, shared=bool(first))
    assert _busy(place, shared=bool(second)) != together
    held.release()
    assert not _busy(place, shared=bool(second))


def test_waits_until_filelock_lets_go(place: Place) -> None:
    _take(place).release()
    with _another(_FILELOCK, place.path) as other:
        assert _said(other) == "True"
        patience = Patience(None, quiet=True)
        threading.Timer(0.5, _let_go, [other]).start()
        acquire.take(place, patience).release()
        assert 0.3 < patience.waited < 30


def test_a_dead_holder_blocks_nobody(place: Place) -> None:
    with _another(_TAKE, place.path, place.mode_of) as other:
        assert (_said(other), _said(other).split()[0]) == ("begun", "taken")
        assert _busy(place)
        other.kill()
        other.wait()
        assert not _busy(place)


def test_gives_up_in_time_and_names_the_holder(place: Place) -> None:
    held = _take(place)
    held.record("uv sync")
    began = time.monotonic()
    with pytest.raises(MutexError) as caught:
        _take(place, limit=0.3)
    assert caught.value.status == TIMED_OUT
    assert 0.3 <= time.monotonic() - began < 20
    who = f"uv sync (pid {os.getpid()} on {os.uname().nodename}, 0 s)"
    fact, _, remedy = str(caught.value).partition("; ")
    assert fact == f"gave up after 0.3 s (UV_MUTEX_TIMEOUT) waiting for {who}, which holds {place.path}"
    assert remedy == "try again later, or allow more time"
    held.release()
    assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL
    assert not _busy(place)


def test_no_patience_at_all_never_ends_otherwise(place: Place) -> None:
    """The alarm is due before the wait has begun, and must not go off outside it."""
    held = _take(place)
    assert all(_busy(place) for _ in range(200))
    held.release()


def test_patience_is_for_all_locks_together(place: Place, tmp_path: Path) -> None:
    held = _take(place)
    patience = Patience(0.4, quiet=True)
    patience.waited = 0.3
    began = time.monotonic()
    with pytest.raises(MutexError, match=r"after 0\.4 s"):
        acquire.take(place, patience)
    assert time.monotonic() - began >= 0.1
    assert patience.waited >= 0.4
    held.release()
    acquire.take(Place(f"{tmp_path}/.uv-mutex/other", str(tmp_path)), patience).release()  # free: no patience needed


@pytest.mark.parametrize("deleted", [".uv-mutex", ".uv-mutex/lock"])
def test_whoever_waits_follows_to_the_new_file(place: Place, tmp_path: Path, deleted: str) -> None:
    """`git clean -fdx` while one holds the lock and another waits: the next one makes a new file."""
    first = _take(place)
    with _another(_TAKE, place.path, place.mode_of) as waiter:
        assert _said(waiter) == "begun"
        wait_until(lambda: _blocked_in_flock(waiter.pid))
        old = tmp_path / deleted
        shutil.rmtree(old) if old.is_dir() else old.unlink()
        second = _take(place)
        inode = os.stat(place.path).st_ino
        first.release()  # the waiter has the old file's lock now
        wait_until(lambda: _blocked_in_flock(waiter.pid, inode))
        second.release()
        assert _said(waiter) == f"taken {inode}"


def _blocked_in_flock(pid: int, inode: int | None = None) -> bool:
    """Whether a process waits for a flock, as the kernel sees it."""
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if " -> FLOCK" in line]
    return any(int(fields[5]) == pid and inode in (None, int(fields[6].split(":")[2])) for fields in waiting)


def test_record_says_who_holds_it_until_release(place: Place) -> None:
    held = _take(place)
    assert read_holder(place.path) is None
    held.record("uv sync")
    holder = read_holder(place.path)
    assert holder
    assert (holder.pid, holder.host, holder.command) == (os.getpid(), os.uname().nodename, "uv sync")
    assert abs(time.time() - holder.since) < 60
    assert holder.token == held.token
    held.release()
    assert read_holder(place.path) is None


def test_record_of_a_dead_holder_is_written_over(place: Place) -> None:
    _take(place).release()
    Path(place.path).write_bytes(Holder(1, "elsewhere", 1.5, "uv sync " + "x" * 500).encode())
    held = _take(place)
    held.record("uv add")
    assert Path(place.path).read_text().count("\n") == 1
    holder = read_holder(place.path)
    assert holder
    assert (holder.pid, holder.command) == (os.getpid(), "uv add")
    held.release()


def test_shared_records_nothing(place: Place) -> None:
    held = _take(place, shared=True)
    held.record("uv sync")
    assert not Path(place.path).read_bytes()
    assert held.token == ""
    held.release()


def test_record_stays_one_line_of_bounded_length() -> None:
    data = Holder(1, "host", 2.0, "uv add\nevil " + "é" * 5000).encode()
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    assert len(data) <= 4096
    assert data.startswith(b"1 2.0 host uv add evil ")


@pytest.mark.parametrize("content", [b"", b"\n", b"12\n", b"a b c d\n", b"1 x host uv\n", b"\xff\xfe\0", b"1 2 3"])
def test_garbage_names_nobody(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lock"
    path.write_bytes(content)
    assert read_holder(str(path)) is None


def test_read_holder_of_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("absent", "fifo", "link", "."):
        assert read_holder(str(tmp_path / name)) is None


def test_holder_on_another_host_is_timed_by_our_own_clock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    place = Place(str(path), str(tmp_path))
    path.write_bytes(Holder(4121, "node-3", 5.0, "uv sync").encode())
    assert wait.describe_holder(place, 14.2) == "uv sync (pid 4121 on node-3, 14 s)"
    path.write_bytes(Holder(4121, os.uname().nodename, time.time() - 100, "uv sync").encode())
    assert wait.describe_holder(place, 14.2) == f"uv sync (pid 4121 on {os.uname().nodename}, 100 s)"
    path.write_bytes(b"")
    assert wait.describe_holder(place, 14.2) == "other uv calls (14 s)"


@pytest.mark.parametrize(("text", "limit"), [("", None), ("0", 0.0), ("1.5", 1.5), (" 600 ", 600.0)])
def test_patience(text: str, limit: float | None) -> None:
    assert acquire.patience({"UV_MUTEX_TIMEOUT": text}, quiet=False).limit == limit
    assert acquire.patience({}, quiet=True).limit is None


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "inf", "1e99", "5s"])
def test_patience_refuses(text: str) -> None:
    with pytest.raises(MutexError, match=f"^UV_MUTEX_TIMEOUT={text} is no number of seconds") as caught:
        acquire.patience({"UV_MUTEX_TIMEOUT": text}, quiet=False)
    assert caught.value.status == FAILED


class TestHeldAbove:
    """A nested call goes straight through only while the very call that marked its environment holds the lock."""

    def test_without_a_mark(self, place: Place) -> None:
        held = _take(place)
        assert not acquire.held_above(place, {})
        assert not acquire.held_above(place, {acquire.HELD: ""})
        held.release()

    @pytest.mark.parametrize("shared", [False, True])
    def test_while_it_is_held(self, place: Place, shared: bool) -> None:
        held = _take(place, shared=shared)
        held.record("uv sync")
        assert acquire.held_above(place, {acquire.HELD: held.mark})
        assert acquire.held_above(place, {acquire.HELD: f"1:2:other {held.mark}"})
        held.release()

    def test_the_check_takes_nothing(self, place: Place) -> None:
        held = _take(place, shared=True)
        assert acquire.held_above(place, {acquire.HELD: held.mark})
        assert not _busy(place, shared=True)
        held.release()
        assert not acquire.held_above(
            place, {acquire.HELD: f"{os.stat(place.path).st_dev}:{os.stat(place.path).st_ino}:"}
        )
        assert not _busy(place)

    def test_not_once_it_is_free(self, place: Place) -> None:
        held = _take(place)
        held.record("uv sync")
        mark = held.mark
        held.release()
        assert not acquire.held_above(place, {acquire.HELD: mark})

    def test_not_when_another_call_holds_it(self, place: Place) -> None:
        """A daemon that outlived its call still carries the mark."""
        held = _take(place)
        held.record("uv sync")
        mark = held.mark
        held.release()
        other = _take(place)
        other.record("uv add")
        assert not acquire.held_above(place, {acquire.HELD: mark})
        assert acquire.held_above(place, {acquire.HELD: other.mark})
        other.release()

    def test_not_when_one_without_a_record_holds_it(self, place: Place) -> None:
        """A call on a fresh environment, a read-only lock file, or somebody's own flock."""
        held = _take(place)
        held.record("uv sync")
        mark = held.mark
        held.release()
        other = _take(place, shared=True)
        assert not acquire.held_above(place, {acquire.HELD: mark})
        other.release()

    def test_not_for_another_lock(self, place: Place, tmp_path: Path) -> None:
        held = _take(place)
        held.record("uv sync")
        elsewhere = Place(f"{tmp_path}/.uv-mutex/other", str(tmp_path))
        other = _take(elsewhere)
        assert not acquire.held_above(elsewhere, {acquire.HELD: held.mark})
        assert not acquire.held_above(Place(f"{tmp_path}/absent/lock", str(tmp_path)), {acquire.HELD: held.mark})
        other.release()
        held.release()

    @pytest.mark.parametrize("mark", [":", "1", "a:b:c", "::", "  "])
    def test_not_for_garbage(self, place: Place, mark: str) -> None:
        held = _take(place)
        assert not acquire.held_above(place, {acquire.HELD: mark})
        held.release()


def test_a_file_that_may_only_be_read_is_enough() -> None:
    need.root()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        place = Place(f"{folder}/.uv-mutex/lock", folder)
        _take(place).release()
        assert stat.S_IMODE(os.stat(place.path).st_mode) == 0o644
        os.seteuid(65534)
        try:
            held = _take(place)
            held.record("uv sync")
        finally:
            os.seteuid(0)
        assert held.token == ""
        assert _busy(place)
        assert acquire.held_above(place, {acquire.HELD: held.mark})
        held.release()
        assert not _busy(place)


@pytest.mark.parametrize("call", ["open", "mkdir", "stat", "link"])
def test_a_folder_that_another_host_makes_at_this_moment(
    place: Place, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """GlusterFS answers ESTALE then, once in some hundred calls, on whatever is asked next."""
    real = getattr(os, call)
    stale = iter([True] * 3)

    def sometimes(*words: object, **options: object) -> object:
        if next(stale, False):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), *words[:1])
        return real(*words, **options)

    monkeypatch.setattr(os, call, sometimes)
    taken = _take(place)
    assert not _filelock_gets_it(place)
    taken.release()
    assert lock_file.recorded_backend(place) == "flock"
    assert sorted(os.listdir(Path(place.path).parent)) == [".gitignore", "backend", "lock"]


@pytest.mark.parametrize("kind", ["folder", "symlink", "fifo", "file above"])
def test_what_cannot_be_locked(place: Place, tmp_path: Path, kind: str) -> None:
    path = Path(place.path)
    if kind == "file above":
        path.parent.touch()
    else:
        path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "symlink":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(MutexError, match=r"cannot \w+ .*/\.uv-mutex/lock: .*UV_MUTEX=off") as caught:
        _take(place)
    assert caught.value.status == FAILED
    assert str(caught.value).endswith("or set UV_MUTEX=off to run uv unlocked")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "elsewhere").exists()


def test_lost_when_the_file_server_dropped_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    held = _take(place)

    def flock(*_words: int) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", flock)
        assert held.lost() == "the file server dropped it (Transport endpoint is not connected)"
    held.release()


def test_lost_when_the_lease_is_gone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another's marker stands where ours was; filelock sees it when it renews."""
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    held = acquire.take(place, Patience(20, quiet=True, backend="lease"))
    assert isinstance(held, lease.Lease)
    assert held.lost() is None
    Path(lease.marker(place)).unlink()
    wait_until(lambda: held._lease.compromise is not None)
    assert str(held.lost()).startswith("its lease is gone (")
    held.release()


def test_lost_when_another_took_it_over(place: Place) -> None:
    held = _take(place)
    held.record("uv sync")
    assert held.lost() is None
    Path(place.path).write_bytes(Holder(1, "node-3", 5.0, "uv add").encode())
    assert held.lost() == "another call took it over"
    held.release()
    assert Path(place.path).read_bytes(), "another's record was wiped"


@pytest.mark.parametrize(
    ("environment", "keeps_lockfile", "expected"),
    [
        ("project/.venv", False, ["project/.uv-mutex/lock"]),
        ("project/.venv", True, ["project/.uv-mutex/lock"]),
        ("other/env", False, ["project/.uv-mutex/lock", "other/.uv-mutex/env.lock"]),
        ("other/env", True, ["other/.uv-mutex/env.lock"]),
        ("other/.venv", True, ["other/.uv-mutex/lock"]),
        ("other/deep/er/env", True, ["other/deep/er/.uv-mutex/env.lock"]),
    ],
)
def test_places(tmp_path: Path, environment: str, keeps_lockfile: bool, expected: list[str]) -> None:
    for name in ("project", "other"):
        (tmp_path / name).mkdir()
    root = str(tmp_path / "project")
    project = Project(root, root, root, str(tmp_path / environment))
    found = lock_file.needed(project, keeps_lockfile=keeps_lockfile)
    assert [place.path for place in found] == [str(tmp_path / item) for item in expected]


class _AlarmWhileRestoring:
    """The module _signal, but the alarm goes off once more while its handler is being taken away."""

    def __getattr__(self, name: str) -> object:
        return getattr(signal, name)

    def signal(self, number: int, handler: object) -> object:
        if handler == signal.SIG_DFL:
            signal.pthread_kill(threading.get_ident(), number)
        return signal.signal(number, handler)  # type: ignore[arg-type]


def test_an_alarm_after_the_wait_does_no_harm(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    held = _take(place)
    monkeypatch.setattr(wait, "signal", _AlarmWhileRestoring())
    assert _busy(place)
    held.release()


def test_the_alarm_works_where_its_signal_was_blocked(place: Place) -> None:
    held = _take(place)
    code = f"import os, signal, sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])\n{_TAKE}"
    with _another(code.replace("None", "0.1"), place.path, place.mode_of) as other:
        assert other.wait(5) == 1
    held.release()
