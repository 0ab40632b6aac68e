"""The native launcher answers fresh calls by their tickets, and leaves to Python whatever it can't know to be fresh.

tests/e2e/test_fresh.py holds its verdict against that of the notes for each change to a project.
"""

from __future__ import annotations

import fcntl
import os
import random
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
from support import need
from support.index import LocalIndex
from support.native import SANITIZERS, PythonlessShim, StubPrefix, compile_launcher
from support.project import Project, run
from support.shim import Shim
from support.terminal import wait_until
from support.uvs import all_versions, uv
from support.wheels import make_wheel

from uv_mutex.environment.call_form import CallForm
from uv_mutex.environment.ticket import Ticket
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.records import runs
from uv_mutex.uv import commandline
from uv_mutex.uv.project import Project as FoundProject

pytestmark = pytest.mark.parametrize("shim", ["native"], indirect=True)

Factory = Callable[..., Project]
Env = Mapping[str, str]
_NO_ENV: Env = MappingProxyType({})


class World:
    """A project that is fresh, and the launcher that has no Python."""

    def __init__(self, project: Project, shim: Shim, folder: Path) -> None:
        self.project = project
        self.launcher = PythonlessShim(shim, folder)
        self.root = project.root
        self.ours = project.venv / ".uv-mutex"
        self.lock = project.root / ".uv-mutex/lock"
        self.env = project.env("newest")

    def answers(self, *words: str, folder: Path | None = None, env: Env = _NO_ENV) -> bool:
        """Whether the native launcher answers a call by itself.

        :param env: more variables.
        """
        return self.launcher.answers(words, {**self.env, **env}, folder or self.root)

    def call(self, *words: str, folder: Path | None = None, env: Env = _NO_ENV) -> None:
        """Make the call with Python's help; it must succeed."""
        done = run(self.project, ["uv", *words], {**self.env, **env}, cwd=folder or self.root)
        assert done.returncode == 0, done.stderr.decode()

    def learn(self, *words: str, folder: Path | None = None, env: Env = _NO_ENV) -> None:
        """Make the call until the native launcher answers it: no ticket is left within a clock step of a change."""
        for _ in range(3):
            self.call(*words, folder=folder, env=env)
            if self.answers(*words, folder=folder, env=env):
                return
        pytest.fail(f"the native launcher never answers {words}")

    @property
    def tickets(self) -> list[Path]:
        """All of its tickets."""
        return sorted(self.ours.glob("ticket.*"))

    def records(self) -> list[runs.Run]:
        """The runs that an edit would find."""
        files = runs.find(str(self.project.venv), [LockFile(str(self.root))])
        return [each for file in files for each in file.runs()]


@pytest.fixture
def world(project_factory: Factory, index: LocalIndex, shim: Shim, tmp_path: Path) -> World:
    """A project with a dependency, a folder and two scripts, synced."""
    for name in ("alpha", "beta"):
        make_wheel(index.folder, name)
    project = project_factory(dependencies=["alpha"])
    (project.root / "deep/er").mkdir(parents=True)
    for name in ("script.py", "deep/script.py"):
        (project.root / name).write_text("import alpha\n")
    made = World(project, shim, tmp_path)
    made.call("sync")
    return made


# ---------------------------------------------------------------------------------------------- which calls

_PLAIN_CALLS: tuple[tuple[str, ...], ...] = (
    ("sync",),
    ("sync", "-q"),
    ("run", "true"),
    ("run", "-q", "python", "-c", "pass"),
    ("run", "--", "true"),
    ("run", "-p", "3", "--no-dev", "true"),
    ("run", "--env-file", "/dev/null", "true"),
    ("run", "--with", "beta", "python", "-c", "import beta"),
    ("run", "-m", "alpha"),
)


