"""Install the shim into a prefix that needs nothing else, and take it away again.

    PREFIX/bin/uv                      the front door
    PREFIX/bin/uv-mutex                the command
    PREFIX/lib/uv-mutex/TAG/           uv_mutex and the libraries it needs; TAG names their content
    PREFIX/lib/uv-mutex/manifest       every path that was made, so that no other is removed

A call in flight keeps the library that it started with: an upgrade writes a new TAG, then replaces the front door in
one step, and leaves the TAG that it replaced.
"""

import hashlib
import importlib.metadata
import os
import py_compile
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from uv_mutex import realuv
from uv_mutex.errors import MutexError

DEFAULT_PREFIX = Path("~/.local/share/uv-mutex")
_LIBRARIES = ("filelock", "packaging")
_SHARE = Path("lib/uv-mutex")
_PLACEHOLDER = "@LIBRARY@"
#: Kernels before Linux 5.1 cut the first line of a script here; newer ones at 255.
_SHEBANG_BYTES = 127


def install(prefix: Path) -> Path:
    """Install or upgrade; return the folder to put first on PATH.

    :param prefix: where to; made if it isn't there.
    :raises MutexError: if that can't be done. What was installed before then still works.
    """
    prefix = Path(os.path.abspath(prefix.expanduser()))
    door = prefix / "bin/uv"
    if os.path.lexists(door) and not realuv.is_shim(str(door)):
        raise MutexError(f"{door} is not a uv-mutex shim, and is left alone; choose another --prefix")
    try:
        _install(prefix)
    except OSError as error:
        where = error.filename or prefix
        raise MutexError(f"cannot install to {where}: {error.strerror}; choose another --prefix") from None
    return prefix / "bin"


def uninstall(prefix: Path) -> None:
    """Remove what :func:`install` made in this prefix, and nothing else.

    :raises MutexError: if nothing is installed there, or something can't be removed.
    """
    prefix = Path(os.path.abspath(prefix.expanduser()))
    manifest = prefix / _SHARE / "manifest"
    try:
        paths = [prefix / line for line in manifest.read_text().splitlines()]
    except OSError as error:
        raise MutexError(f"nothing is installed in {prefix}: {manifest}: {error.strerror}; name its --prefix") from None
    try:
        _remove(paths)
    except OSError as error:
        raise MutexError(f"cannot remove {error.filename}: {error.strerror}; remove it by hand") from None


def _install(prefix: Path) -> None:
    files = dict(_library_files())
    tag = _tag(files)
    library = _SHARE / tag
    made = _Made(prefix)
    replaced = _library_of(prefix / "bin/uv")
    for name, source in files.items():
        made.file(library / name, source.read_bytes())
    for name in files:
        if name.endswith(".py"):
            made.compiled(library / name)
    hooks = _hooks()
    shebang = _shebang(sys.executable if sys.prefix == sys.base_prefix else _base_executable())
    # The command first: it shows that the interpreter starts before any call of uv depends on it.
    for name in ("uv-mutex", "uv"):
        _, _, body = (hooks / name).read_text().partition("\n")
        text = f"{shebang}\n{body.replace(_PLACEHOLDER, str(library))}"
        made.file(Path("bin") / name, text.encode("utf-8", "surrogateescape"), mode=0o755)
        if name == "uv-mutex":
            _try(prefix / "bin" / name)
    _remove([prefix / line for line in made.forget_libraries(keep={tag, replaced})])
    made.write_manifest()


def _library_files() -> Iterator[tuple[str, Path]]:
    """What goes into a library folder: its name there, and the file."""
    package = Path(__file__).parent
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(Path("uv_mutex") / path.relative_to(package)), path
    if not (package / "hooks").is_dir():  # a source tree
        for path in sorted(p for p in _hooks().iterdir() if p.is_file()):
            yield f"uv_mutex/hooks/{path.name}", path
    for name in _LIBRARIES:
        for file in importlib.metadata.distribution(name).files or ():
            path = Path(str(file.locate()))
            if ".." not in file.parts and file.suffix != ".pyc" and path.is_file():
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


def _base_executable() -> str:
    """The interpreter that a virtual environment stands on, which outlives it."""
    base: str | None = getattr(sys, "_base_executable", None)
    return base or os.path.realpath(sys.executable)


def _shebang(python: str) -> str:
    line = f"#!{python} -ISXutf8"
    if any(char.isspace() for char in python):  # a `#!` line knows no quotes, but env reads them
        line = f'#!/usr/bin/env -S "{python}" -ISXutf8'
    if len(os.fsencode(line)) > _SHEBANG_BYTES and os.uname().sysname == "Linux":
        raise MutexError(f"the path of {python} is too long for a script's first line; install with another Python")
    return line


def _try(command: Path) -> None:
    done = subprocess.run([command, "--version"], capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise MutexError(f"{command} does not start: {last}; install with another Python")


def _library_of(door: Path) -> str | None:
    """The tag of the library that an installed front door uses."""
    try:
        for line in door.read_text(errors="replace").splitlines():
            if line.startswith("LIBRARY = "):
                return Path(line.partition('"')[2].rstrip('"')).name
    except OSError:
        pass
    return None


class _Made:
    """What an installation makes. Each file appears whole or not at all."""

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._manifest = prefix / _SHARE / "manifest"
        try:
            self._paths = dict.fromkeys(self._manifest.read_text().splitlines())
        except OSError:
            self._paths = {}

    def file(self, name: Path, content: bytes, *, mode: int = 0o644) -> None:
        path = self._prefix / name
        self._folder(path.parent)
        self._paths[str(name)] = None
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(content)
            temporary.chmod(mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def compiled(self, name: Path) -> None:
        """Bytecode that Python takes as it is, without a look at the source."""
        path = self._prefix / name
        self._folder(path.parent / "__pycache__")
        target = py_compile.compile(
            str(path), doraise=True, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
        assert target  # doraise
        self._paths[os.path.relpath(target, self._prefix)] = None

    def _folder(self, folder: Path) -> None:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            self._paths[os.path.relpath(path, self._prefix)] = None

    def forget_libraries(self, keep: set[str | None]) -> list[str]:
        """Take all libraries but these off the manifest; return what they consist of."""
        share = _SHARE.parts
        gone = [
            path
            for path in self._paths
            if len(parts := Path(path).parts) > len(share) and parts[: len(share)] == share
            if parts[len(share)] not in keep and parts[len(share)] != "manifest"
        ]
        for path in gone:
            del self._paths[path]
        return gone

    def write_manifest(self) -> None:
        self._paths[str(_SHARE / "manifest")] = None
        self.file(_SHARE / "manifest", "".join(f"{path}\n" for path in self._paths).encode())


def _remove(paths: list[Path]) -> None:
    """Remove these files, and those of these folders that are empty then."""
    for path in paths:
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)
    for path in sorted(paths, key=lambda path: len(path.parts), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
