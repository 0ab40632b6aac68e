"""A program that starts others under odd circumstances, and a probe that tells what a program was given.

Runs as ``python -I launcher.py FOLDER < cases``, the cases being a literal list of dicts (see _start), and prints a
literal list of dicts in turn. It works in one thread, so that forking is safe, and for many cases, because starting
it costs as much as starting uv.
"""

from __future__ import annotations

import ast
import ctypes
import os
import pty
import resource
import select
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Prints a literal dict to the file "report" in its project, since stdout may be closed.
PROBE = r"""
import os, resource, sys, time

def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        return error.errno

def link(path):
    try:
        return os.readlink(path).partition("[")[0]  # pipe:[4711]
    except OSError as error:
        return error.errno

def status(pid):
    wanted = b"Umask SigBlk SigIgn SigCgt NoNewPrivs Seccomp Cpus_allowed_list Uid Gid Groups CapEff".split()
    if pid != me:  # uv sets its handlers while its child is starting
        wanted = [name for name in wanted if name not in (b"SigIgn", b"SigCgt")]
    lines = dict(line.partition(b":")[::2] for line in read(f"/proc/{pid}/status").splitlines())
    return {name: lines.get(name) for name in wanted}

def settled_status(pid):
    for _ in range(200):
        found = status(pid)
        if found[b"SigBlk"] != b"\tfffffffffffbfeff":  # posix_spawn blocks all signals of uv until it returns
            break
        time.sleep(0.02)
    return found

def descriptors(pid):
    folder = f"/proc/{pid}/fd"
    names = os.listdir(folder)
    return {int(name): link(f"{folder}/{name}") for name in names if os.path.lexists(f"{folder}/{name}")}

def terminal(fd):
    try:
        foreground = os.tcgetpgrp(fd)
    except OSError as error:
        return error.errno
    return os.ttyname(fd).rstrip("0123456789"), foreground == os.getpgrp()

me, parent = os.getpid(), os.getppid()
report = {
    "argv": [os.fsencode(word) for word in sys.argv],
    "own words": read("/proc/self/cmdline"),
    "executable": sys.executable,
    "prefix": sys.prefix,
    "environment": read("/proc/self/environ"),
    "folder": link("/proc/self/cwd"),
    "limits": read("/proc/self/limits"),
    "status": status(me),
    "descriptors": descriptors(me),
    "terminal": [terminal(fd) for fd in (0, 1, 2)],
    "group leader": (os.getpgrp() == parent, os.getsid(0) == parent, os.getpgrp() == os.getpgid(parent)),
    "nice": os.nice(0),
    "oom": read("/proc/self/oom_score_adj"),
    "parent's words": read(f"/proc/{parent}/cmdline"),
    "parent's executable": link(f"/proc/{parent}/exe"),
    "parent's environment": read(f"/proc/{parent}/environ"),
    "parent's folder": link(f"/proc/{parent}/cwd"),
    "parent's limits": read(f"/proc/{parent}/limits"),
    "parent's status": settled_status(parent),
    "parent's open files": sorted({
        str(path) for path in descriptors(parent).values() if not str(path).startswith(("anon_inode:", "socket:"))
    }),
    "parent's children": read(f"/proc/{parent}/task/{parent}/children").split() == [str(me).encode()],
    "stdin": None,
}
try:
    report["stdin"] = None if os.isatty(0) else os.read(0, 100000)
except OSError as error:
    report["stdin"] = error.errno
here = os.path.dirname(os.path.abspath(__file__)) if "__file__" in globals() else os.getcwd()
with open(os.environ.get("REPORT") or os.path.join(here, "report"), "w") as file:
    file.write(ascii(report))
print("done")
"""

_TIMEOUT = 60


def _start(case: Mapping[str, Any]) -> None:
    """Become what the case says.

    ``program`` and ``argv`` (argv[0] included), ``environ`` (entries, as they are); and, where not as usual: ``cwd``,
    ``stdin`` (bytes in a file, or "pipe:" and so on, or None for a pty), ``closed``, ``open`` (descriptors),
    ``ignored`` and ``blocked`` (signals), ``umask``, ``limits``, ``nice``.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(case["cwd"])
    for fd in case.get("open", ()):
        os.dup2(os.open("/etc/passwd", os.O_RDONLY), fd)
    for fd in case.get("closed", ()):
        os.close(fd)
    for number in case.get("ignored", ()):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, case.get("blocked", ()))
    os.umask(case.get("umask", 0o022))
    os.nice(case.get("nice", 0))
    for limit, values in case.get("limits", {}).items():
        resource.setrlimit(limit, values)
    environ, argv = [_array(case[name]) for name in ("environ", "argv")]
    ctypes.CDLL(None).execve(os.fsencode(case["program"]), argv, environ)


def _array(words: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(words) + 1))(*words, None)


def _run(case: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    for unwanted in case.get("removed", ()):
        shutil.rmtree(unwanted, ignore_errors=True)
    for source, target in case.get("copied", ()):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
    report = Path(case["report"])
    report.unlink(missing_ok=True)
    terminal = case.get("terminal", False)
    output, errors = folder / "out", folder / "err"
    (folder / "in").write_bytes(case.get("stdin", b""))
    if terminal:
        pid, master = pty.fork()
    else:
        pid, master = os.fork(), -1
    if not pid:
        try:
            if not terminal:
                _redirect(case, folder)
            _start(case)
        finally:
            os._exit(99)
    stdout = _drain(master) if terminal else b""
    wait_status = _wait(pid)
    return {
        "status": os.waitstatus_to_exitcode(wait_status),
        "stdout": stdout if terminal else output.read_bytes(),
        "stderr": b"" if terminal else errors.read_bytes(),
        "report": ast.literal_eval(report.read_text()) if report.exists() else None,
        "kept": {name: _content(Path(case["cwd"], name)) for name in case.get("kept", ())},
    }


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _redirect(case: Mapping[str, Any], folder: Path) -> None:
    os.setsid()
    if case.get("pipe"):
        reader, writer = os.pipe()
        os.write(writer, case.get("stdin", b""))
        os.close(writer)
    else:
        reader = os.open(folder / "in", os.O_RDONLY)
    for fd, target in (
        (reader, 0),
        (os.open(folder / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), 1),
        (os.open(folder / "err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), 2),
    ):
        os.dup2(fd, target)


def _drain(master: int) -> bytes:
    """What the program says on its terminal, until it has let go of it."""
    said, deadline = b"", time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.2)[0]:
            try:
                said += os.read(master, 65536)
            except OSError:  # EIO: nobody has the other end
                break
    os.close(master)
    return said


def _wait(pid: int) -> int:
    deadline = time.monotonic() + _TIMEOUT
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, max(0.1, deadline - time.monotonic()))
    try:
        return os.waitpid(pid, 0)[1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    """Run the cases of stdin, one after the other."""
    folder = Path(sys.argv[1])
    cases = ast.literal_eval(sys.stdin.read())
    print(ascii([_run(case, folder) for case in cases]))


if __name__ == "__main__":
    main()
