"""Programs from the package index that start uv, each in an environment of its own that outlives the tests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from filelock import FileLock

from support import need
from support.download import download
from support.uvs import cache, uv


def tool(package: str) -> Path:
    """The folder of a package's programs, installed first where the cache lacks it."""
    place = cache() / f"tool-{package}"
    with FileLock(place.with_suffix(".lock")):
        if not (place / "done").exists():
            shutil.rmtree(place, ignore_errors=True)
            binary = str(uv("newest"))
            for words in (
                ["venv", "--python", os.path.realpath(sys.executable), str(place)],
                ["pip", "install", "--python", str(place), package],
            ):
                done = download([binary, *words])
                need.that(done.returncode == 0, f"needs {package} from the package index: {done.stderr[-2000:]}")
            (place / "done").touch()
    return place / "bin"
