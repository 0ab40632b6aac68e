"""Install the shim into a prefix that needs nothing else, and take it away again.

    PREFIX/bin/uv                      the front door
    PREFIX/bin/uv-mutex                the command
    PREFIX/share/man/man1/uv-mutex.1   its manual page
    PREFIX/lib/uv-mutex/TAG/           uv_mutex and the libraries it needs; TAG names their content
    PREFIX/lib/uv-mutex/path.sh        what profiles read; and python/, for PYTHONPATH: their places don't change
    PREFIX/lib/uv-mutex/manifest       every path that was made, so that no other is removed

A call in flight keeps the library that it started with: an upgrade writes a new TAG, then replaces the front door in
one step, and leaves the old TAG for a day.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import py_compile
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from py_compile import PycInvalidationMode

from uv_mutex import hot, realuv
from uv_mutex.errors import MutexError

DEFAULT_PREFIX = Path("~/.local/share/uv-mutex")
_LIBRARIES = ("filelock", "packaging")
_SHARE = Path("lib/uv-mutex")
_MANIFEST = _SHARE / "manifest"
#: Files of hooks/ with a place that others name.
_NAMED = {
    "path.sh": _SHARE / "path.sh",
    **{name: _SHARE / "python" / name for name in ("sitecustomize.py", "uv_mutex_first.py", "uv-mutex.pth")},
}
_DOOR, _COMMAND = Path("bin/uv"), Path("bin/uv-mutex")
_MANUAL = Path("share/man/man1/uv-mutex.1")
_COMMAND_MARKER = b"uv-mutex command of this prefix"
_PLACEHOLDER = "@LIBRARY@"
#: Kernels before Linux 5.1 cut the first line of a script here; newer ones at 255.
_SHEBANG_BYTES = 127
#: A call in flight, which may be waiting for a lock, is thought to need its library no longer than this.
_GRACE_SECONDS = 24 * 3600


def install(prefix: Path) -> Path:
    """Install or upgrade; return the folder to put first on PATH.

    :param prefix: where to; made if it isn't there.
    :raises MutexError: if that can't be done. What was installed before then still works.
    """
    prefix = absolute(prefix)
    for name in (_DOOR, _COMMAND):
        if os.path.lexists(prefix / name) and not _is_ours(prefix / name):
            raise MutexError(f"{prefix / name} is not a uv-mutex shim, and is left alone; choose another --prefix")
    shebang = _shebang(_interpreter())
    try:
        with _making(prefix) as made:
            _install(made, shebang)
    except OSError as error:
        where = error.filename or prefix
        raise MutexError(f"cannot install to {where}: {error.strerror}; choose another --prefix") from None
    return prefix / "bin"


def uninstall(prefix: Path) -> None:
    """Remove what :func:`install` made in this prefix, and nothing else.

    :raises MutexError: if nothing is installed there, or something can't be removed.
    """
    prefix = absolute(prefix)
    try:
        names = _read_manifest(prefix)
    except OSError as error:
        manifest = prefix / _MANIFEST
        raise MutexError(f"nothing is installed in {prefix}: {manifest}: {error.strerror}; name its --prefix") from None
    # The door first: from then on calls find the real uv. A foreign program may have taken its place since.
    programs = (str(_DOOR), str(_COMMAND))
    ours = [name for name in programs if _is_ours(prefix / name)]
    # The manifest last, so that a removal that breaks off can be taken up again.
    others = [name for name in names if name not in (*programs, str(_MANIFEST))]
    try:
        _remove(prefix / name for name in (*ours, *others, str(_MANIFEST)))
    except OSError as error:
        raise MutexError(f"cannot remove {error.filename}: {error.strerror}; remove it by hand") from None


def absolute(prefix: Path) -> Path:
    """Where a prefix lies.

    :raises MutexError: if PATH can't hold it.
    """
    try:
        path = os.path.abspath(prefix.expanduser())
    except RuntimeError:
        raise MutexError(f"there is no home folder for {prefix}; name another --prefix") from None
    if ":" in path or "\n" in path:
        raise MutexError(f"PATH cannot hold {path}, which has a colon or a line end in it; choose another --prefix")
    return Path(path)


def _is_ours(program: Path) -> bool:
    """Whether :func:`install` wrote this program, in any version and prefix."""
    head = realuv.first_bytes(str(program))
    return head.startswith(b"#!") and (realuv.MARKER in head or _COMMAND_MARKER in head)


def _install(made: "_Made", shebang: str) -> None:
    files = dict(_library_files())
    library = _SHARE / _tag(files)
    replaced = _library_of(made.prefix / _DOOR)
    modules = [library / name for name in files if name.endswith(".py")]
    hot_modules = library / f"hot.{sys.implementation.cache_tag}"
    # Noted before anything is made: an installation that breaks off can still be removed.
    named = [name for name in _NAMED.values() if name.suffix == ".py"]
    planned = [*(library / name for name in files), *map(_compiled, modules), hot_modules]
    made.plan([*planned, *_NAMED.values(), *map(_compiled, named), _MANUAL, _COMMAND, _DOOR])
    for name, source in files.items():
        made.file(library / name, source.read_bytes())
    for name, place in _NAMED.items():
        made.file(place, (_hooks() / name).read_bytes())
    for module in modules:
        made.compile(module)
    for module in named:
        made.compile(module, PycInvalidationMode.CHECKED_HASH)  # a next version has the same place
    made.file(hot_modules, hot.freeze(Path(__file__).parent))
    made.file(_MANUAL, (_hooks() / _MANUAL.name).read_bytes())
    # The command first: it shows that the interpreter starts before any call of uv depends on it.
    for program in (_COMMAND, _DOOR):
        _, _, body = (_hooks() / program.name).read_text(encoding="utf-8").partition("\n")
        text = f"{shebang}\n{body.replace(_PLACEHOLDER, str(library))}"
        made.file(program, text.encode("utf-8", "surrogateescape"), mode=0o755)
        if program is _COMMAND:
            _try(made.prefix / program)
    if replaced and replaced != library.name:
        _touch(made.prefix / _SHARE / replaced)
    made.forget_libraries(keep=library.name)


def _library_files() -> Iterator[tuple[str, Path]]:
    """What goes into a library folder: its name there, and the file."""
    package = Path(__file__).parent
    yield from _package_files("uv_mutex", package)
    if not (package / "hooks").is_dir():  # a source tree
        yield from _package_files("uv_mutex/hooks", _hooks())
    for name in _LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise MutexError(f"{name} cannot be found; install uv-mutex with its dependencies")
        yield from _package_files(name, Path(spec.origin).parent)
        yield from _licence_files(name)


def _package_files(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{name}/{path.relative_to(folder)}", path


def _licence_files(library: str) -> Iterator[tuple[str, Path]]:
    """The library's metadata, which carries its licence. Linux distributions may keep none."""
    try:
        files = importlib.metadata.distribution(library).files
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files or ():
        path = Path(str(file.locate()))
        if file.parts[0].endswith(".dist-info") and path.is_file():
            yield str(file), path


