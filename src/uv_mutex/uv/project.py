"""Find the project of a call as uv does: its root, its workspace's root, its environment.

Follows crates/uv-workspace/src/workspace.rs and crates/uv/src/lib.rs. But for the working directory, paths are taken as
written, `..` folded and symlinks kept, since that is how uv climbs from folder to folder.
"""

import os

from uv_mutex.uv import globs, pyproject, run_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from uv_mutex.uv.commandline import Call

_TRUE = ("1", "true", "t", "yes", "y", "on")
#: From this version on, `uv run path/script.py` belongs to the project around the script, if there is one.
_SCRIPT_DECIDES = "0.12.0"
#: From this version on, a star in the patterns of a workspace's members stops at "/"; in those excluded it never does.
_STAR_STOPS = "0.12.9"


class Project:
    """Where a call's project is.

    ``root``: the workspace root, which is the project's own folder outside a workspace. ``member``: the folder of the
    nearest pyproject.toml. ``start``: where uv begins to look. ``environment``: the environment's folder, which need
    not exist. All are absolute. ``script_decides``: whether uv begins there for the sake of the script that it runs,
    so that without the script it would find another project.
    """

    __slots__ = ("environment", "member", "root", "script_decides", "start")

    def __init__(self, root: str, member: str, start: str, environment: str, *, script_decides: bool = False) -> None:
        self.root = root
        self.member = member
        self.start = start
        self.environment = environment
        self.script_decides = script_decides

    @property
    def told_by_script(self) -> str | None:
        """``start`` if only the script leads there, so that a call without the script must name it."""
        return self.start if self.script_decides else None


class Settings:
    """What uv reads from the environment, as far as the version at hand knows the variable."""

    def __init__(self, environ: "Mapping[str, str]", ask_help: "Callable[[str], str]") -> None:
        """
        :param environ: the environment.
        :param ask_help: gives the real uv's ``--help`` of a subcommand; called only where a variable is set that older
            versions don't know.
        """
        self._environ = environ
        self._ask_help = ask_help

    def get(self, name: str, *, shown_as: str | None = None) -> str | None:
        """The variable's value, None if it is empty, unset, or unknown to this uv.

        :param name: the variable.
        :param shown_as: what the help of a uv that knows the variable contains; None if every supported version does.
        """
        value = self._environ.get(name)
        if not value or (shown_as and shown_as not in self._ask_help("run")):
            return None
        return value

    def on(self, name: str, *, shown_as: str | None = None) -> bool:
        """Whether the variable is set to what uv takes for true."""
        value = self.get(name, shown_as=shown_as)
        return value is not None and value.lower() in _TRUE


def harmless(call: "Call", settings: Settings) -> bool:
    """Whether a call changes nothing that the lock protects, by its options or uv's variables."""
    if call.harmless:
        return True
    return call.subcommand == "run" and (
        settings.on("UV_NO_SYNC")
        or settings.on("UV_NO_PROJECT", shown_as="UV_NO_PROJECT=")
        or settings.on("UV_ISOLATED", shown_as="UV_ISOLATED=")
    )


def keeps_lockfile(call: "Call", settings: Settings) -> bool:
    """Whether a call leaves pyproject.toml and uv.lock as they are (--frozen, --locked, or their variables)."""
    return call.keeps_lockfile or (
        call.subcommand in ("run", "sync") and (settings.on("UV_FROZEN") or settings.on("UV_LOCKED"))
    )


def find(call: "Call", settings: Settings, version_at_least: "Callable[[str], bool]") -> Project | None:
    """Find the project that a guarded call works on.

    :param call: the call.
    :param settings: uv's variables.
    :param version_at_least: whether the real uv is of a version or newer; called only where versions differ.
    :returns: None if the call uses no project.
    :raises OSError: if the working directory is gone.
    """
    base = _working_directory(call, settings)
    if call.subcommand == "run" and run_target.has_own_environment(call, base):
        return None
    start = _start(call, base, settings)
    beside = None if start else _beside_script(call, base, version_at_least)
    start = start or beside or base
    member = _nearest(start)
    root = member and _workspace_root(member, version_at_least)
    if not member or not root:
        return None
    environment = _environment(call, root, base, settings)
    return Project(root, member, start, environment, script_decides=beside is not None)


def _working_directory(call: "Call", settings: Settings) -> str:
    given = (
        call.value("--directory")
        or settings.get("UV_WORKING_DIR", shown_as="UV_WORKING_DIR=")
        or settings.get("UV_WORKING_DIRECTORY", shown_as="UV_WORKING_DIR")
    )
    # uv goes there and asks where it is, which resolves symlinks.
    return os.path.realpath(given) if given else os.getcwd()


def _start(call: "Call", base: str, settings: Settings) -> str | None:
    given = call.value("--project") or settings.get("UV_PROJECT", shown_as="UV_PROJECT=")
    if not given:
        return None
    path = _join(base, given)
    return os.path.dirname(path) if path.endswith("/pyproject.toml") and os.path.isfile(path) else path


def _beside_script(call: "Call", base: str, version_at_least: "Callable[[str], bool]") -> str | None:
    """The folder of the script to run, if it lies in another project than ``base`` and uv goes by that."""
    folder = run_target.folder(call, base) if call.subcommand == "run" else None
    if not folder:
        return None
    folder = _join(base, folder)
    around = _nearest(folder)
    return folder if around and around != _nearest(base) and version_at_least(_SCRIPT_DECIDES) else None


def _environment(call: "Call", root: str, base: str, settings: Settings) -> str:
    active = settings.get("VIRTUAL_ENV")
    if active:
        wanted = [name for name, _ in call.options if name in ("--active", "--no-active")]
        if wanted[-1:] == ["--active"]:
            return _join(base, active)
    return _join(root, settings.get("UV_PROJECT_ENVIRONMENT") or ".venv")


def _join(base: str, path: str) -> str:
    return os.path.normpath(os.path.join(base, path))


def _nearest(start: str) -> str | None:
    for folder in pyproject.ancestors(start):
        if os.path.isfile(f"{folder}/pyproject.toml"):
            return folder
    return None


def _workspace_root(member: str, version_at_least: "Callable[[str], bool]") -> str | None:
    """The root of the workspace that a project belongs to (itself, alone); None if uv is told to keep off it."""
    text = pyproject.read_text(f"{member}/pyproject.toml")
    # Most files hold neither word, and then need no parser.
    if "managed" in text and pyproject.tables(text, "tool.uv").get("managed") is False:
        return None
    if "workspace" in text and pyproject.tables(text, "tool.uv.workspace"):
        return member
    above = _nearest(os.path.dirname(member))
    if above and above != member:
        outer = pyproject.read_text(f"{above}/pyproject.toml")
        workspace = pyproject.tables(outer, "tool.uv.workspace") if "workspace" in outer else {}
        members, path = workspace.get("members"), member[len(above) :].lstrip("/")
        included = globs.matches(path, members, across=True) and not globs.matches(
            path, workspace.get("exclude"), across=True
        )
        if included and not globs.matches(path, members, across=False):
            included = not version_at_least(_STAR_STOPS)
        # Without a [project] table, uv takes a folder for a root whatever is above it.
        if included and pyproject.tables(text, "project"):
            return above
    return member
