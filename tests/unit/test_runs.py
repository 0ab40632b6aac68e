"""Run records: a line a run in the environment, else beside the lock, else nowhere; and whom an edit does not see."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.runs import leave, line, own_file

from uv_mutex import files
from uv_mutex.locking import process
from uv_mutex.locking.lock_file import EnvironmentFolder, LockFile, LockTarget
from uv_mutex.locking.process import Process
from uv_mutex.records import runs
from uv_mutex.shim import recent_runs

_MINE = f"{runs.PREFIX}{process.boot_id()}"


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The folder of an environment."""
    (tmp_path / ".venv").mkdir()
    return tmp_path / ".venv"


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """A lock whose folder is there."""
    (tmp_path / ".uv-mutex").mkdir()
    return LockFile(str(tmp_path))


def elsewhere(number: int = 1) -> Process:
    """A process of another kernel."""
    return Process(f"{number:08}-0000-0000-0000-000000000000", "4026531836", 4711, "99")


def seconds(environment: Path, *targets: LockFile | EnvironmentFolder) -> float:
    """How long an edit waits."""
    began = time.monotonic()
    recent_runs.outlast(str(environment), targets)
    return time.monotonic() - began


def waits(environment: Path, *targets: LockFile | EnvironmentFolder) -> bool:
    """Whether an edit waits at all."""
    return recent_runs.outlast(str(environment), targets)


def waits_until(past: float, environment: Path, *targets: LockFile | EnvironmentFolder) -> bool:
    """Whether an edit waits until two seconds are over since a time; for a test that is held up, that is soon."""
    return seconds(environment, *targets) < 8 and time.time() - past > 1.9


def test_what_is_written_is_read(environment: Path, lock: LockFile) -> None:
    before = time.time()
    runs.append(str(environment), [lock], runs.RUN)
    runs.append(str(environment), [lock], runs.SYNC)
    (file,) = runs.find(str(environment), [lock])
    assert file.is_own
    first, second = file.runs()
    assert (first.process, first.kind, second.kind) == (process.this_process(), runs.RUN, runs.SYNC)
    assert before - 0.001 <= first.time <= second.time <= time.time() + 0.001
    words = own_file(environment).read_text().splitlines()[0].split(" ")
    assert (words[0], words[1], len(words)) == (process.this_process().encode(), "run", 3)
    assert not list(Path(lock.above, ".uv-mutex").iterdir()), "the project's own tree has changed"


def test_a_folder_that_is_there_is_not_made(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To be told so is a round trip to a file server. The first record is the control."""
    made: list[str] = []
    mkdir = os.mkdir

    def noted(path: str, mode: int) -> None:
        made.append(path)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", noted)
    for _ in range(3):
        runs.append(str(environment), [], runs.RUN)
    assert made == [f"{environment}/.uv-mutex"]
    assert len(own_file(environment).read_text().splitlines()) == 3


@pytest.mark.parametrize("way", ["file", "symlink", "pipe"])
def test_beside_the_lock_where_the_environment_cannot_be_written(way: str, environment: Path, lock: LockFile) -> None:
    folder = environment / ".uv-mutex"
    if way == "file":
        folder.touch()
    elif way == "symlink":
        (environment.parent / "foreign").mkdir()
        folder.symlink_to(environment.parent / "foreign")
    else:
        folder.mkdir()
        os.mkfifo(folder / _MINE)
    runs.append(str(environment), [lock], runs.RUN)
    assert [run.kind for file in runs.find(str(environment), [lock]) for run in file.runs()] == [runs.RUN]
    assert [path.name for path in Path(lock.above, ".uv-mutex").iterdir()] == [_MINE]
    if way == "symlink":
        assert not list((environment.parent / "foreign").iterdir())


def test_nowhere_where_neither_can_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for target in (LockFile(str(tmp_path / "missing")), EnvironmentFolder(str(tmp_path / "env"))):
        runs.append(str(tmp_path / "env"), [target], runs.RUN)
        assert runs.find(str(tmp_path / "env"), [target]) == []
        assert not waits(tmp_path / "env", target)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o1777])
def test_who_may_write_the_environment_may_append(mode: int, environment: Path) -> None:
    environment.chmod(mode)
    umask = os.umask(0o077)
    try:
        runs.append(str(environment), [], runs.RUN)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(own_file(environment).parent.stat().st_mode) == mode
    assert stat.S_IMODE(own_file(environment).stat().st_mode) == mode & 0o666
    assert os.umask(umask) == umask


def test_two_files_of_64_kib_at_most(environment: Path) -> None:
    for _ in range(3000):
        runs.append(str(environment), [], runs.RUN)
    files = {path.name: path.stat().st_size for path in own_file(environment).parent.iterdir()}
    assert set(files) <= {_MINE, f"{_MINE}.old"}
    assert max(files.values()) <= 65536 + 200
    found = runs.find(str(environment), [])
    assert all(file.is_own for file in found)
    # Far more than the 500 that an earlier version looked at.
    assert sum(1 for file in found for _ in file.runs()) > 600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "x",
        "a b c\n",
        "a/b/1/2 run\n",
        "a/b/1/2 run nan\n",
        "a/b/1/2 run inf\n",
        "a/b/1/2 run -1\n",
        "a/b/1/2 fly 1\n",
        "a/b/x/2 run 1\n",
        "a/b/1/2 run 1 2\n",
        "a/b/99999999999/2 run 1\n",
        "a/b/1",
    ],
)
@pytest.mark.parametrize("name", [_MINE, f"{runs.PREFIX}elsewhere"])
def test_other_lines_are_passed_over(text: str, name: str, environment: Path) -> None:
    own_file(environment).parent.mkdir()
    path = own_file(environment).with_name(name)
    path.write_bytes(b"\xff\x00\n" + text.encode())
    assert [run for file in runs.find(str(environment), []) for run in file.runs()] == []
    assert not waits(environment)


def test_what_is_no_file_hides_no_other(environment: Path) -> None:
    since = time.time()
    leave(environment, elsewhere())
    folder = own_file(environment).parent
    (folder / "runs.0").symlink_to("runs.0")
    (folder / "runs.1").mkdir()
    os.mkfifo(folder / "runs.2")
    (folder / _MINE).mkdir()
    assert waits_until(since, environment)


@pytest.mark.slow
def test_all_other_hosts_are_given_two_seconds_at_once(environment: Path, lock: LockFile) -> None:
    # Their clocks are an hour ahead, or behind; the file server's counts.
    for number in range(500):
        since = time.time()
        leave(environment, elsewhere(number), ago=3600 * (number % 3 - 1))
    assert waits_until(since, environment, lock)
    assert not [path for path in own_file(environment).parent.iterdir() if path.name != _MINE]
    assert not waits(environment, lock)


@pytest.mark.slow
def test_by_the_clock_of_the_file_server(environment: Path) -> None:
    file = leave(environment, elsewhere(), ago=-3600)
    old = time.time() - 1.2
    os.utime(file, (old, old))
    assert waits_until(old, environment)
    file = leave(environment, elsewhere(), ago=-3600)
    os.utime(file, (old - 2, old - 2))
    assert not waits(environment)
    file = leave(environment, elsewhere())
    os.utime(file, (old + 3600, old + 3600))
    assert seconds(environment) < 8


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["another host's", "another container's"])
def test_files_that_take_long_to_read_are_outlasted_as_well(
    whose: str, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that a file server takes is not counted twice."""
    me = process.this_process()
    run = elsewhere() if whose == "another host's" else Process(me.boot, "1", 1, "1")
    find = runs.find

    def slowly(folder: str, targets: Iterable[LockTarget]) -> list[runs.RunFile]:
        time.sleep(1)
        return find(folder, targets)

    monkeypatch.setattr(runs, "find", slowly)
    since = time.time()
    leave(environment, run)
    assert waits_until(since, environment)


@pytest.mark.slow
def test_beside_the_lock_it_counts_as_well(environment: Path, lock: LockFile) -> None:
    own_file(environment).parent.touch()
    since = time.time()
    leave(environment.parent, elsewhere())
    assert waits_until(since, environment, lock)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["namespace", "start"])
