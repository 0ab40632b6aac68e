"""Small files that others may replace, lock down or turn into something else at any moment.

What is written goes into a folder of ours, `.uv-mutex`, by a descriptor of that folder. Neither the folder nor the
file may be a symlink, and the folder must be one that no stranger can have put there: root's locks must not end up in
another folder, nor give others the right to write there.
"""

import errno
import os
import stat

#: Few files are longer. To ask for more at once takes memory for all of it, which costs more than the file.
_USUAL_BYTES = 1 << 16
_BESIDE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: What a file is called until it is complete, with a random end.
TEMPORARY = ".new."
_NO_LINKS_ERRORS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class ForeignFolderError(PermissionError):
    """A folder belongs to somebody who is not trusted with it. A lock file in it may be locked, and no more."""

    def __init__(self, path: str, uid: int) -> None:
        super().__init__(errno.EPERM, f"the folder belongs to user {uid}", path)


def read(path: str, limit: int, *, follow: bool = True, start: int = 0) -> bytes:
    """The bytes of a file from ``start`` on, at most ``limit``. A named pipe reads as empty instead of blocking.

    :param path: the file.
    :param limit: the most bytes to read.
    :param follow: whether to follow a symlink at the end of the path.
    :param start: the offset in bytes to begin at.
    :raises OSError: if it can't be opened or read; ELOOP for a symlink that is not to be followed.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    try:
        return os.pread(fd, limit, start) if start else read_open(fd, limit)
    finally:
        os.close(fd)


def read_open(fd: int, limit: int) -> bytes:
    """The bytes of an open file from its position on, at most ``limit``.

    :raises OSError: if it can't be read.
    """
    found = os.read(fd, min(limit, _USUAL_BYTES))
    return found + os.read(fd, limit - _USUAL_BYTES) if len(found) == _USUAL_BYTES < limit else found


def read_or_empty(path: str, limit: int, *, follow: bool = True) -> bytes:
    """As :func:`read`; empty where the file can't be read."""
    try:
        return read(path, limit, follow=follow)
    except OSError:
        return b""


def open_folder(path: str, *, trusted: bool = True) -> int:
    """Open a folder of ours; return a descriptor that only leads to what is in it.

    :param path: the folder. Symlinks above it are followed.
    :param trusted: refuse a folder that a stranger may have put there. Strangers are all but the caller, root, and the
        owner of the folder above; where others may replace what is in that folder, there are no strangers.
    :raises ForeignFolderError: if it belongs to a stranger.
    :raises OSError: if it can't be opened; ENOTDIR if it is no folder, or a symlink.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mine = os.fstat(fd)
        if mine.st_uid not in (0, os.geteuid()) and trusted:
            above = os.stat(os.path.dirname(path))
            others_may_replace = above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX
            if mine.st_uid != above.st_uid and not others_may_replace:
                raise ForeignFolderError(path, mine.st_uid)
        if not stat.S_ISDIR(mine.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


class _Folder:
    """A folder of ours that is open for the length of a `with`, which yields its descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, path: str, *, trusted: bool = True) -> None:
        self._fd = open_folder(path, trusted=trusted)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def open_file(path: str, flags: int, mode: int = 0o600, *, trusted: bool = True) -> int:
    """Open a file in a folder of ours; return the descriptor.

    :param path: the file. It must not be a symlink, nor may its folder be one.
    :param flags: as for os.open.
    :param mode: its permissions if it is created, less what the umask takes away.
    :param trusted: as for :func:`open_folder`.
    :raises OSError: if it can't be opened.
    """
    with _Folder(os.path.dirname(path), trusted=trusted) as folder_fd:
        return os.open(os.path.basename(path), flags | _BESIDE, mode, dir_fd=folder_fd)


def remove(path: str) -> None:
    """Remove a file from a folder of ours.

    :raises OSError: if that is not possible, or if there is none.
    """
    with _Folder(os.path.dirname(path)) as folder_fd:
        os.unlink(os.path.basename(path), dir_fd=folder_fd)


