"""What stands in the way is named in one line, or left to uv; nothing is changed, and nothing ends in a traceback."""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import need
from support.blocked import is_blocked
from support.disk import small_disk
from support.herd import read_log
from support.project import Project, run
from support.terminal import wait_until

_GUARDED = [["sync"], ["run", "true"], ["add", "nothing-of-this-name"], ["version", "--bump", "patch"]]
#: root without its privileges: an owner of what root owns, bound by permissions like anyone else.
_UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
_OTHER_USER = 12345

each_call = pytest.mark.parametrize("words", _GUARDED, ids=lambda words: words[0])
Done = subprocess.CompletedProcess[bytes]


@pytest.fixture
def project(project_factory: Callable[..., Project]) -> Project:
    """A project without dependencies."""
    return project_factory()


def call(
    project: Project, words: list[str], *, prefix: list[str] | None = None, timeout: float = 60, **env: str
) -> Done:
    """Call the shim."""
    words = [*(prefix or []), "uv", *words]
    return run(project, words, {**project.env("newest"), **env}, timeout=timeout)


def one_line(done: Done, status: int = 2) -> str:
    """The one line that a call which the shim refused leaves behind."""
    assert (done.returncode, done.stdout) == (status, b""), done
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("uv-mutex: ")
    return lines[0]


def as_uv_does(project: Project, words: list[str], **options: Any) -> None:
    """The shim leaves it to uv to say what is wrong."""
    bare = run(project, ["uv", *words], project.env("newest", shimmed=False), **options)
    assert bare.returncode
    done = run(project, ["uv", *words], project.env("newest"), timeout=60, **options)
    assert (done.returncode, done.stdout, done.stderr) == (bare.returncode, bare.stdout, bare.stderr)


