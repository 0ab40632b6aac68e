"""Projects, workspaces and environments are found by the rules in uv's source. e2e/test_projects.py asks uv itself."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.version import Version

from uv_mutex.uv import commandline, project, pyproject
from uv_mutex.uv.commandline import Call
from uv_mutex.uv.project import Project
from uv_mutex.uv.settings import Settings

_SOURCES = str(Path(__file__).parents[2] / "src")
_PROJECT = '[project]\nname = "x"\n'
_ALL_SHOWN = "UV_WORKING_DIR= UV_PROJECT= UV_NO_PROJECT= UV_ISOLATED="


def parse(words: str) -> Call:
    """A guarded call."""
    call = commandline.parse(words.split(), lambda _: "")
    assert call is not None
    return call


def settings(environ: Mapping[str, str] | None = None, shown: str = _ALL_SHOWN) -> Settings:
    """uv's variables, for a uv whose help contains ``shown``."""
    return Settings(environ or {}, lambda _: shown)


def find(
    words: str, environ: Mapping[str, str] | None = None, *, newest: bool = True, shown: str = _ALL_SHOWN
) -> Project | None:
    """Find the project of a call, with the newest uv or an old one."""
    return project.find(parse(words), settings(environ, shown), lambda _: newest)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a project."""
    folder = tmp_path / "here"
    write(folder)
    monkeypatch.chdir(folder)
    return folder


def write(folder: Path, text: str = "", *, head: str = _PROJECT) -> Path:
    """Turn this folder into a project."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(head + text)
    return folder


def workspace(folder: Path, *members: str, exclude: tuple[str, ...] = ()) -> Path:
    """Turn this folder into a workspace root."""
    return write(folder, f"[tool.uv.workspace]\nmembers = {list(members)}\nexclude = {list(exclude)}\n")


def test_outside_a_workspace(here: Path) -> None:
    (here / "a/b").mkdir(parents=True)
    os.chdir("a/b")
    found = find("sync")
    assert found is not None
    assert (found.root, found.member, found.start) == (str(here), str(here), str(here / "a/b"))
    assert found.environment == str(here / ".venv")


def test_no_project(tmp_path: Path) -> None:
    os.chdir(tmp_path)
    assert find("sync") is None
    (tmp_path / "pyproject.toml").mkdir()
    assert find("sync") is None


def test_the_working_directory_no_longer_exists(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OSError, match="No such file"):
        find("sync")


# A pattern, a folder, and whether it is a member: for a uv whose star matches "/", and for one whose star does not.
_MEMBERS = [
    ("a", "a", True, True),
    ("a", "b", False, False),
    ("a/../b", "b", False, True),
    ("./a", "a", False, True),
    ("a/", "a", False, True),
    ("*", "a", True, True),
    ("*", "a/b", True, False),
    ("p/*", "p/a", True, True),
    ("p/*", "p/a/b", True, False),
    ("p/*", "p", False, False),
    ("p/*", "q/a", False, False),
    ("p*/b", "pack/b", True, True),
    ("p*/b", "pack/group/b", True, False),
    ("*/*", "a/b", True, True),
    ("**", "a", True, True),
    ("**", "a/b/c", True, True),
    ("p/**", "p/a/b", True, True),
    ("p/**/lib-*", "p/lib-1", True, True),
    ("p/**/lib-*", "p/x/y/lib-1", True, True),
    ("p/**/lib-*", "p/xlib-1", False, False),
    ("p/**/lib-*", "p/lib-1/x", True, False),
    ("**/a", "a", True, True),
    ("**/a", "x/a", True, True),
    ("**/a", "xa", False, False),
    ("?", "a", True, True),
    ("?", "ab", False, False),
    ("a?b", "a/b", True, False),
    ("[ab]", "b", True, True),
    ("[a-c]x", "bx", True, True),
    ("[!a-c]x", "bx", False, False),
    ("[!a-c]x", "dx", True, True),
    ("[]]", "]", True, True),
    ("[!]]", "x", True, True),
    ("[-a]", "-", True, True),
    ("x[!a]y", "x/y", True, False),
    ("[", "[", True, True),
    ("A", "a", False, False),
    ("ü*", "ünder", True, True),
    ("a.b", "axb", False, False),
]


