"""The file, or the folder, that a lock is taken on, and the files beside it."""

import errno
import os
import stat
import time
from abc import ABC, abstractmethod

from uv_mutex import files
from uv_mutex.errors import MutexError

#: The folder of a lock file.
FOLDER = ".uv-mutex"
#: The two kinds of lock: the kernel's flock, and the lease for file systems that have none.
FLOCK, LEASE = "flock", "lease"
#: A file that another host removed, or whose folder another host is just creating: NFS and GlusterFS answer ESTALE.
GONE_ERRORS = (errno.ENOENT, errno.ESTALE)
#: How long to wait before the next try after one of these errors, in seconds.
PAUSE_SECONDS = 0.05
_ATTEMPTS = 20
_IGNORE_EVERYTHING = b"# made by uv-mutex\n*\n"
_HINTS = {
    errno.ELOOP: "it is a symlink; remove it",
    errno.EISDIR: "remove that folder",
    errno.EACCES: "give yourself write access there",
    errno.EPERM: "give yourself write access there",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
}


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
        """The error to raise if the lock can't be opened, created or locked."""
        hint = _HINTS.get(error.errno or 0, "mend that")
        return MutexError(
            f"cannot {verb} {self.path}: {error.strerror}; {hint}, or set UV_MUTEX=off to run uv unlocked"
        )


class EnvironmentFolder(LockTarget):
    """The folder of an environment, locked where nobody may create a file beside it. It can have no lease."""

    __slots__ = ()

    def __init__(self, path: str) -> None:
        super().__init__(path, None)

    def open(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise self.cannot("open", error) from None

    def recorded_backend(self) -> str | None:
        return FLOCK

    def record_backend(self, backend: str) -> str:
        return backend

    def beside(self, suffix: str) -> "LockFile":
        return LockFile(self.path, f"lock.{suffix}")

    def file_mode(self) -> int:
        return 0o600


class LockFile(LockTarget):
    """A lock file: ``name`` in ``folder``, which is ``.uv-mutex`` in ``above``, whose permissions it copies."""

    __slots__ = ("above", "folder", "name")
    folder: str

    def __init__(self, above: str, name: str = "lock") -> None:
        """
        :param above: the folder in which `.uv-mutex` lies. Whoever may write there may take the lock.
        :param name: the name of the lock file.
        """
        self.folder = f"{above}/{FOLDER}"
        self.name = name
        self.above = above
        super().__init__(f"{self.folder}/{name}", self.folder)

    def open(self) -> int:
        for attempt in range(_ATTEMPTS):
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            except PermissionError as error:
                fd = self._open_to_read(error)
            except OSError as error:
                if error.errno not in GONE_ERRORS or attempt == _ATTEMPTS - 1:
                    raise self.cannot("open", error) from None
                if not self._create():
                    time.sleep(PAUSE_SECONDS)
                continue
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
            break
        raise MutexError(
            f"cannot lock {self.path}: it is not a regular file; remove it, or set UV_MUTEX=off to run uv unlocked"
        )

    def _open_to_read(self, denied: OSError) -> int:
        """Open the lock file of another user, which may only be read. That is enough for flock, except on NFS."""
        try:
            return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            raise self.cannot("open", denied) from None

    def _create(self) -> bool:
        """Create the folder and the lock file; False if that is not possible yet."""
        # Without a umask, they have their permissions from the first moment: another user never finds them closed.
        umask = os.umask(0)
        try:
            mode = os.stat(self.above).st_mode & 0o777
            try:
                os.mkdir(self.folder, mode | 0o700)
            except FileExistsError:
                pass
            ignore = f"{self.folder}/.gitignore"
            if _is_empty(ignore):  # a call was killed, or the disk was full
                os.unlink(ignore)
            files.create(ignore, self.file_mode(), _IGNORE_EVERYTHING)
            files.create(self.path, self.file_mode(), b"")
        except OSError as error:
            if error.errno in GONE_ERRORS:
                return False
            raise self.cannot("create", error) from None
        finally:
            os.umask(umask)
        return True

    def file_mode(self) -> int:
        """The permissions for the files of the lock: whoever may write the folder may take the lock."""
        return (os.stat(self.above).st_mode | 0o600) & 0o666

    def beside(self, suffix: str) -> "LockFile":
        return LockFile(self.above, f"{self.name}.{suffix}")

    @property
    def backend_file(self) -> str:
        """The file that names the kind of lock."""
        return f"{self.folder}/backend"

    def recorded_backend(self) -> str | None:
        text = files.read_or_empty(self.backend_file, 64, follow=False).strip()
        return {b"flock": FLOCK, b"lease": LEASE}.get(text)

    def record_backend(self, backend: str) -> str:
        temporary = f"{self.backend_file}.{os.uname().nodename}.{os.getpid()}"
        for _ in range(_ATTEMPTS):
            try:
                files.create(temporary, self.file_mode(), backend.encode() + b"\n")
                try:
                    os.link(temporary, self.backend_file)  # all or nothing, and never over the file of another call
                except FileExistsError:
                    pass
                finally:
                    os.unlink(temporary)
            except OSError as error:
                if error.errno != errno.ESTALE:  # no hard links, or a full disk: then nobody can compare
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
