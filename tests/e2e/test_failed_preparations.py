"""A preparation that fails is not repeated by each call that waited for it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.blocked import is_blocked
from support.herd import Outcome, explain, herd, read_log
from support.project import Project, run
from support.terminal import wait_until
from support.wheels import slow_backend

pytestmark = pytest.mark.serial

#: What each build does before it fails, unless the file "mended" is there.
_FAIL = """
with open("../builds", "a") as file:
    file.write("build\\n")
time.sleep(float(os.environ.get("BUILD_SECONDS", "0.5")))
if not os.path.exists("../mended"):
    sys.exit("this build fails")
"""
_RUN = ["uv", "run", "true"]


@pytest.fixture
def project(project_factory: Callable[..., Project]) -> Project:
    """A project whose build fails."""
    return project_factory("site/demo", backend_source=slow_backend(0, _FAIL))


def builds(project: Project) -> int:
    """How many builds there were."""
    journal = project.root.parent / "builds"
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def told(outcomes: list[Outcome]) -> list[Outcome]:
    """The calls that ended because another had failed."""
    return [each for each in outcomes if b"failed to prepare the same environment with exit status 1" in each.stderr]


@pytest.mark.parametrize("words", [_RUN, ["uv", "sync"]], ids=["run", "sync"])
def test_thirty_callers_fail_together(words: list[str], project: Project, tmp_path: Path) -> None:
    log = tmp_path / "log"
    env = project.env("newest", UV_MUTEX_LOG=str(log))
    outcomes = herd([words] * 30, env=env, cwd=project.root)
    assert {each.returncode for each in outcomes} == {1}, explain(outcomes)
    assert builds(project) in (2, 3)
    rest = told(outcomes)
    assert len(rest) == 30 - builds(project)
    pids = {line["pid"] for line in read_log(log) if line["prepared"]}
    for each in rest:
        *waiting, line = each.stderr.decode().splitlines()
        assert all(each.startswith("uv-mutex: waiting for ") for each in waiting)
        beginning, _, who = line.partition(f"{' '.join(words[:2])} (pid ")
        assert beginning == "uv-mutex: while this call waited, "
        assert int(who.split()[0]) in pids
        assert line.endswith(" as a call before it did; run this call again to see the error")
    # The next one tries anew, and shows the error.
    before = builds(project)
    done = run(project, words, env)
    assert done.returncode == 1
    assert b"this build fails" in done.stderr
    assert builds(project) == before + 1


def test_control_what_differs_fails_one_by_one(project: Project) -> None:
    """Without the mechanism each call builds: here each asks for something else."""
    calls = [["env", f"UV_UNKNOWN_YET={number}", *_RUN] for number in range(1, 9)]
    outcomes = herd(calls, env=project.env("newest"), cwd=project.root)
    assert {each.returncode for each in outcomes} == {1}, explain(outcomes)
    assert builds(project) == 8
    assert not told(outcomes)


def test_who_waited_for_a_mended_project_goes_on(project: Project) -> None:
    """The first fails, then the project is mended; so is the file that remembers."""
    env = project.env("newest")
    assert run(project, _RUN, env).returncode == 1
    assert run(project, _RUN, env).returncode == 1
    assert (project.root / ".uv-mutex/lock.failed").exists()
    (project.root.parent / "mended").touch()
    outcomes = herd([_RUN] * 5, env=env, cwd=project.root)
    assert {each.returncode for each in outcomes} == {0}, explain(outcomes)
    assert not (project.root / ".uv-mutex/lock.failed").exists()


@pytest.mark.parametrize("edited", [True, False], ids=["edited", "control"])
def test_changed_inputs_are_tried(edited: bool, project: Project) -> None:
    """Two failures while a call waits, and then an edit: it must try."""
    env = project.env("newest")
    folder = project.root / ".uv-mutex"
    assert run(project, _RUN, env).returncode == 1
    assert run(project, _RUN, env).returncode == 1
    assert (folder / "lock.failed").read_text().split()[:2] == ["2", "2"]
    before = builds(project)
    with (folder / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with subprocess.Popen(_RUN, env=env, cwd=project.root, stderr=subprocess.PIPE) as waiter:
            wait_until(lambda: is_blocked(waiter.pid))
            # As if the two had failed while it waited.
            text = (folder / "lock.failed").read_text()
            (folder / "lock.failed").write_text(text.replace("2 2 ", "4 2 ", 1))
            if edited:
                with project.pyproject.open("a") as file_to_edit:
                    file_to_edit.write("\n# an edit\n")
            fcntl.flock(file, fcntl.LOCK_UN)
            _, printed = waiter.communicate()
    assert (b"this build fails" in printed) == edited
    assert (b"failed to prepare the same environment" in printed) != edited
    assert builds(project) == before + edited


def test_killed_calls_are_no_failures(project: Project) -> None:
    env = project.env("newest", BUILD_SECONDS="20")
    for number in range(1, 3):
        with subprocess.Popen(_RUN, env=env, cwd=project.root, start_new_session=True) as call:
            wait_until(lambda number=number: builds(project) == number)  # type: ignore[misc]
            os.killpg(call.pid, signal.SIGINT)
            assert call.wait() != 0
    assert not (project.root / ".uv-mutex/lock.failed").exists()
