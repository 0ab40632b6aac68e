"""What `uv run` was asked to run, as far as that decides which environment it uses.

Follows RunCommand in crates/uv/src/commands/project/run.rs.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from uv_mutex.uv.commandline import Call

_SUFFIXES = (".py", ".pyc", ".pyw")
_ZIP_MAGIC = b"PK\x03\x04"
#: Enough for any inline metadata; uv reads the whole file, but the block stands at its top.
_METADATA_BYTES = 1 << 16
_METADATA = b"# /// script"


def has_own_environment(call: "Call", base: str) -> bool:
    """Whether the target is a script with inline metadata (PEP 723) or a URL: those don't use the project.

    A script on stdin is read only if that can be done without taking it from uv, that is from a regular file.

    :param call: a call of `run`.
    :param base: the folder that relative paths start from.
    """
    if not call.operands:
        return False
    target = call.operands[0]
    if target == "-":
        return call.has("-m", "--module") or _declares_metadata(_peek_stdin())  # uv refuses `-m -`
    path = os.path.join(base, target)
    if target.startswith(("http://", "https://")) and not os.path.exists(path):
        return True
    return _is_script(call, path) and _declares_metadata(_read(path))


def folder(call: "Call", base: str) -> str | None:
    """The folder of the target, None if it is no path. uv 0.12 and later look for the project from there.

    :param call: a call of `run`.
    :param base: the folder that relative paths start from.
    """
    if not call.operands or call.has("-m", "--module"):
        return None
    target = call.operands[0]
    parent = os.path.dirname(target.rstrip("/"))
    if not parent:
        return None
    path = os.path.join(base, target)
    is_target = (
        _is_script(call, path)
        or os.path.isfile(f"{path}/__main__.py")
        or (os.path.isfile(path) and _read(path).startswith(_ZIP_MAGIC))
    )
    return os.path.join(base, parent) if is_target else None


def _is_script(call: "Call", path: str) -> bool:
    if call.has("-m", "--module"):
        return False
    if call.has("-s", "--script", "--gui-script"):
        return True
    return os.path.splitext(path)[1].lower() in _SUFFIXES and os.path.isfile(path)


def _declares_metadata(head: bytes) -> bool:
    """Follows ScriptTag::parse in crates/uv-scripts/src/lib.rs, where only the first occurrence counts."""
    at = head.find(_METADATA)
    if at < 0 or head[at - 1 : at] not in (b"", b"\r", b"\n"):
        return False
    return head[at:].partition(b"\n")[0].removesuffix(b"\r") == _METADATA


def _read(path: str) -> bytes:
    """The head of a regular file; what a pipe holds (`uv run -s <(…)`) is for uv to read."""
    if not os.path.isfile(path):
        return b""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(fd, _METADATA_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _peek_stdin() -> bytes:
    try:
        return os.pread(0, _METADATA_BYTES, os.lseek(0, 0, os.SEEK_CUR))
    except OSError:
        return b""
