"""The locks: take, wait, release.

The lock is an flock on a descriptor that we own, the same that filelock.lock_descriptor takes. A lock that is free is
taken here without importing filelock; see :mod:`uv_mutex.locking.wait` for one that isn't.
"""

import errno
import fcntl
import os
import time

from uv_mutex.errors import MutexError
from uv_mutex.locking import lock_file, network_cache, owner
from uv_mutex.locking.lock_file import FLOCK, LEASE, Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from uv_mutex.locking.wait import Wait

#: Names the locks that an outer call holds while its child runs.
HELD = "UV_MUTEX_HELD"
#: Errors of flock that say "held": some file systems answer EACCES.
BUSY = (errno.EAGAIN, errno.EACCES)
#: Errors of flock that say "not here": FUSE, Lustre without -o flock, NFS without lockd.
MISSING = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_LONGEST_TIMEOUT = 1e9


class Lock:
    """A lock that this process holds until :meth:`release`, or until it ends.

    ``after_death``: whether the last to hold it died at work, so that what it worked on may be half done.
    """

    backend = FLOCK
    __slots__ = ("_fd", "_record", "after_death", "place", "shared", "token")

    def __init__(self, place: Place, fd: int, *, shared: bool) -> None:
        self.place = place
        self.shared = shared
        self.token = ""
        self.after_death = False
        self._fd = fd
        self._record = b""

    def record(self, command: str) -> None:
        """Say in the lock file who holds it, for those who wait. On a full disk they are left guessing.

        :param command: what the lock is held for.
        """
        if self.place.is_folder or self.shared:
            return
        holder = owner.this_process(command, time.time())
        data = holder.encode()
        try:
            self.after_death = bool(os.pread(self._fd, owner.RECORD_BYTES, 0).strip())
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
        from uv_mutex.messages import calls

        try:
            if not try_flock(self._fd, shared=self.shared):
                return calls.TAKEN_OVER
        except OSError as error:
            return calls.dropped(error)
        # That may just have taken it anew, from a server that had dropped it. Was another inside meanwhile?
        same = not self._record or owner.read_record(self.place.path) == self._record
        return None if same else calls.TAKEN_OVER

    def release(self, *, unfinished: bool = False) -> None:
        """Let others in. The file stays: unlinked, it would split those who wait across two files.

        :param unfinished: leave the record, as if this process had died: what it worked on may be half done.
        """
        if self._record and not unfinished:
            try:
                if os.pread(self._fd, owner.RECORD_BYTES, 0) == self._record:
                    os.ftruncate(self._fd, 0)
            except OSError:
                pass
        try:
            os.close(self._fd)
        except OSError:  # ENOTCONN: this host was cut off, and has no lock any more
            pass


class Patience:
    """How long a call waits, over all its locks. ``waited``: seconds so far."""

    __slots__ = ("backend", "command", "limit", "quiet", "waited")

    def __init__(self, limit: float | None, *, quiet: bool, backend: str | None = None, command: str = "") -> None:
        """
        :param limit: seconds; None for ever.
        :param quiet: say nothing while waiting.
        :param backend: the only kind of lock to take; None for whichever the file system has.
        :param command: what the lock is wanted for.
        """
        self.limit = limit
        self.quiet = quiet
        self.backend = backend
        self.command = command
        self.waited = 0.0

    def waiting(self, place: Place) -> "Wait":
        """A context in which to wait for a lock."""
        from uv_mutex.locking.wait import Wait

        return Wait(place, self)


def patience(environ: "Mapping[str, str]", *, quiet: bool, command: str = "") -> Patience:
    """The patience that UV_MUTEX_TIMEOUT and UV_MUTEX_BACKEND ask for.

    :param environ: the environment.
    :param quiet: say nothing while waiting.
    :param command: what the lock is wanted for.
    :raises MutexError: if the one is no number of seconds, or the other no kind of lock.
    """
    backend = environ.get("UV_MUTEX_BACKEND") or None
    if backend not in (None, FLOCK, LEASE):
        from uv_mutex.messages import calls

        raise MutexError(calls.unknown_backend(backend))
    text = environ.get("UV_MUTEX_TIMEOUT")
    if not text:
        return Patience(None, quiet=quiet, backend=backend, command=command)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < _LONGEST_TIMEOUT:
        from uv_mutex.messages import calls

        raise MutexError(calls.no_number(text))
    return Patience(limit, quiet=quiet, backend=backend, command=command)


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
            holder = owner.read_holder(place.path)
            return not _is_free(place) and token == (holder.token if holder else "")
    return False


def _is_free(place: Place) -> bool:
    if lock_file.recorded_backend(place) == LEASE:
        from uv_mutex.locking import lease

        return not os.path.exists(lease.marker(place))
    fd = lock_file.open_file(place)
    try:
        return try_flock(fd, shared=False)
    except OSError as error:
        raise lock_file.cannot(place, "lock", error) from None
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
        recorded = lock_file.recorded_backend(place)
        if patience.backend and recorded and patience.backend != recorded:
            raise lock_file.mixed(place, patience.backend, recorded)
        wanted = patience.backend or recorded
        fd = lock_file.open_file(place)
        lock: Lock | None = None
        try:
            if wanted != LEASE:
                lock = _take_flock(fd, place, patience, shared=shared)
            if lock is None:
                if wanted == FLOCK:
                    raise lock_file.mixed(place, None, FLOCK)
                lock = _take_lease(fd, place, patience, shared=shared)
            # The first to lock decides for all; if another kind was first by a moment, do as it did.
            agreed = recorded or lock_file.record_backend(place, lock.backend)
            current = agreed == lock.backend and _is_current(fd, place)
        except BaseException as error:
            if lock:
                lock.release()
            else:
                os.close(fd)
            if not isinstance(error, OSError):
                raise
            if error.errno != errno.ESTALE:
                raise lock_file.cannot(place, "lock", error) from None
            time.sleep(lock_file.PAUSE_SECONDS)  # another host removed it
            continue
        if current:
            network_cache.outlast_caches(place, fd, shared=shared, waited=patience.waited > waited)
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
    from uv_mutex.locking import lease

    return lease.take(place, fd, patience, shared=shared)


def watch(locks: "list[Lock]") -> "Callable[[], str | None] | None":
    """What tells, asked again and again while a child runs, why a lock is no longer ours. None if none can be lost."""
    from uv_mutex.locking import filesystem
    from uv_mutex.messages import calls  # now, while the file server is there

    fragile = [held for held in locks if held.backend == LEASE or not filesystem.is_local(held.place.path)]
    if not fragile:
        return None

    def lost() -> str | None:
        for held in fragile:
            reason = held.lost()
            if reason:
                return calls.lost(held.place.path, reason)
        return None

    return lost


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
    except OSError as error:
        if error.errno in lock_file.GONE:
            return False
        raise
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
