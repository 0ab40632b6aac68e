"""`uv-mutex doctor`: what it finds, and that what it says helps."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from support import need
from support.project import Project, run
from support.terminal import wait_until
from support.uvs import all_versions, numeric_version, uv

from uv_mutex.commands.doctor import lock_checks, lock_trial, uv_versions
from uv_mutex.commands.doctor.finding import FINE, WARNING
from uv_mutex.locking.lock_file import EnvironmentFolder, LockFile

NO_FLOCK = "#include <errno.h>\nint flock(int fd, int operation) { errno = ENOSYS; return -1; }\n"
PRETENDING = "int flock(int fd, int operation) { return 0; }\n"


@pytest.fixture
def project(project_factory: Callable[..., Project]) -> Project:
    """A project without dependencies, on a disk of this machine."""
    return project_factory()


def doctor(
    project: Project, *words: str, shimmed: bool = True, uv_version: str = "newest", **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the doctor in a project."""
    command = str(Path(project.env(uv_version)["PATH"].split(":")[0]) / "uv-mutex")
    return run(project, [command, "doctor", *words], {**project.env(uv_version, shimmed), **env})


def examined(project: Project, status: int, *words: str, **options: Any) -> str:
    """All that the doctor says below its verdict; its exit status is given."""
    done = doctor(project, "-v", *words, **options)
    said = b"uv-mutex: waiting for a doctor on another host, for " if "--peer" in words else b""
    assert done.returncode == status, done
    assert done.stderr.startswith(said), done
    assert done.stderr.count(b"\n") == bool(said), done
    verdict, *lines = done.stdout.decode().splitlines()
    text = "\n".join(lines)
    grades = {"ok": 0, "note": 0, "warning": 1, "NOT PROTECTED": 2}
    assert status == max(grades[line[:13].strip()] for line in lines), text
    # Each ends with what to do.
    assert all(line.rpartition("; ")[2] for line in lines)
    if status == 2:
        first = next(line[15:] for line in lines if line.startswith("NOT PROTECTED"))
        assert verdict == f"NOT PROTECTED: {first}"
    else:
        assert verdict.startswith("protected (see the warnings): uv is" if status else "protected: uv is"), verdict
    return text


def problems(text: str) -> list[str]:
    """What isn't fine."""
    return [line[15:] for line in text.splitlines() if not line.startswith(("ok ", "note "))]


def preload(tmp_path: Path, source: str) -> dict[str, Any]:
    """An environment in which flock is another."""
    need.that(sys.platform == "linux", "needs LD_PRELOAD")
    compiler = need.executable("gcc")
    (tmp_path / "flock.c").write_text(source)
    library = tmp_path / "flock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "flock.c"], check=True)
    return {"LD_PRELOAD": str(library)}


def test_all_is_well(project: Project) -> None:
    for _ in range(2):
        text = examined(project, 0)
        assert f"the first uv on PATH is the shim {project.env('newest')['PATH'].split(':')[0]}/uv" in text
        assert f"the real uv is {uv('newest')}, version {numeric_version('newest')}" in text
        assert f"{project.root}/.uv-mutex/lock is locked by flock (it is tried first), and that excludes" in text
        assert "which this host has for itself" in text
    assert {path.name for path in (project.root / ".uv-mutex").iterdir()} == {"lock", ".gitignore"}
    assert run(project, ["uv", "sync"], project.env("newest")).returncode == 0
    assert "is locked by flock (calls before recorded it)" in examined(project, 0)


def test_the_verdict_stands_alone_unless_asked_for_more(project: Project) -> None:
    shim = project.env("newest")["PATH"].split(":")[0] + "/uv"
    done = doctor(project)
    verdict = (
        f"protected: uv is the shim {shim}, before uv {numeric_version('newest')} at {uv('newest')}, "
        f"{project.root}/.uv-mutex/lock is locked by flock"
    )
    assert done.stdout.decode().splitlines() == [verdict, "uv-mutex doctor -v lists all that was checked"]
    assert "protected" not in doctor(project, "-v").stdout.decode().splitlines()[1]
    done = doctor(project, UV_MUTEX="off")
    assert done.returncode == 2
    bad = "UV_MUTEX=off switches the shim off; unset it"
    assert done.stdout.decode().splitlines()[:2] == [f"NOT PROTECTED: {bad}", f"NOT PROTECTED  {bad}"]


