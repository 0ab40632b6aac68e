"""Environments outside the project: local to each node, they never queue; shared by two projects, they do."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cluster.conftest import GLUSTERFS, LEASE, over
from support.herd import explain, failures, herd
from support.host import Host, calls, project_on
from support.index import LocalIndex
from support.journal import Journal
from support.terminal import wait_until
from support.wheels import make_wheel

ENVIRONMENTS_EACH = 25


@pytest.mark.serial
@over(GLUSTERFS)
def test_node_local_environments_do_not_queue(pair: Sequence[Host], index: LocalIndex) -> None:
    names = ["alpha", "beta", "gamma"]
    for name in names:
        make_wheel(index.folder, name, files=300)  # as much work as a small environment is
    project = project_on(pair[0], "demo", dependencies=names, index_url=index.url)
    done = pair[0].run(["uv", "lock"], pair[0].env("newest"), project)
    assert done.returncode == 0, done.stderr.decode()
    for host in pair:  # each cache is filled, so that both herds find the same
        done = host.run(["uv", "sync", "--frozen"], host.env("newest", shimmed=False), project)
        assert done.returncode == 0, done.stderr.decode()
        host.ask("rm", "-f", host.log)

    def wall_time(mode: str) -> float:
        commands = []
        for number, host in itertools.product(range(ENVIRONMENTS_EACH), pair):
            environment = f"{host.local}/tmp/{mode}/node-{number}/venv"
            env = host.env("newest", UV_PROJECT_ENVIRONMENT=environment, UV_MUTEX=mode)
            words = ["uv", "run", "--frozen", "python", "-c", "import alpha, beta, gamma"]
            commands.append(host.enter(words, env=env, cwd=host.path(project)))
        began = time.monotonic()
        outcomes = herd(commands, env={}, cwd=Path("/"))
        assert not failures(outcomes), explain(outcomes)
        return time.monotonic() - began

    off, on = wall_time("off"), wall_time("on")
    logged = calls(pair)
    waited = [line["waited"] for line in logged]
    print(f"{len(logged)} environments: {off:.1f} s without the lock, {on:.1f} s with it; waited {max(waited):.3f} s")
    assert len(logged) == 2 * ENVIRONMENTS_EACH
    assert all(line["prepared"] for line in logged)
    assert max(waited) == 0
    # One after the other they would take as long as all their times under the lock, many times the herd's.
    assert sum(line["held"] for line in logged) > 3 * on
    assert on < 4 * off


@over(GLUSTERFS, LEASE)
def test_projects_that_share_an_environment_queue(pair: Sequence[Host], index: LocalIndex, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", apart=True)
    projects = [
        project_on(pair[0], name, index_url=index.url, backend_source=journal.backend) for name in ("one", "two")
    ]
    for project in projects:
        done = pair[0].run(["uv", "lock"], pair[0].env("newest", shimmed=False), project)
        assert done.returncode == 0, done.stderr.decode()
    go = tmp_path / "go"
    variables = {"UV_PROJECT_ENVIRONMENT": pair[0].path("common/venv"), "BUILD_SECONDS": "100", "BUILD_UNTIL": str(go)}
    words = ["uv", "sync", "--frozen", "--inexact"]

    def start(number: int) -> subprocess.Popen[bytes]:
        return pair[number].start(words, {**pair[number].env("newest"), **variables}, projects[number])

    def is_waited_for() -> bool:
        env = {**pair[1].env("newest"), **variables}
        done = pair[1].run(["uv-mutex", "status", "--json"], env, projects[1])
        assert done.returncode == 0, done.stderr.decode()
        return any(lock["waiting"] for lock in json.loads(done.stdout)["locks"])

    started = [start(0)]
    journal.wait(lambda entry: entry.what == "enter", timeout=60)
    started.append(start(1))
    wait_until(is_waited_for)
    assert [(entry.what, entry.host) for entry in journal.entries()] == [("enter", "host-a")]
    go.touch()
    for call in started:
        _, said = call.communicate(timeout=120)
        assert call.returncode == 0, said.decode()
    assert [entry.what for entry in journal.entries()] == ["enter", "leave", "enter", "leave"]
    assert max(line["waited"] for line in calls(pair)) > 0
    python = [pair[1].path("common/venv/bin/python"), "-c", "import one, two"]
    assert pair[1].run(python, {}).returncode == 0
