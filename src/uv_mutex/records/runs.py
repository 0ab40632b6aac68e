"""The recent `uv run` and `uv sync` calls that released the lock while their uv was still to check the environment.

Each appends a line to a file of its kernel before it releases the lock:

    BOOT/NAMESPACE/PID/START KIND TIME

That is the process (:mod:`uv_mutex.locking.process`), ``run`` or ``sync``, and the time in seconds since 1970. The file
lies in the environment, ENVIRONMENT/.uv-mutex/runs.BOOT, so that nothing changes in the project's own tree. Where that
can't be written, it lies beside the lock.
"""

import errno
import os
import stat
import time

from uv_mutex import files
from uv_mutex.locking import process
from uv_mutex.locking.lock_file import FOLDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from uv_mutex.locking.lock_file import LockTarget
    from uv_mutex.locking.process import Process

PREFIX = "runs."
#: What a run record says: `uv run` goes on with the user's command after its check, `uv sync` ends with it.
RUN, SYNC = "run", "sync"
#: What takes back the earlier records of the same process, whose uv does not check anything yet.
VOID = "void"
#: A longer file becomes the old file of its kernel, and replaces the one before.
_MOST_BYTES = 65536
_OLD = ".old"


class Run:
    """One line. ``process``: the uv. ``kind``: RUN or SYNC. ``time``: seconds since 1970 by its kernel's clock."""

    __slots__ = ("kind", "process", "time")

    def __init__(self, process: "Process", kind: str, when: float) -> None:
        self.process = process
        self.kind = kind
        self.time = when


class RunFile:
    """The runs of one kernel. ``is_own``: of this kernel. ``mtime``: by the file server's clock, seconds since 1970."""

    __slots__ = ("_last", "_size", "folder", "is_own", "mtime", "path")

    def __init__(self, folder: str, name: str) -> None:
        """
        :raises OSError: if it can't be opened.
        """
        self.folder = folder
        self.path = f"{folder}/{name}"
        self.is_own = name in (_own_name(), _own_name() + _OLD)
        self.mtime = files.stat_on_server(self.path).st_mtime
        self._size = 0
        self._last: dict[Process, str] = {}

    def runs(self) -> "Iterator[Run]":
        """The runs in it."""
        taken_back = set()
        standing = []
        for run in reversed(self._read()):
            if run.kind == VOID:
                taken_back.add(run.process)
            elif run.process not in taken_back:
                standing.append(run)
        yield from reversed(standing)

    def has_taken_back(self, run: Run) -> bool:
        """Whether the process of a run has taken it back, maybe since :meth:`runs` found it.

        :param run: one of them, of this kernel: what another one appends, a file server would have to be asked for.
        """
        try:
            if os.lstat(self.path).st_size != self._size:
                self._read()
        except OSError:  # another call made it the old one
            return False
        return self._last.get(run.process) == VOID

    def _read(self) -> list[Run]:
        """All lines, but for those that can't be read: one can be cut short on a full disk."""
        try:
            # Appended to by several calls at once it can be a bit longer. The end is what counts.
            self._size = os.lstat(self.path).st_size
            text = files.read(self.path, 2 * _MOST_BYTES, follow=False, start=max(0, self._size - 2 * _MOST_BYTES))
        except OSError:
            return []
        found = [run for run in map(_decode, text.decode("ascii", "replace").split("\n")) if run]
        self._last = {run.process: run.kind for run in found}
        return found


def append(environment: str, targets: "Iterable[LockTarget]", kind: str) -> bool:
    """Leave the record of this process; return whether that worked. If not, an edit may begin beside its uv's check.

    :param environment: the folder of the environment.
    :param targets: the locks that this process is about to release.
    :param kind: RUN, SYNC or VOID.
    """
    line = f"{process.this_process().encode()} {kind} {time.time():.3f}\n".encode()
    for folder in _folders(environment, targets):
        try:
            _append(folder, line)
            return True
        except OSError:
            pass
    return False


def find(environment: str, targets: "Iterable[LockTarget]") -> list[RunFile]:
    """All files that can hold a run of an environment. Never fails.

    :param environment: the folder of the environment.
    :param targets: the locks that the caller holds.
    """
    found = []
    for path in sorted(inodes(environment, targets)):
        try:
            found.append(RunFile(*path))
        except OSError:  # another call removed it, or it is no file of ours
            pass
    return found


def inodes(environment: str, targets: "Iterable[LockTarget]") -> dict[tuple[str, str], int]:
    """The inode number of each file that :func:`find` opens, by its folder and name. Never fails.

    If one is another before and after they are read, a file may have become the old one in between, unread.
    """
    found = {}
    for folder in _folders(environment, targets):
        files.reread_folder(folder)
        try:
            with os.scandir(folder) as entries:
                found.update({(folder, each.name): each.inode() for each in entries if each.name.startswith(PREFIX)})
        except OSError:
            continue
    return found


def server_time(folder: str) -> float | None:
    """The time by the clock of the file server, in seconds since 1970; None if nothing can be written there."""
    try:
        _append(folder, b"\n")
        return files.stat_on_server(f"{folder}/{_own_name()}").st_mtime
    except OSError:
        return None


def remove(found: "Iterable[RunFile]") -> None:
    """Remove files whose runs are all over. Never fails.

    Call it under the exclusive lock: whoever appends meanwhile, over NFS, sees the owner, and takes the run back.
    """
    for file in found:
        try:
            os.unlink(file.path)
        except OSError:
            pass


def _folders(environment: str, targets: "Iterable[LockTarget]") -> list[str]:
    """The folders in which a record can lie, the best one first."""
    folders = [f"{environment}/{FOLDER}", *(target.folder for target in targets if target.folder)]
    return list(dict.fromkeys(folders))


def _own_name() -> str:
    return PREFIX + process.boot_id()


def _append(folder: str, line: bytes) -> None:
    """Append a line to the file of this kernel.

    :raises OSError: if it can't be written, or not as a whole.
    """
    name = _own_name()
    mode = os.stat(os.path.dirname(folder)).st_mode
    # Without a umask, whoever may write the folder can append from the first moment on.
    umask = os.umask(0)
    try:
        directory = _open_folder(folder, (mode | 0o700) & 0o1777)
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(name, flags, (mode | 0o600) & 0o666, dir_fd=directory)
            try:
                if os.write(fd, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                _rotate(fd, name, directory)
            finally:
                os.close(fd)
        finally:
            os.close(directory)
    finally:
        os.umask(umask)


def _open_folder(folder: str, mode: int) -> int:
    """Open a folder, and make it first only if there is none: over NFS, even to be told that there is one takes time.

    So does an open that is for more than what is in it.

    :raises OSError: if there can't be one.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(folder, flags)
    except FileNotFoundError:
        pass
    try:
        os.mkdir(folder, mode)
    except FileExistsError:
        pass
    return os.open(folder, flags)


def _rotate(fd: int, name: str, directory: int) -> None:
    """Make a long file the old one. Where two calls do that at once, a few hundred runs may be forgotten."""
    mine = os.fstat(fd)
    if mine.st_size <= _MOST_BYTES:
        return
    try:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino) and stat.S_ISREG(mine.st_mode):
            os.rename(name, name + _OLD, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        pass


def _decode(line: str) -> Run | None:
    """Read what :func:`append` wrote; None if it is something else."""
    try:
        word, kind, seconds = line.split(" ")
        found, when = process.decode(word), float(seconds)
    except ValueError:
        return None
    # NaN and infinity are not below that.
    return Run(found, kind, when) if found and kind in (RUN, SYNC, VOID) and 0 <= when < 1e11 else None
