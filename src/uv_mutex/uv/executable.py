"""Find the real uv: the first `uv` on PATH that is not a uv-mutex shim, and ask it what it understands."""

import os

from uv_mutex.errors import NoUvError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Every front door carries this in its first bytes.
MARKER = b"uv-mutex front door"
_HEAD = 2048


def find(environ: "Mapping[str, str]") -> str:
    """Return the path of the real uv.

    PATH is read as execvp(3) reads it: an empty entry is the working directory, what isn't an executable file is
    passed over. Shims are known by their content, so that copies, symlinks and other prefixes are passed over too.

    :raises NoUvError: if there is none, or UV_MUTEX_UV names something else.
    """
    named = environ.get("UV_MUTEX_UV")
    if named:
        return _check(named)
    shims = []
    for folder in environ.get("PATH", os.defpath).split(":"):
        path = f"{folder or '.'}/uv"
        if _is_executable(path):
            if not is_shim(path):
                return path
            shims.append(path)
    from uv_mutex.messages import calls

    raise NoUvError(calls.no_uv(shims[0] if shims else None))


def is_shim(path: str) -> bool:
    """Whether this executable file is a front door of uv-mutex, of any version and prefix."""
    head = first_bytes(path)
    return head.startswith(b"#!") and MARKER in head


def first_bytes(path: str) -> bytes:
    """How a file begins; empty if it can't be read (a script could not run so)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, _HEAD)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _check(path: str) -> str:
    if _is_executable(path) and not is_shim(path):
        return path
    from uv_mutex.messages import calls

    is_there = calls.A_SHIM if _is_executable(path) else calls.NO_PROGRAM
    raise NoUvError(calls.wrong_uv(path, is_there if os.path.exists(path) else calls.MISSING))


def _is_executable(path: str) -> bool:
    return os.access(path, os.X_OK) and os.path.isfile(path)


def help_text(uv: str, words: "Sequence[str]") -> str:
    """The real uv's ``--help`` of a subcommand; empty if it has none (or uv fails, which it will soon say itself)."""
    return _ask(uv, [*words, "--help"])


def version_at_least(uv: str, wanted: str) -> bool:
    """Whether the real uv is of this version or newer."""
    from packaging.version import InvalidVersion, Version

    words = _ask(uv, ["--version"]).split()
    try:
        return Version(words[1]) >= Version(wanted)
    except (IndexError, InvalidVersion):
        return False


def _ask(uv: str, words: "Sequence[str]") -> str:
    import subprocess

    environ = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    try:
        done = subprocess.run(
            [uv, *words], stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environ | {"NO_COLOR": "1"}
        )
    except OSError:
        return ""
    return done.stdout.decode("utf-8", "replace")
