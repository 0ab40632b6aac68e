"""The key of a note: what a call asks uv for. A note is valid only for calls with the same key."""

import os

from uv_mutex.environment import fingerprint, note_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project

#: Variables that don't change what the environment contains. uv increases the first one for each command that it runs.
_IGNORED_VARIABLES = ("UV_RUN_RECURSION_DEPTH", "UV_CACHE_DIR")
#: With a variable of these names `sync`, but not `run`, leaves packages out.
_SYNC_ONLY_PREFIXES = ("UV_NO_INSTALL_", "UV_ONLY_INSTALL_")


def keys(
    project: "Project", call: "Call", environ: "Mapping[str, str]", uv: str, settings_file: str | None
) -> tuple[str, ...]:
    """The keys of the notes that a successful preparation writes, each on one line.

    The first is the key of this call. An exact `sync` has a second one: it leaves no package that nothing asks for,
    and so prepares the environment for a `run` with the same options too. The opposite is not true.

    Where uv, interpreter or settings differ between hosts that share an environment, each host has a key of its own,
    so that no host overwrites the note of another.

    :param project: the project whose environment it is.
    :param call: the call.
    :param environ: the environment variables, those of uv included.
    :param uv: the path of the real uv.
    :param settings_file: what :func:`config_file` returns.
    """
    variables = sorted(
        (name, value)
        for name, value in environ.items()
        if name.startswith("UV_") and not name.startswith("UV_MUTEX") and name not in _IGNORED_VARIABLES
    )
    interpreters = [f"{project.environment}/bin/python"]
    python = call.value("-p", "--python") or environ.get("UV_PYTHON")
    if python and "/" in python:
        interpreters.append(_absolute(python, call, environ))
    machine = [fingerprint.size(uv), *map(fingerprint.size_and_mtime, interpreters)]
    settings = (fingerprint.describe("file", path, environ) for path in _machine_settings(environ))
    machine += map(fingerprint.state, settings)
    paths = [path and note_file.relative_path(path, project.root) for path in (project.start, settings_file)]
    request = repr((call.environment_options(), variables, paths, machine))
    if not call.exact:
        return (request,)
    leaves_out = any(name.startswith(_SYNC_ONLY_PREFIXES) for name, _ in variables)
    return (f"exact {request}",) if leaves_out else (f"exact {request}", request)


def config_file(call: "Call", environ: "Mapping[str, str]") -> str | None:
    """The absolute path of the configuration file that an option or variable names; None if none does."""
    path = call.value("--config-file") or environ.get("UV_CONFIG_FILE")
    return path and _absolute(path, call, environ)


def _absolute(path: str, call: "Call", environ: "Mapping[str, str]") -> str:
    """The absolute path of what uv reads relative to its working directory."""
    folder = call.value("--directory") or environ.get("UV_WORKING_DIR") or environ.get("UV_WORKING_DIRECTORY")
    return os.path.abspath(os.path.join(folder, path) if folder else path)


def _machine_settings(environ: "Mapping[str, str]") -> "Iterator[str]":
    """The files with the settings of the user and of the system (crates/uv-dirs/src/lib.rs)."""
    user = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '')}/.config"
    for name in ("uv.toml", ".python-version", ".python-versions"):
        yield f"{user}/uv/{name}"
    for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        yield f"{folder}/uv/uv.toml"
    yield "/etc/uv/uv.toml"
