"""The real uv is found behind any number of shims, and what stands in the way is named in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import need
from support.project import Project
from support.shim import LAUNCHERS, Shim, install_shim
from support.uvs import numeric_version, uv

pytestmark = pytest.mark.parametrize("shim", LAUNCHERS, indirect=True)

_SYSTEM = "/usr/bin:/bin"


@pytest.fixture
def call(project_factory: Callable[..., Project]) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Call a program in a project with exactly this PATH (None: unset); a loop would time out."""
    project = project_factory()
    base = project.env("newest", shimmed=False)
    del base["PATH"]

    def call(
        words: list[str | Path], path: str | None, *, cwd: Path = project.root, **extra: str
    ) -> subprocess.CompletedProcess[bytes]:
        env = {**base, **extra} if path is None else {**base, "PATH": path, **extra}
        # By way of env, since Popen would look the program up in this process's PATH.
        program = [shutil.which(str(words[0]), path=path) or words[0], *words[1:]]
        return subprocess.run(
            program, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )

    return call


@pytest.fixture
def real() -> Path:
    """The folder of the real uv."""
    return uv("newest").parent


def found(done: subprocess.CompletedProcess[bytes]) -> bool:
    """Whether the real uv answered `--version`."""
    return done.returncode == 0 and done.stdout.split()[1] == numeric_version("newest").encode()


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that says why there is no real uv."""
    assert (done.returncode, done.stdout) == (127, b""), done
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


Call = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.mark.parametrize("words", [["--version"], ["sync"], ["run", "true"], ["sync", "--no-such-option"]])
def test_behind_two_shims_and_a_symlink(words: list[str], call: Call, shim: Shim, real: Path, tmp_path: Path) -> None:
    second = install_shim(tmp_path / "second")
    links = tmp_path / "links"
    links.mkdir()
    (links / "uv").symlink_to(shim.uv)
    copies = tmp_path / "copies"
    copies.mkdir()
    shutil.copy(shim.uv, copies)
    expected = call([real / "uv", *words], _SYSTEM)
    orders = [[links, shim.bin, second.parent, copies], [second.parent, links, shim.bin], [shim.bin, shim.bin]]
    for folders in orders:
        done = call(["uv", *words], f"{':'.join(map(str, folders))}:{real}:{_SYSTEM}")
        assert done.returncode == expected.returncode, done.stderr.decode()
        assert b"uv-mutex" not in done.stderr


@pytest.mark.parametrize("words", [["--version"], ["run", "--no-project", "uv", "--version"]])
def test_by_absolute_and_relative_path(words: list[str], call: Call, shim: Shim, real: Path) -> None:
    for path in (f"{real}:{_SYSTEM}", f"{shim.bin}:{real}:{_SYSTEM}"):
        assert found(call([shim.uv, *words], path))
        assert found(call(["./uv", *words], path, cwd=shim.bin))
        assert found(call(["bin/uv", *words], path, cwd=shim.prefix))


def test_a_command_under_uv_run_finds_the_shim_again(call: Call, shim: Shim, real: Path) -> None:
    words = ["uv", "run", "uv", "run", "uv", "run", "sh", "-c", "command -v uv; uv --version >&2"]
    done = call(words, f"{shim.bin}:{real}:{_SYSTEM}")
    assert done.stdout.decode().split() == [str(shim.uv)]
    assert numeric_version("newest") in done.stderr.decode()


def test_path_is_read_as_exec_reads_it(call: Call, shim: Shim, real: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    (odd / "folder/uv").mkdir(parents=True)
    for name in ("plain", "dangling", "loop", "below"):
        (odd / name).mkdir()
    shutil.copy(real / "uv", odd / "plain/uv")
    (odd / "plain/uv").chmod(0o644)
    (odd / "dangling/uv").symlink_to("nowhere")
    (odd / "loop/uv").symlink_to("uv")
    (odd / "below/file").touch()
    names = ["missing", "folder", "plain", "dangling", "loop", "below/file", "x" * 300, "x" * 5000]
    path = ":".join(str(odd / name) for name in names)
    assert found(call([shim.uv, "--version"], f"{path}:{real}"))
    assert found(call([shim.uv, "--version"], f"{path}/:{real}/"))
    # An empty entry is the working directory, wherever it stands.
    for entries in ("", ":", f":{path}", f"{path}:", f"{path}::/nowhere"):
        assert found(call([shim.uv, "--version"], entries, cwd=real))
    assert found(call([shim.uv, "--version"], "../" + real.name, cwd=real))
    for entries in ("", f":{path}", f"{path}:", f"{shim.bin}::"):
        assert "no uv on PATH" in refused(call([shim.uv, "--version"], entries))
        assert "no uv on PATH" in refused(call([shim.uv, "--version"], entries, cwd=shim.bin))


def test_path_unset(call: Call, shim: Shim) -> None:
    need.that(not shutil.which("uv", path=os.defpath), "needs a system without a uv of its own")
    assert "no uv on PATH" in refused(call([shim.uv, "--version"], None))


@pytest.mark.parametrize("words", [[], ["--version"], ["run", "true"], ["sync"], ["add", "x"], ["--no-such-option"]])
@pytest.mark.parametrize("off", [{}, {"UV_MUTEX": "off"}])
def test_no_real_uv(words: list[str], off: dict[str, str], call: Call, shim: Shim) -> None:
    line = refused(call(["uv", *words], f"{shim.bin}:{_SYSTEM}", **off))
    assert line == (f"uv-mutex: no uv on PATH besides the shim {shim.uv}; install uv, or name it in UV_MUTEX_UV")
    assert refused(call([shim.uv, *words], _SYSTEM, **off)) == (
        "uv-mutex: no uv on PATH; install uv, or name it in UV_MUTEX_UV"
    )


def test_named_uv(call: Call, shim: Shim, real: Path, tmp_path: Path) -> None:
    assert found(call(["uv", "--version"], f"{shim.bin}:{_SYSTEM}", UV_MUTEX_UV=str(real / "uv")))
    assert found(call(["uv", "--version"], f"{shim.bin}:{real}", UV_MUTEX_UV=""))
    (tmp_path / "link").symlink_to(real / "uv")
    assert found(call([shim.uv, "--version"], "", UV_MUTEX_UV=str(tmp_path / "link")))
    assert found(call([shim.uv, "--version"], None, cwd=tmp_path, UV_MUTEX_UV="link"))
    # It wins over PATH.
    other = uv("0.7.8")
    done = call(["uv", "--version"], f"{shim.bin}:{real}:{_SYSTEM}", UV_MUTEX_UV=str(other))
    assert done.stdout.split()[1] == numeric_version("0.7.8").encode()


@pytest.mark.parametrize("words", [["--version"], ["sync"]])
def test_named_uv_is_wrong(words: list[str], call: Call, shim: Shim, real: Path, tmp_path: Path) -> None:
    plain, folder, link = tmp_path / "plain", tmp_path / "folder", tmp_path / "link"
    shutil.copy(real / "uv", plain)
    plain.chmod(0o644)
    folder.mkdir()
    link.symlink_to(shim.uv)
    problems = {
        tmp_path / "missing": "does not exist",
        plain: "is not an executable file",
        plain / "below": "does not exist",
        folder: "is not an executable file",
        shim.uv: "is a uv-mutex shim itself",
        link: "is a uv-mutex shim itself",
        Path("uv"): "does not exist",  # not looked up in PATH
        tmp_path / "line\nend": "does not exist",
    }
    for path, problem in problems.items():
        for off in ({}, {"UV_MUTEX": "off"}):
            line = refused(call(["uv", *words], f"{shim.bin}:{real}:{_SYSTEM}", UV_MUTEX_UV=str(path), **off))
            shown = str(path).replace("\n", "\\n")
            assert line == f"uv-mutex: UV_MUTEX_UV={shown} {problem}; set it to the real uv, or unset it"


def test_a_uv_that_cannot_start(call: Call, shim: Shim, tmp_path: Path) -> None:
    broken = tmp_path / "uv"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    for words in (["--version"], ["sync"], ["run", "true"]):
        done = call([shim.uv, *words], _SYSTEM, UV_MUTEX_UV=str(broken))
        assert done.returncode == 126
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith(f"uv-mutex: cannot start {broken}: No such file or directory; ")


@pytest.mark.parametrize("value", ["off", "OFF", "0", "false", "no"])
def test_off_passes_straight(value: str, call: Call, shim: Shim, real: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = call(["uv", "sync"], f"{shim.bin}:{real}:{_SYSTEM}", UV_MUTEX=value, UV_MUTEX_LOG=str(log))
    assert done.returncode == 0, done.stderr.decode()
    assert not log.exists()
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [".venv", "pyproject.toml", "uv.lock"]


def test_off_needs_a_known_word(call: Call, shim: Shim, real: Path, tmp_path: Path) -> None:
    """What isn't "off" leaves the guard on."""
    for value in ("", "on", "1", "of"):
        log = tmp_path / f"log-{value}"
        call(["uv", "sync"], f"{shim.bin}:{real}:{_SYSTEM}", UV_MUTEX=value, UV_MUTEX_LOG=str(log))
        assert log.exists()
