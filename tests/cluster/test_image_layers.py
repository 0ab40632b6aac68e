"""A project in a layer of an image, with the environment and all that the shim left there: each container has a copy.

What the locks, records and tickets in it say is of processes that are gone, or were never here.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.container import Container
from support.herd import explain, failures, herd
from support.host import preparations, project_on
from support.index import LocalIndex
from support.namespaces import kill
from support.shim import Shim
from support.terminal import wait_until
from support.uvs import PINNED_NEWEST
from support.wheels import make_wheel

NAMES = ["alpha", "beta", "gamma"]
IMPORT = ["uv", "run", "python", "-c", f"import {', '.join(NAMES)}"]


class Image:
    """A layer, in which a container works as long as it is built."""

    def __init__(self, contain: Callable[..., Container], prefix: Path, index: LocalIndex) -> None:
        for name in NAMES:
            make_wheel(index.folder, name, files=20)
        self._contain, self._prefix = contain, prefix
        self.builder = contain("build", prefix=prefix)
        self.folder = Path(self.builder.mount)
        self.project = project_on(self.builder, "app", dependencies=NAMES, index_url=index.url)
        self.root = self.folder / self.project
        for _ in range(2):
            self.run(self.builder, IMPORT)

    def run(self, container: Container, words: Sequence[str], **env: str) -> None:
        """Run a call that succeeds."""
        done = container.run(words, container.env(PINNED_NEWEST, **env), self.project)  # type: ignore[arg-type]
        assert done.returncode == 0, done.stderr.decode()

    def kill_builder(self) -> None:
        """While one call holds the lock, and one waits for it."""
        env = self.builder.env(PINNED_NEWEST)
        started = [self.builder.start(["uv-mutex", "exec", "--", "sleep", "1000"], env, self.project)]
        wait_until((self.root / ".uv-mutex/lock").read_bytes)
        started.append(self.builder.start(["uv", "sync", "--reinstall"], env, self.project))
        wait_until(lambda: list(self.root.glob(".uv-mutex/waiting.*")))
        kill(self.builder.pid, signal.SIGKILL)
        for call in started:
            call.communicate()

    def copy(self) -> None:
        """As COPY does: times of last change stay, all else about the files is new."""
        aside = self.folder / "aside"
        self.root.rename(aside)
        shutil.copytree(aside, self.root, symlinks=True)
        shutil.rmtree(aside)

    def containers(self) -> list[Container]:
        """Two, each with a layer of its own above this one."""
        seen = shlex.quote(str(self.folder))
        layers = f"lowerdir={seen},upperdir=/tmp/layer/upper,workdir=/tmp/layer/work"
        setup = f"mkdir -p /tmp/layer/upper /tmp/layer/work\nmount -t overlay overlay -o {layers} {seen}\n"
        return [self._contain(name, prefix=self._prefix, setup=setup) for name in ("a", "b")]


@pytest.fixture
def image(contain: Callable[..., Container], shim: Shim, index: LocalIndex) -> Image:
    """An image with a whole project."""
    return Image(contain, shim.prefix, index)


def runs_in(image: Image, containers: Sequence[Container], **env: str) -> None:
    """Some `uv run` in each at once; all succeed, and soon, as a second herd shows, for which nothing is left to do."""
    commands = [
        each.enter(IMPORT, env=each.env(PINNED_NEWEST, **env), cwd=each.path(image.project))  # type: ignore[arg-type]
        for each in containers
    ]
    took = []
    for _ in range(2):
        began = time.monotonic()
        outcomes = herd(commands * 4, env={}, cwd=Path("/"))
        assert not failures(outcomes), explain(outcomes)
        took.append(time.monotonic() - began)
    print(f"{took[0]:.1f} s, then {took[1]:.1f} s")
    assert took[0] < 15 + 5 * took[1]


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_what_is_whole_stays_as_it_is(image: Image, *, copied: bool, killed: bool) -> None:
    """It needs no index, and nothing is installed anew."""
    if killed:
        image.kill_builder()
    if copied:
        image.copy()
    containers = image.containers()
    before = containers[0].files(image.project)
    runs_in(image, containers, UV_OFFLINE="1")
    for each in containers:
        image.run(each, ["uv", "sync", "--check"], UV_OFFLINE="1")
        image.run(each, ["uv", "version", "--bump", "patch", "--frozen"], UV_OFFLINE="1")
    assert {name for name in before if "dist-info" in name} <= containers[0].files(image.project).keys()


def test_what_was_changed_in_it_is_found(image: Image, index: LocalIndex) -> None:
    make_wheel(index.folder, "delta")
    pyproject = image.root / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"gamma"', '"gamma", "delta"'))
    containers = image.containers()
    before = preparations(containers)
    runs_in(image, containers)
    assert preparations(containers) == before + 2
    for each in containers:
        image.run(each, ["uv", "run", "--no-sync", "python", "-c", "import delta"])
    assert not list(image.root.glob(".venv/lib/*/site-packages/delta"))


@pytest.mark.parametrize("copied", [False, True])
def test_what_was_taken_out_of_it_stays_out(image: Image, *, copied: bool) -> None:
    """A slim image lacks files that are in RECORD. A call that was killed while it was built did not do that."""
    (removed,) = image.root.glob(".venv/lib/*/site-packages/alpha/m0007.py")
    removed.unlink()
    time.sleep(0.1)
    image.kill_builder()
    if copied:
        image.copy()
    containers = image.containers()
    runs_in(image, containers, UV_OFFLINE="1")
    for each in containers:
        image.run(each, ["uv", "sync", "--reinstall-package", "beta"])
        image.run(each, ["uv", "pip", "show", "--python", ".venv", "alpha"], UV_OFFLINE="1")
    assert not any(Path(each.outside(str(removed))).exists() for each in containers)
