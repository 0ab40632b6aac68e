"""A line for a terminal stays on one row of it."""

from __future__ import annotations

import pytest

from uv_mutex.terminal import cut, printable


@pytest.mark.parametrize(
    ("line", "columns", "expected"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("abcd", 1, "…"),
        ("abcd", 0, ""),
        ("", 0, ""),
        ("\u4e2d\u6587", 4, "\u4e2d\u6587"),
        ("\u4e2d\u6587", 3, "\u4e2d…"),
        ("\u4e2d\u6587", 2, "…"),
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),
    ],
)
def test_cut(line: str, columns: int, expected: str) -> None:
    assert cut(line, columns) == expected


def test_printable() -> None:
    assert printable("a\x1b[2J\x07\n\t\x9b\u202eb\u4e2d") == "a?[2J?????b\u4e2d"
