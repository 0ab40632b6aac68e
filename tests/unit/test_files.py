"""Files are read as a whole, and no further than they may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from uv_mutex import files

_USUAL = files._USUAL_BYTES


@pytest.mark.parametrize("size", [0, 1, _USUAL - 1, _USUAL, _USUAL + 1, 3 * _USUAL])
@pytest.mark.parametrize("limit", [1, _USUAL - 1, _USUAL, _USUAL + 1, 1 << 25])
def test_read(tmp_path: Path, size: int, limit: int) -> None:
    content = bytes(number % 251 for number in range(size))
    path = tmp_path / "file"
    path.write_bytes(content)
    assert files.read(str(path), limit) == content[:limit]
    assert files.read(str(path), limit, start=1) == content[1 : 1 + limit]
