"""Find the folder of uv's cache.

Follows crates/uv-cache/src/cli.rs, crates/uv-dirs/src/lib.rs and crates/uv-settings/src/lib.rs.
"""

import os

from uv_mutex.uv import pyproject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.settings import Settings

_KEYS = ("cache-dir", "no-cache")


def find(call: "Call", settings: "Settings", base: str, start: str, own: "dict[str, Any]") -> str | None:
    """The absolute path of the cache.

    :param call: the call.
    :param settings: uv's variables.
    :param base: the folder that relative paths start from.
    :param start: the folder from which uv looks for the files with its settings.
    :param own: the settings that stand in the script itself.
    :returns: the folder; None if the call uses a cache of its own, which nobody shares.
    """
    if call.has("-n", "--no-cache", "--no-cache-dir") or settings.is_true("UV_NO_CACHE"):
        return None
    given = call.value("--cache-dir") or settings.get("UV_CACHE_DIR")
    for values in (own, *_configured(call, settings, base, start)):
        if values.get("no-cache") is True:
            return None
        configured = values.get("cache-dir")
        given = given or (configured if isinstance(configured, str) else None)
    return os.path.normpath(os.path.join(base, given or _default(settings)))


def _default(settings: "Settings") -> str:
    above = settings.get("XDG_CACHE_HOME") or ""
    return f"{above if above.startswith('/') else f'{_home(settings)}/.cache'}/uv"


def _home(settings: "Settings") -> str:
    home = settings.get("HOME")
    if home:
        return home
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container runs as a user of its own
        return ""


def _configured(call: "Call", settings: "Settings", base: str, start: str) -> "Iterator[dict[str, Any]]":
    """The settings about the cache in each file that uv reads, the most important first."""
    named = call.value("--config-file") or settings.get("UV_CONFIG_FILE")
    if named:
        yield _read(os.path.join(base, named), "")
        return
    if call.has("--no-config") or settings.is_true("UV_NO_CONFIG"):
        return
    for folder in pyproject.folder_and_parents(start):
        if os.path.isfile(f"{folder}/uv.toml"):
            yield _read(f"{folder}/uv.toml", "")
            break
        text = pyproject.read_text(f"{folder}/pyproject.toml")
        if pyproject.may_have(text, "uv") and pyproject.table(text, "tool.uv"):
            yield _read(f"{folder}/pyproject.toml", "tool.uv")
            break
    configuration = settings.get("XDG_CONFIG_HOME") or ""
    yield _read(f"{configuration if configuration.startswith('/') else f'{_home(settings)}/.config'}/uv/uv.toml", "")
    for folder in (settings.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        if os.path.isfile(f"{folder}/uv/uv.toml"):
            yield _read(f"{folder}/uv/uv.toml", "")
            return
    yield _read("/etc/uv/uv.toml", "")


def _read(path: str, table: str) -> "dict[str, Any]":
    text = pyproject.read_text(path) if os.path.isfile(path) else ""
    return pyproject.table(text, table) if any(pyproject.may_have(text, key) for key in _KEYS) else {}
