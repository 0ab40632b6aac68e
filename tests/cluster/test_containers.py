"""Containers of one machine share a project: with one host name, other users, less of /proc, read-only."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.container import Container
from support.herd import Outcome, explain, failures, herd
from support.host import Host, calls, preparations, project_on
from support.index import LocalIndex
from support.shim import Shim
from support.terminal import wait_until
from support.users import ALICE, BOB, GROUP, ROOT, acting_as
from support.uvs import PINNED_NEWEST
from support.wheels import make_wheel

NAMES = ["alpha", "beta", "gamma"]
CHECK = ["uv", "run", "python", "-c", "; ".join(f"import {name}; {name}.check()" for name in NAMES)]
EACH = 4
#: What a container can look like; `docker run` and podman can make each of them.
KINDS = {
    "one host name": ({"hostname": "web"}, {"hostname": "web"}),
    "one without /proc": ({}, {"setup": "mount -t tmpfs tmpfs /proc\n"}),
}

Contain = Callable[..., Container]


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, contain: Contain, shim: Shim) -> list[Container]:
    """Two containers."""
    both = zip(("a", "b"), KINDS[request.param], strict=True)
    return [contain(name, prefix=shim.prefix, **options) for name, options in both]


@pytest.fixture
def project(pair: Sequence[Host], index: LocalIndex) -> str:
    """A project of three packages."""
    for name in NAMES:
        make_wheel(index.folder, name, files=20)
    return project_on(pair[0], "demo", dependencies=NAMES, index_url=index.url)


def at_once(
    hosts: Sequence[Host], project: str, *calls: Sequence[str], shimmed: bool = True, **env: Any
) -> list[Outcome]:
    """Each call on each of the hosts in turn, all at once."""
    return herd(
        [
            host.enter(words, env=host.env(PINNED_NEWEST, shimmed=shimmed, **env), cwd=host.path(project))
            for words, host in zip(calls, [*hosts] * len(calls), strict=False)
        ],
        env={},
        cwd=Path("/"),
    )


def add_many(
    hosts: Sequence[Host], index: LocalIndex, project: str, *, shimmed: bool, **env: Any
) -> tuple[int, list[Outcome]]:
    """Some `uv add` on each at once; how many stay."""
    names = [f"pkg-{number}" for number in range(EACH * len(hosts))]
    for name in names:
        make_wheel(index.folder, name)
    outcomes = at_once(hosts, project, *(["uv", "add", name] for name in names), shimmed=shimmed, **env)
    text = hosts[0].read(f"{project}/pyproject.toml")
    return sum(f'"{name}>=' in text for name in names), outcomes


@pytest.mark.parametrize(
    ("pair", "backend"),
    [("one host name", ""), ("one host name", "lease"), ("one without /proc", ""), ("one without /proc", "lease")],
    indirect=["pair"],
)
def test_herd_and_adds(pair: Sequence[Host], project: str, index: LocalIndex, backend: str) -> None:
    outcomes = at_once(pair, project, *[CHECK] * (EACH * 2), UV_MUTEX_BACKEND=backend)
    assert not failures(outcomes), explain(outcomes)
    assert preparations(pair) == 1
    kept, outcomes = add_many(pair, index, project, shimmed=True, UV_MUTEX_BACKEND=backend)
    assert not failures(outcomes), explain(outcomes)
    assert kept == len(outcomes)


@pytest.mark.parametrize("pair", ["one host name"], indirect=True)
def test_control_adds(pair: Sequence[Host], project: str, index: LocalIndex) -> None:
    kept, outcomes = add_many(pair, index, project, shimmed=False)
    assert kept < len(outcomes)


def test_status_shows_the_waiters_of_both(pair: Sequence[Host], project: str) -> None:
    """Their process ids, and with one host name all that they show, may be the same."""
    env = [host.env("newest") for host in pair]
    holding = pair[0].start(["uv-mutex", "exec", "--", "sleep", "1000"], env[0], project)
    wait_until(lambda: see(pair[1], project)["holder"])
    waiting = [host.start(["uv", "sync"], variables, project) for host, variables in zip(pair, env, strict=True)]
    for host in pair:
        wait_until(lambda host=host: len(see(host, project)["waiting"]) == 2)  # type: ignore[misc]
    time.sleep(1)
    # By their names: whoever renews his own file, which he does after ten seconds, empties it for a moment.
    files = [name for name in pair[1].listing(f"{project}/.uv-mutex") if name.startswith("waiting.")]
    assert len(files) == 2, "none has taken the file of the other for that of a dead one"
    pair[0].kill("sleep")
    assert [call.wait(60) for call in (holding, *waiting)] == [-signal.SIGKILL, 0, 0]
    assert all(not see(host, project)["waiting"] for host in pair)


def see(host: Host, project: str) -> dict[str, Any]:
    """The lock, as `uv-mutex status --json` shows it."""
    done = host.run(["uv-mutex", "status", "--json"], host.env("newest"), project)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)["locks"][0]
    return found


@pytest.mark.parametrize(
    ("pair", "options"),
    [("one host name", []), ("one host name", ["--with", "beta"]), ("one without /proc", [])],
    indirect=["pair"],
)
def test_an_edit_behind_a_run_in_the_other(
    pair: Sequence[Container], project: str, index: LocalIndex, options: list[str]
) -> None:
    """It can't see that uv, whose check takes moments, and gives it two seconds; what it starts then may run on."""
    assert not failures(at_once(pair, project, CHECK, CHECK))

    def edit(name: str) -> float:
        running = pair[1].start(["uv", "run", *options, "sleep", "1000"], pair[1].env(PINNED_NEWEST), project)
        try:
            wait_until(lambda: any(program(pid) == "sleep" for pid in pair[1].pids()))
            outcomes = at_once(pair[:1], project, ["uv", "add", name])
            assert not failures(outcomes), explain(outcomes)
            assert running.poll() is None
        finally:
            pair[1].kill("sleep")
            running.communicate()
        return float(calls(pair[:1])[-1]["waited"])

    assert shortest_wait(edit, index) < 2.5


