"""Find the project that a command works on, as uv finds it."""

import os

from uv_mutex.errors import MutexError, NoUvError
from uv_mutex.uv import commandline, executable, project
from uv_mutex.uv.project import Project
from uv_mutex.uv.settings import Settings


class NoProjectError(MutexError):
    """There is no project to work on."""


def project_at(folder: str | None) -> Project:
    """Find the project of a folder.

    :param folder: the folder; None for the working directory and the variables that uv reads.
    :raises NoProjectError: if there is no project.
    :raises MutexError: if there is no working directory.
    """
    try:
        uv = executable.find(os.environ)
    except NoUvError:  # a few answers depend on uv's version; without uv, answer as the oldest version
        uv = ""
    # As `uv sync` finds it: of the guarded calls, it has the fewest options that name another project.
    words = ["sync", *([] if folder is None else [f"--project={folder}"])]
    call = commandline.parse(words, lambda _subcommand: "")

    def at_least(wanted: str) -> bool:
        return bool(uv) and executable.version_at_least(uv, wanted)

    def root(start: str) -> str | None:
        return executable.workspace_root(uv, start) if uv else None

    settings = Settings(os.environ, lambda subcommand: executable.help_text(uv, [subcommand]) if uv else "")
    try:
        here = os.getcwd()
        found = project.find(call, settings, at_least, root) if call else None
    except OSError as error:
        raise MutexError(f"the working directory can't be found: {error.strerror}; go to another folder") from None
    if found is None:
        raise NoProjectError(
            f"{here if folder is None else folder} is in no project of uv: no pyproject.toml there or above; "
            "go to a project, or name its folder"
        )
    return found
