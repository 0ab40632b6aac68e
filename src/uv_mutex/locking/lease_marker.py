"""The marker, the file whose existence is a lease: made, renewed, looked for, and taken away once its owner is dead.

It reads like the marker of filelock's SoftFileLease, so that calls which lock by that one wait for ours, and ours for
theirs. filelock itself is not asked: it takes a lease away at once where host name and process id name no living
process, and other hosts and containers have the same names; it exchanges two names in one step, which NFS, GlusterFS
and SMB refuse.
"""

import errno
import os
import time

from uv_mutex import files
from uv_mutex.locking import process
from uv_mutex.locking.lock_file import PAUSE_SECONDS

_LIMIT = 1024
_ATTEMPTS = 20
_PROCESS = b"process="


class Sight:
    """What a marker looked like: its content, and when it was renewed, in ns by the file server's clock.

    Inode numbers say nothing here: some file systems without flock make them up as they go.
    """

    __slots__ = ("content", "renewed_ns")

    def __init__(self, content: bytes, renewed_ns: int) -> None:
        self.content = content
        self.renewed_ns = renewed_ns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sight) and (self.content, self.renewed_ns) == (other.content, other.renewed_ns)

    def __hash__(self) -> int:
        return hash((self.content, self.renewed_ns))

    @property
    def digest(self) -> str:
        """A word for this sight, the same on all hosts."""
        import hashlib

        return hashlib.blake2b(b"%d %b" % (self.renewed_ns, self.content), digest_size=8).hexdigest()

    @property
    def owner_is_dead(self) -> bool:
        """Whether this process can see that the owner is dead; the owner of another host or container can't be seen."""
        for line in self.content.splitlines():
            if line.startswith(_PROCESS):
                owner = process.decode(line[len(_PROCESS) :].decode("ascii", "replace"))
                return owner is not None and owner.is_alive is False
        return False


#: What a marker looks like that the server lists, and this host does not find for a while.
_UNFOUND = Sight(b"", 0)


def content(lease_seconds: float) -> bytes:
    """A new marker of this process, unlike any other.

    :param lease_seconds: how long the lease lasts unless it is renewed.
    """
    me = process.this_process()
    # The host is for filelock alone. A kernel and a namespace equal none of its host names, so it judges by age.
    lines = ["filelock/2", f"pid={me.pid}", f"host={me.boot}/{me.namespace}", "mode=lease"]
    lines += [f"token={os.urandom(16).hex()}", f"duration={lease_seconds!r}", f"process={me.encode()}", ""]
    return "\n".join(lines).encode()


def create(path: str, mode: int, data: bytes) -> bool:
    """Make the marker; False if there is one.

    :param path: the marker.
    :param mode: its permissions, whatever the umask is.
    :param data: its content.
    :raises OSError: if it can't be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        return False
    try:
        os.fchmod(fd, mode)
        os.write(fd, data)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    return True


def look(path: str) -> Sight | None:
    """The marker as the file server has it now; None if there is none.

    :raises OSError: if that can't be told.
    """
    for attempt in range(_ATTEMPTS):
        try:
            files.reread_folder(os.path.dirname(path))
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                return Sight(os.read(fd, _LIMIT), os.fstat(fd).st_mtime_ns)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return _UNFOUND if _is_listed(path) else None
        except OSError as error:  # ESTALE: another host replaces it at this moment, so nobody knows
            if error.errno != errno.ESTALE or attempt == _ATTEMPTS - 1:
                raise
        time.sleep(PAUSE_SECONDS)
    return None


def _is_listed(path: str) -> bool:
    try:
        return os.path.basename(path) in os.listdir(os.path.dirname(path))
    except FileNotFoundError:
        return False


def renew(path: str) -> None:
    """Give the marker the file server's time; the owner calls it.

    :raises OSError: if that fails.
    """
    os.utime(path, follow_symlinks=False)


def remove(path: str, data: bytes) -> None:
    """Take away the marker with this content; nothing happens if that fails, or if it has another content."""
    try:
        sight = look(path)
        if sight is not None and sight.content == data:
            os.unlink(path)
    except OSError:  # this host was cut off; the lease ends by itself
        pass


class DeadOwnerWatcher:
    """Watches a marker while a call waits, and removes it when its owner is dead.

    The owner is dead if this process sees that it is, or if nobody renewed the marker for the length of a lease, by
    this host's clock alone. Only the waiter that created the claim may remove it, since no file system can compare and
    remove in one step. If that waiter dies, the next claim follows a lease later.
    """

    def __init__(self, path: str, lease_seconds: float) -> None:
        """
        :param path: the marker.
        :param lease_seconds: how long the lease lasts unless it is renewed.
        """
        self._path = path
        self._patience = lease_seconds
        self._seen: Sight | None = None
        self._since = 0.0
        self._claims = 0

    def clear(self) -> bool:
        """Remove the marker if its owner is dead; return whether there is none now.

        :raises OSError: if nobody can tell whether there is one.
        """
        asked = time.monotonic()
        seen = look(self._path)
        if seen is None:
            return True
        if seen != self._seen:
            self._seen, self._since, self._claims = seen, time.monotonic(), 0
        can_see_it = not self._claims and seen.owner_is_dead
        if not can_see_it and asked - self._since < self._patience:
            return False
        self._since = time.monotonic()
        self._claims += 1
        try:
            return self._remove(seen)
        except OSError:
            return False

    def _remove(self, dead: Sight) -> bool:
        claim = f"{self._path}.dead.{dead.digest}"
        mine = f"{claim}.{self._claims}"
        os.close(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        try:
            if look(self._path) != dead:
                return False
            os.rename(self._path, mine)
            if look(mine) == dead:
                self._remove_older_claims(claim)
                return True
            # Its owner woke up at this very moment, or this is the marker of the next one.
            self._put_back(mine)
            return False
        finally:
            _unlink(mine)

    def _put_back(self, aside: str) -> None:
        try:
            os.link(aside, self._path)
        except FileExistsError:  # a third was quicker, and the owner sees that it lost the lease
            pass
        except OSError:  # no hard links: a third that was quicker sees that it lost the lease
            os.rename(aside, self._path)

    def _remove_older_claims(self, claim: str) -> None:
        for number in range(1, self._claims):
            _unlink(f"{claim}.{number}")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
