"""The history of a project, written and found."""

from __future__ import annotations

import os
from pathlib import Path

from uv_mutex.locking.lock_file import LockFile, LockTarget
from uv_mutex.records import history

HOST = os.uname().nodename


def add(lock: LockTarget, command: str = "uv sync", began: float = 5.0, status: int | None = 0) -> None:
    """A call is over."""
    history.append(lock, command, began, waited=1.5, held=0.25, prepared=True, status=status)


def file(lock: LockFile, host: str = HOST) -> Path:
    """A host's history."""
    return Path(lock.path).with_name(f"calls.{host}")
