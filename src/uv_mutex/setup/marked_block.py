"""Marked lines of ours in files that belong to somebody else, which come out again without a trace."""

import os
import re
import shutil
import stat
from collections.abc import Iterable
from typing import NamedTuple

#: A `+` after the first words: the line end before the block is ours as well, for a file that ended without one.
_BLOCK = re.compile(
    rb"(?:\n(?=# >>> uv-mutex \+ )|(?<![^\n]))# >>> uv-mutex (?:\+ )?(?P<owner>[^\n]*) >>>\n"
    rb"(?:(?!# (?:>>>|<<<) uv-mutex )[^\n]*\n)*"
    rb"# <<< uv-mutex <<<\n"
)


class Block(NamedTuple):
    """Lines for a file, and which end of it they go to."""

    lines: str
    top: bool = False


def put(path: str, owner: str, blocks: Iterable[Block]) -> None:
    """Write these blocks into a file, in place of all blocks that it holds; make the file if it isn't there.

    :param owner: whose they are, by which :func:`remove` finds them.
    :raises OSError: and the file is as it was.
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
    """Take an owner's blocks out of a file.

    :param made: whether the file was made for them, so that it goes when nothing else is in it.
    :raises OSError: and the file is as it was.
    """

    before = _read(path)
    content = without(before, owner)
    if made and not content and before:
        os.unlink(os.path.realpath(path))
    elif content != before:
        write(path, content)


def without(content: bytes, owner: str | None = None) -> bytes:
    """A file's content without the blocks of an owner, or of all."""

    def left(match: "re.Match[bytes]") -> bytes:
        if owner is not None and match["owner"] != os.fsencode(owner):
            return match[0]
        # The line end before a block stays if lines were added behind the block.
        return b"\n" if match[0].startswith(b"\n") and match.end() < len(content) else b""

    return _BLOCK.sub(left, content)


def write(path: str, content: bytes) -> None:
    """Replace a file's content in one step; its owner, mode and attributes, and links to it, stay."""
    path = os.path.realpath(path)
    temporary = f"{os.path.dirname(path)}/.{os.path.basename(path)}.uv-mutex-{os.getpid()}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            status = os.stat(path)
        except FileNotFoundError:
            os.chmod(temporary, 0o644)  # others' shells read the machine's files, whatever root's umask is
        else:
            os.chown(temporary, status.st_uid, status.st_gid)
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
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(0, "it is not a regular file", path)
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
