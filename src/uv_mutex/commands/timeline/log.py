"""Read the files that UV_MUTEX_LOG named."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uv_mutex.errors import MutexError, say

_LATEST, _LONGEST = 1e11, 1e9
_TEXT_CHARS = 300


class LoggedCall:
    """A line of a log. ``exit`` is None where uv went on without the lock."""

    __slots__ = ("command", "exit", "held", "host", "pid", "prepared", "project", "start", "waited")

    def __init__(self, line: dict[str, Any]) -> None:
        """
        :raises ValueError: if that is no line of a log.
        """
        self.start = _number(line.get("time"), _LATEST)
        self.waited = _number(line.get("waited"), _LONGEST)
        self.held = _number(line.get("held"), _LONGEST)
        self.host, self.command, self.project = (_text(line.get(name)) for name in ("host", "command", "project"))
        self.pid = int(_number(line.get("pid"), _LATEST))
        status = line.get("exit")
        self.exit = None if status is None else int(_number(status, 256))
        self.prepared = line.get("prepared") is True

    @property
    def taken(self) -> float:
        """When it had the lock. A call that released it in between and waited again counts as one that waited once."""
        return self.start + self.waited

    @property
    def end(self) -> float:
        """When it released the lock for the last time."""
        return self.taken + self.held


def read(log: Path) -> Iterator[LoggedCall]:
    """The calls of a log. Lines that are no calls are passed over, with one warning.

    :raises MutexError: if the file can't be read.
    """
    first_broken, broken = 0, 0
    try:
        with log.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    parsed = json.loads(line)
                    yield LoggedCall(parsed if isinstance(parsed, dict) else {})
                except (ValueError, RecursionError):
                    first_broken, broken = first_broken or number, broken + 1
    except OSError as error:
        raise MutexError(f"cannot read {log}: {error.strerror}; name a file that UV_MUTEX_LOG wrote") from None
    if broken:
        also = f", and {broken - 1} more" if broken > 1 else ""
        say(f"{log}: line {first_broken}{also}: not of UV_MUTEX_LOG, passed over")


def _number(value: object, limit: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < limit:  # also not a number
        raise ValueError(value)
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    text = "".join(char if char.isprintable() else "?" for char in value[:_TEXT_CHARS])
    return text + "…" if len(value) > _TEXT_CHARS else text
