"""The wheel that people get, which src/launcher/release builds: it needs ziglang, and minutes."""

from __future__ import annotations

import ast
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from support import release
from support.download import download
from support.shim import Shim
from support.uvs import cache

from uv_mutex.setup import install as installing

_ROOT = Path(__file__).parents[2]
_MACHINE = os.uname().machine
#: What ELF calls a machine.
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a clone has."""
    return release.copy_sources(tmp_path_factory.mktemp("sources") / "clone")


@pytest.fixture(scope="module")
def tools() -> Iterator[tuple[Path, dict[str, str]]]:
    """A Python that has what a release needs, and variables that let zig keep the C library that it compiles."""
    folder = cache() / "release"
    wanted = _wanted()
    with FileLock(f"{folder}.lock"):
        python = folder / "bin/python"
        if not (folder / wanted.replace(" ", "-")).exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            done = download([*pip, *wanted.split()])
            assert done.returncode == 0, done.stderr
            (folder / wanted.replace(" ", "-")).touch()
        yield python, {f"ZIG_{kind}_CACHE_DIR": f"{folder}/zig" for kind in ("GLOBAL", "LOCAL")}


def _wanted() -> str:
    """The tools, as the script names them."""
    text = (_ROOT / "src/launcher/release").read_text()
    line = next(line for line in text.splitlines() if line.startswith("_TOOLS = "))
    return " ".join(f"{name}=={version}" for name, version in ast.literal_eval(line.partition(" = ")[2]).items())


@pytest.mark.network
@pytest.mark.timeout(1800)
def test_a_release(
    tools: tuple[Path, dict[str, str]], sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has small static launchers for both machines, and two builds of it, in different folders, are the same."""
    python, environ = tools
    wheels: list[Path] = []
    for name in ("one", "two"):
        clone, output = tmp_path / f"clone-{name}", tmp_path / name
        shutil.copytree(sources, clone)
        command = [python, clone / "src/launcher/release", output]
        done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        wheels += output.iterdir()
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    found = release.launchers(wheels[0])
    assert set(found) == {f"uv-{machine}" for machine in _ELF_MACHINES}
    for machine, number in _ELF_MACHINES.items():
        program = found[f"uv-{machine}"]
        assert len(program) < 100_000
        assert b"uv-mutex launcher" in program[:2048]
        assert struct.unpack_from("<H", program, 18) == (number,)
        assert b"/ld-" not in program
    # The image's way, where there is no C compiler.
    command = [python, sources / "src/launcher/compiler.py", tmp_path / "alone"]
    subprocess.run(command, env={**os.environ, **environ, "CC": "no-such-compiler"}, check=True)
    assert (tmp_path / "alone").read_bytes() == found[f"uv-{_MACHINE}"]
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(tmp_path / "unpacked")
    monkeypatch.setattr(installing, "_package", lambda: tmp_path / "unpacked/uv_mutex")
    monkeypatch.setenv("UV_MUTEX_LAUNCHER", "native")
    shim = Shim(installing.install(tmp_path / "prefix").parent)
    assert shim.uv.read_bytes() == found[f"uv-{_MACHINE}"]
