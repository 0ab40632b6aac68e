"""Many uv calls at once on one project: with the shim all is well; the same load without it goes wrong.

Each race has a control, which shows that the load is one that uv of that version cannot bear.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.herd import Outcome, explain, failures, herd, read_log
from support.index import LocalIndex
from support.project import Project, run
from support.shim import LAUNCHERS
from support.uvs import VERSIONS, index_variables, pinned_and_newest
from support.wheels import make_sdist, make_wheel, project_table, slow_backend

# They keep every core busy, and a control needs calls that really run at the same time.
pytestmark = pytest.mark.serial

Factory = Callable[..., Project]

#: Of what uv issue 12751 installs, the one that fails there: 112 packages. The rest is 1 GB that only takes time.
_ISSUE_12751 = ["jupyter"]
_SYNC = ["uv", "sync"]
_RUN_TRUE = ["uv", "run", "true"]
_LATENCY = 0.05
_BUILD_SECONDS = 6


# --- 1: a cold cache, no environment


def _clean_rounds(project: Project, index: LocalIndex, env: Mapping[str, str], rounds: int) -> list[str]:
    """The rounds of `uv cache clean; rm -rf .venv; uv sync & uv sync & wait` that went wrong, and how."""
    once = {archive.name: 1 for archive in index.folder.iterdir()}
    wrong = []
    assert run(project, ["uv", "lock"], env).returncode == 0
    for number in range(rounds):
        cleaned = run(project, ["uv", "cache", "clean"], env)
        assert cleaned.returncode == 0, cleaned.stderr.decode()
        shutil.rmtree(project.venv, ignore_errors=True)
        index.reset()
        outcomes = herd([_SYNC] * 2, env=env, cwd=project.root)
        if failures(outcomes) or index.downloads != once or index.ranges:
            fetched = index.downloads.total() + index.ranges.total()
            wrong.append(f"round {number}: {fetched} fetches of {len(once)} files, {explain(outcomes)}")
    return wrong


@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
def test_two_syncs_with_a_cold_cache_fetch_every_file_once(
    uv_version: str, index: LocalIndex, project_factory: Factory
) -> None:
    project = project_factory(dependencies=_wide(index, wheels=8, files=10))
    index.latency = _LATENCY
    wrong = _clean_rounds(project, index, project.env(uv_version), rounds=12)
    assert not wrong, "\n".join(wrong)


def test_control_two_syncs_with_a_cold_cache(index: LocalIndex, project_factory: Factory) -> None:
    project = project_factory(dependencies=_wide(index, wheels=8, files=10))
    index.latency = _LATENCY
    wrong = _clean_rounds(project, index, project.env("0.7.8", shimmed=False), rounds=4)
    assert wrong


# --- 2: a hundred runs


def test_hundred_runs_prepare_once(index: LocalIndex, project_factory: Factory, tmp_path: Path) -> None:
    project = project_factory(dependencies=_wide(index))
    log = tmp_path / "log"
    outcomes = herd([_RUN_TRUE] * 100, env=project.env("0.7.8", UV_MUTEX_LOG=str(log)), cwd=project.root)
    assert not failures(outcomes), explain(outcomes)
    lines = read_log(log)
    assert Counter(line["prepared"] for line in lines) == {True: 1, False: 99}
    assert set(index.downloads.values()) == {1}
    # By their own words, too, those who waited went on after the one that prepared had let go. Not quite each: a call
    # can lose its core between the two clocks that it reads when it begins.
    over: dict[bool, list[float]] = {True: [], False: []}
    for line in lines:
        if line["prepared"] or line["waited"]:
            over[line["prepared"]].append(line["time"] + line["waited"] + line["held"])
    early = sum(end < over[True][0] for end in over[False])
    assert early <= 3


def test_control_thirty_runs(index: LocalIndex, project_factory: Factory) -> None:
    # Thirty, since each of them unpacks and links everything: a hundred take a minute.
    project = project_factory(dependencies=_wide(index))
    outcomes = herd([_RUN_TRUE] * 30, env=project.env("0.7.8", shimmed=False), cwd=project.root)
    assert len(failures(outcomes)) > 15, explain(outcomes)


def test_commands_of_runs_overlap(index: LocalIndex, project_factory: Factory) -> None:
    project = project_factory(dependencies=_wide(index))
    # Each goes on until all have started. One that is held back for the time of another's command would be missed.
    started = project.root.parent / "started"
    meet = (
        f"echo >>{started}; for _ in $(seq 600); do [ $(wc -l <{started}) -lt 30 ] || exit 0; sleep 0.1; done; exit 1"
    )
    outcomes = herd([["uv", "run", "sh", "-c", meet]] * 30, env=project.env("0.7.8"), cwd=project.root)
    assert not failures(outcomes), explain(outcomes)


# --- 3: edits


@pytest.fixture
def shelf(index: LocalIndex) -> list[str]:
    """Twenty small packages."""
    names = [f"part{number}" for number in range(20)]
    for name in names:
        make_wheel(index.folder, name)
    return names


@pytest.mark.parametrize("shim", LAUNCHERS, indirect=True)
@pytest.mark.usefixtures("shim")
def test_twenty_adds_keep_all(shelf: list[str], project_factory: Factory) -> None:
    project = project_factory()
    env = project.env("newest")
    outcomes = herd([["uv", "add", name] for name in shelf], env=env, cwd=project.root)
    assert not failures(outcomes), explain(outcomes)
    state = _State.read(project, env)
    assert state.declared == state.installed == set(shelf)
    assert state.locked == {*shelf, project.name}
    assert state.lock_agrees
    program = f"import {', '.join(shelf)}"
    # --no-sync: what the adds left, not what a sync would make of it.
    assert run(project, ["uv", "run", "--no-sync", "python", "-c", program], env).returncode == 0


@pinned_and_newest
def test_control_twenty_adds(uv_version: str, shelf: list[str], project_factory: Factory) -> None:
    project = project_factory()
    env = project.env(uv_version, shimmed=False)
    outcomes = herd([["uv", "add", name] for name in shelf], env=env, cwd=project.root)
    said_done = len(shelf) - len(failures(outcomes))
    assert said_done >= 10, explain(outcomes)
    # By its text: two that write at once can leave what is no TOML.
    text = project.pyproject.read_text()
    assert sum(f'"{name}>=' in text for name in shelf) <= said_done / 2


def _edits(shelf: list[str]) -> list[list[str]]:
    """Five each of add, remove, bump and sync, in turn; what they leave does not depend on their order."""
    calls = []
    for added, removed in zip(shelf[:5], shelf[10:15], strict=True):
        calls += [["uv", "add", added], ["uv", "remove", removed], ["uv", "version", "--bump", "patch"], _SYNC]
    return calls


def test_mixed_edits_end_as_one_by_one(shelf: list[str], project_factory: Factory) -> None:
    serial = project_factory("serial", dependencies=shelf[10:])
    env = serial.env("newest", shimmed=False)
    for call in _edits(shelf):
        assert run(serial, call, env).returncode == 0
    expected = _State.read(serial, env)
    assert expected.declared == expected.installed == {*shelf[:5], *shelf[15:]}
    assert expected.version == "0.1.5"

    project = project_factory(dependencies=shelf[10:])
    env = project.env("newest")
    outcomes = herd(_edits(shelf), env=env, cwd=project.root)
    assert not failures(outcomes), explain(outcomes)
    assert _State.read(project, env) == expected


@pinned_and_newest
def test_control_mixed_edits(uv_version: str, shelf: list[str], project_factory: Factory) -> None:
    project = project_factory(dependencies=shelf[10:])
    env = project.env(uv_version, shimmed=False)
    herd(_edits(shelf), env=env, cwd=project.root)
    text = project.pyproject.read_text()  # two that write at once can leave what is no TOML
    declared = {name for name in shelf if f'"{name}' in text}
    assert declared != {*shelf[:5], *shelf[15:]} or 'version = "0.1.5"' not in text


def _edits_and_runs(shelf: list[str]) -> list[list[str]]:
    calls = []
    for name in shelf:
        calls += [["uv", "add", name], _RUN_TRUE, ["uv", "version", "--bump", "patch"], _RUN_TRUE]
    return calls


def test_runs_beside_edits(shelf: list[str], project_factory: Factory) -> None:
    """An edit doesn't begin before the uv of a run, which has given the lock back, is through with its check."""
    project = project_factory(backend_source=slow_backend(0.05))
    env = project.env("0.7.8")
    for _ in range(2):
        outcomes = herd(_edits_and_runs(shelf), env=env, cwd=project.root)
        assert not failures(outcomes), explain(outcomes)
        state = _State.read(project, env)
        assert state.declared == set(shelf)
        assert state.lock_agrees
        assert run(project, ["uv", "remove", *shelf], env).returncode == 0


