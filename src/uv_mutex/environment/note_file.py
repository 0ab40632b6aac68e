"""Read and write the files that hold the notes of an environment, `.uv-mutex/XXXXXXXX` in its folder.

A note file has a head, a key (see :mod:`uv_mutex.environment.request_key`), the lines of
:func:`uv_mutex.environment.fingerprint.describe`, a separator, and the lines of ``describe_contents``.
"""

import binascii
import os

from uv_mutex import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FOLDER = ".uv-mutex"
_HEAD = "uv-mutex note 3"
#: Follows the head if other hosts can write the files. Then each is reopened before it is compared, since stat may
#: answer from the cache of a network file system.
_REOPEN = " reopen"
#: Ends the lines that are always compared. A file without it was cut short.
_SEPARATOR = "\n# contents\n"
_NAME_LENGTH = 8
#: Far more than a note can have: a line has some 100 bytes.
_MOST_BYTES = 1 << 25


class StoredNote:
    """What a note file says.

    ``lines``: the lines that are always compared, with absolute paths. ``contents``: the text that is compared if a
    folder's line differs, with paths as :func:`relative_path` writes them. ``reopen``: whether each file must be
    reopened before it is compared.
    """

    __slots__ = ("contents", "lines", "reopen")

    def __init__(self, lines: "Sequence[str]", contents: str, *, reopen: bool) -> None:
        self.lines = lines
        self.contents = contents
        self.reopen = reopen


def read(environment: str, root: str, key: str) -> StoredNote | None:
    """Read the note for a key.

    :param environment: the environment's folder.
    :param root: the workspace root.
    :param key: the key.
    :returns: the note; None if there is none, or if it is damaged, of another version, or for another key.
    """
    try:
        content = files.read(_path(environment, key), _MOST_BYTES)
    except OSError:
        return None
    described, separator, contents = content.decode("utf-8", "surrogateescape").partition(_SEPARATOR)
    head, *lines = described.split("\n")
    reopen = head == _HEAD + _REOPEN
    if not separator or not (reopen or head == _HEAD) or len(lines) < 2 or lines[0] != key:
        return None
    return StoredNote([_with_absolute_path(line, root) for line in lines[1:]], contents, reopen=reopen)


def write(environment: str, root: str, key: str, note: StoredNote) -> None:
    """Write the note for a key. Never fails: without a note the next call prepares the environment again."""
    head = _HEAD + _REOPEN if note.reopen else _HEAD
    lines = (_with_relative_path(line, root) for line in note.lines)
    _replace(_path(environment, key), "\n".join((head, key, *lines)) + _SEPARATOR + note.contents)


def remove_all(environment: str) -> None:
    """Remove all notes of an environment. Never fails."""
    folder = f"{environment}/{_FOLDER}"
    try:
        for name in os.listdir(folder):
            if len(name) == _NAME_LENGTH:  # the folder may also hold the lock of an environment below this one
                os.unlink(f"{folder}/{name}")
    except OSError:
        pass


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


def _path(environment: str, key: str) -> str:
    name = binascii.crc32(key.encode("utf-8", "surrogateescape"))
    return f"{environment}/{_FOLDER}/{name:0{_NAME_LENGTH}x}"


def _replace(path: str, text: str) -> None:
    """Write a file in one step: a reader sees the old text or the new one."""
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        os.replace(temporary, path)
    except (OSError, ValueError):  # ValueError: half a surrogate pair, which no path has
        try:
            os.unlink(temporary)
        except OSError:
            pass
