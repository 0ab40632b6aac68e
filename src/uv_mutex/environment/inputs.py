"""Which paths and variables decide what an environment holds. Asked when a note is written, not when it is checked."""

import os

from uv_mutex.environment.freshness import MEMBERS, describe, subfolders
from uv_mutex.locking import network_cache
from uv_mutex.uv import pyproject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from uv_mutex.uv.project import Project

#: More folders than this below a `**` in a workspace's members would make a note dearer than what it saves.
_MOST_FOLDERS = 300
#: What makes uv rebuild a local package that declares no cache-keys.
_DEFAULT_KEYS: list[object] = ["pyproject.toml", "setup.py", "setup.cfg", {"dir": "src"}]
_PYPROJECT = "pyproject.toml"
_VERSION_FILES = (".python-version", ".python-versions")


class BeyondNoteError(Exception):
    """What decides is more than a note can hold."""


class _Lines:
    """The lines of a note, each once."""

    def __init__(self, environ: "Mapping[str, str]", *, reopen: bool) -> None:
        self._environ = environ
        self._reopen = reopen
        self._lines: dict[str, None] = {}

    def add(self, kind: str, *paths: str) -> None:
        for path in paths:
            if self._reopen:
                network_cache.reopen(path)
            self._lines[describe(kind, path, self._environ)] = None

    def list(self) -> list[str]:
        return list(self._lines)


def inputs(
    project: "Project", config_file: str | None, environ: "Mapping[str, str]", *, reopen: bool = False
) -> list[str]:
    """One line on each thing outside the environment that decides what it holds.

    :param project: the project.
    :param config_file: the configuration file that the call names instead of the project's own.
    :param environ: the environment.
    :param reopen: see :func:`uv_mutex.locking.network_cache.reopen`.
    :raises BeyondNoteError: if that isn't all that decides.
    """
    lines = _Lines(environ, reopen=reopen)
    for folder in _folders(project):
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
    return lines.list()


def _folders(project: "Project") -> "Iterator[str]":
    """The folders from where uv begins to look up to the workspace root."""
    seen = {project.root}
    yield project.root
    for start in (project.start, project.member):
        for folder in pyproject.folder_and_parents(start):
            if folder in seen:
                break
            seen.add(folder)
            yield folder


def _project_settings(root: str) -> "Iterator[str]":
    """uv climbs from the workspace root to the first folder with settings (crates/uv-settings/src/lib.rs)."""
    for folder in pyproject.folder_and_parents(root):
        yield f"{folder}/uv.toml"
        yield f"{folder}/{_PYPROJECT}"
        if os.path.exists(f"{folder}/uv.toml") or pyproject.table(
            pyproject.read_text(f"{folder}/{_PYPROJECT}"), "tool.uv"
        ):
            return


def _add_members(project: "Project", lines: _Lines) -> None:
    """Each folder that a pattern of the workspace's members matches, and those in which another match may appear."""
    for glob in pyproject.member_patterns(project.root):
        pattern = os.path.normpath(os.path.join(project.root, glob))
        # A star in the root's own path is none.
        top = project.root if pattern.startswith(f"{project.root}/") else "/"
        folders = [top]
        for part in pattern[len(top) :].strip("/").split("/"):
            folders = list(_step(folders, part, project.environment, lines))
        for folder in folders:
            lines.add("file", f"{folder}/{_PYPROJECT}")


def _step(folders: list[str], part: str, environment: str, lines: _Lines) -> "Iterator[str]":
    """The folders that one part of a pattern leads to. Those whose contents matter are added to the lines."""
    listed = 0
    while folders:
        folder = folders.pop()
        if not any(mark in part for mark in "*?["):
            yield os.path.join(folder, part)
            continue
        import fnmatch

        listed += 1
        if listed > _MOST_FOLDERS:
            raise BeyondNoteError
        lines.add(MEMBERS, folder)
        inside = [os.path.join(folder, name) for name in subfolders(folder)]
        if part == "**":
            yield folder
            folders += [path for path in inside if path != environment and not os.path.islink(path)]
        else:
            yield from (path for path in inside if fnmatch.fnmatchcase(os.path.basename(path), part))


def _local_sources(lockfile: str, root: str) -> "Iterator[tuple[str, str]]":
    """The packages that uv.lock takes from a path, and how. uv writes each source on a line of its own."""
    for line in lockfile.splitlines():
        if line.startswith("source = { ") and not line.startswith("source = { registry"):
            source = pyproject.table(line, "source")
            for kind in ("editable", "directory", "virtual", "path"):
                path = source.get(kind)
                if isinstance(path, str):
                    yield kind, os.path.normpath(os.path.join(root, path))


def _pyprojects_above(folder: str, root: str) -> "Iterator[str]":
    """A path dependency may be a member of another workspace, whose root says where its dependencies come from."""
    for parent in pyproject.folder_and_parents(os.path.dirname(folder)):
        if parent == root:
            return
        if os.path.exists(f"{parent}/{_PYPROJECT}"):
            yield f"{parent}/{_PYPROJECT}"


def _add_cache_keys(folder: str, lines: _Lines, *, virtual: bool) -> None:
    """What makes uv rebuild a local package (crates/uv-cache-info/src/cache_info.rs)."""
    text = pyproject.read_text(f"{folder}/{_PYPROJECT}")
    if virtual and "dynamic" not in text:  # nothing is built
        return
    declared = pyproject.table(text, "tool.uv").get("cache-keys") if "cache-keys" in text else None
    keys = _DEFAULT_KEYS if declared is None else declared
    if not isinstance(keys, list):
        raise BeyondNoteError
    for key in keys:
        kind, value = next(iter(key.items()), ("", "")) if isinstance(key, dict) else ("file", key)
        if kind == "git":
            _add_git(folder, value, lines)
        elif not isinstance(value, str) or kind not in ("file", "dir", "env"):
            raise BeyondNoteError
        elif kind == "env":
            lines.add("env", value)
        elif kind == "file" and any(mark in value for mark in "*?[{"):
            raise BeyondNoteError
        else:
            # Of a folder uv reads when it was made, which Python can't. What comes into it or leaves it moves ours.
            lines.add("file", os.path.join(folder, value))


def _add_git(folder: str, wanted: object, lines: _Lines) -> None:
    """The commit, and perhaps the tags, as uv finds them without git (crates/uv-cache-info/src/git_info.rs)."""
    tags = isinstance(wanted, dict) and wanted.get("tags") is True
    if not wanted or not (wanted is True or (isinstance(wanted, dict) and (tags or wanted.get("commit") is True))):
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
        git = _follow(dot_git, "gitdir:")
    common = _follow(f"{git}/commondir") if os.path.exists(f"{git}/commondir") else git
    reference = pyproject.read_text(f"{git}/HEAD").strip().removeprefix("ref:").strip()
    lines.add("file", f"{git}/HEAD", f"{git}/{reference}", f"{common}/{reference}", f"{common}/packed-refs")
    if tags:
        # git puts each of its files in place by renaming it, so that the folder tells of any.
        lines.add("file", *(parent for parent, _, _ in os.walk(f"{common}/refs/tags")), f"{common}/refs/tags")


def _follow(file: str, prefix: str = "") -> str:
    path = pyproject.read_text(file).strip().removeprefix(prefix).strip()
    return os.path.normpath(os.path.join(os.path.dirname(file), path))
