"""The lease: who is kept out, whose lease is taken over and when, and what its former owner learns."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
from filelock import SoftFileLease
from support.locks import is_busy, take
from support.terminal import wait_until

from uv_mutex.errors import MutexError
from uv_mutex.locking import acquire, lease, lease_marker, process
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.process import Process
from uv_mutex.locking.wait_budget import WaitBudget

_take = functools.partial(take, backend="lease")
_is_busy = functools.partial(is_busy, backend="lease")


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """The lock of a project that was never locked."""
    return LockFile(str(tmp_path))


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is looked at each 0.05 s, and renewed each 0.1 s."""
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.05)


@pytest.fixture
def short(often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease of 2 s as well."""
    del often
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)


def _leave_marker(lock: LockFile, owner: Process, *, host: str = "node-3") -> Path:
    """What the call of an owner leaves that does nothing any more."""
    _take(lock).release()
    path = Path(lease.marker(lock))
    lines = ["filelock/2", f"pid={owner.pid}", f"host={host}", "mode=lease", "token=1f", "duration=30.0"]
    path.write_text("\n".join([*lines, f"process={owner.encode()}", ""]))
    return path


def _dead() -> Process:
    """A process of this kernel and namespace that is no more."""
    found = Process(process.boot_id(), process.pid_namespace(), 4_194_303, "5")
    assert found.is_alive is False
    return found


def test_excludes_until_release(lock: LockFile) -> None:
    held = _take(lock)
    assert (held.backend, held.shared) == ("lease", False)
    assert _is_busy(lock)
    assert _is_busy(lock, shared=True)
    held.release()
    assert not os.path.exists(lease.marker(lock))
    assert not _is_busy(lock)
    assert sorted(os.listdir(lock.folder)) == [".gitignore", "backend", "lock"]


def test_shared_ones_go_together_and_write_nothing(lock: LockFile) -> None:
    _take(lock).release()
    before = {
        path: path.stat().st_mtime_ns
        for path in [Path(lock.above, ".uv-mutex"), *Path(lock.above, ".uv-mutex").iterdir()]
    }
    first, second = _take(lock, shared=True), _take(lock, shared=True)
    assert first.still_excludes()
    first.release()
    second.release()
    assert {
        path: path.stat().st_mtime_ns
        for path in [Path(lock.above, ".uv-mutex"), *Path(lock.above, ".uv-mutex").iterdir()]
    } == before


class TestSharedOrder:
    """A shared holder leaves its record, then looks again; one that takes it alone looks for records afterwards."""

    def test_taken_alone_before_the_record(self, lock: LockFile) -> None:
        run = _take(lock, shared=True)
        edit = _take(lock)
        records: list[str] = []
        seen_by_edit = list(records)
        records.append("run")
        assert not seen_by_edit, "the control: with the first look alone, neither would see the other"
        assert not run.still_excludes()
        run.release()
        edit.release()
        assert _take(lock, shared=True).still_excludes()

    def test_taken_alone_after_the_second_look(self, lock: LockFile) -> None:
        run = _take(lock, shared=True)
        records = ["run"]
        assert run.still_excludes()
        edit = _take(lock)
        assert records, "the edit finds the record and waits"
        edit.release()

    def test_come_and_gone_before_the_record(self, lock: LockFile) -> None:
        """What the run found fresh is not what it was."""
        run = _take(lock, shared=True)
        time.sleep(0.02)  # as a uv takes, and longer than a tick of the kernel's clock
        edit = _take(lock)
        edit.record("uv add")
        edit.release()
        assert not os.path.exists(lease.marker(lock))
        assert not run.still_excludes()

    def test_other_shared_ones_do_no_harm(self, lock: LockFile) -> None:
        run = _take(lock, shared=True)
        other = _take(lock, shared=True)
        other.record("uv run")
        other.release()
        assert run.still_excludes()

    def test_flock_needs_no_second_look(self, lock: LockFile) -> None:
        run = acquire.take(lock, WaitBudget(0, quiet=True, backend="flock"), shared=True)
        assert run.still_excludes()
        with pytest.raises(MutexError):
            acquire.take(lock, WaitBudget(0, quiet=True))
        run.release()


class TestDeadOwner:
    """A dead owner keeps nobody waiting where it can be seen, and the others for the length of a lease."""

    def test_one_that_can_be_seen(self, lock: LockFile) -> None:
        marker = _leave_marker(lock, _dead())
        assert not _is_busy(lock)
        assert not marker.exists()
        _leave_marker(lock, _dead())
        assert not _is_busy(lock, shared=True)
        assert sorted(os.listdir(lock.folder)) == [".gitignore", "backend", "lock"]

    @pytest.mark.parametrize("other", ["boot", "namespace"])
    def test_one_on_a_host_of_the_same_name(self, lock: LockFile, other: str) -> None:
        """Its process id is none of ours, so filelock takes its lease away while it works."""
        owner = _dead()
        setattr(owner, other, "elsewhere")
        marker = _leave_marker(lock, owner, host=filelock._identity.host_name())
        assert _is_busy(lock)
        assert _is_busy(lock, shared=True)
        control = SoftFileLease(marker, lease_duration=30.0, heartbeat_interval=5.0)
        control.acquire(blocking=False)
        control.release()

    def test_one_that_lives(self, lock: LockFile) -> None:
        _leave_marker(lock, process.this_process())
        assert _is_busy(lock)

    @pytest.mark.usefixtures("short")
    @pytest.mark.parametrize("shared", [False, True])
    def test_one_that_cannot_be_seen(self, lock: LockFile, shared: bool) -> None:
        _leave_marker(lock, Process("elsewhere", "1", 1, "5"))
        began = time.monotonic()
        _take(lock, shared=shared).release()
        assert 2 <= time.monotonic() - began < 15
        assert sorted(os.listdir(lock.folder)) == [".gitignore", "backend", "lock"]

    @pytest.mark.usefixtures("often")
    def test_the_control_that_renews(self, lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lease, "LEASE_SECONDS", 4.0)  # a busy machine may hold the renewing thread up
        marker = _leave_marker(lock, Process("elsewhere", "1", 1, "5"))
        over = threading.Event()

        def renew() -> None:
            while not over.wait(0.2):
                os.utime(marker)

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            with pytest.raises(MutexError, match=r"gave up after 4\.5 s"):
                _take(lock, limit=4.5)
        finally:
            over.set()
            thread.join()

    @pytest.mark.usefixtures("short")
    def test_one_that_was_killed_before_it_wrote(self, lock: LockFile) -> None:
        _take(lock).release()
        Path(lease.marker(lock)).touch()
        assert _is_busy(lock)
        _take(lock).release()

    @pytest.mark.usefixtures("short")
    def test_a_waiter_that_was_killed_on_the_way(self, lock: LockFile) -> None:
        """Its claim stays, and the next claim comes a lease later."""
        marker = _leave_marker(lock, Process("elsewhere", "1", 1, "5"))
        sight = lease_marker.look(str(marker))
        assert sight
        Path(f"{marker}.dead.{sight.digest}.1").touch()
        began = time.monotonic()
        _take(lock).release()
        assert 4 <= time.monotonic() - began < 20
        assert sorted(os.listdir(lock.folder)) == [".gitignore", "backend", "lock"]


class TestNextOwner:
    """The marker of the next owner, which came at the very moment of a take-over, comes back."""

    @pytest.mark.parametrize("links", [True, False])
    def test_it_comes_back(self, lock: LockFile, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
        marker = _leave_marker(lock, _dead())
        rename = os.rename

        def late(source: str, target: str) -> None:
            if source == str(marker):
                marker.unlink()
                marker.write_text("token=next\n")
            rename(source, target)

        def no_links(*_words: object, **_options: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "rename", late)
        if not links:
            monkeypatch.setattr(os, "link", no_links)
        assert not lease_marker.DeadOwnerWatcher(str(marker), 30.0).clear()
        assert marker.read_text() == "token=next\n"
        assert sorted(os.listdir(lock.folder)) == [".gitignore", "backend", "lock", "lock.lease"]

    def test_a_third_keeps_what_it_has(self, lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
        marker = _leave_marker(lock, _dead())
        rename = os.rename

        def late(source: str, target: str) -> None:
            marker.unlink()
            marker.write_text("token=next\n")
            rename(source, target)
            marker.write_text("token=third\n")

        monkeypatch.setattr(os, "rename", late)
        assert not lease_marker.DeadOwnerWatcher(str(marker), 30.0).clear()
        assert marker.read_text() == "token=third\n"


class TestLost:
    """The owner learns that another call may hold the lease, and then touches nothing."""

    @pytest.mark.usefixtures("short")
    def test_not_while_it_renews(self, lock: LockFile) -> None:
        held = _take(lock)
        first = os.stat(lease.marker(lock)).st_mtime_ns
        wait_until(lambda: os.stat(lease.marker(lock)).st_mtime_ns > first)
        lost, longest = None, 0.0
        for _ in range(50):
            began = time.monotonic()
            time.sleep(0.05)
            lost = lost or held.lost()
            longest = max(longest, time.monotonic() - began)
        # Where this process itself was held up for so long, it can't know.
        assert lost is None or longest > 1
        held.release()

    def test_after_a_long_sleep(self, lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
        held = _take(lock)
        real = lease._clock
        monkeypatch.setattr(lease, "_clock", lambda: real() + 26)
        assert str(held.lost()).startswith("it was not renewed for 26 s")
        held.release()
        assert os.path.exists(lease.marker(lock)), "who takes over may be at it just now"

    def test_while_the_file_server_does_not_answer(self, lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
        """The child is killed in time although the thread that asks the server is stuck."""
        monkeypatch.setattr(lease, "LOOK_SECONDS", 0.05)
        held = _take(lock)
        asked, answer = threading.Event(), threading.Event()

        def hang(_path: str) -> None:
            asked.set()
            answer.wait(20)

        monkeypatch.setattr(lease_marker, "look", hang)
        assert asked.wait(20)
        real = lease._clock
        monkeypatch.setattr(lease, "_clock", lambda: real() + 26)
        assert str(held.lost()).startswith("it was not renewed for 26 s")
        answer.set()
        held.release()

    @pytest.mark.usefixtures("often")
    def test_when_the_marker_is_gone(self, lock: LockFile) -> None:
        held = _take(lock)
        os.unlink(lease.marker(lock))
        wait_until(lambda: held.lost() is not None)
        assert held.lost() == f"{lease.marker(lock)} is gone"
        held.release()

    @pytest.mark.usefixtures("often")
    def test_when_another_holds_it(self, lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
        held = _take(lock)

        def unanswered(_path: str) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as meanwhile:  # or it may look twice while there is none
            meanwhile.setattr(lease_marker, "look", unanswered)
            os.unlink(lease.marker(lock))
            other = _take(lock)
        wait_until(lambda: held.lost() is not None)
        assert held.lost() == "another call took it over"
        held.release()
        assert _is_busy(lock), "the marker of the other is left alone"
        assert other.lost() is None
        other.release()

    def test_not_when_a_waiter_moves_it_away_for_a_moment(
        self, lock: LockFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lease, "LOOK_SECONDS", 1000.0)
        held = _take(lock)
        assert isinstance(held, lease.HeldLease)
        marker = Path(lease.marker(lock))
        aside = marker.rename(f"{marker}.aside")
        held._look()
        assert held.lost() is None
        aside.rename(marker)
        held._look()
        aside = marker.rename(aside)
        held._look()
        assert held.lost() is None
        held._look()
        assert held.lost() is not None
        held.release()


def _once(monkeypatch: pytest.MonkeyPatch, name: str, happening: Callable[[Callable[..., Any]], None]) -> None:
    """Let something happen in the first call of a function of lease_marker."""
    real = getattr(lease_marker, name)
    first = iter([True])

    def call(*words: object) -> object:
        if next(first, False):
            happening(lambda: real(*words))
        return real(*words)

    monkeypatch.setattr(lease_marker, name, call)


@pytest.mark.parametrize("error", [errno.ENOENT, errno.ESTALE])
@pytest.mark.parametrize(("name", "shared"), [("create", False), ("look", True)])
def test_a_file_server_that_lost_sight_of_it_is_asked_again(
    lock: LockFile, monkeypatch: pytest.MonkeyPatch, error: int, name: str, shared: bool
) -> None:
    def fail(_real: Callable[..., Any]) -> None:
        raise OSError(error, os.strerror(error))

    _once(monkeypatch, name, fail)
    held = _take(lock, shared=shared)
    assert shared or _is_busy(lock)
    held.release()


def test_one_that_the_server_lists_and_this_host_does_not_find(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cluster/test_server_ticks.py has a real server. Nobody gets in, and nobody takes it away."""
    held = _take(lock)
    real = os.open

    def not_found(path: str, flags: int, *rest: Any, **options: Any) -> int:
        if path == lease.marker(lock) and not flags & os.O_CREAT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return real(path, flags, *rest, **options)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "open", not_found)
        assert _is_busy(lock, shared=True)
        assert not lease_marker.DeadOwnerWatcher(lease.marker(lock), 0.0).clear()
    held.release()
    assert not _is_busy(lock)


