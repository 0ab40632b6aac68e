"""What the package says of itself."""

from __future__ import annotations

import re
from pathlib import Path

from uv_mutex import VERSION

_ROOT = Path(__file__).parents[2]


def test_one_version() -> None:
    assert re.search(r'^version = "([^"]+)"', (_ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1] == VERSION  # type: ignore[index]


def test_the_lock_file_names_no_registry() -> None:
    assert "://" not in (_ROOT / "uv.lock").read_text()