def test_control_runs_beside_edits(shelf: list[str], project_factory: Factory) -> None:
    project = project_factory(backend_source=slow_backend(0.05))
    outcomes = herd(_edits_and_runs(shelf), env=project.env("0.7.8", shimmed=False), cwd=project.root)
    assert len(failures(outcomes)) > 5, explain(outcomes)


# --- 4: a build that outlasts uv's own patience


def _syncs_of_a_slow_build(
    project: Project, index: LocalIndex, uv_version: str = "newest", *, shimmed: bool
) -> list[Outcome]:
    env = project.env(uv_version, shimmed=shimmed, UV_LOCK_TIMEOUT="2")
    built = f"open({str(project.root.parent / 'built')!r}, 'a').write('x')"
    make_sdist(index.folder, "slow", backend_source=slow_backend(_BUILD_SECONDS, built))
    return herd([_SYNC] * 10, env=env, cwd=project.root)


def test_waiters_outlast_a_build_longer_than_uv_waits(index: LocalIndex, project_factory: Factory) -> None:
    project = project_factory(dependencies=["slow"])
    outcomes = _syncs_of_a_slow_build(project, index, shimmed=True)
    assert not failures(outcomes), explain(outcomes)
    assert (project.root.parent / "built").read_text() == "x"  # once, not by one after the other


