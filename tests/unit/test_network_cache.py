"""What a network file system is asked anew, and what it forgets by itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support.locks import take

from uv_mutex.locking import filesystem, network_cache, process
from uv_mutex.locking.filesystem import Mount
from uv_mutex.locking.lock_file import LockFile


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_cache, "_forgetting", {})


@pytest.mark.parametrize(
    ("kind", "dropped"),
    [("nfs", False), ("nfs4", False), ("fuse.glusterfs", True), ("lustre", True), (None, True)],
)
def test_what_nfs_forgets_at_open_need_not_be_dropped(
    kind: str | None, dropped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else uv would read each file and folder again from the server. The others are the control."""
    mount = kind and Mount("server:/", "/", kind, frozenset())
    monkeypatch.setattr(filesystem, "find", lambda _path: mount)
    advised: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *_rest: advised.append(fd))
    for name in ("one", "two"):
        (tmp_path / name).touch()
        network_cache.reopen(str(tmp_path / name))
        network_cache.reopen(str(tmp_path / name), was_opened=True)
    assert len(advised) == (4 if dropped else 0)


def test_what_this_call_has_opened_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "find", lambda _path: Mount("server:/", "/", "nfs4", frozenset()))
    opened: list[str] = []

    def remember(path: str, *_: int) -> int:
        opened.append(path)
        return os.dup(0)

    monkeypatch.setattr(os, "open", remember)
    for was_opened in (True, False):
        network_cache.reopen(str(tmp_path), was_opened=was_opened)
        assert opened == ([] if was_opened else [str(tmp_path)])
    network_cache.reopen(str(tmp_path / "missing"), was_opened=True)


def test_each_path_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that is no member of a workspace is its own root."""
    monkeypatch.setattr(filesystem, "is_local", lambda _path: False)
    asked: list[str] = []
    monkeypatch.setattr(network_cache, "reopen", asked.append)
    root = str(tmp_path)
    network_cache.reread(root, [root, root, f"{root}/.venv", root])
    assert asked == [root, f"{root}/.venv"]


def test_who_was_last_knows_that_nobody_has_changed_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts are told apart by their kernels, for these have the same name. All others wait until FUSE has forgotten."""
    pauses: list[float] = []
    monkeypatch.setattr(filesystem, "cache_seconds", lambda _path: 1.0)
    monkeypatch.setattr(time, "sleep", pauses.append)
    seen = []
    for boot in ("one", "one", "two", "two", "one", "one"):
        monkeypatch.setattr(process, "boot_id", lambda boot=boot: boot)
        take(LockFile(str(tmp_path))).release()
        seen.append(len(pauses))
    assert seen == [1, 1, 2, 2, 3, 3]
