"""A thousand calls at once on a machine of two cores: an array job, or a herd of agents. e2e has herds of a hundred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.herd import explain, failures, herd, read_log
from support.index import LocalIndex
from support.memory import LeastMemory
from support.project import Project
from support.wheels import make_wheel

CALLS = 1000
#: 2.7 were measured. A Python that waits shares most of its memory with the others.
MOST_MIB_EACH = 6


@pytest.mark.serial
@pytest.mark.timeout(900)
def test_a_thousand_runs_prepare_once(
    index: LocalIndex, project_factory: Callable[..., Project], tmp_path: Path
) -> None:
    names = [f"pkg-{number}" for number in range(20)]
    for name in names:
        make_wheel(index.folder, name, files=20, data_files=20)
    project, log = project_factory(dependencies=names), tmp_path / "log"
    with LeastMemory() as memory:
        outcomes = herd(
            [["uv", "run", "true"]] * CALLS,
            # The index shares the processors with a thousand calls, and uv would ask it again after 30 s.
            env=project.env("newest", UV_MUTEX_LOG=str(log), UV_HTTP_TIMEOUT="600"),
            cwd=project.root,
        )
    print(f"{max(outcome.end for outcome in outcomes) - outcomes[0].start:.1f} s, {memory.fall_mib:.0f} MiB")
    assert not failures(outcomes), explain(outcomes)
    assert Counter(line["prepared"] for line in read_log(log)) == {True: 1, False: CALLS - 1}
    assert set(index.downloads.values()) == {1}
    assert memory.fall_mib < MOST_MIB_EACH * CALLS
