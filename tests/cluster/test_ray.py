"""Ray starts each worker by `uv run`: on every node they all pass the shim, and one of them makes the environment.

Ray unpacks the driver's working directory once on each node, so that a node's copy is a project with an environment
of its own. The two nodes run on this machine, in namespaces where nothing but loopback can be reached.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import need, readme
from support.herd import read_log
from support.kept import cached
from support.project import Project
from support.shim import Shim
from support.terminal import wait_until
from support.uvs import uv
from support.wheels import BUILD_SYSTEM, make_sources, project_table, slow_backend

pytestmark = [pytest.mark.network, pytest.mark.serial, pytest.mark.timeout(900)]

_NODES = 2
_WORKERS = 12
_TASKS = 24
#: How long a driver may take, from its start to its end, and each part of it.
_SECONDS = 600

#: Takes the base folder and a list of runtime environments, one for each kind of task; `null` leaves it to Ray.
_DRIVER = """\
import importlib, json, os, pathlib, sys, time
import ray
from ray.cluster_utils import Cluster

base, kinds = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
NODES, WORKERS, TASKS = json.loads(sys.argv[3])
started = base / "started"
started.mkdir()

# An address for each node, and a folder for its copy of the working directory. (127.0.0.1 Ray would replace.)
node = {"num_cpus": WORKERS // NODES, "object_store_memory": 100_000_000}
cluster = Cluster(initialize_head=True, head_node_args={
    **node, "node_ip_address": "127.0.0.2", "include_dashboard": False})
for number in range(1, NODES):
    cluster.add_node(**node, node_ip_address=f"127.0.0.{number + 2}", temp_dir=str(base / f"node{number}"))
ray.init(address=cluster.address, runtime_env=kinds[0])

def work(kind):
    import only_here
    only_here.check()
    if len(kinds) > 1:
        importlib.import_module(["red", "blue"][kind]).check()
    (started / str(os.getpid())).touch()
    deadline = time.monotonic() + 300
    while len(list(started.iterdir())) < WORKERS:  # so that no early worker does the work of a late one
        assert time.monotonic() < deadline, f"{len(list(started.iterdir()))} workers started"
        time.sleep(0.05)
    return {
        "kind": kind, "worker": os.getpid(), "node": ray.get_runtime_context().get_node_id(), "uv": nearest_uv(),
        "folder": os.getcwd(), "prefix": sys.prefix, "executable": sys.executable, "package": only_here.__file__,
    }

def nearest_uv():
    pid = os.getpid()
    while pid:
        with open(f"/proc/{pid}/cmdline") as file:
            words = file.read().split("\\0")[:-1]
        if words[:2] == ["uv", "run"]:
            return pid, words
        with open(f"/proc/{pid}/stat") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])
    return 0, []

