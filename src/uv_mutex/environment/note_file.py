"""Read and write the files that hold the notes of an environment, and remove those that are of no more use.

A note file is called ``note.KEY``; the key is a digest of what the call asks uv for, see
:mod:`uv_mutex.environment.request_key`. It lies in the first of these folders that can be written: ``.uv-mutex`` in
the environment, the lock's folder in the workspace root, ``uv-mutex`` in the user's cache. Outside the environment it
is called ``note.DEVICE-INODE.KEY.UID``, by the environment's device and inode and by the user: users who don't trust
each other's notes don't overwrite them either.

Where other hosts can write too, a host keeps a note of its own in the user's cache, ``host.DEVICE-INODE.KEY.UID``: the
note of all hosts that its last call found to hold, and the state of the locks then.

A file is text, a line each, with these parts:

- ``uv-mutex note 4``, and ``reopen`` if other hosts can write the files below: then each must be reopened before it is
  compared, since stat may answer from the cache of a network file system.
- ``lock STATE PATH`` for each lock, in a note of one host. It counts only while the locks are in this state, which each
  call changes that takes one alone and can name itself there: so none has removed the note of all hosts either.
- Lines ``KIND STATE PATH``, see :func:`uv_mutex.environment.fingerprint.describe`. A path in the workspace root begins
  with ``./``. STATE is ``-`` where nothing is; else ctime, mtime (both in nanoseconds), size and inode, with ``/``
  between, for the kinds ``file``, ``packages``, ``members`` and ``tree``; ``+`` for ``exists``; a digest for ``env``.
  ``glob`` is not compared. A state ``?`` never compares equal. The environment is fresh if all lines hold.
- ``# contents``, and lines that are compared where only lines of ``packages``, ``members`` or ``tree`` don't hold.
"""

import os

from uv_mutex import files
from uv_mutex.environment import note_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from uv_mutex.environment.note_place import NotePlace

_HEAD = "uv-mutex note 4"
_REOPEN = " reopen"
#: Ends the lines that are always compared. A file without it was cut short.
_SEPARATOR = "\n# contents\n"
#: Far more than a note can have: a line has some 100 bytes.
_MOST_BYTES = 1 << 25
_TEMPORARY = ".note."
#: How a line about a lock begins.
_LOCK = "lock "
#: How many notes of one environment are kept, how many of all environments in a user's cache, and how many tickets.
_MOST_NOTES, _MOST_CACHED, _MOST_TICKETS = 16, 256, 64
#: The age in seconds at which the temporary file of a note is taken for one whose writer died.
_ABANDONED_AFTER = 60
_OLDER_NAME_LENGTH = 8


class StoredNote:
    """What a note file says.

    ``lines``: the lines that are always compared, with absolute paths. ``contents``: the text that is compared if a
    folder's line differs, with paths as :func:`relative_path` writes them. ``reopen``: whether each file must be
    reopened before it is compared. ``locks``: in a note of one host, the state of the locks.
    """

    __slots__ = ("contents", "lines", "locks", "reopen")

    def __init__(self, lines: "Sequence[str]", contents: str, *, reopen: bool, locks: "Sequence[str]" = ()) -> None:
        self.lines = lines
        self.contents = contents
        self.reopen = reopen
        self.locks = locks


class NoteFiles:
    """The note files of one environment."""

    def __init__(self, environment: str, root: str, environ: "Mapping[str, str]") -> None:
        """
        :param environment: the environment's folder.
        :param root: the workspace root.
        :param environ: the environment variables.
        """
        self._environment = environment
        self._root = root
        self._environ = environ

    def read(self, key: str) -> "Iterator[StoredNote]":
        """Each note for a key that is not damaged, of another version, or by somebody who can't be trusted."""
        for place in self._places():
            note = self._read(place, key)
            if note:
                yield note

    def read_of_host(self, key: str) -> StoredNote | None:
        """The note for a key that a call of this host left for the others; None if there is none."""
        place = note_place.of_host(self._environment, self._environ)
        return self._read(place, key) if place else None

    def _read(self, place: "NotePlace", key: str) -> StoredNote | None:
        content = _read(f"{place.folder}/{place.name(key)}", place.owners)
        described, separator, contents = content.decode("utf-8", "surrogateescape").partition(_SEPARATOR)
        head, *lines = described.split("\n")
        reopen = head == _HEAD + _REOPEN
        if not separator or not (reopen or head == _HEAD) or not all(line.count(" ") > 1 for line in lines):
            return None
        count = next((at for at, line in enumerate(lines) if not line.startswith(_LOCK)), len(lines))
        absolute = [_with_absolute_path(line, self._root) for line in lines[count:]]
        return StoredNote(absolute, contents, reopen=reopen, locks=lines[:count]) if absolute else None

    def write(self, key: str, note: StoredNote) -> None:
        """Write the note for a key. Never fails: without a note the next call prepares the environment again."""
        for place in self._places():
            if self._write(place, key, note):
                return

    def write_of_host(self, key: str, note: StoredNote) -> None:
        """Write the note for a key, for other calls of this host. Never fails."""
        place = note_place.of_host(self._environment, self._environ)
        if place:
            self._write(place, key, note)

    def _write(self, place: "NotePlace", key: str, note: StoredNote) -> bool:
        head = _HEAD + _REOPEN if note.reopen else _HEAD
        lines = (_with_relative_path(line, self._root) for line in note.lines)
        text = "\n".join((head, *note.locks, *lines)) + _SEPARATOR + note.contents
        try:
            permissions = os.stat(self._environment).st_mode
            place.make(permissions & 0o3777)
            folder = place.open()
        except OSError:
            return False
        try:
            _replace(folder, place.name(key), text, 0o600 if place.is_cache else _file_mode(permissions))
            _remove_oldest(folder, place.prefix, _MOST_NOTES)
            if place.is_cache:
                _remove_oldest(folder, place.kind, _MOST_CACHED)
            return True
        except (OSError, ValueError):  # ValueError: half a surrogate pair, which no path has
            return False
        finally:
            os.close(folder)

    def has_ticket(self, name: str, since: float) -> bool:
        """Whether a ticket (see :mod:`uv_mutex.environment.ticket`) was written since a time in seconds since 1970."""
        try:
            return os.stat(f"{next(self._places()).folder}/{note_place.TICKET_PREFIX}{name}").st_mtime >= since
        except OSError:
            return False

    def write_ticket(self, name: str, text: str) -> None:
        """Write a ticket, which lies in the environment or nowhere. Never fails."""
        place = next(self._places())
        if _read(f"{place.folder}/{note_place.TICKET_PREFIX}{name}", (os.geteuid(),)) == text.encode(
            "utf-8", "surrogateescape"
        ):
            return
        try:
            folder = place.open()
        except OSError:
            return
        try:
            _replace(folder, f"{note_place.TICKET_PREFIX}{name}", text, 0o600)
            _remove_oldest(folder, note_place.TICKET_PREFIX, _MOST_TICKETS)
        except (OSError, ValueError):
            pass
        finally:
            os.close(folder)

    def remove(self) -> None:
        """Remove all notes and tickets of the environment. Never fails."""
        of_host = note_place.of_host(self._environment, self._environ)
        for place in filter(None, (*self._places(), of_host)):
            _remove(place, place.holds)

    def remove_older(self) -> None:
        """Remove what earlier versions wrote: it shows the values of variables. Never fails."""
        _remove(next(self._places()), _is_older)

    def _places(self) -> "Iterator[NotePlace]":
        return note_place.find(self._environment, self._root, self._environ)


