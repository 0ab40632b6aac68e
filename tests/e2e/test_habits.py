"""Programs that start many commands at once find the shim on PATH, and what they do to a project is right."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support import need
from support.herd import read_log
from support.index import LocalIndex
from support.project import Project, run
from support.wheels import make_wheel

_NAMES = [f"package-{number}" for number in range(10)]
_RUNS = 10


def _make(lines: list[str], folder: Path) -> list[str]:
    targets = [f"job{number}" for number in range(len(lines))]
    rules = [f"{target}:\n\t{line}\n" for target, line in zip(targets, lines, strict=True)]
    (folder / "Makefile").write_text(f".PHONY: {' '.join(targets)}\n" + "".join(rules))
    return [need.executable("make"), "-j", *targets]


def _xargs(lines: list[str], folder: Path) -> list[str]:
    (folder / "jobs").write_text("".join(f"{line}\n" for line in lines))
    return ["sh", "-c", "tr '\\n' '\\0' <jobs | xargs -0 -P 0 -n 1 sh -c 'eval \"$1\"' -"]


def _parallel(lines: list[str], folder: Path) -> list[str]:
    (folder / "jobs").write_text("".join(f"{line}\n" for line in lines))
    return ["sh", "-c", f"{need.executable('parallel')} -j 0 --halt now,fail=1 <jobs"]


@pytest.mark.parametrize(
    ("start", "shim"),
    [(_make, "native"), (_xargs, "native"), (_xargs, "python"), (_parallel, "native")],
    indirect=["shim"],
)
@pytest.mark.usefixtures("shim")
def test_a_herd(
    start: Callable[[list[str], Path], list[str]],
    project_factory: Callable[..., Project],
    index: LocalIndex,
    tmp_path: Path,
) -> None:
    for name in _NAMES:
        make_wheel(index.folder, name)
    project = project_factory()
    env = project.env("newest", UV_MUTEX_LOG=str(tmp_path / "log"))
    # One after the other: `uv run` reads pyproject.toml once more without the lock (README, "Limits").
    for lines in (["uv run true"] * _RUNS, [f"uv add -q {name}" for name in _NAMES]):
        done = run(project, start(lines, project.root), env)
        assert done.returncode == 0, done.stderr.decode()
    kept = re.findall(r'^    "(package-\d+)>=1.0",$', project.pyproject.read_text(), re.MULTILINE)
    assert sorted(kept) == _NAMES
    log = read_log(tmp_path / "log")
    assert sorted(line["command"] for line in log) == sorted(
        ["uv run true"] * _RUNS + [f"uv add -q {n}" for n in _NAMES]
    )
    assert sum(line["prepared"] for line in log if line["command"] == "uv run true") == 1
