"""The table and the plot can be made; the figures of so short a run mean nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import need

_ROOT = Path(__file__).parents[2]


@pytest.mark.serial
@pytest.mark.timeout(900)
def test_short_run_prints_every_row_and_draws_the_plot(tmp_path: Path) -> None:
    need.executable("flock")
    plot = tmp_path / "plot.svg"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--short", "--plot", str(plot)],
        env={**os.environ, "PYTHONPATH": f"{_ROOT}/src:{_ROOT}/tests"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 20
    assert "1 preparation, every file fetched {1} times, 0 failures" in done.stdout
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
