"""What pyproject.toml says of the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

from uv_mutex import VERSION

_ROOT = Path(__file__).parents[2]
_PYPROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())


def test_the_version_stands_in_one_place() -> None:
    assert "version" not in _PYPROJECT["project"]
    source = (_ROOT / _PYPROJECT["tool"]["hatch"]["version"]["path"]).read_text()
    assert f'VERSION = "{VERSION}"\n' in source


def test_the_repository_names_no_package_index() -> None:
    assert "index" not in _PYPROJECT["tool"].get("uv", {})
    assert "uv.lock" in (_ROOT / ".gitignore").read_text().splitlines()