def test_outside_a_project_the_doctor_looks_at_path_alone(project: Project, tmp_path: Path) -> None:
    env = project.env("newest")
    command = str(Path(env["PATH"].split(":")[0]) / "uv-mutex")
    done = run(project, [command, "doctor", "-v"], env, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"protected: uv is the shim ")
    assert b"the working directory is in no project of uv; go to a project, or name its folder" in done.stdout
    # Who names a folder means a project.
    done = run(project, [command, "doctor", str(tmp_path)], env, cwd=tmp_path)
    assert done.returncode == 2
    assert b"is in no project of uv" in done.stderr


def test_json(project: Project, tmp_path: Path) -> None:
    done = doctor(project, "--json", UV_MUTEX="off")
    found = json.loads(done.stdout)
    assert done.returncode == 2
    assert found["protected"] is False
    assert found["verdict"].startswith("NOT PROTECTED: UV_MUTEX=off")
    assert (found["project"], found["environment"]) == (str(project.root), str(project.root / ".venv"))
    first = {"grade": "not protected", "fact": "UV_MUTEX=off switches the shim off", "remedy": "unset it"}
    assert found["findings"][0] == first
    assert {each["grade"] for each in found["findings"]} == {"ok", "note", "not protected"}
    command = str(Path(project.env("newest")["PATH"].split(":")[0]) / "uv-mutex")
    done = run(project, [command, "doctor", "--json"], project.env("newest"), cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (found["protected"], found["project"], found["environment"]) == (True, None, None)


def test_ctrl_c_ends_a_doctor_that_waits_in_one_line(project: Project) -> None:
    env = project.env("newest")
    process = subprocess.Popen(
        ["uv-mutex", "doctor", "--peer"], env=env, cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr
    assert process.stderr.readline().startswith(b"uv-mutex: waiting for a doctor on another host")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr == b"uv-mutex: stopped by Ctrl-C; run it again to begin anew\n"
    wait_until(lambda: not list((project.root / ".uv-mutex").glob("peer.*")))


@all_versions
def test_what_a_uv_guards_by_itself(project: Project, uv_version: str) -> None:
    text = examined(project, 0, uv_version=uv_version)
    version = Version(numeric_version(uv_version))
    found = {
        "locks the creation of .venv": True,
        "`uv run` locks the environment while it changes it": version >= Version("0.7.14"),
        "parallel `uv sync` break each other's .venv": version < Version("0.7.12"),
        "parallel `uv run` break each other's .venv": version < Version("0.8"),
        "parallel `uv add` and `uv remove` lose each other's changes": True,
        "whoever waits behind a build of more than 5 minutes fails": version >= Version("0.9.16"),
    }
    assert {words: words in text for words in found} == found
    assert text.count("; keep the shim first on PATH") == len(uv_versions.breaks(version))


def test_versions_that_are_none() -> None:
    assert uv_versions.parse("uv 0.7.8 (x86_64)") == Version("0.7.8")
    assert [uv_versions.parse(text) for text in ("", "uv", "uv newest")] == [None] * 3


def test_the_shim_is_not_first(project: Project, tmp_path: Path) -> None:
    bin_ = project.env("newest")["PATH"].split(":")[0]
    text = examined(project, 2, shimmed=False)
    expected = (
        f'the first uv on PATH is {uv("newest")}, which is not the shim; put the shim first: export PATH={bin_}:"$PATH"'
    )
    assert problems(text) == [expected]
    assert problems(examined(project, 2, UV_MUTEX="off")) == ["UV_MUTEX=off switches the shim off; unset it"]
    # Neither shim nor uv; only the shim; a shim that doesn't start.
    found = problems(examined(project, 2, PATH="/usr/bin:/bin"))
    assert found[0] == (
        "there is no uv on PATH, and no shim; install uv, then run `uv-mutex install` and do what it prints"
    )
    assert found[1] == "no uv on PATH; install uv, or name it in UV_MUTEX_UV"
    found = problems(examined(project, 2, PATH=f"{bin_}:/usr/bin:/bin"))
    assert found == [f"no uv on PATH besides the shim {bin_}/uv; install uv, or name it in UV_MUTEX_UV"]
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copy(Path(bin_) / "uv", broken)  # far from what belongs to it
    (found_,) = problems(examined(project, 2, PATH=f"{broken}:{project.env('newest')['PATH']}"))
    assert found_.startswith(f"the shim {broken}/uv doesn't start (")
    assert found_.endswith("; install it again with `uv-mutex install`")
    (broken / "uv").write_text("#!/nowhere/python\n# uv-mutex launcher\n")
    assert "doesn't start (it can't be executed)" in examined(
        project, 2, PATH=f"{broken}:{project.env('newest')['PATH']}"
    )


def test_a_uv_that_does_not_say_its_version(project: Project, tmp_path: Path) -> None:
    fake = tmp_path / "uv"
    fake.write_text("#!/bin/sh\necho something else\n")
    fake.chmod(0o755)
    text = examined(project, 1, UV_MUTEX_UV=str(fake))
    assert problems(text) == [f"{fake} doesn't say which version of uv it is; check that it runs: uv --version"]


def test_flock_that_only_pretends(project: Project, tmp_path: Path) -> None:
    env = preload(tmp_path, PRETENDING)
    (found,) = problems(examined(project, 2, **env))
    assert found.startswith(f"flock does not exclude for {project.root}/.uv-mutex/lock on ")
    assert found.endswith(": two descriptors had it at once; set UV_MUTEX_BACKEND=lease on every host")
    assert not problems(examined(project, 0, **env, UV_MUTEX_BACKEND="lease"))


def test_no_flock_at_all(project: Project, tmp_path: Path) -> None:
    env = preload(tmp_path, NO_FLOCK)
    text = examined(project, 0, **env)
    assert f"{project.root}/.uv-mutex/lock is locked by lease (there is no flock here), and that excludes" in text
    (found,) = problems(examined(project, 2, **env, UV_MUTEX_BACKEND="flock"))
    assert found.startswith(f"there is no flock for {project.root}/.uv-mutex/lock on ")
    backend = project.root / ".uv-mutex/backend"
    assert found.endswith(f"but flock is asked for; unset UV_MUTEX_BACKEND, and remove {backend} while no call runs")


def test_backends_that_differ(project: Project) -> None:
    assert problems(examined(project, 2, UV_MUTEX_BACKEND="cow")) == [
        "UV_MUTEX_BACKEND=cow is neither flock nor lease; set one of them, or unset it"
    ]
    assert run(project, ["uv", "sync"], project.env("newest", UV_MUTEX_BACKEND="lease")).returncode == 0
    assert "is locked by lease (calls before recorded it)" in examined(project, 0)
    folder = project.root / ".uv-mutex"
    assert problems(examined(project, 2, UV_MUTEX_BACKEND="flock")) == [
        f"UV_MUTEX_BACKEND=flock, but {folder}/lock is locked by lease on other hosts or before; set it alike on all "
        f"hosts while none runs, and remove {folder}/backend"
    ]


def test_what_killed_calls_left(project: Project) -> None:
    assert run(project, ["uv", "sync"], project.env("newest")).returncode == 0
    folder = project.root / ".uv-mutex"
    old = [
        ".calls.node-3.5",
        ".failed.0123456789abcdef",
        ".new.0123",
        "backend.node-3.5",
        "lock.lease.dead.1.2.3",
        "peer.node-3.5.0123456789abcdef",
        "probe.x",
        "waiting.node-3.5",
    ]
    for name in (*old, "probe.young"):
        (folder / name).touch()
    for name in old:
        os.utime(folder / name, (5, 5))
    (found,) = problems(examined(project, 1))
    shown = " ".join(f"{folder}/{name}" for name in old)
    assert found == f"killed calls left {shown}; remove them while no call runs; they do no harm"
    for path in found.removeprefix("killed calls left ").partition(";")[0].split():
        Path(path).unlink()
    marker = folder / "lock.lease"
    marker.touch()
    os.utime(marker, (time.time() - 60,) * 2)
    (found,) = problems(examined(project, 1))
    assert re.fullmatch(
        rf"nobody renewed the lease {marker} for 6\d s, so its holder is dead; nothing, the next call takes it over "
        "after 31 s; or remove it while no call runs",
        found,
    )
    for number in range(11):
        (folder / f"waiting.node-3.{number}").touch()
        os.utime(folder / f"waiting.node-3.{number}", (5, 5))
    assert "waiting.node-3.6 and 3 more; remove them" in examined(project, 1)


def test_git_tracks_the_lock(project: Project) -> None:
    need.executable("git")
    assert run(project, ["uv", "sync"], project.env("newest")).returncode == 0
    git = ["git", "-c", "user.name=x", "-c", "user.email=x"]
    for words in (["init", "-q"], ["add", "-A"]):
        run(project, [*git, *words], project.env("newest"))
    assert not problems(examined(project, 0))
    run(project, [*git, "add", "-f", ".uv-mutex/lock"], project.env("newest"))
    (found,) = problems(examined(project, 1))
    assert found == f"git tracks files in {project.root}/.uv-mutex; git rm -r --cached .uv-mutex, and commit"
    run(project, found.partition("; ")[2].partition(",")[0].split(), project.env("newest"))
    assert not problems(examined(project, 0))


def test_a_uv_in_the_environment(project: Project) -> None:
    """As nox[uv], tox-uv or hatch bring one."""
    env = project.env("newest")

    def uv_of_a_command() -> str:
        return run(project, ["uv", "run", "sh", "-c", "command -v uv"], env).stdout.decode().strip()

    assert uv_of_a_command() == f"{env['PATH'].split(':')[0]}/uv"
    examined(project, 0)
    own = project.venv / "bin/uv"
    own.symlink_to(uv("newest"))
    assert uv_of_a_command() == str(own)
    (found,) = problems(examined(project, 1))
    assert found.startswith(f"what `uv run` starts finds {own} before the shim, since the environment comes first on")
    remedy = "if it calls uv, keep that out of the environment: `uv tree --invert --package uv` says what brings it"
    assert found.endswith(f"; {remedy}")


def test_permissions_that_shut_others_out(project: Project) -> None:
    project.root.chmod(0o775)
    assert run(project, ["uv", "sync"], project.env("newest")).returncode == 0
    lock = project.root / ".uv-mutex/lock"
    lock.chmod(0o600)
    (found,) = problems(examined(project, 1))
    assert found == f"{lock} shuts out others who may work on the project; chmod 664 {lock}"
    subprocess.run(found.partition("; ")[2].split(), check=True)
    assert not problems(examined(project, 0))


def test_as_another_user(project: Project) -> None:
    need.root()
    need.executable("setpriv")
    assert run(project, ["uv", "sync"], project.env("newest")).returncode == 0
    outside = Path(shutil.copytree(project.env("newest")["PATH"].split(":")[0] + "/..", f"/tmp/uv-mutex-{os.getpid()}"))
    try:
        shared = outside / "project"
        shutil.copytree(project.root, shared, symlinks=True)
        outside.chmod(0o755)
        env = {**project.env("newest"), "HOME": "/nowhere", "PATH": f"{outside}/bin:/usr/bin:/bin"}

        def as_other(status: int, *more: str) -> str:
            words = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", sys.executable, "-IS"]
            done = run(project, [*words, f"{outside}/bin/uv-mutex", "doctor", "-v", str(shared), *more], env, cwd="/")
            assert done.returncode == status, done
            return done.stdout.decode()

        need.that(
            os.access(sys.executable, os.X_OK) and _anyone_may_run(sys.executable), "needs a Python for all users"
        )
        shared.chmod(0o755)
        text = as_other(2)
        assert (
            f"{shared} can't be written by you, so your calls take no lock; give yourself write access, or leave it so"
            in text
        )
        assert f"{shared}/.venv can't be written by you; make it yours with chown, or name another in" in text
        shared.chmod(0o777)
        text = as_other(2)
        assert f"{shared}/.uv-mutex/lock belongs to user 0, and you can't write it; ask them to `chmod g+w" in text
        text = as_other(2, "--peer")
        assert "NOT PROTECTED  the lock can't be tried out: " in text.splitlines()[-1]
        (shared / ".uv-mutex").chmod(0o700)
        text = as_other(2, "--peer")
        assert f"{shared}/.uv-mutex/lock: Permission denied; give yourself write access there" in text.splitlines()[-1]
    finally:
        shutil.rmtree(outside)


def _anyone_may_run(path: str) -> bool:
    done = subprocess.run(
        ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", path, "-ISc", ""],
        check=False,
        capture_output=True,
    )
    return done.returncode == 0


def test_what_cannot_be_locked(project: Project) -> None:
    (project.root / ".uv-mutex").mkdir()
    (project.root / ".uv-mutex/lock").symlink_to("lock")
    (found,) = problems(examined(project, 2))
    assert found.startswith(
        f"cannot open {project.root}/.uv-mutex/lock: Too many levels of symbolic links; it is a symlink"
    )


@pytest.mark.parametrize(
    ("offset", "grade", "words"),
    [
        (0, FINE, ""),
        (60, WARNING, r"[56]\d s behind this host's, and status misjudges other hosts"),
        (-60, WARNING, "ahead of"),
    ],
)
def test_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: float, grade: int, words: str) -> None:
    monkeypatch.setenv("UV_MUTEX_BACKEND", "lease")
    now = time.time
    monkeypatch.setattr("uv_mutex.commands.doctor.lock_trial.time.time", lambda: now() + offset)
    found = list(lock_checks.check_lock(LockFile(str(tmp_path))))
    assert max(each.grade for each in found) == grade
    if words:
        assert re.search(words, str(found[1]))
        assert str(found[1]).endswith("set both by NTP (the lease itself goes by one host's clock alone)")


def test_a_lease_that_does_not_exclude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_MUTEX_BACKEND", "lease")
    monkeypatch.setattr(lock_trial, "create", lambda _path: lock_trial.GOT)
    (found,) = lock_checks.check_lock(LockFile(str(tmp_path)))
    assert "NOT PROTECTED  a lease does not exclude here: " in str(found)
    assert str(found).endswith("could be created twice; move the project to another file system")


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/x")

    monkeypatch.setattr(lock_trial, "flock_twice", full)
    (found,) = lock_checks.check_lock(LockFile(str(tmp_path)))
    assert str(found) == (
        "NOT PROTECTED  the lock can't be tried out: /x: No space left on device; mend that, then run this again"
    )


def test_an_environments_folder(tmp_path: Path) -> None:
    lock = EnvironmentFolder(str(tmp_path))
    found = list(lock_checks.check_lock(lock))
    assert {each.grade for each in found} == {FINE}
    assert "is locked by flock (no lock file can be created)" in str(found[0])


def test_peer(project: Project) -> None:
    text = examined(project, 1, "--peer", "--seconds", "0.3")
    assert problems(text) == [
        f"no other doctor showed up in {project.root}/.uv-mutex within 0.3 s; run `uv-mutex doctor --peer` on two "
        "hosts at once, in the same project; if both did, they share no folder"
    ]
    command = ["uv-mutex", "doctor", "--peer", "--seconds", "20"]
    outputs = [
        subprocess.Popen(command, env=project.env("newest"), cwd=project.root, stdout=subprocess.PIPE) for _ in range(2)
    ]
    for each in outputs:
        out, _ = each.communicate(timeout=60)
        assert each.returncode == 1
        (found,) = problems("\n".join(out.decode().splitlines()[1:-1]))
        assert found.startswith(f"saw {os.uname().nodename} (pid ")
        assert found.endswith("which is on this host too; run one of the two on another host")
    assert {path.name for path in (project.root / ".uv-mutex").iterdir()} == {"lock", ".gitignore"}


@pytest.mark.parametrize("seconds", ["nan", "-1", "x", "1e9"])
def test_seconds_that_are_none(project: Project, seconds: str) -> None:
    done = run(project, ["uv-mutex", "doctor", "--peer", "--seconds", seconds], project.env("newest"))
    assert done.returncode == 2
    assert done.stderr.decode().endswith(f"error: argument --seconds: invalid seconds value: '{seconds}'\n")
