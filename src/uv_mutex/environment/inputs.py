"""Find the paths and variables outside an environment that decide what it contains.

This is done when a note is written. When it is checked, its lines already name them.
"""

import os

from uv_mutex.environment import fingerprint
from uv_mutex.locking import network_cache
from uv_mutex.uv import pyproject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from uv_mutex.uv.project import Project
    from uv_mutex.uv.script import Script

#: The most folders that one part of a member pattern may list. With more of them (below a `**`) a note would cost more
#: time than it saves.
_MOST_FOLDERS = 300
#: The cache keys of a local package that declares none. uv rebuilds a local package if one of its cache keys changed.
_DEFAULT_CACHE_KEYS: list[object] = ["pyproject.toml", "setup.py", "setup.cfg", {"dir": "src"}]
_PYPROJECT = "pyproject.toml"
_VERSION_FILES = (".python-version", ".python-versions")


class UnsupportedInputsError(Exception):
    """The project has an input that a note can't describe."""


class _Lines:
    """The lines of a note, without duplicates."""

    def __init__(self, environ: "Mapping[str, str]", *, reopen: bool) -> None:
        self._environ = environ
        self._reopen = reopen
        self._lines: dict[str, None] = {}

    def add(self, kind: str, *paths: str) -> None:
        """Add a line about each path, see :func:`uv_mutex.environment.fingerprint.describe`."""
        for path in paths:
            if self._reopen:
                network_cache.reopen(path)
            self._lines[fingerprint.describe(kind, path, self._environ)] = None

    def to_list(self) -> list[str]:
        """All lines, in the order in which they were added."""
        return list(self._lines)


def describe_inputs(
    project: "Project", config_file: str | None, environ: "Mapping[str, str]", *, reopen: bool = False
) -> list[str]:
    """One line about each path or variable outside the environment that decides what it contains.

    :param project: the project.
    :param config_file: the configuration file that the call names; None if it uses the project's own.
    :param environ: the environment variables.
    :param reopen: whether to reopen each file first, see :func:`uv_mutex.locking.network_cache.reopen`.
    :raises UnsupportedInputsError: if some input can't be described in a line.
    """
    lines = _Lines(environ, reopen=reopen)
    if project.script:
        _add_script(project, project.script, config_file, lines)
        return lines.to_list()
    if not pyproject.is_toml(pyproject.read_text(f"{project.root}/{_PYPROJECT}")):
        raise UnsupportedInputsError  # TOML 1.1, whose members Python can't tell
    for folder in _searched_folders(project):
        lines.add("file", *(f"{folder}/{name}" for name in (_PYPROJECT, *_VERSION_FILES)))
    lines.add("file", *_project_settings(project.root))
    if config_file:
        lines.add("file", config_file)
    _add_members(project, lines)
    lockfile = f"{project.root}/uv.lock"
    lines.add("file", lockfile)
    for kind, path in _local_sources(pyproject.read_text(lockfile), project.root):
        if os.path.isfile(path):
            lines.add("file", path)
        else:
            lines.add("file", f"{path}/{_PYPROJECT}", *_pyprojects_above(path, project.root))
            _add_cache_keys(path, lines, virtual=kind == "virtual")
    return lines.to_list()


def _add_script(project: "Project", script: "Script", config_file: str | None, lines: _Lines) -> None:
    """Add what decides the environment of a script with inline metadata.

    :raises UnsupportedInputsError: if it depends on local packages.
    """
    if script.has_local_sources:
        raise UnsupportedInputsError
    if script.path:
        lines.add("file", script.path, script.lockfile or "")
    for folder in _searched_folders(project):
        lines.add("file", *(f"{folder}/{name}" for name in (_PYPROJECT, *_VERSION_FILES)))
    for folder in dict.fromkeys((project.root, project.start, project.member)):
        lines.add("file", *_project_settings(folder))
    if config_file:
        lines.add("file", config_file)


def _searched_folders(project: "Project") -> "Iterator[str]":
    """The folders in which uv looks for the project: the workspace root, and those from the start upwards."""
    seen = {project.root}
    yield project.root
    for start in (project.start, project.member):
        for folder in pyproject.folder_and_parents(start):
            if folder in seen:
                break
            seen.add(folder)
            yield folder


