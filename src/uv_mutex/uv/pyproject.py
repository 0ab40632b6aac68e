"""Read a pyproject.toml."""

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: uv empties pyproject.toml before it writes it anew, as `uv add` does.
_LOOKS, _PAUSE_SECONDS = 5, 0.01


def ancestors(folder: str) -> "Iterator[str]":
    """A folder, its parent, and so on up to the file system's root."""
    while True:
        yield folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return
        folder = parent


def tables(text: str, path: str) -> "dict[str, Any]":
    """The values of the table at a dotted path; an empty table as ``{"": True}``, none if there is no such table.

    Text that is no TOML has none: uv will say so.
    """
    import tomllib

    try:
        found: object = tomllib.loads(text)
    except (ValueError, RecursionError):
        return {}
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return (found or {"": True}) if isinstance(found, dict) else {}


def read_text(path: str) -> str:
    """The text of a pyproject.toml, empty if it can't be read: uv will say why."""
    text = ""
    try:
        for look in range(_LOOKS):
            if look:
                time.sleep(_PAUSE_SECONDS)
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
            if text:
                break
    except OSError:
        pass
    return text


def workspace_globs(root: str) -> list[str]:
    """The patterns of the workspace's members, as written in the root's pyproject.toml."""
    members = tables(read_text(f"{root}/pyproject.toml"), "tool.uv.workspace").get("members")
    return [glob for glob in members if isinstance(glob, str)] if isinstance(members, list) else []
