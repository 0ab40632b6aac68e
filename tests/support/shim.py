"""The shim, installed from the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_SOURCES = Path(__file__).parents[2] / "src"


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


def install_shim(prefix: Path) -> Path:
    """Run `uv-mutex install` and return the installed uv."""
    done = subprocess.run(
        [sys.executable, "-m", "uv_mutex", "install", "--prefix", str(prefix)],
        env={**os.environ, "PYTHONPATH": str(_SOURCES)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"uv-mutex install failed:\n{done.stdout}{done.stderr}"
    shim = Shim(prefix).uv
    assert os.access(shim, os.X_OK), f"uv-mutex install made no {shim}"
    return shim
