"""What another host wrote, and this host may not see yet."""

import os
import time

from uv_mutex import files
from uv_mutex.locking import filesystem, process
from uv_mutex.locking.lock_file import LockTarget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: For each device that was met, the answer of :func:`_forgets_at_open`.
_forgetting: dict[int, bool] = {}


def reread(folder: str, paths: "Iterable[str]") -> None:
    """Drop what this host remembers of some files; call it once the lock is taken.

    :param folder: the project root. On a file system of this host nothing is done.
    :param paths: the files.
    """
    if os.path.isdir(folder) and not filesystem.is_local(folder):
        for path in dict.fromkeys(paths):
            reopen(path)


def reopen(path: str, *, was_opened: bool = False) -> None:
    """Make a network file system ask its server about a file.

    NFS is consistent from close to open, not from write to stat. GlusterFS is not even that: what this host has read
    before, it reads again from memory as long as the file has the same size. `uv version --bump` keeps the size.

    :param path: the file.
    :param was_opened: whether this process has opened it late enough. On NFS it need not do so again.
    """
    try:
        if was_opened and _forgets_at_open(path, os.stat(path).st_dev):
            return
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return
    try:
        if not _forgets_at_open(path, os.fstat(fd).st_dev):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:  # a folder
        pass
    finally:
        os.close(fd)


def _forgets_at_open(path: str, device: int) -> bool:
    """Whether the file system drops what it has in memory of a file when it is opened and has changed."""
    if device not in _forgetting:
        mount = filesystem.find(path)
        _forgetting[device] = mount is not None and mount.forgets_at_open
    return _forgetting[device]


def outlast(target: LockTarget, fd: int, *, shared: bool, waited: bool) -> None:
    """Once the lock is taken, wait until this host has forgotten what it saw before another host wrote.

    FUSE answers from memory for a second, even for the size of a file. `uv add` on one host would read half of what
    the call before it wrote on another host, and write that back.

    :param target: the lock.
    :param fd: its descriptor.
    :param shared: whether the lock is shared.
    :param waited: whether this call had to wait for it.
    """
    seconds = filesystem.cache_seconds(target.path)
    if not seconds:
        return
    if shared or target.folder is None:
        if waited or abs(time.time() - os.fstat(fd).st_mtime) < 2 * seconds:
            time.sleep(seconds)
        return
    # What remembers is this kernel, for each mount. Two hosts can have the same name.
    client = f"{process.boot_id()}.{os.fstat(fd).st_dev}"
    if not _was_last(target, client):
        time.sleep(seconds)
        _be_last(target, client)


def _was_last(target: LockTarget, client: str) -> bool:
    """Whether the previous owner saw what this call sees. To remove a file is to ask the server, not one's memory."""
    try:
        files.remove(f"{target.path}.last.{client}")
    except OSError:
        return False
    _be_last(target, client)
    return True


def _be_last(target: LockTarget, client: str) -> None:
    name = os.path.basename(target.path)
    mine = f"{name}.last.{client}"
    try:
        for other in target.names(f"{name}.last."):
            if other != mine:
                files.remove(f"{target.folder}/{other}")
        files.create(f"{target.folder}/{mine}", target.file_mode(), b"")
    except OSError:  # then the next call waits, on this host too
        pass
