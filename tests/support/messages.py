"""Hold that a test really meets each message that a user can meet.

`sh tests/run` sets UV_MUTEX_TEST_MESSAGES to a folder. Each test that passes then writes down the messages that its
processes printed (see :class:`Recorder`). In the end `python -m support.messages FOLDER` reads the messages from the
source, and fails for each one that no such test printed and quotes.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import uv_mutex
from uv_mutex.commands.doctor.finding import Finding
from uv_mutex.errors import MutexError

VARIABLE = "UV_MUTEX_TEST_MESSAGES"
_PACKAGE = Path(uv_mutex.__file__).parent
#: What raises, prints or yields a message, and how many of its first arguments are texts.
_SPEAKERS = {
    **dict.fromkeys(("MutexError", "NoUvError", "NoLockError", "CannotForkError", "say", "warn"), 1),
    **dict.fromkeys(("warning", "bad"), 2),
}
#: How the lines with a message begin: an error or warning on stderr, and a finding of the doctor on stdout.
_LINE = re.compile(r"(?:uv-mutex:|NOT PROTECTED |warning  ).*")
#: A test quotes a message if so many words in a row stand in its file.
_QUOTED_WORDS = 3


class Message(NamedTuple):
    """A message in the source: where it stands, what it looks like, and its fixed words, piece by piece."""

    where: str
    pattern: re.Pattern[str]
    pieces: list[list[str]]

    def is_quoted(self, words: str) -> bool:
        """Whether a text, given as its words between single spaces, quotes it."""
        length = min(_QUOTED_WORDS, max(map(len, self.pieces), default=0))
        runs = (piece[at : at + length] for piece in self.pieces for at in range(len(piece) - length + 1))
        return any(f" {' '.join(run)} " in words for run in runs)


def messages(package: Path = _PACKAGE) -> Iterator[Message]:
    """Every message that stands in the source beside the call that raises, prints or yields it."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SPEAKERS:
                for text in node.args[: _SPEAKERS[node.func.id]]:
                    constants = list(_constants(text))
                    if any(_words(constant) for constant in constants):
                        where = f"{path.relative_to(package)}:{text.lineno}"
                        yield Message(where, re.compile(f".*{_pattern(text)}.*"), [*map(_words, constants)])


def _constants(node: ast.expr) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def _pattern(node: ast.expr) -> str:
    """A regular expression for what an expression can print; what it computes may be anything."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_pattern, node.values))
    if isinstance(node, ast.IfExp):
        return f"(?:{_pattern(node.body)}|{_pattern(node.orelse)})"
    return ".*"


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text)


def _decode(text: str | bytes | None) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text or ""


class Recorder:
    """Collects the messages that the processes of one test print, and writes them down if the test passes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: set[str] = set()
        self._listen(subprocess.Popen, "communicate", lambda _words, printed: "\n".join(map(_decode, printed)))
        # Some messages need a machine that no test can have. Their text is read in the test's own process.
        self._listen(Finding, "__str__", lambda _words, text: str(text))
        self._listen(MutexError, "__str__", lambda _words, text: f"uv-mutex: {text}")
        self._listen(os, "write", lambda words, _count: bytes(words[1]).decode("utf-8", "replace"))

    def _listen(self, owner: Any, name: str, text: Callable[..., str]) -> None:
        """Collect a text whenever a function of this process is called.

        :param owner: where the function stands.
        :param text: gets the arguments of a call and what it returned.
        """
        real = getattr(owner, name)

        def call(*words: Any, **options: Any) -> Any:
            returned = real(*words, **options)
            self._collect(text(words, returned))
            return returned

        setattr(owner, name, call)

    def _collect(self, text: str) -> None:
        self._lines.update(_LINE.findall(text))

    def write(self, file: Path, *, passed: bool, printed: str) -> None:
        """A test is over.

        :param file: the test's file.
        :param printed: what pytest captured of it.
        """
        self._collect(printed)
        lines, self._lines = self._lines, set()
        if passed and lines:
            with (self._folder / f"{os.getpid()}.json").open("a") as output:
                output.writelines(json.dumps({"file": str(file), "line": line}) + "\n" for line in sorted(lines))


def not_met(folder: Path) -> list[Message]:
    """The messages that no test both printed and quotes."""
    printed: dict[str, set[str]] = {}
    for path in folder.glob("*.json"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            printed.setdefault(record["file"], set()).add(record["line"])
    # Without what Python and regular expressions put between the words of a quotation.
    texts = {file: f" {' '.join(_words(Path(file).read_text().replace(chr(92), ' ')))} " for file in printed}

    def is_met(message: Message) -> bool:
        return any(
            message.is_quoted(texts[file]) and any(map(message.pattern.fullmatch, lines))
            for file, lines in printed.items()
        )

    return [message for message in messages() if not is_met(message)]


def main(folder: Path) -> int:
    """Print what was not met; return the exit status."""
    missing = not_met(folder)
    for message in missing:
        print(f"{message.where}: no test prints and quotes {message.pattern.pattern}")
    print(f"{len(list(messages())) - len(missing)} messages met, {len(missing)} not met")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