remote = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(work)
tasks = [
    remote.options(runtime_env={"py_executable": kinds[kind]["py_executable"]} if kind else None).remote(kind)
    for number in range(TASKS) for kind in [number // NODES % len(kinds)]  # SPREAD deals them out in turn
]
(base / "report").write_text(json.dumps(ray.get(tasks, timeout=400)))
ray.shutdown()
cluster.shutdown()
"""

#: Stands before the real uv and becomes it. Writes down each start (when, its pid and words, its parent's) and what uv
#: says. Short lines are written whole, even by many at once.
_WITNESS = """\
#!/bin/bash
words=$* parent=$(tr '\\0' ' ' </proc/$PPID/cmdline)
line=$(printf '%s\\t' "$EPOCHREALTIME" "$$" "${{words:0:1000}}" "$PPID" "${{parent:0:1000}}")
echo "$line" >>{folder}/starts
exec -a uv {uv} "$@" 2>>{folder}/$$.err
"""

_WAYS: dict[str, tuple[str, list[dict[str, str] | None]]] = {
    "hook": (readme.command("uv run driver.py"), [None]),
    "py_executable": (
        "uv sync && .venv/bin/python driver.py",
        [ast.literal_eval(readme.command("ray.init(runtime_env=").removeprefix("ray.init(runtime_env=").rstrip(")"))],
    ),
    # Two kinds of workers want two different preparations of the same environment.
    "two kinds": (
        "uv sync && .venv/bin/python driver.py",
        [{"working_dir": ".", "py_executable": f"uv run --extra {extra} python"} for extra in ("red", "blue")],
    ),
}


class _Start(NamedTuple):
    """One line of the witness."""

    time: float
    pid: int
    words: str
    parent: int
    parents_words: str


@dataclass(frozen=True)
class _Cluster:
    """A project that a driver brings to a cluster, the folder that the nodes live in, and their way to packages."""

    project: Project
    base: Path
    shim: Shim
    uv_version: str
    variables: Mapping[str, str]

    @property
    def log(self) -> list[dict[str, Any]]:
        """What the shims wrote down."""
        return read_log(self.base / "log")

    @property
    def starts(self) -> list[_Start]:
        """What the witness wrote down."""
        lines = (line.split("\t")[:5] for line in (self._witness / "starts").read_text().splitlines())
        starts = [_Start(float(time), int(pid), words, int(parent), more) for time, pid, words, parent, more in lines]
        return [start for start in starts if not start.words.endswith(("--help", "--version"))]

    @property
    def errors(self) -> list[str]:
        """What real uv said where it failed."""
        texts = [file.read_text(errors="replace") for file in self._witness.glob("*.err")]
        return [text for text in texts if re.search("^(error:|  \\S Failed)", text, re.MULTILINE)]

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """What the tasks reported; none if the driver failed."""
        path = self.base / "report"
        tasks: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return tasks

    @property
    def _witness(self) -> Path:
        return self.base / "witness"

    @contextlib.contextmanager
    def started(
        self, way: str, *, shimmed: bool = True, extra: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start the driver, with more variables. At the end of the context, all that it started is killed."""
        command, kinds = _WAYS[way]
        self._witness.mkdir()
        script = self._witness / "uv"
        script.write_text(_WITNESS.format(uv=uv(self.uv_version), folder=self._witness))
        script.chmod(0o755)
        folders = [*([str(self.shim.bin)] if shimmed else []), str(self._witness), "/usr/sbin:/usr/bin:/sbin:/bin"]
        env = self.project.env(
            self.uv_version,
            PATH=":".join(folders),
            UV_MUTEX_LOG=str(self.base / "log"),
            RAY_TMPDIR=str(self.base),
            RAY_USAGE_STATS_ENABLED="0",
            RAY_worker_maximum_startup_concurrency=str(_WORKERS),  # else only as many at once as there are cores
            RAY_worker_register_timeout_seconds=str(_SECONDS),  # else 60; a slow machine prepares that long
        )
        env |= {**self.variables, **(extra or {})}
        arguments = [str(self.base), json.dumps(kinds), json.dumps([_NODES, _WORKERS, _TASKS])]
        # The shell is the namespace's init: it reaps orphans, and when it ends all others are killed.
        line = f"ip link set lo up && {command} {shlex.join(arguments)}; exit $?"
        isolated = ["unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
        with (self._witness / "driver.err").open("wb") as output:
            driver = subprocess.Popen(
                [*isolated, "sh", "-c", line],
                cwd=self.project.root,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield driver
        finally:
            # The init, not unshare: it is not gone before all others are.
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                for init in Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split():
                    os.kill(int(init), signal.SIGKILL)
            driver.wait(60)

    def wait(self, driver: subprocess.Popen[bytes]) -> None:
        """Wait for the end of the driver."""
        try:
            driver.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the driver does not end\n{self.explain()}") from None

    def explain(self) -> str:
        """The last words of all."""
        texts = {file.name: file.read_text(errors="replace")[-3000:] for file in self._witness.glob("*.err")}
        return "\n".join(f"--- {name}\n{text}" for name, text in texts.items() if text)


@pytest.fixture
def cluster(tmp_path: Path, shim: Shim, uv_version: str) -> Iterator[_Cluster]:
    """A project that needs Ray and a package that nothing else has; all of it is in the cache, nothing installed."""
    need.root()
    for name in ("unshare", "ip", "bash"):
        need.executable(name)
    project = Project(tmp_path / "job", "ray-job", os.path.realpath(sys.executable), lambda: shim)
    parts = [
        project_table("ray-job", "0.1.0", ["ray>=2.60", "only-here"]),
        BUILD_SYSTEM,
        '[project.optional-dependencies]\nred = ["red"]\nblue = ["blue"]\n',
        make_sources(project.root, _LOCAL, files=200, data_files=400),
    ]
    project.pyproject.write_text("\n".join(parts))
    (project.root / "backend.py").write_text(slow_backend(1))
    (project.root / "driver.py").write_text(_DRIVER)
    with (
        cached(project, uv_version, "ray", own=[project.name, *_LOCAL], options=["--all-extras"]) as variables,
        # The nodes' sockets lie in there, and the path of a socket holds 107 bytes.
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as base,
    ):
        Path(base, "ray").mkdir()
        yield _Cluster(project, Path(base), shim, uv_version, variables)


_LOCAL = ("only-here", "red", "blue")


@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
@pytest.mark.parametrize("way", _WAYS)
def test_workers_share_what_one_of_them_prepared(cluster: _Cluster, way: str) -> None:
    with cluster.started(way) as driver:
        cluster.wait(driver)
    tasks, log, starts = cluster.tasks, cluster.log, cluster.starts
    assert tasks, cluster.explain()
    assert not cluster.errors
    _check_tasks(tasks, way)
    calls = {line["pid"]: line for line in log}
    _check_workers_are_in_the_log(tasks, calls)

    # Nothing bypassed the shim, be it a worker that did no task or one that failed: each real uv is what a logged call
    # became, or the child of a shim.
    children = [start for start in starts if cluster.shim.is_called_by(start.parents_words.split())]
    assert not [start for start in starts if start.pid not in calls and start not in children]
    assert len(starts) > len(children) + _WORKERS
    assert all(line["exit"] in (None, 0) for line in log), log

    prepared = Counter(line["project"] for line in log if line["prepared"])
    folders = {task["folder"] for task in tasks}
    assert set(prepared) == {str(cluster.project.root), *folders}
    assert prepared[str(cluster.project.root)] == 1
    for folder in folders:
        kinds = len({line["command"].partition(" python ")[0] for line in log if line["project"] == folder})
        # One for each kind; and what one kind adds makes the note of those before it stale, once.
        assert kinds <= prepared[folder] <= 2 * kinds - 1
    # Those that began as the driver ended have no line in the log.
    preparations = [start for start in children if start.parent in calls]
    assert {start.parent for start in preparations} == {line["pid"] for line in log if line["prepared"]}
    _check_one_at_a_time(preparations, calls)
    print(f"\n{way}, uv {cluster.uv_version}: {_figures(tasks, log, starts)}")


def _check_tasks(tasks: list[dict[str, Any]], way: str) -> None:
    """All tasks ran, on all nodes, in the environment of their node's copy of the project."""
    assert len(tasks) == _TASKS
    assert len({task["worker"] for task in tasks}) >= _WORKERS
    assert {task["kind"] for task in tasks} == set(range(len(_WAYS[way][1])))
    folders = {(task["node"], task["folder"]) for task in tasks}
    assert len(folders) == len({node for node, _ in folders}) == len({folder for _, folder in folders}) == _NODES
    for task in tasks:
        venv = f"{task['folder']}/.venv"
        assert task["prefix"] == venv
        assert task["executable"].startswith(f"{venv}/bin/python")
        assert task["package"].startswith(f"{venv}/lib/")


def _check_workers_are_in_the_log(tasks: list[dict[str, Any]], calls: dict[int, dict[str, Any]]) -> None:
    """The shim becomes the uv that starts the worker, so that they share a pid."""
    for task in tasks:
        pid, words = task["uv"]
        assert pid in calls, f"worker {task['worker']} was started past the shim: {words}"
        assert calls[pid]["command"] == " ".join(words)
        assert "default_worker.py" in calls[pid]["command"]
        assert calls[pid]["project"] == task["folder"]


def _check_one_at_a_time(preparations: list[_Start], calls: dict[int, dict[str, Any]]) -> None:
    """In each project, a call begins to prepare after the one before it released the lock."""
    last: dict[str, dict[str, Any]] = {}
    for start in sorted(preparations):
        call = calls[start.parent]
        before = last.get(call["project"], call)
        # The release is later than this, by what the call did besides.
        assert before is call or start.time > before["time"] + before["waited"] + before["held"] - 0.01
        last[call["project"]] = call


def _figures(tasks: list[dict[str, Any]], log: list[dict[str, Any]], starts: list[_Start]) -> str:
    workers, nodes = (len({task[name] for task in tasks}) for name in ("worker", "node"))
    prepared = sum(line["prepared"] for line in log)
    waited = sum(line["waited"] > 0 for line in log)
    return (
        f"{len(tasks)} tasks, {workers} workers, {nodes} nodes; {len(log)} calls in the log, {prepared} prepared, "
        f"{waited} waited; {len(starts)} starts of the real uv"
    )


@pytest.mark.parametrize("uv_version", ["newest"])
def test_a_raylet_whose_path_has_no_shim(cluster: _Cluster) -> None:
    """PYTHONPATH alone, hooks/sitecustomize.py: the driver's Python, and so raylets and all workers, get the PATH."""
    hook = {"PYTHONPATH": str(cluster.shim.prefix / "lib/uv-mutex/python")}
    with cluster.started("hook", shimmed=False, extra=hook) as driver:
        cluster.wait(driver)
    tasks, log = cluster.tasks, cluster.log
    assert tasks, cluster.explain()
    assert not cluster.errors
    _check_tasks(tasks, "hook")
    calls = {line["pid"]: line for line in log}
    _check_workers_are_in_the_log(tasks, calls)
    # PastCall the shim: the call that started the driver, before any Python of ours.
    children = [start for start in cluster.starts if cluster.shim.is_called_by(start.parents_words.split())]
    past = [start for start in cluster.starts if start.pid not in calls and start not in children]
    assert [start.words.split()[:2] for start in past] == [["run", "driver.py"]]
    print(f"\nPYTHONPATH: {_figures(tasks, log, cluster.starts)}")


@pytest.mark.parametrize("uv_version", ["0.7.8"])
def test_without_the_shim_workers_fail(cluster: _Cluster) -> None:
    with cluster.started("hook", shimmed=False):
        wait_until(lambda: len(cluster.errors) >= _NODES, 300, cluster.explain)