@pytest.mark.parametrize("when", ["before it is taken", "just after"])
def test_a_folder_that_is_removed(lock: LockFile, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """`git clean -fdx` at the worst moment: the lease is taken anew, in the new folder."""

    def remove(real: Callable[..., Any]) -> None:
        if when == "just after":
            assert real()
        shutil.rmtree(f"{lock.above}/.uv-mutex")

    _once(monkeypatch, "create", remove)
    held = _take(lock)
    assert _is_busy(lock)
    held.release()
    assert sorted(os.listdir(lock.folder)) == [".gitignore", "backend", "lock"]


def test_an_error_that_stays_is_told(lock: LockFile) -> None:
    _take(lock).release()
    Path(lease.marker(lock)).symlink_to("elsewhere")
    with pytest.raises(MutexError, match=r"cannot lock .*/lock: Too many levels of symbolic links"):
        _take(lock)


def test_full_disk_leaves_no_marker(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    _take(lock).release()

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(MutexError, match="No space left on device; free some space"):
            _take(lock)
    assert not _is_busy(lock)


def test_filelock_takes_part(lock: LockFile) -> None:
    """Earlier versions take the lease by way of filelock: they wait for ours, and ours for theirs."""
    _take(lock).release()
    theirs = SoftFileLease(lease.marker(lock), lease_duration=30.0, heartbeat_interval=5.0)
    held = _take(lock)
    with pytest.raises(filelock.Timeout):
        theirs.acquire(blocking=False)
    held.release()
    theirs.acquire(blocking=False)
    assert _is_busy(lock)
    assert _is_busy(lock, shared=True)
    theirs.release()
    assert not _is_busy(lock)


def test_the_thread_takes_no_signals(lock: LockFile) -> None:
    before = set(os.listdir("/proc/self/task"))
    held = _take(lock)
    (thread,) = set(os.listdir("/proc/self/task")) - before
    blocked = {
        name: int(Path(f"/proc/self/task/{name}/status").read_text().partition("SigBlk:")[2].split()[0], 16)
        for name in (thread, str(os.getpid()))
    }
    assert blocked[thread] & (1 << 14), "SIGTERM"
    assert not blocked[str(os.getpid())] & (1 << 14)
    held.release()
    wait_until(lambda: thread not in os.listdir("/proc/self/task"))
