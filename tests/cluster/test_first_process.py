"""The shim as the first process of a container: what ends it, and what is left of its children.

The kernel spares the first process of a PID namespace each signal that it has no handler for, even one that it sends
itself, and makes it the parent of all orphans.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from support import need
from support.journal import Journal
from support.project import Project
from support.terminal import wait_until
from support.wheels import slow_backend

#: Seconds that a build takes which is to end before; longer than any of the times that are waited for.
LONG = "200"
NOWHERE = "http://127.0.0.1:9/simple"
#: A build that leaves an orphan, goes on until that is a zombie, and then until it is gone, or three seconds longer.
ORPHAN = """
end, other = os.pipe()
if not os.fork():
    os.write(other, b"%d" % (os.fork() or os._exit(0)))
    os._exit(0)
os.wait()
orphan = f"/proc/{int(os.read(end, 20))}/stat"
while os.path.exists(orphan) and ") Z " not in open(orphan).read():
    time.sleep(0.01)
until = time.monotonic() + 3
while os.path.exists(orphan) and time.monotonic() < until:
    time.sleep(0.01)
"""
#: Exits with 10 and the number of zombies: nothing that fails does.
ZOMBIES = (
    "import glob, sys; "
    "sys.exit(10 + sum('State:\tZ' in open(path).read() for path in glob.glob('/proc/[0-9]*/status')))"
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """What the builds of the project write down."""
    return Journal(tmp_path / "journal")


@pytest.fixture
def plain(project_factory: Callable[..., Project]) -> Project:
    """A project that needs no build."""
    need.root()
    need.executable("unshare")
    return project_factory("plain")


@pytest.fixture
def project(project_factory: Callable[..., Project], journal: Journal) -> Project:
    """A project that takes some time to build, if it is told to."""
    need.root()
    need.executable("unshare")
    return project_factory(index_url=NOWHERE, backend_source=journal.backend)


class FirstProcess:
    """A command as the first process of a PID namespace, as `docker run` starts it."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        clean = ["env", "-i", *(f"{name}={value}" for name, value in env.items())]
        self._unshare = subprocess.Popen(
            [*unshare, *clean, *words], cwd=cwd, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        wait_until(lambda: self._unshare.poll() is not None or children.read_text())
        with contextlib.suppress(OSError, ValueError):  # over already
            self.pid = int(children.read_text())

    def end(self, seconds: float) -> tuple[int, str]:
        """Its exit status, and what it said. It is killed if that takes longer."""
        try:
            _, said = self._unshare.communicate(timeout=seconds)
        finally:
            self._unshare.kill()
        return self._unshare.returncode, said.decode()


@pytest.fixture
def start() -> Iterator[Callable[..., FirstProcess]]:
    """Starts such commands; they end with the test."""
    started: list[FirstProcess] = []

    def start(*words: str, project: Project, shimmed: bool = True, **env: str) -> FirstProcess:
        everything = project.env("newest", shimmed=shimmed, UV_OFFLINE="1", **env)
        started.append(FirstProcess(words, everything, project.root))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
            one.end(0)


@contextlib.contextmanager
def somebody_holds(project: Project) -> Iterator[None]:
    """Another call holds the lock."""
    lock = project.root / ".uv-mutex/lock"
    with subprocess.Popen(
        ["uv-mutex", "exec", "--", "cat"], env=project.env("newest"), cwd=project.root, stdin=-1
    ) as one:
        wait_until(lambda: lock.exists() and lock.read_bytes())
        yield
        one.communicate()


@pytest.mark.parametrize("shimmed", [True, False])
@pytest.mark.parametrize("words", [("uv", "run", "sh", "-c", "exit 7"), ("uv", "run", "--nonsense"), ("uv", "sync")])
def test_exit_status(
    start: Callable[..., FirstProcess], plain: Project, words: Sequence[str], *, shimmed: bool
) -> None:
    expected = {"sh": 7, "--nonsense": 2}.get(words[2] if len(words) > 2 else "", 0)
    for _ in range(2):  # it prepares, and then it is fresh
        assert start(*words, project=plain, shimmed=shimmed).end(60)[0] == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_wait(project: Project, start: Callable[..., FirstProcess], number: signal.Signals) -> None:
    with somebody_holds(project):
        waiting = start("uv", "sync", project=project)
        folder = project.root / ".uv-mutex"
        wait_until(lambda: list(folder.glob("waiting.*")))
        signal_to(waiting, number)
        assert waiting.end(60)[0] == 128 + number
        assert not list(folder.glob("waiting.*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_build(
    project: Project, journal: Journal, start: Callable[..., FirstProcess], number: signal.Signals
) -> None:
    building = start("uv", "sync", project=project, BUILD_SECONDS=LONG)
    journal.wait(lambda entry: entry.what == "enter", timeout=60)
    signal_to(building, number)
    assert building.end(60)[0] == 128 + number
    assert start("uv", "sync", project=project).end(60)[0] == 0


def test_control_signal_ends_no_build_without_the_shim(
    project_factory: Callable[..., Project], start: Callable[..., FirstProcess], tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    project = project_factory(backend_source=slow_backend(100, f"open({str(begun)!r}, 'w').close()"))
    building = start("uv", "sync", project=project, shimmed=False)
    wait_until(begun.exists)
    signal_to(building, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        building.end(3)


@pytest.mark.parametrize(("shimmed", "zombies"), [(True, 0), (False, 1)])
def test_it_reaps_what_a_build_leaves(
    project_factory: Callable[..., Project], start: Callable[..., FirstProcess], *, shimmed: bool, zombies: int
) -> None:
    """Without the shim, an orphan of the build stays a zombie for as long as the command runs."""
    project = project_factory(backend_source=slow_backend(0, ORPHAN))
    words = ["uv", "run", "python", "-c", ZOMBIES]
    assert start(*words, project=project, shimmed=shimmed).end(60)[0] == 10 + zombies
    assert start(*words, project=project, shimmed=shimmed).end(60)[0] == 10


def test_kill(project: Project, journal: Journal, start: Callable[..., FirstProcess]) -> None:
    """All that it has started dies with it, and the next one goes on at once."""
    building = start("uv", "sync", project=project, BUILD_SECONDS=LONG)
    journal.wait(lambda entry: entry.what == "enter", timeout=60)
    waiting = start("uv", "sync", project=project)
    wait_until(lambda: list((project.root / ".uv-mutex").glob("waiting.*")))
    began = time.monotonic()
    signal_to(building, signal.SIGKILL)
    status, said = waiting.end(60)
    assert status == 0, said
    entered = [entry.when for entry in journal.entries() if entry.what == "enter"]
    assert entered[1] - began < 30
    assert building.end(60)[0] != 0


def signal_to(one: FirstProcess, number: int) -> None:
    """As `docker stop` or `docker kill` sends it, from outside."""
    subprocess.run(["kill", f"-{number}", str(one.pid)], check=True)
