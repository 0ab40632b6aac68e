"""The shim, installed from the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SOURCES = Path(__file__).parents[2] / "src"
LAUNCHERS = ("native", "python")


@dataclass(frozen=True)
class Shim:
    """Where the shim is installed."""

    prefix: Path

    @property
    def bin(self) -> Path:
        """The folder for PATH."""
        return self.prefix / "bin"

    @property
    def uv(self) -> Path:
        """The shim itself."""
        return self.bin / "uv"

    @property
    def library(self) -> Path:
        """The folder of its Python side."""
        return next(self.prefix.glob("lib/uv-mutex/*/uv_mutex")).parent

    def is_called_by(self, words: Iterable[str]) -> bool:
        """Whether a process of these words is a call of the shim (a launcher, or the Python side of the native one)."""
        programs = (str(self.uv), str(self.bin / "uv-mutex"))
        library = f"{self.prefix}/lib/uv-mutex/"
        return any(word in programs or (word.startswith(library) and word.endswith("/launcher")) for word in words)


def install_shim(prefix: Path, launcher: str = "", python: str = sys.executable) -> Path:
    """Run `uv-mutex install` and return the installed uv.

    :param prefix: the folder to install to.
    :param launcher: which launcher to install; by default the one that `install` chooses.
    :param python: the Python that installs it, and that it will use.
    """
    # What uv-mutex needs is pure Python, and serves another one as well.
    path = f"{_SOURCES}:{sysconfig.get_path('purelib')}" if python != sys.executable else str(_SOURCES)
    done = subprocess.run(
        [python, "-m", "uv_mutex", "install", "--prefix", str(prefix)],
        env={**os.environ, "PYTHONPATH": path, "UV_MUTEX_LAUNCHER": launcher},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"uv-mutex install failed:\n{done.stdout}{done.stderr}"
    shim = Shim(prefix).uv
    assert os.access(shim, os.X_OK), f"uv-mutex install made no {shim}"
    return shim
