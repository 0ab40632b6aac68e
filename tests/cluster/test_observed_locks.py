"""Over NFS a fresh call takes no lock: it leaves its record and looks. So does an edit, the other way round."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from cluster.conftest import over_nfs
from support.host import PLAIN, project_on
from support.index import LocalIndex
from support.nfs import NfsHost
from support.shim import Shim
from support.terminal import wait_until
from support.wheels import make_wheel

pytestmark = over_nfs

EDITS, READERS = 6, 4

_BEGIN = """\
import os, random, sys, time
library, root, looks_twice = sys.argv[1:]
sys.path.insert(0, library)
from uv_mutex import files
from uv_mutex.locking import lock_set, network_cache, observed_lock
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.wait_budget import WaitBudget
from uv_mutex.records import runs
from uv_mutex.shim import recent_runs
environment, target = f"{root}/.venv", LockFile(root)
until = time.monotonic() + 90
def names():
    files.reread_folder(root)
    return os.listdir(root)
"""
# As a fresh `uv run` that another host's edit must not disturb: looks, compares, leaves its record, looks, checks.
_RUNS = f"""{_BEGIN}
checks = disturbed = 0
open(f"{{root}}/reader.{{os.getpid()}}", "w").close()
while "done" not in names() and time.monotonic() < until:
    lock = observed_lock.observe(target)
    if lock is None:  # what this host has in memory stays old until somebody takes the lock
        lock_set.release(lock_set.take([target], WaitBudget(None, quiet=True), {{}}, shared=True))
        continue
    time.sleep(random.uniform(0, 0.3))
    is_recorded = runs.append(environment, [target], runs.RUN)
    if looks_twice == "yes" and not (is_recorded and lock.still_excludes()):
        runs.append(environment, [target], runs.VOID)
        continue
    checks += 1
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        if "busy" in names():
            disturbed += 1
            break
        time.sleep(0.01)
print(checks, disturbed)
"""
_EDITS = f"""{_BEGIN}
readers = 0
while readers < {READERS} and time.monotonic() < until:
    readers = sum(name.startswith("reader.") for name in names())
    time.sleep(0.02)
for _ in range({EDITS}):
    (lock,) = lock_set.take([target], WaitBudget(None, quiet=True), {{}}, shared=False)
    network_cache.reread(root, [root, environment, f"{{environment}}/.uv-mutex"])
    recent_runs.outlast(environment, [target])
    open(f"{{root}}/busy", "w").close()
    time.sleep(0.3)
    os.unlink(f"{{root}}/busy")
    lock.release()
    time.sleep(random.uniform(0.2, 2))
open(f"{{root}}/done", "w").close()
print(readers)
"""
# A look at a lock that was taken before.
_LOOKS = f"""{_BEGIN}
if not os.path.exists(target.path):
    lock_set.release(lock_set.take([target], WaitBudget(None, quiet=True), {{}}, shared=False))
