"""The cache keys of local packages: uv rebuilds a local package if one of its cache keys changed.

Follows crates/uv-cache-info/src/cache_info.rs.
"""

import os

from uv_mutex.environment.note_lines import Lines, UnsupportedInputsError
from uv_mutex.uv import globs, pyproject

#: The cache keys of a package that declares none.
_DEFAULT: list[object] = ["pyproject.toml", "setup.py", "setup.cfg", {"dir": "src"}]
_PYPROJECT = "pyproject.toml"


def add(folder: str, lines: Lines, *, virtual: bool) -> None:
    """Add the cache keys of a local package.

    :param folder: the package's folder.
    :param lines: where to add them.
    :param virtual: whether the package itself is not installed, only its dependencies.
    :raises UnsupportedInputsError: if a cache key is of an unknown kind, or is a glob that matches too much or that
        :mod:`uv_mutex.uv.globs` can't bound.
    """
    text = pyproject.read_text(f"{folder}/{_PYPROJECT}")
    if virtual and "dynamic" not in text:  # uv does not build it
        return
    declared = pyproject.table(text, "tool.uv").get("cache-keys") if _may_declare(text) else None
    keys = _DEFAULT if declared is None else declared
    if not isinstance(keys, list):
        raise UnsupportedInputsError
    for key in keys:
        kind, value = next(iter(key.items()), ("", "")) if isinstance(key, dict) else ("file", key)
        if kind == "git":
            _add_git_files(folder, value, lines)
        elif not isinstance(value, str) or kind not in ("file", "dir", "env"):
            raise UnsupportedInputsError
        elif kind == "env":
            lines.add("env", value)
        elif kind == "file" and any(mark in value for mark in "*?[{"):
            _add_glob(folder, value, lines)
        else:
            # For a folder uv compares the time when it was created, which Python can't read. We compare ctime, which
            # also changes if a file is added to the folder or removed from it.
            lines.add("file", os.path.join(folder, value))


def _may_declare(text: str) -> bool:
    """Whether a TOML text can have the key. Another spelling of it needs an escape, as in ``"cache\\u002dkeys"``."""
    return "cache-keys" in text or "\\" in text


def _add_glob(folder: str, pattern: str, lines: Lines) -> None:
    try:
        found = globs.split(pattern)
    except ValueError:
        raise UnsupportedInputsError from None
    for base, name in found:
        lines.add_files(os.path.normpath(os.path.join(folder, base)), name)


def _add_git_files(folder: str, wanted: object, lines: Lines) -> None:
    """Add the files in which uv finds the commit and the tags (crates/uv-cache-info/src/git_info.rs).

    :param wanted: the value of the cache key: true, or a table with ``commit`` and ``tags``.
    """
    tags = isinstance(wanted, dict) and wanted.get("tags") is True
    commit = wanted is True or (isinstance(wanted, dict) and wanted.get("commit") is True)
    if not (commit or tags):
        return
    for parent in pyproject.folder_and_parents(folder):
        dot_git = f"{parent}/.git"
        if os.path.exists(dot_git):
            break
        lines.add("file", dot_git)
    else:
        return
    if os.path.isdir(dot_git):
        lines.add("exists", dot_git)
        git = dot_git
    else:  # a worktree or a submodule
        lines.add("file", dot_git)
        git = _path_in_file(dot_git, "gitdir:")
    common = _path_in_file(f"{git}/commondir") if os.path.exists(f"{git}/commondir") else git
    reference = pyproject.read_text(f"{git}/HEAD").strip().removeprefix("ref:").strip()
    lines.add("file", f"{git}/HEAD", f"{git}/{reference}", f"{common}/{reference}", f"{common}/packed-refs")
    if tags:
        # git renames each tag's file into its folder, which changes the folder's time.
        lines.add("file", *(parent for parent, _, _ in os.walk(f"{common}/refs/tags")), f"{common}/refs/tags")


def _path_in_file(file: str, prefix: str = "") -> str:
    """The path that one of git's files holds after the prefix. A relative path starts from the file's folder."""
    path = pyproject.read_text(file).strip().removeprefix(prefix).strip()
    return os.path.normpath(os.path.join(os.path.dirname(file), path))
