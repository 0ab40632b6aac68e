"""The project that the bench works on, and the ways to call uv on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from support import need
from support.index import LocalIndex
from support.project import Project
from support.shim import Shim, install_shim
from support.uvs import uv
from support.wheels import make_wheel, slow_backend

#: What people write today (uv issue 12751 and others): lock, sync, then run without a sync.
_FLOCK_WRAPPER = """#!/bin/sh
shift
flock .lock uv sync --quiet --inexact && exec uv run --no-sync "$@"
"""
#: As many packages as jupyter brings (uv issue 12751), with as many files: 12 000.
_PACKAGES, _SMALL = 100, 10
_GLOB = '[tool.uv]\ncache-keys = [{ file = "pyproject.toml" }, { file = "src/**/*.c" }]\n'
_GLOBBED_FILES = 100


@dataclass(frozen=True)
class Way:
    """One way to call uv: a program, and the environment to call it in."""

    name: str
    program: str
    env: dict[str, str]

    def command(self, *words: str) -> list[str]:
        """The whole command line for the words after `uv`."""
        return [self.program, *words]


class Workload:
    """A project and a local index; a context, in which that project is the place to be."""

    def __init__(self, folder: Path, *, is_small: bool = False) -> None:
        """
        :param folder: an empty folder for all of it.
        :param is_small: make a project of ten packages in place of a hundred.
        """
        self.folder = folder
        self.index = LocalIndex(folder / "index")
        self.packages = [f"package{number}" for number in range(_SMALL if is_small else _PACKAGES)]
        self.extra = "extra-package"
        for name in (*self.packages, self.extra):
            make_wheel(self.index.folder, name, files=80, data_files=40)
        self.shim = Shim(folder / "prefix")
        install_shim(self.shim.prefix)
        self.project = self._make_project("project")

    def __enter__(self) -> Workload:
        self._before = os.getcwd()
        os.chdir(self.project.root)
        return self

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)
        self.index.close()

    def _make_project(self, name: str, *, extra_toml: str = "", backend_source: str | None = None) -> Project:
        return Project.make(
            self.folder / name,
            dependencies=self.packages,
            index_url=self.index.url,
            extra_toml=extra_toml,
            backend_source=backend_source,
            shim=lambda: self.shim,
        )

    def ways(self, version: str) -> dict[str, Way]:
        """The ways to call this version of uv, by name."""
        bare = self.project.env(version, False)
        return {
            "bare": Way("bare", str(uv(version)), bare),
            "shim": self.way_by(self.shim.uv, version),
            "flock": Way("flock wrapper", self._flock, bare),
        }

    def way_by(self, launcher: Path, version: str = "newest") -> Way:
        """The way to call this version of uv by a launcher."""
        env = self.project.env(version, False)
        return Way("uv-mutex", str(launcher), {**env, "PATH": f"{launcher.parent}:{env['PATH']}"})

    def python_launcher(self, python: str) -> Path:
        """Install a prefix with the Python launcher for this Python; return where that lies."""
        return install_shim(self.folder / f"prefix-{os.urandom(4).hex()}", "python", python)

    def replace_launcher(self, launcher: Path) -> Path:
        """Make a copy of the prefix with another launcher in it; return where that lies."""
        shim = Shim(self.folder / f"prefix-{launcher.name}")
        shutil.copytree(self.shim.prefix, shim.prefix, symlinks=True)
        shim.uv.unlink()
        shutil.copy(launcher, shim.uv)
        return shim.uv

    @cached_property
    def _flock(self) -> str:
        need.executable("flock")
        path = self.folder / "flock-wrapper"
        path.write_text(_FLOCK_WRAPPER)
        path.chmod(0o755)
        return str(path)

    @contextlib.contextmanager
    def inside(self, project: Project) -> Iterator[None]:
        """Work on another project, which is removed in the end."""
        usual, self.project = self.project, project
        os.chdir(project.root)
        try:
            yield
        finally:
            self.project = usual
            os.chdir(usual.root)
            shutil.rmtree(project.root)

    def make_globbed(self) -> Project:
        """Make a project that is installed itself, and whose cache keys are a glob that matches a hundred files."""
        project = self._make_project("globbed", extra_toml=_GLOB, backend_source=slow_backend(0))
        for number in range(_GLOBBED_FILES):
            file = project.root / f"src/part{number % 10}/{number}.c"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return project

    def clone(self) -> Project:
        """Make a project of what a repository holds: pyproject.toml and uv.lock."""
        if not (self.project.root / "uv.lock").exists():
            subprocess.run([uv("newest"), "lock", "--quiet"], env=self.project.env("newest", False), check=True)
        root = self.folder / f"clone-{os.urandom(4).hex()}"
        root.mkdir()
        for name in ("pyproject.toml", "uv.lock"):
            shutil.copy(self.project.root / name, root)
        return Project(root, self.project.name, self.project.python, self.project.shim)

    def make_env_files(self, count: int) -> list[str]:
        """Write files of variables, each with a value of its own."""
        paths = [self.folder / f"{number}.env" for number in range(count)]
        for path in paths:
            path.write_text(f"TASK={path.stem}\n")
        return list(map(str, paths))

    def forget_environment(self) -> None:
        """Remove what a first call makes; the cache stays warm."""
        shutil.rmtree(self.project.venv, ignore_errors=True)
        if self.project.venv.exists():
            raise OSError(f"cannot remove {self.project.venv}")

    def spawn_quietly(self, command: list[str], env: dict[str, str]) -> int:
        """Start a command with its output thrown away, at the least cost to this process; return its pid."""
        null = os.devnull
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, null, os.O_WRONLY, 0),
        ]
        return os.posix_spawn(command[0], command, env, file_actions=actions)