@pytest.mark.parametrize("words", _PLAIN_CALLS, ids=" ".join)
@all_versions
def test_no_python_starts(words: Sequence[str], uv_version: str, world: World) -> None:
    world.env = world.project.env(uv_version)
    if words[-2:] == ("-m", "alpha"):
        (next(world.project.venv.glob("lib/*/site-packages")) / "alpha/__main__.py").touch()
    for folder in (world.root, world.root / "deep/er"):
        world.learn(*words, folder=folder)


def test_no_python_starts_for_a_script(world: World) -> None:
    (world.root / "deep/tool").symlink_to("/bin/true")
    for folder, target in (("", "script.py"), ("", "deep/script.py"), ("deep", "script.py"), ("deep", "../script.py")):
        world.learn("run", target, folder=world.root / folder)
    world.learn("run", "deep/tool")


def test_no_python_starts_from_elsewhere(world: World, tmp_path: Path) -> None:
    for option in ("--project", "--directory"):
        world.learn("run", option, str(world.root), "true", folder=tmp_path)
        world.learn(option, "demo", "run", "true", folder=tmp_path)
    for words in (["sync"], ["run", "true"]):
        world.learn(*words, env={"UV_PROJECT_ENVIRONMENT": str(tmp_path / "far/env")})
    world.project.venv.rename(tmp_path / "moved")
    world.project.venv.symlink_to(tmp_path / "moved")
    world.learn("run", "true")


def test_calls_that_differ_only_for_their_command_share_a_ticket(world: World) -> None:
    (world.root / "1.env").write_text("A=1\n")
    world.learn("run", "true")
    count = len(world.tickets)
    for words in (["true", "--x"], ["python", "-V"], ["--env-file", "1.env", "true"], ["--env-file=1.env", "env"]):
        assert world.answers("run", *words)
    assert world.answers("run", "-w", "beta", "--with=beta", "--with-requirements", "/dev/null", "true")
    assert world.answers("run", "true", env={"UV_ENV_FILE": "1.env", "UV_RUN_RECURSION_DEPTH": "3"})
    assert len(world.tickets) == count
    # The control: options and variables that may decide.
    for words in (["--no-dev", "true"], ["-q", "true"], ["--", "true"], ["-wq", "beta", "true"], ["-p", "3", "true"]):
        assert not world.answers("run", *words)
    for name in ("UV_NO_DEV", "UV_ANYTHING", "VIRTUAL_ENV", "XDG_CONFIG_HOME", "HOME", "UV_INDEX_X_PASSWORD"):
        assert not world.answers("run", "true", env={name: str(world.root)})


def test_a_word_is_not_taken_for_the_command(world: World) -> None:
    """A script whose name is also the value of an option."""
    world.learn("run", "--extra-index-url", "script.py", "true")
    (world.root / "script.py").write_text("# /// script\n# dependencies = []\n# ///\n")
    assert world.answers("run", "--extra-index-url", "script.py", "true")
    assert not world.answers("run", "--extra-index-url", "x", "script.py")
    assert not world.answers("run", "script.py", "true")


def test_calls_for_python(world: World) -> None:
    """No ticket is left for them, however often they are made."""
    metadata = "# /// script\n# dependencies = []\n# ///\n"
    (world.root / "inline.py").write_text(metadata)
    (world.root / "inline").write_text(metadata)
    (world.root / "package").mkdir()
    (world.root / "package/__main__.py").touch()
    (world.root / "1.env").touch()
    world.call("run", "true")
    before = world.tickets
    for words in (
        ["run", "inline.py"],
        ["run", "-s", "inline"],
        ["run", "./package"],
        ["run", "-"],
        ["run", "--reinstall-package", "alpha", "true"],
        ["run", "--isolated", "true"],
        ["run", "--no-sync", "true"],
        ["run", "--extra-index-url", "http://user:password@127.0.0.1:1", "true"],
    ):
        for _ in range(2):
            world.call(*words)
        assert not world.answers(*words), words
        assert world.tickets == before, words


