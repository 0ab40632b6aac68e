"""The history of a project: a line a call, bounded, silent where it can't be written, and read back over all hosts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from support.history import HOST, add, file

from uv_mutex.locking.lock_file import EnvironmentFolder, LockFile
from uv_mutex.records import history


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """A lock whose folder is there."""
    (tmp_path / ".uv-mutex").mkdir()
    return LockFile(str(tmp_path))


def test_what_is_written_is_read(lock: LockFile, tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    add(lock, "uv run", 7.0, None)
    add(lock, "uv\nadd\tx", 6.0, 130)
    file(lock, "node-3").write_text("6.700\t6.500\t0.000\t0.100\t0\t1\t77\tlock\tuv add\n")
    found = history.read(lock)
    assert [(call.began, call.host, call.command, call.status) for call in found] == [
        (6.0, HOST, "uv add x", 130),
        (6.5, "node-3", "uv add", 1),
        (7.0, HOST, "uv run", None),
    ]
    assert (found[2].waited, found[2].held, found[2].prepared, found[2].pid) == (1.5, 0.25, True, os.getpid())
    assert not found[1].prepared
    assert stat.S_IMODE(file(lock).stat().st_mode) == 0o664


def test_each_lock_of_a_folder_has_its_own(lock: LockFile, tmp_path: Path) -> None:
    other = LockFile(str(tmp_path), "env.lock")
    add(lock)
    add(other, "uv add")
    assert [call.command for call in history.read(lock)] == ["uv sync"]
    assert [call.command for call in history.read(other)] == ["uv add"]


def test_keeps_the_newer_half(lock: LockFile, tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    for number in range(4000):
        add(lock, began=number)
        assert file(lock).stat().st_size <= 65536 + 100
    found = history.read(lock)
    assert [call.began for call in found] == list(range(4000 - len(found), 4000))
    assert 500 < len(found) < 2000
    assert {path.name for path in Path(lock.path).parent.iterdir()} == {f"calls.{HOST}"}
    assert stat.S_IMODE(file(lock).stat().st_mode) == 0o664


@pytest.mark.parametrize(
    "line",
    ["", "x", "\t" * 7, "nan\t0\t0\t0\t0\t1\tlock\tuv", "1\t0\tinf\t0\t0\t1\tlock\tuv", "1\t0\t0\t0\t0\t1\tlock"],
)
def test_broken_lines_are_passed_over(lock: LockFile, line: str) -> None:
    add(lock)
    with file(lock).open("a") as written:
        written.write(f"{line}\n")
    with file(lock).open("ab") as written:
        written.write(b"\xff\x00\n")
    add(lock, "uv add", 6.0)
    assert [call.command for call in history.read(lock)] == ["uv sync", "uv add"]


def test_nothing_where_an_environments_folder_is_locked(tmp_path: Path) -> None:
    lock = EnvironmentFolder(str(tmp_path / "env"))
    add(lock)
    assert not list(tmp_path.iterdir())
    assert history.read(lock) == []


def test_silent_where_it_cannot_be_written(lock: LockFile, capfd: pytest.CaptureFixture[str]) -> None:
    for kind in ("folder", "symlink", "no folder"):
        if kind == "folder":
            file(lock).mkdir()
        elif kind == "symlink":
            file(lock).rmdir()
            file(lock).symlink_to("elsewhere")
        else:
            file(lock).unlink()
            Path(lock.path).parent.rmdir()
        add(lock)
        assert history.read(lock) == []
    assert capfd.readouterr() == ("", "")
