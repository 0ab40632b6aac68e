"""Recovery undoes what a killed uv left half done, and nothing else."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from uv_mutex.environment.recovery import undo_half_done

_LONG_AGO, _BEFORE = 0.0, time.time() + 3600
_LOCKFILE = 'version = 1\n[[package]]\nname = "six"\nversion = "1.0"\n[[package]]\nname = "Foo.Bar"\nversion = "1.0"\n'
_RECORD = 'six.py,sha256=x,8\n"../../../bin/six",sha256=x,2\nsix.pyc,,9\nsix-1.0.dist-info/RECORD,,\n'


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with one complete distribution, and the uv.lock of its project."""
    folder = tmp_path / ".venv"
    packages = folder / "lib/python3.11/site-packages"
    (packages / "six-1.0.dist-info").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin/python").symlink_to("/bin/sh")
    (folder / "bin/six").write_text("#!")
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (packages / "six.py").write_text("SIX = 6\n")
    (packages / "six.pyc").write_text("bytecode\n")
    (packages / "six-1.0.dist-info/INSTALLER").write_text("uv")
    (packages / "six-1.0.dist-info/RECORD").write_text(_RECORD)
    (tmp_path / "uv.lock").write_text(_LOCKFILE)
    return folder


def _undo(environment: Path, began: float = _LONG_AGO) -> None:
    undo_half_done(str(environment), str(environment.parent / "uv.lock"), began)


def _packages(environment: Path) -> Path:
    return environment / "lib/python3.11/site-packages"


def _dist_info(environment: Path) -> Path:
    return _packages(environment) / "six-1.0.dist-info"


def _listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


_DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda folder: (_packages(folder) / "six.py").unlink(),
    "short": lambda folder: os.truncate(_packages(folder) / "six.py", 3),
    "script": lambda folder: (folder / "bin/six").unlink(),
    "no RECORD": lambda folder: (_dist_info(folder) / "RECORD").unlink(),
    "empty RECORD": lambda folder: os.truncate(_dist_info(folder) / "RECORD", 0),
    "torn RECORD": lambda folder: os.truncate(_dist_info(folder) / "RECORD", 12),
}


def test_a_complete_environment_is_unchanged(environment: Path) -> None:
    before = _listing(environment)
    _undo(environment)
    assert _listing(environment) == before


@pytest.mark.parametrize("damage", _DAMAGES)
def test_an_incomplete_distribution_is_removed(environment: Path, damage: str) -> None:
    _DAMAGES[damage](environment)
    _undo(environment)
    assert not _dist_info(environment).exists()
    assert (environment / "pyvenv.cfg").exists()


def test_one_without_an_installer_yet_is_removed(environment: Path) -> None:
    (_dist_info(environment) / "INSTALLER").unlink()
    (_packages(environment) / "six.py").unlink()
    _undo(environment)
    assert not _dist_info(environment).exists()


def _installed_by_pip(environment: Path) -> None:
    (_dist_info(environment) / "INSTALLER").write_text("pip\n")


def _not_in_the_lockfile(environment: Path) -> None:
    (environment.parent / "uv.lock").write_text(_LOCKFILE.replace("six", "seven"))


def _no_lockfile(environment: Path) -> None:
    (environment.parent / "uv.lock").unlink()


def _broken_lockfile(environment: Path) -> None:
    (environment.parent / "uv.lock").write_text("package = [{}, 1")


@pytest.mark.parametrize("circumstance", [_installed_by_pip, _not_in_the_lockfile, _no_lockfile, _broken_lockfile])
@pytest.mark.parametrize("damage", _DAMAGES)
def test_what_is_not_of_uv_stays(environment: Path, damage: str, circumstance: Callable[[Path], None]) -> None:
    _DAMAGES[damage](environment)
    circumstance(environment)
    _undo(environment)
    assert _dist_info(environment).exists()


@pytest.mark.parametrize("damage", _DAMAGES)
def test_what_changed_before_the_dead_uv_began_stays(environment: Path, damage: str) -> None:
    """Slimmed and patched by its user. The control is test_an_incomplete_distribution_is_removed."""
    _DAMAGES[damage](environment)
    _undo(environment, began=_BEFORE)
    assert _dist_info(environment).exists()


def test_bytecode_does_not_count(environment: Path) -> None:
    (_packages(environment) / "six.pyc").unlink()
    _undo(environment)
    assert _dist_info(environment).exists()


def test_an_environment_that_uv_had_begun_is_removed(environment: Path) -> None:
    """uv refuses to use it."""
    (environment / "pyvenv.cfg").unlink()
    (environment / ".gitignore").write_text("*")
    _undo(environment)
    assert not environment.exists()


@pytest.mark.parametrize("kind", ["with pyvenv.cfg", "with a foreign file", "with environments", "made before"])
def test_another_folder_stays(environment: Path, kind: str) -> None:
    (environment / "bin/python").unlink()
    if kind != "with pyvenv.cfg":  # uv itself makes such a one anew
        (environment / "pyvenv.cfg").unlink()
    if kind == "with a foreign file":
        (environment / "notes.txt").touch()
    elif kind == "with environments":
        shutil.move(environment / "lib", environment / "py311")
    before = _listing(environment)
    _undo(environment, began=_BEFORE if kind == "made before" else _LONG_AGO)
    assert _listing(environment) == before


def test_a_missing_environment(tmp_path: Path) -> None:
    _undo(tmp_path / ".venv")
    assert not list(tmp_path.iterdir())
