"""The modules of the package import downwards only, and in no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

_SOURCES = Path(__file__).parents[2] / "src"
_ROOT = "uv_mutex"
#: From top to bottom. The modules of one package import each other and those of the layers below it, never those above.
#: All may import the package uv_mutex itself, which holds the version.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("setup",),
    ("shim",),
    ("records",),
    ("environment",),
    ("locking",),
    ("uv",),
    ("files", "terminal", "errors"),
)
_FLOOR = {name: number for number, layer in enumerate(LAYERS) for name in layer}

Imports = dict[str, set[str]]


def read_imports(sources: Path) -> Imports:
    """Each module of the package, and the modules of the package that it imports, wherever in its text."""
    modules = {}
    for path in sorted((sources / _ROOT).rglob("*.py")):
        parts = path.relative_to(sources).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: set(_imported(name, path, modules)) - {name} for name, path in modules.items()}


def _imported(module: str, path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes(), path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in modules:
                    yield alias.name
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, module, is_package=path.name == "__init__.py")
            for alias in node.names:
                # `from package import module` imports the module; `from module import name` that module.
                wanted = f"{source}.{alias.name}"
                if wanted in modules:
                    yield wanted
                elif source in modules:
                    yield source


def _absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".") if is_package else module.split(".")[:-1]
    package = package[: len(package) - (node.level - 1)]
    return ".".join([*package, *([node.module] if node.module else [])])


def wrong_directions(imports: Imports) -> list[str]:
    """The imports that don't lead downwards, and the modules that no layer names."""
    wrong = []
    for module, imported in imports.items():
        if module == _ROOT:
            wrong += [f"{module} imports {other}" for other in imported]
            continue
        here = module.split(".")[1]
        if here not in _FLOOR:
            wrong.append(f"{module} is in no layer")
            continue
        for other in imported - {_ROOT}:
            there = other.split(".")[1]
            if there in _FLOOR and there != here and _FLOOR[there] <= _FLOOR[here]:
                wrong.append(f"{module} imports {other}")
    return sorted(wrong)


def circles(imports: Imports) -> list[list[str]]:
    """The groups of modules of which each imports each other, directly or by way of others."""
    reached: dict[str, set[str]] = {}
    for start in imports:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            new = imports[ahead.pop()] - seen
            seen |= new
            ahead += new
        reached[start] = seen
    groups = {frozenset({name} | {other for other in reached[name] if name in reached[other]}) for name in imports}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def test_imports_lead_downwards() -> None:
    assert wrong_directions(read_imports(_SOURCES)) == []


def test_no_circle() -> None:
    assert circles(read_imports(_SOURCES)) == []


def _write(folder: Path, texts: Mapping[str, str]) -> Imports:
    for name, text in {"__init__": "", "uv/__init__": "", "locking/__init__": "", **texts}.items():
        path = folder / _ROOT / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_imports(folder)


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    imports = _write(
        tmp_path,
        {
            "uv/plain": "def function():\n    from uv_mutex.locking import acquire",
            "uv/typed": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..locking.acquire import Lock",
            "uv/whole": "import uv_mutex.locking.acquire",
            "uv/good": "from . import plain\nfrom uv_mutex import VERSION, files",
            "locking/acquire": "from uv_mutex.uv import good",
            "files": "",
            "errors": "from uv_mutex import files",
            "messages": "",
        },
    )
    assert wrong_directions(imports) == [
        "uv_mutex.errors imports uv_mutex.files",
        "uv_mutex.messages is in no layer",
        "uv_mutex.uv.plain imports uv_mutex.locking.acquire",
        "uv_mutex.uv.typed imports uv_mutex.locking.acquire",
        "uv_mutex.uv.whole imports uv_mutex.locking.acquire",
    ]


def test_a_circle_is_found(tmp_path: Path) -> None:
    imports = _write(
        tmp_path,
        {
            "uv/one": "from uv_mutex.uv import two",
            "uv/two": "def function():\n    from .three import name",
            "uv/three": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from uv_mutex.uv.one import Name",
            "uv/aside": "from uv_mutex.uv import one",
        },
    )
    assert circles(imports) == [["uv_mutex.uv.one", "uv_mutex.uv.three", "uv_mutex.uv.two"]]
