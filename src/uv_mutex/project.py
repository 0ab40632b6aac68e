"""Find the project of a call as uv does: its root, its workspace's root, its environment.

Follows crates/uv-workspace/src/workspace.rs and crates/uv/src/lib.rs. Paths are taken as written, `..` folded and
symlinks kept, since that is how uv climbs from folder to folder.
"""

import os

from uv_mutex import target, toml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from uv_mutex.commandline import Call

_TRUE = ("1", "true", "t", "yes", "y", "on")
#: From this version on, `uv run path/script.py` belongs to the project around the script.
_SCRIPT_DECIDES = "0.12.0"


class Project:
    """Where a call's project is.

    ``root``: the workspace root, which is the project's own folder outside a workspace. ``member``: the folder of the
    nearest pyproject.toml. ``start``: where uv begins to look. ``environment``: the environment's folder, which need
    not exist. All are absolute.
    """

    __slots__ = ("environment", "member", "root", "start")

    def __init__(self, root: str, member: str, start: str, environment: str) -> None:
        self.root = root
        self.member = member
        self.start = start
        self.environment = environment

    @property
    def environment_inside(self) -> bool:
        """Whether whoever sees the project's folder sees the environment too."""
        return self.environment.startswith(self.root.rstrip("/") + "/")


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
    if call.subcommand == "run" and target.has_own_environment(call, base):
        return None
    start = _start(call, base, settings, version_at_least)
    member = _nearest(start)
    root = member and _workspace_root(member)
    if not member or not root:
        return None
    return Project(root, member, start, _environment(call, root, base, settings))


def _working_directory(call: "Call", settings: Settings) -> str:
    given = (
        call.value("--directory")
        or settings.get("UV_WORKING_DIR", shown_as="UV_WORKING_DIR=")
        or settings.get("UV_WORKING_DIRECTORY", shown_as="UV_WORKING_DIR")
    )
    return _join(os.getcwd(), given) if given else os.getcwd()


def _start(call: "Call", base: str, settings: Settings, version_at_least: "Callable[[str], bool]") -> str:
    given = call.value("--project") or settings.get("UV_PROJECT", shown_as="UV_PROJECT=")
    if given:
        path = _join(base, given)
        return os.path.dirname(path) if path.endswith("/pyproject.toml") and os.path.isfile(path) else path
    beside = target.folder(call, base) if call.subcommand == "run" else None
    if beside:
        beside = _join(base, beside)
        if _nearest(beside) != _nearest(base) and version_at_least(_SCRIPT_DECIDES):
            return beside
    return base


def _environment(call: "Call", root: str, base: str, settings: Settings) -> str:
    active = settings.get("VIRTUAL_ENV")
    if active and call.has("--active"):
        return _join(base, active)
    return _join(root, settings.get("UV_PROJECT_ENVIRONMENT") or ".venv")


def _join(base: str, path: str) -> str:
    return os.path.normpath(os.path.join(base, path))


def ancestors(folder: str) -> "Iterator[str]":
    """A folder, its parent, and so on up to the file system's root."""
    while True:
        yield folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return
        folder = parent


def _nearest(start: str) -> str | None:
    for folder in ancestors(start):
        if os.path.isfile(f"{folder}/pyproject.toml"):
            return folder
    return None


def _workspace_root(member: str) -> str | None:
    """The root of the workspace that a project belongs to (itself, alone); None if uv is told to keep off it."""
    text = read_text(f"{member}/pyproject.toml")
    # Most files hold neither word, and then need no parser.
    if "managed" in text and tables(text, "tool.uv").get("managed") is False:
        return None
    if "workspace" in text and tables(text, "tool.uv.workspace"):
        return member
    above = _nearest(os.path.dirname(member))
    if above and above != member:
        text = read_text(f"{above}/pyproject.toml")
        workspace = tables(text, "tool.uv.workspace") if "workspace" in text else {}
        if _matches(member, above, workspace.get("members")) and not _matches(member, above, workspace.get("exclude")):
            return above
    return member


def tables(text: str, path: str) -> dict[str, toml.Value]:
    """The values below a dotted path, none if the text is not TOML: uv will say so."""
    try:
        return toml.read_tables(text, path)
    except (ValueError, IndexError):
        return {}


def read_text(path: str) -> str:
    """A file's text, empty if it can't be read: uv will say why."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def workspace_globs(root: str) -> list[str]:
    """The patterns of the workspace's members, as written in the root's pyproject.toml."""
    members = tables(read_text(f"{root}/pyproject.toml"), "tool.uv.workspace").get("members")
    return [glob for glob in members if isinstance(glob, str)] if isinstance(members, list) else []


def _matches(member: str, root: str, globs: "toml.Value | None") -> bool:
    """Whether a member's path matches one of a workspace's patterns, by the rules of Rust's glob crate."""
    if not isinstance(globs, list):
        return False
    relative = os.path.relpath(member, root)
    for glob in globs:
        if not isinstance(glob, str):
            continue
        pattern = os.path.normpath(glob)
        if pattern == relative:
            return True
        if any(char in pattern for char in "*?["):
            from fnmatch import fnmatchcase

            # There too, a star matches across "/"; "**/" also matches no folder at all.
            if fnmatchcase(relative, pattern) or fnmatchcase(relative, pattern.replace("**/", "")):
                return True
    return False
