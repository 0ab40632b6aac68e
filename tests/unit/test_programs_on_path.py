"""PATH is searched as execvp(3) searches it, and launchers of any version are recognised."""

from __future__ import annotations

from pathlib import Path

import pytest

from uv_mutex.uv import executable


def _program(folder: Path, text: str = "", *, mode: int = 0o755, name: str = "uv") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(mode)
    return str(folder / name)


def test_programs_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _program(tmp_path / "first"), _program(tmp_path / "second")
    _program(tmp_path / "plain", mode=0o644)
    other = _program(tmp_path / "first", name="uvx")
    (tmp_path / "folder" / "uv").mkdir(parents=True)
    path = ":".join(str(tmp_path / name) for name in ("missing", "second", "plain", "folder", "first"))
    assert list(executable.programs_on_path(path)) == [second, first]
    assert list(executable.programs_on_path(path, "uvx")) == [other]
    monkeypatch.chdir(tmp_path / "first")
    for empty in ("", ":/nowhere", "/nowhere:"):
        assert next(executable.programs_on_path(empty)) == "./uv"


def test_path_that_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.defpath", str(tmp_path))
    assert list(executable.programs_on_path(None)) == []
    program = _program(tmp_path)
    assert list(executable.programs_on_path(None)) == [program]


@pytest.mark.parametrize(
    ("text", "is_shim"),
    [
        ("#!/usr/bin/python3\n# uv-mutex launcher: text\n", True),
        ("#!/usr/bin/python3\n# uv-mutex front door: text\n", True),  # of an older version
        ("# uv-mutex launcher\n", False),
        ("#!/bin/sh\nexec uv\n", False),
        ("", False),
    ],
)
def test_is_shim(text: str, is_shim: bool, tmp_path: Path) -> None:
    assert executable.is_shim(_program(tmp_path, text)) is is_shim


def test_this_version_has_the_first_marker() -> None:
    launcher = (Path(__file__).parents[2] / "hooks" / "uv").read_bytes()
    assert executable.LAUNCHER_MARKERS[0] in launcher[:200]
