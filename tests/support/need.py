"""What a test needs of the machine. A laptop may lack it and skips; CI must have it and fails."""

from __future__ import annotations

import os
import shutil

import pytest


def executable(name: str) -> str:
    """The path of a program on PATH."""
    return shutil.which(name) or _lacking(f"needs {name}")


def root() -> None:
    """The rights of root."""
    if os.geteuid() != 0:
        _lacking("needs root")


def terminal() -> tuple[int, int]:
    """A new pseudo-terminal: the descriptors of its keyboard's side and of the side that programs see."""
    try:
        return os.openpty()
    except OSError as error:
        _lacking(f"needs a pseudo-terminal ({error}; is /dev/pts mounted?)")
        raise


def that(met: bool, reason: str) -> None:
    """Anything else."""
    if not met:
        _lacking(reason)


def _lacking(reason: str) -> str:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI must not skip")
    pytest.skip(reason)
