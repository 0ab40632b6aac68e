"""Find the paths and variables outside an environment that decide what it contains.

This is done when a note is written. When it is checked, its lines already name them.
"""

import os

from uv_mutex.environment import cache_keys, fingerprint
from uv_mutex.environment.note_lines import Lines, UnsupportedInputsError
from uv_mutex.uv import pyproject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from uv_mutex.uv.project import Project
    from uv_mutex.uv.script import Script

#: The most folders that one part of a member pattern may list. With more of them (below a `**`) a note would cost more
#: time than it saves.
_MOST_FOLDERS = 300
_PYPROJECT = "pyproject.toml"
_VERSION_FILES = (".python-version", ".python-versions")


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
    lines = Lines(environ, reopen=reopen)
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
            cache_keys.add(path, lines, virtual=kind == "virtual")
    return lines.to_list()


def _add_script(project: "Project", script: "Script", config_file: str | None, lines: Lines) -> None:
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


def _add_members(project: "Project", lines: Lines) -> None:
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


def _matching_folders(folders: list[str], part: str, environment: str, lines: Lines) -> "Iterator[str]":
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
