"""Slurm: the jobs of an array prepare once, by README's recipe, and a job that ends in the middle is no loss."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.herd import read_log
from support.journal import Entry, Journal
from support.slurm import SlurmCluster
from support.terminal import wait_until
from support.users import ALICE, GROUP
from support.wheels import BUILD_SYSTEM, make_wheel, project_table

# The cluster runs by itself, but an array keeps every core busy.
pytestmark = [pytest.mark.serial, pytest.mark.timeout(900)]

_README = Path(__file__).parents[2] / "README.md"
_SHIM_LINE = "export PATH=/shared/uv-mutex/bin:$PATH"
_PARTS = [f"part{number}" for number in range(12)]
#: What each job does: say what it saw, once each package is whole.
_WORK = f"""\
import os, sys
import demo, {", ".join(_PARTS)}
for package in ({", ".join(_PARTS)},):
    package.check()
print(sys.argv[1], os.environ["TMPDIR"], os.environ["UV_CACHE_DIR"])
"""
#: A job that ends in the middle of its build has one that would take so long; the others' are short.
_LONG = "1000"
#: How soon the next job goes on; 0.3 to 0.7 s were measured. Its shim, its uv and the build may each lose seconds where
#: the machine stalls, so this is short only beside the build of the job that ended.
_SOON = 15


def recipe() -> list[str]:
    """The lines of README's quick start for Slurm."""
    _, _, rest = _README.read_text().partition("\n**Slurm**")
    lines = rest.partition("\n\n")[2].partition("\n\n**")[0].splitlines()
    return [line.removeprefix("    ") for line in lines]


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    """A cluster, started once."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        cluster = SlurmCluster(folder)
        for name in _PARTS:
            make_wheel(cluster.shared / "wheels", name, files=40, data_files=40)
        yield cluster
        cluster.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Site:
    """A project in the user's home, not prepared yet, and the script of its jobs."""

    def __init__(self, slurm: SlurmCluster, name: str) -> None:
        self.slurm = slurm
        self.cwd = f"{slurm.home}/{name}"
        self.folder = slurm.shared / "alice" / name
        self.folder.mkdir()
        self.journal = Journal(self.folder / "journal")
        settings = '[tool.uv]\nno-index = true\nfind-links = ["/shared/wheels"]\n'
        self._write("pyproject.toml", "\n".join([project_table("demo", "0.1.0", _PARTS), BUILD_SYSTEM, settings]))
        self._write("backend.py", Journal(Path(self.cwd, "journal")).backend)
        self._write("work.py", _WORK)
        self._write("job.sh", "\n".join([*recipe(), ""]))
        self._own(self.folder)

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        self._own(self.folder / name)

    def _own(self, path: Path) -> None:
        os.chown(path, ALICE, GROUP)

    def edit(self, change: Callable[[str], str]) -> None:
        """Change each line of the script."""
        self._write("job.sh", "\n".join([*map(change, recipe()), ""]))

    def submit(self, *options: str, uv_version: str = "newest", **variables: str) -> str:
        """Submit the script; return the number of the job."""
        env = self.slurm.env(uv_version, UV_MUTEX_LOG=f"{self.cwd}/log", UV_MUTEX_LOG_ARGS="1", **variables)
        return self.slurm.submit("job.sh", *options, env=env, cwd=self.cwd)

    @property
    def log(self) -> list[dict[str, Any]]:
        """What the shims wrote down."""
        return read_log(self.folder / "log")

    def outputs(self) -> list[str]:
        """What the jobs printed, those of an array in no order."""
        return [path.read_text() for path in self.folder.glob("slurm-*.out")]

    def builds(self, what: str = "enter") -> list[Entry]:
        """The builds of the project that began, or those that were finished."""
        return [entry for entry in self.journal.entries() if entry.what == what]


@pytest.fixture
def site(request: pytest.FixtureRequest, slurm: SlurmCluster) -> _Site:
    """A project of its own for each test."""
    return _Site(slurm, "".join(letter if letter.isalnum() else "-" for letter in request.node.name))


# --- an array


