"""The note inside an environment that says: nothing that decides this environment changed since it was prepared.

Only the real uv judges an environment. A fresh note skips the preparation under the lock, never uv's own check in the
call that follows. A note holds, line by line, a head, a key (what was asked for: options, uv's variables, the uv), and
what stat said of every path that decides; see :mod:`uv_mutex.environment.inputs`. It is fresh if writing it again
would give the same lines. It is written only after uv went through all of that and found nothing to change.
"""

import binascii
import os

from uv_mutex.locking import network_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project

_FOLDER = ".uv-mutex"
_HEAD = "uv-mutex note 3"
#: Follows the head where stat may tell what a network file system remembers instead of what is there.
_REOPEN = " reopen"
#: Ends the lines that are compared; a note without it was cut short.
_CONTENTS = "\n# contents\n"
#: Kinds of folders whose times move without a reason, Python's __pycache__ for one. Then their contents decide.
PACKAGES, MEMBERS = "packages", "members"
_DIST_SUFFIXES = (".dist-info", ".egg-info", ".egg-link", ".pth", ".egg")
#: uv's variables without a say in what the environment holds. It counts in the first for each command that it runs.
_NO_SAY = ("UV_RUN_RECURSION_DEPTH", "UV_CACHE_DIR")
#: Variables that make `sync`, but not `run`, leave packages out.
_PARTLY = ("UV_NO_INSTALL_", "UV_ONLY_INSTALL_")
#: The kernel's clock for files moves in steps of up to 10 ms.
_TICK_NS = 10_000_000
#: Some file systems count whole seconds (Lustre, ext3, HFS+), FAT two at a time.
_COARSE_NS = 2_000_000_000

