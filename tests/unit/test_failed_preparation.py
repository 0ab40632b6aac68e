"""A failed preparation is written down for those who waited for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uv_mutex.locking.lock_file import EnvironmentFolder, LockFile, LockTarget
from uv_mutex.records.failed_preparation import FailureFile


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """A lock whose folder is there."""
    (tmp_path / ".uv-mutex").mkdir()
    return LockFile(str(tmp_path))


def fail(lock: LockTarget, digest: str | None = "same") -> None:
    """A preparation fails."""
    FailureFile(lock).add(digest, 3, "uv run")


def status(waiter: FailureFile, digest: str | None = "same") -> int | None:
    """The exit status with which a waiter ends; None if it tries."""
    failed = waiter.while_waiting(lambda: digest)
    return failed.status if failed else None


def test_after_two_failures_those_who_waited_end(lock: LockFile) -> None:
    waiter = FailureFile(lock)
    assert status(waiter) is None
    fail(lock)
    assert status(waiter) is None
    late = FailureFile(lock)
    fail(lock)
    failed = waiter.while_waiting(lambda: "same")
    assert failed
    assert (failed.status, failed.pid, failed.host) == (3, os.getpid(), os.uname().nodename)
    assert failed.command == "uv run"
    assert status(late) == 3
    assert [path.name for path in Path(lock.above, ".uv-mutex").iterdir()] == ["lock.failed"]


def test_the_next_one_tries_anew(lock: LockFile) -> None:
    fail(lock)
    fail(lock)
    waiter = FailureFile(lock)
    assert status(waiter) is None
    fail(lock)
    assert status(waiter) == 3


def test_only_with_the_same_inputs(lock: LockFile) -> None:
    waiter = FailureFile(lock)
    fail(lock)
    fail(lock)
    assert status(waiter, "other") is None
    assert status(waiter, None) is None
    fail(lock, "other")
    assert status(waiter, "other") is None
    assert status(waiter) is None
    fail(lock, "other")
    assert status(waiter, "other") == 3


def test_unknown_inputs_are_not_written_down(lock: LockFile) -> None:
    fail(lock, None)
    assert not list(Path(lock.above, ".uv-mutex").iterdir())


def test_success_forgets(lock: LockFile) -> None:
    waiter = FailureFile(lock)
    fail(lock)
    waiter.remove()
    waiter.remove()
    fail(lock)
    assert status(waiter) is None


@pytest.mark.parametrize("text", ["", "\n", "1 2 same 3 4 host", "x 2 same 3 4 host uv run\n", "\xff\n"])
def test_other_lines_are_no_failure(text: str, lock: LockFile) -> None:
    Path(f"{lock.path}.failed").write_text(text)
    assert status(FailureFile(lock)) is None
    fail(lock)
    fail(lock)
    assert Path(f"{lock.path}.failed").read_text().startswith("2 2 same 3 ")


def test_silent_where_it_cannot_be_written(lock: LockFile, capfd: pytest.CaptureFixture[str]) -> None:
    Path(f"{lock.path}.failed").mkdir()
    fail(lock)
    FailureFile(lock).remove()
    assert [path.name for path in Path(lock.above, ".uv-mutex").iterdir()] == ["lock.failed"]
    Path(f"{lock.path}.failed").rmdir()
    Path(lock.above, ".uv-mutex").rmdir()
    for target in (lock, EnvironmentFolder(lock.above)):
        waiter = FailureFile(target)
        fail(target)
        waiter.remove()
        assert status(waiter) is None
    assert not list(Path(lock.above).iterdir())
    assert capfd.readouterr() == ("", "")
