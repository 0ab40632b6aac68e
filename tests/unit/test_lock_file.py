"""Who may create the lock file and who may not still take one lock, and nobody is led to write elsewhere."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import need
from support.locks import is_busy, take

from uv_mutex import files
from uv_mutex.errors import MutexError, NoLockError
from uv_mutex.locking import acquire, network_cache, process, waiters
from uv_mutex.locking.lock_file import FLOCK, LockFile
from uv_mutex.locking.wait_budget import WaitBudget
from uv_mutex.records import history

ALICE, BOB = 61001, 61002


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that all users can enter, which root owns."""
    need.root()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def user(uid: int) -> Iterator[None]:
    """Have the rights of another user."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def _lock(folder: Path) -> LockFile:
    return LockFile(str(folder), instead=str(folder))


class TestAgreement:
    """Alice may not write the folder, root may."""

    def test_who_cannot_create_a_file_locks_the_folder(self, shared: Path) -> None:
        lock = _lock(shared)
        with user(ALICE):
            held = take(lock)
        assert (lock.path, lock.folder) == (str(shared), None)
        assert (lock.recorded_backend(), lock.record_backend(FLOCK)) == (FLOCK, FLOCK)
        with user(BOB):
            assert is_busy(_lock(shared))
            assert is_busy(_lock(shared), shared=True)
        held.release()
        with user(BOB):
            assert not is_busy(_lock(shared))
        assert os.listdir(shared) == []

    def test_who_can_create_it_waits_for_the_folder(self, shared: Path) -> None:
        with user(ALICE):
            held = take(_lock(shared))
        assert is_busy(_lock(shared))
        held.release()
        assert not is_busy(_lock(shared))
        assert {".gitignore", "backend", "lock"} <= set(os.listdir(shared / ".uv-mutex"))

    def test_control_without_the_lock_of_the_folder(self, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(LockFile, "_lock_stand_ins", lambda _lock: [])
        with user(ALICE):
            held = take(_lock(shared))
        assert not is_busy(_lock(shared)), "two calls had the lock at once"
        held.release()

    def test_who_waited_for_the_folder_takes_the_file(self, shared: Path) -> None:
        """The file was created while it waited."""
        lock = _lock(shared)
        with user(ALICE):
            fd = lock.open()
            assert lock.is_current(fd)
        os.close(fd)
        take(_lock(shared)).release()
        with user(ALICE):
            fd = os.open(shared, os.O_RDONLY)
            assert not lock.is_current(fd)
            os.close(fd)
            held = take(lock)
        assert lock.path == f"{shared}/.uv-mutex/lock"
        assert is_busy(_lock(shared))
        held.release()

    def test_a_file_that_exists_is_locked_by_both(self, shared: Path) -> None:
        held = take(_lock(shared))
        with user(ALICE):
            assert is_busy(_lock(shared))
        held.release()
        with user(ALICE):
            held = take(_lock(shared))
        assert is_busy(_lock(shared))
        held.release()

    def test_without_a_folder_instead_it_is_an_error(self, shared: Path) -> None:
        with user(ALICE), pytest.raises(MutexError, match=r"cannot create .*/lock: Permission denied; give yourself"):
            LockFile(str(shared)).open()

    def test_a_full_disk_locks_the_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(files, "create", full)
            lock = _lock(tmp_path)
            held = take(lock)
            assert lock.folder is None
        assert is_busy(_lock(tmp_path)), "there is room again, but the folder is still locked"
        held.release()
        assert not is_busy(_lock(tmp_path))
        assert (tmp_path / ".uv-mutex/lock").exists()

    def test_an_input_output_error_is_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(files, "create", broken)
        with pytest.raises(MutexError, match=r"cannot create .*/lock: Input/output error; mend that") as caught:
            take(_lock(tmp_path))
        assert not isinstance(caught.value, NoLockError)

    def test_a_lease_cannot_be_had_of_a_folder(self, shared: Path) -> None:
        with user(ALICE), pytest.raises(NoLockError, match="by lease: no file can be created; make that possible"):
            acquire.take(_lock(shared), WaitBudget(0, quiet=True, backend="lease"))


def test_no_flock_of_a_folder_and_nothing_else(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_words: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with user(ALICE), pytest.raises(NoLockError, match=f"cannot lock {shared}: No locks available; mend that"):
        take(_lock(shared))


def test_no_descriptor_for_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the folder would be another lock than the others take."""
    lock = _lock(tmp_path)
    take(lock).release()

    def open_file(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(files, "open_file", open_file)
    with pytest.raises(NoLockError, match=r"Too many open files; allow more open files \(ulimit -n\)"):
        take(lock)


class TestStrangers:
    """Folders and files that somebody put there to be written through."""

    def test_a_symlink_is_not_followed(self, shared: Path) -> None:
        (shared / "private").mkdir(mode=0o700)
        (shared / ".uv-mutex").symlink_to("private")
        lock = _lock(shared)
        with pytest.raises(MutexError, match=r"Not a directory; its folder is a file or a symlink; remove that"):
            take(lock)
        self._write_all(lock)
        assert os.listdir(shared / "private") == []

    def test_the_folder_of_a_stranger_is_only_read(self, shared: Path) -> None:
        """Anybody may make one in a folder like /tmp."""
        shared.chmod(0o1777)
        with user(ALICE):
            (shared / ".uv-mutex").mkdir(mode=0o777)
        lock = _lock(shared)
        with user(BOB):
            held = take(lock)
            assert lock.path == str(shared)
            self._write_all(LockFile(str(shared)))
        assert os.listdir(shared / ".uv-mutex") == []
        held.release()
        with user(ALICE):
            take(_lock(shared)).release()
        with user(BOB):
            held = take(lock)
        assert lock.path == f"{shared}/.uv-mutex/lock", "what is there can be agreed on"
        assert fcntl.fcntl(held._fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        held.release()
        with user(ALICE):
            os.chmod(f"{shared}/.uv-mutex/lock", 0o600)
        with user(BOB):
            take(lock).release()
            assert lock.path == str(shared)

    def test_a_symlink_of_a_stranger_stops_nobody(self, shared: Path) -> None:
        shared.chmod(0o1777)
        (shared / "private").mkdir(mode=0o777)
        with user(ALICE):
            (shared / ".uv-mutex").symlink_to("private")
        lock = _lock(shared)
        with user(BOB):
            take(lock).release()
        assert lock.path == str(shared)
        assert os.listdir(shared / "private") == []

    @pytest.mark.parametrize(("owner", "mode"), [(0, 0o1777), (BOB, 0o755), (ALICE, 0o755), (ALICE, 0o775)])
    def test_whom_a_caller_trusts(self, shared: Path, owner: int, mode: int) -> None:
        """Root, itself, the owner of the folder above, and all where others may replace what is in that folder."""
        above = shared / "above"
        above.mkdir()
        (above / ".uv-mutex").mkdir()
        os.chown(above / ".uv-mutex", owner, owner)
        above.chmod(mode)
        os.chown(above, ALICE if mode == 0o755 and owner == ALICE else 0, 0)
        with user(BOB):
            os.close(files.open_folder(f"{above}/.uv-mutex"))

    @staticmethod
    def _write_all(lock: LockFile) -> None:
        sign = waiters.WaiterFile(lock, "uv sync", 5.0)
        sign.show()
        sign.remove()
        history.append(lock, "uv sync", 5.0, waited=1, held=1, prepared=True, status=0)
        lock.record_backend(FLOCK)
        network_cache._be_last(lock, "client")


@pytest.mark.parametrize("sticky", [True, False])
def test_the_sticky_bit_keeps_a_held_lock_in_its_place(shared: Path, sticky: bool) -> None:
    """Without it (the control) another user moves the lock away, and the next call takes a new one."""
    shared.chmod(0o1777 if sticky else 0o777)
    with user(ALICE):
        held = take(_lock(shared))
    assert stat.S_IMODE((shared / ".uv-mutex").stat().st_mode) == stat.S_IMODE(shared.stat().st_mode)
    lock = shared / ".uv-mutex/lock"
    with user(BOB):
        if sticky:
            with pytest.raises(PermissionError):
                lock.rename(lock.with_name("old"))
            assert is_busy(_lock(shared))
        else:
            lock.rename(lock.with_name("old"))
            assert not is_busy(_lock(shared))
    held.release()


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o775, 0o2770, 0o1777])
def test_nothing_is_wider_than_the_folder_above(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    umask = os.umask(0)
    try:
        lock = _lock(tmp_path)
        held = take(lock)
        history.append(lock, "uv sync", 5.0, waited=1, held=1, prepared=True, status=0)
        network_cache._be_last(lock, "client")
        held.release()
    finally:
        os.umask(umask)
    for path in (tmp_path / ".uv-mutex", *(tmp_path / ".uv-mutex").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o777 & ~mode == 0, path


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_cannot_be_written_without_a_name(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS has no O_TMPFILE, some file systems have no hard links."""

    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(files, "_create_without_name", lambda *_: False)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "file"
    for content in (b"first", b"second"):
        files.create(str(path), 0o640, content)
        assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    files.replace(str(path), 0o600, b"third")
    assert path.read_bytes() == b"third"
    assert os.listdir(tmp_path) == ["file"]


def test_a_disk_that_is_full_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write, room = os.write, [3]

    def full(fd: int, content: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(fd, content[: room.pop()])

    monkeypatch.setattr(os, "write", full)
    for write in (files.create, files.replace):
        room[:] = [3]
        with pytest.raises(OSError, match="No space left"):
            write(str(tmp_path / "file"), 0o600, b"content")
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_replaced_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace(str(tmp_path / "file"), 0o600, b"content")
    assert os.listdir(tmp_path) == ["file"]


def test_who_may_hold_a_flock(tmp_path: Path) -> None:
    """A descriptor that this process found open, but none that it opened."""
    fd = os.open(tmp_path, os.O_RDONLY)
    assert not process.may_hold_flock(fd)
    found = os.dup(fd)
    os.set_inheritable(found, True)
    assert process.may_hold_flock(fd)
    os.close(found)
    fcntl.flock(fd, fcntl.LOCK_SH)
    assert not process.may_hold_flock(fd)
    os.close(fd)