def snapshot(folder: Path, *, without: str = "") -> dict[str, object]:
    """Everything in a folder: kinds, permissions, targets, contents."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if without and name.split("/", maxsplit=1)[0] == without:
            continue
        status = path.lstat()
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        found[name] = (status.st_mode, status.st_uid, content)
    return found


@contextmanager
def held(lock: Path) -> Any:
    """Hold a lock as another call would."""
    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link_to_file(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def _socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_PATH)  # a socket's name may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def _folder(path: Path) -> None:
    path.mkdir()


@each_call
@pytest.mark.parametrize("make", [_folder, _link_to_file, _dangling_link, _link_to_itself, _fifo, _socket])
def test_the_lock_is_something_else(make: Callable[[Path], None], words: list[str], project: Project) -> None:
    lock = project.root / ".uv-mutex/lock"
    lock.parent.mkdir()
    (lock.parent / ".gitignore").write_text("*\n")
    make(lock)
    before = snapshot(project.root)
    line = one_line(call(project, words))
    assert str(lock) in line
    assert "UV_MUTEX=off" in line
    assert snapshot(project.root) == before
    assert call(project, ["--version"]).returncode == 0


@each_call
@pytest.mark.parametrize("make", [Path.touch, _dangling_link, _link_to_itself, _fifo])
def test_the_folder_is_something_else(make: Callable[[Path], None], words: list[str], project: Project) -> None:
    make(project.root / ".uv-mutex")
    before = snapshot(project.root)
    assert f"{project.root}/.uv-mutex" in one_line(call(project, words))
    assert snapshot(project.root) == before


@each_call
def test_a_folder_of_another_user(words: list[str], project: Project) -> None:
    """What it may not read or write, and what may be a trap, it does without; the folder above is locked instead."""
    need.root()
    need.executable("setpriv")
    assert call(project, ["lock"]).returncode == 0
    folder = project.root / ".uv-mutex"
    folder.mkdir()
    os.chown(folder, _OTHER_USER, _OTHER_USER)
    (folder / "lock").touch()
    os.chown(folder / "lock", _OTHER_USER, _OTHER_USER)
    for path, mode in ((folder / "lock", 0o600), (folder, 0o700), (folder / "lock", None)):
        if mode is None:
            path.unlink()
        else:
            path.chmod(mode)
        before = snapshot(folder)
        bare = run(project, [*_UNPRIVILEGED, "uv", *words], project.env("newest", shimmed=False))
        done = call(project, words, prefix=_UNPRIVILEGED, UV_MUTEX="require")
        assert done.returncode == bare.returncode
        assert b"uv-mutex" not in done.stderr
        assert snapshot(folder) == before


@each_call
def test_a_lock_that_its_own_user_may_not_open(words: list[str], project: Project) -> None:
    need.root()
    need.executable("setpriv")
    folder = project.root / ".uv-mutex"
    folder.mkdir()
    (folder / "lock").touch(mode=0)
    before = snapshot(project.root)
    line = one_line(call(project, words, prefix=_UNPRIVILEGED))
    assert line.startswith(f"uv-mutex: cannot open {folder}/lock: Permission denied; ")
    assert snapshot(project.root) == before


def test_a_lock_of_another_user_that_may_be_read(project: Project, tmp_path: Path) -> None:
    need.root()
    need.executable("setpriv")
    folder = project.root / ".uv-mutex"
    folder.mkdir()
    for name in ("lock", ".gitignore"):
        (folder / name).touch()
        os.chown(folder / name, _OTHER_USER, _OTHER_USER)
    os.chown(folder, _OTHER_USER, _OTHER_USER)
    log = tmp_path / "log"
    done = call(project, ["sync"], prefix=_UNPRIVILEGED, UV_MUTEX_LOG=str(log))
    assert done.returncode == 0, done.stderr.decode()
    assert len(read_log(log)) == 1
    with held(folder / "lock"):
        done = call(project, ["sync"], prefix=_UNPRIVILEGED, UV_MUTEX_TIMEOUT="0.2")
    assert "gave up" in one_line(done, status=75)


@pytest.mark.parametrize("words", [["sync", "--frozen"], ["run", "true"], ["sync"]], ids=lambda words: words[-1])
def test_nobody_needs_a_lock_for_what_cannot_be_written(words: list[str], project: Project, tmp_path: Path) -> None:
    need.root()
    need.executable("setpriv")
    assert call(project, ["sync"], UV_MUTEX="off").returncode == 0
    for path in (project.root, *project.root.rglob("*")):
        os.chown(path, _OTHER_USER, _OTHER_USER, follow_symlinks=False)
    before = snapshot(project.root)
    log = tmp_path / "log"
    done = call(project, words, prefix=_UNPRIVILEGED, UV_MUTEX_LOG=str(log))
    assert done.returncode == 0, done.stderr.decode()
    assert not log.exists()
    assert snapshot(project.root) == before


@each_call
def test_a_full_disk(words: list[str], project: Project, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", kilobytes=100) as disk:
        shutil.copy(project.pyproject, disk)
        full = Project(disk, project.name, project.python, project.shim)
        with pytest.raises(OSError, match="No space left"):
            (disk / "big").write_bytes(bytes(200_000))
        bare = run(full, ["uv", *words], full.env("newest", shimmed=False))
        done = call(full, words)
        assert (done.returncode, done.stdout) == (bare.returncode, bare.stdout)
        assert b"uv-mutex" not in done.stderr
        # With room for the lock alone, uv says that there is none for the rest.
        (disk / "big").write_bytes(bytes(80_000))
        call(full, ["sync", "--locked"])
        with pytest.raises(OSError, match="No space left"):
            (disk / "big").write_bytes(bytes(200_000))
        done = call(full, words)
        assert done.returncode
        assert b"Traceback" not in done.stderr
        assert full.pyproject.read_bytes() == project.pyproject.read_bytes()


@each_call
def test_the_working_folder_is_gone(words: list[str], project: Project, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    script = f'mkdir {gone}; cd {gone}; rmdir {gone}; exec "$@"'
    answers = []
    for shimmed in (False, True):
        env = project.env("newest", shimmed=shimmed)
        done = run(project, ["sh", "-c", script, "sh", "uv", *words], env, timeout=60)
        answers.append((done.returncode, done.stdout, done.stderr))
    assert answers[0] == answers[1]
    assert answers[0][0]
    assert not gone.exists()


@each_call
@pytest.mark.parametrize("option", [["--directory"], ["--project"]])
def test_a_folder_that_is_not_there(option: list[str], words: list[str], project: Project, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    as_uv_does(project, [*option, str(tmp_path / "nowhere"), *words], cwd=tmp_path)
    assert {name for name in snapshot(tmp_path) if name not in before} <= {"cache", "home"} | {
        name for name in snapshot(tmp_path) if name.startswith("cache/")
    }


@each_call
def test_the_project_is_deleted_while_waiting(words: list[str], project: Project) -> None:
    assert call(project, ["sync"]).returncode == 0
    with held(project.root / ".uv-mutex/lock"):
        waiting = subprocess.Popen(
            [str(project.shim().uv) if project.shim else "", *words],
            cwd=project.root,
            env=project.env("newest"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        wait_until(lambda: is_blocked(waiting.pid))
        shutil.rmtree(project.root)
    stdout, stderr = waiting.communicate(timeout=60)
    if words[0] in ("run", "sync"):  # the launcher waited, and finds no project to look at
        assert (waiting.returncode, stdout, stderr) == (1, b"", b"Current directory does not exist\n")
    else:
        line = one_line(Done(words, waiting.returncode, stdout, stderr))
        assert line.startswith(f"uv-mutex: cannot open {project.root}/.uv-mutex/lock: No such file or directory; ")
    assert not project.root.exists()


_NOT_TOML = {
    "words": b"this is not toml\n",
    "open table": b"[project\n",
    "open string": b'[project]\nname = "demo\n',
    "open workspace": b'[tool.uv.workspace]\nmembers = ["',
    "managed": b"[tool.uv]\nmanaged = \n",
    "deep": b"workspace = " + b"[" * 100_000,
    "not UTF-8": b'[project]\nname = "\xff"\n# workspace managed\n',
    "binary": random.Random(1).randbytes(10_000) + b"workspace managed",
}


@each_call
@pytest.mark.parametrize("content", _NOT_TOML.values(), ids=_NOT_TOML)
def test_pyproject_is_not_toml(content: bytes, words: list[str], project: Project) -> None:
    project.pyproject.write_bytes(content)
    before = snapshot(project.root)
    as_uv_does(project, words)
    assert snapshot(project.root, without=".uv-mutex") == before


@pytest.mark.parametrize("content", _NOT_TOML.values(), ids=_NOT_TOML)
def test_pyproject_above_is_not_toml(content: bytes, project: Project) -> None:
    (project.root.parent / "pyproject.toml").write_bytes(content)
    done = {shimmed: run(project, ["uv", "sync"], project.env("newest", shimmed=shimmed)) for shimmed in (False, True)}
    assert done[True].returncode == done[False].returncode
    assert b"Traceback" not in done[True].stderr


def test_pyproject_is_no_file(project: Project) -> None:
    project.pyproject.unlink()
    for make in (_folder, _dangling_link, _link_to_itself):  # for a FIFO's content, uv itself waits for ever
        make(project.pyproject)
        as_uv_does(project, ["sync"])
        (shutil.rmtree if make is _folder else os.unlink)(project.pyproject)
    assert list(project.root.iterdir()) == []


@each_call
@pytest.mark.parametrize(
    "setting",
    ["TIMEOUT=abc", "TIMEOUT=-1", "TIMEOUT=nan", "TIMEOUT=inf", "TIMEOUT=1e400", "TIMEOUT=5 s", "BACKEND=flok"],
)
def test_a_setting_that_makes_no_sense(setting: str, words: list[str], project: Project) -> None:
    name, _, value = f"UV_MUTEX_{setting}".partition("=")
    before = snapshot(project.root)
    line = one_line(call(project, words, **{"timeout": 60, name: value}))  # type: ignore[arg-type]
    assert line.startswith(f"uv-mutex: {name}={value} is ")
    assert snapshot(project.root) == before
    assert run(project, ["uv", "--version"], {**project.env("newest"), name: value}).returncode == 0


def _missing(path: Path) -> Path:
    return path / "missing/log"


def _a_folder(path: Path) -> Path:
    return path


def _full(_path: Path) -> Path:
    return Path("/dev/full")


def _unwritable(path: Path) -> Path:
    (path / "log").touch(mode=0o444)
    os.chown(path / "log", _OTHER_USER, _OTHER_USER)
    return path / "log"


@each_call
@pytest.mark.parametrize("place", [_missing, _a_folder, _full, _unwritable])
def test_a_log_that_cannot_be_written(
    place: Callable[[Path], Path], words: list[str], project: Project, tmp_path: Path
) -> None:
    if place is _unwritable:
        need.root()
    (tmp_path / "there").mkdir()
    log = place(tmp_path / "there")
    prefix = [need.executable("setpriv"), *_UNPRIVILEGED[1:]] if place is _unwritable else []
    plain = call(project, words)
    shutil.rmtree(project.venv, ignore_errors=True)
    done = call(project, words, prefix=prefix, timeout=20, UV_MUTEX_LOG=str(log))
    assert done.returncode == plain.returncode
    warnings = [line for line in done.stderr.decode().splitlines() if "uv-mutex" in line]
    assert len(warnings) == 1, warnings
    assert warnings[0].startswith(f"uv-mutex: cannot write UV_MUTEX_LOG={log}: ")


def test_a_log_that_nobody_reads(project: Project, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    done = call(project, ["run", "true"], timeout=10, UV_MUTEX_LOG=str(tmp_path / "fifo"))
    assert done.returncode == 0
    assert b"uv-mutex: cannot write UV_MUTEX_LOG=" in done.stderr


def _random_bytes(note: bytes) -> bytes:
    return random.Random(2).randbytes(len(note))


def _random_paths(note: bytes) -> bytes:
    head, key, _ = note.split(b"\n", 2)
    return b"\n".join([head, key, random.Random(3).randbytes(5000)]) + b"\n"


def _zeros_for_a_path(note: bytes) -> bytes:
    head, key, _ = note.split(b"\n", 2)
    return b"\n".join([head, key, b"file 1/2/3 /\0/x", b""])


def _cut(note: bytes) -> bytes:
    return note[: len(note) // 2]


def _empty(_note: bytes) -> bytes:
    return b""


def _line_ends(note: bytes) -> bytes:
    return b"\n" * len(note)


@pytest.mark.parametrize("spoil", [_random_bytes, _random_paths, _zeros_for_a_path, _cut, _empty, _line_ends])
@pytest.mark.parametrize("words", [["sync"], ["run", "true"]], ids=lambda words: words[0])
def test_a_note_that_is_garbage(
    spoil: Callable[[bytes], bytes], words: list[str], project: Project, tmp_path: Path
) -> None:
    assert call(project, ["sync"]).returncode == 0
    notes = [path for path in (project.venv / ".uv-mutex").iterdir() if path.is_file()]
    assert notes
    for note in notes:
        note.write_bytes(spoil(note.read_bytes()))
    _prepares_once(project, words, tmp_path / "log")


@pytest.mark.parametrize("words", [["sync"], ["run", "true"]], ids=lambda words: words[0])
def test_a_folder_in_the_place_of_a_note(words: list[str], project: Project) -> None:
    assert call(project, ["sync"]).returncode == 0
    for note in (project.venv / ".uv-mutex").iterdir():
        note.unlink()
        note.mkdir()
        (note / "file").touch()
    _goes_well(call(project, words))
    shutil.rmtree(project.venv / ".uv-mutex")
    (project.venv / ".uv-mutex").touch()
    _goes_well(call(project, words))


def _prepares_once(project: Project, words: list[str], log: Path) -> None:
    for _ in range(2):
        _goes_well(call(project, words, UV_MUTEX_LOG=str(log)))
    assert [line["prepared"] for line in read_log(log)] == [True, False]


def _goes_well(done: Done) -> None:
    assert done.returncode == 0, done.stderr.decode()
    assert b"uv-mutex" not in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"1 nan host uv sync\n", b"9" * 5000, b"-5 1e999 h x\n"])
def test_a_lock_file_that_is_garbage(content: bytes, project: Project) -> None:
    assert call(project, ["sync"]).returncode == 0
    for name in ("lock", "backend", ".gitignore"):
        (project.root / ".uv-mutex" / name).write_bytes(content)
    _goes_well(call(project, ["sync"]))
    (project.root / ".uv-mutex/lock").write_bytes(content)
    with held(project.root / ".uv-mutex/lock"):
        done = call(project, ["sync"], UV_MUTEX_TIMEOUT="0.2")
    assert "gave up after 0.2 s (UV_MUTEX_TIMEOUT) waiting for " in one_line(done, status=75)


@pytest.mark.parametrize("mark", ["x", "::", ":::: :::", "1:2:3 4", "\n"])
def test_a_mark_that_is_garbage(mark: str, project: Project) -> None:
    _goes_well(call(project, ["sync"], UV_MUTEX_HELD=mark))
    assert (project.root / ".uv-mutex/lock").exists()


@pytest.mark.parametrize("make", [Path.touch, _dangling_link, _link_to_itself, _folder])
def test_an_environment_that_is_none(make: Callable[[Path], None], project: Project) -> None:
    answers = []
    for shimmed in (False, True):
        make(project.venv)
        done = run(project, ["uv", "sync"], project.env("newest", shimmed=shimmed), timeout=60)
        answers.append((done.returncode, re.sub(rb"\d[\d.]*m?s", b"", done.stderr)))
        subprocess.run(["rm", "-rf", project.venv, project.root / "nowhere", project.root / "uv.lock"], check=True)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("closing", ["2>&-", "2>/dev/full", ">&- 2>&- <&-"])
def test_nobody_listens(closing: str, project: Project) -> None:
    """A line that can't be printed changes nothing."""
    (project.root / ".uv-mutex").touch()
    script = f"uv sync {closing}; test $? = 2 && UV_MUTEX_LOG=/dev/full UV_MUTEX_UV= uv --version"
    done = run(project, ["sh", "-c", script], project.env("newest"))
    assert done.returncode == 0
