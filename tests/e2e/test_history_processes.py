"""The history when many calls write it, and when the disk is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.disk import small_disk
from support.history import add, file

from uv_mutex.locking.lock_file import LockFile
from uv_mutex.records import history

_SOURCES = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """A lock whose folder is there."""
    (tmp_path / ".uv-mutex").mkdir()
    return LockFile(str(tmp_path))


def test_silent_on_a_full_disk(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        (disk / ".uv-mutex").mkdir()
        lock = LockFile(str(disk))
        for number in range(1000):
            add(lock, began=number)
        assert file(lock).stat().st_size <= 16384
        assert [call.began for call in history.read(lock)][:3] == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_calls_at_once_lose_none(lock: LockFile) -> None:
    code = (
        f"import sys; sys.path.insert(0, {_SOURCES!r})\n"
        "from uv_mutex.records import history\nfrom uv_mutex.locking.lock_file import LockFile\n"
        "for number in range(60):\n"
        "    history.append(LockFile(sys.argv[2]), sys.argv[3], 1, waited=0, held=0, prepared=False, status=0)\n"
    )
    words = [sys.executable, "-c", code, lock.path, lock.above]
    writers = [subprocess.Popen([*words, f"uv {number}"]) for number in range(6)]
    assert [writer.wait() for writer in writers] == [0] * 6
    commands = [call.command for call in history.read(lock)]
    assert sorted(commands) == sorted(f"uv {number}" for number in range(6) for _ in range(60))
