"""Recovery removes what a killed uv left half-installed, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uv_mutex.environment.recovery import remove_half_installed


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with one complete distribution."""
    folder = tmp_path / ".venv"
    packages = folder / "lib/python3.11/site-packages"
    (packages / "six-1.0.dist-info").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin/python").symlink_to("/bin/sh")
    (folder / "bin/six").write_text("#!")
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (packages / "six.py").write_text("SIX = 6\n")
    (packages / "six-1.0.dist-info/RECORD").write_text(
        'six.py,sha256=x,8\n"../../../bin/six",sha256=x,2\nsix-1.0.dist-info/RECORD,,\n'
    )
    return folder


def _packages(environment: Path) -> Path:
    return environment / "lib/python3.11/site-packages"


def _listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_complete_environment_is_unchanged(environment: Path) -> None:
    before = _listing(environment)
    remove_half_installed(str(environment))
    assert _listing(environment) == before


@pytest.mark.parametrize("damage", ["missing", "short", "script", "no RECORD", "empty RECORD", "torn RECORD"])
def test_an_incomplete_distribution_is_removed(environment: Path, damage: str) -> None:
    packages = _packages(environment)
    record = packages / "six-1.0.dist-info/RECORD"
    match damage:
        case "missing":
            (packages / "six.py").unlink()
        case "short":
            os.truncate(packages / "six.py", 3)
        case "script":
            (environment / "bin/six").unlink()
        case "no RECORD":
            record.unlink()
        case "empty RECORD":
            os.truncate(record, 0)
        case "torn RECORD":
            os.truncate(record, 12)
    remove_half_installed(str(environment))
    assert not (packages / "six-1.0.dist-info").exists()
    assert (environment / "pyvenv.cfg").exists()


@pytest.mark.parametrize("missing", ["pyvenv.cfg", "bin/python"])
def test_an_incomplete_environment_is_removed(environment: Path, missing: str) -> None:
    (environment / missing).unlink()
    elsewhere = environment.rename(environment.with_name("usr-local"))
    remove_half_installed(str(elsewhere))
    assert _packages(elsewhere).exists(), "a folder with another name may hold more than an environment"
    elsewhere.rename(environment)
    remove_half_installed(str(environment))
    assert not environment.exists()


def test_a_missing_environment(tmp_path: Path) -> None:
    remove_half_installed(str(tmp_path / ".venv"))
    assert not list(tmp_path.iterdir())
