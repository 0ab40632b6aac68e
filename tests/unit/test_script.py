"""A script with inline metadata has an environment of its own, in the cache, named as uv names it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import pytest

from uv_mutex.uv import cache_folder, cache_key, commandline, project, script
from uv_mutex.uv.project import Project
from uv_mutex.uv.script import Script
from uv_mutex.uv.settings import Settings

_METADATA = "# /// script\n# dependencies = []\n# ///\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with one script."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "s.py").write_text(_METADATA)
    monkeypatch.chdir(folder)
    return folder


def _settings(environ: Mapping[str, str]) -> Settings:
    return Settings(environ, lambda _: "")


def _find(words: str, environ: Mapping[str, str] | None = None) -> Project | None:
    call = commandline.parse(words.split(), lambda _: "", also=["lock"])
    assert call is not None
    return project.find(call, _settings({"UV_CACHE_DIR": "/c", **(environ or {})}), lambda _: True)


# What uv 0.5.31, 0.7.8, 0.8.24, 0.9.30 and 0.13.9 make of these paths.
@pytest.mark.parametrize(
    ("base", "path", "name"),
    [
        ("/tmp/gx", "d/../d/./My_s.Ü.py", "my-s-90a1699dac0e9ba0"),
        ("/tmp/gx", "d//My_s.Ü.py", "my-s-d545419e08de98a1"),
        ("/", "/tmp/gx/d/My_s.Ü.py", "my-s-d545419e08de98a1"),
    ],
)
def test_the_name_of_an_environment(base: str, path: str, name: str) -> None:
    assert cache_key.of_path(script.absolute(base, path)) == name


def test_the_name_of_an_environment_of_stdin() -> None:
    text = 'requires-python = ">=3.10"\ndependencies = []\n\n'
    assert Script(None, text).environment_name == "ed96ab211981921e"


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("/x/abc123.py", "abc123-"),
        ("/x/A__b.tar.py", "a-b-tar-"),
        ("/x/.py", "-py-"),
        ("/x/Ü_.py", ""),
        ("/x/\udcff.py", ""),
        ("/x/" + "n" * 120 + ".py", "n" * 100 + "-"),
    ],
)
def test_the_stem_is_in_the_name(path: str, stem: str) -> None:
    name = cache_key.of_path(path)
    assert name[:-16] == stem
    int(name[-16:], 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_METADATA, "dependencies = []\n"),
        (_METADATA.replace("\n", "\r\n"), "dependencies = []\n"),
        ("#!/usr/bin/env uv\n" + _METADATA + "print(1)\n", "dependencies = []\n"),
        ("# /// script\n#\n# a = 1\n#\n# ///\n#\n# ///\n# more\n", "\na = 1\n\n///\n\n"),  # the last end
        ("# /// script\n# a = 1\n#b\n# ///\n", None),
        ("# /// script\n# a = 1\n", None),
        ("x = '# /// script'\n" + _METADATA, None),
        ("", None),
    ],
)
def test_inline_metadata(text: str, expected: str | None) -> None:
    found = script.metadata(text.encode())
    assert found == expected
    if found:
        assert script.metadata(Script(None, found).text) == found


def test_a_script_that_runs(here: Path) -> None:
    name = cache_key.of_path(f"{here}/s.py")
    found = _find("run s.py")
    assert found is not None
    assert found.script is not None
    assert (found.root, found.environment) == (str(here), f"/c/environments-v2/{name}")
    assert (found.script.path, found.script.edited) == (f"{here}/s.py", False)
    assert found.lockfile == f"{here}/s.py.lock"
    # For such a script, uv ignores what it does for projects.
    for words in ("run --no-project s.py", "run --isolated -s s.py", "run --no-sync ./s.py", "sync --script s.py"):
        also = _find(words, {"UV_NO_SYNC": "1", "UV_NO_PROJECT": "1"})
        assert also is not None
        assert also.environment == found.environment
    for words in ("run --help s.py", "run python s.py", "sync --script s.py --dry-run", "run -n s.py"):
        assert _find(words) is None


def test_an_active_environment(here: Path) -> None:
    found = _find("run --active s.py", {"VIRTUAL_ENV": "v"})
    assert found is not None
    assert found.environment == f"{here}/v"


def test_a_script_that_says_nothing_of_dependencies(here: Path) -> None:
    """uv runs it in an environment that no other call uses, unless it has a lockfile."""
    (here / "s.py").write_text("# /// script\n# requires-python = '>=3.10'\n# ///\n")
    assert _find("run s.py") is None
    assert _find("sync --script s.py")
    (here / "s.py.lock").touch()
    assert _find("run s.py")
    (here / "s.py").write_text('# /// script\n# "d\\u0065pendencies" = []\n# ///\n')
    (here / "s.py.lock").unlink()
    assert _find("run s.py")


def test_a_script_that_is_edited(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub/link.py").symlink_to("../s.py")
    for words in ("add --script sub/link.py six", "remove --script=sub/link.py six", "lock --script sub/link.py"):
        found = _find(f"{words} -n")
        assert found is not None
        assert found.script is not None
        assert (found.root, found.script.path, found.script.edited) == (str(here), f"{here}/sub/link.py", True)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("dependencies = ['six']", False),
        ("dependencies = ['six @ https://host/six.whl']", False),
        ("dependencies = ['six @ file:///six.whl']", True),
        ("dependencies = ['six @ ../six']", True),
        ("dependencies = ['six']\n[tool.uv.sources]\nsix = {path = 'six'}", True),
        ("dependencies = [", True),
    ],
)
def test_local_sources(text: str, local: bool) -> None:
    assert Script("/s.py", text).has_local_sources is local


@pytest.mark.parametrize(
    ("words", "environ", "files", "expected"),
    [
        ("run", {"HOME": "/h"}, {}, "/h/.cache/uv"),
        ("run", {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, {}, "/x/uv"),
        ("run", {"HOME": "/h", "XDG_CACHE_HOME": "x"}, {}, "/h/.cache/uv"),
        ("run", {"HOME": "/h", "UV_CACHE_DIR": "c/../d"}, {}, "/base/d"),
        ("run --cache-dir e", {"UV_CACHE_DIR": "c"}, {}, "/base/e"),
        ("run", {"HOME": "/h"}, {"uv.toml": "cache-dir = '/u'"}, "/u"),
        ("run", {"HOME": "/h"}, {"../uv.toml": "cache-dir = '/u'"}, "/u"),
        ("run", {"HOME": "/h"}, {"pyproject.toml": "tool.uv.cache-dir = '/p'"}, "/p"),
        (
            "run",
            {"HOME": "/h"},
            {"pyproject.toml": "tool.uv.cache-dir = '/p'", "s.py": "tool.uv.cache-dir = 's'"},
            "/base/s",
        ),
        ("run", {"HOME": "/h"}, {"uv.toml": "", "pyproject.toml": "tool.uv.cache-dir = '/p'"}, "/h/.cache/uv"),
        ("run", {"HOME": "/h"}, {"pyproject.toml": "[tool.x]", "../uv.toml": "cache-dir = '/u'"}, "/u"),
        ("run --no-config", {"HOME": "/h"}, {"uv.toml": "cache-dir = '/u'"}, "/h/.cache/uv"),
        ("run", {"HOME": "/h", "UV_NO_CONFIG": "1"}, {"uv.toml": "cache-dir = '/u'"}, "/h/.cache/uv"),
        ("run", {"HOME": "/h", "XDG_CONFIG_HOME": "{here}/k"}, {"k/uv/uv.toml": "cache-dir = '/k'"}, "/k"),
        ("run", {"HOME": "{here}/m"}, {"m/.config/uv/uv.toml": "cache-dir = '/m'"}, "/m"),
        ("run", {"HOME": "/h", "XDG_CONFIG_DIRS": "{here}/y"}, {"y/uv/uv.toml": "cache-dir = '/y'"}, "/y"),
        ("run --config-file {here}/f", {}, {"f": "cache-dir = '/f'", "uv.toml": "cache-dir = '/u'"}, "/f"),
        ("run", {"UV_CONFIG_FILE": "{here}/f"}, {"f": "cache-dir = '/f'"}, "/f"),
        ("run", {"HOME": "/h"}, {"uv.toml": "no-cache = true"}, None),
        ("run", {"UV_NO_CACHE": "1"}, {}, None),
        ("-n run", {}, {}, None),
    ],
)
def test_the_cache(
    here: Path, words: str, environ: dict[str, str], files: dict[str, str], expected: str | None
) -> None:
    for name, text in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    call = commandline.parse(words.format(here=here).split(), lambda _: "")
    assert call is not None
    own = Script("/s.py", files.get("s.py", "")).settings()
    found = {name: value.format(here=here) for name, value in environ.items()}
    assert cache_folder.find(call, _settings(found), "/base", str(here), own) == expected


def test_the_cache_of_a_user_without_home() -> None:
    call = commandline.parse(["run"], lambda _: "")
    assert call is not None
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert cache_folder.find(call, _settings({}), "/", "/", {}) == f"{home}/.cache/uv"
