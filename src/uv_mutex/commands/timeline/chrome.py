"""Write calls as trace events, a format that Perfetto and chrome://tracing read."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from uv_mutex.commands.timeline.log import LoggedCall


def trace(calls: Sequence[LoggedCall]) -> Iterator[str]:
    """Yield the JSON text of a trace. Each host is a process in it, each call a thread.

    :param calls: at least one call, in the order in which they began.
    """
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


def _events(call: LoggedCall, began: float) -> Iterator[dict[str, Any]]:
    """The events of one call: its name, the time that it waited, the time that it held the lock, and its end."""
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
    """Whole microseconds, the unit of trace events."""
    return math.floor(seconds * 1e6 + 0.5)
