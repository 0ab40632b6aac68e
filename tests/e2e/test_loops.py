"""A program that starts "the next uv on PATH", as the shim does, is started once, and then passed over."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.project import Project
from support.shim import Shim
from support.uvs import numeric_version, uv

# How such programs find the next uv: none but their own folder left out of PATH.
_WRAPPERS = {
    "exec": 'exec "$(which -a uv | grep -v "^{folder}/" | head -n 1)" "$@"',
    # As pyenv's shim does where its own version has no uv. This one is no loop, even without the variable.
    "path": 'PATH=$(printf %s "$PATH" | sed "s#{folder}:##"); export PATH; exec uv "$@"',
    "child": '"$(which -a uv | grep -v "^{folder}/" | head -n 1)" "$@"',
    "child of a child": '(sh -c \'"$0" "$@"\' "$(which -a uv | grep -v "^{folder}/" | head -n 1)" "$@"; exit $?)',
}
each_wrapper = pytest.mark.parametrize("kind", sorted(_WRAPPERS))


class Wrapper:
    """Such a program. It writes a line each time that it starts; more than a few, and it gives up."""

    def __init__(self, folder: Path, text: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.path = folder / "uv"
        self._journal = folder.parent / f"{folder.name}.journal"
        give_up = f'echo x >> {self._journal}; [ "$(wc -l < {self._journal})" -lt 50 ] || exit 99\n'
        self.path.write_text(f"#!/bin/sh\n{give_up}{text.format(folder=folder)}\n")
        self.path.chmod(0o755)

    @property
    def starts(self) -> int:
        """How often it started, since this was last asked."""
        count = len(self._journal.read_text().splitlines()) if self._journal.exists() else 0
        self._journal.write_text("")
        return count


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(project_factory: Callable[..., Project]) -> Run:
    """Call uv in a project, with these folders first on PATH."""
    project = project_factory()
    base = project.env("newest", shimmed=False)

    def run(words: list[str], *folders: Path, **extra: str) -> subprocess.CompletedProcess[bytes]:
        env = {**base, "PATH": ":".join([*map(str, folders), "/usr/bin:/bin"]), **extra}
        # By way of env, since Popen would look the program up in this process's PATH.
        words = ["/usr/bin/env", "uv", *words]
        return subprocess.run(
            words, env=env, cwd=project.root, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )

    return run


@pytest.fixture
def real() -> Path:
    """The folder of the real uv."""
    return uv("newest").parent


@each_wrapper
def test_a_wrapper_is_started_once(kind: str, run: Run, shim: Shim, real: Path, tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path / "wrapper", _WRAPPERS[kind])
    done = run(["--version"], shim.bin, wrapper.folder, real)
    assert done.stdout.split()[1:2] == [numeric_version("newest").encode()], done
    assert wrapper.starts == 1
    # The calls that take the lock, too: the shim below must not wait for the one above.
    for words in (["sync"], ["run", "true"], ["run", "--with", "uv-mutex-no-such", "true"], ["sync", "--no-such"]):
        expected = run(words, real)
        done = run(words, shim.bin, wrapper.folder, real, UV_MUTEX_TIMEOUT="20")
        assert done.returncode == expected.returncode, done.stderr.decode()
        assert b"uv-mutex:" not in done.stderr
        assert 1 <= wrapper.starts <= 6, words
    for off in ("off", "on"):
        assert run(["run", "true"], shim.bin, wrapper.folder, real, UV_MUTEX=off).returncode == 0
        assert wrapper.starts


@pytest.mark.parametrize("kind", sorted(_WRAPPERS.keys() - {"path"}))
def test_control_a_wrapper_that_takes_the_variable_away(
    kind: str, run: Run, shim: Shim, real: Path, tmp_path: Path
) -> None:
    wrapper = Wrapper(tmp_path / "wrapper", f"unset UV_MUTEX_PASSED; {_WRAPPERS[kind]}")
    assert run(["--version"], shim.bin, wrapper.folder, real).returncode == 99
    assert wrapper.starts >= 50


def test_two_wrappers_and_one_that_is_named(run: Run, shim: Shim, real: Path, tmp_path: Path) -> None:
    one, two = (Wrapper(tmp_path / name, _WRAPPERS["exec"]) for name in ("one", "two"))
    third = Wrapper(tmp_path / "third", f'exec "{shim.uv}" "$@"')
    done = run(["run", "true"], shim.bin, one.folder, two.folder, third.folder, real)
    assert done.returncode == 0, done.stderr.decode()
    assert one.starts
    done = run(["run", "true"], shim.bin, real, UV_MUTEX_UV=str(third.path))
    assert done.returncode == 0, done.stderr.decode()
    assert 1 <= third.starts <= 6


def test_no_other_uv(run: Run, shim: Shim, tmp_path: Path) -> None:
    wrapper = Wrapper(tmp_path / "wrapper", f'exec "{shim.uv}" "$@"')
    for words in (["--version"], ["sync"], ["run", "true"]):
        done = run(words, shim.bin, wrapper.folder)
        assert (done.returncode, done.stdout) == (127, b"")
        assert done.stderr.decode() == (
            f"uv-mutex: no uv on PATH besides {wrapper.path}, which starts uv-mutex again; "
            "install uv, or name it in UV_MUTEX_UV\n"
        )


def test_the_real_uv_sees_no_variable(run: Run, shim: Shim, real: Path, tmp_path: Path) -> None:
    exec_wrapper = Wrapper(tmp_path / "wrapper", _WRAPPERS["exec"])
    for folders in ([real], [exec_wrapper.folder, real]):
        for words in (["run", "env"], ["run", "--no-sync", "env"], ["--offline", "run", "--no-project", "env"]):
            done = run(words, shim.bin, *folders)
            assert done.returncode == 0
            assert b"UV_RUN_RECURSION_DEPTH=1" in done.stdout
            assert b"UV_MUTEX_PASSED" not in done.stdout
    # Left by a wrapper that starts the real uv itself, for a command below it.
    leaves = Wrapper(tmp_path / "leaves", f'exec "{real}/uv" "$@"')
    assert b"UV_MUTEX_PASSED" in run(["run", "env"], shim.bin, leaves.folder).stdout
    done = run(["run", "env", "-u", "UV_RUN_RECURSION_DEPTH", "uv", "run", "env"], shim.bin, leaves.folder, real)
    assert done.returncode == 0
    assert leaves.starts > 1


@pytest.mark.parametrize("kind", ["exec", "child"])
def test_a_command_below_starts_the_wrapper_anew(kind: str, run: Run, shim: Shim, real: Path, tmp_path: Path) -> None:
    """It may add options, or choose a version: each `uv` that the user's command calls must go through it."""
    start = {"exec": "exec ", "child": ""}[kind]
    wrapper = Wrapper(tmp_path / "wrapper", f'{start}"{real}/uv" "$@"')
    assert run(["sync"], shim.bin, wrapper.folder).returncode == 0
    assert wrapper.starts
    words = ["run", "--no-sync", "uv", "run", "--no-sync", "uv", "--version"]
    done = run(words, shim.bin, wrapper.folder)
    assert done.returncode == 0, done.stderr.decode()
    assert wrapper.starts == 3


def test_a_link_to_a_version_manager(run: Run, shim: Shim, real: Path, tmp_path: Path) -> None:
    """Its shims are links to one program, which goes by the name that it is called by."""
    manager = Wrapper(tmp_path / "manager", _WRAPPERS["exec"].replace("{folder}", str(tmp_path / "shims")))
    (tmp_path / "shims").mkdir()
    manager.path.rename(manager.folder / "manager")
    (tmp_path / "shims/uv").symlink_to(manager.folder / "manager")
    done = run(["run", "true"], shim.bin, tmp_path / "shims", real)
    assert done.returncode == 0, done.stderr.decode()
    assert 1 <= manager.starts <= 6
