"""Measure uv-mutex against bare uv and what people write instead: `PYTHONPATH=src:tests python -m bench`.

Prints a Markdown table in which each figure is a ratio of medians taken in turns within this one run.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from support.herd import read_log
from support.uvs import numeric_version

from bench.handover import cost_of_waiting, median_handover
from bench.measure import Herd, in_turns, once, together
from bench.plot import draw
from bench.workload import Way, Workload

_NEWEST, _OLD = "newest", "0.7.8"
_RUN = ("run", "true")
Row = tuple[str, str, str]


class Bench:
    """The rows of the table, each measured when it is asked for."""

    def __init__(self, workload: Workload, *, short: bool) -> None:
        self._workload = workload
        self._pairs = 8 if short else 60
        self._herds = 1 if short else 5
        self._plotted = 1 if short else 3
        self._small, self._large, self._huge = (20, 20, 60) if short else (100, 200, 1000)
        self._new = workload.ways(_NEWEST)
        self._old = workload.ways(_OLD)

    def rows(self) -> Iterator[Row]:
        """What, goal, measured."""
        yield from self._single_calls()
        yield from self._fresh_herd()
        yield from self._first_herds()
        yield self._exactly_one()
        yield self._growth()
        folder = self._workload.project.root.parent / "handover"
        for waiters in (1, 50 if self._large > 100 else 5):
            pause = median_handover(folder / str(waiters), waiters, 20 if waiters == 1 else 2)
            yield f"hand-over, {waiters} waiting", "<= 10 ms", f"{pause * 1e3:.1f} ms"
        cost = cost_of_waiting(self._workload)
        yield "a waiter's resident memory", "<= 18 MiB", f"{cost.resident_mib:.1f} MiB"
        yield "a waiter's share of a core", "<= 0.5 %", f"{cost.percent:.2f} %"

    def _single_calls(self) -> Iterator[Row]:
        self._prepare(self._new["shim"])
        programs = {f"{name} run": self._call(way, *_RUN) for name, way in self._new.items()}
        programs |= {f"{name} version": self._call(self._new[name], "--version") for name in ("bare", "shim")}
        python = [self._workload.interpreter, "-IS", "-c", "pass"]
        programs["pass"] = partial(once, self._workload, python, self._new["bare"].env)
        took = in_turns(programs, self._pairs)
        adds = (took["shim version"] - took["bare version"]) / took["pass"]
        yield "`uv --version`: what the shim adds, in bare `python -IS -c pass`", "<= 1.15", f"{adds:.2f}"
        adds = (took["shim run"] - took["bare run"]) / took["pass"]
        yield "`uv run true`, fresh: what the shim adds, likewise", "<= 1.35", f"{adds:.2f}"
        for name, goal in (("bare", "<= 1.45"), ("flock", "<= 0.92"), ("python", "<= 0.4")):
            ratio = took["shim run"] / took[f"{name} run"]
            yield f"`uv run true`, fresh, against {self._new[name].name}", goal, f"{ratio:.2f}"
        yield self._floor(took["floor run"] / took["bare run"])

    def _floor(self, ratio: float) -> Row:
        return f"likewise, {self._new['floor'].name}, against bare uv", "(the floor)", f"{ratio:.2f}"

    def _fresh_herd(self) -> Iterator[Row]:
        took = self._in_turns(self._new, ("bare", "shim", "flock", "floor"), self._large, first=False)
        for name, goal in (("bare", "<= 1.4"), ("flock", "<= 0.85")):
            ratio = took["shim"] / took[name]
            yield f"{self._large} parallel `uv run true`, fresh, against {self._new[name].name}", goal, f"{ratio:.2f}"
        yield self._floor(took["floor"] / took["bare"])

    def _first_herds(self) -> Iterator[Row]:
        what = f"{self._small} parallel `uv run true`, no .venv"
        bare = self._first_herd(self._old["bare"], self._small)
        shim = self._first_herd(self._old["shim"], self._small)
        ratio = bare.seconds / shim.seconds
        said = f"1/{ratio:.0f}; {shim.failures} failures (bare: {bare.seconds:.0f} s, {bare.failures} failures)"
        yield f"{what}, uv {_OLD}, against bare uv", "<= 1/15, 0 failures", said
        took = self._in_turns(self._new, ("bare", "shim", "floor"), self._small, first=True)
        yield f"{what}, newest uv, against bare uv", "<= 1.4", f"{took['shim'] / took['bare']:.2f}"
        yield self._floor(took["floor"] / took["bare"])

    def _exactly_one(self) -> Row:
        log = self._workload.project.root.parent / "log"
        self._workload.forget_environment()
        self._workload.forget_cache()
        self._workload.index.reset()
        way = self._old["shim"]
        herd = together(self._workload, way, _RUN, self._small, UV_MUTEX_LOG=str(log))
        prepared = sum(line["prepared"] for line in read_log(log))
        fetched = set(self._workload.index.downloads.values())
        said = f"{prepared} preparation, every file fetched {fetched} times, {herd.failures} failures"
        return f"{self._small} parallel calls, no .venv, empty cache, uv {_OLD}", "1, {1}, 0", said

    def _growth(self) -> Row:
        small = self._first_herd(self._new["shim"], self._small)
        huge = self._first_herd(self._new["shim"], self._huge)
        ratio = (huge.seconds / self._huge) / (small.seconds / self._small)
        what = f"{self._huge} parallel `uv run true`, no .venv: time per call against {self._small}"
        return what, "about 1, 0 failures", f"{ratio:.2f}, {huge.failures} failures"

    def plot_lines(self) -> dict[str, list[tuple[int, float, int]]]:
        """Seconds for more and more parallel first calls, by each way: the median herd, and the failures of all."""
        newest = numeric_version(_NEWEST)
        ways = {
            f"bare uv {_OLD}": self._old["bare"],
            f"bare uv {newest}": self._new["bare"],
            f"flock, uv {newest}": self._new["flock"],
            f"uv-mutex, uv {newest}": self._new["shim"],
            f"uv-mutex, uv {_OLD}": self._old["shim"],
        }
        counts = (1, 3, 10, 30) if self._large <= 20 else (1, 3, 10, 30, 100)
        lines: dict[str, list[tuple[int, float, int]]] = {name: [] for name in ways}
        for count in counts:
            herds: dict[str, list[Herd]] = {name: [] for name in ways}
            for _ in range(self._plotted):
                for name, way in ways.items():
                    herds[name].append(self._first_herd(way, count))
            for name, each in herds.items():
                seconds = statistics.median(herd.seconds for herd in each)
                lines[name].append((count, seconds, sum(herd.failures for herd in each)))
        return lines

    def _call(self, way: Way, *words: str) -> Callable[[], float]:
        return partial(once, self._workload, way.command(*words), way.env)

    def _prepare(self, way: Way) -> None:
        for _ in range(2):
            self._call(way, *_RUN)()

    def _first_herd(self, way: Way, count: int) -> Herd:
        """A herd on a project whose environment has yet to be made; the cache is warm."""
        self._prepare(way)
        self._workload.forget_environment()
        return together(self._workload, way, _RUN, count)

    def _in_turns(self, ways: dict[str, Way], names: tuple[str, ...], count: int, *, first: bool) -> dict[str, float]:
        def herd(name: str) -> float:
            if first:
                return self._first_herd(ways[name], count).seconds
            return together(self._workload, ways[name], _RUN, count).seconds

        self._prepare(ways["shim"])
        return in_turns({name: partial(herd, name) for name in names}, self._herds)


def main() -> None:
    """Print the table; write the plot if asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="few and small herds, to show that it works")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="also measure and draw time against parallel calls")
    arguments = parser.parse_args()
    plot = arguments.plot and arguments.plot.absolute()  # the workload changes the folder
    with tempfile.TemporaryDirectory(prefix="uv-mutex-bench-") as folder, Workload(Path(folder)) as workload:
        bench = Bench(workload, short=arguments.short)
        uv, machine = numeric_version(_NEWEST), f"{platform.machine()}, {os.cpu_count()} cores"
        now = datetime.now(UTC).date()
        print(f"{now}, {machine}, Python {platform.python_version()}, uv {uv} unless it says otherwise\n")
        print("| what | goal | measured |\n| --- | --- | --- |")
        for row in bench.rows():
            print("| " + " | ".join(row) + " |", flush=True)
        if plot:
            title = f"Seconds for parallel `uv run true`, no .venv, {machine} (hollow: some failed)"
            plot.write_text(draw(title, bench.plot_lines()))


if __name__ == "__main__":
    main()
