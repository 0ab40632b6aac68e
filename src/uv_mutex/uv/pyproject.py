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
#: What was parsed, by its text: a call asks the same few files again and again.
_parsed: "dict[str, dict[str, Any] | None]" = {}
#: The files that were opened.
_opened: set[str] = set()


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

    :param text: a TOML text. Text that is not TOML has no tables, see :func:`is_toml`.
    :param name: the table's dotted name, such as "tool.uv"; "" for the text's own values.
    :returns: the values; ``{"": True}`` for an empty table, and an empty dict if there is no such table.
    """
    found: object = _parse(text)
    for part in name.split(".") if name else ():
        found = found.get(part) if isinstance(found, dict) else None
    return (found or {"": True}) if isinstance(found, dict) else {}


def is_toml(text: str) -> bool:
    """Whether this Python can read a TOML text. uv may still read one that has what TOML 1.1 added."""
    return _parse(text) is not None


def may_have(text: str, key: str) -> bool:
    """Whether a TOML text can have a key. Where it can't, no TOML parser is imported.

    A key can be spelled in another way only by an escape, as in ``"work\\u0073pace"``.
    """
    return key in text or "\\" in text


def _parse(text: str) -> "dict[str, Any] | None":
    if text not in _parsed:
        import tomllib

        try:
            _parsed[text] = tomllib.loads(text)
        except (ValueError, RecursionError):
            _parsed[text] = None
    return _parsed[text]


def read_text(path: str) -> str:
    """The text of a file, without a byte order mark; empty if it can't be read, which uv will report."""
    content = b""
    try:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_SECONDS)
            content = files.read(path, _MOST_BYTES)
            _opened.add(path)
            if content:
                break
    except OSError:
        pass
    # The codec utf-8-sig does the same, but is a module of its own.
    text = content.decode("utf-8", "replace").removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def was_opened(path: str) -> bool:
    """Whether :func:`read_text` has opened a file, so that what this host knows of it is no older than this process."""
    return path in _opened


def member_patterns(root: str) -> list[str]:
    """The patterns of the workspace's members, as the pyproject.toml of the workspace root has them."""
    members = table(read_text(f"{root}/pyproject.toml"), "tool.uv.workspace").get("members")
    return [pattern for pattern in members if isinstance(pattern, str)] if isinstance(members, list) else []
