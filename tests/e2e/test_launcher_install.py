"""Which launcher a prefix gets, and how the native one gets into a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support import need, release
from support.native import compile_launcher
from support.project import Project, run
from support.shim import LAUNCHERS, Shim

from uv_mutex.errors import MutexError
from uv_mutex.setup import install as installing
from uv_mutex.setup import launcher

_ROOT = Path(__file__).parents[2]
_MACHINE = os.uname().machine


def is_native(path: Path) -> bool:
    """Whether a launcher is a program."""
    return path.read_bytes().startswith(b"\x7fELF")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as a wheel has it, to install from: without what compiles a launcher."""
    copy = tmp_path / "site-packages/uv_mutex"
    shutil.copytree(_ROOT / "src/uv_mutex", copy, ignore=shutil.ignore_patterns("__pycache__", "launchers"))
    shutil.copytree(_ROOT / "hooks", copy / "hooks")
    monkeypatch.setattr(installing, "_package", lambda: copy)
    monkeypatch.delenv("UV_MUTEX_LAUNCHER", raising=False)
    return copy


def test_a_launcher_of_the_package(package: Path, tmp_path: Path, project_factory: Callable[..., Project]) -> None:
    (package / "launchers").mkdir()
    program = package / f"launchers/uv-{_MACHINE}"
    compile_launcher(program)
    program.chmod(0o644)  # as zipfile unpacks it
    shim = Shim(installing.install(tmp_path / "prefix").parent)
    assert shim.uv.read_bytes() == program.read_bytes()
    assert launcher.describe(str(shim.uv)) == ("native", f"it runs on this {_MACHINE} machine")
    # From the prefix to another one.
    command = [str(shim.bin / "uv-mutex"), "install", "--prefix", str(tmp_path / "second")]
    subprocess.run(command, check=True, capture_output=True)
    assert Shim(tmp_path / "second").uv.read_bytes() == program.read_bytes()
    project = project_factory()
    env = project.env("newest", shimmed=False)
    done = run(project, ["uv", "sync"], {**env, "PATH": f"{tmp_path}/second/bin:{env['PATH']}"})
    assert done.returncode == 0, done.stderr
    assert (project.root / ".uv-mutex/lock").exists()


def _of_no_machine(path: Path) -> None:
    path.write_bytes(b"\x7fELF" + bytes(100))


def _another_program(path: Path) -> None:
    path.write_text("#!/bin/sh\nexit 3\n")


_DAMAGES = {
    "this package has none for": None,
    "it can't be started here (Exec format error)": _of_no_machine,
    "it does not run here (status 3)": _another_program,
}


