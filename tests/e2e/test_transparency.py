"""What uv and the user's command see through the shim is what they see without it."""

from __future__ import annotations

import ast
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import launcher, need
from support.herd import read_log
from support.index import LocalIndex
from support.native import SANITIZERS, StubPrefix, compile_launcher
from support.project import Project
from support.shim import Shim
from support.uvs import VERSIONS, uv
from support.wheels import make_wheel

from uv_mutex.shim import handover, main

_TWO = ("0.7.8", "newest")
two_versions = pytest.mark.parametrize("uv_version", _TWO)
#: Two versions, and both launchers.
versions_and_launchers = pytest.mark.parametrize(
    ("uv_version", "shim"), [("0.7.8", "native"), ("newest", "native"), ("newest", "python")], indirect=["shim"]
)

_PYTHON = os.path.realpath(sys.executable)
_TABLES = """
[project.optional-dependencies]
sync = ["beta"]
[dependency-groups]
dev = ["gamma"]
"""
_METADATA = "# /// script\n# dependencies = ['beta']\n# ///\n"
#: What a call may leave behind.
_KEPT = ["pyproject.toml", "uv.lock", ".venv/pyvenv.cfg"]
_SIGNALS = ("ignored", "blocked")
_STATUS = "^Sig(Ign|Cgt|Blk)|^Umask"

Words = Sequence[str | bytes]


@dataclass(frozen=True)
class Case:
    """A command line in its circumstances (see launcher._start)."""

    words: Words
    changes: Mapping[str, Any] = field(default_factory=dict)
    #: Entries put in front of the environment, and names taken out.
    variables: Sequence[str | bytes] = ()
    without: Sequence[str] = ()
    #: Whether the shim prepares for it. If so, it is tried both preparing and fresh.
    #: None for --isolated: a uv before 0.8.7 writes uv.lock with it, and each such call is prepared.
    guarded: bool | None = True

    def __str__(self) -> str:
        return f"{self.words!r:.200} {self.changes or self.variables or self.without!r:.200}"


# ---------------------------------------------------------------------------------------------- the cases

_WORDS: list[Case] = [
    Case(["run", "probe.py"]),
    Case(["run", "./probe.py", "-q", "--help"]),
    Case(["run", "python", "probe.py", "sync", "add"]),
    Case(["run", "python", "-m", "probe"]),
    Case(["run", "-m", "probe", "-m"]),
    Case(["run", "-m", "--", "probe", "--", "x"]),
    Case(["run", "-s", "probe.py"]),
    Case(["run", "--script", "probe.py", "a"]),
    Case(["run", "-qs", "probe.py"]),
    Case(["run", "-qp", _PYTHON, "probe.py"]),
    Case(["run", f"-p{_PYTHON}", "probe.py"]),
    Case(["run", f"-p={_PYTHON}", "probe.py"]),
    Case(["run", f"--python={_PYTHON}", "--", "probe.py"]),
    Case(["run", "--", "python", "probe.py", "--", "-q"]),
    Case(["-q", "run", "-q", "probe.py"]),
    Case(["--project", ".", "run", "probe.py"]),
    Case(["--project=.", "run", "--project", ".", "probe.py"]),
    Case(["--offline", "run", "--offline", "--no-progress", "probe.py"]),
    Case(["--directory", "sub", "run", "../probe.py"]),
    Case(["run", "--directory=sub", "--project", "..", "python", "../probe.py"]),
    Case(["run", "--with", "beta", "probe.py"]),
    Case(["run", "--with=beta", "--with", "gamma", "--", "python", "probe.py"]),
    Case(["run", "--extra", "sync", "python", "probe.py"]),
    Case(["run", "--all-extras", "--no-dev", "probe.py"]),
    Case(["run", "--group", "dev", "--exact", "probe.py"]),
    Case(["run", "--frozen", "probe.py"]),
    Case(["run", "--locked", "probe.py"]),
    Case(["run", "--package", "demo", "probe.py"]),
    Case(["run", "--env-file", "variables.env", "probe.py"]),
    Case(["run", "--color=never", "--no-progress", "--no-config", "--frozen", "probe.py"]),
    Case(["run", "--active", "--no-active", "--inexact", "probe.py"], variables=["VIRTUAL_ENV=other"]),
    Case(["run", "--active", "probe.py"], variables=["VIRTUAL_ENV=other"]),
    Case(["run", "--no-sync", "probe.py"], guarded=False),
    Case(["run", "--isolated", "probe.py"], guarded=None),
    Case(["run", "--no-project", "probe.py"], guarded=False),
    Case(["run", "metadata.py"]),
    Case(["run", "folder", "x"]),
    Case(["run", "-", "a"], {"stdin": launcher.PROBE.encode()}),
    Case(["run", "-", "a"], {"stdin": launcher.PROBE.encode(), "pipe": True}),
    Case(["run", "-", "a"], {"stdin": (_METADATA + launcher.PROBE).encode()}),
    Case(["run", "probe.py", "", "a b", "two\nlines", "\n", "", "*", "$HOME", "'\"\\", "--"]),
    Case(["run", "python", "probe.py", b"\xff\xfe", "é", "日本", b"=\x80", "x" * 100_000]),
    Case(["run", "--directory", b"\xff", "python", "../probe.py", b"\xff"], variables=["LC_ALL=C"]),
]