@pytest.mark.parametrize("name", ["UV_MUTEX_LOG", "UV_MUTEX_HELD", "UV_MUTEX_BACKEND", "UV_MUTEX_NEW"])
def test_variables_that_only_python_understands(name: str, world: World, tmp_path: Path) -> None:
    value = {"UV_MUTEX_LOG": str(tmp_path / "log"), "UV_MUTEX_BACKEND": "flock"}.get(name, "1:2:x")
    world.learn("run", "true")
    before = world.tickets
    for _ in range(2):
        world.call("run", "true", env={name: value})
    assert world.tickets == before
    assert not world.answers("run", "true", env={name: value})


def test_variables_that_ask_nothing_of_it(world: World) -> None:
    real = str(uv("newest"))
    env = {"UV_MUTEX": "require", "UV_MUTEX_TIMEOUT": "9", "UV_MUTEX_ALSO": "lock", "UV_MUTEX_UV": real}
    world.learn("run", "true", env=env)
    assert not world.answers("run", "true", env={**env, "UV_MUTEX_TIMEOUT": "x"})


def test_a_script_that_gets_inline_metadata(world: World) -> None:
    world.learn("run", "script.py")
    (world.root / "script.py").write_text("# /// script\n# dependencies = []\n# ///\n")
    assert not world.answers("run", "script.py")


def test_a_project_appears_above_or_below(world: World) -> None:
    deep = world.root / "deep/er"
    for folder in (world.root.parent, world.root / "deep"):
        world.learn("run", "true", folder=deep)
        (folder / "pyproject.toml").write_text("[tool.uv.workspace]\nmembers = ['demo']\n")
        assert not world.answers("run", "true", folder=deep)
        (folder / "pyproject.toml").unlink()
        assert world.answers("run", "true", folder=deep)


# ---------------------------------------------------------------------------------------------- locks


@contextmanager
def held(path: Path, operation: int) -> Iterator[None]:
    """A lock that this process holds."""
    with path.open("a") as file:
        fcntl.flock(file, operation)
        yield


@pytest.mark.parametrize("name", ["lock", "lock.turn", "lock.1"])
def test_a_lock_that_is_held(name: str, world: World) -> None:
    path = world.lock.with_name(name)
    path.touch()
    world.env["UV_MUTEX_TIMEOUT"] = "0.5"  # for so short a wait it has no gate
    world.learn("run", "true")
    world.learn("sync")
    with held(path, fcntl.LOCK_SH):
        assert world.answers("run", "true")
    with held(path, fcntl.LOCK_EX):
        assert not world.answers("run", "true")
        assert not world.answers("sync")
    assert world.answers("run", "true")


@pytest.mark.parametrize("name", ["lock", "lock.1", "lock.2"])
def test_an_owner_that_died(name: str, world: World) -> None:
    for level in ("lock.1", "lock.2"):
        world.lock.with_name(level).touch()
    world.learn("run", "true")
    world.lock.with_name(name).write_text("4711 1.0 host uv sync\t0\tx/1/4711/1\n")
    assert not world.answers("run", "true")
    world.lock.with_name(name).write_text("")
    assert world.answers("run", "true")


def test_a_level_that_appears(world: World) -> None:
    world.learn("run", "true")
    world.lock.with_name("lock.1").touch()
    assert not world.answers("run", "true")
    world.learn("run", "true")


def test_another_lock_file(world: World) -> None:
    world.learn("run", "true")
    world.lock.rename(world.lock.with_name("old"))
    assert not world.answers("run", "true")
    world.lock.touch()
    assert not world.answers("run", "true")
    world.learn("run", "true")
    (world.lock.with_name("backend")).write_text("lease\n")
    assert not world.answers("run", "true")


