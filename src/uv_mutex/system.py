"""What the hot paths need of `os`: the C module beneath it, and a few of its path functions.

Importing `os` itself takes 0.9 ms, a tenth of all that the shim adds to a call. The functions of its `path` do here
what they do there.
"""

import _stat
import posix
from posix import *  # noqa: F403
from posix import _exit as _exit  # noqa: PLC0414 - for the type checker

#: The environment as text: what isn't UTF-8 comes back byte for byte. Changes are made with putenv.
variables: dict[str, str] = {
    name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
    for name, value in posix.environ.items()
}
devnull = "/dev/null"
defpath = "/bin:/usr/bin"
SEEK_CUR = 1


def join(folder: str, path: str) -> str:
    """As os.path.join."""
    if path.startswith("/") or not folder:
        return path
    return f"{folder}{path}" if folder.endswith("/") else f"{folder}/{path}"


def split(path: str) -> tuple[str, str]:
    """As os.path.split."""
    at = path.rfind("/") + 1
    folder = path[:at]
    return folder.rstrip("/") or folder, path[at:]


def dirname(path: str) -> str:
    """As os.path.dirname."""
    return split(path)[0]


def basename(path: str) -> str:
    """As os.path.basename."""
    return split(path)[1]


def normpath(path: str) -> str:
    """As os.path.normpath."""
    root = "/" if path.startswith("/") else ""
    if path.startswith("//") and not path.startswith("///"):
        root = "//"  # POSIX lets two slashes mean something
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part != ".." or (not root and not parts) or (parts and parts[-1] == ".."):
            parts.append(part)
        elif parts:
            parts.pop()
    return root + "/".join(parts) or "."


def abspath(path: str) -> str:
    """As os.path.abspath."""
    return normpath(join(posix.getcwd(), path))


def suffix(path: str) -> str:
    """As os.path.splitext, the second part of it."""
    name = basename(path)
    at = name.rfind(".")
    return name[at:] if at > 0 and name[:at].strip(".") else ""


def realpath(path: str) -> str:
    """As os.path.realpath, which this imports: it is wanted where a symlink leads elsewhere."""
    import os

    return os.path.realpath(path)


def makedirs(folder: str) -> None:
    """As os.makedirs, with exist_ok; imported likewise, since it is wanted once in an environment's life."""
    import os

    os.makedirs(folder, exist_ok=True)


def exists(path: str) -> bool:
    """As os.path.exists."""
    return _mode(path) is not None


def lexists(path: str) -> bool:
    """As os.path.lexists."""
    return _mode(path, follow=False) is not None


def isfile(path: str) -> bool:
    """As os.path.isfile."""
    mode = _mode(path)
    return mode is not None and _stat.S_ISREG(mode)


def isdir(path: str) -> bool:
    """As os.path.isdir."""
    mode = _mode(path)
    return mode is not None and _stat.S_ISDIR(mode)


def islink(path: str) -> bool:
    """As os.path.islink."""
    mode = _mode(path, follow=False)
    return mode is not None and _stat.S_ISLNK(mode)


def _mode(path: str, *, follow: bool = True) -> int | None:
    try:
        return posix.stat(path, follow_symlinks=follow).st_mode
    except (OSError, ValueError):
        return None
