"""Scripts with inline metadata: edits keep each other's work, and jobs with a TMPDIR of their own prepare once.

uv's own locks lie in TMPDIR, and those of jobs and containers differ.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.herd import Outcome, explain, failures, herd, read_log
from support.index import LocalIndex
from support.project import Project
from support.uvs import PINNED_NEWEST, all_versions
from support.wheels import make_wheel

from uv_mutex.errors import TIMED_OUT
from uv_mutex.uv import cache_folder, cache_key, commandline
from uv_mutex.uv.script import absolute
from uv_mutex.uv.settings import Settings

_RUNS = 24
_EDITS = 8
_ENVIRONMENTS = "environments-v2"


class _Scripts:
    """A folder with the script s.py, in no project."""

    def __init__(self, folder: Path, project: Project, index: LocalIndex) -> None:
        self.folder = folder
        self.cache = folder.parent / "cache"
        self._project = project
        self._index = index
        folder.mkdir()

    def write(self, *dependencies: str, body: str = "", more: str = "") -> Path:
        """Write the script."""
        lines = ['requires-python = ">=3.10"', f"dependencies = {json.dumps(dependencies)}", *more.splitlines()]
        lines += ["[[tool.uv.index]]", f'url = "{self._index.url}"', "default = true"]
        script = self.folder / "s.py"
        script.write_text("\n".join(["# /// script", *(f"# {line}" for line in lines), "# ///", body, ""]))
        return script

    def env(self, uv_version: str, *, shimmed: bool = True, **extra: str) -> dict[str, str]:
        """The environment block of a call."""
        return self._project.env(uv_version, shimmed=shimmed, UV_CACHE_DIR=str(self.cache), **extra)

    def run(self, env: Mapping[str, str], *words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
        """Call uv in the folder."""
        defaults = {"cwd": self.folder, "stdin": subprocess.DEVNULL, "timeout": 120, **options}
        return subprocess.run(["uv", *words], env=env, capture_output=True, check=False, **defaults)  # type: ignore[call-overload,no-any-return]

    def environment(self) -> Path:
        """The folder of the environment of s.py."""
        return self.cache / _ENVIRONMENTS / cache_key.of_path(str(self.folder / "s.py"))

    def jobs(self, env: Mapping[str, str], command: list[str]) -> list[Outcome]:
        """Call this many times at once, each with a TMPDIR of its own."""
        commands = []
        for number in range(_RUNS):
            temporary = self.folder.parent / f"tmp{number}"
            temporary.mkdir(exist_ok=True)
            commands.append(["env", f"TMPDIR={temporary}", *command])
        return herd(commands, env=env, cwd=self.folder)


@pytest.fixture
def scripts(tmp_path: Path, project_factory: Callable[..., Project], index: LocalIndex) -> _Scripts:
    return _Scripts(tmp_path / "scripts", project_factory(), index)


def _wide(index: LocalIndex) -> list[str]:
    """Packages that take uv a while to install, and in which two uvs get into each other's way."""
    names = [f"part{number}" for number in range(12)]
    for name in names:
        make_wheel(index.folder, name, files=40, data_files=40)
    return names


def _checking(names: list[str]) -> str:
    return f"import {', '.join(names)}\nfor package in ({', '.join(names)},):\n    package.check()"


# --- jobs with a TMPDIR of their own

_COMMANDS = {
    "run": ["uv", "run", "-q", "s.py"],
    "run --script": ["uv", "run", "-q", "--no-project", "--script", "s.py"],
    "stdin": ["sh", "-c", "exec uv run -q - < s.py"],
    "sync": ["uv", "sync", "-q", "--script", "s.py"],
}


@pytest.mark.serial
@pytest.mark.parametrize(("uv_version", "kind"), [*(("newest", kind) for kind in _COMMANDS), ("0.7.8", "run")])
def test_jobs_prepare_once(uv_version: str, kind: str, scripts: _Scripts, index: LocalIndex, tmp_path: Path) -> None:
    names = _wide(index)
    scripts.write(*names, body=_checking(names))
    log = tmp_path / "log"
    env = scripts.env(uv_version, UV_MUTEX_LOG=str(log))
    outcomes = scripts.jobs(env, _COMMANDS[kind])
    assert not failures(outcomes), explain(outcomes)
    assert [line["prepared"] for line in read_log(log)].count(True) == 1
    assert set(index.downloads.values()) == {1}
    # Nothing is left where the script lies, and the next call finds all as it should be.
    assert [path.name for path in scripts.folder.iterdir()] == ["s.py"]
    log.unlink()
    assert scripts.jobs(env, _COMMANDS[kind])
    assert not any(line["prepared"] for line in read_log(log))


@pytest.mark.serial
@pytest.mark.parametrize(("uv_version", "kind"), [*((PINNED_NEWEST, kind) for kind in _COMMANDS), ("0.7.8", "run")])
def test_control_jobs(uv_version: str, kind: str, scripts: _Scripts, index: LocalIndex) -> None:
    names = _wide(index)
    scripts.write(*names, body=_checking(names))
    env = scripts.env(uv_version, shimmed=False)
    for _ in range(8):
        if failures(scripts.jobs(env, _COMMANDS[kind])):
            return
        shutil.rmtree(scripts.cache / _ENVIRONMENTS)
    pytest.fail("no call failed")


# --- edits


def _edit(scripts: _Scripts, index: LocalIndex, uv_version: str, *, shimmed: bool) -> int:
    """Add packages to a script at once, half of them by another path; return how many it has then."""
    names = [f"part{number}" for number in range(_EDITS)]
    for name in names:
        make_wheel(index.folder, name)
    script = scripts.write()
    (scripts.folder.parent / "link.py").symlink_to(script)
    paths = [str(script), "../link.py"]
    words = [["uv", "add", "--script", paths[at % 2], name] for at, name in enumerate(names)]
    outcomes = herd(words, env=scripts.env(uv_version, shimmed=shimmed), cwd=scripts.folder)
    if shimmed:
        assert not failures(outcomes), explain(outcomes)
    return len(set(re.findall(r"part\d", script.read_text())))


@pytest.mark.serial
@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
def test_eight_edits_of_a_script_are_kept(uv_version: str, scripts: _Scripts, index: LocalIndex) -> None:
    assert _edit(scripts, index, uv_version, shimmed=True) == _EDITS


@pytest.mark.serial
@pytest.mark.parametrize("uv_version", ["0.7.8", PINNED_NEWEST])
def test_control_eight_edits_of_a_script(uv_version: str, scripts: _Scripts, index: LocalIndex) -> None:
    assert _edit(scripts, index, uv_version, shimmed=False) < _EDITS


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(exist_ok=True)
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_what_takes_the_lock_of_a_script(scripts: _Scripts, index: LocalIndex) -> None:
    make_wheel(index.folder, "part0")
    scripts.write("part0")
    env = scripts.env("newest", UV_MUTEX_TIMEOUT="0.2", UV_MUTEX_ALSO="lock")
    edits = [["add", "--script", "s.py", "part0"], ["remove", "--script=s.py", "part0"], ["lock", "--script", "s.py"]]
    uses = [["run", "s.py"], ["sync", "--script", "s.py"]]
    with _held(scripts.folder / ".uv-mutex/s.py.lock"):
        assert [scripts.run(env, *words).returncode for words in edits] == [TIMED_OUT] * 3
        assert [scripts.run(env, *words).returncode for words in uses] == [0, 0]
    with _held(scripts.cache / _ENVIRONMENTS / f".uv-mutex/{scripts.environment().name}.lock"):
        assert [scripts.run(env, *words).returncode for words in uses] == [TIMED_OUT] * 2
        assert [scripts.run(env, *words).returncode for words in edits] == [0] * 3
    # Now it has a lockfile, which each run and sync of it may write.
    assert (scripts.folder / "s.py.lock").exists()
    with _held(scripts.folder / ".uv-mutex/s.py.lock"):
        assert [scripts.run(env, *words).returncode for words in uses] == [TIMED_OUT] * 2
        assert scripts.run(env, "run", "--frozen", "s.py").returncode == 0


# --- fresh


def _prepared(scripts: _Scripts, log: Path, *words: str, uv_version: str = "newest") -> bool:
    """Whether a call prepares the script's environment."""
    log.unlink(missing_ok=True)
    done = scripts.run(scripts.env(uv_version, UV_MUTEX_LOG=str(log)), *words)
    assert done.returncode == 0, done.stderr.decode()
    (line,) = read_log(log)
    assert isinstance(line["prepared"], bool)
    return line["prepared"]


@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
def test_only_a_change_makes_it_prepare_again(
    uv_version: str, scripts: _Scripts, index: LocalIndex, tmp_path: Path
) -> None:
    for number in range(3):
        make_wheel(index.folder, f"part{number}")
    scripts.write("part0", body="import part0")
    log = tmp_path / "log"

    def prepares(*words: str) -> bool:
        return _prepared(scripts, log, *(words or ["run", "s.py"]), uv_version=uv_version)

    assert prepares()
    assert not prepares()
    assert not prepares("run", "-q", "--script", "s.py", "word")
    scripts.write("part0", "part1", body="import part1")
    assert prepares()
    assert not prepares()
    shutil.rmtree(next(scripts.environment().glob("lib/*/site-packages/part1")))
    shutil.rmtree(next(scripts.environment().glob("lib/*/site-packages/part1-*")))
    assert prepares()
    shutil.rmtree(scripts.environment())
    assert prepares("sync", "--script", "s.py")
    assert not prepares()
    assert prepares("run", "--reinstall", "s.py")
    (scripts.folder / "uv.toml").write_text("")
    assert prepares()
    assert scripts.run(scripts.env(uv_version), "lock", "--script", "s.py").returncode == 0
    assert prepares()
    assert not prepares()


def test_a_local_package_is_prepared_each_time(scripts: _Scripts, tmp_path: Path, index: LocalIndex) -> None:
    wheel = make_wheel(index.folder, "part0")
    scripts.write(f"part0 @ {wheel.as_uri()}", body="import part0")
    log = tmp_path / "log"
    assert _prepared(scripts, log, "run", "s.py")
    assert _prepared(scripts, log, "run", "s.py")


# --- what uv says is what it says without the shim


@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
@pytest.mark.parametrize(
    "words",
    [
        ["run", "s.py", "a", "-q"],
        ["run", "--script", "s.py"],
        ["run", "--exact", "--all-extras", "--with", "part1", "--active", "./s.py"],
        ["run", "--locked", "s.py"],
        ["run", "--no-sync", "--isolated", "--extra", "x", "--group", "y", "s.py"],
        ["run", "--no-project", "--no-dev", "s.py"],
        ["run", "--no-project", "--package", "x", "s.py"],
        ["run", "--no-cache", "s.py"],
        ["sync", "--script", "s.py"],
        ["sync", "--script", "missing.py"],
        ["add", "--script", "missing.py", "part1"],
    ],
)
def test_the_outcome_is_uvs_own(uv_version: str, words: list[str], scripts: _Scripts, index: LocalIndex) -> None:
    for name in ("part0", "part1"):
        make_wheel(index.folder, name)
    script = scripts.write("part0", body="import sys, part0\nprint(sys.argv, sys.prefix)\nsys.exit(5)")
    outcomes, made = [], []
    for shimmed in (True, False):
        done = scripts.run(scripts.env(uv_version, shimmed=shimmed), *words)
        environments = sorted(path.name for path in scripts.cache.glob("environments-*/*") if path.name[0] != ".")
        stdout = re.sub(rb"[^ ]+/(builds|archive)-v\d+/[^ ]+|/tmp/[^/]+(?=/environments)", b"TEMPORARY", done.stdout)
        outcomes.append((done.returncode, stdout, script.read_text()))
        made.append(environments)
        shutil.rmtree(scripts.cache, ignore_errors=True)
    assert outcomes[0] == outcomes[1]
    # Where uv refuses the call, the preparation may not have known.
    assert made[0] == made[1] or (outcomes[1][0] == 2 and not made[1])