@pinned_and_newest
def test_control_a_build_longer_than_uv_waits(uv_version: str, index: LocalIndex, project_factory: Factory) -> None:
    outcomes = _syncs_of_a_slow_build(project_factory(dependencies=["slow"]), index, uv_version, shimmed=False)
    assert len(failures(outcomes)) > 5, explain(outcomes)


# --- every version


@pytest.mark.parametrize(
    ("uv_version", "shim"),
    [*((version, "native") for version in VERSIONS), ("0.7.8", "python")],
    indirect=["shim"],
)
@pytest.mark.usefixtures("shim")
def test_runs_and_syncs_side_by_side(
    uv_version: str, index: LocalIndex, project_factory: Factory, tmp_path: Path
) -> None:
    names = _wide(index)
    project = project_factory(dependencies=names)
    log = tmp_path / "log"
    check = ["uv", "run", "python", "-c", _checking(names)]
    outcomes = herd([_SYNC, check] * 12, env=project.env(uv_version, UV_MUTEX_LOG=str(log)), cwd=project.root)
    assert not failures(outcomes), explain(outcomes)
    assert set(index.downloads.values()) == {1}
    lines = read_log(log)
    prepared = Counter(line["command"].split()[1] for line in lines if line["prepared"])
    assert len(lines) == 24
    # A sync prepares for the runs too. A run doesn't for the syncs, which remove what nothing asks for.
    assert prepared in ({"sync": 1}, {"sync": 1, "run": 1})


@pytest.mark.parametrize("uv_version", ["0.5.31", "0.7.8"])
def test_control_runs_and_syncs_side_by_side(uv_version: str, index: LocalIndex, project_factory: Factory) -> None:
    # The newer ones bear it.
    names = _wide(index)
    project = project_factory(dependencies=names)
    check = ["uv", "run", "python", "-c", _checking(names)]
    outcomes = herd([_SYNC, check] * 6, env=project.env(uv_version, shimmed=False), cwd=project.root)
    assert len(failures(outcomes)) >= 3, explain(outcomes)


# --- work that is done anew each time

_REINSTALL = ["uv", "run", "--reinstall-package", "part0", "true"]


def test_reinstalling_runs_keep_out_of_each_others_way(index: LocalIndex, project_factory: Factory) -> None:
    """No uv fails over another's half-installed package, and the environment ends whole.

    Not shown, since nobody could: that a package stays in place under one call's command while the next call, which
    was told to, installs it anew. No lock is held then.
    """
    names = _wide(index, wheels=1, files=600)
    project = project_factory(dependencies=names)
    env = project.env("0.7.8")
    assert run(project, _SYNC, env).returncode == 0
    outcomes = herd([_REINSTALL] * 10, env=env, cwd=project.root)
    assert not failures(outcomes), explain(outcomes)
    done = run(project, ["uv", "run", "--no-sync", "python", "-c", _checking(names)], env)
    assert done.returncode == 0, done.stderr.decode()