def _hooks() -> Path:
    package = Path(__file__).parent
    inside = package / "hooks"
    return inside if inside.is_dir() else package.parents[1] / "hooks"


def _tag(files: dict[str, Path]) -> str:
    digest = hashlib.sha256(sys.implementation.cache_tag.encode())
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _compiled(module: Path) -> Path:
    return module.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"


def _interpreter() -> str:
    """This interpreter, or the one that its virtual environment stands on, which outlives it."""
    if sys.prefix == sys.base_prefix:
        return sys.executable
    base: str | None = getattr(sys, "_base_executable", None)
    # Python 3.10 takes the environment's own link for the base.
    usable = base and base != sys.executable and os.access(base, os.X_OK)
    return base if base and usable else os.path.realpath(sys.executable)


def _shebang(python: str) -> str:
    for path in (python, os.path.realpath(python)):
        line = f"#!{path} -ISXutf8"
        if " " in path or "\t" in path:  # a `#!` line knows no quotes, but env reads them
            quoted = "".join(f"\\{char}" if char in '\\"$' else char for char in path)
            line = f'#!/usr/bin/env -S "{quoted}" -ISXutf8'
        if "\n" not in line and (len(os.fsencode(line)) <= _SHEBANG_BYTES or os.uname().sysname != "Linux"):
            return line
    raise MutexError(f"the path of {python} does not fit in a script's first line; install with another Python")


