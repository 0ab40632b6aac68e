"""Real uv, in several versions, each in a folder that holds nothing else."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest
from filelock import FileLock

from support.download import download

VERSIONS = ("0.5.31", "0.7.8", "0.8.24", "0.9.30", "newest")
all_versions = pytest.mark.parametrize("uv_version", VERSIONS)
#: The version that was newest when the controls were written. A control shows that uv fails without the shim; on a
#: fixed version that stays so, whatever a newer uv has learned.
PINNED_NEWEST = "0.13.9"
#: For such a control: the fixed version, and the newest, which `sh tests/run newest` alone tries.
pinned_and_newest = pytest.mark.parametrize(
    "uv_version", [PINNED_NEWEST, pytest.param("newest", marks=pytest.mark.newest)]
)


def cache() -> Path:
    """A folder for what outlives a test session."""
    folder = Path(os.environ.get("UV_MUTEX_TEST_CACHE") or "~/.cache/uv-mutex-tests").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def index_variables(*more: str) -> dict[str, str]:
    """This machine's way to the package index: its proxy, its certificates, and more variables if they are set."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", *more)
    return {name: os.environ[key] for name in names for key in (name, name.lower()) if key in os.environ}


@lru_cache
def uv(version: str) -> Path:
    """The real uv of a version, installed first where the cache lacks it.

    :param version: a version number, or "newest": what the package index calls newest, asked once a day.
    """
    place = cache()
    with FileLock(place / "uvs.lock"):
        return _newest(place) if version == "newest" else _fixed(place, version)


@lru_cache
def numeric_version(version: str) -> str:
    """What `uv --version` says, without the words around it."""
    return _ask(uv(version))


def _fixed(folder: Path, version: str) -> Path:
    binary = _place(folder, version)
    if not binary.exists():
        _install(folder, f"uv=={version}")
    return binary


def _newest(folder: Path) -> Path:
    stamp = folder / "newest.txt"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    day, version = stamp.read_text().split() if stamp.exists() else ("", "")
    if day != today or not _place(folder, version).exists():
        version = _install(folder, "uv")
        stamp.write_text(f"{today} {version}\n")
    return _place(folder, version)


def _place(folder: Path, version: str) -> Path:
    return folder / f"uv-{version}" / "uv"


def _install(folder: Path, requirement: str) -> str:
    """Install into a passing venv and keep the binary alone: on PATH, its folder brings no python and no pip."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="venv-") as venv:
        _run(sys.executable, "-m", "venv", venv)
        pip = [f"{venv}/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        done = download([*pip, "--only-binary", "uv", requirement])
        assert done.returncode == 0, f"{requirement}: {done.stderr}"
        version = _ask(Path(venv, "bin", "uv"))
        place = _place(folder, version)
        place.parent.mkdir(exist_ok=True)
        # The newest is one of the fixed ones, too, which a test may be using. To the shim a new file is another uv, for
        # which it prepares anew.
        if not place.exists():
            os.replace(Path(venv, "bin", "uv"), place)
    return version


def _ask(binary: Path) -> str:
    return _run(str(binary), "--version").split()[1]


def _run(*argv: str) -> str:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout
