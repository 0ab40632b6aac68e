"""The locks: where they live, take, wait, release, and who holds them.

The lock is an flock on a descriptor that we own, the same that filelock.lock_descriptor takes. A lock that is free is
taken here without importing filelock; see :mod:`uv_mutex.waiting` for one that isn't.
"""

import errno
import fcntl
import os
import stat
import time

from uv_mutex.errors import MutexError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from uv_mutex.project import Project
    from uv_mutex.waiting import Wait

FOLDER = ".uv-mutex"
FLOCK, LEASE = "flock", "lease"
#: Names the locks that an outer call holds while its child runs.
HELD = "UV_MUTEX_HELD"
_IGNORE_EVERYTHING = b"# made by uv-mutex\n*\n"
#: Errors of flock that say "held": some file systems answer EACCES.
BUSY = (errno.EAGAIN, errno.EACCES)
#: Errors of flock that say "not here": FUSE, Lustre without -o flock, NFS without lockd.
MISSING = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_RECORD_BYTES = 4096
TAKEN_OVER = "another call took it over"
_LONGEST_TIMEOUT = 1e9


class Place:
    """Where a lock lives. ``path``: what is locked. ``is_folder``: an environment's own folder is locked.

    ``mode_of``: the folder whose permissions the lock file copies, so that whoever may work there may lock.
    """

    __slots__ = ("is_folder", "mode_of", "path")

    def __init__(self, path: str, mode_of: str, *, is_folder: bool = False) -> None:
        self.path = path
        self.mode_of = mode_of
        self.is_folder = is_folder


class Lock:
    """A lock that this process holds until :meth:`release`, or until it ends."""

    backend = FLOCK
    __slots__ = ("_fd", "_record", "place", "shared", "token")

    def __init__(self, place: Place, fd: int, *, shared: bool) -> None:
        self.place = place
        self.shared = shared
        self.token = ""
        self._fd = fd
        self._record = b""

    def record(self, command: str) -> None:
        """Say in the lock file who holds it, for those who wait. On a full disk they are left guessing.

        :param command: what the lock is held for.
        """
        if self.place.is_folder or self.shared:
            return
        holder = Holder(os.getpid(), os.uname().nodename, time.time(), command)
        data = holder.encode()
        try:
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))
        except OSError:
            return
        self.token = holder.token
        self._record = data

    @property
    def mark(self) -> str:
        """What a nested call recognises this lock by."""
        answer = os.fstat(self._fd)
        return f"{answer.st_dev}:{answer.st_ino}:{self.token}"

    def lost(self) -> str | None:
        """Why others may be inside by now, None if they can't be. A network's file server can forget its clients."""
        try:
            if not try_flock(self._fd, shared=self.shared):
                return TAKEN_OVER
        except OSError as error:
            return f"the file server dropped it ({error.strerror})"
        # That may just have taken it anew, from a server that had dropped it. Was another inside meanwhile?
        return TAKEN_OVER if self._record and _read_record(self.place.path) != self._record else None

    def release(self) -> None:
        """Let others in. The file stays: unlinked, it would split those who wait across two files."""
        if self._record:
            try:
                if os.pread(self._fd, _RECORD_BYTES, 0) == self._record:
                    os.ftruncate(self._fd, 0)
            except OSError:
                pass
        try:
            os.close(self._fd)
        except OSError:  # ENOTCONN: this host was cut off, and has no lock any more
            pass


class Holder:
    """Who holds a lock: ``pid`` on ``host``, since ``since`` (seconds of that host's clock), running ``command``."""

    __slots__ = ("command", "host", "pid", "since", "token")

    def __init__(self, pid: int, host: str, since: float, command: str) -> None:
        self.pid = pid
        self.host = host
        self.since = since
        self.command = command
        self.token = f"{host}/{pid}/{since}"

    def encode(self) -> bytes:
        """The lock file's content: one line."""
        line = f"{self.pid} {self.since} {self.host} {self.command}"
        return line.replace("\n", " ").encode("utf-8", "surrogateescape")[: _RECORD_BYTES - 1] + b"\n"


class Patience:
    """How long a call waits, over all its locks. ``waited``: seconds so far."""

    __slots__ = ("backend", "limit", "quiet", "waited")

    def __init__(self, limit: float | None, *, quiet: bool, backend: str | None = None) -> None:
        """
        :param limit: seconds; None for ever.
        :param quiet: say nothing while waiting.
        :param backend: the only kind of lock to take; None for whichever the file system has.
        """
        self.limit = limit
        self.quiet = quiet
        self.backend = backend
        self.waited = 0.0

    def waiting(self, place: Place) -> "Wait":
        """A context in which to wait for a lock."""
        from uv_mutex.waiting import Wait

        return Wait(place, self)


