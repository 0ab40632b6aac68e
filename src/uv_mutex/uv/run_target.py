"""Find out what `uv run` runs, as far as that decides which environment it uses.

Follows RunCommand in crates/uv/src/commands/project/run.rs.
"""

import os

from uv_mutex import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.script import Script

_SCRIPT_SUFFIXES = (".py", ".pyc", ".pyw")
_ZIP_MAGIC = b"PK\x03\x04"
#: How much of a script is searched for inline metadata. uv reads the whole file, but the block stands near its top.
_HEAD_BYTES = 1 << 16


def inline_script(call: "Call", base: str) -> "Script | None":
    """The target, if it is a script with inline metadata (PEP 723) or a URL. Those don't use the project.

    A script on stdin is read only if stdin is a regular file: what is read from a pipe is lost for uv.

    :param call: a call of `run`.
    :param base: the folder that relative paths start from.
    """
    if not call.operands:
        return None
    target = call.operands[0]
    path = os.path.join(base, target)
    is_stdin = target == "-"
    is_url = target.startswith(("http://", "https://")) and not os.path.exists(path)
    if not (is_stdin or is_url or _is_script(call, path)):
        return None
    from uv_mutex.uv import script  # most calls run a command

    if is_url or (is_stdin and call.has("-m", "--module")):  # uv refuses the latter
        return script.Script(None, None)
    if is_stdin:
        return script.read(None, _peek_stdin())
    return script.read(script.absolute(base, target), _head(path))


def metadata(path: str) -> str | None:
    """The inline metadata of a script, as TOML; None if it has none, or can't be read."""
    from uv_mutex.uv import script

    return script.metadata(_head(path))


def folder(call: "Call", base: str) -> str | None:
    """The folder of the target. uv 0.12 and later look for the project from there.

    :param call: a call of `run`.
    :param base: the folder that relative paths start from.
    :returns: the folder; None if the target is not a path, or a path without a folder.
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
        or (os.path.isfile(path) and _head(path).startswith(_ZIP_MAGIC))
    )
    return os.path.join(base, parent) if is_target else None


def _is_script(call: "Call", path: str) -> bool:
    if call.has("-m", "--module"):
        return False
    if call.has("-s", "--script", "--gui-script"):
        return True
    return os.path.splitext(path)[1].lower() in _SCRIPT_SUFFIXES and os.path.isfile(path)


def _head(path: str) -> bytes:
    """The beginning of a regular file. A pipe (`uv run -s <(…)`) is left for uv to read."""
    return files.read_or_empty(path, _HEAD_BYTES) if os.path.isfile(path) else b""


def _peek_stdin() -> bytes:
    """What stdin holds from its position on, which stays as it is; empty if stdin is not a regular file."""
    try:
        return os.pread(0, _HEAD_BYTES, os.lseek(0, 0, os.SEEK_CUR))
    except OSError:
        return b""
