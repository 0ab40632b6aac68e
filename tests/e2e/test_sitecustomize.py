"""The shim is first on PATH in every Python process, whatever PATH it was started with, and nothing else changes."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.herd import read_log
from support.project import Project, run
from support.shim import Shim


def _itself(python: str) -> str:
    """Where it really lies: a version manager's stand-in changes PATH. Empty if there is nothing behind it."""
    command = [python, "-c", "import sys; print(sys.executable)"]
    return subprocess.run(command, env={}, capture_output=True, text=True, check=False).stdout.strip()


#: This one, and others that a machine may have.
_OTHERS = filter(None, (shutil.which(f"python3.{minor}") for minor in range(10, 16)))
_PYTHONS = list(dict.fromkeys([sys.executable, *filter(None, map(_itself, _OTHERS))]))
_SHOW = "import json, os, sys; print(json.dumps([os.environ.get('PATH'), sys.modules['sitecustomize'].__file__]))"
_SYNC = "import subprocess; subprocess.run(['uv', 'sync', '-q'], check=True)"
_SITE = "import site; print(site.getsitepackages()[0])"


def hook(shim: Shim) -> Path:
    """The folder for PYTHONPATH."""
    return shim.prefix / "lib/uv-mutex/python"


def python(
    *words: str, env: dict[str, str | None], executable: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run Python in this environment alone."""
    block = {name: value for name, value in env.items() if value is not None}
    return subprocess.run([executable, *words], env=block, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("executable", _PYTHONS)
@pytest.mark.parametrize("path", ["/a:/b", "SHIM:/a", "/a:SHIM:/b:SHIM", "SHIM", "", ":/a:", None, "/a\udcff"])
def test_first_and_once(path: str | None, executable: str, shim: Shim) -> None:
    given = None if path is None else path.replace("SHIM", str(shim.bin))
    done = python("-c", _SHOW, env={"PATH": given, "PYTHONPATH": str(hook(shim))}, executable=executable)
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)[0].split(":")
    before = (os.defpath if given is None else given).split(":")
    assert seen == [str(shim.bin), *(folder for folder in before if folder != str(shim.bin))]


@pytest.mark.parametrize("executable", _PYTHONS)
@pytest.mark.parametrize("way", ["PYTHONPATH", "pth"])
def test_what_a_venvs_python_starts(
    way: str, executable: str, project_factory: Callable[..., Project], tmp_path: Path
) -> None:
    project = project_factory()
    env = project.env("newest", shimmed=False, UV_MUTEX_LOG=str(tmp_path / "log"))
    assert project.shim is not None
    venv = tmp_path / "venv"
    subprocess.run([executable, "-m", "venv", "--without-pip", venv], check=True)
    flags: list[list[str]] = [[]]
    if way == "PYTHONPATH":
        env["PYTHONPATH"] = str(hook(project.shim()))
    else:
        folder = subprocess.check_output([venv / "bin/python", "-c", _SITE], text=True).strip()
        (Path(folder) / "uv-mutex.pth").symlink_to(hook(project.shim()) / "uv-mutex.pth")
        flags.append(["-I"])  # has no PYTHONPATH, but site-packages
    for number, more in enumerate(flags, 1):
        done = run(project, [str(venv / "bin/python"), *more, "-c", _SYNC], env)
        assert (done.returncode, done.stderr) == (0, b"")
        assert len(read_log(tmp_path / "log")) == number
    # Out of reach: no site, and an environment that a program makes itself.
    for words in (["-S", "-c", _SYNC], ["-c", _SYNC.replace("check", f"env={ {**env, 'PYTHONPATH': ''} }, check")]):
        assert run(project, [str(venv / "bin/python"), *words], env).returncode == 0
    assert len(read_log(tmp_path / "log")) == len(flags)


def test_under_uv_run(project_factory: Callable[..., Project], tmp_path: Path) -> None:
    """uv puts the environment's folder first; a uv in there is the real one."""
    project = project_factory()
    assert project.shim is not None
    log = tmp_path / "log"
    env = project.env("newest", UV_MUTEX_LOG=str(log), PYTHONPATH=str(hook(project.shim())))
    assert run(project, ["uv", "sync", "-q"], env).returncode == 0
    (project.venv / "bin/uv").symlink_to(shutil.which("uv", path=project.env("newest", shimmed=False)["PATH"]) or "")
    env["PATH"] = project.env("newest", shimmed=False)["PATH"]
    done = run(project, ["uv", "run", "python", "-c", _SYNC], env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line["command"] for line in read_log(log)] == ["uv sync -q"] * 2


def _hidden(folder: Path, text: str) -> dict[str, str | None]:
    (folder / "hidden").mkdir()
    (folder / "hidden/sitecustomize.py").write_text(text)
    return {"PATH": "/usr/bin", "PYTHONPATH": str(folder / "hidden")}


@pytest.mark.parametrize("executable", _PYTHONS)
@pytest.mark.parametrize(
    "text",
    [
        "import sys; print(__name__, __file__, __spec__.name, 'sitecustomize' in sys.modules)",
        "raise ValueError('mine')",
        "import no_such_module",
        "raise SystemExit(7)",
        "import sys; sys.modules[__name__] = sys; print(1)",
        "def broken(",
    ],
)
def test_the_hidden_one_runs_as_without_us(text: str, executable: str, shim: Shim, tmp_path: Path) -> None:
    env = _hidden(tmp_path, text)
    program = "import sitecustomize as it; print(getattr(it, '__file__', 0), it.__spec__.name, it.__spec__.origin)"
    plain = python("-c", program, env=env, executable=executable)
    # Twice: a second prefix, or the same once more.
    shutil.copytree(shim.prefix, tmp_path / "other", symlinks=True)
    other = tmp_path / "other/lib/uv-mutex/python"
    env["PYTHONPATH"] = f"{hook(shim)}:{other}:{hook(shim)}:{env['PYTHONPATH']}"
    done = python("-c", program, env=env, executable=executable)
    frames = re.sub(r"  File \"[^\n]*/uv-mutex/python/[^\n]*\n(    [^\n]*\n)*", "", done.stderr)
    assert (done.returncode, done.stdout, frames) == (plain.returncode, plain.stdout, plain.stderr)
    assert plain.stdout or plain.stderr or plain.returncode


def test_the_systems_own_runs(shim: Shim) -> None:
    """Debian has one in its standard library."""
    program = "import sys; print(getattr(sys.modules.get('sitecustomize'), '__file__', None))"
    plain = python("-c", program, env={"PATH": "/usr/bin"}, executable="/usr/bin/python3")
    done = python("-c", program, env={"PATH": "/usr/bin", "PYTHONPATH": str(hook(shim))}, executable="/usr/bin/python3")
    own = f"{hook(shim)}/sitecustomize.py\n"
    assert (done.stdout, done.stderr) == (own if plain.stdout == "None\n" else plain.stdout, "")


@pytest.mark.parametrize("damage", ["no shim", "no sitecustomize", "cut short"])
@pytest.mark.parametrize("way", ["PYTHONPATH", "pth"])
def test_a_damaged_prefix_breaks_no_interpreter(way: str, damage: str, shim: Shim, tmp_path: Path) -> None:
    broken = Shim(tmp_path / "broken")
    shutil.copytree(shim.prefix, broken.prefix, symlinks=True)
    file = hook(broken) / ("sitecustomize.py" if way == "PYTHONPATH" else "uv_mutex_first.py")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    folder = subprocess.check_output([venv / "bin/python", "-c", _SITE], text=True).strip()
    if way == "pth":
        (Path(folder) / "uv-mutex.pth").symlink_to(hook(broken) / "uv-mutex.pth")
    if damage == "no shim":
        broken.uv.unlink()
    elif damage == "no sitecustomize":
        file.unlink()
    else:
        broken.uv.unlink()
        for path in (file, *file.parent.rglob("*.pyc")):
            os.truncate(path, 0)
    env: dict[str, str | None] = {"PATH": "/usr/bin", "PYTHONPATH": str(hook(broken)) if way == "PYTHONPATH" else None}
    done = python("-c", "import os; print(os.environ['PATH'])", env=env, executable=str(venv / "bin/python"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "/usr/bin\n", "")


@pytest.mark.serial
@pytest.mark.parametrize("way", ["PYTHONPATH", "pth"])
def test_what_it_costs(way: str, shim: Shim, tmp_path: Path) -> None:
    for name in ("with", "without"):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / name], check=True)
    environ: dict[str, dict[str, str]] = {name: {"PATH": "/usr/bin:/bin"} for name in ("with", "without")}
    if way == "pth":
        folder = subprocess.check_output([tmp_path / "with/bin/python", "-c", _SITE], text=True).strip()
        (Path(folder) / "uv-mutex.pth").symlink_to(hook(shim) / "uv-mutex.pth")
    else:
        environ["with"]["PYTHONPATH"] = str(hook(shim))
    taken: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(100):
        for name, times in taken.items():
            began = time.perf_counter()
            subprocess.run([tmp_path / name / "bin/python", "-c", "pass"], env=environ[name], check=True)
            times.append(1000 * (time.perf_counter() - began))
    more = statistics.median(ours - plain for ours, plain in zip(taken["with"], taken["without"], strict=True))
    plain = statistics.median(taken["without"])
    print(f"\n{way}: {plain:.2f} ms without it, {more:+.2f} ms with it")
    # 1 ms of the 8 that an environment's Python takes to start on a quiet machine; a busy one stretches both.
    assert more / plain < 1 / 8