def contents_text(lines: "Iterable[str]", root: str) -> str:
    """The lines of ``describe_contents`` as a note holds them."""
    return "".join(_with_relative_path(line, root) + "\n" for line in lines)


def relative_path(path: str, root: str) -> str:
    """The path relative to the workspace root if it is inside, else unchanged.

    Hosts that share an environment may see it at different paths, and yet share its notes.
    """
    if path == root:
        return "."
    return f".{path[len(root) :]}" if path.startswith(f"{root}/") else path


def _with_relative_path(line: str, root: str) -> str:
    kind, state, path = line.split(" ", 2)
    return f"{kind} {state} {relative_path(path, root)}"


def _with_absolute_path(line: str, root: str) -> str:
    kind, _, rest = line.partition(" ")
    state, _, path = rest.partition(" ")
    return f"{kind} {state} {root}{path[1:]}" if path == "." or path.startswith("./") else line


def _file_mode(permissions: int) -> int:
    """The permissions of a note, from those of the environment: who can write the environment can read its notes.

    So whoever could guess at a digest could have read what it stands for: they can change the programs that its owner
    runs. A salt would lie beside the note, and hide nothing from them.
    """
    return 0o600 | (permissions & 0o022) << 1


def _read(path: str, owners: tuple[int, ...] | None) -> bytes:
    """The bytes of a file; none if it can't be read, or if somebody else than ``owners`` owns it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        if owners is None or os.fstat(fd).st_uid in owners:
            return files.read_open(fd, _MOST_BYTES)
    except OSError:  # a folder
        pass
    finally:
        os.close(fd)
    return b""


def _replace(folder: int, name: str, text: str, mode: int) -> None:
    """Write a file in one step: a reader sees the old text or the new one.

    :param folder: a descriptor of its folder.
    :param name: the file's name.
    :param text: what to write.
    :param mode: its permissions, whatever the umask is.
    :raises OSError: if it can't be written.
    :raises ValueError: if the text has a character that no file can have.
    """
    data = text.encode("utf-8", "surrogateescape")
    temporary = f"{_TEMPORARY}{os.urandom(4).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=folder)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        _unlink(folder, temporary)
        raise


def _remove_oldest(folder: int, prefix: str, most: int) -> None:
    """Remove the oldest notes if there are more than ``most``, and the temporary files of writers that died.

    :param folder: a descriptor of the folder, into which a note was just written.
    """
    notes, temporary = [], []
    for name in os.listdir(folder):
        try:
            if name.startswith(prefix):
                notes.append((os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime, name))
            elif name.startswith(_TEMPORARY):
                temporary.append((os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime, name))
        except OSError:  # another call removed it
            pass
    if not notes:  # another call removed all of them
        return
    notes.sort()
    now = notes[-1][0]  # by the clock of the file server
    abandoned = [item for item in temporary if item[0] < now - _ABANDONED_AFTER]
    for _, name in [*notes[: max(0, len(notes) - most)], *abandoned]:
        _unlink(folder, name)


def _is_older(name: str) -> bool:
    """Whether an earlier version wrote a file of this name, or began to."""
    stem = name.partition(".")[0]
    return len(stem) == _OLDER_NAME_LENGTH and not stem.strip("0123456789abcdef")


def _remove(place: "NotePlace", is_wanted: "Callable[[str], bool]") -> None:
    try:
        folder = place.open()
    except OSError:
        return
    try:
        for name in filter(is_wanted, os.listdir(folder)):
            _unlink(folder, name)
    finally:
        os.close(folder)


def _unlink(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass
