"""One command wires a whole machine, each way in leads through the shim, and undo leaves no trace."""

from __future__ import annotations

import os
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import filelock
import packaging
import pytest
from support.debian import DOCKER_PATH, SSH_PATH, Machine, machine
from support.herd import read_log
from support.uvs import uv

_ROOT = Path(__file__).parents[2]
_WORKER = ["python3", "/repo/hooks/worker"]
_WHEELS = "/wheels"
_TOML = '[project]\nname = "demo"\nversion = "0"\nrequires-python = ">=3.10"\n'
#: What uv's installer writes, word for word, but for the folder; cargo's is the same.
_ENV = """\
#!/bin/sh
# add binaries to PATH if they aren't added yet
# affix colons on either side of $PATH to simplify matching
case ":${{PATH}}:" in
    *:"$HOME/{folder}":*)
        ;;
    *)
        # Prepending path in case a system-installed binary needs to be overridden
        export PATH="$HOME/{folder}:$PATH"
        ;;
esac
"""
_USERS = ("root", "joe")
_PLACES = (".local/bin", "/usr/local/bin", ".cargo/bin")


def make_wheel_of(package: str, folder: Path) -> Path:
    """A wheel of an installed library, without the network."""
    module = {"filelock": filelock, "packaging": packaging}[package]
    place = Path(str(module.__file__)).parent
    wheel = folder / f"{package}-99.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in place.rglob("*.py"):
            archive.write(path, f"{package}/{path.relative_to(place)}")
    return wheel


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Machine]:
    """A bare worker with a clone of the repository, a wheelhouse and a project; no uv, no network needed."""
    with machine(tmp_path / "machine") as made:
        (tmp_path / "wheels").mkdir()
        for name in ("filelock", "packaging"):
            make_wheel_of(name, tmp_path / "wheels")
        made.copy(tmp_path / "wheels", _WHEELS)
        for name in ("src", "hooks", "pyproject.toml"):
            made.copy(_ROOT / name, f"/repo/{name}")
        for user in _USERS:
            made.write(f"/srv/{user}/pyproject.toml", _TOML, user=user)
        yield made


def give_uv(debian: Machine, place: str, user: str) -> None:
    """Put uv there, as its installer does for a user: with lines in the profiles, which want it first on PATH."""
    if place.startswith("/"):
        debian.copy(uv("newest"), f"{place}/uv")
        return
    home = "/root" if user == "root" else f"/home/{user}"
    debian.copy(uv("newest"), f"{home}/{place}/uv")
    folder = place.partition("/")[0]
    env = f"{folder}/env" if folder == ".cargo" else f"{place}/env"
    debian.write(f"{home}/{env}", _ENV.format(folder=place))
    for name in (".profile", ".bashrc"):
        with debian.path(f"{home}/{name}").open("a") as file:
            file.write(f'\n. "$HOME/{env}"\n')
    debian.write(f"{home}/.zshenv", f'. "$HOME/{env}"')  # no line end
    debian.write(f"{home}/.config/fish/conf.d/uv.env.fish", f'set -x PATH "$HOME/{place}" $PATH\n')
    debian.own(home, user)


def worker(debian: Machine, *words: str, user: str = "root") -> subprocess.CompletedProcess[str]:
    """Run hooks/worker offline."""
    wheels = [] if "--undo" in words else ["--wheelhouse", _WHEELS]
    return debian.run([*_WORKER, *wheels, *words], user=user)


def snapshot(debian: Machine) -> dict[str, object]:
    """All that the worker may touch: content, mode, owner."""
    seen: dict[str, object] = {}
    for top in ("etc", "root", "home", "usr/local", "opt"):
        for path in (debian.root / top).rglob("*"):
            status = path.lstat()
            kind = stat.S_IFMT(status.st_mode)
            content: object = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else kind
            seen[str(path.relative_to(debian.root))] = (content, status.st_mode, status.st_uid, status.st_gid)
    return seen


def changed(before: dict[str, object], after: dict[str, object]) -> set[str]:
    """Paths that differ."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def goes_through(debian: Machine, words: list[str], user: str, path: str = DOCKER_PATH, runs_as: str = "") -> str:
    """Run `uv sync` by this way in; say "shim", or what happened instead."""
    runs_as = runs_as or user
    log = debian.path(f"/srv/{runs_as}/log")
    before = len(read_log(log))
    line = f"cd /srv/{runs_as} && UV_MUTEX_LOG=/srv/{runs_as}/log UV_OFFLINE=1 uv sync -q"
    home = "/root" if user == "root" else f"/home/{user}"
    env = {"HOME": home, "USER": user, "PATH": path, "TERM": "dumb"}
    done = debian.run([*words, line], user=user, env=env)
    if done.returncode:
        return done.stderr
    return "shim" if len(read_log(log)) == before + 1 else "past the shim"


_SHELLS = [["bash", "-lc"], ["sh", "-lc"], ["bash", "-ic"], ["zsh", "-c"], ["zsh", "-ic"], ["fish", "-c"]]
_FORK = ["python3", "-c", "import subprocess, sys; sys.exit(subprocess.call(['sh', '-c', sys.argv[1]]))"]
_NO_PROFILE = [["sh", "-c"], ["bash", "-c"], _FORK]
_NO_UV = "uv-mutex: no uv on PATH besides the shim /usr/local/sbin/uv; install uv, or name it in UV_MUTEX_UV\n"


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("user", _USERS)
def test_every_way_in(user: str, place: str, debian: Machine) -> None:
    give_uv(debian, place, user)
    done = worker(debian, user=user)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "PAST" not in done.stdout
    for path in (DOCKER_PATH, SSH_PATH):
        for way in _SHELLS:
            assert goes_through(debian, way, user, path) == "shim", (way, path)
    assert goes_through(debian, ["su", "-", user, "-c"], "root", runs_as=user) == "shim"


@pytest.mark.parametrize("place", _PLACES)
def test_root_wires_what_reads_no_profile(place: str, debian: Machine) -> None:
    """As `docker exec CONTAINER uv …`, sudo and services without a PATH of their own do."""
    give_uv(debian, place, "root")
    worker(debian)
    everyones = place.startswith("/")
    for way in _NO_PROFILE:
        assert goes_through(debian, way, "root") == ("shim" if everyones else _NO_UV), way
    if everyones:
        for way in (*_SHELLS, *_NO_PROFILE):
            assert goes_through(debian, way, "joe") == "shim", way
        for way in (["su", "joe", "-c"], ["su", "-", "joe", "-c"], ["su", "joe", "-s", "/bin/bash", "-c"]):
            assert goes_through(debian, way, "root", SSH_PATH, runs_as="joe") == "shim", way


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("user", _USERS)
def test_twice_is_once_and_undo_leaves_no_trace(user: str, place: str, debian: Machine) -> None:
    give_uv(debian, place, user)
    before = snapshot(debian)
    first = worker(debian, user=user)
    assert first.returncode == 0, first.stderr
    wired = snapshot(debian)
    assert worker(debian, user=user).stdout == first.stdout
    assert changed(wired, snapshot(debian)) == set()
    undone = worker(debian, "--undo", user=user)
    assert undone.returncode == 0, undone.stderr
    assert changed(before, snapshot(debian)) == set()
    again = worker(debian, "--undo", user=user)
    prefix = "/opt/uv-mutex" if user == "root" else "/home/joe/.local/share/uv-mutex"
    assert (again.returncode, again.stderr) == (1, f"uv-mutex: nothing is installed in {prefix}; name its --prefix\n")
