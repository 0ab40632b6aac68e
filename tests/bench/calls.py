"""The rows of one call at a time, against bare uv."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from support import need
from support.uvs import cache

from bench.measure import in_turns, once
from bench.row import Row, ratio
from bench.workload import Way, Workload
from launcher import compiler

_RUN = ["run", "true"]
_SYSTEM_PYTHON = "/usr/bin/python3"
#: Says which Python it is, without a virtual environment; fails in one that uv-mutex does not support.
_SAY_NAME = """\
import os, platform, sys
base = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
sys.exit(1) if sys.version_info < (3, 11) else print(f"{base} ({platform.python_version()})")
"""
#: Run by a Python that has ziglang.
_COMPILE = """\
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import compiler
compiler.compile_for(sys.argv[2], Path(sys.argv[3]))
"""


def _against_bare(*words: str, ways: tuple[str, ...] = ("shim",)) -> Callable[[Workload, Row], str]:
    """A measurement of this call: what it costs by each of some ways, of which the first one is that of the row."""

    def measure(workload: Workload, row: Row) -> str:
        found = workload.ways("newest")
        programs = {name: partial(once, workload, found[name].command(*words), found[name].env) for name in ways}
        bare = partial(once, workload, found["bare"].command(*words), found["bare"].env)
        return _compare({"bare": bare, **programs}, row.rounds, {name: way.name for name, way in found.items()})

    return measure


def _compare(programs: Mapping[str, Callable[[], float]], rounds: int, names: dict[str, str]) -> str:
    for program in [*programs.values()] * 2:  # the first call may have to prepare, and fills uv's caches
        program()
    took = in_turns(programs, rounds)
    bare = took["bare"]
    (_, first), *others = ((name, value) for name, value in took.items() if name != "bare")
    notes = [f"bare: {bare * 1e3:.1f} ms", *(f"{names[name]}: {ratio(value, bare)}" for name, value in others)]
    return f"{ratio(first, bare)} ({'; '.join(notes)})"


def _glob(workload: Workload, row: Row) -> str:
    with workload.inside(workload.make_globbed()):
        return _against_bare(*_RUN)(workload, row)


def _env_file(workload: Workload, row: Row) -> str:
    """Each call has an --env-file of its own, as a job of a scheduler has."""
    ways = workload.ways("newest")
    files = itertools.cycle(workload.make_env_files(100))

    def call(way: Way) -> float:
        return once(workload, way.command("run", "--env-file", next(files), "true"), way.env)

    return _compare({name: partial(call, ways[name]) for name in ("bare", "shim")}, row.rounds, {})


def _python(workload: Workload, row: Row) -> str:
    """By the Python of the system, which most people have, and by the one that runs this."""
    launchers = {name: workload.python_launcher(python) for name, python in _pythons().items()}
    ways = {"bare": workload.ways("newest")["bare"]}
    ways |= {name: workload.way_by(launcher) for name, launcher in launchers.items()}
    programs = {name: partial(once, workload, way.command(*_RUN), way.env) for name, way in ways.items()}
    first = next(iter(launchers))
    return f"by {first}: {_compare(programs, row.rounds, {name: f'by {name}' for name in launchers})}"


def _pythons() -> dict[str, str]:
    """The Python of the system, if uv-mutex supports it, and the one that runs this, by their names; each once."""
    found: dict[str, str] = {}
    for python in filter(os.path.exists, (_SYSTEM_PYTHON, sys.executable)):
        done = subprocess.run([python, "-c", _SAY_NAME], capture_output=True, text=True, check=False)
        if not done.returncode:
            found.setdefault(done.stdout.strip(), python)
    return found


def _released(workload: Workload, row: Row) -> str:
    """The launcher that people get in a wheel: static, by ziglang."""
    launcher = workload.replace_launcher(_compile_as_released(workload.folder))
    calls = (["--version"], _RUN)
    return ", ".join(
        f"`uv {' '.join(words)}`: {_against_bare_by(workload, launcher, words, row.rounds)}" for words in calls
    )


def _against_bare_by(workload: Workload, launcher: Path, words: list[str], rounds: int) -> str:
    """What a call costs by another launcher than the usual one."""
    ways = {"bare": workload.ways("newest")["bare"], "shim": workload.way_by(launcher)}
    programs = {name: partial(once, workload, way.command(*words), way.env) for name, way in ways.items()}
    return _compare(programs, rounds, {})


def _compile_as_released(folder: Path) -> Path:
    """Compile by the ziglang of this Python, or by the one that the tests of a release keep."""
    launcher, kept = folder / "uv-released", cache() / "release"
    found = [python for python in (sys.executable, str(kept / "bin/python")) if _has_zig(python)]
    need.that(bool(found), "needs ziglang (pip install ziglang)")
    zig = {f"ZIG_{kind}_CACHE_DIR": str(kept / "zig") for kind in ("GLOBAL", "LOCAL")}
    words = [found[0], "-c", _COMPILE, str(Path(compiler.__file__).parent), f"{os.uname().machine}-linux-musl"]
    subprocess.run([*words, str(launcher)], env={**os.environ, **zig}, check=True)
    return launcher


def _has_zig(python: str) -> bool:
    command = [python, "-c", "import ziglang"]
    return os.access(python, os.X_OK) and not subprocess.run(command, capture_output=True, check=False).returncode


def _with(workload: Workload, row: Row) -> str:
    return _against_bare("run", "--with", workload.extra, "true")(workload, row)


ROWS = (
    Row("version", "`uv --version`", "<= 1.05", 300, _against_bare("--version")),
    Row("run", "`uv run true`, fresh", "<= 1.05", 200, _against_bare(*_RUN, ways=("shim", "flock"))),
    Row("sync", "`uv sync`, fresh", "<= 1.05", 200, _against_bare("sync")),
    Row("glob", "the same run, with a glob in cache-keys", "<= 1.1", 100, _glob),
    Row("env-file", "the same run, each with an --env-file of its own", "<= 1.1", 100, _env_file),
    Row("with", "the same run, with `--with`", "<= 1.1", 60, _with),
    Row("python", "`uv run true`, fresh, by the Python launcher", "<= 2.0", 60, _python),
    Row("released", "by the launcher of a released wheel", "<= 1.05", 100, _released),
)
