"""The files of notes: where they lie, who can read them, whom a reader trusts, and what is removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import need

from uv_mutex.environment import note_file

_KEY = "0123456789abcdef0123456789abcdef"
_NOTE = note_file.StoredNote(["file - /nowhere"], "contents\n", reopen=False)


class World:
    """An environment in a project, and a home; no lock was taken yet."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.venv = self.root / ".venv"
        self.home = folder / "home"
        self.venv.mkdir(parents=True)
        self.home.mkdir()
        self.files = note_file.NoteFiles(str(self.venv), str(self.root), {"HOME": str(self.home)})

    @property
    def places(self) -> list[Path]:
        """In the environment, beside the lock, in the cache."""
        return [self.venv / ".uv-mutex", self.root / ".uv-mutex", self.home / ".cache" / "uv-mutex"]

    def block(self, count: int) -> None:
        """Make the first places unusable, for root too."""
        for place in self.places[:count]:
            place.touch()

    def found(self) -> list[str]:
        """What the readers find."""
        return [note.contents for note in self.files.read(_KEY)]

    def names(self, place: int) -> list[str]:
        """The notes in a place."""
        return sorted(path.name for path in self.places[place].glob("*"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Without notes."""
    return World(tmp_path)


def test_a_note_lies_in_the_environment(world: World) -> None:
    world.files.write(_KEY, _NOTE)
    assert world.names(0) == [f"note.{_KEY}"]
    assert world.found() == ["contents\n"]
    assert not world.places[1].exists()
    assert not world.places[2].exists()


def test_beside_the_lock_where_the_environment_cannot_be_written(world: World) -> None:
    world.block(1)
    world.places[1].mkdir()
    world.files.write(_KEY, _NOTE)
    found = world.venv.stat()
    assert world.names(1) == [f"note.{found.st_dev:x}-{found.st_ino:x}.{_KEY}.{os.geteuid()}"]
    assert world.found() == ["contents\n"]
    assert not world.places[2].exists()


def test_no_folder_is_made_beside_a_lock_that_is_elsewhere(world: World) -> None:
    world.block(1)
    world.files.write(_KEY, _NOTE)
    assert not world.places[1].exists()
    assert len(world.names(2)) == 1


def test_in_the_cache_where_the_root_cannot_be_written_either(world: World) -> None:
    world.block(2)
    world.files.write(_KEY, _NOTE)
    assert len(world.names(2)) == 1
    assert world.places[2].stat().st_mode & 0o777 == 0o700
    assert world.found() == ["contents\n"]
    other = World(world.root.parent / "other")
    other.files = note_file.NoteFiles(str(other.venv), str(other.root), {"HOME": str(world.home)})
    assert other.found() == []


def test_nowhere(world: World) -> None:
    world.block(2)
    (world.home / ".cache").touch()
    world.files.write(_KEY, _NOTE)
    assert world.found() == []


def test_a_note_of_one_host(world: World) -> None:
    """It lies in the cache and nowhere else, and goes with the others."""
    locks = ["lock 1/0/2/3 /a b/.uv-mutex/lock", "lock 4/0/5/6 /c"]
    world.files.write_of_host(_KEY, note_file.StoredNote(_NOTE.lines, _NOTE.contents, reopen=True, locks=locks))
    (name,) = world.names(2)
    assert name.startswith("host.")
    assert name.endswith(f".{_KEY}.{os.geteuid()}")
    assert (world.places[2] / name).stat().st_mode & 0o777 == 0o600
    assert world.found() == []
    found = world.files.read_of_host(_KEY)
    assert found
    assert (found.locks, found.lines, found.contents, found.reopen) == (locks, _NOTE.lines, _NOTE.contents, True)
    for lines, expected in (["lock 1 /a"], None), (["file - /a", "lock 1 /b"], 0), (["lock 1 /b", "file - /a"], 1):
        (world.places[2] / name).write_text("\n".join(["uv-mutex note 4 reopen", *lines, "# contents\n"]))
        found = world.files.read_of_host(_KEY)
        assert (found and len(found.locks)) == expected
    world.files.remove()
    assert world.names(2) == []
    world.files.write(_KEY, _NOTE)
    assert world.files.read_of_host(_KEY) is None


def test_no_cache_is_made_in_the_home_of_another_user(world: World) -> None:
    """As with sudo, which may keep HOME: the user could write nothing below that folder then."""
    need.root()
    world.block(2)
    os.chown(world.home, 12345, 12345)
    world.files.write(_KEY, _NOTE)
    assert not list(world.home.iterdir())


def test_nor_written_into_one_that_is_there(world: World) -> None:
    need.root()
    world.block(2)
    world.places[2].mkdir(parents=True)
    os.chown(world.places[2], 12345, 12345)
    world.files.write(_KEY, _NOTE)
    assert world.names(2) == []


@pytest.mark.parametrize("home", ["", "home"])
def test_no_cache_where_the_home_has_no_absolute_path(home: str, world: World) -> None:
    world.block(2)
    files = note_file.NoteFiles(str(world.venv), str(world.root), {"HOME": home})
    files.write(_KEY, _NOTE)
    files.write_of_host(_KEY, _NOTE)
    assert files.read_of_host(_KEY) is None
    assert list(files.read(_KEY)) == []


def test_another_call_removes_what_was_just_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = note_file._replace

    def and_remove(folder: int, name: str, text: str, mode: int) -> None:
        replace(folder, name, text, mode)
        world.files.remove()

    monkeypatch.setattr(note_file, "_replace", and_remove)
    world.files.write(_KEY, _NOTE)
    assert world.found() == []


@pytest.mark.parametrize("place", [1, 2])
def test_a_note_outside_the_environment_by_a_stranger(place: int, world: World) -> None:
    need.root()
    world.block(place)
    world.places[place].mkdir(parents=True)
    world.files.write(_KEY, _NOTE)
    (name,) = world.names(place)
    os.chown(world.places[place] / name, 12345, 12345)
    assert world.found() == []
    os.chown(world.venv, 12345, 12345)  # the environment's owner can be trusted
    assert world.found() == ["contents\n"]


def test_users_outside_the_environment_have_notes_of_their_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """If each overwrote the note of the other, which it doesn't trust, both would prepare each time."""
    world.block(1)
    world.places[1].mkdir()
    world.files.write(_KEY, _NOTE)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert world.found() == []
    world.files.write(_KEY, _NOTE)
    assert len(world.names(1)) == 2


def test_a_note_in_the_environment_by_another_user(world: World) -> None:
    """Users who share an environment share its notes: who can write there can change it as well."""
    need.root()
    world.files.write(_KEY, _NOTE)
    os.chown(world.places[0] / f"note.{_KEY}", 12345, 12345)
    assert world.found() == ["contents\n"]


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o755, 0o600), (0o700, 0o600), (0o775, 0o640), (0o2770, 0o640), (0o777, 0o644)]
)
def test_who_can_write_the_environment_can_read_its_notes(mode: int, expected: int, world: World) -> None:
    world.venv.chmod(mode)
    before = os.umask(0o077)
    try:
        world.files.write(_KEY, _NOTE)
    finally:
        os.umask(before)
    assert (world.places[0] / f"note.{_KEY}").stat().st_mode & 0o777 == expected
    assert world.places[0].stat().st_mode & 0o7777 == mode


