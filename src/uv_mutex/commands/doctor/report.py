"""`uv-mutex doctor`: whether a project is protected here, and what to do where it isn't."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator

from uv_mutex import terminal
from uv_mutex.commands import find_project
from uv_mutex.commands.doctor import finding, lock_checks, peer, uv_versions
from uv_mutex.commands.doctor.finding import Finding, bad, fine, warning
from uv_mutex.errors import NoUvError
from uv_mutex.locking import lock_file
from uv_mutex.shim.project_locks import project_locks
from uv_mutex.uv import executable
from uv_mutex.uv.project import Project

_OFF = ("off", "0", "false", "no")
_GIT_SECONDS = 20


def doctor(folder: str | None, *, with_peer: bool, seconds: float) -> int:
    """Examine a project, say what was found, and return how bad it is: 0, 1 (warnings), or 2 (not protected).

    :param folder: a folder of the project; None for the one that uv would take here.
    :param with_peer: meet another doctor on another host.
    :param seconds: how long to wait for that one.
    :raises MutexError: if there is no such project.
    """
    project = find_project.project_at(folder)
    worst = finding.FINE
    for found in _examine(project, with_peer=with_peer, seconds=seconds):
        worst = max(worst, found.grade)
        line = terminal.printable(str(found))
        sys.stdout.buffer.write(line.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.flush()
    return worst


def _examine(project: Project, *, with_peer: bool, seconds: float) -> Iterator[Finding]:
    yield fine(f"project {project.root}, environment {project.environment}")
    yield from _programs()
    targets = project_locks(project, keeps_lockfile=False)
    if not targets:
        yield warning(
            f"{project.root} can't be written by you, so your calls take no lock",
            "give yourself write access, or leave it so",
        )
    for target in targets:
        yield from lock_checks.lock(target)
    yield from _environment(project.environment)
    yield from _git(project.root)
    if with_peer:
        for target in targets[:1]:
            yield from peer.meet(target, seconds)


def _programs() -> Iterator[Finding]:
    """The shim, and the uv behind it."""
    if os.environ.get("UV_MUTEX", "").lower() in _OFF:
        yield bad(f"UV_MUTEX={os.environ['UV_MUTEX']} switches the shim off", "unset it")
    first = next(executable.programs_on_path(os.environ.get("PATH")), None)
    if first is None:
        yield bad(
            "there is no uv on PATH, and no shim", "install uv, then run `uv-mutex install` and do what it prints"
        )
    elif not executable.is_shim(first):
        yield bad(
            f"the first uv on PATH is {first}, which is not the shim",
            f'put the shim first: export PATH={_shim_of_this_command()}:"$PATH"',
        )
    else:
        problem = _fails(first)
        yield (
            bad(f"the shim {first} doesn't start ({problem})", "install it again with `uv-mutex install`")
            if problem
            else fine(f"the first uv on PATH is the shim {first}")
        )
    try:
        uv = executable.find(os.environ)
    except NoUvError as error:
        yield finding.of_error(error)
        return
    version = uv_versions.parse(_say_version(uv))
    if version is None:
        yield warning(f"{uv} doesn't say which version of uv it is", "check that it runs: uv --version")
        return
    yield fine(f"the real uv is {uv}, version {version}")
    for text in uv_versions.guards(version):
        yield fine(f"uv {version} by itself: {text}")
    for text in uv_versions.breaks(version):
        yield fine(f"uv {version} without uv-mutex: {text}", "keep the shim first on PATH")


def _shim_of_this_command() -> str:
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "uv")
    return os.path.dirname(beside) if os.path.exists(beside) and executable.is_shim(beside) else "PREFIX/bin"


def _fails(shim: str) -> str:
    """Why the shim doesn't start, empty if it does. Without a real uv it does, and says that."""
    done = _run([os.path.abspath(shim), "--version"])
    if done is None:
        return "it can't be executed"
    if done.returncode in (0, 127):
        return ""
    return done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2] or f"exit status {done.returncode}"


def _say_version(uv: str) -> str:
    done = _run([os.path.abspath(uv), "--version"])
    return done.stdout.decode("utf-8", "replace") if done and done.returncode == 0 else ""


def _run(words: list[str], cwd: str | None = None) -> "subprocess.CompletedProcess[bytes] | None":
    try:
        return subprocess.run(
            words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _environment(environment: str) -> Iterable[Finding]:
    if not os.path.isdir(environment) or os.access(environment, os.W_OK):
        return []
    return [
        warning(
            f"{environment} can't be written by you",
            "make it yours with chown, or name another in UV_PROJECT_ENVIRONMENT",
        )
    ]


def _git(root: str) -> Iterable[Finding]:
    done = _run(["git", "ls-files", "-z", "--", lock_file.FOLDER], cwd=root)
    if done is None or done.returncode or not done.stdout:  # no git, no repository, or all is well
        return []
    return [warning(f"git tracks files in {root}/{lock_file.FOLDER}", "git rm -r --cached .uv-mutex, and commit")]
