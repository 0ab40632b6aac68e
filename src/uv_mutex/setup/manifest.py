"""Write files into a prefix, and list them in a manifest, so that uninstall removes these files and no others."""

import fcntl
import os
import py_compile
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from py_compile import PycInvalidationMode

from uv_mutex import files

SHARE = Path("lib/uv-mutex")
MANIFEST = SHARE / "manifest"
#: How long to keep a library that was replaced, for calls that still run with it, in seconds.
_GRACE_SECONDS = 24 * 3600


def read_manifest(prefix: Path) -> list[str]:
    """The paths that were created, as the manifest of a prefix lists them.

    :raises OSError: if nothing is installed there.
    """
    text = (prefix / MANIFEST).read_bytes().decode("utf-8", "surrogateescape")
    return [line for line in text.split("\n") if line]


@contextmanager
def updating(prefix: Path) -> "Iterator[Manifest]":
    """Yield the manifest of a prefix. Another installation waits, if the file system has locks.

    :param prefix: the prefix; it is created if it does not exist.
    :raises OSError: if it can't be created.
    """
    manifest = Manifest(prefix)
    folders = manifest.make_folder(prefix / SHARE)
    fd = os.open(prefix / SHARE, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            pass
        manifest.load(folders)
        yield manifest
    finally:
        os.close(fd)


class Manifest:
    """The paths that installations created in a prefix.

    They are relative to the prefix, which may be moved. The folders above it are absolute.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self._names: dict[str, None] = {}

    def load(self, folders: list[str]) -> None:
        """Read the manifest that earlier installations wrote, and add folders that are new."""
        try:
            names = read_manifest(self.prefix)
        except FileNotFoundError:
            names = []
        self._names = dict.fromkeys([*names, *folders])

    def plan(self, files: Iterable[Path]) -> None:
        """Add files and the folders that they need, and write the manifest. Create the folders, but not the files."""
        for name in files:
            self._names.update(dict.fromkeys(self.make_folder(self.prefix / name.parent)))
            self._names[str(name)] = None
        self._write_manifest()

    def make_folder(self, folder: Path) -> list[str]:
        """Create a folder and those above it; return the new ones, as the manifest lists them."""
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            path.mkdir(0o755, exist_ok=True)  # whatever the umask is: others may never write here
            if path.is_relative_to(self.prefix):
                # But all may read: a shell skips a folder on PATH that its user may not enter, without a word.
                path.chmod(0o755)
        return [
            os.path.relpath(path, self.prefix) if path.is_relative_to(self.prefix) else str(path) for path in missing
        ]

    def write_file(self, name: Path, content: bytes, *, mode: int = 0o644) -> None:
        """Write a file in one step: others see the old file or the new one.

        :param name: the path in the prefix.
        :param content: what to write.
        :param mode: its permissions.
        :raises OSError: if it can't be written.
        """
        path = self.prefix / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            files.create_private(str(temporary), content)
            temporary.chmod(mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def compile_module(self, module: Path, mode: PycInvalidationMode = PycInvalidationMode.UNCHECKED_HASH) -> None:
        """Compile a module to bytecode. By default, Python then never compares it with the source."""
        target = self.prefix / compiled(module)
        py_compile.compile(
            str(self.prefix / module),
            cfile=str(target),
            doraise=True,
            optimize=0,
            invalidation_mode=mode,
        )
        target.chmod(0o644)

    def remove_old_libraries(self, keep: set[str]) -> None:
        """Remove the libraries that were replaced more than a day ago.

        :param keep: names in lib/uv-mutex that stay.
        """
        share = len(SHARE.parts)
        now = time.time()
        gone = []
        for name in self._names:
            parts = Path(name).parts
            if parts[:share] != SHARE.parts or len(parts) == share or parts[share] in keep:
                continue
            library = self.prefix.joinpath(*parts[: share + 1])
            if not library.is_dir() or now - library.stat().st_mtime > _GRACE_SECONDS:
                gone.append(name)
        remove(self.prefix / name for name in gone)
        for name in gone:
            del self._names[name]
        self._write_manifest()

    def _write_manifest(self) -> None:
        self._names[str(MANIFEST)] = None
        self.write_file(MANIFEST, "".join(f"{name}\n" for name in self._names).encode("utf-8", "surrogateescape"))


def compiled(module: Path) -> Path:
    """The path of the bytecode of a module."""
    return module.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"


def remove(paths: Iterable[Path]) -> None:
    """Remove files, all bytecode that was made from them, and the folders that are empty then.

    :raises OSError: if something can't be removed.
    """
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
