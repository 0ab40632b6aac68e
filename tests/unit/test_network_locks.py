"""What a lock is on a file system of a network, by the mount table: which kind, which file, and for how long."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import need

from uv_mutex import errors, files
from uv_mutex.commands.doctor import lock_checks
from uv_mutex.commands.doctor.finding import BAD, FINE
from uv_mutex.errors import TIMED_OUT, MutexError
from uv_mutex.locking import acquire, filesystem, observed_lock, owner, wait
from uv_mutex.locking.flock import HeldLock
from uv_mutex.locking.lock_file import FLOCK, LEASE, LockFile
from uv_mutex.locking.wait_budget import WaitBudget
from uv_mutex.records import runs
from uv_mutex.shim.project_locks import project_locks
from uv_mutex.shim.session import LockSession
from uv_mutex.uv.project import Project

Mounted = Callable[[Path, str, str], bytes]

ALICE, BOB = 61001, 61002
#: Type and options of file systems whose flock is this host's own, and what the messages call them.
KEEPING = [
    ("nfs", "rw,vers=3,nolock,local_lock=all", "nfs (local_lock=all, nolock)"),
    ("nfs", "rw,vers=3,local_lock=flock", "nfs (local_lock=flock)"),
    ("lustre", "rw,localflock", "lustre (localflock)"),
    ("beegfs", "rw", "beegfs"),
    ("virtiofs", "rw", "virtiofs"),
    ("9p", "rw,trans=virtio", "9p"),
    ("fakeowner", "rw,fakeowner", "fakeowner"),
]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """No warning was printed yet."""
    monkeypatch.setattr(errors, "_warned", set())
    for name in ("UV_MUTEX", "UV_MUTEX_BACKEND"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> Mounted:
    """Lets a folder lie on another file system, as the mount table says; returns the table."""
    find = filesystem.find

    def mount(folder: Path, kind: str, options: str) -> bytes:
        text = f"22 1 254:1 / / rw - ext4 /dev/vda1 rw\n90 22 0:50 / {folder} rw - {kind} server:/x {options}\n"
        table = text.encode()
        monkeypatch.setattr(filesystem, "find", lambda path, _=None: find(path, table))
        return table

    return mount


def take(lock: LockFile, *, shared: bool = False, limit: float = 20, backend: str | None = None) -> HeldLock:
    """Take a lock, and wait for it for some seconds."""
    return acquire.take(lock, WaitBudget(limit, quiet=True, backend=backend), shared=shared)


def is_busy(lock: LockFile, *, shared: bool = False) -> bool:
    """Whether another holds a lock."""
    try:
        take(lock, shared=shared, limit=0).release()
    except MutexError as error:
        if error.status != TIMED_OUT:
            raise
        return True
    return False


def edit(lock: LockFile) -> None:
    """Take a lock alone, as `uv add` does, and release it."""
    held = take(lock)
    held.record("uv add")
    held.release()


def observe(lock: LockFile) -> observed_lock.ObservedLock:
    """Look at a lock that nobody has."""
    seen = observed_lock.observe(lock)
    assert seen
    return seen


class TestObserved:
    """Over NFS a shared lock is a look before and a look after; whoever takes it alone names itself first."""

    @pytest.fixture
    def lock(self, mounted: Mounted, tmp_path: Path) -> LockFile:
        """A lock over NFS that was taken before."""
        mounted(tmp_path, "nfs4", "rw,vers=4.2,local_lock=none")
        edit(LockFile(str(tmp_path)))
        return LockFile(str(tmp_path))

    def test_nobody_comes(self, lock: LockFile) -> None:
        first, second = observe(lock), observe(lock)
        assert first.still_excludes()
        first.release()
        assert second.still_excludes()
        assert not is_busy(lock), "nothing was taken"

    def test_somebody_has_it(self, lock: LockFile) -> None:
        held = take(lock)
        assert observed_lock.observe(lock), "the control: it is free until it names its owner"
        held.record("uv add")
        assert observed_lock.observe(lock) is None
        held.release()
        assert observed_lock.observe(lock)

    def test_somebody_takes_it_before_the_record(self, lock: LockFile) -> None:
        run = observe(lock)
        held = take(lock)
        held.record("uv add")
        assert not run.still_excludes()
        held.release()

    def test_somebody_has_come_and_gone(self, lock: LockFile) -> None:
        """What the run found fresh is not what it was."""
        run = observe(lock)
        time.sleep(0.02)  # as a uv takes, and longer than a tick of the kernel's clock
        edit(lock)
        assert not run.still_excludes()
        assert observe(lock).still_excludes()

    def test_not_where_time_goes_in_seconds(self, lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
        stat = os.stat

        def of_ext3(path: str, **options: bool) -> os.stat_result:
            found = stat(path, **options)
            seconds = {f"st_{kind}time_ns": int(found[at]) * 10**9 for at, kind in ((8, "m"), (9, "c"))}
            return os.stat_result(found[:10], seconds)

        monkeypatch.setattr(os, "stat", of_ext3)
        assert observed_lock.observe(lock) is None

    def test_somebody_died(self, lock: LockFile) -> None:
        held = take(lock)
        held.record("uv add")
        held.release(unfinished=True)
        assert observed_lock.observe(lock) is None

    @pytest.mark.parametrize("call", ["pwrite", "fsync"])
    def test_no_room_for_the_name(self, lock: LockFile, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        run, held = observe(lock), take(lock)
        monkeypatch.setattr(os, call, refuse)
        held.record("uv add")
        assert observed_lock.observe(lock) is None
        assert not run.still_excludes()
        assert held.lost() is None
        held.release()
        assert observe(lock).still_excludes()
        held = take(lock)
        held.record("uv add")
        held.release(unfinished=True)
        after = take(lock)
        after.record("uv add")
        assert after.previous_owner_died
        after.release()

    def test_another_file(self, lock: LockFile) -> None:
        """`git clean -fdx`, and a new call."""
        run = observe(lock)
        shutil.rmtree(os.path.dirname(lock.path))
        assert not run.still_excludes()
        edit(lock)
        assert not run.still_excludes()

    @pytest.mark.parametrize("is_known", [False, True])
    def test_calls_below_a_dead_owner(self, lock: LockFile, is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []
        monkeypatch.setattr(files, "reread_folder", asked.append)
        run = observe(lock)
        run.levels_known = is_known
        assert run.still_excludes()
        assert asked == ([] if is_known else [lock.folder])
        Path(f"{lock.path}.1").touch()
        assert not run.still_excludes(), "somebody worked there, and may be gone"
        run = observe(lock)
        assert run.still_excludes()
        held = take(lock.beside("1"))
        held.record("uv add")
        assert not run.still_excludes()
        assert observed_lock.observe(lock) is None
        held.release()
        assert not run.still_excludes()
        assert observe(lock).still_excludes()

    def test_its_state_in_a_note(self, lock: LockFile) -> None:
        (before,) = observe(lock).lines
        assert before.startswith("lock ")
        assert before.endswith(f" {lock.path}")
        assert observe(lock).lines == [before]
        time.sleep(0.02)  # likewise
        edit(lock)
        assert observe(lock).lines != [before]
        Path(f"{lock.path}.1").touch()
        assert [line.rpartition(" ")[2] for line in observe(lock).lines] == [lock.path, f"{lock.path}.1"]

    def test_a_link_and_no_file(self, lock: LockFile) -> None:
        os.unlink(lock.path)
        assert observed_lock.observe(lock) is None
        Path(lock.path).symlink_to("backend")
        assert observed_lock.observe(lock) is None

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("ext4", "rw"),
            ("nfs", "rw,vers=3,nolock,local_lock=all"),
            ("nfs4", "rw,vers=4.2,nocto"),
            ("fuse.glusterfs", "rw"),
            ("ceph", "rw"),
        ],
    )
    def test_not_where_a_look_does_not_tell(self, mounted: Mounted, tmp_path: Path, kind: str, options: str) -> None:
        edit(LockFile(str(tmp_path)))
        mounted(tmp_path, kind, options)
        assert observed_lock.observe(LockFile(str(tmp_path))) is None

    @pytest.mark.parametrize("kind", ["nfs4", "fuse.glusterfs", "ext4"])
    def test_the_name_goes_to_the_file_server_at_once(
        self, mounted: Mounted, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mounted(tmp_path, kind, "rw")
        sent: list[bytes] = []
        monkeypatch.setattr(os, "fsync", lambda fd: sent.append(os.pread(fd, owner.RECORD_BYTES, 0)))
        edit(LockFile(str(tmp_path)))
        assert [b"uv add" in each for each in sent] == ([] if kind == "ext4" else [True])


class TestSessionThatObserves:
    """A call looks twice at most, and then takes the flock."""

    @pytest.fixture
    def session(self, mounted: Mounted, tmp_path: Path) -> LockSession:
        """A session of a call on a project over NFS."""
        mounted(tmp_path, "nfs4", "rw,vers=4.2,local_lock=none")
        root = str(tmp_path)
        (tmp_path / ".venv").mkdir()
        edit(LockFile(root))
        project = Project(root, root, root, f"{root}/.venv")
        return LockSession(project, [LockFile(root)], command="uv run", words=["uv", "run"], quiet=True)

    def test_nobody_comes(self, session: LockSession, tmp_path: Path) -> None:
        session.take(shared=True)
        assert not is_busy(LockFile(str(tmp_path)))
        assert session.leave_record("run")
        (file,) = runs.find(f"{tmp_path}/.venv", [])
        assert [run.kind for run in file.runs()] == [runs.RUN]

    def test_somebody_comes_each_time(self, session: LockSession, tmp_path: Path) -> None:
        for is_taken in (False, False, True):
            session.retake(shared=True)
            assert is_busy(LockFile(str(tmp_path))) == is_taken
            if not is_taken:
                time.sleep(0.02)  # likewise
                edit(LockFile(str(tmp_path)))
            assert session.leave_record("run") == is_taken
        (file,) = runs.find(f"{tmp_path}/.venv", [])
        assert [run.kind for run in file.runs()] == [runs.RUN], "those of the first two times were taken back"
        session.release()

    def test_who_took_it_takes_it_again(self, session: LockSession, tmp_path: Path) -> None:
        """What a dead owner left is undone under the flock, and the lock may be a stand-in by then."""
        held = take(LockFile(str(tmp_path)))
        held.record("uv add")
        held.release(unfinished=True)
        session.take(shared=True)
        assert is_busy(LockFile(str(tmp_path)))
        assert not is_busy(LockFile(str(tmp_path)), shared=True)
        session.release()

    def test_somebody_comes_while_it_compares(self, session: LockSession, tmp_path: Path) -> None:
        """Then "not fresh" is not believed, since half of what was compared may be old."""
        for is_taken in (False, False, True):
            session.retake(shared=True)
            assert session.still_excludes(), "the control: nobody has come yet"
            if not is_taken:
                time.sleep(0.02)  # likewise
                edit(LockFile(str(tmp_path)))
            assert session.still_excludes() == is_taken
        session.release()

    def test_no_record_can_be_left(self, session: LockSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runs, "append", lambda *_: False)
        for is_taken in (False, True):
            session.retake(shared=True)
            assert is_busy(LockFile(str(tmp_path))) == is_taken
            assert session.leave_record("run") == is_taken
        session.release()


class TestFlockThatStaysOnTheHost:
    """The lease is taken by itself."""

    @pytest.mark.parametrize(("kind", "options", "name"), KEEPING)
    def test_the_lease_is_taken(self, mounted: Mounted, tmp_path: Path, kind: str, options: str, name: str) -> None:
        table = mounted(tmp_path, kind, options)
        held = take(LockFile(str(tmp_path)))
        assert held.backend == LEASE
        assert (tmp_path / ".uv-mutex/backend").read_text() == "lease\n"
        assert is_busy(LockFile(str(tmp_path)))
        assert is_busy(LockFile(str(tmp_path)), shared=True)
        held.release()
        assert take(LockFile(str(tmp_path)), shared=True).backend == LEASE
        (tmp_path / ".uv-mutex/backend").unlink()
        found = list(lock_checks.check_lock(LockFile(str(tmp_path)), table))
        assert [each.grade for each in found] == [FINE]
        assert f"is locked by lease (flock on {name} reaches this host alone), and that excludes" in str(found[0])

    @pytest.mark.parametrize(
        ("kind", "options"), [("ext4", "rw"), ("nfs4", "rw,vers=4.2,local_lock=none"), ("fuse.glusterfs", "rw")]
    )
    def test_control_elsewhere_it_is_flock(self, mounted: Mounted, tmp_path: Path, kind: str, options: str) -> None:
        mounted(tmp_path, kind, options)
        held = take(LockFile(str(tmp_path)))
        assert held.backend == FLOCK
        held.release()

    def test_flock_where_the_user_asks_for_it(self, mounted: Mounted, tmp_path: Path) -> None:
        mounted(tmp_path, *KEEPING[0][:2])
        held = take(LockFile(str(tmp_path)), backend=FLOCK)
        assert held.backend == FLOCK
        held.release()

    def test_flock_that_others_took_before(self, mounted: Mounted, tmp_path: Path) -> None:
        """Other hosts mount it with locks: they would not see a lease of this one."""
        take(LockFile(str(tmp_path))).release()
        kind, options, name = KEEPING[0]
        table = mounted(tmp_path, kind, options)
        for shared in (False, True):
            with pytest.raises(MutexError) as caught:
                take(LockFile(str(tmp_path)), shared=shared)
            assert str(caught.value) == (
                f"this host, whose flock on {name} reaches no other, can't lock {tmp_path}/.uv-mutex/lock: the project "
                "is locked by flock on other hosts or before; set UV_MUTEX_BACKEND=lease on all of them while none "
                f"runs, and remove {tmp_path}/.uv-mutex/backend"
            )
        found = list(lock_checks.check_lock(LockFile(str(tmp_path)), table))
        assert max(each.grade for each in found) == BAD
        assert f"{name}, whose flock reaches this host alone; set UV_MUTEX_BACKEND=lease on all hosts" in str(found[-1])
        (tmp_path / ".uv-mutex/backend").unlink()
        assert take(LockFile(str(tmp_path)), shared=True).backend == LEASE


@pytest.fixture
def root(mounted: Mounted) -> Iterator[Path]:
    """A project's folder on NFS that root alone may write; everybody may write what is in its environment."""
    need.root()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / ".venv").mkdir()
        os.chmod(f"{folder}/.venv", 0o777)
        mounted(Path(folder), "nfs4", "rw,vers=4.2,local_lock=none")
        yield Path(folder)


