"""The file, or the folder, that a lock is taken on, and the files beside it.

A lock file that is there is locked, if need be by a descriptor that may only read. Where there is none and none can be
created (another user's folder, a sandbox, a full disk), the folder that it stands for is locked in its place. So that
those who may create it and those who may not agree, it is created only while nobody holds the lock of that folder, and
who gets the lock of the folder looks once more whether there is a file by now. NFS keeps the lock of a folder on the
host: there, a file in the environment comes before the folder.
"""

import errno
import fcntl
import os
import stat
import time
from abc import ABC, abstractmethod

from uv_mutex import files
from uv_mutex.errors import MutexError, NoLockError, hint
from uv_mutex.locking import filesystem, process

#: The folder of a lock file.
FOLDER = ".uv-mutex"
#: The two kinds of lock: the kernel's flock, and the lease for file systems that have none.
FLOCK, LEASE = "flock", "lease"
#: A file that another host removed, or whose folder another host is just creating: NFS and GlusterFS answer ESTALE.
GONE_ERRORS = (errno.ENOENT, errno.ESTALE)
#: How long to wait before the next try after one of these errors, in seconds.
PAUSE_SECONDS = 0.05
_ATTEMPTS = 20
_SHORT_ATTEMPTS, _SHORT_PAUSE_SECONDS = 4, 0.002
_IGNORE_EVERYTHING = b"# made by uv-mutex\n*\n"
#: Errors of an open that a descriptor which may only read does not meet.
_READ_ONLY_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS)
#: Errors that say that this process has no room for one more descriptor, whatever the file is.
_EXHAUSTED_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
#: Errors that say that nothing can be written here, and not that something may be there which can't be seen.
UNWRITABLE_ERRORS = (*_READ_ONLY_ERRORS, *_EXHAUSTED_ERRORS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMLINK)


class LockTarget(ABC):
    """What a lock is taken on: a :class:`LockFile` or an :class:`EnvironmentFolder`.

    ``path``: the file or folder. ``folder``: where the other files of the lock lie; None if there are none.
    """

    __slots__ = ("folder", "path")

    def __init__(self, path: str, folder: str | None) -> None:
        self.path = path
        self.folder = folder

    @abstractmethod
    def open(self) -> int:
        """Open it, and create it first if it is missing; return the descriptor.

        :raises MutexError: if that is not possible.
        """

    def is_current(self, fd: int) -> bool:
        """Whether a descriptor that :meth:`open` returned is still the one that others lock.

        :raises OSError: if that can't be told.
        """
        try:
            files.reread_folder(os.path.dirname(self.path))
            there, mine = os.stat(self.path), os.fstat(fd)
        except OSError as error:
            if error.errno in GONE_ERRORS:
                return False
            raise
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    @abstractmethod
    def recorded_backend(self) -> str | None:
        """The kind of lock that all hosts use here: FLOCK or LEASE; None if nobody has taken the lock yet."""

    @abstractmethod
    def record_backend(self, backend: str) -> str:
        """Write down the kind of lock, unless another call did; return what is written down then."""

    @abstractmethod
    def beside(self, suffix: str) -> "LockFile":
        """Another lock file for the same thing: a level of this lock, or its turnstile."""

    @abstractmethod
    def file_mode(self) -> int:
        """The permissions for the files of the lock."""

    def names(self, prefix: str) -> list[str]:
        """The names of the files beside the lock that begin with ``prefix``; none if they can't be listed."""
        try:
            return [name for name in os.listdir(self.folder) if name.startswith(prefix)] if self.folder else []
        except OSError:
            return []

    def cannot(self, verb: str, error: OSError) -> MutexError:
        """The error to raise if the lock can't be opened, created or locked, and somebody may hold it."""
        return MutexError(
            f"cannot {verb} {self.path}: {error.strerror}; {hint(error)}, or set UV_MUTEX=off to run uv unlocked"
        )

    def nothing_to_lock(self, error: OSError) -> NoLockError:
        """The error to raise if there is nothing here that could be locked."""
        return NoLockError(f"cannot lock {self.path}: {error.strerror}; {hint(error)}")