@pytest.mark.parametrize(("pattern", "folder", "before", "after"), _MEMBERS)
def test_members(pattern: str, folder: str, before: bool, after: bool, tmp_path: Path) -> None:
    root = workspace(tmp_path / "ws", pattern)
    member = write(root / folder)
    os.chdir(member)
    for newest, included in ((False, before), (True, after)):
        found = find("sync", newest=newest)
        assert found is not None
        assert found.root == str(root if included else member)
        assert found.member == str(member)
        assert found.environment == f"{found.root}/.venv"


@pytest.mark.parametrize(("pattern", "folder", "before", "after"), _MEMBERS)
def test_exclusions(pattern: str, folder: str, before: bool, after: bool, tmp_path: Path) -> None:
    """In the patterns of excluded folders a star always matches "/"."""
    root = workspace(tmp_path / "ws", "**", exclude=("none", pattern))
    member = write(root / folder)
    os.chdir(member)
    found = find("sync")
    assert found is not None
    assert found.root == str(member if before or after else root)


def test_the_version_is_asked_only_where_versions_differ(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(version: str) -> bool:
        asked.append(version)
        return True

    root = workspace(tmp_path / "ws", "p/*")
    for folder, questions in (("p/a", 0), ("q/a", 0), ("p/a/b", 0), ("p/c/d", 1)):
        os.chdir(write(root / folder))
        asked.clear()
        project.find(parse("sync"), settings(), ask)
        assert len(asked) == questions, folder


@pytest.mark.parametrize(
    "text", ["[tool.uv.workspace]\n", "[tool.uv]\nworkspace = {}\n", "tool.uv.workspace.members = []\n"]
)
def test_a_workspace_root_below_another_one(text: str, tmp_path: Path) -> None:
    workspace(tmp_path / "ws", "*")
    inner = write(tmp_path / "ws/inner", head="" if text.startswith("tool") else _PROJECT, text=text)
    os.chdir(inner)
    found = find("sync")
    assert found is not None
    assert found.root == str(inner)


def test_only_the_nearest_project_above_counts(tmp_path: Path) -> None:
    workspace(tmp_path / "ws", "**")
    write(tmp_path / "ws/between")
    inner = write(tmp_path / "ws/between/inner")
    os.chdir(inner)
    found = find("sync")
    assert found is not None
    assert found.root == str(inner)


def test_a_folder_without_a_project_table_is_a_root(tmp_path: Path) -> None:
    workspace(tmp_path / "ws", "*")
    inner = write(tmp_path / "ws/inner", head="", text="[dependency-groups]\ndev = []\n")
    os.chdir(inner)
    found = find("sync")
    assert found is not None
    assert found.root == str(inner)


_SPELLINGS = {
    "plain": '[tool.uv.workspace]\nmembers = ["p/*"]\n',
    "a date with a space": '[tool.x]\nday = 2026-11-24 10:00:00Z\n[tool.uv.workspace]\nmembers = ["p/*"]\n',
    "an escaped key": '[tool.uv."work\\u0073pace"]\nmembers = ["p/*"]\n',
    "an absolute pattern": '[tool.uv.workspace]\nmembers = ["{root}/p/*"]\n',
}


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte order mark"])
@pytest.mark.parametrize("spelling", _SPELLINGS)
def test_a_workspace_however_it_is_spelled(spelling: str, mark: str, tmp_path: Path) -> None:
    root = write(tmp_path / "ws", _SPELLINGS[spelling].format(root=tmp_path / "ws"), head=mark + _PROJECT)
    inside, outside = (write(root / folder, head=mark + _PROJECT) for folder in ("p/inside", "q/outside"))
    for folder, expected in ((inside, root), (outside, outside)):
        os.chdir(folder)
        found = find("sync")
        assert found is not None
        assert found.root == str(expected)


@pytest.mark.parametrize(
    ("pattern", "version", "used"),
    [
        ("./p/*", "0.9.2", False),
        ("./p/*", "0.9.3", True),
        ("p/../p/*", "0.8.24", False),
        ("p/*/", "0.11.4", False),
        ("p/*/", "0.11.5", True),
        ("p/*", "0.5.31", True),
    ],
)
@pytest.mark.parametrize("key", ["members", "exclude"])
def test_an_older_uv_normalizes_no_patterns(key: str, pattern: str, version: str, used: bool, tmp_path: Path) -> None:
    others = "" if key == "members" else 'members = ["p/*"]\n'
    root = write(tmp_path / "ws", f'[tool.uv.workspace]\n{others}{key} = ["{pattern}"]\n')
    member = write(root / "p/a")
    os.chdir(member)
    found = project.find(parse("sync"), settings(), lambda wanted: Version(version) >= Version(wanted))
    assert found is not None
    assert found.root == str(root if used == (key == "members") else member)


@pytest.mark.parametrize("key", ["managed", '"man\\u0061ged"'])
def test_unmanaged_however_it_is_spelled(key: str, here: Path) -> None:
    write(here, f"[tool.uv]\n{key} = false\n", head="\ufeff" + _PROJECT)
    assert find("sync") is None


def test_unmanaged(here: Path) -> None:
    write(here, "[tool.uv]\nmanaged = false\n")
    assert find("sync") is None
    write(here, "[tool.uv]\nmanaged = true  # not false\n")
    assert find("sync") is not None


@pytest.mark.parametrize("text", ["managed = [[[", "workspace = " + "[" * 100_000, "[tool.uv\nworkspace", "\0 managed"])
def test_a_file_that_is_not_toml_is_an_ordinary_project(text: str, here: Path) -> None:
    write(here, text)
    found = find("sync")
    assert found is not None
    assert found.root == str(here)


def test_options_and_variables(here: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other")
    (other / "sub").mkdir()
    third = write(tmp_path / "third")
    calls: list[tuple[str, dict[str, str], Path]] = [
        ("sync --project ../other", {}, other),
        ("--project=../other/sub/.. sync", {}, other),
        ("sync --project ../other/pyproject.toml", {}, other),
        ("sync --project ../other --project ../third", {}, third),
        ("sync --directory ../other/sub", {}, other),
        ("sync --directory ../other --project ../third", {}, third),
        ("sync", {"UV_PROJECT": "../other"}, other),
        ("sync --project ../third", {"UV_PROJECT": "../other"}, third),
        ("sync", {"UV_PROJECT": ""}, here),
        ("sync", {"UV_WORKING_DIR": "../other"}, other),
        ("sync", {"UV_WORKING_DIRECTORY": "../other"}, other),
        ("sync", {"UV_WORKING_DIR": "../other", "UV_PROJECT": "../third"}, third),
        ("run true", {"UV_PROJECT": "../other"}, other),
    ]
    for words, environ, expected in calls:
        found = find(words, environ)
        assert found is not None
        assert found.root == str(expected), (words, environ)
    for name in ("UV_PROJECT", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY"):
        found = find("sync", {name: "../other"}, shown="--project <PROJECT>")
        assert found is not None
        assert found.root == str(here), f"an old uv does not know {name}"


def test_symlinks(here: Path, tmp_path: Path) -> None:
    """As in uv, --project keeps symlinks, and the working directory's path has none."""
    (tmp_path / "link").symlink_to(here)
    found = find("sync --project ../link")
    assert found is not None
    assert found.root == str(tmp_path / "link")
    for words, environ in (("sync --directory ../link", {}), ("sync", {"UV_WORKING_DIR": str(tmp_path / "link")})):
        found = find(words, environ)
        assert found is not None
        assert found.root == str(here)


@pytest.mark.parametrize(
    ("words", "environ", "expected"),
    [
        ("sync", {"UV_PROJECT_ENVIRONMENT": "env"}, "here/env"),
        ("sync", {"UV_PROJECT_ENVIRONMENT": "../env"}, "env"),
        ("sync", {"UV_PROJECT_ENVIRONMENT": "/e/./x/../y/"}, "/e/y"),
        ("sync", {"UV_PROJECT_ENVIRONMENT": ""}, "here/.venv"),
        ("sync", {"VIRTUAL_ENV": "/v"}, "here/.venv"),
        ("sync --active", {"VIRTUAL_ENV": "/v"}, "/v"),
        ("sync --active", {"VIRTUAL_ENV": ""}, "here/.venv"),
        ("sync --active", {"VIRTUAL_ENV": "v", "UV_PROJECT_ENVIRONMENT": "env"}, "here/sub/v"),
        ("sync --active --no-active", {"VIRTUAL_ENV": "/v"}, "here/.venv"),
        ("sync --no-active --active", {"VIRTUAL_ENV": "/v"}, "/v"),
        ("run --active true --no-active", {"VIRTUAL_ENV": "/v"}, "/v"),
        ("run true --active", {"VIRTUAL_ENV": "/v"}, "here/.venv"),
        ("sync", {"UV_PROJECT_ENVIRONMENT": "../here-too"}, "here-too"),
    ],
)
def test_environments(words: str, environ: dict[str, str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "here/sub").mkdir()
    os.chdir(tmp_path / "here/sub")
    found = find(words, environ)
    assert found is not None
    assert found.environment == str(tmp_path / expected)


def test_a_script_in_another_project(here: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other")
    (other / "script.py").touch()
    (tmp_path / "script.py").touch()
    for words, old, new in (
        ("run ../other/script.py", here, other),
        ("run python ../other/script.py", here, here),
        ("run ../script.py", here, here),  # no project around it
        ("run --project . ../other/script.py", here, here),
        ("run --directory ../other script.py", other, other),
    ):
        for newest, expected in ((False, old), (True, new)):
            found = find(words, newest=newest)
            assert found is not None
            assert found.root == str(expected), (words, newest)
            assert found.found_by_script == (old != new and newest)


@pytest.mark.parametrize("value", ["1", "true", "TRUE", "t", "yes", "y", "on"])
def test_variables_that_make_a_call_harmless(value: str) -> None:
    for name in ("UV_NO_SYNC", "UV_NO_PROJECT", "UV_ISOLATED"):
        assert find("run true", {name: value}) is None
        assert find("sync", {name: value})
        assert find("run true", {name: "0"})
    assert find("run true", {"UV_ISOLATED": value}, shown="")
    for name in ("UV_FROZEN", "UV_LOCKED"):
        assert project.keeps_lockfile(parse("run true"), settings({name: value}))
        assert project.keeps_lockfile(parse("sync"), settings({name: value}))
        assert not project.keeps_lockfile(parse("add x"), settings({name: value}))
        assert not project.keeps_lockfile(parse("sync"), settings({name: "no"}))


def test_an_old_uv_writes_the_lockfile_in_isolation(here: Path) -> None:
    for words, environ in (("run --isolated x", {}), ("run x", {"UV_ISOLATED": "1"})):
        assert find(words, environ) is None
        found = find(words, environ, newest=False)
        assert found is not None
        assert (found.root, found.isolated) == (str(here), True)
        for unlocked in (f"run --frozen {words[4:]}", f"run --locked {words[4:]}", f"run --no-sync {words[4:]}"):
            assert find(unlocked, environ, newest=False) is None
    found = find("run x")
    assert found is not None
    assert not found.isolated


def test_help_is_asked_only_for_variables_that_are_set() -> None:
    def never(_subcommand: str) -> str:
        raise AssertionError

    assert Settings({}, never).get("UV_PROJECT", shown_as="UV_PROJECT=") is None
    assert Settings({"UV_NO_SYNC": "1"}, never).is_true("UV_NO_SYNC")


#: TOML 1.1, which Python 3.11 can't read: a line break in an inline table.
_TOML_1_1 = "[tool.uv]\nworkspace = {\n members = ['p/*'],\n}\n"


@pytest.mark.parametrize("spoilt", ["root", "member"])
def test_uv_is_asked_where_python_cannot_read_a_file(tmp_path: Path, spoilt: str) -> None:
    root = write(tmp_path / "w", _TOML_1_1 if spoilt == "root" else "[tool.uv.workspace]\nmembers = ['p/*']\n")
    member = write(root / "p/m", "[tool]\nx = {\n y = 1,\n}\n" if spoilt == "member" else "")
    os.chdir(member)
    answers = {str(member): str(root)}
    for ask, expected in ((answers.get, root), (lambda _: None, member)):
        found = project.find(parse("sync"), settings(), lambda _: True, ask)
        assert found is not None
        assert found.root == str(expected)


def test_uv_is_not_asked_where_python_can_read_all(tmp_path: Path) -> None:
    root = workspace(tmp_path / "w", "p/*")
    os.chdir(write(root / "p/m"))

    def never(_start: str) -> str | None:
        raise AssertionError

    found = project.find(parse("sync"), settings(), lambda _: True, never)
    assert found is not None
    assert found.root == str(root)
    os.chdir(write(tmp_path / "x", "[tool]\nx = {\n y = 1,\n}\n"))  # it can't say anything of workspaces
    assert project.find(parse("sync"), settings(), lambda _: True, never)


def test_an_empty_file_that_uv_is_writing_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pyproject.toml"
    path.touch()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            path.write_text("[project]\n")

    monkeypatch.setattr(time, "sleep", sleep)
    assert pyproject.read_text(str(path)) == "[project]\n"
    assert len(slept) == 2
    assert 0.01 <= sum(slept) < 0.1