@contextmanager
def user(uid: int) -> Iterator[None]:
    """Have the rights of another user."""
    os.setresuid(uid, uid, 0)  # access(2) goes by the real user
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def project_lock(root: Path) -> LockFile:
    """The lock of a project whose environment is its .venv."""
    return LockFile(str(root), instead=str(root), environment=f"{root}/.venv")


class TestNoFileCanBeCreated:
    """On NFS, the lock of a folder is of no use to other hosts."""

    def test_a_file_in_the_environment_is_locked(self, root: Path) -> None:
        lock, inside = project_lock(root), root / ".venv/.uv-mutex/lock"
        with user(ALICE):
            held = take(lock)
        assert (lock.path, lock.folder) == (str(inside), str(inside.parent))
        assert lock.beside("1").path == f"{inside}.1"
        assert (inside.parent / "backend").read_text() == "flock\n"
        with user(BOB):
            assert is_busy(project_lock(root))
            assert is_busy(project_lock(root), shared=True)
        assert is_busy(project_lock(root))  # root could create the file
        assert os.listdir(root) == [".venv"]
        held.release()
        with user(BOB):
            assert not is_busy(project_lock(root))

    def test_control_elsewhere_it_is_the_folder(self, root: Path, mounted: Mounted) -> None:
        mounted(root, "fuse.glusterfs", "rw")
        lock = project_lock(root)
        with user(ALICE):
            take(lock).release()
        assert (lock.path, lock.folder) == (str(root), None)
        assert os.listdir(root / ".venv") == []

    def test_control_without_the_locks_of_stand_ins(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(LockFile, "_lock_stand_ins", lambda _lock: [])
        with user(ALICE):
            held = take(project_lock(root))
        assert not is_busy(project_lock(root))
        held.release()

    def test_a_file_of_the_project_comes_first(self, root: Path) -> None:
        lock, alices = project_lock(root), project_lock(root)
        with user(ALICE):
            fd = alices.open()
            assert alices.is_current(fd)
        held = take(lock)
        assert lock.path == f"{root}/.uv-mutex/lock"
        with user(ALICE):
            assert not alices.is_current(fd)
            assert is_busy(project_lock(root))
        os.close(fd)
        held.release()

    def test_status_sees_it(self, root: Path) -> None:
        (root / "pyproject.toml").write_text('[project]\nname = "demo"\nversion = "1"\n')
        project = Project(str(root), str(root), str(root), f"{root}/.venv")
        with user(ALICE):
            (before,) = project_locks(project, keeps_lockfile=False, to_look=True)
            take(project_lock(root)).release()
            (after,) = project_locks(project, keeps_lockfile=False, to_look=True)
        assert (before.path, after.path) == (str(root), f"{root}/.venv/.uv-mutex/lock")

    def test_no_environment(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (root / ".venv").rmdir()
        lock = project_lock(root)
        with user(ALICE):
            take(lock).release()
        assert (lock.path, lock.folder) == (str(root), None)
        said = (
            f"cannot lock {root} on other hosts: no lock file can be created, and nfs4 keeps the lock of a folder on "
            "this host; give yourself write access there"
        )
        how = "this call goes on under a lock of this host alone"
        assert capfd.readouterr().err == f"uv-mutex: warning: {said}; {how}\n"
        monkeypatch.setenv("UV_MUTEX", "require")
        with user(ALICE), pytest.raises(MutexError) as caught:
            take(lock)
        assert str(caught.value) == f"{said}; UV_MUTEX=require asks for the lock, unset it to do without"
        assert not is_busy(project_lock(root))

    def test_the_doctor_does_not_call_it_reaching(self, root: Path) -> None:
        (root / ".venv").rmdir()
        lock = project_lock(root)
        with user(ALICE):
            os.close(lock.open())
        finding = lock_checks._reach(lock, filesystem.find(str(root)), "nfs4")  # type: ignore[arg-type]
        assert finding.grade == BAD
        assert f"{root} is nfs4, which keeps the lock of a folder on this host; give yourself write" in str(finding)


class TestRemovedWhileAnotherWaits:
    """The host that holds the lock is dead, its file server does not know it, and somebody removes the lock's files."""

    @pytest.fixture
    def dead(self, tmp_path: Path, mounted: Mounted) -> Iterator[LockFile]:
        """A lock that nobody releases, and nor its turnstile."""
        mounted(tmp_path, "nfs", "rw,vers=3,local_lock=none")
        lock = LockFile(str(tmp_path))
        fds = [lock.open(), lock.beside("turn").open()]
        for fd in fds:
            fcntl.flock(fd, fcntl.LOCK_EX)
        self.old = os.fstat(fds[0])
        remover = threading.Timer(0.5, shutil.rmtree, [f"{tmp_path}/.uv-mutex"], {"ignore_errors": True})
        remover.start()
        yield lock
        remover.join()
        for fd in fds:
            os.close(fd)

    @pytest.mark.parametrize("shared", [False, True])
    def test_goes_on(self, dead: LockFile, *, shared: bool) -> None:
        held = take(dead, shared=shared)
        assert not os.path.samestat(os.stat(dead.path), self.old), "it has the lock of a new file"
        held.release()

    @pytest.mark.parametrize("shared", [False, True])
    def test_control_waits_on(self, dead: LockFile, monkeypatch: pytest.MonkeyPatch, *, shared: bool) -> None:
        monkeypatch.setattr(wait, "_LOOK_SECONDS", 1e6)
        with pytest.raises(MutexError) as caught:
            take(dead, shared=shared, limit=3)
        assert caught.value.status == TIMED_OUT
