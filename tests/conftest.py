"""Fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from support import need
from support.index import LocalIndex
from support.messages import VARIABLE, Recorder
from support.project import Project
from support.shim import Shim, install_shim

# A shell that starts the tests in the background, or nohup, has them ignore signals, and so would all that they start.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


_RECORDER = Recorder(Path(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write down the messages of a test that passed."""
    report = yield
    if _RECORDER and call.when == "call":
        _RECORDER.write(item.path, passed=report.passed, printed=report.capstdout + report.capstderr)
    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --newest."""
    parser.addoption("--newest", action="store_true", help="run the tests marked newest, and only those")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked newest, or with --newest all others."""
    wanted = config.getoption("--newest")
    kept: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        kept[(item.get_closest_marker("newest") is not None) == wanted].append(item)
    config.hook.pytest_deselected(items=kept[False])
    items[:] = kept[True]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LocalIndex]:
    """An empty index: put archives into its folder."""
    with LocalIndex(tmp_path / "index") as serving:
        yield serving


@pytest.fixture(scope="session")
def shim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """The shim, installed once for all workers of a test session, with the launcher that `install` chooses.

    A test that is to run with either says so: ``@pytest.mark.parametrize("shim", LAUNCHERS, indirect=True)``.
    """
    launcher = getattr(request, "param", "")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    name = f"shim-{launcher}" if launcher else "shim"
    installed = Shim(base / name)
    with FileLock(base / f"{name}.lock"):
        if not (base / f"{name}.done").exists():
            if launcher == "native":
                need.executable("cc")
            install_shim(installed.prefix, launcher)
            (base / f"{name}.done").touch()
    return installed


@pytest.fixture
def project_factory(request: pytest.FixtureRequest, tmp_path: Path, index: LocalIndex) -> Callable[..., Project]:
    """Makes projects (Project.make) that use the index; the shim is installed when the first environment asks."""

    def make(folder: str = "demo", **options: object) -> Project:
        defaults = {"index_url": index.url, "shim": lambda: request.getfixturevalue("shim")}
        return Project.make(tmp_path / folder, **{**defaults, **options})  # type: ignore[arg-type]

    return make