@pytest.mark.parametrize("linked", ["folder", "file"])
def test_symlinks_are_not_followed(linked: str, world: World) -> None:
    aside = world.root.parent / "aside"
    aside.mkdir()
    world.files.write(_KEY, _NOTE)
    if linked == "folder":
        world.places[0].rename(aside / "moved")
        world.places[0].symlink_to(aside)
    else:
        (world.places[0] / f"note.{_KEY}").rename(aside / "moved")
        (world.places[0] / f"note.{_KEY}").symlink_to(aside / "moved")
    assert world.found() == []
    before = (aside / "moved").stat()
    world.files.write(_KEY, _NOTE)
    assert [path.name for path in aside.iterdir()] == ["moved"]
    assert (aside / "moved").stat() == before
    assert world.found() == ["contents\n"]


def test_the_oldest_notes_go(world: World) -> None:
    for number in range(20):
        world.files.write(f"{number:032x}", _NOTE)
        os.utime(world.places[0] / f"note.{number:032x}", (1000 + number, 1000 + number))
    world.files.write(_KEY, _NOTE)
    assert world.names(0) == sorted([*(f"note.{number:032x}" for number in range(5, 20)), f"note.{_KEY}"])


def test_the_oldest_notes_of_all_environments_go_from_the_cache(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.block(2)
    monkeypatch.setattr(note_file, "_MOST_CACHED", 3)
    cache = world.places[2]
    cache.mkdir(parents=True)
    for number in range(5):
        (cache / f"note.1-{number}.{_KEY}").touch()
        os.utime(cache / f"note.1-{number}.{_KEY}", (1000 + number, 1000 + number))
    world.files.write(_KEY, _NOTE)
    assert world.names(2)[:2] == [f"note.1-{number}.{_KEY}" for number in (3, 4)]
    assert len(world.names(2)) == 3


def test_temporary_files_of_writers_that_died_go(world: World) -> None:
    world.places[0].mkdir()
    for name, age in ((".note.dead", 100), (".note.alive", 10)):
        (world.places[0] / name).touch()
        written = (world.places[0] / name).stat().st_mtime - age
        os.utime(world.places[0] / name, (written, written))
    world.files.write(_KEY, _NOTE)
    assert [path.name for path in sorted(world.places[0].iterdir())] == [".note.alive", f"note.{_KEY}"]


def test_what_earlier_versions_wrote_goes(world: World) -> None:
    world.places[0].mkdir()
    kept = ["lock", "runs.abc", "calls.deadbeef", "deadbee", "notadead"]
    for name in ("deadbeef", "01234567", "deadbeef.123", *kept):
        (world.places[0] / name).touch()
    world.files.remove_older()
    assert world.names(0) == sorted(kept)


def test_remove(world: World) -> None:
    world.files.write(_KEY, _NOTE)
    world.places[1].mkdir()
    found = world.venv.stat()
    for user in (os.geteuid(), 12345):
        (world.places[1] / f"note.{found.st_dev:x}-{found.st_ino:x}.{_KEY}.{user}").touch()
    for name in ("lock", f"note.1-1.{_KEY}"):
        (world.places[1] / name).touch()
    (world.places[0] / "runs.abc").touch()
    world.files.remove()
    assert world.names(0) == ["runs.abc"]
    assert world.names(1) == ["lock", f"note.1-1.{_KEY}"]


def test_a_ticket_lies_in_the_environment_or_nowhere(world: World) -> None:
    world.files.write_ticket("a", "text")
    assert not world.places[0].exists()
    world.files.write(_KEY, _NOTE)
    world.files.write_ticket("a", "text")
    (found,) = world.places[0].glob("ticket.*")
    assert (found.name, found.read_text(), found.stat().st_mode & 0o777) == ("ticket.a", "text", 0o600)
    written = found.stat()
    assert world.files.has_ticket("a", written.st_mtime)
    assert not world.files.has_ticket("a", written.st_mtime + 1)
    assert not world.files.has_ticket("b", 0)
    world.files.write_ticket("a", "text")
    assert found.stat() == written
    world.files.write_ticket("a", "other")
    assert found.read_text() == "other"


def test_the_oldest_tickets_go(world: World) -> None:
    world.files.write(_KEY, _NOTE)
    for number in range(70):
        world.files.write_ticket(f"{number:02}", "text")
        os.utime(world.places[0] / f"ticket.{number:02}", (1000 + number, 1000 + number))
    world.files.write_ticket("last", "text")
    names = [name for name in world.names(0) if name.startswith("ticket.")]
    assert names == [*(f"ticket.{number:02}" for number in range(7, 70)), "ticket.last"]
    assert f"note.{_KEY}" in world.names(0)


def test_tickets_go_with_the_notes(world: World) -> None:
    world.files.write(_KEY, _NOTE)
    world.files.write_ticket("a", "text")
    world.files.remove()
    assert world.names(0) == []
