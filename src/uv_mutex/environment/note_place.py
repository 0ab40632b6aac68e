"""The folders in which the notes of an environment can lie, see :mod:`uv_mutex.environment.note_file`."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FOLDER = ".uv-mutex"
_PREFIX, _HOST_PREFIX, TICKET_PREFIX = "note.", "host.", "ticket."


class NotePlace:
    """A folder for notes, and what their names begin and end with.

    ``kind``: what the names of such notes of all environments begin with. ``owners``: whose files there can be trusted.
    In the environment that is None, for anybody: who can write there can change the environment as well.
    """

    __slots__ = ("folder", "is_cache", "kind", "owners", "prefix")

    def __init__(
        self,
        folder: str,
        owners: tuple[int, ...] | None,
        *,
        kind: str = _PREFIX,
        environment: str = "",
        is_cache: bool = False,
    ) -> None:
        self.folder = folder
        self.kind = kind
        self.prefix = kind + environment
        self.owners = owners
        self.is_cache = is_cache

    def make(self, mode: int) -> None:
        """Make the folder if there is none.

        :param mode: its permissions, but those of a cache.
        :raises OSError: if it can't be made, or if it would be in the cache of another user.
        """
        if os.path.isdir(self.folder):
            return
        if self.is_cache:
            above = os.path.dirname(self.folder)
            while not os.path.isdir(above):
                above = os.path.dirname(above)
            if os.stat(above).st_uid != os.geteuid():
                raise PermissionError(self.folder)
            os.makedirs(self.folder, 0o700)
            return
        os.mkdir(self.folder, 0o700)
        fd = self.open()
        try:
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def name(self, key: str) -> str:
        """The name of the note for a key."""
        return f"{self.prefix}{key}" if self.owners is None else f"{self.prefix}{key}.{os.geteuid()}"

    def holds(self, name: str) -> bool:
        """Whether a file of this name is a note of the environment, or a ticket."""
        return name.startswith(self.prefix) or (self.owners is None and name.startswith(TICKET_PREFIX))

    def open(self) -> int:
        """A descriptor of the folder, by which its files are named: nobody can put a symlink in its place then.

        :raises OSError: if there is none, or if it is in the cache of another user, as with sudo, which may keep HOME.
        """
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        if self.is_cache and os.fstat(fd).st_uid != os.geteuid():
            os.close(fd)
            raise PermissionError(self.folder)
        return fd


def find(environment: str, root: str, environ: "Mapping[str, str]") -> "Iterator[NotePlace]":
    """The places for the notes of all hosts, the best one first.

    :param environment: the environment's folder.
    :param root: the workspace root.
    :param environ: the environment variables.
    """
    yield NotePlace(f"{environment}/{_FOLDER}", None)
    beside_lock = f"{root}/{_FOLDER}"
    if os.path.isdir(beside_lock):
        yield from _outside(environment, beside_lock)
    yield from _cache(environment, environ, _PREFIX)


def of_host(environment: str, environ: "Mapping[str, str]") -> NotePlace | None:
    """The place for the notes of one host: the user's cache.

    Where that is a network's, there is none, since a note would cost as much there as that of all hosts.

    :param environment: the environment's folder.
    :param environ: the environment variables.
    """
    from uv_mutex.locking import filesystem

    found = _cache(environment, environ, _HOST_PREFIX)
    return next((place for place in found if filesystem.is_local(place.folder)), None)


def _cache(environment: str, environ: "Mapping[str, str]", kind: str) -> "Iterator[NotePlace]":
    from uv_mutex.uv import user_folders

    cache = user_folders.cache(environ)
    if cache and os.path.isabs(cache):
        yield from _outside(environment, f"{cache}/uv-mutex", kind=kind, is_cache=True)


def _outside(environment: str, folder: str, *, kind: str = _PREFIX, is_cache: bool = False) -> "Iterator[NotePlace]":
    """A place that the environment shares with others, if there is an environment."""
    try:
        found = os.stat(environment)
    except OSError:
        return
    owners = (os.geteuid(), found.st_uid, 0)
    numbers = f"{found.st_dev:x}-{found.st_ino:x}."
    yield NotePlace(folder, owners, kind=kind, environment=numbers, is_cache=is_cache)
