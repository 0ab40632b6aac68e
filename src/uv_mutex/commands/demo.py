"""`uv-mutex demo`: run many uv calls at once on a new project, without the shim and with it, and compare."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from uv_mutex.errors import MutexError
from uv_mutex.setup.install import install
from uv_mutex.uv import executable

#: Small packages in pure Python without dependencies of their own, so that each one counted was added by a call.
_PACKAGES = ("attrs", "certifi", "click", "filelock", "idna", "iniconfig", "packaging", "pluggy", "six", "tomlkit")
_RUNS = 20
#: The variables that make uv, or the shim, work on another project or in another way.
_UNWANTED = """VIRTUAL_ENV UV_PROJECT UV_PROJECT_ENVIRONMENT UV_WORKING_DIR UV_WORKING_DIRECTORY UV_FROZEN UV_LOCKED
    UV_NO_SYNC UV_NO_PROJECT UV_ISOLATED UV_MUTEX UV_MUTEX_TIMEOUT UV_MUTEX_LOG""".split()
_PROJECT = '[project]\nname = "demo"\nversion = "0"\nrequires-python = ">=3.9"\ndependencies = ["six"]\n'


class Result(NamedTuple):
    """The result of one herd: ``worked`` of ``wanted`` calls worked, in ``seconds``."""

    worked: int
    wanted: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.worked} of {self.wanted}, {self.seconds:.1f} s"


def demo() -> bool:
    """Run both herds without and with the shim, and print a table; return whether all calls worked with the shim.

    :raises MutexError: if there is no real uv, or if it can't create an environment here even alone.
    """
    bare = executable.find(os.environ)
    with tempfile.TemporaryDirectory(prefix="uv-mutex-demo-") as folder:
        shim = str(_shim(Path(folder)))
        _once(bare, Path(folder))
        rows = (
            (f"{_RUNS} parallel `uv run`, no .venv: how many worked", _run_herd),
            (f"{len(_PACKAGES)} parallel `uv add`: how many stayed", _add_herd),
        )
        version = subprocess.run([bare, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        print(f"{version}: {bare}\n")
        print(f"{'':52}{'without uv-mutex':20}with uv-mutex")
        kept = True
        for title, herd in rows:
            print(f"{title:52}", end="", flush=True)
            print(f"{herd(bare, Path(folder))!s:20}", end="", flush=True)
            result = herd(shim, Path(folder))
            print(result)
            kept = kept and result.worked == result.wanted
    print(f"\nResult: with uv-mutex {'all calls worked and all packages stayed' if kept else 'something was LOST'}.")
    return kept


def _shim(folder: Path) -> Path:
    """The shim that was installed together with this command; if there is none, install one."""
    beside = Path(sys.argv[0]).absolute().parent / "uv"
    return beside if beside.exists() and executable.is_shim(str(beside)) else install(folder / "prefix") / "uv"


def _project(folder: Path) -> Path:
    """Create the project anew; return its root."""
    root = folder / "project"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    (root / "pyproject.toml").write_text(_PROJECT)
    return root


def _once(uv: str, folder: Path) -> None:
    """Run one call alone, since where this fails the herds prove nothing.

    :raises MutexError: if it fails.
    """
    done = subprocess.run(
        [uv, "sync"], cwd=_project(folder), env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MutexError(
            f"`uv sync` alone fails here, so there is nothing to show: {done.stderr.strip()}; "
            "mend that, and run the demo again"
        )


def _run_herd(uv: str, folder: Path) -> Result:
    """Many `uv run` on a project without an environment: how many exit with 0."""
    began = time.monotonic()
    statuses = _herd(_project(folder), [[uv, "run", "python", "-c", "import six"]] * _RUNS)
    return Result(statuses.count(0), _RUNS, time.monotonic() - began)


def _add_herd(uv: str, folder: Path) -> Result:
    """Many `uv add`: how many packages stand in pyproject.toml and uv.lock at the end."""
    root = _project(folder)
    began = time.monotonic()
    _herd(root, [[uv, "add", package] for package in _PACKAGES])
    seconds = time.monotonic() - began
    declared = set(re.findall(r'"([a-z]+)[^"]*"', (root / "pyproject.toml").read_text()))
    locked = set(re.findall(r'^name = "([a-z]+)"$', (root / "uv.lock").read_text(), re.MULTILINE))
    return Result(len(declared & locked & set(_PACKAGES)), len(_PACKAGES), seconds)


def _herd(root: Path, commands: Sequence[Sequence[str]]) -> list[int]:
    """Start all commands at once in a folder; return their exit statuses."""
    quiet = subprocess.DEVNULL
    calls = [
        subprocess.Popen(command, cwd=root, env=_environment(), stdin=quiet, stdout=quiet, stderr=quiet)
        for command in commands
    ]
    return [call.wait() for call in calls]


def _environment() -> dict[str, str]:
    """The variables of this process, without the unwanted ones."""
    return {name: value for name, value in os.environ.items() if name not in _UNWANTED}