_CALL: Words = ["run", "python", "probe.py", b"\xff", ""]
_SHELL_WORDS = ["run", "grep", "-E", _STATUS, "/proc/self/status"]
_VARIABLES: list[Words] = [
    ["LC_ALL=C"],
    ["LC_ALL=POSIX", "LANG=de_DE.UTF-8"],
    ["LC_ALL=", "LANG="],
    ["LC_ALL=xx_YY.UTF-8"],
    ["LC_ALL=C.UTF-8"],
    ["LANG=C", "LANGUAGE=de"],
    ["LANG=en_US.UTF-8"],
    ["LC_CTYPE=C"],
    ["LC_CTYPE=POSIX", "LC_MESSAGES=C"],
    ["LC_CTYPE="],
    ["LC_CTYPE=C.UTF-8"],
    ["LC_CTYPE=UTF-8"],
    ["LC_CTYPE=xx_YY"],
    ["LC_CTYPE=C", "BETWEEN=1", "LC_CTYPE=de_DE.UTF-8"],
    ["a.b=1", "BASH_FUNC_x%%=() { echo; }", "1=2", "with space=3", "é=ü", b"\xff=\xfe", "empty="],
    ["=unnamed", "noequals", "NL=a\nb\n", "TWICE=1", "TWICE=2", "TWICE=1", "LONG=" + "x" * 100_000],
    ["PWD=/stale", "OLDPWD=/", "SHLVL=7", "_=/bin/x", "PS1=$ ", "RANDOM=4", "SHELLOPTS=xtrace", "IFS=x"],
    ["PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", "PYTHONIOENCODING=latin-1", "PYTHONHASHSEED=0"],
    ["PYTHONPATH=/nowhere", "PYTHONNOUSERSITE=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"],
    ["UV_FROZEN=1"],
    ["UV_PROJECT_ENVIRONMENT=elsewhere"],
    [f"UV_PYTHON={_PYTHON}", "UV_PYTHON=/nowhere/python3"],
    ["UV_MUTEX_TIMEOUT=9", "UV_MUTEX_NONSENSE=1"],
]
_ENVIRONMENTS: list[Case] = [
    *(Case(_CALL, variables=variables) for variables in _VARIABLES),
    Case(_CALL, without=["HOME", "LANG"]),
    Case(_CALL, without=["UV_MUTEX_LOG"]),
    Case(_CALL, variables=["UV_NO_SYNC=1"], guarded=False),
    Case(["run", "/usr/bin/env", "-0"], variables=["PYTHONHOME=/nowhere", "PYTHONSTARTUP=x", "PYTHONVERBOSE=1"]),
]
_CIRCUMSTANCES: list[Case] = [
    *(
        Case(["run", "probe.py"], changes)
        for changes in (
            {"stdin": b"from a file\n"},
            {"stdin": b"from a pipe\n\xff", "pipe": True},
            {"closed": [0]},
            {"closed": [1]},
            {"closed": [2]},
            {"closed": [0, 2]},
            {"closed": [0, 1, 2]},
            {"open": [7]},
            {"open": [3, 4, 5, 6, 200]},
            {"open": [3, 4], "closed": [0, 1]},
            {"umask": 0},
            {"umask": 0o077},
            {"umask": 0o027},
            {"nice": 5},
            {"limits": {resource.RLIMIT_NOFILE: (256, 512)}},
            {"limits": {resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_STACK: (4 << 20, 64 << 20)}},
            {"ignored": [signal.SIGINT]},
            {"ignored": [signal.SIGHUP]},
            {"ignored": [signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGWINCH, signal.SIGCONT]},
            {"ignored": [signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU]},
            {"blocked": [signal.SIGUSR1]},
            {"blocked": [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]},
            {"blocked": [signal.SIGPIPE, signal.SIGALRM, signal.SIGUSR2, 40]},
            {"cwd": "sub"},
            {"terminal": True},
        )
    ),
    *(
        Case(_SHELL_WORDS, changes)
        for changes in (
            {},
            {"ignored": [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]},
            {"ignored": [signal.SIGPIPE]},
            {"blocked": [signal.SIGUSR1, signal.SIGINT]},
            {"umask": 0o007},
        )
    ),
    Case(["-q", "run", "python", "-m", "probe"], {"terminal": True}),
    Case(["run", "--with", "beta", "probe.py"], {"terminal": True, "ignored": [signal.SIGTTOU, signal.SIGINT]}),
    Case(["run", "tty"], {"terminal": True}),
]
_COLD: list[Case] = [
    Case(["run", "probe.py"]),
    Case(["run", "python", "probe.py", b"\xff"], variables=["LC_CTYPE=C"]),
    Case(["run", "probe.py"], {"closed": [0, 1, 2]}),
    Case(["run", "probe.py"], {"open": [7], "umask": 0o027, "blocked": [signal.SIGUSR1], "ignored": [signal.SIGHUP]}),
    Case(["run", "-", "x"], {"stdin": launcher.PROBE.encode(), "pipe": True}),
    Case(["-q", "run", "-m", "probe"], {"terminal": True}),
]

