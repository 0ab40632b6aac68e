"""`uv-mutex status`: who holds, who waits, and what the last calls did."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import need
from support.blocked import is_blocked
from support.project import Project, run
from support.terminal import CTRL_C, Terminal, wait_until

HOST = os.uname().nodename
USER = pwd.getpwuid(os.getuid()).pw_name
Done = subprocess.CompletedProcess[bytes]


@pytest.fixture
def project(project_factory: Callable[..., Project]) -> Project:
    """A project without dependencies."""
    return project_factory()


def status(project: Project, *words: str, env: dict[str, str] | None = None, **options: Any) -> Done:
    """Run `uv-mutex status`."""
    return run(project, ["uv-mutex", "status", *words], {**project.env("newest"), **(env or {})}, **options)


def seen(project: Project, *words: str, **options: Any) -> dict[str, Any]:
    """What `--json` says."""
    done = status(project, *words, "--json", **options)
    assert (done.returncode, done.stderr) == (0, b""), done
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def text(project: Project, *words: str, **options: Any) -> str:
    """What a person reads."""
    done = status(project, *words, **options)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode()


@contextmanager
def holding(project: Project, count: int = 0, **env: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A command that holds the lock, and calls that wait for it."""
    environ = {**project.env("newest"), **env}
    quiet: dict[str, Any] = {
        "env": environ,
        "cwd": project.root,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    calls: list[subprocess.Popen[bytes]] = []
    try:
        calls.append(subprocess.Popen(["uv-mutex", "exec", "--", "cat"], stdin=subprocess.PIPE, **quiet))
        wait_until(lambda: seen(project, env=env)["locks"][0]["holder"])
        calls += [subprocess.Popen(["uv", "sync"], stdin=subprocess.DEVNULL, **quiet) for _ in range(count)]
        wait_until(lambda: len(seen(project, env=env)["locks"][0]["waiting"]) >= count)
        yield calls
    finally:
        assert calls[0].stdin
        calls[0].stdin.close()
        for each in calls:
            each.wait()


def test_a_project_that_was_never_locked(project: Project) -> None:
    before = sorted(project.root.rglob("*"))
    lock = str(project.root / ".uv-mutex/lock")
    assert seen(project) == {
        "project": str(project.root),
        "environment": str(project.venv),
        "locks": [
            {
                "path": lock,
                "backend": None,
                "state": "free",
                "reason": None,
                "holder": None,
                "waiting": [],
                "below": [],
            },
        ],
        "calls": [],
    }
    nothing = "no call yet that waited, prepared or changed something"
    expected = f"project  {project.root}\nlock     {lock}\n         free\n{nothing}\n"
    assert text(project) == expected
    assert text(project, str(project.root), cwd=project.root.parent) == expected
    assert sorted(project.root.rglob("*")) == before, "looking made something"


def test_held_waited_for_and_free_again(project: Project) -> None:
    began = time.time()
    with holding(project, 2) as (holder, *waiters):
        answer = seen(project)
        (lock,) = answer["locks"]
        since = lock["holder"].pop("since")
        who = {"host": HOST, "pid": holder.pid, "user": USER, "command": "uv-mutex exec cat"}
        assert (lock["state"], lock["backend"], lock["holder"]) == ("held", "flock", who)
        assert began < since < time.time()
        assert {waiter["pid"] for waiter in lock["waiting"]} == {each.pid for each in waiters}
        for waiter in lock["waiting"]:
            assert (waiter["host"], waiter["user"], waiter["command"]) == (HOST, USER, "uv sync")
            assert since < waiter["since"] < time.time()
        lines = text(project).splitlines()
        assert lines[2].startswith(
            f"         held by uv-mutex exec cat (pid {holder.pid} on {HOST}, user {USER}) since 20"
        )
        assert lines[3] == "         2 waiting:"
        assert lines[4].startswith("           uv sync (pid ")
        # Killed, it waits no longer, whatever it left behind.
        waiters[0].kill()
        waiters[0].wait()
        assert [waiter["pid"] for waiter in seen(project)["locks"][0]["waiting"]] == [waiters[1].pid]
    (lock,) = seen(project)["locks"]
    assert (lock["state"], lock["holder"], lock["waiting"]) == ("free", None, [])


def test_the_last_calls(project: Project) -> None:
    for number in range(8):
        reinstall = [] if number == 7 else ["--refresh"]
        assert run(project, ["uv", "run", *reinstall, "true"], project.env("newest")).returncode == 0, number
    with holding(project, 1):
        time.sleep(0.5)
    run(project, ["uv", "add", "nothing-of-this-name"], project.env("newest", UV_OFFLINE="1"))
    calls = seen(project)["calls"]
    assert [call["command"] for call in calls] == [*["uv run"] * 7, "uv-mutex exec cat", "uv sync", "uv add"]
    assert [call["exit"] for call in calls] == [*[None] * 7, 0, 0, 1]
    assert [call["prepared"] for call in calls] == [*[True] * 7, False, True, False]
    assert calls[-3]["held"] > 0.5
    assert calls[-2]["waited"] > 0.5
    assert all(call["waited"] < 0.3 for call in calls[:-2])
    assert {call["host"] for call in calls} == {HOST}
    last = text(project).splitlines()[-1].split()
    assert last[2:] == [
        HOST,
        str(calls[-1]["pid"]),
        "0.00",
        "s",
        f"{calls[-1]['held']:.2f}",
        "s",
        "-",
        "1",
        "uv",
        "add",
    ]


def test_a_fresh_call_is_none_of_them_unless_it_waited(project: Project) -> None:
    env = project.env("newest")
    for words in (["sync"], ["sync"], ["run", "true"], ["sync"], ["run", "true"]):
        assert run(project, ["uv", *words], env).returncode == 0
    assert [call["command"] for call in seen(project)["calls"]] == ["uv sync"]
    with (project.root / ".uv-mutex/lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with subprocess.Popen(["uv", "run", "true"], env=env, cwd=project.root) as waiter:
            wait_until(lambda: is_blocked(waiter.pid))
            time.sleep(0.5)
            fcntl.flock(file, fcntl.LOCK_UN)
            assert waiter.wait() == 0
    last = seen(project)["calls"][-1]
    assert (last["command"], last["prepared"], last["exit"]) == ("uv run", False, None)
    assert last["waited"] > 0.3


def test_gave_up_waiting(project: Project) -> None:
    with holding(project):
        done = run(project, ["uv", "sync"], project.env("newest", UV_MUTEX_TIMEOUT="0.2"))
        assert done.returncode == 75
        (call,) = seen(project)["calls"]
        assert (call["exit"], call["held"]) == (75, 0)
        assert call["waited"] >= 0.2


def test_an_environment_elsewhere(project: Project, tmp_path: Path) -> None:
    env: dict[str, Any] = {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "far/env")}
    assert [lock["path"] for lock in seen(project, env=env)["locks"]] == [
        str(project.root / ".uv-mutex/lock"),
        str(tmp_path / "far/.uv-mutex/env.lock"),
    ]
    assert not (tmp_path / "far").exists(), "looking made something"
    for words in (["sync", "--frozen"], ["sync"], ["run", "--locked", "true"]):
        assert run(project, ["uv", *words], {**project.env("newest"), **env}).returncode == int("--frozen" in words)
    assert [call["command"] for call in seen(project, env=env)["calls"]] == ["uv sync", "uv sync", "uv run"]
    assert [call["command"] for call in seen(project)["calls"]] == ["uv sync"]
    with holding(project, **env):
        assert [lock["state"] for lock in seen(project, env=env)["locks"]] == ["held", "held"]


@pytest.mark.parametrize("age", [0, 60])
def test_a_lease(project: Project, age: int) -> None:
    assert run(project, ["uv", "sync"], project.env("newest", UV_MUTEX_BACKEND="lease")).returncode == 0
    assert seen(project)["locks"][0]["state"] == "free"
    folder = project.root / ".uv-mutex"
    (folder / "lock").write_text(f"4121 {time.time() - 3} node-3 uv sync\t0\n")
    marker = folder / "lock.lease"
    marker.touch()
    os.utime(marker, (time.time() - age,) * 2)
    (lock,) = seen(project)["locks"]
    assert (lock["state"], lock["backend"], lock["holder"]["host"]) == ("held", "lease", "node-3")
    # On a busy machine a second or more passes before it is looked at.
    stale = r"not renewed for 6\d s by this host's clock: if it is dead, the next call takes it over"
    assert (lock["reason"] is None) == (not age)
    assert not age or re.fullmatch(stale, lock["reason"])
    assert bool(re.search(stale, text(project))) == bool(age)


def test_held_by_somebody_who_wrote_nothing_down(project: Project) -> None:
    assert run(project, ["uv", "sync"], project.env("newest")).returncode == 0
    with (project.root / ".uv-mutex/lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (lock,) = seen(project)["locks"]
        assert (lock["state"], lock["holder"]) == ("held", None)
        assert "held, by calls that did not write it down (fresh ones, or another program)" in text(project)
        fcntl.flock(file, fcntl.LOCK_SH)
        assert seen(project)["locks"][0]["state"] == "free"


def test_what_cannot_be_looked_at(project: Project) -> None:
    (project.root / ".uv-mutex").mkdir()
    (project.root / ".uv-mutex/lock").symlink_to("lock")
    (lock,) = seen(project)["locks"]
    assert (lock["state"], lock["reason"]) == ("unknown", "Too many levels of symbolic links")
    assert "can't be looked at: Too many levels of symbolic links; `uv-mutex doctor` says what to do" in text(project)


def test_nothing_that_others_wrote_moves_the_cursor(project: Project) -> None:
    folder = project.root / ".uv-mutex"
    folder.mkdir()
    with (folder / "lock").open("wb+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"4121 5.5 node\x1b[2J-3 uv\x1b]0;sync\x07\xff\t4000000000\n")
        shown = text(project)
        assert "\x1b" not in shown
        assert "held by uv?]0;sync? (pid 4121 on node?[2J-3, user 4000000000) since 1970" in shown.replace("\ufffd", "")
        json.dumps(seen(project))


def test_watch(project: Project) -> None:
    words = ["uv-mutex", "status", "--watch"]
    with Terminal(words, env=project.env("newest"), cwd=project.root) as terminal:
        terminal.resize(8, 60)
        terminal.wait_for(b"free\x1b[K")
        with holding(project, 9):
            terminal.wait_for(b"9 waiting:")
            drawings = terminal.shown.count(b"\x1b[H")
            wait_until(lambda: terminal.shown.count(b"\x1b[H") >= drawings + 2)
            drawn = terminal.shown.rpartition(b"\x1b[H")[0].rpartition(b"\x1b[H")[2].decode()
            lines = drawn.replace("\x1b[K", "").replace("\x1b[J", "").split("\r\n")
            assert len(lines) == 8
            assert max(map(len, lines)) <= 59
            assert any(line.endswith("…") for line in lines)
        terminal.press(CTRL_C)
        assert os.waitstatus_to_exitcode(terminal.status()) == 0
        assert b"Traceback" not in terminal.shown
    for more in ([], ["--json"]):
        done = status(project, "--watch", *more)
        assert (done.returncode, done.stdout) == (2, b"")
        expected = b"uv-mutex: --watch draws on a terminal; leave it out, or leave out --json and the pipe\n"
        assert done.stderr == expected


def test_a_reader_that_goes_away(project: Project) -> None:
    done = run(
        project, [need.executable("bash"), "-c", "uv-mutex status | true; echo ${PIPESTATUS[0]}"], project.env("newest")
    )
    assert done.stderr == b""


def test_looking_all_the_time_costs_nobody_the_lock(project: Project) -> None:
    env = project.env("newest", UV_MUTEX_TIMEOUT="20")
    with subprocess.Popen(
        ["sh", "-c", "while :; do uv-mutex status; done"], env=env, cwd=project.root, stdout=subprocess.DEVNULL
    ) as looking:
        try:
            for _ in range(20):
                assert run(project, ["uv", "run", "true"], env).returncode == 0
        finally:
            looking.kill()
    # It has the lock for some microseconds, or for longer where it loses its core just then.
    assert sum(call["waited"] >= 0.1 for call in seen(project)["calls"]) <= 2


def test_levels_below_the_holder(project: Project) -> None:
    """Calls below `uv-mutex exec` do not wait for it, but for each other."""
    script = "uv-mutex exec -- sleep 1000 & uv-mutex exec -- sleep 1000 & wait"
    env = project.env("newest")
    with subprocess.Popen(
        ["uv-mutex", "exec", "--", "sh", "-c", script], env=env, cwd=project.root, start_new_session=True
    ) as outer:
        try:
            wait_until(lambda: [len(level["waiting"]) for level in seen(project)["locks"][0]["below"]] == [1])
            (lock,) = seen(project)["locks"]
            (level,) = lock["below"]
            assert (lock["holder"]["pid"], lock["holder"]["command"]) == (outer.pid, "uv-mutex exec sh")
            assert lock["waiting"] == []
            assert (level["path"], level["state"]) == (f"{lock['path']}.1", "held")
            assert {who["command"] for who in (level["holder"], *level["waiting"])} == {"uv-mutex exec sleep"}
            lines = text(project).splitlines()
            (first,) = (number for number, line in enumerate(lines) if line.startswith("below    "))
            assert lines[first] == f"below    {lock['path']}.1 (flock)"
            assert lines[first + 1].startswith("         held by uv-mutex exec sleep (pid ")
            assert lines[first + 2] == "         1 waiting:"
        finally:
            os.killpg(outer.pid, signal.SIGKILL)
    wait_until(lambda: not seen(project)["locks"][0]["below"])
