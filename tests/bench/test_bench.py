"""The table and the plot can be made, and nothing stays behind; the figures of so short a run mean nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import need
from support.terminal import wait_until

_ROOT = Path(__file__).parents[2]
_ROWS = ("version", "run", "env-file", "old-herd", "launcher-memory", "handover")


def _start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "--small", "--rounds=1", *words],
        env={**os.environ, "PYTHONPATH": f"{_ROOT}/src:{_ROOT}/tests", "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.serial
def test_a_short_run_prints_the_rows_and_draws_the_plot(tmp_path: Path) -> None:
    for program in ("flock", "strace"):
        need.executable(program)
    plot = tmp_path / "plot.svg"
    out, err = _start(tmp_path, "--plot", str(plot), *_ROWS).communicate(timeout=250)
    print(out)
    assert not err
    rows = [line.split("|")[1:-1] for line in out.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows[2:]] == list(_ROWS)
    assert not any("skipped" in row[3] for row in rows)
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


@pytest.mark.serial
def test_a_bench_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    bench = _start(tmp_path, "waiter")
    # The bench, who holds the lock, its command, and who waits.
    wait_until(lambda: len(_processes_in(tmp_path)) >= 4 or bench.poll() is not None, 200)
    bench.send_signal(signal.SIGINT)
    _, err = bench.communicate(timeout=60)
    assert (bench.returncode, err) == (130, "interrupted\n")
    assert not _processes_in(tmp_path)
    assert not list(tmp_path.iterdir())


def _processes_in(folder: Path) -> list[int]:
    """The processes that work somewhere below a folder."""
    found = []
    for item in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (item / "cwd").readlink().is_relative_to(folder):
                found.append(int(item.name))
    return found