def test_both_locks_of_an_environment_elsewhere(world: World, tmp_path: Path) -> None:
    env = {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "far/env")}
    world.learn("run", "true", env=env)
    for path in (world.lock, tmp_path / "far/.uv-mutex/env.lock"):
        with held(path, fcntl.LOCK_EX):
            assert not world.answers("run", "true", env=env)
    assert world.answers("run", "true", env=env)


def test_uv_holds_no_lock(world: World) -> None:
    world.learn("run", "true")
    with subprocess.Popen(
        [str(world.launcher.shim.uv), "run", "sleep", "30"], env=world.env, cwd=world.root
    ) as running:
        try:
            wait_until(lambda: bool(world.records()) and os.path.exists(f"/proc/{running.pid}/exe"))
            wait_until(lambda: os.readlink(f"/proc/{running.pid}/exe") == str(uv("newest")))
            with world.lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            running.terminate()


# ---------------------------------------------------------------------------------------------- records

_SLOW_UV = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void say(const char *what)
{
    FILE *log = fopen("%(log)s", "a");
    fprintf(log, "%%s\\n", what);
    fclose(log);
}
int main(int argc, char **argv)
{
    if (argc > 1 && (!strcmp(argv[1], "run") || !strcmp(argv[1], "sync")) && getenv("HELD_UP")) {
        say("in");
        while (!access(getenv("HELD_UP"), F_OK))
            usleep(20000);
        say("checks");
    } else if (argc > 1 && !strcmp(argv[1], "version"))
        say("edits");
    execv("%(uv)s", argv);
    return 126;
}
"""


@pytest.mark.parametrize("words", [["run", "true"], ["sync"]], ids=["run", "sync"])
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "control"])
def test_an_edit_waits_for_a_uv_that_checks(words: list[str], recorded: bool, world: World, tmp_path: Path) -> None:
    """The control takes the record away: then the edit goes in beside the uv."""
    slow, log = tmp_path / "slow/uv", tmp_path / "slow/log"
    slow.parent.mkdir()
    source = tmp_path / "slow/uv.c"
    source.write_text(_SLOW_UV % {"log": log, "uv": uv("newest")})
    subprocess.run([need.executable("cc"), "-o", slow, source], check=True)
    world.env["UV_MUTEX_UV"] = str(slow)
    world.learn(*words)
    held_up = tmp_path / "slow/held-up"
    held_up.touch()
    env = {**world.env, "HELD_UP": str(held_up)}
    command = [str(world.launcher.shim.uv), *words]
    with subprocess.Popen(command, env=env, cwd=world.root, stderr=subprocess.DEVNULL) as call:
        wait_until(lambda: log.exists() and log.read_text() == "in\n")
        last = world.records()[-1]
        assert (last.process.pid, last.process.is_alive, last.kind) == (call.pid, True, words[0])
        if not recorded:
            for file in world.ours.glob("runs.*"):
                file.unlink()
        edit = ["uv", "version", "--bump", "patch", "--frozen"]
        with subprocess.Popen(edit, env=world.env, cwd=world.root, stdout=subprocess.DEVNULL) as editing:
            if recorded:
                wait_until(lambda: b"uv version" in world.lock.read_bytes() or editing.poll() is not None)
                time.sleep(0.5)
                held_up.unlink()
            assert editing.wait(60) == 0
        held_up.unlink(missing_ok=True)
        assert call.wait(60) == 0
    assert log.read_text().split() == (["in", "checks", "edits"] if recorded else ["in", "edits", "checks"])


def test_its_records_are_those_of_python(world: World) -> None:
    world.learn("run", "true")
    world.project.venv.chmod(0o775)
    states = []
    for answers in (True, False):
        for file in world.ours.glob("runs.*"):
            file.unlink()
        before = os.umask(0o077)
        try:
            began = time.time()
            world.call("run", "true", env=_NO_ENV if answers else {"UV_MUTEX_LOG": "/dev/null"})
        finally:
            os.umask(before)
        (record,) = world.records()
        assert began - 0.01 <= record.time <= time.time()
        (file,) = world.ours.glob("runs.*")
        states.append((file.name, file.stat().st_mode, record.process.boot, record.process.namespace, record.kind))
    assert states[0] == states[1]


def test_where_no_record_can_be_left(world: World) -> None:
    world.learn("run", "true")
    (file,) = world.ours.glob("runs.*")
    file.write_bytes(b"\n" * 65530)  # Python begins a new one
    assert not world.answers("run", "true")
    world.call("run", "true")
    assert world.answers("run", "true")
    file.unlink()
    makers: list[Callable[[], object]] = [
        file.mkdir,
        lambda: file.symlink_to(world.root / "elsewhere"),
        lambda: os.mkfifo(file),
    ]
    for make in makers:
        make()
        assert not world.answers("run", "true")
        file.rmdir() if file.is_dir() else file.unlink()
    assert world.answers("run", "true")


def test_a_limit_of_file_sizes_does_not_end_it(world: World) -> None:
    world.learn("run", "true")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        assert not world.answers("run", "true")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert world.answers("run", "true")


def test_no_message_goes_into_the_lock_file(world: World) -> None:
    """Where stderr is closed, the next descriptor that is opened takes its place."""
    world.learn("run", "true")
    for closing, status in (("2>/dev/null", 0), ("2>&-", 77), ("<&-", 77)):
        command = ["sh", "-c", f'exec "$0" run true {closing}', str(world.launcher.shim.uv)]
        assert subprocess.run(command, env=world.env, cwd=world.root, check=False).returncode == status
    assert world.lock.read_bytes() == b""


def test_without_proc(world: World) -> None:
    need.root()
    world.learn("run", "true")
    (ticket,) = [path for path in world.tickets if b" run " in path.read_bytes()[:40]]
    hide = [
        "unshare",
        "--mount",
        "sh",
        "-euc",
        'mount -t tmpfs none /proc && exec "$0" "$@"',
        str(world.launcher.shim.uv),
    ]
    count = len(world.records())
    done = subprocess.run([*hide, "run", "true"], env=world.env, cwd=world.root, capture_output=True, check=False)
    assert done.returncode == 77
    assert len(world.records()) == count
    assert ticket.exists()


def test_many_at_once_leave_a_record_each(world: World) -> None:
    world.learn("run", "true")
    count = len(world.records())
    command = [str(world.launcher.shim.uv), "run", "true"]
    calls = [subprocess.Popen(command, env=world.env, cwd=world.root) for _ in range(60)]
    assert [call.wait() for call in calls] == [0] * 60
    assert sorted(run.process.pid for run in world.records()[count:]) == sorted(call.pid for call in calls)


# ---------------------------------------------------------------------------------------------- whose ticket


def _by_a_stranger(path: Path) -> None:
    os.chown(path, 12345, 12345)


def _linked(path: Path) -> None:
    path.rename(path.with_name("aside"))
    path.symlink_to("aside")


def _linked_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("aside"))
    path.parent.symlink_to("aside")


def _as_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [_by_a_stranger, _linked, _linked_folder, _as_a_pipe])
def test_a_ticket_that_is_not_trusted(change: Callable[[Path], None], world: World) -> None:
    need.root()
    for path in world.tickets:
        path.unlink()
    world.learn("run", "true")
    (path,) = world.tickets
    change(path)
    assert not world.answers("run", "true")


def test_a_ticket_of_another_call(world: World) -> None:
    """Who may write the folder may rename a ticket."""
    world.learn("run", "true")
    one = set(world.tickets)
    world.learn("run", "--no-dev", "true")
    (other,) = set(world.tickets) - one
    other.unlink()
    assert not world.answers("run", "--no-dev", "true")
    (mine,) = [path for path in one if b" run " in path.read_bytes()[:40]]
    mine.rename(other)
    assert not world.answers("run", "--no-dev", "true")


def test_the_environment_belongs_to_another_user(world: World) -> None:
    """Its owner may read and write there; tickets are each user's own."""
    need.root()
    world.learn("run", "true")
    os.chown(world.project.venv, 12345, 12345)
    os.chown(world.ours, 12345, 12345)
    assert world.answers("run", "true")
    assert {path.stat().st_mode & 0o777 for path in world.tickets} == {0o600}


