"""The rows of many calls at once, against bare uv and against the flock wrapper."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from support.uvs import numeric_version

from bench.measure import Herd, once, together
from bench.row import Row, ratio
from bench.workload import Way, Workload

_RUN = ("run", "true")
_NEWEST, _OLD = "newest", "0.7.8"
_WAYS = ("shim", "flock", "bare")
#: After so many seconds a herd of a thousand is stopped: a bare uv of old would take an hour.
_MOST_SECONDS = 100
_LINES = (("bare", _OLD), ("bare", _NEWEST), ("flock", _NEWEST), ("shim", _NEWEST), ("shim", _OLD))

Start = Callable[[Workload, Way, int], Herd]


def _fresh(workload: Workload, way: Way, count: int) -> Herd:
    _prepare(workload, way)
    return together(workload, way, _RUN, count)


def _first(workload: Workload, way: Way, count: int) -> Herd:
    """A herd on a project whose environment has yet to be made; the cache is warm."""
    _prepare(workload, way)
    workload.forget_environment()
    return together(workload, way, _RUN, count)


def _one_before_the_others(workload: Workload, way: Way, count: int) -> Herd:
    """What no way can beat that runs the real uv: one call prepares alone, and all others find that done."""
    _prepare(workload, way)
    workload.forget_environment()
    first, others = (together(workload, way, _RUN, each) for each in (1, count - 1))
    return Herd(
        first.seconds + others.seconds,
        first.cpu_seconds + others.cpu_seconds,
        first.failures + others.failures,
        first.unfinished + others.unfinished,
        max(first.mib, others.mib),
    )


def _first_of_clone(workload: Workload, way: Way, count: int) -> Herd:
    """The same, where the shim has never seen the project either."""
    _prepare(workload, way)
    with workload.inside(workload.clone()):
        return together(workload, way, _RUN, count)


def _thousand(workload: Workload, way: Way, count: int) -> Herd:
    _prepare(workload, way)
    workload.forget_environment()
    return together(workload, way, _RUN, count, most_seconds=_MOST_SECONDS)


def _prepare(workload: Workload, way: Way) -> None:
    """Make the environment, fill uv's cache, and let this way find it fresh.

    Where another version of uv has made it, this one would find nothing to do, and its part of the cache stay empty.
    """
    workload.forget_environment()
    for _ in range(2):
        once(workload, way.command(*_RUN), way.env)


def _compare(
    start: Start, version: str, *, with_memory: bool = False, with_least: bool = False
) -> Callable[[Workload, Row], str]:
    """A measurement of herds: with the shim against bare uv; the flock wrapper likewise.

    :param with_memory: also how much memory they needed.
    :param with_least: also what bare uv takes where one call goes before the others.
    """

    def measure(workload: Workload, row: Row) -> str:
        ways = workload.ways(version)
        herds: dict[str, list[Herd]] = {name: [] for name in _WAYS}
        for _ in range(row.rounds):
            for name in _WAYS:
                herds[name].append(start(workload, ways[name], row.calls))
            if with_least:
                herds.setdefault("least", []).append(_one_before_the_others(workload, ways["bare"], row.calls))
        said = {name: _describe(each, herds["bare"], with_memory=with_memory) for name, each in herds.items()}
        least = f"; bare, one call before the others: {said['least']}" if with_least else ""
        return f"{said['shim']} (flock wrapper: {said['flock']}; bare: {said['bare']}{least})"

    return measure


def _describe(herds: list[Herd], bare: list[Herd], *, with_memory: bool) -> str:
    seconds, of_bare = (statistics.median(herd.seconds for herd in each) for each in (herds, bare))
    busy, busy_bare = (statistics.median(herd.cpu_seconds for herd in each) for each in (herds, bare))
    failures, unfinished = (sum(getattr(herd, what) for herd in herds) for what in ("failures", "unfinished"))
    if herds is bare:
        said = [f"{'over ' if unfinished else ''}{seconds:.1f} s"]
    else:
        less = "below " if any(herd.unfinished for herd in bare) else ""
        said = [f"{less}{ratio(seconds, of_bare)}", f"CPU {less}{ratio(busy, busy_bare)}"]
    said.append(f"{failures} failures")
    if unfinished:
        said.append(f"{unfinished} unfinished")
    if with_memory:
        said.append(f"{max(herd.mib for herd in herds) / 1024:.1f} GiB")
    return ", ".join(said)


def plot_lines(workload: Workload, counts: tuple[int, ...], rounds: int) -> dict[str, list[tuple[int, float, int]]]:
    """Seconds for more and more parallel first calls, by each way: the median herd, and the failures of all."""
    names = {"bare": "bare uv", "flock": "flock, uv", "shim": "uv-mutex, uv"}
    lines: dict[str, list[tuple[int, float, int]]] = {}
    for name, version in _LINES:
        way, points = workload.ways(version)[name], []
        for count in counts:
            herds = [_first(workload, way, count) for _ in range(rounds)]
            seconds = statistics.median(herd.seconds for herd in herds)
            points.append((count, seconds, sum(herd.failures for herd in herds)))
        lines[f"{names[name]} {numeric_version(version)}"] = points
    return lines


_NO_VENV = "{calls} `uv run true` at once, no .venv"
ROWS = (
    Row("herd", "{calls} `uv run true` at once, fresh", "<= 1.10, 0", 5, _compare(_fresh, _NEWEST), 200),
    Row("first-herd", _NO_VENV, "<= 1.2, 0", 5, _compare(_first, _NEWEST), 100),
    Row("clone", f"{_NO_VENV}, in a fresh clone", "<= 1.5, 0", 5, _compare(_first_of_clone, _NEWEST), 100),
    Row("old-herd", f"{_NO_VENV}, uv {_OLD}", "<= 1/15, 0", 3, _compare(_first, _OLD, with_least=True), 50),
    Row("thousand", _NO_VENV, "0 failures", 1, _compare(_thousand, _NEWEST, with_memory=True), 1000),
    Row("old-thousand", f"{_NO_VENV}, uv {_OLD}", "0 failures", 1, _compare(_thousand, _OLD, with_memory=True), 1000),
)
