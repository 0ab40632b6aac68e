"""Read the files that uv-mutex wrote for UV_MUTEX_LOG."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uv_mutex.errors import MutexError, say

#: Larger times and durations, in seconds, are errors.
_LATEST, _LONGEST = 1e11, 1e9
#: Longer texts are cut.
_TEXT_CHARS = 300


@dataclass(slots=True)
class LoggedCall:
    """A line of a log.

    ``start``: when the call began, in seconds since 1970. ``waited``, ``held``: how many seconds it waited for the
    lock, and held it. ``prepared``: whether it prepared the environment. ``exit``: its exit status; None if it was
    `uv run`, whose uv runs on without the lock.
    """

    start: float
    waited: float
    held: float
    host: str
    pid: int
    command: str
    project: str
    prepared: bool
    exit: int | None

    @classmethod
    def from_json(cls, line: object) -> "LoggedCall":
        """Read a line of a log.

        :param line: what the JSON text of the line stands for.
        :raises ValueError: if this is no line of a log.
        """
        fields: dict[str, Any] = line if isinstance(line, dict) else {}
        status = fields.get("exit")
        return cls(
            start=_number(fields.get("time"), _LATEST),
            waited=_number(fields.get("waited"), _LONGEST),
            held=_number(fields.get("held"), _LONGEST),
            host=_text(fields.get("host")),
            pid=int(_number(fields.get("pid"), _LATEST)),
            command=_text(fields.get("command")),
            project=_text(fields.get("project")),
            prepared=fields.get("prepared") is True,
            exit=None if status is None else int(_number(status, 256)),
        )

    @property
    def taken(self) -> float:
        """When it took the lock, in seconds since 1970.

        A call that released the lock in between and waited again is drawn as one that waited once.
        """
        return self.start + self.waited

    @property
    def end(self) -> float:
        """When it released the lock for the last time, in seconds since 1970."""
        return self.taken + self.held


def read(log: Path) -> Iterator[LoggedCall]:
    """Read the calls of a log. Skip the lines that are no calls, and print one warning about all of them.

    :param log: the file.
    :raises MutexError: if the file can't be read.
    """
    first_broken, broken = 0, 0
    try:
        with log.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield LoggedCall.from_json(json.loads(line))
                except (ValueError, RecursionError):
                    first_broken, broken = first_broken or number, broken + 1
    except OSError as error:
        raise MutexError(f"cannot read {log}: {error.strerror}; name a file that UV_MUTEX_LOG wrote") from None
    if broken:
        also = f", and {broken - 1} more" if broken > 1 else ""
        say(f"{log}: line {first_broken}{also}: not of UV_MUTEX_LOG, passed over")


def _number(value: object, limit: float) -> float:
    """Check a number of a log.

    :raises ValueError: if it is no number, negative, or not below the limit.
    """
    if (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < limit
    ):  # this refuses NaN as well
        raise ValueError(value)
    return float(value)


def _text(value: object) -> str:
    """Check a text of a log, and cut it if it is long.

    :raises ValueError: if it is no text.
    """
    if not isinstance(value, str):
        raise ValueError(value)
    text = "".join(char if char.isprintable() else "?" for char in value[:_TEXT_CHARS])
    return text + "…" if len(value) > _TEXT_CHARS else text