def _project_settings(root: str) -> "Iterator[str]":
    """The files in which uv looks for the project's settings (crates/uv-settings/src/lib.rs).

    uv goes from the workspace root upwards, to the first folder that has settings.
    """
    for folder in pyproject.folder_and_parents(root):
        yield f"{folder}/uv.toml"
        yield f"{folder}/{_PYPROJECT}"
        if os.path.exists(f"{folder}/uv.toml") or pyproject.table(
            pyproject.read_text(f"{folder}/{_PYPROJECT}"), "tool.uv"
        ):
            return


def _add_members(project: "Project", lines: _Lines) -> None:
    """Add each member of the workspace, and each folder in which a new member may appear."""
    for member_pattern in pyproject.member_patterns(project.root):
        pattern = os.path.normpath(os.path.join(project.root, member_pattern))
        # Match only the part below the root: a star in the root's own path is an ordinary character.
        top = project.root if pattern.startswith(f"{project.root}/") else "/"
        folders = [top]
        for part in pattern[len(top) :].strip("/").split("/"):
            folders = list(_matching_folders(folders, part, project.environment, lines))
        for folder in folders:
            lines.add("file", f"{folder}/{_PYPROJECT}")


def _matching_folders(folders: list[str], part: str, environment: str, lines: _Lines) -> "Iterator[str]":
    """The folders below ``folders`` that one part of a pattern matches. Adds each folder that is listed to the lines.

    :raises UnsupportedInputsError: if there are too many folders to list.
    """
    listed = 0
    while folders:
        folder = folders.pop()
        if not any(mark in part for mark in "*?["):
            yield os.path.join(folder, part)
            continue
        import fnmatch

        listed += 1
        if listed > _MOST_FOLDERS:
            raise UnsupportedInputsError
        lines.add(fingerprint.MEMBERS, folder)
        inside = [os.path.join(folder, name) for name in fingerprint.subfolders(folder)]
        if part == "**":
            yield folder
            folders += [path for path in inside if path != environment and not os.path.islink(path)]
        else:
            yield from (path for path in inside if fnmatch.fnmatchcase(os.path.basename(path), part))


def _local_sources(lockfile: str, root: str) -> "Iterator[tuple[str, str]]":
    """The kind and path of each source in uv.lock that is local. uv writes each source on one line."""
    for line in lockfile.splitlines():
        if line.startswith("source = { ") and not line.startswith("source = { registry"):
            source = pyproject.table(line, "source")
            for kind in ("editable", "directory", "virtual", "path"):
                path = source.get(kind)
                if isinstance(path, str):
                    yield kind, os.path.normpath(os.path.join(root, path))


def _pyprojects_above(folder: str, root: str) -> "Iterator[str]":
    """The pyproject.toml files above a path dependency.

    It may be a member of another workspace, whose root decides where its dependencies come from.
    """
    for parent in pyproject.folder_and_parents(os.path.dirname(folder)):
        if parent == root:
            return
        if os.path.exists(f"{parent}/{_PYPROJECT}"):
            yield f"{parent}/{_PYPROJECT}"


def _add_cache_keys(folder: str, lines: _Lines, *, virtual: bool) -> None:
    """Add the cache keys of a local package (crates/uv-cache-info/src/cache_info.rs).

    :param virtual: whether the package itself is not installed, only its dependencies.
    :raises UnsupportedInputsError: if a cache key is a pattern, or of an unknown kind.
    """
    text = pyproject.read_text(f"{folder}/{_PYPROJECT}")
    if virtual and "dynamic" not in text:  # uv does not build it
        return
    declared = pyproject.table(text, "tool.uv").get("cache-keys") if "cache-keys" in text else None
    keys = _DEFAULT_CACHE_KEYS if declared is None else declared
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
            raise UnsupportedInputsError
        else:
            # For a folder uv compares the time when it was created, which Python can't read. We compare ctime, which
            # also changes if a file is added to the folder or removed from it.
            lines.add("file", os.path.join(folder, value))


def _add_git_files(folder: str, wanted: object, lines: _Lines) -> None:
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