def test_of_this_kernel_but_not_visible(part: str, environment: Path) -> None:
    """A uv of another PID namespace gets what is left of its two seconds; a reused process id none."""
    me = process.this_process()
    run = Process(me.boot, me.namespace, os.getppid(), process.start_time(os.getppid()))
    setattr(run, part, "1")
    since = time.time() - 1
    leave(environment, run, ago=1)
    if part == "namespace":
        assert waits_until(since, environment)
    else:
        assert not waits(environment)


def test_ancestors_wait_for_us_and_their_records_stay(environment: Path) -> None:
    for each in process.ancestors():
        leave(environment, each)
    before = own_file(environment).read_text()
    assert not waits(environment)
    assert own_file(environment).read_text() == before, "others must wait for them"


def test_a_run_of_long_ago(environment: Path) -> None:
    me = process.this_process()
    leave(environment, Process(me.boot, "1", 1, "1"), ago=11)
    leave(environment, process.ancestors()[-1], ago=3600)
    assert not waits(environment)
    assert not own_file(environment).exists()


@pytest.mark.slow
def test_a_line_from_the_future_neither_stalls_nor_blinds(environment: Path) -> None:
    me = process.this_process()
    leave(environment, Process(me.boot, "1", 1, "1"), ago=0.5)
    text = line(Process(me.boot, me.namespace, os.getppid(), "1"), ago=-3600)
    since = time.time()
    with own_file(environment).open("a") as file:
        file.write(text)
    assert waits_until(since, environment)
    own_file(environment).write_text(text)
    old = time.time() - 5
    os.utime(own_file(environment), (old, old))
    assert not waits(environment)


@pytest.mark.parametrize("moment", ["after it is listed", "after it is opened"])
def test_a_file_that_becomes_the_old_one_while_it_is_read(
    moment: str, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over NFS, where calls that are about to wait for this one may still append."""
    since = time.time()
    path, stat_on_server = leave(environment, elsewhere()), files.stat_on_server
    renamed: list[Path] = []

    def slow(name: str) -> os.stat_result:
        found = stat_on_server(name) if moment == "after it is opened" else None
        if not renamed:
            renamed.append(path.rename(f"{path}.old"))
            path.write_text(line(elsewhere()) + line(elsewhere(), runs.VOID))
        return found or stat_on_server(name)

    monkeypatch.setattr(files, "stat_on_server", slow)
    assert waits_until(since, environment)
    assert renamed
