"""Users without root's rights, and a shim that they can run: the Python of the tests may lie in root's home."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import filelock

ROOT, ALICE, BOB, GROUP = 0, 61001, 61002, 61000
SOURCES = Path(__file__).parents[2] / "src"


def acting_as(user: int, words: Sequence[str], umask: str = "022") -> list[str]:
    """A command line that runs another as a user of the group, or as root."""
    identity = ["setpriv", f"--reuid={user}", f"--regid={GROUP}", "--clear-groups"] if user else []
    return [*identity, "sh", "-c", 'umask "$0" && exec "$@"', umask, *words]


def everybodys_python() -> str:
    """An interpreter that everybody may use."""
    for candidate in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        # By way of sh: setpriv itself still has root's rights when it starts its command.
        probe = ["sh", "-c", 'exec "$0" -c "import sys; sys.exit(sys.version_info < (3, 11))"', candidate]
        works = ["setpriv", f"--reuid={BOB}", "--clear-groups", *probe]
        if not subprocess.run(works, capture_output=True, check=False).returncode:
            return candidate
    raise AssertionError("no Python that everybody may use")


def install_for_everybody(prefix: Path) -> None:
    """Install the shim with that interpreter."""
    command = [everybodys_python(), "-m", "uv_mutex", "install", "--prefix", str(prefix)]
    paths = f"{SOURCES}:{Path(filelock.__file__).parents[1]}"
    env = {"PYTHONPATH": paths, "HOME": str(prefix.parent)}
    subprocess.run(command, env=env, check=True, capture_output=True)
