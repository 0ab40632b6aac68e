"""hooks/Dockerfile, built and run by buildah: there is no registry here, so its base is a local image of Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import need
from support.debian import DOCKER_PATH, machine
from support.download import machines_variables
from support.images import Storage, slim
from support.uvs import uv
from support.wheels import make_wheel

from uv_mutex.setup import launcher

pytestmark = [pytest.mark.network, pytest.mark.serial, pytest.mark.timeout(900)]

_ROOT = Path(__file__).parents[2]
_MIB = 1 << 20
_NAMES = [f"package-{number}" for number in range(6)]
_TOML = '[project]\nname = "demo"\nversion = "0"\nrequires-python = ">=3.10"\n'


def build(storage: Storage, base: str, name: str, **arguments: str) -> subprocess.CompletedProcess[str]:
    """Build hooks/Dockerfile on a base image."""
    return storage.build(_ROOT / "hooks/Dockerfile", _ROOT, name, BASE=f"localhost/{base}", **arguments)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A storage with two base images: `python`, a Debian with Python 3, and `managed`, with a uv's own alone."""
    need.root()
    folder = tmp_path_factory.mktemp("buildah")
    made = Storage(folder)
    env = {**machines_variables("/certificates"), "PATH": DOCKER_PATH}
    try:
        with machine(folder / "machine") as debian:
            slim(debian.root)
            certificates = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
            shutil.copy(certificates, debian.root / "certificates")
            subprocess.run(["chroot", debian.root, "userdel", "--remove", "joe"], check=True, capture_output=True)
            made.image("python", debian.root, **env)
            # As where uv put it: what Debian calls prefix is found from where the program lies.
            managed = debian.root / "opt/python/cpython-3.11.2-linux-x86_64-gnu"
            (managed / "bin").mkdir(parents=True)
            (managed / "lib").mkdir()
            for name in ("bin/python3.11", "lib/python3.11"):
                subprocess.run(["mv", debian.root / "usr" / name, managed / name], check=True)
            shutil.copy(uv("newest"), debian.root / "usr/local/bin/uv")
            made.image("managed", debian.root, UV_PYTHON_INSTALL_DIR="/opt/python", **env)
        yield made
    finally:
        made.remove()


def check(storage: Storage, container: str, version: str) -> None:
    """The image's user goes through the shim by every way in; runs and adds at once are right."""
    assert storage.exec(container, "sh", "-c", "id -u; pwd; echo $HOME").stdout.split() == ["1000", "/work", "/home/uv"]
    assert storage.exec(container, "uv", "--version").stdout.startswith(f"uv {version}")
    for way in (["sh", "-c"], ["sh", "-lc"], ["bash", "-lc"], ["bash", "-ic"], ["env", "-i", f"PATH={DOCKER_PATH}"]):
        found = storage.exec(container, *way, *(["which", "uv"] if way[0] == "env" else ["command -v uv"]))
        assert found.stdout.strip() in ("/opt/uv-mutex/bin/uv", "/usr/local/sbin/uv"), (way, found.stderr)
    offline = "--no-index --find-links /wheels"
    runs = [f"uv run {offline} python -c 'print(1)'"] * 2
    adds = [f"uv add {offline} {name}" for name in _NAMES]
    herds = (" & ".join(f"{{ {call} || echo failed; }}" for call in calls) for calls in (runs, adds))
    both = "".join(f"{herd} & wait; " for herd in herds)
    script = f"cp /pyproject.toml .; export UV_MUTEX_LOG=/work/log; {both} cat pyproject.toml log"
    done = storage.exec(container, "sh", "-c", script)
    assert "failed" not in done.stdout, done.stderr
    assert done.stdout.count('"command": ') == len(runs) + len(adds)
    assert [name for name in _NAMES if f'"{name}' in done.stdout.partition('{"time"')[0]] == _NAMES, done.stdout


def test_an_image(storage: Storage, tmp_path: Path) -> None:
    done = build(storage, "python", "made", UV_VERSION="0.7.8")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in _NAMES:
        make_wheel(tmp_path / "wheels", name)
    (tmp_path / "pyproject.toml").write_text(_TOML)
    with storage.container("made") as container, storage.container("python") as base:
        before, after = storage.size(base), storage.size(container)
        programs = sum(storage.size(container, f"usr/local/bin/{name}") for name in ("uv", "uvx"))
        shim = after - before - programs
        print(f"\nbase {before / _MIB:.0f} MiB, uv {programs / _MIB:.1f}, shim {shim / _MIB:.1f}")
        assert shim <= 5 * _MIB
        root = storage.root(container)
        assert not [
            path for path in ("build", "root/.cache") if (root / path).exists() and any((root / path).iterdir())
        ]
        storage.run("copy", "--quiet", container, tmp_path / "wheels", "/wheels")
        storage.run("copy", "--quiet", container, tmp_path / "pyproject.toml", "/pyproject.toml")
        assert launcher.describe(f"{root}/opt/uv-mutex/bin/uv")[0] == "native", done.stdout + done.stderr
        check(storage, container, "0.7.8")


def test_a_python_that_uv_manages(storage: Storage) -> None:
    """With the uv that the base image has, since no version is asked for."""
    done = build(storage, "managed", "made-managed", USER_ID="1234", LAUNCHER="python")
    assert done.returncode == 0, done.stdout + done.stderr
    with storage.container("made-managed") as container:
        root = storage.root(container)
        python = "/opt/python/cpython-3.11.2-linux-x86_64-gnu/bin/python3.11"
        assert launcher.interpreter_of(root / "opt/uv-mutex") == python
        (root / "work/pyproject.toml").write_text(_TOML)
        done = storage.exec(container, "sh", "-c", "id -u; UV_MUTEX_LOG=log uv sync --offline -q && cat log")
        assert done.stdout.startswith("1234\n")
        assert '"command": "uv sync' in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (
            "managed",
            "rm -r /opt/python",
            "the base image has no Python 3.11 or newer, which the shim needs; add one to it: "
            "apt-get install -y python3 python3-venv, or UV_PYTHON_INSTALL_DIR=/opt/python uv python install",
        ),
        (
            "python",
            "rm -r /usr/lib/python3.11/ensurepip",
            "/usr/bin/python3 has no ensurepip; add python3-venv to the base image",
        ),
        (
            "python",
            "printf '#!/bin/sh\\necho uv 0.1.2\\n' >/usr/local/sbin/uv; chmod +x /usr/local/sbin/uv",
            "UV_VERSION is 0.7.8, but uv 0.1.2 comes first on the base image's PATH",
        ),
    ],
)
def test_a_build_that_stops_says_what_to_do(base: str, change: str, message: str, storage: Storage) -> None:
    container = storage.run("from", f"localhost/{base}").stdout.strip()
    storage.run("run", "--isolation", "chroot", "--user", "0", container, "--", "sh", "-c", change)
    storage.run("commit", "--quiet", "--rm", container, "localhost/changed")
    done = build(storage, "changed", "not-made", UV_VERSION="0.7.8", LAUNCHER="python")
    assert done.returncode
    assert f"uv-mutex: {message}\n" in done.stderr