def _try(command: Path) -> None:
    done = subprocess.run([command, "--version"], capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise MutexError(f"{command} does not start: {last}; install with another Python")


def _library_of(door: Path) -> str | None:
    """The tag of the library that an installed front door uses."""
    for line in realuv.first_bytes(str(door)).decode("utf-8", "replace").splitlines():
        if line.startswith("LIBRARY = "):
            return Path(line.partition('"')[2].rstrip('"')).name
    return None


def _touch(library: Path) -> None:
    try:
        os.utime(library)  # its last day begins
    except FileNotFoundError:
        pass


def _read_manifest(prefix: Path) -> list[str]:
    text = (prefix / _MANIFEST).read_bytes().decode("utf-8", "surrogateescape")
    return [line for line in text.split("\n") if line]


@contextmanager
def _making(prefix: Path) -> "Iterator[_Made]":
    """Let one installation at a time work on a prefix, where the file system has locks."""
    made = _Made(prefix)
    folders = made.folder(prefix / _SHARE)
    fd = os.open(prefix / _SHARE, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            pass
        made.begin(folders)
        yield made
    finally:
        os.close(fd)


class _Made:
    """What installations made in a prefix. Each file appears whole or not at all.

    Paths are noted relative to the prefix, which may be moved; of folders above it, the whole path.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self._names: dict[str, None] = {}

    def begin(self, folders: list[str]) -> None:
        """Read what was made before, and add these folders."""
        try:
            names = _read_manifest(self.prefix)
        except FileNotFoundError:
            names = []
        self._names = dict.fromkeys([*names, *folders])

    def plan(self, files: Iterable[Path]) -> None:
        """Note these files and the folders that they need; make the folders."""
        for name in files:
            self._names.update(dict.fromkeys(self.folder(self.prefix / name.parent)))
            self._names[str(name)] = None
        self._write_manifest()

    def folder(self, folder: Path) -> list[str]:
        """Make a folder and those above it; return those that were not there."""
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            if path.is_relative_to(self.prefix):
                # Under a tight umask, others' PATH search would silently pass over the shim.
                path.chmod(0o755)
        return [
            os.path.relpath(path, self.prefix) if path.is_relative_to(self.prefix) else str(path) for path in missing
        ]

    def file(self, name: Path, content: bytes, *, mode: int = 0o644) -> None:
        path = self.prefix / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(content)
            temporary.chmod(mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def compile(self, module: Path, mode: PycInvalidationMode = PycInvalidationMode.UNCHECKED_HASH) -> None:
        """Bytecode that Python takes as it is, by default without a look at the source."""
        compiled = self.prefix / _compiled(module)
        py_compile.compile(
            str(self.prefix / module),
            cfile=str(compiled),
            doraise=True,
            optimize=0,
            invalidation_mode=mode,
        )
        compiled.chmod(0o644)

    def forget_libraries(self, keep: str) -> None:
        """Remove the libraries that were replaced more than a day ago."""
        share = len(_SHARE.parts)
        others = {keep, _MANIFEST.name, *(place.parts[share] for place in _NAMED.values())}
        now = time.time()
        gone = []
        for name in self._names:
            parts = Path(name).parts
            if parts[:share] != _SHARE.parts or len(parts) == share or parts[share] in others:
                continue
            library = self.prefix.joinpath(*parts[: share + 1])
            if not library.is_dir() or now - library.stat().st_mtime > _GRACE_SECONDS:
                gone.append(name)
        _remove(self.prefix / name for name in gone)
        for name in gone:
            del self._names[name]
        self._write_manifest()

    def _write_manifest(self) -> None:
        self._names[str(_MANIFEST)] = None
        self.file(_MANIFEST, "".join(f"{name}\n" for name in self._names).encode("utf-8", "surrogateescape"))


def _remove(paths: Iterable[Path]) -> None:
    """Remove these files, with all bytecode made from them, and those of these folders that are empty then."""
    paths = list(paths)
    for path in paths:
        if path.suffix == ".py":
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
                compiled.unlink(missing_ok=True)
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)
    for path in sorted(paths, key=lambda path: len(path.parts), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
