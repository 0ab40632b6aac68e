"""Find the project of a call as uv does: its root, its workspace's root, its environment.

Follows crates/uv-workspace/src/workspace.rs and crates/uv/src/lib.rs. Like uv, it resolves the symlinks of the working
directory only; in all other paths it removes each `..` together with the folder before it, and keeps symlinks.
"""

import os

from uv_mutex.uv import pyproject, run_target
from uv_mutex.uv.option_table import STARTING, SYNCING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.script import Script
    from uv_mutex.uv.settings import Settings

#: From this version on, `uv run path/script.py` uses the project around the script, if there is one.
_SCRIPT_FOLDER_SINCE = "0.12.0"
#: From this version on, a star in the patterns of a workspace's members does not match "/". In the patterns of excluded
#: folders it always matches "/".
_STAR_STOPS_AT_SLASH_SINCE = "0.12.9"
#: From these versions on, uv takes `.` and `..` out of such a pattern, and a slash at its end.
_DOTS_SINCE, _SLASH_AT_END_SINCE = "0.9.3", "0.11.5"
#: From this version on, `uv run --isolated` leaves uv.lock alone.
_ISOLATED_READS_ONLY_SINCE = "0.8.7"
#: The part of the cache that holds the environments of scripts. uv before 0.6.0 has another one, but the same lock.
_SCRIPT_ENVIRONMENTS = "environments-v2"


class Project:
    """The folders of a call's project, all as absolute paths.

    ``root``: the workspace root; outside a workspace, the project's own folder. ``member``: the folder of the nearest
    pyproject.toml. ``start``: the folder from which uv looks for the project. ``environment``: the environment's
    folder, which need not exist. ``found_by_script``: whether ``start`` is the folder of the script that `uv run` runs;
    without the script, uv would find another project. ``isolated``: whether the call makes an environment of its own,
    and touches only uv.lock.

    A script with inline metadata is a project of its own, in its own folder: ``script``. uv still finds its settings
    from ``start`` on, and from ``member`` on.
    """

    __slots__ = ("environment", "found_by_script", "isolated", "member", "root", "script", "start")

    def __init__(
        self,
        root: str,
        member: str,
        start: str,
        environment: str,
        *,
        found_by_script: bool = False,
        isolated: bool = False,
        script: "Script | None" = None,
    ) -> None:
        self.root = root
        self.member = member
        self.start = start
        self.environment = environment
        self.found_by_script = found_by_script
        self.isolated = isolated
        self.script = script

    @property
    def folders(self) -> tuple[str, str, str, str]:
        """All of its folders."""
        return self.root, self.member, self.start, self.environment

    @property
    def lockfile(self) -> str:
        """The lockfile of the project or the script, which need not exist; "" if there can be none."""
        return self.script.lockfile or "" if self.script else f"{self.root}/uv.lock"

    @property
    def project_option(self) -> str | None:
        """The value of ``--project`` that a call without the script needs; None if it needs none."""
        return self.start if self.found_by_script else None


def _is_harmless(call: "Call", settings: "Settings") -> bool:
    """Whether options or uv's variables make sure that a call changes nothing that the lock of a project protects."""
    if call.harmless:
        return True
    return call.subcommand in STARTING and (
        settings.is_true("UV_NO_SYNC") or settings.is_true("UV_NO_PROJECT", shown_as="UV_NO_PROJECT=")
    )


def _is_isolated(call: "Call", settings: "Settings") -> bool:
    """Whether uv makes an environment for this call alone."""
    return call.subcommand in STARTING and (
        call.has("--isolated") or settings.is_true("UV_ISOLATED", shown_as="UV_ISOLATED=")
    )


def keeps_lockfile(call: "Call", settings: "Settings") -> bool:
    """Whether a call doesn't write pyproject.toml or uv.lock (because of --frozen, --locked, or their variables)."""
    return call.keeps_lockfile or (
        call.subcommand in SYNCING and (settings.is_true("UV_FROZEN") or settings.is_true("UV_LOCKED"))
    )


def find(
    call: "Call",
    settings: "Settings",
    version_at_least: "Callable[[str], bool]",
    ask_root: "Callable[[str], str | None]" = lambda _start: None,
) -> Project | None:
    """Find the project that a guarded call can change.

    :param call: the call.
    :param settings: uv's variables.
    :param version_at_least: says whether the real uv has a version or a newer one. It is called only where versions
        differ.
    :param ask_root: asks the real uv for the workspace root of a folder. It is called only where Python can't read a
        pyproject.toml.
    :returns: the project; None if the call changes no project and no script.
    :raises OSError: if the working directory no longer exists.
    """
    base = _working_directory(call, settings)
    if call.only_informs:
        return None
    script = _script(call, base)
    start = _start(call, base, settings)
    script_folder = None if start else _script_folder(call, base, version_at_least)
    start = start or script_folder or base
    if script:
        return _script_project(script, call, base, start, settings)
    if _is_harmless(call, settings):
        return None
    isolated = _is_isolated(call, settings)
    if isolated and (keeps_lockfile(call, settings) or version_at_least(_ISOLATED_READS_ONLY_SINCE)):
        return None
    member = _nearest_project(start)
    root = member and _workspace_root(member, version_at_least, ask_root)
    if not member or not root:
        return None
    environment = _environment(call, root, base, settings)
    return Project(root, member, start, environment, found_by_script=script_folder is not None, isolated=isolated)