def test_control_reinstalling_runs(index: LocalIndex, project_factory: Factory) -> None:
    project = project_factory(dependencies=_wide(index, wheels=1, files=600))
    env = project.env("0.7.8", shimmed=False)
    assert run(project, _SYNC, env).returncode == 0
    _assert_fails_soon(lambda: herd([_REINSTALL] * 10, env=env, cwd=project.root))


# --- the real thing


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for what comes from the real index; 60 MB are fetched once."""
    return tmp_path_factory.mktemp("real-cache")


def _real_project(project: Project, cache: Path, *, shimmed: bool) -> dict[str, str]:
    """Turn the project into that of uv issue 12751, with a warm cache and no environment; return the environment."""
    project.pyproject.write_text(project_table(project.name, "0.1.0", _ISSUE_12751))
    way = {"UV_NATIVE_TLS": "1", "UV_CACHE_DIR": str(cache), **index_variables("UV_DEFAULT_INDEX")}
    env = project.env("0.7.8", shimmed=shimmed, **way)
    done = run(project, _SYNC, env)
    assert done.returncode == 0, done.stderr.decode()
    shutil.rmtree(project.venv)
    return env


@pytest.mark.network
@pytest.mark.timeout(900)
def test_issue_12751(project_factory: Factory, real_cache: Path) -> None:
    project = project_factory()
    env = _real_project(project, real_cache, shimmed=True)
    outcomes = herd([_SYNC] * 10, env=env, cwd=project.root)
    assert not failures(outcomes), explain(outcomes)
    program = "import ipykernel, jupyterlab, nbconvert, notebook"
    done = run(project, ["uv", "run", "--no-sync", "python", "-c", program], env)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.network
@pytest.mark.timeout(900)
def test_control_issue_12751(project_factory: Factory, real_cache: Path) -> None:
    project = project_factory()
    env = _real_project(project, real_cache, shimmed=False)

    def syncs() -> list[Outcome]:
        shutil.rmtree(project.venv, ignore_errors=True)
        return herd([_SYNC] * 10, env=env, cwd=project.root)

    _assert_fails_soon(syncs)


# --- what they share


def _wide(index: LocalIndex, *, wheels: int = 20, files: int = 75) -> list[str]:
    """Make wheels whose installation is a wide race; return their names.

    Modules alone are no race: uv links over what another uv has linked. Data files, as jupyter's wheels bring them,
    are first linked into site-packages and then moved from there, by every uv that installs them.
    """
    names = [f"part{number}" for number in range(wheels)]
    for name in names:
        make_wheel(index.folder, name, files=files, data_files=files)
    return names


def _checking(names: list[str]) -> str:
    """A program that fails unless each package is whole."""
    return f"import {', '.join(names)}\nfor package in ({', '.join(names)},): package.check()"


def _assert_fails_soon(load: Callable[[], list[Outcome]]) -> None:
    """At least one call of the load fails, if not the first time, then the next."""
    rounds = []
    for _ in range(8):
        rounds.append(load())
        if failures(rounds[-1]):
            return
    pytest.fail(f"without the shim, {sum(map(len, rounds))} calls all succeeded")


class _State:
    """What a project holds: names ``declared`` in pyproject.toml, ``locked`` in uv.lock, ``installed``; ``version``;
    ``lock_agrees``: whether uv finds uv.lock up to date."""

    def __init__(self, pyproject: dict[str, Any], lock: dict[str, Any], installed: set[str], lock_agrees: bool) -> None:
        self.declared = {item.partition(">")[0] for item in pyproject["dependencies"]}
        self.version = pyproject["version"]
        self.locked = {item["name"] for item in lock["package"]}
        self.installed = installed
        self.lock_agrees = lock_agrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _State) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"_State({vars(self)})"

    @classmethod
    def read(cls, project: Project, env: Mapping[str, str]) -> _State:
        pyproject = tomllib.loads(project.pyproject.read_text())["project"]
        lock = tomllib.loads((project.root / "uv.lock").read_text())
        listed = run(project, ["uv", "pip", "list", "--python", str(project.venv), "--format", "json"], env)
        assert listed.returncode == 0, listed.stderr.decode()
        installed = {item["name"] for item in json.loads(listed.stdout)}
        return cls(pyproject, lock, installed, run(project, ["uv", "lock", "--check"], env).returncode == 0)
