"""A script with inline metadata (PEP 723), which has an environment of its own in uv's cache.

Follows ScriptTag::parse in crates/uv-scripts/src/lib.rs.
"""

import os

from uv_mutex.uv import pyproject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_START = b"# /// script"
_END = "///"


class Script:
    """A script that a call runs, syncs or edits.

    ``path``: its absolute path, spelled as uv does; None if it comes from stdin or from a URL. ``metadata``: the TOML
    text of its inline metadata; None if it is not known. ``edited``: whether the call writes the script or its
    lockfile, and leaves its environment alone.
    """

    __slots__ = ("edited", "metadata", "path")

    def __init__(self, path: str | None, metadata: str | None, *, edited: bool = False) -> None:
        self.path = path
        self.metadata = metadata
        self.edited = edited

    @property
    def lockfile(self) -> str | None:
        """The path of the script's lockfile; None if it can have none. It need not exist."""
        return self.path and f"{self.path}.lock"

    @property
    def is_locked(self) -> bool:
        """Whether the script has a lockfile, which each `uv run` and `uv sync` of it may update."""
        return self.lockfile is not None and os.path.isfile(self.lockfile)

    @property
    def has_environment(self) -> bool:
        """Whether `uv run` makes an environment for it in the cache: not if it says nothing of dependencies."""
        return self.metadata is not None and (self.is_locked or pyproject.may_have(self.metadata, "dependencies"))

    @property
    def environment_name(self) -> str:
        """The name of its environment in the cache."""
        from uv_mutex.uv import cache_key  # most calls run no such script

        return cache_key.of_path(self.path) if self.path else cache_key.of_text(self.metadata or "")

    @property
    def text(self) -> bytes:
        """A script that has the same inline metadata, and does nothing."""
        lines = (self.metadata or "").removesuffix("\n").split("\n")
        block = "".join(f"# {line}\n" if line else "#\n" for line in lines)
        return _START + b"\n" + block.encode("utf-8", "surrogateescape") + b"# ///\n"

    def settings(self) -> "dict[str, Any]":
        """The values of its own `tool.uv`."""
        text = self.metadata or ""
        return pyproject.table(text, "tool.uv") if pyproject.may_have(text, "tool") else {}

    @property
    def has_local_sources(self) -> bool:
        """Whether it depends on packages of this machine, whose changes its own text does not show."""
        text = self.metadata or ""
        return any(word in text for word in ("sources", "file:", "@ .", "@ /", "\\")) or not pyproject.is_toml(text)


def absolute(base: str, path: str) -> str:
    """The absolute path of a script, as std::path::absolute makes it: it keeps each ``..``.

    :param base: the folder that relative paths start from.
    :param path: the path that the user gave.
    """
    return "/" + "/".join(part for part in os.path.join(base, path).split("/") if part not in ("", "."))


def read(path: str | None, head: bytes) -> Script | None:
    """A script; None if it has no inline metadata.

    :param path: its absolute path; None if it comes from stdin.
    :param head: how it begins.
    """
    return Script(path, metadata(head)) if declares_metadata(head) else None


def declares_metadata(head: bytes) -> bool:
    """Whether a script has inline metadata. As in uv, the first occurrence decides."""
    at = head.find(_START)
    if at < 0 or head[at - 1 : at] not in (b"", b"\r", b"\n"):
        return False
    return head[at:].partition(b"\n")[0].removesuffix(b"\r") == _START


def metadata(head: bytes) -> str | None:
    """The TOML text of a script's inline metadata; None if there is none, or if it has no end."""
    if not declares_metadata(head):
        return None
    lines = list(_comment_lines(head[head.find(_START) :]))
    while lines:
        if lines.pop() == _END:
            return "\n".join(lines) + "\n"
    return None


def _comment_lines(block: bytes) -> "Iterator[str]":
    for raw in block.decode("utf-8", "surrogateescape").split("\n")[1:]:
        line = raw.removesuffix("\r")
        if line != "#" and not line.startswith("# "):
            return
        yield line[2:]
