"""What installations made in a prefix, and its list of that, so that no other file is ever removed."""

import fcntl
import os
import py_compile
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from py_compile import PycInvalidationMode

SHARE = Path("lib/uv-mutex")
MANIFEST = SHARE / "manifest"
#: A call in flight, which may be waiting for a lock, is thought to need its library no longer than this.
_GRACE_SECONDS = 24 * 3600


def read_manifest(prefix: Path) -> list[str]:
    """Every path that was made.

    :raises OSError: if nothing is installed there.
    """
    text = (prefix / MANIFEST).read_bytes().decode("utf-8", "surrogateescape")
    return [line for line in text.split("\n") if line]


@contextmanager
def updating(prefix: Path) -> "Iterator[Manifest]":
    """Let one installation at a time work on a prefix, where the file system has locks."""
    manifest = Manifest(prefix)
    folders = manifest.folder(prefix / SHARE)
    fd = os.open(prefix / SHARE, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            pass
        manifest.begin(folders)
        yield manifest
    finally:
        os.close(fd)


class Manifest:
    """What installations made in a prefix. Each file appears whole or not at all.

    Paths are noted relative to the prefix, which may be moved; of folders above it, the whole path.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self._names: dict[str, None] = {}

    def begin(self, folders: list[str]) -> None:
        """Read what was made before, and add these folders."""
        try:
            names = read_manifest(self.prefix)
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
        target = self.prefix / compiled(module)
        py_compile.compile(
            str(self.prefix / module),
            cfile=str(target),
            doraise=True,
            optimize=0,
            invalidation_mode=mode,
        )
        target.chmod(0o644)

    def forget_libraries(self, keep: set[str]) -> None:
        """Remove the libraries that were replaced more than a day ago, but nothing of these names."""
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
        self.file(MANIFEST, "".join(f"{name}\n" for name in self._names).encode("utf-8", "surrogateescape"))


def compiled(module: Path) -> Path:
    return module.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"


def remove(paths: Iterable[Path]) -> None:
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
