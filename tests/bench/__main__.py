"""Measure uv-mutex against bare uv and what people write instead: `PYTHONPATH=src:tests python -m bench [ROW ...]`.

Prints a Markdown table in which each figure is a ratio of medians taken in turns within this one run.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.uvs import numeric_version

from bench import calls, handover, herds, memory, round_trips
from bench.plot import draw
from bench.processes import ended_at_exit
from bench.row import Row
from bench.workload import Workload

ROWS = (*calls.ROWS, *herds.ROWS, *memory.ROWS, *handover.ROWS, *round_trips.ROWS)
#: The machine's processor, as /proc/cpuinfo names it.
_MODEL = "model name"
#: With --small, a herd is so many times smaller.
_SMALLER = 10


def _arguments() -> argparse.Namespace:
    names = [f"{row.name}{'' if row.is_usual else ' (only if named)'}" for row in ROWS]
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, epilog=f"Rows: {', '.join(names)}.", allow_abbrev=False
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="what to measure; by default, all usual rows")
    parser.add_argument("--rounds", type=int, metavar="N", help="for each row, instead of its own number")
    parser.add_argument("--small", action="store_true", help="a small project and small herds, to show that it works")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="also measure and draw time against parallel calls")
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no row is named {', '.join(sorted(unknown))}; rows: {', '.join(names)}")
    return arguments


def _print_row(workload: Workload, row: Row) -> None:
    began = time.monotonic()
    try:
        measured = row.measure(workload, row)
    except pytest.skip.Exception as reason:
        measured = f"skipped: {reason}"
    cells = row.name, row.what.format(calls=row.calls), row.goal, measured, f"{time.monotonic() - began:.0f} s"
    print("| " + " | ".join(cells) + " |", flush=True)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith(_MODEL)), "unknown processor")
    return f"{platform.machine()}, {os.cpu_count()} cores ({model}), Linux {platform.release()}"


def _measure(arguments: argparse.Namespace, workload: Workload) -> None:
    rows = [row for row in ROWS if row.name in arguments.rows or (row.is_usual and not arguments.rows)]
    load, now = os.getloadavg()[0], datetime.now(UTC).date()
    print(f"{now}, {_machine()}, load {load:.1f} before, Python {platform.python_version()}, uv ", end="")
    print(f"{numeric_version('newest')} unless it says otherwise, {len(workload.packages)} packages\n")
    print("| row | what | goal | measured | took |\n| --- | --- | --- | --- | --- |", flush=True)
    for row in rows:
        calls_at_once = max(1, row.calls // _SMALLER) if arguments.small else row.calls
        _print_row(workload, replace(row, rounds=arguments.rounds or row.rounds, calls=calls_at_once))


def main() -> int:
    """Print the table; write the plot if asked to."""
    arguments = _arguments()
    plot = arguments.plot and arguments.plot.absolute()  # the workload changes the folder
    try:
        with (
            tempfile.TemporaryDirectory(prefix="uv-mutex-bench-") as folder,
            ended_at_exit(),
            Workload(Path(folder), is_small=arguments.small) as workload,
        ):
            if arguments.rows or not plot:
                _measure(arguments, workload)
            if plot:
                counts = (1, 3) if arguments.small else (1, 3, 10, 30, 100)
                lines = herds.plot_lines(workload, counts, arguments.rounds or 3)
                title = f"Seconds for parallel `uv run true`, no .venv, {os.cpu_count()} cores (hollow: some failed)"
                plot.write_text(draw(title, lines))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