# Failing calls and others that show something, by the project they are for (see _make_templates). Each call has a fresh
# copy of it, without an environment.
_CALLS = {
    "good": """
        -h; --version; -V run; help; help run; run --help; sync -h x; tool run sync --help; tool run nonexistent-thing
        pip list; cache dir; nonsense; --nonsense run true; run --nonsense true; sync --nonsense; sync operand
        -- run true; run --with; run --with --help; run -p; run --quiet=3 true; run -m -s x; run -mm x; run -m -
        run --frozen --frozen true; run --locked --frozen true; sync --color=pink; run --color=pink true
        run --extra nope true; run --group nope true; run --package nope true; sync --extra nope
        run --python 3.99 true; run --project missing true; --directory missing run true; sync --project missing
        run --env-file missing.env true; run missing.py; run -s missing.py; run -m missing; run nosuchcommand x
        run help; run echo add; run; run --; run -m; run -- sync; run -- -- x; run -U true; run -; run --isolated x
        sync; sync --dry-run; sync --reinstall; sync --check; lock; tree; add beta; add --dev gamma; add
        add nonexistent-thing; add --raw b%; remove alpha; remove absent; version; version --short; version 1.2.3
        version --bump minor; version --bump nope; version x%""",
    "stale": "sync --locked; run --locked true; run --frozen true; lock --check",
    "unlocked": "sync --frozen; run --frozen true; run --locked true; sync --locked",
    "broken": "run true; sync; add beta; version 2; run --no-project true",
    "unresolvable": "run true; sync; add beta",
    "none": "run echo x; sync; add beta; version; remove alpha; run --no-project true",
}
_SPOKEN: list[tuple[str, Words]] = [
    *(("good", ["run", "sh", "-c", f"echo out; echo err >&2; {end}"]) for end in ("exit 3", "kill $$", "kill -9 $$")),
    ("good", []),
    *(
        (project, words.split())
        for project, calls in _CALLS.items()
        for words in calls.strip().replace("\n", ";").split(";")
    ),
]

