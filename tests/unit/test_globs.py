"""How far the patterns of cache-keys are bounded; tests/e2e/test_fresh.py holds that against real uv."""

from __future__ import annotations

import pytest

from uv_mutex.uv import globs


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("src/**/*.rs", [("src", "*.rs")]),
        ("src/*.rs", [("src", "*.rs")]),
        ("*.rs", [("", "*.rs")]),
        ("./a/./b//*.c", [("a/b", "*.c")]),
        ("../shared/*.h", [("../shared", "*.h")]),
        ("src/**", [("src", "*")]),
        ("**", [("", "*")]),
        ("src/**.rs", [("src", "*.rs")]),
        ("src/*/data/x.bin", [("src", "x.bin")]),
        ("src/**/*.{h,cpp}", [("src", "*.h"), ("src", "*.cpp")]),
        ("{src,lib/x}/*.c", [("src", "*.c"), ("lib/x", "*.c")]),
        ("a{b,{c,d}}", [("", "ab"), ("", "ac"), ("", "ad")]),
        ("src/*.[ch]", [("src", "*.[ch]")]),
        ("src/a?.c", [("src", "a?.c")]),
        # These classes can match "/".
        ("src/*.[!o]", [("src", "*")]),
        ("src/*.[^o]", [("src", "*")]),
        ("src/a[+-9]b", [("src", "*")]),
        ("src/{a,b}[c-e]", [("src", "*")]),
        ("src/[{]", [("src", "*")]),
    ],
)
def test_split(pattern: str, found: list[tuple[str, str]]) -> None:
    assert globs.split(pattern) == found


@pytest.mark.parametrize(
    "pattern",
    ["!*.c", "#*.c", "/src/*.c", "a\\*.c", " *.c", "*.c ", "a*/../b", "{a,b", "a,b}", "{a}}", "{a,{b}", "{,}" * 6],
)
def test_patterns_without_a_bound(pattern: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        globs.split(pattern)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", ".hidden", True),
        ("*.rs", "a.rs", True),
        ("*.rs", ".rs", True),
        ("*.rs", "a.rsx", False),
        ("a?.c", "ab.c", True),
        ("a?.c", "a.c", False),
        ("a?.c", "aä.c", False),  # two bytes
        ("a??.c", "aä.c", True),
        ("*.[ch]", "x.h", True),
        ("*.[ch]", "x.o", False),
        ("x.bin", "x.bin", True),
        ("\udcff*", "\udcffa", True),
    ],
)
def test_name_matches(pattern: str, name: str, matches: bool) -> None:
    assert globs.name_matches(name, pattern) is matches
