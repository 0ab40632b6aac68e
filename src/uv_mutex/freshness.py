"""The note inside an environment that says: nothing that decides this environment changed since it was prepared.

Only the real uv judges an environment. A fresh note skips the preparation under the lock, never uv's own check in the
call that follows. A note holds, line by line, a head, a key (what was asked for: options, uv's variables, the uv), and
what stat said of every path that decides. It is fresh if writing it again would give the same lines.
"""

import binascii
import os

from uv_mutex import project as projects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from uv_mutex.commandline import Call
    from uv_mutex.project import Project

_FOLDER = ".uv-mutex"
_HEAD = "uv-mutex note 1"
#: Follows the head where stat may tell what a network file system remembers instead of what is there.
_REOPEN = " reopen"
_DISTRIBUTIONS = "# distributions"
_DIST_SUFFIXES = (".dist-info", ".egg-info", ".egg-link", ".pth", ".egg")
#: Variables besides UV_* that decide where uv looks for its configuration.
_PLACES = ("HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS")
#: Set anew by uv for each command it runs, without a say in what the environment holds.
_COUNTERS = ("UV_RUN_RECURSION_DEPTH",)
#: Variables that make `sync`, but not `run`, leave packages out.
_PARTLY = ("UV_NO_INSTALL_", "UV_ONLY_INSTALL_")
#: A package whose pyproject.toml declares them is rebuilt when they say so; anything but a file is beyond a note.
_CACHE_KEYS = "cache-keys"
_LOCAL_SOURCES = (
    'source = { editable = "',
    'source = { directory = "',
    'source = { virtual = "',
    'source = { path = "',
)


