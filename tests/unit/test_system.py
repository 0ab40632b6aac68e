"""The path functions do what those of `os` do."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from uv_mutex import system

_PARTS = (
    "",
    "/",
    "//",
    "///",
    ".",
    "..",
    "a",
    "a/b",
    "/a",
    "a/",
    "../a",
    "a/../..",
    "./a/.",
    "//a",
    ".py",
    "a.b.py",
    "..py",
)


@pytest.mark.parametrize("name", ["dirname", "basename", "split", "normpath", "abspath"])
def test_of_one_path(name: str) -> None:
    ours: Callable[[str], object] = getattr(system, name)
    theirs: Callable[[str], object] = getattr(os.path, name)
    for first, second in product(_PARTS, _PARTS):
        assert ours(first + second) == theirs(first + second), first + second


def test_suffix() -> None:
    for first, second in product(_PARTS, _PARTS):
        assert system.suffix(first + second) == os.path.splitext(first + second)[1], first + second


def test_join() -> None:
    for first, second in product(_PARTS, _PARTS):
        assert system.join(first, second) == os.path.join(first, second), (first, second)


@pytest.mark.parametrize("name", ["exists", "lexists", "isfile", "isdir", "islink"])
def test_of_what_is_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    ours: Callable[[str], bool] = getattr(system, name)
    theirs: Callable[[str], bool] = getattr(os.path, name)
    for path in ("file", "folder", "link", "dangling", "fifo", "missing", "file/below", "nul\0"):
        assert ours(f"{tmp_path}/{path}") == theirs(f"{tmp_path}/{path}"), path


def test_variables() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from uv_mutex import system; print(ascii(system.variables))"
    import subprocess
    import sys

    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-ISXutf8", "-c", code, source],
        env={b"A": b"\xff", b"B": "é".encode(), b"LC_ALL": b"C"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == ascii({"A": "\udcff", "B": "é", "LC_ALL": "C"})