def shortest_wait(edit: Callable[[str], float], index: LocalIndex) -> float:
    """How long an edit waits that a busy machine does not keep from going on: of some, the one that waits least.

    :param edit: adds a package behind a run of another; says for how many seconds it waited.
    """
    waited: list[float] = []
    for number in range(4):
        make_wheel(index.folder, f"added-{number}")
        waited.append(edit(f"added-{number}"))
        if waited[-1] < 2.5:
            break
    print(f"waited {waited} s")
    return min(waited)


def program(pid: int) -> str:
    """The program of a process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # gone
        return ""


class User:
    """A container, and the user that works there."""

    def __init__(self, container: Container, user: int = 0) -> None:
        self.container = container
        self._user = user

    def start(self, words: Sequence[str], project: str, **env: Any) -> subprocess.Popen[bytes]:
        """Start a call in the project."""
        return self.container.start(
            acting_as(self._user, words, "002"), self.container.env(PINNED_NEWEST, **env), project
        )

    def run(self, words: Sequence[str], project: str, **env: Any) -> tuple[int, str]:
        """Run one; its exit status, and what it said."""
        call = self.start(words, project, **env)
        _, said = call.communicate(timeout=120)
        return call.returncode, said.decode()


#: Whose container the other one is, who works there, and the mode of the project's folder. It belongs to ALICE, who is
#: root in her container, which is hers.
OTHERS = {
    "the same user, in one of root's": (ROOT, ALICE, 0o755),
    "another user of the group, in one of his": (BOB, ROOT, 0o2775),
    "root, in one of root's": (ROOT, ROOT, 0o755),
}


@pytest.fixture
def users(contain: Contain, other: str) -> list[User]:
    """ALICE, and another."""
    owner, user, _ = OTHERS[other]
    container = contain("b", user=owner)
    for folder in ("", "/tmp", "/cache", "/home"):
        os.chown(container.outside(f"{container.local}{folder}"), user or owner, GROUP)
    return [User(contain("a", user=ALICE)), User(container, user)]


@pytest.fixture
def shared(users: Sequence[User], other: str, index: LocalIndex) -> str:
    """A project of ALICE's."""
    make_wheel(index.folder, "alpha")
    name = project_on(users[0].container, "demo", dependencies=["alpha"], index_url=index.url)
    root = users[0].container.outside(users[0].container.path(name))
    for path in (root, *root.iterdir()):
        os.chown(path, ALICE, GROUP)
    root.chmod(OTHERS[other][2])
    return name


