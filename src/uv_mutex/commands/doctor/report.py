"""`uv-mutex doctor`: check PATH and a project, and print a verdict and a line for each finding."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence

from uv_mutex import terminal
from uv_mutex.commands import find_project
from uv_mutex.commands.doctor import finding, lock_checks, peer, uv_versions
from uv_mutex.commands.doctor.finding import Finding, bad, fine, note, warning
from uv_mutex.commands.find_project import NoProjectError
from uv_mutex.errors import NoUvError, say
from uv_mutex.locking import lock_file
from uv_mutex.setup import launcher
from uv_mutex.shim.project_locks import project_locks
from uv_mutex.uv import executable
from uv_mutex.uv.project import Project

_OFF = ("off", "0", "false", "no")
#: How long a program that the doctor starts may take.
_PROGRAM_SECONDS = 20


def doctor(folder: str | None, *, with_peer: bool, seconds: float, verbose: bool, as_json: bool) -> int:
    """Check a project, print the verdict and the findings; return the exit status: 0, 1 (warnings), 2 (not protected).

    :param folder: a folder of the project; None for the project that uv finds from the working directory. If that is
        in no project, only PATH is checked.
    :param with_peer: also try the lock out with a doctor on another host.
    :param seconds: how long to wait for that doctor.
    :param verbose: print what is as it should be, too.
    :param as_json: print all of it as one JSON object.
    :raises MutexError: if there is no such project.
    """
    try:
        project: Project | None = find_project.project_at(folder)
    except NoProjectError:
        if folder is not None or with_peer:
            raise
        project = None
    if with_peer:
        say(f"waiting for a doctor on another host, for {seconds:g} s at most")
    found = list(_findings(project, with_peer=with_peer, seconds=seconds))
    worst = max(finding.FINE, *(each.grade for each in found))
    verdict = _verdict(found, worst)
    if as_json:
        _print(json.dumps(_as_object(project, verdict, worst, found), indent=2))
        return worst
    _print(verdict)
    for each in found:
        if verbose or each.grade > finding.FINE:
            _print(str(each))
    if not verbose:
        _print("uv-mutex doctor -v lists all that was checked")
    return worst


def _print(text: str) -> None:
    """Print lines that can hold any path."""
    lines = "".join(f"{terminal.printable(line)}\n" for line in text.split("\n"))
    sys.stdout.buffer.write(lines.encode("utf-8", "surrogateescape"))
    sys.stdout.flush()


def _verdict(found: Sequence[Finding], worst: int) -> str:
    """The first line: protected or not, and why."""
    if worst == finding.BAD:
        first = next(each for each in found if each.grade == finding.BAD)
        return f"NOT PROTECTED: {first.fact}; {first.remedy}"
    why = ", ".join(each.reason for each in found if each.reason)
    return f"protected{' (see the warnings)' if worst == finding.WARNING else ''}: {why}"


def _as_object(project: Project | None, verdict: str, worst: int, found: Sequence[Finding]) -> dict[str, object]:
    return {
        "protected": worst < finding.BAD,
        "verdict": verdict,
        "project": project.root if project else None,
        "environment": project.environment if project else None,
        "findings": [
            {"grade": finding.WORDS[each.grade].lower(), "fact": each.fact, "remedy": each.remedy} for each in found
        ],
    }


def _findings(project: Project | None, *, with_peer: bool, seconds: float) -> Iterator[Finding]:
    yield from _programs()
    if project is None:
        yield fine("the working directory is in no project of uv", "go to a project, or name its folder, to check that")
        return
    yield fine(f"project {project.root}, environment {project.environment}")
    targets = project_locks(project, keeps_lockfile=False)
    if not targets:
        yield warning(
            f"{project.root} can't be written by you, so your calls take no lock",
            "give yourself write access, or leave it so",
        )
    for target in targets:
        yield from lock_checks.check_lock(target)
    yield from _environment(project.environment)
    yield from _git(project.root)
    if with_peer:
        for target in targets[:1]:
            yield from peer.meet(target, seconds)


def _programs() -> Iterator[Finding]:
    """Check which uv comes first on PATH, and which one is the real uv."""
    if os.environ.get("UV_MUTEX", "").lower() in _OFF:
        yield bad(f"UV_MUTEX={os.environ['UV_MUTEX']} switches the shim off", "unset it")
    yield from _shim()
    try:
        uv = executable.find(os.environ)
    except NoUvError as error:
        yield finding.of_error(error)
        return
    version = uv_versions.parse(_version_output(uv))
    if version is None:
        yield warning(f"{uv} doesn't say which version of uv it is", "check that it runs: uv --version")
        return
    yield fine(f"the real uv is {uv}, version {version}", reason=f"before uv {version} at {uv}")
    for text in uv_versions.guards(version):
        yield fine(f"uv {version} by itself: {text}")
    for text in uv_versions.breaks(version):
        yield note(f"uv {version} without uv-mutex: {text}", "keep the shim first on PATH")


def _shim() -> Iterator[Finding]:
    first = next(executable.programs_on_path(os.environ.get("PATH")), None)
    if first is None:
        yield bad(
            "there is no uv on PATH, and no shim", "install uv, then run `uv-mutex install` and do what it prints"
        )
        return
    if not executable.is_shim(first):
        yield bad(
            f"the first uv on PATH is {first}, which is not the shim",
            f'put the shim first: export PATH={_folder_of_shim()}:"$PATH"',
        )
        return
    problem = _start_problem(first)
    if problem:
        yield bad(f"the shim {first} doesn't start ({problem})", "install it again with `uv-mutex install`")
        return
    yield fine(f"the first uv on PATH is the shim {first}", reason=f"uv is the shim {first}")
    yield from _launcher(first)


def _launcher(shim: str) -> Iterator[Finding]:
    """Say which launcher the shim has, and why."""
    kind, why = launcher.describe(shim)
    if kind == launcher.NATIVE:
        yield fine(f"its launcher is the native one: {why}")
    elif kind == launcher.PYTHON:
        yield fine(
            f"its launcher is the Python one, which costs each call 10 ms: {why}",
            "install uv-mutex from a wheel that has a native launcher, or with a C compiler",
        )


def _folder_of_shim() -> str:
    """The folder of the shim that was installed together with this command."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "uv")
    return os.path.dirname(beside) if os.path.exists(beside) and executable.is_shim(beside) else "PREFIX/bin"