class Note:
    """The note of one environment for one kind of call."""

    def __init__(self, project: "Project", call: "Call", environ: "Mapping[str, str]", uv: str) -> None:
        """
        :param project: the project whose environment it is.
        :param call: the call that wants it prepared.
        :param environ: the environment, for uv's variables.
        :param uv: path of the real uv.
        """
        self._project = project
        self._config_file = call.value("--config-file") or environ.get("UV_CONFIG_FILE")
        self._environ = environ
        # Options that make uv work anew each time have no note.
        self._keys = () if call.repeats else _keys(project, call, environ, uv)
        self._before: list[str] = []

    def _path(self, key: str) -> str:
        name = binascii.crc32(key.encode("utf-8", "surrogateescape"))
        return f"{self._project.environment}/{_FOLDER}/{name:08x}"

    def fresh(self) -> bool:
        """Whether the environment is still as the preparation left it."""
        if not self._keys:
            return False
        try:
            with open(self._path(self._keys[0]), encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except OSError:
            return False
        paths, _, distributions = text.partition(f"{_DISTRIBUTIONS}\n")
        lines = paths.split("\n")
        reopen = lines[0] == _HEAD + _REOPEN
        if not (reopen or lines[0] == _HEAD) or len(lines) < 4 or lines[1] != self._keys[0]:
            return False
        packages_moved = False
        for line in lines[2:-1]:
            kind, _, rest = line.partition(" ")
            path = rest.partition(" ")[2]
            if reopen:
                _reopen(path)
            if _describe(kind, path) == line:
                continue
            if kind != "packages":
                return False
            # Python's own __pycache__ touches the folder too, so ask what is installed.
            packages_moved = True
        return not packages_moved or distributions == "".join(_distributions(self._project.environment))

    def before_preparation(self) -> None:
        """Remember what the user may edit while uv works; call it before the preparation."""
        if self._keys:
            self._before = list(self._inputs())

    def write(self) -> None:
        """Note the environment as fresh; call it after a preparation that succeeded, under the lock.

        Writes nothing if an input changed meanwhile, and never fails: without a note the next call prepares again.
        """
        if not self._before or self._before != list(self._inputs()):
            return
        decided = self._outputs()
        if decided is None:
            return
        from uv_mutex import mounts

        distributions = "".join(_distributions(self._project.environment))
        head = _HEAD if mounts.is_local(self._project.environment) else _HEAD + _REOPEN
        for key in self._keys:
            lines = [head, key, *self._before, *decided]
            if not any("\n" in line for line in lines):
                text = "\n".join(lines) + f"\n{_DISTRIBUTIONS}\n{distributions}"
                _replace(self._path(key), text.encode("utf-8", "surrogateescape"))

    def _inputs(self) -> "Iterator[str]":
        """What the user edits, outside the environment, but for the lock file, which the preparation may write."""
        project = self._project
        for folder in _folders(project):
            for name in ("pyproject.toml", ".python-version", ".python-versions"):
                yield _describe("file", f"{folder}/{name}")
        yield _describe("file", f"{project.root}/uv.toml")
        for path in self._configuration():
            yield _describe("file", path)

    def _configuration(self) -> "Iterator[str]":
        """Follows crates/uv-settings/src/lib.rs and crates/uv-dirs/src/lib.rs."""
        if self._config_file:
            yield os.path.join(self._project.start, self._config_file)
        environ = self._environ
        user = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/"), ".config")
        yield f"{user}/uv/uv.toml"
        yield f"{user}/uv/.python-version"
        for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
            yield f"{folder}/uv/uv.toml"
        yield "/etc/uv/uv.toml"

    def _outputs(self) -> list[str] | None:
        """What the preparation may have written, and what the lock file says of local packages."""
        project, lines = self._project, []
        lockfile = f"{project.root}/uv.lock"
        lines.append(_describe("file", lockfile))
        for path in _local_sources(projects.read_text(lockfile), project.root):
            if os.path.isfile(path):
                lines.append(_describe("file", path))
                continue
            keys = _cache_keys(path)
            if keys is None:
                return None
            lines.extend(_describe("file", key) for key in keys)
            lines.append(_describe("exists", f"{path}/src"))
        for glob in projects.workspace_globs(project.root):
            parent = f"{project.root}/{glob.split('*')[0].rpartition('/')[0]}" if "*" in glob else ""
            if parent:
                lines.append(_describe("file", os.path.normpath(parent)))
        environment = project.environment
        lines.append(_describe("file", f"{environment}/pyvenv.cfg"))
        lines.append(_describe("file", f"{environment}/bin/python"))
        packages = [_describe("packages", path) for path in _site_packages(environment)]
        return lines + packages if packages else None


def _keys(project: "Project", call: "Call", environ: "Mapping[str, str]", uv: str) -> tuple[str, ...]:
    """What was asked for, a line each. First what must be noted for this call, then what holds besides.

    A `sync` leaves no package too many, so that it prepares for a `run` with the same options; not the other way round.
    """
    variables = sorted(
        (name, value)
        for name, value in environ.items()
        if (name.startswith("UV_") and not name.startswith("UV_MUTEX") and name not in _COUNTERS) or name in _PLACES
    )
    asked = repr((_describe("file", uv), project.start, call.environment_options(), variables))
    if not call.exact:
        return (asked,)
    partly = any(name.startswith(_PARTLY) for name, _ in variables)
    return (f"exact {asked}",) if partly else (f"exact {asked}", asked)


def _describe(kind: str, path: str) -> str:
    """One line on a path: its kind, what stat says, and the path."""
    try:
        answer = os.stat(path)
    except OSError:
        return f"{kind} - {path}"
    if kind == "exists":
        return f"{kind} + {path}"
    return f"{kind} {answer.st_mtime_ns}/{answer.st_size}/{answer.st_ino} {path}"


def _reopen(path: str) -> None:
    """Make a network file system ask its server: it is consistent from close to open, not from write to stat."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        pass


def _folders(project: "Project") -> "Iterator[str]":
    """The folders from where uv begins to look up to the workspace root."""
    seen = {project.root}
    yield project.root
    for start in (project.start, project.member):
        for folder in projects.ancestors(start):
            if folder in seen:
                break
            seen.add(folder)
            yield folder


def _local_sources(lockfile: str, root: str) -> "Iterator[str]":
    """The packages that uv.lock takes from a path. uv writes each source on a line of its own."""
    for line in lockfile.splitlines():
        for start in _LOCAL_SOURCES:
            if line.startswith(start):
                yield os.path.normpath(os.path.join(root, line[len(start) :].partition('"')[0]))


def _cache_keys(folder: str) -> list[str] | None:
    """The files that make uv rebuild a local package; None if other things do as well.

    Follows crates/uv-cache-info/src/cache_info.rs.
    """
    names = ["pyproject.toml", "setup.py", "setup.cfg"]
    text = projects.read_text(f"{folder}/pyproject.toml")
    if _CACHE_KEYS in text:
        declared = projects.tables(text, "tool.uv").get(_CACHE_KEYS)
        for key in declared if isinstance(declared, list) else []:
            name = key.get("file") if isinstance(key, dict) else key
            if not isinstance(name, str) or any(char in name for char in "*?["):
                return None
            names.append(name)
    return [os.path.join(folder, name) for name in names]


def _site_packages(environment: str) -> "Iterator[str]":
    lib = f"{environment}/lib"
    for name in _list(lib):
        path = f"{lib}/{name}/site-packages"
        if os.path.isdir(path):
            yield path


def _distributions(environment: str) -> "Iterator[str]":
    """A line for each installed distribution."""
    for folder in _site_packages(environment):
        for name in _list(folder):
            if name.endswith(_DIST_SUFFIXES):
                yield _describe("distribution", f"{folder}/{name}") + "\n"


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _replace(path: str, content: bytes) -> None:
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