def patience(environ: "Mapping[str, str]", *, quiet: bool) -> Patience:
    """The patience that UV_MUTEX_TIMEOUT and UV_MUTEX_BACKEND ask for.

    :raises MutexError: if the one is no number of seconds, or the other no kind of lock.
    """
    backend = environ.get("UV_MUTEX_BACKEND") or None
    if backend not in (None, FLOCK, LEASE):
        raise MutexError(f"UV_MUTEX_BACKEND={backend} is neither flock nor lease; set one of them, or unset it")
    text = environ.get("UV_MUTEX_TIMEOUT")
    if not text:
        return Patience(None, quiet=quiet, backend=backend)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < _LONGEST_TIMEOUT:
        raise MutexError(f"UV_MUTEX_TIMEOUT={text} is no number of seconds; set one such as 600, or unset it")
    return Patience(limit, quiet=quiet, backend=backend)


def read_holder(path: str) -> Holder | None:
    """Who holds the lock at ``path``, None if nobody wrote it down."""
    text = _read_record(path).decode("utf-8", "replace")
    fields = text.strip().split(" ", 3)
    try:
        return Holder(int(fields[0]), fields[2], float(fields[1]), fields[3])
    except (IndexError, ValueError):
        return None


def _read_record(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.read(fd, _RECORD_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)


def places(project: "Project", *, keeps_lockfile: bool) -> list[Place]:
    """The locks that a call on this project needs, in the order to take them; none if it can't write anything.

    :param project: the project.
    :param keeps_lockfile: whether the call leaves pyproject.toml and uv.lock alone.
    """
    root, environment = project.root, project.environment
    if os.path.islink(environment):
        environment = os.path.realpath(environment)
    inside = environment == f"{root}/.venv"
    needed = []
    if inside or not keeps_lockfile:
        if _writable(root, f"{root}/pyproject.toml", f"{root}/uv.lock"):
            needed.append(Place(f"{root}/{FOLDER}/lock", root))
        elif inside:
            needed.extend(_environment_place(environment))
    if not inside:
        needed.extend(_environment_place(environment))
    return needed


def _environment_place(environment: str) -> "Iterable[Place]":
    above, name = os.path.split(environment)
    try:
        os.makedirs(above, exist_ok=True)  # uv would, but then the lock would move there while it is held
    except OSError:
        pass
    while not os.path.isdir(above):  # uv makes the folders above an environment as well
        above, missing = os.path.split(above)
        name = f"{missing}-{name}"
    if _writable(above):
        # For a project's own .venv this is the project lock, whichever project asks.
        yield Place(f"{above}/{FOLDER}/{'lock' if name == '.venv' else name + '.lock'}", above)
    elif _writable(environment):
        # Its folder can't be replaced by one who can't write above it, so it can serve as the lock file.
        yield Place(environment, above, is_folder=True)


def _writable(*paths: str) -> bool:
    return any(os.access(path, os.W_OK) for path in paths)


def held_above(place: Place, environ: "Mapping[str, str]") -> bool:
    """Whether the process that (directly or not) started this one holds the lock while it waits for us.

    :param place: the lock.
    :param environ: the environment, with the mark that the outer call left.
    """
    marks = environ.get(HELD)
    if not marks:
        return False
    try:
        answer = os.stat(place.path)
    except OSError:
        return False
    for mark in marks.split(" "):
        device, inode, token = [*mark.split(":", 2), "", ""][:3]
        if (device, inode) == (str(answer.st_dev), str(answer.st_ino)):
            # A daemon that outlives the outer call keeps the mark, but then the lock is free or another's.
            holder = read_holder(place.path)
            return not _is_free(place) and token == (holder.token if holder else "")
    return False


def _is_free(place: Place) -> bool:
    if recorded_backend(place) == LEASE:
        from uv_mutex import lease

        return not os.path.exists(lease.marker(place))
    fd = _open(place)
    try:
        return try_flock(fd, shared=False)
    except OSError as error:
        raise _cannot(place, "lock", error) from None
    finally:
        os.close(fd)


def take(place: Place, patience: Patience, *, shared: bool = False) -> Lock:
    """Take a lock, waiting for it if need be.

    :param place: which one.
    :param patience: how long to wait, and what to say meanwhile.
    :param shared: only keep others from changing anything, as one of many.
    :raises MutexError: if it can't be taken, or patience ran out.
    """
    waited = patience.waited
    while True:
        recorded = recorded_backend(place)
        if patience.backend and recorded and patience.backend != recorded:
            raise _mixed(place, f"UV_MUTEX_BACKEND={patience.backend}", recorded)
        wanted = patience.backend or recorded
        fd = _open(place)
        lock: Lock | None = None
        try:
            if wanted != LEASE:
                lock = _take_flock(fd, place, patience, shared=shared)
            if lock is None:
                if wanted == FLOCK:
                    raise _mixed(place, "this host, which has no flock there,", FLOCK)
                lock = _take_lease(fd, place, patience, shared=shared)
            # The first to lock decides for all; if another kind was first by a moment, do as it did.
            agreed = recorded or _record_backend(place, lock.backend)
            current = agreed == lock.backend and _is_current(fd, place)
        except BaseException as error:
            if lock:
                lock.release()
            else:
                os.close(fd)
            if isinstance(error, OSError):
                raise _cannot(place, "lock", error) from None
            raise
        if current:
            _outlast_caches(place, fd, shared=shared, waited=patience.waited > waited)
            return lock
        lock.release()  # or `git clean -fdx` took the folder away while we waited


def _take_flock(fd: int, place: Place, patience: Patience, *, shared: bool) -> Lock | None:
    """Wait for the flock; None if the file system has none."""
    try:
        if not try_flock(fd, shared=shared):
            with patience.waiting(place) as wait:
                wait.for_flock(fd, shared=shared)
    except OSError as error:
        if error.errno not in MISSING or place.is_folder:
            raise
        return None
    return Lock(place, fd, shared=shared)


def _take_lease(fd: int, place: Place, patience: Patience, *, shared: bool) -> Lock:
    from uv_mutex import lease

    return lease.take(place, fd, patience, shared=shared)


def watch(locks: "list[Lock]") -> "Callable[[], str | None] | None":
    """What tells, asked again and again while a child runs, why a lock is no longer ours. None if none can be lost."""
    from uv_mutex import mounts

    fragile = [held for held in locks if held.backend == LEASE or not mounts.is_local(held.place.path)]
    if not fragile:
        return None

    def lost() -> str | None:
        for held in fragile:
            reason = held.lost()
            if reason:
                return f"lost the lock {held.place.path}: {reason}"
        return None

    return lost


def see_other_hosts_writes(root: str) -> None:
    """Drop what this host remembers of the project's folder; call it once the lock is taken.

    Network file systems are consistent from close to open: only opening shows what the last holder wrote.
    """
    try:
        os.close(os.open(root, os.O_RDONLY | os.O_DIRECTORY))
    except OSError:
        pass


def _outlast_caches(place: Place, fd: int, *, shared: bool, waited: bool) -> None:
    """Once the lock is taken, wait until this host has forgotten what it saw before another wrote.

    FUSE answers from memory for a second, whoever wrote since: even the size of a file, so that `uv add` on one host
    would read half of what the one before it wrote on another, and write that back.
    """
    answer = os.fstat(fd)
    if os.major(answer.st_dev):  # a disk of this host
        return
    from uv_mutex import mounts

    seconds = mounts.cache_seconds(place.path)
    if not seconds:
        return
    if shared or place.is_folder:
        if waited or abs(time.time() - answer.st_mtime) < 2 * seconds:
            time.sleep(seconds)
    elif not _was_last(place):
        time.sleep(seconds)
        _be_last(place)


def _was_last(place: Place) -> bool:
    """Whether the last to hold the lock was of this host. To remove a file is to ask the server, not a memory."""
    try:
        os.unlink(f"{place.path}.last.{os.uname().nodename}")
    except OSError:
        return False
    _be_last(place)
    return True


def _be_last(place: Place) -> None:
    folder, name = os.path.split(place.path)
    mine = f"{name}.last.{os.uname().nodename}"
    try:
        for other in os.listdir(folder):
            if other.startswith(f"{name}.last.") and other != mine:
                os.unlink(f"{folder}/{other}")
        _write_new(f"{folder}/{mine}", file_mode(place), b"")
    except OSError:  # then the next one waits, and so does this host
        pass


def try_flock(fd: int, *, shared: bool) -> bool:
    """Take the flock if it is free.

    :raises OSError: if the file system has none.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            return False
        raise
    return True


def _is_current(fd: int, place: Place) -> bool:
    """Whether the locked file is still the one that others find."""
    try:
        there, mine = os.stat(place.path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _open(place: Place) -> int:
    """Open what is to be locked, making it if it isn't there.

    :raises MutexError: if that can't be.
    """
    if place.is_folder:
        try:
            return os.open(place.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _cannot(place, "open", error) from None
    for attempt in range(3):
        try:
            fd = os.open(place.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            if attempt == 2:
                raise _cannot(place, "open", error) from None
            _create(place)
            continue
        except PermissionError as error:
            fd = _open_to_read(place, error)
        except OSError as error:
            raise _cannot(place, "open", error) from None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        break
    raise MutexError(f"cannot lock {place.path}: it is not a regular file; remove it, or set UV_MUTEX=off")


def _open_to_read(place: Place, denied: OSError) -> int:
    """Another user's lock file that we may only read: enough for flock, except on NFS."""
    try:
        return os.open(place.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        raise _cannot(place, "open", denied) from None


def recorded_backend(place: Place) -> str | None:
    """The kind of lock that a project uses, None if it was never locked."""
    if place.is_folder:
        return FLOCK
    try:
        fd = os.open(_backend_file(place), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        text = os.read(fd, 64).strip()
    except OSError:
        return None
    finally:
        os.close(fd)
    return {b"flock": FLOCK, b"lease": LEASE}.get(text)


def _record_backend(place: Place, backend: str) -> str:
    """Write the kind of lock down, so that all hosts use one kind; return what stands there then."""
    path = _backend_file(place)
    temporary = f"{path}.{os.uname().nodename}.{os.getpid()}"
    try:
        _write_new(temporary, file_mode(place), backend.encode() + b"\n")
        try:
            os.link(temporary, path)  # all or nothing, and never over another's
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
    except OSError:  # no hard links, or a full disk: what isn't written down can't be compared
        return backend
    return recorded_backend(place) or backend


def _backend_file(place: Place) -> str:
    return os.path.join(os.path.dirname(place.path), "backend")


def _mixed(place: Place, who: str, recorded: str) -> MutexError:
    return MutexError(
        f"{who} can't lock {place.path}: the project is locked by {recorded} on other hosts or before; set "
        f"UV_MUTEX_BACKEND=lease on all of them while none runs, and remove {_backend_file(place)}"
    )


def file_mode(place: Place) -> int:
    """The permissions of a lock's files: whoever may write the folder may lock it."""
    return (os.stat(place.mode_of).st_mode | 0o600) & 0o666


def _create(place: Place) -> None:
    folder = os.path.dirname(place.path)
    # Without a umask, folder and files have their permissions from the first moment: another user finds none closed.
    umask = os.umask(0)
    try:
        mode = os.stat(place.mode_of).st_mode & 0o777
        try:
            os.mkdir(folder, mode | 0o700)
        except FileExistsError:
            pass
        ignore = f"{folder}/.gitignore"
        if _is_empty(ignore):  # a call was killed, or the disk was full
            os.unlink(ignore)
        _write_new(ignore, file_mode(place), _IGNORE_EVERYTHING)
        _write_new(place.path, file_mode(place), b"")
    except OSError as error:
        raise _cannot(place, "create", error) from None
    finally:
        os.umask(umask)


def _is_empty(path: str) -> bool:
    try:
        return not os.lstat(path).st_size
    except OSError:
        return False


def _write_new(path: str, mode: int, content: bytes) -> None:
    """Write a file unless it is there. Where the file system can, it is complete before it has a name."""
    try:
        fd = os.open(os.path.dirname(path), os.O_WRONLY | os.O_TMPFILE, mode)
    except (AttributeError, OSError):  # macOS, NFS
        fd = -1
    if fd >= 0:
        try:
            os.fchmod(fd, mode)
            os.write(fd, content)
            # Python follows the link only with a src_dir_fd, which an absolute path ignores.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)
            return
        except FileExistsError:
            return
        except FileNotFoundError:  # no /proc
            pass
        finally:
            os.close(fd)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        return
    try:
        os.fchmod(fd, mode)
        os.write(fd, content)
    finally:
        os.close(fd)


def _cannot(place: Place, verb: str, error: OSError) -> MutexError:
    hints = {
        errno.ELOOP: "it is a symlink; remove it",
        errno.EISDIR: "remove that folder",
        errno.EACCES: "give yourself write access there",
        errno.EPERM: "give yourself write access there",
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space",
    }
    hint = hints.get(error.errno or 0, "mend that")
    return MutexError(f"cannot {verb} {place.path}: {error.strerror}; {hint}, or set UV_MUTEX=off to run uv unlocked")
