"""The project that the bench works on, and the ways to call uv on it."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from support.index import LocalIndex
from support.project import Project
from support.shim import Shim, install_shim
from support.uvs import uv
from support.wheels import make_wheel

from uv_mutex.setup.launcher import interpreter_of

#: What people write today (uv issue 12751 and others): lock, sync, then run without a sync.
_FLOCK_WRAPPER = """#!/bin/sh
shift
flock .lock uv sync --quiet --inexact && exec uv run --no-sync "$@"
"""
#: The same in plain Python.
_PYTHON_WRAPPER = """#!{python}
import os, subprocess, sys
from filelock import FileLock
with FileLock(".lock"):
    subprocess.run(["uv", "sync", "--quiet", "--inexact"], check=True)
os.execvp("uv", ["uv", "run", "--no-sync", *sys.argv[2:]])
"""
#: What no shim in Python can beat.
_FLOOR = """#!{python} -ISXutf8
import posix, sys
posix.execv({uv!r}, ["uv", *sys.argv[1:]])
"""
#: As many packages as jupyter brings (uv issue 12751), with as many files: 12 000.
_PACKAGES = 100


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
    """A project of 30 packages and a local index that counts; a context, in which that project is the place to be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.index = LocalIndex(folder / "index")
        names = [f"package{number}" for number in range(_PACKAGES)]
        for name in names:
            make_wheel(self.index.folder, name, files=80, data_files=40)
        self.shim = Shim(folder / "prefix")
        install_shim(self.shim.prefix)
        self.project = Project.make(
            folder / "project", dependencies=names, index_url=self.index.url, shim=lambda: self.shim
        )
        self._flock = self._script("flock-wrapper", _FLOCK_WRAPPER)
        self._plain = self._script("python-wrapper", _PYTHON_WRAPPER.format(python=sys.executable))

    def __enter__(self) -> Workload:
        self._before = os.getcwd()
        os.chdir(self.project.root)
        return self

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)
        self.index.close()

    def _script(self, name: str, text: str) -> str:
        path = self._folder / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def _floor(self, real: str) -> str:
        return self._script(f"floor-{real.replace('/', '-')}", _FLOOR.format(python=self.interpreter, uv=real))

    @property
    def interpreter(self) -> str:
        """The interpreter that the launcher starts."""
        return interpreter_of(self.shim.prefix)

    def ways(self, version: str) -> dict[str, Way]:
        """The ways to call this version of uv, by name."""
        bare, shimmed = self.project.env(version, False), self.project.env(version)
        return {
            "bare": Way("bare uv", str(uv(version)), bare),
            "shim": Way("uv-mutex", str(self.shim.uv), shimmed),
            "flock": Way("flock wrapper", self._flock, bare),
            "python": Way("Python wrapper", self._plain, bare),
            "floor": Way("a Python that only execs uv", self._floor(str(uv(version))), bare),
        }

    def forget_environment(self) -> None:
        """Remove what a first call makes; the cache stays warm."""
        shutil.rmtree(self.project.venv, ignore_errors=True)
        if self.project.venv.exists():
            raise OSError(f"cannot remove {self.project.venv}")

    def forget_cache(self) -> None:
        """Remove what was downloaded."""
        shutil.rmtree(self.project.env("newest", False)["UV_CACHE_DIR"], ignore_errors=True)

    def spawn_quietly(self, command: list[str], env: dict[str, str]) -> int:
        """Start a command with its output thrown away, at the least cost to this process; return its pid."""
        null = os.devnull
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, null, os.O_WRONLY, 0),
        ]
        return os.posix_spawn(command[0], command, env, file_actions=actions)