@pytest.mark.parametrize("stdin", [False, True])
def test_a_script_whose_dependencies_are_missing(stdin: bool, scripts: _Scripts) -> None:
    script = scripts.write("no-such-part")
    outcomes = []
    for shimmed in (True, False):
        with script.open("rb") as file:
            words = ["run", "-"] if stdin else ["run", "s.py"]
            done = scripts.run(scripts.env("newest", shimmed=shimmed), *words, stdin=file)
        outcomes.append((done.returncode, done.stdout, done.stderr))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0]


# --- where uv keeps the environment


@all_versions
@pytest.mark.parametrize("path", ["s.py", "../scripts/./s.py", "//{folder}//s.py", "../link.py", "My_Ü.tar.py"])
def test_the_name_of_the_environment(uv_version: str, path: str, scripts: _Scripts) -> None:
    script = scripts.write()
    (scripts.folder / "My_Ü.tar.py").write_text(script.read_text())
    (scripts.folder.parent / "link.py").symlink_to(script)
    path = path.format(folder=scripts.folder)
    done = scripts.run(scripts.env(uv_version, shimmed=False), "run", path)
    assert done.returncode == 0, done.stderr.decode()
    (made,) = scripts.cache.glob("environments-*/*")
    assert made.name == cache_key.of_path(absolute(str(scripts.folder), path))


@all_versions
def test_the_cache_is_where_uv_says(uv_version: str, scripts: _Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    here = scripts.folder
    monkeypatch.chdir(here)
    (here / "sub").mkdir()
    configured = {
        "uv.toml": 'cache-dir = "of-uv-toml"',
        "sub/pyproject.toml": '[tool.uv]\ncache-dir = "/of-pyproject"',
        "user/uv/uv.toml": 'cache-dir = "/of-user"',
        "named": 'cache-dir = "of-named"',
    }
    cases = [
        ([], {}, []),
        ([], {"XDG_CACHE_HOME": "/x"}, []),
        ([], {"XDG_CACHE_HOME": "x"}, []),
        ([], {"UV_CACHE_DIR": "of-variable"}, ["uv.toml"]),
        (["--cache-dir", "of-option"], {"UV_CACHE_DIR": "of-variable"}, []),
        ([], {}, ["uv.toml"]),
        (["--directory", "sub"], {}, ["sub/pyproject.toml", "uv.toml"]),
        (["--directory", "sub"], {}, ["uv.toml"]),
        (["--no-config"], {}, ["uv.toml"]),
        ([], {"XDG_CONFIG_HOME": str(here / "user")}, ["user/uv/uv.toml"]),
        ([], {"XDG_CONFIG_HOME": str(here / "user")}, ["user/uv/uv.toml", "uv.toml"]),
        (["--config-file", "named"], {}, ["named", "uv.toml"]),
    ]
    for options, extra, files in cases:
        for name in configured:
            (here / name).unlink(missing_ok=True)
        for name in files:
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text(configured[name])
        env = {**scripts.env(uv_version, shimmed=False), **extra}
        if "UV_CACHE_DIR" not in extra:
            del env["UV_CACHE_DIR"]
        call = commandline.parse([*options, "run", "s.py"], lambda _: "")
        assert call is not None
        base = str(here / (call.value("--directory") or ""))
        said = scripts.run(env, *options, "cache", "dir").stdout.decode().strip()
        found = cache_folder.find(call, Settings(env, lambda _: ""), base.rstrip("/"), base.rstrip("/"), {})
        assert found == str(Path(base, said)), (options, extra, files)
