"""Settings that make uv work each time, even if nothing changed: `[tool.uv] reinstall-package` and its kin.

The preparation does that work under the lock. The `uv run` that follows must not do it once more, without the lock.
"""

import os

from uv_mutex.environment import request_key
from uv_mutex.uv import pyproject, user_folders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project

#: For each kind of work, the option that cancels its settings (ResolverInstallerOptions in
#: crates/uv-settings/src/settings.rs), and these settings.
_SETTINGS = {
    "--no-reinstall": ("reinstall", "reinstall-package"),
    "--no-upgrade": ("upgrade", "upgrade-package"),
}
_TRUE_VALUES = ("1", "true", "t", "yes", "y", "on")


def cancelling_options(
    project: "Project", call: "Call", environ: "Mapping[str, str]", config_file: str | None
) -> list[str]:
    """The options that keep uv from the work that settings ask for each time; none if they ask for none.

    :param project: the project.
    :param call: the call. What its own options cancel is not repeated.
    :param environ: the environment variables.
    :param config_file: the configuration file that the call names; None if it uses the project's own.
    """
    if call.has("--no-config") or environ.get("UV_NO_CONFIG", "").lower() in _TRUE_VALUES:
        return []
    tables = list(_tables(project.root, environ, config_file))
    return [
        option
        for option, names in _SETTINGS.items()
        if not call.has(option) and any(table.get(name) for table in tables for name in names)
    ]


def _tables(root: str, environ: "Mapping[str, str]", config_file: str | None) -> "Iterator[dict[str, Any]]":
    """The tables of settings that uv combines (crates/uv/src/lib.rs)."""
    if config_file:
        yield _table(config_file)
        return
    for folder in pyproject.folder_and_parents(root):
        if os.path.exists(f"{folder}/uv.toml"):
            yield _table(f"{folder}/uv.toml")
            break
        table = _table(f"{folder}/pyproject.toml")
        if table:
            yield table
            break
    user = user_folders.config(environ)
    if user:
        yield _table(f"{user}/uv/uv.toml")
    for path in request_key.system_settings(environ):
        if os.path.exists(path):
            yield _table(path)
            break


def _table(path: str) -> "dict[str, Any]":
    return pyproject.table(pyproject.read_text(path), "tool.uv" if path.endswith("/pyproject.toml") else "")
