"""A fresh call of the Python launcher imports next to nothing: a herd of a hundred calls starts a hundred Pythons."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
from support.project import Project, run
from support.shim import Shim

#: Modules in C, which are imported in no time.
_IN_C = {"_blake2", "errno", "fcntl", "gc"}
#: What only a call needs that waits or works, that prepares a script or a member of a workspace, or that the native
#: launcher has started.
_FOR_OTHERS = {
    f"uv_mutex.{name}"
    for name in (
        "environment.call_form environment.gate environment.inputs environment.ticket locking.lease locking.wait "
        "locking.waiters records.failed_preparation records.history shim.child shim.native_launcher shim.work "
        "uv.cache_folder uv.globs uv.script"
    ).split()
}


def _imported(text: str) -> set[str]:
    """The modules that -Ximporttime names on stderr."""
    return {line.rpartition("|")[2].strip() for line in text.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize("shim", ["python"], indirect=True)
def test_what_a_fresh_call_imports(shim: Shim, project_factory: Callable[..., Project]) -> None:
    project = project_factory()
    python, *options = shim.uv.read_text().partition("\n")[0].removeprefix("#!").split()
    env = project.env("newest", shimmed=False)
    env["PATH"] = f"{shim.bin}:{env['PATH']}"

    def imported(words: list[str]) -> set[str]:
        done = run(project, [python, *options, "-Ximporttime", *words], env)
        assert done.returncode == 0, done.stderr
        return _imported(done.stderr.decode())

    words = [str(shim.uv), "run", "--quiet", "true"]
    of_python = imported(["-c", "import os"])
    at_work = imported(words)
    assert run(project, words, env).returncode == 0
    fresh = imported(words)
    assert {name for name in fresh if not name.startswith("uv_mutex")} <= of_python | _IN_C
    assert not fresh & _FOR_OTHERS
    # The control: a call that works shows what there is to be seen.
    assert {"enum", "signal", "threading", "tomllib", "uv_mutex.shim.work", "uv_mutex.shim.child"} <= at_work


def test_there_are_such_modules() -> None:
    for name in _FOR_OTHERS:
        assert importlib.util.find_spec(name), name
