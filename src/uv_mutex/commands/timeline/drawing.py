"""`uv-mutex timeline`: UV_MUTEX_LOG as a picture of who waited, who held the lock, and who went on."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from uv_mutex.commands.timeline import svg
from uv_mutex.errors import MutexError, say
from uv_mutex.messages import commands

SVG, CHROME = "svg", "chrome"
_LATEST, _LONGEST = 1e11, 1e9
_TEXT_CHARS = 300


class Call:
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
        """When it had the lock. (It may have let go in between and waited again; that counts as one.)"""
        return self.start + self.waited

    @property
    def end(self) -> float:
        """When it let go of the lock for the last time."""
        return self.taken + self.held


def timeline(logs: Sequence[Path], output: Path, *, form: str) -> None:
    """Draw logs.

    :param logs: files that UV_MUTEX_LOG named; of several hosts, say.
    :param output: the file to write.
    :param form: SVG, for a browser, or CHROME, the trace events that Perfetto opens.
    :raises MutexError: if a log can't be read or holds no call, or the output can't be written.
    """
    if any(_same(output, log) for log in logs):
        raise MutexError(commands.draws_over(output))
    calls = sorted((call for log in logs for call in _read(log)), key=lambda call: (call.start, call.host, call.pid))
    if not calls:
        raise MutexError(commands.nothing_to_draw(logs))
    try:
        with output.open("w", encoding="utf-8", errors="replace") as file:
            file.writelines(svg.draw(calls) if form == SVG else _trace(calls))
    except OSError as error:
        raise MutexError(commands.cannot_draw(output, error)) from None


def _same(output: Path, log: Path) -> bool:
    try:
        return output.samefile(log)
    except OSError:
        return False


def _read(log: Path) -> Iterator[Call]:
    """The calls of a log. What is no call is passed over, with one warning."""
    first_broken, broken = 0, 0
    try:
        with log.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    parsed = json.loads(line)
                    yield Call(parsed if isinstance(parsed, dict) else {})
                except (ValueError, RecursionError):
                    first_broken, broken = first_broken or number, broken + 1
    except OSError as error:
        raise MutexError(commands.cannot_read_log(log, error)) from None
    if broken:
        say(commands.broken_lines(log, first_broken, broken))


def _number(value: object, limit: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < limit:  # also not a number
        raise ValueError(value)
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    text = "".join(char if char.isprintable() else "?" for char in value[:_TEXT_CHARS])
    return text + "…" if len(value) > _TEXT_CHARS else text


def _trace(calls: Sequence[Call]) -> Iterator[str]:
    """The calls as trace events: a process for each host, a thread for each call."""
    hosts = {host: number for number, host in enumerate(sorted({call.host for call in calls}), 1)}
    began = calls[0].start
    yield '{"displayTimeUnit": "ms", "traceEvents": ['
    separator = "\n"
    for host, number in hosts.items():
        yield separator + json.dumps({"ph": "M", "name": "process_name", "pid": number, "args": {"name": host}})
        separator = ",\n"
    for number, call in enumerate(calls):
        for event in _events(call, began):
            yield separator + json.dumps({**event, "pid": hosts[call.host], "tid": number})
    yield "\n]}\n"


def _events(call: Call, began: float) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "thread_name", "args": {"name": f"{call.command} ({call.pid})"}}
    details = {"command": call.command, "pid": call.pid, "project": call.project, "exit": call.exit}
    parts = [("waited", call.start, call.waited), ("prepared" if call.prepared else "held", call.taken, call.held)]
    for name, at, seconds in parts:
        if seconds:
            yield {
                "ph": "X",
                "cat": "uv",
                "name": name,
                "ts": _micro(at - began),
                "dur": _micro(seconds),
                "args": details,
            }
    name = "uv goes on" if call.exit is None else f"exit {call.exit}"
    yield {"ph": "i", "s": "t", "cat": "uv", "name": name, "ts": _micro(call.end - began)}


def _micro(seconds: float) -> int:
    return math.floor(seconds * 1e6 + 0.5)
