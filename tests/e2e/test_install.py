"""A prefix stands alone, can be moved, upgraded under load, and removed without a trace."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import filelock
import pytest
from support import need
from support.blocked import is_blocked
from support.disk import small_disk
from support.herd import explain, failures, herd, read_log
from support.index import LocalIndex
from support.project import Project, run
from support.shim import Shim
from support.terminal import wait_until
from support.uvs import uv
from support.wheels import make_wheel, slow_backend

from uv_mutex.errors import MutexError
from uv_mutex.setup import install as installing
from uv_mutex.setup import launcher

_ROOT = Path(__file__).parents[2]
_LIBRARIES = str(Path(filelock.__file__).parents[1])


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A prefix that isn't there yet."""
    return tmp_path / "prefix"


@pytest.fixture
def project(project_factory: Callable[..., Project]) -> Project:
    """A project without dependencies."""
    return project_factory()


def install(
    prefix: Path, *, sources: Path = _ROOT, python: str = sys.executable, env: Mapping[str, str] | None = None
) -> Shim:
    """Install from a source tree, which must work."""
    done = install_(prefix, sources=sources, python=python, env=env)
    assert done.returncode == 0, done.stderr
    return Shim(prefix)


def install_(
    prefix: Path,
    *,
    command: str = "install",
    sources: Path = _ROOT,
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `uv-mutex install` (or another command) from a source tree."""
    return subprocess.run(
        [python, "-m", "uv_mutex", command, "--prefix", str(prefix)],
        env={**os.environ, "PYTHONPATH": f"{sources}/src:{_LIBRARIES}", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )


def uninstall(prefix: Path) -> None:
    """Remove an installation with its own command, which must work."""
    done = subprocess.run([prefix / "bin/uv-mutex", "uninstall", "--prefix", prefix], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def check(project: Project, shim: Shim) -> None:
    """The shim guards `uv run` and `uv sync`, leases included, and passes the rest on."""
    log = project.root.parent / f"log-{time.monotonic_ns()}"
    env = project.env("newest", shimmed=False, UV_MUTEX_LOG=str(log))
    env["PATH"] = f"{shim.bin}:{env['PATH']}"
    for words in (["run", "true"], ["sync"], ["--version"], ["run", "--no-sync", "true"]):
        done = run(project, ["uv", *words], env)
        assert done.returncode == 0, done.stderr.decode()
        assert b"uv-mutex" not in done.stderr
    assert [line["command"] for line in read_log(log)] == ["uv run true", "uv sync"]
    shutil.rmtree(project.root / ".uv-mutex")
    done = run(project, ["uv", "sync"], {**env, "UV_MUTEX_BACKEND": "lease"})
    assert done.returncode == 0, done.stderr.decode()
    shutil.rmtree(project.root / ".uv-mutex")


def one_line(text: str | bytes) -> str:
    """The one line of an error."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("uv-mutex: ")
    return lines[0]


def listing(folder: Path) -> list[str]:
    """Every path below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def other_sources(tmp_path: Path) -> Path:
    """Sources that differ from ours in a comment."""
    copy = tmp_path / "other"
    for name in ("src", "hooks"):
        shutil.copytree(_ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "src/uv_mutex/__init__.py").open("a") as file:
        file.write("# another\n")
    return copy


@pytest.mark.network
def test_the_environment_it_came_from_may_go(project: Project, prefix: Path, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    shutil.copytree(_ROOT / "src", sources / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(_ROOT / "hooks", sources / "hooks", ignore=shutil.ignore_patterns("__pycache__"))
    for path in _ROOT.glob("*"):
        if path.is_file():
            shutil.copy(path, sources)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [str(venv / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, sources], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (scripts,) = (name for name in names if name.endswith("entry_points.txt"))
        assert archive.read(scripts).decode().split() == ["[console_scripts]", "uv-mutex", "=", "uv_mutex.cli:main"]
    assert not [name for name in names if ".data/" in name]
    assert {"uv_mutex/hooks/uv", "uv_mutex/hooks/uv-mutex"} <= set(names)
    subprocess.run([*pip, "install", wheel], check=True)
    assert not (venv / "bin/uv").exists()

    done = subprocess.run([venv / "bin/uv-mutex", "install", "--prefix", prefix], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    shutil.rmtree(venv)
    shutil.rmtree(sources)
    check(project, Shim(prefix))
    uninstall(prefix)
    assert not prefix.exists()


def test_one_line_on_stdout_puts_it_on_path(project: Project, tmp_path: Path) -> None:
    prefix = tmp_path / "it's a $HOME `prefix`"
    done = install_(prefix)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    script = f"{done.stdout}command -v uv; command -v uv-mutex"
    env = project.env("newest", shimmed=False)
    for shell in ("sh", need.executable("bash")):
        for path in (env["PATH"], f"/with space:{env['PATH']}"):
            shown = subprocess.run(
                [shell, "-c", script], env={"PATH": path}, capture_output=True, text=True, check=True
            )
            assert shown.stdout.splitlines() == [f"{prefix}/bin/uv", f"{prefix}/bin/uv-mutex"]


def test_a_prefix_can_be_copied_and_moved(project: Project, prefix: Path, tmp_path: Path) -> None:
    install(prefix)
    copy = tmp_path / "elsewhere/copy"
    shutil.copytree(prefix, copy, symlinks=True)
    moved = prefix.rename(tmp_path / "moved")
    check(project, Shim(copy))
    check(project, Shim(moved))
    uninstall(moved)
    assert not moved.exists()
    check(project, Shim(copy))
    uninstall(copy)
    assert listing(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    "name", ["with a  space", "x" * 200, "ümläut", "tab\tand\\back'slash\"", os.fsdecode(b"raw\xff")]
)
def test_odd_prefix_paths(name: str, project: Project, tmp_path: Path) -> None:
    prefix = installing.install(tmp_path / name).parent  # not by the command, which would have to print the path
    check(project, Shim(prefix))
    uninstall(prefix)
    assert not prefix.exists()


@pytest.mark.parametrize("name", ["a:b", "line\nend"])
def test_a_prefix_that_path_cannot_hold_is_refused(name: str, tmp_path: Path) -> None:
    done = install_(tmp_path / name)
    assert done.returncode == 2
    assert "choose another --prefix" in one_line(done.stderr)
    assert listing(tmp_path) == []


def test_through_a_symlink(project: Project, prefix: Path, tmp_path: Path) -> None:
    prefix.mkdir()
    link = tmp_path / "link"
    link.symlink_to(prefix)
    shim = install(link)
    check(project, shim)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/uv").symlink_to(link / "bin/uv")
    env = project.env("newest", shimmed=False)
    env["PATH"] = f"{tmp_path}/folder:{shim.bin}:{env['PATH']}"
    assert run(project, ["uv", "sync"], env).returncode == 0
    assert (project.root / ".uv-mutex/lock").is_file()
    uninstall(link)
    assert listing(prefix) == []  # it was there before
    assert link.is_symlink()


def test_an_interpreter_in_a_folder_with_a_space(project: Project, prefix: Path) -> None:
    with tempfile.TemporaryDirectory(prefix='a "$b" ') as folder:  # short enough for a first line, unlike tmp_path
        python = Path(folder, "python3")
        python.symlink_to(project.python)
        shim = install(prefix, python=str(python))
        assert (shim.bin / "uv-mutex").read_text().startswith('#!/usr/bin/env -S "')
        assert launcher.interpreter_of(prefix) == str(python)
        check(project, shim)
    assert subprocess.run([shim.uv, "sync"], capture_output=True, check=False).returncode


def test_an_interpreter_with_a_long_path(project: Project, prefix: Path, tmp_path: Path) -> None:
    python = tmp_path / ("x" * 150) / "python3"
    python.parent.mkdir()
    python.symlink_to(project.python)
    shim = install(prefix, python=str(python))
    assert (shim.bin / "uv-mutex").read_text().startswith(f"#!{project.python} ")
    check(project, shim)


def test_no_way_to_name_the_interpreter(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sys, "executable", "/" + "x" * 150)
    with pytest.raises(MutexError, match="does not fit in a script's first line; install with another Python"):
        installing.install(prefix)
    assert not prefix.exists()


def test_without_the_libraries(prefix: Path) -> None:
    code = "import sys; sys.path.append(sys.argv.pop(1)); from uv_mutex import cli; sys.exit(cli.main())"
    words = [str(_ROOT / "src"), "install", "--prefix", str(prefix)]
    done = subprocess.run([sys.executable, "-IS", "-c", code, *words], capture_output=True, check=False)
    assert done.returncode == 2
    expected = "uv-mutex: filelock cannot be found; install uv-mutex with its dependencies"
    assert one_line(done.stderr) == expected
    assert not (prefix / "bin").exists()


def test_an_interpreter_that_does_not_start_changes_nothing(
    project: Project, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = install(prefix)
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(MutexError, match="does not start"):
        installing.install(prefix)
    check(project, shim)


@pytest.mark.parametrize("variable", ["PYTHONOPTIMIZE=2", "PYTHONPYCACHEPREFIX=elsewhere", "LC_ALL=C", "umask"])
def test_how_it_is_installed_shows_nowhere(variable: str, tmp_path: Path) -> None:
    plain, odd = tmp_path / "plain", tmp_path / "other"  # names of one length, so that bytecode compares
    install(plain)
    name, _, value = variable.partition("=")
    old = os.umask(0o077 if name == "umask" else 0o022)
    try:
        install(odd, env={name: str(tmp_path / value) if value == "elsewhere" else value})
    finally:
        os.umask(old)
    assert listing(odd) == listing(plain)
    for path in (odd, *odd.rglob("*")):
        executable = path.is_dir() or path.parent.name == "bin"
        assert path.stat().st_mode & 0o777 == (0o755 if executable else 0o644), path
    for path in odd.rglob("*.pyc"):
        twin = plain / path.relative_to(odd)
        assert path.read_bytes().replace(bytes(odd), bytes(plain))[16:] == twin.read_bytes()[16:], path


def test_upgrades_under_load(project: Project, prefix: Path, other_sources: Path) -> None:
    shim = install(prefix)
    env = project.env("newest", shimmed=False)
    env["PATH"] = f"{shim.bin}:{env['PATH']}"
    assert run(project, ["uv", "sync"], env).returncode == 0
    pointer = prefix / launcher.POINTER
    versions = {pointer.read_bytes()}
    over = threading.Event()
    trouble: list[object] = []

    def upgrade() -> None:
        while not over.is_set():
            for sources in (other_sources, _ROOT):
                done = install_(prefix, sources=sources)
                trouble.extend([done.stderr] if done.returncode else [])
                versions.add(pointer.read_bytes())

    upgrading = threading.Thread(target=upgrade)
    upgrading.start()
    try:
        calls = [["uv", "run", "true"], ["uv", "sync", "-q"], ["uv", "--version"]] * 40
        outcomes = herd(calls, env=env, cwd=project.root)
    finally:
        over.set()
        upgrading.join()
    assert not trouble
    assert len(versions) == 2
    assert not failures(outcomes), explain(outcomes)
    assert {outcome.stderr for outcome in outcomes} == {b""}


def test_a_waiting_call_outlives_upgrades(project: Project, prefix: Path, other_sources: Path) -> None:
    shim = install(prefix)
    env = project.env("newest", shimmed=False)
    env["PATH"] = f"{shim.bin}:{env['PATH']}"
    assert run(project, ["uv", "sync"], env).returncode == 0
    with (project.root / ".uv-mutex/lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = subprocess.Popen([shim.uv, "sync", "-q"], cwd=project.root, env=env, stderr=subprocess.PIPE)
        wait_until(lambda: is_blocked(waiting.pid))
        for number in range(3):
            with (other_sources / "src/uv_mutex/__init__.py").open("a") as file:
                file.write(f"# {number}\n")
            install(prefix, sources=other_sources)
        assert waiting.poll() is None
    _, stderr = waiting.communicate(timeout=60)
    assert (waiting.returncode, stderr) == (0, b"")


@pytest.mark.parametrize("words", [["sync", "-q"], ["run", "-q", "true"], ["add", "-q", "six"]], ids=" ".join)
def test_a_call_at_work_outlives_uninstall(
    project_factory: Callable[..., Project], index: LocalIndex, prefix: Path, tmp_path: Path, words: list[str]
) -> None:
    make_wheel(index.folder, "six")
    shim, log, inside = install(prefix), tmp_path / "log", tmp_path / "inside"
    backend = slow_backend(1, f"open({str(inside)!r}, 'w')")
    project = project_factory(index_url=index.url, backend_source=backend)
    env = project.env("newest", shimmed=False, UV_MUTEX_LOG=str(log))
    env["PATH"] = f"{shim.bin}:{env['PATH']}"
    working = subprocess.Popen([shim.uv, *words], cwd=project.root, env=env, stderr=subprocess.PIPE)
    wait_until(inside.exists)
    uninstall(prefix)
    _, stderr = working.communicate(timeout=60)
    assert (working.returncode, stderr) == (0, b"")
    assert len(read_log(log)) == 1


def _env_of_fresh(project: Project, shim: Shim) -> dict[str, str]:
    """Let a shim find the environment fresh; return the variables of calls by it."""
    env = project.env("newest", shimmed=False)
    env["PATH"] = f"{shim.bin}:{env['PATH']}"
    for _ in range(2):
        assert run(project, ["uv", "sync"], env).returncode == 0
    return env


def test_a_call_that_waits_outlives_uninstall(project: Project, prefix: Path) -> None:
    shim = install(prefix)
    env = _env_of_fresh(project, shim)
    with (project.root / ".uv-mutex/lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = subprocess.Popen([shim.uv, "sync"], cwd=project.root, env=env, stderr=subprocess.PIPE)
        wait_until(lambda: is_blocked(waiting.pid))
        uninstall(prefix)
        assert waiting.stderr
        assert waiting.stderr.readline().startswith(b"uv-mutex: waiting for other uv calls")
    _, stderr = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, stderr


def test_a_call_that_waits_and_then_prepares_does_not(project: Project, prefix: Path) -> None:
    """It does nothing unguarded, and says what to do."""
    need.executable("cc")
    shim = install(prefix, env={"UV_MUTEX_LAUNCHER": "native"})
    env = _env_of_fresh(project, shim)
    with (project.root / ".uv-mutex/lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = subprocess.Popen([shim.uv, "sync", "-q"], cwd=project.root, env=env, stderr=subprocess.PIPE)
        wait_until(lambda: is_blocked(waiting.pid))
        shutil.rmtree(project.venv)
        uninstall(prefix)
    _, stderr = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    said = f"uv-mutex: {shim.uv} cannot find out where it lies: No such file or directory; run this call again"
    assert one_line(stderr) == said
    assert not project.venv.exists()


def test_an_upgrade_clears_what_was_replaced_long_ago(project: Project, prefix: Path, other_sources: Path) -> None:
    shim = install(prefix)
    share = prefix / "lib/uv-mutex"
    (first,) = {path.parent.name for path in share.glob("*/uv_mutex")}
    install(prefix, sources=other_sources)
    assert (share / first).is_dir()
    os.utime(share / first, (time.time() - 3 * 86400,) * 2)
    install(prefix, sources=other_sources)
    assert not (share / first).exists()
    check(project, shim)
    uninstall(prefix)
    assert not prefix.exists()


def test_uninstall_takes_only_what_install_made(project: Project, prefix: Path) -> None:
    install(prefix)
    made = listing(prefix)
    shutil.rmtree(prefix)
    foreign = ["bin/tool", "lib/tool/file", "lib/uv-mutex/mine", "file"]
    for name in foreign:
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).write_text("mine")
    (prefix / "empty").mkdir()
    before = listing(prefix)
    shim = install(prefix)
    assert set(listing(prefix)) == {*before, *made}
    check(project, shim)
    # Another Python compiles the library for itself: that is ours as well.
    (package,) = prefix.glob("lib/uv-mutex/*/uv_mutex")
    (package / "__pycache__/cli.cpython-399.pyc").touch()
    uninstall(prefix)
    assert listing(prefix) == before


def test_uninstall_leaves_a_program_that_took_the_place(prefix: Path) -> None:
    install(prefix)
    real = prefix / "bin/uv"
    real.unlink()
    real.write_text("#!/bin/sh\n")
    uninstall(prefix)
    assert listing(prefix) == ["bin", "bin/uv"]


def test_uninstall_that_cannot_goes_on_later(prefix: Path, tmp_path: Path) -> None:
    need.root()
    before = listing(tmp_path)
    shim = install(prefix)
    busy = prefix / "share/man/man1/uv-mutex.1"
    subprocess.run(["mount", "--bind", shim.uv, busy], check=True)
    try:
        done = install_(prefix, command="uninstall")
    finally:
        subprocess.run(["umount", busy], check=True)
    assert done.returncode == 2
    assert one_line(done.stderr) == f"uv-mutex: cannot remove {busy}: Device or resource busy; remove it by hand"
    assert not shim.uv.exists()
    assert install_(prefix, command="uninstall").returncode == 0
    assert listing(tmp_path) == before


def test_uninstall_where_nothing_is(prefix: Path) -> None:
    done = install_(prefix, command="uninstall")
    assert done.returncode == 2
    assert one_line(done.stderr).startswith(f"uv-mutex: nothing is installed in {prefix}: ")


def _real_uv(path: Path) -> None:
    shutil.copy(uv("newest"), path)


def _script(path: Path) -> None:
    path.write_text("#!/bin/sh\n")


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_real_uv, _script, _dangling, Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["uv", "uv-mutex"])
def test_a_foreign_program_is_not_overwritten(make: Callable[[Path], object], name: str, prefix: Path) -> None:
    (prefix / "bin").mkdir(parents=True)
    path = prefix / "bin" / name
    make(path)
    before = path.lstat()
    done = install_(prefix)
    assert done.returncode == 2
    assert one_line(done.stderr).startswith(f"uv-mutex: {path} is not a uv-mutex shim, and is left alone; ")
    assert listing(prefix) == ["bin", f"bin/{name}"]
    assert (path.lstat().st_ino, path.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def _without_library(prefix: Path) -> None:
    shutil.rmtree(prefix / "lib")


def _without_lock(prefix: Path) -> None:
    (module,) = prefix.glob("lib/uv-mutex/*/uv_mutex/locking/acquire.py")
    module.unlink()


def _cut_short(prefix: Path) -> None:
    for module in prefix.glob("lib/uv-mutex/*/uv_mutex/**/__pycache__/*.pyc"):
        os.truncate(module, 40)


@pytest.mark.parametrize("damage", [_without_library, _without_lock, _cut_short])
def test_a_damaged_prefix_says_so(damage: Callable[[Path], None], project: Project, prefix: Path) -> None:
    shim = install(prefix)
    damage(prefix)
    env = project.env("newest", shimmed=False)
    env["PATH"] = f"{shim.bin}:{env['PATH']}"
    done = run(project, ["uv", "sync"], env)
    assert done.returncode == 1
    assert one_line(done.stderr).startswith(f"uv-mutex: {shim.uv} is incomplete (")
    assert not project.venv.exists()
    install(prefix)
    check(project, shim)


@pytest.mark.parametrize("problem", ["a file", "below a file", "no home"])
def test_a_prefix_that_cannot_be(problem: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    prefix = {"a file": file, "below a file": file / "x", "no home": Path("~no-such-user/x")}[problem]
    done = install_(prefix)
    assert done.returncode == 2
    assert "another --prefix" in one_line(done.stderr)


def test_a_full_disk_can_be_cleared_up(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", kilobytes=500) as disk:
        done = install_(disk / "prefix")
        assert done.returncode == 2
        assert "No space left on device; choose another --prefix" in one_line(done.stderr)
        assert not (disk / "prefix/bin/uv").exists()
        assert install_(disk / "prefix", command="uninstall").returncode == 0
        assert listing(disk) == []


def test_many_installations_at_once(project: Project, prefix: Path, other_sources: Path) -> None:
    command = [sys.executable, "-m", "uv_mutex", "install", "--prefix", str(prefix)]
    envs = [{"PYTHONPATH": f"{sources}/src:{_LIBRARIES}"} for sources in (_ROOT, other_sources)]
    started = [subprocess.Popen(command, env=envs[number % 2], stdout=subprocess.DEVNULL) for number in range(8)]
    assert [process.wait(120) for process in started] == [0] * 8
    check(project, Shim(prefix))
    uninstall(prefix)
    assert not prefix.exists()


def test_a_prefix_in_no_home(project: Project) -> None:
    words = [sys.executable, "-m", "uv_mutex", "install", "--prefix", "~nobody-at-all/x"]
    done = run(project, words, {"PYTHONPATH": str(_ROOT / "src"), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 2
    assert one_line(done.stderr) == "uv-mutex: there is no home folder for ~nobody-at-all/x; name another --prefix"


def test_a_demo_where_uv_alone_fails(project: Project) -> None:
    done = run(project, ["uv-mutex", "demo"], project.env("newest", UV_PYTHON="/nowhere/python"))
    assert done.returncode == 2
    said = one_line(done.stderr)
    assert said.startswith("uv-mutex: `uv sync` alone fails here, so there is nothing to show: ")
    assert said.endswith("; mend that, and run the demo again")