@pytest.mark.parametrize("why", _DAMAGES)
def test_where_none_runs(why: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = _DAMAGES[why]
    if make:
        (package / "launchers").mkdir()
        make(package / f"launchers/uv-{_MACHINE}")
    monkeypatch.setenv("UV_MUTEX_LAUNCHER", "native")
    with pytest.raises(MutexError, match="there is no native launcher, since ") as raised:
        installing.install(tmp_path / "prefix")
    assert why in str(raised.value)
    assert str(raised.value).endswith("; unset UV_MUTEX_LAUNCHER for the Python launcher")
    assert not (tmp_path / "prefix").exists()
    monkeypatch.delenv("UV_MUTEX_LAUNCHER")
    shim = Shim(installing.install(tmp_path / "prefix").parent)
    assert not is_native(shim.uv)
    kind, reason = launcher.describe(str(shim.uv))
    assert kind == "python"
    assert why in reason


def install(prefix: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `uv-mutex install` in the clone."""
    return subprocess.run(
        [sys.executable, "-m", "uv_mutex", "install", "--prefix", prefix],
        env={**os.environ, "PYTHONPATH": str(_ROOT / "src"), **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_clone_compiles_it(tmp_path: Path) -> None:
    need.executable("cc")
    shim = Shim(tmp_path / "prefix")
    for value, native in (("", True), ("python", False), ("native", True), ("", True)):
        assert install(shim.prefix, UV_MUTEX_LAUNCHER=value).returncode == 0
        assert is_native(shim.uv) == native
        done = subprocess.run([shim.uv, "--version"], env={"PATH": os.devnull}, capture_output=True, check=False)
        assert done.stderr == b"uv-mutex: no uv on PATH; install uv, or name it in UV_MUTEX_UV\n"
    assert not list(tmp_path.glob(".*"))


def test_a_clone_compiles_it_with_the_c_library_that_starts_faster(tmp_path: Path) -> None:
    need.executable("musl-gcc")
    sizes = {}
    for compiler in ("", "cc"):
        assert install(tmp_path / "prefix", CC=compiler, UV_MUTEX_LAUNCHER="native").returncode == 0
        sizes[compiler] = (tmp_path / "prefix/bin/uv").stat().st_size
    assert sizes[""] < 100_000 < sizes["cc"]


@pytest.mark.parametrize("compiler", ["no-such-compiler", "/bin/false"])
def test_a_clone_without_a_compiler(compiler: str, tmp_path: Path) -> None:
    assert install(tmp_path / "prefix", CC=compiler, UV_MUTEX_LAUNCHER="").returncode == 0
    kind, why = launcher.describe(f"{tmp_path}/prefix/bin/uv")
    assert kind == "python"
    assert why in ("there is no C compiler", "/bin/false fails: exit status 1")


def test_an_unknown_launcher(tmp_path: Path) -> None:
    done = install(tmp_path / "prefix", UV_MUTEX_LAUNCHER="rust")
    assert done.returncode == 2
    assert done.stderr == (
        "uv-mutex: UV_MUTEX_LAUNCHER=rust is neither native nor python; set one of them, or unset it\n"
    )
    assert not (tmp_path / "prefix").exists()


@pytest.mark.parametrize("shim", LAUNCHERS, indirect=True)
def test_doctor_says_which_one_it_is(shim: Shim, project_factory: Callable[..., Project]) -> None:
    project = project_factory()
    done = run(project, ["uv-mutex", "doctor", "-v"], project.env("newest"))
    assert done.returncode == 0, done
    said = done.stdout.decode()
    if is_native(shim.uv):
        assert f"its launcher is the native one: it runs on this {_MACHINE} machine; " in said
    else:
        assert (
            "its launcher is the Python one, which costs each call 10 ms: UV_MUTEX_LAUNCHER=python at install" in said
        )


@pytest.mark.parametrize("shim", LAUNCHERS, indirect=True)
def test_doctor_misses_the_interpreter(shim: Shim, project_factory: Callable[..., Project], tmp_path: Path) -> None:
    """The native launcher starts without it, and so would `uv --version`."""
    project, copy = project_factory(), Shim(tmp_path / "copy")
    shutil.copytree(shim.prefix, copy.prefix, symlinks=True)
    for path in (copy.uv, copy.prefix / launcher.POINTER):
        content = path.read_bytes()
        if not content.startswith(b"\x7fELF"):
            path.write_bytes(content.replace(os.fsencode(launcher.interpreter_of(shim.prefix)), b"/nowhere/python", 1))
    env = project.env("newest")
    done = run(project, [str(shim.bin / "uv-mutex"), "doctor"], {**env, "PATH": f"{copy.bin}:{env['PATH']}"})
    assert done.returncode == 2
    why = "cannot start /nowhere/python, the Python that guards this call: " if is_native(shim.uv) else ""
    assert f"the shim {copy.uv} doesn't start ({why and f'uv-mutex: {why}'}".encode() in done.stdout


# ---------------------------------------------------------------------------------------------- building


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from."""
    return release.copy_sources(tmp_path_factory.mktemp("sources") / "clone")


def test_a_wheel_has_the_launcher_of_this_machine(sources: Path, tmp_path: Path) -> None:
    need.executable("cc")
    wheel, said = release.build(sources, tmp_path / "wheel")
    (name,) = release.launchers(wheel)
    assert name == f"uv-{_MACHINE}"
    assert f"uv-mutex: compiled the native launcher for {_MACHINE}" in said
    assert release.build(sources, tmp_path / "again")[0].read_bytes() == wheel.read_bytes()


@pytest.mark.parametrize("compiler", ["no-such-compiler", "/bin/false"])
def test_a_wheel_without_a_compiler(compiler: str, sources: Path, tmp_path: Path) -> None:
    wheel, said = release.build(sources, tmp_path, CC=compiler)
    assert release.launchers(wheel) == {}
    assert "uv-mutex: without a native launcher, since " in said


def test_an_sdist_has_the_sources(sources: Path, tmp_path: Path) -> None:
    archive, _ = release.build(sources, tmp_path / "sdist", "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    found = {path.name for path in (unpacked / "src/launcher").iterdir()}
    assert {path.name for path in (_ROOT / "src/launcher").iterdir() if path.is_file()} <= found
    need.executable("cc")
    assert release.launchers(release.build(unpacked, tmp_path / "wheel")[0])
