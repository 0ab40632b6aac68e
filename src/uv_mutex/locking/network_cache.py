"""What this host may not see yet of what another host wrote."""

import os
import time

from uv_mutex.locking.lock_file import Place, file_mode, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from uv_mutex.uv.project import Project


def see_other_hosts_writes(project: "Project") -> None:
    """Drop what this host remembers of the project; call it once the lock is taken.

    :param project: the project. What else decides is reopened when its note is made or checked.
    """
    try:
        fd = os.open(project.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            on_disk = bool(os.major(os.fstat(fd).st_dev))
        finally:
            os.close(fd)
    except OSError:
        return
    if not on_disk:
        reopen(f"{project.root}/pyproject.toml")
        reopen(f"{project.root}/uv.lock")
        if project.member != project.root:
            reopen(f"{project.member}/pyproject.toml")


def reopen(path: str) -> None:
    """Make a network file system ask its server about a file.

    It is consistent from close to open, not from write to stat. GlusterFS is not even that: what this host has read
    before, it reads again from memory, as long as the file has the same size. `uv version --bump` keeps it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:  # a folder
        pass
    finally:
        os.close(fd)


def outlast_caches(place: Place, fd: int, *, shared: bool, waited: bool) -> None:
    """Once the lock is taken, wait until this host has forgotten what it saw before another wrote.

    FUSE answers from memory for a second, whoever wrote since: even the size of a file, so that `uv add` on one host
    would read half of what the one before it wrote on another, and write that back.
    """
    answer = os.fstat(fd)
    if os.major(answer.st_dev):  # a disk of this host
        return
    from uv_mutex.locking import filesystem

    seconds = filesystem.cache_seconds(place.path)
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
        write_new(f"{folder}/{mine}", file_mode(place), b"")
    except OSError:  # then the next one waits, and so does this host
        pass
