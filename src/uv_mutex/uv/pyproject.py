"""Read a pyproject.toml, and the other text files of a project."""

import os
import time

from uv_mutex import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: uv empties pyproject.toml before it writes the new text, for example in `uv add`. So an empty file is read again.
_ATTEMPTS, _PAUSE_SECONDS = 5, 0.01
#: Far more than any project file has; a uv.lock of a large workspace has a few MB.
_MOST_BYTES = 1 << 25


def folder_and_parents(folder: str) -> "Iterator[str]":
    """A folder, its parent, and so on up to the root of the file system."""
    while True:
        yield folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return
        folder = parent


def table(text: str, name: str) -> "dict[str, Any]":
    """The values of one table.

    :param text: a TOML text. Text that is not TOML has no tables; uv will report the error.
    :param name: the table's dotted name, such as "tool.uv"; "" for the whole text.
    :returns: the values; ``{"": True}`` for an empty table, and an empty dict if there is no such table.
    """
    import tomllib

    try:
        found: object = tomllib.loads(text)
    except (ValueError, RecursionError):
        return {}
    for part in name.split(".") if name else ():
        found = found.get(part) if isinstance(found, dict) else None
    return (found or {"": True}) if isinstance(found, dict) else {}


def read_text(path: str) -> str:
    """The text of a file, without a byte order mark; empty if it can't be read, which uv will report."""
    content = b""
    try:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_SECONDS)
            content = files.read(path, _MOST_BYTES)
            if content:
                break
    except OSError:
        pass
    return content.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")


def member_patterns(root: str) -> list[str]:
    """The patterns of the workspace's members, as the pyproject.toml of the workspace root has them."""
    members = table(read_text(f"{root}/pyproject.toml"), "tool.uv.workspace").get("members")
    return [pattern for pattern in members if isinstance(pattern, str)] if isinstance(members, list) else []