lock = observed_lock.observe(target)
print(lock is not None and lock.still_excludes())
"""


@pytest.mark.parametrize("looks_twice", ["yes", "control"])
def test_no_check_beside_an_edit_of_another_host(pair: Sequence[NfsHost], looks_twice: str) -> None:
    pair[0].ask("mkdir", "-p", pair[0].path("demo/.venv"))

    def start(host: NfsHost, program: str) -> subprocess.Popen[bytes]:
        words = [str(Shim(Path(host.prefix)).library), host.path("demo"), looks_twice]
        return host.start([os.path.realpath(sys.executable), "-ISc", program, *words], PLAIN, "demo")

    editing = start(pair[1], _EDITS)
    running = [start(pair[0], _RUNS) for _ in range(READERS)]
    said = []
    for each in (editing, *running):
        out, errors = each.communicate(timeout=120)
        assert each.returncode == 0, errors.decode()
        said.append([int(word) for word in out.split()])
    ((readers,), *counts) = said
    checks, disturbed = (sum(each) for each in zip(*counts, strict=True))
    print(f"{EDITS} edits, {checks} checks, {disturbed} of them disturbed")
    assert readers == READERS
    assert checks > EDITS
    assert (disturbed == 0) == (looks_twice == "yes")


def test_a_deeper_level_that_another_host_began(pair: Sequence[NfsHost]) -> None:
    """That this one has looked for before, so that it may believe for a minute that there is none, or nobody there."""
    pair[0].ask("mkdir", "demo")
    words = [str(Shim(Path(pair[0].prefix)).library), pair[0].path("demo"), "yes"]
    look = [os.path.realpath(sys.executable), "-ISc", _LOOKS, *words]
    assert [pair[0].ask(*look) for _ in range(2)] == ["True\n"] * 2
    level = pair[1].path("demo/.uv-mutex/lock.1")
    pair[1].ask("touch", level)
    assert [pair[0].ask(*look) for _ in range(3)] == ["False\n", "True\n", "True\n"]
    pair[1].ask("sh", "-c", f"echo somebody >{level}")
    assert [pair[0].ask(*look) for _ in range(2)] == ["False\n"] * 2


def test_a_fresh_call_waits_for_the_holder_on_another_host(pair: Sequence[NfsHost], index: LocalIndex) -> None:
    project = project_on(pair[0], "demo", index_url=index.url)
    words, envs = ["uv", "run", "true"], [host.env("newest") for host in pair]
    for host, env in zip(pair, envs, strict=True):
        for _ in range(2):
            done = host.run(words, env, project)
            assert done.returncode == 0, done.stderr.decode()
    holding = pair[1].start(["uv-mutex", "exec", "--", "sleep", "5"], envs[1], project)
    wait_until(lambda: pair[1].read(f"{project}/.uv-mutex/lock") != "")
    done = pair[0].run(words, envs[0], project)
    assert done.returncode == 0, done.stderr.decode()
    assert holding.wait(60) == 0
    waited = [call["waited"] for call in pair[0].calls() if call["command"].startswith("uv run")][-1]
    assert waited > 0.3
    # What this host remembers of the lock file may be old by now: the call looks again, and neither waits nor prepares.
    done = pair[0].run(words, envs[0], project)
    assert done.returncode == 0, done.stderr.decode()
    last = pair[0].calls()[-1]
    assert (last["waited"], last["prepared"]) == (0, False)


def run_on(host: NfsHost, project: str) -> bool:
    """Whether a `uv run` on a host brought the environment up to date."""
    done = host.run(["uv", "run", "true"], host.env("newest"), project)
    assert done.returncode == 0, done.stderr.decode()
    last: bool = host.calls()[-1]["prepared"]
    return last


def kept_by(host: NfsHost) -> str:
    """The note that a host keeps for itself; empty if there is none."""
    return host.run(["sh", "-c", f"cat {host.local}/home/.cache/uv-mutex/host.*"]).stdout.decode()


#: What somebody does by hand on another host. None of it takes the lock, so that the lock file shows nothing.
BY_HAND = {
    "pyproject.toml": "echo '# by hand' >>pyproject.toml",
    "uv.lock": "echo '# by hand' >>uv.lock",
    "a new file": "echo >uv.toml",
    "pyvenv.cfg": "echo 'by = hand' >>.venv/pyvenv.cfg",
    "a package": "rm -r .venv/lib/*/site-packages/*.dist-info",
}


def test_a_host_keeps_a_note(pair: Sequence[NfsHost], index: LocalIndex) -> None:
    make_wheel(index.folder, "other")
    project = project_on(pair[0], "demo", dependencies=["other"], index_url=index.url)

    def by_hand(command: str) -> None:
        pair[1].ask("sh", "-c", f"cd {pair[1].path(project)} && {command}")

    def is_prepared_once() -> bool:  # the second call keeps the note
        return [run_on(pair[0], project) for _ in range(2)] == [True, False]

    assert is_prepared_once()
    assert kept_by(pair[0]).startswith("uv-mutex note 4 reopen\nlock ")
    for what, command in BY_HAND.items():
        by_hand(command)
        assert is_prepared_once(), what
    # The control: what this host knows, it needs no note of all hosts for.
    kept = kept_by(pair[0])
    by_hand("rm .venv/.uv-mutex/note.*")
    assert not run_on(pair[0], project)
    # But that is over once another host has had the lock alone, whatever for.
    done = pair[1].run(["uv-mutex", "exec", "--", "true"], pair[1].env("newest"), project)
    assert done.returncode == 0, done.stderr.decode()
    assert is_prepared_once()
    assert kept_by(pair[0]) != kept
