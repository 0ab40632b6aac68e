"""Install the shim into a prefix that needs nothing else, and take it away again.

    PREFIX/bin/uv                      the launcher
    PREFIX/bin/uv-mutex                the command
    PREFIX/share/man/man1/uv-mutex.1   its manual page
    PREFIX/lib/uv-mutex/TAG/           uv_mutex and the libraries it needs; TAG names their content
    PREFIX/lib/uv-mutex/path.sh        what profiles read; and python/, for PYTHONPATH: their places don't change
    PREFIX/lib/uv-mutex/manifest       every path that was made, so that no other is removed

A call in flight keeps the library that it started with: an upgrade writes a new TAG, then replaces the launcher in
one step, and leaves the old TAG for a day.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from py_compile import PycInvalidationMode

from uv_mutex.errors import MutexError
from uv_mutex.setup.manifest import MANIFEST, SHARE, Manifest, compiled, read_manifest, remove, updating
from uv_mutex.uv import executable

DEFAULT_PREFIX = Path("~/.local/share/uv-mutex")
_LIBRARIES = ("filelock", "packaging")
#: Files of hooks/ with a place that others name.
_NAMED = {
    "path.sh": SHARE / "path.sh",
    **{name: SHARE / "python" / name for name in ("sitecustomize.py", "uv_mutex_first.py", "uv-mutex.pth")},
}
_DOOR, _COMMAND = Path("bin/uv"), Path("bin/uv-mutex")
_MANUAL = Path("share/man/man1/uv-mutex.1")
_COMMAND_MARKER = b"uv-mutex command of this prefix"
_PLACEHOLDER = "@LIBRARY@"
#: Kernels before Linux 5.1 cut the first line of a script here; newer ones at 255.
_SHEBANG_BYTES = 127


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
        with updating(prefix) as manifest:
            _install(manifest, shebang)
    except OSError as error:
        raise MutexError(
            f"cannot install to {error.filename or prefix}: {error.strerror}; choose another --prefix"
        ) from None
    return prefix / "bin"


def uninstall(prefix: Path) -> None:
    """Remove what :func:`install` made in this prefix, and nothing else.

    :raises MutexError: if nothing is installed there, or something can't be removed.
    """
    prefix = absolute(prefix)
    try:
        names = read_manifest(prefix)
    except OSError as error:
        raise MutexError(
            f"nothing is installed in {prefix}: {prefix / MANIFEST}: {error.strerror}; name its --prefix"
        ) from None
    # The door first: from then on calls find the real uv. A foreign program may have taken its place since.
    programs = (str(_DOOR), str(_COMMAND))
    ours = [name for name in programs if _is_ours(prefix / name)]
    # The manifest last, so that a removal that breaks off can be taken up again.
    others = [name for name in names if name not in (*programs, str(MANIFEST))]
    try:
        remove(prefix / name for name in (*ours, *others, str(MANIFEST)))
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
    head = executable.first_bytes(str(program))
    return head.startswith(b"#!") and any(marker in head for marker in (*executable.LAUNCHER_MARKERS, _COMMAND_MARKER))


def _install(manifest: Manifest, shebang: str) -> None:
    files = dict(_library_files())
    library = SHARE / _tag(files)
    replaced = _library_of(manifest.prefix / _DOOR)
    modules = [library / name for name in files if name.endswith(".py")]
    # Noted before anything is made: an installation that breaks off can still be removed.
    named = [name for name in _NAMED.values() if name.suffix == ".py"]
    planned = [*(library / name for name in files), *map(compiled, modules)]
    manifest.plan([*planned, *_NAMED.values(), *map(compiled, named), _MANUAL, _COMMAND, _DOOR])
    for name, source in files.items():
        manifest.file(library / name, source.read_bytes())
    for name, place in _NAMED.items():
        manifest.file(place, (_hooks() / name).read_bytes())
    for module in modules:
        manifest.compile(module)
    for module in named:
        manifest.compile(module, PycInvalidationMode.CHECKED_HASH)  # a next version has the same place
    manifest.file(_MANUAL, (_hooks() / _MANUAL.name).read_bytes())
    # The command first: it shows that the interpreter starts before any call of uv depends on it.
    for program in (_COMMAND, _DOOR):
        _, _, body = (_hooks() / program.name).read_text(encoding="utf-8").partition("\n")
        text = f"{shebang}\n{body.replace(_PLACEHOLDER, str(library))}"
        manifest.file(program, text.encode("utf-8", "surrogateescape"), mode=0o755)
        if program is _COMMAND:
            _try(manifest.prefix / program)
    if replaced and replaced != library.name:
        _touch(manifest.prefix / SHARE / replaced)
    lasting = {name.parts[len(SHARE.parts)] for name in (MANIFEST, *_NAMED.values())}
    manifest.forget_libraries({library.name, *lasting})


def _library_files() -> Iterator[tuple[str, Path]]:
    """What goes into a library folder: its name there, and the file."""
    package = _package()
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


def _package() -> Path:
    return Path(__file__).parents[1]


def _hooks() -> Path:
    package = _package()
    inside = package / "hooks"
    return inside if inside.is_dir() else package.parents[1] / "hooks"


def _tag(files: dict[str, Path]) -> str:
    digest = hashlib.sha256(sys.implementation.cache_tag.encode())
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _interpreter() -> str:
    """This interpreter, or the one that its virtual environment stands on, which outlives it."""
    if sys.prefix == sys.base_prefix:
        return sys.executable
    base: str | None = getattr(sys, "_base_executable", None)
    return base if base and os.access(base, os.X_OK) else os.path.realpath(sys.executable)


def _shebang(python: str) -> str:
    for path in (python, os.path.realpath(python)):
        line = f"#!{path} -ISXutf8"
        if " " in path or "\t" in path:  # a `#!` line knows no quotes, but env reads them
            quoted = "".join(f"\\{char}" if char in '\\"$' else char for char in path)
            line = f'#!/usr/bin/env -S "{quoted}" -ISXutf8'
        if "\n" not in line and len(os.fsencode(line)) <= _SHEBANG_BYTES:
            return line
    raise MutexError(f"the path of {python} does not fit in a script's first line; install with another Python")


def _try(command: Path) -> None:
    done = subprocess.run([command, "--version"], capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise MutexError(f"{command} does not start: {last}; install with another Python")


def _library_of(door: Path) -> str | None:
    """The tag of the library that an installed launcher uses."""
    for line in executable.first_bytes(str(door)).decode("utf-8", "replace").splitlines():
        if line.startswith("LIBRARY = "):
            return Path(line.partition('"')[2].rstrip('"')).name
    return None


def _touch(library: Path) -> None:
    try:
        os.utime(library)  # its last day begins
    except FileNotFoundError:
        pass