def _script(call: "Call", base: str) -> "Script | None":
    """The script that the call uses in place of the project; None if it uses the project."""
    if call.subcommand == "run":
        return run_target.inline_script(call, base)
    given = call.value("--script")
    if given is None:
        return None
    from uv_mutex.uv.script import Script, absolute  # most calls name none

    path = absolute(base, given)
    return Script(path, run_target.metadata(path), edited=call.subcommand not in SYNCING)


def _script_project(script: "Script", call: "Call", base: str, start: str, settings: "Settings") -> Project | None:
    """The project that a script with inline metadata is; None if the call makes nothing that others share."""
    own = {"run": not script.has_environment, "check": call.has("--isolated")}
    if own.get(call.subcommand, call.harmless):
        return None
    folder = os.path.dirname(os.path.realpath(script.path)) if script.path else base
    from uv_mutex.uv import cache_folder  # most calls run no such script

    cache = cache_folder.find(call, settings, base, start, script.settings())
    environment = _active_environment(call, base, settings)
    if not environment and not cache and not script.edited:
        return None
    environment = environment or f"{cache or folder}/{_SCRIPT_ENVIRONMENTS}/{script.environment_name}"
    return Project(folder, _nearest_project(start) or start, start, environment, script=script)


def _working_directory(call: "Call", settings: "Settings") -> str:
    """The folder that relative paths start from."""
    given = (
        call.value("--directory")
        or settings.get("UV_WORKING_DIR", shown_as="UV_WORKING_DIR=")
        or settings.get("UV_WORKING_DIRECTORY", shown_as="UV_WORKING_DIR")
    )
    # uv changes to this folder and asks the system for its path, which has no symlinks.
    return os.path.realpath(given) if given else os.getcwd()


def _start(call: "Call", base: str, settings: "Settings") -> str | None:
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


def _environment(call: "Call", root: str, base: str, settings: "Settings") -> str:
    """The environment's folder."""
    active = _active_environment(call, base, settings)
    return active or _join(root, settings.get("UV_PROJECT_ENVIRONMENT") or ".venv")


def _active_environment(call: "Call", base: str, settings: "Settings") -> str | None:
    """The environment that is active in the user's shell, if the call asks uv for it."""
    active = settings.get("VIRTUAL_ENV")
    given = [name for name, _ in call.options if name in ("--active", "--no-active")]
    return _join(base, active) if active and given[-1:] == ["--active"] else None


def _join(base: str, path: str) -> str:
    return os.path.normpath(os.path.join(base, path))


def _nearest_project(start: str) -> str | None:
    """The first folder with a pyproject.toml, from ``start`` upwards."""
    for folder in pyproject.folder_and_parents(start):
        if os.path.isfile(f"{folder}/pyproject.toml"):
            return folder
    return None


def _workspace_root(
    member: str, version_at_least: "Callable[[str], bool]", ask_root: "Callable[[str], str | None]"
) -> str | None:
    """The root of the workspace that a project belongs to; None if the project tells uv not to manage it.

    A project outside any workspace is its own root.
    """
    text = pyproject.read_text(f"{member}/pyproject.toml")
    above = _nearest_project(os.path.dirname(member))
    if above == member:
        above = None
    text_above = pyproject.read_text(f"{above}/pyproject.toml") if above else ""
    if not (pyproject.may_have(text + text_above, "workspace") or pyproject.may_have(text, "managed")):
        return member  # as most projects; then no TOML parser is imported
    if not (pyproject.is_toml(text) and pyproject.is_toml(text_above)):
        # A uv that can read it, as TOML 1.1, can also say what it found. Any other uv refuses the call.
        return ask_root(member) or member
    if pyproject.table(text, "tool.uv").get("managed") is False:
        return None
    if pyproject.table(text, "tool.uv.workspace"):
        return member
    # Without a [project] table, uv takes a folder for a root, whatever is above it.
    if above and _is_member(member, above, text_above, version_at_least) and pyproject.table(text, "project"):
        return above
    return member


def _is_member(folder: str, root: str, text: str, version_at_least: "Callable[[str], bool]") -> bool:
    """Whether the workspace at ``root``, if there is one, includes a folder.

    :param text: the pyproject.toml of ``root``.
    """
    from uv_mutex.uv import globs  # most projects are in no workspace

    workspace = pyproject.table(text, "tool.uv.workspace")
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