@pytest.mark.parametrize(("other", "first"), [*((other, 1) for other in OTHERS), ("root, in one of root's", 0)])
def test_users_exclude_each_other(users: Sequence[User], shared: str, first: int) -> None:
    """Their numbers mean something else to each other; who has the lock keeps the other out all the same."""
    for holder, waiter in ((users[first], users[1 - first]), (users[1 - first], users[first])):
        holding = holder.start(["uv-mutex", "exec", "--", "sleep", "1000"], shared)
        wait_until(lambda: see(holder.container, shared)["state"] == "held")  # noqa: B023
        status, said = waiter.run(["uv", "sync"], shared, UV_MUTEX_TIMEOUT="1")
        assert status == 75, said
        holder.container.kill("sleep")
        holding.wait(60)
        status, said = waiter.run(["uv", "run", "python", "-c", "import alpha"], shared)
        print(said)
        assert status == 0, said
        assert "Traceback" not in said


def test_one_sees_the_project_read_only(contain: Contain, shim: Shim, index: LocalIndex) -> None:
    """It runs what is there, sees who works on it, and fails as it would without the shim where there is more to do."""
    one = contain("a", prefix=shim.prefix)
    other = contain("b", prefix=shim.prefix, setup=f"mount -o remount,bind,ro {shlex.quote(one.mount)}\n")
    for name in [*NAMES, "delta"]:
        make_wheel(index.folder, name, files=20)
    project = project_on(one, "demo", dependencies=NAMES, index_url=index.url)
    assert not failures(at_once([one], project, CHECK))
    outcomes = at_once([one, other], project, *[CHECK] * (EACH * 2))
    assert not failures(outcomes), explain(outcomes)
    holding = one.start(["uv-mutex", "exec", "--", "sleep", "1000"], one.env(PINNED_NEWEST), project)
    wait_until(lambda: see(one, project)["holder"])
    assert see(other, project) == see(one, project)
    outcomes = at_once([other], project, CHECK)
    assert not failures(outcomes), explain(outcomes)
    one.kill("sleep")
    holding.wait(60)
    for shimmed in (False, True):
        (outcome,) = at_once([other], project, ["uv", "add", "delta"], shimmed=shimmed)
        assert outcome.returncode == 2, outcome
        assert b"Read-only file system" in outcome.stderr
        assert outcome.stderr.count(b"uv-mutex") == 0


def test_users_of_one_container_who_do_not_see_each_other(contain: Contain, index: LocalIndex) -> None:
    """With hidepid, an edit gives the uv of another user two seconds for its check, and waits no longer."""
    container = contain("a", setup="mount -o remount,hidepid=2 /proc\n")
    make_wheel(index.folder, "alpha")
    project = project_on(container, "demo", dependencies=["alpha"], index_url=index.url)
    for path in (container.outside(container.mount), container.outside(container.local)):
        for each in (path, *path.rglob("*")):
            os.chown(each, ROOT, GROUP, follow_symlinks=False)
            each.chmod(0o2777 if each.is_dir() else 0o666)
    alice, bob = User(container, ALICE), User(container, BOB)
    for user in (alice, bob):
        status, said = user.run(["uv", "run", "python", "-c", "import alpha"], project)
        assert status == 0, said

    def edit(name: str) -> float:
        running = alice.start(["uv", "run", "sleep", "1000"], project)
        try:
            wait_until(lambda: any(program(pid) == "sleep" for pid in container.pids()))
            status, said = bob.run(["uv", "add", name], project)
            assert status == 0, said
            assert running.poll() is None
        finally:
            container.kill("sleep")
            running.wait(60)
        return float(calls([container])[-1]["waited"])

    assert shortest_wait(edit, index) < 2.5
