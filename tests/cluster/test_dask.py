"""Dask: many `uv run dask worker` at once, which prepare once, and workers that are restarted, killed and stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import need
from support.herd import read_log
from support.kept import cached
from support.namespaces import Namespaces, kill
from support.project import Project
from support.shim import Shim
from support.terminal import wait_until
from support.wheels import make_sources, project_table

pytestmark = [pytest.mark.network, pytest.mark.serial, pytest.mark.timeout(900)]

_WORKERS = 6
#: Packages that come from here, and in which two uvs get into each other's way.
_PARTS = [f"part{number}" for number in range(12)]
_SCHEDULER = "uv run dask scheduler --host 127.0.0.1 --port 0 --no-dashboard --scheduler-file ../scheduler.json".split()
_WORKER = "uv run dask worker --nthreads 1 --no-dashboard --scheduler-file ../scheduler.json --name".split()
_CLIENT = ["uv", "run", "python", "client.py"]

#: Runs a task on each of so many workers; with "restart", again when their nannies have restarted them all, and again
#: when one was killed. Writes down what the tasks report.
_CLIENT_SOURCE = f"""\
import json, os, signal, sys, time
from distributed import Client, get_worker

deadline = time.monotonic() + 200

def is_written(path):  # Dask writes it in place, and a client that finds half of it gives up after 0.1 s
    try:
        with open(path) as file:
            return json.load(file)
    except (FileNotFoundError, ValueError):
        return None

while not is_written("../scheduler.json"):
    assert time.monotonic() < deadline, "no scheduler"
    time.sleep(0.05)

def work(name):
    import {", ".join(_PARTS)}
    for package in ({", ".join(_PARTS)}):
        package.check()
    return {{"name": get_worker().name, "pid": os.getpid(), "prefix": sys.prefix, "package": package.__file__}}

def addresses():
    client.wait_for_workers(int(sys.argv[1]), timeout=200)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return {{worker["name"]: address for address, worker in workers.items()}}

def tasks():
    names = sorted(addresses())
    futures = [client.submit(work, name, workers=[name], pure=False) for name in names]
    return [future.result(200) for future in futures]

with Client(scheduler_file="../scheduler.json", timeout=200) as client:
    rounds = [tasks()]
    if "restart" in sys.argv:
        client.restart(timeout=200)
        rounds.append(tasks())
        before, victim, deadline = addresses(), rounds[-1][0], time.monotonic() + 200
        os.kill(victim["pid"], signal.SIGKILL)
        while addresses().get(victim["name"], before[victim["name"]]) == before[victim["name"]]:
            assert time.monotonic() < deadline, "the worker that was killed did not come back"
            time.sleep(0.05)
        rounds.append(tasks())
with open("../rounds", "w") as file:
    json.dump(rounds, file)
"""


class _Cluster:
    """A project that needs Dask; all of it is in a cache, nothing installed. What is started ends with the test."""

    def __init__(self, project: Project, namespaces: Namespaces, env: dict[str, str]) -> None:
        self.project, self.env = project, env
        self._namespaces = namespaces
        self._folder = project.root.parent
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a call in the project, with a TMPDIR of its own. Ends as the call does."""
        stem = self._folder / f"call{len(self._started)}"
        stem.mkdir()
        command = self._namespaces.enter(words, env={**self.env, "TMPDIR": str(stem)}, cwd=str(self.project.root))
        with stem.with_suffix(".err").open("wb") as output:
            call = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self._started.append(call)
        return call

    def stop(self, call: subprocess.Popen[bytes]) -> int:
        """Send SIGTERM to a call (not to the nsenter that waits for it); return its exit status."""
        for pid in map(int, Path(f"/proc/{call.pid}/task/{call.pid}/children").read_text().split()):
            kill(pid, signal.SIGTERM)
        return self.wait(call)

    def wait(self, call: subprocess.Popen[bytes]) -> int:
        """Wait for the end of a call; return its exit status."""
        try:
            return call.wait(400)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{call.args!r} does not end\n{self.explain()}") from None

    def run_client(self, workers: int, *words: str) -> list[list[dict[str, Any]]]:
        """Run the client to its end; return what the tasks reported, round by round."""
        assert self.wait(self.start(*_CLIENT, str(workers), *words)) == 0, self.explain()
        rounds: list[list[dict[str, Any]]] = json.loads((self._folder / "rounds").read_text())
        return rounds

    @property
    def log(self) -> list[dict[str, Any]]:
        """What the shims wrote down."""
        return read_log(self._folder / "log")

    def explain(self) -> str:
        """The last words of all calls."""
        texts = {path.name: path.read_text(errors="replace")[-2000:] for path in self._folder.glob("call*.err")}
        return "\n".join(f"--- {name}\n{text}" for name, text in texts.items())