@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
def test_an_array_of_a_hundred_jobs(uv_version: str, site: _Site) -> None:
    job = site.submit("--array=0-99", uv_version=uv_version)  # instead of the recipe's 500
    states = site.slurm.wait(job)
    printed = site.outputs()
    assert Counter(states) == {"COMPLETED": 100}, "\n".join(printed)
    numbers, folders, caches = zip(*(text.splitlines()[-1].split() for text in printed), strict=True)
    assert sorted(map(int, numbers)) == list(range(100))
    assert len(set(folders)) == 100
    assert set(caches) == {"/local/alice/uv-cache"}
    assert [line["prepared"] for line in site.log].count(True) == 1
    assert len(site.builds()) == len(site.builds("leave")) == 1
    # On both nodes most of them were there before the environment was.
    (done,) = (line["time"] + line["waited"] + line["held"] for line in site.log if line["prepared"])
    assert len(site.log) == 100
    print(f"\nuv {uv_version}: {sum(line['time'] < done for line in site.log)} of 100 began before it was prepared")


def test_control_an_array(site: _Site) -> None:
    assert any(line.startswith(_SHIM_LINE) for line in recipe())
    site.edit(lambda line: "" if line.startswith(_SHIM_LINE) else line)
    states = site.slurm.wait(site.submit("--array=0-99", uv_version="0.7.8"))
    print(Counter(states))
    assert states.count("FAILED") > 10, Counter(states)


def test_the_tasks_of_one_step(site: _Site) -> None:
    """One job, whose sixteen tasks srun starts at once."""
    site.edit(lambda line: line.replace("uv run", "srun uv run"))
    assert site.slurm.wait(site.submit("--array=0", "--ntasks=16")) == ["COMPLETED"], site.outputs()
    (printed,) = site.outputs()
    assert len(re.findall("^0 /local/tmp/", printed, re.MULTILINE)) == 16
    assert Counter(line["prepared"] for line in site.log) == {True: 1, False: 15}


# --- a job that ends while it prepares, and eight that wait for it


def _cancel(slurm: SlurmCluster, job: str) -> None:
    slurm.control("scancel", job)


def _requeue(slurm: SlurmCluster, job: str) -> None:
    slurm.control("scontrol", "requeue", job)


def _reach_the_time_limit(slurm: SlurmCluster, job: str) -> None:
    """Let the job's time be over now; Slurm looks every 30 s."""
    slurm.control("scontrol", "update", f"JobId={job}", "EndTime=now+1")
    wait_until(lambda: "RUNNING" not in slurm.states(job), 120, lambda: str(slurm.jobs(job)))


def _waiting(site: _Site) -> list[Path]:
    """The files of the calls that wait for the lock."""
    return list(site.folder.glob(".uv-mutex/waiting.*"))


@pytest.mark.parametrize(
    ("end", "state"),
    [(_cancel, "CANCELLED"), (_reach_the_time_limit, "TIMEOUT"), (_requeue, "COMPLETED")],
    ids=["scancel", "--time", "requeue"],
)
def test_a_job_that_ends_while_it_prepares(
    end: Callable[[SlurmCluster, str], None], state: str, slurm: SlurmCluster, site: _Site
) -> None:
    first = site.submit("--array=0", "--time=20", BUILD_SECONDS=_LONG)
    wait_until(site.builds, 120, lambda: f"{slurm.jobs(first)}{site.outputs()}")
    rest = site.submit("--array=1-8")
    wait_until(lambda: len(_waiting(site)) == 8, 120, lambda: f"{_waiting(site)}{slurm.jobs(rest)}{site.outputs()}")
    end(slurm, first)
    ended = time.monotonic()
    assert set(slurm.wait(rest)) == {"COMPLETED"}, site.outputs()
    assert slurm.wait(first) == [state]
    # The next of them went on at once, and what it made served all others, the job that ran again too.
    assert len(site.builds()) == 2
    print(f"\nthe next one went on after {site.builds()[1].when - ended:.1f} s")
    assert site.builds()[1].when < ended + _SOON
    assert len(site.builds("leave")) == 1
    finished = sorted(text.splitlines()[-1].split()[0] for text in site.outputs() if "/local/alice" in text)
    assert finished == list("012345678" if state == "COMPLETED" else "12345678")
