"""Where a lock lives, and the files it is made of."""

import errno
import os
import stat
import time

from uv_mutex.errors import MutexError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from uv_mutex.uv.project import Project

FOLDER = ".uv-mutex"
FLOCK, LEASE = "flock", "lease"
#: Errors of a file that another host removed, or that lies in a folder which it is just making: NFS, GlusterFS.
GONE = (errno.ENOENT, errno.ESTALE)
_ATTEMPTS, PAUSE_SECONDS = 20, 0.05
_IGNORE_EVERYTHING = b"# made by uv-mutex\n*\n"


class Place:
    """Where a lock lives. ``path``: what is locked. ``is_folder``: an environment's own folder is locked.

    ``mode_of``: the folder whose permissions the lock file copies, so that whoever may work there may lock.
    """

    __slots__ = ("is_folder", "mode_of", "path")

    def __init__(self, path: str, mode_of: str, *, is_folder: bool = False) -> None:
        self.path = path
        self.mode_of = mode_of
        self.is_folder = is_folder


def needed(project: "Project", *, keeps_lockfile: bool, to_look: bool = False) -> list[Place]:
    """The locks that a call on this project needs, in the order to take them; none if it can't write anything.

    :param project: the project.
    :param keeps_lockfile: whether the call leaves pyproject.toml and uv.lock alone.
    :param to_look: make nothing, and leave nothing out: whoever can't write a project can see who does.
    """
    root, environment = project.root, project.environment
    if os.path.islink(environment):
        environment = os.path.realpath(environment)
    inside = environment == f"{root}/.venv"
    needed = []
    if inside or not keeps_lockfile:
        if to_look or _writable(root, f"{root}/pyproject.toml", f"{root}/uv.lock"):
            needed.append(Place(f"{root}/{FOLDER}/lock", root))
        elif inside:
            needed.extend(_environment_place(environment))
    if not inside:
        needed.extend(_environment_place(environment, to_look=to_look))
    return needed


def _environment_place(environment: str, *, to_look: bool = False) -> "Iterable[Place]":
    above, name = os.path.split(environment)
    try:
        if not to_look:
            os.makedirs(above)  # uv would, but then the lock would move there while it is held
    except OSError:
        pass
    while not to_look and not os.path.isdir(above):  # uv makes the folders above an environment as well
        above, missing = os.path.split(above)
        name = f"{missing}-{name}"
    # For a project's own .venv this is the project lock, whichever project asks.
    file = f"{above}/{FOLDER}/{'lock' if name == '.venv' else name + '.lock'}"
    if _writable(above) or (to_look and (os.path.exists(file) or not os.path.isdir(environment))):
        yield Place(file, above)
    elif to_look or _writable(environment):
        # Its folder can't be replaced by one who can't write above it, so it can serve as the lock file.
        yield Place(environment, above, is_folder=True)


def _writable(*paths: str) -> bool:
    return any(os.access(path, os.W_OK) for path in paths)


def open_file(place: Place) -> int:
    """Open what is to be locked, making it if it isn't there.

    :raises MutexError: if that can't be.
    """
    if place.is_folder:
        try:
            return os.open(place.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise cannot(place, "open", error) from None
    for attempt in range(_ATTEMPTS):
        try:
            fd = os.open(place.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except PermissionError as error:
            fd = _open_to_read(place, error)
        except OSError as error:
            if error.errno not in GONE or attempt == _ATTEMPTS - 1:
                raise cannot(place, "open", error) from None
            if not _create(place):
                time.sleep(PAUSE_SECONDS)
            continue
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        break
    from uv_mutex.messages import calls

    raise MutexError(calls.no_file(place.path))


def _open_to_read(place: Place, denied: OSError) -> int:
    """Another user's lock file that we may only read: enough for flock, except on NFS."""
    try:
        return os.open(place.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        raise cannot(place, "open", denied) from None


def _create(place: Place) -> bool:
    """Make the folder and the lock file; False if that can't be yet."""
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
        write_new(ignore, file_mode(place), _IGNORE_EVERYTHING)
        write_new(place.path, file_mode(place), b"")
    except OSError as error:
        if error.errno in GONE:
            return False
        raise cannot(place, "create", error) from None
    finally:
        os.umask(umask)
    return True


def _is_empty(path: str) -> bool:
    try:
        return not os.lstat(path).st_size
    except OSError:
        return False


def write_new(path: str, mode: int, content: bytes) -> None:
    """Write a file unless it is there. Where the file system can, it is complete before it has a name."""
    try:
        fd = os.open(os.path.dirname(path), os.O_WRONLY | os.O_TMPFILE, mode)
    except OSError:  # NFS
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


def file_mode(place: Place) -> int:
    """The permissions of a lock's files: whoever may write the folder may lock it."""
    return (os.stat(place.mode_of).st_mode | 0o600) & 0o666


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


def record_backend(place: Place, backend: str) -> str:
    """Write the kind of lock down, so that all hosts use one kind; return what stands there then."""
    path = _backend_file(place)
    temporary = f"{path}.{os.uname().nodename}.{os.getpid()}"
    for _ in range(_ATTEMPTS):
        try:
            write_new(temporary, file_mode(place), backend.encode() + b"\n")
            try:
                os.link(temporary, path)  # all or nothing, and never over another's
            except FileExistsError:
                pass
            finally:
                os.unlink(temporary)
        except OSError as error:
            if error.errno != errno.ESTALE:  # no hard links, or a full disk: what isn't written down can't be compared
                break
            time.sleep(PAUSE_SECONDS)
        else:
            return recorded_backend(place) or backend
    return backend


def _backend_file(place: Place) -> str:
    return os.path.join(os.path.dirname(place.path), "backend")


def mixed(place: Place, forced: str | None, recorded: str) -> MutexError:
    """What to raise where a project is locked by another kind of lock than is ``forced``, or than this host has."""
    from uv_mutex.messages import calls

    who = f"UV_MUTEX_BACKEND={forced}" if forced else calls.THIS_HOST
    return MutexError(calls.mixed(who, place.path, recorded, _backend_file(place)))


def cannot(place: Place, verb: str, error: OSError) -> MutexError:
    """What to raise for a lock that can't be opened, created or locked."""
    from uv_mutex.messages import calls

    return MutexError(calls.cannot(verb, place.path, error))
