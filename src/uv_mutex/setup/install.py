"""Install the shim into a folder, the prefix, that needs no other installed package, and uninstall it.

    PREFIX/bin/uv                      the launcher, native or Python (see setup/launcher.py)
    PREFIX/bin/uv-mutex                the `uv-mutex` command
    PREFIX/share/man/man1/uv-mutex.1   its manual page
    PREFIX/lib/uv-mutex/TAG/           the library: uv_mutex and the packages it needs; TAG is a digest of their content
    PREFIX/lib/uv-mutex/launcher       how the native launcher starts its Python side
    PREFIX/lib/uv-mutex/path.sh        read by shell profiles; its path never changes
    PREFIX/lib/uv-mutex/python/        for PYTHONPATH; its path never changes
    PREFIX/lib/uv-mutex/manifest       every path that was created; uninstall removes these and no others

A call keeps the library that it started with. An upgrade writes a new TAG, then replaces lib/uv-mutex/launcher and the
launcher, each in one step, and removes the old TAG a day later at the earliest.
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
from uv_mutex.setup import launcher
from uv_mutex.setup.launcher import Choice
from uv_mutex.setup.manifest import MANIFEST, SHARE, Manifest, compiled, read_manifest, remove, updating
from uv_mutex.uv import executable

DEFAULT_PREFIX = Path("~/.local/share/uv-mutex")
#: Where root installs it for all users.
PREFIX_FOR_ALL = Path("/opt/uv-mutex")
_LIBRARIES = ("filelock", "packaging")
#: Files of hooks/ that profiles and variables name by path, and their paths in the prefix.
_NAMED = {
    "path.sh": SHARE / "path.sh",
    **{name: SHARE / "python" / name for name in ("sitecustomize.py", "uv_mutex_first.py", "uv-mutex.pth")},
}
_LAUNCHER, _COMMAND = Path("bin/uv"), Path("bin/uv-mutex")
_PROGRAMS = (_COMMAND, _LAUNCHER)
_MANUAL = Path("share/man/man1/uv-mutex.1")
_COMMAND_MARKER = b"uv-mutex command of this prefix"
#: Kernels before Linux 5.1 cut the first line of a script after so many bytes; newer ones after 255.
_SHEBANG_BYTES = 127


def install(prefix: Path) -> Path:
    """Install or upgrade the shim; return the folder to put first on PATH.

    :param prefix: the folder to install to; it is created if it does not exist.
    :raises MutexError: if that is not possible. A shim that was installed before still works then.
    """
    prefix = absolute(prefix)
    for name in (_LAUNCHER, _COMMAND):
        if os.path.lexists(prefix / name) and not is_ours(prefix / name):
            raise MutexError(f"{prefix / name} is not a uv-mutex shim, and is left alone; choose another --prefix")
    python = _interpreter()
    _shebang(python)
    try:
        with launcher.chosen(_package(), prefix) as choice, updating(prefix) as manifest:
            _install(manifest, python, choice)
    except OSError as error:
        raise MutexError(
            f"cannot install to {error.filename or prefix}: {error.strerror}; choose another --prefix"
        ) from None
    return prefix / "bin"


def uninstall(prefix: Path) -> None:
    """Remove what :func:`install` created in a prefix, and nothing else.

    :param prefix: the folder.
    :raises MutexError: if nothing is installed there, or something can't be removed.
    """
    prefix = absolute(prefix)
    try:
        names = read_manifest(prefix)
    except OSError as error:
        raise MutexError(
            f"nothing is installed in {prefix}: {prefix / MANIFEST}: {error.strerror}; name its --prefix"
        ) from None
    # The launcher first: from then on, calls find the real uv. Leave it if another program was put there since.
    programs = (str(_LAUNCHER), str(_COMMAND))
    ours = [name for name in programs if is_ours(prefix / name)]
    # The manifest last, so that another try can go on where this one failed.
    others = [name for name in names if name not in (*programs, str(MANIFEST))]
    try:
        remove(prefix / name for name in (*ours, *others, str(MANIFEST)))
    except OSError as error:
        raise MutexError(f"cannot remove {error.filename}: {error.strerror}; remove it by hand") from None


def absolute(prefix: Path) -> Path:
    """The absolute path of a prefix.

    :param prefix: a path, which may begin with `~`.
    :raises MutexError: if there is no such home folder, or if the path can't stand in PATH.
    """
    try:
        path = os.path.abspath(prefix.expanduser())
    except RuntimeError:
        raise MutexError(f"there is no home folder for {prefix}; name another --prefix") from None
    if ":" in path or "\n" in path:
        raise MutexError(f"PATH cannot hold {path}, which has a colon or a line end in it; choose another --prefix")
    return Path(path)


def is_ours(program: Path) -> bool:
    """Whether :func:`install` wrote this program, of any version and in any prefix."""
    head = executable.first_bytes(str(program))
    return executable.is_shim(str(program)) or (head.startswith(b"#!") and _COMMAND_MARKER in head)


def _install(manifest: Manifest, python: str, choice: Choice) -> None:
    """Write all files.

    :param manifest: of the prefix.
    :param python: the interpreter that runs them.
    :param choice: the launcher.
    """
    files = dict(_library_files())
    if choice.native:  # a prefix can be installed from, too
        files[f"uv_mutex/{choice.name}"] = choice.native
    library = SHARE / _tag(files)
    replaced = _library_of(manifest.prefix)
    modules = [library / name for name in files if name.endswith(".py")]
    named_modules = [path for path in _NAMED.values() if path.suffix == ".py"]
    compiled_files = map(compiled, [*modules, *named_modules])
    # Before any file is written, so that an installation that fails half-way can be removed.
    others = [library / launcher.SCRIPT, launcher.POINTER, *_NAMED.values(), _MANUAL, *_PROGRAMS]
    manifest.plan([*(library / name for name in files), *compiled_files, *others])
    for name, source in files.items():
        manifest.write_file(library / name, source.read_bytes())
    for name, path in _NAMED.items():
        manifest.write_file(path, (_hooks() / name).read_bytes())
    manifest.write_file(_MANUAL, (_hooks() / _MANUAL.name).read_bytes())
    for module in modules:
        manifest.compile_module(module)
    for module in named_modules:
        # Another version writes its source to the same path, so Python must compare.
        manifest.compile_module(module, PycInvalidationMode.CHECKED_HASH)
    _write_programs(manifest, python, library, choice)
    if replaced and replaced != library.name:
        _touch(manifest.prefix / SHARE / replaced)
    lasting = {path.parts[len(SHARE.parts)] for path in (MANIFEST, launcher.POINTER, *_NAMED.values())}
    manifest.remove_old_libraries({library.name, *lasting})


def _write_programs(manifest: Manifest, python: str, library: Path, choice: Choice) -> None:
    """Write the command and the launcher, with the path of the library in them.

    The command first: if its interpreter does not start, no launcher that calls depend on is written.
    """

    def script(name: str, library: str, launcher: str = "") -> bytes:
        _, _, body = (_hooks() / name).read_text(encoding="utf-8").partition("\n")
        text = f"{_shebang(python)}\n{body.replace('@LIBRARY@', library).replace('@LAUNCHER@', launcher)}"
        return text.encode("utf-8", "surrogateescape")

    manifest.write_file(_COMMAND, script("uv-mutex", str(library)), mode=0o755)
    _check_starts(manifest.prefix / _COMMAND)
    manifest.write_file(library / launcher.SCRIPT, script("uv", library.name, f"../../../{_LAUNCHER}"))
    manifest.write_file(launcher.POINTER, launcher.pointer(python, library.name, choice))
    program = choice.native.read_bytes() if choice.native else script("uv", str(library), _LAUNCHER.name)
    manifest.write_file(_LAUNCHER, program, mode=0o755)


def _library_files() -> Iterator[tuple[str, Path]]:
    """The files of a library: the path in the library, and the file to copy.

    :raises MutexError: if a package that uv_mutex needs is not installed.
    """
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
    """The metadata of a package, its licence among them. A Linux distribution may not have them."""
    try:
        files = importlib.metadata.distribution(library).files
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files or ():
        path = Path(str(file.locate()))
        if file.parts[0].endswith(".dist-info") and path.is_file():
            yield str(file), path


def _package() -> Path:
    """The folder of the package uv_mutex."""
    return Path(__file__).parents[1]


def _hooks() -> Path:
    """The folder hooks/: in an installed package, or in a source tree."""
    package = _package()
    inside = package / "hooks"
    return inside if inside.is_dir() else package.parents[1] / "hooks"


def _tag(files: dict[str, Path]) -> str:
    """A digest of a library and of the Python version that compiles it."""
    digest = hashlib.sha256(sys.implementation.cache_tag.encode())
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _interpreter() -> str:
    """The path of this Python; in a virtual environment, of the Python that the environment was made from."""
    if sys.prefix == sys.base_prefix:
        return sys.executable
    base: str | None = getattr(sys, "_base_executable", None)
    return base if base and os.access(base, os.X_OK) else os.path.realpath(sys.executable)


def _shebang(python: str) -> str:
    """The first line of a script for this Python.

    :raises MutexError: if the path is too long for one.
    """
    for path in (python, os.path.realpath(python)):
        line = f"#!{path} {launcher.OPTIONS}"
        if " " in path or "\t" in path:  # a `#!` line has no quotes, but `env -S` reads them
            quoted = "".join(f"\\{char}" if char in '\\"$' else char for char in path)
            line = f'#!/usr/bin/env -S "{quoted}" {launcher.OPTIONS}'
        if "\n" not in line and len(os.fsencode(line)) <= _SHEBANG_BYTES:
            return line
    raise MutexError(f"the path of {python} does not fit in a script's first line; install with another Python")


def _check_starts(command: Path) -> None:
    """Start the command that was just written.

    :raises MutexError: if it fails.
    """
    done = subprocess.run([command, "--version"], capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise MutexError(f"{command} does not start: {last}; install with another Python")


def _library_of(prefix: Path) -> str | None:
    """The tag of the library that calls in a prefix use; None if there is none."""
    for line in executable.first_bytes(str(prefix / _LAUNCHER)).decode("utf-8", "replace").splitlines():
        if line.startswith("LIBRARY = "):
            return Path(line.partition('"')[2].rstrip('"')).name
    return launcher.library_of(prefix) or None


def _touch(library: Path) -> None:
    """Set the time from which :meth:`Manifest.remove_old_libraries` counts."""
    try:
        os.utime(library)
    except FileNotFoundError:
        pass