def _start_problem(shim: str) -> str:
    """Why the shim does not start; empty if it does. Exit status 127 means that it started and found no real uv."""
    # A guarded word, since the native launcher needs its Python side only for those.
    done = _run([os.path.abspath(shim), "run", "--help"])
    if done is None:
        return "it can't be executed"
    if done.returncode in (0, 127):
        return ""
    return done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2] or f"exit status {done.returncode}"


def _version_output(uv: str) -> str:
    """The output of `uv --version`; empty if it fails."""
    done = _run([os.path.abspath(uv), "--version"])
    return done.stdout.decode("utf-8", "replace") if done and done.returncode == 0 else ""


def _run(words: list[str], cwd: str | None = None) -> "subprocess.CompletedProcess[bytes] | None":
    """Run a program without input; None if it can't be started or takes too long."""
    try:
        return subprocess.run(
            words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROGRAM_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _environment(environment: str) -> Iterator[Finding]:
    if os.path.isdir(environment) and not os.access(environment, os.W_OK):
        yield warning(
            f"{environment} can't be written by you",
            "make it yours with chown, or name another in UV_PROJECT_ENVIRONMENT",
        )
    own = os.path.join(environment, "bin", "uv")
    if os.access(own, os.X_OK) and not executable.is_shim(own):
        yield warning(
            f"what `uv run` starts finds {own} before the shim, since the environment comes first on its PATH",
            "if it calls uv, keep that out of the environment: `uv tree --invert --package uv` says what brings it",
        )


def _git(root: str) -> Iterable[Finding]:
    done = _run(["git", "ls-files", "-z", "--", lock_file.FOLDER], cwd=root)
    if done is None or done.returncode or not done.stdout:  # no git, no repository, or git tracks nothing there
        return []
    return [warning(f"git tracks files in {root}/{lock_file.FOLDER}", "git rm -r --cached .uv-mutex, and commit")]