@pytest.fixture
def shimmed() -> bool:
    """Whether the calls pass the shim; a parameter of tests that have one of this name."""
    return True


@pytest.fixture
def cluster(tmp_path: Path, shim: Shim, uv_version: str, shimmed: bool) -> Iterator[_Cluster]:
    """A cluster that is not started yet."""
    need.root()
    for name in ("unshare", "nsenter", "setpriv"):
        need.executable(name)
    project = Project(tmp_path / "site/demo", "demo", os.path.realpath(sys.executable), lambda: shim)
    sources = make_sources(project.root, _PARTS, files=40, data_files=40)
    project.pyproject.write_text("\n".join([project_table("demo", "0.1.0", ["distributed", *_PARTS]), sources]))
    (project.root / "client.py").write_text(_CLIENT_SOURCE)
    with cached(project, uv_version, "dask", own=_PARTS) as variables:
        env = project.env(uv_version, shimmed=shimmed, UV_MUTEX_LOG=str(tmp_path / "site/log"), **variables)
        namespaces = Namespaces("dask", [], log=tmp_path / "init.log")
        yield _Cluster(project, namespaces, env)
        namespaces.close()


@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
def test_workers_share_what_one_of_them_prepared(cluster: _Cluster) -> None:
    calls = [cluster.start(*_SCHEDULER), *(cluster.start(*_WORKER, f"w{number}") for number in range(_WORKERS))]
    (reports,) = cluster.run_client(_WORKERS)
    assert [report["name"] for report in reports] == [f"w{number}" for number in range(_WORKERS)]
    assert {report["prefix"] for report in reports} == {str(cluster.project.venv)}
    assert all(report["package"].startswith(f"{cluster.project.venv}/lib/") for report in reports)
    assert [line["prepared"] for line in cluster.log].count(True) == 1
    assert len(cluster.log) == len(calls) + 1
    assert [call.poll() for call in calls] == [None] * len(calls)


@pytest.mark.parametrize("uv_version", ["newest"])
def test_workers_that_are_restarted_killed_and_replaced(cluster: _Cluster) -> None:
    cluster.start(*_SCHEDULER)
    workers = [cluster.start(*_WORKER, f"w{number}") for number in range(3)]
    first, restarted, killed = ([report["pid"] for report in reports] for reports in cluster.run_client(3, "restart"))
    assert not set(first) & set(restarted)
    assert restarted[0] != killed[0]
    assert restarted[1:] == killed[1:]
    assert cluster.stop(workers[0]) == 0
    cluster.start(*_WORKER, "w9")
    (reports,) = cluster.run_client(3)
    assert [report["name"] for report in reports] == ["w1", "w2", "w9"]
    # A nanny starts its worker anew without uv; and nobody had anything to prepare.
    assert [line["prepared"] for line in cluster.log].count(True) == 1
    assert len(cluster.log) == 1 + 3 + 1 + 1 + 1


@pytest.mark.parametrize("uv_version", ["newest"])
@pytest.mark.parametrize("shimmed", [True, False], ids=["shim", "bare"])
def test_how_they_end(cluster: _Cluster) -> None:
    """SIGTERM reaches them, and the exit status is the one that they have without the shim."""
    # One after the other: without the shim, two that prepare at once get into each other's way.
    scheduler = cluster.start(*_SCHEDULER)
    wait_until(lambda: "Scheduler at" in cluster.explain(), explain=cluster.explain)
    worker = cluster.start(*_WORKER, "w0")
    wait_until(lambda: "Registered to" in cluster.explain(), explain=cluster.explain)
    assert [cluster.stop(call) for call in (worker, scheduler)] == [0, 0], cluster.explain()


@pytest.mark.parametrize("uv_version", ["0.7.8"])
@pytest.mark.parametrize("shimmed", [False])
def test_control_workers(cluster: _Cluster) -> None:
    """Those that fail don't even come as far as to ask for a scheduler."""
    for _ in range(5):
        calls = [cluster.start(*_WORKER[:4], "--help") for _ in range(2 * _WORKERS)]
        if sum(cluster.wait(call) != 0 for call in calls):
            return
        shutil.rmtree(cluster.project.venv)
    pytest.fail(f"all were well: {cluster.explain()}")
