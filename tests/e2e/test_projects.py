"""The shim finds a call's project where the real uv of every version finds it.

The real uv says where, by the uv.lock and the environment that it makes; the shim must lock just there.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.herd import read_log
from support.project import Project
from support.uvs import all_versions

_PROJECT = '[project]\nname = "{name}"\nversion = "1"\nrequires-python = ">=3.10"\n'
_FILES = {
    "plain/pyproject.toml": _PROJECT,
    "plain/sub/dir/script.py": "",
    "plain/script.py": "",
    "plain/app/__main__.py": "",
    "plain/environments/keep": "",
    "ws/pyproject.toml": f"""{_PROJECT}
        [tool.uv.workspace]  # packages, but not all
        members = ["packages/*", 'libs/**/lib-[ab]?', "./dotted"]
        exclude = ["packages/excluded", "packages/ex-*", "packages/group"]""",
    "ws/packages/a/pyproject.toml": _PROJECT,
    "ws/packages/a/deep/er/script.py": "",
    "ws/packages/a/nested/pyproject.toml": _PROJECT,
    "ws/packages/group/b/pyproject.toml": _PROJECT,
    "ws/packages/excluded/pyproject.toml": _PROJECT,
    "ws/packages/ex-2/pyproject.toml": _PROJECT,
    "ws/packages/ex-2/deep/pyproject.toml": _PROJECT,
    "ws/libs/lib-a1/pyproject.toml": _PROJECT,
    "ws/libs/more/and/lib-b1/pyproject.toml": _PROJECT,
    "ws/libs/lib-c1/pyproject.toml": _PROJECT,
    "ws/tests/other/pyproject.toml": _PROJECT,
    "virtual/pyproject.toml": '[tool.uv]\nworkspace = {{ members = ["x", "y"], exclude = [] }}\n',
    "virtual/x/pyproject.toml": _PROJECT,
    "virtual/y/pyproject.toml": _PROJECT,
    "virtual/z/pyproject.toml": _PROJECT,
    "unmanaged/pyproject.toml": f"{_PROJECT}\n[tool.uv]\nmanaged = false\n",
    "unmanaged/inner/pyproject.toml": _PROJECT,
    "outside/script.py": "",
    "venvs/keep": "",
    "a b/ü/pyproject.toml": _PROJECT,
}
_LINKS = {
    "link": "plain",
    "member-link": "ws/packages/a",
    "outside/link.py": "../plain/script.py",
    "linked-file/pyproject.toml": "../plain/pyproject.toml",
    "plain/venv-link": "../venvs/linked",
}


@dataclass(frozen=True)
class Scenario:
    """A call: where, which words, which variables. ``{base}`` stands for the folder that holds everything."""

    cwd: str
    words: str = "sync"
    env: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.cwd, self.words, *(f"{name}={value}" for name, value in self.env.items())])


_WITH = Scenario
_SCENARIOS = [
    # Where the search begins.
    _WITH("plain"),
    _WITH("plain", "run true"),
    _WITH("plain/sub/dir"),
    _WITH("a b/ü"),
    _WITH("link"),
    _WITH("outside", "run true"),
    _WITH("linked-file"),
    # Workspaces.
    _WITH("ws"),
    _WITH("ws/packages/a"),
    _WITH("ws/packages/a/deep/er", "run true"),
    _WITH("ws/packages/a/nested"),
    _WITH("ws/packages/group/b"),
    _WITH("ws/packages/excluded"),
    _WITH("ws/packages/ex-2"),
    _WITH("ws/packages/ex-2/deep"),
    _WITH("ws/libs/lib-a1"),
    _WITH("ws/libs/more/and/lib-b1"),
    _WITH("ws/libs/lib-c1"),
    _WITH("ws/tests/other"),
    _WITH("ws", "run --package a true"),
    _WITH("ws", "sync --all-packages"),
    _WITH("virtual"),
    _WITH("virtual/x"),
    _WITH("virtual/z"),
    _WITH("unmanaged", "run true"),
    _WITH("unmanaged/inner"),
    _WITH("outside", "sync --project ../member-link"),
    _WITH("outside", "sync --directory ../member-link"),
    # Options and variables.
    _WITH("outside", "sync --project ../plain"),
    _WITH("outside", "--project=../plain/sub/../sub/dir run true"),
    _WITH("outside", "sync --project ../link"),
    _WITH("outside", "--directory ../plain/sub sync"),
    _WITH("outside", "run --directory {base}/ws/packages/a true"),
    _WITH("ws", "sync --directory ../plain --project sub"),
    _WITH("outside", "run true", {"UV_PROJECT": "../plain"}),
    _WITH("ws", "sync", {"UV_PROJECT": "{base}/plain"}),
    _WITH("ws", "sync --project ../virtual/x", {"UV_PROJECT": "{base}/plain"}),
    _WITH("ws", "sync", {"UV_PROJECT": ""}),
    _WITH("outside", "run true", {"UV_WORKING_DIR": "../plain"}),
    _WITH("ws", "sync", {"UV_WORKING_DIR": "{base}/plain/sub"}),
    _WITH("ws", "sync --directory ../plain", {"UV_WORKING_DIR": "../virtual"}),
    _WITH("ws", "sync", {"UV_WORKING_DIRECTORY": "../plain"}),
    # Environments.
    _WITH("plain", "sync", {"UV_PROJECT_ENVIRONMENT": "environments/one"}),
    _WITH("plain/sub", "sync", {"UV_PROJECT_ENVIRONMENT": "environments/one"}),
    _WITH("plain", "run true", {"UV_PROJECT_ENVIRONMENT": "{base}/venvs/one"}),
    _WITH("plain", "sync", {"UV_PROJECT_ENVIRONMENT": "../venvs/./two"}),
    _WITH("plain", "sync", {"UV_PROJECT_ENVIRONMENT": "venv-link"}),
    _WITH("plain", "sync", {"UV_PROJECT_ENVIRONMENT": "{base}/plain/.venv"}),
    _WITH("plain", "sync", {"UV_PROJECT_ENVIRONMENT": ""}),
    _WITH("ws/packages/a", "run true", {"UV_PROJECT_ENVIRONMENT": "environment"}),
    _WITH("outside", "sync --project ../plain", {"UV_PROJECT_ENVIRONMENT": "../venvs/three"}),
    _WITH("plain", "sync --active", {"VIRTUAL_ENV": "{base}/venvs/active"}),
    _WITH("plain/sub", "run --active true", {"VIRTUAL_ENV": "../../venvs/active"}),
    _WITH("outside", "sync --active --project ../plain", {"VIRTUAL_ENV": "../venvs/active"}),
    _WITH("outside", "sync --active --directory ../plain/sub", {"VIRTUAL_ENV": "../../venvs/active"}),
    _WITH("plain", "sync --active --no-active", {"VIRTUAL_ENV": "{base}/venvs/active"}),
    _WITH("plain", "sync --active", {}),
    _WITH("plain", "run true", {"VIRTUAL_ENV": "{base}/venvs/active"}),
    _WITH("plain", "sync --active", {"VIRTUAL_ENV": "{base}/venvs/a", "UV_PROJECT_ENVIRONMENT": "{base}/venvs/b"}),
    # Scripts in another project.
    _WITH("outside", "run ../plain/script.py"),
    _WITH("ws", "run ../plain/sub/dir/script.py"),
    _WITH("ws", "run {base}/ws/packages/a/deep/er/script.py"),
    _WITH("ws/tests/other", "run ../../packages/a/deep/er/script.py"),
    _WITH("plain", "run ../outside/script.py"),
    _WITH("ws", "run ../outside/link.py"),
    _WITH("ws", "run python ../plain/script.py"),
    _WITH("ws", "run ../plain/app"),
    _WITH("ws", "run --project . ../plain/script.py"),
    _WITH("outside", "run --directory .. plain/script.py"),
]


def lay_out(base: Path) -> Path:
    """Write everything that the scenarios need."""
    for name, text in _FILES.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "\n".join(line.strip() for line in text.format(name=path.parent.name.replace("ü", "u")).split("\n"))
        )
    for name, target in _LINKS.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).symlink_to(target)
    return base


def call(scenario: Scenario, base: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Make the call in the tree at `base`."""
    return subprocess.run(
        ["uv", *(word.format(base=base) for word in scenario.words.split())],
        executable=next(path for folder in env["PATH"].split(":") if os.access(path := f"{folder}/uv", os.X_OK)),
        cwd=base / scenario.cwd,
        env={**env, **{name: value.format(base=base) for name, value in scenario.env.items()}},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def found(base: Path, pattern: str) -> set[str]:
    """The files of this name, by their real paths below `base`."""
    return {str(path.relative_to(base)) for path in base.rglob(pattern) if "venvs/active/lib" not in str(path)}


def expected_locks(base: Path) -> set[str]:
    """The locks that belong to what uv made here."""
    locks = {str(Path(name).parent / ".uv-mutex/lock") for name in found(base, "uv.lock")}
    for name in found(base, "pyvenv.cfg"):
        environment = Path(name).parent
        lock = "lock" if environment.name == ".venv" else f"{environment.name}.lock"
        locks.add(str(environment.parent / ".uv-mutex" / lock))
    return locks


@pytest.fixture
def env(project_factory: Callable[..., Project]) -> Callable[..., dict[str, str]]:
    """The environment of a call of some uv."""
    return project_factory().env


@all_versions
@pytest.mark.parametrize("scenario", _SCENARIOS, ids=str)
def test_the_lock_is_where_uv_works(
    scenario: Scenario, uv_version: str, env: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    bare, guarded = lay_out(tmp_path / "bare"), lay_out(tmp_path / "guarded")
    truth = call(scenario, bare, env(uv_version, shimmed=False))
    log = tmp_path / "log"
    done = call(scenario, guarded, env(uv_version, UV_MUTEX_LOG=str(log)))
    assert done.returncode == truth.returncode, done.stderr
    if truth.returncode:
        assert done.stderr == truth.stderr.replace(str(bare), str(guarded))
        return
    for name in ("uv.lock", "pyvenv.cfg"):
        assert found(guarded, name) == found(bare, name)
    locks = {name for pattern in ("lock", "*.lock") for name in found(guarded, pattern) if ".uv-mutex/" in name}
    assert locks == expected_locks(bare)
    for name in found(guarded, "pyvenv.cfg"):
        assert any((guarded / name).parent.glob(".uv-mutex/*")), "no note in the environment"
    assert [line["project"] for line in read_log(log)] == [str(root) for root in roots(guarded, scenario)]


def roots(base: Path, scenario: Scenario) -> list[Path]:
    """Where uv.lock is, by the path that the call took."""
    if "link" in scenario.words and "--project" in scenario.words:
        return [base / ("link" if "../link" in scenario.words else "member-link")]
    return [(base / name).parent for name in found(base, "uv.lock")]


def test_scenarios_are_not_all_alike(env: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    """The ground truth tells things apart: a member from a project of its own, a version from another."""
    made = {}
    for version in ("0.5.31", "newest"):
        for scenario in (
            Scenario("ws/packages/a"),
            Scenario("ws/libs/lib-c1"),
            Scenario("ws", "run ../plain/script.py"),
        ):
            base = lay_out(tmp_path / f"{version} {scenario}".replace("/", "_"))
            assert call(scenario, base, env(version, shimmed=False)).returncode == 0
            made[version, scenario.cwd, scenario.words] = found(base, "uv.lock")
    assert made["newest", "ws/packages/a", "sync"] == {"ws/uv.lock"}
    assert made["newest", "ws/libs/lib-c1", "sync"] == {"ws/libs/lib-c1/uv.lock"}
    assert made["0.5.31", "ws", "run ../plain/script.py"] == {"ws/uv.lock"}
    assert made["newest", "ws", "run ../plain/script.py"] == {"plain/uv.lock"}


def test_two_paths_are_one_lock(env: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    base = lay_out(tmp_path / "base")
    paths = [Scenario("plain"), Scenario("link"), Scenario("outside", "sync --project ../link")]
    inodes = set()
    for scenario in paths:
        assert call(scenario, base, env("newest")).returncode == 0
        inodes.add((base / "plain/.uv-mutex/lock").stat().st_ino)
    assert len(inodes) == 1
    assert found(base, "lock") == {"plain/.uv-mutex/lock"}


def test_the_lock_of_an_environment_stays_where_it_is(env: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    """Also while uv makes the folder that the environment lies in."""
    base = lay_out(tmp_path / "base")
    assert call(Scenario("plain"), base, env("newest", UV_MUTEX="off")).returncode == 0
    scenario = Scenario("plain", "sync --frozen", {"UV_PROJECT_ENVIRONMENT": "{base}/new/folder/one"})
    for _ in range(2):
        assert call(scenario, base, env("newest")).returncode == 0
        locks = {name for name in found(base, "*.lock") if ".uv-mutex" in name}
        assert locks == {"new/folder/.uv-mutex/one.lock"}
    assert not (base / "plain/.uv-mutex").exists()


#: What Python's tomllib can't read, and uv since 0.9.30 can: line breaks in inline tables (TOML 1.1).
_TOML_1_1 = {
    "root": ("[tool.uv]\nworkspace = {\n members = ['p/*'],\n}\n", ""),
    "member": ("[tool.uv.workspace]\nmembers = ['p/*']\n", "[tool]\nx = {\n y = 1,\n}\n"),
    "no member": ("[tool.uv]\nworkspace = {\n members = ['q/*'],\n}\n", ""),
    "both": ("[tool.uv]\nworkspace = {\n members = ['p/*'],\n}\n", "[tool]\nx = {\n y = 1,\n}\n"),
    "no workspace": ("[tool]\nx = {\n y = 1,\n}\n", ""),
}


@pytest.mark.parametrize("kind", sorted(_TOML_1_1))
@pytest.mark.parametrize("uv_version", ["0.7.8", "0.9.30", "newest"])
def test_toml_that_python_cannot_read(
    uv_version: str, kind: str, env: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    outcomes = {}
    for shimmed in (True, False):
        base = tmp_path / f"base {shimmed}"
        for folder, text in zip(("w", "w/p/m"), _TOML_1_1[kind], strict=True):
            (base / folder).mkdir(parents=True)
            (base / folder / "pyproject.toml").write_text(
                f'[project]\nname = "n{len(folder)}"\nversion = "1"\nrequires-python = ">=3.10"\n{text}'
            )
        done = call(Scenario("w/p/m"), base, env(uv_version, shimmed=shimmed))
        outcomes[shimmed] = (done.returncode, {Path(name).parent for name in found(base, "uv.lock")})
        if shimmed and done.returncode == 0:
            assert {Path(name).parents[1] for name in found(base, "lock")} == outcomes[shimmed][1]
            assert call(Scenario("w/p/m", "run true"), base, env(uv_version)).returncode == 0
    assert outcomes[True] == outcomes[False]
    assert uv_version == "0.7.8" or outcomes[False][0] == 0
