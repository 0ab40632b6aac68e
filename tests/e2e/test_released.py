"""The package as people get it: its archives are in order, and it is installed, upgraded and removed as README says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support import need, readme, release
from support.herd import read_log
from support.index import LocalIndex
from support.project import Project, run
from support.shim import LAUNCHERS, Shim
from support.terminal import wait_until
from support.uvs import uv

from uv_mutex import VERSION

#: Loops of calls that run while the prefix is changed.
_LOOPS = ("uv run true", "uv run true", "uv sync -q", "uv version -q --bump patch")
_NEWER = "99.0"


@pytest.mark.parametrize(("target", "suffix"), [("wheel", ".whl"), ("sdist", ".tar.gz")])
def test_what_an_index_takes(target: str, suffix: str, tmp_path: Path) -> None:
    archive, _ = release.build(readme.ROOT, tmp_path / "dist", target)
    assert archive.name.endswith(suffix)
    checks = [["twine", "check", "--strict"]]
    if target == "wheel":
        checks.append(["check_wheel_contents", "--no-config"])
    for words in checks:
        done = subprocess.run([sys.executable, "-m", *words, archive], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class User:
    """Somebody with a home folder, a real uv and a package index that has uv-mutex."""

    project: Project
    env: dict[str, str]
    log: Path

    def shell(self, script: str) -> str:
        """Run a script in the project as bash does, which must work; return what it prints."""
        done = run(self.project, [need.executable("bash"), "-ec", script], self.env)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        return done.stdout.decode()

    @property
    def prefix(self) -> Path:
        """Where README says that the shim is."""
        return Path(self.env["HOME"], ".local/share/uv-mutex")


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a newer version, whose notes and tickets have another format."""
    folder = tmp_path_factory.mktemp("newer")
    sources = release.copy_sources(folder / "clone")
    release.set_version(sources, _NEWER)
    return release.build(sources, folder / "dist")[0]


@pytest.fixture
def user(request: pytest.FixtureRequest, project_factory: Callable[..., Project], index: LocalIndex) -> User:
    """A new user. The parameter is the launcher to install."""
    release.publish(index.folder)
    project = project_factory()
    log = project.root.parent / "log"
    env = project.env("newest", shimmed=False, UV_MUTEX_LOG=str(log), UV_DEFAULT_INDEX=index.url)
    env["PATH"] = f"{env['HOME']}/.local/bin:{env['PATH']}"
    env["UV_MUTEX_LAUNCHER"] = getattr(request, "param", "")
    return User(project, env, log)


def block() -> Iterator[tuple[str, str]]:
    """README's commands by what they are for."""
    install, upkeep = readme.blocks("Install, check, upgrade, uninstall")
    yield "install", install
    yield from zip(("check", "upgrade", "uninstall"), upkeep.splitlines(), strict=True)


README = dict(block())


def test_from_install_to_uninstall(user: User, newer: Path, index: LocalIndex) -> None:
    said = user.shell(f"{README['install']}\ncommand -v uv uv-mutex; uv run true; {README['check']}")
    assert f"\n{user.prefix}/bin/uv\n{user.prefix}/bin/uv-mutex\nprotected: " in said
    shutil.copy(newer, index.folder)
    # In a shell with the shim first on PATH, which remembers where it found uv.
    env = replace(user, env={**user.env, "PATH": f"{user.prefix}/bin:{user.env['PATH']}"})
    said = env.shell(
        f"uv run true; {README['upgrade']}\nuv-mutex --version; uv run true\n"
        f"{README['uninstall']}\nhash -r; command -v uv uv-mutex || true"
    )
    assert said.endswith(f"\nuv-mutex {_NEWER}\n{uv('newest')}\n")
    assert not user.prefix.exists()
    assert [line["command"] for line in read_log(user.log)] == ["uv run true"] * 3


@pytest.mark.parametrize(
    ("user", "in_place"), [*((launcher, True) for launcher in LAUNCHERS), ("native", False)], indirect=["user"]
)
def test_upgrade_and_downgrade_while_calls_run(user: User, newer: Path, index: LocalIndex, in_place: bool) -> None:
    """The control takes the old one away first, and then calls go past the shim."""
    user.shell(README["install"])
    (older,) = index.folder.glob("uv_mutex-*.whl")
    path = f"{user.prefix}/bin:{user.env['PATH']}"
    env = {**user.env, "PATH": path}
    stop, counts = user.project.root.parent / "stop", user.project.root.parent / "counts"
    counts.mkdir()
    loops = []
    for number, line in enumerate(_LOOPS):
        script = f"while [ ! -e {stop} ]; do {{ {line}; }} && echo done >>{counts}/{number} || exit; done"
        loops.append(
            subprocess.Popen(["sh", "-c", script], cwd=user.project.root, env=env, stderr=subprocess.PIPE, text=True)
        )

    def go_on() -> None:
        """Let each loop do another round."""
        before = [_rounds(counts / str(number)) for number in range(len(loops))]
        wait_until(
            lambda: all(
                loop.poll() is not None or _rounds(counts / str(number)) >= before[number] + 1
                for number, loop in enumerate(loops)
            ),
            60,
        )

    versions = []
    try:
        for wheel in (newer, older):
            go_on()
            if not in_place:
                user.shell(f"PATH={path}; uv-mutex uninstall")
                go_on()  # a call that began before ends by then
                go_on()
            user.shell(f"PATH={path}; uv tool install -q --force {wheel}; hash -r; uv-mutex install")
            versions.append(user.shell(f"PATH={path}; uv-mutex --version").split()[1])
        go_on()
    finally:
        stop.touch()
        said = [loop.communicate(timeout=60)[1] for loop in loops]
    assert versions == [_NEWER, VERSION]
    made = sum(_rounds(counts / str(number)) for number in range(len(loops)))
    if in_place:
        assert [loop.returncode for loop in loops] == [0] * len(loops), said
        assert len(read_log(user.log)) == made
    else:
        assert len(read_log(user.log)) < made or any(loop.returncode for loop in loops)


def _rounds(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_the_command_of_a_prefix_and_others_on_path(shim: Shim, tmp_path: Path) -> None:
    """It leaves `install` to the next one, be that a wrapper of its own; a broken one is no reason to go on."""
    (tmp_path / "bin").mkdir()
    other = tmp_path / "bin/uv-mutex"
    env = {"PATH": f"{shim.bin}:{other.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "UV_MUTEX_LAUNCHER": "python"}
    shutil.copytree(shim.prefix, tmp_path / "copy", symlinks=True)
    contents = {
        f'#!/bin/sh\necho called >&2\nexec {tmp_path}/copy/bin/uv-mutex "$@"\n': (
            0,
            "called\nuv-mutex ",
            tmp_path / "one",
        ),
        "#!/nowhere\n": (2, f"uv-mutex: {other} does not start (No such file or directory); ", tmp_path / "two"),
    }
    for content, (status, said, prefix) in contents.items():
        other.write_text(content)
        other.chmod(0o755)
        command = ["uv-mutex", "install", "--prefix", str(prefix)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr[: len(said)]) == (status, said), done.stderr
        assert (prefix / "bin/uv").exists() == (status == 0)
    assert done.stderr.endswith("; install the package uv-mutex again, or remove it\n")
