"""Find the project of a call as uv does: its root, its workspace's root, its environment.

Follows crates/uv-workspace/src/workspace.rs and crates/uv/src/lib.rs. Like uv, it resolves the symlinks of the working
directory only; in all other paths it removes each `..` together with the folder before it, and keeps symlinks.
"""

import os

from uv_mutex.uv import globs, pyproject, run_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from uv_mutex.uv.commandline import Call

_TRUE_VALUES = ("1", "true", "t", "yes", "y", "on")
#: From this version on, `uv run path/script.py` uses the project around the script, if there is one.
_SCRIPT_FOLDER_SINCE = "0.12.0"
#: From this version on, a star in the patterns of a workspace's members does not match "/". In the patterns of excluded
#: folders it always matches "/".
_STAR_STOPS_AT_SLASH_SINCE = "0.12.9"
#: From these versions on, uv takes `.` and `..` out of such a pattern, and a slash at its end.
_DOTS_SINCE, _SLASH_AT_END_SINCE = "0.9.3", "0.11.5"


class Project:
    """The folders of a call's project, all as absolute paths.

    ``root``: the workspace root; outside a workspace, the project's own folder. ``member``: the folder of the nearest
    pyproject.toml. ``start``: the folder from which uv looks for the project. ``environment``: the environment's
    folder, which need not exist. ``found_by_script``: whether ``start`` is the folder of the script that `uv run` runs;
    without the script, uv would find another project.
    """

    __slots__ = ("environment", "found_by_script", "member", "root", "start")

    def __init__(self, root: str, member: str, start: str, environment: str, *, found_by_script: bool = False) -> None:
        self.root = root
        self.member = member
        self.start = start
        self.environment = environment
        self.found_by_script = found_by_script

    @property
    def project_option(self) -> str | None:
        """The value of ``--project`` that a call without the script needs; None if it needs none."""
        return self.start if self.found_by_script else None


class Settings:
    """uv's environment variables, as far as the installed uv supports them."""

    def __init__(self, environ: "Mapping[str, str]", ask_help: "Callable[[str], str]") -> None:
        """
        :param environ: the environment variables.
        :param ask_help: returns the real uv's ``--help`` of a subcommand. It is called only if a variable is set that
            older versions don't support.
        """
        self._environ = environ
        self._ask_help = ask_help

    def get(self, name: str, *, shown_as: str | None = None) -> str | None:
        """The variable's value; None if it is empty, not set, or not supported by this uv.

        :param name: the variable.
        :param shown_as: a text in the help of each uv that supports the variable; None if every version supports it.
        """
        value = self._environ.get(name)
        if not value or (shown_as and shown_as not in self._ask_help("run")):
            return None
        return value

    def is_true(self, name: str, *, shown_as: str | None = None) -> bool:
        """Whether the variable has a value that uv takes for true. The parameters are those of :meth:`get`."""
        value = self.get(name, shown_as=shown_as)
        return value is not None and value.lower() in _TRUE_VALUES


def harmless(call: "Call", settings: Settings) -> bool:
    """Whether options or uv's variables make sure that a call changes nothing that the lock protects."""
    if call.harmless:
        return True
    return call.subcommand == "run" and (
        settings.is_true("UV_NO_SYNC")
        or settings.is_true("UV_NO_PROJECT", shown_as="UV_NO_PROJECT=")
        or settings.is_true("UV_ISOLATED", shown_as="UV_ISOLATED=")
    )


def keeps_lockfile(call: "Call", settings: Settings) -> bool:
    """Whether a call doesn't write pyproject.toml or uv.lock (because of --frozen, --locked, or their variables)."""
    return call.keeps_lockfile or (
        call.subcommand in ("run", "sync") and (settings.is_true("UV_FROZEN") or settings.is_true("UV_LOCKED"))
    )


def find(call: "Call", settings: Settings, version_at_least: "Callable[[str], bool]") -> Project | None:
    """Find the project that a guarded call works on.

    :param call: the call.
    :param settings: uv's variables.
    :param version_at_least: says whether the real uv has a version or a newer one. It is called only where versions
        differ.
    :returns: the project; None if the call uses no project.
    :raises OSError: if the working directory no longer exists.
    """
    base = _working_directory(call, settings)
    if call.subcommand == "run" and run_target.has_own_environment(call, base):
        return None
    start = _start(call, base, settings)
    script_folder = None if start else _script_folder(call, base, version_at_least)
    start = start or script_folder or base
    member = _nearest_project(start)
    root = member and _workspace_root(member, version_at_least)
    if not member or not root:
        return None
    environment = _environment(call, root, base, settings)
    return Project(root, member, start, environment, found_by_script=script_folder is not None)


