"""Put marked lines into files that belong to others, and remove them again without a trace."""

import os
import re
import shutil
import stat
from collections.abc import Iterable
from typing import NamedTuple

from uv_mutex import files

#: A `+` in the first line: the file had no line end before the block, so the one that is there now is part of it.
_BLOCK = re.compile(
    rb"(?:\n(?=# >>> uv-mutex \+ )|(?<![^\n]))# >>> uv-mutex (?:\+ )?(?P<owner>[^\n]*) >>>\n"
    rb"(?:(?!# (?:>>>|<<<) uv-mutex )[^\n]*\n)*"
    rb"# <<< uv-mutex <<<\n"
)


class Block(NamedTuple):
    """Lines for a file. ``top``: they go to the beginning of the file, not to its end."""

    lines: str
    top: bool = False


def put(path: str, owner: str, blocks: Iterable[Block]) -> None:
    """Replace all marked blocks of a file by these; create the file if it does not exist.

    :param path: the file.
    :param owner: a text by which :func:`remove` finds the blocks.
    :param blocks: the new blocks.
    :raises OSError: if it can't be written. Then the file is unchanged.
    """
    before = _read(path)
    content = without(before)
    for block in blocks:
        joint = "" if block.top or not content or content.endswith(b"\n") else "\n"
        mark = f"{joint}# >>> uv-mutex {'+ ' if joint else ''}{owner} >>>\n"
        text = os.fsencode(f"{mark}{block.lines}# <<< uv-mutex <<<\n")
        content = text + content if block.top else content + text
    if content != before:
        write(path, content)


def remove(path: str, owner: str, *, made: bool) -> None:
    """Remove the blocks of an owner from a file.

    :param path: the file.
    :param owner: the owner that was given to :func:`put`.
    :param made: whether :func:`put` created the file; then it is removed if nothing else is in it.
    :raises OSError: if it can't be written. Then the file is unchanged.
    """
    before = _read(path)
    content = without(before, owner)
    if made and not content and before:
        os.unlink(os.path.realpath(path))
    elif content != before:
        write(path, content)


def without(content: bytes, owner: str | None = None) -> bytes:
    """A file's content without the blocks of an owner; None for the blocks of all owners."""

    def left(match: "re.Match[bytes]") -> bytes:
        if owner is not None and match["owner"] != os.fsencode(owner):
            return match[0]
        # Keep the line end before the block if there are lines behind it.
        return b"\n" if match[0].startswith(b"\n") and match.end() < len(content) else b""

    return _BLOCK.sub(left, content)


def write(path: str, content: bytes) -> None:
    """Replace the content of a file in one step. Its owner, mode, attributes and the symlinks to it stay.

    :raises OSError: if it can't be written. Then the file is unchanged.
    """
    path = os.path.realpath(path)
    temporary = f"{os.path.dirname(path)}/.{os.path.basename(path)}.uv-mutex-{os.getpid()}"
    try:
        files.create_private(temporary, content)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            os.chmod(temporary, 0o644)  # whatever root's umask is: all users read the profiles of a machine
        else:
            os.chown(temporary, status.st_uid, status.st_gid)  # first: its mode is for its owner and group
            shutil.copystat(path, temporary)
            os.utime(temporary)
        os.replace(temporary, path)
    except OSError as error:
        error.filename = path
        raise
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


def _read(path: str) -> bytes:
    """The content of a file; empty if it does not exist.

    :raises OSError: if it can't be read, or is no regular file.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(0, "it is not a regular file", path)
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
