"""Our lines in others' files come and go without a trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uv_mutex.setup import marked_block
from uv_mutex.setup.manifest import updating
from uv_mutex.setup.marked_block import Block

_BOTH = (Block("one\n", top=True), Block("two\n"))
_CONTENTS = [
    b"",
    b"\n",
    b"a",
    b"a\n",
    b"a\n\n",
    b"\n\na",
    b"a\r\nb",
    b"\xff\xfe latin\xe9",
    b"# >>> uv-mutex\n",
    b"#!/x\n",
]


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A file that isn't there yet."""
    return tmp_path / "profile"


@pytest.mark.parametrize("content", _CONTENTS)
@pytest.mark.parametrize("lines", [_BOTH, _BOTH[:1], _BOTH[1:]])
def test_there_and_back(content: bytes, lines: tuple[Block, ...], profile: Path) -> None:
    profile.write_bytes(content)
    for _ in range(3):
        marked_block.put(str(profile), "/p q", lines)
    text = profile.read_bytes()
    assert content in text
    for block in _BOTH:
        assert text.count(block.lines.encode()) == (block in lines)
    marked_block.remove(str(profile), "/p q", made=False)
    assert profile.read_bytes() == content


@pytest.mark.parametrize("content", _CONTENTS)
def test_what_others_write_later_stays(content: bytes, profile: Path) -> None:
    profile.write_bytes(content)
    marked_block.put(str(profile), "/p", _BOTH)
    with profile.open("ab") as file:
        file.write(b"later\n")
    marked_block.put(str(profile), "/p", _BOTH)  # behind them now
    assert profile.read_bytes().endswith(b"two\n# <<< uv-mutex <<<\n")
    with profile.open("ab") as file:
        file.write(b"last")
    marked_block.remove(str(profile), "/p", made=True)
    left = profile.read_bytes()
    assert left == content + (b"" if content.endswith(b"\n") or not content else b"\n") + b"later\nlast"


def test_another_owners_lines_stay(profile: Path) -> None:
    marked_block.put(str(profile), "/p", _BOTH)
    before = profile.read_bytes()
    marked_block.remove(str(profile), "/p2", made=True)
    assert profile.read_bytes() == before
    marked_block.put(str(profile), "/p2", _BOTH)  # one shim at a time is first
    assert b"/p >>>" not in profile.read_bytes()


def test_a_block_that_lost_its_end_takes_nothing_along(profile: Path) -> None:
    torn = b"# >>> uv-mutex /p >>>\none\nmine\n"
    profile.write_bytes(torn)
    marked_block.put(str(profile), "/p", _BOTH)
    marked_block.remove(str(profile), "/p", made=False)
    assert profile.read_bytes() == torn


def test_a_file_of_ours_goes(profile: Path) -> None:
    marked_block.put(str(profile), "/p", _BOTH)
    assert profile.stat().st_mode & 0o777 == 0o644
    marked_block.remove(str(profile), "/p", made=True)
    assert not profile.exists()
    marked_block.remove(str(profile), "/p", made=True)


def test_a_link_stays_a_link(profile: Path, tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles/profile"
    real.write_text("a")
    real.chmod(0o640)
    os.setxattr(real, "user.mine", b"1")
    profile.symlink_to("dotfiles/profile")
    marked_block.put(str(profile), "/p", _BOTH)
    assert profile.is_symlink()
    assert b"two" in real.read_bytes()
    assert real.stat().st_mode & 0o777 == 0o640
    assert os.getxattr(real, "user.mine") == b"1"
    assert [path.name for path in real.parent.iterdir()] == ["profile"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_left_alone(make: object, profile: Path) -> None:
    make(profile)  # type: ignore[operator]
    with pytest.raises(OSError, match="not a regular file"):
        marked_block.put(str(profile), "/p", _BOTH)


def test_a_private_profile_is_never_open_to_others(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a moment, under another name: it may hold passwords."""
    profile.write_text("password\n")
    profile.chmod(0o600)
    seen: list[int] = []
    real = os.chown

    def chown(path: str, uid: int, gid: int) -> None:
        seen.append(os.stat(path).st_mode & 0o777)
        real(path, uid, gid)

    monkeypatch.setattr(os, "chown", chown)
    umask = os.umask(0)
    try:
        marked_block.put(str(profile), "/p", _BOTH)
    finally:
        os.umask(umask)
    assert (seen, profile.stat().st_mode & 0o777) == ([0o600], 0o600)


def test_nothing_that_is_installed_can_be_written_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor from that moment would still write into the launcher when root starts it."""
    seen: list[int] = []
    real = Path.chmod

    def chmod(path: Path, mode: int) -> None:
        seen.append(path.stat().st_mode & 0o022)
        real(path, mode)

    monkeypatch.setattr(Path, "chmod", chmod)
    umask = os.umask(0)
    try:
        with updating(tmp_path / "prefix") as manifest:
            manifest.plan([Path("bin/uv")])
            manifest.write_file(Path("bin/uv"), b"#!/bin/sh\n", mode=0o755)
    finally:
        os.umask(umask)
    assert len(seen) > 3
    assert set(seen) == {0}