_SMALL = [
    Case(["run", "probe.py"]),
    Case(["-q", "run", "--extra", "sync", "--", "python", "probe.py", b"\xff", ""], variables=["LC_ALL=C"]),
    Case(["run", "-m", "probe"], {"closed": [0], "open": [7], "ignored": [signal.SIGINT]}, ["a.b=1", "LC_CTYPE=C"]),
    Case(["run", "-", "x"], {"stdin": launcher.PROBE.encode(), "pipe": True, "blocked": [signal.SIGUSR1]}),
    Case(["run", "--with", "beta", "probe.py"], {"terminal": True, "umask": 0o077}),
    Case(["run", "--no-sync", "probe.py"], guarded=False),
]


# ---------------------------------------------------------------------------------------------- the runs


@dataclass(frozen=True)
class Ground:
    """A project and how to call uv in it, raw and through the shim."""

    project: Project
    uv_version: str
    shim: Shim
    scratch: Path

    def launch(self, case: Case, program: Path, *, log: str = "log", removed: Sequence[Path] = ()) -> dict[str, Any]:
        """What the launcher needs to know for one run of a case."""
        environ = self.project.env(self.uv_version) | {"UV_MUTEX_LOG": str(self.scratch / log)}
        entries = [f"{name}={value}" for name, value in environ.items() if name not in case.without]
        root = self.project.root
        return {
            "program": str(program),
            "argv": _bytes(["uv", *case.words]),
            # Ours first: of two entries with the same name the first one counts.
            "environ": _bytes([*case.variables, *entries]),
            "report": str(root / "report"),
            "removed": [str(path) for path in removed],
            **{name: [*map(int, value)] if name in _SIGNALS else value for name, value in case.changes.items()},
            "cwd": str(root / case.changes.get("cwd", "")),
        }

    def run(self, launches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Run them one after the other."""
        if any(launch.get("terminal") for launch in launches):
            for descriptor in need.terminal():
                os.close(descriptor)
        done = subprocess.run(
            [sys.executable, "-I", launcher.__file__, str(self.scratch)],
            input=ascii(launches).encode(),
            capture_output=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr.decode()
        results = ast.literal_eval(done.stdout.decode())
        assert isinstance(results, list)
        return results


def _bytes(words: Words) -> list[bytes]:
    return [os.fsencode(word) for word in words]


@pytest.fixture(scope="module")
def module_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalIndex]:
    """One index for all."""
    with LocalIndex(tmp_path_factory.mktemp("index")) as serving:
        for name in ("alpha", "beta", "gamma"):
            make_wheel(serving.folder, name)
        yield serving


@pytest.fixture
def ground(uv_version: str, module_index: LocalIndex, shim: Shim, tmp_path: Path) -> Ground:
    """A project that is locked and prepared."""
    project = Project.make(
        tmp_path / "demo",
        dependencies=["alpha"],
        index_url=module_index.url,
        extra_toml=_TABLES,
        shim=lambda: shim,
    )
    root = project.root
    for path in ("probe.py", "sub/probe.py", "folder/__main__.py"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(launcher.PROBE)
    (root / "metadata.py").write_text(_METADATA + launcher.PROBE)
    (root / "variables.env").write_text("FROM_FILE=1\n")
    (root / os.fsdecode(b"\xff")).mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ground = Ground(project, uv_version, shim, scratch)
    first = ground.run([ground.launch(Case(["sync", "--all-extras"]), uv(uv_version))])
    assert first[0]["status"] == 0, first
    return ground


def _compare(ground: Ground, cases: Sequence[Case]) -> list[str]:
    """Run each case raw, and through the shim: once preparing, once fresh. Return what differs."""
    real, shim = uv(ground.uv_version), ground.shim.uv
    notes = [ground.project.root / name / ".uv-mutex" for name in (".venv", "other", "elsewhere")]
    launches = []
    for number, case in enumerate(cases):
        log = f"log-{number}"
        # The first run leaves the environment as this case wants it: from then on all see the same.
        launches += [ground.launch(case, real, log=log), ground.launch(case, real, log=log)]
        launches += [ground.launch(case, shim, log=log, removed=notes), ground.launch(case, shim, log=log)]
    results = ground.run(launches)
    different = []
    for number, case in enumerate(cases):
        raw, preparing, fresh = results[4 * number + 1 : 4 * number + 4]
        assert raw["report"] or raw["stdout"], f"{case} shows nothing: {raw}"
        for kind, found in (("preparing", preparing), ("fresh", fresh)):
            what = _differences(raw, found, warnings_twice=kind == "preparing")
            different += [f"{case} {kind}: {line}" for line in what]
        if "UV_MUTEX_LOG" not in case.without:
            prepared = [line["prepared"] for line in read_log(ground.scratch / f"log-{number}")]
            each_time = case.guarded is None and ground.uv_version == "0.7.8"
            if prepared != ([True, not case.guarded] if case.guarded or each_time else []):
                different.append(f"{case}: prepared {prepared}")
    return different


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any], *, warnings_twice: bool) -> Iterator[str]:
    for name in ("status", "stdout", "stderr"):
        one, other = expected[name], found[name]
        if name != "status":
            one, other = _steady(one), _steady(other)
        if name == "stderr" and warnings_twice:
            one, other = _warned_once(one), _warned_once(other)
        if one != other:
            yield f"{name}\n    raw  {one!r:.1000}\n    shim {other!r:.1000}"
    one, other = expected["report"], found["report"]
    if one is None or other is None:
        if one is not other:
            yield f"report: {one} {other}"
        return
    for name in one:
        texts = [_steady(repr(report[name]).encode()).decode() for report in (one, other)]
        if texts[0] != texts[1]:
            yield f"{name}\n    raw  {texts[0]:.1000}\n    shim {texts[1]:.1000}"


def _steady(output: bytes) -> bytes:
    """Output without what differs from run to run: durations, names of temporary folders, numbers of terminals.

    uv 0.7 runs `.venv/bin/python` if the same call made the environment, and `.venv/bin/python3` ever after. After a
    preparation it's ever after.
    """
    output = re.sub(rb"\b[\d.]+ ?(ms|s|us|\xc2\xb5s)\b", b"TIME", output)
    output = re.sub(rb"/\.tmp\w{6}\b", b"/TMP", output)
    output = re.sub(rb"/dev/pts/\d+", b"/dev/pts", output)
    return output.replace(b"/bin/python3", b"/bin/python")


def _warned_once(output: bytes) -> bytes:
    """Without a warning's repetition: uv gives it when it prepares, and again when it runs."""
    kept: list[bytes] = []
    for line in output.splitlines(keepends=True):
        if not (line.startswith(b"warning: ") and line in kept):
            kept.append(line)
    return b"".join(kept)


def _call_differences(ground: Ground, calls: Sequence[tuple[str, Words]]) -> Iterator[str]:
    """Run each call raw and through the shim, in a copy of its project, and compare what it says and leaves behind."""
    work = ground.scratch / "work"
    launches = []
    for template, words in calls:
        for program in (uv(ground.uv_version), ground.shim.uv):
            launch = ground.launch(Case(words, {"stdin": b"print(1)\n"}), program)
            copied = [(str(ground.scratch / template), str(work))]
            launches.append({**launch, "cwd": str(work), "copied": copied, "kept": _KEPT})
    results = ground.run(launches)
    for (template, words), raw, found in zip(calls, results[::2], results[1::2], strict=True):
        for line in _differences(raw, found, warnings_twice=True):
            yield f"{words!r} in a {template} project: {line}"
        if raw["kept"] != found["kept"]:
            yield f"{words!r} in a {template} project leaves other files"


def _make_templates(ground: Ground) -> None:
    root = ground.project.root
    good = (root / "pyproject.toml").read_text()
    texts = {
        "good": good,
        "stale": good.replace('"alpha"', '"alpha", "beta"'),
        "unlocked": good,
        "broken": good + "[broken",
        "unresolvable": good.replace('"alpha"', '"nonexistent-thing"'),
        "none": "",
    }
    for name, text in texts.items():
        folder = ground.scratch / name
        folder.mkdir()
        if text:
            (folder / "pyproject.toml").write_text(text)
        if name in ("good", "stale"):
            shutil.copy(root / "uv.lock", folder)


def _none(different: Iterable[str]) -> None:
    found = list(different)
    assert not found, "\n".join([f"{len(found)} differences", *found])


@versions_and_launchers
def test_command_lines(ground: Ground) -> None:
    _none(_compare(ground, _WORDS))


@versions_and_launchers
def test_environments(ground: Ground) -> None:
    _none(_compare(ground, _ENVIRONMENTS))


@versions_and_launchers
def test_circumstances(ground: Ground) -> None:
    _none(_compare(ground, _CIRCUMSTANCES))


@pytest.mark.parametrize(
    ("uv_version", "shim", "known"),
    [("0.7.8", "native", True), ("newest", "native", True), ("newest", "python", False)],
    indirect=["shim"],
)
def test_what_python_ignores(ground: Ground, known: bool) -> None:
    """Python ignores these signals from its start. What the caller did, the native launcher alone knows.

    (SIGPIPE would show nothing: uv, as each program in Rust, ignores it itself and gives its child the default.)
    """
    case = Case(_SHELL_WORDS, {"ignored": [signal.SIGPIPE, signal.SIGXFSZ]})
    different = _compare(ground, [case])
    assert len(different) == (0 if known else 2), "\n".join(different)


def test_launchers_decide_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the native launcher leaves to Python is what Python's own launcher looks at, for each call of this file."""
    compile_launcher(tmp_path / "uv", *SANITIZERS)
    stub = StubPrefix(tmp_path, tmp_path / "uv")
    calls = [case.words for case in (*_WORDS, *_ENVIRONMENTS, *_CIRCUMSTANCES, *_COLD, *_SMALL)]
    calls += [words for _, words in _SPOKEN]
    looked_at: list[Sequence[str]] = []
    monkeypatch.setenv("UV_MUTEX_UV", str(uv("newest")))
    monkeypatch.setattr(main, "_guard", lambda _uv, words, _also: looked_at.append(words))
    monkeypatch.setattr(handover, "exec_uv", lambda _uv, _words: None)
    decided: list[bool] = []
    for words in calls:
        texts = [os.fsdecode(word) for word in words]
        main.main(texts)
        assert stub.decide(texts) == (looked_at[-1:] == [texts]), words
        decided.append(looked_at[-1:] == [texts])
        looked_at.clear()
    assert {True, False} == set(decided)
    assert all(stub.decide(case.words) for case in (*_WORDS, *_COLD) if case.guarded)


@versions_and_launchers
def test_without_an_environment(ground: Ground) -> None:
    launches = []
    for case in _COLD:
        programs = uv(ground.uv_version), ground.shim.uv
        launches += [ground.launch(case, program, removed=[ground.project.venv]) for program in programs]
    results = ground.run(launches)
    for case, raw, found in zip(_COLD, results[::2], results[1::2], strict=True):
        assert raw["report"], case
        _none(f"{case}: {line}" for line in _differences(raw, found, warnings_twice=True))
    assert [line["prepared"] for line in read_log(ground.scratch / "log")] == [True] * len(_COLD)


@two_versions
def test_what_calls_say(ground: Ground) -> None:
    _make_templates(ground)
    _none(_call_differences(ground, _SPOKEN))


@pytest.mark.parametrize("uv_version", [version for version in VERSIONS if version not in _TWO])
def test_every_other_version(ground: Ground) -> None:
    _none(_compare(ground, _SMALL))
    _make_templates(ground)
    _none(_call_differences(ground, _SPOKEN[::6]))


@pytest.mark.parametrize("uv_version", ["newest"])
def test_upgrade_is_not_repeated_outside_the_lock(ground: Ground) -> None:
    """The one exception to the parent's command line: what would change the environment once more."""
    case = Case(["-q", "run", "--upgrade", "--reinstall-package=alpha", "-P", "alpha", "python", "probe.py", "-U"])
    raw, found = ground.run([ground.launch(case, program) for program in (uv(ground.uv_version), ground.shim.uv)])
    words = b"uv\0-q\0run\0--\0python\0probe.py\0-U\0"
    assert found["report"].pop("parent's words") == words
    del raw["report"]["parent's words"]
    _none(_differences(raw, found, warnings_twice=True))


@two_versions
def test_ignored_sigchld_fails_as_uv_does(ground: Ground) -> None:
    """uv can't learn how its children ended then, so that it ends with an error whatever they did."""
    case = Case(["run", "true"], {"ignored": [signal.SIGCHLD]})
    raw, found = ground.run([ground.launch(case, program) for program in (uv(ground.uv_version), ground.shim.uv)])
    assert raw["status"] == found["status"] == 2
    # Which of its children it complains of depends on whether an interpreter had to be asked again.
    for said in (raw["stderr"], found["stderr"]):
        assert said.endswith(b"No child processes (os error 10)\n"), said