def _working_directory(call: "Call", settings: Settings) -> str:
    """The folder that relative paths start from."""
    given = (
        call.value("--directory")
        or settings.get("UV_WORKING_DIR", shown_as="UV_WORKING_DIR=")
        or settings.get("UV_WORKING_DIRECTORY", shown_as="UV_WORKING_DIR")
    )
    # uv changes to this folder and asks the system for its path, which has no symlinks.
    return os.path.realpath(given) if given else os.getcwd()


def _start(call: "Call", base: str, settings: Settings) -> str | None:
    """The folder that the user names as the project's; None if no option or variable does."""
    given = call.value("--project") or settings.get("UV_PROJECT", shown_as="UV_PROJECT=")
    if not given:
        return None
    path = _join(base, given)
    return os.path.dirname(path) if path.endswith("/pyproject.toml") and os.path.isfile(path) else path


def _script_folder(call: "Call", base: str, version_at_least: "Callable[[str], bool]") -> str | None:
    """The folder of the script to run, if it is in another project than ``base`` and this uv uses that project."""
    folder = run_target.folder(call, base) if call.subcommand == "run" else None
    if not folder:
        return None
    folder = _join(base, folder)
    around = _nearest_project(folder)
    return folder if around and around != _nearest_project(base) and version_at_least(_SCRIPT_FOLDER_SINCE) else None


def _environment(call: "Call", root: str, base: str, settings: Settings) -> str:
    """The environment's folder."""
    active = settings.get("VIRTUAL_ENV")
    if active:
        given = [name for name, _ in call.options if name in ("--active", "--no-active")]
        if given[-1:] == ["--active"]:
            return _join(base, active)
    return _join(root, settings.get("UV_PROJECT_ENVIRONMENT") or ".venv")


def _join(base: str, path: str) -> str:
    return os.path.normpath(os.path.join(base, path))


def _nearest_project(start: str) -> str | None:
    """The first folder with a pyproject.toml, from ``start`` upwards."""
    for folder in pyproject.folder_and_parents(start):
        if os.path.isfile(f"{folder}/pyproject.toml"):
            return folder
    return None


def _workspace_root(member: str, version_at_least: "Callable[[str], bool]") -> str | None:
    """The root of the workspace that a project belongs to; None if the project tells uv not to manage it.

    A project outside any workspace is its own root.
    """
    text = pyproject.read_text(f"{member}/pyproject.toml")
    if _may_have(text, "managed") and pyproject.table(text, "tool.uv").get("managed") is False:
        return None
    if _may_have(text, "workspace") and pyproject.table(text, "tool.uv.workspace"):
        return member
    above = _nearest_project(os.path.dirname(member))
    # Without a [project] table, uv takes a folder for a root, whatever is above it.
    if above and above != member and _is_member(member, above, version_at_least) and pyproject.table(text, "project"):
        return above
    return member


def _may_have(text: str, key: str) -> bool:
    """Whether a TOML text can have a key. Most have neither key, and for those no TOML parser is imported.

    A key can be spelled in another way only by an escape, as in ``"work\\u0073pace"``.
    """
    return key in text or "\\" in text


def _is_member(folder: str, root: str, version_at_least: "Callable[[str], bool]") -> bool:
    """Whether the workspace at ``root``, if there is one, includes a folder."""
    text = pyproject.read_text(f"{root}/pyproject.toml")
    workspace = pyproject.table(text, "tool.uv.workspace") if _may_have(text, "workspace") else {}
    members, excluded = (_used_patterns(workspace.get(key), version_at_least) for key in ("members", "exclude"))
    path = folder[len(root) :].lstrip("/")
    if not globs.matches(root, path, members, star_matches_slash=True):
        return False
    if globs.matches(root, path, excluded, star_matches_slash=True):
        return False
    if globs.matches(root, path, members, star_matches_slash=False):
        return True
    return not version_at_least(_STAR_STOPS_AT_SLASH_SINCE)


def _used_patterns(patterns: object, version_at_least: "Callable[[str], bool]") -> list[str]:
    """The patterns that can match with this uv: an older one does not normalize them, and then `./p/*` matches nothing.

    :param patterns: what pyproject.toml says; a value that is not a list of strings has no patterns.
    """

    def is_used(pattern: str) -> bool:
        if pattern == os.path.normpath(pattern) or version_at_least(_SLASH_AT_END_SINCE):
            return True
        return not pattern.endswith("/") and version_at_least(_DOTS_SINCE)

    texts = patterns if isinstance(patterns, list) else []
    return [pattern for pattern in texts if isinstance(pattern, str) and is_used(pattern)]