def test_no_ticket_names_a_program(world: World, tmp_path: Path) -> None:
    """The real uv is the one on PATH, whatever a ticket says."""
    world.learn("run", "true")
    other = tmp_path / "other/uv"
    other.parent.mkdir()
    other.write_bytes(Path("/bin/false").read_bytes())
    other.chmod(0o755)
    for path in world.tickets:
        path.write_bytes(path.read_bytes().replace(os.fsencode(uv("newest")), os.fsencode(other)))
    assert not world.answers("run", "true")


# ---------------------------------------------------------------------------------------------- hostile tickets


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher, compiled so that it ends with an error where it does what C leaves undefined."""
    program = tmp_path_factory.mktemp("checked") / "uv"
    compile_launcher(program, *SANITIZERS)
    return program


class StubWorld:
    """That launcher between two stubs, in a project that has a ticket for `uv run true`."""

    def __init__(self, checked: Path, folder: Path) -> None:
        self.stub = StubPrefix(folder, checked)
        self.root = folder / "project"
        (self.root / ".venv/.uv-mutex").mkdir(parents=True)
        (self.root / "input").write_text("x")
        self.env = {"PATH": self.stub.path, "HOME": str(folder)}
        self.lock = LockFile(str(self.root))
        os.close(self.lock.open())
        self.lock.record_backend("flock")
        os.utime(self.root / "input", (1000, 1000))
        time.sleep(0.03)
        self.write(["run", "true"], [])
        (self.path,) = (self.root / ".venv/.uv-mutex").glob("ticket.*")
        head, *_ = self.path.read_text().split("\n")
        state = (self.root / "input").stat()
        found = f"{state.st_ctime_ns}/{state.st_mtime_ns}/{state.st_size}/{state.st_ino}"
        inode = os.stat(self.lock.path).st_ino
        #: In this one every byte counts, but for the line ends of nothing.
        self.good = f"{head}\nlock {inode} {self.lock.path}\nfile {found} {self.root}/input\nend\n".encode()

    def write(self, words: list[str], note: list[str], **env: str) -> None:
        """Let Python write a ticket."""
        call = commandline.parse(words, lambda _: "")
        assert call
        root = str(self.root)
        found = FoundProject(root, root, root, f"{root}/.venv")
        before = Path.cwd()
        os.chdir(root)
        try:
            ticket = Ticket(CallForm(str(self.stub.real), call, found, [self.lock], {**self.env, **env}))
            assert ticket.is_wanted(float("inf"))
            ticket.describe()
            ticket.write(note or [f"file - {root}/nothing"])
        finally:
            os.chdir(before)

    def is_fresh(self, *words: str, **env: str) -> bool:
        """Whether the launcher passes a call to the real uv."""
        command = [str(self.stub.uv), *(words or ("run", "true"))]
        done = subprocess.run(
            command,
            env={**self.env, **env},
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout.startswith(b"passed\0")


@pytest.fixture
def stubs(checked: Path, tmp_path: Path, shim: Shim) -> StubWorld:
    """Stubs, and a ticket."""
    del shim
    return StubWorld(checked, tmp_path)


def test_odd_tickets(stubs: StubWorld) -> None:
    good = stubs.good
    odd = [good[:end] for end in range(len(good))]
    odd += [
        good + b"\n",
        good + b"x",
        good + b"end\n",
        b"\n" + good,
        good[:-4] + b"\0end\n",
        good.replace(b"\n", b"\0"),
    ]
    odd += [
        good.replace(b"\n", b"\r\n"),
        good.replace(b" ", b"  "),
        good.replace(b" ", b""),
        b"\0" * 100,
        b"\xff" * 100,
    ]
    head, lock, *rest = good.split(b"\n")
    lines = (b"", b" ", b"  ", b"lock", b"file", b"file  ", b"lock 1 ")
    odd += [b"\n".join([head, line, lock, *rest]) for line in lines]
    odd += [b"\n".join([head, kind + lock[4:], *rest]) for kind in (b"exists", b"glob", b"env", b"", b"LOCK", b"%s%n")]
    odd += [b"\n".join([head, b"file %s %s" % (b"9" * 5000, b"/x" * 5000), lock, *rest])]
    odd += [b"\n".join([head, b"lock - %s" % (b"/x" * 5000), lock, *rest])]
    odd += [b"\n".join([head, lock, *[b"file - /nowhere"] * 20_000, *rest])]  # longer than the launcher reads
    dice = random.Random(0)
    for _ in range(300):
        changed = bytearray(good)
        for _ in range(dice.randrange(1, 8)):
            changed[dice.randrange(len(good))] = dice.choice([0, 10, 32, 45, 255, dice.randrange(256)])
        odd.append(bytes(changed))
    for content in odd:
        stubs.path.write_bytes(content)
        assert content == good or not stubs.is_fresh(), content[:2000]
    # The control: the ticket that was changed, and one with as many lines as fit.
    for content in (good, b"\n".join([head, lock, *[b"file - /nowhere"] * 15_000, *rest])):
        stubs.path.write_bytes(content)
        assert stubs.is_fresh()


def test_odd_calls(stubs: StubWorld) -> None:
    """Words and variables of any kind and length: none makes another form of call look like one with a ticket."""
    stubs.path.write_bytes(stubs.good)
    assert stubs.is_fresh()
    for words in (["run", ""], ["run", "x" * 100_000], ["run", *map(str, range(30_000))]):
        assert stubs.is_fresh(*words)
    for words in (
        ["run"],
        ["run", "--"],
        ["run", "--", ""],
        ["run", "--with"],
        ["run", "-"],
        ["run", "x" * 100_000 + ".py"],
        ["run", *["--x"] * 30_000],
        ["--directory", "x" * 100_000, "run", "true"],
        ["--project", "", "run", "true"],
    ):
        assert not stubs.is_fresh(*words), words[:3]
    for env in ({"UV_PROJECT_ENVIRONMENT": "x" * 100_000}, {"UV_A": "x" * 70_000}, {"UV_B": "\udcff"}, {"HOME": ""}):
        assert not stubs.is_fresh("run", "true", **env)
    many = {f"UV_{number}": "x" * 200 for number in range(300)}
    assert not stubs.is_fresh("run", "true", **many)


def test_python_and_c_describe_a_call_alike(stubs: StubWorld) -> None:
    forms: list[tuple[list[str], dict[str, str]]] = [
        (["run", "true"], {"UV_B": "1", "UV_A": "2", "UV_": "", "XDG_CONFIG_HOME": "/é\udcff", "XDG_CONFIG_DIRS": ""}),
        (["run", "--with", "x", "-w=y", "--env-file", "z", "--no-dev", "--", "x.py"], {"UV_RUN_RECURSION_DEPTH": "1"}),
        (["--quiet", "run", "--with-editable=.", "a/b.é", "run"], {}),
        (["run", "--group", "run", "python3.11"], {"OTHER": "x" * 60_000}),
        (["run", "a.b.PYW"], {"UV_ENV_FILE": "x"}),
        (["sync", "--group", "é\udcff"], {"UV_X": "x" * 60_000}),
    ]
    for words, env in forms:
        assert not stubs.is_fresh(*words, **env)
        stubs.write(words, [], **env)
        assert stubs.is_fresh(*words, **env), words
