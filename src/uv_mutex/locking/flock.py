"""The lock of the kernel: flock on a descriptor that this process owns, as filelock.lock_descriptor takes it."""

import errno
import fcntl
import os
import time

from uv_mutex.locking import filesystem, owner
from uv_mutex.locking.lock_file import FLOCK, LockTarget
from uv_mutex.locking.owner import LockOwner

#: Errors of flock that say "another has it": some file systems answer EACCES.
_BUSY_ERRORS = (errno.EAGAIN, errno.EACCES)
#: Errors of flock that say "not on this file system": FUSE, Lustre without -o flock, NFS without lockd.
MISSING_ERRORS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
TAKEN_OVER = "another call took it over"
#: The content of the lock file if there is an owner, but no room for its name.
_SOMEBODY = b"\0"


def try_flock(fd: int, *, shared: bool) -> bool:
    """Take the flock if it is free; return whether it was.

    :param fd: a descriptor of the lock file.
    :param shared: as one of many.
    :raises OSError: if the file system has none.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY_ERRORS:
            return False
        raise
    return True


class HeldLock:
    """A lock that this process holds until :meth:`release`, or until it ends.

    ``target``: what is locked. ``base``: the lock that ``target`` is a level of; ``target`` itself if it is none.
    ``shared``: as one of many. ``needs_record``: without a run record it keeps nobody out. ``previous_owner_began``: if
    the last owner died at work, so that its work may be half done, when it took the lock, in seconds since 1970 by the
    file server's clock.
    """

    backend = FLOCK
    needs_record = False
    __slots__ = ("_fd", "_owner", "_record", "base", "previous_owner_began", "shared", "target")

    def __init__(self, target: LockTarget, fd: int, *, shared: bool) -> None:
        self.target = self.base = target
        self.shared = shared
        self.previous_owner_began: float | None = None
        self._fd = fd
        self._owner: LockOwner | None = None
        self._record = b""

    def record(self, command: str) -> None:
        """Write the owner into the lock file, for those who wait. On a full disk they learn only that there is one.

        A shared lock has no owner, and only sees whether the last owner died.

        :param command: what the lock is held for.
        """
        if self.target.folder is None:
            return
        try:
            found, status = os.pread(self._fd, owner.RECORD_BYTES, 0), os.fstat(self._fd)
            if found.strip() and not self._is_copied(owner.decode(found), status.st_ino):
                self.previous_owner_began = status.st_mtime
            if self.shared:
                return
            self._owner = owner.this_process(command, time.time(), status.st_ino)
            self._record = self._write(self._owner.encode())
        except OSError:
            pass

    def _write(self, record: bytes) -> bytes:
        """Write the owner, at the file server too; return what the file has then. To be longer, it needs no room.

        :raises OSError: if not even that is possible.
        """
        try:
            os.pwrite(self._fd, record, 0)
            os.ftruncate(self._fd, len(record))
            if not filesystem.is_local(self.target.path):  # observed_lock relies on it
                os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, len(_SOMEBODY))
            return _SOMEBODY
        return record

    def _is_copied(self, found: "LockOwner | None", inode: int) -> bool:
        """Whether an owner was written into another file, of which this is a copy, as in an image.

        What it worked on lies elsewhere, and here all files have changed since. Some network file systems number their
        files anew on each host.
        """
        return found is not None and found.inode not in (None, inode) and filesystem.is_local(self.target.path)

    def absorb(self, deeper: "HeldLock") -> None:
        """Take over what the last owner of a deeper level left half done, and release that level.

        :param deeper: the lock of that level, held exclusively.
        """
        deeper.record("")
        if deeper.previous_owner_began is not None:
            self.previous_owner_began = min(deeper.previous_owner_began, self.previous_owner_began or float("inf"))
        deeper.release()

    @property
    def previous_owner_died(self) -> bool:
        """Whether the last owner died at work."""
        return self.previous_owner_began is not None

    @property
    def token(self) -> str:
        """One word that no other lock has, of whatever process."""
        if self._owner is None:
            self._owner = owner.this_process("", time.time())
        return self._owner.token

    @property
    def mark(self) -> str:
        """What a nested call recognises this lock by."""
        answer = os.fstat(self._fd)
        return f"{answer.st_dev}:{answer.st_ino}:{self.token}"

    def lost(self) -> str | None:
        """Why another call may hold the lock by now; None if none can. A file server can forget its clients."""
        try:
            if not try_flock(self._fd, shared=self.shared):
                return TAKEN_OVER
        except OSError as error:
            return f"the file server dropped it ({error.strerror})"
        # That may have taken it anew, from a server that had dropped it. Did another call hold it meanwhile?
        same = not self._record or owner.read_record(self.target.path) == self._record
        return None if same else TAKEN_OVER

    def still_excludes(self) -> bool:
        """Whether nobody can have taken the lock alone since. A shared holder asks once it has left its run record.

        If somebody has, the holder must let go, and take the lock anew.

        :raises OSError: if that can't be told.
        """
        return True

    def release(self, *, unfinished: bool = False) -> None:
        """Let others in. The file stays: if it were unlinked, those who wait would be split across two files.

        :param unfinished: leave the owner in the file, as if this process had died: its work may be half done.
        """
        try:
            if self._record and os.pread(self._fd, owner.RECORD_BYTES, 0) == self._record:
                if not unfinished:
                    os.ftruncate(self._fd, 0)
                elif self.previous_owner_began is not None:  # the next owner must look back as far as this one
                    os.utime(self._fd, (self.previous_owner_began, self.previous_owner_began))
        except OSError:
            pass
        try:
            os.close(self._fd)
        except OSError:  # ENOTCONN: this host was cut off, and has no lock any more
            pass
