"""Every message stands in one place, says what to do, and is met by a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import uv_mutex

PACKAGE = Path(uv_mutex.__file__).parent
TESTS = Path(__file__).parents[1]
RUN = 3  # words in a row, as a test quotes them


def messages() -> Iterator[tuple[str, list[str]]]:
    """Each function and constant of uv_mutex.messages, and what it says besides its placeholders."""
    for path in sorted((PACKAGE / "messages").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                said = [
                    piece for statement in node.body if not _is_docstring(statement) for piece in ast.walk(statement)
                ]
                yield f"{path.stem}.{node.name}", _texts(said)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                assert isinstance(node.targets[0], ast.Name)
                yield f"{path.stem}.{node.targets[0].id}", _texts([node.value])


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _texts(nodes: list[ast.AST]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text)


@pytest.fixture(scope="module")
def quoted() -> str:
    """The words of all tests but this, without what Python and regular expressions put between them."""
    texts = [path.read_text() for path in sorted(TESTS.rglob("*.py")) if path != Path(__file__)]
    return f" {' '.join(_words(' '.join(texts).replace(chr(92), ' ')))} "


@pytest.mark.parametrize(("name", "texts"), [pytest.param(*each, id=each[0]) for each in messages()])
def test_a_test_meets_it(name: str, texts: list[str], quoted: str) -> None:
    pieces = [words for text in texts if (words := _words(text))]
    length = min(RUN, max(map(len, pieces), default=0))
    runs = [" ".join(words[i : i + length]) for words in pieces for i in range(len(words) - length + 1)]
    assert not pieces or any(f" {run} " in quoted for run in runs), f"no test has words of {name}: {texts}"


def test_nothing_is_said_elsewhere() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                text = node.args[0]
                if node.func.id in ("MutexError", "NoUvError", "say") and isinstance(
                    text, ast.Constant | ast.JoinedStr
                ):
                    found.append(f"{path.name}:{node.lineno}")
    assert not found