class EnvironmentFolder(LockTarget):
    """A folder, locked where no lock file can be created. It can have no lease."""

    __slots__ = ()

    def __init__(self, path: str) -> None:
        super().__init__(path, None)

    def open(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise self.nothing_to_lock(error) from None

    def recorded_backend(self) -> str | None:
        return FLOCK

    def record_backend(self, backend: str) -> str:
        return backend

    def beside(self, suffix: str) -> "LockFile":
        return LockFile(self.path, f"lock.{suffix}")

    def file_mode(self) -> int:
        return 0o600


class LockFile(LockTarget):
    """A lock file: ``name`` in ``folder``, which is ``.uv-mutex`` in ``above``, whose permissions it copies.

    Once it is open, and as long as no file can be created, ``path`` and ``folder`` are those of its stand-in.
    """

    __slots__ = ("_environment", "_file", "_folder", "_instead", "_stand_in", "above", "folder", "name")

    def __init__(
        self, above: str, name: str = "lock", *, instead: str | None = None, environment: str | None = None
    ) -> None:
        """
        :param above: the folder in which `.uv-mutex` lies. Whoever may write there may take the lock.
        :param name: the name of the lock file.
        :param instead: the folder to lock where no file can be created; None if there is none.
        :param environment: the environment that all who want this lock share; None if each may have its own.
        """
        self._folder = f"{above}/{FOLDER}"
        self._file = f"{self._folder}/{name}"
        self._instead = instead
        self._stand_in: LockTarget | None = None
        self._environment = environment
        self.name = name
        self.above = above
        super().__init__(self._file, self._folder)

    def open(self) -> int:
        self.path, self.folder, self._stand_in = self._file, self._folder, None
        for attempt in range(_ATTEMPTS):
            try:
                return self._open_existing()
            except OSError as error:
                failure = error
            if failure.errno in _EXHAUSTED_ERRORS:
                raise self.nothing_to_lock(failure)
            if isinstance(failure, files.ForeignFolderError):
                return self._open_instead(failure)
            if failure.errno not in GONE_ERRORS:
                break
            try:
                self._create()
            except BlockingIOError as error:
                # Another call is creating the file at this moment, or holds the lock of the folder for longer.
                if attempt >= _SHORT_ATTEMPTS:
                    return self._open_instead(error)
                time.sleep(_SHORT_PAUSE_SECONDS)
            except OSError as error:
                if error.errno in UNWRITABLE_ERRORS:
                    return self._open_instead(error)
                if error.errno not in GONE_ERRORS:
                    raise self.cannot("create", error) from None
                time.sleep(PAUSE_SECONDS)
        raise self.cannot("open", failure) from None

    def is_current(self, fd: int) -> bool:
        if self._stand_in and self._exists():
            return False
        return super().is_current(fd)

    def _exists(self) -> bool:
        """Whether there is a lock file that this user can open."""
        files.reread_folder(self.above)
        try:
            os.close(self._open_existing())
        except OSError:
            return False
        return True

    def _open_existing(self) -> int:
        """Open the lock file. If it belongs to another user, it may only be read; see :meth:`acquire.take` on NFS.

        :raises OSError: if it can't be opened.
        """
        try:
            fd = files.open_file(self._file, os.O_RDWR)
        except OSError as denied:
            if denied.errno not in _READ_ONLY_ERRORS:
                raise
            try:
                fd = files.open_file(self._file, os.O_RDONLY, trusted=False)
            except OSError:
                raise denied from None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise MutexError(
            f"cannot lock {self._file}: it is not a regular file; remove it, or set UV_MUTEX=off to run uv unlocked"
        )

    def stand_ins(self) -> "list[LockTarget]":
        """What is locked where no lock file can be created, the best first.

        That is a folder, and before it, where other hosts don't see the lock of a folder, a file in the environment.
        """
        found: list[LockTarget] = [EnvironmentFolder(self._instead)] if self._instead else []
        if self._environment:
            mount = filesystem.find(self.above)
            if mount and not mount.locks_folders:
                files.reread_folder(os.path.dirname(self._environment))
                if os.path.isdir(self._environment):
                    found.insert(0, LockFile(self._environment))
        return found

    def _open_instead(self, failure: OSError) -> int:
        """Open what is locked where there is no lock file.

        :param failure: why there is none.
        :raises NoLockError: if it can't be opened either.
        """
        error = self.cannot("create", failure)
        for stand_in in self.stand_ins():
            try:
                fd = stand_in.open()
            except MutexError as its_error:
                error = its_error
            else:
                self.path, self.folder, self._stand_in = stand_in.path, stand_in.folder, stand_in
                return fd
        raise error from None

    def _create(self) -> None:
        """Create the folder and the lock file, while nobody holds a lock that is taken without them.

        :raises BlockingIOError: if somebody holds one.
        :raises OSError: if they can't be created.
        """
        held = self._lock_stand_ins()
        # Without a umask, they have their permissions from the first moment: another user never finds them closed.
        umask = os.umask(0)
        try:
            # Where only its owner may rename a file, only its owner may move a held lock away.
            mode = os.stat(self.above).st_mode & 0o1777
            try:
                os.mkdir(self._folder, mode | 0o700)
            except FileExistsError:
                pass
            ignore = f"{self._folder}/.gitignore"
            if _is_empty(ignore):  # a call was killed, or the disk was full
                files.remove(ignore)
            files.create(ignore, self.file_mode(), _IGNORE_EVERYTHING)
            files.create(self._file, self.file_mode(), b"")
        finally:
            os.umask(umask)
            for fd in held:
                os.close(fd)

    def _lock_stand_ins(self) -> list[int]:
        """Take the locks of all stand-ins that can be opened; return their descriptors.

        Where a folder can't be locked, or is locked by `flock . uv run …`, nobody locks it instead of the file.

        :raises BlockingIOError: if another call may hold one.
        """
        held: list[int] = []
        for stand_in in self.stand_ins():
            try:
                held.append(stand_in.open())
                fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not process.may_hold_flock(held[-1]):
                    for fd in held:
                        os.close(fd)
                    raise
            except (MutexError, OSError):
                pass
        return held

    def file_mode(self) -> int:
        """The permissions for the files of the lock: whoever may write the folder may take the lock."""
        return (os.stat(self.above).st_mode | 0o600) & 0o666

    def beside(self, suffix: str) -> "LockFile":
        if self._stand_in:
            return self._stand_in.beside(suffix)
        return LockFile(self.above, f"{self.name}.{suffix}")

    @property
    def backend_file(self) -> str:
        """The file that names the kind of lock."""
        return f"{self.folder or self._folder}/backend"

    def recorded_backend(self) -> str | None:
        if self.folder is None:
            return FLOCK
        text = files.read_or_empty(self.backend_file, 64, follow=False).strip()
        return {b"flock": FLOCK, b"lease": LEASE}.get(text)

    def record_backend(self, backend: str) -> str:
        if self.folder is None:
            return backend
        for _ in range(_ATTEMPTS):
            try:
                files.create(self.backend_file, self.file_mode(), backend.encode() + b"\n")
            except OSError as error:
                if error.errno != errno.ESTALE:  # a full disk, or not our folder: then nobody can compare
                    break
                time.sleep(PAUSE_SECONDS)
            else:
                return self.recorded_backend() or backend
        return backend


def _is_empty(path: str) -> bool:
    try:
        return not os.lstat(path).st_size
    except OSError:
        return False
