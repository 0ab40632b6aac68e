"""Unit tests start no process. A test that does belongs in tests/e2e."""

from __future__ import annotations

import os
import subprocess
from typing import NoReturn

import pytest

_WHY = "a unit test starts no process; move this test to tests/e2e"


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each way to start a process fail."""

    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail(_WHY)

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
        monkeypatch.setattr(os, name, refuse)


@pytest.fixture(scope="session")
def shim() -> NoReturn:
    """To install the shim takes a process; a fixture of the session comes before `no_process`."""
    pytest.fail(_WHY)