def create(path: str, mode: int, content: bytes) -> None:
    """Write a new file in a folder of ours; do nothing if there is one. It is complete before it has its name.

    :param path: the file.
    :param mode: its permissions, whatever the umask is.
    :param content: what to write.
    :raises OSError: if it can't be written.
    """
    folder, name = os.path.split(path)
    with _Folder(folder) as folder_fd:
        try:
            if not _create_without_name(folder_fd, name, mode, content):
                _create_with_links(folder_fd, name, mode, content)
        except FileExistsError:
            pass


def replace(path: str, mode: int, content: bytes) -> None:
    """Write a file in a folder of ours in one step, over the one that may be there.

    :param path: the file.
    :param mode: its permissions, whatever the umask is.
    :param content: what to write.
    :raises OSError: if it can't be written.
    """
    folder, name = os.path.split(path)
    with _Folder(folder) as folder_fd:
        temporary = _write_new(folder_fd, _temporary_name(), mode, content)
        try:
            os.rename(temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except BaseException:
            os.unlink(temporary, dir_fd=folder_fd)
            raise


def _create_without_name(folder_fd: int, name: str, mode: int, content: bytes) -> bool:
    """Write a file that gets its name once it is complete; return False where there is no such thing, as on NFS."""
    try:
        fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, mode, dir_fd=folder_fd)
    except OSError:
        return False
    try:
        os.fchmod(fd, mode)
        _write_whole(fd, content)
        # Python follows the link in /proc only with a src_dir_fd, which an absolute path ignores.
        os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, dst_dir_fd=folder_fd)
    except FileNotFoundError:  # no /proc
        return False
    finally:
        os.close(fd)
    return True


def _create_with_links(folder_fd: int, name: str, mode: int, content: bytes) -> None:
    """Write a file beside, and give it its name then; without hard links, others may see it empty for a moment."""
    temporary = _write_new(folder_fd, _temporary_name(), mode, content)
    try:
        os.link(temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS_ERRORS:
            raise
        _write_new(folder_fd, name, mode, content)
    finally:
        os.unlink(temporary, dir_fd=folder_fd)


def _temporary_name() -> str:
    """A name that no other writer has: a process id is not enough, since containers share them."""
    return f"{TEMPORARY}{os.urandom(8).hex()}"


def _write_new(folder_fd: int, name: str, mode: int, content: bytes) -> str:
    """Write a file that does not exist yet; return its name."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BESIDE, mode, dir_fd=folder_fd)
    try:
        os.fchmod(fd, mode)
        _write_whole(fd, content)
    except BaseException:
        os.unlink(name, dir_fd=folder_fd)
        raise
    finally:
        os.close(fd)
    return name


def _write_whole(fd: int, content: bytes) -> None:
    """Write all of it: on a disk that fills up, one call may write a part and say nothing of the rest."""
    while content:
        content = content[os.write(fd, content) :]


def create_private(path: str, content: bytes) -> None:
    """Write a new file, of any folder, to the disk. Until its mode is changed, nobody else may open it.

    :raises OSError: if it can't be written; then there is none.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise


def reread_folder(path: str) -> None:
    """Make a network file system ask its server what is in a folder: NFS does so when the folder is opened.

    Until then it may believe for a minute in a file that is gone, or that one which is there is not. NFSv3 goes by the
    time of the folder, which stays the same where it changes twice within one tick of the server's clock, some
    milliseconds. So what was listed before is dropped in any case. That does not help who looks for one file by its
    name: it may be listed, and yet not be found.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # gone, or not ours to read
        return
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:  # this file system keeps nothing
        pass
    finally:
        os.close(fd)


def stat_on_server(path: str) -> os.stat_result:
    """What stat says of a file, from the file server: it is asked at open, while stat may answer from memory.

    :raises OSError: if the file can't be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)