#: The keys of a note, its lines, and what follows them.
_State = tuple[tuple[str, ...], list[str], str]


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
        self._call = call
        self._environ = environ
        self._uv = uv
        self._config_file = self._absolute(call.value("--config-file") or environ.get("UV_CONFIG_FILE"))
        self._before: _State | None = None

    def _absolute(self, path: str | None) -> str | None:
        """A path that uv reads from where it works."""
        for name in ("UV_WORKING_DIR", "UV_WORKING_DIRECTORY"):
            base = self._call.value("--directory") or self._environ.get(name)
            if base and path:
                return os.path.abspath(os.path.join(base, path))
        return path and os.path.abspath(path)

    def _keys(self) -> tuple[str, ...]:
        """What was asked for, a line each. First what must be noted for this call, then what holds besides.

        A `sync` leaves no package too many, so that it prepares for a `run` with the same options; not the other way
        round. Hosts that share an environment may see it at paths of their own, and share a note all the same. Where
        uv, interpreter or settings differ, each host has its own note, so that none undoes another's.
        """
        call, environ = self._call, self._environ
        variables = sorted(
            (name, value)
            for name, value in environ.items()
            if name.startswith("UV_") and not name.startswith("UV_MUTEX") and name not in _NO_SAY
        )
        interpreters = [f"{self._project.environment}/bin/python"]
        python = call.value("-p", "--python") or environ.get("UV_PYTHON")
        if python and "/" in python:
            interpreters.append(self._absolute(python) or python)
        machine = [_size(self._uv), *map(_size_and_time, interpreters)]
        machine += (describe("file", path, environ).split(" ", 2)[1] for path in _machine_settings(environ))
        where = [path and self._short(path) for path in (self._project.start, self._config_file)]
        asked = repr((call.environment_options(), variables, where, machine))
        if not call.exact:
            return (asked,)
        partly = any(name.startswith(_PARTLY) for name, _ in variables)
        return (f"exact {asked}",) if partly else (f"exact {asked}", asked)

    def _short(self, path: str) -> str:
        """A path, told from the workspace root if it lies there. All others are absolute."""
        root = self._project.root
        if path == root:
            return "."
        return f".{path[len(root) :]}" if path.startswith(f"{root}/") else path

    def _shorten(self, line: str) -> str:
        kind, said, path = line.split(" ", 2)
        return f"{kind} {said} {self._short(path)}"

    def _path(self, key: str) -> str:
        name = binascii.crc32(key.encode("utf-8", "surrogateescape"))
        return f"{self._project.environment}/{_FOLDER}/{name:08x}"

    def fresh(self) -> bool:
        """Whether the environment is still as the preparation left it."""
        if self._call.forces_work:
            return False
        key = self._keys()[0]
        try:
            with open(self._path(key), encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                text = file.read()
        except OSError:
            return False
        described, whole, contents = text.partition(_CONTENTS)
        head, *lines = described.split("\n")
        reopen = head == _HEAD + _REOPEN
        if not whole or not (reopen or head == _HEAD) or len(lines) < 2 or lines[0] != key:
            return False
        moved = False
        root = self._project.root
        for at, line in enumerate(lines[1:], 1):
            kind, _, rest = line.partition(" ")
            said, _, path = rest.partition(" ")
            if path.startswith("./") or path == ".":
                path = root + path[1:]
                line = lines[at] = f"{kind} {said} {path}"  # noqa: PLW2901
            if reopen:
                network_cache.reopen(path)
            if describe(kind, path, self._environ) == line:
                continue
            if kind not in (PACKAGES, MEMBERS):
                return False
            moved = True
        return not moved or contents == "".join(map(self._shorten, _contents(lines[1:], self._environ)))

    def before_preparation(self) -> None:
        """Remember how all is that decides; call it before the preparation."""
        self._before = self._state()
        if self._before and any(_changed_since(line, _TICK_NS) for line in self._before[1]):
            # Another change in the same tick of the clock would look like none.
            import time

            time.sleep(_TICK_NS / 1e9)
            self._before = self._state()

    def write(self) -> bool:
        """Note the environment as fresh; call it after a preparation that succeeded, under the lock.

        Never fails: without a note the next call prepares again.

        :returns: False if anything changed meanwhile. Then nothing is noted, since uv may have looked before, but
            another preparation will change nothing and can be.
        """
        if not self._before:
            return True
        after = self._state()
        if after != self._before:
            return False
        keys, lines, contents = after
        if any(_coarse(line) and _changed_since(line, _COARSE_NS) for line in lines if line.startswith("file ")):
            return True
        # Nor would times tell of a second change to what is installed: such a line never holds, so the contents decide.
        lines = [_unequal(line) if line.startswith(PACKAGES) and _coarse(line) else line for line in lines]
        if any("\n" in line for line in lines) or not any(line.startswith(PACKAGES) for line in lines):
            return True
        head = _HEAD + _REOPEN if self._is_remote() else _HEAD
        for key in keys:
            _replace(self._path(key), "\n".join((head, key, *map(self._shorten, lines))) + _CONTENTS + contents)
        return True

    def _is_remote(self) -> bool:
        """Whether another host may write here."""
        from uv_mutex.locking import filesystem

        return not (filesystem.is_local(self._project.root) and filesystem.is_local(self._project.environment))

    def _state(self) -> "_State | None":
        """Everything that decides, now; None if a note can't hold it, or if uv would do its work anew anyway."""
        from uv_mutex.environment import inputs

        if self._call.forces_work:
            return None
        environ, environment = self._environ, self._project.environment
        try:
            lines = inputs.inputs(self._project, self._config_file, environ, reopen=self._is_remote())
        except inputs.BeyondNoteError:
            return None
        lines.append(describe("file", f"{environment}/pyvenv.cfg", environ))
        lines += (describe(PACKAGES, path, environ) for path in _site_packages(environment))
        return self._keys(), lines, "".join(map(self._shorten, _contents(lines, environ)))


def forget(environment: str) -> None:
    """Remove the notes of an environment that something else than uv is about to change. Never fails."""
    folder = f"{environment}/{_FOLDER}"
    try:
        for name in os.listdir(folder):
            if len(name) == 8:  # not a lock's, of an environment below this one
                os.unlink(f"{folder}/{name}")
    except OSError:
        pass


def describe(kind: str, path: str, environ: "Mapping[str, str]") -> str:
    """One line: a kind, what there is to say, and a path or a variable's name.

    The time of the last change is what uv itself goes by, and what an edit can't put back. The other is for file
    systems that make the former up.
    """
    if kind == "env":
        value = environ.get(path)
        return f"env {'-' if value is None else 'x' + value.encode('utf-8', 'surrogateescape').hex()} {path}"
    try:
        answer = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null byte in a garbled note
        return f"{kind} - {path}"
    if kind == "exists":
        return f"{kind} + {path}"
    return f"{kind} {answer.st_ctime_ns}/{answer.st_mtime_ns}/{answer.st_size}/{answer.st_ino} {path}"


def _size(path: str) -> str:
    """The size of a program, which tells its versions apart wherever a host has its copy."""
    try:
        return str(os.stat(path).st_size)
    except OSError:
        return "-"


def _size_and_time(path: str) -> str:
    """The same of an interpreter, whose versions may be of one size; a package gives it one time on all hosts."""
    try:
        answer = os.stat(path)
    except OSError:
        return "-"
    return f"{answer.st_mtime_ns}/{answer.st_size}"


def subfolders(folder: str) -> list[str]:
    """The names of the folders in a folder, but for Python's own."""
    return [name for name in _list(folder) if name != "__pycache__" and os.path.isdir(f"{folder}/{name}")]


def _contents(lines: "Sequence[str]", environ: "Mapping[str, str]") -> "Iterator[str]":
    """A line for each installed distribution, and for each folder that could be a member of the workspace."""
    for line in lines:
        kind, _, rest = line.partition(" ")
        path = rest.partition(" ")[2]
        if kind == PACKAGES:
            for name in _list(path):
                if name.endswith(_DIST_SUFFIXES):
                    yield describe("distribution", f"{path}/{name}", environ) + "\n"
        elif kind == MEMBERS:
            for name in subfolders(path):
                yield f"folder + {path}/{name}\n"


def _machine_settings(environ: "Mapping[str, str]") -> "Iterator[str]":
    """The user's and the system's (crates/uv-dirs/src/lib.rs)."""
    user = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '')}/.config"
    for name in ("uv.toml", ".python-version", ".python-versions"):
        yield f"{user}/uv/{name}"
    for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        yield f"{folder}/uv/uv.toml"
    yield "/etc/uv/uv.toml"


def _changed_since(line: str, ago_ns: int) -> bool:
    """Whether what a line describes changed less than so many nanoseconds ago."""
    import time

    changed = _changed(line)
    return changed is not None and changed > time.time_ns() - ago_ns


def _coarse(line: str) -> bool:
    """Whether the file system seems to count whole seconds."""
    changed = _changed(line)
    return changed is not None and changed % 1_000_000_000 == 0


def _changed(line: str) -> int | None:
    said = line.split(" ", 2)[1].split("/")
    return int(said[0]) if len(said) > 1 else None


def _unequal(line: str) -> str:
    kind, _, path = line.split(" ", 2)
    return f"{kind} ? {path}"


def _site_packages(environment: str) -> "Iterator[str]":
    lib = f"{environment}/lib"
    for name in _list(lib):
        path = f"{lib}/{name}/site-packages"
        if os.path.isdir(path):
            yield path


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _replace(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        os.replace(temporary, path)
    except (OSError, ValueError):  # ValueError: half a surrogate pair, which no path has
        try:
            os.unlink(temporary)
        except OSError:
            pass
