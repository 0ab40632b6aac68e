"""What a network file system is asked anew, and what it forgets by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uv_mutex.locking import filesystem, network_cache
from uv_mutex.locking.filesystem import Mount


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
    assert len(advised) == (2 if dropped else 0)


def test_each_path_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that is no member of a workspace is its own root."""
    monkeypatch.setattr(filesystem, "is_local", lambda _path: False)
    asked: list[str] = []
    monkeypatch.setattr(network_cache, "reopen", asked.append)
    root = str(tmp_path)
    network_cache.reread(root, [root, root, f"{root}/.venv", root])
    assert asked == [root, f"{root}/.venv"]
