"""The freshness note: when it is written, when it is fresh, and what it describes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uv_mutex.environment.freshness import FreshnessNote
from uv_mutex.locking import filesystem, network_cache
from uv_mutex.uv import commandline, pyproject
from uv_mutex.uv.project import Project

_LOCK = """[[package]]
name = "demo"
source = { virtual = "." }

[[package]]
name = "dep"
source = { editable = "../dep" }
"""


class World:
    """A project and its environment, both written by the test instead of uv."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.venv = self.root / ".venv"
        self.site = self.venv / "lib" / "python3.11" / "site-packages"
        self.dep = folder / "dep"
        self.uv = folder / "uv"
        for path in (self.site / "alpha-1.0.dist-info", self.venv / "bin", self.dep):
            path.mkdir(parents=True)
        for path in (self.root / "pyproject.toml", self.dep / "pyproject.toml", self.venv / "pyvenv.cfg"):
            path.touch()
        for path in (self.venv / "bin" / "python", self.uv):
            path.touch()
        (self.root / "uv.lock").write_text(_LOCK)
        self.environ = {"HOME": str(folder / "home")}

    def note(self, *words: str) -> FreshnessNote:
        """The note for a call in the project root."""
        call = commandline.parse(words or ("run", "true"), lambda _: "")
        assert call
        root = str(self.root)
        return FreshnessNote(Project(root, root, root, str(self.venv)), call, self.environ, str(self.uv))

    def prepare(self, *words: str, meanwhile: Callable[[], object] = lambda: None) -> bool:
        """Do what the shim does before and after a preparation; return what ``write`` returns."""
        note = self.note(*words)
        note.before_preparation()
        meanwhile()
        return note.write()

    def fresh(self, *words: str) -> bool:
        """Whether such a call finds the environment fresh."""
        return self.note(*words).fresh()

    @property
    def files(self) -> list[Path]:
        """The note files in the environment."""
        return sorted((self.venv / ".uv-mutex").glob("*"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A project whose environment has no note."""
    return World(tmp_path)


def test_a_note_is_fresh_until_something_changes(world: World) -> None:
    assert not world.fresh()
    assert world.prepare()
    assert world.fresh()
    assert len(world.files) == 1
    os.utime(world.dep / "pyproject.toml")
    assert not world.fresh()


def test_the_key_decides(world: World) -> None:
    world.prepare("run", "--extra", "a", "-q", "true")
    assert world.fresh("run", "--extra=a", "python", "other.py")
    assert not world.fresh("run", "true")
    assert not world.fresh("run", "--extra", "a", "--reinstall", "true")
    assert not world.fresh("sync", "--extra", "a")
    settings = world.root.parent / "config/uv/uv.toml"
    settings.parent.mkdir(parents=True)
    settings.touch()
    for name, value in (("UV_NO_DEV", "1"), ("XDG_CONFIG_HOME", str(settings.parents[1]))):
        world.environ[name] = value
        assert not world.fresh("run", "--extra", "a", "true")
        del world.environ[name]
    world.environ |= {"UV_MUTEX_LOG": "/dev/null", "UV_RUN_RECURSION_DEPTH": "2", "LANG": "C", "UV_CACHE_DIR": "/c"}
    assert world.fresh("run", "--extra", "a", "true")
    world.uv.write_text("another version")
    assert not world.fresh("run", "--extra", "a", "true")


def test_each_host_has_its_own_note(world: World) -> None:
    """The environment is on a shared disk; each host has its own uv, interpreter and home."""
    interpreter = world.venv / "bin" / "python"
    interpreter.unlink()
    for host in ("one", "two"):
        (world.root.parent / host).write_text(host * len(host) * (1 + (host == "two")))
    for host in ("one", "two", "one", "two"):
        world.uv = world.root.parent / host
        if not world.fresh():
            assert world.prepare()
    assert len(world.files) == 2


def test_sync_writes_a_note_for_run_too(world: World) -> None:
    world.prepare("sync")
    assert world.fresh("sync", "--exact")
    assert world.fresh("run", "true")
    assert world.fresh("run", "--exact", "true")
    assert not world.fresh("sync", "--no-dev")


@pytest.mark.parametrize("words", [("sync", "--reinstall"), ("run", "-U", "true")])
def test_calls_that_force_work_have_no_note(words: tuple[str, ...], world: World) -> None:
    assert world.prepare(*words)
    assert not world.files


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: bytes(range(256)) * 100,
        lambda text: text.replace(b"uv-mutex note 4", b"uv-mutex note 1"),
        lambda text: text.replace(b"uv-mutex note 4", b"uv-mutex note 4 more"),
        lambda text: text[: text.index(b"\nfile") + 40],
        lambda text: text[: text.index(b"\npackages") + 1],
        lambda text: text[: text.index(b"\n# contents")],
        lambda text: text[: text.index(b"\n# contents") + 8],
        lambda text: text.split(b"\n")[0] + b"\n# contents\n",
        lambda text: text.replace(b"\nfile ", b"\nfile \0", 1),
        lambda text: text.replace(b"\nfile ", b"\nwords of another version\nfile ", 1),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\nfile ", b"\nglob zz \0\ntree - /\nfile ", 1),
        lambda text: text.replace(b"\nfile ", b"\nglob ff /\ntree - /\nfile ", 1),
        lambda text: text.replace(b"\nfile ", b"\npackages ? /a\0\nfile ", 1),
    ],
)
def test_a_damaged_note_is_not_fresh(damage: Callable[[bytes], bytes], world: World) -> None:
    world.prepare()
    (file,) = world.files
    file.write_bytes(damage(file.read_bytes()))
    assert not world.fresh()


def test_a_note_cut_short_within_its_contents(world: World) -> None:
    """The contents are compared only if the times of site-packages changed."""
    world.prepare()
    (file,) = world.files
    file.write_bytes(file.read_bytes()[:-5])
    assert world.fresh()
    os.utime(world.site)
    assert not world.fresh()


def test_a_folder_instead_of_a_note(world: World) -> None:
    world.prepare()
    (file,) = world.files
    file.unlink()
    file.mkdir()
    assert not world.fresh()
    assert world.prepare()
    assert world.files == [file]


@pytest.mark.parametrize(
    "name", ["new\nline", "carriage\rreturn", "line\u2028separator", "# contents", "a b", "\udcff", "'"]
)
def test_odd_paths(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    world = World(tmp_path / name)
    assert world.prepare()
    assert world.fresh() is ("\n" not in name)
    os.utime(world.root / "pyproject.toml")
    assert not world.fresh()


@pytest.mark.parametrize("path", ["we'ird", 'we"ird', "we\\ird", "ünä", "\ttab"])
def test_odd_sources(path: str, world: World) -> None:
    folder = world.root.parent / path
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    spelt = f"'../{path}'" if '"' in path or "\\" in path else f'"../{path}"'.replace("\t", "\\t")
    (world.root / "uv.lock").write_text(f"source = {{ editable = {spelt} }}\n")
    world.prepare()
    assert world.fresh()
    os.utime(folder / "pyproject.toml")
    assert not world.fresh()


def test_environment_that_cannot_be_written(world: World) -> None:
    (world.venv / ".uv-mutex").touch()  # a file instead of a folder: root ignores the mode
    assert world.prepare()
    assert world.fresh()
    world.environ["HOME"] = "/nowhere"
    assert not world.fresh()


def test_no_environment(world: World) -> None:
    world.site.rename(world.root / "elsewhere")
    assert world.prepare()
    assert not world.files


def test_nothing_is_left_beside_the_note(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "replace", fail)
    assert world.prepare()
    assert not world.files


def test_a_change_during_the_preparation_needs_another_one(world: World) -> None:
    assert not world.prepare(meanwhile=lambda: (world.root / "uv.lock").write_text(_LOCK + "\n"))
    assert not world.prepare(meanwhile=(world.site / "beta-1.0.dist-info").mkdir)
    assert not world.prepare(meanwhile=lambda: (world.venv / "pyvenv.cfg").write_text("edited"))
    assert not world.files
    assert world.prepare(meanwhile=(world.root / "main.py").touch)
    assert world.fresh()


def test_bytecode_in_site_packages_changes_nothing(world: World) -> None:
    world.prepare()
    (world.site / "__pycache__").mkdir()
    assert world.fresh()
    (world.site / "beta-1.0.dist-info").mkdir()
    assert not world.fresh()


def test_a_distribution_is_replaced_by_one_of_the_same_name(world: World) -> None:
    world.prepare()
    (world.site / "new").mkdir()
    (world.site / "alpha-1.0.dist-info").rmdir()
    (world.site / "new").rename(world.site / "alpha-1.0.dist-info")
    assert not world.fresh()


def test_a_file_system_that_stores_whole_seconds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Lustre: a second change within the same second does not change the time."""
    stat = os.stat

    class Coarse:
        def __init__(self, path: str, **options: Any) -> None:
            answer = stat(path, **options)
            self.st_dev, self.st_uid, self.st_mtime = answer.st_dev, answer.st_uid, answer.st_mtime
            self.st_ctime_ns = self.st_mtime_ns = answer.st_ctime_ns // 10**9 * 10**9 - older
            self.st_size, self.st_ino, self.st_mode = 0, 7, answer.st_mode

    older = 0
    monkeypatch.setattr(os, "stat", Coarse)
    monkeypatch.setattr(filesystem, "is_local", lambda _: True)
    assert world.prepare()
    assert not world.files
    older = 10**10
    assert world.prepare()
    assert world.fresh()
    # The times of site-packages are the same as before.
    (world.site / "alpha-1.0.dist-info").rename(world.site / "beta-1.0.dist-info")
    assert not world.fresh()


def test_files_on_a_network_file_system_are_reopened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "is_local", lambda _: False)
    world.prepare()
    asked: list[str] = []
    monkeypatch.setattr(network_cache, "reopen", lambda path, **_: asked.append(path))
    assert world.fresh()
    assert {str(world.root / "uv.lock"), str(world.site), str(world.dep / "pyproject.toml")} <= {*asked}


class TestOfOneHost:
    """What one host keeps for itself, for as long as nobody has one of the locks alone."""

    LOCKS = ("lock 7/0/1/2 /project/.uv-mutex/lock",)
    #: Somebody has come and gone.
    LATER = ("lock 7/0/3/4 /project/.uv-mutex/lock",)

    @pytest.fixture
    def shared(self, world: World, monkeypatch: pytest.MonkeyPatch) -> World:
        """A project that other hosts share, with a note of all hosts; the home is this host's own."""
        monkeypatch.setattr(filesystem, "is_local", lambda path: not Path(path).is_relative_to(world.root))
        assert world.prepare()
        return world

    def keep(self, world: World) -> None:
        """Find the note of all hosts to hold, and keep it."""
        note = world.note()
        assert note.fresh(self.LOCKS)
        assert not note.is_known_here
        note.keep_for_host(self.LOCKS)

    def forget(self, world: World) -> None:
        """Remove the notes of all hosts."""
        for file in world.files:
            file.unlink()

    def test_it_is_used(self, shared: World) -> None:
        self.keep(shared)
        note = shared.note()
        assert note.fresh(self.LOCKS)
        assert note.is_known_here
        self.forget(shared)
        assert shared.note().fresh(self.LOCKS)
        assert not shared.fresh(), "who took the locks may not use it"

    def test_until_somebody_has_the_lock_alone(self, shared: World) -> None:
        self.keep(shared)
        note = shared.note()
        assert note.fresh(self.LATER)
        assert not note.is_known_here
        self.forget(shared)
        assert not shared.note().fresh(self.LATER)
        assert not shared.note().fresh([*self.LOCKS, *self.LATER])

    def test_until_something_is_changed_by_hand(self, shared: World) -> None:
        self.keep(shared)
        os.utime(shared.root / "uv.lock")
        assert not shared.note().fresh(self.LOCKS)

    def test_who_took_the_locks_keeps_none(self, shared: World) -> None:
        note = shared.note()
        assert note.fresh()
        note.keep_for_host(())
        assert not (shared.root.parent / "home").exists()

    def test_none_where_other_hosts_have_the_home_too(self, shared: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(filesystem, "is_local", lambda _: False)
        self.keep(shared)
        assert not (shared.root.parent / "home").exists()

    def test_a_file_that_this_call_has_opened_is_not_reopened(
        self, shared: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        monkeypatch.setattr(
            network_cache, "reopen", lambda path, *, was_opened=False: None if was_opened else asked.append(path)
        )
        path = str(shared.root / "pyproject.toml")
        self.keep(shared)
        monkeypatch.setattr(pyproject, "_opened", set())  # by the preparation, which is another process elsewhere
        asked.clear()
        assert shared.note().fresh(self.LOCKS)
        assert path in asked, "nobody has opened it"
        asked.clear()
        pyproject.read_text(path)
        assert shared.note().fresh(self.LOCKS)
        assert path not in asked
        assert str(shared.root / "uv.lock") in asked
        assert shared.note().fresh(self.LATER)
        assert path in asked, "before it was opened, another host may have written it"


def _members(world: World, pattern: str) -> None:
    (world.root / "pyproject.toml").write_text(f"[tool.uv.workspace]\nmembers = ['{pattern}']\n")


@pytest.mark.parametrize(
    ("pattern", "appears", "seen"),
    [
        ("packages/*", "packages/new", True),
        ("./packages/*", "packages/new", True),
        ("packages/*/inner", "packages/there/inner", True),
        ("packages/*/inner", "packages/there/outer", False),
        ("packages/**", "packages/there/very/deep", True),
        ("*", "new", True),
        ("packages/[a-n]*", "packages/new", True),
        ("packages/new", "packages/new", True),
        ("../beside/*", "../beside/new", True),
        ("packages/*", "src/new", False),
        ("packages/*", "packages/there/__pycache__", False),
    ],
)
def test_member_appears(pattern: str, appears: str, seen: bool, world: World) -> None:
    for folder in ("packages/there", "../beside"):
        (world.root / folder).mkdir(parents=True)
    _members(world, pattern)
    world.prepare()
    os.utime(world.root)
    assert world.fresh()
    (world.root / appears).mkdir(parents=True)
    (world.root / appears / "pyproject.toml").touch()
    assert world.fresh() is not seen


def test_too_many_folders_for_a_note(world: World) -> None:
    for number in range(400):
        (world.root / "packages" / str(number)).mkdir(parents=True)
    _members(world, "packages/**")
    assert world.prepare()
    assert not world.files


@pytest.mark.parametrize(
    "keys", ["'!*.c'", "'{a,b'", "'/src/*.c'", "'a*/../b'", "{ other = 'a' }", "{ env = true }", "{ file = ['a'] }"]
)
def test_cache_keys_that_a_note_cannot_describe(keys: str, world: World) -> None:
    (world.dep / "pyproject.toml").write_text(f"[tool.uv]\ncache-keys = [{keys}]\n")
    assert world.prepare()
    assert not world.files


def _keys(world: World, keys: str) -> None:
    (world.dep / "pyproject.toml").write_text(f"[tool.uv]\ncache-keys = [{keys}]\n")


def _put(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()


_GLOB_CHANGES: dict[str, tuple[bool, Callable[[Path], object]]] = {
    "edited": (True, lambda src: (src / "a.rs").write_text("edited")),
    "deep, edited": (True, lambda src: (src / "deep/er/b.rs").write_text("edited")),
    "added": (True, lambda src: (src / "c.rs").touch()),
    "added deep": (True, lambda src: (src / "deep/er/c.rs").touch()),
    "added in a new folder": (True, lambda src: _put(src / "new/er/c.rs")),
    "removed": (True, lambda src: (src / "deep/er/b.rs").unlink()),
    "renamed": (True, lambda src: (src / "a.rs").rename(src / "z.rs")),
    "renamed to what doesn't match": (True, lambda src: (src / "a.rs").rename(src / "a.txt")),
    "its folder renamed": (True, lambda src: (src / "deep").rename(src / "other")),
    "linked file": (True, lambda src: (src / "c.rs").symlink_to(src / "a.rs")),
    "target of a link edited": (True, lambda src: (src.parent / "target").write_text("edited")),
    "base removed": (True, lambda src: src.rename(src.parent / "other")),
    "another file edited": (False, lambda src: (src / "a.txt").write_text("edited")),
    "another file added": (False, lambda src: (src / "deep/b.txt").touch()),
    "an empty folder added": (False, lambda src: (src / "deep/empty").mkdir()),
    "bytecode": (False, lambda src: _put(src / "__pycache__/a.pyc")),
    "beside the base": (False, lambda src: (src.parent / "d.rs").touch()),
}


@pytest.mark.parametrize("change", _GLOB_CHANGES)
def test_glob_in_cache_keys(change: str, world: World) -> None:
    _keys(world, '"src/**/*.rs"')
    src = world.dep / "src"
    (src / "deep/er").mkdir(parents=True)
    for path in (src / "a.rs", src / "deep/er/b.rs", src / "a.txt", world.dep / "target"):
        path.touch()
    (src / "linked.rs").symlink_to(world.dep / "target")
    world.prepare()
    assert world.fresh()
    is_seen, act = _GLOB_CHANGES[change]
    act(src)
    assert world.fresh() is not is_seen
    if not is_seen:  # the folder's time stays another one; a file that matches is seen all the same
        (src / "deep/later.rs").touch()
        assert not world.fresh()


def test_base_of_a_glob_appears(world: World) -> None:
    _keys(world, '"src/*.{rs,toml}"')
    world.prepare()
    assert world.fresh()
    (world.dep / "src").mkdir()
    assert world.fresh()
    (world.dep / "src/a.toml").touch()
    assert not world.fresh()


@pytest.mark.parametrize("number", [1000, 2001])
def test_most_files_that_globs_may_match(number: int, world: World) -> None:
    _keys(world, '"src/*.rs"')
    (world.dep / "src").mkdir()
    for name in range(number):
        (world.dep / f"src/{name}.rs").touch()
    assert world.prepare()
    assert world.fresh() is (number == 1000)


def test_files_that_no_glob_matches_come_and_go_meanwhile(world: World) -> None:
    """As the files of waiters and of jobs, in a project whose glob searches it whole."""
    _keys(world, '"**/*.rs"')
    assert world.prepare(meanwhile=(world.dep / "job").mkdir)
    assert world.fresh()
    assert not world.prepare(meanwhile=(world.dep / "job/new.rs").touch)


def test_variables_in_cache_keys(world: World) -> None:
    _keys(world, '{ env = "MY_KEY" }')
    for value in (None, "", "1", "secret"):
        if value is not None:
            world.environ["MY_KEY"] = value
        assert not world.fresh()
        world.prepare()
        assert world.fresh()
    assert "secret" not in world.files[0].read_text()


def test_file_of_variables_beside_variables_in_cache_keys(world: World) -> None:
    """uv before 0.11.15 puts such a file into its own environment."""
    world.prepare()
    assert world.fresh("run", "--env-file", "a.env", "true")
    _keys(world, '{ env = "MY_KEY" }')
    world.prepare()
    assert world.fresh()
    assert not world.fresh("run", "--env-file", "a.env", "true")
    world.environ["UV_ENV_FILE"] = "a.env"
    assert not world.fresh()
    assert world.prepare()
    assert not world.fresh()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("UV_INDEX", "http://127.0.0.1:1/simple"),
        ("UV_INDEX_STRATEGY", "unsafe-best-match"),
        ("UV_OFFLINE", "1"),
        ("UV_NO_CACHE", "1"),
        ("UV_NEVER_HEARD_OF", "1"),
        ("UV_INDEX_PRIVATE_REALM", "1"),
    ],
)
def test_variables_that_count(variable: str, value: str, world: World) -> None:
    world.prepare()
    world.environ[variable] = value
    assert not world.fresh()


def test_users_and_passwords_do_not_count(world: World) -> None:
    world.environ["UV_INDEX"] = "name=http://host/simple http://other:1/"
    world.environ["UV_FIND_LINKS"] = "http://host/a@b,/absolute"
    world.prepare()
    world.environ["UV_INDEX"] = "name=http://me@host/simple http://me:pass@word@other:1/"
    world.environ["UV_FIND_LINKS"] = "http://me:x@host/a@b,/absolute"
    world.environ["UV_INDEX_NAME_USERNAME"] = world.environ["UV_INDEX_NAME_PASSWORD"] = "me"
    assert world.fresh()
    world.environ["UV_INDEX"] = "name=http://me@host/simple http://me:pass@word@other:2/"
    assert not world.fresh()


def test_sync_that_leaves_packages_out_prepares_for_itself_alone(world: World) -> None:
    for variable in ("UV_NO_INSTALL_PROJECT", "UV_ONLY_INSTALL_LOCAL"):
        world.environ[variable] = "1"
        for words in (("sync",), ("sync", "--inexact")):
            world.prepare(*words)
            assert world.fresh(*words)
            assert not world.fresh("run", "true")
            assert not world.fresh("run", "--exact", "true")
        world.prepare("run", "true")
        assert world.fresh("run", "true")
        del world.environ[variable]
        assert not world.fresh("run", "true")


def _note_from(world: World, start: Path, *words: str) -> FreshnessNote:
    call = commandline.parse(words or ("run", "true"), lambda _: "")
    assert call
    root = str(world.root)
    return FreshnessNote(Project(root, root, str(start), str(world.venv)), call, world.environ, str(world.uv))


def test_folder_where_the_search_starts(world: World) -> None:
    inside = world.root / "a" / "b"
    inside.mkdir(parents=True)
    world.prepare()
    assert _note_from(world, inside).fresh()
    assert _note_from(world, inside, "run", "--directory", str(inside), "--project", ".", "true").fresh()
    (world.root / "a" / ".python-version").touch()
    assert not _note_from(world, inside).fresh()
    assert world.fresh()


def test_relative_paths_depend_on_the_working_directory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.root / "a").mkdir()
    monkeypatch.chdir(world.root)
    for words in (("run", "--find-links", "wheels", "true"), ("run", "--python", "./bin/python", "true")):
        world.prepare(*words)
        assert world.fresh(*words)
        monkeypatch.chdir(world.root / "a")
        assert not world.fresh(*words)
        monkeypatch.chdir(world.root)
    absolute = ("run", "--index", "http://host/", "--find-links", "/wheels", "true")
    world.prepare(*absolute)
    monkeypatch.chdir(world.root / "a")
    assert world.fresh(*absolute)


@pytest.mark.parametrize(
    ("file", "text", "options"),
    [
        ("pyproject.toml", "[tool.uv]\nreinstall-package = ['demo']\n", ["--no-reinstall"]),
        (
            "pyproject.toml",
            "[tool.uv]\nreinstall = true\nupgrade-package = ['x']\n",
            ["--no-reinstall", "--no-upgrade"],
        ),
        ("uv.toml", "upgrade = true\n", ["--no-upgrade"]),
        ("../uv.toml", "reinstall = true\n", ["--no-reinstall"]),
        ("../home/.config/uv/uv.toml", "reinstall = true\n", ["--no-reinstall"]),
        ("../xdg/uv/uv.toml", "reinstall = true\n", ["--no-reinstall"]),
        ("pyproject.toml", "[tool.uv]\nreinstall = false\nreinstall-package = []\n", []),
        ("pyproject.toml", "[tool.uv.pip]\nreinstall = true\n", []),
    ],
)
def test_settings_that_make_uv_work_each_time(file: str, text: str, options: list[str], world: World) -> None:
    world.environ["XDG_CONFIG_DIRS"] = f"/nowhere:{world.root.parent}/xdg"
    path = world.root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    note = world.note()
    note.before_preparation()
    assert note.cancelling_options == options
    assert note.write()
    assert world.fresh() is (not options)


def test_settings_that_the_call_cancels(world: World) -> None:
    (world.root / "uv.toml").write_text("reinstall = true\n")
    (world.root / "my.toml").write_text("upgrade = true\n")
    for words, expected in (
        (["--no-reinstall"], []),
        (["--no-config"], []),
        (["--config-file", str(world.root / "my.toml")], ["--no-upgrade"]),
    ):
        note = world.note("run", *words, "true")
        note.before_preparation()
        assert note.cancelling_options == expected
    world.environ["UV_NO_CONFIG"] = "1"
    note = world.note()
    note.before_preparation()
    assert note.cancelling_options == []


def test_cache_keys_as_tables(world: World) -> None:
    (world.dep / "pyproject.toml").write_text("[[tool.uv.cache-keys]]\nfile = 'a.c'\n")
    world.prepare()
    (world.dep / "src").mkdir()
    assert world.fresh()
    (world.dep / "a.c").touch()
    assert not world.fresh()


def test_git_worktree(world: World) -> None:
    git = world.root.parent / "main" / ".git"
    own = git / "worktrees" / "dep"
    for path, text in {
        git / "refs/heads/topic": "a" * 40,
        git / "refs/tags/deep/v1": "a" * 40,
        own / "HEAD": "ref: refs/heads/topic\n",
        own / "commondir": "../..\n",
        world.dep / ".git": f"gitdir: {own}\n",
        world.dep / "pyproject.toml": "[tool.uv]\ncache-keys = [{ git = { commit = true, tags = true } }]\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for change in (git / "refs/heads/topic", git / "refs/tags/deep/v2", git / "packed-refs", own / "HEAD"):
        world.prepare()
        (own / "index").write_text(str(change))
        assert world.fresh()
        change.write_text("b" * 40)
        assert not world.fresh()
